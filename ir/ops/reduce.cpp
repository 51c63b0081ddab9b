// Reductions over axes, and argmax as a composition of them.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "ir/ops/define.h"
#include "ir/support/fault.h"

namespace quern {
namespace {

Shape without(const Shape& shape, const Shape& axes) {
  Shape out;
  for (size_t d = 0; d < shape.size(); ++d)
    if (std::find(axes.begin(), axes.end(), static_cast<int64_t>(d)) == axes.end()) out.push_back(shape[d]);
  return out;
}
Shape kept_axes(int64_t rank, const Shape& axes) {
  Shape out;
  for (int64_t d = 0; d < rank; ++d)
    if (std::find(axes.begin(), axes.end(), d) == axes.end()) out.push_back(d);
  return out;
}

Type infer_reduce(const InferContext& c) {
  want_args(c, 1);
  want_axes(c, c.attrs.axes, c.args[0].rank());
  want_arithmetic(c);
  c.want(c.args[0].dtype != DType::boolean, Code::dtype_unsupported, "is not defined for bool", "cast to i32 first");
  return {c.args[0].dtype, without(c.args[0].shape, c.attrs.axes), {}};
}
Type infer_argmax(const InferContext& c) {
  Type t = infer_reduce(c);
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "reshape to join axes");
  c.want(c.args[0].shape[static_cast<size_t>(c.attrs.axes[0])] > 0, Code::empty_axis, "of an empty axis does not exist", "choose an axis of at least one element");
  t.dtype = DType::i64;
  return t;
}

// Accumulates in f64 (integers in i64 or u64, wrapping at the end).
HostTensor eval_reduce(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor& x = *args[0];
  const Op combine = std::get<Reduce>(def_of(node.op).meaning).combine;
  const Shape kept = kept_axes(static_cast<int64_t>(x.shape.size()), node.attrs.axes);
  const DType wide = is_float(x.dtype) ? DType::f64 : is_unsigned(x.dtype) ? DType::u64 : DType::i64;
  Scalar initial = identity_of(combine, x.dtype);
  initial.dtype = wide;
  HostTensor out(node.type.dtype, node.type.shape);
  const Shape strides = row_major(out.shape);
  std::vector<Scalar> acc(static_cast<size_t>(out.size()), initial);
  int64_t i = 0;
  for_each_index(x.shape, [&](const Shape& index) {
    int64_t p = 0;
    for (size_t d = 0; d < kept.size(); ++d) p += index[static_cast<size_t>(kept[d])] * strides[d];
    Scalar v = x.get(i++);
    v.dtype = wide;
    acc[static_cast<size_t>(p)] = apply_scalar(combine, wide, std::array{acc[static_cast<size_t>(p)], v});
  });
  for (size_t p = 0; p < acc.size(); ++p)
    out.set(static_cast<int64_t>(p), wide == DType::f64 ? Scalar::of(out.dtype, acc[p].f) : Scalar::of_int(out.dtype, acc[p].i));
  return out;
}

HostTensor eval_argmax(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor& x = *args[0];
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  HostTensor out(DType::i64, node.type.shape);
  const Shape strides = row_major(x.shape);
  int64_t p = 0;
  for_each_index(out.shape, [&](const Shape& index) {
    Shape at = index;
    at.insert(at.begin() + static_cast<int64_t>(axis), 0);
    const int64_t base = position(at, strides);
    int64_t best = 0;
    for (int64_t k = 0; k < x.shape[axis]; ++k) {
      const Scalar v = x.get(base + k * strides[axis]), w = x.get(base + best * strides[axis]);
      if (is_float(x.dtype) ? !std::isnan(w.f) && (std::isnan(v.f) || v.f > w.f) : below(w, v)) best = k;
    }
    out.set(p++, Scalar::of_int(DType::i64, best));
  });
  return out;
}

// min over k of (x[k] equals the maximum, or x[k] is NaN) ? k : extent.
NodeId build_argmax(GraphBuilder& b, const Node& node, std::span<const NodeId> args) {
  const NodeId x = args[0];
  const Type type = b.type(x);
  const Shape axes = node.attrs.axes, kept = kept_axes(type.rank(), axes);
  const NodeId best = broadcast_to(b, reduce_to(b, Op::reduce_max, x, axes), kept, type.shape);
  NodeId hit = b.add(Op::eq, {x, best});
  if (is_float(type.dtype)) hit = b.add(Op::logical_or, {hit, b.add(Op::ne, {x, x})});
  Attrs iota;
  iota.axes = axes;
  iota.shape = type.shape;
  iota.dtype = {DType::i64};
  const NodeId k = b.add(Op::iota, {}, iota);
  const NodeId none = b.full({DType::i64, type.shape, {}}, static_cast<double>(type.shape[static_cast<size_t>(axes[0])]));
  return reduce_to(b, Op::reduce_min, b.add(Op::select, {hit, k, none}), axes);
}

NodeId spread(GraphBuilder& b, NodeId reduced, NodeId node) {
  const Node& n = b.graph().at(node);
  const Shape shape = b.type(n.args[0]).shape;
  return broadcast_to(b, reduced, kept_axes(static_cast<int64_t>(shape.size()), n.attrs.axes), shape);
}
std::vector<NodeId> vjp_sum(GraphBuilder& b, NodeId n, NodeId g) { return {spread(b, g, n)}; }
// Every element that equals the extreme gets an equal share. An empty sum of such would be 0/0 in forward mode.
std::vector<NodeId> vjp_extreme(GraphBuilder& b, NodeId n, NodeId g) {
  const NodeId x = b.graph().at(n).args[0];
  if (b.type(x).size() == 0) return {zeros_like(b, x)};
  const Shape axes = b.graph().at(n).attrs.axes;
  const NodeId best = spread(b, n, n), hit = cast_like(b, b.add(Op::eq, {x, best}), b.type(x).dtype);
  // They are counted by a comparison of their own: this one is then made where the gradient is, and waits in no memory.
  const NodeId ties = b.add(Op::select, {b.add(Op::ne, {x, best}), zeros_like(b, x), b.full(b.type(x), 1)});
  const NodeId share = planted(Fault::ties_not_shared) ? g : b.add(Op::div, {g, reduce_to(b, Op::reduce_sum, ties, axes)});
  return {b.add(Op::mul, {hit, spread(b, share, n)})};
}
// d prod / d x_i = prod of the others = prod / x_i where x_i != 0; with zeros present: with exactly one zero only that
// element has the product of the others; with more, none.
std::vector<NodeId> vjp_prod(GraphBuilder& b, NodeId n, NodeId g) {
  const NodeId x = b.graph().at(n).args[0];
  const Shape axes = b.graph().at(n).attrs.axes;
  const NodeId zero = zeros_like(b, x), one = b.full(b.type(x), 1);
  const NodeId is_zero = b.add(Op::eq, {x, zero});
  const NodeId zeros = reduce_to(b, Op::reduce_sum, cast_like(b, is_zero, b.type(x).dtype), axes);
  const NodeId safe = b.add(Op::select, {is_zero, one, x});
  const NodeId rest = reduce_to(b, Op::reduce_prod, safe, axes);
  const NodeId no_zero = spread(b, b.add(Op::eq, {zeros, zeros_like(b, zeros)}), n);
  const NodeId one_zero = spread(b, b.add(Op::eq, {zeros, b.full(b.type(zeros), 1)}), n);
  const NodeId quotient = b.add(Op::div, {spread(b, rest, n), safe});
  const NodeId others = b.add(Op::select, {no_zero, quotient, b.add(Op::select, {b.add(Op::logical_and, {one_zero, is_zero}), spread(b, rest, n), zero})});
  return {b.add(Op::mul, {spread(b, g, n), others})};
}

std::vector<Sample> reduce_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  const auto sample = [&](Shape shape, Shape axes) {
    Sample s{{{d, std::move(shape), {}}}, {}, -2, 2};
    s.attrs.axes = std::move(axes);
    return s;
  };
  std::vector<Sample> out = {
      sample({7}, {0}),        sample({3, 5}, {1}),       sample({3, 5}, {0}),       sample({2, 3, 33}, {0, 2}), sample({0, 3}, {0}),
      sample({4, 0}, {1}),     sample({5, 130}, {1}),     sample({130, 5}, {0}),     sample({3, 4}, {0, 1}),     sample({3, 4, 5}, {1}),
      sample({1, 1}, {0}),     sample({2, 1000}, {1}),    sample({}, {}),            sample({1}, {0}),           sample({3, 0}, {0}),
      sample({0}, {0}),        sample({7, 1}, {1})};
  if (d == DType::bf16 || d == DType::f16) {   // a sum that would stop growing in its own dtype
    out.push_back(sample({3000, 2}, {0}));
    out.back().low = 0.5;
    out.back().high = 1;
  }
  return out;
}
std::vector<Sample> prod_samples(DType d) {
  std::vector<Sample> out = reduce_samples(d);
  std::erase_if(out, [](const Sample& s) { return s.args[0].size() > 200; });
  for (Sample& s : out) s.low = 0.7, s.high = 1.4;
  return out;
}
std::vector<Sample> argmax_samples(DType d) {
  std::vector<Sample> out = reduce_samples(d);
  std::erase_if(out, [](const Sample& s) { return s.attrs.axes.size() != 1 || s.args[0].size() == 0; });
  return out;
}

}  // namespace

std::vector<OpDef> reduce_ops() {
  return {
      define(Op::reduce_sum, "reduce_sum", "sum over axes", infer_reduce, eval_reduce, vjp_sum, Reduce{Op::add}, reduce_samples),
      define(Op::reduce_max, "reduce_max", "maximum over axes", infer_reduce, eval_reduce, vjp_extreme, Reduce{Op::max}, reduce_samples),
      define(Op::reduce_min, "reduce_min", "minimum over axes", infer_reduce, eval_reduce, vjp_extreme, Reduce{Op::min}, reduce_samples),
      define(Op::reduce_prod, "reduce_prod", "product over axes", infer_reduce, eval_reduce, vjp_prod, Reduce{Op::mul}, prod_samples),
      define(Op::argmax, "argmax", "index of the first greatest element along an axis, i64", infer_argmax, eval_argmax, no_gradient, Expand{build_argmax}, argmax_samples),
  };
}

}  // namespace quern
