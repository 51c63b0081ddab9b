// What the copy engine of sm_90a can reach: a tile of a buffer by one tensor map.
#pragma once
#include <string>
#include <vector>

#include "ir/tile/kernel.h"

namespace quern {

/// "" where two dims of the buffer are the axes, all of each, its last dim is one of them, and what lies between two places of
/// others is a multiple of 16 bytes; else what stands against it.
/// An axis may lie in parts, which other axes stand between: head and element of a width that is made of heads, [b, a // 64, t, a % 64], as long as rows of
/// 128 bytes lie in one part each.
/// `longer`: an axis of which the buffer may have more; what is made of that is stored nowhere. With `part`, steps of so many of the second axis, that one may
/// be a range of its dim, in whole steps.
std::string out_of_reach(const tile::Kernel& kernel, tile::BufferId buffer, const std::vector<tile::BoxIndex>& index, tile::AxisId first, tile::AxisId second, tile::AxisId longer = -1, int64_t part = 0);

}  // namespace quern
