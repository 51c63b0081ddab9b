// Normalisations of [batch, channels, spatial…] (rms_norm: of the last axis) as compositions of primitive ops. scale and
// shift have one element a channel. Variances are those of the elements, divided by their number.
#pragma once
#include "frontend/tensor.h"

namespace quern {

struct BatchNorm { Tensor y, mean, variance; };   // of the batch: [channels]
/// Training form: normalised by the batch's own mean and variance; Ioffe and Szegedy, arXiv:1502.03167.
BatchNorm batch_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon = 1e-5, Where where = Where::current());
/// Inference form: normalised by the given mean and variance, [channels].
Tensor batch_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& mean, const Tensor& variance, double epsilon = 1e-5, Where where = Where::current());
/// Channels in `groups` of neighbours, each normalised for every element of the batch; Wu and He, arXiv:1803.08494.
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& scale, const Tensor& shift, double epsilon = 1e-5, Where where = Where::current());
/// Every channel a group of its own.
Tensor instance_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon = 1e-5, Where where = Where::current());
/// x / sqrt(mean of squares + epsilon) * scale along the last axis; Zhang and Sennrich, arXiv:1910.07467.
Tensor rms_norm(const Tensor& x, const Tensor& scale, double epsilon = 1e-6, Where where = Where::current());

}  // namespace quern
