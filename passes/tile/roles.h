// roles (sm_90a): a product of floats of 16 or 8 bits or of tf32 whose operands and outputs the copy engine can reach → the planned form with roles
// and channels (ir/tile/kernel.h). One role fetches tiles of both operands into a ring; the others multiply with wgmma, either sharing
// a tile of the output or in turns, so that one multiplies while the other computes what follows the product; that goes
// out in parts of 64 rows through a ring of its own. What a part reads is asked for at once, and where registers allow it while the part before is computed; what lies
// like the output, in 16 bits, before the product, by the copy engine, in the slots from which the output goes out. Where tiles are few and the sum is long, several blocks share a tile: each sums a
// part, shows its sums to the others, and adds up and finishes what it is dealt of the tile. A convolution with channels last is such a product,
// too: rows are pictures, and the sum walks the places of a window or a picture beside 64 channels or pictures. Which tiles, how many instances, stages and
// shares: the least cost by a model of the time, a function of extents and bytes.
//   before: grid (i0, i1) { %0 = seq (i2) carry (%1 = 0) { %2 = load %p0[i0, i2]  %3 = load %p1[i2, i1]  yield mma[bf16] i2 (%1, %2, %3) }  store %p2[i0, i1] = map(…) (%0) }
//   after:  work (i0, i1) in groups of 8 { chan %c0 (bf16[i0, i2], bf16[i2, i1]) x 4  chan %c1 (bf16[i4, i5]) x 2
//             role load regs 40 { seq (i2) { fetch %c0 (%p0[i0, i2], %p1[i2, i1]) } }
//             role math x 2 along i3 regs 232 { %0 = seq (i2) … { %2, %3 = get %c0  … issue mma …  await 1  past (i2) { release %c0@s-1 } … }
//               await 0  release %c0@s  each (i4, i5) { %6 = slice %0  %7 = map(…) (%6)  put %c1 (%7)  fence  send %c1 to (%p2[i4, i5]) } } }
// Operands of tf32 run along the sum, but for the rows' one, which may lie across it and is then taken into registers; outputs may run along the rows:
//   taken:  … { await 0  past (i2) { release %c0@s }  %2, %3 = get %c0  %5 = map(a0) (%2)  issue mma[tf32, …] i2 (%1, %5, %3) }
// Sums of 8-bit floats keep 14 bits: the products of each step of 128 terms are summed from 0, and added up in f32. Both operands run along the sum.
//   parts:  … { %2, %3 = get %c0  %8 = map(0:f32) ()  %4 = issue mma[f8, …] i2 (%8, %2, %3)  await 0  release %c0@s  %5 = map(add(a0, a1)) (%1, %4)  yield %5 }
//   shared: axis i2<… by 64 within i6  work (i0, i1) in groups of 8 shared along i6 { … share %0  deal (i4, i5) { %6 = total %0 … } }
#pragma once
#include <optional>
#include <string>

#include "ir/tile/kernel.h"

namespace quern {

class KernelSchedule;   // passes/tile/schedule.h

/// Nothing where the kernel is no such product; `why` says what stands against it.
std::optional<tile::Kernel> plan_roles(const tile::Kernel& kernel, std::string& why, KernelSchedule* schedule = nullptr);

}  // namespace quern
