// roles for nested products (sm_90a): a row's weighted sum of values, the weights exponentials of another product's results less their maximum
// → one walk over the keys, planned in roles (ir/tile/kernel.h). Maxima and sums run along (as `online` has them), the weighted
// sum is scaled where the maximum grows, and what divides or multiplies each weight of a row does so with the sum, behind the loop.
// So roundings fall away, and the order of sums changes: only kernels whose scores are f32 until they weigh are taken (--fp fast).
//   before: grid (i0) { %m = seq (i2) … max of %x(i0, i2) …   %l = seq (i4) … sum of exp(%x - %m) …
//                       each (i1) { %o = seq (i6) { %s = seq (i7) … mma[bf16] i7 (…)   %p = map(cast<bf16>(div(exp(sub(x, m)), l))) (%s, %m, %l)   … mma[bf16] i6 (…, %p, %v) }   store … } }
//   after:  work (…, i0) … { role load { fetch q   seq (blocks) { fetch k   fetch v } }
//             role math x 2 along … { %o, %m, %l, %f, %p = seq (blocks) { %s = issue mma (0, q, k)   past (blocks) { … issue mma (%o * %f, %p, v)   await 1 } …
//                                                           %p' = exp(%s * c - …)   await 0   yield … }   …   each (…) { put, send } } }
// What a kernel stores of a row's maximum and sum is stored behind the loop. Kernels without such are roles_weighted.h's.
// Blocks that a mask empties are not walked (`bounds`). All of a text after: tests/support/attention_text.h.
#pragma once
#include <optional>
#include <string>

#include "ir/tile/kernel.h"

namespace quern {

/// Nothing where the kernel is no such sum; `why` says what stands against it.
std::optional<tile::Kernel> plan_nested_roles(const tile::Kernel& kernel, std::string& why);

}  // namespace quern
