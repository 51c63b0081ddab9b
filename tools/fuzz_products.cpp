// Drawing products and what follows them; see fuzz_products.h.
#include "tools/fuzz_products.h"

#include <cmath>

namespace quern {
namespace {

class Products {
 public:
  explicit Products(std::mt19937_64& random) : random_(random), dtype_(draw({DType::bf16, DType::bf16, DType::f16, DType::f32})), bytes_(dtype_ != DType::f32 && below(4) == 0) {}

  Graph run() {
    if (below(5) == 0) attention();
    else
      for (uint64_t left = 1 + below(3); left > 0; --left) last_ = follow(product());
    b_.output(name(), last_);
    return dead_code(b_.finish());
  }

 private:
  std::mt19937_64& random_;
  GraphBuilder b_;
  const DType dtype_;
  const bool bytes_;   // operands of products are 8-bit floats, cast up
  NodeId last_ = -1;

  uint64_t below(uint64_t n) { return random_() % n; }
  template <class T>
  T draw(std::initializer_list<T> of) { return of.begin()[below(of.size())]; }
  // Whole tiles and parts of them; rows that are a multiple of 16 bytes apart, mostly, and of bytes all.
  int64_t size() { return bytes_ ? 16 * static_cast<int64_t>(4 + below(14)) : draw<int64_t>({64, 64, 72, 80, 96, 128, 128, 136, 160, 192, 200, 256, 264, 100, 131}); }
  int64_t length() { return bytes_ ? 16 * static_cast<int64_t>(4 + below(30)) : draw<int64_t>({64, 64, 72, 128, 136, 200, 264, 328, 520, 68}); }
  std::string name() { return "y" + std::to_string(b_.graph().outputs.size()); }
  NodeId input(Shape shape, DType dtype) { return b_.input("x" + std::to_string(b_.graph().inputs.size()), {dtype, std::move(shape), {}}); }
  NodeId cast(NodeId x, DType to) {
    if (b_.type(x).dtype == to) return x;
    Attrs attrs;
    attrs.dtype = {to};
    return b_.add(Op::cast, {x}, attrs);
  }
  NodeId with(Op op, NodeId x, double number) { return b_.add(op, {x, b_.full(b_.type(x), number)}); }
  NodeId along(NodeId x, const Shape& axes, const Shape& shape) {
    Attrs attrs;
    attrs.axes = axes, attrs.shape = shape;
    return b_.add(Op::broadcast, {x}, attrs);
  }
  NodeId over(Op op, NodeId x, int64_t axis) {
    Attrs attrs;
    attrs.axes = {axis};
    return b_.add(op, {x}, attrs);
  }
  NodeId contract(NodeId lhs, NodeId rhs, std::string spec) {
    Attrs attrs;
    attrs.spec = std::move(spec);
    return b_.add(Op::contract, {lhs, rhs}, attrs);
  }

  NodeId operand(NodeId x) { return bytes_ ? cast(cast(x, draw({DType::f8e4m3, DType::f8e5m2})), dtype_) : x; }
  NodeId operand(const Shape& shape) { return bytes_ ? cast(input(shape, draw({DType::f8e4m3, DType::f8e5m2})), dtype_) : input(shape, dtype_); }
  // Of the last value, where there is one.
  NodeId product() {
    const bool chained = last_ >= 0 && b_.type(last_).dtype == dtype_ && below(4);
    const uint64_t ways = bytes_ ? 5 : 2;   // bytes are multiplied along the sum
    std::string lhs = below(ways) ? "mk" : "km", rhs = below(ways) ? "nk" : "kn", out = below(4) ? "mn" : "nm";
    Shape shape;
    if (chained) shape = b_.type(last_).shape;
    else {
      shape = {size(), length()};
      if (below(4) == 0) shape.insert(shape.begin(), draw<int64_t>({2, 3}));
    }
    const bool batched = shape.size() == 3, shared = batched && below(3) == 0;   // one right operand for all
    const int64_t rows = shape[shape.size() - 2], columns = shape.back(), k = lhs == "mk" ? columns : rows, n = size();
    if (batched) lhs = "b" + lhs, out = "b" + out;
    Shape other = rhs == "kn" ? Shape{k, n} : Shape{n, k};
    if (batched && !shared) rhs = "b" + rhs, other.insert(other.begin(), shape[0]);
    const NodeId a = chained ? operand(last_) : operand(shape), c = operand(other);
    const bool swapped = below(4) == 0;
    const NodeId made = swapped ? contract(c, a, rhs + "," + lhs + "->" + out) : contract(a, c, lhs + "," + rhs + "->" + out);
    return part(made, k);
  }
  // Divided by the power of two below, so that this rounds nothing.
  NodeId part(NodeId x, int64_t of) { return with(Op::mul, x, std::ldexp(1.0, -std::ilogb(static_cast<double>(of)))); }
  NodeId mean(NodeId x, int64_t axis) { return part(over(Op::reduce_sum, x, axis), b_.type(x).shape[static_cast<size_t>(axis)]); }

  NodeId follow(NodeId x) {
    for (uint64_t left = below(5); left > 0; --left) {
      const Type type = b_.type(x);
      const int64_t last = type.rank() - 1;
      switch (below(9)) {
        case 0: x = b_.add(Op::add, {x, along(input({type.shape.back()}, type.dtype), {last}, type.shape)}); break;
        case 1: x = b_.add(Op::mul, {x, along(input({type.shape[static_cast<size_t>(last) - 1]}, type.dtype), {last - 1}, type.shape)}); break;
        case 2: x = b_.add(draw({Op::add, Op::mul, Op::sub}), {x, input(type.shape, type.dtype)}); break;
        case 3: {   // what is chosen follows from an input: rounding changes no choice
          const NodeId of = input(type.shape, type.dtype);
          x = b_.add(Op::select, {b_.add(Op::lt, {of, b_.full(type, 1)}), x, with(Op::mul, x, 0.25)});
          break;
        }
        case 4: x = b_.add(draw({Op::tanh, Op::erf}), {x}); break;
        case 5: x = with(Op::mul, b_.add(Op::mul, {x, with(Op::add, b_.add(Op::erf, {with(Op::mul, x, 0.70710678)}), 1)}), 0.5); break;
        case 6: x = cast(x, draw({DType::f32, DType::bf16, DType::f16})); break;
        case 7: b_.output(name(), x); break;
        case 8: b_.output(name(), mean(x, static_cast<int64_t>(below(static_cast<uint64_t>(type.rank()))))); break;
      }
      if (b_.type(x).dtype == type.dtype && below(2)) continue;
      x = bounded(x);
    }
    return below(2) ? cast(x, dtype_) : x;
  }
  // Products of what was multiplied and added grow.
  NodeId bounded(NodeId x) { return below(2) ? b_.add(Op::tanh, {x}) : with(Op::min, x, 4); }

  void attention() {
    const DType narrow = dtype_ == DType::f32 ? DType::bf16 : dtype_;
    const int64_t heads = draw<int64_t>({1, 2, 3}), queries = size(), d = draw<int64_t>({64, 64, 128, 96});
    const bool masked = below(2);
    const int64_t keys = masked || below(2) ? queries : size();
    const NodeId q = input({heads, queries, d}, narrow), k = input({heads, keys, d}, narrow), v = input({heads, keys, d}, narrow);
    NodeId s = with(Op::mul, cast(contract(q, k, "hqd,hkd->hqk"), DType::f32), 1 / std::sqrt(static_cast<double>(d)));
    const Shape shape = b_.type(s).shape;
    if (masked) {
      const auto coordinate = [&](int64_t axis) {
        Attrs attrs;
        attrs.shape = shape, attrs.axes = {axis}, attrs.dtype = {DType::i32};
        return b_.add(Op::iota, {}, attrs);
      };
      s = b_.add(Op::select, {b_.add(Op::le, {coordinate(2), coordinate(1)}), s, b_.full(b_.type(s), -INFINITY)});
    }
    NodeId most = over(Op::reduce_max, s, 2);
    if (below(2)) most = b_.add(Op::stop_gradient, {most});
    const NodeId e = b_.add(Op::exp, {b_.add(Op::sub, {s, along(most, {0, 1}, shape)})});
    const NodeId p = b_.add(Op::div, {e, along(over(Op::reduce_sum, e, 2), {0, 1}, shape)});
    last_ = contract(cast(p, narrow), v, "hqk,hkd->hqd");
  }
};

}  // namespace

Graph random_products(std::mt19937_64& random) { return Products(random).run(); }

}  // namespace quern
