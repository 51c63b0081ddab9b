// Windows and convolution. `window` walks a kernel over positions:
//   out[…, o…, k…] = x[…, (o*stride + k*dilation + start)/base…, k…]
// where the division is exact and inside, elsewhere the scalar argument. The last dims of x are kernel dims already: a
// plain tensor is broadcast along them first. So the op's adjoint is the same op with stride and base exchanged, and
// the derivative of a pooling is views and a sum. `convolve` is contract(window(x), r) and is closed under its own
// derivative, so that no derivative of any order makes the window a tensor.
#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "ir/ops/define.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"

namespace quern {
namespace {

constexpr int64_t kFewPhases = 8;
constexpr int64_t kMaxStep = int64_t{1} << 20;   // stride, dilation, base; starts and extents are at most 2^40

// One windowed dim: from a position and a place in the kernel to the element.
struct Step {
  int64_t start, stride, dilation, base;
  template <class T>
  T place(const T& o, const T& k) const { return o * stride + k * dilation + T(start); }
};
Step step_of(const Attrs& a, size_t d) { return {a.start[d], a.stride[d], a.dilation[d], a.base[d]}; }
void add_step(Attrs& a, int64_t start, int64_t stride, int64_t dilation, int64_t base) {
  const int64_t sign = base < 0 ? -1 : 1;   // of both sides of the division
  a.start.push_back(sign * start);
  a.stride.push_back(sign * stride);
  a.dilation.push_back(sign * dilation);
  a.base.push_back(sign * base);
}

void want_steps(const InferContext& c) {
  const Attrs& a = c.attrs;
  const size_t n = a.shape.size();
  c.want(a.start.size() == n && a.stride.size() == n && a.dilation.size() == n && a.base.size() == n, Code::attribute_missing,
         "shape, start, stride, dilation and base need one entry a windowed dim", fmt::format("give {} of each", n));
  for (size_t d = 0; d < n; ++d) {
    const auto small = [](int64_t v) { return v != 0 && v >= -kMaxStep && v <= kMaxStep; };
    c.want(small(a.stride[d]) && small(a.dilation[d]) && small(a.base[d]) && a.base[d] > 0 && a.start[d] >= -kMaxExtent && a.start[d] <= kMaxExtent, Code::window_step,
           fmt::format("start {}, stride {}, dilation {}, base {} of windowed dim {}", a.start[d], a.stride[d], a.dilation[d], a.base[d], d),
           "stride and dilation are not 0 and at most 2^20, base is positive, start at most 2^40");
  }
}

// --- window ---
Type infer_window(const InferContext& c) {
  want_args(c, 2);
  want_steps(c);
  const size_t n = c.attrs.shape.size(), rank = c.args[0].shape.size();
  c.want(c.args[1].rank() == 0 && c.args[1].dtype == c.args[0].dtype, Code::pad_amount, "what is read outside must be a scalar of the same dtype", fmt::format("give a {}[]", name_of(c.args[0].dtype)));
  c.want(rank >= 2 * n, Code::bad_rank, fmt::format("{} windowed dims and their kernel dims do not fit into {}", n, to_string(c.args[0])), "broadcast along the kernel first");
  Type t = c.args[0];
  std::copy(c.attrs.shape.begin(), c.attrs.shape.end(), t.shape.end() - static_cast<int64_t>(2 * n));
  return checked(c, t);
}
HostTensor eval_window(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor& x = *args[0];
  HostTensor out(node.type.dtype, node.type.shape);
  const size_t n = node.attrs.shape.size(), first = x.shape.size() - 2 * n;
  const Scalar outside = args[1]->get(0);
  const Shape strides = row_major(x.shape);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& index) {
    Shape at = index;
    bool inside = true;
    for (size_t d = 0; d < n; ++d) {
      const Step s = step_of(node.attrs, d);
      const int64_t place = s.place(index[first + d], index[first + n + d]);
      at[first + d] = place / s.base;
      inside = inside && place >= 0 && place % s.base == 0 && at[first + d] < x.shape[first + d];
    }
    out.set(i++, inside ? x.get(position(at, strides)) : outside);
  });
  return out;
}
std::vector<Piece> window_pieces(const Node& node, std::span<const Type> args, std::span<const Index> out) {
  const size_t n = node.attrs.shape.size(), first = out.size() - 2 * n;
  Piece inside{0, {out.begin(), out.end()}, {}};
  for (size_t d = 0; d < n; ++d) {
    const Step s = step_of(node.attrs, d);
    const Index place = s.place(out[first + d], planted(Fault::window_dilation) ? Index(0) : out[first + n + d]), rest = floor_mod(place, s.base);
    Index& e = inside.index[first + d];
    e = floor_div(place, s.base);
    if (rest.high() > 0 && !planted(Fault::window_residue)) inside.guards.push_back({rest, 0, 1});
    const int64_t extent = args[0].shape[first + d];
    const bool any_size = is_symbolic(extent) && !is_symbolic(e.high() + 1);   // a constant is not below every size
    if (e.low() < 0 || e.high() >= extent || any_size) inside.guards.push_back({e, 0, extent});
  }
  if (inside.guards.empty()) return {inside};
  return {inside, {1, {}, {}}};
}
// Element i of x is read at place k from o = (i*base - k*dilation - start)/stride, if at all: a window over g.
std::vector<NodeId> vjp_window(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const Shape shape = b.type(node.args[0]).shape;
  const size_t dims = node.attrs.shape.size(), first = shape.size() - 2 * dims;
  Attrs back;
  for (size_t d = 0; d < dims; ++d) {
    const Step s = step_of(node.attrs, d);
    back.shape.push_back(shape[first + d]);
    add_step(back, -s.start, s.base, -s.dilation, s.stride);
  }
  const NodeId gx = b.add(Op::window, {g, b.scalar(node.type.dtype, 0)}, back);
  Shape all(shape.size());
  std::iota(all.begin(), all.end(), 0);
  // What lies outside is summed by itself: a difference of sums would leave their rounding errors where nothing does.
  const NodeId outside = b.add(Op::window, {b.full({DType::boolean, shape, {}}, 0), b.scalar(DType::boolean, 1)}, node.attrs);
  return {gx, reduce_to(b, Op::reduce_sum, b.add(Op::select, {outside, g, zeros_like(b, g)}), all)};
}

// --- convolve ---
// The contract that a convolve stands for: its windowed lhs, and the spec with letters for positions and kernel places.
struct Windowed {
  Type lhs;
  ContractSpec spec;
};
Windowed windowed(const Attrs& a, const Type& x, const Type& r) {
  const size_t n = a.shape.size();
  Windowed w{x, parse_contract(a.spec)};
  std::string free;
  for (char c = 'z'; c >= 'a'; --c)
    if (a.spec.find(c) == std::string::npos) free += c;
  const std::string places = free.substr(0, n), kernel = free.substr(std::min(n, free.size()), n);
  w.spec.lhs += places + kernel;
  w.spec.rhs += kernel;
  w.spec.out += places;
  std::copy(a.shape.begin(), a.shape.end(), w.lhs.shape.end() - static_cast<int64_t>(n));
  w.lhs.shape.insert(w.lhs.shape.end(), r.shape.end() - static_cast<int64_t>(n), r.shape.end());
  return w;
}
std::string text(const ContractSpec& s) { return fmt::format("{},{}->{}", s.lhs, s.rhs, s.out); }

Type infer_convolve(const InferContext& c) {
  want_args(c, 2);
  want_steps(c);
  const int64_t n = static_cast<int64_t>(c.attrs.shape.size());
  c.want(c.args[0].rank() >= n && c.args[1].rank() >= n, Code::bad_rank, fmt::format("both operands end with {} windowed dims", n), "give shape one entry a windowed dim");
  const Windowed w = windowed(c.attrs, c.args[0], c.args[1]);
  const std::vector<Type> types = {checked(c, w.lhs), c.args[1]};
  Attrs attrs;
  attrs.spec = text(w.spec);
  return def_of(Op::contract).infer({c.op, types, attrs, c.where});
}
HostTensor eval_convolve(const Node& node, std::span<const HostTensor* const> args) {
  const HostTensor &x = *args[0], &r = *args[1];
  const Windowed w = windowed(node.attrs, {x.dtype, x.shape, {}}, {r.dtype, r.shape, {}});
  const size_t n = node.attrs.shape.size(), first = x.shape.size() - n;
  // Loops over the output's letters, then over the summed ones.
  std::string letters = w.spec.out;
  Shape extents;
  for (char c : w.spec.lhs)
    if (w.spec.out.find(c) == std::string::npos) letters += c, extents.push_back(w.lhs.shape[w.spec.lhs.find(c)]);
  const auto places_of = [&](const std::string& mine) {
    std::vector<size_t> out;
    for (char c : mine) out.push_back(letters.find(c));
    return out;
  };
  const std::vector<size_t> in_x = places_of(w.spec.lhs), in_r = places_of(w.spec.rhs);
  const Shape x_strides = row_major(x.shape), r_strides = row_major(r.shape);
  HostTensor out(node.type.dtype, node.type.shape);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& kept) {
    Shape at(letters.size());
    std::copy(kept.begin(), kept.end(), at.begin());
    double sum = 0;
    uint64_t integer_sum = 0;
    for_each_index(extents, [&](const Shape& summed) {
      std::copy(summed.begin(), summed.end(), at.begin() + static_cast<int64_t>(kept.size()));
      int64_t p = 0, q = 0;
      for (size_t d = 0; d < first; ++d) p += at[in_x[d]] * x_strides[d];
      for (size_t d = 0; d < r.shape.size(); ++d) q += at[in_r[d]] * r_strides[d];
      bool inside = true;
      for (size_t d = 0; d < n; ++d) {
        const Step s = step_of(node.attrs, d);
        const int64_t place = s.place(at[in_x[first + d]], at[in_x[first + n + d]]);
        if (place % s.base != 0) return;
        inside = inside && place >= 0 && place / s.base < x.shape[first + d];
        p += place / s.base * x_strides[first + d];
      }
      const Scalar a = inside ? x.get(p) : Scalar::of(x.dtype, 0), b = r.get(q);
      if (is_float(x.dtype)) sum += a.f * b.f;
      else integer_sum += static_cast<uint64_t>(a.i) * static_cast<uint64_t>(b.i);
    });
    out.set(i++, is_float(out.dtype) ? Scalar::of(out.dtype, sum) : Scalar::of_int(out.dtype, static_cast<int64_t>(integer_sum)));
  });
  return out;
}
// How position i' = i + start = base*q + p of a windowed dim with holes between its elements meets just the places k = base*j + p, at element q - j: a base of
// `base` and a dilation of -1, as in the data gradient of a strided convolution. p is the position's phase.
bool has_phases(const Step& s) { return s.base > 1 && s.stride == 1 && s.dilation == -1; }
int64_t first_of(int64_t start, int64_t base) { return planted(Fault::convolve_start) ? start / base : floor_div(start, base); }

// A product for each phase, of the places that it meets. Positions i = base*a + b, of one b, have one phase; their products lie one after the other, letters
// of r last, and y is read from there:  y[…, a, b, …] = products[b][…, a, …]
NodeId build_phases(GraphBuilder& b, const Node& node, std::span<const NodeId> args) {
  const Attrs& a = node.attrs;
  const Type x = b.type(args[0]), r = b.type(args[1]);
  const size_t n = a.shape.size(), r_first = r.shape.size() - n, y_first = node.type.shape.size() - n;
  const ContractSpec spec = windowed(a, x, r).spec;
  std::vector<size_t> order;   // of the result's dims, in memory
  for (const bool last : {false, true})
    for (size_t d = 0; d < spec.out.size(); ++d)
      if ((spec.lhs.find(spec.out[d]) == std::string::npos) == last) order.push_back(d);
  Attrs product, inside, joined;
  std::string out;
  for (size_t d : order) out += spec.out[d];
  product.spec = text({spec.lhs, spec.rhs, out});
  joined.shape = inside.limit = node.type.shape;
  inside.start.resize(joined.shape.size()), inside.stride.assign(joined.shape.size(), 1);
  Shape phases, positions;   // of each windowed dim
  for (size_t d = 0; d < n; ++d) {
    phases.push_back(has_phases(step_of(a, d)) ? a.base[d] : 1);
    positions.push_back(ceil_div(a.shape[d], phases[d]));
    joined.shape[y_first + d] = positions[d] * phases[d];
  }
  Shape axes(x.shape.size()), one{1};   // one: of a phase's result
  std::iota(axes.begin(), axes.end(), 0);
  for (size_t d : order) one.push_back(d < y_first ? node.type.shape[d] : positions[d - y_first]);
  const NodeId zero = b.scalar(x.dtype, 0);
  std::vector<NodeId> results;
  for_each_index(phases, [&](const Shape& from) {
    Attrs window, places, shape;
    window.shape = positions, shape.shape = one;
    places.start.resize(r.shape.size()), places.limit = r.shape, places.stride.assign(r.shape.size(), 1);
    Shape wide = x.shape;
    for (size_t d = 0; d < n; ++d) {
      const Step s = step_of(a, d);
      int64_t &first = places.start[r_first + d], extent = r.shape[r_first + d];
      if (has_phases(s)) {
        const int64_t q = first_of(s.start + from[d], s.base);
        add_step(window, q, 1, -1, 1);
        first = std::min(s.start + from[d] - q * s.base, extent);
        places.stride[r_first + d] = s.base;
      } else {
        add_step(window, s.start, s.stride, s.dilation, s.base);
      }
      wide.push_back(ceil_div(extent - first, places.stride[r_first + d]));
    }
    if (std::find(wide.begin(), wide.end(), 0) != wide.end()) {   // it meets no place
      results.push_back(broadcast_to(b, zero, {}, one));
      return;
    }
    const NodeId y = b.add(Op::contract, {b.add(Op::window, {broadcast_to(b, args[0], axes, wide), zero}, window), b.add(Op::slice, {args[1]}, places)}, product);
    results.push_back(b.add(Op::reshape, {y}, shape));
  });
  Attrs along, apart, back;
  along.axes = {0};
  apart.shape = phases;
  apart.shape.insert(apart.shape.end(), one.begin() + 1, one.end());
  for (size_t d = 0; d < order.size(); ++d) {
    back.axes.push_back(static_cast<int64_t>(n + static_cast<size_t>(std::find(order.begin(), order.end(), d) - order.begin())));
    if (d >= y_first) back.axes.push_back(static_cast<int64_t>(d - y_first));
  }
  const NodeId all = b.add(Op::reshape, {b.add(Op::concat, std::move(results), along)}, apart);
  return b.add(Op::slice, {b.add(Op::reshape, {b.add(Op::transpose, {all}, back)}, joined)}, inside);
}

// contract(window(x), r). Holes between the elements of x are not walked: r is cut into a kernel for each phase, all of as many places, and a phase is a channel
// of the output.
NodeId build_convolve(GraphBuilder& b, const Node& node, std::span<const NodeId> args) {
  const Attrs& a = node.attrs;
  const Type x = b.type(args[0]), r = b.type(args[1]);
  const size_t n = a.shape.size(), x_first = x.shape.size() - n, r_first = r.shape.size() - n, y_first = node.type.shape.size() - n;
  bool cut = count(node.type.shape) > 0;
  for (size_t d = 0; d < n; ++d) cut = cut && (a.base[d] == 1 || has_phases(step_of(a, d)));
  ContractSpec spec = windowed(a, x, r).spec;
  Attrs window, padding, cuts, joined, inside;
  padding.low.resize(r.shape.size()), padding.high.resize(r.shape.size());
  cuts.shape.assign(r.shape.begin(), r.shape.begin() + static_cast<int64_t>(r_first));
  joined.shape = inside.limit = node.type.shape;
  inside.start.resize(joined.shape.size()), inside.stride.assign(joined.shape.size(), 1);
  Shape axes(x.shape.size()), wide = x.shape;
  std::iota(axes.begin(), axes.end(), 0);
  char fresh = 'a';
  for (size_t d = 0; d < n; ++d) {
    const Step s = step_of(a, d);
    const int64_t places = r.shape[r_first + d];
    if (!cut || s.base == 1) {
      window.shape.push_back(a.shape[d]);
      add_step(window, s.start, s.stride, s.dilation, s.base);
      wide.push_back(places);
      cuts.shape.push_back(places);
      continue;
    }
    const int64_t first = first_of(s.start, s.base), positions = floor_div(s.start + a.shape[d] - 1, s.base) - first + 1, share = ceil_div(places, s.base);
    window.shape.push_back(positions);
    add_step(window, first, 1, -1, 1);
    wide.push_back(share);
    padding.high[r_first + d] = share * s.base - places;
    cuts.shape.insert(cuts.shape.end(), {share, s.base});
    joined.shape[y_first + d] = positions * s.base;
    inside.start[y_first + d] = s.start - first * s.base;
    inside.limit[y_first + d] = inside.start[y_first + d] + a.shape[d];
    while ((spec.lhs + spec.rhs).find(fresh) != std::string::npos) ++fresh;
    // Behind the letters of the dim's kernel places and positions, which end the operands.
    const auto behind = [&](std::string& letters, char c) { letters.insert(letters.find(c) + 1, 1, fresh); };
    behind(spec.rhs, spec.lhs[x_first + n + d]);
    behind(spec.out, spec.lhs[x_first + d]);
  }
  const NodeId zero = b.scalar(x.dtype, 0);
  Attrs product;
  product.spec = text(spec);
  const NodeId kernel = cut && cuts.shape != r.shape ? b.add(Op::reshape, {b.add(Op::pad, {args[1], zero}, padding)}, cuts) : args[1];
  const NodeId y = b.add(Op::contract, {b.add(Op::window, {broadcast_to(b, args[0], axes, wide), zero}, window), kernel}, product);
  return kernel == args[1] ? y : b.add(Op::slice, {b.add(Op::reshape, {y}, joined)}, inside);
}
NodeId build_convolve_apart(GraphBuilder& b, const Node& node, std::span<const NodeId> args) {
  const Attrs& a = node.attrs;
  int64_t phases = 1;
  for (size_t d = 0; d < a.shape.size() && phases <= kFewPhases; ++d) phases = a.base[d] == 1 ? phases : has_phases(step_of(a, d)) && a.base[d] <= kFewPhases ? phases * a.base[d]
                                                                                                                                                              : kFewPhases + 1;
  return count(node.type.shape) > 0 && phases > 1 && phases <= kFewPhases ? build_phases(b, node, args) : build_convolve(b, node, args);
}
// The sum over positions o and kernel places k of x[(o*stride + k*dilation + start)/base] r[k] g[o] in three ways: for x
// each i has its o, as in `window`; for r, positions and kernel change places, and g is the kernel.
std::vector<NodeId> vjp_convolve(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const NodeId x = node.args[0], r = node.args[1];
  const Shape xs = b.type(x).shape, rs = b.type(r).shape;
  const size_t dims = node.attrs.shape.size();
  const ContractSpec s = parse_contract(node.attrs.spec);
  Attrs for_x, for_r;
  for_x.spec = text({s.out, s.rhs, s.lhs});
  for_r.spec = text({s.lhs, s.out, s.rhs});
  for (size_t d = 0; d < dims; ++d) {
    const Step step = step_of(node.attrs, d);
    for_x.shape.push_back(xs[xs.size() - dims + d]);
    add_step(for_x, -step.start, step.base, planted(Fault::adjoint_of_convolve) ? step.dilation : -step.dilation, step.stride);
    for_r.shape.push_back(rs[rs.size() - dims + d]);
    add_step(for_r, step.start, step.dilation, step.stride, step.base);
  }
  return {b.add(Op::convolve, {g, r}, for_x), b.add(Op::convolve, {x, g}, for_r)};
}

// --- samples ---
using Steps = std::vector<Step>;
Attrs with_steps(Shape shape, const Steps& steps) {
  Attrs a;
  a.shape = std::move(shape);
  for (const Step& s : steps) add_step(a, s.start, s.stride, s.dilation, s.base);
  return a;
}
std::vector<Sample> window_samples(DType d) {
  const auto sample = [&](Shape x, Shape shape, const Steps& steps) { return Sample{{{d, std::move(x), {}}, {d, {}, {}}}, with_steps(std::move(shape), steps), -2, 2}; };
  return {sample({9, 3}, {9}, {{-1, 1, 1, 1}}),                               // padded by one
          sample({2, 10, 3}, {5}, {{-2, 2, 2, 1}}),                           // stride and dilation
          sample({2, 5, 3}, {12}, {{1, 1, -1, 3}}),                           // holes, backwards
          sample({4, 4}, {6}, {{3, -1, 2, 2}}),                               // a negative stride
          sample({2, 6, 40, 2, 3}, {3, 38}, {{0, 2, 1, 1}, {0, 1, 1, 1}}),    // nothing outside
          sample({3, 4, 5, 2, 1, 2}, {4, 4, 3}, {{-1, 1, 2, 1}, {0, 1, 1, 1}, {2, 2, -1, 1}}),
          sample({7, 1}, {7}, {{0, 1, 1, 1}}),   sample({3, 2}, {2}, {{9, 1, 1, 1}}),   // all outside
          sample({0, 2}, {3}, {{0, 1, 1, 1}}),   sample({4, 0}, {2}, {{0, 1, 1, 1}}),
          sample({4, 2}, {0}, {{0, 1, 1, 1}}),   sample({2, 3}, {}, {})};
}
std::vector<Sample> convolve_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  const auto sample = [&](Shape x, Shape r, const char* spec, Shape shape, const Steps& steps) {
    Sample s{{{d, std::move(x), {}}, {d, std::move(r), {}}}, with_steps(std::move(shape), steps), -1, 1};
    s.attrs.spec = spec;
    return s;
  };
  return {sample({2, 3, 9}, {4, 3, 3}, "nc,oc->no", {9}, {{-1, 1, 1, 1}}),
          sample({2, 3, 10}, {4, 3, 3}, "nc,oc->no", {4}, {{-1, 3, 2, 1}}),
          sample({1, 2, 5}, {2, 3, 4}, "no,oc->nc", {12}, {{1, 1, -1, 2}}),                      // a transposed one
          sample({1, 2, 5, 3}, {2, 3, 4, 3}, "no,oc->nc", {12, 9}, {{-3, 1, -1, 2}, {1, 1, -1, 3}}),
          sample({2, 3, 7, 6}, {5, 3, 3, 2}, "nc,oc->no", {7, 5}, {{-1, 1, 1, 1}, {0, 1, 1, 1}}),
          sample({2, 2, 3, 5, 5}, {2, 2, 3, 3, 3}, "ngc,goc->ngo", {3, 5}, {{-1, 2, 1, 1}, {-1, 1, 1, 1}}),   // groups
          sample({2, 3, 6, 18}, {2, 4, 6, 18}, "nc,no->oc", {3, 3}, {{-1, 1, 1, 1}, {-1, 1, 1, 1}}),            // a weight gradient
          sample({1, 2, 3, 4, 5}, {2, 2, 2, 2, 2}, "nc,oc->no", {2, 3, 5}, {{0, 1, 1, 1}, {0, 1, 1, 1}, {-1, 1, 1, 1}}),
          sample({2, 9, 6}, {70, 9, 3}, "nc,oc->no", {6}, {{-1, 1, 1, 1}}),   // several row tiles
          sample({5}, {3}, ",->", {3}, {{0, 1, 1, 1}}),              sample({2, 3}, {3, 4}, "mk,kn->mn", {}, {}),
          sample({0, 3, 5}, {4, 3, 3}, "nc,oc->no", {3}, {{0, 1, 1, 1}}), sample({2, 0, 5}, {4, 0, 3}, "nc,oc->no", {3}, {{0, 1, 1, 1}}),
          sample({2, 3, 0}, {4, 3, 1}, "nc,oc->no", {2}, {{-1, 1, 1, 1}})};
}

}  // namespace

std::vector<OpDef> window_ops() {
  return {
      define(Op::window, "window", "x at (o*stride + k*dilation + start)/base for positions o and kernel places k, else the scalar argument", infer_window, eval_window, vjp_window, View{window_pieces}, window_samples),
      define(Op::convolve, "convolve", "sum of products of the windows of x with a kernel, over the letters and kernel places that the output lacks", infer_convolve, eval_convolve, vjp_convolve, Expand{build_convolve, build_convolve_apart}, convolve_samples),
  };
}

}  // namespace quern
