// Launches that became phases of one (codegen/clusters.h) give the same bits as launches of their own: training steps and
// loops; outputs and states after several runs.
#include "models/zoo.h"
#include "tests/support/device.h"
#include "tests/support/recurrence.h"

namespace quern {
namespace {

class Clusters : public test::OnDevice {
 protected:
  struct Result {
    std::vector<HostTensor> values;
    int64_t launches = 0, clusters = 0;
  };
  Result run(const Graph& graph, F32Products products, bool joined) {
    CompileOptions options;
    options.f32_products = products;
    options.use_cache = false;
    if (!joined) options.passes.disabled = {"clusters"};
    const auto e = jit(*device, graph, options);
    std::mt19937_64 random(3);
    std::vector<HostTensor> inputs;
    for (NodeId i : graph.inputs) {
      const bool counts = !is_float(graph.type(i).dtype);
      const HostTensor t = test::random_tensor(graph.type(i), counts || graph.at(i).attrs.name.ends_with(".v") ? 0 : -0.4, counts ? 10 : 0.4, random);
      const auto state = std::find_if(graph.states.begin(), graph.states.end(), [&](const State& s) { return s.input == i; });
      if (state != graph.states.end()) e->set_state(state->name, t);
      else inputs.push_back(t);
    }
    Result out;
    for (int run = 0; run < 3; ++run)
      for (HostTensor& t : e->run(inputs)) out.values.push_back(std::move(t));
    for (const State& s : graph.states) out.values.push_back(e->state(s.name));
    for_each_launch(e->program().steps, [&](const Launch& l) { ++out.launches, out.clusters += e->program().images[static_cast<size_t>(l.images[0])].cluster > 0; });
    return out;
  }
  enum class Joined { some,
                      any };   // whether there must be any
  void expect_same(const std::string& name, const Graph& graph, Joined joined, F32Products products = F32Products::f32) {
    SCOPED_TRACE(name);
    const Result one = run(graph, products, true), each = run(graph, products, false);
    ASSERT_EQ(one.values.size(), each.values.size());
    for (size_t i = 0; i < one.values.size(); ++i) EXPECT_TRUE(one.values[i] == each.values[i]) << "value " << i;
    EXPECT_EQ(each.clusters, 0);
    const bool some = device->target().arch == "sm_90a" && joined == Joined::some;
    EXPECT_GE(one.clusters, some);
    EXPECT_LE(one.launches, each.launches);
    if (device->target().arch != "sm_90a") { EXPECT_EQ(one.clusters, 0); }
    std::printf("%s: %ld launches in place of %ld\n", name.c_str(), static_cast<long>(one.launches), static_cast<long>(each.launches));
  }
};

TEST_F(Clusters, TrainingSteps) {
  for (int64_t batch : {1, 7, 128})
    for (const F32Products products : {F32Products::f32, F32Products::tf32})
      expect_same(fmt::format("784-256-10, batch {}, {}", batch, kF32Products[static_cast<size_t>(products)]), mlp_step({784, 10, {256}, 0}, batch, {}, 1).graph, batch == 1 ? Joined::some : Joined::any, products);
  expect_same("40-16-10, batch 7", mlp_step({40, 10, {16}, 0}, 7, {}, 1).graph, Joined::some);
}

TEST_F(Clusters, Loops) {
  for (const auto& [batch, hidden] : {std::pair<int64_t, int64_t>{1, 32}, {1, 64}, {4, 16}, {1, 128}}) expect_same(fmt::format("{} steps of {}", 50, hidden), test::recurrence(batch, 50, hidden), hidden == 32 ? Joined::some : Joined::any);
  expect_same("lstm", zoo::lstm_gradients({1, 8, 64, 64}).graph, Joined::some);
}

}  // namespace
}  // namespace quern
