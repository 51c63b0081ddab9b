// The MLP on a device: outputs, gradients and every optimizer's states against the interpreter, its first losses, the
// accuracy that training reaches, and runs that repeat bit by bit.
#include <unistd.h>

#include "frontend/checkpoint.h"
#include "ir/names.h"
#include "models/dataset.h"
#include "models/trainer.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class Mlp : public test::OnDevice {
 protected:
  void expect_like_interpreter(const Graph& graph) {
    PassContext context;
    const Graph reference = expand(graph, context);
    std::mt19937_64 random(5);
    std::vector<HostTensor> inputs;
    for (NodeId i : graph.inputs) {   // second moments (Adam's) are never negative
      const bool counts = !is_float(graph.type(i).dtype), moment = graph.at(i).attrs.name.ends_with(".v");
      inputs.push_back(test::random_tensor(graph.type(i), counts || moment ? 0 : -0.4, counts ? 10 : 0.4, random));
      if (graph.at(i).attrs.name == kLossScaleState) inputs.back() = HostTensor::full(DType::f32, {}, 1024);
    }
    const std::vector<HostTensor> want = interpret(reference, inputs), got = compiled(graph)->run(inputs);
    const double bound = tolerance_of(reference).bound();
    for (size_t o = 0; o < want.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      EXPECT_LE(d.error, bound) << graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
};

TEST_F(Mlp, GradientsMatchInterpreter) {
  for (const MlpConfig& config : {MlpConfig{64, 10, {128}, 0}, {7, 3, {}, 0}, {5, 4, {9, 1, 6}, 0}, {64, 10, {32}, 0.25}}) {
    Model model;
    Params params(model, 1);
    const Tensor x = model.input("x", DType::f32, {33, config.inputs}), label = model.input("label", DType::i32, {33});
    const Tensor key = config.dropout > 0 ? model.input("key", DType::u32, {}) : Tensor();
    const Tensor loss = cross_entropy(mlp(params, config, x, key), label);
    const std::vector<Tensor> gradients = grad(loss, params.tensors());
    model.output("loss", loss);
    for (size_t p = 0; p < gradients.size(); ++p) model.output("d " + params.all()[p].name, gradients[p]);
    expect_like_interpreter(model.finish());
  }
}

TEST_F(Mlp, EveryOptimizersStepMatchesInterpreter) {
  for (Algorithm algorithm : {Algorithm::sgd, Algorithm::momentum, Algorithm::adam, Algorithm::adamw})
    for (Schedule schedule : {Schedule::constant, Schedule::cosine, Schedule::linear_warmup}) {
      SCOPED_TRACE(fmt::format("algorithm {} schedule {}", static_cast<int>(algorithm), static_cast<int>(schedule)));
      Graph open = mlp_step({20, 10, {16}, 0.25}, 8, {.algorithm = algorithm, .schedule = schedule, .steps = 50, .warmup = 5, .weight_decay = 0.01}, 1).graph;
      for (const State& s : open.states) open.outputs.push_back({"next " + s.name, s.output});
      open.states.clear();
      expect_like_interpreter(open);
    }
}

TEST_F(Mlp, ClippingAndTheLossScaleMatchInterpreter) {
  for (const Optimizer& o : {Optimizer{.clip_norm = 0.1, .norm_output = true}, {.loss_scale = 1024}, {.algorithm = Algorithm::adamw, .weight_decay = 0.01, .clip_norm = 0.1, .norm_output = true, .loss_scale = 1024, .scale_growth = 1}}) {
    SCOPED_TRACE(fmt::format("clip {} scale {}", o.clip_norm, o.loss_scale));
    Graph open = mlp_step({20, 10, {16}, 0}, 8, o, 1).graph;
    for (const State& s : open.states) open.outputs.push_back({"next " + s.name, s.output});
    open.states.clear();
    expect_like_interpreter(open);
  }
}

// A step that overflows f16 leaves every state as it was, bit by bit, but for the scale, which is halved.
TEST_F(Mlp, AnOverflowLeavesTheStatesAlone) {
  const TrainingStep step = mlp_step({20, 10, {16}, 0}, 8, {.clip_norm = 1, .norm_output = true, .loss_scale = kLossScale, .scale_growth = 2}, 1);
  CompileOptions options;
  options.passes.compute = DType::f16;
  const auto run = jit(*device, step.graph, options);
  for (const auto& [name, value] : step.initial) run->set_state(name, value);
  const auto with = [&](double x) {
    std::map<std::string, HostTensor> before;
    for (const auto& [name, value] : step.initial) before[name] = run->state(name);
    const auto out = run->run({HostTensor::full(DType::f32, {8, 20}, x), HostTensor::full(DType::i32, {8}, 3)});
    EXPECT_EQ(std::isfinite(out[1].at(0)), x < 1e5) << "grad_norm";
    for (const auto& [name, value] : before)
      if (name != kLossScaleState && name != "good_steps") {
        EXPECT_EQ(run->state(name) == value, x > 1e5) << name;
      }
    return run->state(kLossScaleState).at(0);
  };
  EXPECT_EQ(with(0.25), 65536);
  EXPECT_EQ(with(1e6), 32768);   // x is infinite in f16
  EXPECT_EQ(with(0.25), 32768);
  EXPECT_EQ(with(0.25), 65536);
  EXPECT_EQ(run->state("step").at(0), 3);
}

TEST_F(Mlp, FirstLossesMatchInterpreter) {
  const Dataset digits = load_digits();
  TrainOptions options;
  options.max_steps = 20;
  const std::vector<double> want = train_mlp(digits, nullptr, options, {}).losses, got = train_mlp(digits, device.get(), options, {}).losses;
  ASSERT_EQ(got.size(), 20u);
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double relative = std::fabs(got[i] - want[i]) / want[i];
    EXPECT_LE(relative, 1e-4) << "step " << i + 1 << ": got " << got[i] << ", want " << want[i];
    worst = std::max(worst, relative);
  }
  EXPECT_LT(want.back(), want.front());
  std::printf("20 losses on %s, worst relative difference %.2e\n", device->name().c_str(), worst);
}

// Bytes of the checkpoint after two epochs.
std::string checkpoint(Device& device, const Dataset& digits, const std::string& path) {
  TrainOptions options;
  options.epochs = 2;
  options.seed = 7;
  save_safetensors(path, train_mlp(digits, &device, options, {}).states);
  const std::vector<uint8_t> bytes = read_file(path, 1 << 26);
  std::remove(path.c_str());
  return {bytes.begin(), bytes.end()};
}

TEST_F(Mlp, OneSeedOneCheckpoint) {
  const Dataset digits = load_digits();
  const std::string path = testing::TempDir() + "quern_mlp_" + std::to_string(::getpid()) + ".safetensors";
  std::string first;
  for (const char* threads : {"1", "2", "1", "2"}) {   // CPU workers; two runs each
    ::setenv("QUERN_THREADS", threads, 1);
    const std::string bytes = checkpoint(*open_device(test::device_name()), digits, path);
    if (first.empty()) first = bytes;
    EXPECT_GT(bytes.size(), 10000u);
    EXPECT_TRUE(bytes == first) << threads << " threads";
  }
  ::unsetenv("QUERN_THREADS");
}

TEST_F(Mlp, TrainsToAccuracy) {
  const Dataset digits = load_digits();
  double sum = 0;
  for (uint32_t seed : {1u, 2u, 3u}) {
    TrainOptions options;
    options.seed = seed;
    const TrainResult r = train_mlp(digits, device.get(), options, {});
    EXPECT_GT(r.test_accuracy, 0.95) << "seed " << seed;
    EXPECT_LT(r.losses.back(), 0.2 * r.losses.front());
    sum += r.test_accuracy;
  }
  std::printf("mean test accuracy of 3 seeds on %s: %.2f %%\n", device->name().c_str(), 100 * sum / 3);
}

// Products of bf16 or f16, masters of f32: the same accuracy within what seeds make of it, and in f16 the same losses on the way.
TEST_F(Mlp, MixedPrecisionTrainsAsWell) {
  const Dataset digits = load_digits();
  double sum = 0, mixed = 0, scaled = 0;
  for (uint32_t seed : {1u, 2u, 3u}) {
    TrainOptions options;
    options.seed = seed;
    const TrainResult exact = train_mlp(digits, device.get(), options, {});
    sum += exact.test_accuracy;
    options.compile.passes.compute = DType::bf16;
    const TrainResult r = train_mlp(digits, device.get(), options, {});
    for (const auto& [name, value] : r.states) EXPECT_NE(value.dtype, DType::bf16) << name;
    mixed += r.test_accuracy;
    options.compile.passes.compute = DType::f16;
    options.optimizer.loss_scale = kLossScale;
    const TrainResult f16 = train_mlp(digits, device.get(), options, {});
    scaled += f16.test_accuracy;
    ASSERT_EQ(f16.losses.size(), exact.losses.size());
    double apart = 0, mean = 0;
    for (size_t i = 0; i < exact.losses.size(); ++i) apart += std::fabs(f16.losses[i] - exact.losses[i]), mean += exact.losses[i];
    EXPECT_LT(apart, 0.02 * mean);
    const auto state = [&](const std::string& name) { return std::find_if(f16.states.begin(), f16.states.end(), [&](const auto& s) { return s.first == name; }); };
    ASSERT_NE(state(kLossScaleState), f16.states.end()) << "a checkpoint holds it";
    EXPECT_GE(state("step")->second.at(0), static_cast<double>(exact.losses.size()) - 8) << "few steps are left out";
  }
  EXPECT_GT(mixed / 3, sum / 3 - 0.01);
  EXPECT_GT(scaled / 3, sum / 3 - 0.01);
  std::printf("mean test accuracy of 3 seeds on %s: %.2f %% in f32, %.2f %% in bf16, %.2f %% in f16 with f32 masters\n", device->name().c_str(), 100 * sum / 3, 100 * mixed / 3, 100 * scaled / 3);
}

TEST_F(Mlp, FirstMixedLossesMatchInterpreter) {
  const Dataset digits = load_digits();
  TrainOptions options;
  options.max_steps = 10;
  options.compile.passes.compute = DType::bf16;
  const std::vector<double> want = train_mlp(digits, nullptr, options, {}).losses, got = train_mlp(digits, device.get(), options, {}).losses;
  ASSERT_EQ(got.size(), 10u);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 2e-3 * want[i]) << "step " << i + 1;   // a sum in another order rounds to its neighbour
}

}  // namespace
}  // namespace quern
