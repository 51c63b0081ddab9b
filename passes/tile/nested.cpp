// See nested.h. Sums of the outer product have an axis that the inner one lacks (the columns of the result): there are more
// of them than registers, so they lie in a scratch, and each step of the loop adds to them in blocks. What the inner
// products read row by row is copied once into a panel with the rows side by side.
#include "passes/tile/nested.h"

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "passes/tile/facts.h"
#include "passes/tile/rename.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kLargestPanel = 1 << 20;   // bytes

struct Found {
  std::vector<const Mma*> inner, outer;   // in a loop within a loop, or in one at the top
};
void find_products(const Block& block, int depth, Found& out) {
  for (const Stmt& s : block) {
    if (const auto* m = std::get_if<Mma>(&s.node)) (depth > 1 ? out.inner : out.outer).push_back(m);
    if (const auto* q = std::get_if<Seq>(&s.node)) find_products(q->body, depth + 1, out);
    if (const auto* e = std::get_if<Each>(&s.node)) find_products(e->body, depth + 1, out);
  }
}

bool holds(const std::vector<AxisId>& axes, AxisId a) { return std::find(axes.begin(), axes.end(), a) != axes.end(); }

class Nested {
 public:
  Nested(const Kernel& kernel, const CpuArch& arch) : k_(kernel), arch_(arch) {
    find_products(k_.phases[0].body, 0, found_);
    if (found_.inner.empty()) std::swap(found_.inner, found_.outer);
    for (const Mma* m : found_.inner) summed_.insert(summed_.end(), m->axes.begin(), m->axes.end());
  }

  Kernel run() {
    choose_lanes();
    choose_columns();
    choose_tiles();
    if (!columns_.empty()) hold_sums();
    if (lanes_ >= 0) place_panels();
    return std::move(k_);
  }

 private:
  Kernel k_;
  const CpuArch& arch_;
  Found found_;                     // of k_ as it was
  std::vector<AxisId> summed_;      // by inner products
  AxisId lanes_ = -1;
  std::vector<AxisId> columns_;     // of the outer product's result alone

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }
  std::vector<AxisId>& grid() { return k_.phases[0].grid; }

  // An axis of the grid that every inner product has in one operand; or else for each its own, without panels.
  void choose_lanes() {
    const Facts facts(k_);
    std::tuple<bool, bool, int64_t> best;
    for (AxisId a : grid()) {
      const bool fits = std::all_of(found_.inner.begin(), found_.inner.end(), [&](const Mma* m) { return holds(axes_of(m->a), a) != holds(axes_of(m->b), a); });
      const std::tuple rank(axis(a).extent >= arch_.lanes, contiguous_in_stores(k_, facts, a), axis(a).extent);
      if (fits && !axis(a).symbol && (lanes_ < 0 || rank > best)) lanes_ = a, best = rank;
    }
    if (lanes_ >= 0) {
      put_on_lanes(lanes_);
      return;
    }
    for (const Mma* m : found_.inner)
      for (AxisId a : axes_of(m->out))
        if (holds(axes_of(m->a), a) != holds(axes_of(m->b), a) && !axis(a).symbol && !facts.walked.count(a) && put_on_lanes(a)) break;
  }
  // Where then no tile has two such axes.
  bool put_on_lanes(AxisId lanes) {
    const auto legal = [&](const Value& v) { return std::count_if(v.axes.begin(), v.axes.end(), [&](AxisId a) { return a == lanes || axis(a).lanes; }) <= 1; };
    if (!std::all_of(k_.values.begin(), k_.values.end(), legal)) return false;
    Axis& a = axis(lanes);
    a.lanes = true;
    a.tile = std::min(round_up(std::max<int64_t>(a.extent, 1), arch_.lanes), arch_.lanes * int64_t{2});
    return true;
  }
  void choose_columns() {
    if (lanes_ < 0) return;
    for (const Mma* m : found_.outer)
      for (AxisId a : axes_of(m->out))
        if (holds(grid(), a) && !holds(columns_, a) && std::none_of(found_.inner.begin(), found_.inner.end(), [&](const Mma* i) { return holds(axes_of(i->out), a); })) columns_.push_back(a);
    std::sort(columns_.begin(), columns_.end());
    const auto plain = [&](const Block& block) {   // in which statements of the columns can be told from the others
      return std::all_of(block.begin(), block.end(), [&](const Stmt& s) {
        const auto* q = std::get_if<Seq>(&s.node);
        return !std::holds_alternative<Each>(s.node) && (!q || std::none_of(q->outs.begin(), q->outs.end(), [&](ValueId v) { return has_columns(v); }));
      });
    };
    const bool legal = std::all_of(k_.phases[0].body.begin(), k_.phases[0].body.end(), [&](const Stmt& s) {
      const auto* q = std::get_if<Seq>(&s.node);
      return !std::holds_alternative<Each>(s.node) && (!q || plain(q->body));
    });
    if (!legal) columns_.clear();
  }
  void choose_tiles() {
    const bool wide = arch_.registers == 32;
    const int64_t steps = wide ? 8 : 4;   // as many sums of an inner product as hide its latency, also where several outer ones then reload
    const auto tile_last = [&](const std::vector<AxisId>& axes, int64_t tile) {
      if (!axes.empty() && !axis(axes.back()).lanes) axis(axes.back()).tile = std::clamp<int64_t>(axis(axes.back()).extent, 1, tile);
    };
    for (const Mma* m : found_.outer) tile_last(m->axes, steps);
    for (const Mma* m : found_.inner) {
      tile_last(m->axes, 2);
      std::vector<AxisId> others;   // the other operand's, whatever loop they are of
      for (AxisId a : axes_of(m->out))
        if (!axis(a).lanes && holds(axes_of(m->a), a) != holds(axes_of(m->b), a)) others.push_back(a);
      tile_last(others, steps);
    }
    tile_last(columns_, (wide ? 4 : 2) / (found_.outer.size() > 1 ? 2 : 1));
  }

  // --- sums in a scratch ---
  bool has_columns(ValueId v) const {
    return std::any_of(columns_.begin(), columns_.end(), [&](AxisId a) { return holds(axes_of(v), a); });
  }
  ValueId new_value(DType dtype, std::vector<AxisId> axes) {
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  // Where the rows of one instance lie in a scratch: the given axes, then the rows.
  std::vector<Index> place(const std::vector<AxisId>& axes) {
    std::vector<Index> out;
    for (AxisId a : axes) out.push_back(k_.coordinate(a));
    out.push_back(axis(lanes_).extent > axis(lanes_).tile ? floor_mod(k_.coordinate(lanes_), axis(lanes_).tile) : k_.coordinate(lanes_));
    return out;
  }
  BufferId scratch(DType dtype, const std::vector<AxisId>& axes) {
    const int64_t n = static_cast<int64_t>(k_.buffers.size()) - k_.params();
    Buffer b{fmt::format("s{}", n), BufferKind::scratch, dtype, {}};
    for (AxisId a : axes) b.shape.push_back(axis(a).extent);
    b.shape.push_back(axis(lanes_).tile);
    k_.buffers.push_back(std::move(b));
    return static_cast<BufferId>(k_.buffers.size() - 1);
  }
  static Load load_of(ValueId out, BufferId buffer, const std::vector<Index>& index) {
    return {out, buffer, box_of(index)};
  }
  bool is_of_columns(const Stmt& s) const {
    return std::visit(Overloaded{[&](const Load& l) { return has_columns(l.out); }, [&](const MapTile& m) { return has_columns(m.out); },
                                 [&](const ReduceTile& r) { return has_columns(r.out); }, [&](const Mma& m) { return has_columns(m.out); },
                                 [&](const Store& t) {
                                   std::set<int> used;
                                   for (const BoxIndex& e : t.index) e.index.collect_axes(used);
                                   return has_columns(t.value) || std::any_of(columns_.begin(), columns_.end(), [&](AxisId a) { return used.count(a) > 0; });
                                 },
                                 [](const Seq&) { return false; }, [](const Each&) { return false; }, [](const InRole&) { return false; }},
                      s.node);
  }
  // What of `known` the block wants, in order, then the block.
  static Block with_makers(const Block& known, Block block) {
    std::set<ValueId> wanted;
    for (const Stmt& s : block) add_read_by(s, wanted);
    Block out;
    for (size_t i = known.size(); i-- > 0;) {
      if (!wanted.count(made_by(known[i]))) continue;
      add_read_by(known[i], wanted);
      out.insert(out.begin(), known[i]);
    }
    for (Stmt& s : block) out.push_back(std::move(s));
    return out;
  }

  void hold_sums() {
    Phase& phase = k_.phases[0];
    Block old = std::move(phase.body), rest, behind;   // behind: what is done with the columns
    for (Stmt& s : old) {
      auto* q = std::get_if<Seq>(&s.node);
      if (!q || std::none_of(q->outs.begin(), q->outs.end(), [&](ValueId v) { return has_columns(v); })) {
        (is_of_columns(s) ? behind : rest).push_back(std::move(s));
        continue;
      }
      Seq kept;
      kept.axes = q->axes;
      Each start, step;
      start.axes = step.axes = columns_;
      Block stores;
      for (size_t c = 0; c < q->carries.size(); ++c) {
        const ValueId var = q->carries[c].var;
        if (!has_columns(var)) {
          kept.carries.push_back(q->carries[c]);
          kept.yields.push_back(q->yields[c]);
          kept.outs.push_back(q->outs[c]);
          continue;
        }
        const DType dtype = k_.values[static_cast<size_t>(var)].dtype;
        const BufferId sums = scratch(dtype, columns_);
        const std::vector<Index> at = place(columns_);
        ScalarNode zero{ScalarNode::Kind::constant, dtype};
        zero.constant = q->carries[c].init;
        std::vector<AxisId> axes = columns_;
        axes.push_back(lanes_);
        std::sort(axes.begin(), axes.end());
        const ValueId first = new_value(dtype, axes);
        start.body.push_back({MapTile{first, {zero}, {}}});
        start.body.push_back({Store{sums, box_of(at), first}});
        step.body.push_back({load_of(var, sums, at)});
        stores.push_back({Store{sums, box_of(at), q->yields[c]}});
        behind.push_back({load_of(q->outs[c], sums, at)});
      }
      for (Stmt& inner : q->body) (is_of_columns(inner) ? step.body : kept.body).push_back(std::move(inner));
      step.body = with_makers(behind, std::move(step.body));
      for (Stmt& t : stores) step.body.push_back(std::move(t));
      kept.body.push_back({std::move(step)});
      rest.push_back({std::move(start)});
      rest.push_back({std::move(kept)});
    }
    rest.push_back({results(std::move(behind))});
    phase.body = std::move(rest);
    std::erase_if(phase.grid, [&](AxisId a) { return holds(columns_, a); });
  }

  // --- squares ---
  // Where a vector of elements lies together along an axis and the rows do not, squares of both are turned in registers:
  // the axis by which they are walked, else the same one.
  AxisId turned(AxisId a, BufferId buffer, const std::vector<BoxIndex>& index) {
    const Axis along = axis(a);
    const auto plain = [](const BoxIndex& b) { return b.gather < 0; };
    if (along.lanes || 2 * along.extent <= arch_.lanes || !std::all_of(index.begin(), index.end(), plain) || step_of(k_, buffer, index, a) != 1 || step_of(k_, buffer, index, lanes_) <= 1) return a;
    k_.axes.push_back({fmt::format("i{}", k_.axes.size()), along.extent, arch_.lanes});
    return static_cast<AxisId>(k_.axes.size() - 1);
  }
  Each results(Block block) {
    Each out{columns_, {}};
    AxisId from = columns_.back(), to = from;
    for (const Stmt& s : block)
      if (const auto* t = std::get_if<Store>(&s.node); t && to == from) to = turned(from, t->buffer, t->index);
    if (to != from) {   // loops before may want the same values
      Names names;
      const auto fresh = [&](ValueId& v) {
        const Value old = k_.values[static_cast<size_t>(v)];
        v = names[v] = new_value(old.dtype, old.axes);
      };
      for (Stmt& s : block) {
        rename_reads(s, names);
        std::visit(Overloaded{[&](Load& l) { fresh(l.out); }, [&](MapTile& m) { fresh(m.out); }, [&](ReduceTile& r) { fresh(r.out); }, [&](Mma& m) { fresh(m.out); }, [](auto&) {}}, s.node);
      }
      rename_axes(k_, block, {{from, to}});
      out.axes.back() = to;
    }
    out.body = std::move(block);
    return out;
  }

  // --- panels ---
  void place_panels() {
    Block fills;
    std::map<std::string, BufferId> made;
    for (Stmt& s : k_.phases[0].body) {
      if (auto* q = std::get_if<Seq>(&s.node)) visit(q->body, fills, made);
      if (auto* e = std::get_if<Each>(&s.node)) visit(e->body, fills, made);
    }
    Block& body = k_.phases[0].body;
    body.insert(body.begin(), std::make_move_iterator(fills.begin()), std::make_move_iterator(fills.end()));
  }
  void visit(Block& block, Block& fills, std::map<std::string, BufferId>& made) {
    for (Stmt& s : block) {
      if (auto* q = std::get_if<Seq>(&s.node)) visit(q->body, fills, made);
      if (auto* e = std::get_if<Each>(&s.node)) visit(e->body, fills, made);
      if (auto* l = std::get_if<Load>(&s.node)) panel(*l, fills, made);
    }
  }
  void panel(Load& l, Block& fills, std::map<std::string, BufferId>& made) {
    const Buffer& source = k_.buffers[static_cast<size_t>(l.buffer)];
    if (!holds(axes_of(l.out), lanes_) || source.kind == BufferKind::scratch || step_of(k_, l.buffer, l.index, lanes_) == 1) return;
    std::vector<AxisId> along;
    int64_t bytes = checked_mul(axis(lanes_).tile, size_of(source.dtype));
    std::string key = fmt::format("{}", l.buffer);
    for (AxisId a : axes_of(l.out)) {
      if (holds(summed_, a)) along.push_back(a), bytes = checked_mul(bytes, axis(a).extent);
      else if (a != lanes_ && (!holds(grid(), a) || axis(a).tile != 1)) return;
    }
    if (along.empty() || bytes > kLargestPanel) return;
    for (const BoxIndex& b : l.index) {   // equal but for the names of summed axes
      if (b.gather >= 0) return;
      key += "," + b.index.text([&](int a) {
        const auto at = std::find(along.begin(), along.end(), a);
        return at == along.end() ? fmt::format("i{}", a) : fmt::format("k{}<{}", at - along.begin(), axis(a).extent);
      });
    }
    const auto [it, fresh] = made.emplace(key, -1);
    if (fresh) {
      const DType dtype = source.dtype;
      Each fill;
      fill.axes = along;
      Load copy = l;
      copy.out = new_value(dtype, axes_of(l.out));
      it->second = scratch(dtype, along);
      const ValueId value = copy.out;
      std::map<AxisId, AxisId> axes;
      for (AxisId& a : fill.axes) axes[a] = turned(a, l.buffer, l.index), a = axes[a];
      fill.body.push_back({std::move(copy)});
      fill.body.push_back({Store{it->second, box_of(place(along)), value}});
      rename_axes(k_, fill.body, axes);
      fills.push_back({std::move(fill)});
    }
    l = load_of(l.out, it->second, place(along));
  }
};

}  // namespace

bool has_nested_products(const Kernel& kernel) {
  Found found;
  for (const Phase& p : kernel.phases) find_products(p.body, 0, found);
  return !found.inner.empty() || found.outer.size() > 1;
}

Kernel plan_nested(const Kernel& kernel, const CpuArch& arch) { return Nested(kernel, arch).run(); }

}  // namespace quern
