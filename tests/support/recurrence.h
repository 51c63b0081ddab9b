// A loop of small steps: h' = tanh(x[t] + h u), stacked; what a cluster of blocks, or one block, is for.
#pragma once
#include "frontend/control.h"
#include "frontend/tensor.h"

namespace quern::test {

inline Graph recurrence(int64_t batch, int64_t steps, int64_t hidden) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {steps, batch, hidden}), u = m.input("u", DType::f32, {hidden, hidden}), h = m.input("h", DType::f32, {batch, hidden});
  const Scan s = scan([&](const std::vector<Tensor>& c, const std::vector<Tensor>& row) {
    const Tensor next = tanh(row[0] + matmul(c[0], u));
    return ScanStep{{next}, {next}};
  },
                      {h}, {x});
  m.output("h", s.carries[0]);
  m.output("all", s.stacked[0]);
  return m.finish();
}

}  // namespace quern::test
