// Models whose outputs come in pairs that must be equal: two ways to write one thing. By the reference interpreter and
// compiled, on the device of the test.
#pragma once
#include "tests/support/device.h"

namespace quern::test {

inline HostTensor random_f64(Shape shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  return random_tensor({DType::f64, std::move(shape), {}}, -1, 1, random);
}

class Pairs : public OnDevice {
 protected:
  int pairs = 0;
  // The outputs of a model, which a device must give like the interpreter.
  std::vector<HostTensor> run(Model& m, const std::vector<HostTensor>& inputs) {
    PassContext context;
    const Graph graph = m.finish();
    verify(graph);
    const std::vector<HostTensor> want = interpret(expand(graph, context), inputs), got = compiled(graph)->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, tolerance_of(expand(graph, context)).bound()) << graph.outputs[o].name;
    return want;
  }
  void run_pairs(Model& m, const std::vector<HostTensor>& inputs) {
    const std::vector<HostTensor> out = run(m, inputs);
    ASSERT_EQ(out.size() % 2, 0u);
    for (size_t o = 0; o < out.size(); o += 2) {
      ASSERT_EQ(out[o].shape, out[o + 1].shape) << "pair " << o / 2;
      EXPECT_LE(compare(out[o], out[o + 1]).error, 1e-12) << "pair " << o / 2;
    }
  }
  void same(Model& m, const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i, ++pairs) {
      m.output(fmt::format("{}a", pairs), a[i]);
      m.output(fmt::format("{}b", pairs), b[i]);
    }
  }
};

}  // namespace quern::test
