// See closure.h.
#include "frontend/closure.h"

#include <map>

#include <fmt/format.h>

namespace quern {
namespace {

// Random bits of this name, the node's own or those of its bodies.
bool draws(const Node& n, const std::string& name) {
  if (n.op == Op::random) return n.attrs.name == name;
  for (const auto* body : {&n.attrs.body, &n.attrs.otherwise, &n.attrs.derivative})
    if (*body)
      for (const Node& inner : (*body)->nodes)
        if (draws(inner, name)) return true;
  return false;
}

}  // namespace

Closure close(const GraphBuilder& b, const std::vector<NodeId>& from, const std::vector<NodeId>& results, const std::string& random) {
  const std::vector<Node>& nodes = b.graph().nodes;
  std::vector<char> depends(nodes.size()), needed(nodes.size());
  for (NodeId f : from) depends[static_cast<size_t>(f)] = 1;
  for (size_t i = 0; i < nodes.size(); ++i) {
    depends[i] = depends[i] || (!random.empty() && draws(nodes[i], random));
    for (NodeId a : nodes[i].args) depends[i] = depends[i] || depends[static_cast<size_t>(a)];
  }
  GraphBuilder body;
  std::map<NodeId, NodeId> map;
  Closure out;
  const std::function<bool(NodeId)> spread_constant = [&](NodeId id) {
    const Node& n = nodes[static_cast<size_t>(id)];
    return n.op == Op::constant || n.op == Op::iota || ((n.op == Op::broadcast || n.op == Op::reshape) && spread_constant(n.args[0]));
  };
  const std::function<NodeId(NodeId)> captured = [&](NodeId id) {
    if (const auto it = map.find(id); it != map.end()) return it->second;
    if (const Node& n = nodes[static_cast<size_t>(id)]; n.op == Op::broadcast || spread_constant(id)) {
      std::vector<NodeId> inner;
      for (NodeId a : n.args) inner.push_back(captured(a));
      return map[id] = body.add(n.op, std::move(inner), n.attrs, b.graph().where(id));
    }
    out.args.push_back(id);
    return map[id] = body.input(fmt::format("x{}", out.args.size() - 1), b.type(id));
  };
  for (NodeId f : from) {
    out.args.push_back(f);
    map[f] = body.input(fmt::format("x{}", out.args.size() - 1), b.type(f));
  }
  for (NodeId r : results) needed[static_cast<size_t>(r)] = depends[static_cast<size_t>(r)];
  for (size_t i = nodes.size(); i-- > 0;)
    if (needed[i] && !map.count(static_cast<NodeId>(i)))
      for (NodeId a : nodes[i].args)
        if (depends[static_cast<size_t>(a)]) needed[static_cast<size_t>(a)] = 1;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    if (!needed[i] || map.count(id)) continue;
    std::vector<NodeId> inner;
    for (NodeId a : nodes[i].args) inner.push_back(captured(a));
    map[id] = body.add(nodes[i].op, std::move(inner), nodes[i].attrs, b.graph().where(id));
  }
  for (size_t r = 0; r < results.size(); ++r) body.output(fmt::format("y{}", r), captured(results[r]));
  out.attrs.body = std::make_shared<const Graph>(body.finish());
  return out;
}

std::vector<Tensor> results_of(GraphBuilder& b, const Closure& c, const Where& where, Op op) {
  const NodeId call = b.add(op, c.args, c.attrs, source_of(where));
  std::vector<Tensor> out;
  for (size_t i = 0; i < b.type(call).results.size(); ++i) {
    Attrs which;
    which.index = {static_cast<int64_t>(i)};
    out.emplace_back(&b, b.add(Op::result, {call}, std::move(which), source_of(where)));
  }
  return out;
}

GraphBuilder& graph_of(const char* name, const std::vector<Tensor>& args, const Where& where) {
  if (args.empty()) throw error_at(Code::argument_count, fmt::format("{}: the function has no arguments", name), where).with_help("pass what it is a function of, and capture the rest");
  for (const Tensor& t : args)
    if (!t || &t.graph() != &args[0].graph())
      throw error_at(t ? Code::other_model : Code::empty_tensor, fmt::format("{}: an argument is {}", name, t ? "of another model" : "a default-constructed Tensor"), where, {{"the first", args[0]}, {"argument", t}}).with_help("pass tensors of one Model");
  return args[0].graph();
}

Traced trace_function(const char* name, GraphBuilder& b, const Function& f, const std::vector<Type>& types, const Where& where) {
  std::vector<Tensor> inside;
  Traced traced;
  for (const Type& t : types) {
    traced.from.push_back(b.placeholder(fmt::format("argument {} of {}", traced.from.size(), name), t, source_of(where)));
    inside.emplace_back(&b, traced.from.back());
  }
  const std::vector<Tensor> out = f(inside);
  if (out.empty()) throw error_at(Code::argument_count, fmt::format("{}: the function returns nothing", name), where).with_help("return its tensors");
  for (const Tensor& t : out) {
    if (!t || &t.graph() != &b) throw error_at(t ? Code::other_model : Code::empty_tensor, fmt::format("{}: the function returns a tensor that is {}", name, t ? "of another model" : "default-constructed"), where, {{"result", t}}).with_help("build it in the model of the arguments");
    traced.results.push_back(t.id());
  }
  return traced;
}

Closure trace(const char* name, GraphBuilder& b, const Function& f, const std::vector<Type>& types, const Where& where) {
  const Traced traced = trace_function(name, b, f, types, where);
  return close(b, traced.from, traced.results);
}

void put_arguments(Closure& c, const std::vector<Tensor>& args) {
  for (size_t i = 0; i < args.size(); ++i) c.args[i] = args[i].id();
}
std::vector<Type> types_of(const std::vector<Tensor>& args) {
  std::vector<Type> out;
  for (const Tensor& t : args) out.push_back(t.type());
  return out;
}
std::vector<Tensor> part(const std::vector<Tensor>& all, size_t first, size_t limit) {
  return {all.begin() + static_cast<int64_t>(first), all.begin() + static_cast<int64_t>(limit)};
}

}  // namespace quern
