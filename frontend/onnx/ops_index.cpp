// ONNX ops that read and write at indices: gather, scatter, one-hot, resampling by index. All are take and put_add of
// rows at computed positions.
#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "frontend/onnx/call.h"
#include "frontend/resize.h"

namespace quern::onnx {
namespace {

void import_gather(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", 0), x.rank());
  c.out(take(x, wrap_index(c.in(1), x.shape().at(static_cast<size_t>(axis))), axis));
}

// Row-major positions in `shape` of the coordinates of `index`'s own dims, with `index` itself in place of dim `axis`.
Tensor element_positions(const Call& c, const Tensor& index, Shape shape, int64_t axis) {
  const Shape strides = row_major(shape);
  Tensor at = wrap_index(cast(index, DType::i64), shape[static_cast<size_t>(axis)]) * static_cast<double>(strides[static_cast<size_t>(axis)]);
  for (int64_t d = 0; d < index.rank(); ++d)
    if (d != axis) at = at + c.coordinates(DType::i64, index.shape(), d) * static_cast<double>(strides[static_cast<size_t>(d)]);
  return at;
}
void import_gather_elements(Call& c) {
  const Tensor x = c.in(0), index = c.in(1);
  c.want(x.rank() == index.rank() && x.rank() > 0, "data and indices of one rank");
  c.out(take(flat(x), element_positions(c, index, x.shape(), c.axis(c.integer("axis", 0), x.rank()))));
}

// index[..., k] as positions of rows of x's first k dims behind `batch` shared ones.
Tensor row_positions(const Call& c, const Tensor& index, Shape shape, int64_t batch) {
  const int64_t k = index.shape().back(), last = index.rank() - 1;
  const Shape rows(shape.begin(), shape.begin() + batch + k), strides = row_major(rows);
  Shape out(index.shape().begin(), index.shape().end() - 1);
  Tensor at = c.filled(DType::i64, out, 0);
  for (int64_t d = 0; d < batch; ++d) at = at + c.coordinates(DType::i64, out, d) * static_cast<double>(strides[static_cast<size_t>(d)]);
  for (int64_t j = 0; j < k; ++j) {
    const size_t d = static_cast<size_t>(batch + j);
    at = at + wrap_index(reshape(slice(cast(index, DType::i64), last, j, j + 1), out), rows[d]) * static_cast<double>(strides[d]);
  }
  return at;
}
// x with its first k dims joined.
Tensor joined_rows(const Tensor& x, int64_t k) {
  const std::span<const int64_t> all(x.shape());
  Shape shape = {count(all.first(static_cast<size_t>(k)))};
  shape.insert(shape.end(), x.shape().begin() + k, x.shape().end());
  return reshape(x, shape);
}
void import_gather_nd(Call& c) {
  const Tensor x = c.in(0), index = c.in(1);
  const int64_t batch = c.integer("batch_dims", 0);
  c.want(index.rank() > 0 && batch >= 0 && batch < index.rank() && batch + index.shape().back() <= x.rank(), "indices address more dims than there are");
  c.out(take(joined_rows(x, batch + index.shape().back()), row_positions(c, index, x.shape(), batch)));
}

// `rows` [R, …] with `updates` [U, …] at the positions [U], combined as `how` says. Equal positions without a reduction
// are undefined in ONNX.
Tensor scattered(const Call& c, const Tensor& rows, const Tensor& at, const Tensor& updates, const std::string& how) {
  const auto put = [&](const Tensor& x, const Tensor& u) {
    Attrs attrs;
    attrs.axes = {0};
    return Tensor(&x.graph(), x.graph().add(Op::put_add, {x.id(), at.id(), u.id()}, attrs));
  };
  if (how == "add" && rows.dtype() != DType::boolean) return put(rows, updates);
  const int64_t r = rows.shape().at(0), u = at.shape().at(0);
  if (how == "none") {
    const Tensor hit = not_equal(put(c.filled(DType::i32, {r}, 0), c.filled(DType::i32, {u}, 1)), 0);
    const DType wide = rows.dtype() == DType::boolean ? DType::u8 : rows.dtype();
    const Tensor fresh = cast(put(c.filled(wide, rows.shape(), 0), cast(updates, wide)), rows.dtype());
    Shape column(rows.shape().size(), 1);
    column[0] = r;
    return where(reshape(hit, column), fresh, rows);
  }
  // Every row looks at every update: quadratic, so for small ones.
  if (checked_mul(r, updates.type().size()) > (int64_t{1} << 26)) c.unsupported(fmt::format("reduction={} of {} rows by {} updates needs an op of its own", how, r, u));
  Shape all = updates.shape(), mask(all.size() + 1, 1);
  all.insert(all.begin(), r);
  mask[0] = r;
  mask[1] = u;
  const Tensor hit = reshape(equal(c.coordinates(DType::i64, {r, u}, 0), at), mask);
  const Tensor wide = broadcast_to(reshape(updates, [&] { Shape s = updates.shape(); s.insert(s.begin(), 1); return s; }()), all);
  const Scalar none = identity_of(how == "mul" ? Op::mul : how == "max" ? Op::max : Op::min, rows.dtype());
  HostTensor identity(rows.dtype(), {});
  identity.set(0, none);
  const Tensor chosen = where(broadcast_to(hit, all), wide, broadcast_to(c.constant(identity), all));
  if (how == "mul") return rows * prod(chosen, {1});
  if (how == "max") return maximum(rows, max(chosen, {1}));
  if (how == "min") return minimum(rows, min(chosen, {1}));
  c.wrong("reduction=" + how);
}
// Windows that overlap name an element several times, each time with its value: their mean.
void import_max_unpool(Call& c) {
  const Tensor x = c.in(0), index = c.in(1);
  const Shape kernel = c.integers("kernel_shape");
  const size_t dims = kernel.size();
  const auto entries = [&](const char* name, size_t n, int64_t least) {
    const Shape given = c.integers(name);
    c.want(given.empty() || given.size() == n, name);
    for (int64_t v : given) c.want(v >= least && v <= 1 << 20, name);
    return given.empty() ? Shape(n, least) : given;
  };
  const Shape stride = entries("strides", dims, 1), pads = entries("pads", 2 * dims, 0);
  c.want(dims >= 1 && x.rank() == static_cast<int64_t>(dims) + 2 && index.shape() == x.shape() && is_float(x.dtype()), "X and I [N, C, …] and a kernel extent for every spatial dim");
  Shape pooled = x.shape();
  for (size_t d = 0; d < dims; ++d) {
    c.want(kernel[d] >= 1 && kernel[d] <= kMaxExtent, "kernel_shape");
    pooled[d + 2] = (pooled[d + 2] - 1) * stride[d] - pads[d] - pads[d + dims] + kernel[d];
    c.want(pooled[d + 2] >= 0, "pads");
  }
  const Tensor at = flat(index), none = c.filled(x.dtype(), {c.filled(DType::boolean, pooled, 0).type().size()}, 0);
  const auto put = [&](const Tensor& u) {
    Attrs attrs;
    attrs.axes = {0};
    return Tensor(&x.graph(), x.graph().add(Op::put_add, {none.id(), at.id(), u.id()}, attrs));
  };
  const Tensor all = put(flat(x)), times = put(c.filled(x.dtype(), {x.type().size()}, 1));
  const Tensor y = reshape(all / maximum(times, 1), pooled);
  if (!c.has(2)) return c.out(y);
  const Shape wanted = c.known_integers(2, "the output_shape");
  c.want(wanted.size() == pooled.size(), "an output_shape of X's rank");
  Shape low(wanted.size(), 0), high;
  for (size_t d = 0; d < wanted.size(); ++d) {
    c.want(wanted[d] >= pooled[d] && wanted[d] <= kMaxExtent, "an output_shape that the windows fit into");
    high.push_back(wanted[d] - pooled[d]);
  }
  c.out(pad(y, low, high));
}

void import_scatter_elements(Call& c) {
  const Tensor x = c.in(0), index = c.in(1), updates = c.in(2);
  c.want(x.rank() == index.rank() && x.rank() > 0 && updates.shape() == index.shape(), "data, indices and updates of one rank");
  const Tensor at = flat(element_positions(c, index, x.shape(), c.axis(c.integer("axis", 0), x.rank())));
  c.out(reshape(scattered(c, flat(x), at, flat(updates), c.text("reduction", "none")), x.shape()));
}
void import_scatter_nd(Call& c) {
  const Tensor x = c.in(0), index = c.in(1), updates = c.in(2);
  c.want(index.rank() > 0 && index.shape().back() <= x.rank(), "indices address more dims than there are");
  const Tensor rows = joined_rows(x, index.shape().back()), at = flat(row_positions(c, index, x.shape(), 0));
  Shape shape = rows.shape();
  shape[0] = at.shape().at(0);
  c.out(reshape(scattered(c, rows, at, reshape(updates, shape), c.text("reduction", "none")), x.shape()));
}

// A cache [batch, …, length, …] with new entries of each batch row from its index on.
void import_tensor_scatter(Call& c) {
  const Tensor cache = c.in(0), update = c.in(1);
  const int64_t axis = c.axis(c.integer("axis", -2), cache.rank()), length = cache.shape().at(static_cast<size_t>(axis));
  c.want(axis > 0 && update.rank() == cache.rank(), "axis behind the batch");
  Tensor at = c.coordinates(DType::i64, update.shape(), axis);
  if (c.has(2)) {
    Shape column(cache.shape().size(), 1);
    column[0] = cache.shape().at(0);
    at = at + reshape(cast(c.in(2), DType::i64), column);
  }
  if (c.text("mode", "linear") == "circular") at = mod(at, static_cast<double>(length));
  c.out(reshape(scattered(c, flat(cache), flat(element_positions(c, at, cache.shape(), axis)), flat(update), "none"), cache.shape()));
}

void import_one_hot(Call& c) {
  const Tensor values = c.in(2);
  const double wanted = c.known_number(c.in(1), "the depth");
  c.want(wanted > 0 && wanted <= static_cast<double>(kMaxExtent) && values.type().size() == 2, "a positive depth and two values");
  const int64_t depth = static_cast<int64_t>(wanted);
  Tensor index = cast(c.in(0), DType::i64);
  const int64_t axis = c.axis(c.integer("axis", -1), index.rank() + 1);
  Shape shape = index.shape();
  shape.insert(shape.begin() + axis, depth);
  index = expand_dims(wrap_index(index, depth), axis);
  const Tensor hot = equal(index, c.coordinates(DType::i64, shape, axis));
  const Tensor v = flat(values);
  c.out(where(hot, reshape(slice(v, 0, 1, 2), {}), broadcast_to(reshape(slice(v, 0, 0, 1), {}), shape)));
}

void import_compress(Call& c) {
  Tensor x = c.in(0);
  const HostTensor condition = c.known(c.in(1), "the condition (the result's shape depends on it)");
  const int64_t axis = c.find("axis") ? c.axis(c.integer("axis", 0), x.rank()) : 0;
  if (!c.find("axis")) x = flat(x);
  Shape index;
  for (int64_t i = 0; i < condition.size() && i < x.shape().at(static_cast<size_t>(axis)); ++i)
    if (condition.at(i) != 0) index.push_back(i);
  c.out(take(x, c.integers_tensor(index), axis));
}

void import_reverse_sequence(Call& c) {
  const Tensor x = c.in(0);
  const int64_t time = c.axis(c.integer("time_axis", 0), x.rank()), batch = c.axis(c.integer("batch_axis", 1), x.rank());
  c.want(time != batch, "two axes");
  Shape column(x.shape().size(), 1);
  column[static_cast<size_t>(batch)] = x.shape().at(static_cast<size_t>(batch));
  const Tensor length = reshape(cast(c.in(1), DType::i64), column), t = c.coordinates(DType::i64, x.shape(), time);
  c.out(take(flat(x), element_positions(c, where(less(t, length), length - 1 - t, t), x.shape(), time)));
}

void import_feature_extractor(Call& c) {
  const Tensor x = c.in(0), index = flat(c.in(1));
  const Tensor y = take(x, index, -1);
  c.out(x.rank() == 1 ? expand_dims(y, 0) : y);
}

// --- Resize ---
template <class T>
T named(const Call& c, const std::string& attribute, const std::string& name, const std::vector<std::pair<const char*, T>>& names) {
  for (const auto& [text, value] : names)
    if (name == text) return value;
  c.wrong(attribute + "=" + name);
}
Resampling sampling_of(const Call& c, bool old) {   // Resize-10 and Upsample: nearest or linear, asymmetric
  using R = Resampling;
  R s;
  s.mode = named<R::Mode>(c, "mode", c.text("mode", "nearest"), {{"nearest", R::Mode::nearest}, {"linear", R::Mode::linear}, {"cubic", R::Mode::cubic}});
  using C = R::Coordinates;
  s.coordinates = named<C>(c, "coordinate_transformation_mode", c.text("coordinate_transformation_mode", old ? "asymmetric" : "half_pixel"),
                           {{"half_pixel", C::half_pixel}, {"half_pixel_symmetric", C::half_pixel_symmetric}, {"pytorch_half_pixel", C::pytorch_half_pixel}, {"align_corners", C::align_corners},
                            {"asymmetric", C::asymmetric}, {"tf_half_pixel_for_nn", C::tf_half_pixel_for_nn}, {"tf_crop_and_resize", C::crop}});
  using N = R::Rounding;
  s.nearest = named<N>(c, "nearest_mode", c.text("nearest_mode", old ? "floor" : "round_prefer_floor"), {{"round_prefer_floor", N::prefer_floor}, {"round_prefer_ceil", N::prefer_ceil}, {"floor", N::floor}, {"ceil", N::ceil}});
  s.cubic = c.real("cubic_coeff_a", -0.75);
  s.exclude_outside = c.flag("exclude_outside");
  s.antialias = c.flag("antialias");
  return s;
}
void import_resize(Call& c) {
  Tensor x = c.in(0);
  const bool old = c.opset < 11;
  const Resampling s = sampling_of(c, old);
  const bool crop = s.coordinates == Resampling::Coordinates::crop;
  const size_t scales_at = old ? 1 : 2;
  Shape axes = c.integers("axes");
  if (!c.find("axes"))
    for (int64_t d = 0; d < x.rank(); ++d) axes.push_back(d);
  for (int64_t& a : axes) a = c.axis(a, x.rank());
  std::vector<double> scales, roi;
  Shape sizes;
  if (c.opset < 9 && c.node.op == "Upsample") {
    if (const Attribute* a = c.find("scales")) scales = a->floats;
  } else if (c.has(scales_at)) {
    scales = c.known(c.in(scales_at), "the scales").to_doubles();
  }
  if (scales.empty() && c.has(3)) sizes = c.known_integers(3, "the sizes");
  for (int64_t n : sizes) c.want(n >= 0 && n <= kMaxExtent, "a size");
  if (!old && c.has(1)) roi = c.known(c.in(1), "the region").to_doubles();
  c.want((scales.size() == axes.size()) != (sizes.size() == axes.size()), "a scale or a size for every axis");
  if (crop) c.want(roi.size() == 2 * axes.size(), "a region of two numbers for every axis");
  const std::string policy = c.text("keep_aspect_ratio_policy", "stretch");
  std::vector<double> ratio;
  for (size_t k = 0; k < axes.size(); ++k) {
    const double n = static_cast<double>(x.shape().at(static_cast<size_t>(axes[k])));
    ratio.push_back(sizes.empty() ? scales[k] : static_cast<double>(sizes[k]) / n);
  }
  if (!sizes.empty() && policy != "stretch") {
    double common = ratio[0];
    for (double r : ratio) common = policy == "not_larger" ? std::min(common, r) : std::max(common, r);
    for (size_t k = 0; k < axes.size(); ++k) {
      ratio[k] = common;
      sizes[k] = static_cast<int64_t>(std::floor(common * static_cast<double>(x.shape().at(static_cast<size_t>(axes[k]))) + 0.5));
    }
  }
  for (size_t k = 0; k < axes.size(); ++k) {
    const int64_t n = x.shape().at(static_cast<size_t>(axes[k]));
    c.want(std::isfinite(ratio[k]) && ratio[k] > 0 && ratio[k] < 1e6, "a positive scale");
    const int64_t to = sizes.empty() ? static_cast<int64_t>(std::floor(ratio[k] * static_cast<double>(n))) : sizes[k];
    if (to == n && ratio[k] == 1 && !crop) continue;
    c.want(n > 0 && to >= 0, "an empty axis");
    if (checked_mul(n, to) > (int64_t{1} << 24)) c.unsupported(fmt::format("an axis from {} to {}: its weights would take more than 2^24 elements", n, to));
    if (s.mode != Resampling::Mode::nearest && !is_float(x.dtype())) c.unsupported(fmt::format("mode={} of {}", c.text("mode", ""), name_of(x.dtype())));
    x = resize_axis(x, axes[k], to, s, ratio[k], crop ? roi[k] : 0, crop ? roi[k + axes.size()] : 1, c.real("extrapolation_value", 0));
  }
  c.out(x);
}

// A grid of points under theta [N, d, d+1]: coordinates from -1 to 1, last axis first.
void import_affine_grid(Call& c) {
  const Tensor theta = c.in(0);
  const Shape size = c.known_integers(1, "the size");
  const size_t dims = size.size() - 2;
  c.want((size.size() == 4 || size.size() == 5) && theta.shape() == Shape({size[0], static_cast<int64_t>(dims), static_cast<int64_t>(dims) + 1}), "theta [N, d, d+1] and a size [N, C, …]");
  Shape shape(size.begin() + 2, size.end());
  const int64_t points = count(shape);
  shape.push_back(1);
  std::vector<Tensor> columns;
  for (size_t d = dims; d-- > 0;) {
    const double n = static_cast<double>(shape[d]);
    const Tensor k = c.coordinates(theta.dtype(), shape, static_cast<int64_t>(d));
    columns.push_back(c.flag("align_corners") ? (n > 1 ? k * (2 / (n - 1)) - 1 : k * 0.0) : (k * 2 + 1) / n - 1);
  }
  columns.push_back(c.filled(theta.dtype(), shape, 1));
  const Tensor base = reshape(concat(columns, static_cast<int64_t>(dims)), {points, static_cast<int64_t>(dims) + 1});
  Shape out = {size[0]};
  out.insert(out.end(), size.begin() + 2, size.end());
  out.push_back(static_cast<int64_t>(dims));
  c.out(reshape(contract("pk,njk->npj", base, theta), out));
}

}  // namespace

std::vector<OpEntry> index_ops() {
  return {
      {"AffineGrid", import_affine_grid}, {"Compress", import_compress}, {"Gather", import_gather}, {"GatherElements", import_gather_elements}, {"GatherND", import_gather_nd},
      {"MaxUnpool", import_max_unpool}, {"OneHot", import_one_hot}, {"Resize", import_resize}, {"ReverseSequence", import_reverse_sequence}, {"Scatter", import_scatter_elements},
      {"ScatterElements", import_scatter_elements}, {"ScatterND", import_scatter_nd}, {"TensorScatter", import_tensor_scatter}, {"Upsample", import_resize},
      {"ai.onnx.ml.ArrayFeatureExtractor", import_feature_extractor},
      {"ai.onnx.ml.Binarizer", [](Call& c) { c.out(cast(less(c.real("threshold", 0), c.in(0)), c.in(0).dtype())); }},
  };
}

}  // namespace quern::onnx
