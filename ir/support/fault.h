// Planted faults: mistakes that a test build makes on request, to prove that the tests would find them. The variable
// QUERN_FAULT names one fault of faults.def, or `write:ENOSPC@N`: the N-th write to the kernel cache finds the disk
// full. Builds without tests ignore the variable; only fault.cpp is compiled differently (QN_FAULTS).
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace quern {

enum class Fault : uint8_t {
#define QN_FAULT(name, description) name,
#include "ir/support/faults.def"
#undef QN_FAULT
};

struct FaultInfo { std::string_view name, description; };
const std::vector<FaultInfo>& all_faults();   // empty in a build without tests

/// Is this fault active in this process? Throws Error(bad_variable) where QUERN_FAULT names none.
bool planted(Fault fault);
/// Is any fault of the list? Such a process must leave the kernel cache alone.
bool any_planted();
/// The errno that the next write shall fail with, or 0. Counts its calls.
int planted_write_error();

}  // namespace quern
