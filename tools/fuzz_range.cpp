// See fuzz_range.h.
#include "tools/fuzz_range.h"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

struct Interval {
  double low, high;
  double most() const { return std::max(std::fabs(low), std::fabs(high)); }
};
Interval of(const Known& k) { return {k.low, k.high}; }
Interval with(Interval a, Interval b) { return {std::min(a.low, b.low), std::max(a.high, b.high)}; }
Interval times(Interval a, Interval b) {
  const auto [low, high] = std::minmax({a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high});
  return {low, high};
}
Interval sum_of(Interval a, double n) { return {n * a.low, n * a.high}; }
Interval product_of(Interval a, double n) {
  const double most = std::pow(a.most(), n);
  return a.low >= 0 ? Interval{std::pow(a.low, n), most} : Interval{-most, most};
}

// On a grid in f64: the interval of the results, and of each argument the steepest slope.
Interval on_grid(const Node& node, std::span<const Known> args, std::vector<double>& slopes) {
  const size_t n = args.size();
  const int64_t side = n == 1 ? 65 : 13, size = n == 1 ? side : side * side;
  std::vector<HostTensor> values(n, HostTensor(DType::f64, {size}));
  const auto at = [&](size_t a, int64_t i) { return args[a].low + (args[a].high - args[a].low) * static_cast<double>((a ? i / side : i % side)) / static_cast<double>(side - 1); };
  std::vector<const HostTensor*> given;
  for (size_t a = 0; a < n; ++a) {
    for (int64_t i = 0; i < size; ++i) values[a].set(i, Scalar::of(DType::f64, at(a, i)));
    given.push_back(&values[a]);
  }
  Node as_f64 = node;
  as_f64.type = {DType::f64, {size}, {}};
  const HostTensor out = def_of(node.op).eval(as_f64, given);
  Interval range{INFINITY, -INFINITY};
  slopes.assign(n, 0);
  for (int64_t i = 0; i < size; ++i) {
    const double y = out.at(i);
    if (!std::isfinite(y)) return {-INFINITY, INFINITY};
    range = with(range, {y, y});
    for (size_t a = 0; a < n; ++a) {
      const int64_t next = i + (a ? side : 1);
      if ((a ? i / side : i % side) + 1 == side) continue;
      const double dx = at(a, next) - at(a, i);
      if (dx > 0) slopes[a] = std::max(slopes[a], std::fabs(out.at(next) - y) / dx);
    }
  }
  return range;
}

bool rounds(const Node& n) {
  switch (n.op) {
    case Op::neg: case Op::abs: case Op::sign: case Op::floor: case Op::round: case Op::max: case Op::min: case Op::select: case Op::reduce_max: case Op::reduce_min:
    case Op::cumulate_max: case Op::cumulate_min: return false;
    default: return !means<View>(n.op) && !means<Take>(n.op) && !means<Source>(n.op);
  }
}

}  // namespace

double Known::most() const { return std::max(std::fabs(low), std::fabs(high)); }
bool Known::bounded() const { return std::isfinite(low) && std::isfinite(high); }

Known any_of(DType dtype) {
  if (dtype == DType::boolean) return {true, 0, 1};
  if (is_float(dtype) || is_f8(dtype)) return {true, -INFINITY, INFINITY};
  const double most = std::ldexp(1.0, static_cast<int>(bits_of(dtype)) - (is_unsigned(dtype) ? 0 : 1));
  return {true, is_unsigned(dtype) ? 0 : -most, most};
}

bool exact_op(const Node& n) {
  if (!is_float(n.type.dtype)) return true;
  return !rounds(n) || n.op == Op::rem || n.op == Op::add || n.op == Op::sub || n.op == Op::mul || n.op == Op::cast || n.op == Op::bitcast;
}

Known known_of(const Graph& graph, const Node& node, std::span<const Known> args) {
  const DType dtype = node.type.dtype;
  const auto type = [&](size_t a) -> const Type& { return graph.type(node.args[a]); };
  Known out = any_of(dtype);
  out.epsilon = epsilon_of(dtype);
  for (const Known& a : args) {
    out.exact = out.exact && a.exact;
    out.epsilon = std::max(out.epsilon, a.epsilon);
    out.depth = std::max(out.depth, a.depth);
  }
  out.exact = out.exact && exact_op(node);
  out.depth += !means<View>(node.op);
  Interval r = of(out);
  double error = 0;
  const auto elements = [&](size_t a) {   // of an argument along attrs.axes
    int64_t n = 1;
    for (int64_t d : node.attrs.axes) n = checked_mul(n, type(a).shape[static_cast<size_t>(d)]);
    return static_cast<double>(n);
  };
  const bool known = std::all_of(args.begin(), args.end(), [](const Known& a) { return a.bounded(); });
  if (node.op == Op::bitcast) {   // any bits
  } else if (node.op == Op::iota || node.op == Op::extent) {
    r = {0, static_cast<double>(std::max<int64_t>(node.type.size(), count(node.attrs.shape)))};
  } else if (node.op == Op::argmax || node.op == Op::argsort) {
    r = {0, elements(0)};
  } else if (dtype == DType::boolean || node.op == Op::random || args.empty() || !known) {
  } else if (node.op == Op::select) {
    r = with(of(args[1]), of(args[2]));
    error = std::max(args[1].error, args[2].error);
  } else if (node.op == Op::cast) {
    r = of(args[0]);
    if (!is_float(dtype)) r = {std::floor(r.low), std::ceil(r.high)};
    error = args[0].error;
  } else if (means<View>(node.op)) {
    r = of(args[0]);
    for (const Known& a : args) r = with(r, of(a)), error = std::max(error, a.error);
  } else if (means<Take>(node.op)) {
    r = with(of(args[0]), {0, 0});
    error = args[0].error;
  } else if (means<PutAdd>(node.op)) {
    const double n = static_cast<double>(type(1).size());
    const Interval all = sum_of(of(args[2]), n);
    r = {args[0].low + std::min(0.0, all.low), args[0].high + std::max(0.0, all.high)};
    error = args[0].error + std::sqrt(n) * (args[2].error + epsilon_of(dtype) * args[2].most());
  } else if (means<Contract>(node.op) || node.op == Op::convolve) {
    const ContractSpec spec = parse_contract(node.attrs.spec);
    double n = 1;
    const bool convolves = node.op == Op::convolve;
    const std::string& letters = convolves ? spec.rhs : spec.lhs;
    const Shape& shape = type(convolves ? 1 : 0).shape;
    for (size_t d = 0; d < shape.size(); ++d)
      if (d >= letters.size() || spec.out.find(letters[d]) == std::string::npos) n *= static_cast<double>(shape[d]);
    r = sum_of(times(of(args[0]), of(args[1])), n);
    if (convolves) r = with(r, {0, 0});
    error = std::sqrt(n) * (args[0].error * args[1].most() + args[1].error * args[0].most() + epsilon_of(dtype) * args[0].most() * args[1].most());
  } else if (means<Reduce>(node.op) || means<Cumulate>(node.op)) {
    const bool every = means<Cumulate>(node.op);   // from one element, or none, on
    const double n = elements(0);
    const Op combine = every ? std::get<Cumulate>(def_of(node.op).meaning).combine : std::get<Reduce>(def_of(node.op).meaning).combine;
    const Interval x = of(args[0]);
    const bool none = n == 0 || (every && node.attrs.spec.find("exclusive") != std::string::npos);
    error = args[0].error;
    if (combine == Op::add) {
      r = sum_of(x, n);
      if (every) r = with(r, with({0, 0}, x));
      error = std::sqrt(n) * (error + epsilon_of(dtype) * x.most());
    } else if (combine == Op::mul) {
      r = product_of(x, n);
      if (every) r = with(r, with({1, 1}, x));
      error = n * std::pow(std::max(1.0, x.most()), std::max(0.0, n - 1)) * (error + epsilon_of(dtype));
    } else if (!none) {
      r = x;
    }
  } else if (args.size() <= 2 && (is_float(dtype) || node.op == Op::neg || node.op == Op::abs || node.op == Op::sign || node.op == Op::add || node.op == Op::sub || node.op == Op::mul || node.op == Op::max || node.op == Op::min)) {
    std::vector<double> slopes;
    r = on_grid(node, args, slopes);
    for (size_t a = 0; a < args.size(); ++a) error += slopes[a] * args[a].error;
  }
  if (!is_float(dtype) && !is_f8(dtype) && (r.low < out.low || r.high > out.high)) r = of(out);   // it may wrap
  out.low = r.low, out.high = r.high;
  const bool simple = node.op == Op::add || node.op == Op::sub || node.op == Op::mul || node.op == Op::div || node.op == Op::sqrt || node.op == Op::cast;
  out.error = out.exact || !is_float(dtype) ? 0 : error + (rounds(node) ? (simple ? 1 : 3) * epsilon_of(dtype) * std::max(out.most(), 1e-3) : 0);
  return out;
}

}  // namespace quern
