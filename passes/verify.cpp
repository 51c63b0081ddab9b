// The graph verifier: runs between passes.
#include <fmt/format.h>

#include "ir/op.h"
#include "passes/pass.h"

namespace quern {

void verify(const Graph& graph) {
  const auto check = [](bool condition, size_t node, const char* message) {
    if (!condition) throw Error(Code::general_bug, fmt::format("this is a bug in Quern: graph verifier: %{}: {}", node, message));
  };
  std::vector<char> is_input(graph.nodes.size());
  for (NodeId i : graph.inputs) {
    check(i >= 0 && static_cast<size_t>(i) < graph.nodes.size() && graph.at(i).op == Op::input, static_cast<size_t>(i), "an input is a node of op input");
    is_input[static_cast<size_t>(i)] = 1;
  }
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    std::vector<Type> types;
    for (NodeId a : n.args) {
      check(a >= 0 && static_cast<size_t>(a) < i, i, "an argument is an earlier node");
      check(n.op == Op::result || graph.type(a).results.empty(), i, "only `result` uses several results");
      types.push_back(graph.type(a));
    }
    check((n.op == Op::input) == (is_input[i] != 0), i, "inputs are listed");
    check(def_of(n.op).infer({n.op, types, n.attrs, graph.where(static_cast<NodeId>(i))}) == n.type, i, "the type is what the type rule gives");
    check(n.source >= 0 && static_cast<size_t>(n.source) < graph.sources.size(), i, "the source exists");
    for (const auto& body : {n.attrs.body, n.attrs.otherwise, n.attrs.derivative})
      if (body) verify(*body);
  }
  for (NodeId r : graph.roots()) {
    check(r >= 0 && static_cast<size_t>(r) < graph.nodes.size(), 0, "an output is a node");
    check(graph.type(r).results.empty(), static_cast<size_t>(r), "an output is one tensor");
  }
  for (const State& s : graph.states) {
    check(is_input[static_cast<size_t>(s.input)], static_cast<size_t>(s.input), "a state's old value is an input");
    check(graph.type(s.input) == graph.type(s.output), static_cast<size_t>(s.output), "a state keeps its type");
  }
}

}  // namespace quern
