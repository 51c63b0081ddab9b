// The graph value and its builder; see graph.h.
#include "ir/graph.h"

#include <algorithm>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/hash.h"
#include "ir/symbol.h"

namespace quern {

std::string to_string(const Type& type) {
  if (!type.results.empty()) {
    std::string out;
    for (const Type& t : type.results) out += (out.empty() ? "{" : ", ") + to_string(t);
    return out + "}";
  }
  return fmt::format("{}[{}]", name_of(type.dtype), shape_text(type.shape));
}

bool Attrs::operator==(const Attrs& other) const {
  const auto same = [](const auto& a, const auto& b) { return a == b || (a && b && *a == *b); };
  return axes == other.axes && shape == other.shape && start == other.start && limit == other.limit &&
         stride == other.stride && dilation == other.dilation && base == other.base && low == other.low && high == other.high && spec == other.spec &&
         name == other.name && dtype == other.dtype && index == other.index && transform == other.transform &&
         same(value, other.value) && same(body, other.body) && same(otherwise, other.otherwise) && same(derivative, other.derivative);
}

namespace {

uint64_t hash_of(const Shape& v) {
  uint64_t h = v.size();
  for (int64_t x : v) h = mix(h, static_cast<uint64_t>(x));
  return h;
}

uint64_t hash_of(const Type& type) {
  uint64_t h = mix(static_cast<uint64_t>(type.dtype), hash_of(type.shape));
  for (const Type& t : type.results) h = mix(h, hash_of(t));
  return h;
}

struct AttrHash {
  uint64_t h = 0;
  void operator()(const char*, const Shape& v) { h = mix(h, hash_of(v)); }
  void operator()(const char*, const std::string& v) { h = mix(h, hash64(v)); }
  void operator()(const char*, const std::vector<DType>& v) { h = mix(h, v.empty() ? 99 : static_cast<uint64_t>(v[0])); }
  void operator()(const char*, Transform v) { h = mix(h, static_cast<uint64_t>(v)); }
  void operator()(const char*, const std::shared_ptr<const HostTensor>& v) {
    if (v) h = mix(h, hash64({reinterpret_cast<const char*>(v->bytes.data()), v->bytes.size()}));
  }
  void operator()(const char*, const std::shared_ptr<const Graph>& v) {
    if (v) h = mix(h, v->hash());
  }
};

uint64_t hash_of(const Node& node) {
  uint64_t h = mix(static_cast<uint64_t>(node.op), hash_of(node.type));
  for (NodeId a : node.args) h = mix(h, static_cast<uint64_t>(a));
  AttrHash visitor{h};
  const_cast<Attrs&>(node.attrs).fields(visitor);
  return visitor.h;
}

}  // namespace

std::vector<NodeId> Graph::roots() const {
  std::vector<NodeId> out;
  for (const NamedOutput& o : outputs) out.push_back(o.node);
  for (const State& s : states) out.push_back(s.output);
  return out;
}

const State* Graph::state_of(NodeId input) const {
  const auto found = std::find_if(states.begin(), states.end(), [&](const State& s) { return s.input == input; });
  return found == states.end() ? nullptr : &*found;
}

std::vector<int> Graph::use_counts() const {
  std::vector<int> uses(nodes.size());
  for (const Node& n : nodes)
    for (NodeId a : n.args) ++uses[static_cast<size_t>(a)];
  for (NodeId r : roots()) ++uses[static_cast<size_t>(r)];
  return uses;
}

uint64_t Graph::hash() const {
  uint64_t h = nodes.size();
  for (const Node& n : nodes) {
    if (n.op == Op::input) h = mix(h, hash_of(n.type));
    else h = mix(h, hash_of(n));
  }
  for (NodeId i : inputs) h = mix(h, static_cast<uint64_t>(i));
  for (NodeId r : roots()) h = mix(h, static_cast<uint64_t>(r));
  for (const State& s : states) h = mix(h, static_cast<uint64_t>(s.input));
  return symbol ? mix(mix(h, static_cast<uint64_t>(symbol->low)), static_cast<uint64_t>(symbol->high)) : h;
}

bool Graph::operator==(const Graph& other) const {
  if (nodes.size() != other.nodes.size() || inputs != other.inputs || outputs.size() != other.outputs.size() ||
      states.size() != other.states.size() || symbol != other.symbol)
    return false;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node &a = nodes[i], &b = other.nodes[i];
    if (a.op != b.op || !(a.type == b.type) || a.args != b.args || !(a.attrs == b.attrs)) return false;
  }
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].name != other.outputs[i].name || outputs[i].node != other.outputs[i].node) return false;
  for (size_t i = 0; i < states.size(); ++i)
    if (states[i].name != other.states[i].name || states[i].input != other.states[i].input ||
        states[i].output != other.states[i].output)
      return false;
  return true;
}

NodeId GraphBuilder::result(NodeId node, size_t i, SourceLoc where) {
  Attrs which;
  which.index = {static_cast<int64_t>(i)};
  return add(Op::result, {node}, std::move(which), std::move(where));
}

std::vector<NodeId> GraphBuilder::results(NodeId node, SourceLoc where) {
  std::vector<NodeId> out;
  for (size_t i = 0, n = type(node).results.size(); i < n; ++i) out.push_back(result(node, i, where));
  return out;
}

void GraphBuilder::symbol(const std::optional<Symbol>& symbol) {
  if (symbol && (symbol->low < 1 || symbol->high < symbol->low || symbol->high > kMaxSize))
    throw Error(Code::symbol_shape, fmt::format("the symbol \"{}\" from {} to {}: wants 1 <= low <= high <= {}", symbol->name, symbol->low, symbol->high, kMaxSize)).with_help("give it bounds like 1 and 4096");
  if (symbol && graph_.symbol && symbol != graph_.symbol)
    throw Error(Code::symbol_shape, fmt::format("a graph has one symbol: \"{}\" is there before \"{}\"", graph_.symbol->name, symbol->name)).with_help("make the other size a constant");
  graph_.symbol = symbol;
}

SourceId GraphBuilder::intern(const SourceLoc& where) {
  if (where.line == 0) return 0;
  for (size_t i = graph_.sources.size(); i-- > 1;)
    if (graph_.sources[i] == where) return static_cast<SourceId>(i);
  graph_.sources.push_back(where);
  return static_cast<SourceId>(graph_.sources.size() - 1);
}

// Where the type rule is broken, the error tells what the operands are.
Type GraphBuilder::infer(Op op, const std::vector<NodeId>& args, const std::vector<Type>& types, const Attrs& attrs, const SourceLoc& where) const {
  try {
    return def_of(op).infer({op, types, attrs, where});
  } catch (Error& e) {
    if (e.where.line == 0) e.move_to(where);   // of helpers that know no line
    if (e.operands.empty())
      for (size_t i = 0; i < args.size(); ++i) e.with_operand(args.size() == 2 ? (i ? "rhs" : "lhs") : fmt::format("argument {}", i), to_string(types[i]));
    for (size_t i = 0; i < args.size(); ++i) e.describe_operand(i, describe(args[i]), graph_.where(args[i]));
    throw;
  }
}

std::string GraphBuilder::describe(NodeId id) const {
  const Node& n = graph_.at(id);
  return n.op == Op::input ? fmt::format("input \"{}\"", n.attrs.name) : std::string(name_of(n.op));
}

// The type rule takes the symbol for a large number. A slice of a symbolic dim is of whole multiples of it, or of rows that are
// there at the least size.
static void want_slice_at_all_sizes(const Symbol& symbol, const Shape& shape, const Attrs& a, SourceLoc where) {
  const auto whole = [](int64_t x) { return x % kSymbol == 0; };
  for (size_t d = 0; d < shape.size(); ++d) {
    if (!is_symbolic(shape[d])) continue;
    const int64_t least = at_size(shape[d], symbol.low);
    const std::string part = fmt::format("slice [{}:{}:{}] of dim {} of extent {}", extent_text(a.start[d]), extent_text(a.limit[d]), a.stride[d], d, extent_text(shape[d]));
    if (is_symbolic(a.limit[d]) && !(whole(a.start[d]) && a.stride[d] == 1)) throw Error(Code::symbol_shape, part + ": its extent is no multiple of the symbol", where).with_help("slice whole multiples, or make the size a constant");
    if (!is_symbolic(a.limit[d]) && a.limit[d] > least) throw Error(Code::slice_bounds, fmt::format("{} is outside it where the size is {}", part, symbol.low), where).with_help("raise the symbol's lower bound");
  }
}

NodeId GraphBuilder::add(Op op, std::vector<NodeId> args, Attrs attrs, SourceLoc where) {
  std::vector<Type> types;
  for (NodeId a : args) {
    QN_CHECK(a >= 0 && a < static_cast<NodeId>(graph_.nodes.size()), "an argument is an earlier node of this graph");
    types.push_back(graph_.type(a));
  }
  if (op != Op::result)
    for (const Type& t : types) QN_CHECK(t.results.empty(), "only `result` may use a value with several results");
  if (op == Op::random && !random_name_.empty()) attrs.name = random_name_;
  Node node{op, infer(op, args, types, attrs, where), std::move(args), std::move(attrs), 0};
  if (graph_.symbol)
    for (int64_t d : node.type.shape)
      if (d >= kSymbol && !is_symbolic(d))
        throw Error(Code::symbol_shape, fmt::format("{}: a dim is a constant below 2^31-1 or a constant times the symbol \"{}\", not n{:+}", name_of(op), graph_.symbol->name, d % kSymbol > kSymbol / 2 ? d % kSymbol - kSymbol : d % kSymbol), where).with_help("make it a multiple of the symbol");
  if (graph_.symbol && op == Op::slice) want_slice_at_all_sizes(*graph_.symbol, types[0].shape, node.attrs, where);
  const uint64_t h = hash_of(node);
  if (op != Op::input) {
    const auto [begin, end] = table_.equal_range(h);
    for (auto it = begin; it != end; ++it) {
      const Node& old = graph_.at(it->second);
      if (old.op == node.op && old.args == node.args && old.type == node.type && old.attrs == node.attrs)
        return it->second;
    }
  }
  node.source = intern(where);
  const NodeId id = static_cast<NodeId>(graph_.nodes.size());
  graph_.nodes.push_back(std::move(node));
  if (op == Op::input) graph_.inputs.push_back(id);
  else table_.emplace(h, id);
  return id;
}

NodeId GraphBuilder::input(std::string name, Type type, SourceLoc where) {
  Attrs attrs;
  attrs.name = std::move(name);
  attrs.dtype = {type.dtype};
  attrs.shape = std::move(type.shape);
  return add(Op::input, {}, std::move(attrs), std::move(where));
}

NodeId GraphBuilder::placeholder(std::string name, Type type, SourceLoc where) {
  const NodeId id = input(std::move(name), std::move(type), std::move(where));
  graph_.inputs.pop_back();
  placeholders_.push_back(id);
  return id;
}

Graph GraphBuilder::finish() {
  if (placeholders_.empty()) return std::move(graph_);
  Graph out = dead_code(graph_);
  std::vector<char> listed(out.nodes.size());
  for (NodeId i : out.inputs) listed[static_cast<size_t>(i)] = 1;
  for (size_t i = 0; i < out.nodes.size(); ++i)
    if (out.nodes[i].op == Op::input && !listed[i])
      throw Error(Code::other_model, fmt::format("a tensor made of the argument \"{}\" of a transformed function is used outside of that function", out.nodes[i].attrs.name), out.where(static_cast<NodeId>(i))).with_help("return it from the function and use the result of the transform");
  return out;
}

NodeId GraphBuilder::constant(HostTensor value, SourceLoc where) {
  Attrs attrs;
  attrs.value = std::make_shared<const HostTensor>(std::move(value));
  return add(Op::constant, {}, std::move(attrs), std::move(where));
}

NodeId GraphBuilder::scalar(DType dtype, double value, SourceLoc where) {
  return constant(HostTensor::full(dtype, {}, value), std::move(where));
}

NodeId GraphBuilder::full(const Type& type, double value, SourceLoc where) {
  Attrs attrs;
  attrs.shape = type.shape;   // before a node is added: `type` may live in the node vector
  const NodeId s = scalar(type.dtype, value, where);
  if (attrs.shape.empty()) return s;
  return add(Op::broadcast, {s}, std::move(attrs), std::move(where));
}

std::vector<NodeId> GraphBuilder::inline_body(const Graph& body, const std::vector<NodeId>& args) {
  QN_CHECK(args.size() == body.inputs.size(), "a body is applied to as many arguments as it has inputs");
  std::vector<NodeId> map(body.nodes.size(), -1);
  for (size_t i = 0; i < args.size(); ++i) {
    QN_CHECK(type(args[i]) == body.type(body.inputs[i]), "an argument has the type of the body's input");
    map[static_cast<size_t>(body.inputs[i])] = args[i];
  }
  for (size_t i = 0; i < body.nodes.size(); ++i) {
    const Node& n = body.nodes[i];
    if (n.op == Op::input) continue;
    std::vector<NodeId> mapped;
    for (NodeId a : n.args) mapped.push_back(map[static_cast<size_t>(a)]);
    map[i] = add(n.op, std::move(mapped), n.attrs, body.where(static_cast<NodeId>(i)));
  }
  std::vector<NodeId> out;
  for (const NamedOutput& o : body.outputs) out.push_back(map[static_cast<size_t>(o.node)]);
  return out;
}

Graph dead_code(const Graph& graph) {
  std::vector<char> live(graph.nodes.size());
  for (NodeId r : graph.roots()) live[static_cast<size_t>(r)] = 1;
  for (NodeId i : graph.inputs) live[static_cast<size_t>(i)] = 1;
  for (size_t i = graph.nodes.size(); i-- > 0;)
    if (live[i])
      for (NodeId a : graph.nodes[i].args) live[static_cast<size_t>(a)] = 1;
  Graph out;
  out.sources = graph.sources;
  out.symbol = graph.symbol;
  std::vector<NodeId> map(graph.nodes.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!live[i]) continue;
    map[i] = static_cast<NodeId>(out.nodes.size());
    out.nodes.push_back(graph.nodes[i]);
    for (NodeId& a : out.nodes.back().args) a = map[static_cast<size_t>(a)];
  }
  for (NodeId i : graph.inputs) out.inputs.push_back(map[static_cast<size_t>(i)]);
  for (const NamedOutput& o : graph.outputs) out.outputs.push_back({o.name, map[static_cast<size_t>(o.node)]});
  for (const State& s : graph.states)
    out.states.push_back({s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]});
  return out;
}

}  // namespace quern
