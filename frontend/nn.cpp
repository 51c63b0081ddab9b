// See nn.h.
#include "frontend/nn.h"

#include <numbers>

#include <fmt/format.h>

#include "frontend/in_f32.h"

namespace quern {

static Operand at(const Tensor& t, const Where& w) { return Operand(t, w); }
static Operand at(double v, const Where& w) { return Operand(v, w); }

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b, Where where) { return matmul(x, w, where) + at(b, where); }
Tensor relu(const Tensor& x, Where where) { return maximum(x, at(0.0, where), where); }
// e = exp(-|x|), which does not overflow; |x| by a select, whose derivative at 0 is that of one side, not the mean of both, 0.
Tensor sigmoid(const Tensor& x, Where at) {
  const Composed line(at);
  return in_f32("sigmoid", [](const Tensor& x) {
    const Tensor negative = less(x, 0), e = exp(where(negative, x, -Located(x)));
    return where(negative, e, 1) / (e + 1);
  }, x);
}
// 1 + erf cancels below 0: f64 takes erfc. Others err by 2^-24 of x there, as PyTorch does: erf of f32 is ten times as fast.
Tensor gelu(const Tensor& x, Where where) {
  const Composed line(where);
  return in_f32("gelu", [](const Tensor& x) {
    const double root = std::numbers::sqrt2 / 2;
    return x * ((x.dtype() == DType::f64 ? erfc(x * -root) : erf(x * root) + 1) * 0.5);
  }, x);
}

Tensor log_softmax(const Tensor& x, Where where) {
  const Tensor top = stop_gradient(expand_dims(max(x, {-1}, where), -1, where), where);
  const Tensor shifted = x - at(top, where);
  return shifted - at(log(expand_dims(sum(exp(shifted, where), {-1}, where), -1, where), where), where);
}
Tensor softmax(const Tensor& x, Where where) {
  const Tensor top = stop_gradient(expand_dims(max(x, {-1}, where), -1, where), where);
  const Tensor e = exp(x - at(top, where), where);
  return e / at(expand_dims(sum(e, {-1}, where), -1, where), where);
}

Tensor layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon, Where where) {
  const Tensor centred = x - at(expand_dims(mean(x, {-1}, where), -1, where), where);
  const Tensor variance = expand_dims(mean(centred * at(centred, where), {-1}, where), -1, where);
  return centred * at(rsqrt(variance + at(epsilon, where), where), where) * at(scale, where) + at(shift, where);
}

Tensor dropout(const Tensor& x, double rate, const Tensor& key, int64_t stream, Where w) {
  if (!(rate >= 0 && rate < 1)) throw error_at(Code::dropout_rate, fmt::format("dropout: rate {} is outside [0, 1)", rate), w, {{"operand", x}}).with_help("0.1 drops a tenth; 0 drops nothing");
  if (rate == 0) return x;
  const Tensor keep = less_equal(at(rate, w), random_uniform(key, x.shape(), stream, w), w);
  return where(keep, x * at(1 / (1 - rate), w), at(0.0, w), w);
}

Tensor one_hot(const Tensor& labels, int64_t classes, DType dtype, Where where) {
  Shape shape = labels.shape();
  shape.push_back(classes);
  // Where the labels' dtype does not hold all classes, their numbers would wrap.
  const bool narrow = is_integer(labels.dtype()) && (is_storage(labels.dtype()) || Scalar::of_int(labels.dtype(), classes - 1).i != classes - 1);
  const Tensor label = narrow ? cast(labels, DType::i64, where) : labels;
  const Tensor k = iota(labels.graph(), label.dtype(), shape, static_cast<int64_t>(shape.size()) - 1, where);
  return cast(quern::equal(expand_dims(label, -1, where), k, where), dtype, where);
}

Tensor mse(const Tensor& prediction, const Tensor& target, Where where) {
  const Tensor d = prediction - at(target, where);
  return mean(d * at(d, where), {}, where);
}

}  // namespace quern
