// See reduce.h.
#include "frontend/reduce.h"

#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/shape.h"
#include "ir/symbol.h"

namespace quern {
namespace {

constexpr int64_t kShortAxis = 512;   // of take_along_axis

Shape wanted_axes(const char* name, const Tensor& x, Shape axes, const Where& where) {
  axes = axes_of(name, x, std::move(axes), where);
  if (axes.empty()) {
    axes.resize(x.shape().size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  return axes;
}
// With the reduced axes put back as extents of 1.
Tensor kept(const Tensor& reduced, const Tensor& x, const Shape& axes) {
  Shape shape = x.shape();
  for (int64_t a : axes) shape[static_cast<size_t>(a)] = 1;
  return reshape(reduced, shape);
}
void want_float(const char* name, const Tensor& x, const Where& where) {
  want_tensors(name, {x}, where);
  if (!is_float(x.dtype())) throw error_at(Code::dtype_unsupported, fmt::format("{}: wants floats, got {}", name, to_string(x.type())), where, {{"operand", x}}).with_help("cast it to f32 first");
}
Tensor along(Op op, const char* name, const Tensor& x, int64_t axis, const char* spec, const Where& where) {
  Attrs attrs;
  attrs.axes = axes_of(name, x, {axis}, where);
  attrs.spec = spec;
  return {&x.graph(), x.graph().add(op, {x.id()}, std::move(attrs), source_of(where))};
}
const char* running_spec(bool exclusive, bool reverse) { return exclusive ? (reverse ? "exclusive,reverse" : "exclusive") : reverse ? "reverse" : ""; }
Tensor of_bools(const char* name, const Tensor& x, Shape axes, bool every, const Where& where) {
  want_tensors(name, {x}, where);
  if (x.dtype() != DType::boolean) throw error_at(Code::dtype_unsupported, fmt::format("{}: wants bools, got {}", name, to_string(x.type())), where, {{"operand", x}}).with_help("compare it with something first");
  const Tensor bits = cast(x, DType::u8);
  return cast(every ? min(bits, std::move(axes)) : max(bits, std::move(axes)), DType::boolean);
}

}  // namespace

Tensor logsumexp(const Tensor& x, Shape axes, Where at) {
  const Composed line(at);
  want_float("logsumexp", x, at);
  axes = wanted_axes("logsumexp", x, std::move(axes), at);
  const Tensor top = stop_gradient(max(x, axes)), shift = where(is_finite(top), top, 0);
  return log(sum(exp(x - kept(shift, x, axes)), axes)) + shift;
}
Tensor variance(const Tensor& x, Shape axes, double correction, Where where) {
  const Composed line(where);
  want_float("variance", x, where);
  axes = wanted_axes("variance", x, std::move(axes), where);
  const Tensor squares = square(x - kept(mean(x, axes), x, axes));
  if (correction == 0) return mean(squares, axes);
  const Tensor total = sum(squares, axes);
  int64_t n = 1;
  for (int64_t a : axes) n = checked_mul(n, x.shape()[static_cast<size_t>(a)]);
  return total / std::max(0.0, static_cast<double>(n) - correction);
}
Tensor stddev(const Tensor& x, Shape axes, double correction, Where where) {
  const Composed line(where);
  return sqrt(variance(x, std::move(axes), correction));
}
Tensor norm(const Tensor& x, double p, Shape axes, Where at) {
  const Composed line(at);
  want_float("norm", x, at);
  if (!(p > 0)) throw error_at(Code::attribute_missing, fmt::format("norm: p is {}", p), at, {{"operand", x}}).with_help("p is positive: 1, 2, or infinity, say");
  axes = wanted_axes("norm", x, std::move(axes), at);
  if (p == 1) return sum(abs(x), axes);
  if (std::isinf(p)) return max(abs(x), axes);
  const Tensor total = sum(p == 2 ? square(x) : pow(abs(x), p), axes), nothing = equal(total, 0), safe = where(nothing, 1, total);
  return where(nothing, 0, p == 2 ? sqrt(safe) : pow(safe, 1 / p));
}
Tensor normalize(const Tensor& x, double p, int64_t axis, double epsilon, Where where) {
  const Composed line(where);
  const Shape axes = axes_of("normalize", x, {axis}, where);
  return x / maximum(kept(norm(x, p, axes), x, axes), epsilon);
}
Tensor all(const Tensor& x, Shape axes, Where where) { const Composed line(where); return of_bools("all", x, std::move(axes), true, where); }
Tensor any(const Tensor& x, Shape axes, Where where) { const Composed line(where); return of_bools("any", x, std::move(axes), false, where); }
// Of integers ~x reverses the order without overflow.
Tensor argmin(const Tensor& x, int64_t axis, Where where) {
  const Composed line(where);
  want_tensors("argmin", {x}, where);
  return argmax(is_integer(x.dtype()) ? bit_not(x) : -Located(x), axis);
}

Tensor cumsum(const Tensor& x, int64_t axis, bool exclusive, bool reverse, Where where) { return along(Op::cumulate_sum, "cumsum", x, axis, running_spec(exclusive, reverse), where); }
Tensor cumprod(const Tensor& x, int64_t axis, bool exclusive, bool reverse, Where where) { return along(Op::cumulate_prod, "cumprod", x, axis, running_spec(exclusive, reverse), where); }
Tensor cummax(const Tensor& x, int64_t axis, Where where) { return along(Op::cumulate_max, "cummax", x, axis, "", where); }
Tensor cummin(const Tensor& x, int64_t axis, Where where) { return along(Op::cumulate_min, "cummin", x, axis, "", where); }
Tensor diff(const Tensor& x, int64_t axis, int64_t n, Where where) {
  const Composed line(where);
  const int64_t d = axes_of("diff", x, {axis}, where)[0];
  Tensor out = x;
  for (int64_t extent = x.shape()[static_cast<size_t>(d)]; n > 0 && extent > 0; --n, --extent) out = slice(out, d, 1, extent) - slice(out, d, 0, extent - 1);
  return out;
}

Tensor argsort(const Tensor& x, int64_t axis, bool descending, Where where) { return along(Op::argsort, "argsort", x, axis, descending ? "descending" : "", where); }
Tensor take_along_axis(const Tensor& x, const Tensor& index, int64_t axis, Where at) {
  const Composed line(at);
  want_tensors("take_along_axis", {x, index}, at);
  const int64_t d = axes_of("take_along_axis", x, {axis}, at)[0];
  Shape shape = index.shape();
  if (shape.size() == x.shape().size()) shape[static_cast<size_t>(d)] = x.shape()[static_cast<size_t>(d)];
  if (shape != x.shape()) throw error_at(Code::shapes_differ, fmt::format("take_along_axis: {} by {}: shapes differ beside axis {}", to_string(x.type()), to_string(index.type()), d), at, {{"x", x}, {"index", index}}).with_help("broadcast_to one of them first");
  if (!is_integer(index.dtype())) throw error_at(Code::index_dtype, "take_along_axis: indices must be integers", at, {{"x", x}, {"index", index}}).with_help("cast them to i64");
  const int64_t n = x.shape()[static_cast<size_t>(d)];
  if (n <= kShortAxis && x.rank() < kMaxRank && x.dtype() != DType::boolean) {   // […, i, k]: the element k if index i names it
    const int64_t last = x.rank() - 1;
    const Tensor rows = expand_dims(move_axis(x, d, last), last), wanted = expand_dims(cast(move_axis(index, d, last), DType::i64), last + 1);
    const Tensor hit = equal(wanted, iota(x.graph(), DType::i64, {n}, 0));
    return move_axis(sum(where(hit, rows, 0), {last + 1}), last, d);
  }
  const Shape strides = row_major(x.shape());
  Tensor place = cast(index, DType::i64);
  const Tensor inside = logical_and(less_equal(0, place), less(place, static_cast<double>(n)));
  place = place * static_cast<double>(strides[static_cast<size_t>(d)]);
  for (int64_t e = 0; e < x.rank(); ++e)
    if (e != d) place = place + iota(x.graph(), DType::i64, index.shape(), e) * static_cast<double>(strides[static_cast<size_t>(e)]);
  return take(reshape(x, {x.type().size()}), where(inside, place, -1), 0);
}
Tensor sort(const Tensor& x, int64_t axis, bool descending, Where where) {
  const Composed line(where);
  return take_along_axis(x, argsort(x, axis, descending), axis);
}
TopK top_k(const Tensor& x, int64_t k, int64_t axis, bool largest, Where where) {
  const Composed line(where);
  const int64_t d = axes_of("top_k", x, {axis}, where)[0], n = x.shape()[static_cast<size_t>(d)];
  if (k < 0 || k > n) throw error_at(Code::slice_bounds, fmt::format("top_k: k={} of {} elements", k, extent_text(n)), where, {{"operand", x}}).with_help("k is at least 0 and at most the axis's extent");
  TopK out;
  out.indices = slice(argsort(x, d, largest), d, 0, k);
  out.values = take_along_axis(x, out.indices, d);
  return out;
}

}  // namespace quern
