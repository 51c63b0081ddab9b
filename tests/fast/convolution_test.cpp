// Convolutions and poolings of one to three dims against naive loops, in three ways: the reference interpreter on the op
// itself, on what it expands to, and the tile interpreter on its kernels. Gradients against central differences. Norms
// against what they define. Then what fusion must make of them.
#include <gtest/gtest.h>

#include "frontend/norm.h"
#include "passes/tile/plan.h"
#include "tests/support/convolution.h"

namespace quern {
namespace {

void expect_near(const HostTensor& got, const std::vector<double>& want, double bound) {
  ASSERT_EQ(got.size(), static_cast<int64_t>(want.size()));
  for (int64_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got.at(i), want[static_cast<size_t>(i)], bound) << "element " << i;
}

Graph expanded(const Graph& g) {
  PassContext context;
  return expand(g, context);
}

TEST(Convolution, MatchesNaiveLoops) {
  for (const test::Convolution& c : test::convolutions()) {
    const test::Case k = test::case_of(c, DType::f64);
    SCOPED_TRACE(k.name);
    const std::vector<double> want = test::expected(c, k.inputs, k.graph.type(k.graph.outputs[0].node).shape);
    expect_near(interpret(k.graph, k.inputs)[0], want, 1e-12);
    expect_near(interpret(expanded(k.graph), k.inputs)[0], want, 1e-12);
    expect_near(test::run_tiles(k.graph, k.inputs, [](tile::Kernel t) {
                  for (tile::Axis& a : t.axes) a.tile = 4;
                  return t;
                })[0], want, 1e-12);
    for (const char* arch : {"avx512", "v128"}) expect_near(test::run_tiles(k.graph, k.inputs, [&](tile::Kernel t) { return plan_cpu(t, arch); })[0], want, 1e-12);
  }
}

// At up to 30 elements of every input; the gradient's kernels, too.
TEST(Convolution, GradientsMatchCentralDifferences) {
  std::mt19937_64 random(6);
  for (const test::Convolution& c : test::convolutions()) {
    test::Case k = test::case_of(c, DType::f64);
    SCOPED_TRACE(k.name);
    const Graph value = test::loss_graph(k.graph, false), gradient = test::loss_graph(k.graph, true);
    const std::vector<HostTensor> got = interpret(gradient, k.inputs);
    const std::vector<HostTensor> tiles = test::run_tiles(gradient, k.inputs, [](tile::Kernel t) { return plan_cpu(t, "avx512"); });
    for (size_t a = 0; a < k.inputs.size(); ++a) {
      EXPECT_LE(compare(tiles[a], got[a]).error, 1e-12) << "input " << a;
      HostTensor& x = k.inputs[a];
      for (int64_t n = 0; n < std::min<int64_t>(x.size(), 30); ++n) {
        const int64_t i = x.size() <= 30 ? n : static_cast<int64_t>(random() % static_cast<uint64_t>(x.size()));
        const double at = x.at(i), h = 1e-5;
        x.set(i, Scalar::of(DType::f64, at + h));
        const double up = interpret(value, k.inputs)[0].at(0);
        x.set(i, Scalar::of(DType::f64, at - h));
        const double down = interpret(value, k.inputs)[0].at(0);
        x.set(i, Scalar::of(DType::f64, at));
        ASSERT_NEAR(got[a].at(i), (up - down) / (2 * h), 1e-7) << "input " << a << " element " << i;
      }
    }
  }
}

// Where the copy engine feeds products of short floats, strides' gradients are a product for each phase: of bf16 here, with the same sums.
TEST(Convolution, PhasesGiveWhatOneProductGives) {
  const auto products = [](const Graph& g) { return std::count_if(g.nodes.begin(), g.nodes.end(), [](const Node& n) { return n.op == Op::contract; }); };
  int in_phases = 0;
  for (const test::Convolution& c : test::convolutions()) {
    const test::Case k = test::case_of(c, DType::f32);
    SCOPED_TRACE(k.name);
    Model m;
    const auto [y, x] = test::build(c, m, DType::f32);
    m.output("y", y);
    m.output("dx", grad(sum(y * y), {x})[0]);
    const Graph g = m.finish();
    PassContext one, apart;
    one.compute = apart.compute = DType::bf16;
    apart.row_bytes = 16;
    const Graph whole = expand(g, one), parts = expand(g, apart);
    in_phases += products(parts) > products(whole);
    const std::vector<HostTensor> want = interpret(whole, k.inputs), got = interpret(parts, k.inputs);
    for (size_t o = 0; o < want.size(); ++o) expect_near(got[o], want[o].to_doubles(), 1e-5);
  }
  EXPECT_EQ(in_phases, 6);   // where there are more phases than one, and 8 at most
}

// The derivative of a derivative: of the squared norm of the kernel's gradient.
TEST(Convolution, SecondDerivative) {
  const auto loss = [](Model& m) {
    const Tensor x = m.input("x", DType::f64, {2, 2, 5, 6}), w = m.input("w", DType::f64, {3, 2, 3, 2});
    const Tensor y = conv(x, w, {}, {.stride = {2, 1}, .low = {1}});
    const Tensor g = grad(sum(y * y), {w})[0];
    return std::pair(sum(g * g), x);
  };
  Model value, derivative;
  value.output("loss", loss(value).first);
  const auto [l, x] = loss(derivative);
  derivative.output("g", grad(l, {x})[0]);
  const Graph f = expanded(value.finish()), g = expanded(derivative.finish());
  std::mt19937_64 random(7);
  std::vector<HostTensor> inputs = {test::random_tensor({DType::f64, {2, 2, 5, 6}, {}}, -1, 1, random), test::random_tensor({DType::f64, {3, 2, 3, 2}, {}}, -1, 1, random)};
  const HostTensor got = interpret(g, inputs)[0];
  for (int64_t i = 0; i < got.size(); i += 7) {
    const double at = inputs[0].at(i), h = 1e-5;
    inputs[0].set(i, Scalar::of(DType::f64, at + h));
    const double up = interpret(f, inputs)[0].at(0);
    inputs[0].set(i, Scalar::of(DType::f64, at - h));
    const double down = interpret(f, inputs)[0].at(0);
    inputs[0].set(i, Scalar::of(DType::f64, at));
    EXPECT_NEAR(got.at(i), (up - down) / (2 * h), 1e-6 * std::max(1.0, std::fabs(got.at(i)))) << "element " << i;
  }
}

TEST(Convolution, TiesOfMaxPoolShareEvenly) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {1, 1, 4});
  m.output("g", grad(sum(max_pool(x, {2}, {.stride = {1}})), {x})[0]);
  EXPECT_EQ(interpret(expanded(m.finish()), {HostTensor::from(DType::f64, {1, 1, 4}, {1, 3, 3, 2})})[0].to_doubles(), (std::vector<double>{0, 1.5, 1.5, 0}));
}

TEST(Convolution, SamePaddingKeepsExtents) {
  for (int64_t stride : {1, 2, 3})
    for (int64_t kernel : {1, 2, 3, 5})
      for (int64_t n : {4, 7, 9}) {
        Model m;
        const Tensor x = m.input("x", DType::f32, {1, 2, n, n}), w = m.input("w", DType::f32, {3, 2, kernel, kernel});
        const ConvOptions o = same_padding(x, {kernel}, {.stride = {stride}});
        EXPECT_EQ(conv(x, w, {}, o).shape(), (Shape{1, 3, ceil_div(n, stride), ceil_div(n, stride)})) << n << " by " << kernel << " in steps of " << stride;
      }
}

TEST(Convolution, GlobalPools) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {1, 2, 2, 2});
  m.output("max", global_max_pool(x));
  m.output("mean", global_avg_pool(x));
  const auto got = interpret(expanded(m.finish()), {HostTensor::from(DType::f64, {1, 2, 2, 2}, {1, 2, 3, 6, -1, -2, -3, -4})});
  EXPECT_EQ(got[0].to_doubles(), (std::vector<double>{6, -1}));
  EXPECT_EQ(got[1].to_doubles(), (std::vector<double>{3, -2.5}));
}

// Forward and backward: as many kernels as there must be, and no value larger than the tensors of the model.
TEST(Convolution, MakesNoTensorOfWindows) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {2, 16, 14, 14}), w = m.input("w", DType::f32, {32, 16, 3, 3}), b = m.input("b", DType::f32, {32});
  const Tensor y = max_pool(relu(conv(x, w, b, {.low = {1}})), {2}), z = avg_pool(y, {3}, {.stride = {2}, .low = {1}});
  const std::vector<Tensor> g = grad(sum(z * z), {x, w, b});
  for (size_t i = 0; i < g.size(); ++i) m.output(std::to_string(i), g[i]);
  PassContext context;
  const Graph kernels = run_pipeline(m.finish(), context);
  int products = 0;
  for (const Node& n : kernels.nodes) {
    for (const Type& t : n.type.results) EXPECT_LE(t.size(), 2 * 32 * 14 * 14) << to_string(t);
    if (n.op == Op::call)
      for (const Node& inner : n.attrs.body->nodes) products += inner.op == Op::contract;
  }
  EXPECT_EQ(products, 3);   // forward, data gradient, weight gradient
}

// --- norms ---
std::vector<HostTensor> norm_inputs(const Shape& shape, int vectors) {
  std::mt19937_64 random(9);
  std::vector<HostTensor> out = {test::random_tensor({DType::f64, shape, {}}, -2, 3, random)};
  for (int v = 0; v < vectors; ++v) out.push_back(test::random_tensor({DType::f64, {shape[1]}, {}}, 0.5, 2, random));
  return out;
}
// Elements that share `part(n, c)` are normalised together.
std::vector<double> normalised(const std::vector<HostTensor>& in, double epsilon, const std::function<int64_t(int64_t n, int64_t c)>& part) {
  const HostTensor& x = in[0];
  const int64_t channels = x.shape[1], inner = x.size() / x.shape[0] / channels;
  std::map<int64_t, std::vector<int64_t>> parts;
  for (int64_t i = 0; i < x.size(); ++i) parts[part(i / inner / channels, i / inner % channels)].push_back(i);
  std::vector<double> y(static_cast<size_t>(x.size()));
  for (const auto& [p, elements] : parts) {
    double mean = 0, variance = 0;
    for (int64_t i : elements) mean += x.at(i) / static_cast<double>(elements.size());
    for (int64_t i : elements) variance += (x.at(i) - mean) * (x.at(i) - mean) / static_cast<double>(elements.size());
    for (int64_t i : elements) y[static_cast<size_t>(i)] = (x.at(i) - mean) / std::sqrt(variance + epsilon) * in[1].at(i / inner % channels) + in[2].at(i / inner % channels);
  }
  return y;
}

TEST(Norm, MatchDefinitions) {
  const Shape shape = {3, 4, 5, 2};
  const auto in = norm_inputs(shape, 4);
  Model m;
  std::vector<Tensor> v;
  const Tensor x = m.input("x", DType::f64, shape);
  for (const char* name : {"scale", "shift", "mean", "variance"}) v.push_back(m.input(name, DType::f64, {4}));
  const BatchNorm trained = batch_norm(x, v[0], v[1], 1e-3);
  m.output("batch", trained.y);
  m.output("again", batch_norm(x, v[0], v[1], trained.mean, trained.variance, 1e-3));
  m.output("group", group_norm(x, 2, v[0], v[1], 1e-3));
  m.output("instance", instance_norm(x, v[0], v[1], 1e-3));
  m.output("given", batch_norm(x, v[0], v[1], v[2], v[3], 0));
  m.output("rms", rms_norm(x, reshape(slice(v[0], 0, 0, 2), {2}), 1e-3));
  const auto got = interpret(expanded(m.finish()), in);
  expect_near(got[0], normalised(in, 1e-3, [](int64_t, int64_t c) { return c; }), 1e-12);
  expect_near(got[1], got[0].to_doubles(), 1e-12);
  expect_near(got[2], normalised(in, 1e-3, [](int64_t n, int64_t c) { return n * 2 + c / 2; }), 1e-12);
  expect_near(got[3], normalised(in, 1e-3, [](int64_t n, int64_t c) { return n * 4 + c; }), 1e-12);
  for (int64_t i = 0; i < got[4].size(); ++i) {
    const int64_t c = i / 10 % 4;
    EXPECT_NEAR(got[4].at(i), (in[0].at(i) - in[3].at(c)) / std::sqrt(in[4].at(c)) * in[1].at(c) + in[2].at(c), 1e-12);
    const double a = in[0].at(i - i % 2), b = in[0].at(i - i % 2 + 1);
    EXPECT_NEAR(got[5].at(i), in[0].at(i) / std::sqrt((a * a + b * b) / 2 + 1e-3) * in[1].at(i % 2), 1e-12);
  }
}

}  // namespace
}  // namespace quern
