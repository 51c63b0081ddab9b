// ONNX's signal and image sampling: Fourier transforms as products with tables, windows, mel weights, GridSample.
#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

// x [..., n, ..., 1 or 2] along `axis`, as real and imaginary parts in the last axis.
Tensor fourier(const Call& c, const Tensor& x, int64_t axis, int64_t length, bool inverse, bool onesided) {
  const int64_t last = x.rank() - 1;
  c.want(x.rank() >= 2 && axis < last && is_float(x.dtype()) && length > 0, "[…, n, …, 1 or 2] and a length");
  const bool real_result = inverse && onesided, complex = x.shape().at(static_cast<size_t>(last)) == 2;
  const int64_t half = length / 2 + 1, n = std::min(x.shape().at(static_cast<size_t>(axis)), real_result ? half : length), m = onesided && !inverse ? half : length;
  if (n > (int64_t{1} << 22) / m) c.unsupported(fmt::format("a transform of {} elements: its table would take more than 2^22", length));
  HostTensor cosine(x.dtype(), {n, m}), sine(x.dtype(), {n, m});
  for (int64_t k = 0; k < n; ++k)
    for (int64_t o = 0; o < m; ++o) {
      const double angle = 2 * std::numbers::pi * static_cast<double>(k * o % length) / static_cast<double>(length);
      // A half spectrum stands for its mirror image, too.
      const double weight = (inverse ? 1 / static_cast<double>(length) : 1) * (real_result && k > 0 && 2 * k != length ? 2 : 1);
      cosine.set(k * m + o, Scalar::of(x.dtype(), weight * std::cos(angle)));
      sine.set(k * m + o, Scalar::of(x.dtype(), (inverse ? -1 : 1) * weight * std::sin(angle)));
    }
  const Tensor cos_table = c.constant(cosine), sin_table = c.constant(sine);
  std::string in, out;
  for (int64_t d = 0; d <= last; ++d) in += static_cast<char>('a' + d);
  out = in;
  out[static_cast<size_t>(axis)] = 'z';
  const std::string spec = fmt::format("{},{}z->{}", in, in[static_cast<size_t>(axis)], out);
  const Tensor used = ranged(x, axis, 0, n), re = slice(used, last, 0, 1);
  const auto times = [&](const Tensor& part, const Tensor& table) { return contract(spec, part, table); };
  Tensor real = times(re, cos_table), imaginary = -Located(times(re, sin_table));
  if (complex) {
    const Tensor im = slice(used, last, 1, 2);
    real = real + times(im, sin_table);
    imaginary = imaginary + times(im, cos_table);
  }
  return real_result ? real : concat({real, imaginary}, last);
}
void import_dft(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.opset < 20 ? c.integer("axis", 1) : c.has(2) ? c.known_integer(2, "the axis") : -2, x.rank());
  const bool inverse = c.flag("inverse"), onesided = c.flag("onesided");
  const int64_t n = x.shape().at(static_cast<size_t>(axis));
  c.out(fourier(c, x, axis, c.has(1) ? c.known_integer(1, "the length") : inverse && onesided ? 2 * (n - 1) : n, inverse, onesided));
}
void import_stft(Call& c) {
  const Tensor x = c.in(0);   // [batch, time, 1 or 2]
  const int64_t step = c.known_integer(1, "the step"), time = x.shape().at(1);
  const int64_t length = c.has(3) ? c.known_integer(3, "the frame's length") : c.has(2) ? c.in(2).type().size() : time;
  c.want(x.rank() == 3 && step > 0 && length > 0 && length <= time, "frames within the signal");
  const int64_t frames = 1 + (time - length) / step;
  const Tensor index = c.coordinates(DType::i64, {frames, length}, 0) * static_cast<double>(step) + c.coordinates(DType::i64, {frames, length}, 1);
  Tensor parts = take(x, index, 1);   // [batch, frames, length, 1 or 2]
  if (c.has(2)) parts = parts * reshape(c.in(2), {length, 1});
  c.out(fourier(c, parts, 2, length, false, c.flag("onesided", true)));
}

// a + b cos(2 pi n / N) + d cos(4 pi n / N)
OpEntry window(std::string_view name, double a, double b, double d) {
  return {name, [a, b, d](Call& c) {
            const int64_t size = c.known_integer(0, "the size");
            const DType dtype = c.dtype_of(c.integer("output_datatype", 1)), wide = dtype == DType::f64 ? DType::f64 : DType::f32;
            c.want(size >= 0 && size <= kMaxExtent, "the size");
            const double turn = 2 * std::numbers::pi / static_cast<double>(c.flag("periodic", true) ? size : size - 1);
            const Tensor n = c.coordinates(wide, {size}, 0);
            c.out(cast(cos(n * turn) * b + cos(n * (2 * turn)) * d + a, dtype));
          }};
}

void import_mel(Call& c) {
  const int64_t bins = c.known_integer(0, "num_mel_bins"), length = c.known_integer(1, "dft_length"), rate = c.known_integer(2, "sample_rate");
  const double low = c.known_number(c.in(3), "lower_edge_hertz"), high = c.known_number(c.in(4), "upper_edge_hertz");
  c.want(bins > 0 && bins <= (1 << 16) && length > 0 && length <= (1 << 20) && rate > 0 && low >= 0 && high >= low && high < 1e9, "positive sizes and edges in order");
  const int64_t rows = length / 2 + 1;
  if (rows > (int64_t{1} << 22) / bins) c.unsupported("a matrix of more than 2^22 elements");
  const auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  std::vector<int64_t> edge;   // spectrum rows where triangles begin, peak and end
  for (int64_t i = 0; i < bins + 2; ++i) {
    const double at = mel(low) + static_cast<double>(i) * (mel(high) - mel(low)) / static_cast<double>(bins + 2);
    edge.push_back(static_cast<int64_t>(std::floor(static_cast<double>(length + 1) * 700 * (std::pow(10, at / 2595) - 1) / static_cast<double>(rate))));
    c.want(edge.back() < rows, "an edge above half the sample rate");
  }
  HostTensor out(c.dtype_of(c.integer("output_datatype", 1)), {rows, bins});
  for (int64_t i = 0; i < bins; ++i) {
    const int64_t from = edge[static_cast<size_t>(i)], peak = edge[static_cast<size_t>(i) + 1], to = edge[static_cast<size_t>(i) + 2];
    for (int64_t r = from; r <= peak; ++r) out.set(r * bins + i, Scalar::of(out.dtype, peak == from ? 1 : static_cast<double>(r - from) / static_cast<double>(peak - from)));
    for (int64_t r = peak; r < to; ++r) out.set(r * bins + i, Scalar::of(out.dtype, static_cast<double>(to - r) / static_cast<double>(to - peak)));
  }
  c.out(c.constant(std::move(out)));
}

// By the first row's minors.
Tensor determinant(const Tensor& x) {   // [B, n, n] to [B]
  const int64_t n = x.shape().at(1);
  if (n == 1) return reshape(x, {x.shape().at(0)});
  Tensor total;
  for (int64_t k = 0; k < n; ++k) {
    const Tensor below = slice(x, 1, 1, n), left = slice(below, 2, 0, k), right = slice(below, 2, k + 1, n);
    const Tensor term = reshape(slice(slice(x, 1, 0, 1), 2, k, k + 1), {x.shape().at(0)}) * determinant(concat({left, right}, 2));
    total = !total ? term : k % 2 ? total - term : total + term;
  }
  return total;
}
void import_det(Call& c) {
  const Tensor x = c.in(0);
  const int64_t n = x.rank() < 2 ? 0 : x.shape().back();
  c.want(n > 0 && x.shape().at(x.shape().size() - 2) == n, "square matrices");
  if (n > 4) c.unsupported(fmt::format("a determinant of order {}; at most 4", n));
  const Shape batch(x.shape().begin(), x.shape().end() - 2);
  c.out(reshape(determinant(reshape(x, {count(batch), n, n})), batch));
}

// --- GridSample ---
// Into [low, high] by reflecting at its ends.
Tensor reflected(const Tensor& x, double low, double high) {
  const double range = high - low;
  if (range <= 0) return x * 0.0 + low;
  return range - Operand(abs(mod(x - low, 2 * range) - range)) + low;
}
struct Tap { Tensor index, weight; };   // i64 and x's dtype, [N, P]; no weight: 1
void import_grid_sample(Call& c) {
  const Tensor x = c.in(0), grid = c.in(1);
  const int64_t dims = x.rank() - 2, batch = x.shape().at(0), channels = x.shape().at(1);
  c.want(dims >= 1 && dims <= 3 && grid.rank() == x.rank() && grid.shape().back() == dims && grid.shape().at(0) == batch, "X [N, C, …] and a grid [N, …, d]");
  std::string mode = c.text("mode", "linear");
  const std::string padding = c.text("padding_mode", "zeros");
  if (mode == "bilinear") mode = "linear";
  if (mode == "bicubic") mode = "cubic";
  c.want(mode == "linear" || mode == "cubic" || mode == "nearest", "mode=" + mode);
  c.want(padding == "zeros" || padding == "border" || padding == "reflection", "padding_mode=" + padding);
  const bool align = c.flag("align_corners");
  const Shape out_dims(grid.shape().begin() + 1, grid.shape().end() - 1), sizes(x.shape().begin() + 2, x.shape().end());
  const int64_t points = count(out_dims);
  const Tensor at = reshape(grid, {batch, points, dims});
  std::vector<std::vector<Tap>> taps(static_cast<size_t>(dims));
  for (int64_t d = 0; d < dims; ++d) {
    const double n = static_cast<double>(sizes[static_cast<size_t>(d)]), low = align ? 0 : -0.5, high = align ? n - 1 : n - 0.5;
    const Tensor g = cast(reshape(slice(at, 2, dims - 1 - d, dims - d), {batch, points}), x.dtype());   // the grid names the last axis first
    Tensor p = align ? (g + 1) * ((n - 1) / 2) : ((g + 1) * n - 1) * 0.5;
    if (mode == "nearest") p = round(p);
    const Tensor outside = logical_or(less(p, low), less(high, p));
    if (padding == "border") p = where(outside, minimum(maximum(p, 0), n - 1), p);
    if (padding == "reflection") p = where(outside, reflected(p, low, high), p);
    const Tensor base = floor(p), f = p - base;
    const auto tap = [&](double offset, Tensor weight) {
      Tensor i = (mode == "nearest" ? p : base) + offset;
      if (padding == "zeros") {
        const Tensor inside = logical_and(less_equal(0, i), less_equal(i, n - 1));
        weight = cast(inside, x.dtype()) * (weight ? weight : c.number(x.dtype(), 1));
      } else if (padding == "reflection") {
        i = reflected(i, low, high);
      }
      taps[static_cast<size_t>(d)].push_back({cast(minimum(maximum(i, 0), n - 1), DType::i64), weight});
    };
    if (mode == "nearest") tap(0, {});
    if (mode == "linear") tap(0, 1 - Operand(f)), tap(1, f);
    if (mode == "cubic") {
      const double a = -0.75;
      const auto near = [&](const Tensor& t) { return ((t * (a + 2)) - (a + 3)) * t * t + 1; };
      const auto far = [&](const Tensor& t) { return ((t * a - 5 * a) * t + 8 * a) * t - 4 * a; };
      tap(-1, far(f + 1)), tap(0, near(f)), tap(1, near(1 - Operand(f))), tap(2, far(2 - Operand(f)));
    }
  }
  // Rows of channels: [N * spatial, C].
  Shape axes = {0};
  for (int64_t d = 0; d < dims; ++d) axes.push_back(d + 2);
  axes.push_back(1);
  const int64_t spatial = count(sizes);
  const Tensor rows = reshape(transpose(x, axes), {batch * spatial, channels});
  const Shape strides = row_major(sizes);
  Tensor total;
  std::vector<size_t> pick(static_cast<size_t>(dims), 0);
  for (bool more = true; more;) {
    Tensor index = c.coordinates(DType::i64, {batch, points}, 0) * static_cast<double>(spatial), weight;
    for (size_t d = 0; d < pick.size(); ++d) {
      const Tap& t = taps[d][pick[d]];
      index = index + t.index * static_cast<double>(strides[d]);
      if (t.weight) weight = weight ? weight * t.weight : t.weight;
    }
    Tensor part = take(rows, index, 0);   // [N, P, C]
    if (weight) part = part * expand_dims(broadcast_to(weight, {batch, points}), 2);
    total = total ? total + part : part;
    more = false;
    for (size_t d = 0; d < pick.size() && !more; ++d) {
      more = ++pick[d] < taps[d].size();
      if (!more) pick[d] = 0;
    }
  }
  Shape out = {batch, channels};
  out.insert(out.end(), out_dims.begin(), out_dims.end());
  c.out(reshape(transpose(total, {0, 2, 1}), out));
}

}  // namespace

std::vector<OpEntry> signal_ops() {
  return {
      window("BlackmanWindow", 0.42, -0.5, 0.08), window("HammingWindow", 25.0 / 46, -21.0 / 46, 0), window("HannWindow", 0.5, -0.5, 0),
      {"DFT", import_dft}, {"Det", import_det}, {"GridSample", import_grid_sample}, {"MelWeightMatrix", import_mel}, {"STFT", import_stft},
  };
}

}  // namespace quern::onnx
