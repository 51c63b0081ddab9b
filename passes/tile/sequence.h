// sequence (CUDA): several planned kernels become the phases of one, for a cluster of blocks; what each of them computes, and in
// which order it sums, stays as it is. Memory that one stores and another reads is one parameter; where they see it in different
// shapes, or read what the kernel stores anywhere, they read a view of it.
//   before: kernel a(%p0: in f32[8], %p1: out f32[8]) { … grid (i0) { … store %p1[i0] = %1 } }
//           kernel b(%p0: in f32[1,8], %p1: out f32[8]) { … grid (i0) { %0 = load %p0[0, i0] … } }
//   after:  kernel a_then_b(%p0: in f32[8], %p1: out f32[8], %p2: out f32[8], %p3: view f32[1,8] of %p1) { … cluster of 16
//             grid (i0) { … store %p1[i0] = %1 }   grid (i1) { %2 = load %p3[0, i1] … } }
#pragma once
#include <optional>

#include "ir/tile/kernel.h"

namespace quern {

struct Member {
  /// What a parameter is: a piece of memory, or, in a loop, entry (first + step * t) mod entries of it in step t.
  struct Operand {
    int64_t memory;
    int64_t first = 0, step = 0, entries = 0;
  };
  const tile::Kernel* kernel;
  std::vector<Operand> operands;
  bool beside = false;   // the one before it
};
struct Sequence {
  tile::Kernel kernel;
  std::vector<int64_t> memories;   // of its parameters
};

/// `steps` > 0: all of them so many times. `why`: what keeps them apart.
std::optional<Sequence> in_sequence(const std::vector<Member>& members, int64_t steps, int64_t cluster, std::string& why);
/// The kernel of one phase, with the same names for all that it has: what other phases alone have is empty.
tile::Kernel only_phase(const tile::Kernel& kernel, size_t phase);

}  // namespace quern
