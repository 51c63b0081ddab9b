// See conv.h.
#include "frontend/conv.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace quern {
namespace {

using Operands = std::vector<std::pair<const char*, Tensor>>;
constexpr int64_t kMaxStep = 1 << 20, kMaxPad = int64_t{1} << 40;

// One call's operands, for its errors, and its steps along the spatial dims.
struct Windows {
  const char* name;
  Operands operands;
  Where where;
  size_t dims = 0;
  Shape extents, kernel, stride, dilation, low, high;

  [[noreturn]] void fail(Code code, const std::string& message, const std::string& help) const { throw error_at(code, fmt::format("{}: {}", name, message), where, operands).with_help(help); }
  void want(bool condition, Code code, const std::string& message, const std::string& help) const {
    if (!condition) fail(code, message, help);
  }
  const Tensor& x() const { return operands[0].second; }

  // x with the kernel's extents; w, where there is one, ends with them.
  Windows(const char* name, Operands tensors, Where where) : name(name), operands(std::move(tensors)), where(where) {
    for (const auto& [label, t] : operands) {
      want(bool(t), Code::empty_tensor, fmt::format("{} is a default-constructed Tensor", label), "assign it before");
      want(&t.graph() == &x().graph(), Code::other_model, "the tensors are of different models", "build both in one Model, or pass the value as an input");
    }
    want(x().rank() >= 3 && x().rank() <= 5, Code::bad_rank, fmt::format("wants [batch, channels, spatial…] with 1 to 3 spatial dims, got {}", to_string(x().type())), "expand_dims or reshape it");
    dims = x().shape().size() - 2;
    extents.assign(x().shape().begin() + 2, x().shape().end());
  }
  Shape entries(const char* what, const Shape& given, const Shape& otherwise, int64_t least, int64_t most) const {
    want(given.size() <= 1 || given.size() == dims, Code::window_step, fmt::format("{} has {} entries for {} spatial dims", what, given.size(), dims), fmt::format("give 1 or {}", dims));
    for (int64_t v : given) want(v >= least && v <= most, Code::window_step, fmt::format("{} {} is outside [{}, {}]", what, v, least, most), fmt::format("give at least {}", least));
    return given.empty() ? otherwise : given.size() == 1 ? Shape(dims, given[0]) : given;
  }
  void set(const Shape& k, const Shape& strides, const Shape& default_stride, const Shape& dilations, const Shape& lows, const Shape& highs) {
    kernel = k;
    for (int64_t e : kernel) want(e >= 1, Code::window_extent, fmt::format("a kernel of extents [{}] has no place", fmt::join(kernel, ",")), "kernels extend at least 1");
    stride = entries("stride", strides, default_stride, 1, kMaxStep);
    dilation = entries("dilation", dilations, Shape(dims, 1), 1, kMaxStep);
    low = entries("low", lows, Shape(dims, 0), -kMaxPad, kMaxPad);
    high = entries("high", highs, low, -kMaxPad, kMaxPad);
  }
  int64_t covered(size_t d) const { return (kernel[d] - 1) * dilation[d] + 1; }
  /// How many windows fit.
  Shape positions() const {
    Shape out;
    for (size_t d = 0; d < dims; ++d) {
      const int64_t padded = extents[d] + low[d] + high[d];
      want(covered(d) <= padded, Code::window_extent,
           fmt::format("the window covers {} elements along spatial dim {}, the padded input has {} ({} + {} + {})", covered(d), d, padded, extents[d], low[d], high[d]), "pad more, or use a smaller kernel or dilation");
      out.push_back((padded - covered(d)) / stride[d] + 1);
    }
    return out;
  }
};

Attrs steps(Shape shape, const Shape& start, const Shape& stride, const Shape& dilation, const Shape& base) {
  Attrs a;
  a.shape = std::move(shape);
  a.start = start;
  a.stride = stride;
  a.dilation = dilation;
  a.base = base;
  return a;
}
Shape negated(Shape v) {
  for (int64_t& e : v) e = -e;
  return v;
}
Tensor node(const Tensor& x, Op op, std::vector<NodeId> args, Attrs attrs, const Where& where) { return {&x.graph(), x.graph().add(op, std::move(args), std::move(attrs), source_of(where))}; }

// The dim `d` of t in groups: [.., g, extent/g, ..].
Tensor grouped(const Tensor& t, size_t d, int64_t groups, const Where& where) {
  Shape shape = t.shape();
  shape[d] /= groups;
  shape.insert(shape.begin() + static_cast<int64_t>(d), groups);
  return reshape(t, std::move(shape), where);
}

// `from`: which of w's dims 0 and 1 meets x's channels; the other is the output's. Both are divided by the groups' number
// where w holds all groups (dim 0), and not where it holds one group's share (dim 1).
Tensor convolved(const Windows& win, const Tensor& w, int from, const Tensor& bias, int64_t groups, Attrs attrs) {
  const Tensor& x = win.x();
  const int64_t in = w.shape()[static_cast<size_t>(from)] * (from ? groups : 1), out = w.shape()[static_cast<size_t>(1 - from)] * (from ? 1 : groups);
  win.want(groups >= 1, Code::channel_groups, fmt::format("{} groups", groups), "there is at least one group");
  win.want(x.dtype() == w.dtype(), Code::dtypes_differ, fmt::format("dtypes differ: {} (x) vs {} (w)", to_string(x.type()), to_string(w.type())), fmt::format("cast(w, DType::{}), or cast x", name_of(x.dtype())));
  win.want(x.shape()[1] == in, Code::inner_dims, fmt::format("x has {} channels, w wants {}{}", x.shape()[1], in, groups > 1 ? fmt::format(" ({} in each of {} groups)", in / groups, groups) : ""),
           from ? "kernels are [out, in/groups, k…]" : "transposed kernels are [in, out/groups, k…]");
  win.want(w.shape()[0] % groups == 0, Code::channel_groups, fmt::format("{} {} channels do not divide into {} groups", w.shape()[0], from ? "output" : "input", groups), "choose a divisor of both channel counts");
  if (bias) win.want(bias.shape() == Shape{out}, Code::shapes_differ, fmt::format("the bias is {}, the output has {} channels", to_string(bias.type()), out), fmt::format("make the bias {}[{}]", name_of(x.dtype()), out));
  attrs.spec = from ? "nc,oc->no" : "nc,co->no";
  Tensor y;
  if (groups == 1) {
    y = node(x, Op::convolve, {x.id(), w.id()}, std::move(attrs), win.where);
  } else {
    attrs.spec = from ? "ngc,goc->ngo" : "ngc,gco->ngo";
    y = node(x, Op::convolve, {grouped(x, 1, groups, win.where).id(), grouped(w, 0, groups, win.where).id()}, std::move(attrs), win.where);
    Shape joined = y.shape();
    joined[2] *= joined[1];
    joined.erase(joined.begin() + 1);
    y = reshape(y, std::move(joined), win.where);
  }
  if (!bias) return y;
  Shape channels(y.shape().size() - 1, 1);
  channels[0] = out;
  return y + Operand(reshape(bias, std::move(channels), win.where), win.where);
}

Windows conv_windows(const char* name, const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& o, const Where& where) {
  Operands operands = {{"x", x}, {"w", w}};
  if (bias) operands.emplace_back("bias", bias);
  Windows win(name, std::move(operands), where);
  win.want(w.rank() == x.rank(), Code::bad_rank, fmt::format("x {} and w {} have different ranks", to_string(x.type()), to_string(w.type())), "a kernel has two dims of channels and one for every spatial dim");
  win.set(Shape(w.shape().begin() + 2, w.shape().end()), o.stride, Shape(win.dims, 1), o.dilation, o.low, o.high);
  return win;
}

// The windows of x, and the dims that walk the kernel.
std::pair<Tensor, Shape> windows(const Windows& win, double outside) {
  const Tensor& x = win.x();
  const Shape positions = win.positions();
  Shape axes;
  bool tiles = true;   // windows side by side within x: [batch, channels, position, k, position, k, …], where x lies
  for (size_t d = 0; d < win.dims; ++d) tiles = tiles && win.low[d] == 0 && win.stride[d] == win.kernel[d] && (win.dilation[d] == 1 || win.kernel[d] == 1) && positions[d] * win.kernel[d] <= win.extents[d];
  if (tiles) {
    Shape shape(x.shape().begin(), x.shape().begin() + 2);
    Tensor t = x;
    for (size_t d = 0; d < win.dims; ++d) {
      t = slice(t, static_cast<int64_t>(2 + d), 0, positions[d] * win.kernel[d], 1, win.where);
      shape.insert(shape.end(), {positions[d], win.kernel[d]});
      axes.push_back(static_cast<int64_t>(3 + 2 * d));
    }
    return {reshape(t, std::move(shape), win.where), axes};
  }
  // Else x broadcast along the kernel: [batch, channels, positions…, k…].
  Attrs wide;
  wide.shape = x.shape();
  wide.axes.resize(wide.shape.size());
  std::iota(wide.axes.begin(), wide.axes.end(), 0);
  wide.shape.insert(wide.shape.end(), win.kernel.begin(), win.kernel.end());
  const NodeId spread = x.graph().add(Op::broadcast, {x.id()}, std::move(wide), source_of(win.where));
  axes.resize(win.dims);
  std::iota(axes.begin(), axes.end(), 2 + static_cast<int64_t>(win.dims));
  return {node(x, Op::window, {spread, x.graph().scalar(x.dtype(), outside, source_of(win.where))}, steps(positions, negated(win.low), win.stride, win.dilation, Shape(win.dims, 1)), win.where), axes};
}
Windows pool_windows(const char* name, const Tensor& x, const Shape& size, const PoolOptions& o, const Where& where) {
  Windows win(name, {{"x", x}}, where);
  const Shape kernel = win.entries("size", size, Shape(win.dims, 1), 1, kMaxPad);
  win.want(!size.empty(), Code::window_step, "size has no entry", fmt::format("give 1 or {}", win.dims));
  win.set(kernel, o.stride, kernel, o.dilation, o.low, o.high);
  win.want(is_float(x.dtype()), Code::dtype_unsupported, fmt::format("is not defined for {}", to_string(x.type())), "cast to f32 first");
  return win;
}
// Along one spatial dim: how many places of each window lie within x.
std::vector<double> inside(const Windows& win, size_t d, int64_t positions) {
  std::vector<double> out;
  for (int64_t o = 0; o < positions; ++o) {
    const int64_t first = o * win.stride[d] - win.low[d];   // 0 <= first + k*dilation < extent
    const int64_t from = std::max<int64_t>(0, ceil_div(-first, win.dilation[d])), to = std::min(win.kernel[d], ceil_div(win.extents[d] - first, win.dilation[d]));
    out.push_back(static_cast<double>(std::max<int64_t>(0, to - from)));
    win.want(out.back() > 0, Code::window_extent, fmt::format("window {} of spatial dim {} lies in the padding: low {}, high {}, {} elements", o, d, win.low[d], win.high[d], win.extents[d]), "pad less than the window covers");
  }
  return out;
}

}  // namespace

Tensor conv(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& o, Where where) {
  const Windows win = conv_windows("conv", x, w, bias, o, where);
  win.want(o.output_padding.empty(), Code::window_step, "output_padding is conv_transpose's", "use high");
  return convolved(win, w, 1, bias, o.groups, steps(win.positions(), negated(win.low), win.stride, win.dilation, Shape(win.dims, 1)));
}

Tensor conv_transpose(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvOptions& o, Where where) {
  const Windows win = conv_windows("conv_transpose", x, w, bias, o, where);
  const Shape more = win.entries("output_padding", o.output_padding, Shape(win.dims, 0), 0, kMaxStep);
  Shape out;
  for (size_t d = 0; d < win.dims; ++d) {
    win.want(more[d] < std::max(win.stride[d], win.dilation[d]), Code::window_step, fmt::format("output_padding {} of spatial dim {} is not below stride {} or dilation {}", more[d], d, win.stride[d], win.dilation[d]), "the output would have ends that no input reaches");
    out.push_back((win.extents[d] - 1) * win.stride[d] + win.covered(d) - win.low[d] - win.high[d] + more[d]);
    win.want(win.extents[d] > 0 && out[d] >= 0, Code::window_extent, fmt::format("the output would have {} elements along spatial dim {}", win.extents[d] > 0 ? out[d] : 0, d), "low and high crop the output; use less, or a longer input");
  }
  return convolved(win, w, 0, bias, o.groups, steps(std::move(out), win.low, Shape(win.dims, 1), negated(win.dilation), win.stride));
}

ConvOptions same_padding(const Tensor& x, const Shape& kernel, ConvOptions options, Where where) {
  Windows win("same_padding", {{"x", x}}, where);
  win.set(win.entries("kernel", kernel, Shape(win.dims, 1), 1, kMaxPad), options.stride, Shape(win.dims, 1), options.dilation, {}, {});
  options.low = options.high = {};
  for (size_t d = 0; d < win.dims; ++d) {
    const int64_t positions = ceil_div(win.extents[d], win.stride[d]);
    const int64_t all = std::max<int64_t>(0, (positions - 1) * win.stride[d] + win.covered(d) - win.extents[d]);
    options.low.push_back(all / 2);
    options.high.push_back(all - all / 2);
  }
  return options;
}

Tensor max_pool(const Tensor& x, const Shape& size, const PoolOptions& options, Where where) {
  const Windows win = pool_windows("max_pool", x, size, options, where);
  const Shape positions = win.positions();
  for (size_t d = 0; d < win.dims; ++d) inside(win, d, positions[d]);
  const auto [t, axes] = windows(win, -std::numeric_limits<double>::infinity());
  return max(t, axes, where);
}
Tensor avg_pool(const Tensor& x, const Shape& size, const PoolOptions& options, Where where) {
  const Windows win = pool_windows("avg_pool", x, size, options, where);
  const Shape positions = win.positions();
  Tensor counts;   // [positions…], a product of one vector for each dim
  for (size_t d = 0; d < win.dims; ++d) {
    const std::vector<double> within = inside(win, d, positions[d]);
    if (options.include_pad) continue;
    Shape shape(win.dims, 1);
    shape[d] = positions[d];
    const Tensor along(&x.graph(), x.graph().constant(HostTensor::from(x.dtype(), shape, within), source_of(where)));
    counts = counts ? counts * Operand(along, where) : along;
  }
  const auto [t, axes] = windows(win, 0);
  const Tensor sums = sum(t, axes, where);
  double places = 1;
  for (int64_t e : win.kernel) places *= static_cast<double>(e);
  return sums / (counts ? Operand(counts, where) : Operand(places, where));
}
Tensor global_max_pool(const Tensor& x, Where where) {
  const Windows win("global_max_pool", {{"x", x}}, where);
  win.want(count(win.extents) > 0, Code::empty_axis, fmt::format("{} has no spatial elements", to_string(x.type())), "extents must be at least 1");
  Shape axes(win.dims);
  std::iota(axes.begin(), axes.end(), 2);
  return max(x, axes, where);
}
Tensor global_avg_pool(const Tensor& x, Where where) {
  const Windows win("global_avg_pool", {{"x", x}}, where);
  win.want(count(win.extents) > 0, Code::empty_axis, fmt::format("{} has no spatial elements", to_string(x.type())), "extents must be at least 1");
  Shape axes(win.dims);
  std::iota(axes.begin(), axes.end(), 2);
  return mean(x, axes, where);
}

}  // namespace quern
