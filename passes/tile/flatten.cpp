// See flatten.h. How many rows a grid instance takes is chosen by a count of cycles: full vectors, rows copied twice, and
// enough instances for several threads.
#include "passes/tile/flatten.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kInstances = 8, kFewestRows = 4, kFewestPositions = 4;   // wanted of a grid; of the other operand's rows, of an image row
// Cycles: to copy a vector with its mask; to take a vector of sums from its scratch to where it belongs. Unaligned vectors,
// and a row by itself, cost a sum so much more than its products.
constexpr double kCopy = 10, kBack = 16, kStore = 3, kUnaligned = 1.3, kAlone = 1.1;

class Flatten {
 public:
  Flatten(const Kernel& kernel, const CpuArch& arch) : k_(kernel), arch_(arch) {}

  std::optional<Kernel> run() {
    if (!find_product() || !find_dim(y_, 2) || !find_dim(x_, 1) || !find_rows() || !choose_rows()) return std::nullopt;
    return rewrite();
  }

 private:
  Kernel k_;
  const CpuArch& arch_;
  struct Dim {   // an axis of positions: element = position + step * place + start
    AxisId position = -1, place = -1;
    int64_t step = 0, start = 0, extent = 0, least = 0, reach = 0;   // of what is read: the first place's distance, and how far the last one is from it
  };
  Seq* seq_ = nullptr;
  const Mma* mma_ = nullptr;
  Load* wide_ = nullptr;
  Dim y_, x_;
  AxisId rows_ = -1;              // of the other operand
  std::vector<AxisId> inside_;    // its other axes
  int64_t pitch_ = 0, taken_ = 0; // elements from row to row; rows of an instance

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }
  std::vector<AxisId>& axes_of(ValueId v) { return k_.values[static_cast<size_t>(v)].axes; }
  bool has(ValueId v, AxisId a) { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; }
  bool is_summed(AxisId a) const { return std::count(mma_->axes.begin(), mma_->axes.end(), a) > 0; }
  Index at(AxisId a) const { return k_.coordinate(a); }
  static int64_t columns(const Dim& x) { return x.extent + x.reach; }

  // A seq of two loads and a product at the top of the block, and nothing else that loops.
  bool find_product() {
    seq_ = lone_loop(k_.phases[0].body);
    if (!seq_ || seq_->body.size() != 3 || seq_->carries.size() != 1) return false;
    mma_ = std::get_if<Mma>(&seq_->body[2].node);
    return mma_ && std::all_of(seq_->body.begin(), seq_->body.begin() + 2, [&](const Stmt& s) {
             const auto* l = std::get_if<Load>(&s.node);
             return l && (l->out == mma_->a || l->out == mma_->b) && std::all_of(l->index.begin(), l->index.end(), [](const BoxIndex& b) { return b.gather < 0; });
           });
  }

  // The dim so many from the last of the operand that has windows: one position, at most one place.
  bool find_dim(Dim& dim, size_t from_last) {
    for (Stmt& s : seq_->body) {
      auto* l = std::get_if<Load>(&s.node);
      if (!l || (wide_ && l != wide_) || l->index.size() < 2) continue;
      const Index& e = l->index[l->index.size() - from_last].index;
      Dim found;
      std::set<int> axes;
      e.collect_axes(axes);
      bool fits = true;
      for (int a : axes) {
        const auto step = e.stride(a);
        AxisId& role = is_summed(a) ? found.place : found.position;
        fits = fits && step && role < 0 && !axis(a).symbol && (is_summed(a) || *step == 1);
        if (fits && is_summed(a)) found.step = *step;
        role = a;
        // It stands nowhere else in what is read, and the other operand has no positions.
        for (size_t d = 0; d < l->index.size(); ++d) fits = fits && (d + from_last == l->index.size() || !l->index[d].index.uses(a));
        fits = fits && (is_summed(a) || !has(l->out == mma_->a ? mma_->b : mma_->a, a));
      }
      if (!fits || found.position < 0 || axis(found.position).extent < kFewestPositions || !std::count(k_.phases[0].grid.begin(), k_.phases[0].grid.end(), found.position)) continue;
      found.start = e.evaluate([](int) { return int64_t{0}; });
      found.extent = axis(found.position).extent;
      const int64_t last = found.place < 0 ? 0 : found.step * (axis(found.place).extent - 1);
      found.least = std::min<int64_t>(last, 0), found.reach = std::abs(last);
      if (found.reach >= found.extent) continue;   // a weight gradient: a few positions, whose windows are nearly everything
      dim = found;
      wide_ = l;
      return true;
    }
    return false;
  }

  bool find_rows() {
    const ValueId tall = wide_->out == mma_->a ? mma_->b : mma_->a;
    for (AxisId a : axes_of(mma_->out)) {
      if (has(wide_->out, a)) continue;
      if (!has(tall, a) || axis(a).symbol || !std::count(k_.phases[0].grid.begin(), k_.phases[0].grid.end(), a)) return false;
      inside_.push_back(a);
      if (rows_ < 0 || axis(a).extent > axis(rows_).extent) rows_ = a;
    }
    if (rows_ < 0 || axis(rows_).extent < kFewestRows) return false;
    std::erase(inside_, rows_);
    const Facts facts(k_);
    if (!contiguous_in_stores(k_, facts, x_.position)) return false;
    return std::all_of(mma_->axes.begin(), mma_->axes.end(), [&](AxisId a) { return !axis(a).symbol; });
  }

  bool choose_rows() {
    // Padding before a row and behind the one before it is one.
    const Shape& shape = k_.buffers[static_cast<size_t>(wide_->buffer)].shape;
    const int64_t first = x_.start + x_.least, before = std::max<int64_t>(0, -first), behind = std::max<int64_t>(0, first + columns(x_) - shape.back());
    pitch_ = std::max(x_.extent, columns(x_) - std::min(before, behind));
    int64_t channels = 1, terms = 1, others = 1;
    for (AxisId a : mma_->axes) {
      terms = checked_mul(terms, axis(a).extent);
      if (a != y_.place && a != x_.place) channels = checked_mul(channels, axis(a).extent);
    }
    for (AxisId a : axes_of(mma_->out))
      if (has(wide_->out, a) && a != y_.position && a != x_.position) others = checked_mul(others, std::max<int64_t>(axis(a).extent, 1));
    const double rows = static_cast<double>(axis(rows_).extent), products = static_cast<double>(terms) / 2, across = static_cast<double>(ceil_div(x_.extent, arch_.lanes));
    double least = static_cast<double>(y_.extent) * across * (rows * products * kAlone + kCopy * static_cast<double>(terms));   // row by row
    for (int64_t n = 1; n <= y_.extent; ++n) {
      const int64_t blocks = ceil_div(y_.extent, n);
      if (n > 1 && checked_mul(others, blocks) < kInstances) break;
      if (checked_mul(checked_mul(channels, copied(n)), size_of(k_.values[static_cast<size_t>(wide_->out)].dtype)) > arch_.cache / (n == 1 ? 1 : 4)) break;   // beside the sums and the other operand
      const double sums = static_cast<double>(ceil_div(positions(n), arch_.lanes)) * rows * (products * kUnaligned + kStore), back = kBack * rows * static_cast<double>(n) * across;
      const double copies = kCopy * static_cast<double>(channels * (n + y_.reach) * ceil_div(columns(x_), arch_.lanes));
      if (const double cycles = static_cast<double>(blocks) * (sums + back + copies); cycles < least) taken_ = n, least = cycles;
    }
    return taken_ > 0;
  }
  // Of so many rows: from the first to the last, and what their windows read.
  int64_t positions(int64_t rows) const { return (rows - 1) * pitch_ + x_.extent; }
  int64_t copied(int64_t rows) const { return (rows + y_.reach - 1) * pitch_ + columns(x_); }

  AxisId new_axis(int64_t extent, int64_t tile = 1, bool lanes = false) {
    k_.axes.push_back({fmt::format("i{}", k_.axes.size()), extent, tile, lanes, {}});
    return static_cast<AxisId>(k_.axes.size() - 1);
  }
  BufferId new_scratch(DType dtype, Shape shape) {
    k_.buffers.push_back({fmt::format("s{}", k_.buffers.size() - static_cast<size_t>(k_.params())), BufferKind::scratch, dtype, std::move(shape)});
    return static_cast<BufferId>(k_.buffers.size() - 1);
  }
  ValueId new_value(DType dtype, std::vector<AxisId> axes) {
    std::sort(axes.begin(), axes.end());
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  // Whole vectors, and not all at the same places of the first-level cache.
  int64_t apart(int64_t elements) const {
    const int64_t rows = round_up(elements, arch_.lanes);
    return rows % (16 * arch_.lanes) == 0 ? rows + arch_.lanes : rows;
  }
  static Each each(std::vector<AxisId> axes) { return {std::move(axes), {}}; }
  int64_t vectors(int64_t extent) const { return std::min<int64_t>(round_up(extent, arch_.lanes), 4 * arch_.lanes); }

  // In a statement that stands behind the sums: y is the row within its block.
  void in_block(Stmt& s, AxisId block) {
    const auto moved = [&](Index& e) {
      e = e.substitute([&](int a, int64_t extent) { return a == y_.position ? at(y_.position) + at(block) * taken_ : Index::axis(a, extent); });
    };
    const auto with_block = [&](ValueId v) {
      if (has(v, y_.position) && !has(v, block)) axes_of(v).push_back(block);   // it is the last one
    };
    if (auto* l = std::get_if<Load>(&s.node)) {
      for (BoxIndex& b : l->index) moved(b.index);
      with_block(l->out);
    } else if (auto* m = std::get_if<MapTile>(&s.node)) {
      for (ScalarNode& n : m->expr) moved(n.coord);
      with_block(m->out);
    } else {
      for (BoxIndex& b : std::get<Store>(s.node).index) moved(b.index);
    }
  }

  Kernel rewrite() {
    const Load wide = *wide_;
    const ValueId result = seq_->outs[0], sum = mma_->out;
    const DType dtype = k_.values[static_cast<size_t>(wide.out)].dtype, wide_sum = k_.values[static_cast<size_t>(sum)].dtype;
    const int64_t positions = this->positions(taken_);
    const AxisId block = new_axis(ceil_div(y_.extent, taken_)), p = new_axis(positions, 1, true), h = new_axis(taken_ + y_.reach), q = new_axis(columns(x_), vectors(columns(x_)), true);
    const auto [across, along] = accumulators(axis(rows_).extent, ceil_div(positions, arch_.lanes), arch_.registers);
    axis(rows_).tile = across, axis(p).tile = along * arch_.lanes;
    axis(x_.position).tile = vectors(x_.extent), axis(x_.position).lanes = true;
    axis(mma_->axes.back()).tile = std::clamp<int64_t>(axis(mma_->axes.back()).extent, 1, 2);
    axis(y_.position).extent = taken_;

    // The copy, and how the sums read it.
    std::map<AxisId, AxisId> fresh;
    Shape shape;
    std::vector<Index> to, from;
    Each fill;
    for (AxisId a : mma_->axes) {
      if (a == y_.place || a == x_.place || !has(wide.out, a)) continue;
      fill.axes.push_back(fresh[a] = new_axis(axis(a).extent));
      shape.push_back(axis(a).extent);
      to.push_back(at(fresh[a]));
      from.push_back(at(a));
    }
    fill.axes.insert(fill.axes.end(), {h, q});
    shape.push_back(apart(copied(taken_)));
    to.push_back(at(h) * pitch_ + at(q));
    Index place = at(p) + Index(-y_.least * pitch_ - x_.least);
    if (y_.place >= 0) place = place + at(y_.place) * (y_.step * pitch_);
    if (x_.place >= 0) place = place + at(x_.place) * x_.step;
    from.push_back(place);
    const BufferId copied = new_scratch(dtype, std::move(shape)), sums = new_scratch(wide_sum, {across, apart(positions)});
    Load read = wide;
    std::set<int> used;
    for (size_t d = 0; d < read.index.size(); ++d) {
      Index& e = read.index[d].index;
      if (d + 2 == read.index.size()) e = at(block) * taken_ + at(h) + Index(y_.start + y_.least);
      else if (d + 1 == read.index.size()) e = at(q) + Index(x_.start + x_.least);
      else e = e.substitute([&](int a, int64_t extent) { return fresh.count(a) ? at(fresh.at(a)) : Index::axis(a, extent); });
      e.collect_axes(used);
    }
    read.out = new_value(dtype, {used.begin(), used.end()});
    fill.body.push_back({read});
    fill.body.push_back({Store{copied, box_of(to), read.out}});
    wide_->buffer = copied;
    wide_->index = box_of(from);
    const auto flat = [&](ValueId v) {
      std::vector<AxisId>& axes = axes_of(v);
      std::erase(axes, y_.position), std::erase(axes, x_.position);
      axes.insert(std::upper_bound(axes.begin(), axes.end(), p), p);
    };
    flat(wide.out), flat(sum), flat(seq_->carries[0].var);

    Each tiles = each({p}), back = each({y_.position, x_.position});
    const Index row = floor_mod(at(rows_), across);
    bool behind = false;
    for (Stmt& s : k_.phases[0].body) {
      if (std::get_if<Seq>(&s.node) == seq_) {
        const std::vector<AxisId> axes = axes_of(sum);
        seq_->outs[0] = new_value(wide_sum, axes);
        const ValueId part = seq_->outs[0];
        tiles.body.push_back(std::move(s));
        tiles.body.push_back({Store{sums, box_of({row, at(p)}), part}});
        back.body.push_back({Load{result, sums, box_of({row, at(y_.position) * pitch_ + at(x_.position)})}});
        axes_of(result).push_back(block);
        behind = true;
      } else {
        in_block(s, block);
        back.body.push_back(std::move(s));
      }
    }
    QN_CHECK(behind, "the product was found in this block");
    std::vector<AxisId> walked = inside_, grid;
    walked.push_back(rows_);
    for (AxisId a : k_.phases[0].grid)
      if (a != y_.position && a != x_.position && !std::count(walked.begin(), walked.end(), a)) grid.push_back(a);
    grid.push_back(block);
    // Few instances: the rows of the other operand are shared out, too.
    int64_t instances = 1;
    for (AxisId a : grid) instances = checked_mul(instances, std::max<int64_t>(axis(a).extent, 1));
    const int64_t row_tiles = ceil_div(axis(rows_).extent, across), shares = std::clamp<int64_t>(ceil_div(kInstances, std::max<int64_t>(instances, 1)), 1, row_tiles);
    if (shares > 1) {
      const AxisId share = new_axis(axis(rows_).extent, across * ceil_div(row_tiles, shares));
      axis(rows_).within = share;
      grid.push_back(share);
    }
    Each loops = each(walked);
    loops.body.push_back({std::move(tiles)});
    loops.body.push_back({std::move(back)});
    k_.phases[0].grid = std::move(grid);
    k_.phases[0].body = {};
    k_.phases[0].body.push_back({std::move(fill)});
    k_.phases[0].body.push_back({std::move(loops)});
    return std::move(k_);
  }
};

}  // namespace

std::optional<Kernel> flatten(const Kernel& kernel, const CpuArch& arch) { return Flatten(kernel, arch).run(); }

}  // namespace quern
