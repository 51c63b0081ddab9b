// The DSL: a Tensor is a node under construction. Operators and free functions add primitive nodes to the Graph that
// their operands belong to; NumPy broadcasting inserts `broadcast` nodes; a number takes the dtype and shape of the
// tensor beside it. Every function remembers the user's line, and errors name it with both shapes.
//
//   Model g;
//   Tensor x = g.input("x", f32, {64, 784});
//   Tensor y = relu(matmul(x, w) + b);
//   g.output("y", y);
#pragma once
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "ir/op.h"

namespace quern {

using Where = std::source_location;

class Tensor {
 public:
  Tensor() = default;
  Tensor(GraphBuilder* graph, NodeId id) : graph_(graph), id_(id) {}
  GraphBuilder& graph() const {
    if (!graph_) throw Error(Code::empty_tensor, "a default-constructed Tensor is used").with_help("assign it before");
    return *graph_;
  }
  NodeId id() const { return id_; }
  const Type& type() const { return graph().type(id_); }
  const Shape& shape() const { return type().shape; }
  DType dtype() const { return type().dtype; }
  int64_t rank() const { return type().rank(); }
  explicit operator bool() const { return graph_ != nullptr; }

 private:
  GraphBuilder* graph_ = nullptr;
  NodeId id_ = -1;
};

/// A tensor with the line where it was written: how the unary operator, which takes no second operand, learns its line.
struct Located {
  Located(const Tensor& tensor, Where where = Where::current()) : tensor(tensor), where(where) {}   // NOLINT: implicit
  Tensor tensor;
  Where where;
};
/// An operand of an operator: a tensor or a number, with the line where it was written.
struct Operand {
  Operand(Tensor tensor, Where where = Where::current()) : tensor(tensor), where(where) {}   // NOLINT: implicit
  Operand(double number, Where where = Where::current()) : number(number), where(where) {}   // NOLINT
  Operand(int number, Where where = Where::current()) : number(number), where(where) {}      // NOLINT
  Tensor tensor;
  double number = 0;
  Where where;
};
SourceLoc source_of(const Where& where);   // the last two components of the path, and the line
/// An error at the user's line that shows the operands: {"lhs", x}, ….
Error error_at(Code code, const std::string& message, const Where& where, const std::vector<std::pair<const char*, Tensor>>& operands = {});

/// For functions that are made of the DSL's own: while it lives, nodes and errors of this thread carry its line, whatever is
/// passed inside. Of several the outermost counts: the user's.
class Composed {
 public:
  explicit Composed(const Where& where);
  ~Composed();
  Composed(const Composed&) = delete;

 private:
  bool outermost_;
};
/// The axes from 0 on; errors say that they are of `name`.
Shape axes_of(const char* name, const Tensor& x, Shape axes, Where where = Where::current());
/// Made, and of one model: asked before anything else.
void want_tensors(const char* name, const std::vector<Tensor>& tensors, const Where& where);

/// A graph being built, with its named inputs, outputs and states.
class Model {
 public:
  Model() : builder_(std::make_unique<GraphBuilder>()) {}
  Tensor input(const std::string& name, DType dtype, Shape shape, Where where = Where::current());
  /// A size that is given when the graph runs, low to high, to be used as a dim, also times a constant; at most
  /// one dim of a tensor. One per model. Throws Error(compile) for bounds that are none.
  int64_t symbol(const std::string& name, int64_t low, int64_t high, Where where = Where::current());
  Tensor constant(HostTensor value, Where where = Where::current());
  void output(const std::string& name, const Tensor& value, Where where = Where::current());
  /// `input` is replaced by `next` after every run.
  void state(const std::string& name, const Tensor& input, const Tensor& next, Where where = Where::current());
  GraphBuilder& builder() { return *builder_; }
  Graph finish() { return builder_->finish(); }

 private:
  std::unique_ptr<GraphBuilder> builder_;
};

// --- elementwise, with broadcasting ---
Tensor operator+(const Operand& a, const Operand& b);   // of a tensor and a tensor or a number
Tensor operator-(const Operand& a, const Operand& b);
Tensor operator*(const Operand& a, const Operand& b);
Tensor operator/(const Operand& a, const Operand& b);
Tensor operator-(const Located& a);

#define QN_UNARY(name) Tensor name(const Tensor& x, Where where = Where::current());
QN_UNARY(exp) QN_UNARY(log) QN_UNARY(tanh) QN_UNARY(erf) QN_UNARY(sqrt) QN_UNARY(rsqrt) QN_UNARY(sin) QN_UNARY(cos)
QN_UNARY(abs) QN_UNARY(sign) QN_UNARY(floor) QN_UNARY(stop_gradient) QN_UNARY(logical_not)
QN_UNARY(expm1) QN_UNARY(log1p) QN_UNARY(tan) QN_UNARY(asin) QN_UNARY(acos) QN_UNARY(sinh) QN_UNARY(cosh) QN_UNARY(asinh)
QN_UNARY(acosh) QN_UNARY(atanh) QN_UNARY(round) QN_UNARY(erfc) QN_UNARY(erf_inv) QN_UNARY(lgamma) QN_UNARY(digamma)
// Of others:
QN_UNARY(atan) QN_UNARY(ceil) QN_UNARY(trunc) QN_UNARY(log2) QN_UNARY(log10) QN_UNARY(exp2) QN_UNARY(square) QN_UNARY(reciprocal)
QN_UNARY(bit_not) QN_UNARY(is_nan) QN_UNARY(is_inf) QN_UNARY(is_finite)
#undef QN_UNARY
#define QN_BINARY(name) Tensor name(const Operand& a, const Operand& b, Where where = Where::current());
QN_BINARY(pow) QN_BINARY(mod) QN_BINARY(maximum) QN_BINARY(minimum) QN_BINARY(equal) QN_BINARY(not_equal)
QN_BINARY(less) QN_BINARY(less_equal) QN_BINARY(logical_and) QN_BINARY(logical_or)
QN_BINARY(rem) QN_BINARY(atan2) QN_BINARY(bit_and) QN_BINARY(bit_or) QN_BINARY(bit_xor)
QN_BINARY(shift_left) QN_BINARY(shift_right_logical) QN_BINARY(shift_right_arithmetic)
// Of others:
QN_BINARY(greater) QN_BINARY(greater_equal) QN_BINARY(logical_xor) QN_BINARY(floor_divide)
QN_BINARY(logaddexp)   // log(e^a + e^b)
#undef QN_BINARY
/// Between low and high; NaN stays.
Tensor clip(const Tensor& x, const Operand& low, const Operand& high, Where where = Where::current());
/// condition ? a : b, all broadcast together.
Tensor where(const Tensor& condition, const Operand& a, const Operand& b, Where at = Where::current());
Tensor cast(const Tensor& x, DType dtype, Where where = Where::current());
/// The bits of x as another dtype of as many bits.
Tensor bitcast(const Tensor& x, DType dtype, Where where = Where::current());

// --- reductions; negative axes count from the end, no axes means all ---
Tensor sum(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor mean(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor max(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor min(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor prod(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor argmax(const Tensor& x, int64_t axis, Where where = Where::current());   // i64

// --- products ---
/// a [..., m, k] by b [..., k, n]: the leading axes must be equal, or b has none.
Tensor matmul(const Tensor& a, const Tensor& b, Where where = Where::current());
/// Named axes: contract("bmk,bkn->bmn", a, b).
Tensor contract(const std::string& spec, const Tensor& a, const Tensor& b, Where where = Where::current());

// --- shape ---
Tensor reshape(const Tensor& x, Shape shape, Where where = Where::current());
Tensor transpose(const Tensor& x, Shape axes, Where where = Where::current());
Tensor broadcast_to(const Tensor& x, Shape shape, Where where = Where::current());   // NumPy's rule
Tensor slice(const Tensor& x, int64_t axis, int64_t start, int64_t limit, int64_t stride = 1, Where where = Where::current());
Tensor pad(const Tensor& x, Shape low, Shape high, double value = 0, Where where = Where::current());
Tensor reverse(const Tensor& x, Shape axes, Where where = Where::current());
Tensor concat(const std::vector<Tensor>& parts, int64_t axis, Where where = Where::current());
Tensor expand_dims(const Tensor& x, int64_t axis, Where where = Where::current());
Tensor take(const Tensor& x, const Tensor& index, int64_t axis = 0, Where where = Where::current());
/// The coordinate along `axis`.
Tensor iota(GraphBuilder& graph, DType dtype, Shape shape, int64_t axis, Where where = Where::current());
/// Uniform f32 in [0, 1): 24 random bits of (key, stream). key: u32[].
Tensor random_uniform(const Tensor& key, Shape shape, int64_t stream, Where where = Where::current());

// --- derivatives: see transforms.cpp ---
/// The derivatives of the scalar `loss` with respect to `wanted`, each of its tensor's type.
std::vector<Tensor> grad(const Tensor& loss, const std::vector<Tensor>& wanted, Where where = Where::current());

}  // namespace quern
