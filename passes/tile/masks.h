// Comparisons of coordinates, by which maps leave elements out: what `bounds` takes off a loop, and what the CUDA emitter asks of a
// block before it looks at each element.
//   le(coord(i1), coord(i0))  →  i1 - i0: positive where it is false
#pragma once
#include <map>
#include <optional>

#include "ir/tile/kernel.h"

namespace quern::tile {

/// What a scalar of dtype i32 or i64 is, in coordinates; `numbers`: what tiles are.
std::optional<Index> in_coordinates(const MapTile& m, int node, const std::map<ValueId, Index>& numbers);
/// Of a comparison: what is positive where it is false, and not where it is true.
std::optional<Index> excess_of(const MapTile& m, const ScalarNode& n, const std::map<ValueId, Index>& numbers);

}  // namespace quern::tile
