// ONNX ops along an axis that Quern has no primitive for, written by comparing every element with every other: running
// sums and products, TopK, and the n-grams of TfIdfVectorizer. An axis of n elements costs n*n steps (no memory: the
// comparisons fuse into the reduction), so n is limited.
#include <algorithm>

#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

constexpr int64_t kMaxRunning = 4096, kMaxRanked = 1024;

// y[i] is the sum or product of the x[j] on its side; the others are replaced, as 0 times infinity is no 0.
void running(Call& c, bool product) {
  Tensor x = c.in(0);
  if (x.dtype() == DType::boolean) c.unsupported("bool");
  const int64_t axis = c.axis(c.known_integer(1, "the axis"), x.rank()), n = x.shape().at(static_cast<size_t>(axis)), last = x.rank() - 1;
  if (n > kMaxRunning) c.unsupported(fmt::format("an axis of {} elements; the cost is quadratic, so at most {} are taken", n, kMaxRunning));
  const bool exclusive = c.flag("exclusive"), backwards = c.flag("reverse");
  const Tensor i = c.coordinates(DType::i32, {n, n}, 0), j = c.coordinates(DType::i32, {n, n}, 1), from = backwards ? i : j, to = backwards ? j : i;
  const Tensor wide = where(exclusive ? less(from, to) : less_equal(from, to), expand_dims(moved(x, axis, last), last), product ? 1 : 0);
  c.out(moved(product ? prod(wide, {last + 1}) : sum(wide, {last + 1}), last, axis));
}

// The rank of an element is how many come before it: greater ones, and equal ones of a lower index. NaN is the greatest.
void import_top_k(Call& c) {
  Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", -1), x.rank()), n = x.shape().at(static_cast<size_t>(axis)), last = x.rank() - 1;
  const int64_t k = c.opset < 10 ? c.integer("k", -1) : c.known_integer(1, "k");
  c.want(k >= 0 && k <= n, fmt::format("k={} of {} elements", k, n));
  if (n > kMaxRanked) c.unsupported(fmt::format("an axis of {} elements; the cost is quadratic, so at most {} are taken", n, kMaxRanked));
  if (x.dtype() == DType::boolean) c.unsupported("bool");
  x = moved(x, axis, last);
  const Tensor self = expand_dims(x, last + 1), other = expand_dims(x, last);
  const bool largest = c.flag("largest", true);
  Tensor before = largest ? less(self, other) : less(other, self), same = equal(self, other);
  if (is_float(x.dtype())) {
    const Tensor a = is_nan(self), b = is_nan(other);
    before = logical_or(before, largest ? logical_and(b, logical_not(a)) : logical_and(a, logical_not(b)));
    same = logical_or(same, logical_and(a, b));
  }
  const Tensor earlier = less(c.coordinates(DType::i32, {n, n}, 1), c.coordinates(DType::i32, {n, n}, 0));
  const Tensor rank = sum(cast(logical_or(before, logical_and(same, earlier)), DType::i32), {last + 1});
  const Tensor here = equal(expand_dims(rank, last), c.coordinates(DType::i32, {k, n}, 0));   // […, k, n]
  const Tensor index = sum(where(here, c.coordinates(DType::i64, {k, n}, 1), 0), {last + 1});
  const Shape shape = index.shape();
  const int64_t rows = k ? index.type().size() / k : 0;
  const Tensor at = reshape(index, {rows, k}) + c.coordinates(DType::i64, {rows, k}, 0) * static_cast<double>(n);
  c.out(moved(reshape(take(flat(x), at, 0), shape), last, axis));
  c.out(moved(index, last, axis), 1);
}

// How often each n-gram of the pool occurs, with up to max_skip_count elements skipped between its parts.
void import_tf_idf(Call& c) {
  Tensor x = c.in(0);
  if (!c.integers("pool_int64s").size()) c.unsupported("strings");
  c.want(x.rank() == 1 || x.rank() == 2, "X [n] or [batch, n]");
  const bool single = x.rank() == 1;
  if (single) x = expand_dims(x, 0);
  x = cast(x, DType::i64);
  const Shape pool = c.integers("pool_int64s"), starts = c.integers("ngram_counts"), indexes = c.integers("ngram_indexes");
  const int64_t shortest = c.integer("min_gram_length", 1), longest = c.integer("max_gram_length", 1), skips = c.integer("max_skip_count", 0), batch = x.shape().at(0), n = x.shape().at(1);
  const std::string mode = c.text("mode", "TF");
  c.want(mode == "TF" || mode == "IDF" || mode == "TFIDF", "mode=" + mode);
  c.want(shortest >= 1 && shortest <= longest && skips >= 0 && longest <= static_cast<int64_t>(starts.size()), "lengths of n-grams");
  if (longest > 16 || skips > 64) c.unsupported("more than 16 elements in an n-gram, or more than 64 skipped");
  int64_t columns = 0;
  for (int64_t i : indexes) {
    c.want(i >= 0 && i < kMaxExtent, "ngram_indexes");
    columns = std::max(columns, i + 1);
  }
  if (columns > 1 << 20) c.unsupported(fmt::format("{} columns; at most 2^20 are taken", columns));
  Tensor total = c.filled(DType::f32, {batch, columns}, 0);
  size_t gram = 0;   // of all lengths
  for (int64_t length = 1; length <= static_cast<int64_t>(starts.size()); ++length) {
    const size_t level = static_cast<size_t>(length - 1);
    const int64_t from = starts[level], to = length < static_cast<int64_t>(starts.size()) ? starts[level + 1] : static_cast<int64_t>(pool.size());
    c.want(from >= 0 && from <= to && to <= static_cast<int64_t>(pool.size()) && (to - from) % length == 0, "ngram_counts");
    const int64_t grams = (to - from) / length;
    c.want(gram + static_cast<size_t>(grams) <= indexes.size(), "an index for every n-gram");
    const size_t first = gram;
    gram += static_cast<size_t>(grams);
    if (!grams || length < shortest || length > longest) continue;
    Tensor found;   // [batch, grams]
    for (int64_t step = 1; step <= (length == 1 ? 1 : skips + 1); ++step) {
      const int64_t places = n - (length - 1) * step;
      if (places <= 0) break;
      Tensor match;   // [batch, places, grams]
      for (int64_t part = 0; part < length; ++part) {
        HostTensor wanted(DType::i64, {grams});
        for (int64_t g = 0; g < grams; ++g) wanted.set(g, Scalar::of_int(DType::i64, pool[static_cast<size_t>(from + g * length + part)]));
        const Tensor hit = equal(expand_dims(ranged(x, 1, part * step, part * step + places), 2), c.constant(wanted));
        match = match ? logical_and(match, hit) : hit;
      }
      const Tensor times = sum(cast(match, DType::f32), {1});
      found = found ? found + times : times;
    }
    if (!found) continue;
    HostTensor index(DType::i64, {grams});
    for (int64_t g = 0; g < grams; ++g) index.set(g, Scalar::of_int(DType::i64, indexes[first + static_cast<size_t>(g)]));
    const Tensor to_column = cast(equal(expand_dims(c.constant(index), 1), c.coordinates(DType::i64, {grams, columns}, 1)), DType::f32);
    total = total + matmul(found, to_column);
  }
  const Attribute* weights = c.find("weights");
  if (mode != "TF" && weights && !weights->floats.empty()) {
    c.want(weights->floats.size() == indexes.size(), "a weight for every n-gram");
    std::vector<double> by_column(static_cast<size_t>(columns), 1);
    for (size_t g = 0; g < indexes.size(); ++g) by_column[static_cast<size_t>(indexes[g])] = weights->floats[g];
    const Tensor w = c.constant(HostTensor::from(DType::f32, {columns}, by_column));
    total = mode == "IDF" ? where(less(0, total), w, 0) : total * w;
  } else if (mode == "IDF") {
    total = where(less(0, total), c.filled(DType::f32, {batch, columns}, 1), 0);
  }
  c.out(single ? reshape(total, {columns}) : total);
}

}  // namespace

std::vector<OpEntry> scan_ops() {
  return {
      {"CumProd", [](Call& c) { running(c, true); }}, {"CumSum", [](Call& c) { running(c, false); }}, {"TfIdfVectorizer", import_tf_idf}, {"TopK", import_top_k},
  };
}

}  // namespace quern::onnx
