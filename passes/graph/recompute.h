// Products whose results are larger than all that they are made of and become, as the scores of attention: T×T between
// operands and results of T×d. Kernels that read them compute them, in blocks; they are nowhere in memory.
//   before: %2 = contract %0, %1;  %3 = exp %2;  %4 = reduce_sum %3;  %6 = div %3, %5;  %7 = contract %6, %8
//   after:  two kernels, {contract, exp, reduce_sum} and {contract, exp, div, contract}; neither %2, %3 nor %6 is stored
#pragma once
#include <vector>

#include "ir/graph.h"

namespace quern {

/// By node: whether every kernel that wants it has its own copy. Of a graph without dead code.
std::vector<char> recomputed_nodes(const Graph& graph);
/// By node: the first of those that it is computed with, through others that are; -1: it is none.
std::vector<NodeId> recomputed_clusters(const Graph& graph);

}  // namespace quern
