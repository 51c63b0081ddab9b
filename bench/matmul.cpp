// Products, f32: squares, the layers of small networks, sizes that are no multiple of anything.
#include <fmt/format.h>

#include "bench/harness.h"
#include "frontend/tensor.h"

namespace quern::bench {

static std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{256, 256, 256}, {512, 512, 512}, {1024, 1024, 1024}, {128, 256, 784}, {128, 10, 256}, {32, 3072, 768}, {500, 333, 777}}) {
    Model g;
    const Tensor a = g.input("a", DType::f32, {m, k}), b = g.input("b", DType::f32, {k, n});
    g.output("y", matmul(a, b));
    out.push_back({fmt::format("matmul {}x{}x{}", m, n, k), g.finish(), 2.0 * static_cast<double>(m * n * k), 0, {{"op", "matmul"}, {"shapes", {{m, k}, {k, n}}}}});
  }
  return out;
}

const Family matmul_family{cases, [](Harness& h, const Case& c) { h.compare(c); }};

}  // namespace quern::bench
