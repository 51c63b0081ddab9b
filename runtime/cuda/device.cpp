// See device.h. One context, one stream for work and one for uploads; a recorded step is one CUDA graph, built node by
// node with an edge wherever two nodes touch the same memory and one of them writes it.
#include "runtime/cuda/device.h"

#include <cstring>
#include <map>

#include <dlfcn.h>

#include <fmt/format.h>

#include "runtime/pool.h"

namespace quern {
namespace {

using Status = int;
using Handle = void*;
using Ptr = unsigned long long;

// As cuda.h declares them (CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS).
struct KernelNode {
  Handle function;
  unsigned grid[3], block[3], shared;
  void** params;
  void** extra;
  Handle kernel, context;
};
struct CopySide { size_t x, y, z, level; unsigned memory; void* host; Ptr device; Handle array; void* reserved; size_t pitch, height; };
struct CopyNode { CopySide from, to; size_t width, height, depth; };
struct FillNode { Ptr to; size_t pitch; unsigned value, element; size_t width, height; };
constexpr unsigned kDeviceMemory = 2;

struct Driver {
  Status (*init)(unsigned);
  Status (*device_get)(int*, int);
  Status (*device_count)(int*);
  Status (*attribute)(int*, int, int);
  Status (*retain)(Handle*, int);
  Status (*release)(int);
  Status (*set_current)(Handle);
  Status (*alloc)(Ptr*, size_t);
  Status (*free)(Ptr);
  Status (*upload)(Ptr, const void*, size_t, Handle);
  Status (*download)(void*, Ptr, size_t, Handle);
  Status (*copy)(Ptr, Ptr, size_t, Handle);
  Status (*fill)(Ptr, unsigned char, size_t, Handle);
  Status (*module_load)(Handle*, const void*);
  Status (*module_function)(Handle*, Handle, const char*);
  Status (*module_unload)(Handle);
  Status (*function_attribute)(Handle, int, int);
  Status (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**);
  Status (*stream_create)(Handle*, unsigned);
  Status (*stream_destroy)(Handle);
  Status (*stream_synchronize)(Handle);
  Status (*host_alloc)(void**, size_t, unsigned);
  Status (*host_free)(void*);
  Status (*event_create)(Handle*, unsigned);
  Status (*event_destroy)(Handle);
  Status (*event_record)(Handle, Handle);
  Status (*event_synchronize)(Handle);
  Status (*stream_wait)(Handle, Handle, unsigned);
  Status (*graph_create)(Handle*, unsigned);
  Status (*add_kernel)(Handle*, Handle, const Handle*, size_t, const KernelNode*);
  Status (*add_copy)(Handle*, Handle, const Handle*, size_t, const CopyNode*, Handle);
  Status (*add_fill)(Handle*, Handle, const Handle*, size_t, const FillNode*, Handle);
  Status (*instantiate)(Handle*, Handle, unsigned long long);
  Status (*graph_launch)(Handle, Handle);
  Status (*graph_destroy)(Handle);
  Status (*graph_exec_destroy)(Handle);
  Status (*error_string)(Status, const char**);
};

const Driver& driver() {
  static const Driver table = [] {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) throw Error(Code::no_driver, "no NVIDIA driver was found (libcuda.so.1)").with_help("use --device cpu");
    Driver d{};
    const auto bind = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
      if (!function) throw Error(Code::no_driver, fmt::format("this NVIDIA driver is too old: it lacks {}", name)).with_help("update it, or use --device cpu");
    };
    bind(d.init, "cuInit");
    bind(d.device_get, "cuDeviceGet");
    bind(d.device_count, "cuDeviceGetCount");
    bind(d.attribute, "cuDeviceGetAttribute");
    bind(d.retain, "cuDevicePrimaryCtxRetain");
    bind(d.release, "cuDevicePrimaryCtxRelease_v2");
    bind(d.set_current, "cuCtxSetCurrent");
    bind(d.alloc, "cuMemAlloc_v2");
    bind(d.free, "cuMemFree_v2");
    bind(d.upload, "cuMemcpyHtoDAsync_v2");
    bind(d.download, "cuMemcpyDtoHAsync_v2");
    bind(d.copy, "cuMemcpyDtoDAsync_v2");
    bind(d.fill, "cuMemsetD8Async");
    bind(d.module_load, "cuModuleLoadData");
    bind(d.module_function, "cuModuleGetFunction");
    bind(d.module_unload, "cuModuleUnload");
    bind(d.function_attribute, "cuFuncSetAttribute");
    bind(d.launch, "cuLaunchKernel");
    bind(d.stream_create, "cuStreamCreate");
    bind(d.stream_destroy, "cuStreamDestroy_v2");
    bind(d.stream_synchronize, "cuStreamSynchronize");
    bind(d.host_alloc, "cuMemHostAlloc");
    bind(d.host_free, "cuMemFreeHost");
    bind(d.event_create, "cuEventCreate");
    bind(d.event_destroy, "cuEventDestroy_v2");
    bind(d.event_record, "cuEventRecord");
    bind(d.event_synchronize, "cuEventSynchronize");
    bind(d.stream_wait, "cuStreamWaitEvent");
    bind(d.graph_create, "cuGraphCreate");
    bind(d.add_kernel, "cuGraphAddKernelNode_v2");
    bind(d.add_copy, "cuGraphAddMemcpyNode");
    bind(d.add_fill, "cuGraphAddMemsetNode");
    bind(d.instantiate, "cuGraphInstantiateWithFlags");
    bind(d.graph_launch, "cuGraphLaunch");
    bind(d.graph_destroy, "cuGraphDestroy");
    bind(d.graph_exec_destroy, "cuGraphExecDestroy");
    bind(d.error_string, "cuGetErrorString");
    return d;
  }();
  return table;
}

void want(Status status, const char* call) {
  if (status == 0) return;
  const char* text = "unknown error";
  driver().error_string(status, &text);
  if (status == 100) throw Error(Code::no_driver, "the NVIDIA driver finds no GPU").with_help("use --device cpu; CUDA_VISIBLE_DEVICES may hide the GPUs");
  if (status == 2) throw Error(Code::out_of_memory, fmt::format("CUDA: {} failed: {}", call, text)).with_help("use a smaller batch or smaller layers, or free the GPU");
  throw Error(Code::cuda_failed, fmt::format("CUDA: {} failed: {}", call, text)).with_help("`quern doctor` lists driver and GPUs; --device cpu needs neither");
}

Ptr raw(DevicePtr p) { return reinterpret_cast<Ptr>(p); }

class CudaImage : public LoadedImage {
 public:
  explicit CudaImage(const KernelImage& image) {
    want(driver().module_load(&module_, image.code.data()), "cuModuleLoadData");
    want(driver().module_function(&function, module_, image.name.c_str()), "cuModuleGetFunction");
    constexpr int kMaxDynamicShared = 8;
    if (image.shared_bytes > (48 << 10)) want(driver().function_attribute(function, kMaxDynamicShared, static_cast<int>(image.shared_bytes)), "cuFuncSetAttribute");
  }
  ~CudaImage() override { driver().module_unload(module_); }
  Handle function = nullptr;

 private:
  Handle module_ = nullptr;
};

/// A graph under construction and then its executable form, destroyed with the last copy of its replay function.
class Recording {
 public:
  Recording() { want(driver().graph_create(&graph_, 0), "cuGraphCreate"); }
  ~Recording() {
    if (executable) driver().graph_exec_destroy(executable);
    driver().graph_destroy(graph_);
  }
  Recording(const Recording&) = delete;
  Handle executable = nullptr;

  /// `add(graph, dependencies, count, &node)` adds the node that touches `operands`.
  template <class Add>
  void add(const std::vector<MemoryRange>& operands, Add&& add) {
    std::vector<char> wanted(nodes_.size()), covered(nodes_.size());
    for (const Access& a : accesses_)
      for (const MemoryRange& o : operands)
        if ((a.written || o.written) && a.begin < raw(o.ptr) + static_cast<Ptr>(o.bytes) && raw(o.ptr) < a.end) wanted[a.node] = 1;
    // What a later dependency waits for already needs no edge of its own.
    std::vector<Handle> dependencies;
    std::vector<char> ancestors(nodes_.size() + 1);
    for (size_t n = nodes_.size(); n-- > 0;) {
      if (!wanted[n]) continue;
      ancestors[n] = 1;
      for (size_t m = 0; m < n; ++m) ancestors[m] = ancestors[m] || ancestors_[n][m];
      if (!covered[n]) dependencies.push_back(nodes_[n]);
      for (size_t m = 0; m < n; ++m) covered[m] = covered[m] || ancestors_[n][m];
    }
    Handle node = nullptr;
    add(graph_, dependencies.data(), dependencies.size(), &node);
    for (const MemoryRange& o : operands)
      if (o.bytes > 0) accesses_.push_back({raw(o.ptr), raw(o.ptr) + static_cast<Ptr>(o.bytes), nodes_.size(), o.written});
    nodes_.push_back(node);
    ancestors_.push_back(std::move(ancestors));
  }
  void instantiate() {
    want(driver().instantiate(&executable, graph_, 0), "cuGraphInstantiate");
    accesses_.clear();
    ancestors_.clear();
  }

 private:
  struct Access { Ptr begin, end; size_t node; bool written; };
  Handle graph_ = nullptr;
  std::vector<Handle> nodes_;
  std::vector<Access> accesses_;
  std::vector<std::vector<char>> ancestors_;   // of each node: which earlier ones it waits for
};

/// Pinned host memory in front of one input slot.
struct Staging {
  void* host = nullptr;
  Handle copied = nullptr;   // event: the last copy out of `host` is over
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal)
      : ordinal_(ordinal),
        pool_([](int64_t n) -> void* {
          Ptr p = 0;
          return driver().alloc(&p, static_cast<size_t>(n)) == 0 ? reinterpret_cast<void*>(p) : nullptr;
        }, [](void* p) { driver().free(raw(p)); }),
        pinned_([](int64_t n) -> void* {
          void* p = nullptr;
          return driver().host_alloc(&p, static_cast<size_t>(n), 0) == 0 ? p : nullptr;
        }, [](void* p) { driver().host_free(p); }) {
    want(driver().init(0), "cuInit");
    int count = 0;
    want(driver().device_count(&count), "cuDeviceGetCount");
    if (ordinal < 0 || ordinal >= count) throw Error(Code::no_driver, fmt::format("there is no GPU {}; this machine has {}", ordinal, count)).with_help("use --device cpu");
    want(driver().device_get(&device_, ordinal), "cuDeviceGet");
    want(driver().attribute(&major_, 75, device_), "cuDeviceGetAttribute");
    want(driver().attribute(&minor_, 76, device_), "cuDeviceGetAttribute");
    want(driver().retain(&context_, device_), "cuDevicePrimaryCtxRetain");
    want(driver().set_current(context_), "cuCtxSetCurrent");
    for (Handle* stream : {&stream_, &uploads_}) want(driver().stream_create(stream, 1), "cuStreamCreate");
    for (int set = 0; set < kSets; ++set)
      for (Handle* event : {&uploaded_[set], &finished_[set]}) want(driver().event_create(event, kNoTiming), "cuEventCreate");
  }
  ~CudaDevice() override {
    driver().stream_synchronize(stream_);
    for (auto& [ptr, staging] : staging_) driver().event_destroy(staging.copied);
    for (int set = 0; set < kSets; ++set)
      for (Handle event : {uploaded_[set], finished_[set]}) driver().event_destroy(event);
    for (Handle stream : {uploads_, stream_}) driver().stream_destroy(stream);
  }

  std::string name() const override { return fmt::format("cuda:{}", ordinal_); }
  Target target() const override {
    if (major_ == 9) return {TargetKind::cuda, "sm_90a"};
    if (major_ == 8) return {TargetKind::cuda, "sm_80"};
    if (major_ == 7 && minor_ == 5) return {TargetKind::cuda, "sm_75"};
    throw Error(Code::unsupported_machine, fmt::format("GPUs of compute capability {}.{} are not supported yet", major_, minor_)).with_help("use --device cpu");
  }
  DevicePtr alloc(int64_t bytes) override { return pool_.alloc(bytes); }
  void free(DevicePtr ptr) override {
    if (const auto it = staging_.find(ptr); it != staging_.end()) {
      driver().event_synchronize(it->second.copied);
      driver().event_destroy(it->second.copied);
      pinned_.free(it->second.host);
      staging_.erase(it);
    }
    pool_.free(ptr);
  }
  PoolStatistics statistics() const override { return pool_.statistics(); }
  PoolStatistics staging_statistics() const override { return pinned_.statistics(); }
  void upload(DevicePtr to, const void* from, int64_t bytes) override {
    if (!bytes) return;
    want(driver().upload(raw(to), from, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
    wait();   // the caller may change `from` at once
  }
  int input_sets() const override { return kSets; }
  void stage(DevicePtr to, int64_t capacity, const void* from, int64_t bytes, int set) override {
    if (!bytes) return;
    Staging& s = staging_[to];
    if (!s.host) {
      s.host = pinned_.alloc(capacity);
      want(driver().event_create(&s.copied, kNoTiming), "cuEventCreate");
    } else {
      want(driver().event_synchronize(s.copied), "cuEventSynchronize");
    }
    std::memcpy(s.host, from, static_cast<size_t>(bytes));
    want(driver().stream_wait(uploads_, finished_[set], 0), "cuStreamWaitEvent");   // the last run that read this set
    want(driver().upload(raw(to), s.host, static_cast<size_t>(bytes), uploads_), "cuMemcpyHtoDAsync");
    want(driver().event_record(s.copied, uploads_), "cuEventRecord");
    staged_ = true;
  }
  void begin_run(int set) override {
    if (!staged_) return;
    want(driver().event_record(uploaded_[set], uploads_), "cuEventRecord");
    want(driver().stream_wait(stream_, uploaded_[set], 0), "cuStreamWaitEvent");
    staged_ = false;
  }
  void end_run(int set) override { want(driver().event_record(finished_[set], stream_), "cuEventRecord"); }
  void download(void* to, DevicePtr from, int64_t bytes) override {
    if (bytes) want(driver().download(to, raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync");
    wait();
  }
  void copy(DevicePtr to, DevicePtr from, int64_t bytes) override {
    if (!bytes) return;
    if (!recording_) return want(driver().copy(raw(to), raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
    CopyNode node{};
    node.from.memory = node.to.memory = kDeviceMemory;
    node.from.device = raw(from), node.to.device = raw(to);
    node.width = static_cast<size_t>(bytes), node.height = node.depth = 1;
    recording_->add({{from, bytes, false}, {to, bytes, true}}, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) {
      want(driver().add_copy(out, graph, dependencies, n, &node, context_), "cuGraphAddMemcpyNode");
    });
  }
  void fill(DevicePtr at, uint8_t byte, int64_t bytes) override {
    if (!bytes) return;
    if (!recording_) return want(driver().fill(raw(at), byte, static_cast<size_t>(bytes), stream_), "cuMemsetD8Async");
    const FillNode node{raw(at), 0, byte, 1, static_cast<size_t>(bytes), 1};
    recording_->add({{at, bytes, true}}, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) {
      want(driver().add_fill(out, graph, dependencies, n, &node, context_), "cuGraphAddMemsetNode");
    });
  }
  std::unique_ptr<LoadedImage> load(const KernelImage& image) override { return std::make_unique<CudaImage>(image); }
  void launch(const LoadedImage& image, const KernelImage& kernel, const std::vector<MemoryRange>& operands, int64_t size) override {
    const Handle function = static_cast<const CudaImage&>(image).function;
    const unsigned blocks = static_cast<unsigned>(kernel.grid_at(size)), threads = static_cast<unsigned>(kernel.threads), shared = static_cast<unsigned>(kernel.shared_bytes);
    std::vector<DevicePtr> values;
    std::vector<void*> params;
    for (const MemoryRange& o : operands) values.push_back(o.ptr);
    for (DevicePtr& p : values) params.push_back(&p);
    params.push_back(&size);   // of kernels with a symbol
    if (!recording_) return want(driver().launch(function, blocks, 1, 1, threads, 1, 1, shared, stream_, params.data(), nullptr), "cuLaunchKernel");
    const KernelNode node{function, {blocks, 1, 1}, {threads, 1, 1}, shared, params.data(), nullptr, nullptr, nullptr};
    recording_->add(operands, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) {
      want(driver().add_kernel(out, graph, dependencies, n, &node), "cuGraphAddKernelNode");
    });
  }
  std::function<void()> record(std::function<void()> body) override {
    auto recording = std::make_shared<Recording>();
    recording_ = recording.get();
    try {
      body();
    } catch (...) {
      recording_ = nullptr;
      throw;
    }
    recording_ = nullptr;
    recording->instantiate();
    return [this, recording] { want(driver().graph_launch(recording->executable, stream_), "cuGraphLaunch"); };
  }
  void synchronize() override {
    want(driver().stream_synchronize(uploads_), "cuStreamSynchronize");
    wait();
  }

 private:
  void wait() { want(driver().stream_synchronize(stream_), "cuStreamSynchronize"); }   // not for batches on their way
  int ordinal_, device_ = 0, major_ = 0, minor_ = 0;
  static constexpr int kSets = 2;
  static constexpr unsigned kNoTiming = 2;
  Pool pool_, pinned_;
  Handle context_ = nullptr, stream_ = nullptr, uploads_ = nullptr;
  Handle uploaded_[kSets] = {}, finished_[kSets] = {};   // events
  bool staged_ = false;                                  // something was staged since the last run
  std::map<DevicePtr, Staging> staging_;                 // by input slot
  Recording* recording_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(int ordinal) { return std::make_unique<CudaDevice>(ordinal); }

}  // namespace quern
