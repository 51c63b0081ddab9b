// The CPU with several numbers of threads, the null device. What every device must do is in tests/device; programs as
// files and the cache are in tests/fast and tests/threads, damaged ones also in bad_input_test.cpp.
#include <gtest/gtest.h>

#include "models/mlp.h"
#include "runtime/cpu/device.h"
#include "runtime/jit.h"

namespace quern {
namespace {

Graph small_graph() {
  Model g;
  const Tensor x = g.input("x", DType::f32, {3, 5}), w = g.input("w", DType::f32, {5, 4});
  g.output("y", tanh(matmul(x, w)));
  return g.finish();
}

TEST(Runtime, BitEqualForAnyNumberOfThreads) {
  const TrainingStep step = mlp_step({784, 10, {256}, 0}, 64, {}, 3);
  std::vector<HostTensor> first;
  for (const char* threads : {"1", "2", "3"}) {
    ::setenv("QUERN_THREADS", threads, 1);
    const auto device = open_cpu_device();
    CompileOptions options;
    options.use_cache = false;
    const auto e = jit(*device, step.graph, options);
    for (const auto& [name, value] : step.initial) e->set_state(name, value);
    HostTensor x(DType::f32, {64, 784}), label(DType::i32, {64});
    for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = static_cast<float>(philox(1, 1, static_cast<uint64_t>(i)) % 256) / 255;
    for (int64_t i = 0; i < 64; ++i) label.data<int32_t>()[i] = static_cast<int32_t>(i % 10);
    e->run({x, label});
    for (int k = 0; k < 4; ++k) e->run({x, label});
    std::vector<HostTensor> states;
    for (const auto& [name, value] : step.initial) states.push_back(e->state(name));
    if (first.empty()) first = states;
    EXPECT_EQ(states, first);
  }
  ::unsetenv("QUERN_THREADS");
}

TEST(Null, TranscriptNamesNoAddress) {
  std::string transcript;
  const auto device = open_device("null", &transcript);
  const auto e = jit(*device, small_graph());
  e->run({HostTensor(DType::f32, {3, 5}), HostTensor(DType::f32, {5, 4})});
  EXPECT_NE(transcript.find("launch k0_contract_tanh grid"), std::string::npos) << transcript;
  EXPECT_EQ(transcript.find("0x"), std::string::npos);
}

}  // namespace
}  // namespace quern
