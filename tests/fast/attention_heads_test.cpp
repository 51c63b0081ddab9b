// Heads that share keys, and windows of keys: attention and its gradients of plain ops, as sm_90a takes them. Three kernels in roles
// and no scores in memory; on the tile interpreter results are those of f64; only blocks that a row sees are walked.
#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/image.h"
#include "passes/tile/lower.h"
#include "passes/tile/nested.h"
#include "passes/tile/plan.h"
#include "tests/support/attention_graph.h"
#include "tests/support/distance.h"
#include "tests/support/sweep.h"

namespace quern {
namespace {

using test::AttentionGraph;

// Of all kernels that have nested products. `in_order`: one makes all three gradients.
std::vector<tile::Kernel> expect_in_roles(const AttentionGraph& a, bool in_order = false) {
  PassContext context;
  context.fp = Fp::fast;
  set_target(context, parse_target("cuda:sm_90a"));
  const Graph g = a.graph(DType::bf16);
  std::vector<HostTensor> inputs, wide;
  a.values(inputs, wide);
  std::vector<tile::Kernel> out;
  int all = 0;
  const auto got = test::run_tiles(g, inputs, [&](const tile::Kernel& kernel) {
    const tile::Kernel planned = plan_cuda(kernel, "sm_90a");
    ++all;
    for (const tile::Buffer& b : kernel.buffers) EXPECT_LT(count(b.shape), a.heads * a.shared * a.time * a.time);
    if (has_nested_products(kernel)) {
      EXPECT_FALSE(planned.phases[0].roles.empty()) << to_string(kernel);
      out.push_back(planned);
    }
    return planned; }, context);
  PassContext plain;
  const auto want = interpret(expand(a.graph(DType::f64), plain), wide);
  for (size_t o = 0; o < want.size(); ++o) EXPECT_LT(test::apart(got[o], want[o]), 1e-2) << o;
  EXPECT_EQ(out.size(), in_order ? 2u : 3u);   // forward; the queries' gradient, and of each row what its weights' gradients sum to; the keys' and values'
  EXPECT_EQ(all, in_order ? 4 : 3);            // nothing beside them, as queries are scaled where scores are; or the rows' sums before, and the queries' gradient rounded behind
  PassContext seen = context;
  run_pipeline(g, seen);
  EXPECT_EQ(seen.ordered.size(), a.shared == 1 ? 1u : 0u);   // heads that share keys have other shapes
  for (const std::string& told : seen.ordered) EXPECT_NE(told.find(in_order ? "is added up in order, in f32" : "has a kernel of its own"), std::string::npos) << told;
  return out;
}
int64_t with(const std::vector<tile::Kernel>& kernels, const std::string& text) {
  return std::count_if(kernels.begin(), kernels.end(), [&](const tile::Kernel& k) { return to_string(k).find(text) != std::string::npos; });
}

TEST(AttentionHeads, SharedKeys) {
  expect_in_roles({.heads = 1, .shared = 3, .time = 260, .size = 80});
  expect_in_roles({.heads = 2, .shared = 2, .time = 196, .size = 64, .causal = false});
  // The keys' and values' gradients are sums over heads, too, in one walk.
  const auto kernels = expect_in_roles({.heads = 1, .shared = 4, .time = 256, .size = 64});
  EXPECT_EQ(with(kernels, "axis i3<4 by 1\n  axis i4<4 by 1 from i1//64\n"), 1);
  EXPECT_EQ(with(kernels, "seq (i3, i4) carry"), 1);
}

TEST(AttentionHeads, Windows) {
  const auto kernels = expect_in_roles({.heads = 2, .time = 640, .size = 64, .window = 100});
  EXPECT_EQ(with(kernels, "by 1 from "), 3);
  EXPECT_EQ(with(kernels, "by 1 from (i1 + 29)//128 - 1 to i1//128 + 1"), 2);
  EXPECT_EQ(with(kernels, "by 1 from i1//64 to (i1 + 35)//64 + 2"), 1);
  expect_in_roles({.heads = 1, .shared = 2, .time = 324, .size = 48, .window = 70});
}

// One kernel for all three gradients, where walks are long: without a mask, causal, and where only the end of the walk is bounded.
TEST(AttentionHeads, InOrder) {
  const auto kernels = expect_in_roles({.heads = 1, .time = 512, .size = 64, .causal = false}, true);
  EXPECT_EQ(with(kernels, "add %c4 to ("), 1);
  EXPECT_EQ(with(kernels, "backward claimed"), 0);
  EXPECT_EQ(with(expect_in_roles({.heads = 1, .time = 900, .size = 64}, true), "backward claimed"), 1);
  expect_in_roles({.heads = 1, .time = 516, .size = 64, .window = 300, .causal = false}, true);
}

TEST(AttentionHeads, BoundsThatHeadsMoveToo) {   // a window whose first key is another one in each head: rows begin at the first block
  Model m;
  const Shape shape{1, 2, 512, 64}, scores{1, 2, 512, 512};
  const Tensor q = m.input("q", DType::bf16, shape), k = m.input("k", DType::bf16, shape), v = m.input("v", DType::bf16, shape);
  const auto position = [&](int64_t axis) { return iota(q.graph(), DType::i32, scores, axis); };
  m.output("y", attention(q, k, v, {.mask = less(position(2) + position(1), position(3) + 100), .causal = true}));
  PassContext context;
  context.fp = Fp::fast;
  set_target(context, parse_target("cuda:sm_90a"));
  const Graph calls = run_pipeline(m.finish(), context);
  int in_roles = 0;
  for (const Node& n : calls.nodes) {
    if (n.op != Op::call) continue;
    const tile::Kernel planned = plan_cuda(lower(*n.attrs.body, "k", 0, 0, 1, Updates::side_by_side), "sm_90a");
    if (planned.phases[0].roles.empty()) continue;
    ++in_roles;
    EXPECT_EQ(to_string(planned).find("by 1 from"), std::string::npos) << to_string(planned);
    EXPECT_FALSE(cuda::emit(planned, "sm_90a").source.empty());
  }
  EXPECT_EQ(in_roles, 1);
}

}  // namespace
}  // namespace quern
