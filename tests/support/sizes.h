// One program for every value of a symbol: random inputs for a size, and results at several sizes against the interpreter.
#pragma once
#include "tests/support/device.h"

namespace quern::test {

class Symbols : public OnDevice {
 protected:
  std::mt19937_64 random{11};
  std::vector<HostTensor> random_inputs(const Graph& graph, int64_t n) {
    const Graph sized = at_size(graph, n);
    std::vector<HostTensor> out;
    for (NodeId i : sized.inputs) {
      const bool counts = !is_float(sized.type(i).dtype), moment = sized.at(i).attrs.name.ends_with(".v");
      out.push_back(random_tensor(sized.type(i), counts || moment ? 0 : -0.4, counts ? 5 : 0.4, random));
    }
    return out;
  }
  void expect_like_interpreter(const Graph& graph, const std::vector<int64_t>& sizes) {
    CompileReport report;
    const auto e = compiled(graph, &report);
    PassContext context;
    const Graph reference = expand(graph, context);
    const int64_t kernels = report.compiled;
    for (int64_t n : sizes) {
      SCOPED_TRACE(fmt::format("n = {}", n));
      const std::vector<HostTensor> inputs = random_inputs(graph, n), want = interpret(reference, inputs), got = e->run(inputs);
      for (size_t o = 0; o < want.size(); ++o) {
        const Difference d = compare(got[o], want[o]);
        EXPECT_EQ(got[o].shape, want[o].shape);
        EXPECT_LE(d.error, tolerance_of(at_size(reference, n)).bound()) << graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
      }
    }
    EXPECT_EQ(report.compiled, kernels);
  }
};

}  // namespace quern::test
