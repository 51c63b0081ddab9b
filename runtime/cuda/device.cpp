// See device.h. A GPU's primary context, one stream for work and one for uploads; a recorded step is one CUDA graph (recording.h), in
// which a while_loop and the branches of a cond are conditional nodes: the GPU reads their flags.
#include "runtime/cuda/device.h"

#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "runtime/cuda/recording.h"
#include "runtime/pool.h"

namespace quern {

using namespace cuda_driver;

namespace {

/// A GPU's primary context, held. Each operation of a device enters it first: a thread has one context at a time, and
/// there may be several GPUs and threads.
class Context {
 public:
  explicit Context(int ordinal) {
    want(driver().init(0), "cuInit");
    int count = 0;
    want(driver().device_count(&count), "cuDeviceGetCount");
    if (ordinal < 0 || ordinal >= count) throw Error(Code::no_driver, fmt::format("there is no GPU {}; this machine has {}", ordinal, count)).with_help("use --device cpu");
    want(driver().device_get(&device, ordinal), "cuDeviceGet");
    want(driver().retain(&handle, device), "cuDevicePrimaryCtxRetain");
  }
  ~Context() { driver().release(device); }
  Context(const Context&) = delete;
  Status try_enter() const { return driver().set_current(handle); }
  void enter() const { want(try_enter(), "cuCtxSetCurrent"); }
  int device = 0;
  Handle handle = nullptr;
};

// What an allocation gave: null where memory is out, so that the pool gives back what is idle and tries again.
void* memory(Status status, void* p, const char* call) {
  constexpr Status kOutOfMemory = 2;
  if (status == kOutOfMemory) return nullptr;
  want(status, call);
  return p;
}

class CudaImage : public LoadedImage {
 public:
  CudaImage(const Context& context, const KernelImage& image) : context_(context) {
    context_.enter();
    Handle module = nullptr;
    want(driver().module_load(&module, image.code.data()), "cuModuleLoadData");
    module_.reset(module);
    want(driver().module_function(&function, module, image.name.c_str()), "cuModuleGetFunction");
    constexpr int kMaxDynamicShared = 8, kAnyCluster = 14;
    constexpr int64_t kPortableCluster = 8;
    if (image.shared_bytes > (48 << 10)) want(driver().function_attribute(function, kMaxDynamicShared, static_cast<int>(image.shared_bytes)), "cuFuncSetAttribute");
    if (image.cluster > kPortableCluster) want(driver().function_attribute(function, kAnyCluster, 1), "cuFuncSetAttribute");
  }
  ~CudaImage() override { context_.try_enter(); }
  Handle function = nullptr;

 private:
  const Context& context_;
  std::unique_ptr<void, Status (*)(Handle)> module_{nullptr, driver().module_unload};
};

// What sets the condition of a node to a flag in memory, or to its opposite. The driver provides the function.
constexpr const char* kSetCondition = R"(.version 8.0
.target sm_75
.address_size 64
.extern .func cudaGraphSetConditional(.param .b64 condition, .param .b32 value);
.visible .entry quern_set_condition(.param .u64 condition, .param .u64 flag, .param .u32 opposite)
{
  .reg .b64 %c, %f;
  .reg .b32 %v, %o;
  ld.param.u64 %c, [condition];
  ld.param.u64 %f, [flag];
  ld.param.u32 %o, [opposite];
  cvta.to.global.u64 %f, %f;
  ld.global.u8 %v, [%f];
  xor.b32 %v, %v, %o;
  {
    .param .b64 a;
    .param .b32 b;
    st.param.b64 [a], %c;
    st.param.b32 [b], %v;
    call.uni cudaGraphSetConditional, (a, b);
  }
  ret;
}
)";

/// Pinned host memory in front of one input slot.
struct Staging {
  using Owned = std::unique_ptr<void, std::function<void(void*)>>;
  Owned host;
  Owned copied;   // event: the last copy out of `host` is over
};

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal)
      : context_(ordinal), ordinal_(ordinal),
        pool_([](int64_t n) {
          Ptr p = 0;
          const Status status = driver().alloc(&p, static_cast<size_t>(n));
          return memory(status, reinterpret_cast<void*>(p), "cuMemAlloc");
        }, [](void* p) { driver().free(raw(p)); }),
        pinned_([](int64_t n) {
          void* p = nullptr;
          const Status status = driver().host_alloc(&p, static_cast<size_t>(n), 0);
          return memory(status, p, "cuMemHostAlloc");
        }, [](void* p) { driver().host_free(p); }) {
    want(driver().attribute(&major_, 75, context_.device), "cuDeviceGetAttribute");
    want(driver().attribute(&minor_, 76, context_.device), "cuDeviceGetAttribute");
    want(driver().attribute(&multiprocessors_, 16, context_.device), "cuDeviceGetAttribute");
    context_.enter();
    for (Handle* stream : {&stream_, &uploads_}) want(driver().stream_create(stream, 1), "cuStreamCreate");
    for (int set = 0; set < kSets; ++set)
      for (Handle* event : {&uploaded_[set], &finished_[set]}) want(driver().event_create(event, kNoTiming), "cuEventCreate");
  }
  ~CudaDevice() override {
    context_.try_enter();   // which lasts until the members are gone
    for (Handle stream : {uploads_, stream_}) driver().stream_synchronize(stream);
    if (conditions_) driver().module_unload(conditions_);
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
  DevicePtr alloc(int64_t bytes) override {
    context_.enter();
    return pool_.alloc(bytes);
  }
  void free(DevicePtr ptr) override {
    context_.try_enter();
    if (const auto it = staging_.find(ptr); it != staging_.end()) {
      driver().event_synchronize(it->second.copied.get());
      staging_.erase(it);
    }
    pool_.free(ptr);
  }
  PoolStatistics statistics() const override { return pool_.statistics(); }
  PoolStatistics staging_statistics() const override { return pinned_.statistics(); }
  void upload(DevicePtr to, const void* from, int64_t bytes) override {
    if (!bytes) return;
    context_.enter();
    want(driver().upload(raw(to), from, static_cast<size_t>(bytes), stream_), "cuMemcpyHtoDAsync");
    wait();   // the caller may change `from` at once
  }
  int input_sets() const override { return kSets; }
  void stage(DevicePtr to, int64_t capacity, const void* from, const Rows& rows, int set) override {
    const int64_t bytes = rows.count * rows.bytes;
    if (!bytes) return;
    context_.enter();
    auto it = staging_.find(to);
    if (it == staging_.end()) {   // both or none
      Staging made{{pinned_.alloc(capacity), [this](void* p) { pinned_.free(p); }}, {nullptr, [](void* e) { driver().event_destroy(e); }}};
      Handle event = nullptr;
      want(driver().event_create(&event, kNoTiming), "cuEventCreate");
      made.copied.reset(event);
      it = staging_.emplace(to, std::move(made)).first;
    } else {
      want(driver().event_synchronize(it->second.copied.get()), "cuEventSynchronize");
    }
    void* const host = it->second.host.get();
    std::memcpy(host, from, static_cast<size_t>(bytes));
    want(driver().stream_wait(uploads_, finished_[set], 0), "cuStreamWaitEvent");   // the last run that read this set
    if (rows.count == 1) {
      want(driver().upload(raw(to), host, static_cast<size_t>(bytes), uploads_), "cuMemcpyHtoDAsync");
    } else {
      const RowsCopy copy{on_host(host, rows), on_device(to, rows), static_cast<size_t>(rows.bytes), static_cast<size_t>(rows.count)};
      want(driver().copy_rows(&copy, uploads_), "cuMemcpy2DAsync");
    }
    want(driver().event_record(it->second.copied.get(), uploads_), "cuEventRecord");
    staged_ = true;
  }
  void begin_run(int set) override {
    if (!staged_) return;
    context_.enter();
    want(driver().event_record(uploaded_[set], uploads_), "cuEventRecord");
    want(driver().stream_wait(stream_, uploaded_[set], 0), "cuStreamWaitEvent");
    staged_ = false;
  }
  void end_run(int set) override {
    context_.enter();
    want(driver().event_record(finished_[set], stream_), "cuEventRecord");
  }
  void download(void* to, DevicePtr from, int64_t bytes) override {
    context_.enter();
    if (bytes) want(driver().download(to, raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoHAsync");
    wait();
  }
  void download_rows(void* to, DevicePtr from, const Rows& rows) override {
    if (rows.count <= 1 || !rows.bytes) return download(to, from, rows.span());
    context_.enter();
    const RowsCopy copy{on_device(from, rows), on_host(to, rows), static_cast<size_t>(rows.bytes), static_cast<size_t>(rows.count)};
    want(driver().copy_rows(&copy, stream_), "cuMemcpy2DAsync");
    wait();
  }
  void copy(DevicePtr to, DevicePtr from, int64_t bytes) override {
    if (!bytes) return;
    if (touched_) return note({{from, bytes, false}, {to, bytes, true}});
    context_.enter();
    if (!recording_) return want(driver().copy(raw(to), raw(from), static_cast<size_t>(bytes), stream_), "cuMemcpyDtoDAsync");
    CopyNode node{};
    node.from.memory = node.to.memory = kDeviceMemory;
    node.from.device = raw(from), node.to.device = raw(to);
    node.width = static_cast<size_t>(bytes), node.height = node.depth = 1;
    recording_->add({{from, bytes, false}, {to, bytes, true}}, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) {
      want(driver().add_copy(out, graph, dependencies, n, &node, context_.handle), "cuGraphAddMemcpyNode");
    });
  }
  std::unique_ptr<LoadedImage> load(const KernelImage& image) override { return std::make_unique<CudaImage>(context_, image); }
  void launch(const LoadedImage& image, const KernelImage& kernel, const std::vector<MemoryRange>& operands, int64_t size) override {
    std::vector<MemoryRange> touched = operands;
    if (kernel.alone) touched.push_back({const_cast<LoadedImage*>(&image), 1, true});   // for what the module has: no operand lies there
    if (touched_) return note(touched);
    context_.enter();
    const Handle function = static_cast<const CudaImage&>(image).function;
    int64_t grid = kernel.grid_at(size);
    if (kernel.resident) grid = std::min<int64_t>(grid, kernel.resident * multiprocessors_);
    const unsigned blocks = static_cast<unsigned>(grid), threads = static_cast<unsigned>(kernel.threads), shared = static_cast<unsigned>(kernel.shared_bytes);
    std::vector<DevicePtr> values;
    std::vector<void*> params;
    for (const MemoryRange& o : operands) values.push_back(o.ptr);
    for (DevicePtr& p : values) params.push_back(&p);
    params.push_back(&size);   // of kernels with a symbol
    std::vector<EncodedMap> maps;
    for (const TensorMap& m : kernel.maps) maps.push_back(encoded(m, operands.at(static_cast<size_t>(m.operand)).ptr, size));
    for (EncodedMap& m : maps) params.push_back(&m);
    if (!recording_) return want(driver().launch(function, blocks, 1, 1, threads, 1, 1, shared, stream_, params.data(), nullptr), "cuLaunchKernel");
    const KernelNode node{function, {blocks, 1, 1}, {threads, 1, 1}, shared, params.data(), nullptr, nullptr, nullptr};
    recording_->add(touched, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) { want(driver().add_kernel(out, graph, dependencies, n, &node), "cuGraphAddKernelNode"); }, kernel.waits && driver().add_edges ? Begins::beside : Begins::behind);
  }
  void repeat_while(DevicePtr flag, const std::function<void()>& body) override { conditional(kWhile, flag, false, body); }
  void branch(DevicePtr flag, const std::function<void()>& yes, const std::function<void()>& no) override {
    conditional(kIf, flag, false, yes);
    conditional(kIf, flag, true, no);
  }
  std::function<void()> record(std::function<void()> body) override {
    context_.enter();
    auto recording = std::make_shared<Recording>();
    during(recording_, recording.get(), body);
    recording->instantiate();
    return [this, recording] {
      context_.enter();
      want(driver().graph_launch(recording->executable, stream_), "cuGraphLaunch");
    };
  }
  void synchronize() override {
    context_.enter();
    want(driver().stream_synchronize(uploads_), "cuStreamSynchronize");
    wait();
  }

 private:
  void wait() { want(driver().stream_synchronize(stream_), "cuStreamSynchronize"); }   // not for batches on their way
  static RowsSide on_host(const void* p, const Rows& rows) { return {0, 0, kHostMemory, p, 0, nullptr, static_cast<size_t>(rows.bytes)}; }
  static RowsSide on_device(DevicePtr p, const Rows& rows) { return {0, 0, kDeviceMemory, nullptr, raw(p), nullptr, static_cast<size_t>(rows.pitch)}; }
  // What is set while `body` runs is as before behind it, also where it throws.
  template <class T>
  static void during(T*& pointer, T* value, const std::function<void()>& body) {
    struct Restore {
      T*& pointer;
      T* before;
      ~Restore() { pointer = before; }
    } restore{pointer, std::exchange(pointer, value)};
    body();
  }
  // A tensor map as the driver wants it: dims innermost first, the last stride is one element.
  static EncodedMap encoded(const TensorMap& m, DevicePtr operand, int64_t size) {
    if (!driver().encode_map) throw Error(Code::no_driver, "this NVIDIA driver is too old: it lacks cuTensorMapEncodeTiled").with_help("update it to 12.0 or later, or use --device cpu");
    constexpr int kByte = 0, kFloat16 = 6, kFloat32 = 7, kBfloat16 = 9, kTensorFloat32 = 11, kSwizzle32 = 1, kPromote256 = 3;
    const DType dtype = static_cast<DType>(m.dtype);
    unsigned long long extents[TensorMap::kMostDims] = {}, strides[TensorMap::kMostDims] = {};
    unsigned box[TensorMap::kMostDims] = {}, steps[TensorMap::kMostDims] = {};
    for (int64_t d = 0; d < m.rank; ++d) {
      const int64_t from = m.rank - 1 - d;
      extents[d] = static_cast<unsigned long long>(m.symbol && m.along == from ? std::min(m.symbol * size, m.extents[from]) : m.extents[from]);
      box[d] = static_cast<unsigned>(m.box[from]);
      steps[d] = 1;
      if (d > 0) strides[d - 1] = static_cast<unsigned long long>(m.strides[from]);
    }
    EncodedMap out;
    const int type = dtype == DType::bf16 ? kBfloat16 : dtype == DType::f16 ? kFloat16
                                                    : size_of(dtype) == 1   ? kByte
                                                    : m.rounded             ? kTensorFloat32
                                                                            : kFloat32;
    const int swizzle = m.row_bytes > 128 ? 0 : m.row_bytes == 128 ? kSwizzle32 + 2
                                            : m.row_bytes == 64    ? kSwizzle32 + 1
                                                                   : kSwizzle32;
    want(driver().encode_map(&out, type, static_cast<unsigned>(m.rank), operand, extents, strides, box, steps, 0, swizzle, kPromote256, 0), "cuTensorMapEncodeTiled");
    return out;
  }
  // Kernels and copies that are only listed: what a body will touch must be known before its node is there.
  void note(const std::vector<MemoryRange>& operands) { touched_->insert(touched_->end(), operands.begin(), operands.end()); }
  size_t set_condition(Ptr condition, DevicePtr flag, bool opposite) {
    unsigned other = opposite;
    void* params[] = {&condition, &flag, &other};
    const KernelNode node{set_condition_, {1, 1, 1}, {1, 1, 1}, 0, params, nullptr, nullptr, nullptr};
    return recording_->add({{flag, 1, false}}, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) {
      want(driver().add_kernel(out, graph, dependencies, n, &node), "cuGraphAddKernelNode");
    });
  }
  void conditional(int type, DevicePtr flag, bool opposite, const std::function<void()>& body) {
    QN_CHECK(recording_, "loops and branches are recorded");
    if (touched_) {
      note({{flag, 1, false}});
      return body();
    }
    if (!driver().condition_create || !driver().add_node) throw Error(Code::no_driver, "this NVIDIA driver is too old for while_loop and cond: it has no conditional graph nodes").with_help("update it to 12.4 or later, or use --device cpu");
    if (!conditions_) {
      want(driver().module_load(&conditions_, kSetCondition), "cuModuleLoadData");
      want(driver().module_function(&set_condition_, conditions_, "quern_set_condition"), "cuModuleGetFunction");
    }
    std::vector<MemoryRange> touched = {{flag, 1, false}};
    during(touched_, &touched, body);
    ConditionalNode node;
    node.type = type;
    node.context = context_.handle;
    want(driver().condition_create(&node.condition, recording_->graph(), context_.handle, 0, 0), "cuGraphConditionalHandleCreate");
    const size_t set = set_condition(node.condition, flag, opposite);
    recording_->add(touched, [&](Handle graph, const Handle* dependencies, size_t n, Handle* out) { want(driver().add_node(out, graph, dependencies, nullptr, n, &node), "cuGraphAddNode"); }, Begins::behind, set);
    Recording inner(node.bodies[0]);
    during(recording_, &inner, [&] {
      body();
      if (type == kWhile) set_condition(node.condition, flag, opposite);
      inner.finish();
    });
  }

  static constexpr int kIf = 0, kWhile = 1;
  Context context_;   // first: what else is here goes before it
  int ordinal_, major_ = 0, minor_ = 0, multiprocessors_ = 1;
  static constexpr int kSets = 2;
  static constexpr unsigned kNoTiming = 2;
  Pool pool_, pinned_;
  Handle stream_ = nullptr, uploads_ = nullptr;
  Handle uploaded_[kSets] = {}, finished_[kSets] = {};   // events
  bool staged_ = false;                                  // something was staged since the last run
  std::map<DevicePtr, Staging> staging_;                 // by input slot
  Recording* recording_ = nullptr;
  std::vector<MemoryRange>* touched_ = nullptr;
  Handle conditions_ = nullptr, set_condition_ = nullptr;   // module and function, loaded at the first use
};

}  // namespace

std::unique_ptr<Device> open_cuda_device(int ordinal) { return std::make_unique<CudaDevice>(ordinal); }

}  // namespace quern
