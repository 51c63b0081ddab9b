// Slots and steps of a program. Inputs, outputs, states and constants get slots of their own, all other values a place
// in the arena by their lifetimes. Calls that depend on nothing that changes from run to run are the program's setup, and what
// others read of them lies in slots that nothing else writes. A state's new value is written over the old one where every reader has been served, and any other
// value over one that its kernel is the last to read, where that kernel allows it (passes/tile/overwrite.h);
// views between calls are sub-ranges of the slot that holds them (passes/plan/place.h).
#pragma once
#include <map>

#include "codegen/program.h"
#include "ir/tile/kernel.h"

namespace quern {

using KernelCall = std::pair<const Graph*, NodeId>;
/// Of a partitioned graph and of all bodies in it: the calls (kernels, loops and branches) in step order; the images,
/// the lowered form and the planned ones of each kernel.
struct Schedule {
  std::map<const Graph*, std::vector<NodeId>> calls;
  std::map<KernelCall, std::vector<int64_t>> images;
  std::map<KernelCall, const tile::Kernel*> lowered;
  std::map<KernelCall, std::vector<const tile::Kernel*>> planned;   // as many as images
};

/// What runs before the first run alone.
enum class Once { nothing, what_does_not_change };
/// When the place of a small value is another's: in the next step, or, for launches that run side by side but where they share memory,
/// some steps later.
enum class Reuse { at_once,
                   later };
/// Fills `program`'s slots, lists and steps. `at_bound` is `kernels` at the symbol's bound, which the schedule is of.
void assemble(const Graph& kernels, const Graph& at_bound, Schedule schedule, Once once, Reuse reuse, Program& program);

}  // namespace quern
