// The CPU device: images mapped read+execute, grids split over the threads.
#pragma once
#include "runtime/device.h"

namespace quern {

std::unique_ptr<Device> open_cpu_device();

}  // namespace quern
