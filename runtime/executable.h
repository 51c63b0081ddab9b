// Executable: a Program on a Device. Loads the images once, allocates every slot once, uploads constants; a run copies
// the inputs in, replays the steps and leaves the outputs in their slots: no allocation after construction. Setup runs
// within the first run, and within the first behind a set_state of what it reads.
#pragma once
#include <map>
#include <set>

#include "runtime/device.h"

namespace quern {

class Executable {
 public:
  Executable(Device& device, Program program);
  ~Executable();
  Executable(const Executable&) = delete;

  const Program& program() const { return program_; }
  /// States and inputs must be set once before the first run. Throws Error(usage) for an unknown name, another shape or dtype.
  void set_state(const std::string& name, const HostTensor& value);
  HostTensor state(const std::string& name);
  /// For the next run; an input that is not set again keeps its value. Overlaps with a run that is under way. Of a program
  /// with a symbol, the inputs' shapes say its value; all must agree when it runs.
  void set_input(int64_t position, const HostTensor& value);
  /// One step on the inputs set before; asynchronous on a GPU until an output is read.
  void run();
  HostTensor output(int64_t position);
  /// Set all inputs, run, read all outputs.
  std::vector<HostTensor> run(const std::vector<HostTensor>& inputs);
  /// Median microseconds of each of the program's steps, those of every run or those of setup, over `repeats` runs.
  std::vector<double> profile(const std::vector<Step>& steps, int repeats);

 private:
  struct Free {
    Device* device;
    void operator()(DevicePtr p) const { device->free(p); }
  };
  Device& device_;
  Program program_;
  std::vector<std::unique_ptr<LoadedImage>> images_;
  std::vector<std::vector<DevicePtr>> slots_;      // by input set; all but inputs are the same
  std::vector<std::unique_ptr<void, Free>> owned_;
  std::set<int64_t> unset_;                        // states and inputs
  std::vector<std::map<int64_t, std::function<void()>>> replay_;   // by input set, by the symbol's value
  size_t set_ = 0;                                 // the set of the next run
  bool ran_ = false;                               // it has been read by a run
  std::vector<size_t> holder_;                     // of each input: the set with its latest value
  std::vector<int64_t> sizes_;                     // of each input: the symbol's value in its latest shape; 0: any
  int64_t size_;                                   // the symbol's value in the latest run
  size_t kernels_ = 0;                             // which of the program's bounds its kernels have
  std::function<void()> setup_;
  bool stale_ = false;                             // what setup keeps is not of the states at hand
  std::set<int64_t> read_once_;                    // states that setup reads
  std::vector<char> moves_;                        // slots that are another place in each iteration of a loop
  std::vector<int64_t> iteration_;                 // of each loop, while its steps run
  DevicePtr alloc(int64_t bytes);
  DevicePtr at(int64_t slot, size_t set) const;
  void run_step(const Step& step, size_t set);
  void collect_reads(const std::vector<Step>& steps);
  void run_steps(const std::vector<Step>& steps, size_t set);
  void choose_size();
};

}  // namespace quern
