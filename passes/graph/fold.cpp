// fold: ops whose arguments are all constants become constants, up to a size; a spread constant stays a scalar and its
// broadcast, on which elementwise ops are evaluated once.
//   before: %1 = constant {value=2};  %2 = constant {value=3};  %3 = mul %1, %2;  output %3
//   after:  %1 = constant {value=6};  output %1
#include <numeric>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "passes/pass.h"

namespace quern {

constexpr int64_t kMaxFolded = 4096;   // elements

Graph fold(const Graph& graph, PassContext& context) {
  GraphBuilder b;
  b.symbol(graph.symbol);
  std::vector<NodeId> map(graph.nodes.size(), -1);
  // The scalar constant that a node repeats everywhere, or null.
  const auto repeated = [&](NodeId id) -> const HostTensor* {
    const Node* n = &b.graph().at(id);
    while (n->op == Op::broadcast || n->op == Op::reshape) n = &b.graph().at(n->args[0]);
    return n->op == Op::constant && n->attrs.value->size() == 1 ? n->attrs.value.get() : nullptr;
  };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    const SourceLoc where = graph.where(static_cast<NodeId>(i));
    if (n.op == Op::input) {
      map[i] = b.input(n.attrs.name, n.type, where);
      continue;
    }
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    bool constants = !args.empty() && !means<Body>(n.op), all_repeated = constants && means<Map>(n.op);
    for (NodeId a : args) {
      constants = constants && b.graph().at(a).op == Op::constant;
      all_repeated = all_repeated && repeated(a);
    }
    if (constants && n.type.size() <= kMaxFolded && context.allow()) {
      std::vector<const HostTensor*> values;
      for (NodeId a : args) values.push_back(b.graph().at(a).attrs.value.get());
      // A broadcast of one element is the compact form already.
      if (n.op == Op::broadcast) map[i] = b.add(n.op, args, n.attrs, where);
      else map[i] = b.constant(def_of(n.op).eval(n, values), where);
    } else if (all_repeated && context.allow()) {
      std::vector<Scalar> values;
      for (NodeId a : args) values.push_back(repeated(a)->get(0));
      HostTensor one(n.type.dtype, {});
      one.set(0, apply_scalar(n.op, n.type.dtype, values));
      if (planted(Fault::folded_in_bf16) && n.type.dtype == DType::f32) one.set(0, Scalar::of(DType::f32, round_to(DType::bf16, one.at(0))));
      map[i] = b.constant(std::move(one), where);
      Attrs spread;
      spread.shape = n.type.shape;
      if (!n.type.shape.empty()) map[i] = b.add(Op::broadcast, {map[i]}, std::move(spread), where);
    } else {
      map[i] = b.add(n.op, args, n.attrs, where);
    }
  }
  for (const NamedOutput& o : graph.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : graph.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  return dead_code(b.finish());
}

}  // namespace quern
