// A graph made again node by node: what the passes that replace single nodes share.
#pragma once
#include <optional>
#include <vector>

#include "ir/graph.h"
#include "ir/op.h"

namespace quern {

/// The float that every element of the node is, where it is made of one constant.
inline std::optional<double> number_of(const Graph& graph, NodeId id) {
  const Node& n = graph.at(id);
  if (n.op == Op::broadcast || n.op == Op::reshape || n.op == Op::cast) return number_of(graph, n.args[0]);
  return n.op == Op::constant && n.type.size() == 1 && is_float(n.type.dtype) ? std::optional(n.attrs.value->get(0).f) : std::nullopt;
}

/// In `b`, an empty builder: inputs, outputs and states stay, for every other node stands `make(node, arguments in b, where)`.
/// What nothing reads any more is left out.
template <class F>
Graph rebuild(const Graph& graph, GraphBuilder& b, F&& make) {
  b.symbol(graph.symbol);
  std::vector<NodeId> map(graph.nodes.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    const SourceLoc where = graph.where(static_cast<NodeId>(i));
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    map[i] = n.op == Op::input ? b.input(n.attrs.name, n.type, where) : make(n, std::move(args), where);
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : graph.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  return dead_code(b.finish());
}

}  // namespace quern
