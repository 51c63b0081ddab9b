// Groups → calls: each group's nodes, with copies of the free ones that they want, as the body of one kernel's call.
#include <algorithm>
#include <functional>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "passes/graph/groups.h"

namespace quern {
namespace {

class Calls {
 public:
  Calls(const Groups& groups, const std::set<NodeId>& places) : g_(groups), places_(places) {}

  Partition build() const {
    Partition out;
    out.call_of.assign(g_.graph.nodes.size(), -1);
    GraphBuilder b;
    b.symbol(g_.graph.symbol);
    std::map<NodeId, NodeId> map;
    for (NodeId id : g_.graph.inputs) map[id] = b.input(at(id).attrs.name, at(id).type, g_.graph.where(id));
    const auto mapped = [&](NodeId id) {
      if (!map.count(id)) map[id] = b.add(Op::constant, {}, at(id).attrs, g_.graph.where(id));   // an output or a loop's argument that is a constant
      return map.at(id);
    };
    // Groups in an order in which every operand comes first.
    std::set<int> done;
    const std::function<void(int)> emit = [&](int g) {
      if (!done.insert(g).second) return;
      const std::vector<NodeId>& nodes = g_.members[static_cast<size_t>(g)];
      for (NodeId id : nodes)
        for (NodeId p : g_.producers[static_cast<size_t>(id)]) emit(g_.group[static_cast<size_t>(p)]);
      if (places_.count(nodes[0])) {
        const Node& view = at(nodes[0]);
        std::vector<NodeId> args;
        for (NodeId a : view.args) args.push_back(map.at(a));
        map[nodes[0]] = b.add(view.op, std::move(args), view.attrs, g_.graph.where(nodes[0]));
        return;
      }
      if (is_control_flow(at(nodes[0]).op) && !is_elementwise_scan(at(nodes[0]))) {
        std::vector<NodeId> args;
        for (NodeId a : at(nodes[0]).args) args.push_back(mapped(a));
        map[nodes[0]] = b.add(at(nodes[0]).op, std::move(args), at(nodes[0]).attrs, g_.graph.where(nodes[0]));
        for (NodeId result : nodes)
          if (result != nodes[0]) out.result_of[result] = map[result] = b.add(Op::result, {map.at(nodes[0])}, at(result).attrs, g_.graph.where(result));
        for (NodeId id : nodes) out.call_of[static_cast<size_t>(id)] = map.at(nodes[0]);
        return;
      }
      Region r;
      const std::vector<NodeId> outputs = g_.outputs_of(nodes);
      for (NodeId o : outputs) r.builder.output(fmt::format("r{}", r.builder.graph().outputs.size()), copy_into(r, o, nodes));
      Attrs attrs;
      attrs.transform = Transform::kernel;
      attrs.body = std::make_shared<const Graph>(r.builder.finish());
      attrs.name = name_for(*attrs.body);
      std::vector<NodeId> args;
      for (NodeId id : r.operands) {
        if (!map.count(id)) map[id] = b.add(Op::constant, {}, at(id).attrs, g_.graph.where(id));
        args.push_back(map.at(id));
      }
      const NodeId call = b.add(Op::call, std::move(args), std::move(attrs), g_.graph.where(outputs[0]));
      for (size_t o = 0; o < outputs.size(); ++o)
        out.result_of[outputs[o]] = map[outputs[o]] = b.result(call, planted(Fault::results_swapped) ? outputs.size() - 1 - o : o, g_.graph.where(outputs[o]));
      for (NodeId id : nodes) out.call_of[static_cast<size_t>(id)] = call;
    };
    for (size_t i = 0; i < g_.graph.nodes.size(); ++i)
      if (g_.group[i] >= 0) emit(g_.group[i]);
    for (const NamedOutput& o : g_.graph.outputs) b.output(o.name, mapped(o.node));
    for (const State& s : g_.graph.states) b.state(s.name, map.at(s.input), mapped(s.output));
    out.kernels = b.finish();
    return out;
  }

 private:
  const Groups& g_;
  const std::set<NodeId>& places_;

  const Node& at(NodeId id) const { return g_.graph.at(id); }

  struct Region {
    GraphBuilder builder;
    std::map<NodeId, NodeId> map;       // graph node → region node
    std::vector<NodeId> operands;       // graph nodes passed in
  };

  NodeId copy_into(Region& r, NodeId id, const std::vector<NodeId>& nodes) const {
    if (const auto it = r.map.find(id); it != r.map.end()) return it->second;
    const Node& n = at(id);
    const size_t i = static_cast<size_t>(id);
    NodeId out;
    if ((g_.group[i] < 0 && !g_.free[i]) || (g_.group[i] >= 0 && !std::binary_search(nodes.begin(), nodes.end(), id))) {
      out = r.builder.input(fmt::format("a{}", r.operands.size()), n.type, g_.graph.where(id));
      r.operands.push_back(id);
    } else {
      std::vector<NodeId> args;
      for (NodeId a : n.args) args.push_back(copy_into(r, a, nodes));
      out = r.builder.add(n.op, std::move(args), n.attrs, g_.graph.where(id));
    }
    return r.map[id] = out;
  }

  static std::string name_for(const Graph& body) {
    std::vector<std::string> names;
    for (const Node& n : body.nodes)
      if (!means<Source>(n.op) && !means<View>(n.op) && n.op != Op::result && (names.empty() || names.back() != name_of(n.op))) names.emplace_back(name_of(n.op));
    if (names.empty()) names.push_back("copy");
    if (names.size() > 4) names = {names[0], names[1], "and", fmt::format("{}_more", names.size() - 2)};
    return fmt::format("{}", fmt::join(names, "_"));
  }
};

}  // namespace

bool Groups::is_rounding(NodeId id) const {
  const Node& n = graph.at(id);
  return n.op == Op::cast && is_float(n.type.dtype) && is_float(graph.type(n.args[0]).dtype) && size_of(n.type.dtype) < size_of(graph.type(n.args[0]).dtype);
}

bool Groups::is_widening(NodeId id) const {
  const Node& n = graph.at(id);
  return n.op == Op::cast && is_float(n.type.dtype) && is_float(graph.type(n.args[0]).dtype) && size_of(n.type.dtype) > size_of(graph.type(n.args[0]).dtype);
}

std::set<NodeId> Groups::sources_of(const std::vector<NodeId>& nodes) const {
  std::set<NodeId> seen, out;
  std::vector<NodeId> stack;
  const auto push = [&](NodeId id) { stack.insert(stack.end(), graph.at(id).args.begin(), graph.at(id).args.end()); };
  for (NodeId id : nodes) push(id);
  while (!stack.empty()) {
    const NodeId a = stack.back();
    stack.pop_back();
    if (!seen.insert(a).second || std::binary_search(nodes.begin(), nodes.end(), a)) continue;
    if (free[static_cast<size_t>(a)]) push(a);
    else out.insert(a);
  }
  return out;
}

std::vector<NodeId> Groups::outputs_of(const std::vector<NodeId>& nodes) const {
  std::vector<NodeId> out;
  for (NodeId id : nodes) {
    const std::vector<NodeId>& readers = consumers[static_cast<size_t>(id)];
    if (root[static_cast<size_t>(id)] || std::any_of(readers.begin(), readers.end(), [&](NodeId u) { return !std::binary_search(nodes.begin(), nodes.end(), u); })) out.push_back(id);
  }
  return out;
}

Partition build_calls(const Groups& groups, const std::set<NodeId>& places) { return Calls(groups, places).build(); }

}  // namespace quern
