// NVRTC, found at run time: CUDA C++ → cubin. No toolkit header is needed to build or to run this.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace quern::cuda {

struct Compiled {
  std::vector<uint8_t> code;   // a cubin
  std::string log;             // registers, spills
};

/// In this process, which ends where NVRTC finds no memory: process.h has the other way.
/// Throws Error(compile) where NVRTC is missing or refuses the source.
Compiled compile_here(const std::string& source, const std::string& arch);

}  // namespace quern::cuda
