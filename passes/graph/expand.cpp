// expand: calls with transforms and composed ops → primitive nodes, innermost bodies first.
//   before: %1 = call %0 {transform=vjp, index=[0], body=graph (%0: f32[] "x") { %1 = mul %0, %0; output "y" %1 }}
//           %2 = result %1 {index=[1]};  output "dy" %2
//   after:  %1 = constant {value=1};  %2 = mul %1, %0;  %3 = add %2, %2;  output "dy" %3
// Calls that have a derivative of their own (checkpoint, the user's) are kept until all derivatives around them are taken.
// Establishes: no call but those of kernels, no op whose meaning is Expand, no put_add of a dtype that sums are not made in;
// in the bodies of control flow, too. Behind all derivatives products become those of a short float, where that is asked for (mixed.h);
// f16 is refused where derivatives change states and no state scales the loss: most of them would be below its least number.
#include <algorithm>
#include <map>

#include "ir/names.h"
#include "ir/op.h"
#include "ir/ops/define.h"
#include "passes/graph/autodiff.h"
#include "passes/graph/compared.h"
#include "passes/graph/forward.h"
#include "passes/graph/mixed.h"
#include "passes/graph/vmap.h"
#include "passes/pass.h"

namespace quern {
namespace {

// What is replaced beside transforms. `composed`: ops that stand for simpler ones; within a derivative not yet: their own
// rules may be better than those of what they stand for. `last`: calls with a derivative of their own; no derivative follows. `apart`: ops of
// so many bytes an element and fewer are more products, with less work in all.
struct Mode {
  bool composed, last;
  int64_t apart;
};
Graph expand_graph(const Graph& graph, Mode mode);

std::shared_ptr<const Graph> expand_body(const std::shared_ptr<const Graph>& body, Mode mode) {
  return body ? std::make_shared<const Graph>(expand_graph(*body, mode)) : nullptr;
}

// Does an op with bodies stay one?
bool keeps(const Node& n, Mode mode) {
  return is_control_flow(n.op) || n.attrs.transform == Transform::kernel || (!mode.last && (n.attrs.transform == Transform::checkpoint || n.attrs.derivative));
}

// The results of a call in `b`: the outputs, then, for vjp and jvp, the derivatives.
std::vector<NodeId> expand_call(GraphBuilder& b, const Node& node, const std::vector<NodeId>& args, Mode mode) {
  const Transform transform = node.attrs.transform;
  const bool mapped = transform == Transform::vmap, differentiated = transform == Transform::vjp || transform == Transform::jvp;   // vmap knows primitive ops alone
  const Graph body = expand_graph(*node.attrs.body, {mapped || (mode.composed && !differentiated), mode.last && !differentiated, mode.apart});
  if (mapped) return vmap_inline(b, body, args, node.attrs.axes);
  if (!differentiated) return b.inline_body(body, args);
  // Two arguments may be one node: differentiate a private copy, whose inputs are distinct, then put it in.
  GraphBuilder own;
  std::vector<NodeId> inputs;
  for (NodeId i : body.inputs) inputs.push_back(own.input(body.at(i).attrs.name, body.type(i)));
  const std::vector<NodeId> outputs = own.inline_body(body, inputs);
  std::vector<NodeId> wanted;
  for (int64_t i : node.attrs.index) wanted.push_back(inputs[static_cast<size_t>(i)]);
  for (NodeId o : outputs) own.output("", o);
  if (transform == Transform::vjp) {
    for (NodeId g : gradients(own, {{outputs[0], own.full(own.type(outputs[0]), 1)}}, wanted)) own.output("", g);
  } else {
    std::vector<NodeId> given;
    for (NodeId w : wanted) given.push_back(own.input("", own.type(w)));
    for (NodeId t : tangents(own, outputs, wanted, given)) own.output("", t);
  }
  return b.inline_body(mode.composed || mode.last ? expand_graph(own.finish(), mode) : own.finish(), args);
}

Graph expand_graph(const Graph& graph, Mode mode) {
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
    } else if (means<Body>(n.op) && n.op != Op::result && keeps(n, mode)) {
      Attrs attrs = n.attrs;
      for (auto* body : {&attrs.body, &attrs.otherwise, &attrs.derivative}) *body = expand_body(*body, mode);
      map[i] = {b.add(n.op, std::move(args), std::move(attrs), where)};
    } else if (n.op == Op::call) {
      map[i] = expand_call(b, n, args, mode);
    } else if (n.op == Op::result && !keeps(graph.at(n.args[0]), mode)) {
      map[i] = {map[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    } else if (const Expand* stands_for = std::get_if<Expand>(&def_of(n.op).meaning); stands_for && (mode.composed || def_of(n.op).vjp == vjp_of_expansion)) {
      map[i] = {(stands_for->apart && size_of(n.type.dtype) <= mode.apart ? stands_for->apart : stands_for->build)(b, n, args)};
    } else if (means<PutAdd>(n.op) && mode.composed && (n.type.dtype == DType::bf16 || n.type.dtype == DType::f16)) {   // updates add up in memory
      args[0] = cast_like(b, args[0], DType::f32), args[2] = cast_like(b, args[2], DType::f32);
      map[i] = {cast_like(b, b.add(n.op, std::move(args), n.attrs, where), n.type.dtype)};
    } else {
      map[i] = {b.add(n.op, std::move(args), n.attrs, where)};
    }
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)][0]);
  for (const State& s : graph.states) b.state(s.name, map[static_cast<size_t>(s.input)][0], map[static_cast<size_t>(s.output)][0]);
  return dead_code(b.finish());
}

// Does a derivative in reverse mode become part of what follows it to an output or a state?
bool differentiates(const Graph& graph, const std::vector<NodeId>& roots) {
  std::vector<char> derived(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    derived[i] = n.attrs.transform == Transform::vjp || std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return derived[static_cast<size_t>(a)]; });
    for (const auto& body : {n.attrs.body, n.attrs.otherwise})
      if (body && !derived[i]) derived[i] = differentiates(*body, body->roots());
  }
  return std::any_of(roots.begin(), roots.end(), [&](NodeId r) { return derived[static_cast<size_t>(r)]; });
}
void want_scaled_loss(const Graph& graph) {
  std::vector<NodeId> next;
  for (const State& s : graph.states) {
    if (s.name == kLossScaleState) return;
    next.push_back(s.output);
  }
  if (differentiates(graph, next)) throw Error(Code::bad_value, "a training step in f16 wants a loss scale: small gradients would be zero").with_help("build it with minimize and Optimizer::loss_scale = kLossScale (frontend/optim.h), which makes the state \"loss_scale\"; or use bf16, which needs none");
}

}  // namespace

Graph expand(const Graph& graph, PassContext& context) {
  if (context.compute == DType::f16) want_scaled_loss(graph);
  const int64_t apart = context.row_bytes == 0 ? 0 : size_of(context.compute == DType::f32 ? DType::bf16 : DType::f32);   // of products that the copy engine feeds
  Graph out = expand_graph(graph, {true, true, apart});
  if (context.compute != DType::f32) out = mixed(out, context.compute);
  return context.fp == Fp::fast ? store_what_is_compared(out) : out;
}

}  // namespace quern
