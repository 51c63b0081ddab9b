// Under Fp::fast a value that several kernels compute has other last bits in each. One that is compared with its own maximum (a
// derivative's question which element it was, argmax) would be found nowhere: it is in memory, and all read it there.
//   before: %2 = add %0, %1;  %3 = reduce_max %2;  %4 = broadcast %3;  %5 = eq %2, %4
//   after:  %2 = add %0, %1;  %3 = stored %2;  %4 = reduce_max %3;  %5 = broadcast %4;  %6 = eq %3, %5
#pragma once
#include "ir/graph.h"

namespace quern {

/// Of a graph of primitive nodes, bodies of control flow included.
Graph store_what_is_compared(const Graph& graph);

}  // namespace quern
