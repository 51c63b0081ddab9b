// What a loop's maps compute, as one tree of scalar ops: leaves are constants, coordinates and the values that loops and loads
// give. Planners that take kernels apart look at these (roles_nested.h), and make maps of them again.
//   %5 = map(mul(a0, 0.125:f32)) (%4)   %6 = map(exp(sub(a0, a1))) (%5, %1)   →   exp(sub(mul(score 0, 0.125), vector 0))
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "ir/tile/kernel.h"

namespace quern {

struct Tree {
  enum class Leaf { none,
                    score,     // an inner product's result
                    most,      // a row's maximum and sum
                    total,
                    product,   // a weighted sum
                    vector,    // what is loaded for a row or a column
                    tile } leaf = Leaf::none;   // a map that was made of such
  tile::ScalarNode node;
  std::vector<std::shared_ptr<const Tree>> args;
  int which = 0;               // of the leaves of its kind
};
using TreePtr = std::shared_ptr<const Tree>;

bool is(const TreePtr& t, Op op);
bool is_constant(const TreePtr& t);
bool has(const TreePtr& t, const std::function<bool(const Tree&)>& test);
bool has_leaf(const TreePtr& t, Tree::Leaf leaf);
bool equal(const TreePtr& a, const TreePtr& b);

TreePtr leaf(Tree::Leaf l, int which = 0, DType dtype = DType::f32);
TreePtr constant(double x);
TreePtr op(Op o, std::vector<TreePtr> args, DType dtype = DType::f32);
/// The same with other arguments; an op of constants is one.
TreePtr with_args(const Tree& t, std::vector<TreePtr> args);
/// Bottom up, each tree replaced by what `f` makes of it.
TreePtr rewritten(const TreePtr& t, const std::function<TreePtr(const TreePtr&)>& f);
/// Where a select keeps its first choice: coordinates below the extent of an axis.
TreePtr inside(tile::AxisId axis, int64_t extent);
/// As a map of the tiles that its leaves are; coordinates and constants go over.
tile::MapTile map_of(const TreePtr& t, tile::ValueId out, const std::vector<tile::Value>& values, const std::function<tile::ValueId(const Tree&)>& tile_of, const std::function<Index(const Index&)>& moved, bool fast);

}  // namespace quern
