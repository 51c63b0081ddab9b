// NumPy's .npy files: one tensor in a file. Reads format versions 1 and 2, little endian, C order; writes version 1.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

/// Checks the magic, the version, the head's length and syntax, dtype, order and shape, and that the data is as long as
/// the head promises, before anything is allocated. Throws Error(bad_npy) naming `file`.
HostTensor parse_npy(const std::vector<uint8_t>& bytes, const std::string& file);
HostTensor load_npy(const std::string& path);
/// What NumPy lacks is written as the least dtype with its values: bf16, f8e4m3 and f8e5m2 as f4, i4 as i1, u4 as u1.
DType npy_dtype(DType dtype);
/// A tensor as a file's head and data, of npy_dtype's dtype. The tensor must outlive it.
class NpyFile {
 public:
  explicit NpyFile(const HostTensor& tensor);
  std::string head;
  std::string_view data() const { return {reinterpret_cast<const char*>(tensor().bytes.data()), tensor().bytes.size()}; }

 private:
  const HostTensor* given_;
  HostTensor wide_;   // where NumPy lacks the dtype
  const HostTensor& tensor() const { return npy_dtype(given_->dtype) == given_->dtype ? *given_ : wide_; }
};
void save_npy(const std::string& path, const HostTensor& tensor);

}  // namespace quern
