// From a planned kernel to an image: the doors of the two emitters. A source is text that a compiler turns into code;
// both compile functions go through the cache (codegen/cache.h) in codegen/compile.cpp.
#pragma once
#include <optional>

#include "codegen/program.h"
#include "ir/tile/kernel.h"

namespace quern {

/// One image as bytes, for the cache; load_image returns nothing where the bytes are no image.
std::vector<uint8_t> save_image(const KernelImage& image);
std::optional<KernelImage> load_image(const std::vector<uint8_t>& bytes);

/// Fills the grid from the kernel's axes; so many blocks do each instance as share it; a cluster is the grid.
inline void set_grid(KernelImage& image, const tile::Kernel& kernel) {
  if (kernel.cluster) return void(image.grid = image.others = kernel.cluster);
  image.grid = image.others = kernel.sharers(kernel.phases.at(0));
  for (tile::AxisId a : kernel.phases.at(0).grid) {
    const tile::Axis& axis = kernel.axes[static_cast<size_t>(a)];
    const int64_t tiles = ceil_div(axis.extent, axis.tile);
    image.grid = checked_mul(image.grid, tiles);
    if (axis.symbol) image.symbol = axis.symbol, image.tile = axis.tile;
    else image.others = checked_mul(image.others, tiles);
  }
}

namespace cpu {
/// Compiles planned kernels (passes/tile/plan_cpu) for arch "avx512", "avx2" or "v128"; one image each.
/// `want_source` keeps the LLVM IR text in the image. `times`: milliseconds of each phase, of all threads together.
std::vector<KernelImage> compile(const std::vector<tile::Kernel>& kernels, const std::string& arch, bool want_source, std::vector<std::pair<std::string, double>>* times = nullptr);
/// How many kernels this process has given to LLVM.
int64_t compiled_kernels();
/// The best arch this machine runs.
std::string host_arch();
/// Part of every cache key.
std::string compiler_version();
}  // namespace cpu

namespace cuda {
/// The kernel as CUDA C++ (passes/tile/plan_cuda has chosen tiles); fills grid, threads, shared_bytes and source.
KernelImage emit(const tile::Kernel& kernel, const std::string& arch);
/// Compiles image.source with NVRTC to a cubin in image.code, in a process of its own (cuda/process.h). Throws Error(compile)
/// where NVRTC is missing, refuses or ends. Returns the compiler's log (registers, spills).
std::string compile(KernelImage& image, const std::string& arch);
/// All of them, in as many processes as the machine has cores. Returns notes for the user.
std::vector<std::string> compile(std::vector<KernelImage>& images, const std::string& arch);
std::string compiler_version();   // "nvrtc 13.0"; throws Error(compile) where NVRTC is missing
}  // namespace cuda

}  // namespace quern
