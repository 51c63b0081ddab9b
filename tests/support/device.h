// One test body for several devices: the fixture opens the device that QUERN_TEST_DEVICE names (cpu where it is unset).
// Where there is no such device its tests are skipped with the device's own message. CTest runs each program of
// tests/device twice: as jit.NAME on the CPU and as gpu.NAME on CUDA.
#pragma once
#include <cstdlib>

#include <gtest/gtest.h>

#include "runtime/jit.h"
#include "tests/support/sweep.h"

namespace quern::test {

inline std::string device_name() {
  const char* name = std::getenv("QUERN_TEST_DEVICE");
  return name && *name ? name : "cpu";
}

class OnDevice : public testing::Test {
 protected:
  std::unique_ptr<Device> device;
  void SetUp() override {
    ::setenv("QUERN_CACHE_DIR", "", 1);   // every kernel is compiled here and now
    try {
      device = open_device(device_name());
    } catch (const Error& e) {
      if (e.kind != ErrorKind::device) throw;
      GTEST_SKIP() << "device " << device_name() << ": " << e.what();
    }
  }
  std::unique_ptr<Executable> compiled(const Graph& graph, CompileReport* report = nullptr, F32Products products = F32Products::f32) {
    CompileOptions options;
    options.f32_products = products;
    options.use_cache = false;
    return jit(*device, graph, options, report);
  }
};

/// Calls check(case, its outputs) for every case. Up to `together` cases are one program of many outputs, so that the
/// compiler starts once for all; where that fails each of them is tried alone, and the failure has a name.
template <class Check>
void for_each_result(Device& device, const std::vector<Case>& cases, Check&& check, size_t together = 48) {
  for (size_t first = 0; first < cases.size(); first += together) {
    const size_t last = std::min(cases.size(), first + together);
    GraphBuilder b;
    std::vector<HostTensor> inputs;
    for (size_t c = first; c < last; ++c) {
      std::vector<NodeId> args;
      for (size_t i = 0; i < cases[c].inputs.size(); ++i) args.push_back(b.input(cases[c].name + " " + std::to_string(i), cases[c].graph.type(cases[c].graph.inputs[i])));
      inputs.insert(inputs.end(), cases[c].inputs.begin(), cases[c].inputs.end());
      for (NodeId o : b.inline_body(cases[c].graph, args)) b.output(cases[c].name, o);
    }
    std::vector<HostTensor> all;
    try {
      CompileOptions options;
      options.use_cache = false;
      all = jit(device, b.finish(), options)->run(inputs);
    } catch (const Error& e) {
      ADD_FAILURE() << (last - first > 1 ? "a program of the cases " : "") << cases[first].name << " to " << cases[last - 1].name << ": " << e.what();
      if (last - first > 1) for_each_result(device, {cases.begin() + static_cast<int64_t>(first), cases.begin() + static_cast<int64_t>(last)}, check, 1);
      continue;
    }
    auto at = all.begin();
    for (size_t c = first; c < last; ++c) {
      SCOPED_TRACE(cases[c].name);
      const auto end = at + static_cast<int64_t>(cases[c].graph.outputs.size());
      check(cases[c], std::vector<HostTensor>(at, end));
      at = end;
    }
  }
}

}  // namespace quern::test
