// `quern bench suite cpu` and `quern bench suite cuda`: whole families of work beside every peer that is installed, measured in
// one run, in a time that is shared fairly where there is a limit. A case is met where its ratio (the best peer's time / ours) reaches a target, or where no program could be much
// faster on this machine: by the CPU's roofline, by a copy of the same bytes on a GPU.
#pragma once
#include <map>
#include <set>

#include "bench/ceilings.h"
#include "bench/child.h"
#include "bench/harness.h"
#include "bench/suite_time.h"
#include "models/mlp.h"

namespace quern::bench {

inline constexpr double kTf32Tolerance = 1e-2;   // of results in tf32, or in bf16, beside a peer's

struct SuiteCase {
  struct Input {
    Shape shape;
    int64_t classes = 0;             // more than 0: labels i32 below it
    DType dtype = DType::f32;        // else
    double scale = 1, shift = 0;     // uniform in [-scale, scale), shifted
  };
  std::string family, name;          // the name begins with the family's
  std::vector<Input> inputs;         // the first inputs of the graph
  /// Built when it is this case's turn. The graph's other inputs are parameters; where there is `initial`, it is a
  /// training step, whose parameters are the states before "step".
  std::function<TrainingStep()> build;
  Json peer;                         // "op" and what else the peers need to know
  double flops = 0, read = 0, written = 0;   // of one run; bytes where they are the limit
  F32Products matmul = F32Products::f32;
  double target = 1;                 // the ratio (best peer's time / ours) that is wanted
  double tokens = 0;                 // of one run, where a rate of them is told
  double tolerance = 2e-3;           // between results of ours and of a peer
  double least = 0;                  // results nearer to 0 differ as those of this size
  PassContext passes;                // of our program: its precision
  double bytes = 0;                  // read and written, for a GPU's roofline alone, where `read` and `written` are not told
  double weight = 1;                 // its share of a limited time, in seconds that it takes about
};
std::vector<SuiteCase> suite_products(), suite_memory(), suite_models();   // of the CPU
std::vector<SuiteCase> suite_rows(), suite_gpu_products(), suite_gpu_convolutions(), suite_gpu_models(), suite_gpu_gpt();   // of a GPU, but for GPT-2's for RepeatedProgram
/// A case that is one graph of its inputs.
SuiteCase plain_case(const std::string& family, const std::string& name, const std::vector<SuiteCase::Input>& inputs, Json peer, std::function<void(Model&, const std::vector<Tensor>&)> build);
/// A product [m,k] by [k,n], `layout` "nn", or with "t" for an operand that lies transposed.
SuiteCase product_case(int64_t m, int64_t n, int64_t k, const std::string& layout);
/// What only moves memory, on arrays of `rows` by `columns`: forward and backward passes of row kernels, sums, a transpose, chains.
std::vector<SuiteCase> memory_cases(int64_t rows, int64_t columns);

/// All peers that are asked for, each limited to so many threads; those of a GPU are frameworks.
class SuitePeers {
 public:
  static std::vector<std::string> names(TargetKind kind);
  /// Throws Error(usage) for a name that is none.
  SuitePeers(const std::vector<std::string>& names, int threads, TargetKind kind);
  ~SuitePeers();
  /// Those that know the case, one after the other, as some of them tune; `failures`: name → why it failed at it, or was left out, as it
  /// took longer for the last such case than is left. One whose process has ended is started again.
  std::vector<PreparedPeer> prepare(const Json& request, const Shares& time, Json& failures);
  /// Name → {"version"} or {"missing": why}.
  const Json& found() const { return found_; }
  bool any() const { return !libraries_.empty() || !children_.empty(); }

 private:
  using Product = std::function<void(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c)>;
  std::vector<std::pair<std::string, Product>> libraries_;
  struct Peer {
    std::string name;
    std::unique_ptr<Child> child;   // none: it has failed, and does not start again
    std::map<std::string, double> seconds = {};   // by op, how long the last case took to prepare
    std::set<std::string> lacks = {};             // ops of cases that it did not have
    int starts = 1;
  };
  std::vector<Peer> children_;
  int threads_;
  TargetKind kind_;
  Json found_ = Json::object();

  std::string open_library(const std::string& name, int threads);
};

void register_suite(CLI::App& bench);

}  // namespace quern::bench
