// overwrite: may an output of a kernel lie in memory where an input does that nobody reads afterwards? It may where every instance has read of the
// input what others of its threads, or steps of its loops, are to overwrite:
//   elements: grid (i0) { %0 = load %p0[i0]  %1 = map(…) (%0)  store %p1[i0] = %1 }                     what it stores, before it does
//   rows:     grid (i0) { %1 = seq (i1) … { … load %p0[i0, i1] … }  %2 = load %p0[i0, %0]               its own row, before the walk that stores,
//                         each (i2) { %3 = load %p0[i0, i2]  …  store %p1[i0, i2] = %4 } }              and there what each step stores
//   in one step: grid (i0) { each (i1) { %1 = load %p0[i0, i1]  …  %2 = load %p0[i0, %0]  …  store %p1[i0, i1] = %4 } }   once all have read
//   tiles:    each (i3, i4) { %5 = load ahead %p0[i3, i4]  …  send %c1 to (%p1[i3, i4]) }                in roles: what it sends, before it does
//   refused:  grid (i0) { … each (i2) { %3 = load %p0[i0, i2]  %4 = load %p0[i0, i2 + 1]  …  store %p1[i0, i2] = %5 } }
// Threads of a GPU walk a row together: in front of the walk, or of the store, all of them have come.
#pragma once
#include <optional>
#include <vector>

#include "ir/tile/kernel.h"

namespace quern {

/// Elements alone, for the kernel and all its plans, those in roles too: all outputs have the same axes, so that the thread that stores an
/// element is the one whose reads of it count, also where other threads hold copies.
bool overwrites_elements(const tile::Kernel& kernel, tile::BufferId in, tile::BufferId out);

/// Outputs that may lie where an input does; the bodies of the loops, and the stores, that no thread may enter before all have come there.
struct Overwritten {
  std::vector<tile::BufferId> outputs;
  std::vector<const tile::Block*> loops;
  std::vector<const tile::Store*> stores;
};
/// Rows or tiles of a planned kernel; nothing where the output needs memory of its own.
std::optional<Overwritten> overwrites_rows(const tile::Kernel& planned, tile::BufferId in, tile::BufferId out);

/// Of all its inputs and outputs.
Overwritten overwritten_rows(const tile::Kernel& planned);

}  // namespace quern
