// Making a failing case small: drops outputs, cuts the graph near them, puts inputs and constants in place of nodes, does the
// same in bodies, makes extents smaller, as long as the case still fails in the same way.
#pragma once
#include "tools/fuzz_oracle.h"

namespace quern {

struct FuzzCase {
  Graph graph;
  std::vector<HostTensor> inputs;
};
/// Nodes that compute, those of bodies included: no inputs, constants, results, nor constants spread.
int64_t ops_of(const Graph& graph);
/// The smallest case found that fails as `failure` says; stops looking after so many seconds.
FuzzCase reduce_case(FuzzCase found, const Oracle& oracle, const Failure& failure, double seconds);

}  // namespace quern
