// ONNX ops that make shapes and move elements: views, constants, ranges, padding, splitting.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/onnx/call.h"
#include "frontend/shape.h"

namespace quern::onnx {
namespace {

Shape axes_of(const Call& c, Shape axes, int64_t rank) {
  for (int64_t& a : axes) a = c.axis(a, rank);
  std::sort(axes.begin(), axes.end());
  c.want(std::adjacent_find(axes.begin(), axes.end()) == axes.end(), "an axis is named twice");
  return axes;
}

void import_reshape(Call& c) {
  const Tensor x = c.in(0);
  Shape shape = c.opset < 5 ? c.integers("shape") : c.known_integers(1, "the shape");
  const bool zero_is_copied = !c.flag("allowzero");
  int64_t rest = -1, product = 1;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 0 && zero_is_copied) {
      c.want(d < x.shape().size(), "a 0 in the shape beyond the input's dims");
      shape[d] = x.shape().at(d);
    }
    if (shape[d] == -1) {
      c.want(rest < 0, "two -1 in the shape");
      rest = static_cast<int64_t>(d);
    } else {
      c.want(shape[d] >= 0, "a negative extent");
      product = checked_mul(product, shape[d]);
    }
  }
  if (rest >= 0) {
    c.want(product > 0 && x.type().size() % product == 0, fmt::format("{} does not divide into the shape", type_text(x)));
    shape[static_cast<size_t>(rest)] = x.type().size() / product;
  }
  c.out(reshape(x, shape));
}

void import_flatten(Call& c) {
  const Tensor x = c.in(0);
  int64_t axis = c.integer("axis", 1);
  if (axis < 0) axis += x.rank();
  c.want(axis >= 0 && axis <= x.rank(), "axis");
  const std::span<const int64_t> all(x.shape());
  c.out(reshape(x, {count(all.first(static_cast<size_t>(axis))), count(all.subspan(static_cast<size_t>(axis)))}));
}

void import_transpose(Call& c) {
  const Tensor x = c.in(0);
  Shape axes = c.integers("perm");
  if (!c.find("perm")) {
    axes.resize(x.shape().size());
    std::iota(axes.rbegin(), axes.rend(), 0);
  }
  c.out(transpose(x, axes));
}

Shape given_axes(const Call& c) { return c.opset < 13 ? c.integers("axes") : c.has(1) ? c.known_integers(1, "the axes") : Shape{}; }

void import_squeeze(Call& c) {
  const Tensor x = c.in(0);
  const Shape axes = axes_of(c, given_axes(c), x.rank());
  Shape shape;
  for (int64_t d = 0; d < x.rank(); ++d) {
    const int64_t extent = x.shape().at(static_cast<size_t>(d));
    const bool named = std::binary_search(axes.begin(), axes.end(), d);
    c.want(!named || extent == 1, fmt::format("axis {} of {} is not 1", d, type_text(x)));
    if (!(named || (axes.empty() && extent == 1))) shape.push_back(extent);
  }
  c.out(reshape(x, shape));
}

void import_unsqueeze(Call& c) {
  const Tensor x = c.in(0);
  Shape shape = x.shape();
  const Shape given = given_axes(c);
  for (int64_t a : axes_of(c, given, x.rank() + static_cast<int64_t>(given.size()))) shape.insert(shape.begin() + a, 1);
  c.out(reshape(x, shape));
}

void import_concat(Call& c) {
  std::vector<Tensor> parts;
  for (size_t i = 0; i < c.inputs(); ++i) parts.push_back(c.in(i));
  c.want(!parts.empty(), "no inputs");
  c.out(concat(parts, c.axis(c.integer("axis", 1), parts[0].rank())));
}

// Extents of the parts of a split.
Shape split_sizes(Call& c, int64_t extent, size_t outputs) {
  Shape sizes = c.opset < 13 ? c.integers("split") : c.has(1) ? c.known_integers(1, "the split") : Shape{};
  if (!sizes.empty()) return sizes;
  const int64_t n = c.opset >= 18 ? c.integer("num_outputs", static_cast<int64_t>(outputs)) : static_cast<int64_t>(outputs);
  c.want(n > 0 && n <= 1'000'000, "num_outputs");
  const int64_t each = ceil_div(extent, n);
  for (int64_t k = 0; k < n; ++k) sizes.push_back(std::max<int64_t>(0, std::min(each, extent - k * each)));
  return sizes;
}
void import_split(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", 0), x.rank());
  const Shape sizes = split_sizes(c, x.shape().at(static_cast<size_t>(axis)), c.node.outputs.size());
  c.want(sizes.size() == c.node.outputs.size(), fmt::format("{} parts for {} outputs", sizes.size(), c.node.outputs.size()));
  int64_t at = 0;
  for (size_t o = 0; o < sizes.size(); ++o) {
    c.want(sizes[o] >= 0 && sizes[o] <= kMaxExtent, "a part's extent");
    c.out(slice(x, axis, at, at + sizes[o]), o);
    at += sizes[o];
  }
  c.want(at == x.shape().at(static_cast<size_t>(axis)), "the parts are not the whole");
}

void import_slice(Call& c) {
  Tensor x = c.in(0);
  Shape starts, ends, axes, steps;
  if (c.opset < 10) {
    starts = c.integers("starts");
    ends = c.integers("ends");
    axes = c.integers("axes");
  } else {
    starts = c.known_integers(1, "starts");
    ends = c.known_integers(2, "ends");
    if (c.has(3)) axes = c.known_integers(3, "axes");
    if (c.has(4)) steps = c.known_integers(4, "steps");
  }
  if (axes.empty()) {
    axes.resize(starts.size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  if (steps.empty()) steps.assign(starts.size(), 1);
  c.want(starts.size() == ends.size() && starts.size() == axes.size() && starts.size() == steps.size(), "starts, ends, axes and steps of different lengths");
  for (size_t k = 0; k < axes.size(); ++k) {
    const int64_t a = c.axis(axes[k], x.rank()), n = x.shape().at(static_cast<size_t>(a)), step = steps[k];
    c.want(step != 0 && step > -kMaxExtent && step < kMaxExtent, "a step of 0");
    const auto bounded = [&](int64_t v, int64_t low, int64_t high) { return std::clamp(v < 0 ? (v < -kMaxExtent ? -1 : v + n) : v, low, high); };
    if (step > 0) {
      const int64_t from = bounded(starts[k], 0, n), to = std::max(from, bounded(ends[k], 0, n));
      x = slice(x, a, from, to, step);
    } else {   // from the reversed axis
      const int64_t from = bounded(starts[k], -1, n - 1), to = std::min(from, ends[k] < -n ? -1 : bounded(ends[k], -1, n - 1));
      x = slice(reverse(x, {a}), a, n - 1 - from, n - 1 - to, -step);
    }
  }
  c.out(x);
}

// Any extent of padding on one axis, by mode.
Tensor padded(const Call& c, const Tensor& x, int64_t axis, int64_t low, int64_t high, const std::string& mode, const Tensor& value) {
  const int64_t n = x.shape().at(static_cast<size_t>(axis));
  if (low < 0 || high < 0) {
    const int64_t from = std::max<int64_t>(0, -low), to = n - std::max<int64_t>(0, -high);
    c.want(from <= to, "negative padding beyond the extent");
    return padded(c, slice(x, axis, from, to), axis, std::max<int64_t>(0, low), std::max<int64_t>(0, high), mode, value);
  }
  if (low == 0 && high == 0) return x;
  if (mode == "constant") {
    Attrs attrs;
    attrs.low.assign(x.shape().size(), 0);
    attrs.high = attrs.low;
    attrs.low[static_cast<size_t>(axis)] = low;
    attrs.high[static_cast<size_t>(axis)] = high;
    return {&x.graph(), x.graph().add(Op::pad, {x.id(), value.id()}, attrs)};
  }
  c.want(n > 0, "padding of an empty axis");
  Shape index;
  c.want(low <= (1 << 20) && high <= (1 << 20) && n <= (1 << 20), "padding of more than 2^20 elements");
  for (int64_t i = -low; i < n + high; ++i) {
    if (mode == "edge") index.push_back(std::clamp<int64_t>(i, 0, n - 1));
    else if (mode == "wrap") index.push_back(floor_mod(i, n));
    else if (mode == "reflect") {
      const int64_t period = std::max<int64_t>(1, 2 * (n - 1)), k = floor_mod(i, period);
      index.push_back(n == 1 ? 0 : k < n ? k : period - k);
    } else c.wrong("mode=" + mode);
  }
  return take(x, c.integers_tensor(index), axis);
}
void import_pad(Call& c) {
  Tensor x = c.in(0);
  const std::string mode = c.text("mode", "constant");
  const Shape pads = c.opset < 11 ? c.integers(c.opset < 2 ? "paddings" : "pads") : c.known_integers(1, "the pads");
  Shape axes(x.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  if (c.opset >= 18 && c.has(3)) axes = c.known_integers(3, "the axes");
  c.want(pads.size() == 2 * axes.size(), "as many pads as two for every axis");
  for (int64_t p : pads) c.want(p >= -kMaxExtent && p <= kMaxExtent, "the pads");
  Tensor value = c.opset >= 11 && c.has(2) ? reshape(c.in(2), {}) : c.number(x.dtype(), c.opset < 11 ? c.real("value", 0) : 0);
  for (size_t k = 0; k < axes.size(); ++k) x = padded(c, x, c.axis(axes[k], x.rank()), pads[k], pads[k + axes.size()], mode, value);
  c.out(x);
}

// Around the middle, or cut to it.
void import_center_crop_pad(Call& c) {
  Tensor x = c.in(0);
  const Shape wanted = c.known_integers(1, "the shape");
  Shape axes = c.integers("axes");
  if (!c.find("axes")) {
    axes.resize(x.shape().size());
    std::iota(axes.begin(), axes.end(), 0);
  }
  c.want(axes.size() == wanted.size(), "as many extents as axes");
  for (size_t k = 0; k < axes.size(); ++k) {
    const int64_t a = c.axis(axes[k], x.rank()), n = x.shape().at(static_cast<size_t>(a)), more = wanted[k] - n;
    c.want(wanted[k] >= 0 && wanted[k] <= kMaxExtent, "an extent");
    if (more >= 0) x = padded(c, x, a, more / 2, more - more / 2, "constant", c.number(x.dtype(), 0));
    else x = slice(x, a, -more / 2, -more / 2 + wanted[k]);
  }
  c.out(x);
}

void import_expand(Call& c) {
  const Tensor x = c.in(0);
  const Shape given = c.known_integers(1, "the shape");
  const size_t rank = std::max(given.size(), x.shape().size());
  Shape shape(rank, 1);
  for (size_t d = 0; d < rank; ++d) {
    const int64_t mine = d + x.shape().size() < rank ? 1 : x.shape().at(d + x.shape().size() - rank);
    const int64_t theirs = d + given.size() < rank ? 1 : given[d + given.size() - rank];
    shape[d] = mine == 1 ? theirs : mine;
    c.want(mine == 1 || theirs == 1 || mine == theirs, fmt::format("{} does not broadcast", type_text(x)));
  }
  c.out(broadcast_to(x, shape));
}

void import_tile(Call& c) {
  const Tensor x = c.in(0);
  const Shape repeats = c.known_integers(1, "the repeats");
  c.want(repeats.size() == x.shape().size() && x.rank() <= 4, "as many repeats as axes, at most 4");
  Shape between, axes, wide, out;
  for (size_t d = 0; d < repeats.size(); ++d) {
    c.want(repeats[d] >= 0, "a negative number of repeats");
    between.insert(between.end(), {1, x.shape().at(d)});
    wide.insert(wide.end(), {repeats[d], x.shape().at(d)});
    out.push_back(checked_mul(repeats[d], x.shape().at(d)));
  }
  c.out(reshape(broadcast_to(reshape(x, between), wide), out));
}

void import_shape(Call& c) {
  const Shape all = c.in(0).shape();
  const int64_t rank = static_cast<int64_t>(all.size());
  const auto bounded = [&](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  const int64_t from = bounded(c.integer("start", 0)), to = std::max(from, bounded(c.integer("end", rank)));
  c.out(c.integers_tensor({all.begin() + from, all.begin() + to}));
}

void import_constant(Call& c) {
  if (const Attribute* a = c.find("value")) return c.out(c.constant(c.tensor(a->values.at(0))));
  HostTensor out;
  if (c.find("value_float")) out = HostTensor::full(DType::f32, {}, c.real("value_float", 0));
  else if (const Attribute* f = c.find("value_floats")) out = HostTensor::from(DType::f32, {static_cast<int64_t>(f->floats.size())}, f->floats);
  else if (c.find("value_int")) return c.out(reshape(c.integers_tensor({c.integer("value_int", 0)}), {}));
  else if (c.find("value_ints")) return c.out(c.integers_tensor(c.integers("value_ints")));
  else c.unsupported(c.find("sparse_value") ? "a sparse tensor" : "a constant of strings");
  c.out(c.constant(std::move(out)));
}

void import_constant_of_shape(Call& c) {
  const Shape shape = c.known_integers(0, "the shape");
  const Attribute* a = c.find("value");
  if (!a) return c.out(c.filled(DType::f32, shape, 0));
  const HostTensor v = c.tensor(a->values.at(0));
  c.want(v.size() == 1, "value must be one element");
  c.out(broadcast_to(reshape(c.constant(v), {}), shape));
}

void import_range(Call& c) {
  const HostTensor start = c.known(c.in(0), "start"), limit = c.known(c.in(1), "limit"), delta = c.known(c.in(2), "delta");
  c.want(start.size() == 1 && limit.size() == 1 && delta.size() == 1 && delta.at(0) != 0, "three numbers, the step not 0");
  const double n = std::ceil((limit.at(0) - start.at(0)) / delta.at(0));
  c.want(std::isfinite(n) && n <= static_cast<double>(kMaxExtent), "the length");
  const Tensor k = c.coordinates(start.dtype, {std::max<int64_t>(0, static_cast<int64_t>(n))}, 0);
  c.out(k * reshape(c.in(2), {}) + reshape(c.in(0), {}));
}

void import_eye_like(Call& c) {
  const Tensor x = c.in(0);
  c.want(x.rank() == 2, "rank 2");
  const DType dtype = c.find("dtype") ? c.dtype_of(c.integer("dtype", 0)) : x.dtype();
  const Tensor row = c.coordinates(DType::i64, x.shape(), 0), column = c.coordinates(DType::i64, x.shape(), 1);
  c.out(cast(equal(row + static_cast<double>(c.integer("k", 0)), column), dtype));
}

void import_trilu(Call& c) {
  const Tensor x = c.in(0);
  const int64_t k = c.has(1) ? c.known_integer(1, "k") : 0, rank = x.rank();
  c.want(rank >= 2, "rank of at least 2");
  c.out(c.flag("upper", true) ? triu(x, k) : tril(x, k));
}

void import_depth_to_space(Call& c) {
  const Tensor x = c.in(0);
  const int64_t b = c.integer("blocksize", 0);
  c.want(x.rank() == 4 && b > 0 && b <= (1 << 15) && x.shape().at(1) % (b * b) == 0, "[N, C*b*b, H, W]");
  const int64_t n = x.shape().at(0), d = x.shape().at(1) / (b * b), h = x.shape().at(2), w = x.shape().at(3);
  const Tensor y = c.text("mode", "DCR") == "CRD" ? transpose(reshape(x, {n, d, b, b, h, w}), {0, 1, 4, 2, 5, 3}) : transpose(reshape(x, {n, b, b, d, h, w}), {0, 3, 4, 1, 5, 2});
  c.out(reshape(y, {n, d, h * b, w * b}));
}
void import_space_to_depth(Call& c) {
  const Tensor x = c.in(0);
  const int64_t b = c.integer("blocksize", 0);
  c.want(x.rank() == 4 && b > 0 && b <= (1 << 15) && x.shape().at(2) % b == 0 && x.shape().at(3) % b == 0, "[N, C, H*b, W*b]");
  const int64_t n = x.shape().at(0), d = x.shape().at(1), h = x.shape().at(2) / b, w = x.shape().at(3) / b;
  c.out(reshape(transpose(reshape(x, {n, d, h, b, w, b}), {0, 3, 5, 1, 2, 4}), {n, b * b * d, h, w}));
}

// Pixel shuffles of an image's patches back to the image: every patch element is padded to its place, and all are added.
void import_col2im(Call& c) {
  const Tensor x = c.in(0);
  const Shape image = c.known_integers(1, "the image's shape"), block = c.known_integers(2, "the block's shape");
  const size_t dims = image.size();
  Shape dilations = c.integers("dilations"), pads = c.integers("pads"), strides = c.integers("strides");
  if (dilations.empty()) dilations.assign(dims, 1);
  if (strides.empty()) strides.assign(dims, 1);
  if (pads.empty()) pads.assign(2 * dims, 0);
  c.want(x.rank() == 3 && dims > 0 && dims <= 3 && block.size() == dims && dilations.size() == dims && strides.size() == dims && pads.size() == 2 * dims, "the shapes' lengths");
  Shape shape = {x.shape().at(0)}, steps;
  const int64_t patch = count(block);
  c.want(patch > 0 && patch <= 4096 && x.shape().at(1) % patch == 0, "[N, C * block, L], a block of at most 4096");
  for (size_t d = 0; d < dims; ++d) {
    for (int64_t v : {strides[d], dilations[d], block[d], image[d]}) c.want(v > 0 && v <= (1 << 20), "strides, dilations, block and image are positive");
    for (int64_t v : {pads[d], pads[d + dims]}) c.want(v >= 0 && v <= (1 << 20), "pads");
    steps.push_back((image[d] + pads[d] + pads[d + dims] - dilations[d] * (block[d] - 1) - 1) / strides[d] + 1);
  }
  c.want(count(steps) == x.shape().at(2), "the number of blocks");
  shape = {x.shape().at(0) * (x.shape().at(1) / patch), patch};
  shape.insert(shape.end(), steps.begin(), steps.end());
  const Tensor parts = reshape(x, shape);
  Tensor total;
  for (int64_t p = 0; p < patch; ++p) {
    Tensor part = slice(parts, 1, p, p + 1);
    int64_t rest = p;
    for (size_t d = dims; d-- > 0;) {   // spread by the stride, put at the offset, cut to the image
      const int64_t offset = rest % block[d] * dilations[d], axis = static_cast<int64_t>(d) + 2, n = steps[d];
      rest /= block[d];
      if (strides[d] > 1) {
        Shape wide = part.shape(), joined = wide;
        wide.insert(wide.begin() + axis + 1, 1);
        Shape low(wide.size(), 0), high = low;
        high[static_cast<size_t>(axis) + 1] = strides[d] - 1;
        joined[static_cast<size_t>(axis)] = n * strides[d];
        part = slice(reshape(pad(reshape(part, wide), low, high), joined), axis, 0, (n - 1) * strides[d] + 1);
      }
      const int64_t before = offset - pads[d], length = (n - 1) * strides[d] + 1;
      part = padded(c, part, axis, before, image[d] - before - length, "constant", c.number(x.dtype(), 0));
    }
    total = total ? total + part : part;
  }
  Shape out = {x.shape().at(0), x.shape().at(1) / patch};
  out.insert(out.end(), image.begin(), image.end());
  c.out(reshape(total, out));
}

}  // namespace

std::vector<OpEntry> shape_ops() {
  return {
      {"CenterCropPad", import_center_crop_pad}, {"Col2Im", import_col2im}, {"Concat", import_concat}, {"Constant", import_constant}, {"ConstantOfShape", import_constant_of_shape},
      {"DepthToSpace", import_depth_to_space}, {"Expand", import_expand}, {"EyeLike", import_eye_like}, {"Flatten", import_flatten}, {"Pad", import_pad}, {"Range", import_range},
      {"Reshape", import_reshape}, {"Shape", import_shape}, {"Size", [](Call& c) { c.out(reshape(c.integers_tensor({c.in(0).type().size()}), {})); }}, {"Slice", import_slice},
      {"SpaceToDepth", import_space_to_depth}, {"Split", import_split}, {"Squeeze", import_squeeze}, {"Tile", import_tile}, {"Transpose", import_transpose}, {"Trilu", import_trilu},
      {"Unsqueeze", import_unsqueeze},
  };
}

}  // namespace quern::onnx
