// See zoo.h. What the benchmarks' peers compute is in bench/peers/suite_torch.py and suite_jax.py, with the same parameters in
// the same order.
#include "models/zoo.h"

#include <algorithm>

#include <fmt/format.h>

#include "frontend/attention.h"
#include "frontend/conv.h"
#include "frontend/rnn.h"

namespace quern::zoo {
namespace {

// The suite fills parameters itself (parameter_fill), so they are made of zeros here.
struct Weights {
  Params params;
  explicit Weights(Model& model) : params(model, 1) {}
  Tensor operator()(const std::string& name, Shape shape) { return params.add(name, std::move(shape), Init::zeros); }
  Tensor dense(const Tensor& x, const std::string& name, int64_t out) {
    const Tensor w = (*this)(name + ".weight", {x.shape().back(), out});
    return linear(x, w, (*this)(name + ".bias", {out}));
  }
  Tensor norm(const Tensor& x, const std::string& name) {
    const Tensor scale = (*this)(name + ".scale", {x.shape().back()});
    return layer_norm(x, scale, (*this)(name + ".shift", {x.shape().back()}));
  }
  Tensor conv3(const Tensor& x, const std::string& name, int64_t out) {
    const Tensor w = (*this)(name + ".weight", {out, x.shape()[1], 3, 3});
    return conv(x, w, (*this)(name + ".bias", {out}), {.low = {1}});
  }
};

TrainingStep training(Model& model, const Weights& w, const Tensor& loss, const Optimizer& optimizer) {
  TrainingStep step;
  model.output("loss", loss);
  step.initial = minimize(model, w.params, loss, optimizer);
  step.graph = model.finish();
  return step;
}

/// A forward pass: its parameters keep their values. Caches are inputs, which every token moves.
TrainingStep forward(Model& model, const Weights& w) {
  for (const Param& p : w.params.all())
    if (!p.name.ends_with(".cache")) model.state(p.name, p.tensor, p.tensor);
  return {model.finish(), {}};
}

constexpr int64_t kTrunk[] = {512, 256, 128};

}  // namespace

static std::vector<Tensor> heads(Weights& w, Tensor x) {
  for (int64_t width : kTrunk) x = relu(w.dense(x, fmt::format("hidden{}", width), width));
  std::vector<Tensor> logits;
  for (int64_t h = 0; h < kHeads; ++h) logits.push_back(w.dense(x, fmt::format("head{}", h), kHeadClasses));
  return logits;
}

TrainingStep heads_step(int64_t batch, const Optimizer& optimizer) {
  Model m;
  Weights w(m);
  const Tensor x = m.input("x", DType::f32, {batch, kInputs});
  std::vector<Tensor> label;
  for (int64_t h = 0; h < kHeads; ++h) label.push_back(m.input(fmt::format("label{}", h), DType::i32, {batch}));
  const std::vector<Tensor> logits = heads(w, x);
  Tensor loss;
  for (size_t h = 0; h < label.size(); ++h) {
    const Tensor l = cross_entropy(logits[h], label[h]);
    loss = loss ? loss + l : l;
  }
  return training(m, w, loss, optimizer);
}

TrainingStep heads_forward(int64_t batch) {
  Model m;
  Weights w(m);
  const std::vector<Tensor> logits = heads(w, m.input("x", DType::f32, {batch, kInputs}));
  for (size_t h = 0; h < logits.size(); ++h) m.output(fmt::format("head{}", h), logits[h]);
  return forward(m, w);
}

TrainingStep cnn_step(int64_t batch, const Optimizer& optimizer) {
  Model m;
  Weights w(m);
  Tensor x = m.input("x", DType::f32, {batch, 1, 28, 28});
  const Tensor label = m.input("label", DType::i32, {batch});
  x = max_pool(relu(w.conv3(x, "conv0", 32)), {2});
  x = max_pool(relu(w.conv3(x, "conv1", 64)), {2});
  x = relu(w.dense(reshape(x, {batch, 64 * 7 * 7}), "hidden", 128));
  return training(m, w, cross_entropy(w.dense(x, "out", 10), label), optimizer);
}

TrainingStep residual_forward(int64_t batch) {   // normalisation is folded into the kernels, as for inference
  Model m;
  Weights w(m);
  const Tensor x = m.input("x", DType::f32, {batch, 64, 56, 56});
  m.output("y", relu(w.conv3(relu(w.conv3(x, "conv0", 64)), "conv1", 64) + x));
  return forward(m, w);
}

TrainingStep lstm_gradients(const LstmSize& size) {
  const auto [batch, steps, in, hidden] = size;
  Model m;
  Weights w(m);
  const Tensor x = m.input("x", DType::f32, {steps, batch, in}), zero = m.constant(HostTensor(DType::f32, {batch, hidden}));
  const Tensor wx = w("x.weight", {in, 4 * hidden}), wh = w("h.weight", {hidden, 4 * hidden}), b = w("bias", {4 * hidden});
  const Tensor y = lstm(x, zero, zero, wx, wh, b).all, loss = mean(y * y);
  m.output("loss", loss);
  const std::vector<Tensor> g = grad(loss, w.params.tensors());
  for (size_t i = 0; i < g.size(); ++i) m.output(fmt::format("d{}", i), g[i]);
  return {m.finish(), {}};
}

static Tensor heads_of(const Tensor& x, int64_t heads) {   // [b, t, c] → [b, heads, t, c/heads]
  return transpose(reshape(x, {x.shape()[0], x.shape()[1], heads, x.shape()[2] / heads}), {0, 2, 1, 3});
}
/// One block on x [b, t, c]; with caches [b, heads, past, size] the positions follow them.
static Tensor gpt_block(Weights& w, const Tensor& x, const std::string& name, int64_t heads, int64_t past) {
  const int64_t b = x.shape()[0], t = x.shape()[1], c = x.shape()[2];
  const Tensor qkv = w.dense(w.norm(x, name + ".norm0"), name + ".qkv", 3 * c);
  const Tensor q = heads_of(slice(qkv, 2, 0, c), heads);
  Tensor k = heads_of(slice(qkv, 2, c, 2 * c), heads), v = heads_of(slice(qkv, 2, 2 * c, 3 * c), heads);
  if (past) {
    k = concat({w(name + ".k.cache", {b, heads, past, c / heads}), k}, 2);
    v = concat({w(name + ".v.cache", {b, heads, past, c / heads}), v}, 2);
  }
  const Tensor mixed = reshape(transpose(attention(q, k, v, {.causal = past == 0}), {0, 2, 1, 3}), {b, t, c});
  const Tensor h = x + w.dense(mixed, name + ".out", c);
  return h + w.dense(gelu(w.dense(w.norm(h, name + ".norm1"), name + ".up", 4 * c)), name + ".down", c);
}

TrainingStep block_step(int64_t time, const Optimizer& optimizer) {
  Model m;
  Weights w(m);
  const Tensor y = gpt_block(w, m.input("x", DType::f32, {kBlockBatch, time, kWidth}), "block", kBlockHeads, 0);
  return training(m, w, mean(y * y), optimizer);
}

TrainingStep decode() {
  Model m;
  Weights w(m);
  const Tensor token = m.input("token", DType::i32, {1}), table = w("token.table", {kVocabulary, kGptWidth}), place = w("place.table", {1024, kGptWidth});
  Tensor x = reshape(embedding(table, token) + slice(place, 0, kPast, kPast + 1), {1, 1, kGptWidth});
  for (int64_t l = 0; l < kGptLayers; ++l) x = gpt_block(w, x, fmt::format("block{}", l), kGptHeads, kPast);
  m.output("logits", contract("mk,nk->mn", reshape(w.norm(x, "norm"), {1, kGptWidth}), table));
  return forward(m, w);
}

TrainingStep gpt_step(const GptSize& s, const Optimizer& optimizer) {
  Model m;
  Weights w(m);
  const int64_t tokens = s.batch * s.time;
  const Tensor token = m.input("token", DType::i32, {tokens}), label = m.input("label", DType::i32, {tokens});
  const Tensor table = w("token.table", {s.vocabulary, s.width}), place = w("place.table", {std::max<int64_t>(s.time, 1024), s.width});
  Tensor x = reshape(embedding(table, token), {s.batch, s.time, s.width}) + slice(place, 0, 0, s.time);
  for (int64_t l = 0; l < s.layers; ++l) x = gpt_block(w, x, fmt::format("block{}", l), s.heads, 0);
  const Tensor logits = contract("mk,nk->mn", reshape(w.norm(x, "norm"), {tokens, s.width}), table);
  return training(m, w, cross_entropy(logits, label), optimizer);
}

const std::vector<std::string>& names() {
  static const std::vector<std::string> all = {"heads", "cnn", "residual", "block", "lstm", "decode", "gpt"};
  return all;
}

std::optional<TrainingStep> build(const std::string& name, double loss_scale) {
  Optimizer adam, adamw = kAdamW;
  adam.loss_scale = adamw.loss_scale = loss_scale;
  if (name == "heads") return heads_step(128, adamw);
  if (name == "cnn") return cnn_step(128, adam);
  if (name == "residual") return residual_forward(8);
  if (name == "block") return block_step(kTime, adamw);
  if (name == "lstm") return lstm_gradients();
  if (name == "decode") return decode();
  if (name == "gpt") return gpt_step({}, adamw);
  return std::nullopt;
}

}  // namespace quern::zoo
