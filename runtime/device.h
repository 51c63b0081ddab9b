// Device: where a Program runs. Three of them: cpu (a thread pool), cuda:N (the driver by dlopen), null (prints a
// transcript and computes nothing, so that the whole stack can be tested anywhere). The only inheritance in Quern.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "codegen/program.h"

namespace quern {

/// Memory of a device. Host code never looks inside; cpu memory is plain host memory.
using DevicePtr = void*;

struct PoolStatistics {
  int64_t in_use = 0, high_water = 0;   // bytes handed out now and at most
  int64_t reserved = 0;                 // bytes held from the system
  int64_t allocations = 0, system_allocations = 0;   // calls since the start
};

/// A kernel's operand: device memory that it reads, or also writes.
struct MemoryRange { DevicePtr ptr; int64_t bytes; bool written; };

/// A kernel image made ready to launch on one device.
class LoadedImage {
 public:
  virtual ~LoadedImage() = default;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;              // "cpu", "cpu:avx2", "cuda:0", "null"
  virtual Target target() const = 0;                 // what to compile for
  virtual bool runs(const Target& target) const { return target == this->target(); }   // what was compiled for it
  virtual int threads() const { return 1; }          // CPU workers
  virtual DevicePtr alloc(int64_t bytes) = 0;        // from the caching pool; throws Error(memory)
  virtual void free(DevicePtr ptr) = 0;
  virtual PoolStatistics statistics() const = 0;        // of device memory
  virtual PoolStatistics staging_statistics() const { return {}; }   // of pinned host memory
  virtual void upload(DevicePtr to, const void* from, int64_t bytes) = 0;     // from host; `from` is free on return
  virtual void download(void* to, DevicePtr from, int64_t bytes) = 0;         // to host; complete on return
  virtual void download_rows(void* to, DevicePtr from, const Rows& rows) {
    for (int64_t r = 0; r < rows.count; ++r) download(static_cast<char*>(to) + r * rows.bytes, static_cast<char*>(from) + r * rows.pitch, rows.bytes);
  }
  virtual void copy(DevicePtr to, DevicePtr from, int64_t bytes) = 0;
  virtual std::unique_ptr<LoadedImage> load(const KernelImage& image) = 0;
  virtual void launch(const LoadedImage& image, const KernelImage& kernel, const std::vector<MemoryRange>& operands, int64_t size) = 0;   // `size`: the symbol's
  /// Inputs have this many places, so that the next run's are uploaded while one runs. Between `begin_run(set)` and
  /// `end_run(set)` stands the work that reads set `set`; `stage` uploads into a set without waiting for other work; `capacity`: the most bytes that `to` ever spans.
  virtual int input_sets() const { return 1; }
  virtual void stage(DevicePtr to, int64_t capacity, const void* from, const Rows& rows, int set) {
    (void)capacity, (void)set;
    for (int64_t r = 0; r < rows.count; ++r) upload(static_cast<char*>(to) + r * rows.pitch, static_cast<const char*>(from) + r * rows.bytes, rows.bytes);
  }
  virtual void begin_run(int set) { (void)set; }
  virtual void end_run(int set) { (void)set; }
  /// `body` as long as the bool at `flag` is true, or one of two bodies by it; on a GPU only while a run is recorded: there
  /// the device reads the flag.
  virtual void repeat_while(DevicePtr flag, const std::function<void()>& body) = 0;
  virtual void branch(DevicePtr flag, const std::function<void()>& yes, const std::function<void()>& no) = 0;
  /// Records the launches and copies of `body` and returns a function that replays them; those that touch no
  /// common memory may overlap. Devices without graphs return `body`.
  virtual std::function<void()> record(std::function<void()> body) { return body; }
  virtual void synchronize() = 0;
};

/// "cpu", "cpu:ARCH" (at most this machine's arch), "cuda", "cuda:N", "null". Throws Error(usage) for other names, Error(device) where there is no such device.
/// The null device writes its transcript to `transcript` when given.
std::unique_ptr<Device> open_device(const std::string& name, std::string* transcript = nullptr);

}  // namespace quern
