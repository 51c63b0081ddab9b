// See attention.h.
#include "frontend/attention.h"

#include <cmath>

#include <fmt/format.h>

#include "frontend/nn.h"
#include "frontend/shape.h"

namespace quern {

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Attention& options, Where at) {
  const Composed line(at);
  want_tensors("attention", {q, k, v}, at);
  const Shape qs = q.shape(), ks = k.shape(), vs = v.shape();
  const auto fail = [&](Code code, const std::string& what, const std::string& help) { throw error_at(code, "attention: " + what, at, {{"q", q}, {"k", k}, {"v", v}}).with_help(help); };
  if (qs.size() != 4 || ks.size() != 4 || vs.size() != 4) fail(Code::bad_rank, fmt::format("wants [batch, heads, sequence, size], got {}, {} and {}", to_string(q.type()), to_string(k.type()), to_string(v.type())), "split the heads off: reshape, then transpose {0, 2, 1, 3}");
  if (!is_float(q.dtype()) || k.dtype() != q.dtype() || v.dtype() != q.dtype()) fail(Code::dtypes_differ, fmt::format("wants floats of one dtype, got {}, {} and {}", name_of(q.dtype()), name_of(k.dtype()), name_of(v.dtype())), "cast them");
  if (qs[0] != ks[0] || ks[0] != vs[0] || ks[1] != vs[1] || ks[2] != vs[2] || qs[3] != ks[3]) fail(Code::shapes_differ, fmt::format("{} by {} by {}", to_string(q.type()), to_string(k.type()), to_string(v.type())), "one batch; keys and values of equal heads and length; queries and keys of equal size");
  if (ks[1] == 0 || qs[1] % ks[1] != 0) fail(Code::channel_groups, fmt::format("{} heads of queries for {} of keys", qs[1], ks[1]), "a multiple of the heads of keys");
  if (options.mask && options.mask.dtype() != DType::boolean) throw error_at(Code::dtype_unsupported, fmt::format("attention: the mask is {}", to_string(options.mask.type())), at, {{"q", q}, {"mask", options.mask}}).with_help("bools, true where a query sees the key; numbers to be added are the bias");
  const int64_t groups = ks[1], shared = qs[1] / groups, n = qs[2], m = ks[2];
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(std::max<int64_t>(qs[3], 1)));
  // Heads that share keys have an axis of their own, throughout.
  const Shape all = shared == 1 ? Shape{qs[0], qs[1], n, m} : Shape{qs[0], groups, shared, n, m};
  const auto by_groups = [&](const Tensor& x) {
    const int64_t rank = x.rank();
    if (shared == 1 || rank < 3) return x;
    Shape split = x.shape();
    if (rank > 4 || (split[static_cast<size_t>(rank - 3)] != 1 && split[static_cast<size_t>(rank - 3)] != qs[1])) fail(Code::shapes_differ, fmt::format("a mask or bias of {} for {} heads of queries", to_string(x.type()), qs[1]), "they broadcast against [batch, heads, queries, keys]");
    const bool same = split[static_cast<size_t>(rank - 3)] == 1;
    split[static_cast<size_t>(rank - 3)] = same ? 1 : shared;
    split.insert(split.begin() + rank - 3, same ? 1 : groups);
    return reshape(x, split);
  };
  Tensor scores = shared == 1 ? contract("bhqd,bhkd->bhqk", q * scale, k) : contract("bghqd,bgkd->bghqk", by_groups(q) * scale, k);
  if (options.softcap > 0) scores = tanh(scores / options.softcap) * options.softcap;
  if (options.bias) scores = scores + by_groups(options.bias);
  const Tensor never = {&q.graph(), q.graph().scalar(q.dtype(), -INFINITY, source_of(at))};
  if (options.mask) scores = where(by_groups(options.mask), scores, never);
  if (options.causal) scores = where(triangle(q.graph(), n, m, m - n), scores, never);
  if (scores.shape() != all) fail(Code::shapes_differ, fmt::format("mask or bias stretch the scores to {}", to_string(scores.type())), "they broadcast against [batch, heads, queries, keys]");
  if (m == 0) return full(q.graph(), q.dtype(), {qs[0], qs[1], n, vs[3]}, 0);
  const Tensor top = stop_gradient(expand_dims(max(scores, {-1}), -1));
  const Tensor e = exp(scores - where(is_finite(top), top, 0)), total = expand_dims(sum(e, {-1}), -1);
  Tensor weights = e / where(equal(total, 0), 1, total);
  if (options.dropout != 0) weights = dropout(weights, options.dropout, options.key, options.stream);
  if (shared == 1) return contract("bhqk,bhkd->bhqd", weights, v);
  return reshape(contract("bghqk,bgkd->bghqd", weights, v), {qs[0], qs[1], n, vs[3]});
}

Tensor multi_head_attention(const Tensor& x, const Tensor& context, const MultiHead& weights, const Attention& options, Where where) {
  const Composed line(where);
  want_tensors("multi_head_attention", {x, context, weights.q, weights.k, weights.v, weights.out}, where);
  const int64_t groups = weights.kv_heads ? weights.kv_heads : weights.heads;
  const auto heads_of = [&](const Tensor& from, const Tensor& w, const Tensor& bias, int64_t heads) {
    if (from.rank() != 3) throw error_at(Code::bad_rank, fmt::format("multi_head_attention: wants [batch, sequence, size], got {}", to_string(from.type())), where, {{"x", from}, {"weights", w}}).with_help("reshape it");
    Tensor y = matmul(from, w);
    if (bias) y = y + bias;
    if (heads < 1 || y.shape()[2] % heads != 0) throw error_at(Code::channel_groups, fmt::format("multi_head_attention: {} columns do not divide into {} heads", y.shape()[2], heads), where, {{"x", from}, {"weights", w}}).with_help("heads*size columns");
    return transpose(reshape(y, {y.shape()[0], y.shape()[1], heads, y.shape()[2] / heads}), {0, 2, 1, 3});
  };
  const Tensor y = attention(heads_of(x, weights.q, weights.q_bias, weights.heads), heads_of(context, weights.k, weights.k_bias, groups), heads_of(context, weights.v, weights.v_bias, groups), options);
  const Tensor joined = matmul(reshape(transpose(y, {0, 2, 1, 3}), {y.shape()[0], y.shape()[2], y.shape()[1] * y.shape()[3]}), weights.out);
  return weights.out_bias ? joined + weights.out_bias : joined;
}

Tensor rotate_pairs(const Tensor& x, const Tensor& cosine, const Tensor& sine, bool interleaved, Where where) {
  const Composed line(where);
  want_tensors("rotate_pairs", {x, cosine, sine}, where);
  const int64_t size = x.rank() ? x.shape().back() : 1;
  if (size % 2 != 0) throw error_at(Code::bad_rank, fmt::format("rotate_pairs: the last axis of {} has no pairs", to_string(x.type())), where, {{"x", x}}).with_help("an even number of elements");
  const Tensor a = interleaved ? slice(x, -1, 0, size, 2) : slice(x, -1, 0, size / 2);
  const Tensor b = interleaved ? slice(x, -1, size ? 1 : 0, size, 2) : slice(x, -1, size / 2, size);
  const Tensor real = a * cosine - b * sine, imaginary = a * sine + b * cosine;
  return interleaved ? reshape(stack({real, imaginary}, -1), x.shape()) : concat({real, imaginary}, -1);
}
Tensor rope(const Tensor& x, const Tensor& positions, double base, bool interleaved, Where where) {
  const Composed line(where);
  want_tensors("rope", {x}, where);
  if (x.rank() < 2 || !is_float(x.dtype()) || x.shape().back() % 2 != 0) throw error_at(Code::bad_rank, fmt::format("rope: wants floats [..., sequence, an even size], got {}", to_string(x.type())), where, {{"x", x}}).with_help("reshape it");
  if (!(base > 0 && std::isfinite(base))) throw error_at(Code::attribute_missing, fmt::format("rope: base is {}", base), where, {{"x", x}}).with_help("it must be positive; 10000 is usual");
  const int64_t n = x.shape()[x.shape().size() - 2], half = x.shape().back() / 2;
  if (positions && (positions.shape() != Shape{n} || !is_integer(positions.dtype()))) throw error_at(Code::shapes_differ, fmt::format("rope: positions are {}, the sequence has {} elements", to_string(positions.type()), n), where, {{"x", x}, {"positions", positions}}).with_help("integer[sequence]");
  const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  const Tensor at = positions ? cast(positions, wide) : iota(x.graph(), wide, {n}, 0);
  const Tensor speed = exp(iota(x.graph(), wide, {half}, 0) * (-std::log(base) / static_cast<double>(std::max<int64_t>(half, 1))));
  const Tensor angle = expand_dims(at, 1) * speed;
  return rotate_pairs(x, cast(cos(angle), x.dtype()), cast(sin(angle), x.dtype()), interleaved);
}
Tensor embedding(const Tensor& table, const Tensor& index, Where where) {
  const Composed line(where);
  want_tensors("embedding", {table, index}, where);
  if (table.rank() != 2) throw error_at(Code::bad_rank, fmt::format("embedding: the table is {}", to_string(table.type())), where, {{"table", table}, {"index", index}}).with_help("[rows, size]");
  return take(table, index, 0);
}

}  // namespace quern
