// How dtypes, constants and scalar ops of the Tile IR are spelled in CUDA C++. Floats of 16 bits are rounded floats in
// registers and unsigned shorts in memory; bools are bytes in memory.
#pragma once
#include <string>
#include <vector>

#include "ir/op.h"

namespace quern::cuda {

const char* register_type(DType d);
const char* memory_type(DType d);
std::string from_memory(DType d, const std::string& x);
std::string to_memory(DType d, const std::string& x);
std::string constant(const Scalar& value);
/// An elementwise op on arguments of dtype `arg`, rounded to `out`.
std::string apply(Op op, DType out, DType arg, const std::vector<std::string>& args);

}  // namespace quern::cuda
