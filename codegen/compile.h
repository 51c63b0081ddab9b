// Graph → Program: the pipeline, lowering, plans, images through the cache, order and memory plan.
#pragma once
#include <optional>

#include "codegen/plan_file.h"
#include "codegen/program.h"
#include "ir/tile/kernel.h"
#include "passes/pass.h"
#include "passes/tile/plan.h"

namespace quern {

struct CompileOptions {
  Target target;
  F32Products f32_products = F32Products::f32;   // CUDA: how products of f32 are computed
  PassContext passes;
  std::optional<PlanFile> plan;  // schedules of kernels that have an entry there; results stay the same
  bool use_cache = true;
  bool want_source = false;      // keep CUDA text / LLVM IR in the images
};

/// Of a program that comes from the cache as a whole there are neither kernels nor verdicts.
struct CompileReport {
  Graph kernels;                              // after partition
  std::vector<tile::Kernel> lowered, planned; // distinct kernels, in image order
  std::vector<std::string> plan_reasons;   // of each: what kept it from a faster form, or ""
  std::vector<std::pair<std::string, double>> times;   // phase, milliseconds: all but what `jit` does behind it
  std::vector<std::pair<std::string, double>> parts;   // of "images", of all threads together
  std::string program;                        // of the whole program: "from the cache", "kept in the cache" or why neither
  std::vector<Verdict> verdicts;
  int64_t compiled = 0, cached = 0;
  std::vector<std::string> clusters;          // launches that became one, and why others did not
  std::vector<std::string> notes;             // events: values recomputed, cache entries damaged, cache unusable, …
};

/// Images of one lowered kernel's plans, for the tuner: through no cache. `size`: the symbol's value that they are planned for, or 0.
std::vector<KernelImage> compile_plans(const std::vector<tile::Kernel>& planned, const tile::Kernel& lowered, const Target& target, int64_t size);

/// What the passes are told of the target.
void set_target(PassContext& context, const Target& target, F32Products products = F32Products::f32);

/// Programs are taken from the cache and kept there as a whole unless somebody looks inside (want_source, passes.after) or
/// the memory limit wants to be told what is recomputed.
Program compile(const Graph& graph, CompileOptions options, CompileReport* report = nullptr);

}  // namespace quern
