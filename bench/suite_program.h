// Our program of a suite's case (bench/suite.h), with its parameters and input sets.
#pragma once
#include <atomic>
#include <future>
#include <thread>

#include "bench/private_cache.h"
#include "bench/suite.h"

namespace quern::bench {

/// How a parameter starts, the same bits in all peers: `constant`, or uniform in [-scale, scale) of the stream.
struct ParameterFill {
  std::string name;
  Shape shape;
  double scale = 0, constant = 0;
  uint64_t stream = 0;
  HostTensor value() const;
  Json json() const;
};
/// What `name` and `shape` say about the start, as the `position`-th parameter.
ParameterFill parameter_fill(const std::string& name, const Shape& shape, size_t position);
/// Of a training step, what its parameters start with: into `initial`, up to "step".
std::vector<ParameterFill> fill_parameters(std::vector<std::pair<std::string, HostTensor>>& initial);
HostTensor suite_input(const SuiteCase::Input& input, int64_t set, int64_t position);

/// Our program of a case, not yet on the device.
struct CompiledCase {
  TrainingStep built;
  CompileOptions options;
  Program program;
};
CompiledCase compile_case(const SuiteCase& c, const Target& target);

/// All cases' programs, compiled side by side in their order. Nothing is timed before `wait`.
class CompiledAhead {
 public:
  CompiledAhead(const std::vector<SuiteCase>& cases, const Target& target);
  ~CompiledAhead() { wait(); }
  /// Waits for this one; throws what its compilation threw.
  CompiledCase take(size_t i) { return results_[i].get_future().get(); }
  void wait();

 private:
  const std::vector<SuiteCase>& cases_;
  std::vector<std::promise<CompiledCase>> results_;
  std::atomic<size_t> next_ = 0;
  std::vector<std::thread> threads_;
};

class SuiteProgram {
 public:
  SuiteProgram(Device& device, const SuiteCase& c, CompiledCase compiled);
  /// What the peers are asked for.
  Json request(const SuiteCase& c) const;
  bool out_of_cache() const { return out_of_cache_; }
  /// The sum over the outputs of mean |output|; of a training step the loss after a few.
  double check();
  /// What a GPU's cases have: errors beside f64, and the time of a copy (repeated.h).
  double error(const std::vector<std::vector<double>>&) { return 0; }
  std::function<std::vector<double>()> copy() { return {}; }
  /// Of states, inputs, outputs and what lies between them.
  int64_t bytes() const { return bytes_; }
  /// Microseconds of each of several runs, or of one compilation.
  std::vector<double> block();

 private:
  Device& device_;
  std::vector<std::unique_ptr<Executable>> executables_;
  std::vector<ParameterFill> parameters_;
  std::vector<std::pair<std::string, HostTensor>> initial_;
  std::vector<std::vector<HostTensor>> batches_;
  int64_t sets_ = 1, bytes_ = 0;
  size_t outputs_ = 0;
  bool trains_ = false, out_of_cache_ = false;
  std::optional<Graph> graph_;                 // where compiling is what is timed
  CompileOptions options_;
  std::unique_ptr<PrivateCache> cache_;

  size_t loss_steps() const;
  void reset();
  void load(size_t run);
};

}  // namespace quern::bench
