// See driver.h.
#include "runtime/cuda/driver.h"

#include <dlfcn.h>

#include <fmt/format.h>

namespace quern::cuda_driver {

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
    bind(d.copy_rows, "cuMemcpy2DAsync_v2");
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
    bind(d.instantiate, "cuGraphInstantiateWithFlags");
    bind(d.graph_launch, "cuGraphLaunch");
    bind(d.graph_destroy, "cuGraphDestroy");
    bind(d.graph_exec_destroy, "cuGraphExecDestroy");
    bind(d.error_string, "cuGetErrorString");
    const auto try_bind = [&](auto& function, const char* name) { function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name)); };
    try_bind(d.add_edges, "cuGraphAddDependencies_v2");
    try_bind(d.condition_create, "cuGraphConditionalHandleCreate");
    try_bind(d.add_node, "cuGraphAddNode_v2");
    try_bind(d.encode_map, "cuTensorMapEncodeTiled");
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

}  // namespace quern::cuda_driver
