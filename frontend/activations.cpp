// See activations.h. Two-sided functions are sums of a function of max(x, 0) and one of min(x, 0): no arm that is not
// taken can overflow, neither in the value nor in the derivative.
#include "frontend/activations.h"

#include <cmath>
#include <numbers>

#include "frontend/nn.h"

namespace quern {
namespace {

// Arithmetic at the user's line.
struct Line {
  Where where;
  Operand operator()(const Tensor& t) const { return {t, where}; }
  Operand operator()(double v) const { return {v, where}; }
  Tensor positive(const Tensor& x) const { return maximum(x, (*this)(0.0), where); }
  Tensor negative(const Tensor& x) const { return minimum(x, (*this)(0.0), where); }
  Tensor negated(const Tensor& x) const { return -Located(x, where); }
};

}  // namespace

Tensor softplus(const Tensor& x, Where where) { const Line at{where}; return logaddexp(at(x), at(0.0), where); }
Tensor log_sigmoid(const Tensor& x, Where where) { const Line at{where}; return at.negated(softplus(at.negated(x), where)); }
Tensor silu(const Tensor& x, Where where) { const Line at{where}; return x * at(sigmoid(x, where)); }
Tensor mish(const Tensor& x, Where where) { const Line at{where}; return x * at(tanh(softplus(x, where), where)); }
Tensor gelu_tanh(const Tensor& x, Where where) {
  const Line at{where};
  const Tensor inner = (x + at(square(x, where) * at(x) * at(0.044715))) * at(std::sqrt(2 * std::numbers::inv_pi));
  return x * at((tanh(inner, where) + at(1.0)) * at(0.5));
}
Tensor softsign(const Tensor& x, Where where) { const Line at{where}; return x / at(abs(x, where) + at(1.0)); }
Tensor selu(const Tensor& x, Where where) { const Line at{where}; return elu(x, 1.6732632423543772, where) * at(1.0507009873554805); }
Tensor relu6(const Tensor& x, Where where) { return hardtanh(x, 0, 6, where); }
Tensor hardsigmoid(const Tensor& x, Where where) { const Line at{where}; return relu6(x + at(3.0), where) / at(6.0); }
Tensor hardswish(const Tensor& x, Where where) { const Line at{where}; return x * at(hardsigmoid(x, where)); }
Tensor hardtanh(const Tensor& x, double low, double high, Where where) { const Line at{where}; return clip(x, at(low), at(high), where); }
Tensor elu(const Tensor& x, double alpha, Where where) { const Line at{where}; return at.positive(x) + at(expm1(at.negative(x), where) * at(alpha)); }
Tensor celu(const Tensor& x, double alpha, Where where) { const Line at{where}; return at.positive(x) + at(expm1(at.negative(x) / at(alpha), where) * at(alpha)); }
Tensor leaky_relu(const Tensor& x, double slope, Where where) { const Line at{where}; return at.positive(x) + at(at.negative(x) * at(slope)); }
Tensor prelu(const Tensor& x, const Tensor& slope, Where where) { const Line at{where}; return at.positive(x) + at(at.negative(x) * at(slope)); }

}  // namespace quern
