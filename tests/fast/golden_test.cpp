// Runs the golden cases (tests/support/golden.h): each pass's text before and after, kernel counts and verdicts. What a
// pass makes must also compute the same: graphs bit by bit, planned kernels up to the order of sums.
// `golden_test --update`, or UPDATE=1, writes what is found into the files; read the difference before committing it.
#include <set>

#include <gtest/gtest.h>

#include "passes/graph/product_parts.h"
#include "passes/tile/fast.h"
#include "tests/support/golden.h"
#include "tests/support/updating.h"

namespace quern {
namespace {

std::vector<HostTensor> random_values(const std::vector<Type>& types) {
  std::mt19937_64 random(8);
  std::vector<HostTensor> out;
  for (const Type& t : types) out.push_back(test::random_tensor(t, is_float(t.dtype) ? -1 : 0, is_float(t.dtype) ? 1 : 3, random));
  return out;
}

std::vector<HostTensor> run_kernel(const tile::Kernel& k) {
  std::vector<Type> types;
  for (int64_t b = 0; b < k.params(); ++b) types.push_back({k.buffers[static_cast<size_t>(b)].dtype, k.buffers[static_cast<size_t>(b)].shape, {}});
  std::vector<HostTensor> values = random_values(types);
  std::vector<HostTensor*> buffers;
  for (HostTensor& t : values) buffers.push_back(&t);
  tile::interpret(k, buffers);
  return values;
}

void expect_same_kernels(const std::vector<tile::Kernel>& before, const std::vector<tile::Kernel>& after, double bound) {
  for (size_t k = 0; k < before.size(); ++k) {
    auto want = run_kernel(before[k]), got = run_kernel(after[k]);
    for (size_t b = 0; b < want.size(); ++b) {
      ASSERT_EQ(got[b].size(), want[b].size());
      got[b].shape = want[b].shape;   // dims may have become one
      EXPECT_LE(compare(got[b], want[b]).error, bound) << before[k].name << " buffer " << b;
    }
  }
}

void expect_same_graph(const Graph& before, const Graph& after, double bound) {
  std::vector<Type> types;
  for (NodeId i : before.inputs) types.push_back(before.type(i));
  const std::vector<HostTensor> inputs = random_values(types);
  PassContext context;
  const auto want = interpret(expand(before, context), inputs), got = interpret(expand(after, context), inputs);
  ASSERT_EQ(got.size(), want.size());
  for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, bound) << "output " << o;
}

/// Also those of loops and branches.
void lower_calls(const Graph& graph, std::vector<tile::Kernel>& kernels, Updates updates) {
  for (const Node& n : graph.nodes) {
    if (n.op == Op::call) kernels.push_back(lower(*n.attrs.body, fmt::format("k{}_{}", kernels.size(), n.attrs.name), 0, 0, 1, updates));
    else if (is_control_flow(n.op))
      for (const auto& body : {n.attrs.body, n.attrs.otherwise})
        if (body) lower_calls(*body, kernels, updates);
  }
}

/// The text that the case's steps end with.
std::string run_steps(const test::Golden& c) {
  Graph graph;
  std::vector<tile::Kernel> kernels;
  if (c.is_kernel()) kernels.push_back(tile::parse_kernel(c.text));
  else graph = c.graph();
  PassContext context;
  for (const std::string& step : c.steps) {
    const std::string name = step.substr(0, step.find(':')), argument = step.substr(std::min(step.size(), name.size() + 1));
    if (name == "lower") {
      kernels.clear();
      lower_calls(graph, kernels, argument == "gpu" ? Updates::side_by_side : Updates::in_order);
    } else if (name == "fast") {
      for (tile::Kernel& k : kernels) k = fast_maps(std::move(k));
    } else if (name == "plan_cpu" || name == "plan_cuda" || name == "nest") {
      std::vector<tile::Kernel> after;
      KernelSchedule standard;
      for (const tile::Kernel& k : kernels) after.push_back(name == "nest" ? nest(k, cpu_arch("avx512"), standard) : name == "plan_cuda" ? plan_cuda(k, argument == "f8" ? "sm_90a" : argument, argument == "f8" ? F32Products::f8 : F32Products::f32)
                                                                                                                                         : plan_cpu(k, argument));
      expect_same_kernels(kernels, after, argument == "f8" ? 0x1p-12 : 1e-5);
      kernels = after;
    } else {
      const auto pass = std::find_if(pipeline().begin(), pipeline().end(), [&](const Pass& p) { return name == p.name; });
      if (pass == pipeline().end()) throw Error(Code::syntax, c.file + ": there is no step " + name);
      if (name == "align") context.row_bytes = std::stoll(argument);
      if (name == "chunks") (argument == "products" ? context.product_blocks : context.long_sum) = argument == "products" ? kProductBlocks : std::stoll(argument);
      if (argument == "f8") context.large_product = 1 << 20, context.operands_of_bytes = true;
      else if (argument.starts_with("tf32")) context.large_product = 1 << 20, context.split_operands = argument == "tf32x3";
      else if (name == "panels" || name == "setup") context.large_matrix = 1, context.lanes = cpu_arch(argument).lanes, context.registers = cpu_arch(argument).registers;
      if (name == "scores" || name == "reassociate" || name == "ordered") context.nested_products = context.nested_in_roles = true;
      if (name == "ordered") context.refuses = [](const Node&) { return std::string(); };
      if (argument == "fast") context.fp = Fp::fast;   // the only licences to change values
      if (argument == "bf16") context.compute = DType::bf16;
      const Graph after = run_pass(*pass, graph, context);
      verify(after);
      expect_same_graph(graph, after, context.fp == Fp::fast || argument == "products" || argument == "bf16" ? 0x1p-7 : name == "loops" || name == "chunks" || context.split_operands ? 1e-6
                                                                                                                                                                                    : 0);   // which change the order of sums
      graph = after;
    }
    for (const tile::Kernel& k : kernels) tile::verify(k);
  }
  if (kernels.empty()) return to_string(graph);
  std::string out;
  for (const tile::Kernel& k : kernels) {
    out += tile::to_string(k);
    EXPECT_EQ(tile::to_string(tile::parse_kernel(tile::to_string(k))), tile::to_string(k));
  }
  return out;
}

std::string verdicts_of(const Graph& graph, int64_t& kernels) {
  PassContext context;
  Graph before;
  context.after = [&](const std::string& pass, const Graph& g) {
    if (pass != "partition" && pass != "precision") before = dead_code(g);   // verdicts name nodes of the graph that partition saw
  };
  const Graph calls = run_pipeline(graph, context);
  kernels = std::count_if(calls.nodes.begin(), calls.nodes.end(), [](const Node& n) { return n.op == Op::call; });
  std::string out;
  for (const Verdict& v : context.verdicts)
    out += fmt::format("{} -> {}: {}{}\n", name_of(before.at(v.producer).op), name_of(before.at(v.consumer).op), v.fused ? "fused" : "not fused: ", v.fused ? "" : v.reason);
  return out;
}

TEST(Golden, Cases) {
  int64_t checked = 0, updated = 0;
  std::set<std::string> steps;
  for (test::Golden& c : test::all_golden()) {
    SCOPED_TRACE(c.file);
    try {
      EXPECT_TRUE(!c.steps.empty() || c.kernels >= 0 || !c.verdicts.empty()) << "expects nothing";
      const std::string old = c.text + c.expected;
      if (!c.steps.empty()) {
        const std::string found = run_steps(c);
        if (test::updating()) c.expected = found;
        EXPECT_EQ(found, c.expected);
      }
      if (!c.is_kernel()) {
        int64_t kernels = 0;
        const std::string verdicts = verdicts_of(c.graph(), kernels);
        for (const std::string& v : c.verdicts) EXPECT_NE(verdicts.find(v), std::string::npos) << "no verdict \"" << v << "\" in\n" << verdicts;
        if (test::updating() && c.kernels >= 0) {
          const size_t at = c.text.find("// expect kernels = ");
          c.text.replace(at, c.text.find('\n', at) - at, fmt::format("// expect kernels = {}", kernels));
        } else if (c.kernels >= 0) {
          EXPECT_EQ(kernels, c.kernels) << verdicts;
        }
      }
      if (test::updating() && c.text + c.expected != old) {
        std::ofstream(QN_SOURCE_DIR "/tests/cases/" + c.file) << c.text << (c.steps.empty() ? "" : "---\n") << c.expected;
        std::printf("updated %s\n", c.file.c_str());
        ++updated;
      }
      steps.insert(c.steps.begin(), c.steps.end());
      ++checked;
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
  std::printf("%ld cases, %ld updated\n", static_cast<long>(checked), static_cast<long>(updated));
  for (const char* s : {"expand", "simplify", "fold", "partition", "lower", "nest", "plan_cpu:avx512", "plan_cuda:sm_90a"}) EXPECT_TRUE(steps.count(s)) << "no case for " << s;
}

}  // namespace
}  // namespace quern
