// The order that sorts an axis. argsort stands for simpler ops: of a short axis (or a symbolic one), for every element how
// many come before it, and that permutation inverted; of a long one, a bitonic network (Batcher 1968) over pairs of key
// and index, log2(n) (log2(n) + 1) / 2 steps. Pairs are never equal, which makes both stable.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "ir/ops/define.h"
#include "ir/symbol.h"

namespace quern {
namespace {

// The longest axis whose elements are all compared with each other: vectorized and in one pass, that is the faster way on
// a CPU core for far longer ones, too, and keeps a GPU busy where rows are few.
constexpr int64_t kCounted = 4096;

bool descends(const Attrs& attrs) { return attrs.spec == "descending"; }

Type infer_argsort(const InferContext& c) {
  want_args(c, 1);
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "axes=[0], say");
  want_axes(c, c.attrs.axes, c.args[0].rank());
  c.want(c.attrs.spec.empty() || descends(c.attrs), Code::attribute_missing, "`" + c.attrs.spec + "` is no spec of it", "nothing or descending");
  want_arithmetic(c);
  c.want(c.args[0].dtype != DType::boolean, Code::dtype_unsupported, "is not defined for bool", "cast to i32 first");
  return checked(c, {DType::i64, c.args[0].shape, {}});
}

HostTensor eval_argsort(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor& x = *args[0];
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]);
  const Shape strides = row_major(x.shape);
  const auto less = [&](const Scalar& a, const Scalar& b) {
    return is_float(x.dtype) ? a.f < b.f || (std::isnan(b.f) && !std::isnan(a.f)) : apply_scalar(Op::lt, DType::boolean, std::array{a, b}).i != 0;
  };
  HostTensor out(DType::i64, x.shape);
  Shape rows = x.shape;
  rows[axis] = std::min<int64_t>(rows[axis], 1);
  std::vector<int64_t> order(static_cast<size_t>(x.shape[axis]));
  for_each_index(rows, [&](const Shape& row) {
    const int64_t base = position(row, strides);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
      const Scalar a = x.get(base + i * strides[axis]), b = x.get(base + j * strides[axis]);
      return descends(node.attrs) ? less(b, a) : less(a, b);
    });
    for (size_t k = 0; k < order.size(); ++k) out.set(base + static_cast<int64_t>(k) * strides[axis], Scalar::of_int(DType::i64, order[k]));
  });
  return out;
}

struct Pair { NodeId key, index; };

/// Builds the order of the last axis of x, whose keys and indices are pairs: the index breaks ties, and puts NaN, whose
/// key becomes infinity, behind the infinities (or before them).
class Sorter {
 public:
  Sorter(GraphBuilder& b, NodeId x, bool descending) : b_(b), x_(x), descending_(descending), n_(b.type(x).shape.back()) {
    padded_ = is_symbolic(n_) ? 0 : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_)));
    word_ = padded_ > 0 && padded_ < (int64_t{1} << 28) ? DType::i32 : DType::i64;
  }

  NodeId order() { return is_symbolic(n_) || n_ <= kCounted ? counted() : network(); }

 private:
  GraphBuilder& b_;
  NodeId x_;
  bool descending_;
  int64_t n_, padded_;   // extent of the axis; the next power of two
  DType word_;           // of indices

  NodeId op(Op o, NodeId x, NodeId y) { return b_.add(o, {x, y}); }
  Type words(const Shape& shape) const { return {word_, shape, {}}; }
  NodeId coordinate(const Shape& shape, size_t axis) {
    Attrs attrs;
    attrs.axes = {static_cast<int64_t>(axis)};
    attrs.shape = shape;
    attrs.dtype = {word_};
    return b_.add(Op::iota, {}, attrs);
  }
  NodeId reshape(NodeId x, Shape shape) {
    Attrs attrs;
    attrs.shape = std::move(shape);
    return b_.add(Op::reshape, {x}, attrs);
  }
  NodeId extreme(DType dtype, bool greatest) {   // a scalar
    HostTensor t(dtype, {});
    t.set(0, identity_of(greatest ? Op::min : Op::max, dtype));
    return b_.constant(std::move(t));
  }
  // Does a come before c? They are never equal.
  NodeId before(const Pair& a, const Pair& c) {
    const NodeId wins = descending_ ? op(Op::lt, c.key, a.key) : op(Op::lt, a.key, c.key);
    return op(Op::logical_or, wins, op(Op::logical_and, op(Op::eq, a.key, c.key), op(Op::lt, a.index, c.index)));
  }
  // An offset of indices that is above all of them.
  NodeId above(const Shape& shape, int64_t times) { return b_.full(words(shape), static_cast<double>(times * (padded_ ? padded_ : int64_t{1} << 31))); }

  Pair pairs() {
    const Type type = b_.type(x_);
    const NodeId place = coordinate(type.shape, type.shape.size() - 1);
    if (!is_float(type.dtype)) return {x_, place};
    const NodeId nan = op(Op::ne, x_, x_), moved = op(Op::add, place, above(type.shape, 1));
    const NodeId infinite = broadcast_to(b_, extreme(type.dtype, true), {}, type.shape);
    return {b_.add(Op::select, {nan, infinite, x_}), descending_ ? b_.add(Op::select, {nan, place, moved}) : b_.add(Op::select, {nan, moved, place})};
  }

  NodeId counted() {
    const Pair p = pairs();
    const Shape shape = b_.type(x_).shape;
    const int64_t last = static_cast<int64_t>(shape.size()) - 1;
    Shape square = shape, self, other;
    square.push_back(n_);
    for (int64_t d = 0; d < last; ++d) self.push_back(d);
    other = self;
    self.push_back(last);
    other.push_back(last + 1);
    const auto spread = [&](const Pair& q, const Shape& axes) { return Pair{broadcast_to(b_, q.key, axes, square), broadcast_to(b_, q.index, axes, square)}; };
    const NodeId counts = cast_like(b_, before(spread(p, other), spread(p, self)), word_);
    const NodeId rank = reduce_to(b_, Op::reduce_sum, counts, {last + 1});
    const NodeId here = op(Op::eq, broadcast_to(b_, rank, other, square), coordinate(square, static_cast<size_t>(last)));
    const NodeId zero = b_.full(words(square), 0);
    return reduce_to(b_, Op::reduce_sum, b_.add(Op::select, {here, coordinate(square, static_cast<size_t>(last) + 1), zero}), {last + 1});
  }

  // x (rank 2) with what stands in the place of each element's partner: `size` neighbours reversed, or halves swapped.
  NodeId partner(NodeId x, int64_t size, bool flip) {
    const Shape shape = b_.type(x).shape;
    Attrs attrs;
    attrs.axes = {2};
    return reshape(b_.add(Op::reverse, {reshape(x, flip ? Shape{shape[0], padded_ / size, size} : Shape{shape[0], padded_ / size, 2, size / 2})}, attrs), shape);
  }
  void exchange(Pair& p, int64_t size, bool flip) {
    const Shape shape = b_.type(p.key).shape;
    const Pair q{partner(p.key, size, flip), partner(p.index, size, flip)};
    const NodeId upper = op(Op::ne, op(Op::bit_and, coordinate(shape, 1), b_.full(words(shape), static_cast<double>(size / 2))), b_.full(words(shape), 0));
    const NodeId swaps = op(Op::ne, before(q, p), upper);
    p = {b_.add(Op::select, {swaps, q.key, p.key}), b_.add(Op::select, {swaps, q.index, p.index})};
  }
  NodeId network() {
    const Shape shape = b_.type(x_).shape;
    Pair p = pairs();
    p = {reshape(p.key, {b_.type(x_).size() / n_, n_}), reshape(p.index, {b_.type(x_).size() / n_, n_})};
    if (padded_ > n_) {   // behind everything
      Attrs pad;
      pad.low = {0, 0};
      pad.high = {0, padded_ - n_};
      p.key = b_.add(Op::pad, {p.key, extreme(b_.type(x_).dtype, !descending_)}, pad);
      p.index = b_.add(Op::pad, {p.index, b_.scalar(word_, static_cast<double>(2 * padded_))}, pad);
      const Shape wide = b_.type(p.key).shape;   // distinct ones there, too
      const NodeId place = coordinate(wide, 1);
      p.index = b_.add(Op::select, {op(Op::lt, place, b_.full(words(wide), static_cast<double>(n_))), p.index, op(Op::add, p.index, place)});
    }
    for (int64_t size = 2; size <= padded_; size *= 2) {
      exchange(p, size, true);
      for (int64_t part = size / 2; part >= 2; part /= 2) exchange(p, part, false);
    }
    if (padded_ > n_) {
      Attrs cut;
      cut.start = {0, 0};
      cut.limit = {b_.type(p.index).shape[0], n_};
      cut.stride = {1, 1};
      p.index = b_.add(Op::slice, {p.index}, cut);
    }
    const Shape rows = b_.type(p.index).shape;
    if (is_float(b_.type(x_).dtype)) p.index = b_.add(Op::select, {op(Op::lt, p.index, above(rows, 1)), p.index, op(Op::sub, p.index, above(rows, 1))});
    return reshape(p.index, shape);
  }
};

NodeId build_argsort(GraphBuilder& b, const Node& node, std::span<const NodeId> args) {
  const Shape shape = b.type(args[0]).shape;
  const size_t axis = static_cast<size_t>(node.attrs.axes[0]), last = shape.size() - 1;
  if (shape[axis] <= 1 || b.type(args[0]).size() == 0) return b.full(node.type, 0);
  Attrs swap;   // the axis and the last one
  for (size_t d = 0; d < shape.size(); ++d) swap.axes.push_back(static_cast<int64_t>(d));
  std::swap(swap.axes[axis], swap.axes[last]);
  const auto swapped = [&](NodeId x) { return axis == last ? x : b.add(Op::transpose, {x}, swap); };
  return swapped(cast_like(b, Sorter(b, swapped(args[0]), descends(node.attrs)).order(), DType::i64));
}

std::vector<Sample> argsort_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  const auto sample = [&](Shape shape, int64_t axis, const char* spec = "") {
    Sample s{{{d, std::move(shape), {}}}, {}, -3, 3};
    s.attrs.axes = {axis};
    s.attrs.spec = spec;
    return s;
  };
  std::vector<Sample> out = {sample({7}, 0), sample({3, 5}, 1, "descending"), sample({5, 3}, 0), sample({2, 3, 33}, 1), sample({0, 3}, 0), sample({4, 0}, 1), sample({1}, 0), sample({3, 70}, 1, "descending"),
          sample({130}, 0, "descending")};
  if (d == DType::f32) out.push_back(sample({4100}, 0));   // the network
  return out;
}

}  // namespace

std::vector<OpDef> sort_ops() {
  return {define(Op::argsort, "argsort", "the order that sorts along an axis, stable, i64", infer_argsort, eval_argsort, no_gradient, Expand{build_argsort}, argsort_samples)};
}

}  // namespace quern
