// Special functions: erfc, erf_inv, lgamma, digamma. The reference of erf_inv and digamma is made here, in more bits
// than f64; digamma is built from simpler ops, so that its derivatives of every order exist.
#include <array>
#include <cmath>
#include <numbers>

#include "ir/ops/define.h"

namespace quern {
namespace {

using Nodes = std::vector<NodeId>;

// erf(y) = x by Halley's iteration from Winitzki's estimate, which is within 0.004 ("A handy approximation", 2008).
double erf_inv_of(double x) {
  const long double a = std::fabs(x), rest = 1 - a, slope = std::sqrt(std::numbers::pi_v<long double>) / 2;
  if (a < 1e-12L) return static_cast<double>(x * slope);
  if (!(a < 1)) return a == 1 ? std::copysign(INFINITY, x) : NAN;
  const long double l = std::log(rest * (1 + a)), t = 2 / (std::numbers::pi_v<long double> * 0.147L) + l / 2;
  long double y = std::sqrt(std::sqrt(t * t - l / 0.147L) - t);
  for (int step = 0; step < 4; ++step) {
    const long double above = a < 0.5L ? std::erf(y) - a : rest - std::erfc(y), u = above * slope * std::exp(y * y);
    y -= u / (1 + u * y);
  }
  return static_cast<double>(std::copysign(y, static_cast<long double>(x)));
}

double lgamma_of(double x) {
  int sign;
  return ::lgamma_r(x, &sign);   // std::lgamma writes a global
}

// B_2k/2k, the coefficients of the asymptotic series of digamma.
constexpr std::array<double, 8> kSeries = {1.0 / 12, -1.0 / 120, 1.0 / 252, -1.0 / 240, 1.0 / 132, -691.0 / 32760, 1.0 / 12, -3617.0 / 8160};

// digamma(1 + |x|) by its recurrence and the series past 20; then the term of the pole at 0, or the reflection.
double digamma_of(double x) {
  const long double a = x < 0 ? -x : x, y = a + 20;
  long double less = 1 / (2 * y), power = 1;
  for (double c : kSeries) less += c * (power /= y * y);
  for (int k = 1; k < 20; ++k) less += 1 / (a + k);
  const long double value = std::log(y) - less;
  if (!(x < 0)) return static_cast<double>(value - 1 / static_cast<long double>(x));
  const long double r = a - std::nearbyint(a);
  return r == 0 ? NAN : static_cast<double>(value + std::numbers::pi_v<long double> / std::tan(std::numbers::pi_v<long double> * r));
}
Scalar digamma_scalar(DType d, std::span<const Scalar> a) { return Scalar::of(d, digamma_of(a[0].f)); }
HostTensor eval_digamma(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out(node.type.dtype, node.type.shape);
  for (int64_t i = 0; i < out.size(); ++i) {
    const Scalar x = args[0]->get(i);
    out.set(i, digamma_scalar(out.dtype, {&x, 1}));
  }
  return out;
}

// As digamma_of, in f64 whatever the dtype, from 10. Both arms of the reflection stay away from the other one's poles,
// so that derivatives are finite.
NodeId digamma_ops(GraphBuilder& b, NodeId given) {
  const NodeId x = cast_like(b, given, DType::f64);
  const Vjp v{b, x, -1};
  const auto select = [&](NodeId p, NodeId yes, NodeId no) { return b.add(Op::select, {p, yes, no}); };
  const NodeId one = v.number(1), negative = v.op(Op::lt, x, v.number(0)), a = select(negative, v.op(Op::neg, x), x);
  const NodeId y = v.op(Op::add, a, v.number(10)), inverse = v.op(Op::div, one, y), square = v.times(inverse, inverse);
  NodeId series = v.number(kSeries.back());
  for (size_t k = kSeries.size() - 1; k-- > 0;) series = v.op(Op::add, v.times(series, square), v.number(kSeries[k]));
  NodeId less = v.op(Op::add, v.times(inverse, v.number(0.5)), v.times(series, square));
  for (int k = 9; k > 0; --k) less = v.op(Op::add, less, v.op(Op::div, one, v.op(Op::add, a, v.number(k))));
  const NodeId value = v.op(Op::sub, v.op(Op::log, y), less);
  const NodeId r = v.op(Op::sub, a, v.op(Op::round, a)), on_pole = v.op(Op::logical_and, negative, v.op(Op::eq, r, v.number(0)));
  const NodeId angle = v.times(select(negative, select(on_pole, v.number(NAN), r), v.number(0.25)), v.number(std::numbers::pi));
  const NodeId reflected = v.op(Op::div, v.number(std::numbers::pi), v.op(Op::tan, angle));
  const NodeId pole = v.op(Op::div, v.number(-1), select(negative, one, x));
  return cast_like(b, v.op(Op::add, value, select(negative, reflected, pole)), b.type(given).dtype);
}
NodeId build_digamma(GraphBuilder& b, const Node&, std::span<const NodeId> args) { return digamma_ops(b, args[0]); }

// --- derivatives ---
Nodes vjp_erfc(GraphBuilder& b, NodeId n, NodeId g) {   // -2/sqrt(pi) exp(-x^2)
  Vjp v{b, n, g};
  const NodeId e = v.op(Op::exp, v.op(Op::neg, v.times(v.arg(0), v.arg(0))));
  return {v.times(g, v.times(v.number(-2 * std::numbers::inv_sqrtpi), e))};
}
Nodes vjp_erf_inv(GraphBuilder& b, NodeId n, NodeId g) {   // sqrt(pi)/2 exp(r^2)
  Vjp v{b, n, g};
  return {v.times(g, v.times(v.number(0.5 / std::numbers::inv_sqrtpi), v.op(Op::exp, v.times(n, n))))};
}
Nodes vjp_lgamma(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, digamma_ops(b, v.arg(0)))}; }

std::vector<Sample> unit_unary(DType d) { return is_float(d) ? elementwise_samples(d, 1, -0.9, 0.9) : std::vector<Sample>{}; }

}  // namespace

std::vector<OpDef> special_ops() {
  return {
      define(Op::erfc, "erfc", "1 - erf(x), accurate where that is small", infer_unary_float, eval_map, vjp_erfc, Map{unary<std::erfc>}, float_samples<-12, 12>),
      define(Op::erf_inv, "erf_inv", "inverse of erf, |x| <= 1", infer_unary_float, eval_map, vjp_erf_inv, Map{unary<erf_inv_of>}, unit_unary),
      define(Op::lgamma, "lgamma", "log|gamma(x)|", infer_unary_float, eval_map, vjp_lgamma, Map{unary<lgamma_of>}, float_samples<2, 20>),
      define(Op::digamma, "digamma", "derivative of lgamma", infer_unary_float, eval_digamma, vjp_of_expansion, Expand{build_digamma}, float_samples<2, 20>),
  };
}

}  // namespace quern
