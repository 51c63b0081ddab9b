// The table of convolutions and poolings, each as a graph in f64 or f32 with values, and the naive loops that say what
// it must give: conv reads, conv_transpose scatters, poolings look at every element of a window.
#pragma once
#include "frontend/conv.h"
#include "ir/ops/define.h"
#include "tests/support/sweep.h"

namespace quern::test {

struct Convolution {
  enum Kind { conv, transposed, max_pool, avg_pool, avg_pool_inside } kind;
  int64_t batch, in, out, groups;       // channels in all; poolings: out = in, groups ignored
  Shape extents, kernel;
  ConvOptions o = {};                   // pools: stride, dilation, low, high
  bool bias = false;
};

inline std::vector<Convolution> convolutions() {
  using C = Convolution;
  return {
      {C::conv, 2, 3, 4, 1, {9}, {3}},
      {C::conv, 1, 2, 3, 1, {10}, {4}, {.stride = {3}, .dilation = {2}, .low = {2}, .high = {1}}, true},
      {C::conv, 2, 4, 6, 2, {8}, {3}, {.stride = {2}, .low = {1}, .groups = 2}},
      {C::conv, 3, 5, 5, 5, {7}, {3}, {.low = {1}, .groups = 5}, true},          // depthwise
      {C::conv, 2, 3, 20, 1, {6, 7}, {3, 3}, {.low = {1}}, true},
      {C::conv, 1, 3, 5, 1, {11, 9}, {3, 2}, {.stride = {2, 3}, .low = {1, 0}, .high = {2, 1}}},
      {C::conv, 2, 4, 8, 4, {7, 8}, {3, 3}, {.stride = {2}, .dilation = {2, 1}, .low = {2, 1}, .groups = 4}},
      {C::conv, 2, 3, 5, 1, {6, 6}, {1, 1}},                                      // a product of pixels
      {C::conv, 2, 3, 5, 1, {6, 5}, {1, 1}, {.stride = {2}}},
      {C::conv, 1, 2, 3, 1, {5, 4}, {5, 4}, {}, true},                            // one position
      {C::conv, 1, 2, 3, 1, {9, 9}, {3, 3}, {.low = {-1}, .high = {-2, 0}}},      // cropped
      {C::conv, 2, 9, 70, 1, {4, 18}, {3, 3}, {.low = {1}}},                      // several row tiles, lanes with a rest
      {C::conv, 0, 3, 4, 1, {5, 5}, {3, 3}},
      {C::conv, 2, 2, 4, 1, {5, 4, 6}, {3, 2, 3}, {.stride = {1, 2, 2}, .low = {1, 0, 1}}, true},
      {C::conv, 1, 4, 4, 2, {4, 5, 5}, {2, 3, 3}, {.dilation = {2, 1, 1}, .low = {1}, .groups = 2}},
      {C::transposed, 2, 3, 4, 1, {6}, {3}},
      {C::transposed, 1, 2, 3, 1, {5}, {4}, {.stride = {3}, .dilation = {2}, .low = {2}, .high = {1}, .output_padding = {2}}, true},
      {C::transposed, 2, 4, 6, 2, {4, 5}, {3, 3}, {.stride = {2}, .low = {1}, .groups = 2, .output_padding = {1}}, true},
      {C::transposed, 1, 9, 5, 1, {3, 20}, {2, 2}, {.stride = {2}}},
      {C::transposed, 1, 2, 2, 1, {3, 2, 4}, {2, 3, 3}, {.stride = {2, 1, 2}, .low = {0, 1, 1}}},
      {C::transposed, 2, 3, 4, 1, {7, 6}, {1, 5}, {.stride = {3, 2}, .dilation = {1, 2}, .low = {0, 3}, .high = {-1, 2}}},
      {C::transposed, 1, 4, 4, 4, {3, 3, 2}, {2, 3, 1}, {.stride = {2, 3, 2}, .low = {1, 2, 0}, .groups = 4}},
      {C::max_pool, 2, 3, 3, 1, {9}, {3}, {.stride = {2}, .low = {1}}},
      {C::max_pool, 2, 3, 3, 1, {5, 37}, {2, 2}, {.stride = {2}}},               // side by side, lanes with a rest; the last column and row in none
      {C::max_pool, 1, 2, 2, 1, {6, 40}, {2, 3}, {.stride = {2, 3}}},
      {C::max_pool, 1, 3, 3, 1, {7, 8}, {2, 3}, {.stride = {2, 3}}},
      {C::max_pool, 2, 2, 2, 1, {8, 9}, {3, 3}, {.stride = {1, 2}, .dilation = {2, 1}, .low = {1}, .high = {2, 1}}},
      {C::max_pool, 1, 2, 2, 1, {4, 5, 6}, {2, 2, 3}, {.stride = {2, 1, 2}, .low = {1, 0, 1}}},
      {C::avg_pool, 2, 3, 3, 1, {9}, {3}, {.stride = {2}, .low = {1}}},
      {C::avg_pool, 1, 3, 3, 1, {7, 8}, {2, 3}, {.stride = {2, 3}}},
      {C::avg_pool, 2, 3, 3, 1, {8, 36}, {2, 2}, {.stride = {2}}},
      {C::avg_pool, 1, 2, 2, 1, {4, 68}, {1, 4}, {.stride = {1, 4}}},
      {C::avg_pool_inside, 2, 2, 2, 1, {8, 9}, {3, 3}, {.stride = {1, 2}, .dilation = {2, 1}, .low = {1}, .high = {2, 1}}},
      {C::avg_pool_inside, 1, 2, 2, 1, {4, 5, 6}, {2, 2, 3}, {.stride = {2, 1, 2}, .low = {1, 0, 1}}},
  };
}

/// Where the CPU plans differently; too many elements for differences of each.
inline std::vector<Convolution> larger_convolutions() {
  using C = Convolution;
  return {
      {C::conv, 8, 8, 16, 1, {9, 14}, {3, 3}, {.low = {1}}, true},               // positions of all rows as one axis
      {C::conv, 3, 7, 10, 1, {10, 13}, {5, 3}, {.dilation = {1, 2}, .low = {2, 3}, .high = {1, 0}}},   // of some rows; little padding to share
      {C::conv, 2, 24, 16, 2, {8, 17}, {3, 3}, {.low = {0, 2}, .groups = 2}, true},
      {C::conv, 4, 3, 20, 1, {6, 18}, {3, 3}, {.low = {1}}},                      // few terms, lanes along the sum of a weight gradient
  };
}

inline std::string name_of(const Convolution& c) {
  const char* kinds[] = {"conv", "conv_transpose", "max_pool", "avg_pool", "avg_pool_inside"};
  return fmt::format("{} {}x{}->{} in {} groups, [{}] by [{}], stride [{}] dilation [{}] low [{}] high [{}]", kinds[c.kind], c.batch, c.in, c.out, c.groups, fmt::join(c.extents, ","),
                     fmt::join(c.kernel, ","), fmt::join(c.o.stride, ","), fmt::join(c.o.dilation, ","), fmt::join(c.o.low, ","), fmt::join(c.o.high, ","));
}

/// y and x, the model's first input.
inline std::pair<Tensor, Tensor> build(const Convolution& c, Model& m, DType dtype) {
  const auto join = [](Shape a, const Shape& b) { a.insert(a.end(), b.begin(), b.end()); return a; };
  const Tensor x = m.input("x", dtype, join({c.batch, c.in}, c.extents));
  if (c.kind == Convolution::conv || c.kind == Convolution::transposed) {
    const bool t = c.kind == Convolution::transposed;
    const Tensor w = m.input("w", dtype, join(t ? Shape{c.in, c.out / c.groups} : Shape{c.out, c.in / c.groups}, c.kernel));
    const Tensor b = c.bias ? m.input("b", dtype, {c.out}) : Tensor();
    return {t ? conv_transpose(x, w, b, c.o) : conv(x, w, b, c.o), x};
  }
  const PoolOptions o{c.o.stride, c.o.dilation, c.o.low, c.o.high, c.kind != Convolution::avg_pool_inside};
  return {c.kind == Convolution::max_pool ? max_pool(x, c.kernel, o) : avg_pool(x, c.kernel, o), x};
}

/// Not expanded: the interpreter then runs the op itself.
inline Case case_of(const Convolution& c, DType dtype) {
  Model m;
  m.output("y", build(c, m, dtype).first);
  Case out{name_of(c), m.finish(), {}};
  std::mt19937_64 random(5);
  for (NodeId i : out.graph.inputs) out.inputs.push_back(random_tensor(out.graph.type(i), -1, 1, random));
  return out;
}

/// The naive loops, in double.
inline std::vector<double> expected(const Convolution& c, const std::vector<HostTensor>& inputs, const Shape& shape) {
  const size_t n = c.extents.size();
  const auto entry = [&](const Shape& v, size_t d, int64_t otherwise) { return v.empty() ? otherwise : v[v.size() == 1 ? 0 : d]; };
  const HostTensor& x = inputs[0];
  const Shape xs = row_major(x.shape), ys = row_major(shape);
  const bool pool = c.kind >= Convolution::max_pool, gathers = c.kind != Convolution::transposed;
  std::vector<double> y(static_cast<size_t>(count(shape)), c.kind == Convolution::max_pool ? -INFINITY : 0), inside(y.size());
  const int64_t mine_in = pool ? 1 : c.in / c.groups, mine_out = pool ? 1 : c.out / c.groups, groups = pool ? c.in : c.groups;
  // Every product: batch, group, channels within it, the position that steps by the stride, the place in the kernel.
  Shape loops = {c.batch, groups, mine_in, mine_out};
  loops.insert(loops.end(), (gathers ? shape : x.shape).begin() + 2, (gathers ? shape : x.shape).end());
  loops.insert(loops.end(), c.kernel.begin(), c.kernel.end());
  for_each_index(loops, [&](const Shape& i) {
    const int64_t in = i[1] * mine_in + i[2], to = i[1] * mine_out + i[3];
    int64_t p = i[0] * xs[0] + in * xs[1], q = i[0] * ys[0] + to * ys[1];
    int64_t k = gathers ? to * mine_in + i[2] : in * mine_out + i[3];
    for (size_t d = 0; d < n; ++d) {
      const int64_t step = i[4 + d], place = i[4 + n + d];
      const int64_t other = step * entry(c.o.stride, d, 1) + place * entry(c.o.dilation, d, 1) - entry(c.o.low, d, 0);
      if (other < 0 || other >= (gathers ? x.shape : shape)[2 + d]) return;
      p += (gathers ? other : step) * xs[2 + d];
      q += (gathers ? step : other) * ys[2 + d];
      k = k * c.kernel[d] + place;
    }
    double& out = y[static_cast<size_t>(q)];
    if (c.kind == Convolution::max_pool) out = std::max(out, x.at(p));
    else out += x.at(p) * (pool ? 1 : inputs[1].at(k));
    ++inside[static_cast<size_t>(q)];
  });
  for (size_t i = 0; i < y.size(); ++i) {
    if (c.bias) y[i] += inputs[2].at(static_cast<int64_t>(i) / ys[1] % c.out);
    if (c.kind == Convolution::avg_pool) y[i] /= static_cast<double>(count(c.kernel));
    if (c.kind == Convolution::avg_pool_inside) y[i] /= inside[i];
  }
  return y;
}

}  // namespace quern::test
