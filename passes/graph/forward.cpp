// See forward.h. One rule for all ops. A vjp is linear in the cotangent u: parts_i = u J_i. So the tangent J_1 v_1 + … of
// the node is the derivative of <parts_1, v_1> + … with respect to u, which reverse mode finds from the vjps of the ops
// that the parts are made of.
#include "passes/graph/forward.h"

#include <map>

#include <fmt/format.h>

#include "ir/op.h"
#include "passes/graph/autodiff.h"
#include "passes/graph/control.h"

namespace quern {
namespace {

bool reaches(const Graph& g, NodeId from, NodeId to) {
  std::vector<char> depends(g.nodes.size());
  depends[static_cast<size_t>(from)] = 1;
  for (size_t i = 0; i < g.nodes.size(); ++i)
    for (NodeId a : g.nodes[i].args) depends[i] = depends[i] || depends[static_cast<size_t>(a)];
  return depends[static_cast<size_t>(to)];
}

// The tangent of one node, given those of its arguments (-1: zero).
NodeId tangent(GraphBuilder& b, NodeId id, const std::vector<NodeId>& given) {
  const Node node = b.graph().at(id);
  const VjpFn vjp = def_of(node.op).vjp;
  GraphBuilder own;
  std::vector<NodeId> args, outer;   // the node's in `own`; what its inputs stand for in `b`
  const auto input = [&](NodeId of) {
    outer.push_back(of);
    return own.input("", b.type(of));
  };
  for (NodeId a : node.args) args.push_back(input(a));
  const NodeId y = own.add(node.op, args, node.attrs), u = input(id);
  const std::vector<NodeId> parts = vjp(own, y, u);
  QN_CHECK(parts.size() == args.size(), "a vjp gives one cotangent per argument");
  std::vector<Cotangent> pairs;
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i] >= 0 && given[i] >= 0) pairs.push_back({parts[i], input(given[i])});
  own.output("", gradients(own, pairs, {u})[0]);
  const Graph rule = dead_code(own.finish());
  QN_CHECK(!reaches(rule, rule.inputs[args.size()], rule.outputs[0].node), fmt::format("the vjp of `{}` is linear in the cotangent", name_of(node.op)));
  return b.inline_body(rule, outer)[0];
}

}  // namespace

std::vector<NodeId> tangents(GraphBuilder& b, const std::vector<NodeId>& outputs, const std::vector<NodeId>& of, const std::vector<NodeId>& given) {
  std::map<NodeId, NodeId> known;
  std::map<NodeId, std::vector<NodeId>> several;   // of the results of nodes that have several; -1: zero
  for (size_t i = 0; i < of.size(); ++i) known[of[i]] = given[i];
  for (NodeId id = 0, n = static_cast<NodeId>(b.graph().nodes.size()); id < n; ++id) {
    const Node& node = b.graph().at(id);
    if (known.count(id)) continue;
    std::vector<NodeId> mine;
    bool any = false;
    for (NodeId a : node.args) {
      mine.push_back(known.count(a) ? known.at(a) : -1);
      any = any || mine.back() >= 0;
    }
    if (node.op == Op::result) {
      if (const auto it = several.find(node.args[0]); it != several.end())
        if (const NodeId t = it->second[static_cast<size_t>(node.attrs.index[0])]; t >= 0) known[id] = t;
      continue;
    }
    if (!any) continue;
    if (means<Body>(node.op)) {
      several[id] = jvp_of_body(b, id, mine);
      continue;
    }
    if (def_of(node.op).vjp != no_gradient && is_float(node.type.dtype)) known[id] = tangent(b, id, mine);
  }
  std::vector<NodeId> out;
  for (NodeId o : outputs) out.push_back(known.count(o) ? known.at(o) : b.full(b.type(o), 0));
  return out;
}

}  // namespace quern
