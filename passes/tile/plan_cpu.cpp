// The CPU plan; see plan.h. Chosen by structure alone: which axis is contiguous where tiles are stored and loaded,
// which axes a product keeps and sums. Tile sizes come from the register file.
#include <algorithm>
#include <functional>
#include <tuple>

#include <fmt/format.h>

#include "passes/tile/bounds.h"
#include "passes/tile/cost.h"
#include "passes/tile/facts.h"
#include "passes/tile/flatten.h"
#include "passes/tile/join.h"
#include "passes/tile/keep.h"
#include "passes/tile/nest.h"
#include "passes/tile/nested.h"
#include "passes/tile/online.h"
#include "passes/tile/pick.h"
#include "passes/tile/plan.h"
#include "passes/tile/regroup.h"
#include "passes/tile/roll.h"
#include "passes/tile/schedule.h"

namespace quern {

using namespace tile;

CpuArch cpu_arch(const std::string& arch) {
  if (arch == "avx512") return {16, 32, true, 768 << 10};
  if (arch == "avx2") return {8, 16, true, 192 << 10};
  QN_CHECK(arch == "v128", "a known CPU arch");
  return {4, 16, false, 192 << 10};
}

namespace {

constexpr int64_t kFewRows = 32;   // of a product, beside an operand that runs along the sum: to turn it costs more than its lanes' sums

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

}  // namespace

// Rows of vectors, as many as registers hold, so that a step of the sum takes the fewest cycles for all of rows x lanes.
std::pair<int64_t, int64_t> accumulators(int64_t rows, int64_t vectors, int registers) {
  std::pair<int64_t, int64_t> best{1, 1};
  double least = 0;
  for (int64_t r = 1; r <= std::min<int64_t>(rows, 12); ++r)
    for (int64_t v = 1; v <= std::min<int64_t>(vectors, registers / 4); ++v) {
      if (r * v > registers * 3 / 4) continue;
      double total = 0;
      for (const auto& [across, n] : {std::pair{r, rows / r}, {rows % r, int64_t{rows % r > 0}}})
        for (const auto& [along, m] : {std::pair{v, vectors / v}, {vectors % v, int64_t{vectors % v > 0}}})
          total += product_cycles(static_cast<double>(across), static_cast<double>(along)) * static_cast<double>(n * m);
      if (least == 0 || total < least - 1e-9) least = total, best = {r, v};
    }
  return best;
}

namespace {

void plan_product(Kernel& k, const Facts& f, const CpuArch& arch, KernelSchedule& schedule) {
  const Mma& m = *f.products[0];
  const std::vector<AxisId>& kept = k.values[static_cast<size_t>(m.out)].axes;
  const auto axis = [&](AxisId a) -> Axis& { return k.axes[static_cast<size_t>(a)]; };
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
      if (a != across && has(m.a, a) != has(m.b, a) && has(m.a, a) != has(m.a, across) && (rows < 0 || axis(a).extent > axis(rows).extent)) rows = a;
    return rows;
  };
  const auto tile_for = [&](AxisId across, AxisId rows) {
    return accumulators(rows < 0 ? 1 : std::max<int64_t>(axis(rows).extent, 1), ceil_div(std::max<int64_t>(axis(across).extent, 1), arch.lanes), arch.registers);
  };
  const auto panel = [&](AxisId a) {   // an operand may have come in panels: tiles do not cross them
    int64_t out = 0;
    for (const Load* l : f.loads)
      if (l->out == m.a || l->out == m.b) out = std::max(out, panel_of(k, *l, a));
    return out;
  };
  // Of few rows the other operand is read once: along the sum, if that is how it lies.
  const auto runs_along_sum = [&] { return std::any_of(m.axes.begin(), m.axes.end(), [&](AxisId a) { return contiguous_in_loads(k, f, a) && !axis(a).symbol && axis(a).extent >= arch.lanes; }); };
  if (lanes >= 0 && (rows_for(lanes) < 0 || axis(rows_for(lanes)).extent <= kFewRows) && !contiguous_in_loads(k, f, lanes) && !panel(lanes) && runs_along_sum()) lanes = -1;
  // Where memory's order would leave most lanes empty (the places of a kernel in a weight gradient), another axis takes
  // them: one that is contiguous in a load, or else the longest, if a panel of it would be read more than twice.
  const auto emptier = [&](AxisId a) { return 2 * axis(a).extent <= arch.lanes; };
  if (lanes >= 0 && emptier(lanes)) {
    const auto rank = [&](AxisId a) {
      const bool contiguous = contiguous_in_loads(k, f, a);
      const AxisId rows = rows_for(a);
      const bool packed = rows >= 0 && axis(rows).extent > 2 * tile_for(a, rows).first;
      return std::tuple(!emptier(a) && (contiguous || packed), contiguous, axis(a).extent);
    };
    for (AxisId a : kept)
      if (has(m.a, a) != has(m.b, a) && std::get<0>(rank(a)) && rank(a) > rank(lanes)) lanes = a;
    const auto both_run = [&](AxisId a) { return axis(a).extent >= arch.lanes && !axis(a).symbol && std::all_of(f.loads.begin(), f.loads.end(), [&](const Load* l) { return (l->out != m.a && l->out != m.b) || step_of(k, l->buffer, l->index, a) == 1; }); };
    if (emptier(lanes) && (rows_for(lanes) < 0 || std::any_of(m.axes.begin(), m.axes.end(), both_run))) lanes = -1;   // sums side by side: the summed axis fills more
  }
  if (lanes >= 0 && try_lanes(k, lanes)) {
    const AxisId rows = rows_for(lanes);
    auto [across, along] = tile_for(lanes, rows);
    const int64_t width = panel(lanes);
    while (along > 1 && width % (along * arch.lanes) != 0) --along;
    const int64_t vectors = width ? along : schedule.choose("vectors", along, 1, std::min<int64_t>(arch.registers / 4, ceil_div(axis(lanes).extent, arch.lanes)));
    axis(lanes).tile = vectors * arch.lanes;
    if (rows >= 0) axis(rows).tile = schedule.choose("rows", across, 1, std::clamp<int64_t>((arch.registers - 2) / vectors, 1, std::max<int64_t>(axis(rows).extent, 1)));
    axis(m.axes.back()).tile = std::clamp<int64_t>(axis(m.axes.back()).extent, 1, 2);
    return;
  }
  // An inner product, or batch axes alone. Sums side by side, as many as registers hold, share what one operand alone
  // varies along: of each side its longest axis, or all of a small one (the places of a kernel), the shorter side first.
  AxisId summed = -1;
  for (AxisId a : m.axes)
    if (summed < 0 && contiguous_in_loads(k, f, a) && try_lanes(k, a)) summed = a;
  constexpr int64_t kSmallSide = 12;
  struct Side {
    std::vector<AxisId> axes;
    int64_t extent = 1;
  } sides[2];   // longest axis first
  for (AxisId a : kept) {
    if (axis(a).lanes || axis(a).extent < 2 || has(m.a, a) == has(m.b, a)) continue;
    Side& side = sides[has(m.b, a)];
    side.axes.insert(side.axes.begin() + (side.axes.empty() || axis(a).extent > axis(side.axes[0]).extent ? 0 : 1), a);
    side.extent = checked_mul(side.extent, axis(a).extent);
  }
  for (Side& side : sides)
    if (side.axes.size() > 1 && side.extent > kSmallSide) side.axes.resize(1), side.extent = axis(side.axes[0]).extent;   // not all of it: its longest
  if (sides[0].extent > sides[1].extent) std::swap(sides[0], sides[1]);
  int64_t sums = 1, chosen = 1;
  for (const Side& side : sides)
    for (AxisId a : side.axes) {
      const int64_t most = axis(a).extent, standard = std::clamp<int64_t>(std::min<int64_t>(8, arch.registers * 3 / 4 / sums), 1, most);
      sums *= standard;
      const bool alone = side.axes.size() == 1;
      chosen *= axis(a).tile = alone ? schedule.choose(&side == sides ? "few" : "many", standard, 1, std::clamp<int64_t>((arch.registers - 2) / chosen, 1, most)) : standard;
    }
  if (summed >= 0) axis(summed).tile = vectors_tile(axis(summed), arch.lanes, sums >= 8 ? 2 : 4);   // it orders the sums: the standard's
}

// Rows that are walked several times come from memory the first time and from the cache the others: a later walk asks for
// the next row. That is the last that stores no output (lines that are written are asked for, too), or one that stores past
// the caches, as memory can do both at once: of several buffers, every other one, unless what is computed takes its time.
void plan_ahead(Kernel& k, KernelSchedule& schedule) {
  constexpr int64_t kLargeInput = 4 << 20, kShortRow = 1 << 10, kLongRow = 256 << 10;   // bytes
  const auto [block, row] = row_block(k);
  if (row < 0) return;
  struct Walks {
    int count = 0;
    Load *quiet = nullptr, *streaming = nullptr;
  };
  std::map<BufferId, Walks> walks;
  for (Stmt& s : *block) {
    auto* seq = std::get_if<Seq>(&s.node);
    auto* each = std::get_if<Each>(&s.node);
    if (!seq && !each) continue;
    Block& body = seq ? seq->body : each->body;
    const bool writes = std::any_of(body.begin(), body.end(), [&](const Stmt& t) {
      const auto* store = std::get_if<Store>(&t.node);
      return store && k.buffers[static_cast<size_t>(store->buffer)].kind == BufferKind::out;
    });
    const bool streams = std::any_of(body.begin(), body.end(), [](const Stmt& t) {
      const auto* store = std::get_if<Store>(&t.node);
      return store && store->stream;
    });
    for (Stmt& inner : body)
      if (auto* l = std::get_if<Load>(&inner.node); l && k.buffers[static_cast<size_t>(l->buffer)].kind == BufferKind::in) {
        Walks& w = walks[l->buffer];
        ++w.count;
        if (streams) w.streaming = l;
        if (!writes) w.quiet = l;
      }
  }
  const bool costly = std::any_of(k.buffers.begin(), k.buffers.end(), [](const Buffer& b) { return b.kind == BufferKind::scratch; });
  bool streams = std::count_if(walks.begin(), walks.end(), [](const auto& w) { return w.second.count > 1 && w.second.streaming; }) % 2 == 1;
  for (const auto& [id, w] : walks) {
    if (w.count < 2 || (!w.quiet && !w.streaming)) continue;
    Load& asking = *(w.streaming && ((streams && !costly) || !w.quiet) ? w.streaming : w.quiet);
    if (w.streaming) streams = !streams;
    const Buffer& b = k.buffers[static_cast<size_t>(id)];
    const int64_t bytes = step_of(k, id, asking.index, row) * k.axes[static_cast<size_t>(row)].tile * size_of(b.dtype);
    asking.ahead = schedule.choose(fmt::format("ahead_{}", b.name), bytes >= kShortRow && bytes <= kLongRow && checked_mul(count(b.shape), size_of(b.dtype)) >= kLargeInput, 0, 1);
  }
}

// What goes to memory anyway is written past the caches: no line is asked for only to be overwritten.
void plan_streams(Kernel& k) {
  constexpr int64_t kLargeOutput = 16 << 20;   // bytes
  std::set<BufferId> read;
  for (const Load* l : Facts(k).loads) read.insert(l->buffer);
  const std::function<void(Block&)> visit = [&](Block& block) {
    for (Stmt& s : block) {
      if (auto* seq = std::get_if<Seq>(&s.node)) visit(seq->body);
      if (auto* each = std::get_if<Each>(&s.node)) visit(each->body);
      auto* t = std::get_if<Store>(&s.node);
      if (!t || read.count(t->buffer)) continue;
      const Buffer& out = k.buffers[static_cast<size_t>(t->buffer)];
      t->stream = out.kind == BufferKind::out && !out.symbol && checked_mul(count(out.shape), size_of(out.dtype)) >= kLargeOutput;
    }
  };
  visit(k.phases[0].body);
}

// What walks keep of a row (passes/tile/keep.h) is kept of each of several rows. False, and nothing done, where it is too long
// for that, or does not differ from row to row.
bool keep_several(Kernel& k, Block& walks, AxisId row, int64_t rows) {
  constexpr int64_t kLongestKept = 4 << 10;   // bytes
  const auto is_scratch = [&](BufferId b) { return k.buffers[static_cast<size_t>(b)].kind == BufferKind::scratch; };
  std::vector<Load*> loads;
  std::vector<Store*> stores;
  for (Stmt& s : walks) {
    auto* seq = std::get_if<Seq>(&s.node);
    auto* each = std::get_if<Each>(&s.node);
    if (!seq && !each) continue;
    for (Stmt& inner : seq ? seq->body : each->body) {
      if (auto* l = std::get_if<Load>(&inner.node); l && is_scratch(l->buffer)) loads.push_back(l);
      if (auto* t = std::get_if<Store>(&inner.node); t && is_scratch(t->buffer)) stores.push_back(t);
    }
  }
  const auto axes_of = [&](ValueId v) -> std::vector<AxisId>& { return k.values[static_cast<size_t>(v)].axes; };
  if (std::any_of(stores.begin(), stores.end(), [&](const Store* t) { return !std::count(axes_of(t->value).begin(), axes_of(t->value).end(), row); })) return false;
  for (const Buffer& b : k.buffers)
    if (b.kind == BufferKind::scratch && count(b.shape) * size_of(b.dtype) > kLongestKept) return false;
  const Index place = floor_mod(k.coordinate(row), rows);
  for (Buffer& b : k.buffers)
    if (b.kind == BufferKind::scratch) b.shape.insert(b.shape.begin(), rows);
  for (Store* t : stores) t->index.insert(t->index.begin(), place);
  for (Load* l : loads) {
    l->index.insert(l->index.begin(), place);
    std::vector<AxisId>& axes = axes_of(l->out);
    axes.insert(std::lower_bound(axes.begin(), axes.end(), row), row);
  }
  return true;
}

// Several rows at a time share what is the same for all of them, and memory is asked along several lines at once.
void plan_several_rows(Kernel& k, const CpuArch& arch) {
  constexpr int64_t kRows = 4, kManyRows = 256, kInCache = 128 << 10;   // rows, rows, bytes of each buffer
  const auto [block, row] = row_block(k);
  const auto axis = [&](AxisId a) -> Axis& { return k.axes[static_cast<size_t>(a)]; };
  if (row < 0) return;
  const bool chunk = block != &k.phases[0].body;
  if (axis(row).lanes || axis(row).symbol || axis(row).tile != 1 || axis(row).extent < (chunk ? kRows : kManyRows) || is_walked(k, row)) return;
  const bool walks = std::any_of(block->begin(), block->end(), [&](const Stmt& s) {
    const auto* seq = std::get_if<Seq>(&s.node);
    const auto* each = std::get_if<Each>(&s.node);
    return (seq && axis(seq->axes.back()).lanes) || (each && axis(each->axes.back()).lanes);
  });
  const Facts f(k);
  if (!walks || std::any_of(f.loads.begin(), f.loads.end(), [&](const Load* l) { return step_of(k, l->buffer, l->index, row) * size_of(k.buffers[static_cast<size_t>(l->buffer)].dtype) * kRows > kInCache; })) return;
  if (!keep_several(k, *block, row, kRows)) return;
  axis(row).tile = kRows;
  for (Axis& a : k.axes)
    if (a.lanes) a.tile = std::min<int64_t>(a.tile, int64_t{2} * arch.lanes);
}

// What lies across the lanes in memory is loaded along its own axis and turned: squares of both axes. They follow each
// other where they are read.
void plan_turns(Kernel& k, const Facts& f, const CpuArch& arch) {
  if (!f.reductions.empty() || !f.walked.empty()) return;
  std::vector<AxisId>& grid = k.phases[0].grid;
  for (const Load* l : f.loads) {
    const std::vector<AxisId>& axes = k.values[static_cast<size_t>(l->out)].axes;
    const auto lanes = std::find_if(axes.begin(), axes.end(), [&](AxisId a) { return k.axes[static_cast<size_t>(a)].lanes; });
    if (lanes == axes.end() || step_of(k, l->buffer, l->index, *lanes) <= 1) continue;
    for (AxisId a : axes) {
      Axis &other = k.axes[static_cast<size_t>(a)], &along = k.axes[static_cast<size_t>(*lanes)];
      if (a == *lanes || other.tile > 1 || other.symbol || other.extent < arch.lanes / 2 || along.extent < arch.lanes / 2 || step_of(k, l->buffer, l->index, a) != 1) continue;
      other.tile = along.tile = arch.lanes;
      const bool grows = std::any_of(grid.begin(), grid.end(), [&](AxisId g) { return k.axes[static_cast<size_t>(g)].symbol > 0; });
      if (const auto at = std::find(grid.begin(), grid.end(), a); at != grid.end() && !grows) std::rotate(at, at + 1, grid.end());
      return;
    }
  }
}

// Does a row that is summed leave most lanes empty, while the sums lie side by side and so does, but for a few elements
// between them, what they sum (pooling)?
bool sums_fill_more(const Kernel& k, const Facts& f, const CpuArch& arch, AxisId summed) {
  constexpr int64_t kFarthest = 4;
  const int64_t extent = k.axes[static_cast<size_t>(summed)].extent;
  for (size_t i = 0; i < k.axes.size(); ++i) {
    const AxisId a = static_cast<AxisId>(i);
    if (2 * extent > arch.lanes || k.axes[i].extent <= extent || !contiguous_in_stores(k, f, a) || std::count(f.each_axes.begin(), f.each_axes.end(), a)) continue;
    if (std::all_of(f.loads.begin(), f.loads.end(), [&](const Load* l) { return step_of(k, l->buffer, l->index, a) >= 0 && step_of(k, l->buffer, l->index, a) <= kFarthest; })) return true;
  }
  return false;
}

// Does most of what is summed lie across the summed axis in memory, and along one that the sums keep?
bool lies_across(const Kernel& k, const Facts& f, const CpuArch& arch, AxisId summed) {
  const auto along = [&](AxisId a) {   // elements that lie along the axis less those that lie across it
    double total = 0;
    for (const Load* l : f.loads) {
      const int64_t step = step_of(k, l->buffer, l->index, a);
      double elements = step == 0 ? 0 : step == 1 ? 1 : -1;
      for (AxisId of : k.values[static_cast<size_t>(l->out)].axes) elements *= static_cast<double>(k.axes[static_cast<size_t>(of)].extent);
      total += elements;
    }
    return total;
  };
  if (along(summed) >= 0) return false;
  for (size_t a = 0; a < k.axes.size(); ++a)
    if (2 * k.axes[a].extent >= arch.lanes && contiguous_in_stores(k, f, static_cast<AxisId>(a)) && along(static_cast<AxisId>(a)) > 0) return true;
  return false;
}

void plan_rows(Kernel& k, const Facts& f, const CpuArch& arch, KernelSchedule& schedule) {
  // Rows that are walked stand one after the other, but where there is nothing else.
  const AxisId row = k.axes.size() > 2 ? row_block(k).row : -1;
  // Summed axes first: the last contiguous one of each reduction.
  for (const ReduceTile* r : f.reductions)
    for (size_t i = r->axes.size(); i-- > 0;) {
      Axis& axis = k.axes[static_cast<size_t>(r->axes[i])];
      if (axis.lanes || axis.extent < 2 || r->axes[i] == row || !contiguous_in_loads(k, f, r->axes[i]) || sums_fill_more(k, f, arch, r->axes[i]) || lies_across(k, f, arch, r->axes[i])) continue;
      if (try_lanes(k, r->axes[i])) {
        axis.tile = vectors_tile(axis, arch.lanes, 4);
        break;
      }
    }
  // Column sums read long stretches of each row, as far as there is a register for each and several instances remain.
  const auto sums_side_by_side = [&](const Axis& axis) {
    constexpr int64_t kInstances = 16;
    const bool only = f.reductions.size() == 1 && f.loads.size() == 1;
    return only ? std::clamp<int64_t>(axis.extent / (arch.lanes * kInstances), 2, arch.registers / 2) : 2;
  };
  for (size_t a = k.axes.size(); a-- > 0;) {
    Axis& axis = k.axes[a];
    if (axis.lanes || axis.extent < 2 || f.walked.count(static_cast<AxisId>(a)) || !contiguous_in_stores(k, f, static_cast<AxisId>(a))) continue;
    if (!try_lanes(k, static_cast<AxisId>(a))) continue;
    const int64_t most = f.reductions.empty() || std::count(f.each_axes.begin(), f.each_axes.end(), static_cast<AxisId>(a)) ? 4 : sums_side_by_side(axis);
    axis.tile = vectors_tile(axis, arch.lanes, schedule.choose(fmt::format("vectors_i{}", a), most, 1, arch.registers / 2));
  }
  plan_turns(k, f, arch);
  // Column sums walk several rows at a time.
  for (const ReduceTile* r : f.reductions)
    for (AxisId a : r->axes)
      if (a != row && !k.axes[static_cast<size_t>(a)].lanes && r->axes.size() == 1) k.axes[static_cast<size_t>(a)].tile = std::clamp<int64_t>(k.axes[static_cast<size_t>(a)].extent, 1, 4);
}

}  // namespace

Kernel plan_cpu(const Kernel& kernel, const std::string& arch_name, KernelSchedule* given) {
  KernelSchedule standard;
  KernelSchedule& schedule = given ? *given : standard;
  Kernel k = pick(regroup(kernel));
  const CpuArch arch = cpu_arch(arch_name);
  const Facts facts(k);
  if (facts.products.empty()) {
    plan_rows(k, facts, arch, schedule);
    k = keep(join(k));
    plan_several_rows(k, arch);
    plan_streams(k);
    plan_ahead(k, schedule);
    return k;
  }
  if (has_nested_products(k)) return plan_nested(online(bounds(join(k))), arch);
  if (auto flat = flatten(k, arch)) return std::move(*flat);
  plan_product(k, facts, arch, schedule);
  return roll(nest(k, arch, schedule), arch.lanes);
}

}  // namespace quern
