// keep (CPU): a function of a row's elements that several walks along the row would compute is computed by the first of
// them, into a scratch of one row.
//   before: seq (i1) … { … map(exp(sub(a0, a1))) (%2, %0) … }  each (i2) { … map(div(exp(sub(a0, a1)), a2)) (%5, %0, %4) … }
//   after:  seq (i1) … { %7 = map(exp(sub(a0, a1))) …  store %s0[i1] = %7 … }  each (i2) { %9 = load %s0[i2]  … map(div(a0, a1)) (%9, %4) … }
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Takes a kernel with planned tiles.
tile::Kernel keep(const tile::Kernel& kernel);

}  // namespace quern
