// Running sums, products, maxima and minima along an axis: every partial result of a reduction. Derivatives of all but
// the sum come from a linear recurrence that runs backwards, written as log2(n) steps of doubling reach.
#include <array>

#include "ir/ops/define.h"

namespace quern {

std::optional<CumulateSpec> parse_cumulate(const std::string& spec) {
  if (spec.empty()) return CumulateSpec{};
  if (spec == "exclusive") return CumulateSpec{true, false};
  if (spec == "reverse") return CumulateSpec{false, true};
  if (spec == "exclusive,reverse") return CumulateSpec{true, true};
  return std::nullopt;
}

namespace {

Type infer_cumulate(const InferContext& c) {
  want_args(c, 1);
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "axes=[0], say");
  want_axes(c, c.attrs.axes, c.args[0].rank());
  c.want(parse_cumulate(c.attrs.spec).has_value(), Code::attribute_missing, "`" + c.attrs.spec + "` is no spec of it", "nothing, exclusive, reverse or exclusive,reverse");
  want_arithmetic(c);
  c.want(c.args[0].dtype != DType::boolean, Code::dtype_unsupported, "is not defined for bool", "cast to i32 first");
  return c.args[0];
}

// Accumulates in f64 (integers in i64 or u64, wrapping at every step's rounding alone).
HostTensor eval_cumulate(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor& x = *args[0];
  const Op combine = std::get<Cumulate>(def_of(node.op).meaning).combine;
  const CumulateSpec spec = *parse_cumulate(node.attrs.spec);
  const DType dtype = x.dtype, wide = is_float(dtype) ? DType::f64 : is_unsigned(dtype) ? DType::u64 : DType::i64;
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  const int64_t n = x.shape[axis], stride = row_major(x.shape)[axis];
  HostTensor out(dtype, x.shape);
  Shape rows = x.shape;
  rows[axis] = n ? 1 : 0;
  for_each_index(rows, [&](const Shape& row) {
    const int64_t base = position(row, row_major(x.shape));
    Scalar sum = identity_of(combine, dtype);
    sum.dtype = wide;
    for (int64_t step = 0; step < n; ++step) {
      const int64_t at = base + (spec.reverse ? n - 1 - step : step) * stride;
      Scalar v = x.get(at);
      v.dtype = wide;
      const Scalar before = sum;
      sum = apply_scalar(combine, wide, std::array{sum, v});
      const Scalar& y = spec.exclusive ? before : sum;
      out.set(at, is_float(dtype) ? Scalar::of(dtype, y.f) : Scalar::of_int(dtype, y.i));
    }
  });
  return out;
}

// --- derivatives ---
NodeId along(GraphBuilder& b, Op op, NodeId x, int64_t axis, const char* spec = "") {
  Attrs attrs;
  attrs.axes = {axis};
  attrs.spec = spec;
  return b.add(op, {x}, attrs);
}
// x[i + by], and `fill` past the end.
NodeId ahead(GraphBuilder& b, NodeId x, int64_t axis, int64_t by, double fill) {
  const Shape shape = b.type(x).shape;
  const size_t d = static_cast<size_t>(axis);
  Attrs slice, pad;
  slice.start = pad.low = pad.high = Shape(shape.size(), 0);
  slice.stride = Shape(shape.size(), 1);
  slice.limit = shape;
  slice.start[d] = pad.high[d] = by;
  return b.add(Op::pad, {b.add(Op::slice, {x}, slice), b.scalar(b.type(x).dtype, fill)}, pad);
}
// s[i] = g[i] + a[i] s[i+1]. After k steps s[i] has what reaches it from less than 2^k places away, and a[i] is the
// product of as many.
NodeId recurrence(GraphBuilder& b, NodeId a, NodeId g, int64_t axis) {
  NodeId s = g;
  for (int64_t reach = 1, n = b.type(g).shape[static_cast<size_t>(axis)]; reach < n; reach *= 2) {
    s = b.add(Op::add, {s, b.add(Op::mul, {a, ahead(b, s, axis, reach, 0)})});
    if (2 * reach < n) a = b.add(Op::mul, {a, ahead(b, a, axis, reach, 0)});
  }
  return s;
}

std::vector<NodeId> vjp_sum(GraphBuilder& b, NodeId n, NodeId g) {
  const Attrs attrs = b.graph().at(n).attrs;
  const CumulateSpec spec = *parse_cumulate(attrs.spec);
  return {along(b, Op::cumulate_sum, g, attrs.axes[0], spec.exclusive ? (spec.reverse ? "exclusive" : "exclusive,reverse") : spec.reverse ? "" : "reverse")};
}

// Of the others, walked forwards and with g[i] the cotangent of what includes x[i]; `rule` gives that of x.
template <class Rule>
std::vector<NodeId> forwards(GraphBuilder& b, NodeId n, NodeId g, Rule&& rule) {
  const Node node = b.graph().at(n);
  const CumulateSpec spec = *parse_cumulate(node.attrs.spec);
  const int64_t axis = node.attrs.axes[0];
  NodeId x = node.args[0];
  if (b.type(x).size() == 0) return {zeros_like(b, x)};
  if (spec.reverse) x = along(b, Op::reverse, x, axis), g = along(b, Op::reverse, g, axis);
  if (spec.exclusive) g = ahead(b, g, axis, 1, 0);
  const NodeId out = rule(x, g, axis);
  return {spec.reverse ? along(b, Op::reverse, out, axis) : out};
}
// d x[j] = (product before j) s[j], s[j] = g[j] + x[j+1] s[j+1]: no division, so zeros are like other numbers.
std::vector<NodeId> vjp_prod(GraphBuilder& b, NodeId n, NodeId g) {
  return forwards(b, n, g, [&](NodeId x, NodeId u, int64_t axis) {
    return b.add(Op::mul, {along(b, Op::cumulate_prod, x, axis, "exclusive"), recurrence(b, ahead(b, x, axis, 1, 0), u, axis)});
  });
}
// An element that beats all before it (or is the first of all, or the first NaN) collects the cotangents up to the next.
std::vector<NodeId> vjp_extreme(GraphBuilder& b, NodeId n, NodeId g) {
  const Op op = b.graph().at(n).op;
  return forwards(b, n, g, [&](NodeId x, NodeId u, int64_t axis) {
    const Type type = b.type(x);
    Attrs coordinate;
    coordinate.axes = {axis};
    coordinate.shape = type.shape;
    coordinate.dtype = {DType::i64};
    const NodeId before = along(b, op, x, axis, "exclusive"), zero = zeros_like(b, x);
    const NodeId first = b.add(Op::eq, {b.add(Op::iota, {}, coordinate), b.full({DType::i64, type.shape, {}}, 0)});
    const NodeId beats = b.add(Op::lt, op == Op::cumulate_max ? std::vector{before, x} : std::vector{x, before});
    const NodeId nan = b.add(Op::logical_and, {b.add(Op::ne, {x, x}), b.add(Op::eq, {before, before})});
    const NodeId wins = b.add(Op::logical_or, {first, b.add(Op::logical_or, {beats, nan})});
    const NodeId passes_on = b.add(Op::select, {wins, zero, b.full(type, 1)});   // what comes to i goes on to i - 1
    return b.add(Op::select, {wins, recurrence(b, ahead(b, passes_on, axis, 1, 0), u, axis), zero});
  });
}

std::vector<Sample> cumulate_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  const auto sample = [&](Shape shape, int64_t axis, const char* spec = "") {
    Sample s{{{d, std::move(shape), {}}}, {}, -2, 2};
    s.attrs.axes = {axis};
    s.attrs.spec = spec;
    return s;
  };
  std::vector<Sample> out = {sample({7}, 0), sample({3, 5}, 1, "reverse"), sample({3, 5}, 0, "exclusive"), sample({2, 3, 33}, 1, "exclusive,reverse"), sample({0, 3}, 0), sample({4, 0}, 1),
                             sample({1}, 0, "exclusive"), sample({5, 1}, 1), sample({3, 70}, 1), sample({40, 37}, 0, "reverse")};
  if (d == DType::bf16 || d == DType::f16) {   // a sum that would stop growing in its own dtype
    out.push_back(sample({3000}, 0));
    out.back().low = 0.5;
    out.back().high = 1;
  }
  return out;
}
std::vector<Sample> extreme_samples(DType d) {   // the identities of exclusive ones have no place in small sums
  std::vector<Sample> out = cumulate_samples(d);
  for (Sample& s : out) {
    const bool large = s.args[0].size() > 1000;
    s.attrs.spec = large && s.args[0].rank() == 2 ? "exclusive,reverse" : parse_cumulate(s.attrs.spec)->reverse ? "reverse" : "";
  }
  return out;
}
std::vector<Sample> prod_samples(DType d) {
  std::vector<Sample> out = cumulate_samples(d);
  std::erase_if(out, [](const Sample& s) { return s.args[0].size() > 1500; });
  for (Sample& s : out) s.low = 0.8, s.high = 1.25;
  return out;
}

OpDef cumulate(Op op, std::string_view name, std::string_view doc, VjpFn vjp, Op combine, SamplesFn samples) {
  return define(op, name, doc, infer_cumulate, eval_cumulate, vjp, Cumulate{combine}, samples);
}

}  // namespace

std::vector<OpDef> cumulate_ops() {
  return {
      cumulate(Op::cumulate_sum, "cumulate_sum", "running sum along an axis", vjp_sum, Op::add, cumulate_samples),
      cumulate(Op::cumulate_max, "cumulate_max", "running maximum along an axis", vjp_extreme, Op::max, extreme_samples),
      cumulate(Op::cumulate_min, "cumulate_min", "running minimum along an axis", vjp_extreme, Op::min, extreme_samples),
      cumulate(Op::cumulate_prod, "cumulate_prod", "running product along an axis", vjp_prod, Op::mul, prod_samples),
  };
}

}  // namespace quern
