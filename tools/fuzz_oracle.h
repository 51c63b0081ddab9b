// What `quern fuzz graphs` and `quern check` compare a compiled graph with, and how they say that it failed.
#pragma once
#include <functional>
#include <random>
#include <string>

#include "ir/graph.h"
#include "passes/pass.h"
#include "runtime/device.h"

namespace quern {

/// The graph without sub-graphs that can be written out: calls are put in, lanes of a vmap and steps of a scan stand one after
/// the other, a cond is both branches and a choice. While_loops and derivatives stay, and are written out inside. So what
/// the passes make of loops, branches and lanes meets a reference that knows none of them.
Graph written_out(const Graph& graph);
/// written_out, then transforms and composed ops expanded: what interpret() takes.
Graph reference_of(const Graph& graph);

using InputSet = std::vector<HostTensor>;
/// How a case failed: `kind` is empty where it did not, else "differs" or the code of an error; `set` is the first that did.
struct Failure {
  std::string kind, text;
  size_t set = 0;
  explicit operator bool() const { return !kind.empty(); }
};
/// Runs a case in some way and compares it.
using Oracle = std::function<Failure(const Graph& graph, const InputSet& inputs)>;

/// Compiled for the device once, run with every set: those of a graph with a symbol have sizes of their own. `strict`: infinities and NaN must agree, too; else outputs of whose reference some element is not
/// finite are not compared. `unstable` counts these, `kernels` the kernels. `sensitive` counts the outputs that differ by more
/// than the bound, but by no more than the reference itself does when its rounded values are off by their last bit.
/// `roles`: kernels that have them.
struct OracleCounts {
  int64_t kernels = 0, roles = 0, unstable = 0, sensitive = 0, ops = 0;
};
Failure check_compiled(Device& device, const Graph& graph, const std::vector<InputSet>& sets, bool strict, Fp fp, OracleCounts& counts);
/// The same of the lowered kernels on the tile interpreter, with tiles of `tile` elements.
Failure check_tiles(const Graph& graph, const std::vector<InputSet>& sets, bool strict, int64_t tile, OracleCounts& counts);
/// The same of the kernels as they are planned for a GPU: roles run, nothing is compiled. Graphs without a symbol.
Failure check_plans(const Target& target, const Graph& graph, const std::vector<InputSet>& sets, bool strict, Fp fp, OracleCounts& counts);

}  // namespace quern
