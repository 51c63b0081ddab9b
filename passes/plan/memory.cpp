// See memory.h: values are placed one by one into the lowest gap among those already placed that live at the same time.
#include "passes/plan/memory.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "ir/support/arith.h"
#include "ir/support/fault.h"

namespace quern {
namespace {

bool meet(const Lifetime& a, const Lifetime& b) { return a.first <= b.last - planted(Fault::lifetime_short) && b.first <= a.last - planted(Fault::lifetime_short); }

MemoryPlan place(std::span<const Lifetime> values, const std::vector<size_t>& order) {
  MemoryPlan plan;
  plan.offsets.assign(values.size(), 0);
  std::vector<size_t> placed;
  for (size_t i : order) {
    const int64_t bytes = round_up(values[i].bytes, 64);
    if (bytes == 0) continue;
    std::vector<std::pair<int64_t, int64_t>> taken;   // of those alive together, by offset
    for (size_t p : placed)
      if (meet(values[i], values[p])) taken.emplace_back(plan.offsets[p], plan.offsets[p] + round_up(values[p].bytes, 64));
    std::sort(taken.begin(), taken.end());
    int64_t at = 0, best = -1, best_gap = INT64_MAX;
    for (const auto& [from, to] : taken) {
      const int64_t gap = from - at;
      if (gap >= bytes && gap < best_gap) best = at, best_gap = gap;
      at = std::max(at, to);
    }
    plan.offsets[i] = best >= 0 ? best : at;
    plan.total = std::max(plan.total, plan.offsets[i] + bytes);
    placed.push_back(i);
  }
  return plan;
}

}  // namespace

MemoryPlan plan_memory(std::span<const Lifetime> values) {
  int64_t bound = 0;
  std::map<int, int64_t> change;
  for (const Lifetime& v : values) {
    change[v.first] += round_up(v.bytes, 64);
    change[v.last + 1] -= round_up(v.bytes, 64);
  }
  int64_t live = 0;
  for (const auto& [step, bytes] : change) bound = std::max(bound, live += bytes);

  const auto length = [&](size_t i) { return values[i].last - values[i].first; };
  const std::vector<std::function<bool(size_t, size_t)>> orders = {
      [&](size_t a, size_t b) { return values[a].bytes != values[b].bytes ? values[a].bytes > values[b].bytes : length(a) > length(b); },
      [&](size_t a, size_t b) { return length(a) != length(b) ? length(a) > length(b) : values[a].bytes > values[b].bytes; },
      [&](size_t a, size_t b) { return values[a].first != values[b].first ? values[a].first < values[b].first : values[a].bytes > values[b].bytes; },
      [&](size_t a, size_t b) { return values[a].last != values[b].last ? values[a].last > values[b].last : values[a].bytes > values[b].bytes; },
      [&](size_t a, size_t b) { return values[a].bytes * (length(a) + 1) > values[b].bytes * (length(b) + 1); }};
  MemoryPlan best;
  for (const auto& before : orders) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), before);
    MemoryPlan plan = place(values, order);
    if (best.offsets.empty() || plan.total < best.total) best = std::move(plan);
    if (best.total == bound) break;
  }
  best.lower_bound = bound;
  return best;
}

}  // namespace quern
