// The op table and the helpers of ir/ops; see define.h.
#include "ir/ops/define.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "ir/symbol.h"

namespace quern {

static std::vector<OpDef> build_table() {
  std::vector<OpDef> table(kOpCount);
  std::vector<char> seen(kOpCount);
  for (auto family : {elementwise_ops, special_ops, compare_select_ops, cast_ops, reduce_ops, contract_ops, view_ops, window_ops,
                      take_ops, cumulate_ops, sort_ops, source_ops, body_ops})
    for (OpDef& d : family()) {
      QN_CHECK(!seen[static_cast<size_t>(d.op)], "an op is defined once");
      seen[static_cast<size_t>(d.op)] = 1;
      table[static_cast<size_t>(d.op)] = d;
    }
  QN_CHECK(std::count(seen.begin(), seen.end(), 0) == 0, "every op of ops.def is defined");
  return table;
}

const OpDef& def_of(Op op) {
  static const std::vector<OpDef> table = build_table();
  return table[static_cast<size_t>(op)];
}

std::optional<Op> parse_op(std::string_view name) {
  for (int i = 0; i < kOpCount; ++i)
    if (name_of(static_cast<Op>(i)) == name) return static_cast<Op>(i);
  return std::nullopt;
}

Scalar apply_scalar(Op op, DType out, std::span<const Scalar> args) {
  const Map* map = std::get_if<Map>(&def_of(op).meaning);
  QN_CHECK(map, "only elementwise ops apply to single values");
  return map->apply(out, args);
}

bool is_discontinuous(Op op) {
  switch (op) {
    case Op::eq:
    case Op::ne:
    case Op::lt:
    case Op::le:
    case Op::floor:
    case Op::round:
    case Op::sign:
    case Op::mod:
    case Op::rem:
    case Op::argmax:
    case Op::argsort: return true;
    default: return false;
  }
}

DType scalar_result(Op op, DType dtype) {
  return op == Op::eq || op == Op::ne || op == Op::lt || op == Op::le || op == Op::logical_and || op == Op::logical_or ||
                 op == Op::logical_not
             ? DType::boolean
             : dtype;
}

Scalar identity_of(Op combine, DType dtype) {
  const bool floating = is_float(dtype);
  const double inf = std::numeric_limits<double>::infinity();
  switch (combine) {
    case Op::add: return Scalar::of(dtype, 0);
    case Op::mul: return Scalar::of(dtype, 1);
    case Op::max: return floating ? Scalar{dtype, -inf, 0} : Scalar::of(dtype, -inf);
    case Op::min: return floating ? Scalar{dtype, inf, 0} : Scalar::of(dtype, inf);
    default: QN_CHECK(false, "a combine op has an identity"); return {};
  }
}

void InferContext::fail(Code code, const std::string& message, const std::string& help) const {
  Error error(code, fmt::format("{}: {}", name_of(op), message), where);
  for (size_t i = 0; i < args.size(); ++i)
    error.with_operand(args.size() == 2 ? (i ? "rhs" : "lhs") : args.size() == 1 ? "operand" : fmt::format("argument {}", i), to_string(args[i]));
  if (!help.empty()) error.with_help(help);
  throw error;
}

// Type rules run for every node after every pass: what they would say is put together only where it is said.
void want_args(const InferContext& c, size_t n) {
  if (c.args.size() != n) c.fail(Code::argument_count, fmt::format("takes {} arguments, got {}", n, c.args.size()), fmt::format("quern ops {} describes it", name_of(c.op)));
}

void want_same_shape(const InferContext& c) {
  for (const Type& t : c.args)
    if (t.shape != c.args[0].shape)
      c.fail(Code::shapes_differ, fmt::format("shapes differ: {} vs {}", to_string(c.args[0]), to_string(t)),
             "broadcast one of them to the other's shape");
}

void want_same_dtype(const InferContext& c) {
  for (const Type& t : c.args)
    if (t.dtype != c.args[0].dtype)
      c.fail(Code::dtypes_differ, fmt::format("dtypes differ: {} vs {}", name_of(c.args[0].dtype), name_of(t.dtype)),
             fmt::format("cast one of them to {}", name_of(c.args[0].dtype)));
}

void want_arithmetic(const InferContext& c) {
  for (const Type& t : c.args)
    if (is_storage(t.dtype)) c.fail(Code::dtype_unsupported, fmt::format("is not defined for {}, which is for storage", name_of(t.dtype)), is_f8(t.dtype) ? "cast to f32 first" : "cast to i32 first");
}

void want_axes(const InferContext& c, const Shape& axes, int64_t rank) {
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] < 0 || axes[i] >= rank)
      c.fail(Code::bad_axis, fmt::format("axis {} is outside rank {}", axes[i], rank), rank ? fmt::format("axes run from 0 to {}", rank - 1) : "a scalar has no axes");
    for (size_t j = 0; j < i; ++j)
      if (axes[i] == axes[j]) c.fail(Code::bad_axis, fmt::format("axis {} is named twice", axes[i]), "name every axis once");
  }
}

Type checked(const InferContext& c, Type type) {
  if (type.rank() > kMaxRank) c.fail(Code::too_large, fmt::format("rank {} is above the limit of {}", type.rank(), kMaxRank), "reshape to join axes");
  for (int64_t d : type.shape)
    if (d < 0 || (d > kMaxExtent && !is_symbolic(d))) c.fail(Code::too_large, fmt::format("extent {} is outside [0, 2^40]", d), "use a smaller shape; extents are not negative");
  const bool symbolic = is_symbolic(type.shape);
  int64_t n = size_of(type.dtype);
  for (int64_t d : type.shape) {
    const int64_t factor = is_symbolic(d) ? symbol_factor(d) : d;
    if (symbolic && factor >= kSymbol) c.fail(Code::symbol_shape, fmt::format("{} is neither a constant below 2^31-1 nor a constant times the symbol", extent_text(d)), "a shape may hold the symbol once, times a constant");
    if (__builtin_mul_overflow(n, factor, &n) || n > (symbolic ? kSymbol : kMaxBytes)) c.fail(Code::too_large, symbolic ? "a row of the symbol is too large: more than 2^31 bytes" : "the result is too large: more than 2^46 bytes", "use a smaller shape");
  }
  if (symbolic && std::count_if(type.shape.begin(), type.shape.end(), [](int64_t d) { return is_symbolic(d); }) > 1) c.fail(Code::symbol_shape, fmt::format("{} holds the symbol twice", to_string(type)), "a shape may hold the symbol once, times a constant");
  return type;
}

HostTensor eval_map(const Node& node, std::span<const HostTensor* const> args) {
  const ScalarFn apply = std::get<Map>(def_of(node.op).meaning).apply;
  HostTensor out(node.type.dtype, node.type.shape);
  std::array<Scalar, 3> values;
  for (int64_t i = 0, n = out.size(); i < n; ++i) {
    for (size_t a = 0; a < args.size(); ++a) values[a] = args[a]->get(i);
    out.set(i, apply(out.dtype, std::span(values.data(), args.size())));
  }
  return out;
}

void for_each_index(const Shape& shape, const std::function<void(const Shape&)>& f) {
  if (count(shape) == 0) return;
  Shape index(shape.size());
  for (;;) {
    f(index);
    size_t d = shape.size();
    while (d > 0 && ++index[d - 1] == shape[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

int64_t position(const Shape& index, const Shape& strides) {
  int64_t p = 0;
  for (size_t d = 0; d < index.size(); ++d) p += index[d] * strides[d];
  return p;
}

NodeId cast_like(GraphBuilder& b, NodeId x, DType dtype) {
  if (b.type(x).dtype == dtype) return x;
  Attrs attrs;
  attrs.dtype = {dtype};
  return b.add(Op::cast, {x}, std::move(attrs));
}

NodeId zeros_like(GraphBuilder& b, NodeId x) { return b.full(b.type(x), 0); }

NodeId broadcast_to(GraphBuilder& b, NodeId x, const Shape& axes, const Shape& shape) {
  if (b.type(x).shape == shape) return x;
  Attrs attrs;
  attrs.axes = axes;
  attrs.shape = shape;
  return b.add(Op::broadcast, {x}, std::move(attrs));
}

NodeId reduce_to(GraphBuilder& b, Op op, NodeId x, const Shape& axes) {
  if (axes.empty()) return x;
  Attrs attrs;
  attrs.axes = axes;
  return b.add(op, {x}, std::move(attrs));
}

std::vector<NodeId> vjp_of_expansion(GraphBuilder& b, NodeId node, NodeId) {
  QN_CHECK(false, fmt::format("`{}` is expanded before derivatives are taken", name_of(b.graph().at(node).op)));
  return {};
}

std::vector<Shape> sample_shapes() { return {{}, {1}, {7}, {0, 3}, {3, 5}, {2, 3, 33}, {130}}; }

std::vector<Sample> elementwise_samples(DType dtype, int arity, double low, double high) {
  std::vector<Sample> out;
  for (const Shape& shape : sample_shapes()) {
    Sample s;
    s.args.assign(static_cast<size_t>(arity), Type{dtype, shape, {}});
    s.low = low;
    s.high = high;
    out.push_back(std::move(s));
  }
  return out;
}

std::vector<Sample> wide_samples(DType dtype, int arity, double low, double high) {
  std::vector<Sample> out = elementwise_samples(dtype, arity, low, high);
  if (!is_integer(dtype)) return out;
  const double most = std::ldexp(1.0, static_cast<int>(bits_of(dtype)) - (is_unsigned(dtype) ? 0 : 1));
  Sample s;
  s.args.assign(static_cast<size_t>(arity), Type{dtype, {100}, {}});
  s.low = is_unsigned(dtype) ? 0 : -most;
  s.high = most;
  out.push_back(std::move(s));
  return out;
}

}  // namespace quern
