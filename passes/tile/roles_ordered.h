// roles for weighted sums along both axes of one grid of weights (sm_90a): what roles_weighted.h takes, and beside its sums another one that is
// stored as it is, in f32: of the same weights, along the rows instead of the walk. Then one kernel makes the weights for all of them. Each step of an
// instance's walk makes its part of that sum, of its rows; roles of their own add it to memory, in the order of the instances (`add … over`), so that the
// bits are the same in every run. Weights meet in shared memory, where the product that sums over both roles' rows reads them.
//   before: grid (i0, i1) { %u = seq (i2 from i0) … %p, made of %l[i2], rows of %a and %d and the walked %b and %c …  mma i2 (…, %p, %c)   %v = seq (i3 from i0) … mma i3 (…, %g, %b)
//                           %w = seq (i4 to i0 + 1) { %g again, with i4 for i0 and i0 for i2 … mma i4 (…, %g, load %a[i4, i1]) }   store %x[i0, i1] = cast<bf16>(%u) …   store %z[i0, i1] = %w }
//   after:  work (…, i0) … backward claimed { role load { fetch a, d   seq (blocks) { fetch b, l   fetch c } }
//             role add x 2 in steps { seq (blocks) { get part   add part to (%z[block]) over i0 } }
//             role math x 2 along … { %u, %v = seq (blocks) { %p, %g as in roles_weighted.h   put weights (%g)   issue mma (%u, %p, c)   get weights
//                                       %w = issue mma (0, weights, a)   issue mma (%v, %g, b)   …   put part (%w) … } } }
// Two sums and two products of rows of 64 or 128, all of one length, no heads that share rows: what has been measured. What is stored in f32 is read again, and
// written in as many blocks as there are rows': whether that pays against a kernel of its own for that sum is for gain_in_order.
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Does it store such a sum?
bool adds_in_order(const tile::Kernel& kernel);
/// Microseconds that it saves, by a model of the time; below 0: costs.
double gain_in_order(const tile::Kernel& kernel);
/// These throw Refused (nested_walk.h) where the kernel is none of such sums.
tile::Kernel plan_ordered_roles(const tile::Kernel& kernel);

}  // namespace quern
