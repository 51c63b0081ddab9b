// See roll.h.
#include "passes/tile/roll.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/support/arith.h"
#include "passes/tile/facts.h"
#include "passes/work.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kFewVectors = 8;   // of a tile

class Roll {
 public:
  Roll(Kernel kernel, int64_t lanes) : k_(std::move(kernel)), lanes_(lanes) {}

  Kernel run() {
    for (Phase& p : k_.phases)
      if (find(p.body)) block(p.body);
    return std::move(k_);
  }

 private:
  Kernel k_;
  int64_t lanes_;
  AxisId rows_ = -1, along_ = -1;   // of the product's result: what is rolled, and the lanes

  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }
  bool has_rows(ValueId v) const { return std::count(axes_of(v).begin(), axes_of(v).end(), rows_) > 0; }

  // The product, and what its registers hold: many vectors in rows. But where a row ends within a vector and the next one begins
  // there, the next one's load would wait for the store of this one: all of a tile are loaded first.
  bool find(const Block& body) {
    for (const Stmt& s : body) {
      if (const auto* m = std::get_if<Mma>(&s.node)) {
        rows_ = along_ = -1;
        for (AxisId a : axes_of(m->out))
          if (axis(a).lanes) along_ = a;
          else if (axis(a).tile > 1) rows_ = rows_ < 0 ? a : -2;
        if (rows_ < 0 || along_ < 0 || axis(rows_).symbol || axis(rows_).tile * ceil_div(axis(along_).tile, lanes_) <= kFewVectors) return false;
        return axis(along_).extent > axis(along_).tile || axis(along_).extent % lanes_ == 0;
      }
      const auto* q = std::get_if<Seq>(&s.node);
      const auto* e = std::get_if<Each>(&s.node);
      if ((q && find(q->body)) || (e && find(e->body))) return true;
    }
    return false;
  }

  static bool is_slow(const ScalarNode& n) { return n.kind == ScalarNode::Kind::op && work_of(n.op) >= Work::division; }
  bool is_much(const Stmt& s) const {
    const auto* m = std::get_if<MapTile>(&s.node);
    return m && has_rows(m->out) && std::any_of(m->expr.begin(), m->expr.end(), is_slow);
  }

  void block(Block& body) {
    if (std::any_of(body.begin(), body.end(), [&](const Stmt& s) { return is_much(s); })) return roll(body);
    for (Stmt& s : body)
      if (auto* e = std::get_if<Each>(&s.node)) block(e->body);
  }

  static bool is_plain(const Stmt& s) { return std::holds_alternative<Load>(s.node) || std::holds_alternative<MapTile>(s.node); }

  void roll(Block& body) {
    size_t first = body.size();   // behind the last loop
    while (first > 0 && !std::holds_alternative<Seq>(body[first - 1].node) && !std::holds_alternative<Each>(body[first - 1].node)) --first;
    for (size_t i = first; i < body.size(); ++i)
      if (!is_plain(body[i]) && !std::holds_alternative<Store>(body[i].node)) return;
    // What stands before the loops and is not for them belongs to the rest, too.
    std::set<ValueId> wanted;
    std::vector<char> stays(body.size());
    for (size_t i = first; i-- > 0;) {
      stays[i] = !is_plain(body[i]) || wanted.count(made_by(body[i]));
      if (stays[i]) add_read_by(body[i], wanted);
    }
    Block before, after;
    std::map<ValueId, ValueId> renamed;
    std::vector<Stmt> rest;
    for (size_t i = 0; i < body.size(); ++i) {
      const bool moves = i >= first || !stays[i];
      if (moves && is_plain(body[i]) && has_rows(made_by(body[i]))) renamed[made_by(body[i])] = -1;
      (moves ? rest : before).push_back(std::move(body[i]));
    }
    const AxisId row = static_cast<AxisId>(k_.axes.size());
    k_.axes.push_back({fmt::format("i{}", row), axis(rows_).extent, 1, false, {}, 0, rows_});
    const auto rename = [&](ValueId v) {
      ValueId& now = renamed[v];
      if (now > 0) return now;
      std::vector<AxisId> axes;
      for (AxisId a : axes_of(v)) axes.push_back(a == rows_ ? row : a);
      std::sort(axes.begin(), axes.end());
      k_.values.push_back({k_.values[static_cast<size_t>(v)].dtype, std::move(axes)});
      return now = static_cast<ValueId>(k_.values.size() - 1);
    };
    // Values of all rows come through scratch.
    std::set<ValueId> read;
    for (const Stmt& s : rest) add_read_by(s, read);
    for (ValueId v : read) {
      if (!has_rows(v) || renamed.count(v)) continue;
      Buffer scratch{fmt::format("s{}", static_cast<int64_t>(k_.buffers.size()) - k_.params()), BufferKind::scratch, k_.values[static_cast<size_t>(v)].dtype, {}};
      std::vector<Index> place, again;
      for (AxisId a : axes_of(v)) {
        if (axis(a).tile == 1) continue;
        scratch.shape.push_back(axis(a).tile);
        place.push_back(floor_mod(k_.coordinate(a), axis(a).tile));
        again.push_back(floor_mod(k_.coordinate(a == rows_ ? row : a), axis(a).tile));
      }
      const BufferId buffer = static_cast<BufferId>(k_.buffers.size());
      k_.buffers.push_back(std::move(scratch));
      before.push_back({Store{buffer, box_of(place), v}});
      after.push_back({Load{rename(v), buffer, box_of(again)}});
    }
    const auto index = [&](Index& e) { e = e.substitute([&](int a, int64_t extent) { return Index::axis(a == rows_ ? row : a, extent); }); };
    const auto box = [&](std::vector<BoxIndex>& at) {
      for (BoxIndex& b : at) {
        if (b.gather >= 0 && has_rows(b.gather)) b.gather = rename(b.gather);
        if (b.gather < 0) index(b.index);
      }
    };
    for (Stmt& s : rest) {
      if (is_plain(s) && !has_rows(made_by(s))) {   // the same for all rows
        before.push_back(std::move(s));
        continue;
      }
      if (auto* l = std::get_if<Load>(&s.node)) l->out = rename(l->out), box(l->index);
      if (auto* t = std::get_if<Store>(&s.node)) {
        box(t->index);
        if (has_rows(t->value)) t->value = rename(t->value);
      }
      if (auto* m = std::get_if<MapTile>(&s.node)) {
        m->out = rename(m->out);
        for (ValueId& a : m->args)
          if (has_rows(a)) a = rename(a);
        for (ScalarNode& n : m->expr)
          if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) index(n.coord);
      }
      after.push_back(std::move(s));
    }
    before.push_back({Each{{row}, std::move(after)}});
    body = std::move(before);
  }
};

}  // namespace

Kernel roll(Kernel kernel, int64_t lanes) { return Roll(std::move(kernel), lanes).run(); }

}  // namespace quern
