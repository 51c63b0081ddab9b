// How long a small kernel takes on a GPU: what a cluster of blocks is weighed with against launches of their own. Times are of an H100 and
// rough; they rank ways to run the same kernels, and are no prediction of a large kernel's time.
#pragma once
#include <vector>

#include "ir/tile/kernel.h"

namespace quern {

// Of a launch behind others; of one that begins while the one before ends; of a barrier between a phase's stores and the next one's loads.
constexpr double kLaunchMicroseconds = 1.3, kBesideMicroseconds = 0.6, kClusterBarrierMicroseconds = 0.45, kBlockBarrierMicroseconds = 0.05;
constexpr int64_t kMultiprocessors = 132;

struct GpuWork {
  int64_t instances = 1, threads = 32;
  double bytes = 0, operations = 0;   // of all instances: moved from and to memory; weighed by how long they take, in those of a product of f32
  double chain = 0;                   // microseconds of one instance that has a multiprocessor for itself, but for bytes and operations
};
/// Of a planned kernel of one phase without roles.
GpuWork gpu_work(const tile::Kernel& planned);

/// Microseconds of kernels that run side by side on so many multiprocessors, `threads` (0: as many as there is room for) at a time on each.
double gpu_microseconds(const std::vector<const GpuWork*>& work, int64_t multiprocessors, int64_t threads);

}  // namespace quern
