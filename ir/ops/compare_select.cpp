// Comparisons, logic and select.
#include <cmath>

#include "ir/ops/define.h"

namespace quern {
namespace {

using Args = std::span<const Scalar>;

Type infer_compare(const InferContext& c) {
  want_args(c, 2);
  want_same_dtype(c);
  want_same_shape(c);
  want_arithmetic(c);
  return {DType::boolean, c.args[0].shape, {}};
}
Type infer_logical(const InferContext& c, size_t n) {
  want_args(c, n);
  want_same_shape(c);
  for (const Type& t : c.args) c.want(t.dtype == DType::boolean, Code::dtype_unsupported, "wants bool arguments", "compare with 0 first");
  return c.args[0];
}
Type infer_logical1(const InferContext& c) { return infer_logical(c, 1); }
Type infer_logical2(const InferContext& c) { return infer_logical(c, 2); }
Type infer_select(const InferContext& c) {
  want_args(c, 3);
  want_same_shape(c);
  c.want(c.args[0].dtype == DType::boolean, Code::dtype_unsupported, "the first argument chooses and must be bool", "compare with 0 first");
  c.want(c.args[1].dtype == c.args[2].dtype, Code::dtypes_differ, "the two arms have different dtypes", "cast one of them");
  return c.args[1];
}

Scalar truth(bool value) { return {DType::boolean, 0, value}; }
Scalar eq(DType, Args a) { return truth(is_float(a[0].dtype) ? a[0].f == a[1].f : a[0].i == a[1].i); }
Scalar ne(DType, Args a) { return truth(is_float(a[0].dtype) ? a[0].f != a[1].f : a[0].i != a[1].i); }
Scalar lt(DType, Args a) { return truth(is_float(a[0].dtype) ? a[0].f < a[1].f : below(a[0], a[1])); }
Scalar le(DType, Args a) { return truth(is_float(a[0].dtype) ? a[0].f <= a[1].f : !below(a[1], a[0])); }
Scalar and_(DType, Args a) { return truth(a[0].i && a[1].i); }
Scalar or_(DType, Args a) { return truth(a[0].i || a[1].i); }
Scalar not_(DType, Args a) { return truth(!a[0].i); }
Scalar select(DType, Args a) { return a[0].i ? a[1] : a[2]; }

std::vector<NodeId> vjp_select(GraphBuilder& b, NodeId n, NodeId g) {
  const NodeId p = b.graph().at(n).args[0], zero = zeros_like(b, n);
  return {-1, b.add(Op::select, {p, g, zero}), b.add(Op::select, {p, zero, g})};
}

std::vector<Sample> compare_samples(DType d) { return is_storage(d) ? std::vector<Sample>{} : wide_samples(d, 2, -2, 2); }
template <int arity>
std::vector<Sample> logical_samples(DType d) {
  return d == DType::boolean ? elementwise_samples(d, arity, 0, 1) : std::vector<Sample>{};
}
std::vector<Sample> select_samples(DType d) {
  std::vector<Sample> out = elementwise_samples(d, 3, -2, 2);
  for (Sample& s : out) s.args[0].dtype = DType::boolean;
  return out;
}

}  // namespace

std::vector<OpDef> compare_select_ops() {
  return {
      define(Op::eq, "eq", "x == y", infer_compare, eval_map, no_gradient, Map{eq}, compare_samples),
      define(Op::ne, "ne", "x != y", infer_compare, eval_map, no_gradient, Map{ne}, compare_samples),
      define(Op::lt, "lt", "x < y", infer_compare, eval_map, no_gradient, Map{lt}, compare_samples),
      define(Op::le, "le", "x <= y", infer_compare, eval_map, no_gradient, Map{le}, compare_samples),
      define(Op::logical_and, "logical_and", "x and y", infer_logical2, eval_map, no_gradient, Map{and_}, logical_samples<2>),
      define(Op::logical_or, "logical_or", "x or y", infer_logical2, eval_map, no_gradient, Map{or_}, logical_samples<2>),
      define(Op::logical_not, "logical_not", "not x", infer_logical1, eval_map, no_gradient, Map{not_}, logical_samples<1>),
      define(Op::select, "select", "p ? x : y", infer_select, eval_map, vjp_select, Map{select}, select_samples),
  };
}

}  // namespace quern
