// What no run changes is computed once: the values of every run, also when parameters are set again; what may not be in setup; files.
#include "frontend/control.h"
#include "frontend/nn.h"
#include "models/zoo.h"
#include "tests/support/device.h"

namespace quern {
namespace {

Program compiled_for(const Target& target, const Graph& graph, std::vector<std::string> disabled = {}, int64_t memory_limit = -1, CompileReport* report = nullptr) {
  CompileOptions options;
  options.target = target;
  options.use_cache = false;
  options.passes.disabled = std::move(disabled);
  options.passes.memory_limit = memory_limit;
  return compile(graph, options, report);
}
int64_t launches(const std::vector<Step>& steps) {
  int64_t n = 0;
  for_each_launch(steps, [&](const Launch&) { ++n; });
  return n;
}

// Weights that are worth computing on: a table times a matrix, a norm, functions, a loop over them; one of them is an
// output, and a state that runs update starts from what it is not.
Graph inference(int64_t rows, int64_t high) {
  Model m;
  const int64_t n = high > rows ? m.symbol("rows", rows, high) : rows;
  const Tensor x = m.input("x", DType::f32, {n, 24}), table = m.input("table", DType::f32, {32, 16}), w = m.input("w", DType::f32, {16, 24}), v = m.input("v", DType::f32, {24, 24});
  const Tensor seen = m.input("seen", DType::f32, {32, 24});
  const Tensor rows_of = matmul(table, w), size = sqrt(sum(v * v));
  const Scan powers = scan([&](const auto& h, const auto&) { return ScanStep{{tanh(matmul(h[0], v))}, {}}; }, {v}, {}, 3);
  const Tensor h = matmul(x, powers.carries[0]) + matmul(x, exp(v) / size);
  m.output("y", matmul(h, transpose(rows_of, {1, 0})) + sum(exp(w), {0, 1}));
  m.output("table", rows_of);
  for (const auto& [name, t] : {std::pair{"table", table}, {"w", w}, {"v", v}}) m.state(name, t, t);
  m.state("seen", seen, rows_of + seen);
  return m.finish();
}

class Setup : public test::OnDevice {
 protected:
  std::mt19937_64 random{5};
  HostTensor drawn(const Type& type) { return test::random_tensor(type, -1, 1, random); }

  // Runs, sets some states anew, runs: each time what the interpreter says. `two`, a program of the same graph, says the same bits.
  void expect_runs(const Graph& graph, Executable& e, int64_t size, Executable* two = nullptr) {
    const Graph g = at_size(graph, size);
    std::vector<HostTensor> values;
    for (NodeId i : g.inputs) values.push_back(drawn(g.type(i)));
    for (int round = 0; round < 6; ++round) {
      std::vector<HostTensor> plain;
      for (size_t i = 0; i < values.size(); ++i) {
        const State* state = g.state_of(g.inputs[i]);
        const bool kept = state && state->output == state->input, again = round == 0 || (kept && round == static_cast<int>(i));
        if (again && round > 0) values[i] = drawn(g.type(g.inputs[i]));
        for (Executable* each : {&e, two})
          if (each && state && again) each->set_state(state->name, values[i]);
        if (!state) plain.push_back(values[i]);
      }
      PassContext context;
      const std::vector<HostTensor> want = interpret(expand(g, context), values), got = e.run(plain);
      for (size_t o = 0; o < got.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-4) << "round " << round << " output " << o;
      if (two) {
        EXPECT_EQ(two->run(plain), got) << "round " << round;
      }
      for (size_t s = 0; s < g.states.size(); ++s) {
        const HostTensor state = e.state(g.states[s].name);
        EXPECT_LE(compare(state, want[got.size() + s]).error, 1e-4) << "round " << round << " state " << g.states[s].name;
        const auto i = std::find(g.inputs.begin(), g.inputs.end(), g.states[s].input) - g.inputs.begin();
        values[static_cast<size_t>(i)] = state;
      }
    }
  }
};

TEST_F(Setup, RunsAgainWhenParametersAreSet) {
  const Graph graph = inference(5, 5);
  const Program p = compiled_for(device->target(), graph), without = compiled_for(device->target(), graph, {"setup"});
  EXPECT_GE(launches(p.setup), 4);
  EXPECT_TRUE(without.setup.empty());
  EXPECT_LT(launches(p.steps), launches(without.steps));
  EXPECT_EQ(kept_bytes(without), 0);
  Executable e(*device, p), plain(*device, without);
  expect_runs(graph, e, 5, &plain);
}

TEST_F(Setup, ServesEverySize) {
  const Graph graph = inference(1, 40);
  Executable e(*device, compiled_for(device->target(), graph));
  for (int64_t size : {1, 7, 40}) expect_runs(graph, e, size);
}

TEST_F(Setup, IsPartOfAPackage) {
  const Graph graph = inference(3, 3);
  const Program p = compiled_for(device->target(), graph), q = load_program(save_program(p), "p.qpk");
  EXPECT_EQ(save_program(q), save_program(p));
  EXPECT_EQ(launches(q.setup), launches(p.setup));
  Executable e(*device, q), original(*device, p);
  expect_runs(graph, e, 3, &original);
}

// Only states without which nothing can be known before the first run.
TEST_F(Setup, WantsItsStates) {
  const Graph graph = inference(3, 3);
  Executable e(*device, compiled_for(device->target(), graph));
  e.set_input(0, drawn({DType::f32, {3, 24}, {}}));
  EXPECT_THROW(e.run(), Error);
}

// What a run makes of weights fits into less memory than what is kept of them.
TEST_F(Setup, GivesWayToAMemoryLimit) {
  const Graph graph = inference(5, 5);
  const Program p = compiled_for(device->target(), graph), without = compiled_for(device->target(), graph, {"setup"});
  const int64_t all = p.arena_bytes + kept_bytes(p);
  ASSERT_LT(without.arena_bytes, all);
  EXPECT_EQ(kept_bytes(compiled_for(device->target(), graph, {}, all)), kept_bytes(p));
  CompileReport report;
  const Program limited = compiled_for(device->target(), graph, {}, all - 1, &report);
  EXPECT_TRUE(limited.setup.empty());
  EXPECT_LE(limited.arena_bytes, all - 1);
  ASSERT_FALSE(report.notes.empty());
  EXPECT_NE(report.notes.back().find("computed in every run"), std::string::npos) << report.notes.back();
}

// A training step has no parameters that keep their values.
TEST_F(Setup, TakesNothingThatTrainingChanges) {
  for (const char* name : {"heads", "block", "mlp"}) {
    const Graph graph = (std::string(name) == "mlp" ? mlp_step({64, 10, {128}, 0}, 32, {}, 1) : zoo::build(name).value()).graph;
    const Program p = compiled_for(device->target(), graph);
    for_each_launch(p.setup, [&](const Launch& l) {
      for (int64_t slot : l.slots) EXPECT_NE(p.slots[static_cast<size_t>(slot)].kind, SlotKind::state) << name;
    });
  }
}

TEST_F(Setup, IsWhatIsLeftOfTheWorkOnWeights) {
  std::string transcript;
  const auto null = open_device("null", &transcript);
  const Graph graph = inference(5, 5);
  const Program p = compiled_for(null->target(), graph);
  Executable e(*null, p);
  const auto launched = [&] {
    int64_t n = 0;
    for (size_t at = transcript.find("\nlaunch "); at != std::string::npos; at = transcript.find("\nlaunch ", at + 1)) ++n;
    transcript = "\n";
    return n;
  };
  const auto set = [&](const State& s) { e.set_state(s.name, drawn(graph.type(s.input))); };
  for (const State& s : graph.states) set(s);
  e.set_input(0, drawn({DType::f32, {5, 24}, {}}));
  e.run();
  const int64_t first = launched();
  e.run();
  const int64_t second = launched();
  EXPECT_GT(first, second);
  set(graph.states.back());   // "seen", which setup does not read
  e.run();
  EXPECT_EQ(launched(), second);
  set(graph.states[0]);
  e.run();
  EXPECT_EQ(launched(), first);
}

// A matrix of a product of few rows lies in panels; of very few it is read as it is, of many it is copied in every run.
TEST_F(Setup, LaysMatricesOutForProducts) {
  const auto program = [&](int64_t rows, Graph* out = nullptr) {
    Model m;
    const Tensor x = m.input("x", DType::f32, {rows, 160}), w = m.input("w", DType::f32, {160, 220});
    m.output("y", tanh(matmul(x, w)));
    m.state("w", w, w);
    const Graph graph = m.finish();
    if (out) *out = graph;
    return compiled_for(device->target(), graph);
  };
  const bool cpu = device->target().kind == TargetKind::cpu;
  Graph graph;
  const Program p = program(32, &graph);
  EXPECT_EQ(launches(p.setup), cpu ? 1 : 0);
  EXPECT_GE(kept_bytes(p), cpu ? 160 * 220 * 4 : 0);
  EXPECT_EQ(launches(p.steps), 1);
  EXPECT_TRUE(program(2).setup.empty());
  EXPECT_TRUE(program(2048).setup.empty());
  Executable e(*device, p);
  expect_runs(graph, e, 1);
}

}  // namespace
}  // namespace quern
