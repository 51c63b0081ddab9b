// How the files of ir/ops define ops: `define` takes every facet, so that a missing one does not compile. Shared
// helpers of type rules, evaluation and samples.
#pragma once
#include "ir/op.h"

namespace quern {

inline OpDef define(Op op, std::string_view name, std::string_view doc, Type (*infer)(const InferContext&),
                    HostTensor (*eval)(const Node&, std::span<const HostTensor* const>), VjpFn vjp, Meaning meaning,
                    SamplesFn samples) {
  return {op, name, doc, infer, eval, vjp, meaning, samples};
}

std::vector<OpDef> elementwise_ops();
std::vector<OpDef> special_ops();
std::vector<OpDef> compare_select_ops();
std::vector<OpDef> cast_ops();
std::vector<OpDef> reduce_ops();
std::vector<OpDef> contract_ops();
std::vector<OpDef> view_ops();
std::vector<OpDef> window_ops();
std::vector<OpDef> take_ops();
std::vector<OpDef> cumulate_ops();
std::vector<OpDef> sort_ops();
std::vector<OpDef> source_ops();
std::vector<OpDef> body_ops();

// --- type rules ---
void want_args(const InferContext& c, size_t n);
Type infer_unary_float(const InferContext& c);
void want_same_shape(const InferContext& c);
void want_same_dtype(const InferContext& c);
/// No argument of a storage dtype.
void want_arithmetic(const InferContext& c);
/// Distinct axes within [0, rank).
void want_axes(const InferContext& c, const Shape& axes, int64_t rank);
Type checked(const InferContext& c, Type type);   // rank, extents and bytes within the limits

// --- evaluation ---
template <double (*F)(double)>
Scalar unary(DType d, std::span<const Scalar> a) { return Scalar::of(d, F(a[0].f)); }
/// Applies the op's Map to every element.
HostTensor eval_map(const Node& node, std::span<const HostTensor* const> args);
/// Calls f(coordinates) for every element of `shape`, in row-major order.
void for_each_index(const Shape& shape, const std::function<void(const Shape&)>& f);
int64_t position(const Shape& index, const Shape& strides);

// --- graph building, for derivatives ---
NodeId cast_like(GraphBuilder& b, NodeId x, DType dtype);
NodeId zeros_like(GraphBuilder& b, NodeId x);
NodeId broadcast_to(GraphBuilder& b, NodeId x, const Shape& axes, const Shape& shape);
NodeId reduce_to(GraphBuilder& b, Op op, NodeId x, const Shape& axes);
/// A derivative rule's node, the cotangent g of its result, and spellings.
struct Vjp {
  GraphBuilder& b;
  NodeId node, g;
  NodeId arg(size_t i) const { return b.graph().at(node).args[i]; }
  NodeId number(double v) const { return b.full(b.type(node), v); }
  NodeId op(Op o, NodeId x) const { return b.add(o, {x}); }
  NodeId op(Op o, NodeId x, NodeId y) const { return b.add(o, {x, y}); }
  NodeId times(NodeId x, NodeId y) const { return op(Op::mul, x, y); }
};

// --- samples ---
/// Shapes that every elementwise op is tried on: rank 0, 1, zero-size, odd, several dims.
std::vector<Shape> sample_shapes();
std::vector<Sample> elementwise_samples(DType dtype, int arity, double low, double high);
template <int low, int high>   // in quarters
std::vector<Sample> float_samples(DType d) { return is_float(d) ? elementwise_samples(d, 1, low / 4.0, high / 4.0) : std::vector<Sample>{}; }
/// The same and, for integers, one sample over all their values: signs and widths matter there alone.
std::vector<Sample> wide_samples(DType dtype, int arity, double low, double high);

}  // namespace quern
