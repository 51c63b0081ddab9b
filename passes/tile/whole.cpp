// See whole.h.
#include "passes/tile/whole.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "passes/tile/equal.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kSharedRow = 1024;     // elements of a row that is copied to shared memory: all threads of a block work on it, a shorter one stays in the cache
constexpr int64_t kMostHeld = 1024 * 24;   // elements of all tiles that a block's threads hold of a row: some registers are left

class Whole {
 public:
  explicit Whole(const Kernel& kernel) : k_(kernel), equal_(k_) {}

  std::optional<WholeRow> run() {
    if (k_.phases.size() != 1 || k_.phases[0].grid.empty()) return std::nullopt;
    Block& top = k_.phases[0].body;
    const RowBlock rows = row_block(k_);
    const bool chunk = rows.block != &top;
    if (!walks_of(*rows.block) || (chunk && !fills_of(top))) return std::nullopt;
    if (along_ < 0) return std::nullopt;

    Block row = flat(*rows.block), body;
    if (chunk) {
      Seq walk = std::get<Seq>(top.back().node);
      Block stores;
      if (!carry_sums(row, walk, stores)) return std::nullopt;
      row = apart(row, walk);
      for (Stmt& s : top)
        if (made_by(s) >= 0) body.push_back(std::move(s));
      walk.body = std::move(row);
      row = {Stmt{std::move(walk)}};
      std::move(stores.begin(), stores.end(), std::back_inserter(row));
    }
    const int64_t held = held_by(chunk ? std::get<Seq>(row[0].node).body : row) + (chunk ? static_cast<int64_t>(std::get<Seq>(row[0].node).carries.size()) : 0);
    if (axis(along_).extent * held > kMostHeld) return std::nullopt;
    axis(along_).tile = axis(along_).extent;
    body.push_back({Each{{along_}, std::move(row)}});
    top = std::move(body);
    return WholeRow{std::move(k_), along_, rows.row, held};
  }

 private:
  Kernel k_;
  Equal equal_;
  AxisId along_ = -1;
  std::map<BufferId, Scalar> fills_;   // what sums over the chunk start with

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }

  // The axis of a loop, where all of the row is walked along it.
  AxisId walk_of(const Stmt& s) {
    const auto* q = std::get_if<Seq>(&s.node);
    const auto* e = std::get_if<Each>(&s.node);
    const std::vector<AxisId>& axes = q ? q->axes : e->axes;
    const Block& body = q ? q->body : e->body;
    if (axes.size() != 1 || is_walked(k_, axes[0])) return -1;
    const Axis& a = axis(axes[0]);
    const bool plain = std::all_of(body.begin(), body.end(), [](const Stmt& inner) { return made_by(inner) >= 0 ? !std::holds_alternative<Mma>(inner.node) : std::holds_alternative<Store>(inner.node); });
    return plain && !a.symbol && !a.from && !a.to && a.within < 0 && (along_ < 0 || axis(along_).extent == a.extent) ? axes[0] : -1;
  }
  static bool is_loop(const Stmt& s) { return std::holds_alternative<Seq>(s.node) || std::holds_alternative<Each>(s.node); }
  // Are all loops of the block walks along its row? At least one must be there.
  bool walks_of(const Block& block) {
    for (const Stmt& s : block) {
      if (std::holds_alternative<Mma>(s.node)) return false;
      if (!is_loop(s)) continue;
      const AxisId a = walk_of(s);
      if (a < 0) return false;
      along_ = std::max(along_, a);   // the last, so that it stands behind the rows' axis
    }
    return along_ >= 0;
  }
  // What stands before the walk over a chunk: fills of its sums, and single values.
  bool fills_of(const Block& top) {
    std::map<ValueId, Scalar> constants;
    const auto fill = [&](const Stmt& s) {
      if (const auto* m = std::get_if<MapTile>(&s.node); m && m->expr.size() == 1 && m->expr[0].kind == ScalarNode::Kind::constant) constants[m->out] = m->expr[0].constant;
      const auto* t = std::get_if<Store>(&s.node);
      if (t && constants.count(t->value)) fills_[t->buffer] = constants[t->value];
      return made_by(s) >= 0 || (t && constants.count(t->value));
    };
    return std::all_of(top.begin(), top.end() - 1, [&](const Stmt& s) {
      const auto* e = std::get_if<Each>(&s.node);
      return e ? walk_of(s) >= 0 && std::all_of(e->body.begin(), e->body.end(), fill) : fill(s);
    });
  }

  // The only step of all walks in a block.
  Block flat(const Block& block) {
    Block out;
    Names names;
    for (Stmt s : block) {
      auto* q = std::get_if<Seq>(&s.node);
      auto* e = std::get_if<Each>(&s.node);
      if (!q && !e) {
        equal_.take_in(out, {std::move(s)}, names);
        continue;
      }
      Block body;
      if (q)
        for (const Carry& c : q->carries) body.push_back({MapTile{c.var, {ScalarNode{ScalarNode::Kind::constant, c.init.dtype, Op::add, {}, c.init, 0, {}}}, {}}});
      Block& own = q ? q->body : e->body;
      rename_axes(k_, own, {{(q ? q->axes : e->axes)[0], along_}});
      std::move(own.begin(), own.end(), std::back_inserter(body));
      equal_.take_in(out, std::move(body), names);
      for (size_t i = 0; q && i < q->outs.size(); ++i) names[q->outs[i]] = named(names, q->yields[i]);
    }
    return out;
  }

  // Sums over the chunk's rows become the walk's carries, stored behind it.
  bool carry_sums(Block& row, Seq& walk, Block& stores) {
    for (const auto& [buffer, start] : fills_) {
      const auto is_load = [&](const Stmt& s) { return std::holds_alternative<Load>(s.node) && std::get<Load>(s.node).buffer == buffer; };
      const auto is_store = [&](const Stmt& s) { return std::holds_alternative<Store>(s.node) && std::get<Store>(s.node).buffer == buffer; };
      if (std::count_if(row.begin(), row.end(), is_load) != 1 || std::count_if(row.begin(), row.end(), is_store) != 1) return false;
      const auto load = std::find_if(row.begin(), row.end(), is_load);
      const Load from = std::get<Load>(load->node);
      row.erase(load);
      const auto store = std::find_if(row.begin(), row.end(), is_store);
      Store to = std::get<Store>(store->node);
      row.erase(store);
      if (!std::equal(from.index.begin(), from.index.end(), to.index.begin(), to.index.end(), [](const BoxIndex& a, const BoxIndex& b) { return a.gather < 0 && b.gather < 0 && a.index == b.index; })) return false;
      if (std::any_of(to.index.begin(), to.index.end(), [&](const BoxIndex& b) { return b.index.uses(walk.axes[0]); })) return false;
      walk.carries.push_back({from.out, start});
      walk.yields.push_back(to.value);
      k_.values.push_back(k_.values[static_cast<size_t>(from.out)]);
      to.value = static_cast<ValueId>(k_.values.size() - 1);
      walk.outs.push_back(to.value);
      stores.push_back({std::move(to)});
    }
    return true;
  }

  // What is the same for all rows is loaded for each statement that reads it: held over the walk it would take registers that the sums want.
  Block apart(const Block& row, const Seq& walk) {
    std::map<ValueId, Block> same;   // how it is made
    Block out;
    for (const Stmt& s : row) {
      const ValueId v = made_by(s);
      const bool load = std::holds_alternative<Load>(s.node), map = std::holds_alternative<MapTile>(s.node);
      std::set<ValueId> read;
      add_read_by(s, read);
      const bool of_same = std::all_of(read.begin(), read.end(), [&](ValueId r) { return same.count(r) > 0; });
      if ((load || (map && !read.empty())) && of_same && k_.values[static_cast<size_t>(v)].axes == std::vector{along_} && !std::count(walk.yields.begin(), walk.yields.end(), v)) {
        Block how;
        for (ValueId r : read) how.insert(how.end(), same.at(r).begin(), same.at(r).end());
        how.push_back(s);
        same[v] = std::move(how);
        continue;
      }
      Names names;
      for (ValueId r : read)
        for (Stmt made : same.count(r) ? same.at(r) : Block()) {
          rename_reads(made, names);
          const ValueId old = made_by(made), fresh = static_cast<ValueId>(k_.values.size());
          k_.values.push_back(Value(k_.values[static_cast<size_t>(old)]));
          (std::holds_alternative<Load>(made.node) ? std::get<Load>(made.node).out : std::get<MapTile>(made.node).out) = fresh;
          names[old] = fresh;
          out.push_back(std::move(made));
        }
      out.push_back(s);
      rename_reads(out.back(), names);
    }
    return out;
  }

  // Loaded tiles of rows; the others are as long, but the same for all rows and seldom held.
  int64_t held_by(const Block& row) {
    return std::count_if(row.begin(), row.end(), [&](const Stmt& s) {
      const auto* l = std::get_if<Load>(&s.node);
      const std::vector<AxisId>* axes = l ? &k_.values[static_cast<size_t>(l->out)].axes : nullptr;
      return axes && axes->size() > 1 && std::count(axes->begin(), axes->end(), along_);
    });
  }
};

}  // namespace

std::optional<WholeRow> whole_row(const Kernel& kernel) { return Whole(kernel).run(); }

std::optional<Kernel> row_in_shared(const Kernel& kernel, int64_t bytes) {
  Kernel k = kernel;
  if (k.phases.size() != 1 || row_block(k).block != &k.phases[0].body) return std::nullopt;
  struct Row {
    Load* load;
    AxisId along;
  };
  std::map<std::string, std::vector<Row>> rows;   // by what is read, the walk's axis a star
  const auto text = [&](const Load& l, AxisId along) {
    std::string out = fmt::format("p{}", l.buffer);
    for (const BoxIndex& b : l.index) out += b.gather >= 0 ? fmt::format(" %{}", b.gather) : " " + b.index.text([&](int a) { return a == along ? std::string("*") : k.axes[static_cast<size_t>(a)].name; });
    return out;
  };
  int64_t loops = 0;
  for (Stmt& s : k.phases[0].body) {
    auto* q = std::get_if<Seq>(&s.node);
    auto* e = std::get_if<Each>(&s.node);
    if (!q && !e) continue;
    const std::vector<AxisId>& axes = q ? q->axes : e->axes;
    if (axes.size() != 1 || is_walked(k, axes[0]) || k.axes[static_cast<size_t>(axes[0])].symbol) return std::nullopt;
    ++loops;
    for (Stmt& inner : q ? q->body : e->body)
      if (auto* l = std::get_if<Load>(&inner.node); l && k.values[static_cast<size_t>(l->out)].axes.size() > 1 && step_of(k, l->buffer, l->index, axes[0]) == 1 && l->index.back().gather < 0 && l->index.back().index == k.coordinate(axes[0]) &&
                                                    k.axes[static_cast<size_t>(axes[0])].extent * 8 >= k.buffers[static_cast<size_t>(l->buffer)].shape.back() * 7)   // all of it, or but what fills it up
        rows[text(*l, axes[0])].push_back({l, axes[0]});
  }
  Block copies;
  for (auto& [what, reads] : rows) {
    const Row& longest = *std::max_element(reads.begin(), reads.end(), [&](const Row& a, const Row& b) { return k.axes[static_cast<size_t>(a.along)].extent < k.axes[static_cast<size_t>(b.along)].extent; });
    const int64_t extent = k.axes[static_cast<size_t>(longest.along)].extent;
    if (reads.size() < 2 || extent < kSharedRow) continue;
    const Load first = *longest.load;
    const Buffer source = k.buffers[static_cast<size_t>(first.buffer)];
    bytes -= extent * size_of(source.dtype);
    const AxisId along = static_cast<AxisId>(k.axes.size());
    k.axes.push_back(Axis(k.axes[static_cast<size_t>(longest.along)]));
    k.axes.back().name = fmt::format("i{}", along);
    const BufferId scratch = static_cast<BufferId>(k.buffers.size());
    k.buffers.push_back({fmt::format("s{}", scratch), BufferKind::scratch, source.dtype, {extent}});
    Load copy = first;
    k.values.push_back(Value(k.values[static_cast<size_t>(first.out)]));
    copy.out = static_cast<ValueId>(k.values.size() - 1);
    copy.index.back() = BoxIndex(k.coordinate(along));
    std::vector<AxisId>& axes = k.values.back().axes;
    std::replace(axes.begin(), axes.end(), longest.along, along);
    std::sort(axes.begin(), axes.end());
    copies.push_back({Each{{along}, {Stmt{copy}, Stmt{Store{scratch, {k.coordinate(along)}, copy.out}}}}});
    for (const Row& r : reads) {
      r.load->buffer = scratch;
      r.load->index = {k.coordinate(r.along)};
    }
  }
  if (copies.empty() || bytes < 0) return std::nullopt;
  Block& body = k.phases[0].body;
  const auto first_loop = std::find_if(body.begin(), body.end(), [](const Stmt& s) { return std::holds_alternative<Seq>(s.node) || std::holds_alternative<Each>(s.node); });
  body.insert(first_loop, copies.begin(), copies.end());
  return k;
}

}  // namespace quern
