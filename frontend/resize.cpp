// See resize.h.
#include "frontend/resize.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "ir/symbol.h"

namespace quern {
namespace {

using Mode = Resampling::Mode;
using Coordinates = Resampling::Coordinates;
constexpr int64_t kMaxWeights = int64_t{1} << 24;
constexpr double kMaxShare = 1 << 20;   // of a region's ends

double source_of_pixel(Coordinates rule, double out, double scale, int64_t in_size, int64_t to, double start, double end) {
  // Of the extents themselves, one rounding: what is a whole number is found so.
  const double n = static_cast<double>(in_size), extent = static_cast<double>(to);
  const bool exact = scale == extent / n;
  const double out_size = exact ? extent : scale * n;   // before it was rounded to `to`
  const auto scaled = [&](double x) { return exact ? x * n / extent : x / scale; };
  switch (rule) {
    case Coordinates::half_pixel: return scaled(out + 0.5) - 0.5;
    case Coordinates::half_pixel_symmetric: {   // half_pixel around the middle of what the scaled extent was cut to
      const double adjustment = extent / out_size;
      return n / 2 * (1 - adjustment) + scaled(out + 0.5) - 0.5;
    }
    case Coordinates::pytorch_half_pixel: return out_size > 1 ? scaled(out + 0.5) - 0.5 : 0;
    case Coordinates::align_corners: return out_size > 1 ? out * (n - 1) / (out_size - 1) : 0;
    case Coordinates::asymmetric: return scaled(out);
    case Coordinates::tf_half_pixel_for_nn: return scaled(out + 0.5);
    case Coordinates::crop: return out_size > 1 ? start * (n - 1) + out * (end - start) * (n - 1) / (out_size - 1) : 0.5 * (start + end) * (n - 1);
  }
  return 0;
}
double kernel(const Resampling& how, double x) {
  x = std::fabs(x);
  if (how.mode == Mode::linear) return std::max(0.0, 1 - x);
  const double a = how.cubic;
  return x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((x - 5) * x + 8) * x * a - 4 * a : 0;
}
// Within the axis, however far `x` lies outside of it.
int64_t nearest_of(Resampling::Rounding rule, double x, int64_t n) {
  const double r = rule == Resampling::Rounding::prefer_floor ? std::ceil(x - 0.5) : rule == Resampling::Rounding::prefer_ceil ? std::floor(x + 0.5) : rule == Resampling::Rounding::floor ? std::floor(x) : std::ceil(x);
  return static_cast<int64_t>(std::clamp(r, 0.0, static_cast<double>(n - 1)));
}
// The weights of all n elements for the one at `at`.
std::vector<double> weights_at(const Resampling& how, double at, double scale, int64_t n) {
  const double stretch = how.antialias && scale < 1 ? scale : 1, reach = (how.mode == Mode::linear ? 1 : 2) / stretch;
  at = std::clamp(at, -reach - 1, static_cast<double>(n) + reach);   // further out, it is the same
  std::vector<double> row(static_cast<size_t>(n));
  double total = 0;
  for (int64_t k = static_cast<int64_t>(std::floor(at - reach)); k <= static_cast<int64_t>(std::ceil(at + reach)); ++k) {
    const bool beyond = k < 0 || k >= n;
    const double w = beyond && how.exclude_outside ? 0 : kernel(how, (static_cast<double>(k) - at) * stretch);
    total += w;
    row[static_cast<size_t>(std::clamp<int64_t>(k, 0, n - 1))] += w;
  }
  for (double& w : row) w = total != 0 ? w / total : 0;
  return row;
}

}  // namespace

Tensor resize_axis(const Tensor& x, int64_t axis, int64_t to, const Resampling& how, double scale, double start, double end, double outside, Where at) {
  const Composed line(at);
  const size_t d = static_cast<size_t>(axes_of("resize", x, {axis}, at)[0]);
  const int64_t n = x.shape()[d];
  const auto fail = [&](Code code, const std::string& what, const std::string& help) { throw error_at(code, "resize: " + what, at, {{"operand", x}}).with_help(help); };
  if (n <= 0 || is_symbolic(n) || to < 0 || to > kMaxWeights) fail(Code::too_large, fmt::format("axis {} from {} to {} elements", d, extent_text(n), to), "from a constant extent of at least one element, to at most 2^24");
  if (how.mode != Mode::nearest && n > kMaxWeights / std::max<int64_t>(to, 1)) fail(Code::too_large, fmt::format("axis {} from {} to {}: its weights take more than 2^24 elements", d, n, to), "resize in parts");
  if (how.mode != Mode::nearest && !is_float(x.dtype())) fail(Code::dtype_unsupported, fmt::format("interpolation of {}", to_string(x.type())), "cast it to f32, or take the nearest");
  if (scale == 0) scale = static_cast<double>(to) / static_cast<double>(n);
  if (!(scale > 0 && scale < 1e6) && to > 0) fail(Code::attribute_missing, fmt::format("scale is {}", scale), "between 0 and 10^6");
  if (how.antialias && 2 / scale * static_cast<double>(to) > 4.0 * kMaxWeights) fail(Code::too_large, fmt::format("scale is {}: the stretched kernels have more than 2^26 weights", scale), "leave antialias out, or the scale to the extents");
  if (!(std::fabs(start) <= kMaxShare && std::fabs(end) <= kMaxShare)) fail(Code::attribute_missing, fmt::format("the region goes from {} to {}", start, end), "shares of the extent, 0 to 1 for all of it");
  HostTensor index(DType::i64, {to}), inside(DType::boolean, {to}), weights(x.dtype(), how.mode == Mode::nearest ? Shape{0} : Shape{to, n});
  for (int64_t o = 0; o < to; ++o) {
    const double from = source_of_pixel(how.coordinates, static_cast<double>(o), scale, n, to, start, end);
    inside.set(o, Scalar::of_int(DType::boolean, from >= 0 && from <= static_cast<double>(n - 1)));
    if (how.mode == Mode::nearest) {
      index.set(o, Scalar::of_int(DType::i64, nearest_of(how.nearest, from, n)));
      continue;
    }
    const std::vector<double> row = weights_at(how, from, scale, n);
    for (int64_t k = 0; k < n; ++k) weights.set(o * n + k, Scalar::of(x.dtype(), row[static_cast<size_t>(k)]));
  }
  const auto constant = [&](HostTensor t) { return Tensor(&x.graph(), x.graph().constant(std::move(t), source_of(at))); };
  Tensor y;
  if (how.mode == Mode::nearest) {
    y = take(x, constant(std::move(index)), static_cast<int64_t>(d));
  } else {
    std::string in;
    for (int64_t a = 0; a < x.rank(); ++a) in += static_cast<char>('a' + a);
    std::string out = in;
    out[d] = 'z';
    y = contract(fmt::format("{},z{}->{}", in, in[d], out), x, constant(std::move(weights)));
  }
  if (how.coordinates != Coordinates::crop) return y;
  Shape column(x.shape().size(), 1);
  column[d] = to;
  return where(reshape(constant(std::move(inside)), column), y, outside);
}

Tensor resize(const Tensor& x, const Shape& sizes, const Resampling& how, Where where) {
  const Composed line(where);
  want_tensors("resize", {x}, where);
  if (static_cast<int64_t>(sizes.size()) > x.rank()) throw error_at(Code::bad_rank, fmt::format("resize: {} extents for {}", sizes.size(), to_string(x.type())), where, {{"operand", x}}).with_help("at most one for every dim");
  Tensor y = x;
  for (size_t k = 0; k < sizes.size(); ++k)
    if (const int64_t axis = x.rank() - static_cast<int64_t>(sizes.size() - k); x.shape()[static_cast<size_t>(axis)] != sizes[k]) y = resize_axis(y, axis, sizes[k], how);
  return y;
}

}  // namespace quern
