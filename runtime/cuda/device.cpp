// See device.h. One context, one stream; a recorded step is one CUDA graph, captured from the stream once and replayed.
#include "runtime/cuda/device.h"

#include <dlfcn.h>

#include <fmt/format.h>

#include "runtime/pool.h"

namespace quern {
namespace {

using Status = int;
using Handle = void*;
using Ptr = unsigned long long;

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
  Status (*launch)(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**);
  Status (*stream_create)(Handle*, unsigned);
  Status (*stream_destroy)(Handle);
  Status (*stream_synchronize)(Handle);
  Status (*begin_capture)(Handle, int);
  Status (*end_capture)(Handle, Handle*);
  Status (*instantiate)(Handle*, Handle, unsigned long long);
  Status (*graph_launch)(Handle, Handle);
  Status (*graph_destroy)(Handle);
  Status (*graph_exec_destroy)(Handle);
  Status (*error_string)(Status, const char**);
};

const Driver& driver() {
  static const Driver table = [] {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) throw Error(ErrorKind::device, "no NVIDIA driver was found (libcuda.so.1); use --device cpu");
    Driver d{};
    const auto bind = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
      if (!function) throw Error(ErrorKind::device, fmt::format("this NVIDIA driver lacks {}; update it, or use --device cpu", name));
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
    bind(d.launch, "cuLaunchKernel");
    bind(d.stream_create, "cuStreamCreate");
    bind(d.stream_destroy, "cuStreamDestroy_v2");
    bind(d.stream_synchronize, "cuStreamSynchronize");
    bind(d.begin_capture, "cuStreamBeginCapture_v2");
    bind(d.end_capture, "cuStreamEndCapture");
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
  throw Error(status == 2 ? ErrorKind::memory : ErrorKind::device, fmt::format("CUDA: {} failed: {}", call, text));
}

Ptr raw(DevicePtr p) { return reinterpret_cast<Ptr>(p); }

class CudaImage : public LoadedImage {
 public:
  explicit CudaImage(const KernelImage& image) {
    want(driver().module_load(&module_, image.code.data()), "cuModuleLoadData");
    want(driver().module_function(&function, module_, image.name.c_str()), "cuModuleGetFunction");
  }
  ~CudaImage() override { driver().module_unload(module_); }
  Handle function = nullptr;

 private:
  Handle module_ = nullptr;
};

/// An instantiated graph, destroyed with the last copy of its replay function.
struct Recording {
  Handle graph = nullptr, executable = nullptr;
  ~Recording() {
    if (executable) driver().graph_exec_destroy(executable);
    if (graph) driver().graph_destroy(graph);
  }
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal)
      : ordinal_(ordinal),
        pool_([](int64_t n) -> void* {
          Ptr p = 0;
          return driver().alloc(&p, static_cast<size_t>(n)) == 0 ? reinterpret_cast<void*>(p) : nullptr;
        }, [](void* p) { driver().free(raw(p)); }) {
    want(driver().init(0), "cuInit");
    int count = 0;
    want(driver().device_count(&count), "cuDeviceGetCount");
    if (ordinal < 0 || ordinal >= count) throw Error(ErrorKind::device, fmt::format("there is no GPU {}; this machine has {}; use --device cpu", ordinal, count));
    want(driver().device_get(&device_, ordinal), "cuDeviceGet");
    want(driver().attribute(&major_, 75, device_), "cuDeviceGetAttribute");
    want(driver().attribute(&minor_, 76, device_), "cuDeviceGetAttribute");
    want(driver().retain(&context_, device_), "cuDevicePrimaryCtxRetain");
    want(driver().set_current(context_), "cuCtxSetCurrent");
    want(driver().stream_create(&stream_, 1), "cuStreamCreate");
  }
  ~CudaDevice() override { driver().stream_destroy(stream_); }

  std::string name() const override { return fmt::format("cuda:{}", ordinal_); }
  Target target() const override {
    if (major_ == 9) return {TargetKind::cuda, "sm_90a"};
    if (major_ == 8) return {TargetKind::cuda, "sm_80"};
    if (major_ == 7 && minor_ == 5) return {TargetKind::cuda, "sm_75"};
    throw Error(ErrorKind::device, fmt::format("GPUs of compute capability {}.{} are not supported yet; use --device cpu", major_, minor_));
  }
  DevicePtr alloc(int64_t bytes) override { return pool_.alloc(bytes); }
  void free(DevicePtr ptr) override { pool_.free(ptr); }
  PoolStatistics statistics() const override { return pool_.statistics(); }
  void upload(DevicePtr to, const void* from, int64_t bytes) override {
    if (bytes) want(driver().upload(raw(to), from, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
  }
  void download(void* to, DevicePtr from, int64_t bytes) override {
    if (bytes) want(driver().download(to, raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync");
    synchronize();
  }
  void copy(DevicePtr to, DevicePtr from, int64_t bytes) override {
    if (bytes) want(driver().copy(raw(to), raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
  }
  void fill(DevicePtr at, uint8_t byte, int64_t bytes) override {
    if (bytes) want(driver().fill(raw(at), byte, static_cast<size_t>(bytes), stream_), "cuMemsetD8Async");
  }
  std::unique_ptr<LoadedImage> load(const KernelImage& image) override { return std::make_unique<CudaImage>(image); }
  void launch(const LoadedImage& image, const KernelImage& kernel, const std::vector<DevicePtr>& operands) override {
    std::vector<DevicePtr> values = operands;
    std::vector<void*> params;
    for (DevicePtr& p : values) params.push_back(&p);
    want(driver().launch(static_cast<const CudaImage&>(image).function, static_cast<unsigned>(kernel.grid), 1, 1, static_cast<unsigned>(kernel.threads), 1, 1,
                         static_cast<unsigned>(kernel.shared_bytes), stream_, params.data(), nullptr), "cuLaunchKernel");
  }
  std::function<void()> record(std::function<void()> body) override {
    auto recording = std::make_shared<Recording>();
    want(driver().begin_capture(stream_, 2), "cuStreamBeginCapture");   // relaxed
    try {
      body();
    } catch (...) {
      driver().end_capture(stream_, &recording->graph);
      throw;
    }
    want(driver().end_capture(stream_, &recording->graph), "cuStreamEndCapture");
    want(driver().instantiate(&recording->executable, recording->graph, 0), "cuGraphInstantiate");
    return [this, recording] { want(driver().graph_launch(recording->executable, stream_), "cuGraphLaunch"); };
  }
  void synchronize() override { want(driver().stream_synchronize(stream_), "cuStreamSynchronize"); }

 private:
  int ordinal_, device_ = 0, major_ = 0, minor_ = 0;
  Pool pool_;
  Handle context_ = nullptr, stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(int ordinal) { return std::make_unique<CudaDevice>(ordinal); }

}  // namespace quern
