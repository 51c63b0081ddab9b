// Plan files: schedules change no bit of any result, neither in the tile interpreter nor in compiled code; what would change the
// order of sums is refused; the program cache keeps programs with and without a plan apart; and what `quern tune` writes is used.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <random>

#include <fmt/format.h>

#include "frontend/conv.h"
#include "frontend/nn.h"
#include "ir/text.h"
#include "models/mlp.h"
#include "passes/pass.h"
#include "passes/tile/lower.h"
#include "runtime/jit.h"
#include "tests/support/command.h"
#include "tools/fuzz_graphs.h"

namespace quern::test {
namespace {

Graph product(int64_t m, int64_t k, int64_t n, bool turned = false) {
  Model model;
  const Tensor a = model.input("a", DType::f32, {m, k}), b = model.input("b", DType::f32, turned ? Shape{n, k} : Shape{k, n});
  model.output("y", relu(turned ? contract("mk,nk->mn", a, b) : matmul(a, b)));
  return model.finish();
}
Graph convolution() {
  Model model;
  const Tensor x = model.input("x", DType::f32, {2, 3, 9, 11}), w = model.input("w", DType::f32, {20, 3, 3, 3}), y = conv(x, w, {}, {.low = {1}});
  model.output("y", y);
  model.output("dw", grad(sum(y * y), {w})[0]);
  return model.finish();
}
Graph rows() {
  Model model;
  const Tensor x = model.input("x", DType::f32, {37, 130}), b = model.input("b", DType::f32, {130});
  model.output("s", softmax(x + b));
  model.output("columns", sum(x, {0}));
  model.output("e", exp(x) * b);
  return model.finish();
}
std::vector<std::pair<const char*, Graph>> graphs() {
  return {{"product", product(50, 70, 90)}, {"long sum", product(50, 1400, 130)}, {"along the sum", product(33, 129, 21, true)}, {"convolution", convolution()}, {"rows", rows()}, {"mlp", mlp_step({40, 10, {70}, 0}, 37, {}, 1).graph}};
}

std::vector<HostTensor> interpreted(const tile::Kernel& k) {
  GraphBuilder inputs;
  for (int64_t b = 0; b < k.params(); ++b) inputs.input(fmt::format("p{}", b), {k.buffers[static_cast<size_t>(b)].dtype, k.buffers[static_cast<size_t>(b)].shape, {}});
  std::mt19937_64 random(3);
  std::vector<HostTensor> values = random_inputs(inputs.finish(), random);
  std::vector<HostTensor*> buffers;
  for (HostTensor& t : values) buffers.push_back(&t);
  tile::interpret(k, buffers);
  return values;
}
std::vector<ZeroedBytes> bytes_of(const std::vector<HostTensor>& tensors) {
  std::vector<ZeroedBytes> out;
  for (const HostTensor& t : tensors) out.push_back(t.bytes);
  return out;
}
/// All that one run of the program leaves.
std::vector<ZeroedBytes> run(Device& device, const Graph& graph, const CompileOptions& options) {
  const auto executable = jit(device, graph, options);
  std::mt19937_64 random(5);
  const std::vector<HostTensor> all = random_inputs(graph, random);
  std::vector<HostTensor> inputs;
  for (size_t i = 0; i < all.size(); ++i) {
    const State* state = graph.state_of(graph.inputs[i]);
    if (!state) inputs.push_back(all[i]);
    else executable->set_state(state->name, all[i]);
  }
  auto out = bytes_of(executable->run(inputs));
  for (const State& s : graph.states) out.push_back(executable->state(s.name).bytes);
  return out;
}
std::vector<tile::Kernel> lowered_kernels(const Graph& graph, const Target& target) {
  CompileOptions options;
  options.target = target;
  options.use_cache = false;
  CompileReport report;
  compile(graph, options, &report);
  return report.lowered;
}
/// A plan that gives every kernel its `place`-th candidate, where it has so many.
PlanFile plan_of(const std::vector<tile::Kernel>& kernels, const Target& target, size_t place) {
  PlanFile plan{target, "by a test", {}, "test.plan"};
  for (const tile::Kernel& k : kernels)
    if (const auto c = candidates_cpu(k, target.arch, 24); c.size() > place) plan.kernels.push_back({"k", structure_hash(k), c[place].fields, sums_of(c[place].planned)});
  return plan;
}
Code code_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_FALSE(e.help.empty()) << e.what();
    return e.code;
  }
  ADD_FAILURE() << "no error";
  return Code::general_bug;
}

TEST(Plan, CandidatesComputeTheSameBits) {
  for (const auto& [name, graph] : graphs())
    for (const char* arch : {"avx512", "v128"}) {
      size_t tried = 0;
      for (const tile::Kernel& k : lowered_kernels(graph, {TargetKind::cpu, arch})) {
        const auto candidates = candidates_cpu(k, arch, 12);
        const auto want = bytes_of(interpreted(candidates[0].planned));
        EXPECT_TRUE(candidates[0].fields.empty());
        EXPECT_EQ(tile::structure(candidates[0].planned), tile::structure(plan_cpu(k, arch)));
        for (size_t c = 1; c < candidates.size(); ++c) {
          EXPECT_EQ(bytes_of(interpreted(candidates[c].planned)), want) << name << " " << arch << "\n"
                                                                        << tile::to_string(candidates[c].planned);
          EXPECT_GT(candidates[c].cost, 0);
          EXPECT_TRUE(c == 1 || candidates[c - 1].cost <= candidates[c].cost);
          ++tried;
        }
      }
      EXPECT_GT(tried, 2u) << name << " " << arch;
    }
}

TEST(Plan, CompiledProgramsComputeTheSameBits) {
  const auto device = open_device("cpu");
  for (const auto& [name, graph] : graphs()) {
    CompileOptions options;
    options.use_cache = false;
    const auto want = run(*device, graph, options);
    const std::vector<tile::Kernel> kernels = lowered_kernels(graph, device->target());
    for (size_t place : {1, 3, 6, 9}) {
      const PlanFile plan = plan_of(kernels, device->target(), place);
      EXPECT_TRUE(place > 1 || !plan.kernels.empty()) << name;
      if (plan.kernels.empty()) continue;
      options.plan = parse_plan(to_string(plan), plan.file);   // through the text, as from a file
      EXPECT_EQ(to_string(*options.plan), to_string(plan));
      EXPECT_EQ(run(*device, graph, options), want) << name << "\n"
                                                    << to_string(plan);
    }
  }
}

TEST(Plan, RandomGraphsComputeTheSameBits) {
  const auto device = open_device("cpu");
  std::mt19937_64 random(11);
  Coverage coverage;
  size_t planned = 0;
  for (int i = 0; i < 60; ++i) {
    const Graph graph = random_graph(random, coverage, {.bodies = i % 2 == 1});
    PlanFile plan{device->target(), "by a test", {}, "test.plan"};
    for (const tile::Kernel& k : lowered_kernels(graph, device->target())) {
      const auto c = candidates_cpu(k, device->target().arch, 12);
      const size_t place = random() % c.size();
      if (place && !plan.find(structure_hash(k))) plan.kernels.push_back({"k", structure_hash(k), c[place].fields, sums_of(c[place].planned)});
    }
    if (plan.kernels.empty()) continue;
    planned += plan.kernels.size();
    CompileOptions options;
    options.use_cache = false;
    const auto want = run(*device, graph, options);
    options.plan = plan;
    EXPECT_EQ(run(*device, graph, options), want) << to_string(graph) << to_string(plan);
  }
  EXPECT_GT(planned, 30u);
}

TEST(Plan, WhatOrdersSumsIsRefused) {
  const Graph graph = product(50, 70, 90);
  const Target target{TargetKind::cpu, "avx512"};
  const PlanFile good = plan_of(lowered_kernels(graph, target), target, 1);
  ASSERT_EQ(good.kernels.size(), 1u);
  const auto refused = [&](const std::function<void(PlanFile&)>& change) {
    CompileOptions options;
    options.target = target;
    options.use_cache = false;
    options.plan = good;
    change(*options.plan);
    return code_of([&] { compile(graph, options); });
  };
  for (const char* field : {"sum_tile", "sum_block", "split", "precision"}) EXPECT_EQ(refused([&](PlanFile& p) { p.kernels[0].fields[field] = 4; }), Code::plan_numerics) << field;
  EXPECT_EQ(refused([](PlanFile& p) { p.kernels[0].sums = "mma<f32> i2<70 by 4"; }), Code::plan_numerics);
  EXPECT_EQ(refused([](PlanFile& p) { p.kernels[0].fields["rosw"] = 4; }), Code::plan_field);
  for (int64_t value : {int64_t{0}, int64_t{-3}, int64_t{1} << 40}) EXPECT_EQ(refused([&](PlanFile& p) { p.kernels[0].fields["vectors"] = value; }), Code::plan_field);
  EXPECT_EQ(refused([](PlanFile& p) { p.target.arch = "avx2"; }), Code::plan_target);
  // A field that is there, but without panels this sum would not be taken in blocks.
  const tile::Kernel blocked = lowered_kernels(product(50, 1400, 130), target)[0];
  EXPECT_NE(sums_of(plan_cpu(blocked, "avx512")).find(" in "), std::string::npos);
  EXPECT_EQ(code_of([&] { plan_scheduled([&](KernelSchedule& s) { return plan_cpu(blocked, "avx512", &s); }, {{"packed", 0}}, "test.plan"); }), Code::plan_numerics);
  // The print of the order of sums sees every tile of a summed axis.
  tile::Kernel planned = plan_cpu(lowered_kernels(graph, target)[0], "avx512");
  const std::string sums = sums_of(planned);
  for (tile::Axis& a : planned.axes)
    if (a.extent == 70) a.tile *= 2;
  EXPECT_NE(sums_of(planned), sums);
}

TEST(Plan, DamagedTextIsRefused) {
  const std::string good = "quern plan 1 cpu:avx512\ntuned \"here\"\nkernel k0_a \"0123456789abcdef0123456789abcdef\" { rows = 8 vectors = 3 } sums \"mma\"\n  predicted 10 of 9 cycles, measured 1.5 of 2.5 us\n";
  EXPECT_EQ(parse_plan(good, "p").kernels.at(0).fields.at("rows"), 8);
  EXPECT_EQ(to_string(parse_plan(to_string(parse_plan(good, "p")), "p")), to_string(parse_plan(good, "p")));
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"plan 1", "plan 2"}, {"cpu:avx512", "cpu:sse9"}, {"rows = 8", "rows = 8 rows = 9"}, {"rows = 8", "rows 8"}, {"= 3", "= 99999999999999999999"}, {"0123456789abcdef\"", "\""}, {"2.5", "nan"}, {"1.5", "-1"}, {"quern", "kern"}, {"us", "ms"}, {"}", ""}, {"kernel", "colonel"}}) {
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_EQ(code_of([&] { parse_plan(bad, "p"); }), Code::bad_plan) << bad;
  }
  for (size_t length = 0; length < good.size(); ++length) {   // cut anywhere: refused, or whole entries
    try {
      EXPECT_LE(parse_plan(good.substr(0, length), "p").kernels.size(), 1u);
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Code::bad_plan) << e.what();
    }
  }
  EXPECT_EQ(code_of([&] { parse_plan(good + good.substr(good.find("kernel")), "p"); }), Code::bad_plan);
}

TEST(Plan, TheProgramCacheKnowsIt) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "quern_plan_cache";
  std::filesystem::remove_all(folder);
  ::setenv("QUERN_CACHE_DIR", folder.c_str(), 1);
  const Graph graph = product(50, 70, 90);
  const Target target{TargetKind::cpu, "avx512"};
  CompileOptions plain, planned;
  plain.target = planned.target = target;
  planned.plan = plan_of(lowered_kernels(graph, target), target, 1);
  CompileReport first, second, third, fourth;
  const Program standard = compile(graph, plain, &first), tuned = compile(graph, planned, &second);
  EXPECT_EQ(first.program, "kept in the cache");
  EXPECT_EQ(second.program, "kept in the cache");
  EXPECT_NE(standard.images[0].code, tuned.images[0].code);
  EXPECT_EQ(compile(graph, planned, &third).images[0].code, tuned.images[0].code);
  EXPECT_EQ(third.program, "from the cache");
  // An entry for another kernel is named, each time.
  planned.plan->kernels[0].structure[0] ^= 1;
  for (int i = 0; i < 2; ++i) {
    fourth = {};
    EXPECT_EQ(compile(graph, planned, &fourth).images[0].code, standard.images[0].code);
    ASSERT_EQ(fourth.notes.size(), 1u);
    EXPECT_NE(fourth.notes[0].find("is none of this program's"), std::string::npos);
  }
  ::unsetenv("QUERN_CACHE_DIR");
  std::filesystem::remove_all(folder);
}

TEST(Plan, TuneWritesWhatTheOtherCommandsTake) {
  const std::string plan = testing::TempDir() + "quern.plan", model = "mlp --set batch=24 --set inputs=100 --set hidden=70 ";
  expect("tune " + model + "-o " + plan + " --candidates 4 --rounds 7", 0, "wrote " + plan);
  expect("check " + model + "--grad --samples 1 --plan " + plan, 0, "passed");
  const auto loss = [](const Result& r) { return r.text.substr(r.text.find("loss f32")); };
  EXPECT_EQ(loss(quern("run " + model + "--print values --no-cache --plan " + plan)), loss(quern("run " + model + "--print values --no-cache")));
  expect("profile " + model + "--rounds 3 --time-passes --plan " + plan, 0, "predicted");
}

}  // namespace
}  // namespace quern::test
