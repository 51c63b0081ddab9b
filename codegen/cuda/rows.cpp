// Which accesses are vectors, what row kernels do in shared memory, and in which order squares of a matrix are worked on: rows that several walks read are
// copied there, tiles that memory has across are turned there, and two squares that are each other's other side are neighbours.
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "passes/tile/facts.h"

namespace quern::cuda {

using namespace tile;

// Does each thread read of the buffer only what it has stored itself? So where every thread has elements of its own, in all accesses the same;
// along axes of the grid instances have.
bool Emitter::is_own(BufferId b) const {
  const Facts facts(k_);
  std::set<std::string> places;
  bool own = true;
  const auto inner = [&](std::set<int> axes) {
    for (AxisId a : k_.phases[0].grid) axes.erase(a);
    return bits({axes.begin(), axes.end()}) != 0;
  };
  const auto look_at = [&](const std::vector<BoxIndex>& box) {
    std::string place;
    int64_t held = 0;
    for (size_t d = 0; d < box.size(); ++d) {
      std::set<int> used;
      if (box[d].gather < 0) box[d].index.collect_axes(used);
      else used.insert(value(box[d].gather).axes.begin(), value(box[d].gather).axes.end()), own = own && !inner(used);
      const int64_t mine = bits({used.begin(), used.end()});
      if (inner(used)) place += fmt::format("{}: {} ", d, box[d].index.text([](int a) { return std::to_string(a); }));
      held |= mine;
    }
    own = own && held == threads_ - 1;
    places.insert(place);
  };
  for (const Load* l : facts.loads)
    if (l->buffer == b) look_at(l->index);
  for (const Store* s : facts.stores)
    if (s->buffer == b) look_at(s->index);
  return own && places.size() == 1;
}

// What one step within a vector of so many, which start at multiples of that, adds to the index: also where a quotient is the same in all of a vector.
std::optional<int64_t> Emitter::stride_in_vector(const Index& e, AxisId a, int64_t vector) const {
  if (e.kind() == Index::Kind::add) {
    const auto x = stride_in_vector(e.left(), a, vector), y = stride_in_vector(e.right(), a, vector);
    return x && y ? std::optional(*x + *y) : std::nullopt;
  }
  if (e.kind() != Index::Kind::div && e.kind() != Index::Kind::mod) return e.stride(a);
  const auto inner = stride_in_vector(e.left(), a, vector);
  if (!inner || *inner == 0) return inner;
  if (*inner != 1 || e.value() % vector != 0 || factor(e.left(), a, vector) % vector != 0) return std::nullopt;
  return e.kind() == Index::Kind::div ? 0 : 1;
}

// The axis whose vectors are one access each: neighbours in memory, aligned, all inside or all outside, or of a load in a longer row.
AxisId Emitter::vector_axis(BufferId b, const std::vector<BoxIndex>& box, const std::vector<AxisId>& axes, const Places& places, const Load* load) const {
  const Shape strides = buffer(b).strides();
  for (AxisId a : axes) {
    const Place& p = places[static_cast<size_t>(a)];
    if (p.vector == 1 || p.symbolic || (p.extent % p.vector != 0 && !(load && has_longer_rows(k_, *load, a, p.vector)))) continue;
    int64_t step = 0, common = 0;
    bool legal = true;
    for (size_t d = 0; d < box.size() && legal; ++d) {
      if (box[d].gather >= 0) {
        legal = !std::count(value(box[d].gather).axes.begin(), value(box[d].gather).axes.end(), a);
        common = std::gcd(common, strides[d]);
        continue;
      }
      const Index& e = box[d].index;
      const auto s = stride_in_vector(e, a, p.vector);
      legal = s.has_value() && !(*s != 0 && (e.low() < 0 || e.high() >= buffer(b).shape[d]));
      if (s) step += *s * strides[d];
      common = std::gcd(common, factor(e, a, p.vector) * strides[d]);
    }
    if (legal && step == 1 && common % p.vector == 0) return a;
  }
  return -1;
}

// Steps that add at gathered indices do not wait for each of them: some are loaded together. No output lies where they do, as each instance
// reads them all.
bool Emitter::walk_ahead(const Seq& q) {
  constexpr int64_t kAhead = 16;
  const auto* l = q.body.empty() ? nullptr : std::get_if<Load>(&q.body[0].node);
  if (role_ || !l || !q.carries.empty() || q.axes.size() != 1 || !is_walked(k_, q.axes[0]) || buffer(l->buffer).kind != BufferKind::in || value(l->out).axes != q.axes) return false;
  const Place& p = place(q.axes[0]);
  if (p.symbolic || p.extent < 2 * kAhead) return false;
  const std::string ahead = fmt::format("ahead{}", l->out), inside = p.extent % kAhead ? fmt::format("{} < {}", p.start, p.limit) : "";
  const auto steps = [&](const std::function<void()>& body) {
    line("#pragma unroll");
    open(fmt::format("for (int step = 0; step < {}; ++step)", kAhead));
    line(fmt::format("const ix {} = {}_first + step;", p.start, p.start));
    body();
    close();
  };
  open(fmt::format("for (ix {0}_first = 0; {0}_first < {1}; {0}_first += {2})", p.start, p.limit, kAhead));
  line(fmt::format("{} {}[{}];", register_type(value(l->out).dtype), ahead, kAhead));
  steps([&] {
    Registers r;
    over(value(l->out).axes, places_, -1, r, [&] {
      const Spot s = spot(l->buffer, l->index, value(l->out).axes, r, places_);
      const std::string x = from_memory(buffer(l->buffer).dtype, fmt::format("p{}[{}]", l->buffer, s.position));
      line(fmt::format("{}[step] = {};", ahead, inside.empty() ? x : fmt::format("{} ? {} : 0", inside, x)));
    });
  });
  ++repeats_;
  steps([&] {
    if (!inside.empty()) open(fmt::format("if ({})", inside));
    define(l->out, places_);
    Registers r;
    over(value(l->out).axes, places_, -1, r, [&] { line(fmt::format("{} = {}[step];", at(l->out, r, places_), ahead)); });
    for (size_t s = 1; s < q.body.size(); ++s) std::visit([this](const auto& node) { statement(node); }, q.body[s].node);
    if (!inside.empty()) close();
  });
  --repeats_;
  close();
  return true;
}

// Steps that store at a gathered row, which most find outside: those of other instances. The lanes of a warp look at 32 steps at once,
// then all of them take those that are theirs, in order.
bool Emitter::walk_own_steps(const Seq& q) {
  const auto* store = q.body.empty() ? nullptr : std::get_if<Store>(&q.body.back().node);
  if (role_ || !store || !q.carries.empty() || q.axes.size() != 1 || !is_walked(k_, q.axes[0]) || place(q.axes[0]).symbolic || place(q.axes[0]).extent < 64) return false;
  const auto gathered = std::find_if(store->index.begin(), store->index.end(), [](const BoxIndex& b) { return b.gather >= 0; });
  if (gathered == store->index.end()) return false;
  std::vector<AxisId> instance = value(gathered->gather).axes;
  std::erase(instance, q.axes[0]);
  if (instance.empty() || bits(instance) & 31 || registers(value(gathered->gather).axes, places_) != 1) return false;
  std::set<ValueId> wanted = {gathered->gather};   // what tells whose a step is
  std::vector<const Stmt*> telling;
  for (size_t s = q.body.size() - 1; s-- > 0;) {
    const Stmt& stmt = q.body[s];
    const auto* l = std::get_if<Load>(&stmt.node);
    const auto* m = std::get_if<MapTile>(&stmt.node);
    if (!l && !m) return false;
    if (!wanted.count(l ? l->out : m->out)) continue;
    if (l && buffer(l->buffer).kind != BufferKind::in) return false;   // earlier steps may change it
    telling.insert(telling.begin(), &stmt);
    if (m) wanted.insert(m->args.begin(), m->args.end());
    else
      for (const BoxIndex& b : l->index)
        if (b.gather >= 0) wanted.insert(b.gather);
  }
  const Place& p = place(q.axes[0]);
  const int64_t rows = buffer(store->buffer).shape[static_cast<size_t>(gathered - store->index.begin())];
  const std::string inside = p.extent % 32 ? fmt::format("{}_first + (tid & 31) < {} && ", p.start, p.limit) : "";
  open(fmt::format("for (ix {0}_first = 0; {0}_first < {1}; {0}_first += 32)", p.start, p.limit));
  line("u32 mine;");
  ++repeats_;
  open("");
  line(inside.empty() ? fmt::format("const ix {0} = {0}_first + (tid & 31);", p.start) : fmt::format("const ix {0} = min({0}_first + (tid & 31), (ix){1} - 1);", p.start, p.limit));
  for (const Stmt* s : telling) std::visit([this](const auto& node) { statement(node); }, s->node);
  line(fmt::format("mine = __ballot_sync(0xffffffffu, {}(u64)(i64){}[0] < {}ull);", inside, name(gathered->gather), rows));
  close();
  open("for (; mine; mine &= mine - 1)");
  line(fmt::format("const ix {0} = {0}_first + __ffs((int)mine) - 1;", p.start));
  block(q.body);
  close();
  --repeats_;
  close();
  return true;
}

// The block's place in a square of n by n tiles: pairs (i, j) and (j, i), those of rows that have n - 1 pairs together, then the
// diagonal. Row r above the diagonal has n - 1 - r tiles; of an even n, row n - r has the r that row r lacks of n - 1. Returns
// what is left of the block's number.
std::string Emitter::mirrored(AxisId i, AxisId j) {
  const int64_t n = ceil_div(place(i).extent, place(i).tile), width = n % 2 ? n : n - 1, last = n % 2 ? n - 2 : n - 1;
  line(fmt::format("const u32 at_square = {3} % {0}u, pair = at_square / 2, fold = pair / {1}u, step = pair % {1}u, length = {2}u - fold;", n * n, std::max<int64_t>(width, 1), n - 1, instance_));
  line("u32 square_row = fold, square_column = fold + 1 + step;");
  line(fmt::format("if (step >= length) square_row = {0}u - fold, square_column = {0}u - fold + 1 + step - length;", last));
  line(fmt::format("if (at_square >= {0}u) square_row = square_column = at_square - {0}u;", n * (n - 1)));
  line(fmt::format("const ix {} = (ix)(at_square & 1 && at_square < {}u ? square_column : square_row) * {};", place(i).start, n * (n - 1), place(i).tile));
  line(fmt::format("const ix {} = (ix)(at_square & 1 && at_square < {}u ? square_row : square_column) * {};", place(j).start, n * (n - 1), place(j).tile));
  return fmt::format("({} / {}u)", instance_, n * n);
}

// The axis, other than the tile's vectors', along which neighbours lie in memory, where the tile is a square to be turned.
AxisId Emitter::turned_axis(const Load& l) const {
  AxisId across = -1, along = -1;
  for (AxisId a : value(l.out).axes) {
    if (step_of(k_, l.buffer, l.index, a) == 1) across = a;
    else if (place(a).vector > 1) along = a;
  }
  if (across < 0 || along < 0 || place(across).vector > 1 || (bits({across, along}) | 31) != threads_ - 1 || role_) return -1;
  const int64_t v = place(along).vector;
  return place(across).tile % (8 * v) == 0 && place(along).tile % (4 * v) == 0 && place(across).extent % v == 0 ? across : -1;
}

// A tile that memory has across: read in vectors that lie so, and turned in shared memory, where vectors of row y have changed
// places by y, so that neither side meets a bank twice.
void Emitter::load_turned(const Load& l, AxisId across) {
  const Buffer& b = buffer(l.buffer);
  const std::vector<AxisId>& axes = value(l.out).axes;
  const AxisId along = *std::find_if(axes.begin(), axes.end(), [&](AxisId a) { return a != across && place(a).vector > 1; });
  const int64_t v = place(along).vector, width = place(along).tile, warps = threads_ / 32, mask = std::min<int64_t>(8, width / v) - 1;
  const int64_t warps_across = std::min(warps, place(across).tile / (8 * v)), warps_along = std::min(warps / warps_across, width / 4);
  Places read = places_;
  const auto lay = [&](AxisId a, int64_t threads, int64_t vector, const std::string& base) {
    Place& p = read[static_cast<size_t>(a)];
    p.base = fmt::format("q{}_{}", a, l.out);
    p.threads = threads, p.vector = vector, p.registers = p.tile / threads;
    line(fmt::format("const int {} = {};", p.base, base));
  };
  lay(across, 8 * warps_across, v, fmt::format("((tid & 7) + 8 * (tid / 32 % {})) * {}", warps_across, v));
  lay(along, 4 * warps_along, 1, fmt::format("(tid / 8 & 3) + 4 * (tid / {} % {})", 32 * warps_across, warps_along));
  QN_CHECK(vector_axis(l.buffer, l.index, axes, read) == across, "a turned load is in vectors");
  const auto in_tile = [](const Place& p, const std::string& reg) {
    const std::string in = local(p, reg);
    return in.empty() ? p.base : p.base + " + " + in;
  };
  const auto place_in = [&](const std::string& y, const std::string& x) { return fmt::format("({0}) * {1} + ((({2}) / {3} ^ (({0}) / {3} & {4})) * {3}) + ({2}) % {3}", y, width, x, v, mask); };
  const std::string square = fmt::format("square{}", l.out), raw = fmt::format("raw{}", l.out);
  line(fmt::format("{0}* const {1} = ({0}*)(shared + {2});", memory_type(b.dtype), square, scratch_bytes_));
  shared_bytes_ = std::max(shared_bytes_, place(across).tile * width * static_cast<int64_t>(size_of(b.dtype)));
  const int64_t columns = read[static_cast<size_t>(along)].registers, groups = read[static_cast<size_t>(across)].registers / v;
  line(fmt::format("__align__(16) {} {}[{}][{}];", memory_type(b.dtype), raw, columns * groups, v));
  const auto each_vector = [&](const std::function<void(const Registers&, const std::string&)>& body) {
    Registers r;
    over(axes, read, across, r, [&] { body(r, fmt::format("{}[({}) * {} + ({}) / {}]", raw, r[along], groups, r[across], v)); });
  };
  each_vector([&](const Registers& r, const std::string& q) {
    const Spot s = spot(l.buffer, l.index, axes, r, read);
    if (!s.condition.empty()) line(fmt::format("qn_clear({}); if ({})", q, s.condition));
    line(fmt::format("qn_read({}, p{} + ({}));", q, l.buffer, s.position));
  });
  line(sync_);
  each_vector([&](const Registers& r, const std::string& q) {
    line("#pragma unroll");
    line(fmt::format("for (int x = 0; x < {}; ++x) {}[{}] = {}[x];", v, square, place_in("(" + in_tile(read[static_cast<size_t>(across)], r.at(across)) + " + x)", in_tile(read[static_cast<size_t>(along)], r.at(along))), q));
  });
  line(sync_);
  define(l.out, places_);
  Registers r;
  over(axes, places_, along, r, [&] {
    open("");
    line(fmt::format("__align__(16) {} q[{}];", memory_type(b.dtype), v));
    line(fmt::format("qn_read(q, {} + ({}));", square, place_in(in_tile(place(across), r.at(across)), in_tile(place(along), r.at(along)))));
    line("#pragma unroll");
    Registers element = r;
    element[along] = r[along] == "0" ? "x" : r[along] + " + x";
    line(fmt::format("for (int x = 0; x < {}; ++x) {} = {};", v, at(l.out, element, places_), from_memory(b.dtype, "q[x]")));
    close();
  });
}

// What the next step of the loop around will load comes to the cache of the whole machine meanwhile.
void Emitter::ask_ahead(const Load& l, const Places& places, AxisId vector) {
  QN_CHECK(loop_ >= 0 && vector >= 0, "vectors of a next step are asked for");
  Places next = places;
  Place& step = next[static_cast<size_t>(loop_)];
  step.start = fmt::format("({} + {})", step.start, step.tile);
  Registers r;
  over(value(l.out).axes, next, vector, r, [&] {
    const Spot s = spot(l.buffer, l.index, value(l.out).axes, r, next);
    line(fmt::format("if ({}({}) < {}) qn_ask(p{} + ({}));", s.condition.empty() ? "" : s.condition + " && ", s.position, count(buffer(l.buffer).shape), l.buffer, s.position));
  });
}

// A load that a step of the loop around has several times, of what is the same in all steps, is not to be kept in registers.
bool Emitter::is_again(const Load& l) const {
  const auto uses_loop = [&](const BoxIndex& b) { return b.gather >= 0 || b.index.uses(loop_); };
  if (loop_ < 0 || role_ || std::any_of(l.index.begin(), l.index.end(), uses_loop)) return false;
  const Facts facts(k_);
  return std::count_if(facts.loads.begin(), facts.loads.end(), [&](const Load* o) {
           return o->buffer == l.buffer && std::equal(o->index.begin(), o->index.end(), l.index.begin(), l.index.end(), [](const BoxIndex& a, const BoxIndex& b) { return a.gather < 0 && b.gather < 0 && a.index == b.index; });
         }) > 1;
}

// Memory → shared memory, without registers where vectors allow it; then all threads may read it.
void Emitter::to_shared(const std::vector<AxisId>& axes, const Load& l, const Store& s) {
  const AxisId vector = vector_axis(l.buffer, l.index, value(l.out).axes, places_);
  const int64_t n = vector < 0 ? 1 : place(vector).vector, bytes = n * size_of(buffer(l.buffer).dtype);
  const bool asynchronous = vector >= 0 && vector_axis(s.buffer, s.index, value(l.out).axes, places_) == vector && bytes >= 4 && bytes <= 16;
  loops(axes, [&] {
    if (!asynchronous) {
      statement(l);
      return statement(s);
    }
    Registers r;
    over(value(l.out).axes, places_, vector, r, [&] {
      const Spot from = spot(l.buffer, l.index, value(l.out).axes, r, places_), to = spot(s.buffer, s.index, value(l.out).axes, r, places_);
      line(fmt::format("{}qn_async<{}>(p{} + ({}), p{}, {}, true);", from.condition.empty() ? "" : fmt::format("if ({}) ", from.condition), n, s.buffer, to.position, l.buffer, from.position));
    });
  });
  if (asynchronous) line("qn_commit(); qn_wait<0>();");
  line(sync_);
}

}  // namespace quern::cuda
