// What statements make and read, and other names in them: for passes that join loops or give a loop axes of its own.
#pragma once
#include <map>
#include <set>

#include "ir/tile/kernel.h"

namespace quern {

using Names = std::map<tile::ValueId, tile::ValueId>;
tile::ValueId named(const Names& names, tile::ValueId v);   // itself where it has no other name

void made_by(const tile::Stmt& s, std::set<tile::ValueId>& out);
void read_by(const tile::Stmt& s, std::set<tile::ValueId>& out);   // also inside of it

/// In what a statement reads, not in what it makes.
void rename_reads(tile::Stmt& stmt, const Names& names);
/// In indices and loops, and in the tiles that the block makes.
void rename_axes(tile::Kernel& kernel, tile::Block& block, const std::map<tile::AxisId, tile::AxisId>& axes);

}  // namespace quern
