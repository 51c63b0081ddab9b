// A kernel of several phases: each is spelled as if it were a kernel, for an instance that the blocks of a cluster deal out among themselves.
// A phase of fewer threads than the launch is done by several groups of threads side by side, which meet apart and have
// shared memory of their own.
#include <memory>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "passes/tile/sequence.h"

namespace quern::cuda {

using namespace tile;

namespace {

constexpr int64_t kMostShared = 227 << 10;   // bytes of a block

int64_t instances_of(const Kernel& k) {
  int64_t n = 1;
  for (AxisId a : k.phases[0].grid) n *= ceil_div(k.axes[static_cast<size_t>(a)].extent, k.axes[static_cast<size_t>(a)].tile);
  return n;
}

}  // namespace

std::string Emitter::run_cluster(const std::string& name) {
  std::vector<Kernel> kernels;
  for (size_t p = 0; p < k_.phases.size(); ++p) kernels.push_back(only_phase(k_, p));
  std::vector<std::unique_ptr<Emitter>> phases;
  threads_ = 32;
  for (const Kernel& k : kernels) {
    phases.push_back(std::make_unique<Emitter>(k, arch_));
    threads_ = std::max(threads_, phases.back()->threads_);
  }
  line("qn_behind_others();");
  for (size_t b = 0; b < k_.buffers.size(); ++b)
    if (const Buffer& view = k_.buffers[b]; view.of >= 0) line(fmt::format("const {}* const p{} = p{};", memory_type(view.dtype), b, view.of));
  if (k_.steps >= 0) open(fmt::format("for (ix {0} = 0; {0} < {1}; ++{0})", place(k_.steps).start, place(k_.steps).extent));
  const std::string barrier = k_.cluster > 1 ? "qn_cluster_meet();" : "__syncthreads();";
  int64_t before = 0;         // instances since the last barrier
  bool in_shared = false;     // they have used shared memory
  bool wide = false;
  for (size_t p = 0; p < phases.size(); ++p) {
    Emitter& e = *phases[p];
    if (p > 0 && !k_.phases[p].beside) line(barrier), before = 0, in_shared = false;
    e.indent_ = indent_ + "    ";
    e.instance_ = "instance";
    e.sync_ = e.threads_ == threads_ ? "__syncthreads();" : e.threads_ == 32 ? "__syncwarp();"
                                                                             : fmt::format("qn_meet(group + 1, {});", e.threads_);
    e.place_scratch();
    e.instance();
    const int64_t bytes = round_up(e.shared_bytes(), 128), instances = instances_of(kernels[p]);
    const int64_t groups = std::clamp<int64_t>(kMostShared / std::max<int64_t>(bytes, 1), 1, threads_ / e.threads_), rounds = ceil_div(instances, groups * k_.cluster);
    if (in_shared && bytes > 0) line("__syncthreads();");
    in_shared |= bytes > 0;
    open("");
    line(fmt::format("const int tid = threadIdx.x % {0}, group = threadIdx.x / {0};", e.threads_));
    if (bytes > 0) line(fmt::format("u8* const shared = block_shared + group * {};", bytes));
    const std::string from = fmt::format("(blockIdx.x + {}) % {} + group * {}", floor_mod(-before, k_.cluster), k_.cluster, k_.cluster);
    open(fmt::format("{}for (u32 instance = {}; instance < {}; instance += {})", groups * e.threads_ < threads_ ? fmt::format("if (group < {}) ", groups) : "", from, instances, groups * k_.cluster));
    out_ += e.out_;
    if (rounds > 1 && bytes > 0) line(e.sync_);
    close();
    close();
    before += instances;
    wide |= e.wide_index();
    shared_bytes_ = std::max(shared_bytes_, groups * bytes);
  }
  if (k_.steps >= 0) {
    line(barrier);
    close();
  }
  std::string head = fmt::format("typedef {} ix;\nextern \"C\" __global__ void {}__launch_bounds__({}, 1) {}({}) {{\n", wide ? "i64" : "int", k_.cluster > 1 ? fmt::format("__cluster_dims__({}, 1, 1) ", k_.cluster) : "", threads_, name, params());
  if (shared_bytes_ > 0) head += "  extern __shared__ __align__(128) u8 block_shared[];\n";
  return head + out_ + "}\n";
}

}  // namespace quern::cuda
