// Batching: every node of a body that depends on a batched argument gets a leading axis. Written once per alternative of
// Meaning.
#pragma once
#include "ir/graph.h"

namespace quern {

/// Applies `body` to arguments of which the i-th carries one more axis at axes[i], or none for -1 (no axes: all at 0);
/// returns its outputs with that axis at 0. Throws Error(compile) for kernels.
std::vector<NodeId> vmap_inline(GraphBuilder& b, const Graph& body, const std::vector<NodeId>& args, const Shape& axes);

/// x again at each of n places along a new leading axis.
NodeId spread(GraphBuilder& b, NodeId x, int64_t n);

}  // namespace quern
