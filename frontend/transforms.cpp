// grad: the sub-graph from the wanted tensors to the loss becomes the closed body of a `call{vjp}`; the pass `expand`
// differentiates it. Values that do not depend on a wanted tensor enter as further arguments.
#include <map>

#include <fmt/format.h>

#include "frontend/tensor.h"

namespace quern {

std::vector<Tensor> grad(const Tensor& loss, const std::vector<Tensor>& wanted, Where where) {
  if (!loss) throw error_at(Code::empty_tensor, "grad: the loss is a default-constructed Tensor", where).with_help("assign it before");
  GraphBuilder& b = loss.graph();
  if (loss.rank() != 0 || !is_float(loss.dtype()))
    throw error_at(Code::gradient_of, fmt::format("grad: only a scalar float has a gradient, the loss is {}", to_string(loss.type())), where, {{"loss", loss}}).with_help(is_float(loss.dtype()) ? "sum or mean it first" : "cast it to f32 and sum or mean it");
  const size_t n = static_cast<size_t>(loss.id()) + 1;
  std::vector<char> depends(b.graph().nodes.size()), needed(n);
  for (const Tensor& w : wanted) {
    if (!w || &w.graph() != &b) throw error_at(w ? Code::other_model : Code::empty_tensor, "grad: a wanted tensor is not of the loss's model", where, {{"loss", loss}, {"wanted", w}}).with_help("ask for tensors that the loss was computed from");
    if (!is_float(w.dtype())) throw error_at(Code::gradient_by, fmt::format("grad: {} has no gradient: it is not a float", to_string(w.type())), where, {{"loss", loss}, {"wanted", w}}).with_help("cast it to f32 before use");
  }
  for (const Tensor& w : wanted) depends[static_cast<size_t>(w.id())] = 1;
  for (size_t i = 0; i < n; ++i)
    for (NodeId a : b.graph().nodes[i].args) depends[i] = depends[i] || depends[static_cast<size_t>(a)];
  needed[n - 1] = depends[n - 1];
  GraphBuilder body;
  std::map<NodeId, NodeId> map;
  std::vector<NodeId> args;
  for (const Tensor& w : wanted) {
    if (map.count(w.id())) throw error_at(Code::gradient_by, "grad: a tensor is asked for twice", where, {{"loss", loss}, {"wanted", w}}).with_help("ask once and use the result twice");
    map[w.id()] = body.input(fmt::format("x{}", args.size()), w.type());
    args.push_back(w.id());
  }
  for (size_t i = n; i-- > 0;)
    if (needed[i] && !map.count(static_cast<NodeId>(i)))
      for (NodeId a : b.graph().nodes[i].args)
        if (depends[static_cast<size_t>(a)]) needed[static_cast<size_t>(a)] = 1;
  const auto captured = [&](NodeId id) {
    if (const auto it = map.find(id); it != map.end()) return it->second;
    args.push_back(id);
    return map[id] = body.input(fmt::format("x{}", args.size() - 1), b.type(id));
  };
  for (size_t i = 0; i < n; ++i) {
    const NodeId id = static_cast<NodeId>(i);
    if (!needed[i] || map.count(id)) continue;
    const Node& node = b.graph().at(id);
    std::vector<NodeId> inner;
    for (NodeId a : node.args) inner.push_back(captured(a));
    map[id] = body.add(node.op, std::move(inner), node.attrs, b.graph().where(id));
  }
  body.output("loss", captured(loss.id()));
  Attrs attrs;
  attrs.transform = Transform::vjp;
  attrs.body = std::make_shared<const Graph>(body.finish());
  for (size_t w = 0; w < wanted.size(); ++w) attrs.index.push_back(static_cast<int64_t>(w));
  const NodeId call = b.add(Op::call, args, std::move(attrs), source_of(where));
  std::vector<Tensor> out;
  for (size_t w = 0; w < wanted.size(); ++w) {
    Attrs which;
    which.index = {static_cast<int64_t>(w) + 1};
    out.emplace_back(&b, b.add(Op::result, {call}, std::move(which), source_of(where)));
  }
  return out;
}

}  // namespace quern
