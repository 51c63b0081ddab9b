// of bytes (--matmul f8): a product of 8-bit floats that a map casts up → of them as they lie in memory. Casts up change no value.
//   before: %2 = load %p0[i0, i2]  %3 = map(cast<f32>(a0)) (%2)  %4 = load %p1[i1, i2]  %5 = map(cast<f32>(a0)) (%4)  %6 = mma[f32] i2 (%1, %3, %5)
//   after:  %2 = load %p0[i0, i2]  %4 = load %p1[i1, i2]  %6 = mma[f8] i2 (%1, %2, %4)
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

tile::Kernel of_bytes(tile::Kernel kernel);

}  // namespace quern
