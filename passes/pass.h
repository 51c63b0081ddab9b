// What a pass is: a pure function Graph → Graph. Options and observations travel in PassContext; every rewrite asks
// `allow` first, so that a bisection over the rewrite counter finds the first bad one.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace quern {

struct Verdict {             // of one edge producer → consumer of the partition
  NodeId producer, consumer;
  bool fused;
  std::string reason;
  int64_t bytes;             // memory traffic that a missed fusion costs
};

struct KeptWide {            // the ledger of the relaxed policy
  NodeId call;
  std::string kernel;
  int64_t roundings;         // to a short float, that this kernel does without
};

struct PassContext {
  std::vector<std::string> disabled;            // pass names
  int64_t bisect_limit = -1;                    // < 0: no limit
  int64_t rewrites = 0;                         // asked so far
  bool relaxed = false;                         // short floats stay in f32 within a kernel
  bool verify = true;
  bool time = false;
  std::function<void(const std::string& pass, const Graph& graph)> after;   // --print-ir-after-all
  std::vector<std::pair<std::string, double>> times;                        // pass, milliseconds
  std::vector<Verdict> verdicts;
  std::vector<KeptWide> ledger;

  /// Counts one rewrite and says whether it may happen.
  bool allow() { ++rewrites; return bisect_limit < 0 || rewrites <= bisect_limit; }
};

struct Pass {
  const char* name;
  Graph (*run)(const Graph& graph, PassContext& context);
};

Graph expand(const Graph& graph, PassContext& context);      // transforms and Expand ops → primitive nodes
Graph simplify(const Graph& graph, PassContext& context);    // the rule table, to a fixed point, with hash-consing
Graph fold(const Graph& graph, PassContext& context);        // ops of constants → constants
Graph partition(const Graph& graph, PassContext& context);   // → calls of kernels only
Graph precision(const Graph& graph, PassContext& context);   // where short floats are rounded, by the policy
// Each one's text before and after: tests/cases/passes, partition and tile, run by tests/fast/golden_test.cpp.

/// The ordered list; READ passes/pipeline.cpp FIRST.
const std::vector<Pass>& pipeline();
Graph run_pipeline(const Graph& graph, PassContext& context);

/// Throws Error(internal) naming the node: argument order, type rules, inputs, outputs, states.
void verify(const Graph& graph);

}  // namespace quern
