// safetensors: named tensors in one file. Writing goes to a temporary file that is synced and renamed.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

using NamedTensors = std::vector<std::pair<std::string, HostTensor>>;

/// Throws Error(cannot_write) where the file cannot be written whole; an older file stays as it was then.
void save_safetensors(const std::string& path, const NamedTensors& tensors);
/// Checks the head's size, every dtype, shape and offset (contiguous from 0, no holes, end at the file's end).
NamedTensors load_safetensors(const std::string& path);

}  // namespace quern
