// One kernel alone on a device, on random operands: for the tuner. Several images of it, which share the operands, take turns.
#pragma once
#include <memory>
#include <vector>

#include "ir/tile/kernel.h"
#include "runtime/device.h"

namespace quern {

class KernelTimer {
 public:
  /// `size`: the symbol's value, or 0.
  KernelTimer(Device& device, const tile::Kernel& lowered, int64_t size);
  ~KernelTimer();
  KernelTimer(const KernelTimer&) = delete;

  void add(KernelImage image);
  size_t count() const { return images_.size(); }
  /// What the image makes of the operands: the bytes of all outputs, which are zero before.
  std::vector<std::vector<uint8_t>> outputs(size_t image);
  /// Microseconds of a launch, the mean over a block of about a millisecond behind a warm-up.
  double block(size_t image);

 private:
  Device& device_;
  int64_t size_;
  std::vector<MemoryRange> operands_;
  std::vector<std::pair<KernelImage, std::unique_ptr<LoadedImage>>> images_;

  double launches(size_t image, int64_t n);   // microseconds of all together
};

double median(std::vector<double> values);

}  // namespace quern
