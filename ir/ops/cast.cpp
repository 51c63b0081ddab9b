// Changing the dtype, by value or keeping the bits, and three identities: one stops derivatives, one keeps equal computations
// apart, one is in memory.
#include <fmt/format.h>

#include "ir/ops/define.h"

namespace quern {
namespace {

using Args = std::span<const Scalar>;

Type infer_cast(const InferContext& c) {
  want_args(c, 1);
  c.want(c.attrs.dtype.size() == 1, Code::attribute_missing, "wants the attribute dtype", "dtype=f32, say");
  return checked(c, {c.attrs.dtype[0], c.args[0].shape, {}});
}
Type infer_bitcast(const InferContext& c) {
  const Type t = infer_cast(c);
  const DType from = c.args[0].dtype;
  c.want(bits_of(from) == bits_of(t.dtype), Code::dtype_unsupported, fmt::format("{} has {} bits, {} has {}", name_of(from), bits_of(from), name_of(t.dtype), bits_of(t.dtype)), "cast changes the width");
  return t;
}
Type infer_same(const InferContext& c) {
  want_args(c, 1);
  return c.args[0];
}

Scalar cast(DType d, Args a) { return Scalar::cast(d, a[0]); }
Scalar bitcast(DType d, Args a) { return Scalar::bitcast(d, a[0]); }
HostTensor eval_same(const Node&, std::span<const HostTensor* const> args) { return *args[0]; }
std::vector<Piece> same_pieces(const Node&, std::span<const Type>, std::span<const Index> out) {
  return {{0, {out.begin(), out.end()}, {}}};
}

std::vector<NodeId> vjp_cast(GraphBuilder& b, NodeId n, NodeId g) {
  const NodeId x = b.graph().at(n).args[0];
  if (!is_float(b.type(x).dtype) || !is_float(b.type(n).dtype)) return {-1};
  return {cast_like(b, g, b.type(x).dtype)};
}

std::vector<NodeId> vjp_same(GraphBuilder&, NodeId, NodeId g) { return {g}; }

std::vector<Sample> cast_samples(DType d) {
  std::vector<Sample> out;
  for (int to = 0; to < kDTypeCount; ++to) {
    const bool f8 = is_f8(d) || is_f8(static_cast<DType>(to));
    std::vector<Shape> shapes = {Shape{130}};
    if (d <= DType::boolean && to <= static_cast<int>(DType::boolean)) shapes = {Shape{3, 7}, Shape{}, Shape{0, 2}, Shape{130}};
    for (const Shape& shape : shapes) {
      Sample s{{{d, shape, {}}}, {}, f8 ? -600.0 : -3.0, f8 ? 600.0 : 3.0};
      s.attrs.dtype = {static_cast<DType>(to)};
      out.push_back(s);
    }
    if (!is_integer(d)) continue;
    Sample wide = wide_samples(d, 1, 0, 0).back();
    wide.attrs = out.back().attrs;
    out.push_back(wide);
  }
  return out;
}
std::vector<Sample> bitcast_samples(DType d) {
  std::vector<Sample> out;
  for (int to = 0; to < kDTypeCount; ++to) {
    if (bits_of(d) != bits_of(static_cast<DType>(to))) continue;
    for (Sample s : {Sample{{{d, {130}, {}}}, {}, -3, 3}, wide_samples(d, 1, -300, 300).back()}) {
      s.attrs.dtype = {static_cast<DType>(to)};
      out.push_back(s);
    }
  }
  return out;
}
std::vector<Sample> same_samples(DType d) { return elementwise_samples(d, 1, -3, 3); }

}  // namespace

std::vector<OpDef> cast_ops() {
  return {
      define(Op::cast, "cast", "x as another dtype; float to integer truncates and saturates, to f8 rounds to nearest even", infer_cast, eval_map, vjp_cast, Map{cast}, cast_samples),
      define(Op::bitcast, "bitcast", "the bits of x as another dtype of as many bits", infer_bitcast, eval_map, no_gradient, Map{bitcast}, bitcast_samples),
      define(Op::stop_gradient, "stop_gradient", "x; its derivative is zero", infer_same, eval_same, no_gradient, View{same_pieces}, same_samples),
      define(Op::barrier, "barrier", "x; what is computed from it is not merged with what is computed from x", infer_same, eval_same, vjp_same, View{same_pieces}, same_samples),
      define(Op::stored, "stored", "x, from memory: no kernel computes x only to read it", infer_same, eval_same, vjp_same, View{same_pieces}, same_samples),
  };
}

}  // namespace quern
