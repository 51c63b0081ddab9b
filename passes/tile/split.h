// split: where rows of several heads lie side by side in one dim of a buffer, it becomes two: the copy engine then reaches a head's rows.
//   before: %p0: in bf16[8,1024,2304]    load %p0[i0, i2, i1*64 + i3 + 768]      (i3 < 64)
//   after:  %p0: in bf16[8,1024,36,64]   load %p0[i0, i2, i1 + 12, i3]
// Memory stays as it is. Every access to the dim must be such.
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

tile::Kernel split_dims(tile::Kernel kernel);

}  // namespace quern
