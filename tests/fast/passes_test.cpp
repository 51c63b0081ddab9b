// The passes: goldens in text, the rule table as its own fuzz test, the partition's verdicts, memory and order.
#include <random>

#include <gtest/gtest.h>

#include "frontend/nn.h"
#include "ir/text.h"
#include "passes/graph/rules.h"
#include "passes/plan/memory.h"
#include "passes/plan/order.h"
#include "tests/support/sweep.h"
#include "tools/fuzz_graphs.h"

namespace quern {
namespace {

std::string body_of(const Graph& g) { return to_string(g); }

TEST(Simplify, HeaderExample) {
  const Graph g = parse_graph(R"(graph (%0: f32[3] "x") {
    %1 = constant {value=f32[3] splat 1} : f32[3]
    %2 = neg %0 : f32[3]
    %3 = neg %2 : f32[3]
    %4 = mul %3, %1 : f32[3]
    output "y" %4
  })");
  // The constant is a splat of several elements; fold keeps it, the rule sees a scalar broadcast only.
  GraphBuilder b;
  const NodeId x = b.input("x", {DType::f32, {3}, {}});
  b.output("y", b.add(Op::mul, {b.add(Op::neg, {b.add(Op::neg, {x})}), b.full(b.type(x), 1)}));
  PassContext context;
  EXPECT_EQ(body_of(simplify(b.finish(), context)), "graph (%0: f32[3] \"x\") {\n  output \"y\" %0\n}\n");
  EXPECT_EQ(simplify(g, context).nodes.size(), 3u);
}

TEST(Fold, HeaderExample) {
  GraphBuilder b;
  b.output("y", b.add(Op::mul, {b.scalar(DType::f32, 2), b.scalar(DType::f32, 3)}));
  PassContext context;
  EXPECT_EQ(body_of(fold(b.finish(), context)), "graph () {\n  %0 = constant {value=f32[] [6]} : f32[]\n  output \"y\" %0\n}\n");
}

// Every pass but partition must give the same bits on random graphs, which the interpreter sees before and after.
// -x of an unsigned integer is another number, and so is its absolute value.
TEST(Simplify, AbsOfNegOfUnsigned) {
  for (const DType d : {DType::u8, DType::i8}) {
    GraphBuilder b;
    const NodeId x = b.input("x", {d, {1}, {}});
    b.output("y", b.add(Op::abs, {b.add(Op::neg, {x})}));
    PassContext context;
    const Graph g = b.finish();
    EXPECT_EQ(interpret(simplify(g, context), {HostTensor::full(d, {1}, 3)})[0].at(0), is_unsigned(d) ? 253 : 3);
  }
}

TEST(Rules, BitEqualOnRandomGraphs) {
  std::mt19937_64 random(5);
  Coverage coverage;
  int64_t rewrites = 0;
  for (int k = 0; k < 600; ++k) {
    const Graph g = random_graph(random, coverage);
    const std::vector<HostTensor> inputs = random_inputs(g, random);
    PassContext context;
    const Graph expanded = expand(g, context);
    const Graph after = fold(simplify(expanded, context), context);
    verify(after);
    rewrites += context.rewrites;
    const auto want = interpret(expanded, inputs), got = interpret(after, inputs);
    for (size_t o = 0; o < want.size(); ++o) ASSERT_EQ(compare(got[o], want[o]).error, 0) << to_string(g);
  }
  EXPECT_GT(rewrites, 100);
}

// A chain of short floats: fewer roundings, so nearer to what f64 says; each counted.
TEST(Precision, FastIsNearerToTheTruth) {
  const auto chain = [](DType dtype) {
    Model m;
    Tensor x = m.input("x", dtype, {40, 25});
    for (int k = 0; k < 8; ++k) x = tanh(x * 1.5 + 0.25);
    m.output("y", x);
    m.output("rows", sum(x, {1}));
    return m.finish();
  };
  std::mt19937_64 random(4);
  const HostTensor exact = test::random_tensor({DType::f64, {40, 25}, {}}, -1, 1, random);
  HostTensor rounded(DType::bf16, exact.shape), same(DType::f64, exact.shape);
  for (int64_t i = 0; i < exact.size(); ++i) rounded.set(i, Scalar::of(DType::bf16, exact.at(i))), same.set(i, Scalar::of(DType::f64, rounded.at(i)));
  const std::vector<HostTensor> truth = interpret(chain(DType::f64), {same});
  const auto distance = [&](Fp fp, size_t output) {
    PassContext context;
    context.fp = fp;
    const Graph kernels = run_pipeline(chain(DType::bf16), context);
    EXPECT_EQ(context.ledger.empty(), fp != Fp::fast);
    if (fp == Fp::fast) {
      EXPECT_EQ(context.ledger[0].roundings, 24);   // of 24 values, the last one used by the sum
    }
    const HostTensor got = interpret(kernels, {rounded})[output];
    double sum = 0;
    for (int64_t i = 0; i < got.size(); ++i) sum += std::abs(got.at(i) - truth[output].at(i));
    return sum;
  };
  EXPECT_LT(distance(Fp::fast, 0), 0.7 * distance(Fp::standard, 0));
  EXPECT_LT(distance(Fp::fast, 1), 0.9 * distance(Fp::standard, 1));
}

// Kernels after partition, on the tile interpreter, with ragged tiles.
TEST(Partition, RandomGraphsThroughTiles) {
  std::mt19937_64 random(6);
  Coverage coverage;
  for (int k = 0; k < 240; ++k) {
    const Graph g = random_graph(random, coverage);
    const std::vector<HostTensor> inputs = random_inputs(g, random);
    PassContext context;
    const Graph expanded = expand(g, context);
    const auto want = interpret(expanded, inputs);
    const auto got = test::run_tiles(g, inputs, [](tile::Kernel kernel) {
      test::tile_by(kernel, 5);
      return kernel;
    });
    for (size_t o = 0; o < want.size(); ++o) ASSERT_LE(compare(got[o], want[o]).error, tolerance_of(expanded).bound()) << to_string(g);
  }
}

int kernels_of(Model& model) {
  PassContext context;
  const Graph g = run_pipeline(model.finish(), context);
  int calls = 0;
  for (const Node& n : g.nodes) calls += n.op == Op::call;
  return calls;
}

TEST(Partition, KernelCounts) {
  Model softmax_model;
  softmax_model.output("y", softmax(softmax_model.input("x", DType::f32, {64, 256})));
  EXPECT_EQ(kernels_of(softmax_model), 1);
  Model norm;
  const Tensor x = norm.input("x", DType::f32, {64, 256});
  norm.output("y", layer_norm(x, norm.input("w", DType::f32, {256}), norm.input("b", DType::f32, {256})));
  EXPECT_EQ(kernels_of(norm), 1);
  Model dense;
  const Tensor a = dense.input("a", DType::f32, {64, 32}), w = dense.input("w", DType::f32, {32, 16}), b = dense.input("b", DType::f32, {16});
  dense.output("y", gelu(linear(a, w, b)));
  EXPECT_EQ(kernels_of(dense), 1);
}

TEST(Vmap, OfMapsReductionsAndProducts) {
  GraphBuilder inner;
  const NodeId x = inner.input("x", {DType::f64, {3}, {}}), w = inner.input("w", {DType::f64, {3, 2}, {}});
  Attrs spec, axes;
  spec.spec = "k,kn->n";
  axes.axes = {0};
  inner.output("y", inner.add(Op::tanh, {inner.add(Op::contract, {x, w}, spec)}));
  inner.output("s", inner.add(Op::reduce_sum, {x}, axes));
  const Graph body = inner.finish();
  GraphBuilder b;
  Attrs call;
  call.transform = Transform::vmap;
  call.body = std::make_shared<const Graph>(body);
  const NodeId bx = b.input("x", {DType::f64, {5, 3}, {}}), bw = b.input("w", {DType::f64, {5, 3, 2}, {}});
  const NodeId c = b.add(Op::call, {bx, bw}, call);
  for (NodeId r : b.results(c)) b.output("", r);
  PassContext context;
  const Graph g = expand(b.finish(), context);
  std::mt19937_64 random(3);
  const HostTensor xs = test::random_tensor({DType::f64, {5, 3}, {}}, -1, 1, random), ws = test::random_tensor({DType::f64, {5, 3, 2}, {}}, -1, 1, random);
  const auto got = interpret(g, {xs, ws});
  for (int64_t lane = 0; lane < 5; ++lane) {
    HostTensor one(DType::f64, {3}), two(DType::f64, {3, 2});
    for (int64_t i = 0; i < 3; ++i) one.set(i, xs.get(lane * 3 + i));
    for (int64_t i = 0; i < 6; ++i) two.set(i, ws.get(lane * 6 + i));
    const auto want = interpret(body, {one, two});
    for (int64_t i = 0; i < 2; ++i) EXPECT_DOUBLE_EQ(got[0].at(lane * 2 + i), want[0].at(i));
    EXPECT_DOUBLE_EQ(got[1].at(lane), want[1].at(0));
  }
}

TEST(Memory, NoOverlapAndNearTheBound) {
  std::mt19937_64 random(9);
  double worst = 1;
  for (int k = 0; k < 200; ++k) {
    std::vector<Lifetime> values;
    for (int i = 0; i < 40; ++i) {
      const int first = static_cast<int>(random() % 30);
      values.push_back({static_cast<int64_t>(random() % 5000), first, first + static_cast<int>(random() % 6)});
    }
    const MemoryPlan plan = plan_memory(values);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(plan.offsets[i] % 64, 0);
      ASSERT_LE(plan.offsets[i] + values[i].bytes, plan.total);
      for (size_t j = 0; j < i; ++j) {
        const bool together = values[i].first <= values[j].last && values[j].first <= values[i].last;
        const bool apart = plan.offsets[i] + values[i].bytes <= plan.offsets[j] || plan.offsets[j] + values[j].bytes <= plan.offsets[i];
        ASSERT_TRUE(!together || apart || values[i].bytes == 0 || values[j].bytes == 0);
      }
    }
    worst = std::max(worst, static_cast<double>(plan.total) / static_cast<double>(plan.lower_bound));
  }
  std::printf("worst total / lower bound of 200 random plans: %.3f\n", worst);
  EXPECT_LE(worst, 1.25);
}

}  // namespace
}  // namespace quern
