// Layer normalisation with scale and shift along the last axis, f32.
#include <fmt/format.h>

#include "bench/harness.h"
#include "frontend/nn.h"

namespace quern::bench {

static std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{4096, 1024}, {512, 768}}) {
    Model g;
    const Tensor x = g.input("x", DType::f32, {rows, columns}), w = g.input("w", DType::f32, {columns}), b = g.input("b", DType::f32, {columns});
    g.output("y", layer_norm(x, w, b));
    out.push_back({fmt::format("layer_norm {}x{}", rows, columns), g.finish(), 0, 2.0 * 4 * static_cast<double>(rows * columns),
                   {{"op", "layer_norm"}, {"shapes", std::vector<Shape>{{rows, columns}, {columns}, {columns}}}}});
  }
  return out;
}

const Family layer_norm_family{cases, [](Harness& h, const Case& c) { h.compare(c); }};

}  // namespace quern::bench
