// Batching: every node of a body gets a leading axis. Written once per alternative of Meaning.
#pragma once
#include "ir/graph.h"

namespace quern {

/// Applies `body` to arguments that each carry one more, leading, axis; returns its outputs with that axis.
/// Throws Error(compile) for ops that have no batched form yet.
std::vector<NodeId> vmap_inline(GraphBuilder& b, const Graph& body, const std::vector<NodeId>& args);

}  // namespace quern
