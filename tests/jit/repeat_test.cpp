// A program several times over (bench/repeat.h) computes what it does once, of the inputs of its last run: also where it has loops.
#include <gtest/gtest.h>

#include "bench/repeat.h"
#include "codegen/compile.h"
#include "models/zoo.h"
#include "runtime/cpu/device.h"
#include "runtime/executable.h"
#include "tools/fuzz_graphs.h"

namespace quern {
namespace {

TEST(Repeat, LoopsOfAnLstm) {
  const Graph graph = zoo::lstm_gradients({.batch = 3, .steps = 5, .in = 4, .hidden = 6}).graph;
  const auto device = open_device("cpu");
  CompileOptions options;
  options.use_cache = false;
  options.target = device->target();
  const Program program = compile(graph, options);
  const auto inputs = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    return random_inputs(graph, random);
  };
  const std::vector<HostTensor> first = inputs(1), second = inputs(2);
  Executable once(*device, program);
  std::vector<HostTensor> both = first;
  both.insert(both.end(), second.begin(), second.end());
  for (const int64_t times : {2, 3}) {   // the last run's inputs are the second ones, then the first
    Executable several(*device, bench::repeated(program, times, 2));
    const std::vector<HostTensor> got = several.run(both), want = once.run(times == 2 ? second : first);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_EQ(got[o].bytes, want[o].bytes) << times << " times, output " << o;
  }
}

}  // namespace
}  // namespace quern
