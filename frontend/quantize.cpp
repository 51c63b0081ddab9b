// See quantize.h.
#include "frontend/quantize.h"

#include <limits>

#include <fmt/format.h>

namespace quern {
namespace {

// Wider integers than 16 bits are not exact in f32; a product of two quantized values, a sum of such, is i32.
void want_small(const char* name, DType dtype, bool sums, const Tensor& of, const Where& where) {
  if (is_float(dtype) || dtype == DType::boolean || (size_of(dtype) > 2 && !(sums && dtype == DType::i32)))
    throw error_at(Code::dtype_unsupported, fmt::format("{}: {} is no dtype of quantized values", name, quern::name_of(dtype)), where, {{"operand", of}})
        .with_help(fmt::format("an integer dtype of at most 16 bits{}, f8e4m3 or f8e5m2", sums ? ", i32" : ""));
}
void want_float(const char* name, const char* what, const Tensor& t, const Where& where) {
  if (!is_float(t.dtype())) throw error_at(Code::dtype_unsupported, fmt::format("{}: {} is {}, no float", name, what, to_string(t.type())), where, {{what, t}}).with_help("cast it to f32");
}
void want_zero(const char* name, const Tensor& zero, DType dtype, const Where& where) {
  if (zero.dtype() != dtype) throw error_at(Code::dtypes_differ, fmt::format("{}: the zero point is {}, quantized values are {}", name, to_string(zero.type()), quern::name_of(dtype)), where, {{"zero point", zero}}).with_help(fmt::format("cast it to {}", quern::name_of(dtype)));
}

}  // namespace

Tensor quantize(const Tensor& x, const Tensor& scale, const Tensor& zero_point, DType to, Where where) {
  const Composed line(where);
  want_tensors("quantize", {x, scale, zero_point}, where);
  want_float("quantize", "x", x, where);
  want_float("quantize", "scale", scale, where);
  want_small("quantize", to, false, x, where);
  want_zero("quantize", zero_point, to, where);
  const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor steps = cast(x, wide) / cast(scale, wide);
  if (is_f8(to)) {
    const double most = to == DType::f8e4m3 ? 448 : 57344;
    return cast(clip(steps + cast(zero_point, wide), -most, most), to);
  }
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor moved = clip(round(steps) + cast(zero_point, wide), Scalar::of(to, -inf).as_double(), Scalar::of(to, inf).as_double());
  return cast(moved, to);
}

Tensor dequantize(const Tensor& q, const Tensor& scale, const Tensor& zero_point, Where where) {
  const Composed line(where);
  want_tensors("dequantize", {q, scale, zero_point}, where);
  want_small("dequantize", q.dtype(), true, q, where);
  want_float("dequantize", "scale", scale, where);
  want_zero("dequantize", zero_point, q.dtype(), where);
  const DType exact = is_f8(q.dtype()) ? DType::f32 : q.dtype() == DType::i32 ? DType::i64 : DType::i32, wide = scale.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor steps = cast(q, exact) - cast(zero_point, exact);
  return cast(cast(steps, wide) * cast(scale, wide), scale.dtype());
}

}  // namespace quern
