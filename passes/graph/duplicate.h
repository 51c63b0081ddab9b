// Maps that are cheaper to compute once more, in each kernel that reads them, than to write and read: what autodiff keeps
// for later is often one multiplication away from what is kept anyway.
//   before: k1 {%2 = contract %0, %1;  %3 = mul %2, %2}  stores %2, %3;   k2 {%6 = mul %3, %5;  %7 = add %6, %2}  reads both
//   after:  k1 stores %2;   k2 {%3 = mul %2, %2;  %6 = mul %3, %5;  %7 = add %6, %2}
#pragma once
#include <functional>

#include "passes/graph/groups.h"

namespace quern {

/// Makes free what pays. `legal(group, copies, outputs)`: may the group compute these nodes, too, and store `outputs`? (None:
/// what it stores now.) `chosen(node)` is asked last, for each value that need no longer be stored. `share`: of a CPU's time for an op beside
/// memory's (passes/work.h).
void duplicate_maps(Groups& groups, const std::function<bool(int group, const std::vector<NodeId>& copies, const std::vector<NodeId>& outputs)>& legal,
                    const std::function<bool(NodeId)>& chosen, double share);

}  // namespace quern
