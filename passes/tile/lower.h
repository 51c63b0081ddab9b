// Lowering: one kernel's region (a closed Graph that partition made) → Tile IR. TILE by demand: `value(node, index)`
// asks for a node's element at an index expression; views rewrite the index, maps merge into one scalar expression,
// reduce and contract open a `seq`, and every statement stands in the outermost block that knows its axes.
// Before: %2 = contract %0, %1 {spec="mk,kn->mn"} : f32[2,4];  %3 = tanh %2 : f32[2,4];  output %3
// After:  grid (i0, i1) { %2 = seq (i2) carry (%c = 0) { %a = load %p0[i0, i2] … yield mma[f32] i2 (%c, %a, %b) }
//                         %3 = map (tanh(a0)) (%2)   store %p2[i0, i1] = %3 }
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// How the kernel of a put_add adds: one update after the other, from x on, walking along the indices (work of the sum of
/// both sizes), or side by side: every element by itself all that is meant for it (of their product), or where that is much, ranges of rows
/// each by itself one update after the other.
enum class Updates { in_order, side_by_side };

/// Buffers: the region's inputs, then its outputs. Tiles are 1: the planner chooses them. `bound` is the greatest value
/// of the symbol, where the region's shapes hold it, `room` the one that buffers are laid out for (0: the same), `low` the least. Throws
/// Error(compile) where a view works along the symbol.
tile::Kernel lower(const Graph& region, const std::string& name, int64_t bound = 0, int64_t room = 0, int64_t low = 1, Updates updates = Updates::in_order);

}  // namespace quern
