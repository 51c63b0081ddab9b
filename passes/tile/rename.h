// What statements make, and other names in them: for passes that join loops or give a loop axes of its own.
#pragma once
#include <map>
#include <set>

#include "ir/tile/kernel.h"

namespace quern {

using Names = std::map<tile::ValueId, tile::ValueId>;
tile::ValueId named(const Names& names, tile::ValueId v);   // itself where it has no other name

void add_made_by(const tile::Stmt& s, std::set<tile::ValueId>& out);   // also a loop's results

/// In what a statement reads, not in what it makes.
void rename_reads(tile::Stmt& stmt, const Names& names);
/// In indices and loops, and in the tiles that the block makes.
void rename_axes(tile::Kernel& kernel, tile::Block& block, const std::map<tile::AxisId, tile::AxisId>& axes);

}  // namespace quern
