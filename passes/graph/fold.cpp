// fold: ops whose arguments are all constants become constants, up to a size; a spread constant stays a scalar and its
// broadcast, on which elementwise ops are evaluated once.
//   before: %1 = constant {value=2};  %2 = constant {value=3};  %3 = mul %1, %2;  output %3
//   after:  %1 = constant {value=6};  output %1
#include <numeric>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "passes/graph/rebuild.h"
#include "passes/pass.h"

namespace quern {

constexpr int64_t kMaxFolded = 4096;   // elements

Graph fold(const Graph& graph, PassContext& context) {
  GraphBuilder b;
  // The scalar constant that a node repeats everywhere, or null.
  const auto repeated = [&](NodeId id) -> const HostTensor* {
    const Node* n = &b.graph().at(id);
    while (n->op == Op::broadcast || n->op == Op::reshape) n = &b.graph().at(n->args[0]);
    return n->op == Op::constant && n->attrs.value->size() == 1 ? n->attrs.value.get() : nullptr;
  };
  return rebuild(graph, b, [&](const Node& n, const std::vector<NodeId>& args, const SourceLoc& where) {
    bool constants = !args.empty() && !means<Body>(n.op), all_repeated = constants && means<Map>(n.op);
    for (NodeId a : args) {
      constants = constants && b.graph().at(a).op == Op::constant;
      all_repeated = all_repeated && repeated(a);
    }
    if (constants && n.type.size() <= kMaxFolded && context.allow()) {
      std::vector<const HostTensor*> values;
      for (NodeId a : args) values.push_back(b.graph().at(a).attrs.value.get());
      // A broadcast of one element is the compact form already.
      return n.op == Op::broadcast ? b.add(n.op, args, n.attrs, where) : b.constant(def_of(n.op).eval(n, values), where);
    }
    if (!all_repeated || !context.allow()) return b.add(n.op, args, n.attrs, where);
    std::vector<Scalar> values;
    for (NodeId a : args) values.push_back(repeated(a)->get(0));
    HostTensor one(n.type.dtype, {});
    one.set(0, apply_scalar(n.op, n.type.dtype, values));
    if (planted(Fault::folded_in_bf16) && n.type.dtype == DType::f32) one.set(0, Scalar::of(DType::f32, round_to(DType::bf16, one.at(0))));
    const NodeId constant = b.constant(std::move(one), where);
    Attrs spread;
    spread.shape = n.type.shape;
    return n.type.shape.empty() ? constant : b.add(Op::broadcast, {constant}, std::move(spread), where);
  });
}

}  // namespace quern
