// Attention of bf16 on a GPU, forward, as plain ops (frontend): a product, a mask, softmax, a product; the flops of a mask's half are
// counted as half. Short floats stay in f32 between ops (--fp fast), as PyTorch's kernels have them.
#include <cmath>

#include <fmt/format.h>

#include "bench/harness.h"
#include "frontend/nn.h"
#include "frontend/shape.h"

namespace quern::bench {

static std::vector<Case> cases() {
  std::vector<Case> out;
  for (int64_t size : {64, 128})
    for (bool causal : {true, false})
      for (int64_t time : {1024, 2048, 4096, 8192, 16384}) {
        const int64_t heads = 2048 / size, batch = std::max<int64_t>(1, 16384 / time);
        const Shape shape = {batch, heads, time, size};
        Model g;
        const Tensor q = g.input("q", DType::bf16, shape), k = g.input("k", DType::bf16, shape), v = g.input("v", DType::bf16, shape);
        Tensor s = contract("bhqd,bhkd->bhqk", q, k) * (1 / std::sqrt(static_cast<double>(size)));
        if (causal) s = where(less_equal(iota(q.graph(), DType::i32, {time, time}, 1), iota(q.graph(), DType::i32, {time, time}, 0)), s, full(q.graph(), DType::bf16, {}, -INFINITY));
        g.output("y", contract("bhqk,bhkd->bhqd", softmax(s), v));
        Case c{fmt::format("attention bf16 {}{}x{}x{}x{}", causal ? "causal " : "", batch, heads, time, size), g.finish(), 4.0 * static_cast<double>(batch * heads * time * time * size) / (causal ? 2 : 1), 0, {{"op", "attention"}, {"causal", causal}, {"shapes", Json{shape, shape, shape}}}};
        c.fp = Fp::fast;
        out.push_back(std::move(c));
      }
  return out;
}

const Family attention_family{cases, run_together};

}  // namespace quern::bench
