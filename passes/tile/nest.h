// nest (CPU): a product whose right side does not fit the first-level cache walks it in panels. The grid keeps the
// panel's axis; rows become an `each` inside; the panel is copied once into a scratch that belongs to the instance.
//   before: grid (i0, i1) { … seq (i2) { … %b = load %p1[i2, i1] … } … }
//   after:  grid (i1) { each (i2) { %9 = load %p1[i2, i1]  store %s0[i2, i1%64] = %9 }
//                       each (i0) { … seq (i2) { … %b = load %s0[i2, i1%64] … } … } }
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Takes a kernel with planned tiles; gives it back unchanged where panels would not pay.
tile::Kernel nest(const tile::Kernel& kernel);

}  // namespace quern
