// A planned kernel as one LLVM function  void(ptr buffers, ptr scratch, i64 begin, i64 end).
#pragma once
#include <llvm/IR/Module.h>

#include "passes/tile/plan.h"

namespace quern::cpu {

/// Adds the function `name` to the module.
void emit(const tile::Kernel& kernel, const std::string& name, const CpuArch& arch, llvm::Module& module);

/// Bytes of scratch of one instance.
int64_t scratch_bytes(const tile::Kernel& kernel);

}  // namespace quern::cpu
