// Views: ops that only move elements. Each is one function from output coordinates to pieces of its arguments, which
// evaluation and lowering share with nothing: evaluation walks coordinates by itself.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "ir/ops/define.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"

namespace quern {
namespace {

using Types = std::span<const Type>;
using Out = std::span<const Index>;
using Pieces = std::vector<Piece>;

// Copies x to out by a function from output to input coordinates.
template <class F>
HostTensor gather(const Node& node, const HostTensor& x, F&& source) {
  HostTensor out(node.type.dtype, node.type.shape);
  const Shape strides = row_major(x.shape);
  const int64_t width = size_of(x.dtype);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& index) {
    std::copy_n(x.bytes.data() + position(source(index), strides) * width, width, out.bytes.data() + i++ * width);
  });
  return out;
}
Attrs with(Shape Attrs::*field, Shape value) {
  Attrs a;
  a.*field = std::move(value);
  return a;
}

// --- reshape ---
Type infer_reshape(const InferContext& c) {
  want_args(c, 1);
  const Type t = checked(c, {c.args[0].dtype, c.attrs.shape, {}});
  if (t.size() != c.args[0].size()) c.fail(Code::element_count, fmt::format("{} elements do not fit {}, which has {}", c.args[0].size(), to_string(t), t.size()), "the number of elements must stay");
  return t;
}
HostTensor eval_reshape(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out = *args[0];
  out.shape = node.type.shape;
  return out;
}
int64_t constant_term(const Index& e) {
  switch (e.kind()) {
    case Index::Kind::constant: return e.value();
    case Index::Kind::add: return constant_term(e.left()) + constant_term(e.right());
    case Index::Kind::mul: return constant_term(e.left()) * e.value();
    default: return 0;
  }
}
// Where a part begins so many sizes into a symbolic tensor, its dims can be told apart only if these are whole rows.
void want_whole_rows(const Index& place, std::span<const int64_t> from) {
  if (std::none_of(from.begin(), from.end(), [](int64_t d) { return is_symbolic(d); })) return;
  const int64_t c = constant_term(place);
  int64_t sizes = (c < 0 ? c - kSymbol / 2 : c + kSymbol / 2) / kSymbol;
  for (size_t d = from.size(); d-- > 0 && sizes != 0;) {
    if (is_symbolic(from[d])) return;   // the rest is multiples of it
    if (d > 0 && sizes % from[d] != 0)
      throw Error(Code::symbol_place, fmt::format("a part of a tensor is reshaped to [{}], across its symbolic size", shape_text({from.begin(), from.end()}))).with_help("reshape the whole tensor so that the symbolic dim stays one, or make the size a constant: at_size(graph, n)");
    sizes /= from[d];
  }
}
Pieces reshape_pieces(const Node& node, Types args, Out out) {
  // Runs of dims with equally many elements are reshaped on their own: what stays a dim keeps its index, in range or not.
  const Shape &to = node.type.shape, &from = args[0].shape;
  if (count(to) == 0) return {{0, unflatten(flatten(out, to), from), {}}};
  Piece p{0, {}, {}};
  for (size_t i = 0, j = 0; i < to.size() || j < from.size();) {
    const size_t i0 = i, j0 = j;
    int64_t here = 1, there = 1;
    do {
      if (j == from.size() || (i < to.size() && here <= there)) here *= to[i++];
      else there *= from[j++];
    } while (here != there);
    const Index place = flatten(out.subspan(i0, i - i0), std::span(to).subspan(i0, i - i0));
    want_whole_rows(place, std::span(from).subspan(j0, j - j0));
    for (Index& e : unflatten(place, std::span(from).subspan(j0, j - j0))) p.index.push_back(std::move(e));
  }
  return {p};
}
std::vector<NodeId> vjp_reshape(GraphBuilder& b, NodeId n, NodeId g) {
  return {b.add(Op::reshape, {g}, with(&Attrs::shape, b.type(b.graph().at(n).args[0]).shape))};
}

// --- transpose: output dim d is input dim axes[d] ---
Type infer_transpose(const InferContext& c) {
  want_args(c, 1);
  c.want(static_cast<int64_t>(c.attrs.axes.size()) == c.args[0].rank(), Code::bad_axis, "axes must name every dim once", fmt::format("name {} axes", c.args[0].rank()));
  want_axes(c, c.attrs.axes, c.args[0].rank());
  Type t = c.args[0];
  for (size_t d = 0; d < t.shape.size(); ++d) t.shape[d] = c.args[0].shape[static_cast<size_t>(c.attrs.axes[d])];
  return t;
}
template <class T>
std::vector<T> permuted_back(const Shape& axes, std::span<const T> out) {
  std::vector<T> in(out.begin(), out.end());
  for (size_t d = 0; d < axes.size(); ++d) in[static_cast<size_t>(axes[d])] = out[d];
  return in;
}
HostTensor eval_transpose(const Node& node, std::span<const HostTensor* const> args) {
  return gather(node, *args[0], [&](const Shape& i) { return permuted_back<int64_t>(node.attrs.axes, i); });
}
Pieces transpose_pieces(const Node& node, Types, Out out) { return {{0, permuted_back<Index>(node.attrs.axes, out), {}}}; }
std::vector<NodeId> vjp_transpose(GraphBuilder& b, NodeId n, NodeId g) {
  const Shape axes = b.graph().at(n).attrs.axes;
  Shape back(axes.size());
  for (size_t d = 0; d < axes.size(); ++d) back[static_cast<size_t>(axes[d])] = static_cast<int64_t>(d);
  if (planted(Fault::adjoint_of_transpose)) back = axes;
  return {b.add(Op::transpose, {g}, with(&Attrs::axes, back))};
}

// --- broadcast: argument dim d becomes output dim axes[d] (increasing); size 1 there or equal ---
Type infer_broadcast(const InferContext& c) {
  want_args(c, 1);
  const Type t = checked(c, {c.args[0].dtype, c.attrs.shape, {}});
  c.want(static_cast<int64_t>(c.attrs.axes.size()) == c.args[0].rank(), Code::bad_axis, "axes must place every dim of the argument", fmt::format("name {} axes", c.args[0].rank()));
  want_axes(c, c.attrs.axes, t.rank());
  for (size_t d = 0; d < c.attrs.axes.size(); ++d) {
    c.want(d == 0 || c.attrs.axes[d] > c.attrs.axes[d - 1], Code::bad_axis, "axes must increase", "transpose first");
    const int64_t from = c.args[0].shape[d], to = t.shape[static_cast<size_t>(c.attrs.axes[d])];
    if (from != 1 && from != to) c.fail(Code::shapes_differ, fmt::format("{} does not broadcast to {}: dim {} is {}, wanted 1 or {}", to_string(c.args[0]), to_string(t), d, from, to), "only an extent of 1 stretches; reshape or slice first");
  }
  return t;
}
template <class T>
std::vector<T> broadcast_source(const Shape& axes, const Shape& arg, std::span<const T> out) {
  std::vector<T> in;
  for (size_t d = 0; d < axes.size(); ++d) in.push_back(arg[d] == 1 ? T(0) : out[static_cast<size_t>(axes[d])]);
  return in;
}
HostTensor eval_broadcast(const Node& node, std::span<const HostTensor* const> args) {
  return gather(node, *args[0], [&](const Shape& i) { return broadcast_source<int64_t>(node.attrs.axes, args[0]->shape, i); });
}
Pieces broadcast_pieces(const Node& node, Types args, Out out) {
  return {{0, broadcast_source<Index>(node.attrs.axes, args[0].shape, out), {}}};
}
std::vector<NodeId> vjp_broadcast(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const Type arg = b.type(node.args[0]);
  Shape summed;
  for (int64_t d = 0; d < node.type.rank(); ++d) {
    const auto at = std::find(node.attrs.axes.begin(), node.attrs.axes.end(), d);
    if (at == node.attrs.axes.end() || arg.shape[static_cast<size_t>(at - node.attrs.axes.begin())] == 1) summed.push_back(d);
  }
  return {b.add(Op::reshape, {reduce_to(b, planted(Fault::adjoint_of_broadcast) ? Op::reduce_max : Op::reduce_sum, g, summed)}, with(&Attrs::shape, arg.shape))};
}

// --- slice ---
Type infer_slice(const InferContext& c) {
  want_args(c, 1);
  const size_t rank = c.args[0].shape.size();
  c.want(c.attrs.start.size() == rank && c.attrs.limit.size() == rank && c.attrs.stride.size() == rank, Code::slice_bounds, "start, limit and stride need one entry a dim", fmt::format("give {} of each", rank));
  Type t = c.args[0];
  for (size_t d = 0; d < rank; ++d) {
    const int64_t lo = c.attrs.start[d], hi = c.attrs.limit[d], step = c.attrs.stride[d];
    c.want(0 <= lo && lo <= hi && hi <= c.args[0].shape[d] && step > 0 && step <= kMaxExtent, Code::slice_bounds, fmt::format("[{}:{}:{}] is outside dim {} of extent {}", lo, hi, step, d, c.args[0].shape[d]), "0 <= start <= limit <= extent, 1 <= stride <= 2^40");
    t.shape[d] = ceil_div(hi - lo, step);
  }
  return t;
}
template <class T>
std::vector<T> slice_source(const Attrs& a, std::span<const T> out) {
  std::vector<T> in;
  for (size_t d = 0; d < out.size(); ++d) in.push_back(out[d] * a.stride[d] + T(a.start[d]));
  return in;
}
HostTensor eval_slice(const Node& node, std::span<const HostTensor* const> args) {
  return gather(node, *args[0], [&](const Shape& i) { return slice_source<int64_t>(node.attrs, i); });
}
Pieces slice_pieces(const Node& node, Types, Out out) { return {{0, slice_source<Index>(node.attrs, out), {}}}; }
// Stride 1: pad with zeros. Otherwise: [n] → [n,1] → pad to [n,stride] → [n*stride], then cut or pad.
std::vector<NodeId> vjp_slice(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const Shape full = b.type(node.args[0]).shape;
  const NodeId zero = b.scalar(node.type.dtype, 0);
  NodeId x = g;
  for (size_t d = 0; d < full.size(); ++d) {
    const int64_t step = node.attrs.stride[d];
    if (step == 1) continue;
    Shape split = b.type(x).shape, low(split.size() + 1), high(split.size() + 1);
    split.insert(split.begin() + static_cast<int64_t>(d) + 1, 1);
    high[d + 1] = step - 1;
    x = b.add(Op::reshape, {x}, with(&Attrs::shape, split));
    Attrs pad;
    pad.low = low;
    pad.high = high;
    x = b.add(Op::pad, {x, zero}, pad);
    Shape joined = b.type(x).shape;
    joined[d] *= joined[d + 1];
    joined.erase(joined.begin() + static_cast<int64_t>(d) + 1);
    x = b.add(Op::reshape, {x}, with(&Attrs::shape, joined));
  }
  Attrs cut, pad;
  for (size_t d = 0; d < full.size(); ++d) {
    const int64_t have = b.type(x).shape[d], room = full[d] - node.attrs.start[d];
    cut.start.push_back(0);
    cut.limit.push_back(std::min(have, room));
    cut.stride.push_back(1);
    pad.low.push_back(node.attrs.start[d]);
    pad.high.push_back(room - std::min(have, room));
  }
  return {b.add(Op::pad, {b.add(Op::slice, {x}, cut), zero}, pad)};
}

// --- pad ---
Type infer_pad(const InferContext& c) {
  want_args(c, 2);
  const size_t rank = c.args[0].shape.size();
  c.want(c.args[1].rank() == 0 && c.args[1].dtype == c.args[0].dtype, Code::pad_amount, "the pad value must be a scalar of the same dtype", fmt::format("pad with a {}[]", name_of(c.args[0].dtype)));
  c.want(c.attrs.low.size() == rank && c.attrs.high.size() == rank, Code::pad_amount, "low and high need one entry a dim", fmt::format("give {} of each", rank));
  Type t = c.args[0];
  for (size_t d = 0; d < rank; ++d) {
    c.want(c.attrs.low[d] >= 0 && c.attrs.high[d] >= 0 && c.attrs.low[d] <= kMaxExtent && c.attrs.high[d] <= kMaxExtent, Code::pad_amount, "low and high must be in [0, 2^40]", "slice to make a tensor smaller");
    t.shape[d] += c.attrs.low[d] + c.attrs.high[d];
  }
  return checked(c, t);
}
HostTensor eval_pad(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out(node.type.dtype, node.type.shape);
  const Scalar fill = args[1]->get(0);
  const Shape strides = row_major(args[0]->shape);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& index) {
    bool inside = true;
    Shape at = index;
    for (size_t d = 0; d < at.size(); ++d) {
      at[d] -= node.attrs.low[d];
      inside = inside && at[d] >= 0 && at[d] < args[0]->shape[d];
    }
    out.set(i++, inside ? args[0]->get(position(at, strides)) : fill);
  });
  return out;
}
Pieces pad_pieces(const Node& node, Types args, Out out) {
  Piece inside{0, {}, {}};
  for (size_t d = 0; d < out.size(); ++d) {
    inside.index.push_back(out[d] - Index(node.attrs.low[d]));
    if (node.attrs.low[d] || node.attrs.high[d]) inside.guards.push_back({inside.index[d], 0, args[0].shape[d]});
  }
  if (inside.guards.empty()) return {inside};
  return {inside, {1, {}, {}}};
}
std::vector<NodeId> vjp_pad(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const Shape shape = b.type(node.args[0]).shape;
  Attrs cut;
  cut.start = node.attrs.low;
  for (size_t d = 0; d < shape.size(); ++d) {
    cut.limit.push_back(node.attrs.low[d] + shape[d]);
    cut.stride.push_back(1);
  }
  const NodeId gx = b.add(Op::slice, {g}, cut);
  Shape all(shape.size());
  std::iota(all.begin(), all.end(), 0);
  const NodeId outside = b.add(Op::sub, {reduce_to(b, Op::reduce_sum, g, all), reduce_to(b, Op::reduce_sum, gx, all)});
  return {gx, outside};
}

// --- reverse ---
Type infer_reverse(const InferContext& c) {
  want_args(c, 1);
  want_axes(c, c.attrs.axes, c.args[0].rank());
  return c.args[0];
}
template <class T>
std::vector<T> reversed(const Attrs& a, const Shape& shape, std::span<const T> out) {
  const int64_t last = std::is_same_v<T, Index> && planted(Fault::reverse_extent) ? 0 : 1;
  std::vector<T> in(out.begin(), out.end());
  for (int64_t d : a.axes) in[static_cast<size_t>(d)] = T(shape[static_cast<size_t>(d)] - last) - out[static_cast<size_t>(d)];
  return in;
}
HostTensor eval_reverse(const Node& node, std::span<const HostTensor* const> args) {
  return gather(node, *args[0], [&](const Shape& i) { return reversed<int64_t>(node.attrs, node.type.shape, i); });
}
Pieces reverse_pieces(const Node& node, Types, Out out) { return {{0, reversed<Index>(node.attrs, node.type.shape, out), {}}}; }
std::vector<NodeId> vjp_reverse(GraphBuilder& b, NodeId n, NodeId g) {
  return {b.add(Op::reverse, {g}, with(&Attrs::axes, b.graph().at(n).attrs.axes))};
}

// --- concat ---
Type infer_concat(const InferContext& c) {
  c.want(!c.args.empty(), Code::argument_count, "wants at least one argument", "concat %a, %b, say");
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "axes=[0], say");
  want_axes(c, c.attrs.axes, c.args[0].rank());
  want_same_dtype(c);
  const size_t axis = static_cast<size_t>(c.attrs.axes[0]);
  Type t = c.args[0];
  t.shape[axis] = 0;
  for (const Type& a : c.args) {
    c.want(a.rank() == t.rank(), Code::bad_rank, "arguments have different ranks", "reshape them first");
    for (size_t d = 0; d < t.shape.size(); ++d)
      c.want(d == axis || a.shape[d] == t.shape[d], Code::shapes_differ, fmt::format("dim {} differs: {} vs {}", d, t.shape[d], a.shape[d]), "only the joined axis may differ");
    t.shape[axis] += a.shape[axis];
  }
  return checked(c, t);
}
HostTensor eval_concat(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out(node.type.dtype, node.type.shape);
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& index) {
    Shape at = index;
    size_t a = 0;
    while (at[axis] >= args[a]->shape[axis]) at[axis] -= args[a++]->shape[axis];
    out.set(i++, args[a]->get(position(at, row_major(args[a]->shape))));
  });
  return out;
}
Pieces concat_pieces(const Node& node, Types args, Out out) {
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  Pieces pieces;
  int64_t start = 0;
  for (size_t a = 0; a < args.size(); ++a) {
    const int64_t extent = args[a].shape[axis];
    if (extent == 0) continue;
    Piece p{static_cast<int>(a), {out.begin(), out.end()}, {}};
    p.index[axis] = out[axis] - Index(start);
    p.guards.push_back({p.index[axis], 0, extent + planted(Fault::concat_split)});
    start += extent;
    pieces.push_back(std::move(p));
  }
  if (!pieces.empty()) pieces.back().guards.clear();
  else pieces.push_back({0, {out.begin(), out.end()}, {}});   // empty: never read
  return pieces;
}
std::vector<NodeId> vjp_concat(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  std::vector<NodeId> out;
  int64_t start = 0;
  for (NodeId a : node.args) {
    Attrs cut;
    cut.start.assign(node.type.shape.size(), 0);
    cut.limit = node.type.shape;
    cut.stride.assign(node.type.shape.size(), 1);
    cut.start[axis] = start;
    cut.limit[axis] = start += b.type(a).shape[axis];
    out.push_back(b.add(Op::slice, {g}, cut));
  }
  return out;
}

// --- samples ---
Sample sample(DType d, std::vector<Shape> shapes, Attrs attrs) {
  Sample s;
  for (Shape& shape : shapes) s.args.push_back({d, std::move(shape), {}});
  s.attrs = std::move(attrs);
  return s;
}
std::vector<Sample> reshape_samples(DType d) {
  return {sample(d, {{6, 4}}, with(&Attrs::shape, {3, 8})), sample(d, {{1}}, with(&Attrs::shape, {})),
          sample(d, {{0, 3}}, with(&Attrs::shape, {3, 0, 2})), sample(d, {{2, 3, 5}}, with(&Attrs::shape, {30})),
          sample(d, {{}}, with(&Attrs::shape, {1, 1})), sample(d, {{}}, {})};
}
std::vector<Sample> transpose_samples(DType d) {
  return {sample(d, {{6, 35}}, with(&Attrs::axes, {1, 0})), sample(d, {{2, 3, 5}}, with(&Attrs::axes, {2, 0, 1})), sample(d, {{}}, {}),
          sample(d, {{0, 2}}, with(&Attrs::axes, {1, 0})), sample(d, {{1, 1}}, with(&Attrs::axes, {1, 0}))};
}
std::vector<Sample> broadcast_samples(DType d) {
  const auto attrs = [](Shape axes, Shape shape) { Attrs a = with(&Attrs::axes, std::move(axes)); a.shape = std::move(shape); return a; };
  return {sample(d, {{}}, attrs({}, {3, 5})), sample(d, {{5}}, attrs({1}, {3, 5})), sample(d, {{3}}, attrs({0}, {3, 5})),
          sample(d, {{3, 1}}, attrs({0, 1}, {3, 70})), sample(d, {{1}}, attrs({0}, {0})), sample(d, {{}}, attrs({}, {})),
          sample(d, {{0}}, attrs({1}, {3, 0})), sample(d, {{}}, attrs({}, {0, 2}))};
}
std::vector<Sample> slice_samples(DType d) {
  const auto attrs = [](Shape start, Shape limit, Shape stride) { Attrs a; a.start = start; a.limit = limit; a.stride = stride; return a; };
  return {sample(d, {{10}}, attrs({2}, {9}, {1})), sample(d, {{10}}, attrs({1}, {10}, {3})), sample(d, {{4, 40}}, attrs({1, 3}, {4, 37}, {2, 1})),
          sample(d, {{4, 5}}, attrs({2, 0}, {2, 5}, {1, 1})), sample(d, {{}}, attrs({}, {}, {})), sample(d, {{0, 3}}, attrs({0, 1}, {0, 3}, {2, 1})),
          sample(d, {{1}}, attrs({0}, {1}, {5}))};
}
std::vector<Sample> pad_samples(DType d) {
  const auto attrs = [](Shape low, Shape high) { Attrs a; a.low = low; a.high = high; return a; };
  return {sample(d, {{5}, {}}, attrs({2}, {3})), sample(d, {{3, 4}, {}}, attrs({0, 1}, {2, 0})), sample(d, {{0}, {}}, attrs({1}, {1})),
          sample(d, {{}, {}}, attrs({}, {})), sample(d, {{1, 1}, {}}, attrs({0, 3}, {0, 3})), sample(d, {{2, 0}, {}}, attrs({1, 0}, {0, 0}))};
}
std::vector<Sample> reverse_samples(DType d) {
  return {sample(d, {{7}}, with(&Attrs::axes, {0})), sample(d, {{3, 40}}, with(&Attrs::axes, {1})), sample(d, {{2, 3, 4}}, with(&Attrs::axes, {0, 2})),
          sample(d, {{}}, {}), sample(d, {{1}}, with(&Attrs::axes, {0})), sample(d, {{3, 0}}, with(&Attrs::axes, {0, 1}))};
}
std::vector<Sample> concat_samples(DType d) {
  return {sample(d, {{3}, {4}}, with(&Attrs::axes, {0})), sample(d, {{2, 3}, {2, 0}, {2, 40}}, with(&Attrs::axes, {1})),
          sample(d, {{2, 3}}, with(&Attrs::axes, {0})), sample(d, {{0, 2}, {0, 2}}, with(&Attrs::axes, {0})),
          sample(d, {{1}, {1}}, with(&Attrs::axes, {0})), sample(d, {{0, 2}, {0, 3}}, with(&Attrs::axes, {1}))};
}

}  // namespace

std::vector<OpDef> view_ops() {
  return {
      define(Op::reshape, "reshape", "the same elements in row-major order under another shape", infer_reshape, eval_reshape, vjp_reshape, View{reshape_pieces}, reshape_samples),
      define(Op::transpose, "transpose", "output dim d is input dim axes[d]", infer_transpose, eval_transpose, vjp_transpose, View{transpose_pieces}, transpose_samples),
      define(Op::broadcast, "broadcast", "argument dim d becomes output dim axes[d]", infer_broadcast, eval_broadcast, vjp_broadcast, View{broadcast_pieces}, broadcast_samples),
      define(Op::slice, "slice", "x[start:limit:stride] in every dim", infer_slice, eval_slice, vjp_slice, View{slice_pieces}, slice_samples),
      define(Op::pad, "pad", "low and high more elements in every dim, all the scalar argument", infer_pad, eval_pad, vjp_pad, View{pad_pieces}, pad_samples),
      define(Op::reverse, "reverse", "flips axes", infer_reverse, eval_reverse, vjp_reverse, View{reverse_pieces}, reverse_samples),
      define(Op::concat, "concat", "joins along an axis", infer_concat, eval_concat, vjp_concat, View{concat_pieces}, concat_samples),
  };
}

}  // namespace quern
