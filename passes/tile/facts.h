// What both planners ask of a lowered kernel: its products, reductions, loads and stores, and how far one step of an axis
// moves in a buffer.
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

inline bool contiguous_in_loads(const Kernel& k, const Facts& f, AxisId a) {
  return std::any_of(f.loads.begin(), f.loads.end(), [&](const Load* l) { return step_of(k, l->buffer, l->index, a) == 1; });
}
inline bool contiguous_in_stores(const Kernel& k, const Facts& f, AxisId a) {
  return std::any_of(f.stores.begin(), f.stores.end(), [&](const Store* t) { return step_of(k, t->buffer, t->index, a) == 1; });
}

}  // namespace quern::tile
