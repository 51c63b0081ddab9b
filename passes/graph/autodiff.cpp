// See autodiff.h. Only nodes on a path from a wanted node to the output are visited, last first.
#include "passes/graph/autodiff.h"

#include <map>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"

namespace quern {

std::vector<NodeId> gradients(GraphBuilder& b, NodeId output, const std::vector<NodeId>& wanted) {
  const size_t n = static_cast<size_t>(output) + 1;
  std::vector<char> depends(b.graph().nodes.size());
  for (NodeId w : wanted) depends[static_cast<size_t>(w)] = 1;
  for (size_t i = 0; i < n; ++i)
    for (NodeId a : b.graph().nodes[i].args) depends[i] = depends[i] || depends[static_cast<size_t>(a)];
  std::map<NodeId, NodeId> cotangent;
  if (depends[n - 1]) cotangent[output] = b.full(b.type(output), 1);
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
      const auto old = cotangent.find(arg);
      cotangent[arg] = old == cotangent.end() || planted(Fault::fanout_overwritten) ? parts[a] : b.add(Op::add, {old->second, parts[a]});
    }
  }
  std::vector<NodeId> out;
  for (NodeId w : wanted) out.push_back(cotangent.count(w) ? cotangent.at(w) : b.full(b.type(w), 0));
  return out;
}

}  // namespace quern
