// The reference interpreter; see interpret.h.
#include "ir/interpret.h"

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {

std::vector<HostTensor> interpret(const Graph& graph, const std::vector<HostTensor>& inputs) {
  if (inputs.size() != graph.inputs.size())
    throw Error(Code::tensor_mismatch, fmt::format("the graph takes {} inputs, got {}", graph.inputs.size(), inputs.size())).with_help("give one tensor for every input, states included, in order");
  if (graph.symbol) {
    std::vector<Shape> shapes;
    for (const HostTensor& t : inputs) shapes.push_back(t.shape);
    return interpret(at_size(graph, size_for(graph, shapes)), inputs);
  }
  std::vector<std::vector<HostTensor>> values(graph.nodes.size());   // one, or several of a call
  std::vector<int> uses = graph.use_counts();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Type& want = graph.type(graph.inputs[i]);
    if (inputs[i].dtype != want.dtype || inputs[i].shape != want.shape)
      throw Error(Code::tensor_mismatch, fmt::format("input \"{}\" is {}, the graph wants {}", graph.at(graph.inputs[i]).attrs.name,
                                                to_string(Type{inputs[i].dtype, inputs[i].shape, {}}), to_string(want)))
          .with_help("give a tensor of that dtype and shape");
    values[static_cast<size_t>(graph.inputs[i])] = {inputs[i]};
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    if (n.op == Op::input || uses[i] == 0) continue;
    std::vector<const HostTensor*> args;
    for (NodeId a : n.args) args.push_back(&values[static_cast<size_t>(a)][0]);
    if (n.op == Op::result) {
      values[i] = {values[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    } else if (n.op == Op::call) {
      if (n.attrs.transform != Transform::none && n.attrs.transform != Transform::kernel)
        throw Error(Code::not_expanded, "interpret: a transform has not been expanded", graph.where(static_cast<NodeId>(i))).with_help("run the pass `expand` first");
      std::vector<HostTensor> copies;
      for (const HostTensor* a : args) copies.push_back(*a);
      values[i] = interpret(*n.attrs.body, copies);
    } else {
      values[i] = {def_of(n.op).eval(n, args)};
    }
    for (NodeId a : n.args)
      if (--uses[static_cast<size_t>(a)] == 0) values[static_cast<size_t>(a)].clear();
  }
  std::vector<HostTensor> out;
  for (NodeId r : graph.roots()) out.push_back(values[static_cast<size_t>(r)][0]);
  return out;
}

}  // namespace quern
