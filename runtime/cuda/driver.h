// The CUDA driver, found by dlopen: the functions that Quern calls, in a table.
#pragma once
#include <cstddef>

#include "runtime/device.h"

namespace quern::cuda_driver {

using Status = int;
using Handle = void*;
using Ptr = unsigned long long;

// As cuda.h declares them (CUDA_KERNEL_NODE_PARAMS_v2, CUDA_MEMCPY3D, CUDA_MEMCPY2D).
struct KernelNode {
  Handle function;
  unsigned grid[3], block[3], shared;
  void** params;
  void** extra;
  Handle kernel, context;
};
struct CopySide { size_t x, y, z, level; unsigned memory; void* host; Ptr device; Handle array; void* reserved; size_t pitch, height; };
struct CopyNode { CopySide from, to; size_t width, height, depth; };
struct RowsSide { size_t x, y; unsigned memory; const void* host; Ptr device; Handle array; size_t pitch; };
struct RowsCopy { RowsSide from, to; size_t width, height; };
constexpr unsigned kHostMemory = 1, kDeviceMemory = 2;

struct EdgeKind {
  unsigned char from = 0, to = 0, type = 0, reserved[5] = {};
};   // CUgraphEdgeData
constexpr EdgeKind kProgrammatic{1, 0, 1, {}};   // from where all blocks have ended, though what they wrote is not yet seen by all

struct alignas(64) EncodedMap { unsigned long long words[16]; };   // CUtensorMap

struct ConditionalNode {   // CUgraphNodeParams of a conditional node
  int kind = 13, reserved[3] = {};
  Ptr condition = 0;
  int type = 0;             // 0: if, 1: while
  unsigned size = 1;
  Handle* bodies = nullptr;  // set by the call
  Handle context = nullptr;
  long long rest[26] = {};
};
static_assert(sizeof(ConditionalNode) == 16 + 29 * 8 + 8);

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
  Status (*copy_rows)(const RowsCopy*, Handle);
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
  Status (*instantiate)(Handle*, Handle, unsigned long long);
  Status (*graph_launch)(Handle, Handle);
  Status (*graph_destroy)(Handle);
  Status (*graph_exec_destroy)(Handle);
  Status (*error_string)(Status, const char**);
  // Null in drivers before 12.3, where kernels begin when those that they need are done.
  Status (*add_edges)(Handle, const Handle*, const Handle*, const EdgeKind*, size_t);
  // Null in drivers before 12.4, where nothing else needs them.
  Status (*condition_create)(Ptr*, Handle, Handle, unsigned, unsigned);
  Status (*add_node)(Handle*, Handle, const Handle*, const void*, size_t, ConditionalNode*);
  // Null in drivers before 12.0.
  Status (*encode_map)(EncodedMap*, int, unsigned, void*, const unsigned long long*, const unsigned long long*, const unsigned*, const unsigned*, int, int, int, int);
};

/// Loads the library once. Throws Error(no_driver) where there is none or it is too old.
const Driver& driver();
/// Throws what a status other than 0 says of the call.
void want(Status status, const char* call);
inline Ptr raw(DevicePtr p) { return reinterpret_cast<Ptr>(p); }

}  // namespace quern::cuda_driver
