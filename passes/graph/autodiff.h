// Reverse-mode differentiation of nodes inside one builder.
#pragma once
#include "ir/graph.h"

namespace quern {

/// The derivatives of the scalar `output` with respect to `wanted`, as nodes of the same builder (zeros where the
/// output does not depend on one). Built from each op's vjp; cotangents that meet are added in order of the nodes.
std::vector<NodeId> gradients(GraphBuilder& b, NodeId output, const std::vector<NodeId>& wanted);

}  // namespace quern
