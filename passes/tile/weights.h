// The weights of a sum, each a tree of products' results and vectors (trees.h): what they are times a number, and where they are 0.
//   select(mask, mul(mul(exp(sub(select(mask, score 0, -inf), vector 0)), score 1), 0.125), 0)   →   0.125 · mul(exp(sub(select(mask, score 0, -inf), vector 0)), score 1)
#pragma once
#include <optional>

#include "passes/tile/trees.h"

namespace quern {

/// Without the numbers that it is multiplied by, which go into `factor`, and without a second mask where an exponential's argument has it already.
TreePtr factored(TreePtr weight, double& factor);
/// Where products and vectors are 0, within the masks or outside of them; nothing where that is not known.
std::optional<double> at_zero(const TreePtr& t, bool seen);
/// The last product that it is made of; -1: none.
int last_product(const TreePtr& t);
/// The first product with whose result a vector meets; -1: it does not.
int meets(const TreePtr& t, int vector);
/// A choice between what products give and a number.
bool is_mask(const TreePtr& t);

}  // namespace quern
