// Launches that became phases of one (codegen/clusters.h) give the same bits as launches of their own: training steps, forward passes,
// loops; outputs and states after several runs.
#include "frontend/rnn.h"
#include "models/zoo.h"
#include "tests/support/device.h"

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
  void expect_same(const std::string& name, const Graph& graph, F32Products products = F32Products::f32) {
    SCOPED_TRACE(name);
    const Result one = run(graph, products, true), each = run(graph, products, false);
    ASSERT_EQ(one.values.size(), each.values.size());
    for (size_t i = 0; i < one.values.size(); ++i) EXPECT_TRUE(one.values[i] == each.values[i]) << "value " << i;
    EXPECT_EQ(each.clusters, 0);
    if (device->target().arch == "sm_90a") {
      EXPECT_GT(one.clusters, 0);
      EXPECT_LT(one.launches, each.launches);
    } else {
      EXPECT_EQ(one.clusters, 0);
    }
    std::printf("%s: %ld launches in place of %ld\n", name.c_str(), static_cast<long>(one.launches), static_cast<long>(each.launches));
  }
};

TEST_F(Clusters, TrainingSteps) {
  for (int64_t batch : {1, 7, 128})
    for (const F32Products products : {F32Products::f32, F32Products::tf32}) expect_same(fmt::format("784-256-10, batch {}, {}", batch, kF32Products[static_cast<size_t>(products)]), mlp_step({784, 10, {256}, 0}, batch, {}, 1).graph, products);
}

TEST_F(Clusters, ForwardPass) { expect_same("three heads of one row", zoo::heads_forward(1).graph); }

TEST_F(Clusters, Loops) {
  expect_same("lstm, batch 1", zoo::lstm_gradients({1, 8, 64, 64}).graph);
  expect_same("lstm, batch 3", zoo::lstm_gradients({3, 5, 64, 128}).graph);
}

}  // namespace
}  // namespace quern
