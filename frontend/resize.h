// Resampling along axes: nearest, linear and cubic interpolation with the coordinate rules of PyTorch, TensorFlow and ONNX's
// Resize. An axis is multiplied by a matrix of weights that is known when the model is built, or (nearest) taken from.
#pragma once
#include "frontend/tensor.h"

namespace quern {

struct Resampling {
  enum class Mode { nearest, linear, cubic } mode = Mode::linear;
  /// Where element o of the result lies in the input of n elements, scale = out/n: half_pixel: (o + 1/2)/scale - 1/2, the
  /// default of PyTorch (symmetric: around the middle of what a scale was cut to; pytorch_half_pixel: 0 for one element);
  /// align_corners: the ends meet; asymmetric: o/scale; tf_half_pixel_for_nn: (o + 1/2)/scale; crop: of the part from
  /// start to end (shares of the input), what lies outside is `outside`.
  enum class Coordinates { half_pixel, half_pixel_symmetric, pytorch_half_pixel, align_corners, asymmetric, tf_half_pixel_for_nn, crop } coordinates = Coordinates::half_pixel;
  enum class Rounding { prefer_floor, prefer_ceil, floor, ceil } nearest = Rounding::prefer_floor;   // prefer: of halves
  double cubic = -0.75;           // Keys' coefficient (IEEE ASSP 29, 1981)
  bool exclude_outside = false;   // weights beyond the ends are 0, not those of the ends, and the others made to sum to 1
  bool antialias = false;         // made smaller, the kernel is stretched
};
/// The axis with `to` elements. scale: of the coordinates, 0: to / extent.
Tensor resize_axis(const Tensor& x, int64_t axis, int64_t to, const Resampling& how = {}, double scale = 0, double start = 0, double end = 1, double outside = 0, Where where = Where::current());
/// The last axes of x with these extents: resize(x, {224, 224}) of [batch, channels, height, width].
Tensor resize(const Tensor& x, const Shape& sizes, const Resampling& how = {}, Where where = Where::current());

}  // namespace quern
