// See roles.h.
#include "passes/tile/roles.h"

#include <algorithm>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/atoms.h"
#include "passes/tile/facts.h"
#include "passes/tile/reach.h"
#include "passes/tile/schedule.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kRow = 128;             // bytes of a slot's rows
constexpr int64_t kShared = 227 << 10;    // bytes of shared memory that a block may have
constexpr int64_t kMostShares = 8;
constexpr int64_t kClusters[] = {0, 132, 64, 36, 24, 14, 14, 14, 14};   // groups of 1 to 8 blocks that a machine of 132 was seen to hold at once; constants, so that plans do not vary
constexpr int64_t kGroup = 8;             // tiles of rows that neighbours walk
constexpr int64_t kFewRows = 3;           // products of fewer rows are read by threads
constexpr int64_t kCache = 20 << 20;      // bytes of operands that stay near the multiprocessors
constexpr int64_t kMany = 1 << 20;        // elements of the other operand from which rows fewer than a tile has pay
constexpr int64_t kRegisters = 200, kFewRegisters = 120;   // of a thread, for sums and what follows them; where three instances multiply
constexpr int64_t kDealt = 32;            // columns of what a block adds up at a time
constexpr int64_t kStages = 4;            // of operands, left beside what is loaded early

/// A way to take the tiles.
struct Tiling {
  int64_t instances, blocks, columns;   // of the role that multiplies; 64 rows each, times blocks
  bool turns;
  int64_t sends;                        // slots of the ring of outputs
  int64_t shares = 1;                   // blocks, of a tile: each sums over a part
  int64_t rows() const { return 64 * blocks * (turns ? 1 : instances); }
  int64_t sums() const { return blocks * columns / 2; }   // registers
};
// Of equal cost the first.
constexpr Tiling kTilings[] = {
    {1, 1, 64, false, 1},
    {1, 1, 128, false, 1},
    {1, 1, 192, false, 1},
    {2, 2, 128, true, 2},
    {2, 2, 192, true, 1},
    {2, 1, 256, false, 2},
    {2, 2, 128, false, 2},
    {2, 1, 192, false, 2},
    {3, 1, 192, false, 2},
    {2, 1, 128, false, 2},
    {2, 1, 64, false, 2},
};

struct Refused {
  std::string why;
};

class RolePlanner {
 public:
  RolePlanner(const Kernel& kernel, KernelSchedule* schedule) : before_(kernel), schedule_(schedule), k_(kernel) {}

  Kernel run() {
    find_product();
    find_axes();
    find_operands();
    tiling_ = choose();
    build();
    return std::move(k_);
  }

 private:
  const Kernel& before_;
  KernelSchedule* schedule_;
  Kernel k_;
  const Seq* loop_ = nullptr;
  const Mma* product_ = nullptr;
  const Load *a_ = nullptr, *b_ = nullptr;   // of the rows, of the columns
  std::vector<const Store*> stores_;
  AxisId row_ = -1, column_ = -1, depth_ = -1, part_rows_ = -1, part_columns_ = -1, share_ = -1;
  std::vector<AxisId> places_;               // what is summed beside the depth: of each place one step or more, as of a window
  Tiling tiling_{};
  int64_t step_ = 64;                        // elements of a slot along the sum
  bool taken_ = false;                       // the rows' operand lies across the sum, where only registers can turn it
  bool turned_ = false;                      // outputs run along the rows
  int64_t ops_ = 0;                          // of what follows the product, per element
  int64_t widest_ = 2;                       // bytes of an output's element

  static void want(bool condition, const std::string& why) {
    if (!condition) throw Refused{why};
  }
  const std::vector<AxisId>& axes_of(ValueId v) const { return before_.values[static_cast<size_t>(v)].axes; }
  bool has(ValueId v, AxisId a) const { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; }
  int64_t extent(AxisId a) const { return before_.axes[static_cast<size_t>(a)].extent; }

  // One sum of products of two loads; else loads, maps and stores.
  void find_product() {
    want(before_.phases.size() == 1 && std::none_of(before_.axes.begin(), before_.axes.end(), [](const Axis& a) { return a.extent < 1 || a.from || a.to; }), "it is empty, or a loop does not walk all of an axis");
    for (const Stmt& s : before_.phases[0].body) {
      if (const auto* q = std::get_if<Seq>(&s.node)) {
        want(!loop_, "it has several loops");
        loop_ = q;
      } else if (const auto* t = std::get_if<Store>(&s.node)) {
        const DType d = before_.buffers[static_cast<size_t>(t->buffer)].dtype;
        want(d == DType::bf16 || d == DType::f16 || d == DType::f32 || size_of(d) == 1, fmt::format("an output is {}", name_of(d)));
        stores_.push_back(t);
        widest_ = std::max<int64_t>(widest_, size_of(d));
      } else if (const auto* m = std::get_if<MapTile>(&s.node)) {
        ops_ += std::count_if(m->expr.begin(), m->expr.end(), [](const ScalarNode& n) { return n.kind == ScalarNode::Kind::op && n.op != Op::cast; });
      } else {
        const auto* l = std::get_if<Load>(&s.node);
        want(l && before_.buffers[static_cast<size_t>(l->buffer)].kind == BufferKind::in && std::all_of(l->index.begin(), l->index.end(), [](const BoxIndex& b) { return b.gather < 0; }), "not only loads, maps and stores surround the product");
        ++ops_;
      }
    }
    want(loop_ && loop_->carries.size() == 1 && loop_->body.size() == 3, "its loop is not one product of two loads");
    product_ = std::get_if<Mma>(&loop_->body.back().node);
    const auto *first = std::get_if<Load>(&loop_->body[0].node), *second = std::get_if<Load>(&loop_->body[1].node);
    want(product_ && first && second && product_->out == loop_->yields[0] && product_->acc == loop_->carries[0].var && loop_->carries[0].init.f == 0, "its loop is not one product of two loads");
    want(product_->precision == Precision::bf16 || product_->precision == Precision::f16 || product_->precision == Precision::tf32 || in_parts(), "its operands have not 16 bits");
    want(loop_->axes == product_->axes, "it sums over axes of several loops");
    step_ = kRow / operand_size();
    a_ = first->out == product_->a ? first : second, b_ = first->out == product_->b ? first : second;
    want(a_ != b_ && !stores_.empty(), "its loop is not one product of two loads");
  }

  // Columns are what outputs run along; rows an axis that only the other operand has, and depth a summed one: those of which the
  // copy engine can fetch whole tiles, the longest first.
  void find_axes() {
    for (AxisId a : axes_of(product_->out))
      if (std::all_of(stores_.begin(), stores_.end(), [&](const Store* s) { return step_of(before_, s->buffer, s->index, a) == 1; })) column_ = a;
    want(column_ >= 0, "its outputs do not run along one axis");
    if (has(a_->out, column_)) std::swap(a_, b_);
    want(has(b_->out, column_) && !has(a_->out, column_), "outputs run along an axis that both operands have, or none");
    std::vector<AxisId> rows, depths = product_->axes;
    for (AxisId a : axes_of(product_->out))
      if (has(a_->out, a) && !has(b_->out, a)) rows.push_back(a);
    want(!rows.empty(), "it is smaller than one tile");
    const auto longer = [&](AxisId a, AxisId b) { return extent(a) > extent(b); };
    std::stable_sort(rows.begin(), rows.end(), longer);
    std::stable_sort(depths.begin(), depths.end(), longer);
    std::string why;   // against the longest
    for (AxisId d : depths)
      for (AxisId r : rows) {
        if (row_ >= 0) continue;
        if (const std::string x = out_of_reach(r, d); x.empty()) row_ = r, depth_ = d;
        else if (why.empty()) why = x;
      }
    want(row_ >= 0, why);
    for (AxisId a : product_->axes)
      if (a != depth_) places_.push_back(a);
    want(extent(column_) >= 64 && extent(depth_) >= 16, "it is smaller than one tile");
    want(extent(row_) >= 64 || (extent(row_) >= kFewRows && extent(column_) * extent(depth_) >= kMany), "it is smaller than one tile");
    for (AxisId a : {column_, depth_}) want(before_.axes[static_cast<size_t>(a)].symbol == 0, "its columns or what it sums are as many as the run says");
    for (const Store* s : stores_) want(has(s->value, row_) && has(s->value, column_), "an output lacks an axis of the product");
  }

  std::string out_of_reach(AxisId row, AxisId depth) const {
    std::string why;
    for (const Load* l : {a_, b_})
      if (const AxisId own = l == a_ ? row : column_; why.empty()) why = quern::out_of_reach(before_, l->buffer, l->index, own, depth, own, step_);
    for (const Store* s : stores_)
      if (why.empty()) why = quern::out_of_reach(before_, s->buffer, s->index, row, column_);
    return why;
  }

  // Operands of 32 bits are multiplied where they run along the sum; one that does not is the rows', and goes through registers. Those of 8 run along it.
  void find_operands() {
    const auto runs = [&](const Load* l) { return step_of(before_, l->buffer, l->index, depth_) == 1; };
    want(!in_parts() || (runs(a_) && runs(b_)), "an operand of 8 bits lies across the sum");
    if (product_->precision != Precision::tf32) return;
    want(runs(a_) || runs(b_), "both operands of 32 bits lie across the sum");
    taken_ = !runs(a_) || !runs(b_);
    turned_ = !runs(b_);
    if (turned_) std::swap(a_, b_), std::swap(row_, column_);
  }
  // Sums of f8 keep few bits: those of one step are added up in f32, in registers of their own.
  bool in_parts() const { return product_->precision == Precision::f8; }
  int64_t operand_size() const { return size_of(before_.values[static_cast<size_t>(product_->a)].dtype); }

  // Shares are parts of the axis that has most steps of the sum; what each of so many has, in whole steps.
  int64_t step_along(AxisId a) const { return a == depth_ ? step_ : 1; }
  AxisId shared_axis() const {
    const auto steps_along = [&](AxisId a) { return ceil_div(extent(a), step_along(a)); };
    AxisId most = depth_;
    for (AxisId a : places_)
      if (steps_along(a) > steps_along(most)) most = a;
    return most;
  }
  int64_t share_of(int64_t shares) const { return round_up(ceil_div(extent(shared_axis()), shares), step_along(shared_axis())); }
  int64_t slot_bytes(const Tiling& s) const { return (s.rows() + s.columns) * kRow; }
  int64_t part_columns(const Tiling& s) const { return s.shares > 1 ? kDealt : 128 / widest_; }
  int64_t ring_bytes(const Tiling& s) const {   // of outputs, all instances
    int64_t bytes = 0;
    for (DType d : output_types()) bytes += s.instances * (takes_early(s) ? parts(s) : s.sends) * 64 * part_columns(s) * size_of(d);
    return bytes;
  }
  std::vector<DType> output_types() const {
    std::vector<DType> out;
    for (const Store* s : stores_)
      if (const DType d = before_.buffers[static_cast<size_t>(s->buffer)].dtype; !std::count(out.begin(), out.end(), d)) out.push_back(d);
    return out;
  }
  // A load of the one output's type and place waits in the output's slots while the product is made, where all parts of a tile fit.
  int64_t parts(const Tiling& s) const { return s.blocks * s.columns / part_columns(s); }
  const Load* early_load() const {
    if (stores_.size() != 1 || turned_ || size_of(before_.buffers[static_cast<size_t>(stores_[0]->buffer)].dtype) != 2) return nullptr;
    for (const Stmt& s : before_.phases[0].body)
      if (const auto* l = std::get_if<Load>(&s.node); l && before_.buffers[static_cast<size_t>(l->buffer)].dtype == before_.buffers[static_cast<size_t>(stores_[0]->buffer)].dtype)
        if (std::equal(l->index.begin(), l->index.end(), stores_[0]->index.begin(), stores_[0]->index.end(), [](const BoxIndex& a, const BoxIndex& b) { return a.index == b.index; }) &&
            quern::out_of_reach(before_, l->buffer, l->index, row_, column_).empty())
          return l;
    return nullptr;
  }
  bool takes_early(const Tiling& s) const {
    const int64_t slots = s.instances * parts(s) * 64 * part_columns(s) * widest_;
    return s.shares == 1 && early_load() && before_.axes[static_cast<size_t>(row_)].symbol == 0 && extent(row_) % s.rows() == 0 && extent(column_) % s.columns == 0 &&
           (kShared - 1024 - slots) / slot_bytes(s) >= kStages;
  }
  int64_t stages(const Tiling& s) const { return std::min<int64_t>(8, (kShared - 1024 - ring_bytes(s)) / slot_bytes(s)); }

  // Nanoseconds, fitted to measurements of one chip: products of one step (tensor units, reads of shared memory, rows that are loaded),
  // what follows a tile, what blocks tell each other, waves; at least what memory takes.
  double cost(const Tiling& s) const {
    const double bm = static_cast<double>(s.rows()), bn = static_cast<double>(s.columns), tile = bm * bn;
    const bool shared = s.shares > 1;
    int64_t others = 1;
    for (AxisId a : before_.phases[0].grid)
      if (a != row_ && a != column_) others *= extent(a);
    const int64_t tiles = others * ceil_div(extent(row_), s.rows()) * ceil_div(extent(column_), s.columns);
    const int64_t at_once = kClusters[s.shares];
    const double waves = static_cast<double>(ceil_div(tiles, at_once)), blocks = static_cast<double>(std::min(tiles, at_once) * s.shares);
    const double units = std::max(tile / 32 / 0.98, bm + bn * bm / 64) / 1.45 * (s.instances == 1 ? 0.95 : s.turns ? 1 : 1.05);
    // Rows of 128 bytes that a block loads, and all blocks together: those that meet two lines; of operands larger than a cache; of other parts of the sum.
    const double rows = std::min(bm, static_cast<double>(extent(row_)));
    const double loads = rows * (is_aligned(*a_) ? 0.9 : 1.5) + bn * (is_aligned(*b_) ? 0.9 : 1.5);
    const double crossing = blocks * ((is_aligned(*a_) ? 0 : rows) + (is_aligned(*b_) ? 0 : bn)) / 40;
    const double all = blocks * (rows + bn) / (shared ? 48 : 93) * (shared || operand_bytes() > kCache ? 1 : 0);
    // What the blocks of a wave read, each tile of an operand once. Blocks of several waves drift apart; where that is far more than a cache holds,
    // a quarter of all loads then comes from memory (5.0 of 19.8 GB of 50257x768, 16384 summed).
    const int64_t down = ceil_div(extent(row_), s.rows()), along = ceil_div(extent(column_), s.columns), walked = std::min(down, std::max(kGroup, at_once / along));
    const int64_t wave_bytes = (walked * s.rows() + std::min(along, ceil_div(at_once, walked)) * s.columns) * summed() * operand_size();
    const double missed = waves > 1 && !shared && places_.empty() && wave_bytes > 2 * kCache ? blocks * (rows + bn) * kRow / 4 / 2400 : 0;
    const double windows = places_.empty() ? 0 : blocks * (rows + bn) / 80;   // what they read again comes from the cache that all share
    const double added = in_parts() ? (tile / 128 + 60) / static_cast<double>(s.instances * s.instances) / 1.45 : 0;   // behind the products of an instance, beside another's
    const double step = std::max({units + added, loads, crossing, all, missed, windows, s.instances == 1 ? 112.0 : 0.0});
    double mainloop = step;
    for (AxisId a : steps()) mainloop *= static_cast<double>(ceil_div(shared && a == shared_axis() ? share_of(s.shares) : extent(a), step_along(a)));
    const bool crowded = !shared && loaded(s) > 0 && !takes_early(s) && s.sums() + loaded(s) + part_sums(s) > kRegisters;   // a part's loads wait for one another
    const double after = tile / 15 * static_cast<double>(widest_) / 2 * (stores_.size() > 1 ? 2.2 : 1) * (crowded ? 1.5 : 1) / static_cast<double>(s.shares);
    const double exchange = shared ? 1000 + 150 * static_cast<double>(s.shares) + tile * 4 * static_cast<double>(s.shares - 1) / static_cast<double>(s.shares) / 24 : 0;
    const double time = s.turns ? waves * mainloop + (waves > 1 ? 1 : 2) * after : waves * (mainloop + exchange + after);
    return std::max(1800 + time, 2000 + static_cast<double>(operand_bytes()) / 2700);
  }
  int64_t summed() const {
    int64_t n = 1;
    for (AxisId a : steps()) n *= extent(a);
    return n;
  }
  int64_t operand_bytes() const {
    int64_t bytes = 0;
    for (const Load* l : {a_, b_}) bytes += count(before_.buffers[static_cast<size_t>(l->buffer)].shape) * operand_size();
    return bytes;
  }
  // Does a row of a slot lie in one line of 128 bytes?
  bool is_aligned(const Load& l) const {
    const Shape strides = before_.buffers[static_cast<size_t>(l.buffer)].strides();
    return strides[strides.size() - 2] * operand_size() % kRow == 0;
  }
  bool is_possible(const Tiling& s) const {
    if (stages(s) < 3 || (s.instances > 2 && s.shares == 1)) return false;   // of three each has registers for its sums, and few for what follows
    if (taken_ && s.blocks > 1) return false;                                // an operand in registers has 64 rows
    if (in_parts() && (s.blocks > 1 || s.turns || 2 * s.sums() > (s.instances > 2 ? kFewRegisters : kRegisters))) return false;   // maps of sums have 64 rows, too, and work while another instance multiplies
    if (s.shares > 1) return !s.turns && ceil_div(extent(shared_axis()), share_of(s.shares)) == s.shares && s.rows() * s.columns * 4 <= stages(s) * slot_bytes(s);
    return s.sums() <= 128 || (ops_ == 0 && stores_.size() == 1);   // beside more sums there is no room for what is computed from them
  }
  Tiling choose() const {
    std::vector<Tiling> ways;
    for (Tiling s : kTilings)
      for (s.shares = 1; s.shares <= kMostShares; ++s.shares)
        if (is_possible(s)) ways.push_back(s);
    want(!ways.empty(), "no tile fits shared memory");
    const Tiling best = *std::min_element(ways.begin(), ways.end(), [&](const Tiling& a, const Tiling& b) { return cost(a) < cost(b); });
    if (!schedule_) return best;
    std::erase_if(ways, [&](const Tiling& s) { return s.shares != best.shares; });   // they order sums
    std::vector<KernelSchedule::Way> choices;
    for (const Tiling& s : ways) choices.push_back({{{"instances", s.instances}, {"blocks", s.blocks}, {"columns", s.columns}, {"turns", s.turns}}, cost(s)});
    size_t standard = 0;
    while (choices[standard].cost != cost(best)) ++standard;
    return ways[schedule_->choose_way(std::move(choices), standard)];
  }

  // --- the new kernel ---
  ValueId value(DType dtype, std::vector<AxisId> axes) {
    std::sort(axes.begin(), axes.end());
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  AxisId axis(AxisId around, int64_t tile) {
    Axis a = k_.axes[static_cast<size_t>(around)];   // its extent and symbol
    a.name = fmt::format("i{}", k_.axes.size());
    a.tile = tile;
    a.within = around;
    k_.axes.push_back(std::move(a));
    return static_cast<AxisId>(k_.axes.size() - 1);
  }
  static Stmt in_role(auto node) { return {InRole{std::move(node)}}; }
  // The axes of a channel's part in memory order.
  Value part_of(BufferId b, const std::vector<BoxIndex>& index, AxisId first, AxisId second) const {
    return {before_.buffers[static_cast<size_t>(b)].dtype, index.back().index.uses(first) ? std::vector{second, first} : std::vector{first, second}};
  }
  // What follows the product, on parts of it: its axes are other ones there.
  Index moved(const Index& i) const {
    return i.substitute([&](int a, int64_t extent) { return Index::axis(a == row_ ? part_rows_ : a == column_ ? part_columns_
                                                                                                              : a,
                                                                        extent); });
  }
  std::vector<BoxIndex> moved(std::vector<BoxIndex> box) const {
    for (BoxIndex& b : box) b.index = moved(b.index);
    return box;
  }

  void build() {
    const Tiling& s = tiling_;
    for (Axis& a : k_.axes) a.tile = 1;
    k_.axes[static_cast<size_t>(row_)].tile = s.rows();
    k_.axes[static_cast<size_t>(column_)].tile = s.columns;
    k_.axes[static_cast<size_t>(depth_)].tile = step_;
    const bool shared = s.instances > 1 && !s.turns;
    const AxisId rows = shared ? axis(row_, 64 * s.blocks) : row_;
    part_rows_ = axis(rows, 64);
    part_columns_ = axis(column_, part_columns(s));
    if (s.shares > 1) {
      share_ = axis(shared_axis(), share_of(s.shares));
      k_.axes[static_cast<size_t>(share_)].within = -1;
      k_.axes[static_cast<size_t>(shared_axis())].within = share_;
    }
    const Atom atom = *find_atom(atom_name(), product_->precision);
    if (in_parts()) k_.axes[static_cast<size_t>(rows)].spread = rows_of(atom, 1, 0), k_.axes[static_cast<size_t>(column_)].spread = columns_of(atom, 1, 0);
    if (taken_) k_.axes[static_cast<size_t>(rows)].spread = rows_of(atom, 1, 0), k_.axes[static_cast<size_t>(depth_)].spread = depth_of(atom);
    k_.axes[static_cast<size_t>(part_rows_)].spread = rows_of(atom, 1, 0);
    k_.axes[static_cast<size_t>(part_columns_)].spread = columns_of(atom, 1, 0);

    Phase p;
    for (AxisId a : before_.phases[0].grid)
      if (a != row_ && a != column_) p.grid.push_back(a);
    p.grid.insert(p.grid.end(), {row_, column_});
    p.group = kGroup;
    p.shared = share_;
    p.channels.push_back({"c0", {part_of(a_->buffer, a_->index, row_, depth_), part_of(b_->buffer, b_->index, column_, depth_)}, stages(s)});
    for (DType d : output_types()) p.channels.push_back({fmt::format("c{}", p.channels.size()), {Value{d, turned_ ? std::vector{part_columns_, part_rows_} : std::vector{part_rows_, part_columns_}}}, takes_early(s) ? parts(s) : s.sends});

    Fetch fetch{0, {}};
    for (const Load* l : {a_, b_}) fetch.loads.push_back({value(before_.buffers[static_cast<size_t>(l->buffer)].dtype, {l == a_ ? row_ : column_, depth_}), l->buffer, l->index});
    Role load{"load"}, math{"math", s.instances};
    load.body.push_back({Seq{steps(), {}, {in_role(std::move(fetch))}, {}, {}}});
    if (s.turns) math.turns = true;
    else if (shared) math.along = {rows};
    if (s.instances > 1) load.registers = 40, math.registers = s.instances == 2 ? 232 : 152;
    multiply(math, rows, s);
    p.roles.push_back(std::move(load));
    p.roles.push_back(std::move(math));
    k_.phases = {std::move(p)};
  }

  std::vector<AxisId> steps() const {
    std::vector<AxisId> axes = places_;
    axes.push_back(depth_);
    return axes;
  }
  std::string atom_name() const { return fmt::format("m64n{}k{}", tiling_.columns, 32 / operand_size()); }

  void multiply(Role& math, AxisId rows, const Tiling& s) {
    const auto type_of = [&](const Load* l) { return before_.buffers[static_cast<size_t>(l->buffer)].dtype; };
    const DType dtype = type_of(a_);
    const ValueId carry = value(DType::f32, {rows, column_}), sum = value(DType::f32, {rows, column_}), total = value(DType::f32, {rows, column_});
    const ValueId a = value(dtype, {row_, depth_}), b = value(type_of(b_), {column_, depth_});
    Seq q{steps(), {{carry, loop_->carries[0].init}}, {}, {sum}, {total}};
    // Products read operands in registers to their end: those of one step are taken when that of the step before is done.
    const Stmt done = in_role(Await{0}), release = in_role(Past{steps(), {in_role(Release{0, 0})}});
    if (taken_) q.body = planted(Fault::slot_released_early) ? Block{release, done} : Block{done, release};
    q.body.push_back(in_role(Get{0, {a, b}}));
    ValueId mine = a;
    if (rows != row_) {
      mine = value(dtype, {rows, depth_});
      q.body.push_back(in_role(Slice{mine, a}));
    }
    if (taken_) {
      const ValueId in_registers = value(dtype, {rows, depth_});
      q.body.push_back({MapTile{in_registers, {{ScalarNode::Kind::operand, dtype}}, {mine}}});
      mine = in_registers;
    }
    Mma m{sum, product_->precision, {depth_}, carry, mine, b, atom_name()};
    m.issued = true;
    const bool in_parts = this->in_parts() && !planted(Fault::short_sums_kept);
    if (in_parts) {
      m.acc = value(DType::f32, {rows, column_}), m.out = value(DType::f32, {rows, column_});
      q.body.push_back({MapTile{m.acc, {{ScalarNode::Kind::constant, DType::f32, Op::add, {}, Scalar::of(DType::f32, 0)}}, {}}});
    }
    q.body.push_back({m});
    if (this->in_parts()) {
      const Block done = {in_role(Await{0}), in_role(Release{0, 0})};
      q.body.insert(q.body.end(), done.begin(), done.end());
      if (planted(Fault::slot_released_early)) std::swap(q.body[q.body.size() - 2], q.body.back());
      if (in_parts) q.body.push_back({MapTile{sum, sum_of_two(), {carry, m.out}}});
    } else if (!taken_) {
      q.body.push_back(in_role(Await{1}));
      q.body.push_back(in_role(Past{steps(), {in_role(Release{0, planted(Fault::slot_released_early) ? 0 : 1})}}));
    }
    if (s.turns) math.body.push_back(in_role(Turn{true}));
    math.body.push_back({std::move(q)});
    if (s.turns) math.body.push_back(in_role(Turn{false}));
    if (!this->in_parts()) {
      math.body.push_back(in_role(Await{0}));
      math.body.push_back(in_role(Release{0, 0}));
    }
    if (s.shares == 1) {
      math.body.push_back({Each{{part_rows_, part_columns_}, after(total)}});
    } else {
      math.body.push_back(in_role(Share{total}));
      math.body.push_back(in_role(Deal{{part_rows_, part_columns_}, after(total)}));
    }
  }

  static ScalarExpr sum_of_two() {
    ScalarExpr e{{ScalarNode::Kind::operand, DType::f32}, {ScalarNode::Kind::operand, DType::f32}, {ScalarNode::Kind::op, DType::f32, Op::add, {0, 1}}};
    e[1].operand = 1;
    return e;
  }
  // Registers of what a part loads.
  int64_t loaded(const Tiling& tiling) const {
    int64_t bytes = 0;
    for (const Stmt& s : before_.phases[0].body)
      if (const auto* l = std::get_if<Load>(&s.node))
        bytes += (has(l->out, row_) ? 2 : 1) * (has(l->out, column_) ? part_columns(tiling) / 4 : 1) * size_of(before_.values[static_cast<size_t>(l->out)].dtype);
    return ceil_div(bytes, 4);
  }
  int64_t part_sums(const Tiling& s) const { return 64 * part_columns(s) / 128; }
  // Loads, maps and stores around the product, for one part.
  Block after(ValueId total) {
    Block out;
    const ValueId part = value(DType::f32, {part_rows_, part_columns_});
    std::map<ValueId, ValueId> names = {{loop_->outs[0], part}};
    const auto renamed = [&](ValueId v) {
      std::vector<AxisId> axes;
      for (AxisId a : axes_of(v))
        if (a == row_ || a == column_) axes.push_back(a == row_ ? part_rows_ : part_columns_);
      return names[v] = value(before_.values[static_cast<size_t>(v)].dtype, std::move(axes));
    };
    // All loads are on their way together, and where registers allow it while the part before is computed.
    const int64_t sums = share_ < 0 ? tiling_.sums() : 0;   // shared ones are in memory by then
    const bool ahead = sums + 2 * loaded(tiling_) + part_sums(tiling_) <= (tiling_.instances > 2 ? kFewRegisters : kRegisters);
    for (const Stmt& s : before_.phases[0].body)
      if (const auto* l = std::get_if<Load>(&s.node)) {
        const bool early = takes_early(tiling_) && l == early_load();
        out.push_back({Load{renamed(l->out), l->buffer, moved(l->index), ahead && !early, early}});
      }
    if (share_ >= 0 && !planted(Fault::share_left_out)) out.push_back(in_role(Total{part, total}));
    else out.push_back(in_role(Slice{part, total}));
    const std::vector<DType> types = output_types();
    for (const Stmt& s : before_.phases[0].body) {
      if (const auto* m = std::get_if<MapTile>(&s.node)) {
        MapTile t{0, m->expr, {}};
        for (ScalarNode& n : t.expr)
          if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) n.coord = moved(n.coord);
        for (ValueId v : m->args) t.args.push_back(names.at(v));
        t.out = renamed(m->out);
        out.push_back({std::move(t)});
      } else if (const auto* t = std::get_if<Store>(&s.node)) {
        const DType d = before_.buffers[static_cast<size_t>(t->buffer)].dtype;
        const int channel = 1 + static_cast<int>(std::find(types.begin(), types.end(), d) - types.begin());
        out.push_back(in_role(Put{channel, {names.at(t->value)}}));
        out.push_back(in_role(Fence{}));
        out.push_back(in_role(Send{channel, {Store{t->buffer, moved(t->index), value(d, {part_rows_, part_columns_})}}}));
      }
    }
    return out;
  }
};

}  // namespace

std::optional<Kernel> plan_roles(const Kernel& kernel, std::string& why, KernelSchedule* schedule) {
  try {
    return RolePlanner(kernel, schedule).run();
  } catch (const Refused& r) {
    why = r.why;
    return std::nullopt;
  }
}

}  // namespace quern
