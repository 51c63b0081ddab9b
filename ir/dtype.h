// Element types and single values. Every arithmetic result is rounded to its dtype at once: a bf16 sum is the
// f64 sum rounded once to bf16. Integers wrap modulo 2^bits. A bool is 0 or 1, one byte in memory.
// Storage dtypes (f8e4m3, f8e5m2, i4, u4) hold values that are cast before anything is computed: see op.h. f8e4m3 has no
// infinity and one NaN of each sign, 0x7f and 0xff; f8e5m2 is the upper byte of an f16. i4 and u4 wrap to 4 bits and
// take a byte each in memory, of which the upper 4 bits are not read.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

// Packages hold these numbers: new ones go to the end.
enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u32, u8, boolean, i16, i8, u64, u16, f8e4m3, f8e5m2, i4, u4 };
constexpr int kDTypeCount = 17;

int64_t size_of(DType dtype);                  // in memory, bytes
int64_t bits_of(DType dtype);                  // of a value: 1 for bool, 4 for i4 and u4
std::string_view name_of(DType dtype);  // "f64", …, "bool"
std::optional<DType> parse_dtype(std::string_view name);
bool is_float(DType dtype);                    // f64 f32 bf16 f16
bool is_integer(DType dtype);                  // i64 to i8, u64 to u8
bool is_unsigned(DType dtype);                 // u64 to u8, u4
bool is_f8(DType dtype);                       // f8e4m3 f8e5m2
bool is_storage(DType dtype);                  // f8e4m3 f8e5m2 i4 u4

/// One value of a dtype: floats live in `f`, integers and bool in `i` (unsigned ones zero-extended; a u64 is its bits),
/// and so do the eight bits of an f8e4m3 or f8e5m2.
struct Scalar {
  DType dtype = DType::f64;
  double f = 0;
  int64_t i = 0;
  static Scalar of(DType dtype, double value);     // rounds; float→integer truncates toward zero, NaN→0, saturates
  static Scalar of_int(DType dtype, int64_t value);  // wraps; rounds for floats
  static Scalar cast(DType dtype, const Scalar& value);   // what the op `cast` does
  static Scalar bitcast(DType dtype, const Scalar& value);   // of as many bits; of a NaN, those of some NaN
  double as_double() const;
  bool truthy() const { return as_double() != 0; }
  bool operator==(const Scalar& other) const;      // bitwise: NaN equals NaN, -0 differs from 0
};

/// a < b, of integers or bools of one dtype.
inline bool below(const Scalar& a, const Scalar& b) {
  return a.dtype == DType::u64 ? static_cast<uint64_t>(a.i) < static_cast<uint64_t>(b.i) : a.i < b.i;
}

double round_to(DType dtype, double value);        // nearest even, overflow to infinity
int64_t wrap_to(DType dtype, int64_t value);
uint16_t to_bf16_bits(float value);
float from_bf16_bits(uint16_t bits);
uint16_t to_f16_bits(double value);
double from_f16_bits(uint16_t bits);
uint8_t to_f8_bits(DType dtype, double value);     // nearest even; overflow to infinity, in f8e4m3 to NaN
double from_f8_bits(DType dtype, uint8_t bits);

Scalar load_scalar(DType dtype, const void* at);
void store_scalar(const Scalar& value, void* at);

/// Unit roundoff: 2^-53 for f64, 2^-24 for f32, 2^-8 for bf16 (8 significant bits), 2^-11 for f16; 0 for others, f8
/// included: a cast to them is a step, and what is around it must be exact.
double epsilon_of(DType dtype);

}  // namespace quern
