// Reverse-mode differentiation of nodes inside one builder.
#pragma once
#include "ir/graph.h"

namespace quern {

/// A node and the cotangent that flows into it, of its type.
struct Cotangent {
  NodeId output, value;
};
/// The derivatives of sum <output, value> with respect to `wanted`, as nodes of the same builder (zeros where no output
/// depends on one). Built from each op's vjp; cotangents that meet are added in order of the nodes.
std::vector<NodeId> gradients(GraphBuilder& b, const std::vector<Cotangent>& outputs, const std::vector<NodeId>& wanted);

/// Which of the first `n` nodes have a derivative with respect to one of `from` that may differ from zero.
std::vector<char> differentiable(const Graph& graph, const std::vector<NodeId>& from, size_t n);

}  // namespace quern
