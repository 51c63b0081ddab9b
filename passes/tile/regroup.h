// The axes of a kernel, made as few as they can be and no fewer. The graph's shapes give a kernel its axes; what it reads
// may want others: rows of a batch are one axis to a product, and a width that was heads and their size is two.
//   before: load %p0[i0, i1, i3], store %p3[i0, i1, i2]     after: load %p0[i0, i3], store %p3[i0, i2]
//   before: load %p1[i0, i3//64, i1, i3%64]                  after: load %p1[i0, i3, i1, i4]
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Meaning, and the order of every sum, stay the same.
tile::Kernel regroup(tile::Kernel kernel);

}  // namespace quern
