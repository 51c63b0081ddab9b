// See autodiff.h. Only nodes on a path from a wanted node to an output are visited, last first.
#include "passes/graph/autodiff.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"

namespace quern {

std::vector<NodeId> gradients(GraphBuilder& b, const std::vector<Cotangent>& outputs, const std::vector<NodeId>& wanted) {
  size_t n = 0;
  for (const Cotangent& c : outputs) n = std::max(n, static_cast<size_t>(c.output) + 1);
  std::vector<char> depends(b.graph().nodes.size());
  for (NodeId w : wanted) depends[static_cast<size_t>(w)] = 1;
  for (size_t i = 0; i < n; ++i)
    for (NodeId a : b.graph().nodes[i].args) depends[i] = depends[i] || depends[static_cast<size_t>(a)];
  std::map<NodeId, NodeId> cotangent;
  const auto flow = [&](NodeId to, NodeId value) {
    const auto [it, first] = cotangent.emplace(to, value);
    if (!first) it->second = planted(Fault::fanout_overwritten) ? value : b.add(Op::add, {it->second, value});
  };
  for (const Cotangent& c : outputs)
    if (depends[static_cast<size_t>(c.output)]) flow(c.output, c.value);
  for (size_t i = n; i-- > 0;) {
    const NodeId id = static_cast<NodeId>(i);
    const auto it = cotangent.find(id);
    if (it == cotangent.end() || !depends[i]) continue;
    const Node node = b.graph().at(id);   // by value: building may move the nodes
    if (node.args.empty()) continue;
    if (means<Body>(node.op)) throw Error(Code::not_expanded, "the derivative of a call that has not been expanded", b.graph().where(id)).with_help("run the pass `expand` on the body first");
    const VjpFn vjp = def_of(node.op).vjp;
    if (vjp == no_gradient) continue;     // zero by definition: floor, sign, comparisons, stop_gradient …
    const std::vector<NodeId> parts = vjp(b, id, it->second);
    QN_CHECK(parts.size() == node.args.size(), "a vjp gives one cotangent per argument");
    for (size_t a = 0; a < parts.size(); ++a) {
      const NodeId arg = node.args[a];
      if (parts[a] < 0 || !depends[static_cast<size_t>(arg)] || !is_float(b.type(arg).dtype)) continue;
      QN_CHECK(b.type(parts[a]) == b.type(arg), fmt::format("the cotangent of an argument of `{}` has its type", name_of(node.op)));
      flow(arg, parts[a]);
    }
  }
  std::vector<NodeId> out;
  for (NodeId w : wanted) out.push_back(cotangent.count(w) ? cotangent.at(w) : b.full(b.type(w), 0));
  return out;
}

}  // namespace quern
