// See mutate.h.
#include "tools/mutate.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace quern {
namespace {

std::string varint_text(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& seeds, std::mt19937_64& random) : seeds_(seeds), random_(random), bytes_(seeds[static_cast<size_t>(below(seeds.size()))]) {
    for (const std::string& s : seeds) longest_ = std::max(longest_, 2 * s.size() + (1 << 15));
  }
  std::string run() {
    const bool text = std::none_of(bytes_.begin(), bytes_.end(), [](unsigned char c) { return c < 9 || c > 126; });
    for (uint64_t n = below(2) ? 1 : 1 + below(4); n > 0; --n) {
      if (text && !bytes_.empty() && below(2)) below(2) ? text_number() : text_word();   // other damage does not parse
      else change();
    }
    return std::move(bytes_);
  }

 private:
  const std::vector<std::string>& seeds_;
  std::mt19937_64& random_;
  std::string bytes_;
  size_t longest_ = 0;

  uint64_t below(uint64_t n) { return n ? random_() % n : 0; }
  size_t place() { return static_cast<size_t>(below(bytes_.size())); }
  template <class List>
  decltype(auto) pick(const List& list) { return *(std::begin(list) + static_cast<int64_t>(below(std::size(list)))); }
  // Short spans are as likely as long ones.
  std::pair<size_t, size_t> span() {
    const size_t at = place(), most = bytes_.size() - at;
    return {at, static_cast<size_t>(below(std::min<uint64_t>(most, uint64_t{1} << below(17)) + 1))};
  }

  void change() {
    if (bytes_.empty()) bytes_ = pick(seeds_);
    switch (below(13)) {
      case 0: bytes_[place()] ^= static_cast<char>(1 << below(8)); break;
      case 1: bytes_[place()] = static_cast<char>(telling()); break;
      case 2: bytes_.resize(place()); break;
      case 3: { const auto [at, n] = span(); bytes_.erase(at, n); } break;
      case 4: { const auto [at, n] = span(); insert(place(), bytes_.substr(at, n)); } break;
      case 5: { const std::string& other = pick(seeds_); bytes_ = bytes_.substr(0, place()) + other.substr(static_cast<size_t>(below(other.size()))); } break;
      case 6: insert(place(), std::string(static_cast<size_t>(1 + below(uint64_t{1} << below(14))), "([{ \n0\"%\xff\x00"[below(10)])); break;
      case 7: number(place(), 1 << below(4)); break;
      case 8: text_number(); break;
      case 9: text_word(); break;
      case 10: length_prefix(); break;
      case 11: varint(); break;
      default: { const std::string& other = pick(seeds_); const size_t at = static_cast<size_t>(below(other.size())); insert(place(), other.substr(at, static_cast<size_t>(below(256)))); } break;
    }
  }

  void insert(size_t at, const std::string& text) {
    if (bytes_.size() + text.size() <= longest_) bytes_.insert(at, text);
  }
  // 0, all ones, beside the powers of two, and this file's length.
  uint64_t telling() {
    switch (below(4)) {
      case 0: return 0;
      case 1: return ~uint64_t{0};
      case 2: return (uint64_t{1} << below(64)) + below(3) - 1;
      default: return bytes_.size() + below(3) - 1;
    }
  }
  uint64_t read(size_t at, size_t size) const {
    uint64_t out = 0;
    for (size_t i = 0; i < size; ++i) out |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[at + i])) << (8 * i);
    return out;
  }
  void write(size_t at, size_t size, uint64_t value) {
    for (size_t i = 0; i < size && at + i < bytes_.size(); ++i) bytes_[at + i] = static_cast<char>(value >> (8 * i));
  }
  void number(size_t at, size_t size) { write(at, size, telling()); }

  // Digits in a row.
  void text_number() {
    const auto digit = [&](size_t i) { return std::isdigit(static_cast<unsigned char>(bytes_[i])); };
    size_t at = place(), tries = 4096;
    while (tries-- && !digit(at)) at = (at + 1) % bytes_.size();
    if (!digit(at)) return;
    size_t end = at + 1;
    while (at > 0 && digit(at - 1)) --at;
    while (end < bytes_.size() && digit(end)) ++end;
    static constexpr const char* kNumbers[] = {"0", "1", "2", "7", "-1", "-9223372036854775808", "9223372036854775807", "18446744073709551615", "99999999999999999999999", "2147483647", "2147483648", "4294967295", "1099511627776",
                                               "1000000", "65536", "1e308", "1e999", "-0", "0.5", "nan", "", "0x10", "1n"};
    bytes_.replace(at, end - at, pick(kNumbers));
  }
  // Another word of the same text, so that names, ops and dtypes change places.
  std::pair<size_t, size_t> word() {
    const auto inside = [&](size_t i) { return std::isalpha(static_cast<unsigned char>(bytes_[i])) || bytes_[i] == '_'; };
    size_t at = place(), tries = 4096;
    while (tries-- && !inside(at)) at = (at + 1) % bytes_.size();
    size_t end = at;
    while (at > 0 && inside(at - 1)) --at;
    while (end < bytes_.size() && inside(end)) ++end;
    return {at, end - at};
  }
  void text_word() {
    const auto [from, n] = word();
    const std::string text = bytes_.substr(from, n);
    const auto [to, m] = word();
    bytes_.replace(to, m, text);
  }
  // A number that may be a length, as it is not larger than what follows it, lies a little or a lot.
  void length_prefix() {
    const size_t size = size_t{1} << below(4);
    for (int tries = 0; tries < 64; ++tries) {
      const size_t at = place();
      if (at + size > bytes_.size()) continue;
      const uint64_t value = read(at, size), rest = bytes_.size() - at - size;
      if (value == 0 || value > rest) continue;
      const uint64_t lies[] = {value - 1, value + 1, value * 2, value / 2, rest, rest + 1, bytes_.size(), telling()};
      return write(at, size, pick(lies));
    }
  }
  // A protobuf varint becomes another, of any length.
  void varint() {
    size_t at = place(), end = at;
    while (end < bytes_.size() && (bytes_[end] & 0x80)) ++end;
    bytes_.replace(at, end + 1 - at, varint_text(telling()));
  }
};

// --- protobuf ---
struct Field {
  uint64_t number = 0, type = 0, value = 0;
  std::string bytes;           // of type 2, unless it reads as a message; of types 1 and 5
  std::vector<Field> inner;
};

bool take_varint(std::string_view& from, uint64_t& out) {
  out = 0;
  for (int shift = 0; shift < 64 && !from.empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(from[0]);
    from.remove_prefix(1);
    out |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}
bool take_message(std::string_view from, int depth, std::vector<Field>& out) {
  while (!from.empty()) {
    Field f;
    uint64_t key = 0, size = 0;
    if (!take_varint(from, key) || key >> 3 == 0) return false;
    f.number = key >> 3, f.type = key & 7;
    if (f.type == 0) {
      if (!take_varint(from, f.value)) return false;
    } else {
      if (f.type == 1 || f.type == 5) size = f.type == 1 ? 8 : 4;
      else if (f.type != 2 || !take_varint(from, size)) return false;
      if (size > from.size()) return false;
      f.bytes = from.substr(0, static_cast<size_t>(size));
      from.remove_prefix(static_cast<size_t>(size));
      if (f.type == 2 && depth > 0 && (!take_message(f.bytes, depth - 1, f.inner) || f.inner.empty())) f.inner.clear();
    }
    out.push_back(std::move(f));
  }
  return true;
}
std::string message_text(const std::vector<Field>& fields) {
  std::string out;
  for (const Field& f : fields) {
    const std::string bytes = f.inner.empty() ? f.bytes : message_text(f.inner);
    out += varint_text(f.number << 3 | f.type) + (f.type == 0 ? varint_text(f.value) : f.type == 2 ? varint_text(bytes.size()) + bytes : bytes);
  }
  return out;
}
void list_fields(std::vector<Field>& fields, std::vector<std::pair<std::vector<Field>*, size_t>>& out) {
  for (size_t i = 0; i < fields.size(); ++i) {
    out.emplace_back(&fields, i);
    list_fields(fields[i].inner, out);
  }
}
void change_field(std::vector<Field>& message, std::mt19937_64& random) {
  std::vector<std::pair<std::vector<Field>*, size_t>> all;
  list_fields(message, all);
  if (all.empty()) return;
  const auto [list, at] = all[random() % all.size()];
  const auto [other_list, other_at] = all[random() % all.size()];
  Field& f = (*list)[at];
  const Field other = (*other_list)[other_at];
  static constexpr uint64_t kValues[] = {0, 1, 2, 3, 4, 7, 9, 10, 11, 16, 64, 1000, 65536, 1 << 20, 1u << 31, uint64_t{1} << 40, uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0} - 1};
  switch (random() % 8) {
    case 0: list->erase(list->begin() + static_cast<int64_t>(at)); break;
    case 1: list->insert(list->begin() + static_cast<int64_t>(at), Field(f)); break;
    case 2: std::swap(f, (*list)[random() % list->size()]); break;
    case 3: f.number = 1 + random() % 16; break;
    case 4: list->push_back(other); break;
    case 5:
      if (other.type == f.type) f.value = other.value, f.bytes = other.bytes, f.inner = other.inner;
      break;
    default:
      if (f.type == 0) f.value = kValues[random() % std::size(kValues)];
      else if (f.inner.empty() && !f.bytes.empty()) f.bytes[random() % f.bytes.size()] ^= static_cast<char>(1 << random() % 8);
      break;
  }
}

}  // namespace

std::string mutated(const std::vector<std::string>& seeds, std::mt19937_64& random) { return Mutator(seeds, random).run(); }

std::string mutated_protobuf(const std::vector<std::string>& seeds, std::mt19937_64& random) {
  const std::string& seed = seeds[random() % seeds.size()];
  std::vector<Field> message;
  if (!take_message(seed, 12, message)) return mutated(seeds, random);
  for (uint64_t n = 1 + random() % 3; n > 0; --n) change_field(message, random);
  return message_text(message);
}

}  // namespace quern
