// flatten (CPU): the positions of a convolution's image rows become one axis. What the windows of some rows read is copied
// once, with its padding, into a scratch of rows `pitch` apart: there position (y, x) reads place (r, s) at y*pitch + x +
// r*pitch + s, so that vectors run on from one row into the next and nothing is masked. The pitch is as short as
// padding that two rows share allows. Sums of the places between two rows are dropped on the way back to rows.
//   before: grid (n, o, y, x) { %s = seq (c, r, s) … { %a = load %p0[n, c, y + r - 1, x + s - 1] … mma … }  …  store %p3[n, o, y, x] = … }
//   after:  grid (n, b) { each (c, h, q) { %9 = load %p0[n, c, b*7 + h - 1, q - 1]  store %s0[c, h*57 + q] = %9 }
//                         each (o) { each (p) { %8 = seq (c, r, s) … { %a = load %s0[c, p + r*57 + s] … mma … }  store %s1[o%6, p] = %8 }
//                                    each (y, x) { %s = load %s1[o%6, y*57 + x]  …  store %p3[n, o, b*7 + y, x] = … } } }
#pragma once
#include <optional>

#include "passes/tile/plan.h"

namespace quern {

/// Takes a lowered kernel and plans it; none where its product is no convolution of neighbours, or this would not pay.
std::optional<tile::Kernel> flatten(const tile::Kernel& kernel, const CpuArch& arch);

}  // namespace quern
