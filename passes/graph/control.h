// Derivatives of the ops that hold bodies: scan, while_loop, cond, and calls that are kept for their derivative
// (checkpoint, a derivative of the user's). Used by autodiff.cpp and forward.cpp, which walk the graphs around them.
#pragma once
#include "ir/graph.h"

namespace quern {

/// The cotangents of a body op's arguments (-1: none, or not `wanted`), given those of its results (-1: zero).
std::vector<NodeId> vjp_of_body(GraphBuilder& b, NodeId node, const std::vector<NodeId>& cotangents, const std::vector<char>& wanted);
/// The tangents of a body op's results (-1: zero), given those of its arguments (-1: zero).
std::vector<NodeId> jvp_of_body(GraphBuilder& b, NodeId node, const std::vector<NodeId>& tangents);

}  // namespace quern
