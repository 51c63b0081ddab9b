// Random graphs for `quern fuzz graphs` and the tests: well-typed by construction, values kept in a range in which
// rounding is not amplified, discontinuous ops (floor, compare, cast to integer …) only on values that every target
// computes bit-equally.
// Sub-graphs are calls (none, checkpoint, vmap), scans, while_loops of at most four steps and conds, nested twice at most.
#pragma once
#include <map>
#include <random>
#include <string>

#include "ir/graph.h"

namespace quern {

/// How often each op was drawn with each dtype, over all graphs of a campaign; drives the choice to what is rare.
struct Coverage {
  std::map<std::pair<Op, DType>, int64_t> hits;   // every pair that OpDef::samples accepts, 0 at first
  std::map<std::string, int64_t> bodies;          // sub-graphs drawn, by what applies them
  int64_t rejected = 0, drawn = 0;
  Coverage();
  double fraction() const;                        // pairs hit
};

struct DrawOptions {
  bool bodies = false;   // with sub-graphs
};
Graph random_graph(std::mt19937_64& random, Coverage& coverage, const DrawOptions& options = {});
/// One value per input, finite and moderate.
std::vector<HostTensor> random_inputs(const Graph& graph, std::mt19937_64& random);
/// Puts infinities, NaN, zeros, denormals and the ends of the integers among them. False, and nothing is changed, where the graph
/// has ops whose results are open then: bits of a NaN, products with what a convolution pads.
bool add_special_values(const Graph& graph, std::vector<HostTensor>& inputs, std::mt19937_64& random);

}  // namespace quern
