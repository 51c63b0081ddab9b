// roles for weighted sums along one walk (sm_90a), their weights made of several products and of vectors, as in the gradient of
// what roles_nested.h takes. Rows stay; each step of the walk fetches a block of what is walked, makes the products for it, then
// the weights as soon as what they are made of is there, and adds to each sum. Sums over the same walk share what they read. Where
// several heads share the rows, as keys, one loop walks all of them: seq (heads, blocks).
//   before: grid (i0, i1) { %u = seq (i2) { %s = seq (i4) … mma i4 (%a, %b)   %p = map(cast<bf16>(exp(sub(a0, a1)))) (%s, load %l[i2])   … mma i2 (…, %p, load %c[i2, i1]) }
//                           %v = seq (i3) { the same %s, and %t = seq (i5) … mma i5 (%d, %c)   … mma i3 (…, %p * %t, load %b[i3, i1]) }   store …   store … }
//   after:  work (…, i0) … { role load { fetch a, d   seq (blocks) { fetch b, l   fetch c } }
//             role math x 2 along … { %u, %v = seq (blocks) { %s = issue mma (0, a, b)   %t = issue mma (0, d, c)   await 1   %p = exp(%s - l)   issue mma (%u, %p, c)
//                                                             await 1   %g = %p * %t   issue mma (%v, %g, b)   await 0   release … }   each (…) { put, send } } }
// A factor of every weight is one of the sum; a mask that an exponential's argument has already is no second one. What the weights read of a row
// may be a sum of its elements: that is made first, and stored where others want it. Past the end of the walk what is fetched is 0;
// where weights are not finite there they are chosen to be 0, too. A sum that is stored as it is, in f32, is for roles_ordered.h.
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Throws Refused (nested_walk.h) where the kernel is none of such sums.
tile::Kernel plan_weighted_roles(const tile::Kernel& kernel);

}  // namespace quern
