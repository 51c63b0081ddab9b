// Whether statements compute the same, by names of axes and tiles that may differ.
#pragma once
#include "passes/tile/rename.h"

namespace quern {

class Equal {
 public:
  explicit Equal(tile::Kernel& kernel) : kernel_(kernel) {}

  /// Loops that walk alike.
  bool alike(const std::vector<tile::AxisId>& a, const std::vector<tile::AxisId>& b) const;
  /// Whether s, what it reads by `names`, computes what `old` does; then names[its results] are old's.
  bool statements(const tile::Stmt& old, const tile::Stmt& s, Names& names);
  /// Appends the statements that are not there; `names` learns of the others.
  void take_in(tile::Block& into, tile::Block more, Names& names);

 private:
  bool loops(const tile::Seq& old, const tile::Seq& q, Names& names);
  const std::vector<tile::AxisId>& axes_of(tile::ValueId v) const { return kernel_.values[static_cast<size_t>(v)].axes; }

  tile::Kernel& kernel_;
};
bool equal_nodes(const tile::ScalarNode& a, const tile::ScalarNode& b);   // but for what their arguments are

}  // namespace quern
