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
  std::string edge;          // "%4 exp -> %5 add", in bodies of control flow with the op before: "in %7 scan: …"
};

/// What compilation may change of a result. `strict`: no sum of products is made another way than the graph says, no step of a
/// sum is left out. `standard`: kernels may compute a product within another's loop (attention's scores), so sums over the
/// scores are made in another order and what a mask hides is not read (passes/tile/bounds.h). `fast`: besides, bf16 and f16 stay in f32 between the
/// ops of a kernel, and on a GPU what reads or makes them does with the machine's functions (passes/tile/fast.h). Else every map rounds as its op says: no contraction of a * b + c.
enum class Fp { strict, standard, fast };

struct KeptWide {            // the ledger of Fp::fast
  NodeId call;
  std::string kernel;
  int64_t roundings;         // to a short float, that this kernel does without
};

struct PassContext {
  std::vector<std::string> disabled;            // pass names
  int64_t bisect_limit = -1;                    // < 0: no limit
  int64_t rewrites = 0;                         // asked so far
  Fp fp = Fp::standard;
  DType compute = DType::f32;                   // what products of f32 compute in: bf16 (passes/graph/mixed.h)
  int64_t memory_limit = -1;                    // bytes of temporaries; < 0: none
  bool nested_products = false;                 // a kernel may compute a product within another's loop (passes/graph/recompute.h)
  bool nested_in_roles = false;                 // and it takes the sums of a row that its weights read with it (passes/tile/roles_nested.h)
  std::function<std::string(const Node& call)> refuses;   // why the target takes no kernel with such products; empty: it does. None: it takes all
  std::vector<std::string> in_memory;           // what kernels were refused with, and so is stored
  int64_t chunk_sums = 0;                       // elements of all sums of chunks together, as many as a GPU wants side by side; 0: at most 64 chunks
  int64_t product_blocks = 0;                   // multiprocessors that share a long product's sum (passes/graph/product_parts.h); 0: it stays one
  int64_t long_sum = 0;                         // from so many elements on, sums are made in chunks (passes/graph/chunks.h); 0: none are
  double op_share = 1;                          // how long an op takes beside memory's traffic, of a CPU's share (passes/work.h)
  int64_t row_bytes = 0;                        // rows of short products start at multiples of it (passes/graph/align.cpp); 0: anywhere
  int64_t large_matrix = 0;                     // from so many bytes on, an unchanging matrix is laid out for a loop's products (passes/graph/panels.h); 0: none is
  int lanes = 0, registers = 0;                 // of the vectors that it is laid out for
  int64_t large_product = 0;                    // from so many multiplications on, operands of f32 are stored for tensor cores (passes/graph/tensor_operands.cpp); 0: none are
  bool split_operands = false;                  // in two parts of tf32
  bool operands_of_bytes = false;               // those of 8-bit floats are, and no others
  bool verify = true;
  bool time = false;
  std::function<void(const std::string& pass, const Graph& graph)> after;   // --print-ir-after-all
  std::vector<std::pair<std::string, double>> times;                        // pass, milliseconds; last: the verifier, between all of them
  std::vector<Verdict> verdicts;
  std::vector<std::string> recomputed;          // what `remat` chose
  std::vector<std::string> loops;               // what moved out of which loop
  std::vector<std::string> setup;               // what is stored once, and its bytes
  std::vector<std::string> ordered;             // what is added up in order, and what is not, and why
  std::string within;                           // what stands before the edges of the body at hand
  std::vector<KeptWide> ledger;

  /// Counts one rewrite and says whether it may happen.
  bool allow() { ++rewrites; return bisect_limit < 0 || rewrites <= bisect_limit; }
};

struct Pass {
  const char* name;
  Graph (*run)(const Graph& graph, PassContext& context);
  enum class Bodies { with_graph, first } bodies = Bodies::first;   // of control flow: the pass does them itself, or they go through it before the graph
};

/// The bodies of control flow go through the pass, innermost first, then the graph.
Graph run_pass(const Pass& pass, const Graph& graph, PassContext& context);

Graph expand(const Graph& graph, PassContext& context);      // transforms and Expand ops → primitive nodes, in the precision that is asked for
Graph simplify(const Graph& graph, PassContext& context);    // the rule table, to a fixed point, with hash-consing
Graph fold(const Graph& graph, PassContext& context);        // ops of constants → constants
Graph loops(const Graph& graph, PassContext& context);       // work that need not be in a scan's body moves out of it
Graph reassociate(const Graph& graph, PassContext& context); // sums over what no kernel keeps, where there are shorter ones
Graph scores(const Graph& graph, PassContext& context);      // weights that add up to one, as exponentials less one number a row
Graph chunks(const Graph& graph, PassContext& context);      // long sums in parts
Graph align(const Graph& graph, PassContext& context);       // short products whose rows the copy engine does not reach: longer ones
Graph panels(const Graph& graph, PassContext& context);      // what products read, laid out for them: of a loop's what each step reads again
Graph remat(const Graph& graph, PassContext& context);       // under a memory limit: what is computed once more
Graph setup(const Graph& graph, PassContext& context);       // what is the same in every run is stored
Graph ordered(const Graph& graph, PassContext& context);     // what one kernel may add up in order beside two other sums, in f32
Graph partition(const Graph& graph, PassContext& context);   // → calls of kernels only
Graph precision(const Graph& graph, PassContext& context);   // where short floats are rounded, by the policy
// Each one's text before and after: tests/cases/passes, partition and tile, run by tests/fast/golden_test.cpp.

/// The ordered list; READ passes/pipeline.cpp FIRST.
const std::vector<Pass>& pipeline();
Graph run_pipeline(const Graph& graph, PassContext& context);

/// Throws Error(internal) naming the node: argument order, type rules, inputs, outputs, states.
void verify(const Graph& graph);

}  // namespace quern
