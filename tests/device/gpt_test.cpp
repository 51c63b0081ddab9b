// A small GPT trained on a device: products of bf16 with f32 masters beside all of f32, the loss of each step. Its sizes leave rows at no
// multiple of 16 bytes (the vocabulary) and batches whose rows are products' together.
#include <cmath>

#include "models/zoo.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class Gpt : public test::OnDevice {
 protected:
  std::vector<double> losses(const zoo::GptSize& size, DType compute, Fp fp, int64_t steps) {
    zoo::GptSize s = size;
    TrainingStep step = zoo::gpt_step(s);
    CompileOptions options;
    options.use_cache = false;
    options.passes.compute = compute;
    options.passes.fp = fp;
    const auto run = jit(*device, step.graph, options, &report);
    std::mt19937_64 random(7);
    for (auto& [name, value] : step.initial) {
      if (name == "step" || name.ends_with(".m") || name.ends_with(".v")) {
      } else if (name.ends_with(".scale")) {
        value = HostTensor::full(DType::f32, value.shape, 1);
      } else if (!name.ends_with(".bias") && !name.ends_with(".shift")) {
        const double scale = name.ends_with(".table") ? 0.1 : 1 / std::sqrt(static_cast<double>(value.shape[0]));
        value = test::random_tensor({DType::f32, value.shape, {}}, -scale, scale, random);
      }
      run->set_state(name, value);
    }
    HostTensor token(DType::i32, {s.batch * s.time}), label = token;   // each token follows from the one before
    int64_t at = 1;
    for (int64_t i = 0; i < token.size(); ++i) {
      token.data<int32_t>()[i] = static_cast<int32_t>(at);
      at = (5 * at + 7) % s.vocabulary;
      label.data<int32_t>()[i] = static_cast<int32_t>(at);
    }
    run->set_input(0, token);
    run->set_input(1, label);
    std::vector<double> out;
    for (int64_t i = 0; i < steps; ++i) {
      run->run();
      out.push_back(run->output(0).at(0));
    }
    return out;
  }
  CompileReport report;
};

TEST_F(Gpt, MixedLossesFollowThoseOfF32) {
  const zoo::GptSize size{.batch = 4, .time = 64, .layers = 2, .width = 128, .heads = 2, .vocabulary = 301};
  const std::vector<double> want = losses(size, DType::f32, Fp::standard, 20);
  for (const Fp fp : {Fp::standard, Fp::fast}) {
    const std::vector<double> got = losses(size, DType::bf16, fp, 20), again = losses(size, DType::bf16, fp, 20);
    EXPECT_EQ(got, again) << "the same bits in every run";
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 0.02 * want[i]) << "step " << i + 1;
    EXPECT_LT(got.back(), 0.8 * got.front());
    std::printf("20 losses on %s: %.4f to %.4f in f32, to %.4f in bf16\n", device->name().c_str(), want.front(), want.back(), got.back());
  }
}

}  // namespace
}  // namespace quern
