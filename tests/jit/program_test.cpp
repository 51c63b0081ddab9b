// The cache under damage, the CPU with several numbers of threads, the null device. What every
// device must do is in tests/device.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "codegen/cache.h"
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

TEST(Cache, DamageIsFoundAndCompiledAgain) {
  const std::string directory = testing::TempDir() + "quern_cache_test";
  std::filesystem::remove_all(directory);
  const std::vector<uint8_t> payload = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  {
    Cache cache(directory);
    ASSERT_TRUE(cache.usable());
    cache.put("key", payload);
    EXPECT_EQ(cache.get("key"), payload);
    EXPECT_FALSE(cache.get("other"));
  }
  struct stat info {};
  ASSERT_EQ(::stat(directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const std::string file = Cache(directory).list().at(0).file;
  std::ifstream in(file, std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), {});
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    std::ofstream(file, std::ios::binary) << bad;
    Cache cache(directory);
    EXPECT_FALSE(cache.get("key")) << bit;
    EXPECT_EQ(cache.take_notes().size(), 1u);
    EXPECT_FALSE(std::filesystem::exists(file));
  }
  for (size_t n = 0; n < good.size(); ++n) {
    std::ofstream(file, std::ios::binary) << good.substr(0, n);
    EXPECT_FALSE(Cache(directory).get("key")) << n;
  }
  ::chmod(directory.c_str(), 0777);
  EXPECT_FALSE(Cache(directory).usable());
  std::filesystem::remove_all(directory);
  std::filesystem::create_symlink("/tmp", directory);
  EXPECT_FALSE(Cache(directory).usable());
  std::filesystem::remove(directory);
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
