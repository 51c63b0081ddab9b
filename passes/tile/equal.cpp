// See equal.h.
#include "passes/tile/equal.h"

#include <algorithm>
#include <map>

namespace quern {

using namespace tile;

namespace {

bool equal_boxes(const std::vector<BoxIndex>& x, const std::vector<BoxIndex>& y, const Names& names) {
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), [&](const BoxIndex& a, const BoxIndex& b) { return a.gather == named(names, b.gather) && (a.gather >= 0 || a.index == b.index); });
}

}  // namespace

bool equal_nodes(const ScalarNode& a, const ScalarNode& b) {
  return a.kind == b.kind && a.dtype == b.dtype && a.op == b.op && a.args == b.args && a.constant == b.constant && a.operand == b.operand && a.coord == b.coord;
}

void Equal::take_in(Block& into, Block more, Names& names) {
  for (Stmt& s : more) {
    rename_reads(s, names);
    const bool there = std::any_of(into.begin(), into.end(), [&](const Stmt& old) { return statements(old, s, names); });
    if (!there) into.push_back(std::move(s));
  }
}
bool Equal::statements(const Stmt& old, const Stmt& s, Names& names) {
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
  if (const auto* q = std::get_if<Seq>(&s.node)) return loops(std::get<Seq>(old.node), *q, names);
  return false;
}
bool Equal::loops(const Seq& old, const Seq& q, Names& names) {
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
  rename_axes(kernel_, renamed.body, axes);
  for (size_t s = 0; s < q.body.size() && equal_all; ++s) {
    rename_reads(renamed.body[s], inner);
    equal_all = statements(old.body[s], renamed.body[s], inner);
  }
  for (size_t c = 0; c < q.yields.size() && equal_all; ++c) equal_all = old.yields[c] == named(inner, q.yields[c]);
  if (!equal_all) rename_axes(kernel_, renamed.body, back);   // their tiles' axes
  for (size_t c = 0; c < q.outs.size() && equal_all; ++c) names[q.outs[c]] = old.outs[c];
  return equal_all;
}

bool Equal::alike(const std::vector<AxisId>& a, const std::vector<AxisId>& b) const {
  const auto same = [](const std::optional<Index>& x, const std::optional<Index>& y) { return x ? y && *x == *y : !y; };
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [&](AxisId i, AxisId j) {
           const Axis &x = kernel_.axes[static_cast<size_t>(i)], &y = kernel_.axes[static_cast<size_t>(j)];
           return x.extent == y.extent && x.symbol == y.symbol && x.tile == y.tile && same(x.from, y.from) && same(x.to, y.to);
         });
}

}  // namespace quern
