// NumPy's .npz files: named tensors as .npy files in a zip archive. Reads what numpy.savez and numpy.savez_compressed
// write; writes as numpy.savez does, and equal files for equal tensors.
#pragma once
#include "frontend/checkpoint.h"
#include "frontend/zip.h"

namespace quern {

/// An archive whose directory has been checked; tensors are unpacked, and checked as parse_npy does, when asked for.
class Npz {
 public:
  explicit Npz(const std::string& path);
  std::vector<std::string> names() const;          // of its tensors: members NAME.npy
  /// Throws Error(unknown_tensor) where there is no such one, Error(bad_npz) or Error(bad_npy) where it is damaged.
  HostTensor at(const std::string& name) const;

 private:
  std::string path_;
  std::vector<uint8_t> bytes_;
  std::vector<ZipMember> members_;
};

void save_npz(const std::string& path, const NamedTensors& tensors);

}  // namespace quern
