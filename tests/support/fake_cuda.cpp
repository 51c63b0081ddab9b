// An NVIDIA driver that computes nothing: device memory is host memory, copies copy, graphs keep their edges. It notes
// calls with the wrong context and what is freed or waited for, and fails when it is told to. See fake_cuda.h.
#include "tests/support/fake_cuda.h"

#include <cstdlib>
#include <cstring>

namespace {

using Handle = void*;
using Ptr = unsigned long long;
quern::test::FakeCuda state;
thread_local size_t current = 0;   // a context: 1 + GPU

void* made(size_t bytes) {
  void* p = std::malloc(bytes ? bytes : 1);
  state.owner[p] = current;
  state.foreign += current == 0;
  return p;
}
void used(const void* p) {
  if (p) state.foreign += !state.owner.count(p) || state.owner[p] != current;
}
void gone(void* p) {
  used(p);
  state.owner.erase(p);
  std::free(p);
}
void* at(Ptr p) { return reinterpret_cast<void*>(p); }

}  // namespace

extern "C" {

quern::test::FakeCuda* fake_cuda() { return &state; }

int cuInit(unsigned) { return 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetCount(int* n) { return *n = state.gpus, 0; }
int cuDeviceGetAttribute(int* value, int which, int) { return *value = which == 75 ? 9 : 0, 0; }   // compute capability 9.0
int cuDevicePrimaryCtxRetain(Handle* context, int device) { return *context = reinterpret_cast<Handle>(static_cast<size_t>(device) + 1), ++state.retained, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) {
  ++state.released;
  for (const auto& [p, context] : state.owner) state.released_early += context == static_cast<size_t>(device) + 1;
  return 0;
}
int cuCtxSetCurrent(Handle context) { return current = reinterpret_cast<size_t>(context), 0; }
int cuMemAlloc_v2(Ptr* p, size_t n) {
  if (state.alloc_status) return state.alloc_status;
  return *p = reinterpret_cast<Ptr>(made(n)), 0;
}
int cuMemFree_v2(Ptr p) { return state.log.push_back("free"), gone(at(p)), 0; }
int cuMemHostAlloc(void** p, size_t n, unsigned) {
  if (state.pinned_status) return state.pinned_status;
  return *p = made(n), 0;
}
int cuMemFreeHost(void* p) { return gone(p), 0; }
int cuMemcpyHtoDAsync_v2(Ptr to, const void* from, size_t n, Handle stream) { return used(stream), std::memcpy(at(to), from, n), 0; }
int cuMemcpyDtoHAsync_v2(void* to, Ptr from, size_t n, Handle stream) { return used(stream), std::memcpy(to, at(from), n), 0; }
int cuMemcpyDtoDAsync_v2(Ptr to, Ptr from, size_t n, Handle stream) { return used(stream), state.log.push_back("copy"), std::memmove(at(to), at(from), n), 0; }
int cuMemcpy2DAsync_v2(const void*, Handle stream) { return used(stream), 0; }
int cuModuleLoadData(Handle* module, const void*) { return *module = made(1), 0; }
int cuModuleGetFunction(Handle* function, Handle module, const char*) { return used(module), *function = module, 0; }
int cuModuleUnload(Handle module) { return gone(module), 0; }
int cuTensorMapEncodeTiled(void*, int, unsigned rank, void* memory, const unsigned long long* extents, const unsigned long long*, const unsigned* box, const unsigned*, int, int, int, int) {
  used(memory);
  return state.log.push_back("map of " + std::to_string(extents[0]) + " by " + std::to_string(box[0]) + (rank > 1 ? " and more" : "")), 0;
}
int cuFuncSetAttribute(Handle, int, int) { return 0; }
int cuLaunchKernel(Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle stream, void**, void**) { return used(stream), state.log.push_back("launch"), 0; }
int cuStreamCreate(Handle* stream, unsigned) {
  *stream = made(1);
  state.streams.emplace(*stream, static_cast<int>(state.streams.size()));
  return 0;
}
int cuStreamDestroy_v2(Handle stream) { return gone(stream), 0; }
int cuStreamSynchronize(Handle stream) { return used(stream), state.log.push_back("sync " + std::to_string(state.streams[stream])), 0; }
int cuStreamWaitEvent(Handle stream, Handle event, unsigned) { return used(stream), used(event), 0; }
int cuEventCreate(Handle* event, unsigned) { return *event = made(1), 0; }
int cuEventDestroy_v2(Handle event) { return gone(event), 0; }
int cuEventRecord(Handle event, Handle stream) { return used(event), used(stream), 0; }
int cuEventSynchronize(Handle event) { return used(event), 0; }
int cuGraphCreate(Handle* graph, unsigned) { return *graph = made(1), state.edges.clear(), state.beside.clear(), 0; }
int cuGraphDestroy(Handle graph) { return gone(graph), 0; }
static int add_node(Handle* out, const Handle* dependencies, size_t n) {
  if (state.node_status) return state.node_status;
  state.edges.emplace_back();
  state.beside.emplace_back();
  for (size_t i = 0; i < n; ++i) state.edges.back().push_back(reinterpret_cast<size_t>(dependencies[i]) - 1);
  *out = reinterpret_cast<Handle>(state.edges.size());
  return 0;
}
int cuGraphAddKernelNode_v2(Handle* out, Handle, const Handle* dependencies, size_t n, const void*) { return add_node(out, dependencies, n); }
int cuGraphAddMemcpyNode(Handle* out, Handle, const Handle* dependencies, size_t n, const void*, Handle) { return add_node(out, dependencies, n); }
int cuGraphAddDependencies_v2(Handle, const Handle* from, const Handle* to, const unsigned char* kinds, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const bool beside = kinds[8 * i] == 1;
    if (kinds[8 * i] > 1 || kinds[8 * i + 1] != 0 || kinds[8 * i + 2] != beside) return 1;
    const size_t node = reinterpret_cast<size_t>(to[i]) - 1, other = reinterpret_cast<size_t>(from[i]) - 1;
    state.edges[node].push_back(other);
    if (beside) state.beside[node].insert(other);
  }
  return 0;
}
int cuGraphInstantiateWithFlags(Handle* executable, Handle, unsigned long long) { return *executable = made(1), 0; }
int cuGraphLaunch(Handle executable, Handle stream) { return used(executable), used(stream), state.log.push_back("launch"), 0; }
int cuGraphExecDestroy(Handle executable) { return gone(executable), 0; }
int cuGetErrorString(int, const char** text) { return *text = "as the test wants", 0; }

}  // extern "C"
