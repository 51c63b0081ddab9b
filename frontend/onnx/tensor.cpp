// TensorProto to HostTensor: element types, raw and typed data, external files. See model.h.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "frontend/onnx/model.h"
#include "ir/support/file.h"

namespace quern::onnx {

// By ONNX's number. Names that parse_dtype knows are dtypes of Quern.
static constexpr std::string_view kElements[] = {"undefined", "f32", "u8", "i8", "u16", "i16", "i32", "i64", "string", "bool", "f16", "f64", "u32", "u64",
                                                 "c64", "c128", "bf16", "f8e4m3", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "u4", "i4", "f4e2m1", "f8e8m0", "u2", "i2"};

std::string element_name(int64_t data_type) {
  if (data_type < 0 || data_type >= static_cast<int64_t>(std::size(kElements))) return fmt::format("type {}", data_type);
  return std::string(kElements[data_type]);
}
std::optional<DType> element_dtype(int64_t data_type) { return parse_dtype(element_name(data_type)); }

namespace {

int64_t number_in(const TensorProto& t, const std::string& file, std::string_view key, std::string_view text) {
  int64_t out = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error != std::errc() || end != text.data() + text.size() || out < 0)
    throw Error(Code::onnx_external, fmt::format("{}: tensor \"{}\": external data with {} \"{}\"", file, t.name, key, text)).with_help("export the model again");
  return out;
}

std::vector<uint8_t> external_bytes(const TensorProto& t, int64_t wanted, const std::string& file, const std::string& folder) {
  std::string location;
  int64_t offset = 0, length = wanted;
  for (const auto& [key, value] : t.external_data) {
    if (key == "location") location = value;
    if (key == "offset") offset = number_in(t, file, key, value);
    if (key == "length") length = number_in(t, file, key, value);
  }
  if (length != wanted) throw Error(Code::onnx_external, fmt::format("{}: tensor \"{}\" takes {} bytes, its external data has {}", file, t.name, wanted, length)).with_help("export the model again");
  return read_beneath(folder, location, offset, length);
}

}  // namespace

HostTensor to_host(const TensorProto& t, const std::string& file, const std::string& folder) {
  const auto fail = [&](const std::string& what) -> Error {
    return Error(Code::bad_onnx, fmt::format("{}: tensor \"{}\": {}", file, t.name, what)).with_help("export the model again");
  };
  const auto known = element_dtype(t.data_type);
  if (!known) throw Error(Code::onnx_unsupported, fmt::format("{}: tensor \"{}\" is of {}, which is no dtype of Quern", file, t.name, element_name(t.data_type))).with_help("`quern ops` lists the dtypes");
  const DType dtype = *known;
  const bool packed = bits_of(dtype) == 4;   // two a byte, the first in the lower bits
  const int64_t n = count(t.dims), size = size_of(dtype), wanted = packed ? ceil_div(n, 2) : checked_mul(n, size);
  std::vector<uint8_t> outside;
  std::span<const uint8_t> raw;
  bool is_raw = t.raw.has_value();
  if (t.external) {
    outside = external_bytes(t, wanted, file, folder);
    raw = outside;
    is_raw = true;
  } else if (is_raw) {
    raw = *t.raw;
  }
  // Whether the values are there is known before the tensor is made.
  const std::vector<int64_t>& ints = t.integers;
  const bool of_reals = dtype == DType::f32 || dtype == DType::f64;
  const int64_t there = is_raw ? static_cast<int64_t>(raw.size()) : static_cast<int64_t>(of_reals ? t.reals.size() : ints.size());
  if (there != (is_raw || packed ? wanted : n)) throw fail(fmt::format("{} {} for {} elements of {}", there, is_raw ? "bytes" : "values", n, name_of(dtype)));
  HostTensor out(dtype, t.dims);
  if (packed) {
    for (int64_t i = 0; i < n; ++i) {
      const size_t at = static_cast<size_t>(i / 2);
      out.set(i, Scalar::of_int(dtype, (is_raw ? raw[at] : ints[at]) >> (i % 2 * 4)));
    }
    return out;
  }
  if (is_raw) {
    if (wanted) std::memcpy(out.bytes.data(), raw.data(), static_cast<size_t>(wanted));
    if (dtype == DType::boolean)
      for (std::byte& b : out.bytes) b = std::byte{b != std::byte{0}};   // any byte may be in a file
    return out;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (of_reals) out.set(i, Scalar::of(dtype, t.reals[static_cast<size_t>(i)]));
    else if (is_float(dtype) || is_f8(dtype)) std::memcpy(out.bytes.data() + i * size, &ints[static_cast<size_t>(i)], static_cast<size_t>(size));   // its bits
    else out.set(i, Scalar::of_int(dtype, ints[static_cast<size_t>(i)]));
  }
  return out;
}

}  // namespace quern::onnx
