// expand: calls with transforms and composed ops → primitive nodes, innermost bodies first.
//   before: %1 = call %0 {transform=vjp, index=[0], body=graph (%0: f32[] "x") { %1 = mul %0, %0; output "y" %1 }}
//           %2 = result %1 {index=[1]};  output "dy" %2
//   after:  %1 = constant {value=1};  %2 = mul %1, %0;  %3 = add %2, %2;  output "dy" %3
// Establishes: no call but those of kernels, no op whose meaning is Expand.
#include <map>

#include "ir/op.h"
#include "passes/graph/autodiff.h"
#include "passes/graph/forward.h"
#include "passes/graph/vmap.h"
#include "passes/pass.h"

namespace quern {
namespace {

// `composed`: ops that stand for simpler ones are replaced, too. Within a derivative they are not yet: their own rules
// may be better than those of what they stand for.
Graph expand_graph(const Graph& graph, bool composed);

// The results of a call in `b`: the outputs, then, for vjp and jvp, the derivatives.
std::vector<NodeId> expand_call(GraphBuilder& b, const Node& node, const std::vector<NodeId>& args, bool composed) {
  const bool mapped = node.attrs.transform == Transform::vmap;   // knows primitive ops alone
  const Graph body = expand_graph(*node.attrs.body, mapped || (composed && node.attrs.transform == Transform::none));
  if (mapped) return vmap_inline(b, body, args, node.attrs.axes);
  if (node.attrs.transform == Transform::none) return b.inline_body(body, args);
  // Two arguments may be one node: differentiate a private copy, whose inputs are distinct, then put it in.
  GraphBuilder own;
  std::vector<NodeId> inputs;
  for (NodeId i : body.inputs) inputs.push_back(own.input(body.at(i).attrs.name, body.type(i)));
  const std::vector<NodeId> outputs = own.inline_body(body, inputs);
  std::vector<NodeId> wanted;
  for (int64_t i : node.attrs.index) wanted.push_back(inputs[static_cast<size_t>(i)]);
  for (NodeId o : outputs) own.output("", o);
  if (node.attrs.transform == Transform::vjp) {
    for (NodeId g : gradients(own, {{outputs[0], own.full(own.type(outputs[0]), 1)}}, wanted)) own.output("", g);
  } else {
    std::vector<NodeId> given;
    for (NodeId w : wanted) given.push_back(own.input("", own.type(w)));
    for (NodeId t : tangents(own, outputs, wanted, given)) own.output("", t);
  }
  return b.inline_body(composed ? expand_graph(own.finish(), true) : own.finish(), args);
}

Graph expand_graph(const Graph& graph, bool composed) {
  GraphBuilder b;
  b.symbol(graph.symbol);
  std::vector<std::vector<NodeId>> map(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    const SourceLoc where = graph.where(static_cast<NodeId>(i));
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)][0]);
    if (n.op == Op::input) {
      map[i] = {b.input(n.attrs.name, n.type, where)};
    } else if (n.op == Op::call && n.attrs.transform != Transform::kernel) {
      map[i] = expand_call(b, n, args, composed);
    } else if (n.op == Op::result && graph.at(n.args[0]).attrs.transform != Transform::kernel) {
      map[i] = {map[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    } else if (const Expand* stands_for = std::get_if<Expand>(&def_of(n.op).meaning); stands_for && (composed || def_of(n.op).vjp == vjp_of_expansion)) {
      map[i] = {stands_for->build(b, n, args)};
    } else {
      map[i] = {b.add(n.op, std::move(args), n.attrs, where)};
    }
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)][0]);
  for (const State& s : graph.states) b.state(s.name, map[static_cast<size_t>(s.input)][0], map[static_cast<size_t>(s.output)][0]);
  return dead_code(b.finish());
}

}  // namespace

Graph expand(const Graph& graph, PassContext&) { return expand_graph(graph, true); }

}  // namespace quern
