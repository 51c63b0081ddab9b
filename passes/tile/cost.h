// The cost model of the CPU plans: cycles of one core. It ranks plans of one kernel; between kernels it compares little, since
// memory is left out.
#pragma once
#include <algorithm>

#include "passes/tile/plan.h"

namespace quern {

/// One step of a product's sums in registers, `across` times `along` vectors: two products or two loads each, and four until
/// a product can be added to again; a vector comes from the second-level cache.
inline double product_cycles(double across, double along) { return std::max({across * along / 2, (across + along) / 2, 4.0}) + 0.08 * across + 0.15 * along; }

double predicted_cycles(const tile::Kernel& planned, const CpuArch& arch);

}  // namespace quern
