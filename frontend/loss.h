// Losses beyond nn.h's, with the values of PyTorch's. Each gives one number, the mean over all elements or rows, or their sum,
// or with Over::none one for each. prediction and target have one shape and dtype. Unlike there, a label that is no class is
// no error: its row has no loss of its own and counts in the mean; what cross_entropy ignores is asked for.
#pragma once
#include <optional>

#include "frontend/tensor.h"

namespace quern {

enum class Over { mean, sum, none };

Tensor mae(const Tensor& prediction, const Tensor& target, Over over = Over::mean, Where where = Where::current());   // |d|
/// d^2/2 up to |d| = delta, then delta (|d| - delta/2); Huber 1964. smooth_l1: huber/beta with delta = beta.
Tensor huber(const Tensor& prediction, const Tensor& target, double delta = 1, Over over = Over::mean, Where where = Where::current());
Tensor smooth_l1(const Tensor& prediction, const Tensor& target, double beta = 1, Over over = Over::mean, Where where = Where::current());
/// -t log p - (1-t) log(1-p), logarithms not below -100, and with derivative 0 where they are held there; p from 0 to 1. With logits: p = sigmoid(logits), without overflow.
Tensor bce(const Tensor& probability, const Tensor& target, Over over = Over::mean, Where where = Where::current());
Tensor bce_with_logits(const Tensor& logits, const Tensor& target, Over over = Over::mean, Where where = Where::current());
/// -log_probability[label] of each row: log_probability [batch, classes], labels integer[batch].
Tensor nll(const Tensor& log_probability, const Tensor& labels, Over over = Over::mean, Where where = Where::current());
/// t (log t - log p), 0 where t is 0; log_probability and target [...]; the mean is over all elements.
Tensor kl_div(const Tensor& log_probability, const Tensor& target, Over over = Over::mean, Where where = Where::current());
/// max(0, margin - t x), t of -1 and 1.
Tensor hinge(const Tensor& score, const Tensor& target, double margin = 1, Over over = Over::mean, Where where = Where::current());
/// a·b / max(|a| |b|, epsilon) along the axis.
Tensor cosine_similarity(const Tensor& a, const Tensor& b, int64_t axis = -1, double epsilon = 1e-8, Where where = Where::current());
/// 1 - cos where the row's target is 1, max(0, cos - margin) where it is -1: a, b [batch, n], target [batch].
Tensor cosine_embedding(const Tensor& a, const Tensor& b, const Tensor& target, double margin = 0, Over over = Over::mean, Where where = Where::current());

struct CrossEntropy {
  double label_smoothing = 0;              // this share of the label goes to all classes evenly; Szegedy et al., arXiv:1512.00567
  std::optional<int64_t> ignore_index;     // rows with this label count nothing, nor in the mean (0 where all are ignored)
  Over over = Over::mean;
};
/// -log softmax(logits)[label] of each row: logits [batch, classes], labels integer[batch].
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const CrossEntropy& options, Where where = Where::current());

}  // namespace quern
