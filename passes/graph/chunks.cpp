// chunks: long sums are made in parts of fixed size, so that all threads take part, whatever their number, and rounding
// errors grow with the length of a part.
//   before: %1 = reduce_sum %0 {axes=[0]} : f32[4096]
//   after:  %1 = reshape %0 {shape=[64,256,4096]};  %2 = reduce_sum %1 {axes=[1]};  %3 = reduce_sum %2 {axes=[0]} : f32[4096]
// A sum over all of a matrix is made row by row, then over the rows; a vector that no number of chunks divides has a tail:
//   before: %1 = reduce_sum %0 {axes=[0,1]} : f32[]
//   after:  %1 = reduce_sum %0 {axes=[1]} : f32[8192];  %2 = reduce_sum %1 {axes=[0]} : f32[]
// Greatest and least values likewise; products of few results: product_parts.h. It changes the order of sums, and where a backend takes parts as such: PassContext.
#include "passes/graph/chunks.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/product_parts.h"
#include "passes/graph/rebuild.h"
#include "passes/graph/recompute.h"
#include "passes/pass.h"

namespace quern {

namespace {

constexpr int64_t kMostChunks = 64, kMostChunksOfGpu = 256;

int64_t product(std::span<const int64_t> shape) { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); }
bool in_dtype(DType dtype) { return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::i32 || dtype == DType::i64; }   // sums are made in

class Chunks {
 public:
  Chunks(const Graph& graph, PassContext& context) : g_(graph), context_(context), long_(context.long_sum) {}

  Graph run() {
    const bool in_parts = context_.product_blocks > 0;
    std::vector<std::vector<NodeId>> users(in_parts ? g_.nodes.size() : 0);
    for (size_t i = 0; i < users.size(); ++i)
      for (NodeId a : g_.nodes[i].args) users[static_cast<size_t>(a)].push_back(static_cast<NodeId>(i));
    const std::vector<char> nested = in_parts && context_.nested_products ? recomputed_nodes(g_) : std::vector<char>(g_.nodes.size());
    return rebuild(g_, b_, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
      where_ = where;
      if (n.op == Op::contract && in_parts)
        if (const ProductParts p = product_parts(g_, static_cast<NodeId>(&n - g_.nodes.data()), context_.product_blocks, users, nested); p.parts > 1 && context_.allow()) return add_in_parts(b_, n, args, p, where);
      return is_long(n) ? shorter(n.op, args[0], n.attrs.axes) : b_.add(n.op, std::move(args), n.attrs, where);
    });
  }

 private:
  const Graph& g_;
  PassContext& context_;
  int64_t long_;
  GraphBuilder b_;
  SourceLoc where_;

  bool is_long(const Node& n) const {
    if (long_ <= 0 || !means<Reduce>(n.op) || n.attrs.axes.empty()) return false;
    const Type& x = g_.type(n.args[0]);
    if (!in_dtype(x.dtype) || is_symbolic(x.shape) || x.size() < long_) return false;
    for (size_t d = 0; d < n.attrs.axes.size(); ++d)
      if (n.attrs.axes[d] != static_cast<int64_t>(d)) return false;   // the rows, all of them
    return true;
  }
  // In how many chunks of a few rows, with so many sums each, they are summed; 1: not at all. A vector's (0) has a tail.
  int64_t chunks_of(int64_t rows, int64_t sums) const {
    const int64_t few = std::clamp<int64_t>(long_ >> 14, 2, 16), least = std::clamp<int64_t>(long_ >> 15, 2, 8);
    const int64_t most = context_.chunk_sums ? std::clamp(context_.chunk_sums / std::max<int64_t>(sums, 1), std::min(least, kMostChunksOfGpu), kMostChunksOfGpu) : kMostChunks;
    for (int64_t n = std::min(most, rows / few); n >= least; --n)
      if (sums == 0 || rows % n == 0) return n;
    return 1;
  }
  NodeId reduce(Op op, NodeId x, Shape axes) {
    Attrs attrs;
    attrs.axes = std::move(axes);
    return b_.add(op, {x}, attrs, where_);
  }
  NodeId reshape(NodeId x, Shape shape) {
    Attrs attrs;
    attrs.shape = std::move(shape);
    return b_.type(x).shape == attrs.shape ? x : b_.add(Op::reshape, {x}, attrs, where_);
  }

  NodeId shorter(Op op, NodeId x, const Shape& axes) {
    const Shape shape = b_.type(x).shape;
    const Shape rest(shape.begin() + static_cast<int64_t>(axes.size()), shape.end());
    const int64_t rows = product(std::span(shape).first(axes.size()));
    const int64_t several = std::clamp<int64_t>(long_ >> 12, 2, kMostChunks);   // of rows, and of their elements
    if (rest.empty() && shape.size() > 1 && shape.back() >= several && rows / shape.back() >= several) {
      if (!context_.allow()) return reduce(op, x, axes);
      const NodeId sums = reduce(op, x, {static_cast<int64_t>(shape.size()) - 1});
      const Shape left(axes.begin(), axes.end() - 1);
      return b_.type(sums).size() >= long_ ? shorter(op, sums, left) : reduce(op, sums, left);
    }
    const int64_t chunks = chunks_of(rows, rest.empty() ? 0 : product(rest)), each = rows / chunks;
    if (chunks == 1 || !context_.allow()) return reduce(op, x, axes);
    Shape parts{chunks, each};
    parts.insert(parts.end(), rest.begin(), rest.end());
    if (chunks * each == rows) return reduce(op, reduce(op, reshape(x, parts), {1}), {0});
    const NodeId flat = reshape(x, {rows});
    const auto part = [&](int64_t from, int64_t to) {
      Attrs attrs;
      attrs.start = {from}, attrs.limit = {to}, attrs.stride = {1};
      return b_.add(Op::slice, {flat}, attrs, where_);
    };
    const NodeId whole = reduce(op, reduce(op, reshape(part(0, chunks * each), parts), {1}), {0}), tail = reduce(op, part(chunks * each, rows), {0});
    return b_.add(op == Op::reduce_sum ? Op::add : op == Op::reduce_max ? Op::max
                                               : op == Op::reduce_min   ? Op::min
                                                                        : Op::mul,
                  {whole, tail}, {}, where_);
  }
};

std::optional<ChunkSums> chunk_sum(const Graph& graph, NodeId id) {
  const Node& n = graph.at(id);
  if (!means<Reduce>(n.op) || n.attrs.axes != Shape{1} || !in_dtype(n.type.dtype)) return std::nullopt;
  const Node& parts = graph.at(n.args[0]);
  if (parts.op != Op::reshape || is_symbolic(parts.type.shape)) return std::nullopt;
  const Shape &to = parts.type.shape, rest(to.begin() + 2, to.end());
  NodeId value = parts.args[0];
  while (graph.at(value).op == Op::reshape) value = graph.at(value).args[0];
  const Shape& from = graph.type(value).shape;
  if (to[0] < 2 || to[1] < 2 || from.size() <= rest.size() || !std::equal(rest.rbegin(), rest.rend(), from.rbegin())) return std::nullopt;
  ChunkSums out{Shape(from.begin(), from.end() - static_cast<int64_t>(rest.size())), to[0], to[1], {{id, value}}};
  return product(out.rows) == to[0] * to[1] ? std::optional(out) : std::nullopt;
}

}  // namespace

const ChunkSums::Sum* ChunkSums::find(NodeId id) const {
  const auto at = std::find_if(sums.begin(), sums.end(), [&](const Sum& s) { return s.sum == id; });
  return at == sums.end() ? nullptr : &*at;
}

bool is_chunk_sum(const Graph& graph, NodeId id) { return chunk_sum(graph, id).has_value(); }

ChunkSums chunk_sums(const Graph& graph, std::span<const NodeId> outputs, std::span<const NodeId> reductions) {
  ChunkSums out;
  for (NodeId o : outputs)
    if (const auto found = chunk_sum(graph, o)) {
      if (out.sums.empty()) out = *found;
      else if (found->rows == out.rows && found->chunks == out.chunks) out.sums.push_back(found->sums[0]);
    }
  const auto has_rows = [&](NodeId id) {
    const Shape& shape = graph.type(id).shape;
    return !out.find(id) && shape.size() >= out.rows.size() && std::equal(out.rows.begin(), out.rows.end(), shape.begin());
  };
  if (!out.sums.empty() && std::none_of(outputs.begin(), outputs.end(), has_rows) && std::none_of(reductions.begin(), reductions.end(), has_rows)) out.sums.clear();
  return out;
}

Graph chunks(const Graph& graph, PassContext& context) { return context.long_sum > 0 || context.product_blocks > 0 ? Chunks(graph, context).run() : graph; }

}  // namespace quern
