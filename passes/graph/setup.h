// What does not change from run to run: known to the pass `setup`, and to the planner of steps (codegen/assemble.cpp).
#pragma once
#include <vector>

#include "ir/graph.h"

namespace quern {

/// By node: whether it depends on nothing but constants and states that keep their value, and on no symbol.
std::vector<char> unchanging_nodes(const Graph& graph);

}  // namespace quern
