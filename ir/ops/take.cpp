// Indexed reading and its adjoint: take (embedding, gather of rows) and put_add.
#include <fmt/format.h>

#include "ir/ops/define.h"

namespace quern {
namespace {

size_t axis_of(const Attrs& a) { return static_cast<size_t>(a.axes[0]); }

void want_take(const InferContext& c) {
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "axes=[0], say");
  want_axes(c, c.attrs.axes, c.args[0].rank());
  c.want(is_integer(c.args[1].dtype), Code::index_dtype, "indices must be integers", "cast them to i64");
}
Shape taken(const Shape& x, const Shape& index, size_t axis) {
  Shape out(x.begin(), x.begin() + static_cast<int64_t>(axis));
  out.insert(out.end(), index.begin(), index.end());
  out.insert(out.end(), x.begin() + static_cast<int64_t>(axis) + 1, x.end());
  return out;
}
Type infer_take(const InferContext& c) {
  want_args(c, 2);
  want_take(c);
  return checked(c, {c.args[0].dtype, taken(c.args[0].shape, c.args[1].shape, axis_of(c.attrs)), {}});
}
Type infer_put_add(const InferContext& c) {
  want_args(c, 3);
  want_take(c);
  c.want(!is_storage(c.args[0].dtype), Code::dtype_unsupported, fmt::format("is not defined for {}, which is for storage", name_of(c.args[0].dtype)), is_f8(c.args[0].dtype) ? "cast to f32 first" : "cast to i32 first");
  c.want(c.args[0].dtype == c.args[2].dtype && c.args[0].dtype != DType::boolean, Code::dtypes_differ, "x and the update must have one numeric dtype", fmt::format("cast the update to {}", name_of(c.args[0].dtype)));
  const Type want{c.args[0].dtype, taken(c.args[0].shape, c.args[1].shape, axis_of(c.attrs)), {}};
  c.want(c.args[2] == want, Code::update_shape, fmt::format("the update must be {}, as take(x, i) would be", to_string(want)), fmt::format("reshape or broadcast it to {}", to_string(want)));
  return c.args[0];
}

// Calls f(position in x or -1, position in the taken tensor) for every taken element.
template <class F>
void for_each_taken(const HostTensor& x, const HostTensor& index, size_t axis, F&& f) {
  const Shape strides = row_major(x.shape), index_strides = row_major(index.shape);
  int64_t i = 0;
  const size_t n = index.shape.size();
  for_each_index(taken(x.shape, index.shape, axis), [&](const Shape& out) {
    const Shape at(out.begin() + static_cast<int64_t>(axis), out.begin() + static_cast<int64_t>(axis + n));
    const int64_t row = index.get(position(at, index_strides)).i;
    Shape in(out.begin(), out.begin() + static_cast<int64_t>(axis));
    in.push_back(row);
    in.insert(in.end(), out.begin() + static_cast<int64_t>(axis + n), out.end());
    f(row >= 0 && row < x.shape[axis] ? position(in, strides) : -1, i++);
  });
}
HostTensor eval_take(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out(node.type.dtype, node.type.shape);
  for_each_taken(*args[0], *args[1], axis_of(node.attrs), [&](int64_t from, int64_t to) {
    if (from >= 0) out.set(to, args[0]->get(from));
  });
  return out;
}
HostTensor eval_put_add(const Node& node, std::span<const HostTensor* const> args) {
  const DType d = node.type.dtype, wide = is_float(d) ? DType::f64 : DType::i64;
  HostTensor acc(wide, node.type.shape), out(d, node.type.shape);
  for_each_taken(*args[0], *args[1], axis_of(node.attrs), [&](int64_t to, int64_t from) {
    if (to < 0) return;
    Scalar v = args[2]->get(from);
    v.dtype = wide;
    acc.set(to, apply_scalar(Op::add, wide, std::array{acc.get(to), v}));
  });
  for (int64_t i = 0; i < out.size(); ++i) {
    Scalar x = args[0]->get(i);
    x.dtype = wide;
    const Scalar sum = apply_scalar(Op::add, wide, std::array{x, acc.get(i)});
    out.set(i, is_float(d) ? Scalar::of(d, sum.f) : Scalar::of_int(d, sum.i));
  }
  return out;
}

std::vector<NodeId> vjp_take(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  return {b.add(Op::put_add, {zeros_like(b, node.args[0]), node.args[1], g}, node.attrs), -1};
}
std::vector<NodeId> vjp_put_add(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  return {g, -1, b.add(Op::take, {g, node.args[1]}, node.attrs)};
}

Sample sample(Type x, Type index, int64_t axis, bool update) {
  Sample s;
  s.attrs.axes = {axis};
  s.args = {x, index};
  s.low = 0;
  s.high = 4;
  if (update) s.args.push_back({x.dtype, taken(x.shape, index.shape, static_cast<size_t>(axis)), {}});
  return s;
}
template <bool update>
std::vector<Sample> take_samples(DType d) {
  if (update && (d == DType::boolean || is_storage(d))) return {};
  Sample outside = sample({d, {3, 5}, {}}, {is_integer(d) ? d : DType::i32, {40}, {}}, 1, update);   // into the rows beside
  outside.low = -3;
  outside.high = 9;
  return {sample({d, {5, 3}, {}}, {DType::i32, {4}, {}}, 0, update), sample({d, {2, 5}, {}}, {DType::i64, {2, 3}, {}}, 1, update),
          sample({d, {4}, {}}, {DType::u8, {}, {}}, 0, update), sample({d, {3, 2}, {}}, {DType::i32, {0}, {}}, 0, update),
          sample({d, {4, 70}, {}}, {DType::i64, {9}, {}}, 0, update), sample({d, {0, 3}, {}}, {DType::i32, {2}, {}}, 0, update),
          sample({d, {3, 0}, {}}, {DType::i32, {2}, {}}, 0, update), sample({d, {1}, {}}, {DType::u32, {1}, {}}, 0, update), outside};
}

}  // namespace

std::vector<OpDef> take_ops() {
  return {
      define(Op::take, "take", "rows of x by index; outside reads 0", infer_take, eval_take, vjp_take, Take{}, take_samples<false>),
      define(Op::put_add, "put_add", "x plus the update at indexed rows; outside is ignored", infer_put_add, eval_put_add, vjp_put_add, PutAdd{}, take_samples<true>),
  };
}

}  // namespace quern
