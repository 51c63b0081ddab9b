// A small GPT trained on a device: products of bf16 with f32 masters beside all of f32, the loss of each step. Its sizes leave rows at no
// multiple of 16 bytes (the vocabulary) and batches whose rows are products' together. And 500 steps on tinyshakespeare, in the
// folder that QUERN_DATA names or in ../shared/data; without it that test is skipped with that reason.
#include <cmath>
#include <fstream>
#include <iterator>
#include <numeric>

#include "ir/support/env.h"
#include "models/zoo.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class Gpt : public test::OnDevice {
 protected:
  // `next` gives a step's tokens and labels; without it all steps have the same.
  using Batch = std::function<void(HostTensor& token, HostTensor& label)>;
  std::vector<double> losses(const zoo::GptSize& size, DType compute, Fp fp, int64_t steps, const Batch& next = nullptr) {
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
      if (next) {
        next(token, label);
        run->set_input(0, token);
        run->set_input(1, label);
      }
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

TEST_F(Gpt, LossesOnText) {
  if (device->target().kind == TargetKind::cpu) GTEST_SKIP() << "500 steps of this size are for a GPU";
  const std::string data = env(Env::data) ? env(Env::data) : QN_SOURCE_DIR "/../shared/data";
  std::ifstream file(data + "/tinyshakespeare/input.txt", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) GTEST_SKIP() << "tinyshakespeare is not here: set QUERN_DATA to a folder with tinyshakespeare/input.txt";
  const zoo::GptSize size{.batch = 16, .time = 256, .layers = 4, .width = 256, .heads = 4, .vocabulary = 256};
  const auto batches = [&](uint32_t seed) {
    return [&, random = std::mt19937(seed)](HostTensor& token, HostTensor& label) mutable {
      for (int64_t b = 0; b < size.batch; ++b) {
        const size_t from = random() % (text.size() - static_cast<size_t>(size.time));
        for (int64_t t = 0; t < size.time; ++t) {
          token.data<int32_t>()[b * size.time + t] = static_cast<uint8_t>(text[from + static_cast<size_t>(t)]);
          label.data<int32_t>()[b * size.time + t] = static_cast<uint8_t>(text[from + static_cast<size_t>(t) + 1]);
        }
      }
    };
  };
  constexpr int64_t kSteps = 500, kMean = 50;
  const std::vector<double> want = losses(size, DType::f32, Fp::standard, kSteps, batches(1)), other = losses(size, DType::f32, Fp::standard, kSteps, batches(2)), got = losses(size, DType::bf16, Fp::fast, kSteps, batches(1));
  double noise = 0, apart = 0;   // of means of 50 steps: f32 with other batches, bf16 with the same
  for (int64_t i = 0; i < kSteps; i += kMean) {
    const auto mean = [&](const std::vector<double>& l) { return std::accumulate(l.begin() + i, l.begin() + i + kMean, 0.0) / kMean; };
    noise = std::max(noise, std::abs(mean(other) / mean(want) - 1)), apart = std::max(apart, std::abs(mean(got) / mean(want) - 1));
    std::printf("steps %3ld to %3ld: f32 %.4f, bf16 %.4f\n", static_cast<long>(i + 1), static_cast<long>(i + kMean), mean(want), mean(got));
  }
  std::printf("apart at most %.2f %%; f32 with other batches %.2f %%\n", 100 * apart, 100 * noise);
  EXPECT_LT(apart, noise);
  EXPECT_LT(got.back(), 0.7 * got.front());
}

}  // namespace
}  // namespace quern
