// Roles in the tile interpreter. What a role does depends on no value, so each instance of a role becomes a list of steps, one
// statement with its axes' blocks each; then all instances run side by side, a step at a time, each until it must wait. Copies
// to memory happen as late as they may. Every breach of the protocol of channels (kernel.h) is an error that says who and what:
// a deadlock, a number put or released twice or never, a slot given back while a product reads it, a result used too early.
#include <deque>
#include <functional>
#include <memory>

#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "ir/tile/interpreter.h"

namespace quern::tile {
namespace {

class RoleInterpreter : public Interpreter {
 public:
  using Interpreter::Interpreter;

 private:
  struct Step {
    enum class Kind { run,
                      start,
                      yield,
                      finish,
                      item,
                      pass };
    Kind kind;   // start, yield, finish: of a seq; item: of the work, the next one; pass: a get that is another instance's
    const Stmt* stmt = nullptr;
    std::vector<int64_t> starts, extents;
    int64_t item = 0;
  };
  struct Ring {
    const Channel* channel;
    int64_t filled = 0, readers = 1, putters = 0;   // putters: of what is put and got
    struct Slot {
      int64_t serial = -1, released = 0, parts = 0;
      std::vector<Tile> tiles;
      bool fenced = false;                    // of a put
      const Send* sending = nullptr;          // on its way to memory …
      std::vector<int64_t> starts, extents;   // … as the axes stood
      int64_t item = 0;
    };
    std::vector<Slot> slots;
    Slot& slot(int64_t serial) { return slots[static_cast<size_t>(serial % channel->depth)]; }
  };
  struct InFlight {
    int64_t number;                                    // of the issue
    std::set<std::pair<ChannelId, int64_t>> sources;   // the slots that it reads
    std::set<ValueId> registers;                       // tiles in registers that it reads
  };
  struct Instance {
    const Role* role;
    int64_t index, block;                              // of those that share an instance of the work
    std::string name;
    std::vector<Step> steps;
    size_t next = 0;
    std::vector<Tile> tiles;
    std::vector<Ring*> rings;                          // by channel
    std::map<ChannelId, int64_t> got, put;             // the next serial numbers; in turns, got is the role's
    std::map<ChannelId, std::set<int64_t>> held;       // got and not released
    std::map<ValueId, std::pair<ChannelId, int64_t>> source;
    std::map<ValueId, int64_t> pending;                // results of issues that are in flight
    std::deque<InFlight> in_flight;
    int64_t issued = 0, item = 0, walked = 0;
    bool has_turn = false;
    std::string waits;                                 // for what
  };
  std::vector<std::unique_ptr<Instance>> instances_;
  std::deque<Ring> rings_;
  std::vector<std::pair<ChannelId, Ring*>> fetched_;   // of all blocks
  std::map<std::tuple<const Role*, int64_t, int64_t, ValueId>, std::map<int64_t, Tile>> shares_;   // of an instance of a role, for one of the work; by block
  std::map<const Role*, std::map<ChannelId, int64_t>> turn_got_;
  std::map<const Role*, int64_t> turn_;                // the item whose instance may take it
  Instance* me_ = nullptr;
  const Phase* phase_ = nullptr;
  int64_t blocks_ = 1;                                 // that work the instances off

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Code::general_bug, fmt::format("this is a bug in Quern: roles: {} in kernel {}", what, k_.name));
  }
  std::string named(ChannelId c, int64_t serial) const { return fmt::format("%{}@{}", phase_->channels[static_cast<size_t>(c)].name, serial); }

  // --- traces ---
  void add(Instance& i, Step::Kind kind, const Stmt* s) { i.steps.push_back({kind, s, start_, extent_, instance_}); }
  void trace(Instance& i, const Block& block) {
    for (const Stmt& s : block) {
      if (const auto* q = std::get_if<Seq>(&s.node)) {
        add(i, Step::Kind::start, &s);
        loop(q->axes, 0, [&] {
          if (i.role->steps && i.walked++ % i.role->count != i.index) return pass(i, q->body);
          trace(i, q->body);
          add(i, Step::Kind::yield, &s);
        });
        add(i, Step::Kind::finish, &s);
      } else if (const auto* e = std::get_if<Each>(&s.node)) {
        loop(e->axes, 0, [&] { trace(i, e->body); });
      } else if (const auto* r = std::get_if<InRole>(&s.node); r && std::holds_alternative<Past>(r->node)) {
        const Past& past = std::get<Past>(r->node);
        trace(i, is_past(past) ? past.body : past.otherwise);
        if (!past.outs.empty()) add(i, Step::Kind::run, &s);
      } else if (r && std::holds_alternative<Deal>(r->node)) {
        const Deal& deal = std::get<Deal>(r->node);
        loop(deal.axes, 0, [&] {
          int64_t step = i.index;
          for (AxisId x : deal.axes) {
            const Axis& axis = k_.axes[static_cast<size_t>(x)];
            step = step * (k_.axes[static_cast<size_t>(axis.within)].tile / axis.tile) + (start_[static_cast<size_t>(x)] - start_[static_cast<size_t>(axis.within)]) / axis.tile;
          }
          if (step % k_.sharers(*phase_) == i.block) trace(i, deal.body);
        });
      } else {
        add(i, Step::Kind::run, &s);
      }
    }
  }
  void pass(Instance& i, const Block& block) {
    for (const Stmt& s : block)
      if (const auto* r = std::get_if<InRole>(&s.node); r && std::holds_alternative<Get>(r->node)) add(i, Step::Kind::pass, &s);
  }
  // Is some step of the axes' loop behind?
  bool is_past(const Past& past) const {
    return std::any_of(past.axes.begin(), past.axes.end(), [&](AxisId a) {
      const Axis& axis = k_.axes[static_cast<size_t>(a)];
      const int64_t low = axis.from ? axis.from->evaluate([&](int x) { return start_[static_cast<size_t>(x)]; }) : 0;
      return start_[static_cast<size_t>(a)] > std::max(axis.within < 0 ? 0 : start_[static_cast<size_t>(axis.within)], low);
    });
  }
  // Calls f for every instance of the work in order: groups of tiles of the axis before the last, the last axis, tiles in the group.
  void items(const Phase& p, const std::function<void()>& f) {
    const size_t rank = p.grid.size();
    QN_CHECK(rank >= 2 && p.group >= 1, "work has two axes at least");
    const std::vector<AxisId> outer(p.grid.begin(), p.grid.end() - 2);
    const size_t row = static_cast<size_t>(p.grid[rank - 2]), column = static_cast<size_t>(p.grid[rank - 1]);
    const auto stand = [&](size_t a, int64_t tile) {
      start_[a] = tile * k_.axes[a].tile;
      extent_[a] = std::min(k_.axes[a].tile, k_.axes[a].extent - start_[a]);
    };
    instance_ = 0;
    loop(outer, 0, [&] {
      const int64_t rows = ceil_div(k_.axes[row].extent, k_.axes[row].tile), columns = ceil_div(k_.axes[column].extent, k_.axes[column].tile);
      for (int64_t g = 0; g < rows; g += p.group)
        for (int64_t c = 0; c < columns; ++c)
          for (int64_t r = g; r < std::min(g + p.group, rows); ++r) {
            stand(row, r);
            stand(column, p.backward ? columns - 1 - c : c);
            f();
            ++instance_;
          }
    });
  }

  void work(const Phase& p) override {
    phase_ = &p;
    instances_.clear();
    rings_.clear();
    turn_got_.clear();
    turn_.clear();
    fetched_.clear();
    shares_.clear();
    addends_.clear();
    // Blocks wait for one another where they add in order: so there are some, the last to add the first to run.
    const bool adds = std::ranges::any_of(p.roles, [&](const Role& r) { return has_in_role(r.body, [](const InRole& s) { return std::holds_alternative<Add>(s.node); }); });
    blocks_ = adds ? 3 : 1;
    for (int64_t b = k_.sharers(p) * blocks_; b-- > 0;) block_of_roles(p, b);
    for (const auto& i : instances_) find_addends(*i);
    for (bool all_done = false; !all_done;) {
      all_done = true;
      bool moved = false;
      for (const auto& i : instances_) {
        while (i->next < i->steps.size() && step(*i)) ++i->next, moved = true;
        all_done &= i->next == i->steps.size();
      }
      if (moved || all_done) continue;
      std::string who;
      for (const auto& i : instances_)
        if (i->next < i->steps.size()) who += fmt::format("{}{} waits for {}", who.empty() ? "" : ", ", i->name, i->waits);
      fail("deadlock: " + who);
    }
    finish();
  }
  // The rings and the instances of one block.
  void block_of_roles(const Phase& p, int64_t b) {
    std::vector<Ring*> shared;
    for (size_t c = 0; c < p.channels.size(); ++c) {
      rings_.push_back(ring(p.channels[c], 0));
      for (const Role& role : p.roles)
        if (has_in_role(role.body, [&](const InRole& s) { const auto* g = std::get_if<Get>(&s.node); return g && static_cast<size_t>(g->channel) == c; })) rings_.back().readers += role.turns || role.steps ? 1 : role.count;
      for (const Role& role : p.roles)
        if (has_in_role(role.body, [&](const InRole& s) { const auto* t = std::get_if<Put>(&s.node); return t && static_cast<size_t>(t->channel) == c; })) rings_.back().putters += role.count;
      shared.push_back(&rings_.back());
      fetched_.emplace_back(static_cast<ChannelId>(c), &rings_.back());
    }
    for (const Role& role : p.roles)
      for (int64_t n = 0; n < role.count; ++n) {
        auto i = std::make_unique<Instance>();
        i->role = &role, i->index = n, i->block = p.shared >= 0 ? b : 0, i->name = role.count > 1 ? fmt::format("{} {}", role.name, n) : role.name;
        if (p.shared >= 0 || blocks_ > 1) i->name += fmt::format(" of block {}", b);
        i->tiles.resize(k_.values.size());
        for (size_t c = 0; c < p.channels.size(); ++c) {
          Ring* mine = shared[c];
          if (!is_got(p, static_cast<ChannelId>(c)) && has_in_role(role.body, [&](const InRole& s) { const auto* t = std::get_if<Put>(&s.node); return t && static_cast<size_t>(t->channel) == c; })) rings_.push_back(ring(p.channels[c], 1)), mine = &rings_.back();
          i->rings.push_back(mine);
        }
        items(p, [&] {
          if (instance_ % blocks_ != b % blocks_ || (role.turns && instance_ % role.count != n)) return;
          if (p.shared >= 0) {
            const size_t a = static_cast<size_t>(p.shared);
            start_[a] = b * k_.axes[a].tile;
            extent_[a] = std::min(k_.axes[a].tile, k_.axes[a].extent - start_[a]);
          }
          for (AxisId along : role.along) {
            const size_t a = static_cast<size_t>(along), around = static_cast<size_t>(k_.axes[a].within);
            start_[a] = start_[around] + n % (k_.axes[around].tile / k_.axes[a].tile) * k_.axes[a].tile;
            extent_[a] = std::clamp<int64_t>(start_[around] + extent_[around] - start_[a], 0, k_.axes[a].tile);
          }
          add(*i, Step::Kind::item, nullptr);
          trace(*i, role.body);
        });
        instances_.push_back(std::move(i));
      }
  }
  static Ring ring(const Channel& c, int64_t readers) {
    Ring r{&c, 0, readers, 0, {}};
    r.slots.resize(static_cast<size_t>(c.depth));
    return r;
  }
  // At the end nothing is left in flight.
  void finish() {
    for (const auto& i : instances_) {
      for (const auto& [c, serials] : i->held)
        if (!serials.empty()) fail(fmt::format("{} never releases {}", i->name, named(c, *serials.begin())));
      if (!i->in_flight.empty()) fail(i->name + " never awaits its last product");
      if (i->has_turn) fail(i->name + " never passes its turn on");
      for (const auto& [c, n] : i->put)
        if (!is_got(*phase_, c))
          for (Ring::Slot& s : i->rings[static_cast<size_t>(c)]->slots) {
            if (s.serial >= 0 && !s.sending) fail(fmt::format("{} never sends {}", i->name, named(c, s.serial)));
            me_ = i.get();
            land(s);
          }
    }
    for (const auto& [c, r] : fetched_)
      for (const auto& s : r->slots)
        if (r->filled && s.serial >= 0 && s.released != r->readers) fail(fmt::format("{} is filled and not read by all", named(c, s.serial)));
  }

  // --- steps ---
  bool wait(const std::string& what) {
    me_->waits = what;
    return false;
  }
  // Runs f with the tiles and axes of an instance.
  template <class F>
  auto as(Instance& i, const std::vector<int64_t>& starts, const std::vector<int64_t>& extents, F&& f) {
    me_ = &i;
    start_ = starts, extent_ = extents, at_ = starts;
    tiles_.swap(i.tiles);
    const auto result = f();
    tiles_.swap(i.tiles);
    return result;
  }
  bool step(Instance& i) {
    const Step& s = i.steps[i.next];
    instance_ = s.item * k_.sharers(*phase_) + i.block;   // no two blocks store one element either
    return as(i, s.starts, s.extents, [&] {
      switch (s.kind) {
        case Step::Kind::item: i.item = s.item; return true;
        case Step::Kind::pass: ++i.got[std::get<Get>(std::get<InRole>(s.stmt->node).node).channel]; return true;
        case Step::Kind::start:
          for (const Carry& c : std::get<Seq>(s.stmt->node).carries) fill(c.var, [&] { return c.init; });
          return true;
        case Step::Kind::yield: {
          const Seq& q = std::get<Seq>(s.stmt->node);
          std::vector<ValueId> vars;
          for (const Carry& c : q.carries) vars.push_back(c.var);
          return renamed(q.yields, vars);
        }
        case Step::Kind::finish: {
          const Seq& q = std::get<Seq>(s.stmt->node);
          std::vector<ValueId> vars;
          for (const Carry& c : q.carries) vars.push_back(c.var);
          return renamed(vars, q.outs);
        }
        case Step::Kind::run: break;
      }
      if (const auto* r = std::get_if<InRole>(&s.stmt->node)) return std::visit([&](const auto& node) { return in_role(node); }, r->node);
      std::visit([&](const auto& node) { plain(node); }, s.stmt->node);
      return true;
    });
  }
  // Carried tiles; what is in flight stays so under its new name.
  bool renamed(const std::vector<ValueId>& from, const std::vector<ValueId>& to) {
    std::vector<Tile> next;
    std::vector<int64_t> pending;
    for (ValueId v : from) {
      next.push_back(tiles_[static_cast<size_t>(v)]);
      const auto it = me_->pending.find(v);
      pending.push_back(it == me_->pending.end() ? -1 : it->second);
    }
    for (size_t n = 0; n < next.size(); ++n) {
      tiles_[static_cast<size_t>(to[n])] = std::move(next[n]);
      if (pending[n] >= 0) me_->pending[to[n]] = pending[n];
      else me_->pending.erase(to[n]);
    }
    return true;
  }
  void use(ValueId v) const {
    if (me_->pending.count(v)) fail(me_->name + " uses the result of a product before its await");
    const auto it = me_->source.find(v);
    if (it == me_->source.end()) return;
    const auto held = me_->held.find(it->second.first);
    if (held == me_->held.end() || !held->second.count(it->second.second)) fail(fmt::format("{} reads {} after its release", me_->name, named(it->second.first, it->second.second)));
  }

  void plain(const Load& l) { statement(l); }
  void plain(const MapTile& m) {
    for (ValueId v : m.args) use(v);
    for (const InFlight& p : me_->in_flight)
      if (p.registers.count(m.out)) fail(fmt::format("{} makes %{} anew while a product reads it", me_->name, m.out));
    statement(m);
  }
  void plain(const ReduceTile& r) {
    use(r.arg);
    statement(r);
  }
  void plain(const Mma& m) {
    InFlight product{me_->issued, {}, {}};
    for (ValueId v : {m.a, m.b}) {
      use(v);
      if (const auto it = me_->source.find(v); it != me_->source.end()) product.sources.insert(it->second);
      else product.registers.insert(v);
    }
    if (!m.issued) use(m.acc);
    statement(m);
    if (!m.issued) return;
    me_->pending[m.out] = me_->issued++;
    me_->in_flight.push_back(std::move(product));
  }
  void plain(const Store& s) {
    use(s.value);
    statement(s);
  }
  template <class Other>
  void plain(const Other&) { QN_CHECK(false, "loops are in the trace"); }

  bool in_role(const Fetch& f) {
    Ring& r = *me_->rings[static_cast<size_t>(f.channel)];
    const int64_t s = r.filled;
    Ring::Slot& slot = r.slot(s);
    if (slot.serial >= 0 && slot.released < r.readers) return wait(fmt::format("the release of {}", named(f.channel, slot.serial)));
    slot = {s, 0, {}};
    for (const Load& l : f.loads) {
      statement(l);
      slot.tiles.push_back(tiles_[static_cast<size_t>(l.out)]);
    }
    ++r.filled;
    return true;
  }
  int64_t& next_got(ChannelId c) { return me_->role->turns ? turn_got_[me_->role][c] : me_->got[c]; }
  bool in_role(const Get& g) {
    if (me_->role->turns && !me_->has_turn) fail(me_->name + " gets outside of its turn");
    Ring& r = *me_->rings[static_cast<size_t>(g.channel)];
    const int64_t s = next_got(g.channel);
    if (r.filled <= s) return wait(named(g.channel, s));
    if (r.slot(s).serial != s) fail(fmt::format("{} comes too late for {}: its slot holds {}", me_->name, named(g.channel, s), named(g.channel, r.slot(s).serial)));
    for (size_t p = 0; p < g.outs.size(); ++p) {
      tiles_[static_cast<size_t>(g.outs[p])] = r.slot(s).tiles[p];
      me_->source[g.outs[p]] = {g.channel, s};
    }
    ++next_got(g.channel);
    me_->got[g.channel] = s + 1;
    me_->held[g.channel].insert(s);
    return true;
  }
  bool in_role(const Release& release) {
    const int64_t s = me_->got[release.channel] - 1 - release.behind;
    if (!me_->held[release.channel].count(s)) fail(fmt::format("{} releases {}, which it does not hold", me_->name, named(release.channel, s)));
    for (const InFlight& p : me_->in_flight)
      if (p.sources.count({release.channel, s})) fail(fmt::format("{} releases {} while a product reads it", me_->name, named(release.channel, s)));
    me_->held[release.channel].erase(s);
    ++me_->rings[static_cast<size_t>(release.channel)]->slot(s).released;
    return true;
  }
  bool in_role(const Put& p) {
    Ring& r = *me_->rings[static_cast<size_t>(p.channel)];
    if (is_got(*phase_, p.channel)) return put_part(p, r);
    Ring::Slot& slot = r.slot(r.filled);
    if (slot.serial >= 0) {
      if (!slot.sending) fail(fmt::format("{} puts {} where {} was never sent", me_->name, named(p.channel, r.filled), named(p.channel, slot.serial)));
      const auto starts = start_, extents = extent_;
      land(slot);
      start_ = starts, extent_ = extents, at_ = starts;
    }
    slot = {r.filled++, 0, {}};
    for (ValueId v : p.values) {
      use(v);
      slot.tiles.push_back(tiles_[static_cast<size_t>(v)]);
    }
    me_->put[p.channel] = r.filled;
    return true;
  }
  // One instance's part of what others get.
  bool put_part(const Put& p, Ring& r) {
    const int64_t s = me_->put[p.channel];
    Ring::Slot& slot = r.slot(s);
    if (slot.serial != s) {
      if (slot.serial >= 0 && (slot.parts < r.putters || slot.released < r.readers)) return wait(fmt::format("the release of {}", named(p.channel, slot.serial)));
      slot = {s, 0, 0, {}};
      for (const Value& part : r.channel->parts) {
        std::vector<AxisId> axes = part.axes;
        std::sort(axes.begin(), axes.end());
        Tile whole;
        whole.strides.assign(axes.size(), 1);
        int64_t n = 1;
        for (size_t d = axes.size(); d-- > 0;) whole.strides[d] = n, n *= extent_[static_cast<size_t>(axes[d])];
        whole.data.assign(static_cast<size_t>(n), Scalar{part.dtype});
        slot.tiles.push_back(std::move(whole));
      }
    }
    for (size_t n = 0; n < p.values.size(); ++n) {
      use(p.values[n]);
      const std::vector<AxisId>& mine = k_.values[static_cast<size_t>(p.values[n])].axes;
      std::vector<AxisId> whole = r.channel->parts[n].axes;
      std::sort(whole.begin(), whole.end());
      elements(mine, 0, [&] {
        int64_t at = 0;
        for (AxisId a : mine)
          for (size_t d = 0; d < whole.size(); ++d)
            if (lies_within(k_, a, whole[d])) at += (at_[static_cast<size_t>(a)] - start_[static_cast<size_t>(whole[d])]) * slot.tiles[n].strides[d];
        slot.tiles[n].data[static_cast<size_t>(at)] = element(p.values[n]);
      });
    }
    ++me_->put[p.channel];
    if (++slot.parts == r.putters) ++r.filled;
    return true;
  }
  // Who adds where, in the order of the work: neighbours along the axis.
  using Place = std::pair<const Add*, std::vector<int64_t>>;
  struct Addends {
    std::vector<std::pair<int64_t, int64_t>> by;
    size_t done = 0;
  };   // items, and where they stand
  std::map<Place, Addends> addends_;
  Place place_of(const Add& a, const std::vector<int64_t>& starts) const {
    std::vector<int64_t> at;
    for (const Store& s : a.stores)
      for (const BoxIndex& b : s.index) at.push_back(b.index.evaluate([&](int x) { return starts[static_cast<size_t>(x)]; }));
    return {&a, at};
  }
  void find_addends(const Instance& i) {
    for (const Step& s : i.steps) {
      const auto* r = s.kind == Step::Kind::run ? std::get_if<InRole>(&s.stmt->node) : nullptr;
      const auto* a = r ? std::get_if<Add>(&r->node) : nullptr;
      if (!a) continue;
      auto& by = addends_[place_of(*a, s.starts)].by;
      by.emplace_back(s.item, s.starts[static_cast<size_t>(a->over)]);
      std::sort(by.begin(), by.end());
    }
  }
  bool in_role(const Add& a) {
    Addends& all = addends_.at(place_of(a, start_));
    const int64_t tile = k_.axes[static_cast<size_t>(a.over)].tile * (phase_->backward ? -1 : 1);
    size_t mine = 0;
    while (all.by[mine].first != me_->item) ++mine;
    if (mine > 0 && all.by[mine].second != all.by[mine - 1].second + tile) fail(me_->name + " adds behind one that is no neighbour");
    if (mine > all.done && !planted(Fault::turn_not_waited_for)) return wait("an earlier addend");
    const int64_t s = me_->got[a.channel] - 1;
    if (!me_->held[a.channel].erase(s)) fail(fmt::format("{} adds {}, which it does not hold", me_->name, named(a.channel, s)));
    Ring& r = *me_->rings[static_cast<size_t>(a.channel)];
    for (size_t p = 0; p < a.stores.size(); ++p) {
      const Store& to = a.stores[p];
      tiles_[static_cast<size_t>(to.value)] = r.slot(s).tiles[p];
      const Buffer& b = k_.buffers[static_cast<size_t>(to.buffer)];
      const Shape strides = row_major(b.shape);
      elements(k_.values[static_cast<size_t>(to.value)].axes, 0, [&] {
        int64_t at = 0;
        for (size_t d = 0; d < to.index.size(); ++d) {
          const int64_t x = evaluate(to.index[d].index);
          if (x < 0 || x >= b.shape[d]) return;
          at += x * strides[d];
        }
        HostTensor& memory = *buffers_[static_cast<size_t>(to.buffer)];
        const Scalar x = element(to.value);
        memory.set(at, mine == 0 ? x : apply_scalar(Op::add, b.dtype, std::array{memory.get(at), x}));
      });
    }
    ++r.slot(s).released;
    ++all.done;
    return true;
  }
  bool in_role(const Fence&) {
    for (Ring* r : me_->rings)
      for (Ring::Slot& s : r->slots) s.fenced = true;
    return true;
  }
  bool in_role(const Send& send) {
    Ring& r = *me_->rings[static_cast<size_t>(send.channel)];
    if (!me_->put.count(send.channel)) fail(fmt::format("{} sends of %{} before its first put", me_->name, phase_->channels[static_cast<size_t>(send.channel)].name));
    Ring::Slot& slot = r.slot(r.filled - 1);
    if (slot.sending) fail(fmt::format("{} sends {} twice", me_->name, named(send.channel, slot.serial)));
    if (!slot.fenced) fail(fmt::format("{} sends {} without a fence", me_->name, named(send.channel, slot.serial)));
    slot.sending = &send;
    slot.starts = start_, slot.extents = extent_, slot.item = instance_;
    return true;
  }
  // What was sent arrives: now, at the latest.
  void land(Ring::Slot& slot) {
    if (!slot.sending) return;
    start_ = slot.starts, extent_ = slot.extents, at_ = slot.starts;
    const int64_t item = std::exchange(instance_, slot.item);
    for (size_t p = 0; p < slot.sending->stores.size(); ++p) {
      const Store& s = slot.sending->stores[p];
      tiles_[static_cast<size_t>(s.value)] = slot.tiles[p];
      statement(s);
    }
    instance_ = item;
    slot.sending = nullptr;
    slot.serial = -1;
  }
  bool in_role(const Await& a) {
    while (static_cast<int64_t>(me_->in_flight.size()) > a.left) me_->in_flight.pop_front();
    const int64_t first = me_->issued - static_cast<int64_t>(me_->in_flight.size());
    std::erase_if(me_->pending, [&](const auto& p) { return p.second < first; });
    return true;
  }
  bool in_role(const Slice& s) {
    if (me_->pending.count(s.arg)) fail(me_->name + " uses the result of a product before its await");
    // Where each axis of the argument stands is where the part's does, which lies within it.
    const std::vector<AxisId>& axes = k_.values[static_cast<size_t>(s.arg)].axes;
    std::vector<AxisId> part;
    for (AxisId a : axes)
      for (AxisId b : k_.values[static_cast<size_t>(s.out)].axes)
        if (lies_within(k_, b, a)) part.push_back(b);
    fill(s.out, [&] {
      const Tile& t = tiles_[static_cast<size_t>(s.arg)];
      int64_t at = 0;
      for (size_t d = 0; d < axes.size(); ++d) at += (at_[static_cast<size_t>(part[d])] - start_[static_cast<size_t>(axes[d])]) * t.strides[d];
      return t.data[static_cast<size_t>(at)];
    });
    if (const auto it = me_->source.find(s.arg); it != me_->source.end()) me_->source[s.out] = it->second;
    return true;
  }
  bool in_role(const Past& p) { return renamed(is_past(p) ? p.yields : p.others, p.outs); }   // its blocks are in the trace
  bool in_role(const Deal&) { QN_CHECK(false, "loops are in the trace"); }
  std::map<int64_t, Tile>& shares_of(ValueId v) { return shares_[{me_->role, me_->index, me_->item, v}]; }
  // A share may lie where the rings do: they are empty by then.
  bool in_role(const Share& s) {
    use(s.value);
    for (const auto& [c, serials] : me_->held)
      if (!serials.empty()) fail(fmt::format("{} shows its share while it holds {}", me_->name, named(c, *serials.begin())));
    shares_of(s.value)[me_->block] = tiles_[static_cast<size_t>(s.value)];
    return true;
  }
  bool in_role(const Total& t) {
    const std::map<int64_t, Tile>& shares = shares_of(t.arg);
    const int64_t all = k_.sharers(*phase_);
    if (!shares.count(me_->block)) fail(me_->name + " wants a total before it has shown its share");
    if (static_cast<int64_t>(shares.size()) < all) return wait("the shares of other blocks");
    const DType dtype = k_.values[static_cast<size_t>(t.out)].dtype;
    Tile sum;
    for (const auto& [b, share] : shares) {
      tiles_[static_cast<size_t>(t.arg)] = share;
      in_role(Slice{t.out, t.arg});
      Tile& part = tiles_[static_cast<size_t>(t.out)];
      for (size_t n = 0; b > 0 && n < part.data.size(); ++n) part.data[n] = apply_scalar(Op::add, dtype, std::array{sum.data[n], part.data[n]});
      sum = part;
    }
    return true;
  }
  bool in_role(const Turn& t) {
    if (!t.taken) {
      if (!me_->has_turn) fail(me_->name + " passes a turn that it does not have");
      me_->has_turn = false;
      turn_[me_->role] = me_->item + 1;
      return true;
    }
    if (me_->has_turn) fail(me_->name + " takes its turn twice");
    if (turn_[me_->role] != me_->item) return wait("its turn");
    return me_->has_turn = true;
  }
};

}  // namespace

std::unique_ptr<Interpreter> interpreter(const Kernel& kernel, std::vector<HostTensor*> buffers) { return std::make_unique<RoleInterpreter>(kernel, std::move(buffers)); }

}  // namespace quern::tile
