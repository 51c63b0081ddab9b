// The axes of a kernel, made as few as they can be and no fewer. The graph's shapes give a kernel its axes; what it reads
// may want others: rows of a batch are one axis to a product, and a width that was heads and their size is two.
//   before: load %p0[i0, i1, i3], store %p3[i0, i1, i2]     after: load %p0[i0, i3], store %p3[i0, i2]
//   before: load %p1[i0, i3//64, i1, i3%64]                  after: load %p1[i0, i3, i1, i4]
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// Meaning, and the order of every sum, stay the same.
tile::Kernel regroup(tile::Kernel kernel);

/// Buffers' dims as whole axes want them: two that all accesses walk as one become one, and one that they walk in parts, as a width made of
/// heads, becomes two.
///   before: load %p0[i0//1024, i0%1024, i1] of f32[16,1024,768]     after: load %p0[i0, i1] of f32[16384,768]
///   before: load %p0[i0, i1*64 + i2 + 768] of f32[8,2304]           after: load %p0[i0, i1 + 12, i2] of f32[8,36,64]
tile::Kernel match_dims(tile::Kernel kernel);

}  // namespace quern
