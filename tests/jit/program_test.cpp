// The CPU with several numbers of threads, programs that come from the cache as a whole, the null device. What every device must do is in tests/device; programs as
// files and the cache are in tests/fast and tests/threads, damaged ones also in bad_input_test.cpp.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "codegen/image.h"
#include "codegen/stored.h"
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

class StoredPrograms : public testing::Test {
 protected:
  const std::string directory = testing::TempDir() + "quern_stored_" + std::to_string(::getpid());
  CompileOptions options;
  CompileReport report;
  void SetUp() override {
    std::filesystem::remove_all(directory);
    ::setenv("QUERN_CACHE_DIR", directory.c_str(), 1);
    options.target = parse_target("cpu");
  }
  void TearDown() override {
    ::unsetenv("QUERN_CACHE_DIR");
    std::filesystem::remove_all(directory);
  }
  /// The package of the graph; how many kernels LLVM compiled for it is `through_llvm`.
  std::vector<uint8_t> package(const Graph& graph) {
    report = {};
    const int64_t before = cpu::compiled_kernels();
    std::vector<uint8_t> out = save_program(compile(graph, options, &report));
    through_llvm = cpu::compiled_kernels() - before;
    return out;
  }
  int64_t through_llvm = 0;
};

TEST_F(StoredPrograms, AWarmStartTouchesNoLlvm) {
  const TrainingStep step = mlp_step({20, 4, {16}, 0}, 8, {}, 1);
  const std::vector<uint8_t> cold = package(step.graph);
  EXPECT_GT(through_llvm, 5);
  EXPECT_EQ(report.program, "kept in the cache");
  EXPECT_EQ(package(step.graph), cold);
  EXPECT_EQ(through_llvm, 0);
  EXPECT_EQ(report.program, "from the cache");
  EXPECT_EQ(report.compiled, 0);
  EXPECT_GT(report.cached, 5);
  EXPECT_TRUE(report.planned.empty());
  EXPECT_EQ(package(mlp_step({20, 4, {16}, 0}, 8, {}, 1).graph), cold);   // traced again
  EXPECT_EQ(report.program, "from the cache");
  EXPECT_NE(package(mlp_step({20, 4, {16}, 0}, 9, {}, 1).graph), cold);
  EXPECT_EQ(report.program, "kept in the cache");
}

// What a program follows from is in its key; who looks inside gets one that is made here.
TEST_F(StoredPrograms, OptionsHaveProgramsOfTheirOwn) {
  const Graph graph = small_graph();
  package(graph);
  const auto differs = [&](auto&& change) {
    const CompileOptions before = options;
    change(options);
    package(graph);
    EXPECT_NE(report.program, "from the cache");
    options = before;
  };
  differs([](CompileOptions& o) { o.passes.disabled = {"simplify"}; });
  differs([](CompileOptions& o) { o.passes.bisect_limit = 0; });
  differs([](CompileOptions& o) { o.passes.fp = Fp::fast; });
  differs([](CompileOptions& o) { o.passes.compute = DType::bf16; });
  differs([](CompileOptions& o) { o.passes.memory_limit = 1 << 20; });
  differs([](CompileOptions& o) { o.passes.after = [](const std::string&, const Graph&) {}; });
  differs([](CompileOptions& o) { o.want_source = true; });
  differs([](CompileOptions& o) { o.use_cache = false; });
  differs([](CompileOptions& o) { o.target.arch = o.target.arch == "v128" ? "avx2" : "v128"; });
  package(graph);
  EXPECT_EQ(report.program, "from the cache");
}

TEST_F(StoredPrograms, DamageIsFoundAndCompiledAgain) {
  const std::vector<uint8_t> cold = package(small_graph());
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('!');
  }
  EXPECT_EQ(package(small_graph()), cold);
  EXPECT_EQ(through_llvm, 1);
  EXPECT_EQ(report.notes.size(), 2u);   // the program and its kernel
  // Sound entries that hold no program, or another one.
  Cache cache(directory);
  const std::string text = load_program(cold, "cold").graph_text, key = program_key(text, options);
  std::vector<std::string> notes;
  cache.put(key, cold);
  EXPECT_TRUE(stored_program(cache, key, text, notes));
  EXPECT_TRUE(notes.empty());
  EXPECT_FALSE(stored_program(cache, key, text + " ", notes));
  cache.put(key, {1, 2, 3});
  EXPECT_FALSE(stored_program(cache, key, text, notes));
  EXPECT_EQ(notes.size(), 2u);
}

TEST_F(StoredPrograms, LargeConstantsAreNotStoredTwice) {
  Program program;
  program.slots.push_back({SlotKind::constant, DType::f32, {kLargestStored / 4 + 1}});
  Cache cache(directory);
  EXPECT_NE(store_program(cache, "large", program).find("up to 67108864 are kept"), std::string::npos);
  EXPECT_TRUE(cache.list().empty());
  EXPECT_NE(unfit_to_store(std::string(kLargestStored + 1, ' '), options).find("up to 67108864 are kept"), std::string::npos);
  EXPECT_EQ(unfit_to_store(std::string(kLargestStored, ' '), options), "");
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
