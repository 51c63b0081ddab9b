// ONNX reductions, softmax and its kin, arg-max.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

Shape all_axes(const Tensor& x) {
  Shape axes(x.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  return axes;
}

// A reduction over the node's axes; f takes the tensor and the axes and leaves them out.
template <class F>
OpEntry reduction(std::string_view name, F f, int64_t axes_are_input_since = 18) {
  return {name, [f, axes_are_input_since](Call& c) {
            Tensor x = c.in(0);
            Shape axes;
            if (c.opset < axes_are_input_since) axes = c.integers("axes");
            else if (c.has(1)) axes = c.known_integers(1, "the axes");
            if (axes.empty()) {
              if (c.flag("noop_with_empty_axes")) return c.out(f(x, Shape{}));
              axes = all_axes(x);
            }
            for (int64_t& a : axes) a = c.axis(a, x.rank());
            const bool truth = x.dtype() == DType::boolean;
            const Tensor y = f(truth ? cast(x, DType::u8) : x, axes);
            const Tensor kept = axes.empty() ? y : c.flag("keepdims", true) ? with_axes(y, x, axes) : y;
            c.out(truth ? cast(kept, DType::boolean) : kept);
          }};
}

// No axes: of each element alone. The DSL's reductions take no axes for all.
Tensor sums(const Tensor& x, const Shape& axes) { return axes.empty() ? x : sum(x, axes); }
Tensor maxima(const Tensor& x, const Shape& axes) { return axes.empty() ? x : max(x, axes); }
Tensor minima(const Tensor& x, const Shape& axes) { return axes.empty() ? x : min(x, axes); }
Tensor products(const Tensor& x, const Shape& axes) { return axes.empty() ? x : prod(x, axes); }
Tensor means(const Tensor& x, const Shape& axes) {
  if (axes.empty()) return x;
  if (is_float(x.dtype())) return mean(x, axes);
  const Tensor total = sum(x, axes);
  int64_t n = 1;
  for (int64_t a : axes) n *= x.shape().at(static_cast<size_t>(a));
  return total / static_cast<double>(n);
}
// In f32 or better, as ONNX's own sums are; back to the dtype at the end.
Tensor root(const Tensor& x) { return is_float(x.dtype()) ? sqrt(x) : cast(sqrt(cast(x, DType::f64)), x.dtype()); }
Tensor logarithm(const Tensor& x) { return is_float(x.dtype()) ? log(x) : cast(log(cast(x, DType::f64)), x.dtype()); }
Tensor log_sum_exp(const Tensor& x, const Shape& axes) {
  if (axes.empty()) return x;
  if (!is_float(x.dtype())) return cast(log_sum_exp(cast(x, DType::f64), axes), x.dtype());
  const Tensor top = max(x, axes);
  const Tensor shift = where(less(abs(top), INFINITY), top, 0);   // of nothing, or infinite: no shift
  return log(sum(exp(x - with_axes(shift, x, axes)), axes)) + shift;
}

// Before opset 13 everything from the axis on is one.
template <class F>
OpEntry normalised_exponential(std::string_view name, F f) {
  return {name, [f](Call& c) {
            const Tensor x = c.in(0);
            const int64_t axis = c.axis(c.integer("axis", c.opset < 13 ? 1 : -1), std::max<int64_t>(1, x.rank()));
            if (x.rank() == 0) return c.out(reshape(f(reshape(x, {1}), 0), {}));
            if (c.opset >= 13) return c.out(f(x, axis));
            const int64_t rows = count(std::span<const int64_t>(x.shape()).first(static_cast<size_t>(axis)));
            c.out(reshape(f(reshape(x, {rows, rows ? x.type().size() / rows : 0}), 1), x.shape()));
          }};
}

// The order reversed: the largest becomes the smallest.
Tensor reversed_order(const Call& c, const Tensor& x) {
  if (is_float(x.dtype())) return -Located(x);
  HostTensor ones(x.dtype(), {});
  ones.set(0, Scalar::of_int(x.dtype(), -1));
  return c.constant(ones) - x;   // the complement; nothing overflows
}
void arg(Call& c, bool least) {
  Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", 0), x.rank()), n = x.shape().at(static_cast<size_t>(axis));
  if (least) x = reversed_order(c, x);
  const bool last = c.flag("select_last_index");
  Tensor y = argmax(last ? reverse(x, {axis}) : x, axis);
  if (last) y = static_cast<double>(n - 1) - Operand(y);
  c.out(c.flag("keepdims", true) ? with_axes(y, x, {axis}) : y);
}

Tensor hardmax(const Tensor& x, int64_t axis) {
  const Tensor best = with_axes(argmax(x, axis), x, {axis});
  return cast(equal(iota(x.graph(), DType::i64, x.shape(), axis), best), x.dtype());
}

void import_lp_normalization(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", -1), x.rank()), p = c.integer("p", 2);
  c.want(p == 1 || p == 2, "p is 1 or 2");
  const Tensor norm = with_axes(p == 1 ? sum(abs(x), {axis}) : sqrt(sum(x * x, {axis})), x, {axis});
  c.out(where(equal(norm, 0), c.filled(x.dtype(), x.shape(), 0), x / norm));
}

// Over everything behind batch and channel.
template <class F>
OpEntry global_pool(std::string_view name, F f) {
  return {name, [f](Call& c) {
            const Tensor x = c.in(0);
            c.want(x.rank() >= 2, "[N, C, …]");
            Shape axes = all_axes(x);
            axes.erase(axes.begin(), axes.begin() + 2);
            c.out(axes.empty() ? x : with_axes(f(c, x, axes), x, axes));
          }};
}

}  // namespace

std::vector<OpEntry> reduce_ops() {
  return {
      reduction("ReduceSum", sums, 13), reduction("ReduceMax", maxima), reduction("ReduceMin", minima), reduction("ReduceProd", products), reduction("ReduceMean", means),
      reduction("ReduceL1", [](const Tensor& x, const Shape& axes) { return sums(abs(x), axes); }),
      reduction("ReduceL2", [](const Tensor& x, const Shape& axes) { return root(sums(x * x, axes)); }),
      reduction("ReduceSumSquare", [](const Tensor& x, const Shape& axes) { return sums(x * x, axes); }),
      reduction("ReduceLogSum", [](const Tensor& x, const Shape& axes) { return logarithm(sums(x, axes)); }),
      reduction("ReduceLogSumExp", log_sum_exp),
      normalised_exponential("Softmax", softmax_along), normalised_exponential("LogSoftmax", log_softmax_along), normalised_exponential("Hardmax", hardmax),
      {"ArgMax", [](Call& c) { arg(c, false); }}, {"ArgMin", [](Call& c) { arg(c, true); }}, {"LpNormalization", import_lp_normalization},
      global_pool("GlobalAveragePool", [](Call&, const Tensor& x, const Shape& axes) { return mean(x, axes); }),
      global_pool("GlobalMaxPool", [](Call&, const Tensor& x, const Shape& axes) { return max(x, axes); }),
      global_pool("GlobalLpPool", [](Call& c, const Tensor& x, const Shape& axes) {
        const double p = static_cast<double>(c.integer("p", 2));
        return pow(sum(pow(abs(x), p), axes), 1 / p);
      }),
  };
}

}  // namespace quern::onnx
