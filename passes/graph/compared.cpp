// See compared.h.
#include "passes/graph/compared.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "passes/graph/rebuild.h"

namespace quern {
namespace {

// What a value shows elements of.
void bases(const Graph& g, NodeId id, std::set<NodeId>& out) {
  const Node& n = g.at(id);
  if (!means<View>(n.op)) out.insert(id);
  else
    for (NodeId a : n.args) bases(g, a, out);
}
std::set<NodeId> bases(const Graph& g, NodeId id) {
  std::set<NodeId> out;
  bases(g, id, out);
  return out;
}

}  // namespace

Graph store_what_is_compared(const Graph& graph) {
  std::set<NodeId> stored;
  for (const Node& n : graph.nodes) {
    if (n.args.size() != 2 || !means<Map>(n.op) || n.type.dtype != DType::boolean || !is_float(graph.type(n.args[0]).dtype)) continue;
    for (const size_t side : {0, 1}) {
      const std::set<NodeId> values = bases(graph, n.args[side]);
      for (NodeId r : bases(graph, n.args[1 - side])) {
        if (!means<Reduce>(graph.at(r).op) && !means<Cumulate>(graph.at(r).op)) continue;
        const std::set<NodeId> reduced = bases(graph, graph.at(r).args[0]);
        std::set_intersection(values.begin(), values.end(), reduced.begin(), reduced.end(), std::inserter(stored, stored.end()));
      }
    }
  }
  GraphBuilder b;
  return rebuild(graph, b, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
    const NodeId id = static_cast<NodeId>(&n - graph.nodes.data());
    Attrs attrs = n.attrs;
    for (auto* body : {&attrs.body, &attrs.otherwise})
      if (*body && is_control_flow(n.op)) *body = std::make_shared<const Graph>(store_what_is_compared(**body));
    const NodeId made = b.add(n.op, std::move(args), std::move(attrs), where);
    return stored.count(id) && !means<Source>(n.op) ? b.add(Op::stored, {made}, {}, where) : made;
  });
}

}  // namespace quern
