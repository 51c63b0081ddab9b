// See sequence.h. Parameters are found first; then each kernel's axes, tiles and statements are taken over under other numbers.
#include "passes/tile/sequence.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

class Joiner {
 public:
  Joiner(const std::vector<Member>& members, int64_t steps, std::string& why) : members_(members), steps_(steps), why_(why) {}

  std::optional<Sequence> run(int64_t cluster) {
    if (!find_memories()) return std::nullopt;
    Kernel& k = out_.kernel;
    k.cluster = cluster;
    if (steps_ > 0) {
      k.axes.push_back({"i0", steps_});
      k.steps = 0;
    }
    for (const Member& m : members_) add(m);
    for (size_t b = 0; b < k.buffers.size(); ++b) k.buffers[b].name = fmt::format("p{}", b);
    k.name = members_.size() == 1 ? members_[0].kernel->name : fmt::format("{}_and_{}_behind", members_[0].kernel->name, members_.size() - 1);
    return std::move(out_);
  }

 private:
  const std::vector<Member>& members_;
  const int64_t steps_;
  std::string& why_;
  Sequence out_;
  struct Place {
    BufferId whole;
    bool stored;
  };
  std::map<int64_t, Place> places_;                                  // of memories
  std::map<std::pair<int64_t, Shape>, BufferId> views_;
  std::map<std::pair<const Kernel*, AxisId>, AxisId> axes_;

  Shape shape_of(const Buffer& b, const Member::Operand& o) const {
    Shape shape = b.shape;
    if (o.entries > 0) shape.insert(shape.begin(), o.entries);
    return shape;
  }
  // What any of them stores is an output, in the shape in which it is stored.
  bool find_memories() {
    for (const bool stored : {false, true}) {
      std::map<int64_t, Buffer> found;
      for (const Member& m : members_)
        for (size_t b = 0; b < m.operands.size(); ++b) {
          const Buffer& buffer = m.kernel->buffers[b];
          const Member::Operand& o = m.operands[b];
          if ((buffer.kind == BufferKind::out) != stored) continue;
          Buffer made{"", buffer.kind, buffer.dtype, shape_of(buffer, o)};
          const auto [it, fresh] = found.emplace(o.memory, made);
          if (!fresh && it->second.dtype != made.dtype) return no("one place has values of two types");
          if (!fresh && stored && it->second.shape != made.shape) return no("one place is stored in two shapes");
        }
      for (auto& [memory, buffer] : found) {
        if (const auto it = places_.find(memory); stored && it != places_.end()) {
          if (buffer.dtype != inputs_.at(memory).dtype || count(buffer.shape) != count(inputs_.at(memory).shape)) return no("one place has values of two types");
          places_.erase(it);
        }
        places_[memory] = {0, stored};
        (stored ? outputs_ : inputs_).emplace(memory, std::move(buffer));
      }
    }
    for (const bool stored : {false, true})
      for (auto& [memory, place] : places_) {
        if (place.stored != stored) continue;
        place.whole = static_cast<BufferId>(out_.kernel.buffers.size());
        out_.kernel.buffers.push_back(stored ? outputs_.at(memory) : inputs_.at(memory));
        out_.memories.push_back(memory);
      }
    return true;
  }
  std::map<int64_t, Buffer> inputs_, outputs_;
  bool no(const char* reason) {
    why_ = reason;
    return false;
  }

  // The buffer in which a member sees what is at one of its parameters.
  BufferId seen(const Buffer& buffer, const Member::Operand& o) {
    const Place& p = places_.at(o.memory);
    const Shape shape = shape_of(buffer, o);
    std::vector<Buffer>& all = out_.kernel.buffers;
    if (buffer.kind == BufferKind::out || (!p.stored && all[static_cast<size_t>(p.whole)].shape == shape)) return p.whole;
    const auto [it, fresh] = views_.emplace(std::pair{o.memory, shape}, static_cast<BufferId>(all.size()));
    if (fresh) {
      Buffer view{"", BufferKind::view, buffer.dtype, shape};
      view.of = p.whole;
      all.push_back(std::move(view));
    }
    return it->second;
  }

  void add(const Member& m) {
    Kernel& k = out_.kernel;
    const Kernel& from = *m.kernel;
    const int first_axis = static_cast<int>(k.axes.size()), first_value = static_cast<int>(k.values.size());
    const auto index = [&](Index& e) { e = e.substitute([&](int a, int64_t extent) { return Index::axis(a + first_axis, extent); }); };
    for (Axis a : from.axes) {
      a.name = fmt::format("i{}", k.axes.size());
      if (a.within >= 0) a.within += first_axis;
      for (auto* bound : {&a.from, &a.to})
        if (*bound) index(**bound);
      k.axes.push_back(std::move(a));
    }
    for (Value v : from.values) {
      for (AxisId& a : v.axes) a += first_axis;
      k.values.push_back(std::move(v));
    }
    std::vector<BufferId> buffers;
    for (size_t b = 0; b < from.buffers.size(); ++b) {
      if (b < m.operands.size()) {
        buffers.push_back(seen(from.buffers[b], m.operands[b]));
        continue;
      }
      buffers.push_back(static_cast<BufferId>(k.buffers.size()));   // scratch
      k.buffers.push_back(from.buffers[b]);
    }
    const auto axes = [&](std::vector<AxisId>& all) {
      for (AxisId& a : all) a += first_axis;
    };
    const auto values = [&](std::vector<ValueId>& all) {
      for (ValueId& v : all) v += first_value;
    };
    const auto box = [&](BufferId& buffer, std::vector<BoxIndex>& at) {
      for (BoxIndex& b : at)
        if (b.gather >= 0) b.gather += first_value;
        else index(b.index);
      const size_t old = static_cast<size_t>(std::exchange(buffer, buffers[static_cast<size_t>(buffer)]));
      if (old >= m.operands.size() || m.operands[old].entries == 0) return;
      const Member::Operand& o = m.operands[old];
      Index entry = o.step < 0 ? (Index::axis(0, steps_) * -1 + (o.first + o.entries * ceil_div(steps_, o.entries))) : Index::axis(0, steps_) * o.step + o.first;
      if (entry.low() < 0 || entry.high() >= o.entries) entry = floor_mod(entry, o.entries);
      at.insert(at.begin(), BoxIndex(entry));
    };
    const std::function<void(Block&)> block = [&](Block& body) {
      for (Stmt& s : body)
        std::visit(Overloaded{[&](Load& l) { l.out += first_value, box(l.buffer, l.index); },
                              [&](MapTile& t) {
                                t.out += first_value, values(t.args);
                                for (ScalarNode& n : t.expr)
                                  if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) index(n.coord);
                              },
                              [&](ReduceTile& r) { r.out += first_value, r.arg += first_value, axes(r.axes); },
                              [&](Mma& p) { p.out += first_value, p.acc += first_value, p.a += first_value, p.b += first_value, axes(p.axes); },
                              [&](Seq& q) {
                                axes(q.axes), values(q.yields), values(q.outs), block(q.body);
                                for (Carry& c : q.carries) c.var += first_value;
                              },
                              [&](Each& e) { axes(e.axes), block(e.body); },
                              [&](Store& t) { t.value += first_value, box(t.buffer, t.index); },
                              [](InRole&) { QN_CHECK(false, "what is joined has no roles"); }},
                   s.node);
    };
    for (Phase p : from.phases) {
      axes(p.grid), block(p.body);
      p.beside = m.beside || (planted(Fault::barrier_left_out) && !k.phases.empty());
      k.phases.push_back(std::move(p));
    }
    for (const SourceLoc& s : from.sources)
      if (std::find(k.sources.begin(), k.sources.end(), s) == k.sources.end()) k.sources.push_back(s);
  }
};

// The axes that a block and what it makes have.
void collect_axes(const Kernel& k, const Block& block, std::set<AxisId>& out) {
  const auto value = [&](ValueId v) { out.insert(k.values[static_cast<size_t>(v)].axes.begin(), k.values[static_cast<size_t>(v)].axes.end()); };
  for (const Stmt& s : block) {
    if (const auto* q = std::get_if<Seq>(&s.node)) {
      out.insert(q->axes.begin(), q->axes.end());
      for (ValueId v : q->outs) value(v);
      collect_axes(k, q->body, out);
    } else if (const auto* e = std::get_if<Each>(&s.node)) {
      out.insert(e->axes.begin(), e->axes.end());
      collect_axes(k, e->body, out);
    } else if (const ValueId v = made_by(s); v >= 0) {
      value(v);
    }
  }
}

}  // namespace

std::optional<Sequence> in_sequence(const std::vector<Member>& members, int64_t steps, int64_t cluster, std::string& why) { return Joiner(members, steps, why).run(cluster); }

Kernel only_phase(const Kernel& kernel, size_t phase) {
  Kernel k = kernel;
  k.phases = {kernel.phases[phase]};
  k.phases[0].beside = false;
  const Facts facts(k);
  std::set<BufferId> touched, stored;
  for (const Load* l : facts.loads) touched.insert(l->buffer);
  for (const Store* s : facts.stores) touched.insert(s->buffer), stored.insert(s->buffer);
  for (size_t b = 0; b < k.buffers.size(); ++b) {
    Buffer& buffer = k.buffers[b];
    if (!touched.count(static_cast<BufferId>(b))) buffer.shape = {0};
    if (buffer.kind != BufferKind::scratch && !stored.count(static_cast<BufferId>(b))) buffer.kind = BufferKind::in;
  }
  std::set<AxisId> used(k.phases[0].grid.begin(), k.phases[0].grid.end());
  collect_axes(k, k.phases[0].body, used);
  if (k.steps >= 0) used.insert(k.steps);
  for (size_t a = 0; a < k.axes.size(); ++a)
    if (!used.count(static_cast<AxisId>(a))) k.axes[a] = {k.axes[a].name, 1};
  return k;
}

}  // namespace quern
