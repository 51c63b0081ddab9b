// Slots and steps of a program. Inputs, outputs, states and constants get slots of their own, all other values a place
// in the arena by their lifetimes. A state's new value is written over the old one where every reader has been served;
// views between calls are sub-ranges of the slot that holds them (passes/plan/place.h).
#pragma once
#include <map>

#include "codegen/program.h"
#include "ir/tile/kernel.h"

namespace quern {

/// Fills `program`'s slots, lists and steps. `at_bound` is `kernels` at the symbol's bound; `calls` in step order; `images` and `lowered` by call.
void assemble(const Graph& kernels, const Graph& at_bound, const std::vector<NodeId>& calls, const std::map<NodeId, std::vector<int64_t>>& images, const std::map<NodeId, const tile::Kernel*>& lowered,
              Program& program);

}  // namespace quern
