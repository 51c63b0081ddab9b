// See sample.h.
#include "frontend/sample.h"

#include <limits>

#include <fmt/format.h>

#include "frontend/nn.h"
#include "frontend/reduce.h"

namespace quern {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

Tensor last(const Tensor& x, int64_t at) { return slice(x, x.rank() - 1, at, at + 1); }

void want(bool good, const char* what, double value, const char* help, const Where& where) {
  if (!good) throw error_at(Code::attribute_missing, fmt::format("sample: {} is {}", what, value), where).with_help(help);
}

}  // namespace

Tensor keep_likely(const Tensor& logits, int64_t top_k, double top_p, Where where) {
  want_tensors("keep_likely", {logits}, where);
  if (logits.rank() == 0) throw error_at(Code::bad_rank, "sample: logits have no axis of classes", where, {{"logits", logits}}).with_help("give them as [..., classes]");
  const int64_t n = logits.shape().back();
  want(top_k >= 0 && top_k <= n, "top_k", static_cast<double>(top_k), "it counts classes; 0 keeps all", where);
  want(top_p > 0 && top_p <= 1, "top_p", top_p, "it must be above 0 and at most 1, which keeps all", where);
  const Composed composed(where);
  Tensor x = logits;
  if (top_k > 0 && top_k < n) x = quern::where(less(x, last(quern::top_k(x, top_k).values, top_k - 1)), kNever, x);
  if (top_p < 1) {   // kept: what has less than top_p before it
    const Tensor sorted = sort(x, -1, true), before = cumsum(softmax(sorted), -1, true);
    const Tensor least = min(quern::where(less(before, top_p), sorted, std::numeric_limits<double>::infinity()), {-1});
    x = quern::where(less(x, expand_dims(least, -1)), kNever, x);
  }
  return x;
}

Tensor sample(const Tensor& logits, const Tensor& key, const Sampling& how, int64_t stream, Where where) {
  want_tensors("sample", {logits, key}, where);
  want(how.temperature >= 0 && how.temperature < std::numeric_limits<double>::infinity(), "temperature", how.temperature, "it must be at least 0; 0 takes the greatest logit", where);
  const Composed composed(where);
  const Tensor wide = cast(logits, DType::f32);
  const Tensor kept = keep_likely(how.temperature > 0 ? wide / how.temperature : wide, how.top_k, how.top_p, where);
  if (how.temperature == 0) return argmax(kept, -1);
  return argmax(kept - log(-log(random_uniform(key, kept.shape(), stream))), -1);
}

}  // namespace quern
