// The partition with where each node of the graph before went, for passes that try one out.
#pragma once
#include <map>

#include "passes/pass.h"

namespace quern {

struct Partition {
  Graph kernels;
  std::vector<NodeId> call_of;            // of each node before: the call that computes it; -1: an input, or every kernel's own copy
  std::map<NodeId, NodeId> result_of;     // nodes before that are results of calls → those results
};
/// Of a graph without dead code.
Partition partition_with_origins(const Graph& graph, PassContext& context);

}  // namespace quern
