// Products with a long sum and few results, for a GPU: the sum in parts, each of which multiprocessors compute on their own, in f32, and the
// sum of the parts. A part is a range of one summed letter, or of a place of a convolution's picture.
//   before: %2 = contract %0, %1 {spec="km,kn->mn"} : bf16[16,16]           of 16384 terms
//   after:  %2 = reshape %0 {shape=[128,128,16]};  %3 = cast %2 : f32[128,128,16];  … %5 likewise of %1;  %6 = contract %3, %5 {spec="akm,akn->amn"};
//           %7 = reduce_sum %6 {axes=[0]};  %8 = cast %7 : bf16[16,16]
// A result that is only wanted transposed has parts that lie so.
#pragma once
#include <vector>

#include "ir/graph.h"

namespace quern {

/// PassContext::product_blocks of sm_90a: a constant, so that plans do not vary.
inline constexpr int64_t kProductBlocks = 132;

struct ProductParts {
  char letter = 0;               // what is split
  int64_t parts = 1;
  Shape transposed = {};         // how the result's only reader wants its dims; empty: as they are
};
/// By a model of the time on `blocks` multiprocessors; one part where that is best, or an operand is `nested`: computed where it is read.
ProductParts product_parts(const Graph& graph, NodeId product, int64_t blocks, const std::vector<std::vector<NodeId>>& users, const std::vector<char>& nested);
/// The product of `args`, nodes of `b`, in these parts.
NodeId add_in_parts(GraphBuilder& b, const Node& product, const std::vector<NodeId>& args, const ProductParts& parts, const SourceLoc& where);

}  // namespace quern
