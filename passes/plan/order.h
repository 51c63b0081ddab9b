// Step order: the kernel calls of a partitioned graph in an order that keeps the memory that is live at once low.
#pragma once
#include "ir/graph.h"

namespace quern {

/// Every call once, each after the calls whose results it reads.
std::vector<NodeId> order_calls(const Graph& kernels);

}  // namespace quern
