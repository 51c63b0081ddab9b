// See kernel_timer.h.
#include "tools/kernel_timer.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "ir/graph.h"
#include "tools/fuzz_graphs.h"

namespace quern {

static constexpr double kBlockMicroseconds = 1000;
static constexpr int64_t kMostLaunches = 1000;
static constexpr int64_t kDrawn = (1 << 20) - 3;   // values of a buffer; a larger one has them again and again, a prime number apart

double median(std::vector<double> values) {
  QN_CHECK(!values.empty(), "a median needs values");
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

KernelTimer::KernelTimer(Device& device, const tile::Kernel& lowered, int64_t size) : device_(device), size_(size) {
  GraphBuilder inputs;
  for (int64_t b = 0; b < lowered.params(); ++b) {
    const tile::Buffer& buffer = lowered.buffers[static_cast<size_t>(b)];
    inputs.input(buffer.name, {buffer.dtype, {std::min(quern::count(buffer.layout()), kDrawn)}, {}});
  }
  std::mt19937_64 random(1);
  const std::vector<HostTensor> values = random_inputs(inputs.finish(), random);
  for (size_t b = 0; b < values.size(); ++b) {
    const tile::Buffer& buffer = lowered.buffers[b];
    std::vector<std::byte> all = values[b].bytes;
    all.resize(static_cast<size_t>(quern::count(buffer.layout()) * size_of(buffer.dtype)));
    for (size_t done = values[b].bytes.size(); done < all.size(); done *= 2) std::copy_n(all.begin(), std::min(done, all.size() - done), all.begin() + static_cast<std::ptrdiff_t>(done));
    const int64_t bytes = static_cast<int64_t>(all.size());
    operands_.push_back({device_.alloc(std::max<int64_t>(bytes, 64)), bytes, buffer.kind == tile::BufferKind::out});
    device_.upload(operands_.back().ptr, all.data(), bytes);
  }
}

KernelTimer::~KernelTimer() {
  for (const MemoryRange& o : operands_) device_.free(o.ptr);
}

void KernelTimer::add(KernelImage image) {
  auto loaded = device_.load(image);
  images_.emplace_back(std::move(image), std::move(loaded));
}

double KernelTimer::launches(size_t i, int64_t n) {
  const auto& [image, loaded] = images_[i];
  device_.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int64_t l = 0; l < n; ++l) device_.launch(*loaded, image, operands_, std::max<int64_t>(size_, 1));
  device_.synchronize();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

std::vector<std::vector<uint8_t>> KernelTimer::outputs(size_t image) {
  std::vector<std::vector<uint8_t>> out;
  for (const MemoryRange& o : operands_)
    if (o.written) {
      const std::vector<uint8_t> zeros(static_cast<size_t>(o.bytes));
      device_.upload(o.ptr, zeros.data(), o.bytes);
    }
  launches(image, 1);
  for (const MemoryRange& o : operands_) {
    if (!o.written) continue;
    out.emplace_back(static_cast<size_t>(o.bytes));
    device_.download(out.back().data(), o.ptr, o.bytes);
  }
  return out;
}

double KernelTimer::block(size_t image) {
  const double once = launches(image, 1);
  if (once > 10 * kBlockMicroseconds) return once;   // so long that it is its own warm-up
  const int64_t n = std::clamp<int64_t>(static_cast<int64_t>(kBlockMicroseconds / std::max(once, 0.1)), 1, kMostLaunches);
  return launches(image, n) / static_cast<double>(n);
}

}  // namespace quern
