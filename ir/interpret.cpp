// The reference interpreter; see interpret.h.
#include "ir/interpret.h"

#include <algorithm>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {
namespace {

std::vector<HostTensor> scan(const Node& n, std::vector<HostTensor> args) {
  const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = static_cast<size_t>(n.attrs.index[1]);
  const int64_t steps = n.attrs.limit[0];
  const bool reverse = !n.attrs.stride.empty() && n.attrs.stride[0] < 0;
  std::vector<HostTensor> out;
  for (const Type& t : n.type.results) out.emplace_back(t.dtype, t.shape);
  std::vector<HostTensor> in = args;
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t p = reverse ? steps - 1 - t : t;
    for (size_t i = carries; i < carries + scanned; ++i) {
      in[i] = HostTensor(args[i].dtype, {args[i].shape.begin() + 1, args[i].shape.end()});
      std::copy_n(args[i].bytes.begin() + p * static_cast<int64_t>(in[i].bytes.size()), in[i].bytes.size(), in[i].bytes.begin());
    }
    std::vector<HostTensor> results = interpret(*n.attrs.body, in);
    for (size_t i = carries; i < results.size(); ++i)
      std::copy(results[i].bytes.begin(), results[i].bytes.end(), out[i].bytes.begin() + p * static_cast<int64_t>(results[i].bytes.size()));
    std::move(results.begin(), results.begin() + static_cast<int64_t>(carries), in.begin());
  }
  std::move(in.begin(), in.begin() + static_cast<int64_t>(carries), out.begin());
  return out;
}

std::vector<HostTensor> run_body(const Node& n, std::vector<HostTensor> args) {
  switch (n.op) {
    case Op::scan: return scan(n, std::move(args));
    case Op::while_loop:
      while (args[0].get(0).truthy()) {
        std::vector<HostTensor> next = interpret(*n.attrs.body, args);
        std::move(next.begin(), next.end(), args.begin());
      }
      args.resize(static_cast<size_t>(n.attrs.index[0]));
      return args;
    case Op::cond: {
      const bool yes = args[0].get(0).truthy();
      args.erase(args.begin());
      return interpret(yes ? *n.attrs.body : *n.attrs.otherwise, args);
    }
    default: return interpret(*n.attrs.body, args);
  }
}

}  // namespace

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
    } else if (means<Body>(n.op)) {
      if (n.attrs.transform == Transform::vjp || n.attrs.transform == Transform::vmap || n.attrs.transform == Transform::jvp)
        throw Error(Code::not_expanded, "interpret: a transform has not been expanded", graph.where(static_cast<NodeId>(i))).with_help("run the pass `expand` first");
      std::vector<HostTensor> copies;
      for (const HostTensor* a : args) copies.push_back(*a);
      values[i] = run_body(n, std::move(copies));
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
