// ONNX's convolutions and pools. Convolutions are frontend/conv.h's. Pools are written on the primitive `window`, as
// ONNX's take integers, windows that begin in the padding or lie in it, and counts that conv.h's do not.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/conv.h"
#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

constexpr int64_t kMaxStep = 1 << 20;

// What the node says of its steps over x's spatial dims.
struct Steps {
  size_t dims;
  Shape extents, kernel, stride, dilation, low, high;
  std::string auto_pad;

  Steps(const Call& c, const Tensor& x, Shape kernel_shape) : dims(kernel_shape.size()), kernel(std::move(kernel_shape)), auto_pad(c.text("auto_pad", "NOTSET")) {
    if (x.rank() < 3 || x.rank() > 5) c.unsupported(fmt::format("{}: 1 to 3 spatial dims are imported", type_text(x)));
    c.want(static_cast<int64_t>(dims) == x.rank() - 2, "a kernel extent for every spatial dim");
    c.want(auto_pad == "NOTSET" || auto_pad == "VALID" || same(), "auto_pad=" + auto_pad);
    extents.assign(x.shape().begin() + 2, x.shape().end());
    stride = entries(c, "strides", 1, dims);
    dilation = entries(c, "dilations", 1, dims);
    const Shape pads = auto_pad == "NOTSET" ? entries(c, "pads", 0, 2 * dims) : Shape(2 * dims, 0);
    low.assign(pads.begin(), pads.begin() + static_cast<int64_t>(dims));
    high.assign(pads.begin() + static_cast<int64_t>(dims), pads.end());
    for (int64_t k : kernel) c.want(k >= 1 && k <= kMaxExtent, "a positive kernel_shape");
  }
  bool same() const { return auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER"; }
  static Shape entries(const Call& c, const char* name, int64_t least, size_t wanted) {
    const Shape given = c.integers(name);
    if (given.empty()) return Shape(wanted, least);
    c.want(given.size() == wanted, fmt::format("{} of {} entries instead of {}", name, given.size(), wanted));
    for (int64_t v : given) c.want(v >= least && v <= kMaxStep, fmt::format("{} {}", name, v));
    return given;
  }
  int64_t covered(size_t d) const { return (kernel[d] - 1) * dilation[d] + 1; }
  /// ceil(n/stride) positions; an odd rest of padding goes where auto_pad says.
  void pad_to_same() {
    for (size_t d = 0; same() && d < dims; ++d) {
      const int64_t all = std::max<int64_t>(0, (ceil_div(extents[d], stride[d]) - 1) * stride[d] + covered(d) - extents[d]);
      low[d] = auto_pad == "SAME_UPPER" ? all / 2 : all - all / 2;
      high[d] = all - low[d];
    }
  }
  /// Where windows begin. In ceil mode the last may reach past the padding, but begins before it.
  Shape positions(const Call& c) const {
    Shape out;
    for (size_t d = 0; d < dims; ++d) {
      const int64_t rest = extents[d] + low[d] + high[d] - covered(d);
      c.want(rest >= 0, fmt::format("a window of {} over {} elements with their padding", covered(d), extents[d] + low[d] + high[d]));
      int64_t n = rest / stride[d] + 1;
      if (c.flag("ceil_mode") && rest % stride[d] && n * stride[d] < extents[d] + low[d]) ++n;
      out.push_back(n);
    }
    return out;
  }
};

Steps pool_steps(const Call& c, const Tensor& x) {
  const Shape kernel = c.integers("kernel_shape");
  Steps s(c, x, kernel);
  s.pad_to_same();
  return s;
}
// [batch, channels, positions…, places…]; beside x is the least value of the dtype, or 0.
Tensor windows(const Tensor& x, const Steps& s, const Shape& positions, bool least) {
  GraphBuilder& b = x.graph();
  Attrs wide, walk;
  wide.shape = x.shape();
  wide.axes.resize(wide.shape.size());
  std::iota(wide.axes.begin(), wide.axes.end(), 0);
  wide.shape.insert(wide.shape.end(), s.kernel.begin(), s.kernel.end());
  walk.shape = positions;
  for (int64_t e : s.low) walk.start.push_back(-e);
  walk.stride = s.stride;
  walk.dilation = s.dilation;
  walk.base.assign(s.dims, 1);
  HostTensor outside(x.dtype(), {});
  outside.set(0, least ? identity_of(Op::max, x.dtype()) : Scalar::of_int(x.dtype(), 0));
  const NodeId spread = b.add(Op::broadcast, {x.id()}, wide);
  return {&b, b.add(Op::window, {spread, b.constant(std::move(outside))}, walk)};
}
Shape places(const Steps& s) {
  Shape axes(s.dims);
  std::iota(axes.begin(), axes.end(), 2 + static_cast<int64_t>(s.dims));
  return axes;
}

// Elements and, where they count, the padding that the node names; never what ceil mode adds.
void import_average_pool(Call& c) {
  const Tensor x = c.in(0);
  const Steps s = pool_steps(c, x);
  const Shape positions = s.positions(c);
  const bool padding = c.flag("count_include_pad");
  if (!is_float(x.dtype())) c.unsupported(fmt::format("averages of {}", name_of(x.dtype())));
  Tensor total = sum(windows(x, s, positions, false), places(s));
  Tensor counts;
  for (size_t d = 0; d < s.dims; ++d) {
    const int64_t from = padding ? -s.low[d] : 0, to = padding ? s.extents[d] + s.high[d] : s.extents[d];
    Shape shape(s.dims, 1);
    shape[d] = positions[d];
    // Places k with from <= first + k*dilation < to; integers divide to the floor.
    const Tensor first = c.coordinates(DType::i64, shape, static_cast<int64_t>(d)) * static_cast<double>(s.stride[d]) - static_cast<double>(s.low[d]);
    const auto places_before = [&](int64_t end) { return clip((static_cast<double>(end + s.dilation[d] - 1) - Operand(first)) / static_cast<double>(s.dilation[d]), 0, static_cast<double>(s.kernel[d])); };
    const Tensor along = cast(places_before(to) - places_before(from), x.dtype());
    counts = counts ? counts * along : along;
  }
  c.out(total / counts);
}

// The index of the first of the greatest elements within x; padding is never it.
Tensor greatest_places(const Call& c, const Tensor& x, const Tensor& all, const Tensor& best, const Steps& s, const Shape& positions) {
  const int64_t rank = x.rank(), dims = static_cast<int64_t>(s.dims);
  const Shape extents = x.shape();
  Shape column = best.shape(), flattened = best.shape();
  column.insert(column.end(), s.kernel.size(), 1);
  flattened.push_back(count(s.kernel));
  const Tensor within = windows(c.filled(DType::i32, extents, 1), s, positions, false);
  const Tensor candidate = where(less(all, reshape(best, column)), 0, within);
  const Tensor place = argmax(reshape(candidate, flattened), rank);
  Shape outer = row_major(extents);   // of batch and channel; then of the spatial dims, by storage order
  if (c.flag("storage_order")) {
    int64_t step = 1;
    for (int64_t d = 0; d < dims; ++d) {
      outer[static_cast<size_t>(d) + 2] = step;
      step *= s.extents[static_cast<size_t>(d)];
    }
  }
  const Shape kernel_steps = row_major(s.kernel), shape = place.shape();
  Tensor index = c.coordinates(DType::i64, shape, 0) * static_cast<double>(outer[0]) + c.coordinates(DType::i64, shape, 1) * static_cast<double>(outer[1]);
  for (size_t d = 0; d < s.dims; ++d) {
    const Tensor k = mod(place / static_cast<double>(kernel_steps[d]), static_cast<double>(s.kernel[d]));
    const Tensor at = c.coordinates(DType::i64, shape, static_cast<int64_t>(d) + 2) * static_cast<double>(s.stride[d]) + k * static_cast<double>(s.dilation[d]) - static_cast<double>(s.low[d]);
    index = index + at * static_cast<double>(outer[d + 2]);
  }
  return index;
}
// A large kernel goes dim by dim: the greatest of a box is that of its rows' greatest, and the boxes are never made.
Tensor greatest_by_dims(Tensor x, const Steps& s, const Shape& positions) {
  for (size_t d = 0; d < s.dims; ++d) {
    Steps one = s;
    Shape where(x.shape().begin() + 2, x.shape().end());
    for (size_t e = 0; e < s.dims; ++e)
      if (e != d) one.kernel[e] = one.stride[e] = one.dilation[e] = 1, one.low[e] = 0;
    where[d] = positions[d];
    x = max(windows(x, one, where, true), places(one));
  }
  return x;
}
void import_max_pool(Call& c) {
  constexpr int64_t kLargeKernel = 64;
  const Tensor x = c.in(0);
  const Steps s = pool_steps(c, x);
  const Shape positions = s.positions(c);
  if (!c.wants(1) && count(s.kernel) > kLargeKernel) return c.out(greatest_by_dims(x, s, positions));
  const Tensor all = windows(x, s, positions, true), best = max(all, places(s));
  c.out(best);
  if (c.wants(1)) c.out(greatest_places(c, x, all, best, s, positions), 1);
}

void import_lp_pool(Call& c) {
  const Tensor x = c.in(0);
  const Steps s = pool_steps(c, x);
  const Shape positions = s.positions(c);
  const double p = c.opset < 2 ? c.real("p", 2) : static_cast<double>(c.integer("p", 2));
  c.want(p > 0, "a positive p");
  const Tensor powers = p == 1 ? abs(x) : p == 2 ? x * x : pow(abs(x), p), total = sum(windows(powers, s, positions, false), places(s));
  c.out(p == 1 ? total : p == 2 ? sqrt(total) : pow(total, 1 / p));
}

Shape kernel_of(const Call& c, const Tensor& w) {
  c.want(w.rank() >= 3, "kernels [out, in, k…]");
  const Shape given = c.integers("kernel_shape"), held(w.shape().begin() + 2, w.shape().end());
  c.want(given.empty() || given == held, "a kernel_shape that is the kernel's");
  return held;
}
ConvOptions options_of(const Call& c, const Steps& s) {
  ConvOptions o;
  o.stride = s.stride, o.dilation = s.dilation, o.low = s.low, o.high = s.high;
  o.groups = c.integer("group", 1);
  return o;
}

// Padding by output_shape or auto_pad crops what is too much; an odd rest goes as auto_pad says.
void import_conv_transpose(Call& c) {
  const Tensor x = c.in(0), w = c.in(1);
  Steps s(c, x, kernel_of(c, w));
  ConvOptions o = options_of(c, s);
  o.output_padding = Steps::entries(c, "output_padding", 0, s.dims);
  Shape wanted = c.integers("output_shape");
  if (wanted.size() > s.dims) wanted.erase(wanted.begin(), wanted.end() - static_cast<int64_t>(s.dims));   // some files name batch and channels, too
  c.want(wanted.empty() || wanted.size() == s.dims, "an output_shape of the spatial dims");
  for (int64_t e : wanted) c.want(e >= 0 && e <= kMaxExtent, "output_shape");
  for (size_t d = 0; d < s.dims && (s.same() || !wanted.empty()); ++d) {
    const int64_t all = (s.extents[d] - 1) * s.stride[d] + s.covered(d) + o.output_padding[d] - (wanted.empty() ? s.extents[d] * s.stride[d] : wanted[d]);
    const int64_t half = floor_div(all, 2);
    o.low[d] = s.auto_pad == "SAME_UPPER" ? half : all - half;
    o.high[d] = all - o.low[d];
  }
  c.out(conv_transpose(x, w, c.has(2) ? c.in(2) : Tensor{}, o));
}

}  // namespace

Tensor convolution(const Call& c, const Tensor& x, const Tensor& w, const Tensor& bias) {
  Steps s(c, x, kernel_of(c, w));
  s.pad_to_same();
  return conv(x, w, bias, options_of(c, s));
}

std::vector<OpEntry> window_ops() {
  return {
      {"AveragePool", import_average_pool}, {"Conv", [](Call& c) { c.out(convolution(c, c.in(0), c.in(1), c.has(2) ? c.in(2) : Tensor{})); }},
      {"ConvTranspose", import_conv_transpose}, {"LpPool", import_lp_pool}, {"MaxPool", import_max_pool},
  };
}

}  // namespace quern::onnx
