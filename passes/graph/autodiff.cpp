// See autodiff.h. Only nodes on a path from a wanted node to an output are visited, last first.
#include "passes/graph/autodiff.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "passes/graph/control.h"
#include "passes/graph/shift.h"

namespace quern {

std::vector<char> differentiable(const Graph& graph, const std::vector<NodeId>& from, size_t n) {
  std::vector<char> out(graph.nodes.size());
  for (NodeId f : from) out[static_cast<size_t>(f)] = 1;
  for (size_t i = 0; i < n; ++i) {
    const Node& node = graph.nodes[i];
    if (!means<Body>(node.op) && def_of(node.op).vjp == no_gradient) continue;   // zero by definition: floor, comparisons, stop_gradient …
    if (node.type.results.empty() && !is_float(node.type.dtype)) continue;
    for (NodeId a : node.args) out[i] = out[i] || out[static_cast<size_t>(a)];
  }
  return out;
}

std::vector<NodeId> gradients(GraphBuilder& b, const std::vector<Cotangent>& outputs, const std::vector<NodeId>& wanted) {
  size_t n = 0;
  for (const Cotangent& c : outputs) n = std::max(n, static_cast<size_t>(c.output) + 1);
  std::vector<char> depends = differentiable(b.graph(), wanted, n);
  std::vector<NodeId> ends;
  for (const Cotangent& c : outputs) ends.push_back(c.output);
  for (size_t i = 0; i < n; ++i) {
    const Op op = b.graph().nodes[i].op;
    const NodeId id = static_cast<NodeId>(i);
    if (depends[i] && (op == Op::reduce_max || op == Op::reduce_min) && !std::count(wanted.begin(), wanted.end(), id) && is_without_effect(b.graph(), id, ends)) depends[i] = 0;
  }
  std::map<NodeId, NodeId> cotangent;
  std::map<NodeId, std::vector<NodeId>> several;   // of the results of nodes that have several; -1: none
  const auto flow = [&](NodeId to, NodeId value) {
    const auto [it, first] = cotangent.emplace(to, value);
    if (!first) it->second = planted(Fault::fanout_overwritten) ? value : b.add(Op::add, {it->second, value});
  };
  for (const Cotangent& c : outputs)
    if (depends[static_cast<size_t>(c.output)]) flow(c.output, c.value);
  for (size_t i = n; i-- > 0;) {
    const NodeId id = static_cast<NodeId>(i);
    const auto it = cotangent.find(id);
    if ((it == cotangent.end() && !several.count(id)) || !depends[i]) continue;
    const Node node = b.graph().at(id);   // by value: building may move the nodes
    if (node.args.empty()) continue;
    const VjpFn vjp = def_of(node.op).vjp;
    std::vector<NodeId> parts;
    if (node.op == Op::result) {
      std::vector<NodeId>& all = several[node.args[0]];
      all.resize(b.type(node.args[0]).results.size(), -1);
      if (is_float(node.type.dtype)) all[static_cast<size_t>(node.attrs.index[0])] = it->second;
      continue;
    } else if (means<Body>(node.op)) {
      std::vector<char> moving;
      for (NodeId a : node.args) moving.push_back(depends[static_cast<size_t>(a)] && is_float(b.type(a).dtype));
      parts = vjp_of_body(b, id, several.at(id), moving);
    } else if (vjp == no_gradient) {   // a wanted one
      continue;
    } else {
      parts = vjp(b, id, it->second);
    }
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
