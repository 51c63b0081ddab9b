// The composition root: compile a Graph for a Device and make it runnable. The only header of the runtime that sees
// codegen and passes.
#pragma once
#include "codegen/compile.h"
#include "ir/interpret.h"
#include "runtime/executable.h"

namespace quern {

/// Compiles for device.target() and loads. `options.target` is overwritten.
std::unique_ptr<Executable> jit(Device& device, const Graph& graph, CompileOptions options = {}, CompileReport* report = nullptr);

}  // namespace quern
