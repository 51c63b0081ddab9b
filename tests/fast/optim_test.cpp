// Optimizers on the interpreter: several steps beside the papers' formulas in f64, and what an element of a parameter costs;
// clipping, and the loss scale's states through good and bad steps.
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "frontend/optim.h"
#include "ir/interpret.h"
#include "ir/names.h"
#include "passes/pass.h"

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

// --- clipping and the loss scale ---

// A graph with states, run step by step.
struct Stepped {
  Graph graph;
  std::map<std::string, HostTensor> values;   // inputs and states; behind a step outputs, too
  Stepped(Model& model, const std::vector<std::pair<std::string, HostTensor>>& initial, DType compute = DType::f32) {
    PassContext context;
    context.compute = compute;
    graph = expand(model.finish(), context);
    values = {initial.begin(), initial.end()};
  }
  void step() {
    std::vector<HostTensor> inputs;
    for (NodeId i : graph.inputs) inputs.push_back(values.at(graph.at(i).attrs.name));
    const std::vector<HostTensor> next = interpret(graph, inputs);
    for (size_t o = 0; o < graph.outputs.size(); ++o) values[graph.outputs[o].name] = next[o];
    for (size_t s = 0; s < graph.states.size(); ++s) values[graph.states[s].name] = next[graph.outputs.size() + s];
  }
  double number(const std::string& name) const { return values.at(name).at(0); }
};

constexpr int64_t kSizes[] = {16, 5, 16};
Stepped clipped(const Optimizer& o) {
  Model model;
  Params params(model, 1);
  std::vector<Tensor> gradients;
  for (int64_t i = 0; i < 3; ++i) {
    const Shape shape = i == 2 ? Shape{2, 8} : Shape{kSizes[i]};
    gradients.push_back(model.input(fmt::format("g{}", i), DType::f32, shape));
    params.add(fmt::format("w{}", i), shape, Init::zeros);
  }
  const auto initial = apply_updates(model, params, gradients, o);
  return {model, initial};
}

// torch.nn.utils.clip_grad_norm_: g * min(1, clip / (norm + 1e-6)), the norm that of all gradients together.
TEST(Optim, ClippingShortensAllGradientsTogether) {
  for (const double clip : {0.5, 3.0, 1e9}) {
    Stepped run = clipped({.algorithm = Algorithm::sgd, .learning_rate = 1, .clip_norm = clip, .norm_output = true});
    double squares = 0;
    for (int64_t i = 0; i < 3; ++i) {
      const Shape shape = i == 2 ? Shape{2, 8} : Shape{kSizes[i]};
      HostTensor g(DType::f32, shape);
      for (int64_t e = 0; e < kSizes[i]; ++e) g.data<float>()[e] = static_cast<float>(gradient_at(i + 1, e) * 1e6), squares += g.at(e) * g.at(e);
      run.values[fmt::format("g{}", i)] = g;
    }
    run.step();
    const double norm = std::sqrt(squares), factor = std::min(1.0, clip / (norm + 1e-6));
    EXPECT_NEAR(run.number("grad_norm"), norm, 1e-6 * norm);
    EXPECT_EQ(factor == 1, clip == 1e9);
    for (int64_t i = 0; i < 3; ++i) {
      const HostTensor &w = run.values[fmt::format("w{}", i)], &g = run.values[fmt::format("g{}", i)];
      for (int64_t e = 0; e < kSizes[i]; ++e) EXPECT_NEAR(w.at(e), -factor * g.at(e), 1e-6 * norm * factor) << clip << " " << i << " " << e;
      if (factor == 1) {
        EXPECT_EQ(w.at(0), -g.at(0)) << "what is short enough stays bit for bit";
      }
    }
  }
}

// Gradients of zero stay zero: the 1e-6. An infinite one gives NaN, as in PyTorch; without a loss scale nothing hides it.
TEST(Optim, ClippingOfNothingAndOfInfinity) {
  Stepped run = clipped({.algorithm = Algorithm::sgd, .learning_rate = 1, .clip_norm = 1});
  for (int64_t i = 0; i < 3; ++i) run.values[fmt::format("g{}", i)] = HostTensor(DType::f32, i == 2 ? Shape{2, 8} : Shape{kSizes[i]});
  run.step();
  EXPECT_EQ(run.number("w0"), 0);
  run.values["g1"].data<float>()[2] = INFINITY;
  run.step();
  EXPECT_TRUE(std::isnan(run.values["w1"].at(2)));
  EXPECT_EQ(run.number("w0"), 0);
}

TEST(Optim, TheLossScaleBeginsAtTheLoss) {
  EXPECT_THROW(clipped({.loss_scale = kLossScale}), Error);
  EXPECT_THROW(clipped({.clip_norm = -1}), Error);
  EXPECT_THROW(clipped({.clip_norm = std::nan("")}), Error);
  for (const Optimizer& o : {Optimizer{.loss_scale = 3}, {.loss_scale = -2}, {.loss_scale = std::nan("")}, {.loss_scale = 2, .scale_growth = 0}}) {
    Model model;
    Params params(model, 1);
    const Tensor w = params.add("w", {4}, Init::ones);
    EXPECT_THROW(minimize(model, params, sum(w * w), o), Error) << o.loss_scale;
  }
}

// loss = share * sum(w * x), in f16 on the way back: the gradient is share * x, and overflows where the scale times that does.
Stepped scaled(const Optimizer& o, double share = 1) {
  Model model;
  Params params(model, 1);
  const Tensor x = model.input("x", DType::f32, {8});
  const Tensor w = cast(params.add("w", {8}, Init::ones), DType::f16);
  const Tensor loss = sum(cast(w * cast(x, DType::f16), DType::f32)) * share;
  model.output("loss", loss);
  const auto initial = minimize(model, params, loss, o);
  return {model, initial};
}

// A bad step leaves all states but the scale as they were and halves it; so many good ones double it; a bad one between them starts anew.
TEST(Optim, TheLossScaleFollowsOverflow) {
  for (const Algorithm algorithm : {Algorithm::sgd, Algorithm::momentum, Algorithm::adam, Algorithm::adamw}) {
    Stepped run = scaled({.algorithm = algorithm, .learning_rate = 0.01, .weight_decay = 0.01, .clip_norm = 1e4, .norm_output = true, .loss_scale = 1024, .scale_growth = 3});
    const auto with = [&](double x) { run.values["x"] = HostTensor::full(DType::f32, {8}, x), run.step(); };
    double scale = 1024, good = 0, steps = 0;
    for (const double x : {1.0, 0.5, 100.0, 100.0, 1.0, 1.0, 1.0, 2.0, 90.0, 1.0}) {
      const auto before = run.values;
      with(x);
      const bool fits = scale * x <= 65504;
      if (fits) ++steps;
      good = fits ? good + 1 : 0;
      scale *= fits ? good == 3 ? 2 : 1 : 0.5;
      if (good == 3) good = 0;
      EXPECT_EQ(run.number(kLossScaleState), scale) << x;
      EXPECT_EQ(run.number("good_steps"), good) << x;
      EXPECT_EQ(run.number("step"), steps) << x;
      EXPECT_EQ(std::isfinite(run.number("grad_norm")), fits);
      for (const State& s : run.graph.states) {
        if (s.name == kLossScaleState || s.name == "good_steps") continue;
        EXPECT_EQ(run.values[s.name].bytes == before.at(s.name).bytes, !fits) << s.name;
      }
      if (fits) {
        EXPECT_NEAR(run.number("grad_norm"), std::sqrt(8.0) * x, 1e-6 * x);
      }
    }
    EXPECT_EQ(steps, 8);
  }
}

// The scale rounds nothing: what is updated is bit for bit what is updated without it, as long as f16 holds both.
TEST(Optim, TheLossScaleRoundsNothing) {
  for (const double clip : {0.0, 1.0}) {
    Stepped with = scaled({.learning_rate = 0.01, .clip_norm = clip, .loss_scale = 256}), without = scaled({.learning_rate = 0.01, .clip_norm = clip});
    for (int k = 0; k < 4; ++k) {
      HostTensor x(DType::f32, {8});
      for (int64_t i = 0; i < 8; ++i) x.data<float>()[i] = static_cast<float>(std::sin(k * 8.0 + static_cast<double>(i)));
      with.values["x"] = without.values["x"] = x;
      with.step(), without.step();
      for (const State& s : without.graph.states) EXPECT_EQ(with.values[s.name].bytes, without.values[s.name].bytes) << s.name;
    }
    EXPECT_EQ(with.number("step"), 4);
  }
}

// Gradients below f16's least number are zero but for the scale.
TEST(Optim, TheLossScaleKeepsSmallGradients) {
  const double share = 0x1p-30;
  Stepped with = scaled({.algorithm = Algorithm::sgd, .learning_rate = 0x1p20, .loss_scale = kLossScale}, share), without = scaled({.algorithm = Algorithm::sgd, .learning_rate = 0x1p20}, share);
  for (Stepped* run : {&with, &without}) run->values["x"] = HostTensor::full(DType::f32, {8}, 1), run->step();
  EXPECT_EQ(with.number("w"), 1 - 0x1p-10);
  EXPECT_EQ(without.number("w"), 1);
}

}  // namespace
}  // namespace quern
