// Optimizers on the interpreter: several steps beside the papers' formulas in f64, and what an element of a parameter costs.
#include <cmath>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "frontend/optim.h"
#include "ir/interpret.h"

namespace quern {
namespace {

constexpr int64_t kSize = 24, kSteps = 12;

double gradient_at(int64_t step, int64_t i) { return std::sin(0.7 * static_cast<double>(step * kSize + i)) * std::pow(10.0, static_cast<double>(i % 8) - 6); }

// A step of one parameter "w", whose gradient is the input "g".
struct Step {
  Graph graph;
  std::vector<HostTensor> inputs;   // in the graph's order
};
Step step_of(const Optimizer& o) {
  Model model;
  Params params(model, 1);
  const Tensor g = model.input("g", DType::f32, {kSize});
  params.add("w", {kSize}, Init::zeros);
  auto initial = apply_updates(model, params, {g}, o);
  Step out{model.finish(), {}};
  for (NodeId i : out.graph.inputs) {
    HostTensor value(DType::f32, out.graph.type(i).shape);
    for (const auto& [name, start] : initial)
      if (name == out.graph.at(i).attrs.name) value = start;
    out.inputs.push_back(std::move(value));
  }
  return out;
}

// Algorithm 1 of arXiv:1412.6980; with decoupled decay (`adamw`) algorithm 2 of arXiv:1711.05101.
TEST(Optim, AdamFollowsThePaper) {
  for (const Optimizer& o : {Optimizer{.algorithm = Algorithm::adam}, {.algorithm = Algorithm::adam, .weight_decay = 0.1}, {.algorithm = Algorithm::adamw, .weight_decay = 0.1}, {.algorithm = Algorithm::adam, .learning_rate = 0.03, .momentum = 0.5, .beta2 = 0.75, .epsilon = 1e-3}}) {
    SCOPED_TRACE(fmt::format("decay {} epsilon {}", o.weight_decay, o.epsilon));
    Step s = step_of(o);
    std::vector<double> w(kSize), m(kSize), v(kSize);
    for (int64_t t = 1; t <= kSteps; ++t) {
      std::vector<double> gradient;
      for (int64_t i = 0; i < kSize; ++i) gradient.push_back(gradient_at(t, i));
      s.inputs[0] = HostTensor::from(DType::f32, {kSize}, gradient);
      Graph open = s.graph;
      for (const State& state : open.states) open.outputs.push_back({state.name, state.output});
      open.states.clear();
      const std::vector<HostTensor> next = interpret(open, s.inputs);
      for (size_t output = 0; output < next.size(); ++output)
        for (size_t i = 0; i < s.inputs.size(); ++i)
          if (s.graph.at(s.graph.inputs[i]).attrs.name == open.outputs[output].name) s.inputs[i] = next[output];
      for (int64_t i = 0; i < kSize; ++i) {
        const size_t at = static_cast<size_t>(i);
        const bool decoupled = o.algorithm == Algorithm::adamw;
        const double g = s.inputs[0].at(i) + (decoupled ? 0 : o.weight_decay * w[at]);
        m[at] = o.momentum * m[at] + (1 - o.momentum) * g, v[at] = o.beta2 * v[at] + (1 - o.beta2) * g * g;
        const double mean = m[at] / (1 - std::pow(o.momentum, static_cast<double>(t))), square = v[at] / (1 - std::pow(o.beta2, static_cast<double>(t)));
        w[at] -= o.learning_rate * (mean / (std::sqrt(square) + o.epsilon) + (decoupled ? o.weight_decay * w[at] : 0));
      }
    }
    for (size_t i = 0; i < s.inputs.size(); ++i) {
      if (s.graph.at(s.graph.inputs[i]).attrs.name != "w") continue;
      for (int64_t e = 0; e < kSize; ++e) EXPECT_NEAR(s.inputs[i].at(e), w[static_cast<size_t>(e)], 1e-4 * o.learning_rate * static_cast<double>(kSteps)) << "element " << e;
    }
  }
}

// What depends on the step alone is computed once: an element is divided once, and one root is taken of it.
TEST(Optim, AdamDividesEachElementOnce) {
  for (const Schedule schedule : {Schedule::constant, Schedule::cosine}) {
    const Graph graph = step_of({.algorithm = Algorithm::adamw, .schedule = schedule, .steps = 50, .warmup = 5, .weight_decay = 0.01}).graph;
    int64_t divisions = 0, roots = 0;
    for (const Node& n : graph.nodes) {
      if (n.type.shape != Shape{kSize}) continue;
      divisions += n.op == Op::div;
      roots += n.op == Op::sqrt;
    }
    EXPECT_EQ(divisions, 1);
    EXPECT_EQ(roots, 1);
  }
}

}  // namespace
}  // namespace quern
