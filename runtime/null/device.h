// The null device: performs nothing and writes down everything, so that plans and programs can be tested anywhere.
#pragma once
#include "runtime/device.h"

namespace quern {

/// `transcript` receives one line per call; null: standard error.
std::unique_ptr<Device> open_null_device(std::string* transcript);

}  // namespace quern
