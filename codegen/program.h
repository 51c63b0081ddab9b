// Program: what a graph was compiled to, as plain data. No pointers, no IR, no LLVM: the runtime needs nothing else.
// A slot is a tensor's place: in the arena (temporaries, one allocation, offsets planned) or its own buffer (inputs,
// outputs, states, constants, what setup keeps). Setup runs before the first run behind a set_state of what it reads; its
// results lie in slots that no step writes. Steps run in order; a launch's operands are slots in the kernel's parameter order. Within
// a scan's loop a slot may be another place in each iteration; no step asks the host for a value.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

enum class TargetKind : uint8_t { cpu, cuda };
/// What is compiled for. cpu: arch is "avx512", "avx2" or "v128"; cuda: "sm_75", "sm_80", "sm_90a".
struct Target {
  TargetKind kind = TargetKind::cpu;
  std::string arch;
  bool operator==(const Target&) const = default;
};
std::string to_string(const Target& target);       // "cpu:avx512", "cuda:sm_90a"
/// Parses "cpu", "cpu:ARCH", "cuda", "cuda:ARCH"; a missing arch is this machine's (cuda: sm_90a). Throws Error(usage).
Target parse_target(const std::string& text);

/// How the bytes of a tensor lie: `count` rows of `bytes` each, `pitch` bytes apart. A tensor on the host has no gaps.
struct Rows {
  int64_t count, bytes, pitch;
  int64_t span() const { return count > 0 ? (count - 1) * pitch + bytes : 0; }   // from the first byte to the last
};

/// How the GPU copies boxes between an operand and shared memory: extents, strides in bytes and box by dim, outermost first;
/// rows in shared memory have 32, 64 or 128 bytes and are swizzled so wide; longer ones lie as they are.
struct TensorMap {
  static constexpr int64_t kMostDims = 5;
  int64_t operand = 0, dtype = 0, rank = 0, row_bytes = 0;
  int64_t rounded = 0;             // f32: to tf32, on the way to shared memory
  int64_t symbol = 0, along = 0;   // symbol > 0: of dim `along` so many times the size are there, and in `extents` as many as may be
  int64_t extents[kMostDims] = {}, strides[kMostDims] = {}, box[kMostDims] = {};
  bool operator==(const TensorMap&) const = default;
};

/// One compiled kernel. CPU: position-independent machine code, entry at `entry`, called as
/// void(void* const* buffers, void* scratch, int64_t begin, int64_t end, int64_t size) for grid instances [begin, end);
/// `size` is the symbol's value. CUDA: a cubin holding the function `name`, launched with grid_at(size) blocks of `threads`
/// threads, one pointer per operand, the size and the tensor maps.
struct KernelImage {
  std::string name;
  std::vector<uint8_t> code;
  int64_t entry = 0;
  int64_t grid = 1;              // instances (CPU) or blocks (CUDA), at the symbol's bound
  int64_t symbol = 0, tile = 1, others = 1;   // symbol > 0: the grid is others * ceil(symbol * size / tile)
  int64_t bound = 0;             // the greatest size it was made for; 0: any
  int64_t grid_at(int64_t size) const { return symbol ? others * ceil_div(symbol * size, tile) : grid; }
  int64_t threads = 1;           // CUDA: threads per block
  int64_t shared_bytes = 0;      // CUDA: dynamic shared memory
  int64_t resident = 0;          // CUDA: > 0: no more than so many blocks for each multiprocessor, which work the grid off
  int64_t cluster = 0;           // CUDA: > 0: the grid is one cluster of so many blocks
  int64_t waits = 0;             // CUDA: 1: may begin before the kernels that it needs are done: it waits for them itself
  int64_t alone = 0;             // CUDA: 1: it has memory that its launches share, so none begins before the one before is done
  std::vector<TensorMap> maps;   // CUDA: parameters after the size
  int64_t operands = 0, outputs = 0;   // of a launch; the last `outputs` of the operands are written
  int64_t scratch_bytes = 0;     // CPU: per thread
  double flops = 0, bytes = 0;   // of one launch, for reports
  std::string source;            // CUDA text or LLVM IR, for `dump`; may be empty
  std::string lines;             // "mlp.h:12, mlp.h:14"
};

// kept: by setup, for all runs
enum class SlotKind : uint8_t { input, output, state, constant, arena, kept };
struct Slot {
  SlotKind kind;
  DType dtype;
  Shape shape;
  std::string name;              // inputs, outputs, states
  int64_t offset = 0;            // arena: bytes from its start, 64-byte aligned; of a sub-range: bytes from the start of `parent`
  int64_t symbol = 0;            // > 0: the extent of dim `along` is so many times the symbol, and the one in `shape` its bound: every size has its strides
  int64_t parent = -1;           // >= 0: this slot is a sub-range of that slot, which stands before it
  int64_t loop = -1;             // >= 0: in iteration t of that loop `stride` * ((first + step * t) mod entries) bytes further
  int64_t stride = 0, first = 0, step = 0, entries = 1;
  int64_t along = 0;
  HostTensor value;              // constant
  int64_t bytes() const { return checked_mul(count(shape), size_of(dtype)); }
  Shape shape_at(int64_t size) const;
  int64_t size_of_symbol(const Shape& given) const;   // that makes the symbolic extent what it is there; -1: none does
  Rows rows_at(int64_t size) const;
};

/// Kernels with the symbol are made for several bounds (`Program::bounds`), as many images as there are; others have one.
struct Launch { std::vector<int64_t> images, slots; };
struct Copy { int64_t from, to; };                 // whole slots of equal size
struct Step;
/// `id`: what slots call it. `symbol` > 0: there are so many times the symbol iterations, `count` at its bound.
struct Loop { int64_t id, count; std::vector<Step> steps; int64_t symbol = 0; bool backward = false; };   // from the last to iteration 0
struct While { int64_t flag; std::vector<Step> steps; };           // as long as the slot, a bool[], is true
struct Branch { int64_t flag; std::vector<Step> yes, no; };
struct Step : std::variant<Launch, Copy, Loop, While, Branch> {
  using variant::variant;
};
constexpr int kMaxNesting = 16;   // loops and branches inside each other
/// Calls f on every launch, also those in loops and branches.
void for_each_launch(const std::vector<Step>& steps, const std::function<void(const Launch&)>& f);

struct Program {
  Target target;
  std::string graph_text;        // the source graph
  std::vector<KernelImage> images;
  std::vector<Slot> slots;
  std::vector<int64_t> inputs, outputs, states;   // slots, in the graph's order; a state's slot is read and written
  std::vector<Step> setup, steps;   // setup reads states and constants alone: those that no run changes
  int64_t loops = 0;             // how many Loops there are, nested ones included
  int64_t size_low = 1, size_high = 1;   // the symbol's bounds; of a program without one, 1
  std::vector<int64_t> bounds;   // rising up to size_high: a run uses the kernels of the first that its size does not exceed
  int64_t arena_bytes = 0;       // planned size of the arena
  int64_t lower_bound = 0;       // largest set of temporaries live at once, bytes
};

/// Bytes of what setup keeps for all runs.
int64_t kept_bytes(const Program& program);
/// Bytes a run holds: arena, what setup keeps, `input_sets` times the inputs, outputs, states, constants, scratch of `threads` workers.
int64_t planned_bytes(const Program& program, int threads, int input_sets = 1);

/// About the size of its FlatBuffers form.
int64_t stored_bytes(const Program& program);
/// FlatBuffers form. `load` verifies the buffer and then every id, size and offset; throws Error(bad_file).
std::vector<uint8_t> save_program(const Program& program);
Program load_program(const std::vector<uint8_t>& bytes, const std::string& file);

}  // namespace quern
