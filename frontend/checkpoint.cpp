// See checkpoint.h. The head is JSON: {"name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ..}.
#include "frontend/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <ranges>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "ir/support/file.h"

namespace quern {

// i4 and u4, which safetensors lack, are written as the integers of 8 bits that their bytes are.
static constexpr std::pair<DType, const char*> kNames[] = {{DType::f64, "F64"}, {DType::f32, "F32"}, {DType::bf16, "BF16"}, {DType::f16, "F16"}, {DType::i64, "I64"},
                                                          {DType::i32, "I32"}, {DType::u32, "U32"}, {DType::u8, "U8"},     {DType::boolean, "BOOL"}, {DType::i16, "I16"},
                                                          {DType::i8, "I8"},   {DType::u64, "U64"}, {DType::u16, "U16"},   {DType::f8e4m3, "F8_E4M3"}, {DType::f8e5m2, "F8_E5M2"},
                                                          {DType::i4, "I8"},   {DType::u4, "U8"}};

void save_safetensors(const std::string& path, const NamedTensors& tensors) {
  nlohmann::ordered_json head = nlohmann::ordered_json::object();
  int64_t at = 0;
  for (const auto& [name, t] : tensors) {
    const int64_t end = at + static_cast<int64_t>(t.bytes.size());
    for (const auto& [dtype, text] : kNames)
      if (dtype == t.dtype) head[name] = {{"dtype", text}, {"shape", t.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = head.dump();
  text.resize(static_cast<size_t>(round_up(static_cast<int64_t>(text.size()), 8)), ' ');
  const uint64_t size = text.size();
  std::vector<std::string_view> parts = {{reinterpret_cast<const char*>(&size), 8}, text};
  for (const auto& [name, t] : tensors) parts.emplace_back(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  write_bytes(path, parts);
}

NamedTensors load_safetensors(const std::string& path) {
  const auto fail = [&](const std::string& what) {
    throw Error(Code::bad_safetensors, fmt::format("{}: {}", path, what)).with_help("is it a whole .safetensors file? `quern train --checkpoint` writes one");
  };
  const std::vector<uint8_t> bytes = read_bytes(path, int64_t{1} << 36);
  uint64_t size = 0;
  if (bytes.size() < 8) fail("too short for a safetensors file");
  std::memcpy(&size, bytes.data(), 8);
  if (size > 100'000'000 || size > bytes.size() - 8) fail("the head is larger than the file");
  // Duplicate keys and deep nesting are refused while parsing.
  std::vector<std::set<std::string>> keys;
  bool sound = true;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > 4) sound = false;
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::key) {
      if (!keys.back().insert(value.get<std::string>()).second) sound = false;
    }
    if (event == Event::object_end) keys.pop_back();
    return sound;   // the rest of an unsound head is not kept
  };
  const nlohmann::json head = nlohmann::json::parse(bytes.data() + 8, bytes.data() + 8 + size, watch, false);
  if (!sound || head.is_discarded() || !head.is_object()) fail("the head is not the JSON that safetensors want");
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    int64_t begin, end;
  };
  const auto integers = [](const nlohmann::json& list) {   // get<Shape>() would round 1.5 and wrap 2^63
    Shape out;
    if (!list.is_array() || list.size() > kMaxRank) throw Error(Code::bad_safetensors, "not a list of numbers");
    for (const auto& n : list) {
      if (!n.is_number_unsigned() || n.get<uint64_t>() > (uint64_t{1} << 62)) throw Error(Code::bad_safetensors, "not a list of sizes");
      out.push_back(n.get<int64_t>());
    }
    return out;
  };
  std::vector<Entry> entries;
  for (const auto& [name, value] : head.items()) {
    if (name == "__metadata__") continue;
    try {
      const std::string dtype_name = value.at("dtype").get<std::string>();
      const auto* known = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& n) { return dtype_name == n.second; });
      if (known == std::end(kNames)) {
        const auto values = kNames | std::views::values;   // two stand twice
        throw Error(Code::bad_safetensors, fmt::format("{}: tensor \"{}\" has the unsupported dtype {}", path, name, dtype_name)).with_help(fmt::format("save it as one of {}", fmt::join(std::set<std::string_view>(values.begin(), values.end()), ", ")));
      }
      Shape shape, offsets;
      try {
        shape = integers(value.at("shape"));
        offsets = integers(value.at("data_offsets"));
      } catch (const Error& e) {
        fail(fmt::format("tensor \"{}\": its shape or offsets are {}", name, e.message));
      }
      if (offsets.size() != 2) fail(fmt::format("tensor \"{}\" is malformed", name));
      for (int64_t d : shape)
        if (d < 0 || d > kMaxExtent) fail(fmt::format("tensor \"{}\" has an extent outside [0, 2^40]", name));
      const int64_t wanted = checked_mul(count(shape), size_of(known->first));
      if (offsets[1] - offsets[0] != wanted || offsets[1] > static_cast<int64_t>(bytes.size() - 8 - size)) fail(fmt::format("tensor \"{}\" does not lie within the file", name));
      entries.push_back({name, known->first, shape, offsets[0], offsets[1]});
    } catch (const nlohmann::json::exception&) {
      fail(fmt::format("tensor \"{}\" is malformed", name));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.begin < b.begin; });
  int64_t at = 0;
  NamedTensors out;
  for (Entry& e : entries) {
    if (e.begin != at) fail("the tensors overlap or leave holes");
    at = e.end;
    HostTensor tensor(e.dtype, e.shape);   // not before: overlapping tensors could ask for any amount of memory
    if (!tensor.bytes.empty()) std::memcpy(tensor.bytes.data(), bytes.data() + 8 + size + e.begin, tensor.bytes.size());   // memcpy wants no null
    out.emplace_back(e.name, std::move(tensor));
  }
  if (at != static_cast<int64_t>(bytes.size() - 8 - size)) fail("data after the last tensor");
  return out;
}

}  // namespace quern
