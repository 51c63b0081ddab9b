// Taking tensors apart and putting them together, and tensors that need no input: compositions of views and `iota`.
// Negative axes count from the end.
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// Parts of the given extents along the axis, whose sum is its own.
std::vector<Tensor> split(const Tensor& x, const Shape& sizes, int64_t axis = 0, Where where = Where::current());
/// At most n parts of ceil(extent/n) elements, the last one shorter, as in PyTorch.
std::vector<Tensor> chunk(const Tensor& x, int64_t n, int64_t axis = 0, Where where = Where::current());
/// Tensors of one type along a new axis, and back.
Tensor stack(const std::vector<Tensor>& parts, int64_t axis = 0, Where where = Where::current());
std::vector<Tensor> unstack(const Tensor& x, int64_t axis = 0, Where where = Where::current());
/// Without the axes, each of extent 1; no axes means all that are.
Tensor squeeze(const Tensor& x, Shape axes = {}, Where where = Where::current());
/// The axis from `from` put before the others so that it becomes axis `to`.
Tensor move_axis(const Tensor& x, int64_t from, int64_t to, Where where = Where::current());
/// The elements in reverse order along the axes; no axes means all.
Tensor flip(const Tensor& x, Shape axes = {}, Where where = Where::current());
/// y[i] = x[(i - by) mod extent].
Tensor roll(const Tensor& x, int64_t by, int64_t axis = 0, Where where = Where::current());
/// The whole tensor repeats[d] times along dim d (NumPy's tile).
Tensor tiled(const Tensor& x, const Shape& repeats, Where where = Where::current());
/// Every element `times` times in a row.
Tensor repeat(const Tensor& x, int64_t times, int64_t axis = 0, Where where = Where::current());
/// x[..., i, j] where j <= i + diagonal (tril), j >= i + diagonal (triu); 0 elsewhere.
Tensor tril(const Tensor& x, int64_t diagonal = 0, Where where = Where::current());
Tensor triu(const Tensor& x, int64_t diagonal = 0, Where where = Where::current());
/// The last two axes' main diagonal: [..., n, n] → [..., n].
Tensor diagonal(const Tensor& x, Where where = Where::current());

// --- without an operand: of model.builder(), or of x.graph() ---
Tensor full(GraphBuilder& graph, DType dtype, Shape shape, double value, Where where = Where::current());
Tensor zeros(GraphBuilder& graph, DType dtype, Shape shape, Where where = Where::current());
Tensor ones(GraphBuilder& graph, DType dtype, Shape shape, Where where = Where::current());
Tensor eye(GraphBuilder& graph, DType dtype, int64_t rows, int64_t columns, Where where = Where::current());
/// start + i*step for i from 0 to n-1.
Tensor arange(GraphBuilder& graph, DType dtype, int64_t n, double start = 0, double step = 1, Where where = Where::current());
/// n numbers from start to stop, both included.
Tensor linspace(GraphBuilder& graph, DType dtype, double start, double stop, int64_t n, Where where = Where::current());
/// bool[rows, columns]: column <= row + diagonal. The causal mask of queries by keys, diagonal 0 for equally many.
Tensor triangle(GraphBuilder& graph, int64_t rows, int64_t columns, int64_t diagonal = 0, Where where = Where::current());

}  // namespace quern
