// See loss.h.
#include "frontend/loss.h"

#include <fmt/format.h>

#include "frontend/activations.h"
#include "frontend/in_f32.h"
#include "frontend/nn.h"
#include "frontend/reduce.h"
#include "ir/symbol.h"

namespace quern {
namespace {

Tensor over_all(const Tensor& x, Over over) { return over == Over::mean ? mean(x) : over == Over::sum ? sum(x) : x; }
void want_pair(const char* name, const Tensor& a, const Tensor& b, const Where& where) {
  want_tensors(name, {a, b}, where);
  if (!(a.type() == b.type()) || !is_float(a.dtype()))
    throw error_at(Code::loss_operands, fmt::format("{}: wants two float tensors of one type, got {} and {}", name, to_string(a.type()), to_string(b.type())), where, {{"lhs", a}, {"rhs", b}}).with_help("cast, reshape or broadcast_to one of them");
}
void want_rows(const char* name, const char* rows, const Tensor& x, const Tensor& labels, const Where& where) {
  want_tensors(name, {x, labels}, where);
  if (x.rank() != 2 || labels.rank() != 1 || x.shape()[0] != labels.shape()[0] || !is_integer(labels.dtype()) || !is_float(x.dtype()))
    throw error_at(Code::loss_operands, fmt::format("{}: wants {} [batch, classes] and integer labels [batch], got {} and {}", name, rows, to_string(x.type()), to_string(labels.type())), where, {{rows, x}, {"labels", labels}})
        .with_help(x.rank() == 2 ? fmt::format("make the labels i32[{}]", extent_text(x.shape()[0])) : fmt::format("reshape the {} to two dims", rows));
}
void want_positive(const char* name, const char* what, double v, const Tensor& x, const Where& where) {
  if (!(v > 0)) throw error_at(Code::attribute_missing, fmt::format("{}: {} is {}", name, what, v), where, {{"lhs", x}}).with_help("it must be positive");
}
Tensor of_label(const Tensor& log_probability, const Tensor& labels) {   // [batch]; 0 for labels that are no class
  return sum(where(one_hot(labels, log_probability.shape()[1], DType::boolean), log_probability, 0), {-1});
}

}  // namespace

Tensor mae(const Tensor& prediction, const Tensor& target, Over over, Where where) {
  const Composed line(where);
  want_pair("mae", prediction, target, where);
  return over_all(abs(prediction - target), over);
}
Tensor huber(const Tensor& prediction, const Tensor& target, double delta, Over over, Where at) {
  const Composed line(at);
  want_pair("huber", prediction, target, at);
  want_positive("huber", "delta", delta, prediction, at);
  const Tensor d = abs(prediction - target), near = minimum(d, delta);   // d near - near^2/2 is both branches
  return over_all(d * near - square(near) * 0.5, over);
}
Tensor smooth_l1(const Tensor& prediction, const Tensor& target, double beta, Over over, Where where) {
  const Composed line(where);
  want_pair("smooth_l1", prediction, target, where);
  want_positive("smooth_l1", "beta", beta, prediction, where);
  return huber(prediction, target, beta, over) / beta;
}
Tensor bce(const Tensor& probability, const Tensor& target, Over over, Where where) {
  const Composed line(where);
  want_pair("bce", probability, target, where);
  return over_all(in_f32("bce", [](const Tensor& p, const Tensor& t) {
    const auto log_of = [](const Tensor& possible, const Tensor& value) { return maximum(quern::where(possible, value, -100), -100); };
    const Tensor some = less(0, p), more = less(p, 1);   // elsewhere no logarithm is taken: its derivative is infinite
    const Tensor yes = log_of(some, log(quern::where(some, p, 1))), no = log_of(more, log1p(-Located(quern::where(more, p, 0))));
    return -Located(t * yes + (1 - Operand(t)) * no);
  }, probability, target), over);
}
Tensor bce_with_logits(const Tensor& logits, const Tensor& target, Over over, Where where) {
  const Composed line(where);
  want_pair("bce_with_logits", logits, target, where);
  return over_all(in_f32("bce_with_logits", [](const Tensor& x, const Tensor& t) {   // not softplus(x) - t x, which cancels
    return maximum(x, 0) - x * t + log1p(exp(-Located(abs(x))));
  }, logits, target), over);
}
Tensor nll(const Tensor& log_probability, const Tensor& labels, Over over, Where where) {
  const Composed line(where);
  want_rows("nll", "log_probability", log_probability, labels, where);
  return over_all(-Located(of_label(log_probability, labels)), over);
}
Tensor kl_div(const Tensor& log_probability, const Tensor& target, Over over, Where at) {
  const Composed line(at);
  want_pair("kl_div", log_probability, target, at);
  const Tensor some = less(0, target);
  return over_all(where(some, target * (log(where(some, target, 1)) - log_probability), 0), over);
}
Tensor hinge(const Tensor& score, const Tensor& target, double margin, Over over, Where where) {
  const Composed line(where);
  want_pair("hinge", score, target, where);
  return over_all(relu(margin - Operand(target * score)), over);
}
Tensor cosine_similarity(const Tensor& a, const Tensor& b, int64_t axis, double epsilon, Where where) {
  const Composed line(where);
  want_pair("cosine_similarity", a, b, where);
  const Shape axes = axes_of("cosine_similarity", a, {axis}, where);
  return sum(a * b, axes) / maximum(norm(a, 2, axes) * norm(b, 2, axes), epsilon);
}
Tensor cosine_embedding(const Tensor& a, const Tensor& b, const Tensor& target, double margin, Over over, Where at) {
  const Composed line(at);
  want_pair("cosine_embedding", a, b, at);
  want_tensors("cosine_embedding", {a, target}, at);
  if (a.rank() != 2 || target.rank() != 1 || target.shape()[0] != a.shape()[0])
    throw error_at(Code::loss_operands, fmt::format("cosine_embedding: wants rows [batch, n] and targets [batch], got {} and {}", to_string(a.type()), to_string(target.type())), at, {{"a", a}, {"target", target}}).with_help("one target for every row");
  const Tensor likeness = cosine_similarity(a, b);
  return over_all(where(less(0, target), 1 - Operand(likeness), relu(likeness - margin)), over);
}
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, Where where) { return cross_entropy(logits, labels, CrossEntropy{}, where); }
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const CrossEntropy& options, Where at) {
  const Composed line(at);
  want_rows("cross_entropy", "logits", logits, labels, at);
  const double s = options.label_smoothing;
  if (!(s >= 0 && s <= 1)) throw error_at(Code::attribute_missing, fmt::format("cross_entropy: label_smoothing is {}", s), at, {{"logits", logits}}).with_help("from 0 to 1");
  const Tensor log_probability = log_softmax(logits);
  Tensor rows = -Located(of_label(log_probability, labels));
  if (s > 0) rows = rows * (1 - s) - mean(log_probability, {-1}) * s;
  if (!options.ignore_index) return over_all(rows, options.over);
  const Tensor counts = not_equal(cast(labels, DType::i64), static_cast<double>(*options.ignore_index));
  rows = where(counts, rows, 0);
  return options.over == Over::mean ? sum(rows) / maximum(sum(cast(counts, rows.dtype())), 1) : over_all(rows, options.over);
}

}  // namespace quern
