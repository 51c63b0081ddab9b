// The CUDA device's host side, on a driver of its own (tests/support/fake_cuda.cpp): contexts of several GPUs and threads,
// allocations that fail, what is waited for, and the edges of recorded graphs. Needs no GPU.
#include <algorithm>
#include <bitset>
#include <chrono>
#include <random>
#include <thread>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "runtime/cuda/recording.h"
#include "runtime/executable.h"
#include "tests/support/fake_cuda.h"

namespace quern {
namespace {

class CudaHost : public testing::Test {
 protected:
  test::FakeCuda* fake = nullptr;
  void SetUp() override {
    void* library = ::dlopen(QN_FAKE_CUDA, RTLD_NOW);
    ASSERT_NE(library, nullptr) << ::dlerror();
    fake = reinterpret_cast<decltype(&fake_cuda)>(::dlsym(library, "fake_cuda"))();
    *fake = {};
  }
  void TearDown() override {   // every test hands back what it had
    EXPECT_EQ(fake->foreign, 0);
    EXPECT_EQ(fake->retained, fake->released);
    EXPECT_EQ(fake->released_early, 0);
    EXPECT_TRUE(fake->owner.empty());
  }
};

// y = x, and a state that is set, of which setup keeps a copy.
Program sample() {
  const auto slot = [](SlotKind kind, const char* name) {
    Slot s;
    s.kind = kind, s.dtype = DType::f32, s.shape = {64}, s.name = name;
    return s;
  };
  Program p;
  p.target = {TargetKind::cuda, "sm_90a"};
  p.slots = {slot(SlotKind::input, "x"), slot(SlotKind::state, "s"), slot(SlotKind::output, "y"), slot(SlotKind::kept, "")};
  KernelImage image;
  image.name = "k0";
  image.operands = image.outputs = 1;
  p.images = {image};
  p.inputs = {0}, p.states = {1}, p.outputs = {2};
  p.setup = {Copy{1, 3}};
  p.steps = {Copy{0, 2}, Launch{{0}, {1}}};
  return p;
}
HostTensor full(double value) { return HostTensor::full(DType::f32, {64}, value); }
Code code_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_FALSE(e.help.empty());
    return e.code;
  }
  ADD_FAILURE() << "no error";
  return Code::general_bug;
}

TEST_F(CudaHost, EveryOperationIsInItsGpusContext) {
  const auto one = open_device("cuda:0"), two = open_device("cuda:1");   // the second is current
  const auto use = [](Device& device) {
    Executable e(device, sample());
    e.set_state("s", full(2));
    for (double v : {1, 2, 3}) {
      e.set_input(0, full(v));
      e.run();
    }
    e.run();
    e.output(0);
    e.state("s");
    e.profile(e.program().steps, 1);
    device.synchronize();
  };
  use(*one);
  use(*two);
  Executable other(*one, sample());
  std::thread([&] {   // where none is current
    use(*one);
    other.set_state("s", full(1));
    other.set_input(0, full(4));
    other.run();
  }).join();
  two->synchronize();
  other.run();
}

TEST_F(CudaHost, TensorMapsAreMadeOfTheOperandsOfALaunch) {
  const auto device = open_device("cuda:0");
  Program p = sample();
  TensorMap m{0, static_cast<int64_t>(DType::f32), 2, 128};   // innermost first for the driver
  m.extents[0] = 2, m.extents[1] = 32, m.strides[0] = 128, m.strides[1] = 4, m.box[0] = 1, m.box[1] = 16;
  p.images[0].maps = {m};
  p.images[0].resident = 1;
  Executable e(*device, p);
  e.set_state("s", full(2));
  e.set_input(0, full(1));
  e.run();
  EXPECT_TRUE(std::count(fake->log.begin(), fake->log.end(), "map of 32 by 16 and more"));
}

// Launches of a kernel with memory of its own follow each other, whatever else they touch; others lie side by side.
TEST_F(CudaHost, KernelsThatRememberRunAlone) {
  for (const bool alone : {false, true}) {
    const auto device = open_device("cuda:0");
    const KernelImage image = [&] { KernelImage i = sample().images[0]; i.alone = alone; return i; }();
    const auto loaded = device->load(image);
    std::vector<MemoryRange> operands;
    for (int n = 0; n < 2; ++n) operands.push_back({device->alloc(64), 64, true});
    fake->edges.clear();
    device->record([&] {
      for (const MemoryRange& o : operands) device->launch(*loaded, image, {o}, 1);
    });
    EXPECT_EQ(fake->edges, alone ? (std::vector<std::vector<size_t>>{{}, {0}}) : (std::vector<std::vector<size_t>>{{}, {}}));
    for (const MemoryRange& o : operands) device->free(o.ptr);
  }
}

// Of kernels that wait by themselves the later one begins beside the earlier one; what follows a copy, or is one, begins behind, and
// where others have work, too.
TEST_F(CudaHost, KernelsThatWaitBeginBesideOthers) {
  const auto device = open_device("cuda:0");
  Program p = sample();
  p.images.push_back(p.images[0]);
  p.images[0].waits = 1;
  const Launch waits{{0}, {1}}, does_not{{1}, {1}};
  p.steps = {waits, waits, Copy{1, 2}, waits, waits, does_not, waits};
  Executable e(*device, p);
  e.set_state("s", full(2));
  e.set_input(0, full(1));
  e.run();
  using Numbers = std::vector<std::set<size_t>>;
  EXPECT_EQ(fake->beside, (Numbers{{}, {0}, {}, {}, {3}, {}, {}}));
  EXPECT_EQ(fake->edges, (std::vector<std::vector<size_t>>{{}, {0}, {1}, {2}, {3}, {4}, {5}}));
}

TEST_F(CudaHost, PinnedMemoryThatIsNotThereIsAnError) {
  const auto device = open_device("cuda:0");
  Executable e(*device, sample());
  e.set_state("s", full(2));
  fake->pinned_status = 2;
  for (int i = 0; i < 2; ++i) EXPECT_EQ(code_of([&] { e.set_input(0, full(1)); }), Code::out_of_memory);
  EXPECT_EQ(code_of([&] { e.run(); }), Code::unset_value);
  fake->pinned_status = 0;
  e.set_input(0, full(1));
  e.run();
  fake->pinned_status = 2;
  Executable never(*device, sample());   // goes without having had any
  EXPECT_EQ(code_of([&] { never.set_input(0, full(1)); }), Code::out_of_memory);
}

TEST_F(CudaHost, OnlyOutOfMemoryIsOutOfMemory) {
  const auto device = open_device("cuda:0");
  fake->alloc_status = 2;
  EXPECT_EQ(code_of([&] { Executable e(*device, sample()); }), Code::out_of_memory);
  fake->alloc_status = 201;   // an invalid context
  EXPECT_EQ(code_of([&] { Executable e(*device, sample()); }), Code::cuda_failed);
  fake->alloc_status = 0;
  Executable e(*device, sample());
  fake->pinned_status = 999;
  EXPECT_EQ(code_of([&] { e.set_input(0, full(1)); }), Code::cuda_failed);
}

// Memory of a run or an upload that may be under way is nobody else's.
TEST_F(CudaHost, DestructionWaits) {
  std::vector<std::string> log;
  {
    const auto device = open_device("cuda:0");
    {
      Executable e(*device, sample());
      e.set_state("s", full(2));
      e.set_input(0, full(1));
      e.run();
      e.set_input(0, full(2));   // staged, and never run
      fake->log.clear();
    }
    log = fake->log;
    fake->log.clear();
  }
  EXPECT_EQ(std::count(log.begin(), log.end(), "sync 0"), 1) << "the run";
  EXPECT_EQ(std::count(log.begin(), log.end(), "sync 1"), 1) << "the upload";
  const auto at = [&](const char* line) { return std::find(fake->log.begin(), fake->log.end(), line) - fake->log.begin(); };
  EXPECT_LT(at("sync 0"), at("free"));
  EXPECT_LT(at("sync 1"), at("free"));
}

TEST_F(CudaHost, AFailedRecordingLeavesNothingBehind) {
  const auto device = open_device("cuda:0");
  Executable e(*device, sample());
  e.set_state("s", full(2));
  e.set_input(0, full(1));
  fake->node_status = 1;
  EXPECT_EQ(code_of([&] { e.run(); }), Code::cuda_failed);
  fake->node_status = 0;
  fake->log.clear();
  const DevicePtr a = device->alloc(64), b = device->alloc(64);
  device->copy(a, b, 64);   // at once, not into a graph
  EXPECT_EQ(fake->log, std::vector<std::string>{"copy"});
  device->free(a);
  device->free(b);
  e.run();
}

// --- recorded graphs ---

MemoryRange range(size_t at, int64_t bytes, bool written) { return {reinterpret_cast<DevicePtr>(at), bytes, written}; }
size_t record(cuda_driver::Recording& r, const std::vector<MemoryRange>& operands, cuda_driver::Begins begins = cuda_driver::Begins::behind, size_t after = SIZE_MAX) {
  return r.add(operands, [](cuda_driver::Handle graph, const cuda_driver::Handle* dependencies, size_t n, cuda_driver::Handle* out) {
    const cuda_driver::KernelNode node{};
    cuda_driver::want(cuda_driver::driver().add_kernel(out, graph, dependencies, n, &node), "cuGraphAddKernelNode"); }, begins, after);
}

// Of any two nodes that touch the same memory, one of them writing it, the later one waits for the earlier one; and for
// none that it need not. It begins beside the earlier one where both are kernels that wait by themselves in a
// single line of nodes, as far as their levels tell, and nowhere else.
TEST_F(CudaHost, RecordedNodesWaitForWhatTheyNeed) {
  const auto device = open_device("cuda:0");   // for a current context
  std::mt19937 random(5);
  constexpr size_t kMost = 4500;
  size_t without = 0, beside = 0;
  for (int round = 0; round < 200; ++round) {   // the last one beyond the window
    cuda_driver::Recording r;
    std::vector<std::vector<MemoryRange>> touched;
    std::vector<cuda_driver::Begins> begins;
    const size_t nodes = round < 199 ? 50 : kMost, places = round < 199 ? 40 : 4000;
    for (size_t n = 0; n < nodes; ++n) {
      touched.emplace_back();
      for (uint32_t k = 0; k <= random() % 3; ++k) touched.back().push_back(range(4096 + random() % places, static_cast<int64_t>(random() % 12), random() % 3 == 0));
      begins.push_back(random() % 4 ? cuda_driver::Begins::beside : cuda_driver::Begins::behind);
      EXPECT_EQ(record(r, touched.back(), begins.back()), n);
    }
    const auto meet = [&](size_t a, size_t b) {
      for (const MemoryRange& x : touched[a])
        for (const MemoryRange& y : touched[b])
          if ((x.written || y.written) && std::max(cuda_driver::raw(x.ptr), cuda_driver::raw(y.ptr)) < std::min(cuda_driver::raw(x.ptr) + static_cast<size_t>(x.bytes), cuda_driver::raw(y.ptr) + static_cast<size_t>(y.bytes))) return true;
      return false;
    };
    std::vector<std::bitset<kMost>> waits(nodes), needs(nodes);
    r.finish();
    std::vector<size_t> levels(nodes), widths(nodes), readers(nodes);
    for (size_t n = 0; n < nodes; ++n) {
      for (size_t to : fake->edges[n]) levels[n] = std::max(levels[n], levels[to] + 1), ++readers[to];
      ++widths[levels[n]];
    }
    const auto alone = [&](size_t n) { return begins[n] == cuda_driver::Begins::beside && widths[levels[n]] == 1; };
    for (size_t n = 0; n < nodes; ++n) {
      for (size_t to : fake->edges[n]) {
        (waits[n] |= waits[to]).set(to);
        EXPECT_EQ(fake->beside[n].count(to) > 0, alone(n) && alone(to) && fake->edges[n].size() == 1 && readers[to] == 1);
        beside += fake->beside[n].count(to);
      }
      for (size_t m = n; m-- > 0;)
        if (!needs[n][m] && meet(n, m)) (needs[n] |= needs[m]).set(m);
      without += waits[n] != needs[n];
    }
  }
  EXPECT_EQ(without, 0u);
  EXPECT_GT(beside, 0u);
}

// The loop of a hundred thousand steps: each reads a weight and the carry in one of two places, writes the other and an
// entry of a stack; the last node reads the stack and writes the weight.
TEST_F(CudaHost, LongRecordingsStaySmall) {
  const auto device = open_device("cuda:0");
  constexpr size_t kSteps = 100000, kWeight = 1 << 20, kCarry = 2 << 20, kStack = 1 << 30;
  cuda_driver::Recording r;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < kSteps; ++i)
    record(r, {range(kWeight, 4096, false), range(kCarry + i % 2 * 4096, 4096, false), range(kCarry + (i + 1) % 2 * 4096, 4096, true), range(kStack + i * 512, 512, true)});
  record(r, {range(kStack, kSteps * 512, false), range(kWeight, 4096, true)});
  r.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%zu nodes in %.2f s\n", kSteps, seconds);
  EXPECT_LT(seconds, 20);   // of an unoptimized build, with sanitizers
  for (size_t i = 1; i < kSteps; ++i) ASSERT_EQ(fake->edges[i], std::vector<size_t>{i - 1});
  EXPECT_EQ(fake->edges[kSteps][0], kSteps - 1);
}

}  // namespace
}  // namespace quern
