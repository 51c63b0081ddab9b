// See join.h. The later loop's statements are renamed to the earlier one's axes and taken in one by one; a statement that is
// there already gives its value another name.
#include "passes/tile/join.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "ir/support/overloaded.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

using Names = std::map<ValueId, ValueId>;

class Join {
 public:
  explicit Join(const Kernel& kernel) : k_(kernel) {}

  Kernel run() {
    Block& body = *row_block(k_).block;
    for (size_t i = 0; i < body.size(); ++i)
      for (size_t j = i + 1; j < body.size(); ++j)
        if (join(body, i, j)) j = i;   // what stood between has moved
    return std::move(k_);
  }

 private:
  Kernel k_;

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }

  static void made_by(const Stmt& s, std::set<ValueId>& out) {
    std::visit(Overloaded{[&](const Load& l) { out.insert(l.out); }, [&](const MapTile& m) { out.insert(m.out); }, [&](const ReduceTile& r) { out.insert(r.out); },
                          [&](const Mma& m) { out.insert(m.out); }, [&](const Seq& q) { out.insert(q.outs.begin(), q.outs.end()); }, [](const Each&) {}, [](const Store&) {}, [](const InRole&) {}},
               s.node);
  }
  static void read_by(const Stmt& s, std::set<ValueId>& out) {
    const auto boxes = [&](const std::vector<BoxIndex>& index) {
      for (const BoxIndex& b : index)
        if (b.gather >= 0) out.insert(b.gather);
    };
    const auto block = [&](const Block& body) {
      for (const Stmt& inner : body) read_by(inner, out);
    };
    std::visit(Overloaded{[&](const Load& l) { boxes(l.index); }, [&](const MapTile& m) { out.insert(m.args.begin(), m.args.end()); }, [&](const ReduceTile& r) { out.insert(r.arg); },
                          [&](const Mma& m) { out.insert({m.acc, m.a, m.b}); },
                          [&](const Seq& q) {
                            block(q.body);
                            out.insert(q.yields.begin(), q.yields.end());
                          },
                          [&](const Each& e) { block(e.body); },
                          [&](const Store& t) {
                            boxes(t.index);
                            out.insert(t.value);
                          },
                          [](const InRole&) {}},
               s.node);
  }
  static bool stores(const Block& block) {
    return std::any_of(block.begin(), block.end(), [](const Stmt& s) { return std::holds_alternative<Store>(s.node) || std::holds_alternative<Each>(s.node); });
  }
  bool alike(const std::vector<AxisId>& a, const std::vector<AxisId>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [&](AxisId x, AxisId y) { return axis(x).extent == axis(y).extent && axis(x).symbol == axis(y).symbol && axis(x).tile == axis(y).tile; });
  }

  // The loops at i and j, where the later one and what it reads do not want the earlier one's results.
  bool join(Block& body, size_t i, size_t j) {
    auto *first = std::get_if<Seq>(&body[i].node), *second = std::get_if<Seq>(&body[j].node);
    if (!first || !second || !alike(first->axes, second->axes) || stores(first->body) || stores(second->body)) return false;
    std::set<ValueId> behind(first->outs.begin(), first->outs.end());   // what wants the earlier one
    std::vector<char> late(body.size());
    for (size_t s = i + 1; s <= j; ++s) {
      std::set<ValueId> read;
      read_by(body[s], read);
      late[s] = std::any_of(read.begin(), read.end(), [&](ValueId v) { return behind.count(v) > 0; });
      if (late[s]) made_by(body[s], behind);
    }
    if (late[j]) return false;
    Seq one = std::move(*first), two = std::move(*second);
    std::map<AxisId, AxisId> axes;
    for (size_t a = 0; a < one.axes.size(); ++a) axes[two.axes[a]] = one.axes[a];
    rename(two.body, axes);
    Names names;
    take_in(one.body, std::move(two.body), names);
    for (ValueId y : two.yields) one.yields.push_back(named(names, y));
    one.carries.insert(one.carries.end(), two.carries.begin(), two.carries.end());
    one.outs.insert(one.outs.end(), two.outs.begin(), two.outs.end());
    Block out(std::make_move_iterator(body.begin()), std::make_move_iterator(body.begin() + static_cast<int64_t>(i)));
    for (size_t s = i + 1; s < j; ++s)
      if (!late[s] && !std::holds_alternative<Store>(body[s].node)) out.push_back(std::move(body[s]));
      else late[s] = 1;
    out.push_back({std::move(one)});
    for (size_t s = i + 1; s < body.size(); ++s)
      if (s > j || (s < j && late[s])) out.push_back(std::move(body[s]));
    body = std::move(out);
    return true;
  }

  // --- axes ---
  void rename(Block& block, const std::map<AxisId, AxisId>& axes) {
    const auto axis_name = [&](AxisId a) {
      const auto it = axes.find(a);
      return it == axes.end() ? a : it->second;
    };
    const auto index = [&](Index& e) { e = e.substitute([&](int a, int64_t extent) { return Index::axis(axis_name(a), extent); }); };
    const auto list = [&](std::vector<AxisId>& all) {
      for (AxisId& a : all) a = axis_name(a);
    };
    const auto value = [&](ValueId v) {
      std::vector<AxisId>& all = k_.values[static_cast<size_t>(v)].axes;
      list(all);
      std::sort(all.begin(), all.end());
    };
    const auto boxes = [&](std::vector<BoxIndex>& all) {
      for (BoxIndex& b : all)
        if (b.gather < 0) index(b.index);
    };
    for (Stmt& s : block)
      std::visit(Overloaded{[&](Load& l) {
                              boxes(l.index);
                              value(l.out);
                            },
                            [&](MapTile& m) {
                              for (ScalarNode& n : m.expr)
                                if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) index(n.coord);
                              value(m.out);
                            },
                            [&](ReduceTile& r) {
                              list(r.axes);
                              value(r.out);
                            },
                            [&](Mma& m) {
                              list(m.axes);
                              value(m.out);
                            },
                            [&](Seq& q) {
                              list(q.axes);
                              for (const Carry& c : q.carries) value(c.var);
                              for (ValueId v : q.outs) value(v);
                              rename(q.body, axes);
                            },
                            [&](Each& e) {
                              list(e.axes);
                              rename(e.body, axes);
                            },
                            [&](Store& t) { boxes(t.index); }, [](InRole&) {}},
                 s.node);
  }

  // --- equal statements ---
  static ValueId named(const Names& names, ValueId v) {
    const auto it = names.find(v);
    return it == names.end() ? v : it->second;
  }
  static void use_names(Stmt& s, const Names& names) {
    const auto value = [&](ValueId& v) { v = named(names, v); };
    const auto boxes = [&](std::vector<BoxIndex>& all) {
      for (BoxIndex& b : all)
        if (b.gather >= 0) value(b.gather);
    };
    const auto block = [&](Block& body) {
      for (Stmt& inner : body) use_names(inner, names);
    };
    std::visit(Overloaded{[&](Load& l) { boxes(l.index); }, [&](MapTile& m) { std::for_each(m.args.begin(), m.args.end(), value); }, [&](ReduceTile& r) { value(r.arg); },
                          [&](Mma& m) { value(m.acc), value(m.a), value(m.b); },
                          [&](Seq& q) {
                            block(q.body);
                            std::for_each(q.yields.begin(), q.yields.end(), value);
                          },
                          [&](Each& e) { block(e.body); },
                          [&](Store& t) {
                            boxes(t.index);
                            value(t.value);
                          },
                          [](InRole&) {}},
               s.node);
  }
  // Appends the statements that are not there; `names` learns of the others.
  void take_in(Block& into, Block more, Names& names) {
    for (Stmt& s : more) {
      use_names(s, names);
      const bool there = std::any_of(into.begin(), into.end(), [&](const Stmt& old) { return equal(old, s, names); });
      if (!there) into.push_back(std::move(s));
    }
  }
  static bool equal_boxes(const std::vector<BoxIndex>& x, const std::vector<BoxIndex>& y, const Names& names) {
    return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), [&](const BoxIndex& a, const BoxIndex& b) { return a.gather == named(names, b.gather) && (a.gather >= 0 || a.index == b.index); });
  }
  static bool equal_nodes(const ScalarNode& a, const ScalarNode& b) {
    return a.kind == b.kind && a.dtype == b.dtype && a.op == b.op && a.args == b.args && a.constant == b.constant && a.operand == b.operand && a.coord == b.coord;
  }
  // Whether s, its arguments by `names`, computes what `old` does; then names[its results] are old's.
  bool equal(const Stmt& old, const Stmt& s, Names& names) {
    if (old.node.index() != s.node.index()) return false;
    const auto same = [&](ValueId x, ValueId y) { return x == named(names, y); };
    const auto found = [&](ValueId x, ValueId y) {
      names[y] = x;
      return true;
    };
    if (const auto* l = std::get_if<Load>(&s.node)) {
      const auto& o = std::get<Load>(old.node);
      return o.buffer == l->buffer && equal_boxes(o.index, l->index, names) && found(o.out, l->out);
    }
    if (const auto* m = std::get_if<MapTile>(&s.node)) {
      const auto& o = std::get<MapTile>(old.node);
      return axes_of(o.out) == axes_of(m->out) && std::equal(o.args.begin(), o.args.end(), m->args.begin(), m->args.end(), same) && std::equal(o.expr.begin(), o.expr.end(), m->expr.begin(), m->expr.end(), equal_nodes) && found(o.out, m->out);
    }
    if (const auto* r = std::get_if<ReduceTile>(&s.node)) {
      const auto& o = std::get<ReduceTile>(old.node);
      return o.combine == r->combine && o.axes == r->axes && same(o.arg, r->arg) && found(o.out, r->out);
    }
    if (const auto* m = std::get_if<Mma>(&s.node)) {
      const auto& o = std::get<Mma>(old.node);
      return o.precision == m->precision && o.axes == m->axes && same(o.acc, m->acc) && same(o.a, m->a) && same(o.b, m->b) && found(o.out, m->out);
    }
    if (const auto* q = std::get_if<Seq>(&s.node)) return equal_loops(std::get<Seq>(old.node), *q, names);
    return false;
  }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }

  bool equal_loops(const Seq& old, const Seq& q, Names& names) {
    if (!alike(old.axes, q.axes) || old.carries.size() != q.carries.size() || old.body.size() != q.body.size()) return false;
    std::map<AxisId, AxisId> axes, back;
    for (size_t a = 0; a < q.axes.size(); ++a) axes[q.axes[a]] = old.axes[a], back[old.axes[a]] = q.axes[a];
    Seq renamed = q;
    Names inner = names;
    bool equal_all = true;
    for (size_t c = 0; c < q.carries.size(); ++c) {
      equal_all = equal_all && old.carries[c].init == q.carries[c].init;
      inner[q.carries[c].var] = old.carries[c].var;
    }
    rename(renamed.body, axes);
    for (size_t s = 0; s < q.body.size() && equal_all; ++s) {
      use_names(renamed.body[s], inner);
      equal_all = equal(old.body[s], renamed.body[s], inner);
    }
    for (size_t c = 0; c < q.yields.size() && equal_all; ++c) equal_all = old.yields[c] == named(inner, q.yields[c]);
    if (!equal_all) rename(renamed.body, back);   // their tiles' axes
    for (size_t c = 0; c < q.outs.size() && equal_all; ++c) names[q.outs[c]] = old.outs[c];
    return equal_all;
  }
};

}  // namespace

Kernel join(const Kernel& kernel) { return Join(kernel).run(); }

}  // namespace quern
