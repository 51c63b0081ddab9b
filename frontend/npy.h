// NumPy's .npy files: one tensor in a file. Reads format versions 1 and 2, little endian, C order; writes version 1.
#pragma once
#include <string>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

/// Checks the magic, the version, the head's length and syntax, dtype, order and shape, and that the data is as long as
/// the head promises, before anything is allocated. Throws Error(bad_npy) naming `file`.
HostTensor parse_npy(const std::vector<uint8_t>& bytes, const std::string& file);
HostTensor load_npy(const std::string& path);
/// bf16, which NumPy lacks, is written as the equal f4.
void save_npy(const std::string& path, const HostTensor& tensor);

}  // namespace quern
