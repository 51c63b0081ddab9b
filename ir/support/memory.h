// What this machine has: beyond it, asking the system would end in swapping or in a killed process.
#pragma once
#include <cstdint>
#include <string>

namespace quern {

int64_t machine_memory();   // bytes of physical memory
/// Throws Error(out_of_memory) where `what`, e.g. "a tensor", takes more than that.
void want_memory(const std::string& what, double bytes);

}  // namespace quern
