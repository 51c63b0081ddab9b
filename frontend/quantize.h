// Affine quantization: small integers, or f8, with a scale and a zero point (Jacob et al., arXiv:1712.05877).
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// x/scale, rounded to the nearest even, plus the zero point, saturated to `to`: an integer dtype of at most 16 bits, or
/// f8e4m3, f8e5m2 (x/scale + zero point, clipped to the finite range and rounded by the cast). x float; scale, a float, and
/// zero_point, of `to`, broadcast against x: scalars, or one value along an axis. Computed in f32, of f64 in f64.
Tensor quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, DType to, Where where = Where::current());
/// (q - zero_point) * scale, in scale's dtype, computed as there. zero_point of q's dtype: such a one, or i32.
Tensor dequantize(const Tensor& q, const Tensor& scale, const Tensor& zero_point, Where where = Where::current());

}  // namespace quern
