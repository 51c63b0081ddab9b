// Kernel goldens: how many kernels of which ops the benchmarks' models become, for the CPU and for CUDA
// (passes and lowering alone: neither needs the device). tests/cases/kernels/MODEL.txt has a line for each distinct kernel, in
// order of the calls: its ops with how often they stand there, views left out. `kernel_count_test --update`, or UPDATE=1,
// writes them anew; read the difference before committing it.
#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "ir/op.h"
#include "models/zoo.h"
#include "passes/graph/panels.h"
#include "passes/graph/setup.h"
#include "passes/pass.h"
#include "passes/tile/lower.h"
#include "passes/tile/plan.h"
#include "tests/support/updating.h"

namespace quern {
namespace {

std::string ops_of(const Graph& body) {
  std::vector<std::pair<std::string, int64_t>> ops;
  for (const Node& n : body.nodes) {
    if (n.op == Op::input || n.op == Op::constant || means<View>(n.op)) continue;
    const std::string name(name_of(n.op));
    const auto at = std::find_if(ops.begin(), ops.end(), [&](const auto& o) { return o.first == name; });
    if (at == ops.end()) ops.emplace_back(name, 1);
    else ++at->second;
  }
  std::string out;
  for (const auto& [name, n] : ops) out += (out.empty() ? "" : " ") + name + (n > 1 ? fmt::format("*{}", n) : "");
  return out.empty() ? "views" : out;
}

/// Every kernel call of the graph and of the bodies of its loops, by structure after planning.
std::string kernels_of(const Graph& graph, bool cpu) {
  PassContext context;
  context.nested_products = cpu;   // as `compile` has it
  if (const CpuArch arch = cpu_arch("avx512"); cpu) context.large_matrix = kLargeMatrix, context.lanes = arch.lanes, context.registers = arch.registers;
  struct Kernel {
    std::string ops;
    int64_t calls = 0, in_loops = 0, once = 0;
  };
  std::vector<Kernel> kernels;
  std::map<std::string, size_t> by_structure;
  int64_t launches = 0, in_setup = 0;
  const std::function<void(const Graph&, bool)> visit = [&](const Graph& calls, bool in_loop) {
    const std::vector<char> same = unchanging_nodes(calls);
    for (const Node& n : calls.nodes) {
      if (is_control_flow(n.op)) {
        for (const auto& body : {n.attrs.body, n.attrs.otherwise})
          if (body) visit(*body, true);
      }
      if (n.op != Op::call) continue;
      const tile::Kernel lowered = lower(*n.attrs.body, "k", 0, 0, 1, cpu ? Updates::in_order : Updates::side_by_side);
      const std::string planned = tile::structure(cpu ? plan_cpu(lowered, "avx512") : plan_cuda(lowered, "sm_90a"));
      const auto [at, fresh] = by_structure.emplace(planned, kernels.size());
      if (fresh) kernels.push_back({ops_of(*n.attrs.body)});
      Kernel& k = kernels[at->second];
      const bool once = !in_loop && same[static_cast<size_t>(&n - calls.nodes.data())];
      ++(in_loop ? k.in_loops : once ? k.once
                                     : k.calls);
      ++(once ? in_setup : launches);
    }
  };
  visit(run_pipeline(graph, context), false);
  std::string out = fmt::format("{}: {} kernels, {} launches{}\n", cpu ? "cpu:avx512" : "cuda:sm_90a", kernels.size(), launches, in_setup ? fmt::format(", {} in setup", in_setup) : "");
  for (const Kernel& k : kernels) {
    out += "  " + k.ops;
    if (k.calls > 1) out += fmt::format(", {} calls", k.calls);
    if (k.once) out += fmt::format(", {} once", k.once);
    if (k.in_loops) out += fmt::format(", {} in a loop", k.in_loops);
    out += "\n";
  }
  return out;
}

class KernelCount : public testing::TestWithParam<const char*> {};

TEST_P(KernelCount, IsTheGoldenOne) {
  const std::string name = GetParam(), path = QN_SOURCE_DIR "/tests/cases/kernels/" + name + ".txt";
  const Graph graph = (name == "mlp" ? mlp_step({784, 10, {256}, 0}, 128, {}, 1) : zoo::build(name).value()).graph;
  const std::string found = kernels_of(graph, true) + kernels_of(graph, false);
  if (test::updating()) std::ofstream(path) << found;
  std::ifstream in(path);
  std::stringstream wanted;
  wanted << in.rdbuf();
  EXPECT_FALSE(wanted.str().empty()) << "no golden text: " << path;
  EXPECT_EQ(found, wanted.str()) << "fewer or other kernels are fine where they are wanted: kernel_count_test --update";
}

INSTANTIATE_TEST_SUITE_P(Models, KernelCount, testing::Values("mlp", "heads", "cnn", "residual", "block", "lstm", "decode"), [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quern
