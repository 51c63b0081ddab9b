// See shape.h.
#include "frontend/shape.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "ir/symbol.h"

namespace quern {
namespace {

size_t axis_of(const char* name, const Tensor& x, int64_t axis, const Where& where) { return static_cast<size_t>(axes_of(name, x, {axis}, where)[0]); }
void want_count(bool good, const char* name, const char* what, int64_t n, const Where& where, const Tensor& x = {}) {
  if (good) return;
  std::vector<std::pair<const char*, Tensor>> operands;
  if (x) operands.push_back({"operand", x});
  throw error_at(Code::too_large, fmt::format("{}: {} is {}", name, what, n), where, operands).with_help("at least 0, and at most 2^40");
}
bool is_count(int64_t n) { return n >= 0 && n <= kMaxExtent; }

}  // namespace

std::vector<Tensor> split(const Tensor& x, const Shape& sizes, int64_t axis, Where where) {
  const Composed line(where);
  const size_t d = axis_of("split", x, axis, where);
  int64_t at = 0;
  for (int64_t n : sizes) {
    want_count(is_count(n), "split", "a part's extent", n, where, x);
    at += n;
  }
  if (at != x.shape()[d]) throw error_at(Code::slice_bounds, fmt::format("split: the parts have {} elements, axis {} has {}", at, d, extent_text(x.shape()[d])), where, {{"operand", x}}).with_help("the extents of the parts add up to that of the axis");
  std::vector<Tensor> out;
  at = 0;
  for (int64_t n : sizes) {
    out.push_back(slice(x, static_cast<int64_t>(d), at, at + n));
    at += n;
  }
  return out;
}
std::vector<Tensor> chunk(const Tensor& x, int64_t n, int64_t axis, Where where) {
  const Composed line(where);
  const int64_t extent = x.shape()[axis_of("chunk", x, axis, where)];
  want_count(n >= 1 && is_count(n), "chunk", "the number of parts", n, where, x);
  const int64_t each = std::max<int64_t>(1, ceil_div(extent, n));
  Shape sizes;
  for (int64_t at = 0; at < extent; at += each) sizes.push_back(std::min(each, extent - at));
  if (sizes.empty()) sizes.push_back(0);
  return split(x, sizes, axis);
}
Tensor stack(const std::vector<Tensor>& parts, int64_t axis, Where where) {
  const Composed line(where);
  if (parts.empty()) throw error_at(Code::argument_count, "stack: wants at least one tensor", where).with_help("stack({a, b}, axis)");
  want_tensors("stack", parts, where);
  std::vector<Tensor> rows;
  for (const Tensor& t : parts) {
    if (t.shape() != parts[0].shape()) throw error_at(Code::shapes_differ, fmt::format("stack: shapes differ: {} vs {}", to_string(parts[0].type()), to_string(t.type())), where, {{"the first", parts[0]}, {"this", t}}).with_help("reshape or broadcast one of them");
    rows.push_back(expand_dims(t, axis));
  }
  return concat(rows, axis < 0 ? axis + rows[0].rank() : axis);
}
std::vector<Tensor> unstack(const Tensor& x, int64_t axis, Where where) {
  const Composed line(where);
  const size_t d = axis_of("unstack", x, axis, where);
  std::vector<Tensor> out;
  for (int64_t i = 0, n = x.shape()[d]; i < n; ++i) out.push_back(squeeze(slice(x, static_cast<int64_t>(d), i, i + 1), {static_cast<int64_t>(d)}));
  return out;
}
Tensor squeeze(const Tensor& x, Shape axes, Where where) {
  const Composed line(where);
  const bool all = axes.empty();
  axes = axes_of("squeeze", x, std::move(axes), where);
  Shape shape;
  for (size_t d = 0; d < x.shape().size(); ++d) {
    const bool named = std::count(axes.begin(), axes.end(), static_cast<int64_t>(d)) > 0, one = x.shape()[d] == 1;
    if (named && !one) throw error_at(Code::element_count, fmt::format("squeeze: axis {} of {} has {} elements", d, to_string(x.type()), extent_text(x.shape()[d])), where, {{"operand", x}}).with_help("only axes of one element can go; slice or reduce others");
    if (!(named || (all && one))) shape.push_back(x.shape()[d]);
  }
  return shape == x.shape() ? x : reshape(x, shape);
}
Tensor move_axis(const Tensor& x, int64_t from, int64_t to, Where where) {
  const Composed line(where);
  const Shape ends = axes_of("move_axis", x, {from, to}, where);
  if (ends[0] == ends[1]) return x;
  Shape axes(x.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  axes.erase(axes.begin() + ends[0]);
  axes.insert(axes.begin() + ends[1], ends[0]);
  return transpose(x, axes);
}
Tensor flip(const Tensor& x, Shape axes, Where where) {
  const Composed line(where);
  want_tensors("flip", {x}, where);
  if (axes.empty()) {
    axes.resize(x.shape().size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  return axes.empty() ? x : reverse(x, axes);
}
Tensor roll(const Tensor& x, int64_t by, int64_t axis, Where where) {
  const Composed line(where);
  const int64_t d = static_cast<int64_t>(axis_of("roll", x, axis, where)), n = x.shape()[static_cast<size_t>(d)];
  const int64_t shift = n ? floor_mod(by, n) : 0;
  return shift == 0 ? x : concat({slice(x, d, n - shift, n), slice(x, d, 0, n - shift)}, d);
}
Tensor tiled(const Tensor& x, const Shape& repeats, Where where) {
  const Composed line(where);
  want_tensors("tiled", {x}, where);
  if (repeats.size() != x.shape().size()) throw error_at(Code::bad_rank, fmt::format("tiled: {} repeats for {}", repeats.size(), to_string(x.type())), where, {{"operand", x}}).with_help("one for every dim; expand_dims makes more dims");
  Tensor out = x;
  for (size_t d = 0; d < repeats.size(); ++d) {
    want_count(is_count(repeats[d]), "tiled", "a number of repeats", repeats[d], where, x);
    if (repeats[d] == 1) continue;
    Shape wide = out.shape(), joined = wide;
    wide.insert(wide.begin() + static_cast<int64_t>(d), repeats[d]);
    joined[d] = checked_mul(joined[d], repeats[d]);
    out = reshape(broadcast_to(expand_dims(out, static_cast<int64_t>(d)), wide), joined);
  }
  return out;
}
Tensor repeat(const Tensor& x, int64_t times, int64_t axis, Where where) {
  const Composed line(where);
  const size_t d = axis_of("repeat", x, axis, where);
  want_count(is_count(times), "repeat", "the number of repeats", times, where, x);
  if (times == 1) return x;
  Shape wide = x.shape(), joined = wide;
  wide.insert(wide.begin() + static_cast<int64_t>(d) + 1, times);
  joined[d] = checked_mul(joined[d], times);
  return reshape(broadcast_to(expand_dims(x, static_cast<int64_t>(d) + 1), wide), joined);
}

static Tensor kept_triangle(const char* name, const Tensor& x, int64_t diagonal, bool lower, const Where& at) {
  want_tensors(name, {x}, at);
  if (x.rank() < 2) throw error_at(Code::bad_rank, fmt::format("{}: wants [..., rows, columns], got {}", name, to_string(x.type())), at, {{"operand", x}}).with_help("expand_dims or reshape it");
  const int64_t rows = x.shape()[x.shape().size() - 2], columns = x.shape().back();
  const Tensor keep = lower ? triangle(x.graph(), rows, columns, diagonal) : logical_not(triangle(x.graph(), rows, columns, std::max(diagonal, -kMaxExtent) - 1));
  return where(keep, x, 0);
}
Tensor tril(const Tensor& x, int64_t diagonal, Where where) { const Composed line(where); return kept_triangle("tril", x, diagonal, true, where); }
Tensor triu(const Tensor& x, int64_t diagonal, Where where) { const Composed line(where); return kept_triangle("triu", x, diagonal, false, where); }
// Element (i, i) of n*n is number i*(n+1).
Tensor diagonal(const Tensor& x, Where where) {
  const Composed line(where);
  want_tensors("diagonal", {x}, where);
  const size_t rank = x.shape().size();
  if (rank < 2 || x.shape()[rank - 1] != x.shape()[rank - 2]) throw error_at(Code::bad_rank, fmt::format("diagonal: wants [..., n, n], got {}", to_string(x.type())), where, {{"operand", x}}).with_help("slice it to a square");
  Shape shape = x.shape();
  const int64_t n = shape.back();
  if (n == 0) return reshape(x, Shape(shape.begin(), shape.end() - 1));
  shape.pop_back();
  shape.back() = checked_mul(n, n);
  return slice(reshape(x, shape), -1, 0, shape.back(), n + 1);
}

Tensor full(GraphBuilder& graph, DType dtype, Shape shape, double value, Where where) {
  const Composed line(where);
  return broadcast_to({&graph, graph.scalar(dtype, value, source_of(where))}, std::move(shape));
}
Tensor zeros(GraphBuilder& graph, DType dtype, Shape shape, Where where) { return full(graph, dtype, std::move(shape), 0, where); }
Tensor ones(GraphBuilder& graph, DType dtype, Shape shape, Where where) { return full(graph, dtype, std::move(shape), 1, where); }
Tensor eye(GraphBuilder& graph, DType dtype, int64_t rows, int64_t columns, Where where) {
  const Composed line(where);
  return cast(equal(iota(graph, DType::i64, {rows, columns}, 0), iota(graph, DType::i64, {rows, columns}, 1)), dtype);
}
Tensor arange(GraphBuilder& graph, DType dtype, int64_t n, double start, double step, Where where) {
  const Composed line(where);
  Tensor i = iota(graph, dtype, {n}, 0);
  if (step != 1) i = i * step;
  return start == 0 ? i : i + start;
}
Tensor linspace(GraphBuilder& graph, DType dtype, double start, double stop, int64_t n, Where at) {
  const Composed line(at);
  const Tensor x = arange(graph, dtype, n, start, n > 1 ? (stop - start) / static_cast<double>(n - 1) : 0);
  return n > 1 ? where(equal(iota(graph, DType::i64, {n}, 0), static_cast<double>(n - 1)), stop, x) : x;   // the end exactly
}
Tensor triangle(GraphBuilder& graph, int64_t rows, int64_t columns, int64_t diagonal, Where where) {
  const Composed line(where);
  const double by = static_cast<double>(std::clamp(diagonal, -kMaxExtent - 1, kMaxExtent));
  return less_equal(iota(graph, DType::i64, {rows, columns}, 1), iota(graph, DType::i64, {rows, columns}, 0) + by);
}

}  // namespace quern
