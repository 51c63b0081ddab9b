// Programs whose launches became phases of one (codegen/clusters.h), without a GPU: their steps, run by the tile interpreter over the memory
// plan, leave the same bits as those of launches of their own; and through NVRTC nothing spills.
#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/image.h"
#include "models/zoo.h"
#include "passes/tile/sequence.h"
#include "tests/support/recurrence.h"
#include "tests/support/sweep.h"

namespace quern {
namespace {

/// A program's memory on the host, and its steps by the tile interpreter.
class Runner {
 public:
  Runner(const Program& program, const CompileReport& report) : program_(program), report_(report), memory_(program.slots.size()), iteration_(static_cast<size_t>(program.loops)) {
    arena_.resize(static_cast<size_t>(program.arena_bytes));
    std::mt19937_64 random(7);
    for (size_t s = 0; s < program.slots.size(); ++s) {
      const Slot& slot = program.slots[s];
      if (slot.parent >= 0 || slot.kind == SlotKind::arena) continue;
      const bool counts = !is_float(slot.dtype), moment = slot.name.ends_with(".v");
      memory_[s] = slot.kind == SlotKind::constant ? slot.value : test::random_tensor({slot.dtype, slot.shape, {}}, counts || moment ? 0 : -0.4, counts ? 10 : 0.4, random);
    }
  }
  void run() {
    steps(program_.setup);
    steps(program_.steps);
  }
  /// Outputs and states.
  std::vector<HostTensor> results() const {
    std::vector<HostTensor> out;
    for (const auto* list : {&program_.outputs, &program_.states})
      for (int64_t s : *list) out.push_back(memory_[static_cast<size_t>(s)]);
    return out;
  }

 private:
  const Program& program_;
  const CompileReport& report_;
  std::vector<std::byte> arena_;
  std::vector<HostTensor> memory_;   // of slots with memory of their own
  std::vector<int64_t> iteration_;

  std::byte* at(int64_t id) {
    const Slot& s = program_.slots[static_cast<size_t>(id)];
    int64_t offset = s.offset;
    if (s.loop >= 0) offset += s.stride * floor_mod(s.first + s.step * iteration_[static_cast<size_t>(s.loop)], s.entries);
    if (s.parent >= 0) return at(s.parent) + offset;
    return s.kind == SlotKind::arena ? arena_.data() + offset : memory_[static_cast<size_t>(id)].bytes.data();
  }
  void steps(const std::vector<Step>& list) {
    for (const Step& s : list) {
      if (const auto* l = std::get_if<Launch>(&s)) launch(*l);
      if (const auto* c = std::get_if<Copy>(&s)) std::memmove(at(c->to), at(c->from), static_cast<size_t>(program_.slots[static_cast<size_t>(c->to)].bytes()));
      if (const auto* l = std::get_if<Loop>(&s))
        for (int64_t t = 0; t < l->count; ++t) iteration_[static_cast<size_t>(l->id)] = t, steps(l->steps);
    }
  }
  // Phase by phase, as places that have served may be another parameter's: of a loop all phases together.
  void launch(const Launch& l) {
    const tile::Kernel& kernel = report_.planned[static_cast<size_t>(l.images[0])];
    if (!kernel.cluster || kernel.steps >= 0) return kernel_on(kernel, l);
    for (size_t p = 0; p < kernel.phases.size(); ++p) {
      tile::Kernel phase = kernel;
      phase.phases = {kernel.phases[p]};
      phase.phases[0].beside = false;
      kernel_on(phase, l);
    }
  }
  void kernel_on(const tile::Kernel& kernel, const Launch& l) {
    std::vector<HostTensor> storage;
    std::vector<HostTensor*> buffers;
    for (size_t o = 0; o < l.slots.size(); ++o) {
      storage.emplace_back(kernel.buffers[o].dtype, kernel.buffers[o].shape);
      std::memcpy(storage.back().bytes.data(), at(l.slots[o]), storage.back().bytes.size());
    }
    const std::vector<HostTensor> before = storage;
    for (HostTensor& t : storage) buffers.push_back(&t);
    tile::interpret(kernel, buffers);
    for (size_t o = 0; o < l.slots.size(); ++o)   // what it stored
      for (size_t b = 0; b < storage[o].bytes.size(); ++b)
        if (storage[o].bytes[b] != before[o].bytes[b]) at(l.slots[o])[b] = storage[o].bytes[b];
  }
};

struct Made {
  CompileReport report;
  Program program;
};
Made made(const Graph& graph, F32Products products, bool joined) {
  CompileOptions options;
  options.target = parse_target("cuda:sm_90a");
  options.f32_products = products;
  options.use_cache = false;
  if (!joined) options.passes.disabled = {"clusters"};
  Made out;
  out.program = compile(graph, options, &out.report);
  return out;
}

void expect_clean(const tile::Kernel& kernel) {
  KernelImage image = cuda::emit(kernel, "sm_90a");
  EXPECT_EQ(image.grid, kernel.cluster);
  const std::string log = cuda::compile(image, "sm_90a");
  EXPECT_EQ(log.find("C75"), std::string::npos) << log;
  EXPECT_NE(log.find(" 0 bytes spill stores, 0 bytes spill loads"), std::string::npos) << log;
}

void expect_same(const Graph& graph, F32Products products) {
  const Made one = made(graph, products, true), each = made(graph, products, false);
  int clusters = 0;
  for (const tile::Kernel& k : one.report.planned)
    if (k.cluster) ++clusters, expect_clean(k);
  EXPECT_GT(clusters, 0);
  for (const tile::Kernel& k : each.report.planned) EXPECT_EQ(k.cluster, 0);
  Runner a(one.program, one.report), b(each.program, each.report);
  a.run(), b.run();
  const std::vector<HostTensor> got = a.results(), want = b.results();
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(got[i] == want[i]) << "value " << i;
  const std::vector<uint8_t> bytes = save_program(one.program);
  EXPECT_EQ(save_program(load_program(bytes, "a file")), bytes);
}

class ClustersCompile : public testing::Test {
 protected:
  void SetUp() override {
    try {
      cuda::compiler_version();
    } catch (const Error& e) {
      GTEST_SKIP() << e.what();
    }
  }
};

TEST_F(ClustersCompile, TrainingSteps) {
  for (int64_t batch : {1, 7}) expect_same(mlp_step({40, 10, {16}, 0}, batch, {}, 1).graph, F32Products::f32);
  expect_same(mlp_step({784, 10, {64}, 0}, 1, {}, 1).graph, F32Products::tf32);
}
TEST_F(ClustersCompile, Loops) {
  expect_same(zoo::lstm_gradients({1, 5, 16, 64}).graph, F32Products::f32);
  expect_same(test::recurrence(1, 40, 32), F32Products::f32);
}

// Other GPUs have no clusters.
TEST_F(ClustersCompile, NotBeforeHopper) {
  CompileOptions options;
  options.target = parse_target("cuda:sm_80");
  options.use_cache = false;
  CompileReport report;
  compile(mlp_step({20, 10, {16}, 0}, 1, {}, 1).graph, options, &report);
  for (const tile::Kernel& k : report.planned) EXPECT_EQ(k.cluster, 0);
}

}  // namespace
}  // namespace quern
