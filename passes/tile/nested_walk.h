// What the planners of nested products in roles share (roles_nested.cpp, roles_weighted.cpp): of the kernel before, its trees and
// products; of the new one, its axes, values and how instances are shared out.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "passes/tile/trees.h"

namespace quern {

struct Refused {
  std::string why;
};
inline void want(bool condition, const std::string& why) {
  if (!condition) throw Refused{why};
}

class NestedWalk {
 protected:
  explicit NestedWalk(const tile::Kernel& kernel) : before_(kernel) {}

  const tile::Kernel before_;
  tile::Kernel k_;
  tile::AxisId row_ = -1, walk_ = -1;       // of each instance; of the loops
  std::map<tile::AxisId, Index> there_;     // where the axes of before are

  // --- what is there ---
  const tile::Axis& axis(tile::AxisId a) const { return before_.axes[static_cast<size_t>(a)]; }
  const std::vector<tile::AxisId>& axes_of(tile::ValueId v) const { return before_.values[static_cast<size_t>(v)].axes; }
  DType dtype_of(tile::ValueId v) const { return before_.values[static_cast<size_t>(v)].dtype; }
  bool has_axis(tile::ValueId v, tile::AxisId a) const { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; }
  template <class T>
  static const T* maker(const tile::Block& block, tile::ValueId v) {
    for (const tile::Stmt& s : block)
      if (const T* t = std::get_if<T>(&s.node); t && t->out == v) return t;
    return nullptr;
  }
  static Index renamed(const Index& i, const std::map<tile::AxisId, tile::AxisId>& names);
  /// The tree of a value of the block, or of the rows; axes are called by `names`, leaves are what `leaf_of` gives.
  TreePtr tree(const tile::Block& block, tile::ValueId v, const std::map<tile::AxisId, tile::AxisId>& names, const std::function<TreePtr(tile::ValueId)>& leaf_of) const;
  /// A product of two loads along one axis, from 0; the first operand first.
  std::pair<const tile::Load*, const tile::Load*> loads_of(const tile::Seq& q, const tile::Mma*& product) const;
  /// Of a loop that carries one number: the sum or maximum of each step's tile, which it is combined with.
  const tile::ReduceTile* reduction(const tile::Seq& q) const;
  /// The copy engine reaches it, and its last dim is `second`.
  void reachable(tile::BufferId b, const std::vector<tile::BoxIndex>& index, tile::AxisId first, tile::AxisId second) const;
  /// A row that has numbers of its own walks the columns of its results; here each is an instance, as where it has none.
  static tile::Kernel by_columns(tile::Kernel kernel);
  /// A sum of what is loaded of a row, element by element.
  struct RowSum {
    tile::ValueId out;
    tile::AxisId along;
    std::vector<const tile::Load*> loads;
    TreePtr element;   // vectors are these loads
  };
  RowSum row_sum(const tile::Seq& q) const;
  static bool rounds_inside(const TreePtr& t);   // to a short float

  // --- the new kernel ---
  tile::AxisId add_axis(int64_t extent, int64_t tile, tile::AxisId within = -1, tile::Spread spread = {});
  tile::ValueId value(DType dtype, std::vector<tile::AxisId> axes);
  static tile::Stmt in_role(auto node) { return {tile::InRole{std::move(node)}}; }
  Index moved(const Index& i, tile::AxisId rows) const;
  std::vector<tile::BoxIndex> moved(std::vector<tile::BoxIndex> box, tile::AxisId rows) const;
  tile::Mma issued(tile::ValueId acc, tile::ValueId a, tile::ValueId b, tile::Precision precision, tile::AxisId summed, int64_t columns);
  /// The grid's axes but the rows' and those of results; of one element where there are none.
  std::vector<tile::AxisId> add_outer_axes(const std::vector<tile::AxisId>& columns);

  tile::AxisId add_row_axis(const RowSum& sum);
  /// From registers, in reads of 16 bytes.
  tile::ValueId add_row_sum(tile::Block& to, const RowSum& sum, tile::AxisId rows);
  /// Of blocks of the walk, those that hold what the tile of rows walks.
  void bound_blocks(tile::AxisId blocks, tile::AxisId rows, int64_t block);

  /// How many instances share a tile of rows, and how many heads' rows are walked side by side, long rows first.
  struct Share {
    int64_t instances, group;
    double most;   // what the block with the most to do has, in steps of 64 rows
  };
  /// Of `walked` rows of so many bytes a head, in blocks.
  Share share(int64_t instances, int64_t block, double step, int64_t head_bytes, const std::vector<tile::AxisId>& columns) const;
};

inline constexpr tile::Spread kAcross{4, 0, 1, 0, 2}, kDown{8, 2, 4, 0, 1};   // columns and rows of a product's sum

}  // namespace quern
