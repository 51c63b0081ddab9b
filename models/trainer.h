// Training a model on a device: one Stepper for compiled programs and for the interpreter.
#pragma once
#include <functional>
#include <map>

#include "models/mlp.h"
#include "runtime/jit.h"

namespace quern {

/// Runs a graph with states step by step.
class Stepper {
 public:
  virtual ~Stepper() = default;
  virtual void set_inputs(const std::vector<HostTensor>& inputs) = 0;   // of the next step; those that are no states
  virtual void start() = 0;                                             // a step; on a GPU it returns before the end
  virtual HostTensor output() = 0;                                      // the first one of the last step
  virtual void set_state(const std::string& name, const HostTensor& value) = 0;
  virtual HostTensor state(const std::string& name) = 0;
};
/// `device` null: the interpreter, of what `options.passes` says about precision.
std::unique_ptr<Stepper> make_stepper(Device* device, const Graph& graph, const CompileOptions& options = {}, CompileReport* report = nullptr);

struct TrainOptions {
  MlpConfig model;
  Optimizer optimizer;
  int64_t epochs = 20, batch = 64, max_steps = -1;
  uint32_t seed = 1;
  CompileOptions compile;
};
struct TrainResult {
  std::vector<double> losses;     // of every step
  double test_accuracy = 0, seconds = 0, compile_seconds = 0;
  std::vector<std::pair<std::string, HostTensor>> states;
  std::vector<std::string> notes;   // of compiling
};
/// `progress(step, steps, loss)` is called after every step.
TrainResult train_mlp(const struct Dataset& data, Device* device, const TrainOptions& options, const std::function<void(int64_t, int64_t, double)>& progress);

}  // namespace quern
