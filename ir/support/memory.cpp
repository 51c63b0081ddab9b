// See memory.h.
#include "ir/support/memory.h"

#include <unistd.h>

#include <fmt/format.h>

#include "ir/support/check.h"

namespace quern {

int64_t machine_memory() {
  static const int64_t bytes = static_cast<int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  return bytes;
}

void want_memory(const std::string& what, double bytes) {
  if (bytes <= static_cast<double>(machine_memory())) return;
  throw Error(Code::out_of_memory, fmt::format("{} of {:.1f} GiB does not fit this machine's {:.1f} GiB of memory", what, bytes / 0x1p30, static_cast<double>(machine_memory()) / 0x1p30))
      .with_help("use a smaller batch or smaller layers");
}

}  // namespace quern
