// The CPU target's door (codegen/image.h) in a build without LLVM: every call is an error that says so. Empty where
// codegen/llvm/ is built.
#ifndef QN_LLVM
#include "codegen/image.h"

namespace quern::cpu {

[[noreturn]] static void fail() {
  throw Error(Code::no_cpu_target, "this build has no CPU target (QN_LLVM=OFF)").with_help("configure with -DQN_LLVM=ON, or use --device interpret or cuda");
}

std::vector<KernelImage> compile(const std::vector<tile::Kernel>&, const std::string&, bool, std::vector<std::pair<std::string, double>>*) { fail(); }
int64_t compiled_kernels() { return 0; }
std::string host_arch() { fail(); }
std::string compiler_version() { fail(); }

}  // namespace quern::cpu
#endif
