// Conversions between dtypes; see dtype.h.
#include "ir/dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace quern {

static constexpr std::array<std::string_view, kDTypeCount> kNames = {"f64", "f32", "bf16", "f16", "i64",
                                                                     "i32", "u32", "u8",   "bool"};
static constexpr std::array<int64_t, kDTypeCount> kSizes = {8, 4, 2, 2, 8, 4, 4, 1, 1};

int64_t size_of(DType dtype) { return kSizes[static_cast<int>(dtype)]; }
std::string_view name_of(DType dtype) { return kNames[static_cast<int>(dtype)]; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (int i = 0; i < kDTypeCount; ++i)
    if (kNames[i] == name) return static_cast<DType>(i);
  return std::nullopt;
}

bool is_float(DType dtype) { return dtype <= DType::f16; }
bool is_integer(DType dtype) { return dtype >= DType::i64 && dtype <= DType::u8; }

// Rounds to `significant` bits, with subnormals below 2^min_exponent and overflow above `largest`.
static double round_bits(double value, int significant, int min_exponent, double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent;
  std::frexp(value, &exponent);
  const int quantum = std::max(exponent - significant, min_exponent - significant + 1);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -quantum)), quantum);
  return std::fabs(rounded) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : rounded;
}

double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::f64: return value;
    case DType::f32: return static_cast<float>(value);
    case DType::bf16: return round_bits(value, 8, -126, 0x1.fep127);
    case DType::f16: return round_bits(value, 11, -14, 65504.0);
    default: return value;
  }
}

int64_t wrap_to(DType dtype, int64_t value) {
  switch (dtype) {
    case DType::i32: return static_cast<int32_t>(value);
    case DType::u32: return static_cast<uint32_t>(value);
    case DType::u8: return static_cast<uint8_t>(value);
    case DType::boolean: return value != 0;
    default: return value;
  }
}

static int64_t saturate(DType dtype, double value) {
  if (std::isnan(value)) return 0;
  double low = -0x1p63, high = 0x1p63;
  if (dtype == DType::i32) low = -0x1p31, high = 0x1p31;
  if (dtype == DType::u32) low = 0, high = 0x1p32;
  if (dtype == DType::u8) low = 0, high = 256;
  value = std::trunc(value);
  if (value <= low) return dtype == DType::i64 ? std::numeric_limits<int64_t>::min() : static_cast<int64_t>(low);
  if (value >= high) return dtype == DType::i64 ? std::numeric_limits<int64_t>::max() : static_cast<int64_t>(high) - 1;
  return static_cast<int64_t>(value);
}

Scalar Scalar::of(DType dtype, double value) {
  Scalar out{dtype};
  if (is_float(dtype)) out.f = round_to(dtype, value);
  else if (dtype == DType::boolean) out.i = value != 0;
  else out.i = saturate(dtype, value);
  return out;
}

Scalar Scalar::of_int(DType dtype, int64_t value) {
  Scalar out{dtype};
  if (is_float(dtype)) out.f = dtype == DType::f32 ? static_cast<float>(value) : round_to(dtype, static_cast<double>(value));
  else out.i = wrap_to(dtype, value);
  return out;
}

bool Scalar::operator==(const Scalar& other) const {
  if (dtype != other.dtype) return false;
  if (!is_float(dtype)) return i == other.i;
  return std::bit_cast<uint64_t>(f) == std::bit_cast<uint64_t>(other.f) || (std::isnan(f) && std::isnan(other.f));
}

uint16_t to_bf16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float from_bf16_bits(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t to_f16_bits(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  const double r = std::fabs(round_to(DType::f16, value));
  if (std::isinf(r)) return sign | 0x7c00;
  if (r < 0x1p-14) return sign | static_cast<uint16_t>(r * 0x1p24);
  int exponent;
  const double mantissa = std::frexp(r, &exponent);  // in [0.5, 1)
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + static_cast<int>((mantissa * 2 - 1) * 1024));
}
double from_f16_bits(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  double value;
  if (exponent == 31) value = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (exponent == 0) value = std::ldexp(mantissa, -24);
  else value = std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -value : value;
}

template <class T>
static T read_as(const void* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
template <class T>
static void write_as(T value, void* at) {
  std::memcpy(at, &value, sizeof value);
}

Scalar load_scalar(DType dtype, const void* at) {
  Scalar out{dtype};
  switch (dtype) {
    case DType::f64: out.f = read_as<double>(at); break;
    case DType::f32: out.f = read_as<float>(at); break;
    case DType::bf16: out.f = from_bf16_bits(read_as<uint16_t>(at)); break;
    case DType::f16: out.f = from_f16_bits(read_as<uint16_t>(at)); break;
    case DType::i64: out.i = read_as<int64_t>(at); break;
    case DType::i32: out.i = read_as<int32_t>(at); break;
    case DType::u32: out.i = read_as<uint32_t>(at); break;
    case DType::u8: out.i = read_as<uint8_t>(at); break;
    case DType::boolean: out.i = read_as<uint8_t>(at) != 0; break;
  }
  return out;
}

void store_scalar(const Scalar& value, void* at) {
  switch (value.dtype) {
    case DType::f64: write_as(value.f, at); break;
    case DType::f32: write_as(static_cast<float>(value.f), at); break;
    case DType::bf16: write_as(to_bf16_bits(static_cast<float>(value.f)), at); break;
    case DType::f16: write_as(to_f16_bits(value.f), at); break;
    case DType::i64: write_as(value.i, at); break;
    case DType::i32: write_as(static_cast<int32_t>(value.i), at); break;
    case DType::u32: write_as(static_cast<uint32_t>(value.i), at); break;
    case DType::u8: write_as(static_cast<uint8_t>(value.i), at); break;
    case DType::boolean: write_as(static_cast<uint8_t>(value.i != 0), at); break;
  }
}

double epsilon_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return 0x1p-53;
    case DType::f32: return 0x1p-24;
    case DType::bf16: return 0x1p-8;
    case DType::f16: return 0x1p-11;
    default: return 0;
  }
}

}  // namespace quern
