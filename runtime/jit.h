// The composition root: compile a Graph for a Device and make it runnable. The only header of the runtime that sees
// codegen and passes.
#pragma once
#include "codegen/compile.h"
#include "ir/interpret.h"
#include "runtime/executable.h"

namespace quern {

/// Compiles for device.target() and loads. `options.target` is overwritten.
std::unique_ptr<Executable> jit(Device& device, const Graph& graph, CompileOptions options = {}, CompileReport* report = nullptr);

/// A function of tensors whose shapes and dtypes are known when it is called: built and compiled once for each set of input
/// types that no program at hand serves. Each compilation is an event with its reason; from the second on it is also
/// printed to standard error, since whoever calls with ever new shapes waits for the compiler, not for the kernels. A graph
/// with a symbol (Model::symbol) serves all sizes within its bounds. States belong to one program: graphs have none here.
class Specialized {
 public:
  using Build = std::function<Graph(const std::vector<Type>& inputs)>;
  struct Event {
    std::string reason;
    double milliseconds;
  };
  Specialized(Device& device, Build build, CompileOptions options = {}) : device_(device), build_(std::move(build)), options_(std::move(options)) {}
  std::vector<HostTensor> run(const std::vector<HostTensor>& inputs);
  const std::vector<Event>& compilations() const { return compilations_; }

 private:
  Device& device_;
  Build build_;
  CompileOptions options_;
  std::vector<std::unique_ptr<Executable>> programs_;
  std::vector<Event> compilations_;
};

}  // namespace quern
