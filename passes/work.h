// How long an elementwise op takes, roughly, on any machine: what passes weigh against memory traffic or against more code.
#pragma once
#include "ir/op.h"

namespace quern {

enum class Work { little, division, function, long_function };

inline Work work_of(Op op) {
  // clang-format off
  switch (op) {
    case Op::div: case Op::sqrt: case Op::rsqrt: return Work::division;
    case Op::exp: case Op::log: case Op::tanh: case Op::erf: case Op::sin: case Op::cos: case Op::pow: return Work::function;
    case Op::expm1: case Op::log1p: case Op::tan: case Op::asin: case Op::acos: case Op::atan2: case Op::sinh: case Op::cosh: case Op::asinh:
    case Op::acosh: case Op::atanh: case Op::erfc: case Op::erf_inv: case Op::lgamma: case Op::rem: return Work::long_function;
    default: return Work::little;
  }
  // clang-format on
}

/// Bytes: less stays in a cache, which moves several times as many in the same time.
inline constexpr int64_t kCached = 256 << 10;
/// A GPU computes more for each byte that it moves.
inline constexpr double kGpuOpShare = 0.25;
/// Bytes of memory traffic that take as long as one element's op.
inline double price_of(Op op) {
  constexpr double kPrices[] = {0.25, 1.5, 4, 16};
  return kPrices[static_cast<int>(work_of(op))];
}

}  // namespace quern
