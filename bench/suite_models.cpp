// The suite's models (models/zoo.h): training steps with their optimizer as one program each, forward passes, a decoded token.
// What the peers compute is in bench/peers/suite_torch.py and suite_jax.py, with the same parameters in the same order.
#include <fmt/format.h>

#include "bench/suite.h"
#include "models/zoo.h"

namespace quern::bench {

using namespace zoo;

namespace {

const double kTrunk = 4.0 * 200 * 512 + 6.0 * (512 * 256 + 256 * 128 + 3 * 128 * 10), kForward = 2.0 * (200 * 512 + 512 * 256 + 256 * 128 + 3 * 128 * 10);   // flops of a row
constexpr double kLearned = 1e-3;   // a loss that is learned is what is left of logits of about 10, which f32 rounds to 1e-6

double mlp_flops(int64_t batch) { return static_cast<double>(batch) * (4.0 * 784 * 256 + 6.0 * 256 * 10); }
double lstm_flops(const LstmSize& s) { return static_cast<double>(s.batch * s.steps) * 4 * static_cast<double>(s.hidden) * (4.0 * static_cast<double>(s.in) + 6.0 * static_cast<double>(s.hidden)); }
std::vector<SuiteCase::Input> heads_inputs(int64_t b) { return {{{b, kInputs}}, {{b}, kHeadClasses}, {{b}, kHeadClasses}, {{b}, kHeadClasses}}; }

}  // namespace

// Small ones, whose steps and passes are a few kernels each; of a training step the same batch again and again.
std::vector<SuiteCase> suite_gpu_models() {
  std::vector<SuiteCase> out;
  for (const F32Products matmul : {F32Products::f32, F32Products::tf32}) {
    const std::string how = kF32Products[static_cast<size_t>(matmul)];
    const auto add = [&](const std::string& name, const char* op, const std::vector<SuiteCase::Input>& inputs, double flops, std::function<TrainingStep()> build) {
      out.push_back({"model", fmt::format("model {} {}", how, name), inputs, std::move(build), {{"op", op}, {"matmul", how}}, flops});
      out.back().matmul = matmul;
      out.back().weight = 6;
      if (matmul == F32Products::tf32) out.back().tolerance = kTf32Tolerance;
      if (std::string(op).ends_with("_step")) out.back().least = kLearned;
    };
    for (int64_t b : {1, 8, 32, 128, 512, 4096})
      add(fmt::format("784-256-10 step, batch {}", b), "mlp_step", {{{b, 784}}, {{b}, 10}}, mlp_flops(b), [b] { return mlp_step({784, 10, {256}, 0}, b, {}, 1); });
    add("200-512-256-128 3 heads step, batch 4096", "heads_step", heads_inputs(4096), 4096 * kTrunk, [] { return heads_step(4096); });
    for (int64_t b : {1, 1000, 10000, 100000})
      add(fmt::format("200-512-256-128 3 heads forward, {} rows", b), "heads", {{{b, kInputs}}}, static_cast<double>(b) * kForward, [b] { return heads_forward(b); });
    for (const LstmSize& s : {LstmSize{64, 32, 64, 128}, LstmSize{128, 100, 128, 512}})
      add(fmt::format("lstm {}-{} {} steps batch {} forward and backward", s.in, s.hidden, s.steps, s.batch), "lstm", {{{s.steps, s.batch, s.in}}}, lstm_flops(s), [s] { return lstm_gradients(s); });
  }
  return out;
}

std::vector<SuiteCase> suite_models() {
  std::vector<SuiteCase> out;
  const auto add = [&](const std::string& family, const std::string& name, const char* op, const std::vector<SuiteCase::Input>& inputs, double flops, double target, std::function<TrainingStep()> build, Json more = Json::object()) {
    more["op"] = op;
    out.push_back({family, family + " " + name, inputs, std::move(build), std::move(more), flops});
    out.back().target = target;
    if (std::string(op).ends_with("_step")) out.back().least = kLearned;
  };
  const auto mlp_target = [](int64_t batch) { return batch <= 32 ? 2.0 : 1.2; };
  for (int64_t b : {1, 8, 32, 128, 512, 4096})
    add("mlp step", fmt::format("784-256-10 batch {}", b), "mlp_step", {{{b, 784}}, {{b}, 10}}, mlp_flops(b), mlp_target(b), [b] { return mlp_step({784, 10, {256}, 0}, b, {}, 1); });
  for (int64_t b : {1, 8, 32, 128, 512, 4096})
    add("mlp step", fmt::format("200-512-256-128 3 heads batch {}", b), "heads_step", heads_inputs(b), static_cast<double>(b) * kTrunk, mlp_target(b), [b] { return heads_step(b); });
  const double cnn = 128 * (4.0 * 28 * 28 * 32 * 9 + 6.0 * 14 * 14 * 64 * 32 * 9 + 6.0 * (3136 * 128 + 128 * 10));
  add("cnn", "28x28 batch 128 step", "cnn_step", {{{128, 1, 28, 28}}, {{128}, 10}}, cnn, 1.2, [] { return cnn_step(128); });
  for (int64_t b : {1, 8}) add("cnn", fmt::format("residual block 64x56x56 batch {} forward", b), "residual", {{{b, 64, 56, 56}}}, static_cast<double>(b) * 2 * 2.0 * 56 * 56 * 64 * 64 * 9, 1.2, [b] { return residual_forward(b); });
  add("lstm", "128-256 32 steps batch 32 forward and backward", "lstm", {{{32, 32, 128}}}, lstm_flops({}), 2, [] { return lstm_gradients(); });
  const double tokens = kBlockBatch * kTime;
  add("gpt", "block 384 6 heads batch 8x256 step", "block_step", {{{kBlockBatch, kTime, kWidth}}}, tokens * (6.0 * 12 * kWidth * kWidth + 6.0 * kTime * kWidth), 1.1, [] { return block_step(); }, {{"heads", kBlockHeads}});
  add("gpt", "124M decode one token after 255", "decode", {{{1}, kVocabulary}}, 0, 1, [] { return decode(); }, {{"heads", kGptHeads}, {"layers", kGptLayers}, {"past", kPast}, {"width", kGptWidth}, {"vocabulary", kVocabulary}});
  out.back().read = 4.0 * (kVocabulary * kGptWidth + kGptLayers * (12.0 * kGptWidth * kGptWidth + 2.0 * kPast * kGptWidth));
  const std::vector<SuiteCase::Input> image = {{{128, 784}}, {{128}, 10}}, picture = {{{128, 1, 28, 28}}, {{128}, 10}}, text = {{{kGptTokens}, kVocabulary}, {{kGptTokens}, kVocabulary}};
  for (const char* start : {"cold", "warm"}) {
    const Json how = {{"compile", start}};
    const Json gpt = {{"compile", start}, {"heads", kGptHeads}, {"layers", kGptLayers}};
    add("compile", fmt::format("mlp step 784-256-10 batch 128 {}", start), "mlp_step", image, 0, 1, [] { return mlp_step({784, 10, {256}, 0}, 128, {}, 1); }, how);
    add("compile", fmt::format("cnn 28x28 batch 128 step {}", start), "cnn_step", picture, 0, 1, [] { return cnn_step(128); }, how);
    add("compile", fmt::format("gpt 124M 256 tokens step {}", start), "gpt_step", text, 0, 1, [] { return gpt_step(); }, gpt);
  }
  return out;
}

std::vector<SuiteCase> suite_gpu_gpt() {
  std::vector<SuiteCase> out;
  for (int64_t batch : {16, 32}) {
    const GptSize size{.batch = batch, .time = 1024};
    const int64_t tokens = size.batch * size.time, parameters = size.width * (size.vocabulary + size.time + size.layers * (12 * size.width + 13) + 2);
    const SuiteCase::Input text{{tokens}, size.vocabulary};
    SuiteCase c{"gpt", fmt::format("gpt 124M {}x{} step bf16", size.batch, size.time), {text, text}, [size] { return gpt_step(size); }, {{"op", "gpt_step"}, {"heads", size.heads}, {"layers", size.layers}, {"time", size.time}, {"first", "torch-compile"}}};   // which needs less memory, and is the faster one
    c.tokens = static_cast<double>(tokens);
    c.flops = c.tokens * 6 * static_cast<double>(parameters + size.layers * size.width * size.time);   // llm.c's count
    c.tolerance = kTf32Tolerance;
    c.passes.compute = DType::bf16;
    c.passes.fp = Fp::fast;
    c.weight = 40;
    out.push_back(std::move(c));
  }
  return out;
}

}  // namespace quern::bench
