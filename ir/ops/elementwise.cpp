// Elementwise arithmetic: unary and binary maps. Each scalar function computes in f64 (integers in i64, whose bits a u64
// has) and rounds once to the result's dtype. Derivatives are built from ops.
#include <cmath>

#include "ir/ops/define.h"
#include "ir/support/fault.h"

namespace quern {
namespace {

using Args = std::span<const Scalar>;

// --- type rules ---
Type infer_any(const InferContext& c, size_t arity, bool integers) {
  want_args(c, arity);
  want_same_dtype(c);
  want_same_shape(c);
  want_arithmetic(c);
  c.want(is_float(c.args[0].dtype) || (integers && is_integer(c.args[0].dtype)),
         Code::dtype_unsupported, std::string("is not defined for ") + std::string(name_of(c.args[0].dtype)), "cast to f32 first");
  return c.args[0];
}
Type infer_unary(const InferContext& c) { return infer_any(c, 1, true); }
Type infer_binary(const InferContext& c) { return infer_any(c, 2, true); }
Type infer_binary_float(const InferContext& c) { return infer_any(c, 2, false); }
Type infer_binary_integer(const InferContext& c) {
  want_args(c, 2);
  want_same_dtype(c);
  want_same_shape(c);
  want_arithmetic(c);
  c.want(is_integer(c.args[0].dtype), Code::dtype_unsupported, std::string("is not defined for ") + std::string(name_of(c.args[0].dtype)),
         c.args[0].dtype == DType::boolean ? "bools take logical_and, logical_or and not_equal" : "cast to an integer first");
  return c.args[0];
}

// --- scalar functions ---
double rsqrt_of(double x) { return 1.0 / std::sqrt(x); }
double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

Scalar neg(DType d, Args a) { return is_float(d) ? Scalar{d, -a[0].f, 0} : Scalar::of_int(d, static_cast<int64_t>(0 - static_cast<uint64_t>(a[0].i))); }
bool negative(const Scalar& x) { return !is_unsigned(x.dtype) && x.i < 0; }
Scalar abs_(DType d, Args a) { return is_float(d) ? Scalar{d, std::fabs(a[0].f), 0} : negative(a[0]) ? neg(d, a) : a[0]; }
Scalar sign(DType d, Args a) { return is_float(d) ? Scalar::of(d, sign_of(a[0].f)) : Scalar::of_int(d, negative(a[0]) ? -1 : a[0].i != 0); }
Scalar add(DType d, Args a) {
  return is_float(d) ? Scalar::of(d, a[0].f + a[1].f) : Scalar::of_int(d, static_cast<int64_t>(static_cast<uint64_t>(a[0].i) + static_cast<uint64_t>(a[1].i)));
}
Scalar sub(DType d, Args a) {
  return is_float(d) ? Scalar::of(d, a[0].f - a[1].f) : Scalar::of_int(d, static_cast<int64_t>(static_cast<uint64_t>(a[0].i) - static_cast<uint64_t>(a[1].i)));
}
Scalar mul(DType d, Args a) {
  return is_float(d) ? Scalar::of(d, a[0].f * a[1].f) : Scalar::of_int(d, static_cast<int64_t>(static_cast<uint64_t>(a[0].i) * static_cast<uint64_t>(a[1].i)));
}
// Of unsigned integers, quotient and remainder are their own.
Scalar whole(DType d, Args a, bool remainder) {
  const uint64_t x = static_cast<uint64_t>(a[0].i), y = static_cast<uint64_t>(a[1].i);
  return Scalar::of_int(d, y == 0 ? 0 : static_cast<int64_t>(remainder ? x % y : x / y));
}
Scalar div(DType d, Args a) {
  if (is_float(d)) return Scalar::of(d, a[0].f / a[1].f);
  return is_unsigned(d) ? whole(d, a, false) : Scalar::of_int(d, floor_div(a[0].i, a[1].i));
}
// a - floor(a/b)*b, each step rounded to the dtype, as the devices do it.
Scalar mod(DType d, Args a) {
  if (is_unsigned(d)) return whole(d, a, true);
  if (!is_float(d)) return Scalar::of_int(d, floor_mod(a[0].i, a[1].i));
  const double q = std::floor(round_to(d, a[0].f / a[1].f));
  return Scalar::of(d, a[0].f - round_to(d, q * a[1].f));
}
Scalar pow_(DType d, Args a) {
  if (is_float(d)) return Scalar::of(d, std::pow(a[0].f, a[1].f));
  if (negative(a[1])) return Scalar::of_int(d, 0);   // integers: negative exponents give 0
  uint64_t base = static_cast<uint64_t>(a[0].i), result = 1;
  for (uint64_t e = static_cast<uint64_t>(a[1].i); e; e >>= 1, base *= base)
    if (e & 1) result *= base;
  return Scalar::of_int(d, static_cast<int64_t>(result));
}
// IEEE 754-2019 maximum and minimum: NaN wins, -0 < 0.
Scalar max_(DType d, Args a) {
  if (!is_float(d)) return below(a[0], a[1]) ? a[1] : a[0];
  if (std::isnan(a[0].f) || std::isnan(a[1].f)) return Scalar{d, a[0].f + a[1].f, 0};
  if (a[0].f == a[1].f) return std::signbit(a[0].f) ? a[1] : a[0];
  return a[0].f > a[1].f ? a[0] : a[1];
}
Scalar min_(DType d, Args a) {
  if (!is_float(d)) return below(a[1], a[0]) ? a[1] : a[0];
  if (std::isnan(a[0].f) || std::isnan(a[1].f)) return Scalar{d, a[0].f + a[1].f, 0};
  if (a[0].f == a[1].f) return std::signbit(a[0].f) ? a[0] : a[1];
  return a[0].f < a[1].f ? a[0] : a[1];
}

Scalar rem(DType d, Args a) {
  if (is_float(d)) return Scalar::of(d, std::fmod(a[0].f, a[1].f));
  if (is_unsigned(d)) return whole(d, a, true);
  return Scalar::of_int(d, a[1].i == 0 || a[1].i == -1 ? 0 : a[0].i % a[1].i);
}
Scalar atan2_(DType d, Args a) { return Scalar::of(d, std::atan2(a[0].f, a[1].f)); }
Scalar bit_and_(DType d, Args a) { return Scalar::of_int(d, a[0].i & a[1].i); }
Scalar bit_or_(DType d, Args a) { return Scalar::of_int(d, a[0].i | a[1].i); }
Scalar bit_xor_(DType d, Args a) { return Scalar::of_int(d, a[0].i ^ a[1].i); }
bool shifts_out(DType d, int64_t by) { return by < 0 || by >= 8 * size_of(d); }
Scalar shift_left(DType d, Args a) { return Scalar::of_int(d, shifts_out(d, a[1].i) ? 0 : static_cast<int64_t>(static_cast<uint64_t>(a[0].i) << a[1].i)); }
Scalar shift_right_logical(DType d, Args a) {
  const uint64_t bits = static_cast<uint64_t>(a[0].i) & (~uint64_t{0} >> (64 - 8 * size_of(d)));
  return Scalar::of_int(d, shifts_out(d, a[1].i) ? 0 : static_cast<int64_t>(bits >> a[1].i));
}
Scalar shift_right_arithmetic(DType d, Args a) {
  if (is_unsigned(d)) return shift_right_logical(d, a);
  return Scalar::of_int(d, a[0].i >> (shifts_out(d, a[1].i) ? 63 : a[1].i));
}

// --- derivatives: x, y the arguments, r the result, g the cotangent ---
using Nodes = std::vector<NodeId>;
Nodes vjp_neg(GraphBuilder& b, NodeId, NodeId g) { return {b.add(Op::neg, {g})}; }
Nodes vjp_abs(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::sign, v.arg(0)))}; }
Nodes vjp_exp(GraphBuilder& b, NodeId n, NodeId g) { return {b.add(Op::mul, {g, n})}; }
Nodes vjp_log(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.op(Op::div, g, v.arg(0))}; }
Nodes vjp_tanh(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::sub, v.number(1), v.times(n, n)))}; }
Nodes vjp_erf(GraphBuilder& b, NodeId n, NodeId g) {   // 2/sqrt(pi) exp(-x^2)
  Vjp v{b, n, g};
  const NodeId e = v.op(Op::exp, v.op(Op::neg, v.times(v.arg(0), v.arg(0))));
  return {v.times(g, v.times(v.number(1.1283791670955126), e))};
}
Nodes vjp_sqrt(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.op(Op::div, v.times(g, v.number(0.5)), n)}; }
Nodes vjp_rsqrt(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  return {v.times(g, v.times(v.number(-0.5), v.times(n, v.times(n, n))))};
}
Nodes vjp_sin(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::cos, v.arg(0)))}; }
Nodes vjp_cos(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.op(Op::neg, v.times(g, v.op(Op::sin, v.arg(0))))}; }
Nodes vjp_add(GraphBuilder&, NodeId, NodeId g) { return {g, g}; }
Nodes vjp_sub(GraphBuilder& b, NodeId, NodeId g) { return {g, planted(Fault::adjoint_sign) ? g : b.add(Op::neg, {g})}; }
Nodes vjp_mul(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.arg(1)), v.times(g, v.arg(0))}; }
Nodes vjp_div(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  const NodeId gx = v.op(Op::div, g, v.arg(1));
  return {gx, v.op(Op::neg, v.times(gx, n))};
}
Nodes vjp_mod(GraphBuilder& b, NodeId n, NodeId g) {   // a - floor(a/b) b
  Vjp v{b, n, g};
  return {g, v.op(Op::neg, v.times(g, v.op(Op::floor, v.op(Op::div, v.arg(0), v.arg(1)))))};
}
// x^y: y x^(y-1), and x^y log x, taken as 0 where x is not positive (no real derivative in y there).
Nodes vjp_pow(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  const NodeId x = v.arg(0), y = v.arg(1), zero = v.number(0);
  const NodeId power = v.op(Op::pow, x, v.op(Op::sub, y, v.number(1)));
  const NodeId gx = b.add(Op::select, {v.op(Op::eq, y, zero), zero, v.times(g, v.times(y, power))});
  const NodeId positive = v.op(Op::lt, zero, x);
  const NodeId safe = b.add(Op::select, {positive, x, v.number(1)});
  const NodeId gy = b.add(Op::select, {positive, v.times(g, v.times(n, v.op(Op::log, safe))), zero});
  return {gx, gy};
}
// The winner takes all, equals share evenly. The operands are compared, not one with the result: rounded at other places it is neither.
Nodes vjp_extreme(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  const NodeId x = v.arg(0), y = v.arg(1), zero = v.number(0), half = v.times(g, v.number(0.5)), tie = v.op(Op::eq, x, y);
  const bool max = b.graph().at(n).op == Op::max;
  const auto share = [&](NodeId mine, NodeId other) {
    const NodeId wins = max ? v.op(Op::lt, other, mine) : v.op(Op::lt, mine, other);
    return b.add(Op::select, {tie, half, b.add(Op::select, {wins, g, zero})});
  };
  return {share(x, y), share(y, x)};
}

// The derivatives 1 + x^2, (1-x)(1+x) … of the inverse functions, each to the power -1 or -1/2.
NodeId one_less_square(const Vjp& v) { return v.times(v.op(Op::sub, v.number(1), v.arg(0)), v.op(Op::add, v.number(1), v.arg(0))); }
Nodes vjp_expm1(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::add, n, v.number(1)))}; }
Nodes vjp_log1p(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.op(Op::div, g, v.op(Op::add, v.arg(0), v.number(1)))}; }
Nodes vjp_tan(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::add, v.times(n, n), v.number(1)))}; }
Nodes vjp_asin(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::rsqrt, one_less_square(v)))}; }
Nodes vjp_acos(GraphBuilder& b, NodeId n, NodeId g) { return {b.add(Op::neg, vjp_asin(b, n, g))}; }
Nodes vjp_sinh(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::cosh, v.arg(0)))}; }
Nodes vjp_cosh(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.times(g, v.op(Op::sinh, v.arg(0)))}; }
Nodes vjp_asinh(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  return {v.times(g, v.op(Op::rsqrt, v.op(Op::add, v.times(v.arg(0), v.arg(0)), v.number(1))))};
}
Nodes vjp_acosh(GraphBuilder& b, NodeId n, NodeId g) {
  Vjp v{b, n, g};
  return {v.times(g, v.op(Op::rsqrt, v.times(v.op(Op::sub, v.arg(0), v.number(1)), v.op(Op::add, v.arg(0), v.number(1)))))};
}
Nodes vjp_atanh(GraphBuilder& b, NodeId n, NodeId g) { Vjp v{b, n, g}; return {v.op(Op::div, g, one_less_square(v))}; }
Nodes vjp_atan2(GraphBuilder& b, NodeId n, NodeId g) {   // of y, x: (x, -y)/(x^2 + y^2)
  Vjp v{b, n, g};
  const NodeId y = v.arg(0), x = v.arg(1), share = v.op(Op::div, g, v.op(Op::add, v.times(x, x), v.times(y, y)));
  return {v.times(share, x), planted(Fault::adjoint_of_atan2) ? v.times(share, y) : v.op(Op::neg, v.times(share, y))};
}
Nodes vjp_rem(GraphBuilder& b, NodeId n, NodeId g) {   // x - trunc(x/y) y
  Vjp v{b, n, g};
  const NodeId q = v.op(Op::div, v.arg(0), v.arg(1)), whole = v.times(v.op(Op::sign, q), v.op(Op::floor, v.op(Op::abs, q)));
  return {g, v.op(Op::neg, v.times(g, whole))};
}

bool computes(DType d) { return is_float(d) || is_integer(d); }
std::vector<Sample> any_unary(DType d) { return !computes(d) ? std::vector<Sample>{} : elementwise_samples(d, 1, -3, 3); }
std::vector<Sample> any_binary(DType d) { return !computes(d) ? std::vector<Sample>{} : wide_samples(d, 2, -3, 3); }
std::vector<Sample> positive_binary(DType d) { return !computes(d) ? std::vector<Sample>{} : is_float(d) ? elementwise_samples(d, 2, 0.5, 3) : wide_samples(d, 2, 0.5, 3); }

std::vector<Sample> unit_unary(DType d) { return is_float(d) ? elementwise_samples(d, 1, -0.9, 0.9) : std::vector<Sample>{}; }   // asin' is infinite at 1
std::vector<Sample> rem_samples(DType d) { return !computes(d) ? std::vector<Sample>{} : wide_samples(d, 2, is_float(d) ? 0.5 : -4, 4); }
std::vector<Sample> atan2_samples(DType d) { return is_float(d) ? elementwise_samples(d, 2, 0.25, 3) : std::vector<Sample>{}; }   // away from the origin
std::vector<Sample> integer_binary(DType d) { return is_integer(d) ? wide_samples(d, 2, -3, 3) : std::vector<Sample>{}; }
std::vector<Sample> shift_samples(DType d) {   // every count from below 0 to past the width, then any
  if (!is_integer(d)) return {};
  std::vector<Sample> out = elementwise_samples(d, 2, -3, 70);
  out.push_back(wide_samples(d, 2, 0, 0).back());
  return out;
}

}  // namespace

Type infer_unary_float(const InferContext& c) { return infer_any(c, 1, false); }

std::vector<OpDef> elementwise_ops() {
  return {
      define(Op::neg, "neg", "-x", infer_unary, eval_map, vjp_neg, Map{neg}, any_unary),
      define(Op::abs, "abs", "|x|", infer_unary, eval_map, vjp_abs, Map{abs_}, any_unary),
      define(Op::sign, "sign", "-1, 0 or 1; keeps ±0 and NaN", infer_unary, eval_map, no_gradient, Map{sign}, any_unary),
      define(Op::floor, "floor", "greatest integer <= x", infer_unary_float, eval_map, no_gradient, Map{unary<std::floor>}, float_samples<-12, 12>),
      define(Op::exp, "exp", "e^x", infer_unary_float, eval_map, vjp_exp, Map{unary<std::exp>}, float_samples<-12, 12>),
      define(Op::log, "log", "natural logarithm", infer_unary_float, eval_map, vjp_log, Map{unary<std::log>}, float_samples<1, 16>),
      define(Op::tanh, "tanh", "hyperbolic tangent", infer_unary_float, eval_map, vjp_tanh, Map{unary<std::tanh>}, float_samples<-12, 12>),
      define(Op::erf, "erf", "error function", infer_unary_float, eval_map, vjp_erf, Map{unary<std::erf>}, float_samples<-12, 12>),
      define(Op::sqrt, "sqrt", "square root", infer_unary_float, eval_map, vjp_sqrt, Map{unary<std::sqrt>}, float_samples<1, 16>),
      define(Op::rsqrt, "rsqrt", "1/sqrt(x)", infer_unary_float, eval_map, vjp_rsqrt, Map{unary<rsqrt_of>}, float_samples<1, 16>),
      define(Op::sin, "sin", "sine, x in radians", infer_unary_float, eval_map, vjp_sin, Map{unary<std::sin>}, float_samples<-12, 12>),
      define(Op::cos, "cos", "cosine, x in radians", infer_unary_float, eval_map, vjp_cos, Map{unary<std::cos>}, float_samples<-12, 12>),
      define(Op::expm1, "expm1", "e^x - 1", infer_unary_float, eval_map, vjp_expm1, Map{unary<std::expm1>}, float_samples<-12, 12>),
      define(Op::log1p, "log1p", "log(1 + x)", infer_unary_float, eval_map, vjp_log1p, Map{unary<std::log1p>}, float_samples<-3, 16>),
      define(Op::tan, "tan", "tangent, x in radians", infer_unary_float, eval_map, vjp_tan, Map{unary<std::tan>}, float_samples<-5, 5>),
      define(Op::asin, "asin", "arc sine, in [-pi/2, pi/2]", infer_unary_float, eval_map, vjp_asin, Map{unary<std::asin>}, unit_unary),
      define(Op::acos, "acos", "arc cosine, in [0, pi]", infer_unary_float, eval_map, vjp_acos, Map{unary<std::acos>}, unit_unary),
      define(Op::sinh, "sinh", "hyperbolic sine", infer_unary_float, eval_map, vjp_sinh, Map{unary<std::sinh>}, float_samples<-12, 12>),
      define(Op::cosh, "cosh", "hyperbolic cosine", infer_unary_float, eval_map, vjp_cosh, Map{unary<std::cosh>}, float_samples<-12, 12>),
      define(Op::asinh, "asinh", "inverse of sinh", infer_unary_float, eval_map, vjp_asinh, Map{unary<std::asinh>}, float_samples<-12, 12>),
      define(Op::acosh, "acosh", "inverse of cosh, x >= 1", infer_unary_float, eval_map, vjp_acosh, Map{unary<std::acosh>}, float_samples<5, 16>),
      define(Op::atanh, "atanh", "inverse of tanh, |x| <= 1", infer_unary_float, eval_map, vjp_atanh, Map{unary<std::atanh>}, unit_unary),
      define(Op::round, "round", "nearest integer, ties to even", infer_unary_float, eval_map, no_gradient, Map{unary<std::nearbyint>}, float_samples<-14, 14>),
      define(Op::add, "add", "x + y", infer_binary, eval_map, vjp_add, Map{add}, any_binary),
      define(Op::sub, "sub", "x - y", infer_binary, eval_map, vjp_sub, Map{sub}, any_binary),
      define(Op::mul, "mul", "x * y", infer_binary, eval_map, vjp_mul, Map{mul}, any_binary),
      define(Op::div, "div", "x / y; floor division for integers", infer_binary, eval_map, vjp_div, Map{div}, positive_binary),
      define(Op::mod, "mod", "x - floor(x/y)*y", infer_binary, eval_map, vjp_mod, Map{mod}, positive_binary),
      define(Op::pow, "pow", "x^y", infer_binary, eval_map, vjp_pow, Map{pow_}, positive_binary),
      define(Op::max, "max", "greater of x and y; NaN if either is", infer_binary, eval_map, vjp_extreme, Map{max_}, any_binary),
      define(Op::min, "min", "lesser of x and y; NaN if either is", infer_binary, eval_map, vjp_extreme, Map{min_}, any_binary),
      define(Op::rem, "rem", "x - trunc(x/y)*y", infer_binary, eval_map, vjp_rem, Map{rem}, rem_samples),
      define(Op::atan2, "atan2", "angle of the point whose height is the first argument, in [-pi, pi]", infer_binary_float, eval_map, vjp_atan2, Map{atan2_}, atan2_samples),
      define(Op::bit_and, "bit_and", "x & y, bit by bit", infer_binary_integer, eval_map, no_gradient, Map{bit_and_}, integer_binary),
      define(Op::bit_or, "bit_or", "x | y, bit by bit", infer_binary_integer, eval_map, no_gradient, Map{bit_or_}, integer_binary),
      define(Op::bit_xor, "bit_xor", "x ^ y, bit by bit", infer_binary_integer, eval_map, no_gradient, Map{bit_xor_}, integer_binary),
      define(Op::shift_left, "shift_left", "x << y; 0 where y < 0 or y >= width", infer_binary_integer, eval_map, no_gradient, Map{shift_left}, shift_samples),
      define(Op::shift_right_logical, "shift_right_logical", "x >> y, zeros from the left; 0 where y < 0 or y >= width", infer_binary_integer, eval_map, no_gradient, Map{shift_right_logical}, shift_samples),
      define(Op::shift_right_arithmetic, "shift_right_arithmetic", "x >> y, the sign from the left; only that where y < 0 or y >= width", infer_binary_integer, eval_map, no_gradient, Map{shift_right_arithmetic}, shift_samples),
  };
}

}  // namespace quern
