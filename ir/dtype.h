// Element types and single values. Every arithmetic result is rounded to its dtype at once: a bf16 sum is the
// f64 sum rounded once to bf16. Integers wrap modulo 2^bits. A bool is 0 or 1, one byte in memory.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u32, u8, boolean };
constexpr int kDTypeCount = 9;

int64_t size_of(DType dtype);
std::string_view name_of(DType dtype);  // "f64", …, "bool"
std::optional<DType> parse_dtype(std::string_view name);
bool is_float(DType dtype);
bool is_integer(DType dtype);  // i64 i32 u32 u8

/// One value of a dtype: floats live in `f`, integers and bool in `i` (u32 and u8 zero-extended).
struct Scalar {
  DType dtype = DType::f64;
  double f = 0;
  int64_t i = 0;
  static Scalar of(DType dtype, double value);     // rounds; float→integer truncates toward zero, NaN→0, saturates
  static Scalar of_int(DType dtype, int64_t value);  // wraps; rounds for floats
  double as_double() const { return is_float(dtype) ? f : static_cast<double>(i); }
  bool truthy() const { return is_float(dtype) ? f != 0 : i != 0; }
  bool operator==(const Scalar& other) const;      // bitwise: NaN equals NaN, -0 differs from 0
};

double round_to(DType dtype, double value);        // nearest even, overflow to infinity
int64_t wrap_to(DType dtype, int64_t value);
uint16_t to_bf16_bits(float value);
float from_bf16_bits(uint16_t bits);
uint16_t to_f16_bits(double value);
double from_f16_bits(uint16_t bits);

Scalar load_scalar(DType dtype, const void* at);
void store_scalar(const Scalar& value, void* at);

/// Unit roundoff: 2^-53 for f64, 2^-24 for f32, 2^-8 for bf16 (8 significant bits), 2^-11 for f16, 0 for integers.
double epsilon_of(DType dtype);

}  // namespace quern
