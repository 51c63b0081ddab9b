// Plans: which tile sizes, which axis on lanes or threads, which loops, which matrix instruction. A pure function of
// (kernel, target). The numerics fields (tile and spread of a summed axis, precision) fix the order of sums and never
// depend on how many threads or multiprocessors the machine has.
// Before:  axis i0<128 by 1  axis i1<256 by 1  axis i2<784 by 1   grid (i0, i1) { … seq (i2) … mma … }
// After (avx512): axis i0<128 by 6  axis i1<256 by 64 lanes  axis i2<784 by 2
// After (sm_90a): axis i0<128 by 32 threads 4@3 warps 2@0 vector 4 … mma[f32, simt]
#pragma once
#include <utility>

#include "ir/tile/kernel.h"

namespace quern {

struct CpuArch {
  int lanes, registers;   // f32 lanes of a vector; vector registers
  bool fma;
  int64_t cache;          // bytes of a core's own cache that panels may take
};
CpuArch cpu_arch(const std::string& arch);                // "avx512", "avx2" or "v128"

/// Accumulators of a product of so many rows and vectors: rows and vectors that stay in registers.
std::pair<int64_t, int64_t> accumulators(int64_t rows, int64_t vectors, int registers);

/// How products of f32 are computed: as such, or on matrix units, of operands rounded to tf32, or of all but the last bits of both,
/// in three products. What matrix units cannot do, short sides or before sm_80, is computed as such. f8: products of 8-bit floats that were
/// cast up are those of the matrix units of sm_90a, whose sums are added up in f32 after 128 terms (roles.h); all others as such.
enum class F32Products { f32,
                         tf32,
                         tf32x3,
                         f8 };
inline constexpr const char* kF32Products[] = {"f32", "tf32", "tf32x3", "f8"};   // --matmul

class KernelSchedule;   // passes/tile/schedule.h: choices that change no result
tile::Kernel plan_cpu(const tile::Kernel& kernel, const std::string& arch, KernelSchedule* schedule = nullptr);
/// `why`: what keeps a product from the form with roles (roles.h), or "".
tile::Kernel plan_cuda(const tile::Kernel& kernel, const std::string& arch, F32Products products = F32Products::f32, std::string* why = nullptr, KernelSchedule* schedule = nullptr);

}  // namespace quern
