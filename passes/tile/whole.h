// whole (CUDA): what several walks along a row load is loaded once. A row that fits the registers of the threads that share it
// is one step: its walks become one, in which equal loads and maps are one, and a carry starts and ends.
//   before: %5 = seq (i2) carry (%1 = 0) { %2 = load %p0[i0, i2]  %3 = reduce<add> i2 (%2)  %4 = map(add(a0, a1)) (%1, %3)  yield %4 }
//           each (i1) { %6 = load %p0[i0, i1]  %7 = map(sub(a0, a1)) (%6, %5)  store %p1[i0, i1] = %7 }
//   after:  each (i1) { %1 = map(0)  %2 = load %p0[i0, i1]  %3 = reduce<add> i1 (%2)  %4 = map(add(a0, a1)) (%1, %3)
//                       %7 = map(sub(a0, a1)) (%2, %4)  store %p1[i0, i1] = %7 }
// Sums over a chunk of rows beside them, which lie in memory from row to row, are carried in registers:
//   before: each (i1) { store %p3[i0, i1] = 0 }  seq (i3) { … each (i4) { %8 = load %p3[i0, i4]  %9 = map(add(a0, a1)) (%8, %7)  store %p3[i0, i4] = %9 } }
//   after:  each (i1) { %10 = seq (i3) carry (%8 = 0) { …  %9 = map(add(a0, a1)) (%8, %7)  yield %9 }  store %p3[i0, i1] = %10 }
// What is the same for all rows, a scale along them, is loaded for each statement that reads it.
// A longer row is copied to shared memory first, where that holds it, also where some walks leave out its end:
//   before: seq (i1) { … load %p0[i0, i1] … }  each (i2) { … load %p0[i0, i2] … }
//   after:  each (i3) { %7 = load %p0[i0, i3]  store %s2[i3] = %7 }  seq (i1) { … load %s2[i1] … }  each (i2) { … load %s2[i2] … }
#pragma once
#include <optional>

#include "ir/tile/kernel.h"

namespace quern {

struct WholeRow {
  tile::Kernel kernel;
  tile::AxisId along;   // the row's axis, whose tile is its extent
  tile::AxisId rows;    // the axis whose elements are rows
  int64_t held;         // tiles of rows that a thread holds
};
/// Of a lowered kernel; none where it is no kernel of rows, or they are too long.
std::optional<WholeRow> whole_row(const tile::Kernel& kernel);
/// With its rows in shared memory of at most so many bytes; none where they are read once, or too long.
std::optional<tile::Kernel> row_in_shared(const tile::Kernel& kernel, int64_t bytes);

}  // namespace quern
