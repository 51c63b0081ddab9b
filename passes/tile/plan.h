// Plans: which tile sizes, which axis on lanes, which loops. A pure function of (kernel, target). The numerics field is
// the tile of a reduced axis (it fixes the order of sums) and never depends on the thread count.
// Before:  axis i0<128 by 1  axis i1<256 by 1  axis i2<784 by 1   grid (i0, i1) { … seq (i2) … mma … }
// After (avx512): axis i0<128 by 6  axis i1<256 by 64 lanes  axis i2<784 by 1
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

struct CpuArch { int lanes; int registers; };   // f32 lanes of a vector, vector registers
CpuArch cpu_arch(const std::string& arch);      // "avx512" {16,32}, "avx2" {8,16}, "v128" {4,16}

tile::Kernel plan_cpu(const tile::Kernel& kernel, const std::string& arch);
tile::Kernel plan_cuda(const tile::Kernel& kernel, const std::string& arch);

}  // namespace quern
