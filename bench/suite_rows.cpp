// The suite's row kernels of a GPU, which only move memory: what a transformer's training step has beside its products, and
// sums and a transpose of a large matrix. bf16 in memory and f32 within, as frameworks have it; AdamW, sums and transpose f32.
#include <utility>

#include <fmt/format.h>

#include "bench/suite.h"
#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/optim.h"

namespace quern::bench {

std::vector<SuiteCase> suite_rows() {
  constexpr DType kShort = DType::bf16, kFloat = DType::f32;
  using Input = SuiteCase::Input;
  using Tensors = std::vector<Tensor>;
  constexpr int64_t kRows = 16384, kWidth = 768, kTexts = 8192, kClasses = 50304, kSide = 8192, kVocabulary = 50257, kParameters = 124000000;
  std::vector<SuiteCase> out;
  const auto add = [&](const std::string& name, const char* op, const std::vector<Input>& inputs, double read, double written, auto build) {
    out.push_back(plain_case("row", name, inputs, {{"op", op}}, [build](Model& g, const Tensors& t) {
      int64_t i = 0;
      for (const Tensor& y : build(t)) g.output(fmt::format("y{}", i++), y);
    }));
    out.back().read = read;
    out.back().written = written;
  };
  const auto wide = [](const Tensor& t) { return cast(t, kFloat); };
  const Input x{{kRows, kWidth}, 0, kShort}, row{{kWidth}, 0, kShort}, hidden{{kRows, 4 * kWidth}, 0, kShort}, bias{{4 * kWidth}, 0, kShort};
  const Input logits{{kTexts, kClasses}, 0, kShort, 4}, labels{{kTexts}, kClasses}, square{{kSide, kSide}};
  const double rows = 2.0 * kRows * kWidth, scores = 2.0 * kTexts * kClasses, plane = 4.0 * kSide * kSide;
  add("layer norm forward bf16 16384x768", "layer_norm", {x, row, row}, rows, rows, [=](const Tensors& t) { return Tensors{cast(layer_norm(wide(t[0]), wide(t[1]), wide(t[2])), kShort)}; });
  add("layer norm backward bf16 16384x768", "layer_norm_grad", {x, row, row, x}, 2 * rows, rows, [=](const Tensors& t) { return grad(sum(layer_norm(wide(t[0]), wide(t[1]), wide(t[2])) * wide(t[3])), {t[0], t[1], t[2]}); });
  add("softmax bf16 8192x50304", "softmax", {logits}, scores, scores, [=](const Tensors& t) { return Tensors{cast(softmax(wide(t[0])), kShort)}; });
  add("cross-entropy bf16 8192x50304", "cross_entropy_wide", {logits, labels}, scores, 0, [=](const Tensors& t) { return Tensors{cross_entropy(wide(t[0]), t[1])}; });
  add("bias gelu bf16 16384x3072", "bias_gelu", {hidden, bias}, 4 * rows, 4 * rows, [=](const Tensors& t) { return Tensors{cast(gelu(wide(t[0]) + wide(t[1])), kShort)}; });
  add("sum axis 0 f32 8192x8192", "sum0", {square}, plane, 0, [](const Tensors& t) { return Tensors{sum(t[0], {0})}; });
  add("sum axis 1 f32 8192x8192", "sum1", {square}, plane, 0, [](const Tensors& t) { return Tensors{sum(t[0], {1})}; });
  add("transpose add f32 8192x8192", "transpose_add", {square}, plane, plane, [](const Tensors& t) { return Tensors{t[0] + transpose(t[0], {1, 0})}; });
  // In a fixed order; the peers' sums are in any: the price of determinism.
  const Input table{{kVocabulary, kWidth}}, updates{{kRows, kWidth}}, tokens{{kRows}, kVocabulary};
  add("embedding gradient f32 16384 of 50257x768", "embedding_gradient", {table, updates, tokens}, 4.0 * kRows * kWidth, 4.0 * kVocabulary * kWidth, [](const Tensors& t) { return grad(sum(embedding(t[0], t[2]) * t[1]), {t[0]}); });

  // An optimizer's update as a function: what it would change in place are outputs.
  const Input parameters{{kParameters}}, moment{{kParameters}, 0, kFloat, 0.01}, square_moment{{kParameters}, 0, kFloat, 0.01, 0.01};
  SuiteCase adamw{"row", "row AdamW f32 124M", {parameters, parameters, {{}}, moment, square_moment}, [] {
                    Model g;
                    Params params(g, 0);
                    params.add("w", {kParameters}, Init::zeros);
                    const Tensor gradient = g.input("g", kFloat, {kParameters});
                    Optimizer o{Algorithm::adamw};
                    o.weight_decay = 0.01;
                    apply_updates(g, params, {gradient}, o);
                    Graph graph = g.finish();
                    for (const State& s : std::exchange(graph.states, {}))
                      if (s.name != "step") graph.outputs.push_back({s.name, s.output});
                    return TrainingStep{std::move(graph), {}};
                  },
                  {{"op", "adamw"}}};
  adamw.read = 16.0 * kParameters, adamw.written = 12.0 * kParameters;
  out.push_back(std::move(adamw));
  for (SuiteCase& c : out) c.weight = 5;
  return out;
}

}  // namespace quern::bench
