// Draws of frontend/sample.h on a device: those of the interpreter, in the frequencies that the logits give, and of the classes that
// top_k and top_p leave.
#include <cmath>
#include <numeric>

#include "frontend/sample.h"
#include "tests/support/device.h"

namespace quern {
namespace {

const std::vector<double> kLogits = {0.5, -1, 2, 1.5, -std::numeric_limits<double>::infinity(), 0, 1, -2.5};
constexpr int64_t kClasses = 8, kDraws = 20000;

std::vector<double> probabilities(double temperature) {
  std::vector<double> p;
  for (double l : kLogits) p.push_back(std::exp(l / temperature));
  const double all = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= all;
  return p;
}

class Sample : public test::OnDevice {
 protected:
  // How often each class is drawn; the interpreter draws the same.
  std::vector<int64_t> draws(const Sampling& how) {
    Model model;
    const Tensor logits = model.input("logits", DType::f32, {kClasses}), key = model.input("key", DType::u32, {});
    model.output("class", sample(broadcast_to(logits, {kDraws, kClasses}), key, how, 3));
    const Graph graph = model.finish();
    const std::vector<HostTensor> inputs = {HostTensor::from(DType::f32, {kClasses}, kLogits), HostTensor::full(DType::u32, {}, 11)};
    PassContext context;
    const HostTensor want = interpret(expand(graph, context), inputs)[0], got = compiled(graph)->run(inputs)[0];
    EXPECT_EQ(got.shape, Shape{kDraws});
    EXPECT_TRUE(got == want);
    std::vector<int64_t> counts(kClasses);
    for (int64_t i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(got.data<int64_t>()[i])];
    return counts;
  }
  // Pearson's test against p, renormalised over the classes in `kept`: below its 0.999 quantile for 7 degrees of freedom.
  void expect_frequencies(const std::vector<int64_t>& counts, const std::vector<double>& p, const std::vector<size_t>& kept) {
    double mass = 0, chi = 0;
    int64_t seen = 0;
    for (size_t k : kept) mass += p[k];
    for (size_t k : kept) {
      const double want = static_cast<double>(kDraws) * p[k] / mass, apart = static_cast<double>(counts[k]) - want;
      if (want > 0) chi += apart * apart / want;
      seen += counts[k];
    }
    EXPECT_EQ(seen, kDraws) << "nothing else is drawn";
    EXPECT_LT(chi, 24.3);
  }
};

TEST_F(Sample, FrequenciesAreTheProbabilities) {
  for (const double temperature : {1.0, 0.5, 3.0}) {
    SCOPED_TRACE(temperature);
    const std::vector<int64_t> counts = draws({.temperature = temperature});
    expect_frequencies(counts, probabilities(temperature), {0, 1, 2, 3, 4, 5, 6, 7});
    EXPECT_EQ(counts[4], 0) << "-inf";
  }
}

TEST_F(Sample, TemperatureZeroTakesTheGreatest) { EXPECT_EQ(draws({.temperature = 0})[2], kDraws); }

TEST_F(Sample, TopKAndTopPLeaveTheLikely) {
  expect_frequencies(draws({.top_k = 3}), probabilities(1), {2, 3, 6});
  // 0.42 and 0.25 are less than 0.8 together, with 0.15 it is more.
  expect_frequencies(draws({.top_p = 0.8}), probabilities(1), {2, 3, 6});
  expect_frequencies(draws({.top_p = 0.01}), probabilities(1), {2});
  expect_frequencies(draws({.temperature = 0.5, .top_k = 4, .top_p = 0.9}), probabilities(0.5), {2, 3, 6});
}

TEST_F(Sample, RefusesWhatMakesNoSense) {
  for (const Sampling& how : {Sampling{.temperature = -1}, {.temperature = std::nan("")}, {.top_k = -1}, {.top_k = 9}, {.top_p = 0}, {.top_p = 1.5}}) EXPECT_THROW(draws(how), Error);
}

}  // namespace
}  // namespace quern
