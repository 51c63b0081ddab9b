// Products on the CPU at the sizes where plans change: rows of one tile and many, panels, blocks of the sum, copied rows;
// every layout, every instruction set of this machine, against sums in f64. Some also through the tile interpreter, as planned.
#include <cmath>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "frontend/nn.h"
#include "passes/tile/plan.h"
#include "runtime/cpu/device.h"
#include "runtime/jit.h"

namespace quern {
namespace {

struct Product {
  int64_t m, n, k;
  const char* layout;
  bool a_turned() const { return layout[0] == 't'; }
  bool b_turned() const { return layout[1] == 't'; }
  Shape a() const { return a_turned() ? Shape{k, m} : Shape{m, k}; }
  Shape b() const { return b_turned() ? Shape{n, k} : Shape{k, n}; }
  std::string spec() const { return fmt::format("{},{}->mn", a_turned() ? "km" : "mk", b_turned() ? "nk" : "kn"); }
};

HostTensor noise(Shape shape, uint32_t seed) {
  HostTensor t(DType::f32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = static_cast<float>(philox(seed, 0, static_cast<uint64_t>(i)) >> 8) * 0x1p-23f - 1;
  return t;
}

Graph graph_of(const Product& p) {
  Model g;
  const Tensor a = g.input("a", DType::f32, p.a()), b = g.input("b", DType::f32, p.b()), bias = g.input("bias", DType::f32, {p.n});
  g.output("y", relu(contract(p.spec(), a, b) + bias));
  return g.finish();
}

// Every row and column near the ends, and a sprinkling of the others.
void expect_right(const Product& p, const HostTensor& a, const HostTensor& b, const HostTensor& bias, const HostTensor& y) {
  const double bound = 2e-7 * static_cast<double>(p.k) + 1e-6;
  for (int64_t i = 0; i < p.m; ++i)
    for (int64_t j = 0; j < p.n; ++j) {
      if (i > 2 && i < p.m - 3 && j > 2 && j < p.n - 3 && (i * 31 + j) % 97 != 0) continue;
      double sum = 0;
      for (int64_t k = 0; k < p.k; ++k)
        sum += static_cast<double>(a.data<float>()[p.a_turned() ? k * p.m + i : i * p.k + k]) * static_cast<double>(b.data<float>()[p.b_turned() ? j * p.k + k : k * p.n + j]);
      sum = std::max(0.0, sum + static_cast<double>(bias.data<float>()[j]));
      ASSERT_NEAR(static_cast<double>(y.data<float>()[i * p.n + j]), sum, bound) << p.m << "x" << p.n << "x" << p.k << " " << p.layout << " at " << i << "," << j;
    }
}

std::vector<Product> products() {
  std::vector<Product> out;
  for (const char* layout : {"nn", "nt", "tn", "tt"})
    for (const auto& [m, n, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {1, 1, 1}, {1, 300, 700}, {3, 130, 70}, {8, 500, 260}, {13, 200, 1300}, {31, 97, 100}, {33, 700, 50}, {67, 330, 129}, {130, 200, 1300}, {230, 70, 65}, {400, 300, 33}, {205, 270, 1500}, {1024, 140, 70}, {2048, 200, 1300}})
      out.push_back({m, n, k, layout});
  return out;
}

TEST(Products, AreRightAtEverySizeAndLayout) {
  for (const char* arch : {"avx512", "avx2", "v128"}) {
    if (!open_device("cpu")->runs(Target{TargetKind::cpu, arch})) {
      fmt::print("not run: this machine is no cpu:{}\n", arch);
      continue;
    }
    const auto device = open_cpu_device(arch);
    for (const Product& p : products()) {
      const HostTensor a = noise(p.a(), 1), b = noise(p.b(), 2), bias = noise({p.n}, 3);
      CompileOptions options;
      options.use_cache = false;
      expect_right(p, a, b, bias, jit(*device, graph_of(p), options)->run({a, b, bias})[0]);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Products, MeanAsPlannedWhatTheyCompute) {
  for (const Product& p : {Product{70, 130, 1300, "nn"}, Product{70, 130, 1300, "tn"}, Product{1024, 130, 70, "tn"}, Product{1, 300, 700, "nn"}, Product{13, 50, 100, "nt"}}) {
    CompileOptions options;
    options.use_cache = false;
    options.target = Target{TargetKind::cpu, "avx512"};
    CompileReport report;
    compile(graph_of(p), options, &report);
    ASSERT_EQ(report.planned.size(), 1u);
    tile::verify(report.planned[0]);
    HostTensor a = noise(p.a(), 1), b = noise(p.b(), 2), bias = noise({p.n}, 3), y(DType::f32, {p.m, p.n});
    tile::interpret(report.planned[0], {&a, &b, &bias, &y});
    expect_right(p, a, b, bias, y);
    if (HasFatalFailure()) return;
  }
}

// What is asked for early lies in front of every load of its loop, which could not pass it and would wait in a register.
TEST(Products, AskForWhatComesNextBeforeTheyLoad) {
  for (const auto& [p, copies] : {std::pair{Product{8, 768, 784, "nn"}, false}, {Product{32, 1536, 600, "nn"}, true}, {Product{32, 768, 3072, "nn"}, true}, {Product{32, 768, 3072, "tn"}, true}, {Product{130, 700, 1300, "nn"}, true}}) {
    CompileOptions options;
    options.use_cache = false;
    options.want_source = true;
    options.target = Target{TargetKind::cpu, "avx512"};
    CompileReport report;
    const Program program = compile(graph_of(p), options, &report);
    ASSERT_EQ(program.images.size(), 1u);
    const std::string plan = to_string(report.planned[0]), &code = program.images[0].source;
    EXPECT_EQ(plan.find("load ahead %s0") != std::string::npos, copies) << plan;
    int loops = 0;
    for (size_t from = 0, to = 0; to != std::string::npos; from = to + 2) {
      to = code.find("\n\n", from);   // of a basic block
      const std::string block = code.substr(from, to == std::string::npos ? to : to - from);
      const size_t asked = block.rfind("@llvm.prefetch");
      if (asked == std::string::npos || block.find("@llvm.fmuladd") == std::string::npos) continue;
      ++loops;
      EXPECT_LT(asked, block.find(" = load ")) << block;
    }
    EXPECT_GT(loops, 0) << code;
  }
}

}  // namespace
}  // namespace quern
