// Attention in roles through NVRTC, without a GPU: nothing spills, and no product is made to wait for the one before (C75xx).
#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/image.h"
#include "ir/tile/kernel.h"
#include "models/zoo.h"
#include "passes/tile/lower.h"
#include "passes/tile/nested.h"
#include "passes/tile/plan.h"
#include "tests/support/attention_graph.h"
#include "tests/support/attention_text.h"
#include "tests/support/gradient_text.h"

namespace quern {
namespace {

void expect_clean(const tile::Kernel& kernel) {
  const std::string text = to_string(kernel);
  SCOPED_TRACE(text);
  tile::verify(kernel);
  KernelImage image = cuda::emit(kernel, "sm_90a");
  const std::string log = cuda::compile(image, "sm_90a");
  EXPECT_EQ(log.find("C75"), std::string::npos) << log;
  EXPECT_NE(log.find(" 0 bytes spill stores, 0 bytes spill loads"), std::string::npos) << log;
  EXPECT_NE(log.find(" 0 bytes stack frame"), std::string::npos) << log;
}

// Those that have nested products: forward, and the gradients of queries, and of keys and values, or of all three.
void expect_clean_kernels(const Graph& graph, int kernels, DType compute = DType::f32) {
  PassContext context;
  context.fp = Fp::fast;
  context.compute = compute;
  set_target(context, parse_target("cuda:sm_90a"));
  int nested = 0;
  for (const Node& n : run_pipeline(graph, context).nodes) {
    if (n.op != Op::call) continue;
    const tile::Kernel lowered = lower(*n.attrs.body, n.attrs.name, 0);
    if (!has_nested_products(lowered)) continue;
    const tile::Kernel planned = plan_cuda(lowered, "sm_90a");
    ASSERT_FALSE(planned.phases[0].roles.empty());
    expect_clean(planned);
    ++nested;
  }
  EXPECT_EQ(nested, kernels);
}

TEST(AttentionCompile, WithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  for (int64_t size : {64, 128})
    for (bool causal : {true, false}) expect_clean(tile::parse_kernel(test::AttentionText{64, 4096, size, causal, causal ? "bf16" : "f16", 0.125, size == 64 ? 3 : 2}.planned()));
  for (int64_t size : {64, 80, 128, 256})
    for (bool causal : {true, false}) {
      const tile::Kernel planned = plan_cuda(tile::parse_kernel(test::AttentionText{64, 4000, size, causal, causal ? "bf16" : "f16"}.plain()), "sm_90a");
      ASSERT_FALSE(planned.phases[0].roles.empty());
      expect_clean(planned);
    }
}

TEST(AttentionCompile, GradientsWithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  for (int64_t size : {64, 80, 128})
    for (bool causal : {true, false})
      for (bool keys : {true, false}) {
        const test::GradientText text{64, 4000, size, causal, causal ? "bf16" : "f16"};
        const tile::Kernel planned = plan_cuda(tile::parse_kernel(keys ? text.keys() : text.queries()), "sm_90a");
        ASSERT_FALSE(planned.phases[0].roles.empty());
        expect_clean(planned);
      }
}

// All three gradients in one kernel, the queries' as a sum in order.
TEST(AttentionCompile, GradientsInOrderWithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  for (int64_t size : {64, 128})
    for (bool causal : {true, false})
      for (int64_t time : {4096, 4000}) {
        const tile::Kernel kernel = test::GradientText{64, time, size, causal, causal ? "bf16" : "f16"}.in_order();
        expect_clean(kernel);
        EXPECT_EQ(cuda::emit(kernel, "sm_90a").alone, 1);   // its launches share turns
      }
}

TEST(AttentionCompile, SharedKeysAndWindowsWithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  expect_clean_kernels(test::AttentionGraph{.heads = 8, .shared = 4, .time = 4000, .size = 128}.graph(DType::bf16), 3);
  expect_clean_kernels(test::AttentionGraph{.heads = 8, .shared = 4, .time = 4096, .size = 64, .window = 1000}.graph(DType::bf16), 3);
}

// Heads that lie side by side in one matrix, so few that three instances share a tile of rows forward.
TEST(AttentionCompile, GptWithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  expect_clean_kernels(test::AttentionGraph{.heads = 2, .time = 4000, .size = 128, .causal = false}.graph(DType::f16), 2);
  expect_clean_kernels(zoo::gpt_step({.batch = 2, .time = 1024, .layers = 1, .width = 768, .heads = 12, .vocabulary = 33}).graph, 2, DType::bf16);
}

}  // namespace
}  // namespace quern
