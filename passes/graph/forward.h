// Forward-mode differentiation of nodes inside one builder.
#pragma once
#include "ir/graph.h"

namespace quern {

/// The tangents of `outputs` where those of the nodes `of` are `given`, as nodes of the same builder, each of its output's
/// type: zeros where it does not depend on one of them or is no float.
std::vector<NodeId> tangents(GraphBuilder& b, const std::vector<NodeId>& outputs, const std::vector<NodeId>& of, const std::vector<NodeId>& given);

}  // namespace quern
