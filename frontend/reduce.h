// Statistics, norms, running sums and sorting: compositions of reductions, the cumulate ops and argsort. Negative axes
// count from the end; no axes means all.
#pragma once
#include <limits>

#include "frontend/tensor.h"

namespace quern {

/// log(sum(e^x)), shifted by the maximum.
Tensor logsumexp(const Tensor& x, Shape axes = {}, Where where = Where::current());
/// sum((x - mean)^2) / (n - correction); its square root. correction 1: the unbiased estimate.
Tensor variance(const Tensor& x, Shape axes = {}, double correction = 0, Where where = Where::current());
Tensor stddev(const Tensor& x, Shape axes = {}, double correction = 0, Where where = Where::current());
/// (sum |x|^p)^(1/p); p infinite: the greatest |x|. Where the norm is 0 its derivative is taken as 0.
Tensor norm(const Tensor& x, double p = 2, Shape axes = {}, Where where = Where::current());
/// x / max(norm, epsilon) along one axis.
Tensor normalize(const Tensor& x, double p = 2, int64_t axis = -1, double epsilon = 1e-12, Where where = Where::current());
/// Of bools.
Tensor all(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor any(const Tensor& x, Shape axes = {}, Where where = Where::current());
Tensor argmin(const Tensor& x, int64_t axis, Where where = Where::current());   // i64; the first among equals, and the first NaN

/// y[i] = x[0] + … + x[i]; exclusive: without x[i]; reverse: from the last element down to x[i].
Tensor cumsum(const Tensor& x, int64_t axis, bool exclusive = false, bool reverse = false, Where where = Where::current());
Tensor cumprod(const Tensor& x, int64_t axis, bool exclusive = false, bool reverse = false, Where where = Where::current());
Tensor cummax(const Tensor& x, int64_t axis, Where where = Where::current());
Tensor cummin(const Tensor& x, int64_t axis, Where where = Where::current());
/// x[i+1] - x[i], n times.
Tensor diff(const Tensor& x, int64_t axis = -1, int64_t n = 1, Where where = Where::current());

/// The order that sorts, i64: stable, NaN counts as the greatest; descending: greatest first, equals in their order.
Tensor argsort(const Tensor& x, int64_t axis = -1, bool descending = false, Where where = Where::current());
/// out[…, i, …] = x[…, index[…, i, …], …]: index has x's shape but for the axis; an index outside reads 0. Short axes
/// compare every index with every place, so that the derivative costs no more than that; long ones are read by place,
/// whose derivative is quadratic in the elements of x.
Tensor take_along_axis(const Tensor& x, const Tensor& index, int64_t axis, Where where = Where::current());
/// x in order; differentiable.
Tensor sort(const Tensor& x, int64_t axis = -1, bool descending = false, Where where = Where::current());
struct TopK { Tensor values, indices; };
/// The k greatest (or least) elements in order, and where they were; differentiable in the values.
TopK top_k(const Tensor& x, int64_t k, int64_t axis = -1, bool largest = true, Where where = Where::current());

}  // namespace quern
