// A sum along an axis where all but one element is 0, which one a tile of integers says, is that element.
//   before: %3 = seq (i1) carry (%4 = 0) { %5: f32[i0, i1] = load %p1[i0, i1];  %6 = map(select(eq(a0, coord(i1)), a1, 0)) (%0, %5);
//                                          %7 = reduce<add> i1 (%6);  %8 = map(add(a0, a1)) (%4, %7);  yield %8 }
//   after:  %1: i64[i0] = map(cast<i64>(a0)) (%0);  %5: f32[i0] = load %p1[i0, %1];  %3 = map(…) (%1, %5)
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

tile::Kernel pick(const tile::Kernel& kernel);

}  // namespace quern
