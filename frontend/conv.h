// Convolution and pooling over one to three spatial dims, laid out as in PyTorch: x [batch, channels, spatial…], kernels
// [out, in/groups, k…]. Compositions of `convolve` and `window` (ir/op.h); nothing here makes a tensor of windows, nor do
// the derivatives.
//
//   Tensor y = relu(conv(x, w, b, {.stride = {2}, .low = {1}}));
// Channels last are views: transpose(conv(transpose(x, {0, 3, 1, 2}), transpose(w, {0, 3, 1, 2})), {0, 2, 3, 1}) reads x [batch, h, w, in] and
// w [out, kh, kw, in] where they lie and stores [batch, h, w, out]. On an sm_90a GPU bf16 and f16 want to lie so, 64 pictures and more.
//   Tensor z = max_pool(y, {2, 2});
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// One entry for every spatial dim, or one that serves all; empty: the default.
struct ConvOptions {
  Shape stride, dilation;   // 1
  Shape low, high;          // padding; low: 0, high: as low. Negative amounts crop.
  int64_t groups = 1;       // of channels, each with its own kernels
  Shape output_padding;     // conv_transpose: how much longer the output is at its end; 0
};
/// y[n, o, p] = b[o] + the sum over c, k of x[n, c, p*stride + k*dilation - low] w[o, c, k].
Tensor conv(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const ConvOptions& options = {}, Where where = Where::current());
/// The adjoint of `conv` in x: kernels [in, out/groups, k…], extents (n-1)*stride + (k-1)*dilation + 1 - low - high + output_padding.
Tensor conv_transpose(const Tensor& x, const Tensor& w, const Tensor& bias = {}, const ConvOptions& options = {}, Where where = Where::current());
/// The options with the padding that makes ceil(n/stride) positions of n elements; an odd rest goes to the end.
ConvOptions same_padding(const Tensor& x, const Shape& kernel, ConvOptions options = {}, Where where = Where::current());

struct PoolOptions {
  Shape stride;             // the window's size
  Shape dilation;           // 1
  Shape low, high;          // padding; low: 0, high: as low. Every window must reach into x.
  bool include_pad = true;  // avg_pool: does padding count among the elements?
};
/// Over windows of `size` (one entry for every spatial dim, or one that serves all).
Tensor max_pool(const Tensor& x, const Shape& size, const PoolOptions& options = {}, Where where = Where::current());
Tensor avg_pool(const Tensor& x, const Shape& size, const PoolOptions& options = {}, Where where = Where::current());
/// [batch, channels, spatial…] → [batch, channels].
Tensor global_max_pool(const Tensor& x, Where where = Where::current());
Tensor global_avg_pool(const Tensor& x, Where where = Where::current());

}  // namespace quern
