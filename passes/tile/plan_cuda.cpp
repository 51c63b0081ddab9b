// The CUDA plan; see plan.h. sm_90a: products in roles where they can be (roles.h). Else three shapes, chosen by structure and extents alone:
//   rows      no product: the axis that is contiguous in memory lies across neighbouring threads, `vector` elements each;
//             a reduced axis is shared by the threads of a warp or a block, columns are summed over rows of threads. A row
//             that several walks read lies in registers, or in shared memory (whole.h); what is read across is turned there, too
//   direct    a product with a short side: as rows, both operands from registers, the summed axis across threads
//   staged    all other products: block tiles in shared memory, matrix instructions where the precision has one
#include <algorithm>
#include <bit>
#include <set>

#include "passes/tile/atoms.h"
#include "passes/tile/facts.h"
#include "passes/tile/nested.h"
#include "passes/tile/of_bytes.h"
#include "passes/tile/pick.h"
#include "passes/tile/plan.h"
#include "passes/tile/regroup.h"
#include "passes/tile/roles.h"
#include "passes/tile/roles_nested.h"
#include "passes/tile/whole.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kBlock = 256;          // threads, where nothing else decides
constexpr int64_t kMachine = 132 * 1024; // threads that keep a large GPU busy; a constant, so that plans do not vary
constexpr int64_t kShared = 96 << 10;    // bytes of shared memory for the stages of a product; half of it before sm_80
constexpr int64_t kShortSide = 16;       // products with a shorter side are direct
constexpr int64_t kAhead = 16;           // loads of a thread down a column, of a matrix that is read once
constexpr int64_t kShortSum = 8;         // of a column: one thread's, whose loads are on their way together
constexpr int64_t kHeld = 96, kHeldOfRow = 32;   // registers of a thread for tiles of rows: of all, of each
constexpr int64_t kRowThreads = 512, kRowBytes = 104 << 10;   // of a row in shared memory: two of them share a multiprocessor, one computes while the other loads
constexpr int64_t kTurned = 64, kTurnedLanes = 16;   // elements of f32 along each side of a square that is turned; its lanes along rows

int64_t power_up(int64_t n) { return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1)))); }
int log2_of(int64_t n) { return std::countr_zero(static_cast<uint64_t>(n)); }

class Planner {
 public:
  Planner(const Kernel& kernel, int arch, F32Products products) : k_(kernel), facts_(k_), arch_(arch), f32_(products) {}

  Kernel run() {
    if (facts_.products.size() == 1 && staged()) return std::move(k_);
    rows();
    return std::move(k_);
  }

  /// Are rows walked along memory?
  bool walks_rows() {
    const AxisId lead = lead_of(long_axes());
    return facts_.products.empty() && lead >= 0 && !in_grid(lead);
  }

  /// Of a row in registers: as many threads as hold it, and rows side by side.
  Kernel whole(const WholeRow& w) {
    const int64_t extent = axis(w.along).extent, widest = vector_of(w.along), most = std::min<int64_t>(1024, power_up(ceil_div(extent, widest)));
    const bool chunk = !in_grid(w.rows);
    const int64_t rows = instances() * (chunk ? axis(w.rows).extent : 1), each = std::clamp(kHeld / std::max<int64_t>(w.held, 1), widest, kHeldOfRow);
    int64_t threads = std::max(std::min<int64_t>(32, power_up(ceil_div(extent, 4 * widest))), std::min(most, power_up(ceil_div(extent, each))));
    while (threads < most && rows * threads < kMachine) threads *= 2;
    const auto fits = [&](int64_t vector) { return 8 * round_up(extent, threads * vector) <= 9 * extent; };   // few threads are outside
    const int64_t vector = widest > 4 && !fits(widest) && fits(widest / 2) ? widest / 2 : widest;
    give(w.along, threads, vector, ceil_div(extent, threads * vector));
    if (chunk && threads < kBlock) give(w.rows, std::min(kBlock / threads, power_up(axis(w.rows).extent)), 1, 1);
    // Sums beside the rows leave room for few warps: each asks for its next row while it works on this one.
    if (chunk)
      for (Stmt& s : std::get<Seq>(std::get<Each>(k_.phases[0].body.back().node).body[0].node).body)
        if (auto* l = std::get_if<Load>(&s.node)) l->ahead = has(l->out, w.rows) && has(l->out, w.along) && k_.buffers[static_cast<size_t>(l->buffer)].kind == BufferKind::in;
    // Blocks of few rows: none of them waits for the others, and the last ones are over at about the same time.
    if (!chunk) spread_kept(-1, std::max<int64_t>(32, std::min(std::max(kBlock / 2, threads), threads * power_up(rows))));
    return std::move(k_);
  }

 private:
  Kernel k_;
  const Facts facts_;          // points into k_, whose statements stay where they are
  const int arch_;
  const F32Products f32_;
  int64_t lane_bit_ = 0, warp_bit_ = 0;   // next free bits

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }
  bool has(ValueId v, AxisId a) const { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; }
  bool in_grid(AxisId a) const { return std::count(k_.phases[0].grid.begin(), k_.phases[0].grid.end(), a) > 0; }
  int64_t instances() {
    int64_t n = 1;
    for (AxisId a : k_.phases[0].grid) n *= std::max<int64_t>(axis(a).extent, 1);
    return n;
  }

  int64_t blocks() {
    int64_t n = 1;
    for (AxisId a : k_.phases[0].grid) n *= ceil_div(std::max<int64_t>(axis(a).extent, 1), axis(a).tile);
    return n;
  }

  // --- which axis runs along memory ---
  int64_t points(const std::vector<AxisId>& axes) {
    int64_t n = 1;
    for (AxisId a : axes) n *= std::max<int64_t>(axis(a).extent, 1);
    return n;
  }
  // Bytes moved by accesses in which one step of the axis is one element.
  double contiguous_bytes(AxisId a) {
    double bytes = 0;
    for (const Load* l : facts_.loads)
      if (has(l->out, a) && step_of(k_, l->buffer, l->index, a) == 1) bytes += static_cast<double>(points(axes_of(l->out)) * size_of(k_.buffers[static_cast<size_t>(l->buffer)].dtype));
    for (const Store* s : facts_.stores)   // scattered writes cost more than scattered reads
      if (step_of(k_, s->buffer, s->index, a) == 1) bytes += 1.5 * static_cast<double>(points(axes_of(s->value)) * size_of(k_.buffers[static_cast<size_t>(s->buffer)].dtype));
    return bytes;
  }
  // Elements of a 16-byte access along the axis, where its extent allows them.
  int64_t vector_of(AxisId a, int64_t most = 8) {
    if (axis(a).symbol && !in_grid(a)) return 1;   // its extent is known when it runs
    int64_t least = 8;
    for (const Load* l : facts_.loads)
      if (has(l->out, a) && step_of(k_, l->buffer, l->index, a) == 1) least = std::min(least, size_of(k_.buffers[static_cast<size_t>(l->buffer)].dtype));
    for (const Store* s : facts_.stores)
      if (step_of(k_, s->buffer, s->index, a) == 1) least = std::min(least, std::max<int64_t>(2, size_of(k_.buffers[static_cast<size_t>(s->buffer)].dtype)));
    int64_t v = std::min<int64_t>(most, 16 / std::max<int64_t>(least, 2));
    while (v > 1 && !has_vectors(a, v)) v /= 2;
    return v;
  }
  // Do its vectors end with it, or is it only read, in longer rows?
  bool has_vectors(AxisId a, int64_t v) {
    if (axis(a).extent % v == 0) return true;
    return std::none_of(facts_.stores.begin(), facts_.stores.end(), [&](const Store* s) { return step_of(k_, s->buffer, s->index, a) != 0; }) &&
           std::all_of(facts_.loads.begin(), facts_.loads.end(), [&](const Load* l) { return !has(l->out, a) || step_of(k_, l->buffer, l->index, a) == 0 || has_longer_rows(k_, *l, a, v); });
  }

  // --- giving threads to an axis: lanes first, then warps ---
  // The axis gets `threads` threads of `vector` elements and `groups` such groups per thread.
  void give(AxisId a, int64_t threads, int64_t vector, int64_t groups) {
    Spread s;
    s.threads = std::min(threads, int64_t{32} >> lane_bit_);
    s.warps = std::max<int64_t>(1, threads / s.threads);
    s.threads_at = s.threads > 1 ? lane_bit_ : 0;
    s.warps_at = s.warps > 1 ? warp_bit_ : 0;
    s.vector = vector;
    place(a, s, groups);
    lane_bit_ += log2_of(s.threads);
    warp_bit_ += log2_of(s.warps);
  }
  void place(AxisId a, const Spread& s, int64_t groups) {
    axis(a).spread = s;
    axis(a).tile = s.threads * s.warps * s.vector * groups;
  }

  // The innermost axes of loops that run over the reduced or written-out elements of a row.
  std::vector<AxisId> inner_axes() {
    std::vector<AxisId> out;
    for (size_t a = 0; a < k_.axes.size(); ++a)
      if (!in_grid(static_cast<AxisId>(a)) && k_.axes[a].extent > 1 && !facts_.walked.count(static_cast<AxisId>(a))) out.push_back(static_cast<AxisId>(a));
    return out;
  }
  // No tile may have two axes on the same threads: `a` can take the places that `like` has.
  bool can_share(AxisId a, const std::set<AxisId>& shared) {
    return std::all_of(k_.values.begin(), k_.values.end(), [&](const Value& v) {
      return !std::count(v.axes.begin(), v.axes.end(), a) || std::none_of(v.axes.begin(), v.axes.end(), [&](AxisId b) { return shared.count(b) > 0; });
    });
  }

  std::vector<AxisId> long_axes() const {
    std::vector<AxisId> all;
    for (size_t a = 0; a < k_.axes.size(); ++a)
      if (k_.axes[a].extent > 1 && !facts_.walked.count(static_cast<AxisId>(a))) all.push_back(static_cast<AxisId>(a));
    return all;
  }
  AxisId lead_of(const std::vector<AxisId>& all) {
    AxisId lead = all.empty() ? -1 : all.back();
    double most = 0;
    for (AxisId a : all)
      if (const double bytes = contiguous_bytes(a); bytes >= most) most = bytes, lead = a;
    return lead;
  }

  void rows() {
    const std::vector<AxisId> all = long_axes();
    const AxisId lead = lead_of(all);
    if (lead < 0) return;
    if (in_grid(lead)) lead_kept(lead);
    else lead_inner(lead);
    // A short loop over the symbol is unrolled like any other, under masks.
    for (AxisId a : all)
      if (axis(a).symbol && !in_grid(a) && axis(a).spread == Spread{} && axis(a).extent <= kShortSum) axis(a).tile = power_up(axis(a).extent);
  }

  // Threads along a kept axis; what is left of the block goes to the loops (column sums) or to further kept axes.
  void lead_kept(AxisId lead) {
    const std::vector<AxisId> inner = inner_axes();
    int64_t vector = vector_of(lead);
    int64_t longest = 0;
    for (AxisId a : inner) longest = std::max(longest, axis(a).extent);
    const bool sums = !facts_.reductions.empty() || !facts_.products.empty();
    const int64_t others = instances() / std::max<int64_t>(1, axis(lead).extent);
    int64_t block = kBlock;
    int64_t threads = power_up(ceil_div(axis(lead).extent, vector));
    if (turned(lead)) return;
    if (facts_.products.empty() && sums && longest > kShortSum && 2 * others * ceil_div(axis(lead).extent, vector) >= kMachine) {
      // Columns enough to keep the machine busy: each thread sums its own, several loads on their way together.
      give(lead, std::min(threads, block), vector, 1);
      AxisId last = -1;
      for (AxisId a : inner)
        if (axis(a).extent > kShortSum) last = a;
      axis(last).tile = kShortSum;
      block = std::max<int64_t>(32, int64_t{1} << (lane_bit_ + warp_bit_));
    } else if (sums && longest > kShortSum) {
      // Columns: 128-byte rows of lanes, less where the machine would stay empty; the rest of the block shares the sum.
      if (vector > 4) vector = 4;
      threads = std::min(power_up(ceil_div(axis(lead).extent, vector)), std::max<int64_t>(1, 32 / vector));
      while (threads > 2 && ceil_div(axis(lead).extent, threads * vector) * others < 128) threads /= 2;
      while (block < 1024 && 2 * ceil_div(axis(lead).extent, threads * vector) * others * block < kMachine && longest >= 8 * (block / threads)) block *= 2;
      give(lead, threads, vector, 1);
      const int64_t sharing = std::min(block / threads, power_up(ceil_div(longest, 2))), loads = ceil_div(longest, sharing);
      share_inner(inner, sharing, is_vector_product() ? ceil_div(loads, ceil_div(loads, kAhead)) : 4);
    } else {
      // Maps that leave most of the machine empty are over when one thread is: elements lie side by side, not one after the other.
      const bool maps = !sums && inner.empty();
      while (maps && vector > 1 && ceil_div(axis(lead).extent, vector) * others < kMachine / 4) vector /= 2;
      threads = std::min(power_up(ceil_div(axis(lead).extent, vector)), block);
      while (threads > 32 && ceil_div(axis(lead).extent, threads * vector) * others < 132) threads /= 2;
      while (threads > 32 && 8 * round_up(axis(lead).extent, threads * vector) > 9 * axis(lead).extent) threads /= 2;   // threads outside wait for the others
      give(lead, threads, vector, 1);
      block = std::max<int64_t>(32, std::min(block, threads * power_up(others)));
      while (maps && block > std::max<int64_t>(32, threads) && ceil_div(axis(lead).extent, threads * vector) * ceil_div(others, block / threads) < 132) block /= 2;
    }
    spread_kept(lead, block);
    unroll_direct(lead);
  }

  // What stores along `lead` and loads along another kept axis does so in squares, which are turned in shared memory.
  bool turned(AxisId lead) {
    if (!facts_.reductions.empty() || !facts_.products.empty() || !inner_axes().empty() || !facts_.walked.empty()) return false;
    for (const Load* l : facts_.loads)
      for (AxisId a : axes_of(l->out)) {
        if (a == lead || !in_grid(a) || !has(l->out, lead) || step_of(k_, l->buffer, l->index, a) != 1) continue;
        const int64_t vector = vector_of(lead), across = vector_of(a);
        if (axis(lead).symbol || axis(a).symbol || vector < 4 || across < vector || axis(lead).extent < kTurned || axis(a).extent < kTurned) return false;
        give(lead, kTurnedLanes, vector, 1);
        const int64_t rows = (kBlock / kTurnedLanes);
        give(a, rows, 1, axis(lead).tile / rows);
        const std::vector<AxisId>& grid = k_.phases[0].grid;
        const bool last = grid.size() >= 2 && std::set{grid[grid.size() - 2], grid.back()} == std::set{a, lead};
        k_.phases[0].mirrored = last && axis(a).extent == axis(lead).extent && reads_both(l->buffer, a, lead);
        return true;
      }
    return false;
  }
  // Is the buffer read along both axes? Then two squares are each what the other one turns.
  bool reads_both(BufferId b, AxisId i, AxisId j) {
    const auto along = [&](AxisId a) { return std::any_of(facts_.loads.begin(), facts_.loads.end(), [&](const Load* l) { return l->buffer == b && step_of(k_, b, l->index, a) == 1; }); };
    return along(i) && along(j);
  }

  // One row times a matrix: nothing is used twice, so only loads that are on their way together hide memory's latency.
  bool is_vector_product() {
    if (facts_.products.size() != 1) return false;
    const Mma& m = *facts_.products[0];
    const auto summed = [&](ValueId v) { return std::all_of(axes_of(v).begin(), axes_of(v).end(), [&](AxisId a) { return std::count(m.axes.begin(), m.axes.end(), a) > 0; }); };
    return summed(m.a) != summed(m.b);
  }
  // Rows: the threads of a warp or of a block share one row.
  void lead_inner(AxisId lead) {
    const int64_t vector = vector_of(lead), extent = axis(lead).extent, rows = instances();
    const bool in_shared = k_.buffers.back().kind == BufferKind::scratch;
    const int64_t most = std::min<int64_t>(in_shared ? kRowThreads : 1024, power_up(ceil_div(extent, vector)));
    int64_t threads = std::min(most, power_up(ceil_div(extent, vector * 8)));
    const bool once = is_vector_product();
    if (once || in_shared) threads = std::min(most, std::max<int64_t>(threads, 32));
    while (!once && threads < most && rows * threads < kMachine) threads *= 2;
    if (threads == 1 && vector > 1 && extent >= 4 * vector) threads = 2;   // one alone would read a row element by element
    int64_t groups = std::clamp<int64_t>(ceil_div(extent, threads * vector), 1, once ? 8 : 4);
    if (in_shared)   // where loads are fast: no more steps than the row has
      while (groups > 1 && round_up(extent, threads * vector * groups) > round_up(extent, threads * vector)) --groups;
    std::vector<AxisId> inner = {lead};
    for (AxisId a : inner_axes())
      if (a != lead) inner.push_back(a);
    share_inner(inner, threads, groups, vector);
    // What a thread would still sum for long is shared along the other axes of the sum, the longest first.
    std::stable_sort(inner.begin(), inner.end(), [&](AxisId a, AxisId b) { return axis(a).extent > axis(b).extent; });
    for (AxisId a : inner) {
      const int64_t used = int64_t{1} << (lane_bit_ + warp_bit_), share = std::min({power_up(axis(a).extent), kBlock / used, power_up(ceil_div(kMachine, rows * used))});
      if (share > 1 && axis(a).spread == Spread{}) give(a, share, 1, 1);
    }
    if (!in_shared) spread_kept(-1, std::max<int64_t>(32, std::min(std::max(kBlock, threads), threads * power_up(rows))));   // a block has room for its row
    unroll_direct(-1);
  }

  // Loop axes share the same threads, as far as no tile has two of them.
  void share_inner(const std::vector<AxisId>& inner, int64_t threads, int64_t groups, int64_t vector = 1) {
    if (inner.empty() || threads <= 1) return;
    const int64_t lanes = lane_bit_, warps = warp_bit_;
    int64_t next_lane = lanes, next_warp = warps;
    std::set<AxisId> shared;
    for (AxisId a : inner) {
      if (!can_share(a, shared)) continue;
      // Another axis of the row's length is laid out like the first; a summed outer axis of it is walked.
      if (!shared.empty() && vector > 1 && contiguous_bytes(a) == 0 && axis(a).extent != axis(inner[0]).extent) continue;
      lane_bit_ = lanes, warp_bit_ = warps;
      int64_t v = vector;
      while (v > 1 && (!has_vectors(a, v) || (axis(a).symbol && !in_grid(a)))) v /= 2;
      give(a, threads, v, std::clamp<int64_t>(ceil_div(axis(a).extent, threads * v), 1, groups));
      shared.insert(a);
      next_lane = std::max(next_lane, lane_bit_), next_warp = std::max(next_warp, warp_bit_);
    }
    lane_bit_ = next_lane, warp_bit_ = next_warp;
  }

  // What is left of the block goes to kept axes, innermost first.
  void spread_kept(AxisId except, int64_t block) {
    const std::vector<AxisId>& grid = k_.phases[0].grid;
    for (size_t i = grid.size(); i-- > 0;) {
      const int64_t used = int64_t{1} << (lane_bit_ + warp_bit_);
      if (grid[i] == except || axis(grid[i]).extent < 2 || used >= block) continue;
      give(grid[i], std::min(block / used, power_up(axis(grid[i]).extent)), 1, 1);
    }
  }

  // A direct product: each thread keeps several of the other kept axis, so that what it loads is used more than once.
  void unroll_direct(AxisId lead) {
    if (facts_.products.empty()) return;
    const Mma& m = *facts_.products[0];
    for (const bool of_a : {true, false}) {
      AxisId longest = -1;
      for (AxisId a : axes_of(m.out))
        if (a != lead && has(m.a, a) == of_a && has(m.b, a) != of_a && axis(a).spread == Spread{} && (longest < 0 || axis(a).extent > axis(longest).extent)) longest = a;
      if (longest < 0) continue;
      int64_t& tile = axis(longest).tile = std::min<int64_t>(8, power_up(axis(longest).extent));
      while (tile > 1 && blocks() < 96) tile /= 2;
    }
  }

  // --- staged products ---
  struct Shape {
    int64_t rows, columns, depth;            // of the block tile
    int64_t row_warps, column_warps, depth_warps;
  };

  bool staged() {
    Mma* m = const_cast<Mma*>(facts_.products[0]);
    // The longest axis of each operand alone, as last in memory order among equals.
    AxisId i = -1, j = -1;
    for (AxisId a : axes_of(m->out)) {
      if (has(m->a, a) == has(m->b, a)) continue;
      AxisId& role = has(m->a, a) ? i : j;
      if (role < 0 || axis(a).extent >= axis(role).extent) role = a;
    }
    const AxisId depth = longest_of(m->axes);
    if (i < 0 || j < 0 || axis(i).extent < kShortSide || axis(j).extent < kShortSide) return false;
    // A short sum whose operands are read across it is as fast from memory: the loads are whole vectors there, too.
    if (axis(depth).extent < (runs_along(m->a, depth) || runs_along(m->b, depth) ? 8 : 16)) return false;
    if (!staging_is_legal(*m)) return false;
    // Columns are what stores run along.
    if (contiguous_bytes_of_stores(i) > contiguous_bytes_of_stores(j)) std::swap(i, j);

    if (m->precision == Precision::f32 && (f32_ == F32Products::tf32 || f32_ == F32Products::tf32x3)) m->precision = f32_ == F32Products::tf32 ? Precision::tf32 : Precision::tf32x3;
    const auto atom = best_atom(m->precision, arch_);
    if (!atom && is_of_tf32(m->precision)) m->precision = Precision::f32;
    m->atom = atom ? std::string(atom->name) : "simt";
    const Shape shape = choose(i, j, depth, atom, m->precision);
    const int64_t row_at = log2_of(shape.column_warps), depth_at = row_at + log2_of(shape.row_warps);
    if (atom) {
      axis(i).spread = rows_of(*atom, shape.row_warps, row_at);
      axis(j).spread = columns_of(*atom, shape.column_warps, 0);
    } else {
      const int64_t v = m->precision == Precision::f64 ? 2 : 4;
      // Rows that are read along the sum are taken one by one, so that their vectors meet different banks.
      axis(i).spread = {4, 3, shape.row_warps, row_at, runs_along(has(m->a, i) ? m->a : m->b, depth) ? 1 : std::min(v, shape.rows / (4 * shape.row_warps))};
      axis(j).spread = {8, 0, shape.column_warps, 0, std::min(v, shape.columns / (8 * shape.column_warps))};
    }
    axis(depth).spread = {1, 0, shape.depth_warps, depth_at, 1};
    for (AxisId a : {i, j})
      if (axis(a).spread.warps == 1) axis(a).spread.warps_at = 0;
    if (shape.depth_warps == 1) axis(depth).spread.warps_at = 0;
    const int64_t stage = (shape.rows + shape.columns + 16) * (shape.depth + 4) * (atom && !is_of_tf32(m->precision) ? 2 : m->precision == Precision::f64 ? 8
                                                                                                                                                          : 4);
    m->stages = std::clamp<int64_t>((arch_ >= 80 ? kShared : kShared / 2) / stage, 2, 4);
    axis(i).tile = shape.rows;
    axis(j).tile = shape.columns;
    axis(depth).tile = shape.depth;
    return true;
  }
  AxisId longest_of(const std::vector<AxisId>& axes) {
    AxisId out = axes.back();
    for (AxisId a : axes)
      if (axis(a).extent > axis(out).extent) out = a;
    return out;
  }
  // Is the operand read from memory along the axis?
  bool runs_along(ValueId v, AxisId a) const {
    const auto it = facts_.loaded.find(v);
    return it != facts_.loaded.end() && step_of(k_, it->second->buffer, it->second->index, a) == 1;
  }
  double contiguous_bytes_of_stores(AxisId a) {
    double bytes = 0;
    for (const Store* s : facts_.stores)
      if (step_of(k_, s->buffer, s->index, a) == 1) bytes += 1;
    return bytes;
  }
  // Operands come from loads and maps alone, so that they can be fetched in another layout.
  bool staging_is_legal(const Mma& m) {
    std::map<ValueId, const Stmt*> defined;
    const auto note = [&](const Block& block) {
      for (const Stmt& s : block) {
        if (const auto* l = std::get_if<Load>(&s.node)) defined[l->out] = &s;
        if (const auto* t = std::get_if<MapTile>(&s.node)) defined[t->out] = &s;
      }
    };
    const Block& top = k_.phases[0].body;
    note(top);
    int loops = 0;
    for (const Stmt& s : top)
      if (const auto* q = std::get_if<Seq>(&s.node)) {
        ++loops;
        note(q->body);
      } else if (std::holds_alternative<Each>(s.node)) {
        return false;
      }
    if (loops != 1) return false;
    const std::function<bool(ValueId)> pure = [&](ValueId v) {
      const auto it = defined.find(v);
      if (it == defined.end()) return false;
      if (const auto* l = std::get_if<Load>(&it->second->node))
        return std::all_of(l->index.begin(), l->index.end(), [&](const BoxIndex& b) { return b.gather < 0 || pure(b.gather); });
      const auto& args = std::get<MapTile>(it->second->node).args;
      return std::all_of(args.begin(), args.end(), pure);
    };
    return pure(m.a) && pure(m.b);
  }

  // The largest block tile that still gives most multiprocessors one; summed in shares where the output is small.
  Shape choose(AxisId i, AxisId j, AxisId depth, const std::optional<Atom>& atom, Precision precision) {
    std::vector<Shape> shapes;
    if (!atom && precision == Precision::f64) shapes = {{64, 64, 16, 4, 2, 1}, {32, 32, 32, 2, 1, 4}};
    else if (!atom) shapes = {{128, 128, 16, 4, 2, 1}, {64, 64, 16, 4, 2, 1}, {32, 32, 32, 2, 1, 4}, {16, 32, 64, 1, 1, 8}};
    else if (is_of_tf32(precision)) shapes = {{128, 128, 16, 2, 4, 1}, {64, 64, 32, 4, 2, 1}, {32, 32, 64, 2, 1, 4}, {16, 32, 64, 1, 1, 8}};
    else shapes = {{128, 128, 32, 2, 4, 1}, {64, 64, 32, 4, 2, 1}, {32, 32, 64, 2, 1, 4}, {16, 32, 128, 1, 1, 8}};
    const int64_t others = instances() / (axis(i).extent * axis(j).extent);
    Shape best = shapes.back();
    for (const Shape& s : shapes) {
      const bool fits = s.rows <= 2 * axis(i).extent && s.columns <= 2 * axis(j).extent;
      if (fits && others * ceil_div(axis(i).extent, s.rows) * ceil_div(axis(j).extent, s.columns) >= 96) {
        best = s;
        break;
      }
    }
    // A short sum is not shared between warps.
    while (best.depth_warps > 1 && best.depth / 2 >= axis(depth).extent) {
      best.depth /= 2;
      best.depth_warps /= 2;
    }
    return best;
  }
};

}  // namespace

Kernel plan_cuda(const Kernel& lowered, const std::string& arch, F32Products products, std::string* why, KernelSchedule* schedule) {
  const bool nested = has_nested_products(lowered), product = !Facts(lowered).products.empty();
  const auto matched = [&](const Kernel& k) { return pick(nested || !product ? k : match_dims(regroup(k))); };   // a batch's rows are one axis of a product, heads in a width two dims
  const Kernel kernel = matched(lowered);
  const int number = arch == "sm_75" ? 75 : arch == "sm_80" ? 80 : 90;
  if (number == 90 && product) {
    Kernel rounded = products == F32Products::f8 && !nested ? matched(of_bytes(lowered)) : kernel;
    for (const Mma* m : Facts(rounded).products)
      if (products == F32Products::tf32 && m->precision == Precision::f32) const_cast<Mma*>(m)->precision = Precision::tf32;
    std::string reason;
    if (auto roles = nested ? plan_nested_roles(kernel, reason) : plan_roles(rounded, reason, schedule)) return std::move(*roles);
    if (why) *why = reason;
  }
  Planner planner(kernel, number, products);
  if (planner.walks_rows()) {
    if (const auto whole = whole_row(kernel)) return Planner(whole->kernel, number, products).whole(*whole);
    if (const auto shared = number >= 80 ? row_in_shared(kernel, kRowBytes) : std::nullopt) return Planner(*shared, number, products).run();
  }
  return planner.run();
}

}  // namespace quern
