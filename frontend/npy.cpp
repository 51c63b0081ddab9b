// See npy.h. A file is "\x93NUMPY", major, minor, the head's length (2 bytes, version 2: 4), the head, the data. The
// head is a Python dict of three keys: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
#include "frontend/npy.h"

#include <cctype>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

#include "ir/support/file.h"

namespace quern {
namespace {

constexpr std::pair<DType, const char*> kTypes[] = {{DType::f64, "<f8"}, {DType::f32, "<f4"}, {DType::f16, "<f2"}, {DType::i64, "<i8"},
                                                   {DType::i32, "<i4"}, {DType::u32, "<u4"}, {DType::u8, "|u1"},  {DType::boolean, "|b1"},
                                                   {DType::i16, "<i2"}, {DType::i8, "|i1"},  {DType::u64, "<u8"}, {DType::u16, "<u2"}};
constexpr size_t kMaxHead = 1 << 16;   // NumPy itself stops at 10000

// The head's dict; every syntax error is one message.
class Head {
 public:
  Head(std::string_view text, const std::string& file) : text_(text), file_(file) {
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr") descr = once(descr, quoted());
      else if (key == "fortran_order") order = once(order, word());
      else if (key == "shape") read_shape();
      else fail(fmt::format("its head has the unknown key '{}'", key));
      if (!accept(',') && !peek('}')) fail("its head is not the dict that NumPy writes");
    }
    skip();
    if (at_ != text_.size() || descr.empty() || order.empty() || !shaped_) fail("its head is not the dict that NumPy writes");
  }
  [[noreturn]] void fail(const std::string& what, const std::string& help = "numpy.save(f, numpy.ascontiguousarray(x)) writes one that Quern reads") const {
    throw Error(Code::bad_npy, fmt::format("{}: {}", file_, what)).with_help(help);
  }
  std::string descr, order;
  Shape shape;

 private:
  std::string_view text_;
  const std::string& file_;
  size_t at_ = 0;
  bool shaped_ = false;

  void skip() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }
  bool peek(char c) {
    skip();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool accept(char c) { return peek(c) && ++at_; }
  void expect(char c) {
    if (!accept(c)) fail("its head is not the dict that NumPy writes");
  }
  std::string once(const std::string& old, std::string_view value) const {
    if (!old.empty() || value.empty()) fail("its head is not the dict that NumPy writes");
    return std::string(value);
  }
  std::string_view quoted() {
    skip();
    const char mark = at_ < text_.size() ? text_[at_] : '\0';
    const size_t end = mark == '\'' || mark == '"' ? text_.find(mark, at_ + 1) : std::string_view::npos;
    if (end == std::string_view::npos) fail("its dtype is not a plain one", "structured and object arrays have no counterpart; save one field: x['name']");
    const std::string_view out = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return out;
  }
  std::string_view word() {
    skip();
    const size_t start = at_;
    while (at_ < text_.size() && std::isalpha(static_cast<unsigned char>(text_[at_]))) ++at_;
    return text_.substr(start, at_ - start);
  }
  void read_shape() {
    if (shaped_) fail("its head names the shape twice");
    shaped_ = true;
    expect('(');
    while (!accept(')')) {
      skip();
      int64_t extent = 0;
      const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), extent);
      if (error != std::errc() || extent < 0 || extent > kMaxExtent) fail("its shape has an extent outside [0, 2^40]");
      at_ = static_cast<size_t>(end - text_.data());
      shape.push_back(extent);
      if (shape.size() > kMaxRank) fail("its shape has more than 10 dims");
      if (!accept(',') && !peek(')')) fail("its head is not the dict that NumPy writes");
    }
  }
};

}  // namespace

HostTensor parse_npy(const std::vector<uint8_t>& bytes, const std::string& file) {
  const auto fail = [&](const std::string& what) { throw Error(Code::bad_npy, fmt::format("{}: {}", file, what)).with_help("numpy.save(f, numpy.ascontiguousarray(x)) writes one that Quern reads"); };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), "\x93NUMPY", 6) != 0) fail("not an .npy file");
  const int version = bytes[6];
  if ((version != 1 && version != 2) || bytes[7] != 0) fail(fmt::format("version {}.{} of the format; 1.0 and 2.0 are read", version, bytes[7]));
  const size_t start = version == 1 ? 10 : 12;
  if (bytes.size() < start) fail("not an .npy file");
  size_t length = bytes[8] | static_cast<size_t>(bytes[9]) << 8;
  if (version == 2) length |= static_cast<size_t>(bytes[10]) << 16 | static_cast<size_t>(bytes[11]) << 24;
  if (length > kMaxHead || length > bytes.size() - start) fail(fmt::format("its head claims {} bytes, which it does not have", length));
  const Head head({reinterpret_cast<const char*>(bytes.data()) + start, length}, file);
  if (head.order == "True") head.fail("is in Fortran order", "numpy.save(f, numpy.ascontiguousarray(x)) writes C order");
  if (head.order != "False") head.fail("its head is not the dict that NumPy writes");
  const std::string native = head.descr[0] == '=' ? "<" + head.descr.substr(1) : head.descr;
  const std::pair<DType, const char*>* known = nullptr;
  for (const auto& t : kTypes)
    if (native == t.second || (size_of(t.first) == 1 && native.size() == 3 && native.substr(1) == t.second + 1)) known = &t;   // "<u1" is "|u1"
  if (!known)
    head.fail(fmt::format("the dtype '{}' is not supported", head.descr), head.descr[0] == '>' ? fmt::format("x.astype('<{}') is little endian", head.descr.substr(1)) : "dtypes are <f8 <f4 <f2, <i8 <i4 <i2 |i1, <u8 <u4 <u2 |u1 and |b1; x.astype('<f4'), say");
  int64_t size = size_of(known->first);
  for (int64_t d : head.shape)
    if (d != 0 && __builtin_mul_overflow(size, d, &size)) head.fail("its shape's product overflows");
  for (int64_t d : head.shape)
    if (d == 0) size = 0;
  const int64_t have = static_cast<int64_t>(bytes.size() - start - length);
  if (have != size) fail(fmt::format("{} bytes of data, the head promises {}", have, size));
  HostTensor out(known->first, head.shape);
  if (size > 0) std::memcpy(out.bytes.data(), bytes.data() + start + length, static_cast<size_t>(size));   // memcpy wants no null
  if (out.dtype == DType::boolean)
    for (std::byte b : out.bytes)
      if (b > std::byte{1}) fail("a bool that is neither 0 nor 1");
  return out;
}

HostTensor load_npy(const std::string& path) { return parse_npy(read_bytes(path, int64_t{1} << 36), path); }

DType npy_dtype(DType dtype) {
  if (dtype == DType::bf16 || is_f8(dtype)) return DType::f32;
  return dtype == DType::i4 ? DType::i8 : dtype == DType::u4 ? DType::u8 : dtype;
}

NpyFile::NpyFile(const HostTensor& given) : given_(&given) {
  if (const DType wider = npy_dtype(given.dtype); wider != given.dtype) {
    wide_ = HostTensor(wider, given.shape);
    for (int64_t i = 0; i < wide_.size(); ++i) wide_.set(i, Scalar::cast(wider, given.get(i)));
  }
  const char* descr = nullptr;
  for (const auto& [dtype, text] : kTypes)
    if (dtype == tensor().dtype) descr = text;
  std::string shape;
  for (int64_t d : given.shape) shape += fmt::format("{}{}", shape.empty() ? "" : ", ", d);
  if (given.shape.size() == 1) shape += ",";
  std::string dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, shape);
  dict.resize(static_cast<size_t>(round_up(static_cast<int64_t>(dict.size()) + 11, 64)) - 11, ' ');   // the data is aligned to 64
  dict += '\n';
  head = std::string("\x93NUMPY\x01\x00", 8);
  head += static_cast<char>(dict.size() & 255);
  head += static_cast<char>(dict.size() >> 8);
  head += dict;
}

void save_npy(const std::string& path, const HostTensor& tensor) {
  const NpyFile file(tensor);
  write_bytes(path, {file.head, file.data()});
}

}  // namespace quern
