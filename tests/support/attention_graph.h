// Attention of plain ops, its result and the gradients of a weighted sum of it: heads that share keys, a window, a mask.
#pragma once
#include <random>
#include <vector>

#include <fmt/format.h>

#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/reduce.h"
#include "frontend/shape.h"
#include "frontend/transforms.h"
#include "tests/support/sweep.h"

namespace quern::test {

struct AttentionGraph {
  int64_t heads, shared = 1, time, size;   // heads of keys, and of queries for each
  int64_t window = 0;                      // > 0: as many keys, the query's own the last of them
  bool causal = true;
  bool gradients = true;

  /// Of q, k, v and, with gradients, w: d0, d1, d2 and y.
  Graph graph(DType dtype) const {
    Model m;
    const Shape queries = {1, heads * shared, time, size}, keys = {1, heads, time, size};
    std::vector<Tensor> args = {m.input("q", dtype, queries), m.input("k", dtype, keys), m.input("v", dtype, keys)};
    const auto attend = [&](const std::vector<Tensor>& x) {
      Attention options{.causal = causal};
      if (window) {
        const Tensor row = iota(x[0].graph(), DType::i32, {time, time}, 0), column = iota(x[0].graph(), DType::i32, {time, time}, 1);
        options.mask = reshape(less(row, column + static_cast<double>(window)), {1, 1, time, time});
      }
      return attention(x[0], x[1], x[2], options);
    };
    if (!gradients) {
      m.output("y", attend(args));
      return m.finish();
    }
    args.push_back(m.input("w", dtype, queries));
    const Reverse r = value_and_grad([&](const std::vector<Tensor>& x) { const Tensor y = attend(x); return std::vector<Tensor>{sum(y * x[3]), y}; }, args);
    for (size_t g = 0; g < 3; ++g) m.output(fmt::format("d{}", g), r.gradients[g]);
    m.output("y", r.outputs[1]);
    return m.finish();
  }
  /// Inputs of it, the same numbers in bf16 and in f64.
  void values(std::vector<HostTensor>& narrow, std::vector<HostTensor>& wide) const {
    std::mt19937_64 random(7);
    const Graph g = graph(DType::bf16);
    for (NodeId i : g.inputs) {
      narrow.push_back(random_tensor(g.type(i), -1, 1, random));
      wide.emplace_back(DType::f64, g.type(i).shape);
      for (int64_t k = 0; k < wide.back().size(); ++k) wide.back().set(k, Scalar::of(DType::f64, narrow.back().at(k)));
    }
  }
};

}  // namespace quern::test
