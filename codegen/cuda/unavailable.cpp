// The CUDA target has no emitter yet: every door says so.
#include "codegen/image.h"
#include "passes/tile/plan.h"

namespace quern {

static const char* const kMissing = "the CUDA target is not implemented yet; use --target cpu";

namespace cuda {
KernelImage emit(const tile::Kernel&, const std::string&) { throw Error(ErrorKind::compile, kMissing); }
std::string compile(KernelImage&, const std::string&) { throw Error(ErrorKind::compile, kMissing); }
std::string compiler_version() { throw Error(ErrorKind::compile, kMissing); }
}  // namespace cuda

tile::Kernel plan_cuda(const tile::Kernel&, const std::string&) { throw Error(ErrorKind::compile, kMissing); }

}  // namespace quern
