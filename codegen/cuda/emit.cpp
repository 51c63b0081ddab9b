// Planned Tile IR → CUDA C++. Each axis has its place in the block (emitter.h); a statement becomes unrolled loops over
// a thread's registers. Only generated identifiers reach the source: i, t and w with the axis, p with the buffer, v and
// f with the tile.
#include <numeric>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "passes/tile/facts.h"

namespace quern::cuda {

using namespace tile;

namespace {

constexpr int64_t kManyDivisions = 4;   // by one number: its reciprocal pays
constexpr int64_t kManySteps = 4;       // of a loop, whose last one is masked

bool is_op(const MapTile& m, Op op, ValueId left, ValueId right) {
  if (m.expr.size() != 3 || m.expr[2].kind != ScalarNode::Kind::op || m.expr[2].op != op) return false;
  for (int i = 0; i < 2; ++i)
    if (m.expr[static_cast<size_t>(i)].kind != ScalarNode::Kind::operand) return false;
  return m.args.at(static_cast<size_t>(m.expr[0].operand)) == left && m.args.at(static_cast<size_t>(m.expr[1].operand)) == right;
}

// How often a block reads the tile.
int uses(const Block& block, ValueId v) {
  int n = 0;
  for (const Stmt& s : block)
    std::visit(Overloaded{[&](const Load& l) { for (const BoxIndex& b : l.index) n += b.gather == v; },
                          [&](const MapTile& m) { n += static_cast<int>(std::count(m.args.begin(), m.args.end(), v)); },
                          [&](const ReduceTile& r) { n += r.arg == v; },
                          [&](const Mma& m) { n += (m.acc == v) + (m.a == v) + (m.b == v); },
                          [&](const Seq& q) { n += uses(q.body, v) + static_cast<int>(std::count(q.yields.begin(), q.yields.end(), v)); },
                          [&](const Each& e) { n += uses(e.body, v); },
                          [&](const Store& t) { n += t.value == v; }, [](const InRole&) {}},
               s.node);
  return n;
}

}  // namespace

Emitter::Emitter(const Kernel& kernel, int arch) : k_(kernel), arch_(arch) {
  for (size_t a = 0; a < k_.axes.size(); ++a) {
    const Axis& axis = k_.axes[a];
    const Spread& s = axis.spread;
    Place p;
    p.start = fmt::format("at{}", a);
    if (s.threads > 1 || s.warps > 1) p.base = fmt::format("t{}", a);
    p.extent = axis.extent;
    p.tile = axis.tile;
    p.threads = s.threads;
    p.vector = s.vector;
    p.registers = axis.tile / (s.threads * s.warps);
    // Past a symbolic axis of the grid lies memory up to the bound, which nobody reads: only loops heed the size.
    p.symbolic = axis.symbol > 0 && !std::count(k_.phases[0].grid.begin(), k_.phases[0].grid.end(), static_cast<AxisId>(a));
    for (AxisId b = static_cast<AxisId>(a); b >= 0; b = k_.axes[static_cast<size_t>(b)].within) p.masked |= axis.extent % k_.axes[static_cast<size_t>(b)].tile != 0;
    p.masked |= p.symbolic && axis.tile > 1;
    p.limit = p.symbolic ? fmt::format("{} * n", axis.symbol) : fmt::format("{}", axis.extent);
    threads_ = std::max(threads_, 32 * (s.warps << s.warps_at));
    places_.push_back(std::move(p));
  }
}

std::string Emitter::run(const std::string& name) {
  if (k_.cluster) return run_cluster(name);
  QN_CHECK(k_.phases.size() == 1, "a CUDA kernel has one phase, or is a cluster's");
  const bool roles = !k_.phases[0].roles.empty();   // whose instances are counted by the blocks
  if (waits() && !roles) line("qn_behind_others();");
  place_scratch();
  const std::string params = this->params();
  if (std::any_of(places_.begin(), places_.end(), [](const Place& p) { return p.symbolic; }) || (roles && std::any_of(k_.axes.begin(), k_.axes.end(), [](const Axis& a) { return a.symbol > 0; })))
    line("const ix n = (ix)size;");
  if (roles) return run_roles(name, params);
  instance();
  std::string head = fmt::format("typedef {} ix;\nextern \"C\" __global__ void __launch_bounds__({}) {}({}) {{\n", wide_index() ? "i64" : "int", threads_, name, params);
  if (shared_bytes() > 0) head += "  extern __shared__ __align__(16) u8 shared[];\n";
  return head + "  const int tid = threadIdx.x;\n" + out_ + "}\n";
}

// Inputs and outputs may share memory (states in place): no __restrict__.
std::string Emitter::params() const {
  std::string out;
  for (size_t b = 0; b < static_cast<size_t>(k_.params()); ++b) out += fmt::format("{}{}{}* p{}", b ? ", " : "", k_.buffers[b].kind == BufferKind::in ? "const " : "", memory_type(k_.buffers[b].dtype), b);
  return out + ", const i64 size";
}

void Emitter::place_scratch() {
  for (size_t b = 0; b < k_.buffers.size(); ++b) {
    const int64_t bytes = count(k_.buffers[b].shape) * size_of(k_.buffers[b].dtype);
    if (k_.buffers[b].kind != BufferKind::scratch || bytes == 0) continue;
    line(fmt::format("{0}* const p{1} = ({0}*)(shared + {2});", memory_type(k_.buffers[b].dtype), b, scratch_bytes_));
    scratch_bytes_ += round_up(bytes, 16);
  }
}

// What a block does for one instance of the grid.
void Emitter::instance() {
  std::string rest = instance_;
  const std::vector<AxisId>& grid = k_.phases[0].grid;
  size_t left = grid.size();
  if (k_.phases[0].mirrored) rest = mirrored(grid[left - 2], grid[left - 1]), left -= 2;
  for (size_t d = left; d-- > 0;) {
    const Place& p = place(grid[d]);
    const int64_t tiles = ceil_div(p.extent, p.tile);
    line(fmt::format("const ix {} = (ix)({}) * {};", p.start, d == 0 ? rest : fmt::format("{} % {}u", rest, tiles), p.tile));
    if (d > 0) rest = fmt::format("({} / {}u)", rest, tiles);
  }
  for (size_t a = 0; a < k_.axes.size(); ++a) axis_base(static_cast<AxisId>(a));
  products_ = !Facts(k_).products.empty();
  overwritten_ = overwritten_rows(k_);
  scattered_ = scattered_sum();
  if (scattered_) sum_then_rest(*scattered_);
  else block(k_.phases[0].body);
}

void Emitter::axis_base(AxisId a) {
  const Spread& s = k_.axes[static_cast<size_t>(a)].spread;
  const Place& p = place(a);
  if (s.warps > 1) line(fmt::format("const int w{} = (tid >> {} & {}) * {};", a, 5 + s.warps_at, s.warps - 1, p.registers * p.threads));
  if (!p.base.empty()) line(fmt::format("const int t{} = (tid >> {} & {}) * {}{};", a, s.threads_at, s.threads - 1, s.vector, s.warps > 1 ? fmt::format(" + w{}", a) : ""));
}

void Emitter::open(const std::string& head) {
  line(head + " {");
  indent_ += "  ";
}
void Emitter::close() {
  indent_.resize(indent_.size() - 2);
  line("}");
}

// --- places and coordinates ---

constexpr int64_t kMost = int64_t{1} << 30;   // of what is computed in 32 bits
static bool is_large(const Index& e, int64_t stride) { return std::max(std::abs(e.low()), std::abs(e.high())) >= kMost / std::max<int64_t>(stride, 1); }

// Coordinates and indices fit 32 bits unless an axis or an index is huge.
bool Emitter::wide_index() const {
  for (const Axis& a : k_.axes)
    if (a.extent + a.tile >= kMost) return true;
  if (phase_) return false;
  const Facts facts(k_);
  return std::any_of(facts.loads.begin(), facts.loads.end(), [](const Load* l) { return std::any_of(l->index.begin(), l->index.end(), [](const BoxIndex& b) { return b.gather < 0 && is_large(b.index, 1); }); });
}

// Positions in a buffer do unless it is huge, or a load reaches far out of it.
bool Emitter::is_wide(BufferId b, const std::vector<BoxIndex>& box) const {
  const Shape strides = buffer(b).strides();
  bool wide = count(buffer(b).layout()) >= kMost;
  for (size_t d = 0; d < box.size(); ++d) wide = wide || (box[d].gather < 0 && is_large(box[d].index, strides[d]));
  return wide;
}

int64_t Emitter::registers(const std::vector<AxisId>& axes, const Places& places) {
  int64_t n = 1;
  for (AxisId a : axes) n *= places[static_cast<size_t>(a)].registers;
  return n;
}

std::string Emitter::define(ValueId v, const Places& places, const std::string& prefix) {
  names_[v] = fmt::format("{}{}", prefix, v);
  line(fmt::format("{} {}[{}];", register_type(value(v).dtype), names_[v], registers(value(v).axes, places)));
  return names_[v];
}

std::string Emitter::at(ValueId v, const Registers& r, const Places& places) const {
  if (fragments_.count(v)) return fragment_at(v, r);
  if (in_slots_.count(v)) {
    const AxisId a = value(v).axes[0];
    return fmt::format("{}[{} + {}]", name(v), place(a).base, local(place(a), r.at(a)));
  }
  std::string index;
  for (AxisId a : value(v).axes) {
    const int64_t n = places[static_cast<size_t>(a)].registers;
    if (n == 1) continue;
    const auto it = r.find(a);
    QN_CHECK(it != r.end(), "a register is chosen for every axis");
    index = index.empty() ? it->second : fmt::format("({}) * {} + {}", index, n, it->second);
  }
  return fmt::format("{}[{}]", name(v), index.empty() ? "0" : index);
}

std::string Emitter::local(const Place& p, const std::string& reg) {
  if (p.registers == 1) return "";
  if (p.vector == p.registers) return reg;
  if (p.vector == 1) return fmt::format("({}) * {}", reg, p.threads);
  return fmt::format("(({0}) / {1} * {2} + ({0}) % {1})", reg, p.vector, p.threads * p.vector);
}

std::string Emitter::coordinate(AxisId a, const Registers& r, const Places& places) const {
  const Place& p = places[static_cast<size_t>(a)];
  std::string out = p.start;
  if (!p.base.empty()) out += " + " + p.base;
  const auto it = r.find(a);
  const std::string in_tile = it == r.end() ? "" : local(p, it->second);
  QN_CHECK(p.registers == 1 || it != r.end(), "a register is chosen for every axis");
  if (!in_tile.empty()) out += " + " + in_tile;
  return out == p.start ? out : "(" + out + ")";
}

std::string Emitter::index(const Index& e, const Registers& r, const Places& places) const {
  switch (e.kind()) {
    case Index::Kind::constant: return fmt::format("{}", e.value());
    case Index::Kind::axis: return coordinate(static_cast<AxisId>(e.value()), r, places);
    case Index::Kind::add: return fmt::format("({} + {})", index(e.left(), r, places), index(e.right(), r, places));
    case Index::Kind::mul: return fmt::format("{} * {}", index(e.left(), r, places), e.value());
    default: break;
  }
  const bool div = e.kind() == Index::Kind::div;
  const std::string left = index(e.left(), r, places);
  if (e.left().low() >= 0) return fmt::format("(({}) {} {})", left, div ? "/" : "%", e.value());
  return fmt::format("(ix){}({}, {})", div ? "qn_floor_div" : "qn_floor_mod", left, e.value());
}

void Emitter::over(const std::vector<AxisId>& axes, const Places& places, AxisId stepped, Registers& r, const std::function<void()>& body) {
  int loops = 0;
  for (AxisId a : axes) {
    const Place& p = places[static_cast<size_t>(a)];
    const int64_t step = a == stepped ? p.vector : 1;
    if (p.registers == step) {
      r[a] = "0";
      continue;
    }
    r[a] = fmt::format("r{}", a);
    line("#pragma unroll");
    open(fmt::format("for (int r{0} = 0; r{0} < {1}; r{0} += {2})", a, p.registers, step));
    ++loops;
  }
  body();
  while (loops--) close();
}

// A vector's elements are all inside or all outside: its first one is asked, so that the compiler sees one question.
std::string Emitter::inside(const std::vector<AxisId>& axes, const Registers& r, const Places& places) const {
  std::string out;
  for (AxisId a : axes) {
    const Place& p = places[static_cast<size_t>(a)];
    if (!p.masked) continue;
    Registers first = r;
    if (const auto it = first.find(a); it != first.end() && p.vector > 1 && !p.symbolic && p.extent % p.vector == 0) it->second = fmt::format("(({0}) - ({0}) % {1})", it->second, p.vector);
    out += fmt::format("{}{} < {}", out.empty() ? "" : " && ", coordinate(a, first, places), p.limit);
  }
  return out;
}

static std::string both(const std::string& a, const std::string& b) { return a.empty() ? b : b.empty() ? a : a + " && " + b; }

// --- memory ---

Emitter::Spot Emitter::spot(BufferId b, const std::vector<BoxIndex>& box, const std::vector<AxisId>& axes, const Registers& r, const Places& places) const {
  const Shape strides = buffer(b).strides();
  Spot s{"", inside(axes, r, places)};
  const char* const wide = is_wide(b, box) ? "(i64)" : "";
  for (size_t d = 0; d < box.size(); ++d) {
    const bool gathered = box[d].gather >= 0;
    const std::string i = gathered ? "(i64)" + at(box[d].gather, r, places) : index(box[d].index, r, places);
    if (gathered || box[d].index.low() < 0 || box[d].index.high() >= buffer(b).shape[d])
      s.condition = both(s.condition, fmt::format("(u64)(i64)({}) < {}ull", i, buffer(b).shape[d]));
    if (!gathered && box[d].index.is_constant() && box[d].index.value() == 0) continue;
    s.position += fmt::format("{}{}{}{}", s.position.empty() ? "" : " + ", gathered ? "" : wide, i, strides[d] == 1 ? "" : fmt::format(" * {}", strides[d]));
  }
  if (s.position.empty()) s.position = "0";
  return s;
}

// A number that divides the index wherever a tile's vectors start; 0: all numbers do.
int64_t Emitter::factor(const Index& e, AxisId vector, int64_t elements) const {
  switch (e.kind()) {
    case Index::Kind::constant: return std::abs(e.value());
    case Index::Kind::axis: return static_cast<AxisId>(e.value()) == vector ? elements : 1;
    case Index::Kind::add: return std::gcd(factor(e.left(), vector, elements), factor(e.right(), vector, elements));
    case Index::Kind::mul: return factor(e.left(), vector, elements) * std::abs(e.value());
    case Index::Kind::mod: return std::gcd(factor(e.left(), vector, elements), e.value());
    case Index::Kind::div: {
      const int64_t f = factor(e.left(), vector, elements);
      return f % e.value() == 0 ? f / e.value() : 1;
    }
  }
  return 1;
}

int64_t Emitter::bits(const std::vector<AxisId>& axes) const {
  int64_t out = 0;
  for (AxisId a : axes) {
    const Spread& s = k_.axes[static_cast<size_t>(a)].spread;
    out |= (s.threads - 1) << s.threads_at | (s.warps - 1) << (5 + s.warps_at);
    if (const auto it = scattered_bits_.find(a); it != scattered_bits_.end()) out |= it->second;
  }
  return out;
}

std::string Emitter::owner(const std::vector<AxisId>& axes) const {
  const int64_t copies = (threads_ - 1) & ~bits(axes);
  return copies ? fmt::format("(tid & {}) == 0", copies) : "";
}

// --- statements ---

void Emitter::block(const Block& stmts) {
  for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
}

bool Emitter::is_read(BufferId b) const {
  const Facts facts(k_);
  return std::count(overwritten_.outputs.begin(), overwritten_.outputs.end(), b) || std::any_of(facts.loads.begin(), facts.loads.end(), [&](const Load* l) { return l->buffer == b; });
}

void Emitter::load(const Load& l, const Places& places, const std::string& prefix) {
  if (l.early) return take_early(l);
  const Buffer& b = buffer(l.buffer);
  const std::vector<AxisId>& axes = value(l.out).axes;
  if (b.kind == BufferKind::out && !is_own(l.buffer)) line(sync_);   // another thread may have stored it
  const AxisId vector = vector_axis(l.buffer, l.index, axes, places, &l);
  define(l.out, places, prefix);
  read(l, places, vector);
  if (l.ahead && vector >= 0) ask_ahead(l, places, vector);
}

void Emitter::read(const Load& l, const Places& places, AxisId vector) {
  const Buffer& b = buffer(l.buffer);
  const std::vector<AxisId>& axes = value(l.out).axes;
  Registers r;
  over(axes, places, vector, r, [&] {
    const Spot s = spot(l.buffer, l.index, axes, r, places);
    if (vector < 0) {
      const std::string x = from_memory(b.dtype, fmt::format("p{}[{}]", l.buffer, s.position));
      line(fmt::format("{} = {};", at(l.out, r, places), s.condition.empty() ? x : fmt::format("({}) ? {} : ({})0", s.condition, x, register_type(b.dtype))));
      return;
    }
    const int64_t n = places[static_cast<size_t>(vector)].vector;
    const bool halves = b.dtype == DType::bf16;   // two in a word
    open("");
    line(fmt::format("__align__(16) {} q[{}];", halves ? "u32" : memory_type(b.dtype), halves ? n / 2 : n));
    if (!s.condition.empty()) line(fmt::format("qn_clear(q); if ({})", s.condition));
    line(fmt::format("qn_read{}(q, {}(p{} + ({})));", is_again(l) ? "_again" : "", halves ? "(const u32*)" : "", l.buffer, s.position));
    line("#pragma unroll");
    open(fmt::format("for (int x = 0; x < {}; ++x)", n));
    Registers element = r;
    element[vector] = r[vector] == "0" ? "x" : r[vector] + " + x";
    line(fmt::format("{} = {};", at(l.out, element, places), halves ? "qn_half_bf16(q, x)" : from_memory(b.dtype, "q[x]")));
    close();
    close();
  });
}

void Emitter::statement(const Store& s) {
  const Buffer& b = buffer(s.buffer);
  std::set<int> used;
  for (const BoxIndex& e : s.index) {
    if (e.gather >= 0) used.insert(value(e.gather).axes.begin(), value(e.gather).axes.end());
    else e.index.collect_axes(used);
  }
  const std::vector<AxisId> axes(used.begin(), used.end());
  const std::string writer = owner(axes);
  // A buffer may be overwritten in place: every thread with a copy must have read it.
  if ((!writer.empty() && !role_ && (repeats_ == 0 || is_read(s.buffer))) || std::count(overwritten_.stores.begin(), overwritten_.stores.end(), &s)) line(sync_);
  const AxisId vector = vector_axis(s.buffer, s.index, axes, places_);
  Registers r;
  over(axes, places_, vector, r, [&] {
    const Spot at_spot = spot(s.buffer, s.index, axes, r, places_);
    const std::string condition = both(writer, at_spot.condition);
    if (!condition.empty()) line(fmt::format("if ({})", condition));
    if (vector < 0) {
      line(fmt::format("p{}[{}] = {};", s.buffer, at_spot.position, to_memory(b.dtype, at(s.value, r, places_))));
      return;
    }
    const int64_t n = place(vector).vector;
    open("");
    line(fmt::format("__align__(16) {} q[{}];", memory_type(b.dtype), n));
    line("#pragma unroll");
    Registers element = r;
    element[vector] = r[vector] == "0" ? "x" : r[vector] + " + x";
    if (b.dtype == DType::bf16) {   // two at a time
      Registers next = r;
      next[vector] = element[vector] + " + 1";
      line(fmt::format("for (int x = 0; x < {}; x += 2) qn_put_bf16(q + x, {}, {});", n, at(s.value, element, places_), at(s.value, next, places_)));
    } else {
      line(fmt::format("for (int x = 0; x < {}; ++x) q[x] = {};", n, to_memory(b.dtype, at(s.value, element, places_))));
    }
    line(fmt::format("qn_write(p{} + ({}), q);", s.buffer, at_spot.position));
    close();
  });
}

// Divisions of many elements by one are products with its reciprocal; where one of them may round otherwise, all are made again.
void Emitter::map_elements(const MapTile& m, const Places& places) {
  std::map<size_t, std::string> inverses;   // by the divisor's node
  for (const ScalarNode& n : m.expr) {
    if (role_ || products_ || m.fast) break;   // sums of products leave few registers
    if (n.kind != ScalarNode::Kind::op || n.op != Op::div || n.dtype != DType::f32 || registers(value(m.out).axes, places) < kManyDivisions) continue;
    const ScalarNode& by = m.expr[static_cast<size_t>(n.args[1])];
    const ValueId v = by.kind == ScalarNode::Kind::operand ? m.args[static_cast<size_t>(by.operand)] : -1;
    if (v < 0 || registers(value(v).axes, places) > 1) continue;
    if (inverses.empty()) line(fmt::format("bool rare{} = false;", m.out));
    const std::string y = at(v, {}, places), inverse = fmt::format("inverse{}_{}", m.out, n.args[1]);
    if (inverses.emplace(static_cast<size_t>(n.args[1]), inverse).second) line(fmt::format("const float {} = __frcp_rn({}); rare{} |= qn_is_rare({}, 0x1p-20f, 0x1p20f);", inverse, y, m.out, y));
  }
  elements(m, places, inverses);
  if (inverses.empty()) return;
  open(fmt::format("if (rare{})", m.out));
  elements(m, places, {});
  close();
}

void Emitter::elements(const MapTile& m, const Places& places, const std::map<size_t, std::string>& inverses) {
  Registers r;
  over(value(m.out).axes, places, -1, r, [&] {
    std::vector<std::string> names;
    open("");
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      std::vector<std::string> args;
      for (int a : n.args) args.push_back(names[static_cast<size_t>(a)]);
      std::string text;
      switch (n.kind) {
        case ScalarNode::Kind::constant: names.push_back(constant(n.constant)); continue;
        case ScalarNode::Kind::operand: names.push_back(at(m.args[static_cast<size_t>(n.operand)], r, places)); continue;
        case ScalarNode::Kind::symbol: text = fmt::format("(i64)({} * size)", n.constant.i); break;
        case ScalarNode::Kind::coord: text = fmt::format("(i64)({})", index(n.coord, r, places)); break;
        case ScalarNode::Kind::random: text = fmt::format("qn_philox({}, {}u, (u64)({}))", args[0], n.operand, index(n.coord, r, places)); break;
        case ScalarNode::Kind::op: {
          const auto by = n.op == Op::div && n.dtype == DType::f32 ? inverses.find(static_cast<size_t>(n.args[1])) : inverses.end();
          if (i + 1 == m.expr.size() && is_put_alone(m)) text = args[0];
          else if (m.fast) text = fast(m, i, names);
          else if (by != inverses.end()) text = fmt::format("qn_div_by({}, {}, {}, rare{})", args[0], args[1], by->second, m.out);
          if (text.empty()) text = apply(n.op, n.dtype, m.expr[static_cast<size_t>(n.args[n.op == Op::select ? 1 : 0])].dtype, args);
          break;
        }
      }
      names.push_back(fmt::format("x{}", i));
      line(fmt::format("const {} x{} = {};", register_type(n.dtype), i, text));
    }
    line(fmt::format("{} = {};", at(m.out, r, places), names.back()));
    close();
  });
}

void Emitter::reduce(const ReduceTile& reduce) {
  const DType dtype = value(reduce.out).dtype;
  const std::string identity = constant(identity_of(reduce.combine, dtype));
  define(reduce.out, places_);
  Registers r;
  over(value(reduce.out).axes, places_, -1, r, [&] { line(fmt::format("{} = {};", at(reduce.out, r, places_), identity)); });
  over(value(reduce.arg).axes, places_, -1, r, [&] {
    const std::string sum = at(reduce.out, r, places_), condition = inside(reduce.axes, r, places_), x = at(reduce.arg, r, places_);
    line(fmt::format("{} = {};", sum, apply(reduce.combine, dtype, dtype, {sum, condition.empty() ? x : fmt::format("({} ? {} : {})", condition, x, identity)})));
  });
  if (!partial_.count(reduce.out)) across(reduce.out, reduce.combine, bits(reduce.axes));
}

const Seq* Emitter::scattered_sum() const {
  const Seq* found = nullptr;
  for (const Stmt& s : k_.phases[0].body) {
    if (std::holds_alternative<Each>(s.node)) return nullptr;
    if (const auto* q = std::get_if<Seq>(&s.node)) {
      if (found || q->carries.size() != 1) return nullptr;
      found = q;
    }
  }
  if (!found || (!is_staged(*found) && deferred(*found).empty())) return nullptr;
  return bits(found->axes) >> 5 && registers(value(found->outs[0]).axes, places_) > 1 ? found : nullptr;
}

// First the loop, with what it needs in the places of before; then everything else where the sum has come to lie.
void Emitter::sum_then_rest(const Seq& q) {
  if (!is_staged(q)) {
    std::vector<const Stmt*> needed;
    for (const Stmt& s : k_.phases[0].body) {
      const auto* l = std::get_if<Load>(&s.node);
      const auto* m = std::get_if<MapTile>(&s.node);
      const ValueId out = l ? l->out : m ? m->out : -1;
      if (out >= 0 && uses(q.body, out)) collect(out, {}, needed);
    }
    for (const Stmt* s : needed) {
      if (const auto* l = std::get_if<Load>(&s->node)) load(*l, places_, "f");
      else map(std::get<MapTile>(s->node), places_, "f");
    }
  }
  statement(q);
  for (const Stmt& s : k_.phases[0].body)
    if (!std::holds_alternative<Seq>(s.node)) std::visit([this](const auto& node) { statement(node); }, s.node);
}

// Both operands from registers; the summed axis may lie across threads.
void Emitter::statement(const Mma& m) {
  if (m.issued) return issue(m);
  const int64_t spread = bits(m.axes);
  const bool own_sum = spread && !partial_.count(m.out);   // summed over threads here, then added
  define(m.out, places_);
  Registers r;
  over(value(m.out).axes, places_, -1, r, [&] { line(fmt::format("{} = {};", at(m.out, r, places_), own_sum ? "0" : at(m.acc, r, places_))); });
  over(m.axes, places_, -1, r, [&] {
    const std::string condition = inside(m.axes, r, places_);
    if (!condition.empty()) open(fmt::format("if ({})", condition));
    over(value(m.out).axes, places_, -1, r, [&] {
      const std::string sum = at(m.out, r, places_);
      line(fmt::format("{} = qn_fma({}, {}, {});", sum, at(m.a, r, places_), at(m.b, r, places_), sum));
    });
    if (!condition.empty()) close();
  });
  if (!own_sum) return;
  across(m.out, Op::add, spread);
  over(value(m.out).axes, places_, -1, r, [&] { line(fmt::format("{} += {};", at(m.out, r, places_), at(m.acc, r, places_))); });
}

// A carry that only collects a reduction or a product may stay per thread until the end:
//   %p = reduce<op> (…)  %y = map(op(a0, a1)) (%c, %p)  yield %y      %y = mma (%c, …)  yield %y
std::map<size_t, Op> Emitter::deferred(const Seq& q) const {
  std::map<size_t, Op> out;
  if (!bits(q.axes)) return out;
  for (size_t i = 0; i < q.carries.size(); ++i) {
    const ValueId c = q.carries[i].var, y = q.yields[i];
    if (uses(q.body, c) != 1 || uses(q.body, y) != 0 || std::count(q.yields.begin(), q.yields.end(), y) != 1) continue;
    for (const Stmt& s : q.body) {
      if (const auto* m = std::get_if<Mma>(&s.node); m && m->out == y && m->acc == c && q.carries[i].init == identity_of(Op::add, value(c).dtype)) out[i] = Op::add;
      const auto* map = std::get_if<MapTile>(&s.node);
      if (!map || map->out != y) continue;
      for (const Stmt& t : q.body)
        if (const auto* r = std::get_if<ReduceTile>(&t.node); r && is_op(*map, r->combine, c, r->out) && uses(q.body, r->out) == 1 &&
                                                              q.carries[i].init == identity_of(r->combine, value(c).dtype))
          out[i] = r->combine;
    }
  }
  return out;
}

void Emitter::loops(const std::vector<AxisId>& axes, const std::function<void()>& body) {
  if (phase_) return role_loops(axes, false, body);
  for (AxisId a : axes) QN_CHECK(!k_.axes[static_cast<size_t>(a)].from && !k_.axes[static_cast<size_t>(a)].to, "bounded axes are the CPU's, and of roles");
  const bool repeats = std::any_of(axes.begin(), axes.end(), [&](AxisId a) { return place(a).extent > place(a).tile; });
  repeats_ += repeats;
  // The last tile of many is by itself: the others ask for no end.
  Place* const only = axes.size() == 1 ? &places_[static_cast<size_t>(axes[0])] : nullptr;
  const bool alone = only && !role_ && only->masked && !only->symbolic && only->vector > 1 && only->extent > kManySteps * only->tile && k_.axes[static_cast<size_t>(axes[0])].within < 0 &&
                     std::none_of(k_.axes.begin(), k_.axes.end(), [&](const Axis& a) { return a.within == axes[0]; });
  if (alone) {
    const int64_t whole = only->extent / only->tile * only->tile;
    only->masked = false;
    open(fmt::format("for (ix {0} = 0; {0} < {1}; {0} += {2})", only->start, whole, only->tile));
    body();
    close();
    only->masked = true;
    open("");
    line(fmt::format("const ix {} = {};", only->start, whole));
    body();
    close();
  } else {
    for (AxisId a : axes) open(fmt::format("for (ix {0} = 0; {0} < {1}; {0} += {2})", place(a).start, place(a).limit, place(a).tile));
    body();
    for (size_t i = 0; i < axes.size(); ++i) close();
  }
  repeats_ -= repeats;
}

void Emitter::statement(const Seq& q) {
  if (role_) return role_seq(q);
  meet_before(q.body);
  if (is_staged(q)) return staged(q);
  if (walk_own_steps(q) || walk_ahead(q)) return;
  const std::map<size_t, Op> later = deferred(q);
  for (const auto& [i, op] : later)
    for (const Stmt& s : q.body) {
      if (const auto* m = std::get_if<Mma>(&s.node); m && m->out == q.yields[i]) partial_[m->out] = true;
      if (const auto* map = std::get_if<MapTile>(&s.node); map && map->out == q.yields[i]) partial_[map->args[static_cast<size_t>(map->expr[1].operand)]] = true;
    }
  for (const Carry& c : q.carries) {
    define(c.var, places_);
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {};", registers(value(c.var).axes, places_), name(c.var), constant(c.init)));
  }
  const AxisId outer = std::exchange(loop_, q.axes.size() == 1 ? q.axes[0] : -1);
  loops(q.axes, [&] {
    block(q.body);
    for (size_t i = 0; i < q.carries.size(); ++i) {
      line("#pragma unroll");
      line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {}[r];", registers(value(q.carries[i].var).axes, places_), name(q.carries[i].var), name(q.yields[i])));
    }
  });
  loop_ = outer;
  for (size_t i = 0; i < q.outs.size(); ++i) names_[q.outs[i]] = name(q.carries[i].var);
  for (const auto& [i, op] : later) across(q.outs[i], op, bits(q.axes), &q == scattered_ ? Result::scattered : Result::everywhere);
}

void Emitter::statement(const Each& e) {
  if (role_) return role_each(e.axes, e.body);
  meet_before(e.body);
  const auto* l = e.body.size() == 2 ? std::get_if<Load>(&e.body[0].node) : nullptr;
  const auto* s = l ? std::get_if<Store>(&e.body[1].node) : nullptr;
  if (s && s->value == l->out && buffer(s->buffer).kind == BufferKind::scratch) return to_shared(e.axes, *l, *s);
  loops(e.axes, [&] { block(e.body); });
}

}  // namespace quern::cuda
