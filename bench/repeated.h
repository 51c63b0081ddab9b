// How the suite and the products time a GPU: a program many times over (repeat.h) as one CUDA graph.
#pragma once
#include "bench/repeat.h"
#include "bench/suite_program.h"

namespace quern::bench {

/// The f32 that `value` holds as `dtype`.
HostTensor rounded(const HostTensor& value, DType dtype);

/// A case of the suite on a GPU. The same values in all sets, as only the places matter. A training step has one set, and starts from its
/// parameters' first values in every block.
class RepeatedProgram {
 public:
  RepeatedProgram(Device& device, const SuiteCase& c, CompiledCase compiled);
  Json request(const SuiteCase& c) const;
  bool out_of_cache() const { return true; }
  double check();
  /// How far the outputs are from what f64 gives at sampled places, beside what their dtype allows: more than 1 is wrong.
  double error(const std::vector<std::vector<double>>& exact);
  std::vector<double> block() {
    reset();
    return block_of(*executable_);
  }
  int64_t bytes() const { return 0; }
  /// Of a copy of as many bytes as the case reads and writes, in the same way; nothing where bytes are not the limit.
  std::function<std::vector<double>()> copy();

 private:
  Device& device_;
  int64_t sets_ = 1, together_ = 1;
  size_t outputs_ = 0;
  double float_error_ = 0;
  std::unique_ptr<Executable> executable_, copy_;
  std::vector<HostTensor> results_;   // of the first run
  std::vector<ParameterFill> parameters_;
  std::vector<std::pair<std::string, HostTensor>> states_;   // how they start
  bool trains_ = false;
  void reset();
  std::vector<double> block_of(Executable& e);
};

/// Of a GPU: a product of bf16 of our own, and a copy.
Ceilings measure_ceilings(Device& device);

}  // namespace quern::bench
