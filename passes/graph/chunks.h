// Sums over rows in a fixed number of chunks: what the pass `chunks` makes of long sums, and how partition and lowering
// know it again. A kernel of rows may then sum columns as well: each of its instances walks the rows of one chunk.
//   %1 = reshape %0 {shape=[64,256,4096]};  %2 = reduce_sum %1 {axes=[1]}          of %0 : f32[16384,4096]
#pragma once
#include <span>
#include <vector>

#include "ir/graph.h"

namespace quern {

/// The usual PassContext::long_sum: below, one more kernel costs more than it gains.
inline constexpr int64_t kLongSum = 1 << 18;
/// PassContext::chunk_sums of a GPU: each is at least a thread's, and the second kernel that adds them has little to read.
inline constexpr int64_t kChunkSums = 1 << 20;

struct ChunkSums {
  Shape rows;                    // the leading dims of what is summed: all of them are
  int64_t chunks = 0, each = 0;  // how many, and of how many rows
  struct Sum {
    NodeId sum, value;
  };
  std::vector<Sum> sums;         // empty: a kernel like others
  const Sum* find(NodeId id) const;
};

bool is_chunk_sum(const Graph& graph, NodeId id);
/// Of a kernel with these outputs, and these reductions among its nodes: its sums over chunks of rows, where some other
/// output or reduction has such rows, too. All of one chunking, or `sums` holds those of the first one only.
ChunkSums chunk_sums(const Graph& graph, std::span<const NodeId> outputs, std::span<const NodeId> reductions);

}  // namespace quern
