// See device.h. Code is written to fresh pages, which then become read+execute: never writable and executable at once.
#include "runtime/cpu/device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include <fmt/format.h>

#include "ir/support/memory.h"
#include "runtime/cpu/threads.h"
#include "runtime/pool.h"

namespace quern {
namespace {

using Entry = void (*)(void* const* buffers, void* scratch, int64_t begin, int64_t end, int64_t size);

class CpuImage : public LoadedImage {
 public:
  explicit CpuImage(const KernelImage& image) : bytes_(image.code.size()) {
    pages_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages_ == MAP_FAILED) throw Error(Code::out_of_memory, "out of memory: no pages for a kernel").with_help("use a smaller model, or raise the limit of address space (ulimit -v)");
    std::memcpy(pages_, image.code.data(), bytes_);
    if (::mprotect(pages_, bytes_, PROT_READ | PROT_EXEC) != 0) {
      ::munmap(pages_, bytes_);
      throw Error(Code::system_refuses, "the system refuses executable memory, which the CPU target needs").with_help("use --device interpret, or allow mprotect(PROT_EXEC) for this program");
    }
    entry = reinterpret_cast<Entry>(static_cast<char*>(pages_) + image.entry);
  }
  ~CpuImage() override { ::munmap(pages_, bytes_); }
  Entry entry;

 private:
  size_t bytes_;
  void* pages_;
};

// Below this many operations plus bytes a launch stays on the caller: a fork costs more.
constexpr double kWorthForking = 60000;

std::string best_arch() { return parse_target("cpu").arch; }
int rank(const std::string& arch) { return arch == "avx512" ? 2 : arch == "avx2" ? 1 : 0; }   // each runs the code of those below

// Large pieces in large pages, where the system has them: rows that lie far apart cost no page walks then.
void* aligned_memory(int64_t bytes) {
  constexpr int64_t kPage = 2 << 20;
  if (bytes > machine_memory()) return nullptr;
  const bool large = bytes >= 2 * kPage;
  void* p = std::aligned_alloc(large ? kPage : 64, static_cast<size_t>(large ? round_up(bytes, kPage) : bytes));
  if (p && large) ::madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return p;
}

class CpuDevice : public Device {
 public:
  explicit CpuDevice(std::string arch)
      : arch_(std::move(arch)), threads_(cpu::default_threads()),
        pool_(aligned_memory, [](void* p) { std::free(p); }) {}
  ~CpuDevice() override {
    if (scratch_) pool_.free(scratch_);
  }

  std::string name() const override { return arch_ == best_arch() ? "cpu" : "cpu:" + arch_; }
  Target target() const override { return {TargetKind::cpu, arch_}; }
  bool runs(const Target& wanted) const override { return wanted.kind == TargetKind::cpu && rank(wanted.arch) <= rank(best_arch()); }
  int threads() const override { return threads_.count(); }
  DevicePtr alloc(int64_t bytes) override { return pool_.alloc(bytes); }
  void free(DevicePtr ptr) override { pool_.free(ptr); }
  PoolStatistics statistics() const override { return pool_.statistics(); }
  void upload(DevicePtr to, const void* from, int64_t bytes) override { copy(to, const_cast<void*>(from), bytes); }
  void download(void* to, DevicePtr from, int64_t bytes) override { copy(to, from, bytes); }
  void copy(DevicePtr to, DevicePtr from, int64_t bytes) override {
    if (bytes > 0) std::memmove(to, from, static_cast<size_t>(bytes));   // the host side of an empty tensor is null
  }
  std::unique_ptr<LoadedImage> load(const KernelImage& image) override {
    reserve_scratch(image.scratch_bytes);
    return std::make_unique<CpuImage>(image);
  }

  void launch(const LoadedImage& image, const KernelImage& kernel, const std::vector<MemoryRange>& operands, int64_t size) override {
    pointers_.clear();
    for (const MemoryRange& o : operands) pointers_.push_back(o.ptr);
    const Entry entry = static_cast<const CpuImage&>(image).entry;
    const int64_t grid = kernel.grid_at(size), workers = std::min<int64_t>(threads_.count(), grid);
    const double work = (kernel.flops + kernel.bytes) * static_cast<double>(grid) / static_cast<double>(std::max<int64_t>(kernel.grid, 1));
    const auto scratch = [&](int64_t worker) { return static_cast<char*>(scratch_) + worker * scratch_each_; };
    if (workers <= 1 || work < kWorthForking) return entry(pointers_.data(), scratch(0), 0, grid, size);
    threads_.run([&](int worker) {
      const int64_t begin = grid * worker / workers, end = grid * (worker + 1) / workers;
      if (worker < workers) entry(pointers_.data(), scratch(worker), begin, end, size);
    });
  }
  void repeat_while(DevicePtr flag, const std::function<void()>& body) override {
    while (*static_cast<const uint8_t*>(flag)) body();
  }
  void branch(DevicePtr flag, const std::function<void()>& yes, const std::function<void()>& no) override { (*static_cast<const uint8_t*>(flag) ? yes : no)(); }
  void synchronize() override {}

 private:
  std::string arch_;
  cpu::Threads threads_;
  Pool pool_;
  void* scratch_ = nullptr;
  int64_t scratch_each_ = 0;
  std::vector<DevicePtr> pointers_;   // of the launch at hand

  void reserve_scratch(int64_t bytes) {
    if (bytes <= scratch_each_) return;
    if (scratch_) pool_.free(scratch_);
    scratch_ = nullptr;
    scratch_ = pool_.alloc(checked_mul(round_up(bytes, 64), threads_.count()));
    scratch_each_ = round_up(bytes, 64);
  }
};

}  // namespace

std::unique_ptr<Device> open_cpu_device(const std::string& arch) {
#if !defined(__x86_64__)
  throw Error(Code::unsupported_machine, "the CPU target is x86-64 only").with_help("use --device interpret");
#endif
  if (rank(arch) > rank(best_arch()))
    throw Error(Code::unsupported_machine, fmt::format("this machine does not run cpu:{}", arch)).with_help(fmt::format("cpu:{} is the best that it runs", best_arch()));
  return std::make_unique<CpuDevice>(arch.empty() ? best_arch() : arch);
}

}  // namespace quern
