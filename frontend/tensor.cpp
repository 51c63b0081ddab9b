// The DSL's functions; see tensor.h.
#include "frontend/tensor.h"

#include <algorithm>
#include <limits>
#include <numbers>
#include <numeric>

#include <fmt/format.h>

#include "ir/symbol.h"

namespace quern {

static thread_local const Where* composed = nullptr;
Composed::Composed(const Where& where) : outermost_(composed == nullptr) {
  if (outermost_) composed = &where;
}
Composed::~Composed() {
  if (outermost_) composed = nullptr;
}

SourceLoc source_of(const Where& given) {
  const Where& where = composed ? *composed : given;
  std::string file = where.file_name();
  size_t slash = file.rfind('/');
  if (slash != std::string::npos && slash > 0) slash = file.rfind('/', slash - 1);
  return {slash == std::string::npos ? file : file.substr(slash + 1), where.line()};
}

Error error_at(Code code, const std::string& message, const Where& where, const std::vector<std::pair<const char*, Tensor>>& operands) {
  Error e(code, message, source_of(where));
  for (const auto& [label, t] : operands)
    if (t) e.with_operand(label, to_string(t.type()), t.graph().describe(t.id()), t.graph().graph().where(t.id()));
    else e.with_operand(label, "?", "default-constructed");
  return e;
}

void want_tensors(const char* name, const std::vector<Tensor>& tensors, const Where& where) {
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i]) throw error_at(Code::empty_tensor, fmt::format("{}: argument {} is a default-constructed Tensor", name, i), where).with_help("assign it before");
    if (&tensors[i].graph() != &tensors[0].graph())
      throw error_at(Code::other_model, fmt::format("{}: the tensors are of different models: {} and {}", name, to_string(tensors[0].type()), to_string(tensors[i].type())), where,
                     {{"lhs", tensors[0]}, {"rhs", tensors[i]}}).with_help("build both in one Model, or pass the value as an input");
  }
}

Shape axes_of(const char* name, const Tensor& x, Shape axes, Where where) {
  want_tensors(name, {x}, where);
  for (int64_t& a : axes) {
    if (a < -x.rank() || a >= x.rank())
      throw error_at(Code::bad_axis, fmt::format("{}: axis {} is outside {}", name, a, to_string(x.type())), where, {{"operand", x}})
          .with_help(x.rank() ? fmt::format("axes run from {} to {}", -x.rank(), x.rank() - 1) : "a scalar has no axes");
    if (a < 0) a += x.rank();
  }
  return axes;
}

namespace {

Tensor add_node(const char* name, Op op, const std::vector<Tensor>& args, Attrs attrs, const Where& where) {
  want_tensors(name, args, where);
  std::vector<NodeId> ids;
  for (const Tensor& t : args) ids.push_back(t.id());
  return {&args[0].graph(), args[0].graph().add(op, std::move(ids), std::move(attrs), source_of(where))};
}

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
      throw error_at(Code::shapes_differ, fmt::format("{}: shapes do not broadcast: {} (lhs) vs {} (rhs): {} vs {} at dim {} from the end", name, to_string(a.type()), to_string(b.type()), extent_text(x), extent_text(y), rank - d), where,
                     {{"lhs", a}, {"rhs", b}}).with_note("shapes are aligned at their last axes").with_help("sizes must be equal or 1; reshape one of them");
    out[d] = x == 1 ? y : x;
  }
  return out;
}

Tensor binary(Op op, const char* name, const Operand& a, const Operand& b, const Where& where) {
  if (!a.tensor && !b.tensor) throw error_at(Code::empty_tensor, fmt::format("{}: one operand must be a tensor", name), where).with_help("assign the Tensor before, or make the number a model.constant");
  const Tensor x = as_tensor(a, a.tensor ? a.tensor : b.tensor), y = as_tensor(b, x);
  want_tensors(name, {x, y}, where);
  if (x.dtype() != y.dtype())
    throw error_at(Code::dtypes_differ, fmt::format("{}: dtypes differ: {} (lhs) vs {} (rhs)", name, to_string(x.type()), to_string(y.type())), where, {{"lhs", x}, {"rhs", y}})
        .with_help(fmt::format("cast(rhs, DType::{}), or cast lhs", name_of(x.dtype())));
  const Shape shape = common_shape(name, x, y, where);
  return add_node(name, op, {broadcast_to(x, shape, where), broadcast_to(y, shape, where)}, {}, where);
}

Shape normalised(const Tensor& x, Shape axes, const char* name, const Where& where) { return axes_of(name, x, std::move(axes), where); }

Tensor reduce(Op op, const char* name, const Tensor& x, Shape axes, const Where& where) {
  want_tensors(name, {x}, where);
  if (axes.empty()) {
    axes.resize(x.shape().size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), name, where);
  return attrs.axes.empty() ? x : add_node(name, op, {x}, std::move(attrs), where);
}

}  // namespace

Tensor Model::input(const std::string& name, DType dtype, Shape shape, Where where) {
  for (NodeId i : builder_->graph().inputs)
    if (builder_->graph().at(i).attrs.name == name)
      throw error_at(Code::duplicate_name, fmt::format("an input \"{}\" exists already", name), where, {{"the first", {builder_.get(), i}}}).with_help("use another name");
  if (is_symbolic(shape) && !builder_->graph().symbol)
    throw error_at(Code::symbol_shape, fmt::format("input \"{}\": {} holds a symbol that this model does not have", name, to_string(Type{dtype, shape, {}})), where).with_help("declare it first: int64_t n = model.symbol(\"batch\", 1, 4096)");
  return {builder_.get(), builder_->input(name, {dtype, std::move(shape), {}}, source_of(where))};
}
int64_t Model::symbol(const std::string& name, int64_t low, int64_t high, Where where) {
  try {
    builder_->symbol(Symbol{name, low, high});
  } catch (Error& e) {
    e.move_to(source_of(where));
    throw;
  }
  return kSymbol;
}
Tensor Model::constant(HostTensor value, Where where) { return {builder_.get(), builder_->constant(std::move(value), source_of(where))}; }
void Model::output(const std::string& name, const Tensor& value, Where where) {
  want_tensors("output", {value}, where);
  if (&value.graph() != builder_.get()) throw error_at(Code::other_model, fmt::format("output \"{}\": the tensor is of another model", name), where, {{"value", value}}).with_help("build it in this Model");
  for (const NamedOutput& o : builder_->graph().outputs)
    if (o.name == name) throw error_at(Code::duplicate_name, fmt::format("an output \"{}\" exists already", name), where, {{"the first", {builder_.get(), o.node}}, {"this", value}}).with_help("use another name");
  builder_->output(name, value.id());
}
void Model::state(const std::string& name, const Tensor& input, const Tensor& next, Where where) {
  want_tensors("state", {input, next}, where);
  const auto fail = [&](Code code, const std::string& what, const std::string& help) { throw error_at(code, fmt::format("state \"{}\": {}", name, what), where, {{"input", input}, {"next", next}}).with_help(help); };
  if (&input.graph() != builder_.get()) fail(Code::other_model, "the tensors are of another model", "build them in this Model");
  if (builder_->graph().at(input.id()).op != Op::input) fail(Code::bad_state, "it does not start from an input", "make a model.input and pass that");
  if (!(input.type() == next.type())) fail(Code::bad_state, fmt::format("the next value is {}, the input {}", to_string(next.type()), to_string(input.type())), "cast or reshape the next value");
  for (const State& s : builder_->graph().states)
    if (s.name == name) fail(Code::duplicate_name, "the name is in use", "use another name");
  builder_->state(name, input.id(), next.id());
}

Tensor operator+(const Operand& a, const Operand& b) { return binary(Op::add, "+", a, b, b.where); }
Tensor operator-(const Operand& a, const Operand& b) { return binary(Op::sub, "-", a, b, b.where); }
Tensor operator*(const Operand& a, const Operand& b) { return binary(Op::mul, "*", a, b, b.where); }
Tensor operator/(const Operand& a, const Operand& b) { return binary(Op::div, "/", a, b, b.where); }
Tensor operator-(const Located& a) { return add_node("-", Op::neg, {a.tensor}, {}, a.where); }

#define QN_UNARY(name) \
  Tensor name(const Tensor& x, Where where) { return add_node(#name, Op::name, {x}, {}, where); }
QN_UNARY(exp) QN_UNARY(log) QN_UNARY(tanh) QN_UNARY(erf) QN_UNARY(sqrt) QN_UNARY(rsqrt) QN_UNARY(sin) QN_UNARY(cos)
QN_UNARY(abs) QN_UNARY(sign) QN_UNARY(floor) QN_UNARY(stop_gradient) QN_UNARY(logical_not)
QN_UNARY(expm1) QN_UNARY(log1p) QN_UNARY(tan) QN_UNARY(asin) QN_UNARY(acos) QN_UNARY(sinh) QN_UNARY(cosh) QN_UNARY(asinh)
QN_UNARY(acosh) QN_UNARY(atanh) QN_UNARY(round) QN_UNARY(erfc) QN_UNARY(erf_inv) QN_UNARY(lgamma) QN_UNARY(digamma)
#undef QN_UNARY
#define QN_BINARY(name, op) \
  Tensor name(const Operand& a, const Operand& b, Where where) { return binary(Op::op, #name, a, b, where); }
QN_BINARY(pow, pow) QN_BINARY(mod, mod) QN_BINARY(maximum, max) QN_BINARY(minimum, min) QN_BINARY(equal, eq) QN_BINARY(not_equal, ne)
QN_BINARY(less, lt) QN_BINARY(less_equal, le) QN_BINARY(logical_and, logical_and) QN_BINARY(logical_or, logical_or)
QN_BINARY(rem, rem) QN_BINARY(atan2, atan2) QN_BINARY(bit_and, bit_and) QN_BINARY(bit_or, bit_or) QN_BINARY(bit_xor, bit_xor)
QN_BINARY(shift_left, shift_left) QN_BINARY(shift_right_logical, shift_right_logical) QN_BINARY(shift_right_arithmetic, shift_right_arithmetic)
#undef QN_BINARY

static void want_dtype(bool good, const char* name, const char* wanted, const Tensor& x, const Where& where) {
  if (!good) throw error_at(Code::dtype_unsupported, fmt::format("{}: wants {}, got {}", name, wanted, to_string(x.type())), where, {{"operand", x}}).with_help("cast or compare it first");
}
static Tensor with_number(Op op, const char* name, const Tensor& x, double number, const Where& where) { return binary(op, name, Operand(x, where), Operand(number, where), where); }

Tensor atan(const Tensor& x, Where where) { return with_number(Op::atan2, "atan", x, 1, where); }
Tensor ceil(const Tensor& x, Where where) { return -Located(floor(-Located(x, where), where), where); }
Tensor trunc(const Tensor& x, Where where) { return sign(x, where) * Operand(floor(abs(x, where), where), where); }
Tensor log2(const Tensor& x, Where where) { return with_number(Op::mul, "log2", log(x, where), std::numbers::log2e, where); }
Tensor log10(const Tensor& x, Where where) { return with_number(Op::mul, "log10", log(x, where), std::numbers::log10e, where); }
Tensor exp2(const Tensor& x, Where where) { return binary(Op::pow, "exp2", Operand(2, where), Operand(x, where), where); }
Tensor square(const Tensor& x, Where where) { return binary(Op::mul, "square", Operand(x, where), Operand(x, where), where); }
Tensor reciprocal(const Tensor& x, Where where) { return binary(Op::div, "reciprocal", Operand(1, where), Operand(x, where), where); }
Tensor bit_not(const Tensor& x, Where where) {   // numbers saturate: all ones is the greatest of unsigned dtypes
  want_tensors("bit_not", {x}, where);
  return with_number(Op::bit_xor, "bit_not", x, is_unsigned(x.dtype()) ? 0x1p64 : -1, where);
}
Tensor is_nan(const Tensor& x, Where where) { return binary(Op::ne, "is_nan", Operand(x, where), Operand(x, where), where); }
Tensor is_inf(const Tensor& x, Where where) {
  want_tensors("is_inf", {x}, where);
  want_dtype(is_float(x.dtype()), "is_inf", "floats", x, where);
  return with_number(Op::eq, "is_inf", abs(x, where), std::numeric_limits<double>::infinity(), where);
}
Tensor is_finite(const Tensor& x, Where where) {
  want_tensors("is_finite", {x}, where);
  want_dtype(is_float(x.dtype()), "is_finite", "floats", x, where);
  return with_number(Op::lt, "is_finite", abs(x, where), std::numeric_limits<double>::infinity(), where);
}

Tensor greater(const Operand& a, const Operand& b, Where where) { return binary(Op::lt, "greater", b, a, where); }
Tensor greater_equal(const Operand& a, const Operand& b, Where where) { return binary(Op::le, "greater_equal", b, a, where); }
Tensor logical_xor(const Operand& a, const Operand& b, Where where) {
  for (const Operand* o : {&a, &b})
    if (o->tensor) want_dtype(o->tensor.dtype() == DType::boolean, "logical_xor", "bools", o->tensor, where);
  return binary(Op::ne, "logical_xor", a, b, where);
}
Tensor floor_divide(const Operand& a, const Operand& b, Where where) {
  const Tensor q = binary(Op::div, "floor_divide", a, b, where);
  return is_float(q.dtype()) ? floor(q, where) : q;
}
// max + log(1 + e^-|a-b|); the difference of equal infinities is 0.
Tensor logaddexp(const Operand& a, const Operand& b, Where at) {
  const Tensor top = binary(Op::max, "logaddexp", a, b, at), difference = binary(Op::sub, "logaddexp", a, b, at);
  const Tensor apart = abs(where(equal(a, b, at), Operand(0, at), difference, at), at);
  return top + Operand(log1p(exp(-Located(apart, at), at), at), at);
}
Tensor clip(const Tensor& x, const Operand& low, const Operand& high, Where where) {
  return binary(Op::min, "clip", Operand(binary(Op::max, "clip", Operand(x, where), low, where), where), high, where);
}

Tensor where(const Tensor& condition, const Operand& a, const Operand& b, Where at) {
  if (!a.tensor && !b.tensor) throw error_at(Code::empty_tensor, "where: one arm must be a tensor", at).with_help("make one of the numbers a model.constant");
  want_tensors("where", {condition}, at);
  const Tensor x = as_tensor(a, a.tensor ? a.tensor : b.tensor), y = as_tensor(b, x);
  want_tensors("where", {condition, x, y}, at);
  Shape shape = common_shape("where", x, y, at);
  const Tensor wide = broadcast_to(x, shape, at);
  shape = common_shape("where", condition, wide, at);
  return add_node("where", Op::select, {broadcast_to(condition, shape, at), broadcast_to(x, shape, at), broadcast_to(y, shape, at)}, {}, at);
}

Tensor cast(const Tensor& x, DType dtype, Where where) {
  want_tensors("cast", {x}, where);
  if (x.dtype() == dtype) return x;
  Attrs attrs;
  attrs.dtype = {dtype};
  return add_node("cast", Op::cast, {x}, std::move(attrs), where);
}

Tensor bitcast(const Tensor& x, DType dtype, Where where) {
  Attrs attrs;
  attrs.dtype = {dtype};
  return add_node("bitcast", Op::bitcast, {x}, std::move(attrs), where);
}

Tensor sum(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_sum, "sum", x, std::move(axes), where); }
Tensor max(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_max, "max", x, std::move(axes), where); }
Tensor min(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_min, "min", x, std::move(axes), where); }
Tensor prod(const Tensor& x, Shape axes, Where where) { return reduce(Op::reduce_prod, "prod", x, std::move(axes), where); }
Tensor mean(const Tensor& x, Shape axes, Where where) {
  const Tensor total = sum(x, std::move(axes), where);
  const int64_t n = total.type().size() ? x.type().size() / total.type().size() : 0;
  if (is_symbolic(n)) {
    Attrs attrs;
    attrs.shape = {n};
    const Tensor size = cast({&x.graph(), x.graph().add(Op::extent, {}, std::move(attrs), source_of(where))}, x.dtype(), where);
    return binary(Op::div, "mean", total, Operand(size, where), where);
  }
  return binary(Op::mul, "mean", total, Operand(1 / static_cast<double>(n), where), where);
}
Tensor argmax(const Tensor& x, int64_t axis, Where where) { return reduce(Op::argmax, "argmax", x, {axis}, where); }

Tensor contract(const std::string& spec, const Tensor& a, const Tensor& b, Where where) {
  Attrs attrs;
  attrs.spec = spec;
  return add_node("contract", Op::contract, {a, b}, std::move(attrs), where);
}

Tensor matmul(const Tensor& a, const Tensor& b, Where where) {
  want_tensors("matmul", {a, b}, where);
  const int64_t ra = a.rank(), rb = b.rank();
  const auto fail = [&](Code code, const std::string& message) { return error_at(code, message, where, {{"lhs", a}, {"rhs", b}}); };
  if (ra < 2 || rb < 2 || (rb > 2 && rb != ra))
    throw fail(Code::bad_rank, fmt::format("matmul: wants [..., m, k] by [k, n] or [..., k, n], got {} by {}", to_string(a.type()), to_string(b.type()))).with_help(ra < 2 ? "expand_dims(lhs, 0) makes a vector one row" : rb < 2 ? "expand_dims(rhs, -1) makes a vector one column" : "give both the same leading axes");
  const int64_t ka = a.shape().back(), kb = b.shape()[static_cast<size_t>(rb - 2)];
  if (ka != kb)
    throw fail(Code::inner_dims, fmt::format("matmul: inner dimensions differ: {} (lhs dim {}) vs {} (rhs dim {})", extent_text(ka), ra - 1, extent_text(kb), rb - 2))
        .with_note("matmul contracts the last axis of lhs with the second-to-last of rhs")
        .with_help(rb == 2 && b.shape()[1] == ka ? "did you mean transpose(rhs, {1, 0})?" : fmt::format("did you mean the shape {{{}{}, {}}} for {}?", rb > 2 ? "..., " : "", ka, b.shape().back(), b.graph().graph().at(b.id()).op == Op::input ? b.graph().describe(b.id()) : "rhs"));
  std::string batch;
  for (int64_t d = 0; d + 2 < ra; ++d) batch += static_cast<char>('a' + d);
  for (int64_t d = 0; rb > 2 && d + 2 < rb; ++d)
    if (a.shape()[static_cast<size_t>(d)] != b.shape()[static_cast<size_t>(d)])
      throw fail(Code::shapes_differ, fmt::format("matmul: batch dimensions differ: {} vs {}", to_string(a.type()), to_string(b.type()))).with_help("broadcast_to one of them first");
  return contract(fmt::format("{}xy,{}yz->{}xz", batch, rb > 2 ? batch : "", batch), a, b, where);
}

Tensor reshape(const Tensor& x, Shape shape, Where where) {
  Attrs attrs;
  attrs.shape = std::move(shape);
  return add_node("reshape", Op::reshape, {x}, std::move(attrs), where);
}
Tensor transpose(const Tensor& x, Shape axes, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), "transpose", where);
  return add_node("transpose", Op::transpose, {x}, std::move(attrs), where);
}
Tensor broadcast_to(const Tensor& x, Shape shape, Where where) {
  want_tensors("broadcast_to", {x}, where);
  if (x.shape() == shape) return x;
  if (static_cast<int64_t>(shape.size()) < x.rank())
    throw error_at(Code::bad_rank, fmt::format("broadcast_to: {} has more dims than the {} of the wanted shape", to_string(x.type()), shape.size()), where, {{"operand", x}}).with_help("reshape or reduce it first");
  Attrs attrs;
  for (int64_t d = 0; d < x.rank(); ++d) attrs.axes.push_back(d + static_cast<int64_t>(shape.size()) - x.rank());
  attrs.shape = std::move(shape);
  return add_node("broadcast_to", Op::broadcast, {x}, std::move(attrs), where);
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
  return add_node("slice", Op::slice, {x}, std::move(attrs), where);
}
Tensor pad(const Tensor& x, Shape low, Shape high, double value, Where where) {
  Attrs attrs;
  want_tensors("pad", {x}, where);
  attrs.low = std::move(low);
  attrs.high = std::move(high);
  return add_node("pad", Op::pad, {x, {&x.graph(), x.graph().scalar(x.dtype(), value, source_of(where))}}, std::move(attrs), where);
}
Tensor reverse(const Tensor& x, Shape axes, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, std::move(axes), "reverse", where);
  return add_node("reverse", Op::reverse, {x}, std::move(attrs), where);
}
Tensor concat(const std::vector<Tensor>& parts, int64_t axis, Where where) {
  if (parts.empty()) throw error_at(Code::argument_count, "concat: wants at least one tensor", where).with_help("concat({a, b}, axis)");
  Attrs attrs;
  attrs.axes = normalised(parts[0], {axis}, "concat", where);
  return add_node("concat", Op::concat, parts, std::move(attrs), where);
}
Tensor expand_dims(const Tensor& x, int64_t axis, Where where) {
  want_tensors("expand_dims", {x}, where);
  if (axis < -x.rank() - 1 || axis > x.rank())
    throw error_at(Code::bad_axis, fmt::format("expand_dims: axis {} is outside {} with one more dim", axis, to_string(x.type())), where, {{"operand", x}}).with_help(fmt::format("axes run from {} to {}", -x.rank() - 1, x.rank()));
  Shape shape = x.shape();
  shape.insert(shape.begin() + (axis < 0 ? axis + x.rank() + 1 : axis), 1);
  return reshape(x, std::move(shape), where);
}
Tensor take(const Tensor& x, const Tensor& index, int64_t axis, Where where) {
  Attrs attrs;
  attrs.axes = normalised(x, {axis}, "take", where);
  return add_node("take", Op::take, {x, index}, std::move(attrs), where);
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
  const Tensor bits = add_node("random_uniform", Op::random, {key}, std::move(attrs), where);
  // 24 bits: exact in f32. u32 division is floor division.
  const Tensor top = binary(Op::div, "random_uniform", bits, Operand(256, where), where);
  return binary(Op::mul, "random_uniform", cast(top, DType::f32, where), Operand(0x1p-24, where), where);
}

}  // namespace quern
