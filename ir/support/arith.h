// Arithmetic on sizes that must not wrap, and floor division. Extents are multiplied only here.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "ir/support/check.h"

namespace quern {

using Shape = std::vector<int64_t>;

/// Largest extent of a dimension and largest number of elements of a tensor.
constexpr int64_t kMaxExtent = int64_t{1} << 40;
constexpr int kMaxRank = 10;   // a convolution in three dims with groups and a batch has windows of rank 9
constexpr int64_t kMaxBytes = int64_t{1} << 46;   // of one tensor
constexpr int64_t kMaxSize = int64_t{1} << 30;    // of a symbol

/// a*b; throws Error(memory) when it does not fit.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t out;
  if (__builtin_mul_overflow(a, b, &out)) throw Error(Code::size_overflow, "size overflows 64 bits").with_help("use a smaller shape");
  return out;
}
/// Number of elements of a shape; 1 for rank 0.
inline int64_t count(std::span<const int64_t> shape) {
  int64_t n = 1;
  for (int64_t d : shape) n = checked_mul(n, d);
  return n;
}
/// Row-major strides in elements.
inline Shape row_major(std::span<const int64_t> shape) {
  Shape strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = checked_mul(strides[d], shape[d]);
  return strides;
}
/// Floor division and its remainder; both 0 for divisor 0.
inline int64_t floor_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return static_cast<int64_t>(0 - static_cast<uint64_t>(a));
  const int64_t q = a / b;
  return (a % b != 0 && ((a < 0) != (b < 0))) ? q - 1 : q;
}
inline int64_t floor_mod(int64_t a, int64_t b) {
  if (b == 0 || b == -1) return 0;
  const int64_t r = a % b;
  return (r != 0 && ((r < 0) != (b < 0))) ? r + b : r;
}
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace quern
