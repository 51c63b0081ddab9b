// Models larger than mlp.h: those that the benchmarks' suite times, that the kernel goldens count and that the command knows by
// name. Parameters start as zeros: whoever runs them fills them.
#pragma once
#include <optional>

#include "models/mlp.h"

namespace quern::zoo {

inline constexpr int64_t kInputs = 200, kHeads = 3, kHeadClasses = 10;
inline constexpr int64_t kTime = 256, kWidth = 384, kBlockHeads = 6, kBlockBatch = 8;
inline constexpr int64_t kVocabulary = 50257, kGptWidth = 768, kGptHeads = 12, kGptLayers = 12, kPast = 255;
inline constexpr int64_t kGptTokens = 256, kSteps = 32;

/// GPT-2; what is not said is that of 124M parameters, on one text.
struct GptSize {
  int64_t batch = 1, time = kGptTokens, layers = kGptLayers, width = kGptWidth, heads = kGptHeads, vocabulary = kVocabulary;
};

/// Training steps with AdamW (the CNN's with Optimizer's defaults): three classifiers on one trunk; two convolutions with pooling
/// and two dense layers on 28x28 pictures; one transformer block; GPT-2, whose tokens and labels are [batch * time].
inline const Optimizer kAdamW{.algorithm = Algorithm::adamw, .weight_decay = 0.01};
TrainingStep heads_step(int64_t batch, const Optimizer& optimizer = kAdamW), cnn_step(int64_t batch, const Optimizer& optimizer = {}),
    block_step(int64_t time = kTime, const Optimizer& optimizer = kAdamW), gpt_step(const GptSize& size = {}, const Optimizer& optimizer = kAdamW);
/// An LSTM's loss and gradients.
struct LstmSize {
  int64_t batch = 32, steps = kSteps, in = 128, hidden = 256;
};
TrainingStep lstm_gradients(const LstmSize& size = {});
/// Forward passes: the three classifiers' logits; two convolutions beside a shortcut; GPT-2 124M's next token.
TrainingStep heads_forward(int64_t batch), residual_forward(int64_t batch), decode();

/// A model that the command knows by name, a training step with this Optimizer::loss_scale; nothing for other names.
const std::vector<std::string>& names();
std::optional<TrainingStep> build(const std::string& name, double loss_scale = 0);

}  // namespace quern::zoo
