// See keep.h. Expressions are compared as text in which the walk's own axis is a star.
#include "passes/tile/keep.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "passes/tile/facts.h"
#include "passes/work.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kLongestRow = 16 << 10;   // elements: a second-level cache holds several such rows

bool is_costly(const ScalarNode& n) { return n.kind == ScalarNode::Kind::op && work_of(n.op) >= Work::function; }

class Keeper {
 public:
  explicit Keeper(const Kernel& kernel) : k_(kernel) {}

  Kernel run() {
    const auto [rows, row] = row_block(k_);
    rows_ = rows;
    Block& body = *rows_;
    for (AxisId a : k_.phases[0].grid)
      if (axis(a).tile != 1) return std::move(k_);
    if (row >= 0 && axis(row).tile != 1) return std::move(k_);
    for (bool found = true; found;) {
      found = false;
      std::map<std::string, std::vector<Place>> places;
      for (size_t w = 0; w < body.size(); ++w) {
        Block* walk = walk_of(body[w]);
        if (!walk) continue;
        for (size_t s = 0; s < walk->size(); ++s)
          if (const auto* m = std::get_if<MapTile>(&(*walk)[s].node))
            for (size_t i = 0; i < m->expr.size(); ++i)
              if (is_costly(m->expr[i]))
                if (const std::string text = describe(*walk, axis_of(body[w]), *m, static_cast<int>(i)); !text.empty()) places[fmt::format("{} of {}", text, axis(axis_of(body[w])).extent)].push_back({w, s, static_cast<int>(i)});
      }
      for (const auto& [text, of_text] : places)
        if (!found && of_text.front().walk != of_text.back().walk) {
          keep(of_text);
          found = true;
        }
    }
    return std::move(k_);
  }

 private:
  struct Place {
    size_t walk, statement;   // in the kernel's block, in the walk's
    int node;
  };
  Kernel k_;
  Block* rows_ = nullptr;   // where the walks along a row are

  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  // Of a loop along one axis, in vectors, that a scratch holds.
  AxisId axis_of(const Stmt& s) const {
    const auto* seq = std::get_if<Seq>(&s.node);
    const auto* each = std::get_if<Each>(&s.node);
    const std::vector<AxisId> axes = seq ? seq->axes : each ? each->axes : std::vector<AxisId>{};
    return axes.size() == 1 && axis(axes[0]).lanes && !axis(axes[0]).symbol && axis(axes[0]).extent <= kLongestRow ? axes[0] : -1;
  }
  Block* walk_of(Stmt& s) const {
    if (axis_of(s) < 0) return nullptr;
    auto* seq = std::get_if<Seq>(&s.node);
    return seq ? &seq->body : &std::get<Each>(s.node).body;
  }
  static const Stmt* maker(const Block& walk, ValueId v) {
    for (const Stmt& s : walk) {
      if (const auto* l = std::get_if<Load>(&s.node); l && l->out == v) return &s;
      if (const auto* m = std::get_if<MapTile>(&s.node); m && m->out == v) return &s;
    }
    return nullptr;
  }

  // What a node computes; empty where that is more than loads and maps of one place along the axis.
  std::string describe(const Block& walk, AxisId along, const MapTile& m, int node) const {
    const ScalarNode& n = m.expr[static_cast<size_t>(node)];
    const auto text = [&](const Index& e) { return e.text([&](int a) { return a == along ? std::string("*") : axis(a).name; }); };
    switch (n.kind) {
      case ScalarNode::Kind::constant: return fmt::format("{:a},{}:{}", n.constant.f, n.constant.i, static_cast<int>(n.dtype));
      case ScalarNode::Kind::coord: return fmt::format("coord({})", text(n.coord));
      case ScalarNode::Kind::symbol: case ScalarNode::Kind::random: return "";
      case ScalarNode::Kind::operand: break;
      case ScalarNode::Kind::op: {
        std::string out = fmt::format("{}:{}(", name_of(n.op), static_cast<int>(n.dtype));
        for (int a : n.args) {
          const std::string arg = describe(walk, along, m, a);
          if (arg.empty()) return "";
          out += arg + ",";
        }
        return out + ")";
      }
    }
    const ValueId v = m.args[static_cast<size_t>(n.operand)];
    const std::vector<AxisId>& axes = k_.values[static_cast<size_t>(v)].axes;
    if (!std::count(axes.begin(), axes.end(), along)) return defined_here(walk, v) ? "" : fmt::format("%{}", v);
    const Stmt* made = maker(walk, v);
    if (!made) return "";
    if (const auto* map = std::get_if<MapTile>(&made->node)) return describe(walk, along, *map, static_cast<int>(map->expr.size()) - 1);
    const Load& l = std::get<Load>(made->node);
    std::string out = fmt::format("p{}[", l.buffer);
    for (const BoxIndex& box : l.index) {
      if (box.gather >= 0) return "";
      out += text(box.index) + ",";
    }
    return out + "]";
  }
  // Within the walk, and so unknown to the others: also its carries and what it reduces.
  bool defined_here(const Block& walk, ValueId v) const {
    return std::none_of(rows_->begin(), rows_->end(), [&](const Stmt& s) {
             const auto* seq = std::get_if<Seq>(&s.node);
             return (seq && std::count(seq->outs.begin(), seq->outs.end(), v)) || made_by(s) == v;
           }) ||
           maker(walk, v);
  }

  // Copies the node and what it needs of the map; returns its place in the copy.
  static int copy(const MapTile& m, int node, const std::map<int, int>& instead, MapTile& to, std::map<int, int>& done) {
    if (const auto it = done.find(node); it != done.end()) return it->second;
    ScalarNode n = m.expr[static_cast<size_t>(node)];
    if (const auto it = instead.find(node); it != instead.end()) {
      n = {ScalarNode::Kind::operand, n.dtype, Op::add, {}, {}, it->second, {}};
    } else if (n.kind == ScalarNode::Kind::operand) {
      const ValueId v = m.args[static_cast<size_t>(n.operand)];
      const auto at = std::find(to.args.begin(), to.args.end(), v);
      n.operand = static_cast<int>(at - to.args.begin());
      if (at == to.args.end()) to.args.push_back(v);
    }
    if (!instead.count(node))
      for (int& a : n.args) a = copy(m, a, instead, to, done);
    to.expr.push_back(std::move(n));
    return done[node] = static_cast<int>(to.expr.size()) - 1;
  }

  ValueId fresh(DType dtype, std::vector<AxisId> axes) {
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }

  void keep(const std::vector<Place>& places) {
    Block& body = *rows_;
    const size_t first = places[0].walk;
    const AxisId along = axis_of(body[first]);
    const MapTile source = std::get<MapTile>((*walk_of(body[first]))[places[0].statement].node);
    MapTile part{fresh(source.expr[static_cast<size_t>(places[0].node)].dtype, k_.values[static_cast<size_t>(source.out)].axes), {}, {}};
    std::map<int, int> done;
    copy(source, places[0].node, {}, part, done);
    const DType dtype = part.expr.back().dtype;
    const BufferId scratch = static_cast<BufferId>(k_.buffers.size());
    k_.buffers.push_back({fmt::format("s{}", scratch), BufferKind::scratch, dtype, {axis(along).extent}});

    std::map<size_t, ValueId> kept{{first, part.out}};   // by walk
    std::set<std::pair<size_t, size_t>> changed;
    for (const Place& p : places) {
      if (!changed.insert({p.walk, p.statement}).second) continue;   // its nodes have moved
      if (!kept.count(p.walk)) kept[p.walk] = fresh(dtype, {axis_of(body[p.walk])});
      auto& m = std::get<MapTile>((*walk_of(body[p.walk]))[p.statement].node);
      MapTile smaller{m.out, {}, {kept[p.walk]}};
      std::map<int, int> copied;
      copy(m, static_cast<int>(m.expr.size()) - 1, {{p.node, 0}}, smaller, copied);
      m = std::move(smaller);
    }
    for (const auto& [w, v] : kept) {
      Block& walk = *walk_of(body[w]);
      if (w == first) walk.insert(walk.begin() + static_cast<int64_t>(places[0].statement), {Stmt{part}, Stmt{Store{scratch, {k_.coordinate(along)}, v}}});
      else walk.insert(walk.begin(), {Load{v, scratch, {{k_.coordinate(axis_of(body[w])), -1}}}});
      const auto* seq = std::get_if<Seq>(&body[w].node);
      drop_unused(walk, seq ? seq->yields : std::vector<ValueId>{});
    }
  }

  // Loads and maps of a walk that nothing in it reads any more.
  static void drop_unused(Block& walk, const std::vector<ValueId>& yields) {
    for (size_t i = walk.size(); i-- > 0;) {
      const ValueId v = std::holds_alternative<ReduceTile>(walk[i].node) ? -1 : made_by(walk[i]);
      if (v < 0 || std::count(yields.begin(), yields.end(), v)) continue;
      const bool used = std::any_of(walk.begin() + static_cast<int64_t>(i) + 1, walk.end(), [&](const Stmt& s) {
        if (const auto* l = std::get_if<Load>(&s.node)) return std::any_of(l->index.begin(), l->index.end(), [&](const BoxIndex& b) { return b.gather == v; });
        if (const auto* m = std::get_if<MapTile>(&s.node)) return std::count(m->args.begin(), m->args.end(), v) > 0;
        if (const auto* r = std::get_if<ReduceTile>(&s.node)) return r->arg == v;
        if (const auto* t = std::get_if<Store>(&s.node)) return t->value == v;
        return true;
      });
      if (!used) walk.erase(walk.begin() + static_cast<int64_t>(i));
    }
  }
};

}  // namespace

Kernel keep(const Kernel& kernel) { return Keeper(kernel).run(); }

}  // namespace quern
