// roll (CPU): what follows a product's sums row by row, where it is much: all rows of a tile at once are in registers for
// the sums' sake, but a division in each of them is as slow as in a loop and takes as many times the code.
//   before: %1: f32[i0, i1] = seq (i2) … mma …   %2: f32[i0, i1] = load %p2[i0, i1]   %3 = map(div(a0, a1)) (%1, %2)   store %p3[i0, i1] = %3
//   after:  %1: f32[i0, i1] = seq (i2) … mma …   store %s0[i0%6, i1%64] = %1
//           each (i4) { %4: f32[i1, i4] = load %s0[i4%6, i1%64]   %5 = load %p2[i4, i1] … }     where axis i4 by 1 within i0
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Takes a kernel with planned tiles of one product. `lanes`: of a vector.
tile::Kernel roll(tile::Kernel kernel, int64_t lanes);

}  // namespace quern
