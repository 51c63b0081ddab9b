// Panels: how a matrix that products read again and again, and nothing changes, is laid out for them: before a loop by the pass
// `panels`, before all runs by the pass `setup`.
#pragma once
#include <cstdint>
#include <optional>

#include "ir/op.h"
#include "passes/pass.h"

namespace quern {

/// The elements in their order, in another shape.
NodeId reshaped(GraphBuilder& b, NodeId x, Shape shape);
/// The axes in another order.
NodeId transposed(GraphBuilder& b, NodeId x, Shape axes);
/// Of so many axes: the one `from` comes to stand at `to`, the others keep their order.
Shape moved(size_t rank, size_t from, size_t to);

/// For tensor cores, operands of large products of f32 are stored along their sum, or in two parts of tf32 (tensor_operands.cpp).
Graph operands_for_tensor_cores(const Graph& graph, PassContext& context);

/// The usual PassContext::large_matrix: smaller ones stay in a core's cache as they are.
inline constexpr int64_t kLargeMatrix = 64 << 10;
/// The usual PassContext::large_product for tf32, and for two parts of it: smaller ones gain less than the other kernels cost.
inline constexpr int64_t kTurnedProduct = int64_t{1} << 27, kSplitProduct = int64_t{1} << 33;

/// Of an operand whose letters are all summed but `kept`: as wide as the sums that a product's registers hold. What fills
/// no panel is padded with zeros, which nothing reads.
struct Panels {
  char kept;
  int64_t columns, width;
  int64_t count() const { return ceil_div(columns, width); }
  /// [summed and kept, in the letters' order] → [columns / width, summed …, width]
  NodeId made(GraphBuilder& b, NodeId x, const std::string& letters) const;
  /// … → [summed …, kept]
  NodeId read(GraphBuilder& b, NodeId panels) const;
  /// The product's spec for what `read` gives as operand `side`.
  std::string spec(ContractSpec spec, size_t side) const;
};

/// Of a product's operand `side`, `matrix`, beside the operand `other`: where several tiles of rows read a large matrix, all
/// of whose axes but one are summed, and it does not lie so already.
std::optional<Panels> panels_of(const ContractSpec& spec, size_t side, const Type& matrix, const Type& other, const PassContext& context);

}  // namespace quern
