// Nested products (CPU): kernels in whose loops other products are computed, as attention's. The rows lie across the lanes,
// so what comes of the inner product stays in registers, where the outer one reads it: vectors of rows times single numbers.
//   before: grid (i0, i1) { %9 = seq (i2) carry (%c = 0) { %s = seq (i3) … { %q = load %p0[i0, i3] … mma i3 … }  %p = map … (%s)
//                             %v = load %p2[i2, i1]   yield mma i2 (%c, %p, %v) }   store %p3[i0, i1] = %9 }
//   after:  grid (i0) { each (i3) { %20 = load %p0[i0, i3]   store %s1[i3, i0%32] = %20 }   each (i1) { store %s0[i1, i0%32] = 0 }
//                       seq (i2) { %s = seq (i3) … { %q = load %s1[i3, i0%32] … }  %p = map … (%s)
//                                  each (i1) { %c = load %s0[i1, i0%32]  %v = load %p2[i2, i1]  %m = mma i2 (%c, %p, %v)  store %s0[i1, i0%32] = %m } }
//                       each (i1) { %9 = load %s0[i1, i0%32]   store %p3[i0, i1] = %9 } }
// Copies and stores along which the rows lie apart walk axes of their own, by whole vectors: squares are turned in registers.
#pragma once
#include "passes/tile/plan.h"

namespace quern {

/// Whether a product stands inside another loop than its own, or beside another.
bool has_nested_products(const tile::Kernel& kernel);
tile::Kernel plan_nested(const tile::Kernel& kernel, const CpuArch& arch);

}  // namespace quern
