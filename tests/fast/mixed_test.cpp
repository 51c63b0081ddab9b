// Mixed precision (passes/graph/mixed.h): what is short and what stays f32, how far that moves results, and kernels of it.
#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "ir/op.h"
#include "ir/text.h"
#include "models/zoo.h"
#include "passes/graph/mixed.h"
#include "passes/tile/fast.h"
#include "passes/tile/nested.h"
#include "passes/tile/plan.h"
#include "tests/support/distance.h"
#include "tests/support/sweep.h"
#include "tools/fuzz_graphs.h"

namespace quern {
namespace {

Graph in_f32(const Graph& graph) {
  PassContext context;
  return expand(graph, context);
}
PassContext short_products() {
  PassContext context;
  context.compute = DType::bf16;
  return context;
}
Graph in_bf16(const Graph& graph) {
  PassContext context = short_products();
  return expand(graph, context);
}
Graph small_gpt() { return zoo::gpt_step({.batch = 2, .time = 8, .layers = 2, .width = 16, .heads = 2, .vocabulary = 33}).graph; }
Graph small_mlp() { return mlp_step({20, 4, {16}, 0}, 8, {}, 1).graph; }

std::vector<HostTensor> values_of(const Graph& graph, std::mt19937_64& random) {
  std::vector<HostTensor> out;
  for (NodeId i : graph.inputs) {   // second moments (Adam's) are never negative
    const bool counts = !is_float(graph.type(i).dtype), moment = graph.at(i).attrs.name.ends_with(".v");
    out.push_back(test::random_tensor(graph.type(i), counts || moment ? 0 : -0.4, counts ? 4 : 0.4, random));
  }
  return out;
}

using test::apart;

TEST(Mixed, MastersAreCastOnceAndGradientsAreSums) {
  for (const Graph& whole : {small_mlp(), small_gpt()}) {
    const Graph g = in_bf16(whole);
    verify(g);
    std::vector<int> casts(g.nodes.size());
    int64_t sums = 0, products = 0, matrices = 0;
    for (const Node& n : g.nodes) {
      if (n.op == Op::cast && n.type.dtype == DType::bf16) ++casts[static_cast<size_t>(n.args[0])];
      if (means<Reduce>(n.op) || n.op == Op::log || n.op == Op::sqrt || means<PutAdd>(n.op)) {
        EXPECT_NE(n.type.dtype, DType::bf16) << name_of(n.op);
      }
      if (!means<Contract>(n.op)) continue;
      ++products;
      for (NodeId a : n.args) EXPECT_TRUE(g.type(a).dtype == DType::bf16 || (g.at(a).op == Op::cast && g.type(g.at(a).args[0]).dtype == DType::bf16));
      sums += n.type.dtype == DType::f32;
    }
    for (const State& s : g.states) {
      const bool weight = s.name.ends_with(".weight");
      matrices += weight;
      EXPECT_EQ(g.type(s.input), whole.type(whole.inputs[static_cast<size_t>(std::find(g.inputs.begin(), g.inputs.end(), s.input) - g.inputs.begin())]));
      EXPECT_EQ(g.type(s.input), g.type(s.output));
      if (weight || s.name == "token.table") {
        EXPECT_EQ(casts[static_cast<size_t>(s.input)], 1) << s.name;
      } else {
        EXPECT_LE(casts[static_cast<size_t>(s.input)], 1) << s.name;
      }
    }
    EXPECT_GE(sums, matrices) << "each weight's gradient is an f32 sum";
    EXPECT_LT(sums, products / 2 + 1) << "what is between products is short";
  }
}

TEST(Mixed, NearF32) {
  for (const Graph& whole : {small_mlp(), small_gpt()}) {
    std::mt19937_64 random(3);
    const std::vector<HostTensor> inputs = values_of(whole, random);
    const Graph open = in_f32(whole);
    const auto want = interpret(open, inputs), got = interpret(in_bf16(whole), inputs);
    ASSERT_EQ(got.size(), want.size());
    EXPECT_LE(apart(got[0], want[0]), 0x1p-8) << "the loss";
    EXPECT_GT(apart(got[0], want[0]), 0);
    // First moments that began as zeros are gradients.
    std::vector<HostTensor> still = inputs;
    for (size_t i = 0; i < still.size(); ++i)
      if (const std::string& name = whole.at(whole.inputs[i]).attrs.name; name.ends_with(".m") || name.ends_with(".v")) still[i] = HostTensor(still[i].dtype, still[i].shape);
    const auto exact = interpret(open, still), rounded = interpret(in_bf16(whole), still);
    for (size_t s = 0; s < open.states.size(); ++s) {
      if (!open.states[s].name.ends_with(".m")) continue;
      EXPECT_LE(apart(rounded[open.outputs.size() + s], exact[open.outputs.size() + s]), 0x1p-5) << open.states[s].name;
    }
  }
}

// What is mixed stays as it is, and so do products that the user wrote in bf16.
TEST(Mixed, TwiceIsOnce) {
  for (const Graph& whole : {small_mlp(), small_gpt()}) {
    const Graph once = in_bf16(whole);
    EXPECT_EQ(mixed(once, DType::bf16).nodes.size(), once.nodes.size());
  }
}

// What derivatives update in f16 wants a loss scale; a forward pass does not, nor do outputs of gradients.
TEST(Mixed, StepsInF16WantALossScale) {
  PassContext f16;
  f16.compute = DType::f16;
  const Optimizer scaled{.clip_norm = 1, .loss_scale = kLossScale};
  EXPECT_THROW(expand(small_mlp(), f16), Error);
  EXPECT_THROW(expand(small_gpt(), f16), Error);
  const Graph step = mlp_step({20, 4, {16}, 0}, 8, scaled, 1).graph, mixed = expand(step, f16);
  verify(mixed);
  EXPECT_EQ(expand(mixed, f16).nodes.size(), mixed.nodes.size());
  for (const State& s : mixed.states) EXPECT_EQ(mixed.type(s.output).dtype, DType::f32) << s.name;
  expand(zoo::gpt_step({.batch = 2, .time = 8, .layers = 1, .width = 16, .heads = 2, .vocabulary = 33}, scaled).graph, f16);
  expand(mlp_predict({20, 4, {16}, 0}, 8), f16);
  expand(zoo::lstm_gradients({.batch = 2, .steps = 3, .in = 4, .hidden = 5}).graph, f16);
}

// Kernels of mixed graphs on the tile interpreter, with ragged tiles, in both ways of rounding.
TEST(Mixed, ThroughTiles) {
  std::mt19937_64 random(12);
  Coverage coverage;
  const auto check = [&](const Graph& g, Fp fp) {
    const std::vector<HostTensor> inputs = values_of(g, random);
    PassContext context = short_products();
    context.fp = fp;
    const Graph reference = expand(g, context);
    const auto want = interpret(reference, inputs), got = test::run_tiles(g, inputs, [](tile::Kernel kernel) {
      test::tile_by(kernel, 5);
      return kernel; }, context);
    const double bound = fp == Fp::fast ? 0x1p-5 : 1e-3;
    for (size_t o = 0; o < want.size(); ++o)
      if (is_float(want[o].dtype)) {
        EXPECT_LE(apart(got[o], want[o]), bound) << o;
      }
  };
  for (const Fp fp : {Fp::standard, Fp::fast}) check(small_mlp(), fp), check(small_gpt(), fp);
  for (int k = 0; k < 120; ++k) {
    const Graph g = random_graph(random, coverage);
    const std::vector<HostTensor> inputs = random_inputs(g, random);
    PassContext context = short_products();
    const Graph reference = expand(g, context);
    verify(reference);
    const auto want = interpret(reference, inputs);
    const auto got = test::run_tiles(g, inputs, [](tile::Kernel kernel) {
      test::tile_by(kernel, 5);
      return kernel; }, context);
    for (size_t o = 0; o < want.size(); ++o) ASSERT_LE(compare(got[o], want[o]).error, tolerance_of(reference).bound()) << to_string(g);
  }
}

// As a GPU plans them: axes and dims of products regrouped, rows in longer ones, maps that need not round.
TEST(Mixed, ThroughGpuPlans) {
  std::mt19937_64 random(13);
  Coverage coverage;
  const auto check = [&](const Graph& g, const std::vector<HostTensor>& inputs, DType compute) {
    PassContext context;
    context.compute = compute;
    const Graph reference = expand(g, context);
    context.row_bytes = 16;
    context.op_share = 0.25;
    const auto want = interpret(reference, inputs), got = test::run_tiles(g, inputs, [](const tile::Kernel& kernel) { return fast_maps(plan_cuda(kernel, "sm_90a")); }, context);
    for (size_t o = 0; o < want.size(); ++o) ASSERT_LE(compare(got[o], want[o]).error, tolerance_of(reference).bound()) << to_string(g);
  };
  for (const DType compute : {DType::f32, DType::bf16}) {
    for (const Graph& g : {small_mlp(), small_gpt()}) check(g, values_of(g, random), compute);
    for (int k = 0; k < 80; ++k) {
      const Graph g = random_graph(random, coverage);
      check(g, random_inputs(g, random), compute);
    }
  }
}

// Attention's scores round nowhere on their way, and the row sum that its gradient wants is one of results, though these came of rounded weights:
// forward and backward its kernels have roles on sm_90a, and nothing of the square is in memory.
TEST(Mixed, AttentionStaysInRoles) {
  const zoo::GptSize size{.batch = 1, .time = 132, .layers = 1, .width = 128, .heads = 2, .vocabulary = 33};
  const Graph g = zoo::gpt_step(size).graph;
  PassContext context = short_products();
  context.fp = Fp::fast;
  set_target(context, parse_target("cuda:sm_90a"));
  PassContext seen = context;
  const Graph kernels = run_pipeline(g, seen);
  EXPECT_TRUE(seen.in_memory.empty()) << seen.in_memory[0];
  for (const Node& n : kernels.nodes)
    for (const Type& t : n.type.results) EXPECT_FALSE(t.shape.size() > 2 && t.shape[t.shape.size() - 1] == size.time && t.shape[t.shape.size() - 2] == size.time) << to_string(t);
  std::mt19937_64 random(14);
  const std::vector<HostTensor> inputs = values_of(g, random);
  int in_roles = 0;
  const auto want = interpret(in_f32(g), inputs), got = test::run_tiles(g, inputs, [&](const tile::Kernel& kernel) {
    const tile::Kernel planned = plan_cuda(kernel, "sm_90a");
    in_roles += has_nested_products(kernel) && !planned.phases[0].roles.empty();
    return planned; }, context);
  EXPECT_EQ(in_roles, 3);
  for (size_t o = 0; o < want.size(); ++o)
    if (is_float(want[o].dtype)) {
      EXPECT_LE(apart(got[o], want[o]), 0x1p-4) << o;
    }
}

}  // namespace
}  // namespace quern
