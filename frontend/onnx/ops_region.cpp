// ONNX ops that read images between their pixels: RoiAlign and DeformConv. Both take the four pixels around every point
// as rows of channels, each with its weight.
#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

// A pixel and its weight along one dim.
struct Tap { Tensor index, weight; };

// --- RoiAlign ---
// Points up to one pixel outside count as on the edge; those further away have no weight.
std::vector<Tap> edge_taps(const Tensor& p, int64_t extent) {
  const double n = static_cast<double>(extent);
  const Tensor near = cast(logical_and(less_equal(-1, p), less_equal(p, n)), p.dtype()), at = clip(p, 0, n - 1), low = floor(at), rest = at - low;
  return {{cast(low, DType::i64), (1 - Operand(rest)) * near}, {cast(minimum(low + 1, n - 1), DType::i64), rest * near}};
}
// The sample points of all bins along one dim: [regions, bins * samples].
Tensor points(const Call& c, const Tensor& low, const Tensor& high, int64_t bins, int64_t samples, double scale, bool half_pixel) {
  const double shift = half_pixel ? 0.5 : 0;
  const Tensor start = low * scale - shift, length = high * scale - shift - start, bin = (half_pixel ? length : maximum(length, 1)) / static_cast<double>(bins);
  std::vector<double> places;
  for (int64_t k = 0; k < bins * samples; ++k) places.push_back(static_cast<double>(k / samples) + (static_cast<double>(k % samples) + 0.5) / static_cast<double>(samples));
  return start + bin * c.constant(HostTensor::from(low.dtype(), {bins * samples}, places));
}
void import_roi_align(Call& c) {
  const Tensor x = c.in(0), rois = c.in(1), which = c.in(2);
  c.want(x.rank() == 4 && rois.rank() == 2 && rois.shape().at(1) == 4 && which.shape() == Shape{rois.shape().at(0)}, "X [N, C, H, W], rois [n, 4] and n batch_indices");
  const int64_t channels = x.shape().at(1), height = x.shape().at(2), width = x.shape().at(3), regions = rois.shape().at(0);
  const int64_t rows = c.integer("output_height", 1), columns = c.integer("output_width", 1), samples = c.integer("sampling_ratio", 0);
  const std::string mode = c.text("mode", "avg"), coordinates = c.text("coordinate_transformation_mode", c.opset < 16 ? "output_half_pixel" : "half_pixel");
  c.want(mode == "avg" || mode == "max", "mode=" + mode);
  c.want(coordinates == "half_pixel" || coordinates == "output_half_pixel", "coordinate_transformation_mode=" + coordinates);
  if (samples == 0) c.unsupported("sampling_ratio=0: the number of samples depends on the regions");
  c.want(height > 0 && width > 0 && rows > 0 && columns > 0 && samples > 0, "extents of the output and a sampling_ratio");
  if (rows > 4096 || columns > 4096 || samples > 64) c.unsupported("an output past 4096 a side, or more than 64 samples a side of a bin");
  const auto side = [&](int64_t k) { return cast(slice(rois, 1, k, k + 1), x.dtype()); };
  const double scale = c.real("spatial_scale", 1);
  const bool half = coordinates == "half_pixel";
  const std::vector<Tap> ys = edge_taps(points(c, side(1), side(3), rows, samples, scale, half), height), xs = edge_taps(points(c, side(0), side(2), columns, samples, scale, half), width);
  const int64_t tall = rows * samples, wide = columns * samples;
  const Tensor pixels = reshape(transpose(x, {0, 2, 3, 1}), {x.shape().at(0) * height * width, channels});
  const Tensor base = reshape(cast(which, DType::i64) * static_cast<double>(height * width), {regions, 1, 1});
  Tensor out;   // [regions, tall, wide, channels]
  for (const Tap& y : ys)
    for (const Tap& w : xs) {
      const Tensor index = base + reshape(y.index, {regions, tall, 1}) * static_cast<double>(width) + reshape(w.index, {regions, 1, wide});
      const Tensor weight = reshape(y.weight, {regions, tall, 1, 1}) * reshape(w.weight, {regions, 1, wide, 1}), part = take(pixels, index, 0) * weight;
      out = !out ? part : mode == "avg" ? out + part : maximum(out, part);
    }
  const Tensor bins = reshape(out, {regions, rows, samples, columns, samples, channels});
  c.out(transpose(mode == "avg" ? mean(bins, {2, 4}) : max(bins, {2, 4}), {0, 3, 1, 2}));
}

// --- DeformConv ---
// Pixels outside are 0: they have no weight.
std::vector<Tap> zero_taps(const Tensor& p, int64_t extent) {
  const Tensor low = floor(p), rest = p - low;
  const double n = static_cast<double>(extent);
  std::vector<Tap> out;
  for (int k : {0, 1}) {
    const Tensor at = low + k, inside = logical_and(less_equal(0, at), less_equal(at, n - 1));
    out.push_back({cast(clip(at, 0, n - 1), DType::i64), where(inside, k ? rest : 1 - Operand(rest), 0)});
  }
  return out;
}
void import_deform_conv(Call& c) {
  const Tensor x = c.in(0), w = c.in(1), offset = c.in(2);
  if (x.rank() != 4) c.unsupported(fmt::format("{}: two spatial dims are imported", type_text(x)));
  c.want(w.rank() == 4 && offset.rank() == 4 && offset.shape().at(0) == x.shape().at(0), "X, W and offset [N, …, H, W]");
  const auto entries = [&](const char* name, Shape otherwise) {
    const Shape given = c.integers(name);
    c.want(given.empty() || given.size() == otherwise.size(), name);
    for (int64_t v : given) c.want(v >= 0 && v <= 1 << 20, name);
    return given.empty() ? otherwise : given;
  };
  const Shape stride = entries("strides", {1, 1}), dilation = entries("dilations", {1, 1}), pads = entries("pads", {0, 0, 0, 0}), kernel(w.shape().begin() + 2, w.shape().end());
  const int64_t groups = c.integer("group", 1), shifts = c.integer("offset_group", 1), batch = x.shape().at(0), channels = x.shape().at(1), height = x.shape().at(2), width = x.shape().at(3), out = w.shape().at(0);
  const int64_t places = kernel[0] * kernel[1], rows = offset.shape().at(2), columns = offset.shape().at(3), positions = rows * columns;
  c.want(groups > 0 && shifts > 0 && channels % groups == 0 && channels % shifts == 0 && out % groups == 0 && w.shape().at(1) == channels / groups && batch > 0 && channels > 0 && out > 0 && places > 0 && height > 0 && width > 0, "channels that divide into the groups");
  c.want(offset.shape().at(1) == checked_mul(shifts, 2 * places), "two offsets for every place of the kernel");
  for (size_t d = 0; d < 2; ++d) {
    const int64_t rest = x.shape().at(d + 2) + pads[d] + pads[d + 2] - (kernel[d] - 1) * dilation[d] - 1;
    c.want(stride[d] > 0 && rest >= 0 && rest / stride[d] + 1 == offset.shape().at(d + 2), "offsets for the positions of the kernel");
  }
  const int64_t images = batch * shifts, share = channels / shifts;
  const Shape grid = {kernel[0], kernel[1], rows, columns};
  const Tensor apart = reshape(offset, {images, places, 2, positions});
  const auto coordinate = [&](int64_t d) {   // [images, places, positions]
    const double step = static_cast<double>(stride[static_cast<size_t>(d)]), spread = static_cast<double>(dilation[static_cast<size_t>(d)]);
    const Tensor fixed = c.coordinates(x.dtype(), grid, d + 2) * step + c.coordinates(x.dtype(), grid, d) * spread - static_cast<double>(pads[static_cast<size_t>(d)]);
    return reshape(slice(apart, 2, d, d + 1), {images, places, positions}) + reshape(fixed, {places, positions});
  };
  const std::vector<Tap> ys = zero_taps(coordinate(0), height), xs = zero_taps(coordinate(1), width);
  const Tensor pixels = reshape(transpose(reshape(x, {images, share, height * width}), {0, 2, 1}), {images * height * width, share});
  const Tensor base = c.coordinates(DType::i64, {images, places, positions}, 0) * static_cast<double>(height * width);
  Tensor read;   // [images, places, positions, share]
  for (const Tap& y : ys)
    for (const Tap& z : xs) {
      const Tensor part = take(pixels, base + y.index * static_cast<double>(width) + z.index, 0) * expand_dims(y.weight * z.weight, 3);
      read = read ? read + part : part;
    }
  if (c.has(4)) read = read * reshape(c.in(4), {images, places, positions, 1});
  read = reshape(transpose(read, {0, 3, 1, 2}), {batch, groups, channels / groups, places, positions});
  const Tensor y = reshape(contract("ngckp,gock->ngop", read, reshape(w, {groups, out / groups, channels / groups, places})), {batch, out, rows, columns});
  c.out(c.has(3) ? y + reshape(c.in(3), {out, 1, 1}) : y);
}

}  // namespace

std::vector<OpEntry> region_ops() { return {{"DeformConv", import_deform_conv}, {"RoiAlign", import_roi_align}}; }

}  // namespace quern::onnx
