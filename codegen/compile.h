// Graph → Program: the pipeline, lowering, plans, images through the cache, order and memory plan.
#pragma once
#include "codegen/program.h"
#include "ir/tile/kernel.h"
#include "passes/pass.h"
#include "passes/tile/plan.h"

namespace quern {

struct CompileOptions {
  Target target;
  F32Products f32_products = F32Products::exact;   // CUDA: whether products of f32 may round their operands to tf32
  PassContext passes;
  bool use_cache = true;
  bool want_source = false;      // keep CUDA text / LLVM IR in the images
};

struct CompileReport {
  Graph kernels;                              // after partition
  std::vector<tile::Kernel> lowered, planned; // distinct kernels, in image order
  std::vector<std::pair<std::string, double>> times;   // phase, milliseconds
  std::vector<Verdict> verdicts;
  int64_t compiled = 0, cached = 0;
  std::vector<std::string> notes;             // events: values recomputed, cache entries damaged, cache unusable, …
};

Program compile(const Graph& graph, CompileOptions options, CompileReport* report = nullptr);

}  // namespace quern
