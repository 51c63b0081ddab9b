// Bounds: a loop whose steps change nothing where a mask holds walks, for each block of the rows, only the others.
//   before: axis i1<256 by 1   grid (i0) { %m = seq (i1) carry (%c = 0) { … %p = map(exp(sub(select(le(coord(i1), coord(i0)), a0, -inf:f32), a1))) (%s, %r)
//                                          yield mma i1 (%c, %p, %v) } }
//   after:  axis i1<256 by 1 to i0 + 1
// The expressions are evaluated with a comparison of coordinates taken to be true, and to be false. Where then a sum gets 0 and
// a maximum -inf, whatever the rest is, the block is left out. 0 times, 0 over and -inf minus anything count as 0 and -inf:
// results are those of all steps where what the mask hides is finite (keys and values, and the maximum of a row), and what is
// infinite or NaN behind the mask is not seen (with Fp::strict no kernel has such loops: passes/pass.h). A mask that hides all of a row, or from all rows, stays as it is.
#pragma once
#include "passes/tile/plan.h"

namespace quern {

tile::Kernel bounds(const tile::Kernel& kernel);

}  // namespace quern
