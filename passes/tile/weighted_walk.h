// What the planners of weighted sums along one walk share (roles_weighted.cpp, roles_ordered.cpp): what is weighted and how, and
// how weights become tiles. A weight is a tree of products' results and vectors; subtrees become maps in the step at which all
// their products are there, each once.
#pragma once
#include <map>
#include <set>
#include <vector>

#include <fmt/format.h>

#include "passes/tile/nested_walk.h"

namespace quern {

class WeightedWalk : protected NestedWalk {
 protected:
  explicit WeightedWalk(const tile::Kernel& kernel) : NestedWalk(by_columns(kernel)) {}

  struct Operand {                 // of 16 bits, its index in the axes of the first sum's walk
    tile::BufferId buffer;
    std::vector<tile::BoxIndex> index;
    tile::AxisId size;                   // its last dim, summed or a result's
    bool operator==(const Operand& o) const {
      return buffer == o.buffer && size == o.size && index.size() == o.index.size() && std::equal(index.begin(), index.end(), o.index.begin(), [](const tile::BoxIndex& a, const tile::BoxIndex& b) { return a.index == b.index; });
    }
  };
  struct Product {
    Operand rows, walked;
    tile::Precision precision;
  };
  struct Sum {
    TreePtr weight;
    double factor = 1;
    Operand value;
    tile::ValueId out;
    const tile::Store* store = nullptr;
    TreePtr stored;
    bool wants_end = false, wants_row_end = false;   // past the walk's, or the rows', end weights are chosen to be 0
  };
  struct Vector {
    tile::BufferId buffer;
    std::vector<tile::BoxIndex> index;
    bool walked;
  };
  std::vector<Product> products_;
  std::vector<Sum> sums_;
  std::vector<RowSum> row_sums_;
  std::vector<std::pair<const tile::Store*, TreePtr>> rows_stored_;   // what is made of such
  std::vector<Vector> vectors_;
  std::vector<tile::AxisId> columns_;    // of the results
  std::vector<tile::AxisId> over_;       // what is walked once for each of: heads that share the rows
  const tile::Seq* wide_ = nullptr;      // the sum that is stored in f32
  DType dtype_ = DType::bf16;
  int64_t block_ = 0;              // of the walk

  const tile::Block& body() const { return before_.phases[0].body; }
  bool is_walked(const std::vector<tile::BoxIndex>& index) const;
  // --- what is there ---
  void find_sums();
  bool is_stored_wide(const tile::Seq& q) const;
  TreePtr row_sum_leaf(tile::ValueId v) const;
  void find_sum(const tile::Seq& q);
  Sum sum_of(const tile::Seq& q, const std::map<tile::AxisId, tile::AxisId>& names);
  static bool same_walk(const tile::Axis& a, const tile::Axis& b);
  // The one axis of the last dim is the operand's size.
  Operand operand(const tile::Load& l, const std::map<tile::AxisId, tile::AxisId>& names, tile::AxisId size) const;
  int product(const tile::Seq& q, const std::map<tile::AxisId, tile::AxisId>& names);
  static Operand called(Operand o, tile::AxisId size);
  int vector(const tile::Load& l, const std::map<tile::AxisId, tile::AxisId>& names);
  // First those of which exponentials are made: they are, while the others are multiplied.
  void order_products();
  static std::set<int> axes_in(const std::vector<tile::BoxIndex>& index);
  void find_rows();
  // A sum's value that is a product's operand, too: both walk the same axis of a row's elements.
  void name_sizes();
  void find_places();
  // --- weights ---
  bool wants_end(const Sum& s) const;
  // --- sizes ---
  int64_t width(tile::AxisId a) const;
  std::vector<Operand> rows() const;
  std::vector<Operand> walked() const;
  // --- the new kernel ---
  tile::AxisId rows_ = -1, mine_ = -1, at_ = -1, key_ = -1;   // of an instance of the work, of a role's; blocks, and what lies in one
  std::vector<tile::AxisId> steps_;                            // over_, and the blocks
  std::map<tile::AxisId, tile::AxisId> size_axes_;                   // of before → new
  std::map<int, tile::ValueId> scores_, vector_tiles_, totals_, tiles_;   // by their number
  std::vector<TreePtr> made_;                            // what is a tile, by its number
  std::vector<size_t> comes_with_;                       // of each vector: the walked operand whose slots it shares
  std::vector<tile::ValueId> mine_of_;                         // of the rows, what is a role's
  std::map<size_t, tile::ValueId> got_;                        // of the walked, in a step
  int64_t sends_ = 2;                                    // slots of results
  bool comes_with(size_t vector, size_t walked) const { return vectors_[vector].walked && comes_with_[vector] == walked; }
  static void add_channel(tile::Phase& p, std::vector<tile::Value> parts, int64_t depth) { p.channels.push_back({fmt::format("c{}", p.channels.size()), std::move(parts), depth}); }
  tile::ValueId tile_of(const Tree& x) const;
  tile::MapTile map_of(const TreePtr& t, tile::ValueId out, bool fast) const;
  tile::AxisId size_axis(tile::AxisId a) const;
  tile::ValueId operand_value(const Operand& o, tile::AxisId along);
  static size_t place(const std::vector<Operand>& list, const Operand& o);
  tile::ValueId add_tile(tile::Block& to, const TreePtr& of, const TreePtr& t, bool fast);
  TreePtr found(const TreePtr& t) const;
  // As a tile; masks in it are maps of their own, which whole blocks pass by.
  TreePtr as_tile(tile::Block& to, const TreePtr& t);
  TreePtr with_masks(tile::Block& to, const TreePtr& t);
  // What the products up to this one give becomes tiles.
  TreePtr staged(tile::Block& to, const TreePtr& t, int product);
  static bool is_made(const TreePtr& t, int product);
  tile::ValueId rounded_weight(tile::Block& body, const Sum& s);
  /// Issued; what it gives.
  tile::ValueId add_to_sum(tile::Block& body, const Sum& s, tile::ValueId rounded, tile::ValueId sum);
  tile::Role load(tile::Phase& p);
  std::vector<tile::ValueId> take_rows(tile::Role& math);
  tile::Seq loop_of_sums();
  /// What is walked, in this step.
  tile::ValueId got(tile::Block& body, const Operand& o);
  void issue_product(tile::Block& body, size_t n);
  // Each sum, by 64 columns, times what was a factor of all its weights.
  void store(tile::Phase& p, tile::Role& math);
};

}  // namespace quern
