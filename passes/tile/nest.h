// nest (CPU): the loops of a product, after its tiles are chosen. What many tiles read is copied once into panels, a scratch
// that belongs to the grid instance, and stays in the core's cache:
//   - the operand along the lanes, where it is large, gathered or masked: panels of one tile, several side by side; one that
//     lies in such panels already (passes/graph/panels.cpp) is read there;
//     the tiles that read a panel of a large operand ask for the lines that are copied there next (`load ahead`);
//   - the rows' operand where each step of the sum is another line of it and these lines do not find room in the caches, as
//     they lie a large power of two apart: turned, for a group of row tiles;
//   - a long sum is taken in blocks, with the sums so far in a scratch; a single row tile takes it in short blocks, so that
//     the other operand is read along its lines.
// New axes stand around the old ones (`within`), so that the tiles keep their names. Of two operands that both run along the
// sum, the tiles of the shorter side are walked within those of the longer one.
//   before: grid (i0, i1) { … seq (i2) { … %b = load %p1[i2, i1] … } … }
//   after:  grid (i1) { each (i2) { %9 = load %p1[i2, i1]  store %s0[i2, i1%64] = %9 }
//                       each (i0) { … seq (i2) { … %b = load %s0[i2, i1%64] … } … } }
#pragma once
#include "passes/tile/plan.h"

namespace quern {

/// Takes a kernel with planned tiles; gives it back unchanged where none of this would pay.
tile::Kernel nest(const tile::Kernel& kernel, const CpuArch& arch, KernelSchedule& schedule);

}  // namespace quern
