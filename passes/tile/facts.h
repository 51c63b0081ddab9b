// What both planners ask of a lowered kernel: its products, reductions, loads and stores, what a statement makes and reads,
// and how far one step of an axis moves in a buffer.
#pragma once
#include <algorithm>
#include <map>
#include <set>

#include "ir/support/overloaded.h"
#include "ir/tile/kernel.h"

namespace quern::tile {

struct Facts {
  std::vector<const Mma*> products;
  std::vector<const ReduceTile*> reductions;
  std::vector<const Load*> loads;
  std::vector<const Store*> stores;
  std::vector<AxisId> each_axes;
  std::map<ValueId, const Load*> loaded;
  std::set<AxisId> walked;                      // their tile is 1; what reduces along them is not among the reductions

  explicit Facts(const Kernel& k) {
    for (size_t a = 0; a < k.axes.size(); ++a)
      if (is_walked(k, static_cast<AxisId>(a))) walked.insert(static_cast<AxisId>(a));
    for (const Phase& p : k.phases) visit(p.body);
  }

 private:
  void visit(const Block& block) {
    for (const Stmt& s : block)
      std::visit(Overloaded{[&](const Load& l) { loads.push_back(&l); loaded[l.out] = &l; },
                            [&](const Mma& m) { products.push_back(&m); },
                            [&](const ReduceTile& r) {
                              if (!walked.count(r.axes[0])) reductions.push_back(&r);
                            },
                            [&](const Store& t) { stores.push_back(&t); },
                            [&](const Seq& q) { visit(q.body); },
                            [&](const Each& e) {
                              each_axes.insert(each_axes.end(), e.axes.begin(), e.axes.end());
                              visit(e.body);
                            },
                            [](const MapTile&) {}, [](const InRole&) {}},
                 s.node);
  }
};

/// The value that a statement makes; -1 for stores and loops.
inline ValueId made_by(const Stmt& s) {
  if (const auto* l = std::get_if<Load>(&s.node)) return l->out;
  if (const auto* m = std::get_if<MapTile>(&s.node)) return m->out;
  if (const auto* r = std::get_if<ReduceTile>(&s.node)) return r->out;
  if (const auto* m = std::get_if<Mma>(&s.node)) return m->out;
  return -1;
}

/// Adds every value that the statement reads, and those in its body.
inline void add_read_by(const Stmt& s, std::set<ValueId>& out) {
  const auto box = [&](const std::vector<BoxIndex>& index) {
    for (const BoxIndex& b : index)
      if (b.gather >= 0) out.insert(b.gather);
  };
  const auto all = [&](const Block& body) {
    for (const Stmt& inner : body) add_read_by(inner, out);
  };
  std::visit(Overloaded{[&](const Load& l) { box(l.index); }, [&](const MapTile& m) { out.insert(m.args.begin(), m.args.end()); },
                        [&](const ReduceTile& r) { out.insert(r.arg); }, [&](const Mma& m) { out.insert({m.acc, m.a, m.b}); },
                        [&](const Seq& q) {
                          all(q.body);
                          out.insert(q.yields.begin(), q.yields.end());
                        },
                        [&](const Each& e) { all(e.body); },
                        [&](const Store& t) {
                          box(t.index);
                          out.insert(t.value);
                        },
                        [&](const InRole& r) {
                          for (const Block* body : blocks_of(r)) all(*body);
                          std::visit(Overloaded{[&](const Put& p) { out.insert(p.values.begin(), p.values.end()); }, [&](const Slice& x) { out.insert(x.arg); }, [&](const Share& x) { out.insert(x.value); },
                                                [&](const Total& x) { out.insert(x.arg); },
                                                [&](const Past& p) {
                                                  out.insert(p.yields.begin(), p.yields.end());
                                                  out.insert(p.others.begin(), p.others.end());
                                                },
                                                [](const auto&) {}},
                                     r.node);
                        }},
             s.node);
}

/// The one loop at the top of the block, a seq; null where there are others or none.
inline Seq* lone_loop(Block& block) {
  Seq* found = nullptr;
  for (Stmt& s : block) {
    auto* q = std::get_if<Seq>(&s.node);
    if (std::holds_alternative<Each>(s.node) || (q && found)) return nullptr;
    if (q) found = q;
  }
  return found;
}

/// The block in which one row is worked on, and the row's axis (-1: none): a grid instance's, or that of its walk over a chunk of rows.
struct RowBlock {
  Block* block;
  AxisId row;
};
inline RowBlock row_block(Kernel& k) {
  Phase& p = k.phases[0];
  auto* chunk = p.body.empty() ? nullptr : std::get_if<Seq>(&p.body.back().node);
  if (chunk && chunk->carries.empty() && chunk->axes.size() == 1 && !is_walked(k, chunk->axes[0])) return {&chunk->body, chunk->axes[0]};
  return {&p.body, p.grid.empty() ? -1 : p.grid.back()};
}

// Elements moved in the buffer by one step of the axis; 0 where it does not matter, -1 where not linear.
inline int64_t step_of(const Kernel& k, BufferId buffer, const std::vector<BoxIndex>& index, AxisId a) {
  const Shape strides = k.buffers[static_cast<size_t>(buffer)].strides();
  int64_t total = 0;
  for (size_t d = 0; d < index.size(); ++d) {
    if (index[d].gather >= 0) continue;
    const auto s = index[d].index.stride(a);
    if (!s) return -1;
    total += *s * strides[d];
  }
  return total;
}

/// Are the last vectors of rows that run along the axis in memory whole, though the axis ends in them?
inline bool has_longer_rows(const Kernel& k, const Load& l, AxisId a, int64_t vector) {
  const Buffer& b = k.buffers[static_cast<size_t>(l.buffer)];
  const int64_t extent = k.axes[static_cast<size_t>(a)].extent;
  return !b.symbol && !l.index.empty() && l.index.back().gather < 0 && l.index.back().index == Index::axis(a, extent) && round_up(extent, vector) <= b.shape.back();
}

inline bool contiguous_in_loads(const Kernel& k, const Facts& f, AxisId a) {
  return std::any_of(f.loads.begin(), f.loads.end(), [&](const Load* l) { return step_of(k, l->buffer, l->index, a) == 1; });
}
/// Where the axis lies in panels, neighbours together in blocks of so many, … a // extent …, a % extent: that extent; else 0.
inline int64_t panel_of(const Kernel& k, const Load& l, AxisId a) {
  const Shape strides = k.buffers[static_cast<size_t>(l.buffer)].strides();
  const auto is = [&](const Index& e, Index::Kind kind) { return e.kind() == kind && e.left().kind() == Index::Kind::axis && e.left().value() == a; };
  int64_t within = 0, across = 0;
  for (size_t d = 0; d < l.index.size(); ++d) {
    const Index& e = l.index[d].index;
    if (l.index[d].gather >= 0 || !e.uses(a)) continue;
    if (is(e, Index::Kind::mod) && strides[d] == 1 && within == 0) within = e.value();
    else if (is(e, Index::Kind::div) && across == 0) across = e.value();
    else return 0;
  }
  return within == across ? within : 0;
}
inline bool contiguous_in_stores(const Kernel& k, const Facts& f, AxisId a) {
  return std::any_of(f.stores.begin(), f.stores.end(), [&](const Store* t) { return step_of(k, t->buffer, t->index, a) == 1; });
}

}  // namespace quern::tile
