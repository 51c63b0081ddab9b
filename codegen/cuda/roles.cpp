// Kernels with roles, for sm_90a: one block per multiprocessor works the instances off; each role is one branch over the
// groups of 128 threads (warpgroups), a role that only fetches is one thread. A ring is slots in shared memory, 1024-byte
// aligned, rows of at most 128 bytes, swizzled as TMA and wgmma have them; a row that is longer lies in columns of 128 bytes,
// one after the other. Fetched slots have two barriers, full and empty: number s waits for parity s / depth % 2.
#include <algorithm>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "ir/support/overloaded.h"

namespace quern::cuda {

using namespace tile;

namespace {

// Statements of a block and of what stands in it.
void each_statement(const Block& block, const std::function<void(const Stmt&, const std::vector<AxisId>&)>& f, std::vector<AxisId> open = {}) {
  for (const Stmt& s : block) {
    f(s, open);
    const auto inner = [&](const std::vector<AxisId>& axes, const Block& body) {
      std::vector<AxisId> more = open;
      more.insert(more.end(), axes.begin(), axes.end());
      each_statement(body, f, more);
    };
    if (const auto* q = std::get_if<Seq>(&s.node)) inner(q->axes, q->body);
    if (const auto* e = std::get_if<Each>(&s.node)) inner(e->axes, e->body);
    if (const auto* r = std::get_if<InRole>(&s.node))
      for (const Block* body : blocks_of(*r)) inner({}, *body);
  }
}
template <class T>
bool has(const Role& role, int channel = -1) {
  bool found = false;
  each_statement(role.body, [&](const Stmt& s, const std::vector<AxisId>&) {
    const auto* r = std::get_if<InRole>(&s.node);
    const auto* t = r ? std::get_if<T>(&r->node) : nullptr;
    if constexpr (requires { t->channel; }) found |= t && (channel < 0 || t->channel == channel);
    else found |= t != nullptr;
  });
  return found;
}

}  // namespace

Emitter::Part Emitter::part(const Value& v) const {
  if (v.axes.size() == 1) return {&v, -1, v.axes[0], size_of(v.dtype), 1, place(v.axes[0]).tile * size_of(v.dtype), 1};   // as in memory
  QN_CHECK(v.axes.size() == 2, "a part has one axis or two");
  const int64_t size = size_of(v.dtype), inner = place(v.axes[1]).tile * size, row = std::min<int64_t>(inner, 128);
  QN_CHECK(inner % row == 0 && (row == 128 || row == 64 || row == 32), "rows of 32, 64 or 128 bytes, or columns of such");
  return {&v, v.axes[0], v.axes[1], size, place(v.axes[0]).tile, row, inner / row};
}

// Rows of a part that a copy moves: no more than the buffer has, in whole groups of a swizzle; of a summed axis all, those past it are zeros.
int64_t Emitter::box_rows(BufferId b, const std::vector<BoxIndex>& box, const Part& p) const {
  for (size_t d = 0; d < box.size() && p.outer >= 0 && !summed_.count(p.outer) && std::count(phase_->grid.begin(), phase_->grid.end(), p.outer); ++d)
    if (box[d].index.uses(p.outer)) return std::min(p.rows, round_up(buffer(b).shape[d], 8));
  return p.rows;
}
// The tensor map of a place, and how the text calls it. Dims of the buffer that the part does not have are one place long, and those that
// count an axis in parts, of which a row is within one.
std::string Emitter::tensor_map(BufferId b, const std::vector<BoxIndex>& box, const Part& p, bool rounded) {
  const Buffer& buffer = this->buffer(b);
  TensorMap m;
  m.operand = b;
  m.dtype = static_cast<int64_t>(buffer.dtype);
  m.rank = static_cast<int64_t>(buffer.shape.size());
  m.row_bytes = p.row_bytes;
  m.rounded = rounded;
  m.symbol = buffer.symbol, m.along = buffer.along;
  const Shape strides = buffer.strides();
  for (size_t d = 0; d < buffer.shape.size(); ++d) {
    m.extents[d] = buffer.shape[d];
    m.strides[d] = strides[d] * p.size;
    m.box[d] = box[d].index.uses(p.inner) ? (box[d].index.kind() == Index::Kind::div ? 1 : p.row_bytes / p.size) : p.outer >= 0 && box[d].index.uses(p.outer) ? box_rows(b, box, p)
                                                                                                                                                              : 1;
  }
  size_t n = std::find(maps_.begin(), maps_.end(), m) - maps_.begin();
  if (n == maps_.size()) maps_.push_back(m);
  return fmt::format("&m{}", n);
}
// Where a place begins, innermost dim first; `column` of the part.
std::string Emitter::corner(const std::vector<BoxIndex>& box, const Part& p, int64_t column) const {
  Places starts = places_;
  for (Place& s : starts) s.base.clear(), s.registers = 1;
  if (std::string& start = starts[static_cast<size_t>(p.inner)].start; column) start = fmt::format("({} + {})", start, column * p.row_bytes / p.size);
  std::string out;
  for (size_t d = box.size(); d-- > 0;) out += ", " + index(box[d].index, {}, starts);
  return out;
}

// Products of tf32 take what the copy engine has rounded to it: they themselves would cut bits off.
void Emitter::find_rounded() {
  std::map<ValueId, int> from;
  std::set<int> others;
  const auto note = [&](const Mma& m) {
    for (ValueId v : {m.a, m.b})
      if (from.count(v)) (m.precision == Precision::tf32 ? rounded_ : others).insert(from.at(v));
  };
  for (const Role& r : phase_->roles)
    each_statement(r.body, [&](const Stmt& s, const std::vector<AxisId>&) {
      const auto same = [&](ValueId out, ValueId arg) {
        if (from.count(arg)) from[out] = from.at(arg);
      };
      if (const auto* m = std::get_if<Mma>(&s.node)) note(*m);
      if (const auto* m = std::get_if<MapTile>(&s.node); m && m->args.size() == 1) same(m->out, m->args[0]);
      const auto* in = std::get_if<InRole>(&s.node);
      const auto* g = in ? std::get_if<Get>(&in->node) : nullptr;
      const auto* c = in ? std::get_if<Slice>(&in->node) : nullptr;
      for (size_t n = 0; g && n < g->outs.size(); ++n) from[g->outs[n]] = g->channel;
      if (c) same(c->out, c->arg);
    });
  for (int c : rounded_) QN_CHECK(!others.count(c), "a ring of operands of tf32 has no others");
}

std::string Emitter::run_roles(const std::string& name, const std::string& params) {
  const Phase& p = k_.phases[0];
  phase_ = &p;
  int64_t groups = 0, barriers = 0;
  const bool movers = std::ranges::any_of(p.roles, only_moves);   // one thread each, in the first group's warps
  groups += movers;
  for (const Role& r : p.roles) {
    if (!only_moves(r)) groups += r.count;
    each_statement(r.body, [&](const Stmt& s, const std::vector<AxisId>&) {
      if (const auto* m = std::get_if<Mma>(&s.node)) summed_.insert(m->axes.begin(), m->axes.end());
    });
  }
  threads_ = 128 * groups;
  find_rounded();
  // Rings, then barriers.
  for (size_t c = 0; c < p.channels.size(); ++c) {
    const Channel& channel = p.channels[c];
    Ring ring{{}, {}, channel.depth, 0, 1, 0};
    for (const Role& r : p.roles) {
      if (has<Put>(r, static_cast<int>(c))) (is_got(p, static_cast<ChannelId>(c)) ? ring.putters : ring.copies) = r.count;
      if (has<Get>(r, static_cast<int>(c))) ring.readers += r.turns || r.steps ? 1 : r.count;
    }
    if (ring.readers) ring.barriers = barriers, barriers += 2 * ring.depth;
    rings_.push_back(ring);
  }
  lay_out_rings();
  for (const Role& r : p.roles) find_early(r, barriers);
  for (Ring& r : rings_) {
    r.barriers = shared_bytes_ + 8 * r.barriers;
    if (r.early >= 0) r.early = shared_bytes_ + 8 * r.early;
  }
  shared_bytes_ += 8 * barriers;
  if (p.claimed) claims_ = shared_bytes_, shared_bytes_ += 24;   // full, empty, the number

  line("const u32 ring = (u32)__cvta_generic_to_shared(shared);");
  line("const int group = threadIdx.x >> 7, tid = threadIdx.x & 127;");
  open("if (threadIdx.x == 0)");
  for (const Ring& r : rings_) {
    if (r.early >= 0) line(fmt::format("for (int i = 0; i < {}; ++i) qn_barrier(ring + {} + 8 * i, 1);", r.copies, r.early));
    if (r.readers) line(fmt::format("for (int i = 0; i < {0}; ++i) {{ qn_barrier(ring + {1} + 8 * i, {3}); qn_barrier(ring + {1} + 8 * ({0} + i), {2}); }}", r.depth, r.barriers, r.readers, std::max<int64_t>(1, 4 * r.putters)));
  }
  if (p.claimed) {
    int64_t told = 0;
    for (const Role& r : p.roles) told += &r == &p.roles[0] ? 0 : r.count * (only_moves(r) ? 1 : 4);
    line(fmt::format("qn_barrier(ring + {}, 1); qn_barrier(ring + {}, {});", claims_, claims_ + 8, told));
    helpers_ += "__device__ u32 qn_claims;\n";
  }
  line("qn_barriers_made();");
  const size_t prefetch = out_.size();   // of the maps, which are known at the end
  close();
  if (waits()) line("qn_behind_others();");
  line("__syncthreads();");
  int64_t first = 0;
  const auto registers = [&](const Role& r) {
    const int64_t at_start = 65536 / (128 * groups) / 8 * 8;
    if (r.registers && r.registers != at_start) line(fmt::format("qn_registers_{}<{}>();", r.registers < at_start ? "down" : "up", r.registers));
  };
  if (movers) {
    open("if (group < 1)");
    registers(*std::ranges::find_if(p.roles, only_moves));
    for (const Role& r : p.roles)
      if (only_moves(r)) {
        open(r.count == 1 ? fmt::format("if (tid == {})", 32 * first) : fmt::format("if (tid >= {} && tid < {} && tid % 32 == 0)", 32 * first, 32 * (first + r.count)));
        if (r.count > 1) line(fmt::format("const int self = (tid >> 5) - {};", first));
        role(r, 0);
        close();
        first += r.count;
      }
    close();
    first = 1;
  }
  for (const Role& r : p.roles) {
    if (only_moves(r)) continue;
    open(fmt::format("{}if (group < {})", first ? "else " : "", first + r.count));
    registers(r);
    line(r.count == 1 ? "const int self = 0;" : fmt::format("const int self = group - {};", first));
    role(r, first);
    close();
    first += r.count;
  }
  std::string maps;
  for (size_t m = 0; m < maps_.size(); ++m) maps += fmt::format("    qn_prefetch(&m{});\n", m);
  out_.insert(prefetch, maps);
  std::string head = helpers_;
  const int64_t sharers = k_.sharers(p);
  head += fmt::format("typedef {} ix;\nextern \"C\" __global__ void {}__launch_bounds__({}, 1) {}({}", wide_index() ? "i64" : "int", sharers > 1 ? fmt::format("__cluster_dims__({}, 1, 1) ", sharers) : "", threads_, name, params);
  for (size_t m = 0; m < maps_.size(); ++m) head += fmt::format(", const __grid_constant__ TensorMap m{}", m);
  return head + ") {\n  extern __shared__ __align__(1024) u8 shared[];\n" + out_ + "}\n";
}

void Emitter::role(const Role& r, int64_t first) {
  const Phase& p = *phase_;
  role_ = &r;
  const bool one_thread = only_moves(r);
  find_counted(r);
  if (!counted_.empty()) line("u32 steps = 0;");   // bit 31: instances, where they are claimed
  for (size_t c = 0; c < p.channels.size(); ++c) {
    const int channel = static_cast<int>(c);
    if (has<Fetch>(r, channel)) line(fmt::format("u32 slot{0} = 0, phase{0} = 1;", c));
    if (counted_.count(channel) || once_.count(channel)) continue;
    if (has<Get>(r, channel)) line(fmt::format("u32 slot{0} = 0, phase{0} = 0, now{0} = 0, before{0} = 0, parity{0} = 0;", c));
    if (has<Put>(r, channel) && rings_[c].early >= 0) line(fmt::format("u32 early{} = 0;", c));
    if (has<Put>(r, channel)) line(fmt::format("u32 slot{0} = 0; const u32 ring{0} = ring + {1} + self * {2};", c, rings_[c].at[0], rings_[c].size));
  }
  if (!one_thread)
    for (size_t a = 0; a < k_.axes.size(); ++a) axis_base(static_cast<AxisId>(a));
  const int64_t rank = static_cast<int64_t>(p.grid.size());
  const AxisId row = p.grid[static_cast<size_t>(rank - 2)], column = p.grid[static_cast<size_t>(rank - 1)];
  const auto tiles = [&](AxisId a) {   // how many, as a number where no size is open
    const int64_t symbol = k_.axes[static_cast<size_t>(a)].symbol, tile = place(a).tile;
    return symbol ? fmt::format("(({} * n + {}) / {})", symbol, tile - 1, tile) : fmt::format("{}", ceil_div(place(a).extent, tile));
  };
  std::string items;
  for (AxisId a : p.grid) items += (items.empty() ? "" : " * ") + tiles(a);
  line(fmt::format("const int rows = {}, columns = {}, items = {};", tiles(row), tiles(column), items));
  if (p.shared >= 0) {   // a cluster of blocks for each instance
    open("");
    line(fmt::format("const int item = blockIdx.x / {0}, share = blockIdx.x % {0};", k_.sharers(p)));
    line(fmt::format("const ix {} = share * {};", place(p.shared).start, place(p.shared).tile));
  } else if (p.claimed) {
    open_claimed(r);
  } else if (p.backward || p.winding) {   // from long instances to short ones: blocks take them there and back, so that all have as much to do
    open("for (int item = blockIdx.x, turn = 0; item < items; item = (item / (int)gridDim.x + 2) * (int)gridDim.x - 1 - item % (int)gridDim.x, ++turn)");
  } else {
    open("for (int item = blockIdx.x, turn = 0; item < items; item += gridDim.x, ++turn)");
  }
  if (r.turns) {
    open(fmt::format("if (turn % {} != self)", r.count));
    each_statement(r.body, [&](const Stmt& s, const std::vector<AxisId>& around) {
      const auto* in = std::get_if<InRole>(&s.node);
      const auto* g = in ? std::get_if<Get>(&in->node) : nullptr;
      if (!g) return;
      int64_t steps = 1;
      for (AxisId a : around) steps *= ceil_div(place(a).extent, place(a).tile);
      line(fmt::format("slot{0} += {1}; phase{0} ^= slot{0} / {2} & 1; slot{0} %= {2};", g->channel, steps, rings_[static_cast<size_t>(g->channel)].depth));
    });
    line("continue;");
    close();
  }
  // In groups of tiles along `row`, so that neighbours share what they read.
  std::string rest = "item";
  if (rank > 2) {
    line("const int in = item % (rows * columns); int outer = item / (rows * columns);");
    rest = "in";
    for (int64_t d = rank - 2; d-- > 0;) {
      const AxisId a = p.grid[static_cast<size_t>(d)];
      line(fmt::format("const ix {} = (ix)(outer % {}) * {}; outer /= {};", place(a).start, tiles(a), place(a).tile, tiles(a)));
    }
  }
  line(fmt::format("const int g = {0} / ({1} * columns), r = {0} - g * ({1} * columns), q = min({1}, rows - g * {1});", rest, p.group));
  line(fmt::format("const ix {} = (ix)(g * {} + r % q) * {}, {} = (ix)({}r / q) * {};", place(row).start, p.group, place(row).tile, place(column).start, p.backward ? "columns - 1 - " : "", place(column).tile));
  for (AxisId a : r.along) {
    const Place& around = place(k_.axes[static_cast<size_t>(a)].within);
    // Places that the rows do not have are found anew: their registers are wanted.
    const std::string mine = a == r.along[0] ? "self" : fmt::format("((qn_here(threadIdx.x) >> 7) - {})", first);
    line(fmt::format("const ix {} = {}{};", place(a).start, around.start, around.tile == place(a).tile ? "" : fmt::format(" + {} * {}", mine, place(a).tile)));
  }
  in_flight_.clear(), reads_.clear(), others_.clear(), puts_.clear(), sums_.clear();
  last_got_ = -1;
  count_reads(r.body);
  zeroed_.clear();
  const auto steps = [&](AxisId a) { return place(a).extent > place(a).tile; };   // a loop of one step overwrites its sums: behind a clearing its products would be made one by one
  if (r.turns)
    for (const Stmt& s : r.body)
      if (const auto* q = std::get_if<Seq>(&s.node); q && std::any_of(q->axes.begin(), q->axes.end(), steps)) zero_sums(*q);
  for (const Stmt& s : r.body)
    if (const auto* e = std::get_if<Each>(&s.node)) ask_early(*e);
  block(r.body);
  if (p.claimed && &r == &p.roles[0]) claim();
  close();
  if (has<Send>(r)) line("if (tid == 0) qn_sent();");
  if (has<Deal>(r)) line("qn_all_seen();");   // before it the others may read what this block shows
  role_ = nullptr;
}

// The assembler keeps the registers of sums that no one clears from tile to tile, though the first product overwrites them: those of
// instances in turns are cleared before the turn, where it costs no time, so that what follows the product has the registers of parts that are done.
void Emitter::zero_sums(const Seq& q) {
  for (const Carry& c : q.carries) {
    const Value& v = value(c.var);
    if (v.axes.size() != 2 || v.dtype != DType::f32) continue;
    const ValueId out = q.outs[static_cast<size_t>(&c - q.carries.data())];
    const int64_t n = place(v.axes[0]).tile * place(v.axes[1]).tile / 128;
    line(fmt::format("float v{}[{}];", out, n));
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) v{}[r] = 0;", n, out));
    zeroed_.insert(out);
  }
}

// Loops in roles: sums of products, and what is made of them, stay in the arrays that they are carried in; an each over parts of a tile is unrolled.
void Emitter::role_seq(const Seq& q) {
  const auto adds_directly = [&](ValueId v) {
    return std::any_of(q.body.begin(), q.body.end(), [&](const Stmt& s) { const auto* m = std::get_if<Mma>(&s.node); return m && m->acc == v; });
  };
  for (size_t i = 0; i < q.carries.size(); ++i) {
    const ValueId var = q.carries[i].var, out = q.outs[i];
    const Value& v = value(var);
    const bool sum = v.axes.size() == 2 && v.dtype == DType::f32, operand = v.axes.size() == 2 && v.dtype != DType::f32;
    names_[var] = names_[out] = fmt::format("v{}", out);
    const int64_t n = sum ? place(v.axes[0]).tile * place(v.axes[1]).tile / 128 : operand ? fragment_registers(v) / 2
                                                                                          : registers(v.axes, places_);
    if (!zeroed_.count(out)) line(fmt::format("{} v{}[{}];", operand ? "u32" : register_type(v.dtype), out, n));
    if (sum && is_fragment_type(v)) fragments_.insert({var, out});
    home_[q.yields[i]] = names_[out];
    adds_[var] = adds_[out] = "1";
    if (sum && adds_directly(var)) {
      QN_CHECK(q.carries[i].init.f == 0, "roles carry sums of products");
      adds_[var] = zeroed_.count(out) ? "1" : past(q.axes);
      continue;
    }
    QN_CHECK(!operand || q.carries[i].init.f == 0, "operands are carried from 0");
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) v{}[r] = {};", n, out, operand ? "0" : constant(q.carries[i].init)));
  }
  std::vector<std::pair<size_t, Op>> whole;   // summed over threads behind the loop
  for (size_t i = 0; i < q.carries.size(); ++i)
    if (is_deferred(q, i)) whole.emplace_back(i, Op::add);
  const bool apart = std::any_of(q.body.begin(), q.body.end(), [](const Stmt& s) { const auto* r = std::get_if<InRole>(&s.node); const auto* p = r ? std::get_if<Past>(&r->node) : nullptr; return p && !p->outs.empty(); });
  ++walks_;
  role_loops(q.axes, apart, [&] {
    if (counted_in_ == &q) line("const u32 step = steps++;");
    if (role_->steps) line(fmt::format("if (step % {} != self) continue;", role_->count));
    block(q.body);
    for (size_t i = 0; i < q.yields.size(); ++i) {
      const std::string &to = names_.at(q.outs[i]), &from = names_.at(q.yields[i]);
      const Value& v = value(q.yields[i]);
      QN_CHECK(from == to || v.axes.size() < 2 || v.dtype != DType::f32, "sums of products stay where they are");
      if (from == to) continue;
      line("#pragma unroll");
      line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {}[r];", v.axes.size() == 2 ? fragment_registers(v) / 2 : registers(v.axes, places_), to, from));
    }
  });
  --walks_;
  for (const auto& [i, op] : whole) across(q.outs[i], op, deferred_bits_);
}

// Where a loop begins or ends: a bound with the axes before it at the first, or the last, coordinates of their blocks.
std::string Emitter::bound(const Index& e, bool last) const {
  Places at = places_;
  for (Place& p : at) {
    p.base.clear(), p.registers = 1;
    if (last) p.start = p.masked ? fmt::format("min({} + {}, {})", p.start, p.tile - 1, p.extent - 1) : fmt::format("({} + {})", p.start, p.tile - 1);
  }
  return index(e, {}, at);
}

// Wherever the one axis stands of which its bounds are made.
bool Emitter::has_step(const Axis& axis) const {
  std::set<int> rows;
  for (const auto& bound : {axis.from, axis.to})
    if (bound) bound->collect_axes(rows);
  if (rows.size() != 1) return false;
  const Axis& r = k_.axes[static_cast<size_t>(*rows.begin())];
  for (int64_t at = 0; at < r.extent; at += r.tile) {
    const int64_t from = axis.from ? axis.from->evaluate([&](int) { return at; }) : 0, to = axis.to ? axis.to->evaluate([&](int) { return std::min(at + r.tile, r.extent) - 1; }) : axis.extent;
    if (std::max<int64_t>(from, 0) >= std::min(to, axis.extent)) return false;
  }
  return true;
}

// `first_apart`: the loop's first step is spelled by itself, as other things happen in it.
void Emitter::role_loops(const std::vector<AxisId>& axes, bool first_apart, const std::function<void()>& body) {
  QN_CHECK(!first_apart || axes.size() == 1, "the first step of one axis");
  loops_.insert(loops_.end(), axes.begin(), axes.end());
  const Step before = step_;
  for (AxisId a : axes) {
    const Axis& axis = k_.axes[static_cast<size_t>(a)];
    const Place& p = place(a);
    const std::string end = fmt::format("end{}", a), limit = axis.within < 0 ? p.limit : fmt::format("min({} + {}, (ix)({}))", place(axis.within).start, place(axis.within).tile, p.limit);
    line(fmt::format("const ix {} = {};", end, axis.to ? fmt::format("min((ix)({}), (ix)({}))", limit, bound(*axis.to, true)) : limit));
    const std::string begin = begin_of(a);
    if (!first_apart) {
      if (axes.size() > 1) line("#pragma unroll 1");
      open(fmt::format("for (ix {0} = {1}; {0} < {2}; {0} += {3})", p.start, begin, end, p.tile));
      continue;
    }
    QN_CHECK(axis.extent > 0 && ((!axis.from && (!axis.to || axis.to->low() >= 1)) || has_step(axis)), "a loop whose first step stands apart has one");
    line(fmt::format("ix {} = {};", p.start, begin));
    open("");
    step_ = Step::first;
    body();
    close();
    step_ = Step::later;
    line("#pragma unroll 1");
    open(fmt::format("for ({0} += {2}; {0} < {1}; {0} += {2})", p.start, end, p.tile));
  }
  body();
  for (size_t i = 0; i < axes.size(); ++i) close();
  loops_.resize(loops_.size() - axes.size());
  step_ = before;
}

std::string Emitter::past(const std::vector<AxisId>& axes) const {
  std::string out;
  for (AxisId a : axes) out += fmt::format("{}{} > {}", out.empty() ? "" : " || ", place(a).start, begin_of(a));
  return out;
}
std::string Emitter::begin_of(AxisId a) const {
  const Axis& axis = k_.axes[static_cast<size_t>(a)];
  if (axis.from) return fmt::format("max((ix)({}), (ix)0) / {} * {}", bound(*axis.from, false), place(a).tile, place(a).tile);
  return axis.within < 0 ? "0" : place(axis.within).start;
}

void Emitter::in_role(const Fetch& f) {
  const Channel& c = phase_->channels[static_cast<size_t>(f.channel)];
  const Ring& r = rings_[static_cast<size_t>(f.channel)];
  open("");
  line(fmt::format("const u32 full = ring + {} + 8 * slot{};", r.barriers, f.channel));
  line(fmt::format("qn_wait_for(full + {}, phase{});", 8 * r.depth, f.channel));
  int64_t bytes = 0;
  for (size_t n = 0; n < f.loads.size(); ++n) bytes += box_rows(f.loads[n].buffer, f.loads[n].index, part(c.parts[n])) * part(c.parts[n]).row_bytes * part(c.parts[n]).columns;
  line(fmt::format("qn_expect(full, {});", bytes));
  for (size_t n = 0; n < f.loads.size(); ++n) {
    const Part p = part(c.parts[n]);
    const std::string map = tensor_map(f.loads[n].buffer, f.loads[n].index, p, rounded_.count(f.channel) > 0);
    for (int64_t x = 0; x < p.columns; ++x)
      line(fmt::format("qn_fetch(ring + {}, {}, full{});", slot(f.channel, n, fmt::format("slot{}", f.channel), x * p.rows * p.row_bytes), map, corner(f.loads[n].index, p, x)));
  }
  line(fmt::format("if (++slot{0} == {1}) slot{0} = 0, phase{0} ^= 1;", f.channel, r.depth));
  close();
}

void Emitter::in_role(const Get& g) {
  const Channel& c = phase_->channels[static_cast<size_t>(g.channel)];
  const Ring& r = rings_[static_cast<size_t>(g.channel)];
  last_got_ = g.channel;
  const bool counted = counted_.count(g.channel), once = once_.count(g.channel);
  if (counted) line(fmt::format("const u32 now{0} = step % {1}, parity{0} = step / {1} & 1;", g.channel, r.depth));
  else if (once) line(fmt::format("const u32 now{0} = 0, parity{0} = steps >> 31 ^ 1;", g.channel));
  else line(fmt::format("before{0} = now{0}; now{0} = slot{0}; parity{0} = phase{0};", g.channel));
  const bool follows = !counted && !once;
  line(fmt::format("qn_wait_for(ring + {0} + 8 * {2}{1}, {3}{1});", r.barriers, g.channel, follows ? "slot" : "now", follows ? "phase" : "parity"));
  if (follows) line(fmt::format("if (++slot{0} == {1}) slot{0} = 0, phase{0} ^= 1;", g.channel, r.depth));
  for (size_t n = 0; n < g.outs.size(); ++n) {
    const Part p = part(c.parts[n]);
    const std::string now = slot(g.channel, n, fmt::format("now{}", g.channel));
    if (p.outer < 0) {
      names_[g.outs[n]] = fmt::format("a{}", g.outs[n]);
      line(fmt::format("const {0}* const a{1} = (const {0}*)(shared + {2});", memory_type(p.value->dtype), g.outs[n], now));
      in_slots_.insert(g.outs[n]);
    } else {
      line(fmt::format("const u32 a{} = ring + {};", g.outs[n], now));
      tiles_[g.outs[n]] = {fmt::format("a{}", g.outs[n]), p, -1};
    }
  }
}
void Emitter::in_role(const Slice& s) {
  const auto shared = tiles_.find(s.arg);
  if (shared == tiles_.end()) return copy_part(s.out, part_of_sum(s.out, s.arg), name(s.arg));
  SharedTile t = shared->second;
  for (AxisId b : value(s.out).axes) {
    if (b == t.part.inner || b == t.part.outer) continue;
    const bool rows = lies_within(k_, b, t.part.outer);
    const AxisId a = rows ? t.part.outer : t.part.inner;
    const int64_t step = rows ? t.part.row_bytes : t.part.rows * t.part.size;   // bytes per element, of whole swizzled groups
    t.address = fmt::format("({} + ({} - {}) * {})", t.address, place(b).start, place(a).start, step);
    t.axis = b;
  }
  tiles_[s.out] = t;
}
// Registers of a part of a sum: element (row, column) of a tile of 64 rows lies in register column / 8 * 4 + row / 8 % 2 * 2 + column % 2.
Emitter::PartOfSum Emitter::part_of_sum(ValueId out, ValueId sum) const {
  PartOfSum p{-1, -1, "", 0};
  for (AxisId a : value(out).axes) (k_.axes[static_cast<size_t>(a)].spread.warps > 1 ? p.row : p.column) = a;
  QN_CHECK(p.row >= 0 && p.column >= 0 && place(p.row).tile == 64 && value(sum).axes.size() == 2, "parts of 64 rows");
  p.registers = place(p.column).tile / 2;
  const std::vector<AxisId>& whole = value(sum).axes;
  const bool all_rows = std::count(whole.begin(), whole.end(), p.row) > 0;
  p.first = fmt::format("{}n{} * {}", all_rows ? "" : fmt::format("n{} * {} + ", p.row, place(k_.axes[static_cast<size_t>(p.column)].within).tile / 8), p.column, p.registers / 4);
  return p;
}
void Emitter::copy_part(ValueId out, const PartOfSum& p, const std::string& from) {
  define(out, places_);
  line("#pragma unroll");
  open("for (int h = 0; h < 2; ++h)");
  line("#pragma unroll");
  line(fmt::format("for (int r = 0; r < {}; ++r) {} = {}[({} + r / 2) * 4 + h * 2 + r % 2];", place(p.column).registers, at(out, {{p.row, "h"}, {p.column, "r"}}, places_), from, p.first));
  close();
}

void Emitter::in_role(const Release& r) {
  QN_CHECK(r.behind <= 1, "the last two slots got are known");
  if (r.behind == 0 && r.channel == last_got_) last_got_ = -1;   // its barrier goes on
  const Ring& ring = rings_[static_cast<size_t>(r.channel)];
  line(fmt::format("if (tid == 0) qn_release(ring + {} + 8 * {}{});", ring.barriers + 8 * ring.depth, r.behind ? "before" : "now", r.channel));
}

void Emitter::in_role(const Put& p) {
  const Channel& c = phase_->channels[static_cast<size_t>(p.channel)];
  const Ring& r = rings_[static_cast<size_t>(p.channel)];
  if (r.putters) return put_part(p);
  if (r.early < 0) {   // else this warp alone has read what lay in its rows
    line(fmt::format("if (tid == 0) qn_room<{}>();", r.depth - 1));
    line("qn_together(self);");
  }
  const char* thread = has_few_registers() ? "qn_here(tid)" : "tid";   // registers are few: places in a slot are not kept
  for (size_t n = 0; n < p.values.size(); ++n) {
    const Part part = this->part(c.parts[n]);
    const Spread &outer = k_.axes[static_cast<size_t>(part.outer)].spread, &inner = k_.axes[static_cast<size_t>(part.inner)].spread;
    const bool turned = inner.warps == 4;
    const AxisId rows = turned ? part.inner : part.outer;
    const Spread& columns = turned ? outer : inner;
    QN_CHECK(std::max(inner.warps, outer.warps) == 4 && columns.threads == 4 && columns.vector == 2 && place(rows).tile == 64 && (turned ? part.columns * part.row_bytes == 64 * part.size : part.columns == 1) && rows < (turned ? part.outer : part.inner), "a put takes 64 rows as products leave them");
    line(fmt::format("qn_put_{}{}<{}>({}, {}, {});", turned ? "turned_" : "", part.size == 2 ? name_of(part.value->dtype) : part.size == 1 ? "8"
                                                                                                                                           : "32",
                     turned ? part.rows : part.row_bytes / part.size, own_slot(p.channel, n), name(p.values[n]), thread));
  }
}
void Emitter::in_role(const Fence&) { line("qn_fence();"); }
void Emitter::in_role(const Send& s) {
  const Ring& r = rings_[static_cast<size_t>(s.channel)];
  line("qn_together(self);");
  open("if (tid == 0)");
  send_parts("qn_send", s.channel, s.stores, [&](size_t part, int64_t offset) { return own_slot(s.channel, part, offset); });
  close();
  if (r.early < 0) line(fmt::format("slot{0} = slot{0} == {1} ? 0 : slot{0} + 1;", s.channel, r.depth - 1));
}

// The assembler moves a wait above what is computed before it, and has moved what rounds sums to f16 and packs them above the wait for
// them, but neither out of a block: a barrier that has been waited for ends one.
void Emitter::in_role(const Await& a) {
  const bool some = static_cast<int64_t>(in_flight_.size()) > a.left, behind = some && walks_ == 0;
  const auto end_block = [&] {
    if (last_got_ >= 0) line(fmt::format("qn_wait_for(ring + {} + 8 * now{}, parity{});", rings_[static_cast<size_t>(last_got_)].barriers, last_got_, last_got_));
  };
  if (some && computed_) end_block();
  computed_ = false;
  if (!some) return line(fmt::format("qn_products_left<{}>();", a.left));
  for (; static_cast<int64_t>(in_flight_.size()) > a.left; in_flight_.erase(in_flight_.begin())) line(fmt::format("{}({});", settle_helper(in_flight_[0].registers, a.left), in_flight_[0].sum));
  if (behind || !counted_.empty()) end_block();
}
void Emitter::in_role(const Past& p) {
  const auto part = [&](const Block& body, const std::vector<ValueId>& yields) {
    in_past_ += &body == &p.body;
    block(body);
    in_past_ -= &body == &p.body;
    for (size_t i = 0; i < yields.size(); ++i) {
      names_[p.outs[i]] = names_.at(yields[i]);
      adds_[p.outs[i]] = "1";
      if (fragments_.count(yields[i])) fragments_.insert(p.outs[i]);
    }
  };
  if (step_ == Step::later) return part(p.body, p.yields);
  if (step_ == Step::first) return part(p.otherwise, p.others);
  QN_CHECK(p.outs.empty() && p.otherwise.empty(), "a loop whose first step differs spells it apart");
  open(fmt::format("if ({})", past(p.axes)));
  block(p.body);
  close();
}
void Emitter::in_role(const Turn& t) {
  const int64_t n = role_->count;
  QN_CHECK(n == 2, "two take turns");
  line(t.taken ? "if (turn > 0) qn_turn(self);" : "qn_pass(self ^ 1);");
}

void Emitter::statement(const InRole& s) {
  std::visit([this](const auto& node) { in_role(node); }, s.node);
}

}  // namespace quern::cuda
