// Products that every kernel computes for itself (passes/graph/recompute.h): which they are, what the kernels that nest them
// mean as lowered and as planned for each CPU, and the sums that take a shorter way (passes/graph/reassociate.cpp).
#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/shape.h"
#include "ir/interpret.h"
#include "ir/text.h"
#include "passes/tile/lower.h"
#include "passes/tile/nested.h"
#include "passes/tile/plan.h"
#include "passes/tile/roles_nested.h"
#include "tests/support/sweep.h"

namespace quern {
namespace {

constexpr int64_t kTime = 130;

Graph attention_graph(int64_t heads, int64_t groups, bool gradient, const Attention& options) {
  Model m;
  const Tensor q = m.input("q", DType::f64, {1, heads, kTime, 3}), k = m.input("k", DType::f64, {1, groups, kTime, 3}), v = m.input("v", DType::f64, {1, groups, kTime, 3});
  const Tensor y = attention(q, k, v, options);
  m.output("y", y);
  if (gradient) {
    const std::vector<Tensor> d = grad(sum(y * y * y), {q, k, v});
    for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
  }
  PassContext context;
  return expand(m.finish(), context);
}
std::vector<HostTensor> inputs_of(const Graph& graph) {
  std::mt19937_64 random(3);
  std::vector<HostTensor> out;
  for (NodeId i : graph.inputs) out.push_back(test::random_tensor(graph.type(i), -2, 2, random));
  return out;
}
PassContext nested() {
  PassContext context;
  context.nested_products = true;
  return context;
}
int64_t calls(const Graph& kernels) {
  return std::count_if(kernels.nodes.begin(), kernels.nodes.end(), [](const Node& n) { return n.op == Op::call; });
}
int64_t largest_result(const Graph& kernels) {
  int64_t most = 0;
  for (const Node& n : kernels.nodes)
    if (n.op == Op::result) most = std::max(most, n.type.size());
  return most;
}

TEST(Recompute, KernelsMeanTheSameAsLoweredAndAsPlanned) {
  const Graph graph = attention_graph(2, 1, true, {.causal = true});
  const std::vector<HostTensor> inputs = inputs_of(graph), want = interpret(graph, inputs);
  for (const char* arch : {"", "avx512", "avx2", "v128"}) {
    int64_t nests = 0;
    const auto plan = [&](const tile::Kernel& k) {
      nests += has_nested_products(k);
      return *arch ? plan_cpu(k, arch) : k;
    };
    const std::vector<HostTensor> got = test::run_tiles(graph, inputs, plan, nested());
    EXPECT_GE(nests, 4);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-12) << arch << " output " << o;
  }
}

// Blocks of scores that a mask empties are left out, and NaN stays where the graph has it: in rows that see nothing.
TEST(Recompute, LoopsWalkWhatAMaskLeaves) {
  constexpr int64_t kQueries = 130;
  const auto build = [](int64_t keys, int64_t future, int64_t past, bool plain) {
    Model m;
    const Tensor q = m.input("q", DType::f64, {2, kQueries, 3}), k = m.input("k", DType::f64, {2, keys, 3}), v = m.input("v", DType::f64, {2, keys, 3});
    GraphBuilder& g = q.graph();
    const Tensor row = iota(g, DType::i32, {kQueries, keys}, 0), column = iota(g, DType::i32, {kQueries, keys}, 1), s = contract("bid,bjd->bij", q, k);
    Tensor seen = less_equal(column, row + static_cast<double>(future));
    if (past) seen = logical_and(seen, less(row - static_cast<double>(past), column));
    const Tensor masked = plain ? s + where(seen, full(g, DType::f64, {}, 0), full(g, DType::f64, {}, -INFINITY)) : where(seen, s, full(g, DType::f64, {}, -INFINITY));
    const Tensor y = contract("bij,bjd->bid", softmax(masked), v);
    m.output("y", y);
    const std::vector<Tensor> d = grad(sum(y * y * y), {q, k, v});
    for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
    PassContext context;
    return expand(m.finish(), context);
  };
  struct Case {
    int64_t keys, future, past;
    bool added;
    int64_t from, to;   // loops that begin later, and that end earlier
  };
  for (const Case& c : {Case{130, 0, 0, false, 1, 3}, {130, 0, 0, true, 1, 3}, {170, 40, 0, false, 1, 3}, {130, 9, 0, false, 1, 3}, {130, 0, 25, false, 4, 4}, {100, -30, 0, false, 0, 0}, {150, 5, 0, false, 0, 0}}) {   // rows that see nothing; keys that no row sees
    SCOPED_TRACE(fmt::format("{} keys, {} ahead, {} behind{}", c.keys, c.future, c.past, c.added ? ", added" : ""));
    const Graph graph = build(c.keys, c.future, c.past, c.added);
    const std::vector<HostTensor> inputs = inputs_of(graph), want = interpret(graph, inputs);
    int64_t from = 0, to = 0;
    const auto plan = [&](const tile::Kernel& k) {
      const tile::Kernel planned = plan_cpu(k, "avx2");
      for (const tile::Axis& a : planned.axes) from += a.from.has_value(), to += a.to.has_value();
      return planned;
    };
    const std::vector<HostTensor> got = test::run_tiles(graph, inputs, plan, nested());
    EXPECT_EQ(from, c.from);
    EXPECT_EQ(to, c.to);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-12) << "output " << o;
  }
}

// Maxima and sums of the rows are found in one walk, also where a maximum is infinite, NaN, or -inf at first or for good.
TEST(Recompute, RowsAreWalkedOnce) {
  for (bool guarded : {true, false}) {
    SCOPED_TRACE(guarded);
    Model m;
    const Tensor q = m.input("q", DType::f64, {2, kTime, 3}), k = m.input("k", DType::f64, {2, kTime, 3}), v = m.input("v", DType::f64, {2, kTime, 3}), bias = m.input("bias", DType::f64, {kTime, 1});
    const Tensor s = contract("bid,bjd->bij", q, k) + bias, top = expand_dims(max(s, {-1}), -1), shift = guarded ? where(is_finite(top), top, 0) : top, e = exp(s - shift), total = expand_dims(sum(e, {-1}), -1);
    m.output("total", total);
    m.output("y", contract("bij,bjd->bid", e / total, v));
    PassContext context;
    const Graph graph = expand(m.finish(), context);
    std::vector<HostTensor> inputs = inputs_of(graph);
    const auto put = [](HostTensor& t, int64_t i, double value) { t.set(i, Scalar::of(DType::f64, value)); };
    put(inputs[0], 3 * 3, 0);                // times infinity: NaN, from the second such key on
    put(inputs[1], 5 * 3, -INFINITY);
    put(inputs[1], 77 * 3, INFINITY);
    put(inputs[3], 9, -INFINITY);
    put(inputs[3], 20, NAN);
    const std::vector<HostTensor> want = interpret(graph, inputs);
    int64_t walks = 0;
    const auto plan = [&](const tile::Kernel& k) {
      const tile::Kernel planned = plan_cpu(k, "avx2");
      for (const tile::Stmt& s : planned.phases[0].body)
        if (const auto* seq = std::get_if<tile::Seq>(&s.node)) walks += seq->carries.size() == 2 && std::any_of(seq->body.begin(), seq->body.end(), [](const tile::Stmt& t) { return std::holds_alternative<tile::Seq>(t.node); });
      return planned;
    };
    const std::vector<HostTensor> got = test::run_tiles(graph, inputs, plan, nested());
    EXPECT_EQ(walks, 1);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-12) << "output " << o;
  }
}

TEST(Recompute, NothingOfTheSquareIsAResult) {
  for (bool gradient : {false, true}) {
    PassContext context = nested(), plain;
    const Graph graph = attention_graph(1, 1, gradient, {}), kernels = run_pipeline(graph, context);
    EXPECT_LT(largest_result(kernels), kTime * kTime);
    EXPECT_EQ(largest_result(run_pipeline(graph, plain)), kTime * kTime);
    EXPECT_TRUE(std::any_of(context.verdicts.begin(), context.verdicts.end(), [](const Verdict& v) { return v.fused && v.reason.rfind("recomputed", 0) == 0; }));
    if (!gradient) {
      EXPECT_EQ(calls(kernels), 3) << to_string(kernels);   // scaled queries; maximum and sum of the rows; the result
    }
  }
}

TEST(Recompute, WhatIsAskedForIsThere) {   // weights that are a result are written, and read from there
  Model m;
  const Tensor q = m.input("q", DType::f64, {kTime, 3}), k = m.input("k", DType::f64, {kTime, 3});
  const Tensor weights = softmax(contract("id,jd->ij", q, k));
  m.output("weights", weights);
  m.output("y", matmul(weights, k));
  const Graph graph = m.finish();
  PassContext context;
  const std::vector<HostTensor> inputs = inputs_of(graph), want = interpret(expand(graph, context), inputs), got = test::run_tiles(graph, inputs, [](const tile::Kernel& k) { return plan_cpu(k, "avx2"); }, nested());
  for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-12) << o;
}

// Sums of a row, made while its maximum is found, that read the scores through statements of their own.
TEST(Recompute, TangentsOfMaskedRows) {
  const Graph graph = parse_graph(R"(graph (%0: f32[2,130,4] "q", %1: f32[2,130,4] "k", %2: f32[2,130,4] "v", %3: f32[2,130,4] "dq", %4: f32[2,130,4] "dk", %5: f32[2,130,4] "dv") {
  %6 = call %0, %1, %2, %3, %4, %5 {index=[0,1,2], transform=jvp, body=graph (%0: f32[2,130,4] "q", %1: f32[2,130,4] "k", %2: f32[2,130,4] "v") {
    %3 = contract %0, %1 {spec="hqd,hkd->hqk"} : f32[2,130,130]
    %4 = iota {axes=[2], shape=[2,130,130], dtype=i32} : i32[2,130,130]
    %5 = iota {axes=[1], shape=[2,130,130], dtype=i32} : i32[2,130,130]
    %6 = le %4, %5 : bool[2,130,130]
    %7 = constant {value=f32[] [-inf]} : f32[]
    %8 = broadcast %7 {shape=[2,130,130]} : f32[2,130,130]
    %9 = select %6, %3, %8 : f32[2,130,130]
    %10 = reduce_max %9 {axes=[2]} : f32[2,130]
    %11 = stop_gradient %10 : f32[2,130]
    %12 = broadcast %11 {axes=[0,1], shape=[2,130,130]} : f32[2,130,130]
    %13 = sub %9, %12 : f32[2,130,130]
    %14 = exp %13 : f32[2,130,130]
    %15 = reduce_sum %14 {axes=[2]} : f32[2,130]
    %16 = broadcast %15 {axes=[0,1], shape=[2,130,130]} : f32[2,130,130]
    %17 = div %14, %16 : f32[2,130,130]
    %18 = contract %17, %2 {spec="hqk,hkd->hqd"} : f32[2,130,4]
    output "y" %18
  }} : {f32[2,130,4], f32[2,130,4]}
  %7 = result %6 {index=[0]} : f32[2,130,4]
  %8 = result %6 {index=[1]} : f32[2,130,4]
  output "y" %7
  output "dy" %8
})");
  PassContext context;
  const std::vector<HostTensor> inputs = inputs_of(graph), want = interpret(expand(graph, context), inputs);
  for (const char* arch : {"avx512", "avx2", "v128"}) {
    const std::vector<HostTensor> got = test::run_tiles(graph, inputs, [&](const tile::Kernel& k) { return plan_cpu(k, arch); }, nested());
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5) << arch << " " << o;
  }
}

// The derivative of a maximum asks which score it was: computed again in another order, none is.
TEST(Recompute, WhatIsComparedWithItsMaximumIsKept) {
  for (const bool asked : {false, true}) {
    Model m;
    std::vector<Tensor> x;
    for (const char* name : {"q", "k", "v"}) x.push_back(m.input(name, DType::f32, {2, kTime, 3}));
    const Tensor scores = contract("hid,hjd->hij", x[0], x[1]), most = reshape(max(scores, {2}), {2, kTime, 1}), e = exp(scores - most);
    const Tensor y = contract("hij,hjd->hid", e / reshape(sum(e, {2}), {2, kTime, 1}), x[2]);
    const std::vector<Tensor> d = grad(asked ? sum(y * y) + sum(most) : sum(y * y), x);   // else the result is no function of it
    for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
    PassContext context = nested();
    EXPECT_EQ(largest_result(run_pipeline(m.finish(), context)) < 2 * kTime * kTime, !asked);
  }
}

TEST(Recompute, LayersOfPerceptronsAreKept) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {512, 64}), w = m.input("w", DType::f32, {64, 1024}), b = m.input("b", DType::f32, {1024}), u = m.input("u", DType::f32, {1024, 10});
  const Tensor loss = cross_entropy(matmul(relu(linear(x, w, b)), u), m.input("label", DType::i32, {512}));
  const std::vector<Tensor> d = grad(loss, {w, b, u});
  for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
  const Graph graph = m.finish();
  PassContext context = nested(), plain;
  EXPECT_EQ(to_string(run_pipeline(graph, context)), to_string(run_pipeline(graph, plain)));
}

TEST(Reassociate, TheRowSumOfScoresIsOneOfResults) {
  for (const auto& [heads, groups] : {std::pair<int64_t, int64_t>{2, 2}, {4, 2}}) {
    PassContext context = nested(), plain;
    std::map<std::string, Graph> stages;
    context.after = [&](const std::string& pass, const Graph& g) { stages[pass] = g; };
    const Graph graph = attention_graph(heads, groups, true, {});
    run_pipeline(graph, context);
    const Graph &before = stages.at("loops"), &after = stages.at("reassociate");
    const auto sums = [&](const Graph& g) {
      return std::count_if(g.nodes.begin(), g.nodes.end(), [&](const Node& n) { return n.op == Op::reduce_sum && g.type(n.args[0]).size() >= kTime * kTime; });
    };
    EXPECT_EQ(sums(before), 2);
    EXPECT_EQ(sums(after), 1);
    const std::vector<HostTensor> inputs = inputs_of(graph), want = interpret(before, inputs), got = interpret(after, inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-12) << o;
    EXPECT_EQ(to_string(reassociate(before, plain)), to_string(before));
  }
}

// On sm_90a: of two attentions in one program, forward and backward, roles take the one and not the other, whose rows are no
// multiple of 16 long. Its scores are in memory, and nobody else's.
TEST(Recompute, WhatRolesRefuseIsInMemory) {
  const int64_t time = 132;
  Model m;
  std::vector<Tensor> losses, args;
  for (int64_t size : {64, 72}) {
    std::vector<Tensor> own;
    for (const char* name : {"q", "k", "v", "w"}) own.push_back(m.input(fmt::format("{}{}", name, size), DType::bf16, {1, 2, time, size}));
    losses.push_back(sum(attention(own[0], own[1], own[2], {.causal = true}) * own[3]));
    args.insert(args.end(), own.begin(), own.begin() + 3);
  }
  const Tensor loss = losses[0] + losses[1];
  const std::vector<Tensor> d = grad(loss, args);
  m.output("loss", loss);
  for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
  PassContext context;
  context.fp = Fp::fast;
  set_target(context, parse_target("cuda:sm_90a"));
  const Graph kernels = run_pipeline(m.finish(), context);
  ASSERT_EQ(context.in_memory.size(), 1u);
  EXPECT_NE(context.in_memory[0].find("no multiple of 16"), std::string::npos) << context.in_memory[0];
  int in_roles = 0, large = 0;
  for (const Node& n : kernels.nodes) {
    if (n.op != Op::call) continue;
    const tile::Kernel k = lower(*n.attrs.body, n.attrs.name, 0, 0, 1, Updates::side_by_side);
    for (const tile::Buffer& b : k.buffers) large += b.kind == tile::BufferKind::out && count(b.shape) >= 2 * time * time;
    if (!has_nested_products(k)) continue;
    std::string why;
    EXPECT_TRUE(plan_nested_roles(k, why)) << why;
    ++in_roles;
  }
  EXPECT_EQ(in_roles, 3);
  EXPECT_GT(large, 0);
}

}  // namespace
}  // namespace quern
