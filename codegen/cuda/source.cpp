// The CUDA emitter's door (codegen/image.h): a planned kernel → its whole source, and what a launch of it needs.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/prelude.h"
#include "codegen/cuda/prelude_roles.h"
#include "codegen/image.h"
#include "ir/support/hash.h"

namespace quern::cuda {

using namespace tile;

KernelImage emit(const Kernel& kernel, const std::string& arch) {
  Emitter emitter(kernel, std::stoi(arch.substr(3)));
  KernelImage image;
  image.name = "k_" + hash_hex(structure(kernel)).substr(0, 16);
  const std::string text = emitter.run(image.name);
  const bool roles = !kernel.phases[0].roles.empty();
  image.source = std::string(kPrelude) + (roles || kernel.cluster ? kRolesPrelude : "") + text;
  set_grid(image, kernel);
  image.resident = roles && kernel.phases[0].shared < 0;   // blocks that share are there together, for one instance
  image.cluster = kernel.cluster;
  image.waits = emitter.waits();
  image.alone = emitter.remembers();
  image.maps = emitter.maps();
  image.threads = emitter.threads();
  image.shared_bytes = emitter.shared_bytes();
  return image;
}

}  // namespace quern::cuda
