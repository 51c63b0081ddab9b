// The DSL's functions; see tensor.h.
#include "frontend/tensor.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

namespace quern {

SourceLoc source_of(const Where& where) {
  std::string file = where.file_name();
  size_t slash = file.rfind('/');
  if (slash != std::string::npos && slash > 0) slash = file.rfind('/', slash - 1);
  return {slash == std::string::npos ? file : file.substr(slash + 1), where.line()};
}

namespace {

Tensor add_node(const Tensor& like, Op op, std::vector<NodeId> args, Attrs attrs, const Where& where) {
  return {&like.graph(), like.graph().add(op, std::move(args), std::move(attrs), source_of(where))};
}

[[noreturn]] void fail(const std::string& message, const Where& where) { throw Error(ErrorKind::compile, message, source_of(where)); }

Tensor as_tensor(const Operand& o, const Tensor& like) {
  if (o.tensor) return o.tensor;
  return {&like.graph(), like.graph().scalar(like.dtype(), o.number, source_of(o.where))};
}

// NumPy's rule: align at the end; 1 stretches.
Shape common_shape(const char* name, const Tensor& a, const Tensor& b, const Where& where) {
  const size_t rank = std::max(a.shape().size(), b.shape().size());
  Shape out(rank, 1);
  for (size_t d = 0; d < rank; ++d) {
    const auto extent = [&](const Tensor& t) { return d + t.shape().size() < rank ? 1 : t.shape()[d + t.shape().size() - rank]; };
    const int64_t x = extent(a), y = extent(b);
    if (x != y && x != 1 && y != 1)
      fail(fmt::format("{}: shapes do not broadcast: {} (lhs) vs {} (rhs): {} vs {} at dim {} from the end\nhelp: sizes must be equal or 1; reshape one of them", name,
                       to_string(a.type()), to_string(b.type()), x, y, rank - d), where);
    out[d] = x == 1 ? y : x;
  }
  return out;
}

Tensor binary(Op op, const char* name, const Operand& a, const Operand& b, const Where& where) {
  if (!a.tensor && !b.tensor) fail(fmt::format("{}: one operand must be a tensor", name), where);
  const Tensor x = as_tensor(a, a.tensor ? a.tensor : b.tensor), y = as_tensor(b, x);
  if (x.dtype() != y.dtype())
    fail(fmt::format("{}: dtypes differ: {} (lhs) vs {} (rhs)\nhelp: cast(x, DType::{}) one of them", name, to_string(x.type()), to_string(y.type()), name_of(x.dtype())), where);
  const Shape shape = common_shape(name, x, y, where);
  return add_node(x, op, {broadcast_to(x, shape, where).id(), broadcast_to(y, shape, where).id()}, {}, where);
}

Shape normalised(const Tensor& x, Shape axes, const char* name, const Where& where) {
  for (int64_t& a : axes) {
    if (a < -x.rank() || a >= x.rank()) fail(fmt::format("{}: axis {} is outside {}\nhelp: axes run from {} to {}", name, a, to_string(x.type()), -x.rank(), x.rank() - 1), where);
    if (a < 0) a += x.rank();
  }
  return axes;
}

Tensor reduce(Op op, const char* name, const Tensor& x, Shape axes, const Where& where) {
  if (axes.empty()) {
    axes.resize(x.shape().size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), name, where);
  return attrs.axes.empty() ? x : add_node(x, op, {x.id()}, std::move(attrs), where);
}

}  // namespace

Tensor Model::input(const std::string& name, DType dtype, Shape shape, Where where) {
  return {builder_.get(), builder_->input(name, {dtype, std::move(shape), {}}, source_of(where))};
}
Tensor Model::constant(HostTensor value, Where where) { return {builder_.get(), builder_->constant(std::move(value), source_of(where))}; }

Tensor operator+(const Operand& a, const Tensor& b) { return binary(Op::add, "+", a, b, a.where); }
Tensor operator+(const Tensor& a, const Operand& b) { return binary(Op::add, "+", a, b, b.where); }
Tensor operator-(const Operand& a, const Tensor& b) { return binary(Op::sub, "-", a, b, a.where); }
Tensor operator-(const Tensor& a, const Operand& b) { return binary(Op::sub, "-", a, b, b.where); }
Tensor operator*(const Operand& a, const Tensor& b) { return binary(Op::mul, "*", a, b, a.where); }
Tensor operator*(const Tensor& a, const Operand& b) { return binary(Op::mul, "*", a, b, b.where); }
Tensor operator/(const Operand& a, const Tensor& b) { return binary(Op::div, "/", a, b, a.where); }
Tensor operator/(const Tensor& a, const Operand& b) { return binary(Op::div, "/", a, b, b.where); }
Tensor operator-(const Tensor& a) { return {&a.graph(), a.graph().add(Op::neg, {a.id()})}; }

#define QN_UNARY(name) \
  Tensor name(const Tensor& x, Where where) { return add_node(x, Op::name, {x.id()}, {}, where); }
QN_UNARY(exp) QN_UNARY(log) QN_UNARY(tanh) QN_UNARY(erf) QN_UNARY(sqrt) QN_UNARY(rsqrt) QN_UNARY(sin) QN_UNARY(cos)
QN_UNARY(abs) QN_UNARY(sign) QN_UNARY(floor) QN_UNARY(stop_gradient) QN_UNARY(logical_not)
#undef QN_UNARY
#define QN_BINARY(name, op) \
  Tensor name(const Operand& a, const Operand& b, Where where) { return binary(Op::op, #name, a, b, where); }
QN_BINARY(pow, pow) QN_BINARY(mod, mod) QN_BINARY(maximum, max) QN_BINARY(minimum, min) QN_BINARY(equal, eq) QN_BINARY(not_equal, ne)
QN_BINARY(less, lt) QN_BINARY(less_equal, le) QN_BINARY(logical_and, logical_and) QN_BINARY(logical_or, logical_or)
#undef QN_BINARY

Tensor where(const Tensor& condition, const Operand& a, const Operand& b, Where at) {
  if (!a.tensor && !b.tensor) fail("where: one arm must be a tensor", at);
  const Tensor x = as_tensor(a, a.tensor ? a.tensor : b.tensor), y = as_tensor(b, x);
  Shape shape = common_shape("where", x, y, at);
  const Tensor wide = broadcast_to(x, shape, at);
  shape = common_shape("where", condition, wide, at);
  return add_node(x, Op::select, {broadcast_to(condition, shape, at).id(), broadcast_to(x, shape, at).id(), broadcast_to(y, shape, at).id()}, {}, at);
}

Tensor cast(const Tensor& x, DType dtype, Where where) {
  if (x.dtype() == dtype) return x;
  Attrs attrs;
  attrs.dtype = {dtype};
  return add_node(x, Op::cast, {x.id()}, std::move(attrs), where);
}

Tensor sum(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_sum, "sum", x, std::move(axes), where); }
Tensor max(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_max, "max", x, std::move(axes), where); }
Tensor min(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_min, "min", x, std::move(axes), where); }
Tensor prod(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_prod, "prod", x, std::move(axes), where); }
Tensor mean(const Tensor& x, Shape axes, Where where) {
  const Tensor total = sum(x, std::move(axes), where);
  const double n = total.type().size() ? static_cast<double>(x.type().size()) / static_cast<double>(total.type().size()) : 0;
  return binary(Op::mul, "mean", total, Operand(1 / n, where), where);
}
Tensor argmax(const Tensor& x, int64_t axis, Where where) { return reduce(Op::argmax, "argmax", x, {axis}, where); }

Tensor contract(const std::string& spec, const Tensor& a, const Tensor& b, Where where) {
  Attrs attrs;
  attrs.spec = spec;
  return add_node(a, Op::contract, {a.id(), b.id()}, std::move(attrs), where);
}

Tensor matmul(const Tensor& a, const Tensor& b, Where where) {
  const int64_t ra = a.rank(), rb = b.rank();
  if (ra < 2 || rb < 2 || (rb > 2 && rb != ra)) fail(fmt::format("matmul: wants [..., m, k] by [k, n] or [..., k, n], got {} by {}", to_string(a.type()), to_string(b.type())), where);
  const int64_t ka = a.shape().back(), kb = b.shape()[static_cast<size_t>(rb - 2)];
  if (ka != kb)
    fail(fmt::format("matmul: inner dimensions differ: {} (lhs dim {}) vs {} (rhs dim {})\n   lhs: {}\n   rhs: {}\nhelp: did you mean the shape {{{}, {}}} for rhs?", ka, ra - 1, kb, rb - 2,
                     to_string(a.type()), to_string(b.type()), ka, b.shape().back()), where);
  std::string batch;
  for (int64_t d = 0; d + 2 < ra; ++d) batch += static_cast<char>('a' + d);
  for (int64_t d = 0; rb > 2 && d + 2 < rb; ++d)
    if (a.shape()[static_cast<size_t>(d)] != b.shape()[static_cast<size_t>(d)])
      fail(fmt::format("matmul: batch dimensions differ: {} vs {}\nhelp: broadcast_to one of them first", to_string(a.type()), to_string(b.type())), where);
  return contract(fmt::format("{}xy,{}yz->{}xz", batch, rb > 2 ? batch : "", batch), a, b, where);
}

Tensor reshape(const Tensor& x, Shape shape, Where where) {
  Attrs attrs;
  attrs.shape = std::move(shape);
  return add_node(x, Op::reshape, {x.id()}, std::move(attrs), where);
}
Tensor transpose(const Tensor& x, Shape axes, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), "transpose", where);
  return add_node(x, Op::transpose, {x.id()}, std::move(attrs), where);
}
Tensor broadcast_to(const Tensor& x, Shape shape, Where where) {
  if (x.shape() == shape) return x;
  Attrs attrs;
  for (int64_t d = 0; d < x.rank(); ++d) attrs.axes.push_back(d + static_cast<int64_t>(shape.size()) - x.rank());
  attrs.shape = std::move(shape);
  return add_node(x, Op::broadcast, {x.id()}, std::move(attrs), where);
}
Tensor slice(const Tensor& x, int64_t axis, int64_t start, int64_t limit, int64_t stride, Where where) {
  const size_t d = static_cast<size_t>(normalised(x, {axis}, "slice", where)[0]);
  Attrs attrs;
  attrs.start.assign(x.shape().size(), 0);
  attrs.limit = x.shape();
  attrs.stride.assign(x.shape().size(), 1);
  attrs.start[d] = start;
  attrs.limit[d] = limit;
  attrs.stride[d] = stride;
  return add_node(x, Op::slice, {x.id()}, std::move(attrs), where);
}
Tensor pad(const Tensor& x, Shape low, Shape high, double value, Where where) {
  Attrs attrs;
  attrs.low = std::move(low);
  attrs.high = std::move(high);
  return add_node(x, Op::pad, {x.id(), x.graph().scalar(x.dtype(), value)}, std::move(attrs), where);
}
Tensor reverse(const Tensor& x, Shape axes, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), "reverse", where);
  return add_node(x, Op::reverse, {x.id()}, std::move(attrs), where);
}
Tensor concat(const std::vector<Tensor>& parts, int64_t axis, Where where) {
  if (parts.empty()) fail("concat: wants at least one tensor", where);
  Attrs attrs;
  attrs.axes = normalised(parts[0], {axis}, "concat", where);
  std::vector<NodeId> args;
  for (const Tensor& t : parts) args.push_back(t.id());
  return add_node(parts[0], Op::concat, std::move(args), std::move(attrs), where);
}
Tensor expand_dims(const Tensor& x, int64_t axis, Where where) {
  Shape shape = x.shape();
  shape.insert(shape.begin() + (axis < 0 ? axis + x.rank() + 1 : axis), 1);
  return reshape(x, std::move(shape), where);
}
Tensor take(const Tensor& x, const Tensor& index, int64_t axis, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, {axis}, "take", where);
  return add_node(x, Op::take, {x.id(), index.id()}, std::move(attrs), where);
}
Tensor iota(GraphBuilder& graph, DType dtype, Shape shape, int64_t axis, Where where) {
  Attrs attrs;
  attrs.axes = {axis};
  attrs.shape = std::move(shape);
  attrs.dtype = {dtype};
  return {&graph, graph.add(Op::iota, {}, std::move(attrs), source_of(where))};
}
Tensor random_uniform(const Tensor& key, Shape shape, int64_t stream, Where where) {
  Attrs attrs;
  attrs.shape = std::move(shape);
  attrs.index = {stream};
  const Tensor bits = add_node(key, Op::random, {key.id()}, std::move(attrs), where);
  // 24 bits: exact in f32. u32 division is floor division.
  const Tensor top = binary(Op::div, "random_uniform", bits, Operand(256, where), where);
  return binary(Op::mul, "random_uniform", cast(top, DType::f32, where), Operand(0x1p-24, where), where);
}

}  // namespace quern
