// Memory plan: lifetimes → offsets in one arena. Two values may share bytes when their step intervals do not meet.
// Before: {100, 0..1} {50, 1..2} {100, 2..3}     After: offsets 0, 128, 0; total 192; lower bound 192
// Offsets are multiples of 64. Several placement orders are tried; the least total wins. Deterministic.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace quern {

struct Lifetime {
  int64_t bytes;
  int first, last;   // steps, inclusive
};
struct MemoryPlan {
  std::vector<int64_t> offsets;
  int64_t total = 0;
  int64_t lower_bound = 0;   // largest sum of bytes (rounded up to 64) live at one step
};
MemoryPlan plan_memory(std::span<const Lifetime> values);

}  // namespace quern
