// See activations.h. Two-sided functions are sums of a function of max(x, 0) and one of min(x, 0): no arm that is not
// taken can overflow, neither in the value nor in the derivative.
#include "frontend/activations.h"

#include <cmath>
#include <numbers>

#include "frontend/in_f32.h"
#include "frontend/nn.h"

namespace quern {
namespace {

Tensor positive(const Tensor& x) { return maximum(x, 0); }
Tensor negative(const Tensor& x) { return minimum(x, 0); }

}  // namespace

// A function of `x` by this formula, at the user's line.
#define QN_FORMULA(name, ...)                                              \
  Tensor name(const Tensor& x, Where where) {                              \
    const Composed line(where);                                            \
    return in_f32(#name, [](const Tensor& x) { return __VA_ARGS__; }, x); \
  }
QN_FORMULA(softplus, logaddexp(x, 0))
QN_FORMULA(log_sigmoid, -Located(softplus(-Located(x))))
QN_FORMULA(silu, x * sigmoid(x))
QN_FORMULA(mish, x * tanh(softplus(x)))
QN_FORMULA(gelu_tanh, x * sigmoid((x + square(x) * x * 0.044715) * std::sqrt(8 * std::numbers::inv_pi)))   // 1 + tanh u is 2 sigmoid 2u, without cancellation
QN_FORMULA(softsign, x / (abs(x) + 1))
QN_FORMULA(selu, elu(x, 1.6732632423543772) * 1.0507009873554805)
QN_FORMULA(relu6, hardtanh(x, 0, 6))
QN_FORMULA(hardsigmoid, relu6(x + 3) / 6)
QN_FORMULA(hardswish, x * hardsigmoid(x))
#undef QN_FORMULA

Tensor hardtanh(const Tensor& x, double low, double high, Where where) { return clip(x, {low, where}, {high, where}, where); }
Tensor elu(const Tensor& x, double alpha, Where where) {
  const Composed line(where);
  return in_f32("elu", [&](const Tensor& x) { return positive(x) + expm1(negative(x)) * alpha; }, x);
}
Tensor celu(const Tensor& x, double alpha, Where where) {
  const Composed line(where);
  return in_f32("celu", [&](const Tensor& x) { return positive(x) + expm1(negative(x) / alpha) * alpha; }, x);
}
Tensor leaky_relu(const Tensor& x, double slope, Where where) {
  const Composed line(where);
  return positive(x) + negative(x) * slope;
}
Tensor prelu(const Tensor& x, const Tensor& slope, Where where) {
  const Composed line(where);
  return positive(x) + negative(x) * slope;
}

}  // namespace quern
