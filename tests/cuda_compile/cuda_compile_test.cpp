// Generated CUDA kernels through NVRTC for each arch, without a GPU: the training step and row kernels compile, and
// nothing spills. Where NVRTC is not installed the test is skipped and says so.
#include <set>

#include <gtest/gtest.h>

#include "codegen/image.h"
#include "models/mlp.h"
#include "passes/pass.h"
#include "passes/tile/lower.h"
#include "passes/tile/plan.h"

namespace quern {

TEST(CudaCompile, WithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  std::vector<Graph> graphs = {mlp_step({784, 10, {256}, 0.2}, 32, {}, 1).graph};
  Model rows;
  const Tensor x = rows.input("x", DType::f32, {64, 130});
  rows.output("s", softmax(x));
  rows.output("n", layer_norm(cast(x, DType::bf16), cast(slice(x, 0, 0, 1), DType::bf16), cast(slice(x, 0, 1, 2), DType::bf16)));
  rows.output("h", gelu(matmul(cast(x, DType::f16), cast(transpose(x, {1, 0}), DType::f16))));
  graphs.push_back(rows.finish());
  std::set<std::string> names;
  for (const Graph& g : graphs) {
    PassContext context;
    const Graph kernels = run_pipeline(g, context);
    for (const Node& n : kernels.nodes) {
      if (n.op != Op::call) continue;
      for (const char* arch : {"sm_75", "sm_80", "sm_90a"}) {
        KernelImage image = cuda::emit(plan_cuda(lower(*n.attrs.body, "k"), arch), arch);
        const std::string log = cuda::compile(image, arch);
        EXPECT_GT(image.code.size(), 100u);
        for (size_t at = log.find("bytes spill"); at != std::string::npos; at = log.find("bytes spill", at + 1))
          EXPECT_EQ(log.substr(at - 2, 2), "0 ") << image.name << " " << arch << "\n" << log;
        names.insert(image.name);
      }
    }
  }
  EXPECT_GT(names.size(), 10u);
}

}  // namespace quern
