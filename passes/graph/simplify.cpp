// simplify: rebuilds the graph node by node, applying the rule table until no rule holds; equal nodes merge on the way.
//   before: %2 = neg %0;  %3 = neg %2;  %4 = mul %3, %1 (a constant 1);  output %4
//   after:  output %0
#include "passes/graph/rules.h"
#include "passes/pass.h"

namespace quern {

Graph simplify(const Graph& graph, PassContext& context) {
  GraphBuilder b;
  b.symbol(graph.symbol);
  std::vector<NodeId> map(graph.nodes.size(), -1);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    const SourceLoc where = graph.where(static_cast<NodeId>(i));
    if (n.op == Op::input) {
      map[i] = b.input(n.attrs.name, n.type, where);
      continue;
    }
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    NodeId id = b.add(n.op, args, n.attrs, where);
    for (bool changed = true; changed;) {
      const Node node = b.graph().at(id);   // by value: rules add nodes
      const Match match{b, node.op, node.args, node.attrs, node.type};
      changed = add_rules(match, [&](const char*, bool holds, const auto& make) {
        if (!holds || !context.allow()) return false;
        const NodeId next = make();
        if (next == id) return false;
        id = next;
        return true;
      });
    }
    map[i] = id;
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : graph.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  return dead_code(b.finish());
}

}  // namespace quern
