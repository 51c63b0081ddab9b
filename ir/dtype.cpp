// Conversions between dtypes; see dtype.h.
#include "ir/dtype.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace quern {

static constexpr std::array<std::string_view, kDTypeCount> kNames = {"f64", "f32", "bf16", "f16", "i64", "i32",    "u32",    "u8", "bool",
                                                                     "i16", "i8",  "u64",  "u16", "f8e4m3", "f8e5m2", "i4", "u4"};
static constexpr std::array<int64_t, kDTypeCount> kSizes = {8, 4, 2, 2, 8, 4, 4, 1, 1, 2, 1, 8, 2, 1, 1, 1, 1};

int64_t size_of(DType dtype) { return kSizes[static_cast<int>(dtype)]; }
int64_t bits_of(DType dtype) {
  if (dtype == DType::boolean) return 1;
  return dtype == DType::i4 || dtype == DType::u4 ? 4 : 8 * size_of(dtype);
}
std::string_view name_of(DType dtype) { return kNames[static_cast<int>(dtype)]; }

std::optional<DType> parse_dtype(std::string_view name) {
  for (int i = 0; i < kDTypeCount; ++i)
    if (kNames[i] == name) return static_cast<DType>(i);
  return std::nullopt;
}

bool is_float(DType dtype) { return dtype <= DType::f16; }
bool is_integer(DType dtype) { return (dtype >= DType::i64 && dtype <= DType::u8) || (dtype >= DType::i16 && dtype <= DType::u16); }
bool is_unsigned(DType dtype) {
  return dtype == DType::u32 || dtype == DType::u8 || dtype == DType::u64 || dtype == DType::u16 || dtype == DType::u4;
}
bool is_f8(DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2; }
bool is_storage(DType dtype) { return is_f8(dtype) || dtype == DType::i4 || dtype == DType::u4; }

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
    case DType::f8e4m3: return round_bits(value, 4, -6, 448);
    case DType::f8e5m2: return round_bits(value, 3, -14, 57344);
    default: return value;
  }
}

int64_t wrap_to(DType dtype, int64_t value) {
  switch (dtype) {
    case DType::i32: return static_cast<int32_t>(value);
    case DType::u32: return static_cast<uint32_t>(value);
    case DType::u8: return static_cast<uint8_t>(value);
    case DType::boolean: return value != 0;
    case DType::i16: return static_cast<int16_t>(value);
    case DType::i8: return static_cast<int8_t>(value);
    case DType::u16: return static_cast<uint16_t>(value);
    case DType::i4: return static_cast<int64_t>(static_cast<uint64_t>(value) << 60) >> 60;
    case DType::u4: return value & 15;
    default: return value;
  }
}

// The bits of an integer.
static int64_t saturate(DType dtype, double value) {
  if (std::isnan(value)) return 0;
  const int bits = static_cast<int>(bits_of(dtype));
  const double low = is_unsigned(dtype) ? 0 : -std::ldexp(1, bits - 1), high = std::ldexp(1, is_unsigned(dtype) ? bits : bits - 1);
  value = std::trunc(value);
  if (value <= low) return static_cast<int64_t>(low);
  if (value >= high) return static_cast<int64_t>((~uint64_t{0} >> (64 - bits)) >> (is_unsigned(dtype) ? 0 : 1));
  return value >= 0x1p63 ? static_cast<int64_t>(static_cast<uint64_t>(value)) : static_cast<int64_t>(value);
}

Scalar Scalar::of(DType dtype, double value) {
  Scalar out{dtype};
  if (is_float(dtype)) out.f = round_to(dtype, value);
  else if (dtype == DType::boolean) out.i = value != 0;
  else if (is_f8(dtype)) out.i = to_f8_bits(dtype, value);
  else out.i = saturate(dtype, value);
  return out;
}

Scalar Scalar::of_int(DType dtype, int64_t value) {
  Scalar out{dtype};
  if (is_float(dtype)) out.f = dtype == DType::f32 ? static_cast<float>(value) : round_to(dtype, static_cast<double>(value));
  else if (is_f8(dtype)) out.i = to_f8_bits(dtype, static_cast<double>(value));
  else out.i = wrap_to(dtype, value);
  return out;
}

Scalar Scalar::cast(DType dtype, const Scalar& value) {
  if (is_float(value.dtype) || is_f8(value.dtype)) return of(dtype, value.as_double());
  if (value.dtype != DType::u64 || value.i >= 0 || !(is_float(dtype) || is_f8(dtype))) return of_int(dtype, value.i);
  return of(dtype, dtype == DType::f32 ? static_cast<float>(static_cast<uint64_t>(value.i)) : value.as_double());
}

Scalar Scalar::bitcast(DType dtype, const Scalar& value) {
  std::byte memory[8] = {};
  store_scalar(value, memory);
  return load_scalar(dtype, memory);
}

double Scalar::as_double() const {
  if (is_float(dtype)) return f;
  if (is_f8(dtype)) return from_f8_bits(dtype, static_cast<uint8_t>(i));
  return dtype == DType::u64 ? static_cast<double>(static_cast<uint64_t>(i)) : static_cast<double>(i);
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

// 1 sign bit, `mantissa` bits below the leading one, exponents from 1 - bias; 0x7f: the bits of a number's magnitude.
struct F8 { int mantissa, bias; uint8_t infinity, nan; };
static F8 f8_of(DType dtype) { return dtype == DType::f8e4m3 ? F8{3, 7, 0x7f, 0x7f} : F8{2, 15, 0x7c, 0x7e}; }

uint8_t to_f8_bits(DType dtype, double value) {
  const F8 form = f8_of(dtype);
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const double r = std::fabs(round_to(dtype, value));
  if (std::isnan(r)) return sign | form.nan;
  if (std::isinf(r)) return sign | form.infinity;
  if (r < std::ldexp(1, 1 - form.bias)) return sign | static_cast<uint8_t>(std::ldexp(r, form.bias - 1 + form.mantissa));
  int exponent;
  const double leading = std::frexp(r, &exponent);  // in [0.5, 1)
  return sign | static_cast<uint8_t>(((exponent - 1 + form.bias) << form.mantissa) + static_cast<int>(std::ldexp(leading * 2 - 1, form.mantissa)));
}
double from_f8_bits(DType dtype, uint8_t bits) {
  const F8 form = f8_of(dtype);
  const int body = bits & 0x7f, exponent = body >> form.mantissa, mantissa = body & ((1 << form.mantissa) - 1);
  double value;
  if (body == form.infinity && dtype == DType::f8e5m2) value = std::numeric_limits<double>::infinity();
  else if (body >= form.infinity) value = std::numeric_limits<double>::quiet_NaN();
  else if (exponent == 0) value = std::ldexp(mantissa, 1 - form.bias - form.mantissa);
  else value = std::ldexp((1 << form.mantissa) + mantissa, exponent - form.bias - form.mantissa);
  return bits & 0x80 ? -value : value;
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
    case DType::i16: out.i = read_as<int16_t>(at); break;
    case DType::i8: out.i = read_as<int8_t>(at); break;
    case DType::u64: out.i = read_as<int64_t>(at); break;
    case DType::u16: out.i = read_as<uint16_t>(at); break;
    case DType::f8e4m3: case DType::f8e5m2: out.i = read_as<uint8_t>(at); break;
    case DType::i4: case DType::u4: out.i = wrap_to(dtype, read_as<uint8_t>(at)); break;
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
    case DType::i16: case DType::u16: write_as(static_cast<uint16_t>(value.i), at); break;
    case DType::u64: write_as(value.i, at); break;
    case DType::i8: case DType::f8e4m3: case DType::f8e5m2: case DType::i4: case DType::u4: write_as(static_cast<uint8_t>(value.i), at); break;
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
