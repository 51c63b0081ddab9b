// See overwrite.h.
#include "passes/tile/overwrite.h"

#include <algorithm>

#include "ir/support/fault.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

bool is_like(const Kernel& k, BufferId in, BufferId out) {
  const Buffer &a = k.buffers[static_cast<size_t>(in)], &b = k.buffers[static_cast<size_t>(out)];
  return a.kind == BufferKind::in && b.kind == BufferKind::out && a.dtype == b.dtype && a.shape == b.shape && k.phases.size() == 1;
}
bool same_place(const BoxIndex& a, const BoxIndex& b) { return a.gather < 0 && b.gather < 0 && a.index == b.index; }
bool same_places(const std::vector<BoxIndex>& a, const std::vector<BoxIndex>& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_place); }

// Does a nested block touch the buffer, or store anything?
bool nested_use(const Block& block, BufferId buffer, bool nested) {
  return std::any_of(block.begin(), block.end(), [&](const Stmt& s) {
    if (const auto* load = std::get_if<Load>(&s.node)) return nested && load->buffer == buffer;
    if (const auto* seq = std::get_if<Seq>(&s.node)) return nested_use(seq->body, buffer, true);
    if (const auto* each = std::get_if<Each>(&s.node)) return nested_use(each->body, buffer, true);
    return nested && std::holds_alternative<Store>(s.node);
  });
}

const Block* body_of(const Stmt& s) {
  if (const auto* q = std::get_if<Seq>(&s.node)) return &q->body;
  if (const auto* e = std::get_if<Each>(&s.node)) return &e->body;
  return nullptr;
}
const std::vector<AxisId>& axes_of(const Stmt& loop) {
  const auto* q = std::get_if<Seq>(&loop.node);
  return q ? q->axes : std::get<Each>(loop.node).axes;
}
void add_loads(const Stmt& s, BufferId buffer, std::vector<const Load*>& out) {
  if (const auto* l = std::get_if<Load>(&s.node); l && l->buffer == buffer) out.push_back(l);
  if (const Block* body = body_of(s))
    for (const Stmt& inner : *body) add_loads(inner, buffer, out);
}
const Store* store_in(const Stmt& s, BufferId buffer) {
  if (const auto* t = std::get_if<Store>(&s.node); t && t->buffer == buffer) return t;
  if (const Block* body = body_of(s))
    for (const Stmt& inner : *body)
      if (const Store* t = store_in(inner, buffer)) return t;
  return nullptr;
}

bool has_steps(const Kernel& k, AxisId a) {
  const Axis& axis = k.axes[static_cast<size_t>(a)];
  return axis.extent > axis.tile || axis.within >= 0;
}
// Is each step of these axes another place of the box, whatever the others are, and of what it shares with `other` alone?
bool are_apart(const Kernel& k, const std::vector<AxisId>& axes, const std::vector<BoxIndex>& box, const std::vector<BoxIndex>& other) {
  return std::all_of(axes.begin(), axes.end(), [&](AxisId a) {
    if (!has_steps(k, a)) return true;
    for (size_t d = 0; d < box.size(); ++d) {
      if (!same_place(box[d], other[d]) || box[d].index.kind() != Index::Kind::axis) continue;
      for (AxisId at = static_cast<AxisId>(box[d].index.value()); at >= 0; at = k.axes[static_cast<size_t>(at)].within)
        if (at == a) return true;
    }
    return false;
  });
}

// What touches a buffer in a role's block and in those in it.
struct Touches {
  const Block* block = nullptr;   // that sends to it
  std::vector<const Load*> loads;
  bool elsewhere = false;         // by other statements

  void visit(const Block& body, BufferId in, BufferId out) {
    for (const Stmt& s : body) {
      if (const auto* l = std::get_if<Load>(&s.node); l && (l->buffer == in || l->buffer == out)) loads.push_back(l), elsewhere |= l->buffer == out;
      if (const auto* t = std::get_if<Store>(&s.node)) elsewhere |= t->buffer == out;
      if (const Block* inner = body_of(s)) visit(*inner, in, out);
      const auto* r = std::get_if<InRole>(&s.node);
      if (!r) continue;
      if (const auto* f = std::get_if<Fetch>(&r->node))
        for (const Load& l : f->loads) elsewhere |= l.buffer == in || l.buffer == out;
      if (const auto* d = std::get_if<Send>(&r->node))
        for (const Store& t : d->stores)
          if (t.buffer == out) elsewhere |= block != nullptr, block = &body;
      for (const Block* inner : blocks_of(*r)) visit(*inner, in, out);
    }
  }
};
// Every thread has put what it made of its elements before the tile is sent.
bool overwrites_tiles(const Kernel& k, BufferId in, BufferId out) {
  const Phase& phase = k.phases[0];
  Touches all;
  for (const Role& r : phase.roles) all.visit(r.body, in, out);
  if (!all.block || all.elsewhere || phase.shared >= 0) return false;
  size_t before = 0;
  for (const Stmt& s : *all.block) {
    if (const auto* l = std::get_if<Load>(&s.node); l && l->buffer == in) ++before;
    const auto* r = std::get_if<InRole>(&s.node);
    const auto* d = r ? std::get_if<Send>(&r->node) : nullptr;
    if (!d) continue;
    for (const Store& t : d->stores)
      if (t.buffer == out) return before == all.loads.size() && std::all_of(all.loads.begin(), all.loads.end(), [&](const Load* l) { return same_places(l->index, t.index); });
  }
  return false;
}

}  // namespace

bool overwrites_elements(const Kernel& k, BufferId in, BufferId out) {
  if (!is_like(k, in, out)) return false;
  const Block& block = k.phases[0].body;
  if (nested_use(block, in, false)) return false;
  const Store* stored = nullptr;
  std::vector<const Store*> stores;
  for (const Stmt& s : block)
    if (const auto* store = std::get_if<Store>(&s.node)) {
      stores.push_back(store);
      if (store->buffer == out) stored = store;
    }
  if (!stored) return false;
  const auto axes = [&](const Store* s) { return k.values[static_cast<size_t>(s->value)].axes; };
  if (std::any_of(stores.begin(), stores.end(), [&](const Store* s) { return axes(s) != axes(stored); })) return false;
  bool written = false;
  for (const Stmt& s : block) {
    written = written || std::get_if<Store>(&s.node) == stored;
    const auto* load = std::get_if<Load>(&s.node);
    if (load && load->buffer == in && (written || !same_places(load->index, stored->index))) return false;
  }
  return true;
}

std::optional<Overwritten> overwrites_rows(const Kernel& k, BufferId in, BufferId out) {
  if (!is_like(k, in, out) || k.buffers[static_cast<size_t>(in)].symbol) return std::nullopt;
  if (!k.phases[0].roles.empty()) return overwrites_tiles(k, in, out) ? std::optional(Overwritten{{out}, {}, {}}) : std::nullopt;
  const Facts facts(k);
  const auto of_out = [&](const auto* access) { return access->buffer == out; };
  if (std::count_if(facts.stores.begin(), facts.stores.end(), of_out) != 1 || std::any_of(facts.loads.begin(), facts.loads.end(), of_out)) return std::nullopt;
  std::vector<AxisId> rows = k.phases[0].grid;   // what instances, and steps of the loops around, have to themselves
  bool once = true;                              // for each instance
  Overwritten all{{out}, {}, {}};
  for (const Block* block = &k.phases[0].body;;) {
    const auto at = std::find_if(block->begin(), block->end(), [&](const Stmt& s) { return store_in(s, out); });
    const Store& store = *store_in(*at, out);
    std::vector<const Load*> before, after;
    for (auto s = block->begin(); s != at; ++s) add_loads(*s, in, before);
    for (auto s = at + 1; s != block->end(); ++s) add_loads(*s, in, after);
    if (!after.empty()) return std::nullopt;
    const Block* inner = body_of(*at);
    const bool others = !std::all_of(before.begin(), before.end(), [&](const Load* l) { return same_places(l->index, store.index); });
    for (const Load* l : before)
      if (!planted(Fault::row_overwritten_early) && (inner || once ? !are_apart(k, rows, store.index, l->index) : others)) return std::nullopt;
    if (!inner && others) all.stores.push_back(&store);
    if (!inner) return are_apart(k, rows, store.index, store.index) ? std::optional(all) : std::nullopt;
    if (!before.empty()) all.loops.push_back(inner);
    rows.insert(rows.end(), axes_of(*at).begin(), axes_of(*at).end());
    once = once && std::none_of(axes_of(*at).begin(), axes_of(*at).end(), [&](AxisId a) { return has_steps(k, a); });
    block = inner;
  }
}

Overwritten overwritten_rows(const Kernel& k) {
  Overwritten all;
  for (BufferId in = 0; in < k.params(); ++in)
    for (BufferId out = 0; out < k.params(); ++out)
      if (const auto one = overwrites_rows(k, in, out)) {
        all.outputs.push_back(out);
        all.loops.insert(all.loops.end(), one->loops.begin(), one->loops.end());
        all.stores.insert(all.stores.end(), one->stores.begin(), one->stores.end());
      }
  return all;
}

}  // namespace quern
