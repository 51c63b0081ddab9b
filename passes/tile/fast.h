// fast (CUDA, --fp fast): maps that read or make short floats need not round each op between (ir/tile/kernel.h): a product and a sum are
// one, exponentials, quotients and error functions the machine's, with errors far below the last place of what is read or stored.
//   before: %2: bf16[i0] = map(cast<bf16>(div(exp(cast<f32>(a0)), a1))) (%0, %1)
//   after:  %2: bf16[i0] = map fast(cast<bf16>(div(exp(cast<f32>(a0)), a1))) (%0, %1)
// Constant factors of such a map become one, also those that are values of their own; a power of two goes into a sum with a constant:
//   before: %3: f32[] = map(cast<f32>(0.5:bf16)) ()  %4: bf16[i0] = map fast(cast<bf16>(mul(mul(mul(a0, a1), mul(add(erf(a0), 1), a1)), 3))) (%0, %3)
//   after:  %4: bf16[i0] = map fast(cast<bf16>(mul(mul(a0, add(mul(erf(a0), 0.5), 0.5)), 1.5))) (%0)
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Of a planned kernel.
tile::Kernel fast_maps(tile::Kernel kernel);

}  // namespace quern
