// Layers and losses as functions of tensors: compositions of primitive ops, nothing more.
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// x [..., in] · w [in, out] + b [out]
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& b, Where where = Where::current());
Tensor relu(const Tensor& x, Where where = Where::current());      // max(x, 0)
Tensor sigmoid(const Tensor& x, Where where = Where::current());   // 1 / (1 + e^-x)
Tensor gelu(const Tensor& x, Where where = Where::current());      // x (1 + erf(x/sqrt 2)) / 2; Hendrycks and Gimpel, arXiv:1606.08415
/// Along the last axis, shifted by its maximum.
Tensor softmax(const Tensor& x, Where where = Where::current());
Tensor log_softmax(const Tensor& x, Where where = Where::current());
/// (x - mean)/sqrt(var + epsilon) * scale + shift along the last axis; Ba et al., arXiv:1607.06450
Tensor layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon = 1e-5, Where where = Where::current());
/// Each element is 0 with probability `rate`, otherwise x/(1-rate). key: u32[]; `stream` numbers the call.
Tensor dropout(const Tensor& x, double rate, const Tensor& key, int64_t stream, Where where = Where::current());
/// Mean over the batch of -log softmax(logits)[label]. logits [B, C], labels integer[B]. loss.h has it with options.
Tensor cross_entropy(const Tensor& logits, const Tensor& labels, Where where = Where::current());
Tensor mse(const Tensor& prediction, const Tensor& target, Where where = Where::current());
/// f32[..., classes], 1 at the label.
Tensor one_hot(const Tensor& labels, int64_t classes, DType dtype, Where where = Where::current());

}  // namespace quern
