// Random graphs for `quern fuzz graphs` and the tests: well-typed by construction, values kept in a range in which
// rounding is not amplified, discontinuous ops (floor, compare, cast to integer …) only on values that every target
// computes bit-equally.
#pragma once
#include <map>
#include <random>

#include "ir/graph.h"

namespace quern {

/// How often each op was drawn with each dtype, over all graphs of a campaign; drives the choice to what is rare.
struct Coverage {
  std::map<std::pair<Op, DType>, int64_t> hits;   // every pair that OpDef::samples accepts, 0 at first
  int64_t rejected = 0, drawn = 0;
  Coverage();
  double fraction() const;                        // pairs hit
};

Graph random_graph(std::mt19937_64& random, Coverage& coverage);
/// One value per input, finite and moderate.
std::vector<HostTensor> random_inputs(const Graph& graph, std::mt19937_64& random);

}  // namespace quern
