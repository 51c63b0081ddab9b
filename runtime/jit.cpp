// See jit.h.
#include "runtime/jit.h"

namespace quern {

std::unique_ptr<Executable> jit(Device& device, const Graph& graph, CompileOptions options, CompileReport* report) {
  options.target = device.target();
  return std::make_unique<Executable>(device, compile(graph, std::move(options), report));
}

}  // namespace quern
