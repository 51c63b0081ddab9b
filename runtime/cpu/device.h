// The CPU device: images mapped read+execute, grids split over the threads.
#pragma once
#include "runtime/device.h"

namespace quern {

/// Compiles for `arch`; empty: the best that this machine runs.
std::unique_ptr<Device> open_cpu_device(const std::string& arch = "");

}  // namespace quern
