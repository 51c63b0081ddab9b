// A CUDA device through the driver API, which is found at run time.
#pragma once
#include "runtime/device.h"

namespace quern {

/// Throws Error(device) where there is no driver or no such GPU.
std::unique_ptr<Device> open_cuda_device(int ordinal);

}  // namespace quern
