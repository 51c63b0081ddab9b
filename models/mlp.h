// A multi-layer perceptron for classification: the whole model, and a training step as one graph.
#pragma once
#include "frontend/nn.h"
#include "frontend/optim.h"

namespace quern {

struct MlpConfig {
  int64_t inputs = 64, classes = 10;
  std::vector<int64_t> hidden = {128};
  double dropout = 0;
};

/// A batch size, or bounds of one: one program then serves every size between them.
struct Batch {
  int64_t low, high;
  Batch(int64_t size) : low(size), high(size) {}   // NOLINT: implicit
  Batch(int64_t low, int64_t high) : low(low), high(high) {}
  int64_t dim(Model& model) const { return low == high ? low : model.symbol("batch", low, high); }
};

/// x f32[batch, inputs] → logits f32[batch, classes]. `key` (u32[]) seeds dropout; without one nothing is dropped.
inline Tensor mlp(Params& params, const MlpConfig& config, Tensor x, const Tensor& key = {}) {
  int64_t width = config.inputs;
  for (size_t i = 0; i < config.hidden.size(); ++i) {
    const std::string name = "hidden" + std::to_string(i);
    const Tensor w = params.add(name + ".weight", {width, config.hidden[i]}, Init::he);
    const Tensor b = params.add(name + ".bias", {config.hidden[i]}, Init::zeros);
    x = relu(linear(x, w, b));
    if (key) x = dropout(x, config.dropout, key, static_cast<int64_t>(i));
    width = config.hidden[i];
  }
  return linear(x, params.add("out.weight", {width, config.classes}, Init::xavier), params.add("out.bias", {config.classes}, Init::zeros));
}

/// A graph and the initial values of its states.
struct TrainingStep {
  Graph graph;
  std::vector<std::pair<std::string, HostTensor>> initial;
};

/// Inputs "x" f32[batch, inputs] and "label" i32[batch]; output "loss" f32[]; forward, backward and update in one.
inline TrainingStep mlp_step(const MlpConfig& config, Batch sizes, const Optimizer& optimizer, uint32_t seed) {
  Model model;
  Params params(model, seed);
  const int64_t batch = sizes.dim(model);
  const Tensor x = model.input("x", DType::f32, {batch, config.inputs});
  const Tensor label = model.input("label", DType::i32, {batch});
  const Tensor key = config.dropout > 0 ? model.input("dropout_key", DType::u32, {}) : Tensor();
  const Tensor loss = cross_entropy(mlp(params, config, x, key), label);
  TrainingStep step;
  model.output("loss", loss);
  step.initial = minimize(model, params, loss, optimizer);
  if (key) {
    model.state("dropout_key", key, key + 1);
    step.initial.emplace_back("dropout_key", HostTensor::full(DType::u32, {}, seed));
  }
  step.graph = model.finish();
  return step;
}

/// Inputs "x" and the parameters; output "class" i64[batch].
inline Graph mlp_predict(const MlpConfig& config, Batch sizes) {
  Model model;
  Params params(model, 0);
  const Tensor x = model.input("x", DType::f32, {sizes.dim(model), config.inputs});
  const Tensor logits = mlp(params, config, x);
  for (const Param& p : params.all()) model.state(p.name, p.tensor, p.tensor);
  model.output("class", argmax(logits, 1));
  return model.finish();
}

}  // namespace quern
