// The kernel verifier: ids, scopes, axes, types. Runs after lowering and after planning.
#include <algorithm>
#include <set>

#include <utility>

#include <fmt/format.h>

#include "ir/support/overloaded.h"
#include "ir/tile/scalar.h"

namespace quern::tile {
namespace {

// Adds what the statement makes if it, or a statement in its body, reads one of the values.
void add_if_reads(const Stmt& s, std::set<ValueId>& values) {
  const auto if_any = [&](std::initializer_list<ValueId> read, ValueId out) {
    if (std::any_of(read.begin(), read.end(), [&](ValueId v) { return values.count(v) > 0; })) values.insert(out);
  };
  const auto box = [&](const std::vector<BoxIndex>& index, ValueId out) {
    for (const BoxIndex& i : index) if_any({i.gather}, out);
  };
  std::visit(Overloaded{[&](const Load& l) { box(l.index, l.out); }, [&](const ReduceTile& r) { if_any({r.arg}, r.out); }, [&](const Mma& m) { if_any({m.acc, m.a, m.b}, m.out); },
                        [&](const MapTile& m) {
                          for (ValueId a : m.args) if_any({a}, m.out);
                        },
                        [&](const Seq& q) {
                          for (const Stmt& inner : q.body) add_if_reads(inner, values);
                          for (size_t i = 0; i < q.outs.size(); ++i) if_any({q.yields[i]}, q.outs[i]);
                        },
                        [](const auto&) {}},
             s.node);
}
bool stores(const Kernel& k, const Seq& q) {   // each step of a carry, or where a gathered index says; otherwise steps are tiles like others
  std::set<ValueId> carried;
  for (const Carry& c : q.carries) carried.insert(c.var);
  return std::any_of(q.body.begin(), q.body.end(), [&](const Stmt& s) {
    add_if_reads(s, carried);
    const auto* t = std::get_if<Store>(&s.node);
    return t && ((carried.count(t->value) && k.buffers[static_cast<size_t>(t->buffer)].kind == BufferKind::out) || std::any_of(t->index.begin(), t->index.end(), [](const BoxIndex& i) { return i.gather >= 0; }));
  });
}
// A carry that is a flag: a scan's, by which it knows the first step.
bool tells_first(const Seq& q) {
  return std::any_of(q.carries.begin(), q.carries.end(), [](const Carry& c) { return c.init.dtype == DType::boolean; });
}
bool walks(const Kernel& k, const Block& block, AxisId axis) {
  return std::any_of(block.begin(), block.end(), [&](const Stmt& s) {
    const auto* q = std::get_if<Seq>(&s.node);
    const auto* e = std::get_if<Each>(&s.node);
    return q ? (std::count(q->axes.begin(), q->axes.end(), axis) && (stores(k, *q) || tells_first(*q))) || walks(k, q->body, axis) : e && walks(k, e->body, axis);
  });
}

class Verifier {
 public:
  explicit Verifier(const Kernel& kernel) : k_(kernel) {}

  void run() {
    for (const Axis& a : k_.axes) {
      check(a.extent >= 0 && a.tile >= 1, "an axis has an extent and a tile");
      if (a.within >= 0) {
        check(static_cast<size_t>(a.within) < k_.axes.size(), "an axis stands within one that exists");
        const Axis& around = k_.axes[static_cast<size_t>(a.within)];
        check(around.extent == a.extent && around.symbol == a.symbol, "an axis within another has its extent");
        check(around.tile % a.tile == 0 || around.tile < a.tile, "blocks hold whole tiles, or a part of one");
      }
      for (const auto& bound : {a.from, a.to})
        if (bound) linear(a, *bound);
      check(a.spread.threads << a.spread.threads_at <= 32 && a.spread.warps << a.spread.warps_at <= 32, "a block has 32 lanes and at most 32 warps");
      check(a.tile % (a.spread.threads * a.spread.warps * a.spread.vector) == 0, "a spread divides its tile");
    }
    std::set<ValueId> shared;   // in slots of channels, not in registers
    for (const Phase& p : k_.phases)
      for (const Role& r : p.roles) in_slots(r.body, shared);
    for (size_t v = 0; v < k_.values.size(); ++v)
      if (!shared.count(static_cast<ValueId>(v))) disjoint(k_.values[v]);
    for (size_t b = 1; b < k_.buffers.size(); ++b)
      check(static_cast<int64_t>(b) >= k_.params() || is_param(k_.buffers[b - 1]), "parameters come first");
    for (const Buffer& b : k_.buffers) {
      check((b.kind == BufferKind::view) == (b.of >= 0), "a view is one of a buffer");
      if (b.of < 0) continue;
      const Buffer& whole = k_.buffers.at(static_cast<size_t>(b.of));
      check(is_param(whole) && !whole.symbol && !b.symbol && b.dtype == whole.dtype && count(b.shape) == count(whole.shape), "a view has a parameter's memory");
    }
    if (k_.cluster) cluster();
    for (const Phase& p : k_.phases) {
      open_.clear();
      defined_.clear();
      if (k_.steps >= 0) enter({k_.steps});
      enter(p.grid);
      if (p.mirrored) {
        check(p.grid.size() >= 2 && p.roles.empty(), "a mirrored grid has two axes");
        const Axis &i = k_.axes[static_cast<size_t>(p.grid[p.grid.size() - 2])], &j = k_.axes[static_cast<size_t>(p.grid.back())];
        check(!i.symbol && !j.symbol && ceil_div(i.extent, i.tile) == ceil_div(j.extent, j.tile), "both axes of a mirrored grid have as many tiles");
      }
      block(p.body);
      if (!p.roles.empty()) work(p);
    }
  }

 private:
  const Kernel& k_;
  std::set<AxisId> open_;
  std::set<ValueId> defined_;
  const Phase* phase_ = nullptr;   // whose roles are looked at
  const Role* role_ = nullptr;
  const Each* each_ = nullptr;

  void check(bool condition, const std::string& message) const {
    if (!condition) throw Error(Code::general_bug, fmt::format("this is a bug in Quern: kernel verifier: {} in\n{}", message, to_string(k_)));
  }
  static bool is_param(const Buffer& b) { return b.kind == BufferKind::in || b.kind == BufferKind::out; }
  // What a block touches.
  struct Touched {
    std::set<BufferId> all, stored;
  };
  void collect(const Block& block, Touched& out) const {
    for (const Stmt& s : block) {
      if (const auto* l = std::get_if<Load>(&s.node)) out.all.insert(k_.memory(l->buffer));
      if (const auto* t = std::get_if<Store>(&s.node)) out.all.insert(k_.memory(t->buffer)), out.stored.insert(k_.memory(t->buffer));
      if (const auto* q = std::get_if<Seq>(&s.node)) collect(q->body, out);
      if (const auto* e = std::get_if<Each>(&s.node)) collect(e->body, out);
    }
  }
  void cluster() const {
    check(k_.cluster <= 16, "a cluster has up to 16 blocks");
    check(k_.steps < 0 || (k_.axes.at(static_cast<size_t>(k_.steps)).tile == 1 && !k_.axes[static_cast<size_t>(k_.steps)].symbol), "the steps of a cluster are a constant number");
    std::vector<Touched> since;   // the last barrier
    for (const Phase& p : k_.phases) {
      check(p.roles.empty(), "the phases of a cluster have no roles");
      check(&p != &k_.phases[0] || !p.beside, "the first phase is beside none");
      if (!p.beside) since.clear();
      Touched mine;
      collect(p.body, mine);
      const auto meet = [](const std::set<BufferId>& a, const std::set<BufferId>& b) { return std::any_of(a.begin(), a.end(), [&](BufferId x) { return b.count(x) > 0; }); };
      for (const Touched& t : since) check(!meet(mine.all, t.stored) && !meet(mine.stored, t.all), "there is a barrier between phases of which one touches what the other stores");
      since.push_back(std::move(mine));
    }
  }
  void enter(const std::vector<AxisId>& axes) {
    for (AxisId a : axes) {
      check(a >= 0 && static_cast<size_t>(a) < k_.axes.size(), "an axis exists");
      check(open_.insert(a).second, "an axis is open once");
      const AxisId around = k_.axes[static_cast<size_t>(a)].within;
      check(around < 0 || open_.count(around), "an axis stands within an open one");
      for (const auto& bound : {k_.axes[static_cast<size_t>(a)].from, k_.axes[static_cast<size_t>(a)].to})
        if (bound) index(*bound);
    }
  }
  // A bound grows with the axes that it is made of, which have constant extents.
  void linear(const Axis& a, const Index& bound) const {
    if (bound.kind() == Index::Kind::div) return linear(a, bound.left());
    if (bound.kind() == Index::Kind::add && bound.right().is_constant()) return linear(a, bound.left());
    check(!a.symbol && a.within < 0, "a bounded axis has a constant extent and blocks of its own");
    std::set<int> axes;
    bound.collect_axes(axes);
    for (int x : axes) {
      const Axis& other = k_.axes.at(static_cast<size_t>(x));
      check(&other < &a && !other.symbol && bound.stride(x).value_or(-1) >= 0, "a bound is a sum of positive multiples of axes before");
    }
  }
  static void in_slots(const Block& block, std::set<ValueId>& out) {
    for (const Stmt& s : block) {
      if (const auto* q = std::get_if<Seq>(&s.node)) in_slots(q->body, out);
      if (const auto* e = std::get_if<Each>(&s.node)) in_slots(e->body, out);
      const auto* r = std::get_if<InRole>(&s.node);
      if (!r) continue;
      if (const auto* g = std::get_if<Get>(&r->node)) out.insert(g->outs.begin(), g->outs.end());
      if (const auto* f = std::get_if<Fetch>(&r->node))
        for (const Load& l : f->loads) out.insert(l.out);
      if (const auto* d = std::get_if<Add>(&r->node))
        for (const Store& s : d->stores) out.insert(s.value);
      for (const Block* inner : blocks_of(*r)) in_slots(*inner, out);
    }
  }
  // No two axes of a tile lie along the same bits of the thread number.
  void disjoint(const Value& v) const {
    int64_t lanes = 0, warps = 0;
    for (AxisId a : v.axes) {
      const Spread& s = k_.axes.at(static_cast<size_t>(a)).spread;
      const int64_t lane_bits = (s.threads - 1) << s.threads_at, warp_bits = (s.warps - 1) << s.warps_at;
      check(!(lanes & lane_bits) && !(warps & warp_bits), "the axes of a tile lie along different threads");
      lanes |= lane_bits;
      warps |= warp_bits;
    }
  }
  const Value& use(ValueId v) const {
    check(defined_.count(v) > 0, fmt::format("%{} is defined before use", v));
    return k_.values[static_cast<size_t>(v)];
  }
  void define(ValueId v) {
    check(v >= 0 && static_cast<size_t>(v) < k_.values.size(), "a value exists");
    check(defined_.insert(v).second, fmt::format("%{} is defined once", v));
    const Value& value = k_.values[static_cast<size_t>(v)];
    check(std::is_sorted(value.axes.begin(), value.axes.end()), "a tile's axes are sorted");
    for (AxisId a : value.axes) check(open_.count(a) > 0, fmt::format("%{} uses open axes", v));
  }
  void index(const Index& e) const {
    std::set<int> axes;
    e.collect_axes(axes);
    for (int a : axes) check(open_.count(a) > 0, "an index uses open axes");
  }
  const Buffer& buffer(BufferId b, size_t rank) const {
    check(b >= 0 && static_cast<size_t>(b) < k_.buffers.size(), "a buffer exists");
    check(k_.buffers[static_cast<size_t>(b)].shape.size() == rank, "an index has the buffer's rank");
    return k_.buffers[static_cast<size_t>(b)];
  }
  void block(const Block& stmts) {
    for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
  }
  // Runs `body` with more axes open and forgets what it defined.
  template <class F>
  void nested(const std::vector<AxisId>& axes, F&& body) {
    const auto open = open_;
    const auto defined = defined_;
    enter(axes);
    body();
    open_ = open;
    defined_ = defined;
  }
  std::set<AxisId> box(const std::vector<BoxIndex>& at) const {   // the axes of where an access goes
    std::set<AxisId> axes;
    for (const BoxIndex& i : at) {
      if (i.gather >= 0) {
        const Value& rows = use(i.gather);
        check(is_integer(rows.dtype), "gathered rows are integers");
        axes.insert(rows.axes.begin(), rows.axes.end());
      } else {
        index(i.index);
        i.index.collect_axes(axes);
      }
    }
    return axes;
  }
  // In roles a tile need not name axes of which it has one element.
  bool covers(const Value& v, const std::set<AxisId>& axes) const {
    return std::all_of(axes.begin(), axes.end(), [&](AxisId a) { return std::count(v.axes.begin(), v.axes.end(), a) > 0 || a == k_.steps || (phase_ && k_.axes[static_cast<size_t>(a)].tile == 1); });
  }
  // Of whole tiles: a step that is left out would leave its slot filled.
  void early(const Load& l) const {
    check(each_ && role_ && phase_->shared < 0, "early loads stand in an each of a role");
    const Send* send = sent_over(each_->body, l);
    check(send != nullptr, "an early load lies where the same step sends to");
    int64_t steps = 1;
    for (AxisId a : each_->axes) {
      const Axis& axis = k_.axes[static_cast<size_t>(a)];
      check(axis.within >= 0 && !axis.symbol && axis.extent % k_.axes[static_cast<size_t>(axis.within)].tile == 0, "steps with early loads are parts of whole tiles");
      steps *= k_.axes[static_cast<size_t>(axis.within)].tile / axis.tile;
    }
    check(channel(send->channel).depth == steps, "every early load has a slot of its own");
  }
  void statement(const Load& l) {
    if (l.early) early(l);
    const Buffer& b = buffer(l.buffer, l.index.size());
    const std::set<AxisId> axes = box(l.index);
    define(l.out);
    const Value& out = k_.values[static_cast<size_t>(l.out)];
    check(out.dtype == b.dtype, "a load has the buffer's dtype");
    check(covers(out, axes), "a load has the axes of its index");
  }
  void statement(const MapTile& m) {
    std::set<AxisId> axes;
    for (ValueId a : m.args) axes.insert(use(a).axes.begin(), use(a).axes.end());
    check(!m.expr.empty(), "a map has an expression");
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      for (int a : n.args) check(a >= 0 && static_cast<size_t>(a) < i, "a scalar's arguments come first");
      if (n.kind == ScalarNode::Kind::operand)
        check(n.operand >= 0 && static_cast<size_t>(n.operand) < m.args.size() && use(m.args[static_cast<size_t>(n.operand)]).dtype == n.dtype, "an operand is an argument of its dtype");
      if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) {
        index(n.coord);
        n.coord.collect_axes(axes);
      }
      if (n.kind == ScalarNode::Kind::symbol) check(n.dtype == DType::i64 && n.constant.i >= 1, "the symbol is an i64, times a positive factor");
      if (n.kind == ScalarNode::Kind::constant) check(n.constant.dtype == n.dtype, "a constant has its dtype");
      if (n.kind == ScalarNode::Kind::random)
        check(n.args.size() == 1 && m.expr[static_cast<size_t>(n.args[0])].dtype == DType::u32, "random takes a u32 key");
      if (n.kind == ScalarNode::Kind::op) scalar_op(m.expr, i);
    }
    define(m.out);
    const Value& out = k_.values[static_cast<size_t>(m.out)];
    check(out.dtype == m.expr.back().dtype, "a map has its expression's dtype");
    check(covers(out, axes), "a map has the axes of what it reads");
  }
  // Number and dtypes of the arguments, by the op's own type rule.
  void scalar_op(const ScalarExpr& e, size_t i) const {
    check(means<Map>(e[i].op), "a scalar op is elementwise");
    try {
      check(infer_scalar(e, i) == e[i].dtype, "a scalar op has its rule's dtype");
    } catch (const Error& error) {
      check(error.kind == ErrorKind::internal, error.what());
      throw;
    }
  }
  void statement(const ReduceTile& r) {
    const Value& arg = use(r.arg);
    std::vector<AxisId> kept = arg.axes;
    for (AxisId a : r.axes) check(std::erase(kept, a) == 1, "a reduced axis is the tile's");
    define(r.out);
    const Value& out = k_.values[static_cast<size_t>(r.out)];
    check(out.axes == kept && out.dtype == arg.dtype, "a reduce removes its axes and keeps the dtype");
  }
  void statement(const Mma& m) {
    const Value &acc = use(m.acc), &a = use(m.a), &b = use(m.b);
    for (AxisId k : m.axes) {
      check(std::count(a.axes.begin(), a.axes.end(), k) && std::count(b.axes.begin(), b.axes.end(), k), "both operands have the summed axes");
      check(!std::count(acc.axes.begin(), acc.axes.end(), k), "the sum lacks the summed axes");
    }
    for (const Value* v : {&a, &b})
      for (AxisId x : v->axes)
        check(std::count(acc.axes.begin(), acc.axes.end(), x) + std::count(m.axes.begin(), m.axes.end(), x) == 1, "an operand's axis is the sum's or is summed");
    check(is_float(acc.dtype) && (m.precision == Precision::f8 ? is_f8(a.dtype) && is_f8(b.dtype) : is_float(a.dtype) && a.dtype == b.dtype), "an mma takes floats, both operands alike or of 8 bits");
    check(!m.issued || phase_, "products are issued in roles");
    define(m.out);
    const Value& out = k_.values[static_cast<size_t>(m.out)];
    check(out.axes == acc.axes && out.dtype == acc.dtype, "an mma keeps the type of its sum");
  }
  void statement(const Seq& q) {
    if (stores(k_, q))
      for (AxisId a : q.axes) check(k_.axes[static_cast<size_t>(a)].tile == 1, "a seq that stores its steps walks element by element");
    check(q.carries.size() == q.yields.size() && q.carries.size() == q.outs.size(), "a seq yields and gives one tile per carry");
    nested({}, [&] {   // a carry outlives the blocks, so its axes are open outside of them
      for (const Carry& c : q.carries) {
        define(c.var);
        check(c.init.dtype == k_.values[static_cast<size_t>(c.var)].dtype, "a carry starts with its dtype");
      }
      enter(q.axes);
      block(q.body);
      for (size_t i = 0; i < q.yields.size(); ++i) {
        const Value &y = use(q.yields[i]), &c = k_.values[static_cast<size_t>(q.carries[i].var)];
        check(y.dtype == c.dtype && y.axes == c.axes, "a yield has its carry's type");
      }
    });
    for (size_t i = 0; i < q.outs.size(); ++i) {
      define(q.outs[i]);
      const Value &o = k_.values[static_cast<size_t>(q.outs[i])], &c = k_.values[static_cast<size_t>(q.carries[i].var)];
      check(o.dtype == c.dtype && o.axes == c.axes, "a result of a seq has its carry's type");
    }
  }
  void statement(const Each& e) {
    const Each* around = std::exchange(each_, &e);
    nested(e.axes, [&] { block(e.body); });
    each_ = around;
  }
  // --- roles ---
  void work(const Phase& p) {
    phase_ = &p;
    check(p.body.empty() && p.grid.size() >= 2 && p.group >= 1, "work has roles for its body, two axes and groups of tiles");
    for (const Channel& c : p.channels) {
      check(c.depth >= 1 && !c.parts.empty(), "a channel has slots and parts");
      for (const Value& v : c.parts)
        for (AxisId a : v.axes) check(a >= 0 && static_cast<size_t>(a) < k_.axes.size(), "an axis exists");
    }
    check(!p.claimed || (!p.winding && p.shared < 0 && !p.roles.empty() && only_moves(p.roles[0]) && std::ranges::none_of(p.roles, [](const Role& r) { return r.turns; })), "instances are claimed by a role that moves slots, in order, for all roles");
    if (p.shared >= 0) {
      check(k_.sharers(p) >= 2 && k_.sharers(p) <= 8 && !k_.axes.at(static_cast<size_t>(p.shared)).symbol, "2 to 8 blocks share an instance");
      enter({p.shared});
    }
    int64_t groups = 0, asked = 0, moving = 0;
    for (const Role& r : p.roles) {
      check(r.count >= 1 && r.count <= 8 && !r.along.empty() + r.turns + r.steps <= 1, "a role has instances, which split axes, take turns or steps");
      if (!only_moves(r)) groups += r.count;
      else moving += r.count, check(r.registers == p.roles[0].registers, "roles that only move slots have as many registers");
    }
    check(moving <= 4, "roles that only move slots are four threads at most");
    groups += moving > 0;
    const int64_t at_start = groups ? 65536 / (128 * groups) / 8 * 8 : 0;   // registers of each thread, of which the roles give and take
    for (const Role& r : p.roles) {
      check(r.registers == 0 || (r.registers % 8 == 0 && r.registers >= 24 && r.registers <= 256), "a role has 24 to 256 registers, in steps of 8");
      if (!only_moves(r)) asked += r.count * (r.registers ? r.registers : at_start);
      nested({}, [&] {
        for (AxisId a : r.along) {
          enter({a});
          const AxisId around = k_.axes[static_cast<size_t>(a)].within;
          check(std::count(p.grid.begin(), p.grid.end(), around), "the instances of a role split a tile of the work");
          const int64_t parts = k_.axes[static_cast<size_t>(around)].tile / k_.axes[static_cast<size_t>(a)].tile;
          check(parts * k_.axes[static_cast<size_t>(a)].tile == k_.axes[static_cast<size_t>(around)].tile && (parts == r.count || (parts == 1 && a != r.along[0])), "the instances of a role split a tile of the work, or stand in all of it");
        }
        role_ = &r;
        block(r.body);
      });
    }
    if (moving) asked += p.roles[0].registers ? p.roles[0].registers : at_start;
    check(asked <= groups * std::min<int64_t>(at_start, 256), "the roles have no more registers than there are");
  }
  const Channel& channel(int c) const {
    check(phase_ && c >= 0 && static_cast<size_t>(c) < phase_->channels.size(), "a channel exists, in a phase with roles");
    return phase_->channels[static_cast<size_t>(c)];
  }
  bool is_part(const Value& v, const Value& part) const {
    std::vector<AxisId> axes = part.axes;
    std::sort(axes.begin(), axes.end());
    return v.dtype == part.dtype && v.axes == axes;
  }
  template <class Access>
  void places(const Channel& c, const std::vector<Access>& list) const {
    check(list.size() == c.parts.size(), "one place for each part of the channel");
    for (size_t p = 0; p < list.size(); ++p) {
      const Buffer& b = buffer(list[p].buffer, list[p].index.size());
      check(b.dtype == c.parts[p].dtype, "a part has its buffer's dtype");
      for (const BoxIndex& i : list[p].index) check(i.gather < 0, "asynchronous copies gather nothing");
      for (AxisId a : box(list[p].index)) check(std::count(c.parts[p].axes.begin(), c.parts[p].axes.end(), a) || k_.axes[static_cast<size_t>(a)].tile == 1, "a part has the axes of its place");
    }
  }
  void in_role(const Fetch& f) const { places(channel(f.channel), f.loads); }
  void in_role(const Get& g) {
    const Channel& c = channel(g.channel);
    check(g.outs.size() == c.parts.size(), "a get takes all parts");
    for (size_t p = 0; p < g.outs.size(); ++p) {
      define(g.outs[p]);
      check(is_part(k_.values[static_cast<size_t>(g.outs[p])], c.parts[p]), "a get has its part's type");
    }
  }
  void in_role(const Release& r) const { check(r.behind >= 0 && r.behind < channel(r.channel).depth, "a slot is released while the ring has it"); }
  void in_role(const Put& p) const {
    const Channel& c = channel(p.channel);
    check(p.values.size() == c.parts.size(), "a put fills all parts");
    for (size_t n = 0; n < p.values.size(); ++n) {
      const Value &v = use(p.values[n]), &part = c.parts[n];
      if (!is_got(*phase_, p.channel)) check(is_part(v, part), "a put has its part's type");
      else check(v.dtype == part.dtype && v.axes.size() == part.axes.size() && std::all_of(v.axes.begin(), v.axes.end(), [&](AxisId a) { return std::ranges::any_of(part.axes, [&](AxisId b) { return lies_within(k_, a, b); }); }), "a put has a part of its part");
    }
  }
  void in_role(const Fence&) const {}
  void in_role(const Send& s) const {
    places(channel(s.channel), s.stores);
    for (const Store& t : s.stores) check(k_.buffers[static_cast<size_t>(t.buffer)].kind == BufferKind::out, "outputs are sent to");
  }
  void in_role(const Add& a) const {
    places(channel(a.channel), a.stores);
    check(only_moves(*role_) && std::count(phase_->grid.begin(), phase_->grid.end(), a.over) && phase_->grid.back() == a.over && !phase_->winding, "what is added is moved alone, over the work's last axis, which is walked one way");
    for (const Store& s : a.stores) {
      check(k_.buffers[static_cast<size_t>(s.buffer)].kind == BufferKind::out, "outputs are added to");
      check(!box(s.index).count(a.over), "what is added has one place for all of the axis");
    }
  }
  void in_role(const Await& a) const { check(a.left >= 0, "an await leaves some in flight, or none"); }
  void in_role(const Slice& s) {
    const Value& arg = use(s.arg);
    define(s.out);
    const Value& out = k_.values[static_cast<size_t>(s.out)];
    check(out.dtype == arg.dtype && out.axes.size() == arg.axes.size(), "a slice keeps the dtype and the number of axes");
    for (AxisId a : arg.axes)
      check(std::count_if(out.axes.begin(), out.axes.end(), [&](AxisId b) { return lies_within(k_, b, a); }) == 1, "each axis of a slice lies within one of its tile's");
  }
  void in_role(const Past& p) {
    check(!p.axes.empty() && std::all_of(p.axes.begin(), p.axes.end(), [&](AxisId a) { return open_.count(a) > 0; }), "past axes that are open");
    check(p.yields.size() == p.outs.size() && p.others.size() == p.outs.size(), "both blocks of a past yield its results");
    for (const bool other : {false, true})
      nested({}, [&] {
        block(other ? p.otherwise : p.body);
        for (size_t i = 0; i < p.outs.size(); ++i) {
          const Value &y = use((other ? p.others : p.yields)[i]), &o = k_.values[static_cast<size_t>(p.outs[i])];
          check(y.dtype == o.dtype && y.axes == o.axes, "a yield has its result's type");
        }
      });
    for (ValueId v : p.outs) define(v);
  }
  void in_role(const Turn&) const { check(role_->turns, "turns are taken where a role has them"); }
  void in_role(const Share& s) const {
    use(s.value);
    check(phase_->shared >= 0, "a share is shown where blocks share an instance");
  }
  void in_role(const Deal& d) {
    check(phase_->shared >= 0 && !role_->turns, "steps are dealt where blocks share an instance, each of them all of it");
    nested(d.axes, [&] { block(d.body); });
  }
  void in_role(const Total& t) {
    check(phase_->shared >= 0, "a total is one of shares");
    in_role(Slice{t.out, t.arg});
  }
  void statement(const InRole& s) {
    check(phase_ != nullptr, "channels belong to roles");
    std::visit([this](const auto& node) { in_role(node); }, s.node);
  }
  void statement(const Store& s) {
    const Buffer& b = buffer(s.buffer, s.index.size());
    check(b.kind == BufferKind::out || b.kind == BufferKind::scratch, "inputs are not written");
    check(!s.stream || b.kind == BufferKind::out, "only outputs are streamed");
    const std::set<AxisId> axes = box(s.index);
    const Value& v = use(s.value);
    check(v.dtype == b.dtype, "a store has the buffer's dtype");
    for (AxisId a : v.axes) check(axes.count(a) > 0 || k_.axes[static_cast<size_t>(a)].tile == 1, "a stored tile's axes are in its index, or of one element");
  }
};

}  // namespace

bool is_walked(const Kernel& kernel, AxisId axis) {
  return std::any_of(kernel.phases.begin(), kernel.phases.end(), [&](const Phase& p) { return walks(kernel, p.body, axis); });
}

const Send* sent_over(const Block& each, const Load& early) {
  for (const Stmt& s : each) {
    const auto* r = std::get_if<InRole>(&s.node);
    const auto* d = r ? std::get_if<Send>(&r->node) : nullptr;
    const auto same = [](const BoxIndex& a, const BoxIndex& b) { return a.gather < 0 && b.gather < 0 && a.index == b.index; };
    if (d && d->stores.size() == 1 && std::equal(d->stores[0].index.begin(), d->stores[0].index.end(), early.index.begin(), early.index.end(), same)) return d;
  }
  return nullptr;
}

void verify(const Kernel& kernel) { Verifier(kernel).run(); }

}  // namespace quern::tile
