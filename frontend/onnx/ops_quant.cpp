// ONNX's quantized arithmetic: integers with a scale and a zero point, for a tensor, along an axis or in blocks.
#include <fmt/format.h>

#include "frontend/onnx/call.h"
#include "frontend/quantize.h"

namespace quern::onnx {
namespace {

// Scales or zero points in x's shape, or broadcasting to it.
Tensor along(const Call& c, const Tensor& s, const Tensor& x) {
  if (s.type().size() == 1) return reshape(s, {});
  const int64_t axis = c.axis(c.integer("axis", 1), x.rank()), n = x.shape().at(static_cast<size_t>(axis));
  if (s.rank() == 1) {
    Shape column(x.shape().size(), 1);
    column.at(static_cast<size_t>(axis)) = s.type().size();
    return reshape(s, column);
  }
  const int64_t block = c.integer("block_size", 0);
  c.want(s.rank() == x.rank() && block > 0 && block <= kMaxExtent, "scales of blocks have the rank of the tensor");
  Shape apart = s.shape(), wide, joined = s.shape();
  apart.insert(apart.begin() + axis + 1, 1);
  wide = apart;
  wide.at(static_cast<size_t>(axis) + 1) = block;
  joined.at(static_cast<size_t>(axis)) = checked_mul(joined.at(static_cast<size_t>(axis)), block);
  return ranged(reshape(broadcast_to(reshape(s, apart), wide), joined), axis, 0, n);
}

// f8 without saturation differs from the frontend's: there overflow is infinity or NaN.
Tensor quantized(const Call& c, const Tensor& x, const Tensor& scale, const Tensor& zero, DType to) {
  if (is_float(to) || to == DType::boolean) c.unsupported(fmt::format("quantization to {}", name_of(to)));
  const Tensor wide = is_float(x.dtype()) ? x : cast(x, DType::f32);
  if (is_f8(to) && !c.flag("saturate", true)) return cast(cast(wide, DType::f32) / cast(scale, DType::f32) + cast(zero, DType::f32), to);
  return quantize(wide, is_float(scale.dtype()) ? scale : cast(scale, DType::f32), zero, to);
}

void import_quantize(Call& c) {
  const Tensor x = c.in(0);
  DType to = DType::u8;
  if (c.has(2)) to = c.in(2).dtype();
  else if (c.integer("output_dtype", 0)) to = c.dtype_of(c.integer("output_dtype", 0));
  if (is_integer(x.dtype()) && x.dtype() != DType::i32) c.unsupported(fmt::format("quantization of {}", name_of(x.dtype())));
  const Tensor zero = c.has(2) ? along(c, c.in(2), x) : c.number(to, 0);
  c.out(quantized(c, x, along(c, c.in(1), x), zero, to));
}
void import_dequantize(Call& c) {
  const Tensor x = c.in(0), scale = along(c, c.in(1), x);
  if (is_float(x.dtype())) c.unsupported(fmt::format("dequantization of {}", name_of(x.dtype())));
  const Tensor y = dequantize(x, scale, c.has(2) ? along(c, c.in(2), x) : c.number(x.dtype(), 0));
  c.out(c.integer("output_dtype", 0) ? cast(y, c.dtype_of(c.integer("output_dtype", 0))) : y);
}
void import_dynamic_quantize(Call& c) {
  const Tensor x = c.in(0), low = minimum(min(x), 0), high = maximum(max(x), 0);
  const Tensor scale = (high - low) / 255, zero = cast(minimum(maximum(round(-Located(low) / scale), 0), 255), DType::u8);
  c.out(quantized(c, x, scale, zero, DType::u8));
  c.out(scale, 1);
  c.out(zero, 2);
}

// One for each row of a, or for each column of b.
Tensor per_row(const Tensor& t) { return t.type().size() == 1 ? reshape(t, {}) : t.rank() == 1 ? expand_dims(t, 1) : t; }
Tensor per_column(const Tensor& t) { return t.type().size() == 1 ? reshape(t, {}) : t; }
Tensor product(const Tensor& a, const Tensor& a_zero, const Tensor& b, const Tensor& b_zero) {
  return numpy_matmul(cast(a, DType::i32) - cast(per_row(a_zero), DType::i32), cast(b, DType::i32) - cast(per_column(b_zero), DType::i32));
}
void import_matmul_integer(Call& c) {
  const Tensor a = c.in(0), b = c.in(1);
  c.out(product(a, c.has(2) ? c.in(2) : c.number(a.dtype(), 0), b, c.has(3) ? c.in(3) : c.number(b.dtype(), 0)));
}
void import_qlinear_matmul(Call& c) {
  const Tensor scale = cast(per_row(c.in(1)), DType::f32) * cast(per_column(c.in(4)), DType::f32) / cast(per_row(c.in(6)), DType::f32);
  const Tensor y = cast(product(c.in(0), c.in(2), c.in(3), c.in(5)), DType::f32) * scale;
  c.out(quantized(c, y, c.number(DType::f32, 1), per_row(c.in(7)), c.in(7).dtype()));
}

// Zero points go first, so that padding, which is 0, is as ONNX has it.
Tensor per_channel(const Tensor& t, const Tensor& w) {
  Shape shape(w.shape().size() - 1, 1);
  shape.at(0) = t.type().size();
  return t.type().size() == 1 ? reshape(t, {}) : reshape(t, shape);
}
Tensor integer_convolution(const Call& c, const Tensor& x, const Tensor& x_zero, const Tensor& w, const Tensor& w_zero) {
  c.want(w.rank() >= 3, "kernels [out, in, k…]");
  Tensor zero = cast(per_channel(w_zero, w), DType::i32);
  if (zero.rank() > 0) zero = expand_dims(zero, -1);   // [out, 1, 1…] against [out, in, k…]
  return convolution(c, cast(x, DType::i32) - cast(reshape(x_zero, {}), DType::i32), cast(w, DType::i32) - zero, {});
}
void import_conv_integer(Call& c) {
  const Tensor x = c.in(0), w = c.in(1);
  c.out(integer_convolution(c, x, c.has(2) ? c.in(2) : c.number(x.dtype(), 0), w, c.has(3) ? c.in(3) : c.number(w.dtype(), 0)));
}
void import_qlinear_conv(Call& c) {
  const Tensor w = c.in(3);
  Tensor y = integer_convolution(c, c.in(0), c.in(2), w, c.in(5));
  if (c.has(8)) y = y + per_channel(c.in(8), w);
  const Tensor scale = cast(reshape(c.in(1), {}), DType::f32) * cast(per_channel(c.in(4), w), DType::f32) / cast(reshape(c.in(6), {}), DType::f32);
  c.out(quantized(c, cast(y, DType::f32) * scale, c.number(DType::f32, 1), reshape(c.in(7), {}), c.in(7).dtype()));
}

}  // namespace

std::vector<OpEntry> quant_ops() {
  return {
      {"ConvInteger", import_conv_integer}, {"DequantizeLinear", import_dequantize}, {"DynamicQuantizeLinear", import_dynamic_quantize}, {"MatMulInteger", import_matmul_integer},
      {"QLinearConv", import_qlinear_conv}, {"QLinearMatMul", import_qlinear_matmul}, {"QuantizeLinear", import_quantize},
  };
}

}  // namespace quern::onnx
