// See rename.h.
#include "passes/tile/rename.h"

#include <algorithm>

#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

ValueId named(const Names& names, ValueId v) {
  const auto it = names.find(v);
  return it == names.end() ? v : it->second;
}

void rename_reads(Stmt& s, const Names& names) {
  const auto value = [&](ValueId& v) { v = named(names, v); };
  const auto boxes = [&](std::vector<BoxIndex>& all) {
    for (BoxIndex& b : all)
      if (b.gather >= 0) value(b.gather);
  };
  const auto block = [&](Block& body) {
    for (Stmt& inner : body) rename_reads(inner, names);
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

void rename_axes(Kernel& kernel, Block& block, const std::map<AxisId, AxisId>& axes) {
  const auto axis_name = [&](AxisId a) {
    const auto it = axes.find(a);
    return it == axes.end() ? a : it->second;
  };
  const auto index = [&](Index& e) { e = e.substitute([&](int a, int64_t extent) { return Index::axis(axis_name(a), extent); }); };
  const auto list = [&](std::vector<AxisId>& all) {
    for (AxisId& a : all) a = axis_name(a);
  };
  const auto value = [&](ValueId v) {
    std::vector<AxisId>& all = kernel.values[static_cast<size_t>(v)].axes;
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
                            rename_axes(kernel, q.body, axes);
                          },
                          [&](Each& e) {
                            list(e.axes);
                            rename_axes(kernel, e.body, axes);
                          },
                          [&](Store& t) { boxes(t.index); }, [](InRole&) {}},
               s.node);
}

void add_made_by(const Stmt& s, std::set<ValueId>& out) {
  if (const auto* q = std::get_if<Seq>(&s.node)) out.insert(q->outs.begin(), q->outs.end());
  else if (const ValueId v = made_by(s); v >= 0) out.insert(v);
}

}  // namespace quern
