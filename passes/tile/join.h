// join (CPU): loops over equal extents that do not read each other's results become one, and what both compute, as the
// inner products of attention's derivatives, is computed once.
//   before: %5 = seq (i2) … { %3 = load %p0[i2]  %4 = map (exp(a0)) (%3) … }   %9 = seq (i3) … { %6 = load %p0[i3]  %7 = map (exp(a0)) (%6)  %8 = map (neg(a0)) (%7) … }
//   after:  %5, %9 = seq (i2) … { %3 = load %p0[i2]  %4 = map (exp(a0)) (%3) …  %8 = map (neg(a0)) (%4) … }
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

tile::Kernel join(const tile::Kernel& kernel);

}  // namespace quern
