// simplify: rebuilds the graph node by node, applying the rule table until no rule holds; equal nodes merge on the way.
//   before: %2 = neg %0;  %3 = neg %2;  %4 = mul %3, %1 (a constant 1);  output %4
//   after:  output %0
#include "passes/graph/rebuild.h"
#include "passes/graph/rules.h"
#include "passes/pass.h"

namespace quern {

Graph simplify(const Graph& graph, PassContext& context) {
  GraphBuilder b;
  return rebuild(graph, b, [&](const Node& n, const std::vector<NodeId>& args, const SourceLoc& where) {
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
    return id;
  });
}

}  // namespace quern
