// What a graph does not depend on: exponentials less a number of their row, over their sum, are the same for every such number. Its
// cotangent is zero, however softmax is spelled, and nothing of a maximum's derivative is computed:
//   %3 = reduce_max %2;  %5 = exp (sub %2, %3);  %6 = reduce_sum %5;  %7 = div %5, %6        %7 is no function of %3
// Followed are values v + s r and v exp(m r) of a number r in each row: differences, sums and multiples of the former, products and quotients
// of the latter, exponentials and logarithms from one to the other, sums and products along rows, views that keep rows apart.
#pragma once
#include <vector>

#include "ir/graph.h"

namespace quern {

/// Is `r` of `graph` without effect on `outputs`, in exact arithmetic? Nodes that none of them needs do not count.
bool is_without_effect(const Graph& graph, NodeId r, const std::vector<NodeId>& outputs);

}  // namespace quern
