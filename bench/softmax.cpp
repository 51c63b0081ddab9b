// Softmax along the last axis, f32: rows of a vocabulary, of attention, of ten classes.
#include <fmt/format.h>

#include "bench/harness.h"
#include "frontend/nn.h"

namespace quern::bench {

static std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{4096, 1024}, {128, 32768}, {4096, 10}}) {
    Model g;
    g.output("y", softmax(g.input("x", DType::f32, {rows, columns})));
    out.push_back({fmt::format("softmax {}x{}", rows, columns), g.finish(), 0, 2.0 * 4 * static_cast<double>(rows * columns), {{"op", "softmax"}, {"shapes", std::vector<Shape>{{rows, columns}}}}});
  }
  return out;
}

const Family softmax_family{cases, [](Harness& h, const Case& c) { h.compare(c); }};

}  // namespace quern::bench
