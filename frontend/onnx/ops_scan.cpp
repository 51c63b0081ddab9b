// ONNX ops that look along an axis: running sums and products, TopK, and the n-grams of TfIdfVectorizer.
#include <algorithm>

#include <fmt/format.h>

#include "frontend/onnx/call.h"
#include "frontend/reduce.h"

namespace quern::onnx {
namespace {

void running(Call& c, bool product) {
  const Tensor x = c.in(0);
  if (x.dtype() == DType::boolean) c.unsupported("bool");
  const int64_t axis = c.axis(c.known_integer(1, "the axis"), x.rank());
  const bool exclusive = c.flag("exclusive"), backwards = c.flag("reverse");
  c.out(product ? cumprod(x, axis, exclusive, backwards) : cumsum(x, axis, exclusive, backwards));
}

// NaN is the greatest.
void import_top_k(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", -1), x.rank()), n = x.shape().at(static_cast<size_t>(axis));
  const int64_t k = c.opset < 10 ? c.integer("k", -1) : c.known_integer(1, "k");
  c.want(k >= 0 && k <= n, fmt::format("k={} of {} elements", k, n));
  if (x.dtype() == DType::boolean) c.unsupported("bool");
  const TopK found = top_k(x, k, axis, c.flag("largest", true));
  c.out(found.values);
  c.out(found.indices, 1);
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
