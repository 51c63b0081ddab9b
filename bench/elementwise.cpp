// Elementwise kernels, f32: one costly function, and chains that an eager library runs op by op.
#include "bench/harness.h"
#include "frontend/nn.h"

namespace quern::bench {

static std::vector<Case> cases() {
  std::vector<Case> out;
  const Shape shape = {4096, 1024};
  const double pass = 4.0 * static_cast<double>(count(shape));   // bytes of one tensor
  const auto add = [&](const char* name, const char* op, int64_t inputs, auto build) {
    Model g;
    std::vector<Tensor> x;
    for (int64_t i = 0; i < inputs; ++i) x.push_back(g.input("x" + std::to_string(i), DType::f32, shape));
    g.output("y", build(x));
    out.push_back({name, g.finish(), 0, pass * static_cast<double>(inputs + 1), {{"op", op}, {"shapes", std::vector<Shape>(static_cast<size_t>(inputs), shape)}}});
  };
  add("elementwise gelu 4096x1024", "gelu", 1, [](const auto& x) { return gelu(x[0]); });
  add("elementwise exp 4096x1024", "exp", 1, [](const auto& x) { return exp(x[0]); });
  add("elementwise tanh 4096x1024", "tanh", 1, [](const auto& x) { return tanh(x[0]); });
  add("elementwise a*b+c 4096x1024", "mul_add", 3, [](const auto& x) { return x[0] * x[1] + x[2]; });
  add("elementwise tanh(relu(a*2+b))*a 4096x1024", "chain", 2, [](const auto& x) { return tanh(relu(x[0] * 2 + x[1])) * x[0]; });
  return out;
}

const Family elementwise_family{cases, [](Harness& h, const Case& c) { h.compare(c); }};

}  // namespace quern::bench
