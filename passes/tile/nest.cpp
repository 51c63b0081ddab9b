// See nest.h. A panel pays when it is read by many row tiles and the operand is large or is masked where it is outside,
// and when it is read twice and would be gathered or computed each time.
#include "passes/tile/nest.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/facts.h"
#include "passes/tile/schedule.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kManyRowTiles = 7, kLargeOperand = 96 << 10, kFarOperand = 1 << 20, kAskedFor = 512 << 10, kLargestGathered = 64 << 20;   // tiles, bytes
constexpr int64_t kWholeSum = 1280, kSumBlock = 512, kStreamedBlock = 16;   // elements of the sum that one panel holds
constexpr int64_t kInstances = 16, kFewInstances = 4, kStreams = 6, kFewestRowTiles = 16, kPackedRowsPanels = 4, kCopiedRowTiles = 8;   // wanted of a grid; at least of an instance

class Nest {
 public:
  Nest(const Kernel& kernel, const CpuArch& arch, KernelSchedule& schedule) : original_(kernel), k_(kernel), arch_(arch), schedule_(schedule) {}

  Kernel run() {
    if (!find_product()) return original_;
    const auto lanes = std::find_if(axes_of(mma_->out).begin(), axes_of(mma_->out).end(), [&](AxisId a) { return axis(a).lanes; });
    if (lanes == axes_of(mma_->out).end()) return inner_product();
    lanes_ = *lanes;
    return outer_product();
  }

 private:
  const Kernel& original_;
  Kernel k_;
  const CpuArch& arch_;
  KernelSchedule& schedule_;
  struct Operand {
    ValueId value;
    std::vector<size_t> makers;   // statements of the loop, in order: one load, perhaps with maps of it (a window with holes reads 0 there)
    const Load* load = nullptr;
  };
  Seq* seq_ = nullptr;
  const Mma* mma_ = nullptr;
  AxisId lanes_ = -1, rows_ = -1;        // -1: a single row
  std::optional<Operand> wide_, tall_;   // along the lanes, along the rows
  bool in_bounds_ = false;               // nothing of the wide one is masked or computed
  bool in_panels_ = false;               // it lies in panels that whole tiles fit into: it is read there
  bool pack_ = false, pack_rows_ = false, turn_rows_ = false, streamed_ = false;
  bool ahead_ = false;                   // the product asks for what its panels will hold next
  AxisId sum_block_ = -1, row_group_ = -1;   // blocks of the sum; rows whose operand is copied together
  int64_t depth_ = 0;                    // of the sum in a block

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }
  DType dtype_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].dtype; }
  bool has(ValueId v, AxisId a) const { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; }
  bool in_grid(AxisId a) const { return std::count(k_.phases[0].grid.begin(), k_.phases[0].grid.end(), a) > 0; }
  int64_t tiles(AxisId a) { return ceil_div(axis(a).extent, axis(a).tile); }

  // The product stands in a seq at the top of the block.
  bool find_product() {
    seq_ = lone_loop(k_.phases[0].body);
    if (!seq_) return false;
    for (const Stmt& s : seq_->body)
      if (const auto* m = std::get_if<Mma>(&s.node)) mma_ = m;
    return mma_ != nullptr;
  }

  AxisId new_axis(AxisId like, int64_t tile, AxisId within = -1) {
    k_.axes.push_back({fmt::format("i{}", k_.axes.size()), axis(like).extent, tile, false, {}, axis(like).symbol, within});
    return static_cast<AxisId>(k_.axes.size() - 1);
  }
  // The axis keeps its tiles but stands within blocks of a new one.
  AxisId block_axis(AxisId a, int64_t tile) { return axis(a).within = new_axis(a, tile); }
  BufferId new_scratch(DType dtype, Shape shape) {
    const size_t first = static_cast<size_t>(k_.params());
    k_.buffers.push_back({fmt::format("s{}", k_.buffers.size() - first), BufferKind::scratch, dtype, std::move(shape)});
    return static_cast<BufferId>(k_.buffers.size() - 1);
  }
  ValueId new_value(DType dtype, std::vector<AxisId> axes) {
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  Index coordinate(AxisId a) const { return k_.coordinate(a); }

  // --- operands ---
  std::optional<Operand> operand(ValueId value) const {
    Operand out{value, {}, nullptr};
    const std::function<bool(ValueId)> collect = [&](ValueId v) {
      size_t at = 0;
      while (at < seq_->body.size() && made_by(seq_->body[at]) != v) ++at;
      if (at == seq_->body.size()) return false;
      if (std::count(out.makers.begin(), out.makers.end(), at)) return true;
      if (const auto* map = std::get_if<MapTile>(&seq_->body[at].node)) {
        if (!std::all_of(map->args.begin(), map->args.end(), collect)) return false;
      } else if (std::exchange(out.load, &std::get<Load>(seq_->body[at].node))) {
        return false;   // two loads
      }
      out.makers.push_back(at);
      return true;
    };
    if (!collect(value) || !out.load) return std::nullopt;
    for (const BoxIndex& b : out.load->index)
      if (b.gather >= 0) return std::nullopt;
    std::sort(out.makers.begin(), out.makers.end());
    return out;
  }
  // The block that copies it: the makers on fresh axes, then a store.
  Block copy(const Operand& o, BufferId scratch, const std::vector<Index>& place, const std::map<AxisId, AxisId>& fresh) {
    const auto renamed = [&](const Index& e) {
      return e.substitute([&](int a, int64_t extent) {
        const auto it = fresh.find(a);
        return it == fresh.end() ? Index::axis(a, extent) : coordinate(it->second);
      });
    };
    std::map<ValueId, ValueId> copies;
    const auto copy_of = [&](ValueId old) {
      std::vector<AxisId> axes;
      for (AxisId a : axes_of(old)) axes.push_back(fresh.count(a) ? fresh.at(a) : a);
      std::sort(axes.begin(), axes.end());
      return copies[old] = new_value(dtype_of(old), std::move(axes));
    };
    Block out;
    for (size_t at : o.makers) {
      Stmt s = seq_->body[at];
      if (auto* l = std::get_if<Load>(&s.node)) {
        l->out = copy_of(l->out);
        for (BoxIndex& b : l->index) b.index = renamed(b.index);
      }
      if (auto* m = std::get_if<MapTile>(&s.node)) {
        m->out = copy_of(m->out);
        for (ValueId& a : m->args) a = copies.at(a);
        for (ScalarNode& n : m->expr)
          if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) n.coord = renamed(n.coord);
      }
      out.push_back(std::move(s));
    }
    std::vector<Index> at;
    for (const Index& e : place) at.push_back(renamed(e));
    out.push_back({Store{scratch, box_of(at), copies.at(o.value)}});
    return out;
  }
  // In the loop it comes from there.
  void read_from(const Operand& o, BufferId scratch, const std::vector<Index>& place, bool ahead = false) {
    seq_->body[o.makers.back()] = {Load{o.value, scratch, box_of(place), ahead}};
    for (size_t i = o.makers.size() - 1; i-- > 0;) seq_->body.erase(seq_->body.begin() + static_cast<int64_t>(o.makers[i]));
    mma_ = nullptr;
    for (const Stmt& s : seq_->body)
      if (const auto* m = std::get_if<Mma>(&s.node)) mma_ = m;
  }
  // So many rows or a few more, that what lies so many rows apart does not fall on the same places of the first-level cache.
  static int64_t apart(int64_t rows, int64_t row_bytes) {
    while (rows * row_bytes % 1024 < 192 || rows * row_bytes % 1024 > 832) ++rows;
    return rows;
  }
  int64_t step(const Load& l, AxisId a) const { return step_of(k_, l.buffer, l.index, a); }

  bool is_summed(AxisId a) const { return std::count(mma_->axes.begin(), mma_->axes.end(), a) > 0; }
  // The place in the outermost block that the axis stands within, and how many there are.
  std::pair<Index, int64_t> within_block(AxisId a) {
    AxisId around = axis(a).within;
    while (around >= 0 && axis(around).within >= 0) around = axis(around).within;
    if (around < 0 || (a == rows_ && around == row_group_)) return {coordinate(a), axis(a).extent};
    return {floor_mod(coordinate(a), axis(around).tile), std::min(axis(around).tile, axis(a).extent)};
  }

  // Two operands that both run along the sum: tiles of the shorter side within those of the longer one, which is read once.
  Kernel inner_product() {
    std::vector<AxisId>& grid = k_.phases[0].grid;
    AxisId few = -1;
    for (AxisId a : grid)
      if (has(mma_->a, a) != has(mma_->b, a) && tiles(a) > 1 && !axis(a).symbol && (few < 0 || axis(a).extent < axis(few).extent)) few = a;
    if (few < 0 || std::none_of(grid.begin(), grid.end(), [&](AxisId a) { return a != few && tiles(a) > 1 && has(mma_->a, a) != has(mma_->b, a) && has(mma_->a, a) != has(mma_->a, few); })) return original_;
    Each each{{few}, std::move(k_.phases[0].body)};
    std::erase(grid, few);
    k_.phases[0].body = {};
    k_.phases[0].body.push_back({std::move(each)});
    return std::move(k_);
  }

  Kernel outer_product() {
    if (!find_operands() || !choose_copies()) return original_;
    choose_instances();
    std::optional<Each> fill, fill_rows;
    if (pack_ && !in_panels_) fill = panels();
    if (pack_rows_) fill_rows = turned_rows();
    return assemble(std::move(fill), std::move(fill_rows));
  }

  std::optional<Operand> find_wide() const { return operand(has(mma_->a, lanes_) ? mma_->a : mma_->b); }
  std::optional<Operand> find_tall() const { return operand(has(mma_->a, lanes_) ? mma_->b : mma_->a); }
  bool find_operands() {
    wide_ = find_wide();
    if (!wide_ || !in_grid(lanes_)) return false;
    for (AxisId a : axes_of(mma_->out))
      if (a != lanes_ && in_grid(a) && !has(wide_->value, a) && (axis(a).tile > 1 || rows_ < 0)) rows_ = a;
    if (rows_ >= 0) tall_ = find_tall();
    return std::all_of(axes_of(wide_->value).begin(), axes_of(wide_->value).end(), [&](AxisId a) { return a == lanes_ || is_summed(a) || axis(a).tile == 1; });
  }

  // One load, masked where it is outside, of vectors that run along the sum.
  bool is_masked(const Operand& o) {
    const Shape& shape = k_.buffers[static_cast<size_t>(o.load->buffer)].shape;
    bool masked = false;
    for (size_t d = 0; d < shape.size(); ++d) masked = masked || o.load->index[d].index.low() < 0 || o.load->index[d].index.high() >= shape[d];
    const auto fits = [&](AxisId a) { return a == rows_ || (is_summed(a) ? !axis(a).symbol : in_grid(a) && axis(a).tile == 1); };
    return masked && o.makers.size() == 1 && has(o.value, rows_) && !axis(rows_).symbol && step(*o.load, mma_->axes.back()) == 1 && std::all_of(axes_of(o.value).begin(), axes_of(o.value).end(), fits);
  }

  // Whether so many lines, so many bytes apart, find no room in the second-level cache, a third larger than panels may take: it
  // has one place for each multiple of the greatest power of two in their distance. From a page on the first level has next to none.
  bool share_places(int64_t apart, int64_t lines) const {
    constexpr int64_t kPage = 4 << 10;
    const int64_t distance = apart & -apart;
    return distance >= kPage || checked_mul(lines, distance) > arch_.cache / 3 * 4;
  }

  // Whether copies pay, and blocks of the sum, so that what a block reads stays in the second-level cache.
  bool choose_copies() {
    const Buffer& source = k_.buffers[static_cast<size_t>(wide_->load->buffer)];
    const bool plain = wide_->makers.size() == 1;
    in_bounds_ = plain;
    for (size_t d = 0; d < source.shape.size(); ++d) in_bounds_ = in_bounds_ && wide_->load->index[d].index.low() >= 0 && wide_->load->index[d].index.high() < source.shape[d];
    const int64_t panel = panel_of(k_, *wide_->load, lanes_);
    in_panels_ = panel > 0 && in_bounds_ && panel % axis(lanes_).tile == 0;
    const bool contiguous = in_panels_ || step(*wide_->load, lanes_) == 1, as_it_lies = in_bounds_ && contiguous;   // then a vector is one plain access
    const int64_t bytes = checked_mul(count(source.shape), size_of(source.dtype)), row_tiles = rows_ < 0 ? 1 : tiles(rows_), columns = tiles(lanes_);
    const bool few_readers = contiguous && plain && row_tiles < (bytes < kFarOperand ? kManyRowTiles : 2), small = as_it_lies && (bytes < kLargeOperand || columns < 2);
    pack_ = row_tiles > 1 && (in_panels_ || schedule_.choose("packed", !few_readers && !small, 0, 1));
    int64_t total = 1;
    for (AxisId a : mma_->axes) total = checked_mul(total, axis(a).extent);
    if (total == 0) return false;
    // Where each step of the sum is another line of the rows' operand, and too many of them fall on the same places of the
    // caches, that is copied too, and that wants several panels.
    const AxisId first = mma_->axes[0], last = mma_->axes.back();
    const auto turns = [&](const Operand& o) {
      const int64_t apart = step(*o.load, last) * size_of(k_.buffers[static_cast<size_t>(o.load->buffer)].dtype);
      return step(*o.load, rows_) == 1 && apart > 0 && share_places(apart, total > kWholeSum ? kSumBlock : total);
    };
    pack_rows_ = pack_ && tall_ && has(tall_->value, rows_) && axes_of(tall_->value).size() == mma_->axes.size() + 1 && axis(last).extent >= 64 && columns > 1 && turns(*tall_);
    turn_rows_ = pack_rows_;
    // So is what would be masked element by element.
    pack_rows_ = pack_rows_ || (pack_ && tall_ && is_masked(*tall_));

    const int64_t rest = total / std::max<int64_t>(axis(first).extent, 1);
    streamed_ = !pack_ && as_it_lies && row_tiles == 1 && bytes >= kLargeOperand && rest == 1 && total >= 4 * kStreamedBlock;
    if (!pack_ && !streamed_) return false;
    depth_ = total;
    if (streamed_ || total > (turn_rows_ ? kWholeSum / 2 : kWholeSum)) {
      const int64_t wanted = streamed_ ? kStreamedBlock : ceil_div(total, ceil_div(total, kSumBlock));
      const int64_t tile = round_up(std::max<int64_t>(1, wanted / std::max<int64_t>(rest, 1)), rest == 1 ? arch_.lanes : axis(first).tile);
      if (!axis(first).symbol && tile < axis(first).extent) sum_block_ = block_axis(first, tile), depth_ = tile * rest;
    }
    if (!pack_) return sum_block_ >= 0;
    return checked_mul(checked_mul(depth_, axis(lanes_).tile), size_of(dtype_of(wide_->value))) <= (contiguous ? 4 * arch_.cache : kLargestGathered);
  }

  // Panels side by side that share the rows' operand, as the cache allows, and blocks of rows; but many instances.
  void choose_instances() {
    std::vector<AxisId>& grid = k_.phases[0].grid;
    const int64_t columns = tiles(lanes_), width = axis(lanes_).tile;
    int64_t others = 1;
    for (AxisId a : grid)
      if (a != lanes_ && a != rows_) others = checked_mul(others, tiles(a));
    // While a panel is read, the lines of the next one come into the cache, which then holds both.
    const Buffer& source = k_.buffers[static_cast<size_t>(wide_->load->buffer)];
    if (pack_ && !in_panels_ && in_bounds_ && !pack_rows_ && grid.back() == lanes_ && !axis(lanes_).symbol && step(*wide_->load, lanes_) == 1)
      ahead_ = schedule_.choose(fmt::format("ahead_{}", source.name), checked_mul(count(source.shape), size_of(source.dtype)) >= kAskedFor, 0, 1);
    int64_t side_by_side = streamed_ ? columns : std::clamp<int64_t>((ahead_ ? arch_.cache / 2 : arch_.cache) / std::max<int64_t>(depth_ * width * size_of(dtype_of(wide_->value)), 1), turn_rows_ ? 2 : 1, columns);
    // Turned rows serve several panels; but where neither rows nor columns are many, another thread turns its own.
    const bool few = (rows_ < 0 || tiles(rows_) < 2 * kFewestRowTiles) && ceil_div(columns, kPackedRowsPanels) * others < kFewInstances;
    const int64_t least = turn_rows_ ? std::min(few ? kPackedRowsPanels / 2 : kPackedRowsPanels, side_by_side) : 1;
    side_by_side = std::clamp<int64_t>(columns * others / (streamed_ ? kStreams : kInstances), least, side_by_side);
    side_by_side = axis(lanes_).symbol ? 1 : schedule_.choose("panels", ceil_div(columns, ceil_div(columns, side_by_side)), 1, columns);
    if (side_by_side > 1) std::replace(grid.begin(), grid.end(), lanes_, block_axis(lanes_, side_by_side * width));
    if (rows_ < 0) return;

    const int64_t row_tiles = tiles(rows_);
    int64_t group = turn_rows_ ? kCopiedRowTiles : std::min(kCopiedRowTiles, row_tiles);   // tiles of rows that are copied together: whole squares of lanes
    while (turn_rows_ && group * axis(rows_).tile % arch_.lanes != 0) ++group;
    const int64_t instances = checked_mul(others, ceil_div(columns, side_by_side));
    int64_t blocks = 1;
    if (!axis(rows_).symbol && row_tiles >= 2 * kFewestRowTiles && (instances < kInstances || sum_block_ >= 0)) {
      const int64_t sums_bytes = axis(rows_).extent * side_by_side * width * size_of(dtype_of(mma_->out));
      blocks = std::min(row_tiles / kFewestRowTiles, std::max(ceil_div(kInstances, instances), sum_block_ >= 0 ? ceil_div(sums_bytes, 2 * arch_.cache) : 1));
    }
    if (!axis(rows_).symbol) blocks = schedule_.choose("row_blocks", blocks, 1, row_tiles);
    const AxisId row_block = blocks > 1 ? block_axis(rows_, axis(rows_).tile * round_up(ceil_div(row_tiles, blocks), pack_rows_ ? group : 1)) : -1;
    if (row_block >= 0) std::replace(grid.begin(), grid.end(), rows_, row_block);
    else std::erase(grid, rows_);
    if (pack_rows_) row_group_ = axis(rows_).within = new_axis(rows_, axis(rows_).tile * group, row_block);
  }

  // Panels [column tile, summed axes, lanes].
  Each panels() {
    Each fill;
    Shape shape;
    std::vector<Index> place;
    std::map<AxisId, AxisId> fresh;
    const int64_t width = axis(lanes_).tile;
    const bool several = axis(lanes_).within >= 0, turned = in_bounds_ && step(*wide_->load, lanes_) != 1 && step(*wide_->load, mma_->axes.back()) == 1;
    if (several) {
      const auto [column, extent] = within_block(lanes_);
      shape.push_back(ceil_div(extent, width));
      place.push_back(floor_div(planted(Fault::panel_without_mod) ? coordinate(lanes_) : column, width));
    }
    for (AxisId a : axes_of(wide_->value)) {
      if (!is_summed(a)) continue;
      const auto [index, extent] = within_block(a);
      shape.push_back(std::max<int64_t>(extent - planted(Fault::panel_tail), 1));
      place.push_back(index);
      int64_t tile = a != mma_->axes.back() ? 1 : turned ? arch_.lanes
                                                         : std::min<int64_t>(4, extent);
      if (axis(a).within >= 0 && axis(axis(a).within).tile % tile != 0) tile = axis(a).tile;
      fill.axes.push_back(fresh[a] = new_axis(a, tile, axis(a).within));
    }
    shape.push_back(width);
    place.push_back(axis(lanes_).extent > width && (several || !planted(Fault::panel_without_mod)) ? floor_mod(coordinate(lanes_), width) : coordinate(lanes_));
    if (several || turned) {
      const AxisId along = fresh[lanes_] = new_axis(lanes_, turned ? arch_.lanes : width, several ? axis(lanes_).within : lanes_);
      axis(along).lanes = true;
      fill.axes.insert(turned ? fill.axes.begin() : fill.axes.end(), along);
    }
    const BufferId panel = new_scratch(dtype_of(wide_->value), std::move(shape));
    fill.body = copy(*wide_, panel, place, fresh);
    read_from(*wide_, panel, place, ahead_);
    if (tall_) tall_ = find_tall();   // the loop has changed
    return fill;
  }

  // The rows' operand as [rows, summed axes]: the last one becomes contiguous, if it is not.
  Each turned_rows() {
    Each fill;
    const AxisId last = mma_->axes.back();
    Shape shape{axis(row_group_).tile};
    std::vector<Index> place{floor_mod(coordinate(rows_), axis(row_group_).tile)};
    std::map<AxisId, AxisId> fresh{{rows_, new_axis(rows_, turn_rows_ ? arch_.lanes : 1, row_group_)}};
    for (AxisId a : axes_of(tall_->value)) {
      if (!is_summed(a)) continue;
      const auto [index, extent] = within_block(a);
      shape.push_back(a == last && turn_rows_ ? apart(extent, size_of(dtype_of(tall_->value))) : extent);
      place.push_back(index);
      const bool turned = a == last && (axis(a).within < 0 || axis(axis(a).within).tile % arch_.lanes == 0);
      fresh[a] = new_axis(a, turned ? arch_.lanes : 1, axis(a).within);
      axis(fresh[a]).lanes = turned;
      fill.axes.push_back(fresh[a]);
    }
    fill.axes.insert(turn_rows_ ? fill.axes.end() : fill.axes.begin(), fresh[rows_]);
    const BufferId panel = new_scratch(dtype_of(tall_->value), std::move(shape));
    fill.body = copy(*tall_, panel, place, fresh);
    read_from(*tall_, panel, place);
    return fill;
  }

  // each (axes that the instance walks) { body }
  void tile_loops(Block& out, Block body, std::optional<Each> before_rows = {}) {
    const auto loop = [](AxisId a, Block inside) {
      Block b;
      b.push_back({Each{{a}, std::move(inside)}});
      return b;
    };
    if (axis(lanes_).within >= 0) body = loop(lanes_, std::move(body));
    if (rows_ >= 0) body = loop(rows_, std::move(body));
    if (before_rows) body.insert(body.begin(), Stmt{std::move(*before_rows)});
    if (row_group_ >= 0) body = loop(row_group_, std::move(body));
    for (Stmt& s : body) out.push_back(std::move(s));
  }

  Kernel assemble(std::optional<Each> fill, std::optional<Each> fill_rows) {
    Block before, after, out;
    bool behind = false;
    Stmt product;
    for (Stmt& s : k_.phases[0].body) {
      if (std::get_if<Seq>(&s.node) == seq_) {
        product = std::move(s);
        behind = true;
      } else {
        (behind ? after : before).push_back(std::move(s));
      }
    }
    if (sum_block_ < 0) {
      Block body = std::move(before);
      body.push_back(std::move(product));
      for (Stmt& s : after) body.push_back(std::move(s));
      if (fill) out.push_back({std::move(*fill)});
      tile_loops(out, std::move(body), std::move(fill_rows));
      k_.phases[0].body = std::move(out);
      return std::move(k_);
    }
    // The sums so far lie in scratch: sums = 0;  seq (blocks of the sum) { sums += their products };  what follows the product.
    Seq& q = std::get<Seq>(product.node);
    const ValueId result = q.outs[0];
    const Value sum = k_.values[static_cast<size_t>(result)];
    Shape shape;
    std::vector<Index> place;
    for (AxisId a : sum.axes)
      if (a == lanes_ || a == rows_) {
        const bool one_panel = a == lanes_ && axis(a).within < 0;
        const auto [index, extent] = one_panel ? std::pair(floor_mod(coordinate(a), axis(a).tile), axis(a).tile) : within_block(a);
        shape.push_back(round_up(extent, a == lanes_ ? axis(a).tile : 1));
        place.push_back(index);
      }
    const BufferId sums = new_scratch(sum.dtype, std::move(shape));
    const auto read = [&](ValueId into) { return Stmt{Load{into, sums, box_of(place)}}; };
    ScalarNode zero;
    zero.kind = ScalarNode::Kind::constant, zero.dtype = sum.dtype;
    zero.constant = q.carries[0].init;
    const ValueId none = new_value(sum.dtype, sum.axes);
    Block clear;
    clear.push_back({MapTile{none, {zero}, {}}});
    clear.push_back({Store{sums, box_of(place), none}});
    tile_loops(out, std::move(clear));

    const ValueId old = new_value(sum.dtype, sum.axes), part = new_value(sum.dtype, sum.axes), next = new_value(sum.dtype, sum.axes);
    q.outs[0] = part;
    ScalarNode x, y, add;
    x.kind = y.kind = ScalarNode::Kind::operand, add.kind = ScalarNode::Kind::op;
    x.dtype = y.dtype = add.dtype = sum.dtype;
    y.operand = 1;
    add.op = Op::add;
    add.args = {0, 1};
    Block step = before;   // what the loop reads from around it
    step.push_back(std::move(product));
    step.push_back(read(old));
    step.push_back({MapTile{next, {x, y, add}, {old, part}}});
    step.push_back({Store{sums, box_of(place), next}});
    Seq blocks;
    blocks.axes = {sum_block_};
    if (fill) blocks.body.push_back({std::move(*fill)});
    tile_loops(blocks.body, std::move(step), std::move(fill_rows));
    out.push_back({std::move(blocks)});

    Block rest = std::move(before);
    rest.push_back(read(result));
    for (Stmt& s : after) rest.push_back(std::move(s));
    tile_loops(out, std::move(rest));
    k_.phases[0].body = std::move(out);
    return std::move(k_);
  }
};

}  // namespace

Kernel nest(const Kernel& kernel, const CpuArch& arch, KernelSchedule& schedule) { return Nest(kernel, arch, schedule).run(); }

}  // namespace quern
