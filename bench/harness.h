// How Quern is timed. Ours and the peer run in turns, in short blocks with a pause before each (a library's idle workers
// spin for a while and would take the other's cores), over several input sets in rotation (a cache that holds the last
// input flatters), on random data, after results were compared; medians with [10 %, 90 %] intervals over all runs.
#pragma once
#include "bench/peers.h"
#include "ir/graph.h"
#include "runtime/jit.h"

namespace quern::bench {

struct Case {
  std::string name;                // begins with the family's name
  Graph graph;
  double flops = 0, bytes = 0;     // of one run, where meaningful
  Json peer;                       // the same computation as a peer is asked for it; null: no peer
  Fp fp = Fp::standard;            // fast: short floats stay in f32 between the ops of a kernel
  F32Products matmul = F32Products::f32;   // else it is in the name
};

struct Spread {
  double median = 0, low = 0, high = 0;
};
Spread spread(std::vector<double> values);

double microseconds(const std::function<void()>& f);
/// Runs `f(run)` until the block is full; microseconds of each run but the first. `f` times itself.
std::vector<double> block(const std::function<double(size_t run)>& f);
/// The same where `f` does so many runs in one: a block is as long as any other.
std::vector<double> block_together(int64_t runs, const std::function<void()>& f);

struct Harness {
  Device& device;
  Peers& peers;
  int64_t rounds;
  FILE* out;                       // for people
  CompileOptions options;          // of everything that is timed
  bool time_passes = false;        // print the phases of each compilation
  Json rows = Json::array();

  struct Times { Spread ours; std::optional<Spread> peer; };
  /// `rounds` blocks of each, in turns.
  Times interleave(const std::function<std::vector<double>()>& ours, const std::function<std::vector<double>()>& peer) const;
  /// Compiles, compares with the peer, times both and adds the row: what most families do.
  void compare(const Case& c);
  /// What a compilation has to say: its notes, and with time_passes its phases.
  void compiled(const std::string& name, const CompileReport& report) const;
  /// Adds and prints a row; `more` is merged into it.
  void add(const std::string& name, const Times& times, const std::string& peer, const Json& more, const std::string& text);
  /// Throws Error(mismatch) where the peer computes something else.
  void want_equal(const std::string& name, double ours, const PreparedPeer& peer, double tolerance) const;
};

/// One file each: bench/NAME.cpp.
struct Family {
  std::vector<Case> (*cases)();
  void (*run)(Harness& harness, const Case& c);
};
extern const Family product_family, attention_family;   // of a GPU
/// Many runs as one CUDA graph, the peer's as well.
void run_together(Harness& harness, const Case& c);
extern const Family matmul_family, convolution_family, elementwise_family, softmax_family, layer_norm_family, mlp_step_family, compile_time_family;
/// The head of a JSON: the machine with its load, and the command as it was typed.
Json machine(const Device& device);
std::string command_line();
/// All but compile_time.
std::vector<Case> timed_cases();

}  // namespace quern::bench
