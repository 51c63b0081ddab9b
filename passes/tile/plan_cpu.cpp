// The CPU plan; see plan.h. Chosen by structure alone: which axis is contiguous where tiles are stored and loaded,
// which axes a product keeps and sums. Tile sizes come from the register file.
#include <algorithm>
#include <tuple>

#include "passes/tile/facts.h"
#include "passes/tile/nest.h"
#include "passes/tile/plan.h"

namespace quern {

using namespace tile;

CpuArch cpu_arch(const std::string& arch) {
  if (arch == "avx512") return {16, 32, true};
  if (arch == "avx2") return {8, 16, true};
  QN_CHECK(arch == "v128", "a known CPU arch");
  return {4, 16, false};
}

namespace {

bool lanes_are_legal(const Kernel& k) {
  return std::all_of(k.values.begin(), k.values.end(), [&](const Value& v) {
    return std::count_if(v.axes.begin(), v.axes.end(), [&](AxisId a) { return k.axes[static_cast<size_t>(a)].lanes; }) <= 1;
  });
}
// Puts an axis on the lanes where no tile would then have two such axes. A symbolic one only in the grid, where what
// lies past its extent is never seen: a loop over it has no masks.
bool try_lanes(Kernel& k, AxisId a) {
  const std::vector<AxisId>& grid = k.phases[0].grid;
  if (k.axes[static_cast<size_t>(a)].symbol && !std::count(grid.begin(), grid.end(), a)) return false;
  k.axes[static_cast<size_t>(a)].lanes = true;
  if (lanes_are_legal(k)) return true;
  k.axes[static_cast<size_t>(a)].lanes = false;
  return false;
}

int64_t vectors_tile(const Axis& axis, int64_t lanes, int64_t most) {
  return std::min(round_up(std::max<int64_t>(axis.extent, 1), lanes), lanes * most);
}

void plan_product(Kernel& k, const Facts& f, const CpuArch& arch) {
  const Mma& m = *f.products[0];
  const std::vector<AxisId>& kept = k.values[static_cast<size_t>(m.out)].axes;
  const auto has = [&](ValueId v, AxisId a) {
    const auto& axes = k.values[static_cast<size_t>(v)].axes;
    return std::count(axes.begin(), axes.end(), a) > 0;
  };
  AxisId lanes = -1;
  for (AxisId a : kept)
    if (contiguous_in_stores(k, f, a) && has(m.a, a) != has(m.b, a)) lanes = a;
  for (AxisId a : kept)
    if (lanes < 0 && has(m.a, a) != has(m.b, a)) lanes = a;
  // The other side's longest axis fills the registers with accumulators.
  const auto rows_for = [&](AxisId across) {
    AxisId rows = -1;
    for (AxisId a : kept)
      if (a != across && has(m.a, a) != has(m.b, a) && has(m.a, a) != has(m.a, across) &&
          (rows < 0 || k.axes[static_cast<size_t>(a)].extent > k.axes[static_cast<size_t>(rows)].extent))
        rows = a;
    return rows;
  };
  const auto rows_tile = [&](AxisId rows, int64_t vectors) {
    const int64_t budget = arch.registers == 32 ? 24 : 12;
    return std::clamp<int64_t>(budget / vectors, 1, std::min<int64_t>(12, std::max<int64_t>(1, k.axes[static_cast<size_t>(rows)].extent)));
  };
  const int64_t most = arch.registers == 32 ? 4 : 2;   // vectors
  // Where memory's order would leave most lanes empty (the places of a kernel in a weight gradient), another axis takes
  // them: one that is contiguous in a load, or else the longest, if a panel of it would be read more than twice.
  const auto emptier = [&](AxisId a) { return 2 * k.axes[static_cast<size_t>(a)].extent <= arch.lanes; };
  if (lanes >= 0 && emptier(lanes)) {
    const auto rank = [&](AxisId a) {
      const Axis& axis = k.axes[static_cast<size_t>(a)];
      const bool contiguous = contiguous_in_loads(k, f, a);
      const AxisId rows = rows_for(a);
      const bool packed = rows >= 0 && k.axes[static_cast<size_t>(rows)].extent > 2 * rows_tile(rows, vectors_tile(axis, arch.lanes, most) / arch.lanes);
      return std::tuple(!emptier(a) && (contiguous || packed), contiguous, axis.extent);
    };
    for (AxisId a : kept)
      if (has(m.a, a) != has(m.b, a) && std::get<0>(rank(a)) && rank(a) > rank(lanes)) lanes = a;
    if (emptier(lanes) && rows_for(lanes) < 0) lanes = -1;   // sums side by side: the summed axis fills more
  }
  int64_t vectors = 0;
  if (lanes >= 0 && try_lanes(k, lanes)) {
    Axis& axis = k.axes[static_cast<size_t>(lanes)];
    axis.tile = vectors_tile(axis, arch.lanes, most);
    vectors = axis.tile / arch.lanes;
  }
  if (vectors == 0) {   // an inner product, or batch axes alone
    for (AxisId a : m.axes)
      if (contiguous_in_loads(k, f, a) && try_lanes(k, a)) {
        k.axes[static_cast<size_t>(a)].tile = vectors_tile(k.axes[static_cast<size_t>(a)], arch.lanes, 4);
        break;
      }
    // Sums side by side, innermost first, as many as registers hold: they share what one operand alone varies along.
    int64_t sums = 1;
    for (size_t i = kept.size(); i-- > 0;) {
      Axis& axis = k.axes[static_cast<size_t>(kept[i])];
      if (axis.lanes || axis.extent < 2 || has(m.a, kept[i]) == has(m.b, kept[i])) continue;
      axis.tile = std::clamp<int64_t>((arch.registers == 32 ? 12 : 6) / sums, 1, axis.extent);
      sums *= axis.tile;
    }
    return;
  }
  if (const AxisId rows = rows_for(lanes); rows >= 0) k.axes[static_cast<size_t>(rows)].tile = rows_tile(rows, vectors);
  k.axes[static_cast<size_t>(m.axes.back())].tile = std::clamp<int64_t>(k.axes[static_cast<size_t>(m.axes.back())].extent, 1, 2);
}

void plan_rows(Kernel& k, const Facts& f, const CpuArch& arch) {
  // Summed axes first: the last contiguous one of each reduction.
  for (const ReduceTile* r : f.reductions)
    for (size_t i = r->axes.size(); i-- > 0;) {
      Axis& axis = k.axes[static_cast<size_t>(r->axes[i])];
      if (axis.lanes || axis.extent < 2 || !contiguous_in_loads(k, f, r->axes[i])) continue;
      if (try_lanes(k, r->axes[i])) {
        axis.tile = vectors_tile(axis, arch.lanes, 4);
        break;
      }
    }
  for (size_t a = k.axes.size(); a-- > 0;) {
    Axis& axis = k.axes[a];
    if (axis.lanes || axis.extent < 2 || f.walked.count(static_cast<AxisId>(a)) || !contiguous_in_stores(k, f, static_cast<AxisId>(a))) continue;
    if (try_lanes(k, static_cast<AxisId>(a))) axis.tile = vectors_tile(axis, arch.lanes, f.reductions.empty() || std::count(f.each_axes.begin(), f.each_axes.end(), static_cast<AxisId>(a)) ? 4 : 2);
  }
  // Column sums walk several rows at a time.
  for (const ReduceTile* r : f.reductions)
    for (AxisId a : r->axes)
      if (!k.axes[static_cast<size_t>(a)].lanes && r->axes.size() == 1) k.axes[static_cast<size_t>(a)].tile = std::clamp<int64_t>(k.axes[static_cast<size_t>(a)].extent, 1, 4);
}

}  // namespace

Kernel plan_cpu(const Kernel& kernel, const std::string& arch_name) {
  Kernel k = kernel;
  const CpuArch arch = cpu_arch(arch_name);
  const Facts facts(k);
  if (facts.products.empty()) {
    plan_rows(k, facts, arch);
    return k;
  }
  plan_product(k, facts, arch);
  return nest(k);
}

}  // namespace quern
