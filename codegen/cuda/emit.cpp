// Planned Tile IR → CUDA C++. Each axis has its place in the block (emitter.h); a statement becomes unrolled loops over
// a thread's registers. Only generated identifiers reach the source: i, t and w with the axis, p with the buffer, v and
// f with the tile.
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "passes/tile/facts.h"

namespace quern::cuda {

using namespace tile;

namespace {

constexpr int64_t kExchangeBytes = 32 << 10, kScatterBytes = 64 << 10;   // of shared memory for sums over warps

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
  QN_CHECK(k_.phases.size() == 1, "a CUDA kernel has one phase");
  std::string params;
  for (size_t b = 0; b < k_.buffers.size(); ++b) {
    QN_CHECK(k_.buffers[b].kind != BufferKind::scratch, "a CUDA kernel has no scratch");
    // Inputs and outputs may share memory (states in place): no __restrict__.
    params += fmt::format("{}{}{}* p{}", b ? ", " : "", k_.buffers[b].kind == BufferKind::in ? "const " : "", memory_type(k_.buffers[b].dtype), b);
  }
  params += ", const i64 size";
  const bool roles = !k_.phases[0].roles.empty();   // whose instances are counted by the blocks
  if (std::any_of(places_.begin(), places_.end(), [](const Place& p) { return p.symbolic; }) || (roles && std::any_of(k_.axes.begin(), k_.axes.end(), [](const Axis& a) { return a.symbol > 0; })))
    line("const ix n = (ix)size;");
  if (roles) return run_roles(name, params);
  std::string rest = "blockIdx.x";
  const std::vector<AxisId>& grid = k_.phases[0].grid;
  for (size_t d = grid.size(); d-- > 0;) {
    const Place& p = place(grid[d]);
    const int64_t tiles = ceil_div(p.extent, p.tile);
    line(fmt::format("const ix {} = (ix)({}) * {};", p.start, d == 0 ? rest : fmt::format("{} % {}u", rest, tiles), p.tile));
    if (d > 0) rest = fmt::format("({} / {}u)", rest, tiles);
  }
  for (size_t a = 0; a < k_.axes.size(); ++a) axis_base(static_cast<AxisId>(a));
  scattered_ = scattered_sum();
  if (scattered_) sum_then_rest(*scattered_);
  else block(k_.phases[0].body);
  std::string head = fmt::format("typedef {} ix;\nextern \"C\" __global__ void __launch_bounds__({}) {}({}) {{\n", wide_index() ? "i64" : "int", threads_, name, params);
  if (shared_bytes_ > 0) head += "  extern __shared__ __align__(16) u8 shared[];\n";
  return head + "  const int tid = threadIdx.x;\n" + out_ + "}\n";
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

// Positions and indices fit 32 bits unless a buffer or an index is huge.
bool Emitter::wide_index() const {
  constexpr int64_t kMost = int64_t{1} << 30;
  const auto large = [](const Index& e, int64_t stride) { return std::max(std::abs(e.low()), std::abs(e.high())) >= kMost / std::max<int64_t>(stride, 1); };
  for (const Axis& a : k_.axes)
    if (a.extent + a.tile >= kMost) return true;
  if (phase_) return std::any_of(k_.buffers.begin(), k_.buffers.end(), [](const Buffer& b) { return count(b.layout()) >= kMost; });
  const Facts facts(k_);
  for (const Load* l : facts.loads) {
    const Shape strides = buffer(l->buffer).strides();
    if (count(buffer(l->buffer).layout()) >= kMost) return true;
    for (size_t d = 0; d < l->index.size(); ++d)
      if (l->index[d].gather < 0 && large(l->index[d].index, strides[d])) return true;
  }
  for (const Store* s : facts.stores)
    if (count(buffer(s->buffer).layout()) >= kMost) return true;
  return false;
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

std::string Emitter::inside(const std::vector<AxisId>& axes, const Registers& r, const Places& places) const {
  std::string out;
  for (AxisId a : axes)
    if (places[static_cast<size_t>(a)].masked) out += fmt::format("{}{} < {}", out.empty() ? "" : " && ", coordinate(a, r, places), places[static_cast<size_t>(a)].limit);
  return out;
}

static std::string both(const std::string& a, const std::string& b) { return a.empty() ? b : b.empty() ? a : a + " && " + b; }

// --- memory ---

Emitter::Spot Emitter::spot(BufferId b, const std::vector<BoxIndex>& box, const std::vector<AxisId>& axes, const Registers& r, const Places& places) const {
  const Shape strides = buffer(b).strides();
  Spot s{"", inside(axes, r, places)};
  for (size_t d = 0; d < box.size(); ++d) {
    const bool gathered = box[d].gather >= 0;
    const std::string i = gathered ? "(i64)" + at(box[d].gather, r, places) : index(box[d].index, r, places);
    if (gathered || box[d].index.low() < 0 || box[d].index.high() >= buffer(b).shape[d])
      s.condition = both(s.condition, fmt::format("(u64)(i64)({}) < {}ull", i, buffer(b).shape[d]));
    if (!gathered && box[d].index.is_constant() && box[d].index.value() == 0) continue;
    s.position += fmt::format("{}{}{}", s.position.empty() ? "" : " + ", i, strides[d] == 1 ? "" : fmt::format(" * {}", strides[d]));
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

// The axis whose vectors are one access each: neighbours in memory, aligned, all inside or all outside.
AxisId Emitter::vector_axis(BufferId b, const std::vector<BoxIndex>& box, const std::vector<AxisId>& axes, const Places& places) const {
  const Shape strides = buffer(b).strides();
  for (AxisId a : axes) {
    const Place& p = places[static_cast<size_t>(a)];
    if (p.vector == 1 || p.symbolic || p.extent % p.vector != 0) continue;
    int64_t step = 0, common = 0;
    bool legal = true;
    for (size_t d = 0; d < box.size() && legal; ++d) {
      if (box[d].gather >= 0) {
        legal = !std::count(value(box[d].gather).axes.begin(), value(box[d].gather).axes.end(), a);
        common = std::gcd(common, strides[d]);
        continue;
      }
      const Index& e = box[d].index;
      const auto s = e.stride(a);
      legal = s.has_value() && !(*s != 0 && (e.low() < 0 || e.high() >= buffer(b).shape[d]));
      if (s) step += *s * strides[d];
      common = std::gcd(common, factor(e, a, p.vector) * strides[d]);
    }
    if (legal && step == 1 && common % p.vector == 0) return a;
  }
  return -1;
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

void Emitter::load(const Load& l, const Places& places, const std::string& prefix) {
  const Buffer& b = buffer(l.buffer);
  const std::vector<AxisId>& axes = value(l.out).axes;
  const AxisId vector = vector_axis(l.buffer, l.index, axes, places);
  define(l.out, places, prefix);
  Registers r;
  over(axes, places, vector, r, [&] {
    const Spot s = spot(l.buffer, l.index, axes, r, places);
    if (vector < 0) {
      const std::string x = from_memory(b.dtype, fmt::format("p{}[{}]", l.buffer, s.position));
      line(fmt::format("{} = {};", at(l.out, r, places), s.condition.empty() ? x : fmt::format("({}) ? {} : ({})0", s.condition, x, register_type(b.dtype))));
      return;
    }
    const int64_t n = places[static_cast<size_t>(vector)].vector;
    open("");
    line(fmt::format("__align__(16) {} q[{}];", memory_type(b.dtype), n));
    if (!s.condition.empty()) line(fmt::format("qn_clear(q); if ({})", s.condition));
    line(fmt::format("qn_read(q, p{} + ({}));", l.buffer, s.position));
    line("#pragma unroll");
    open(fmt::format("for (int x = 0; x < {}; ++x)", n));
    Registers element = r;
    element[vector] = r[vector] == "0" ? "x" : r[vector] + " + x";
    line(fmt::format("{} = {};", at(l.out, element, places), from_memory(b.dtype, "q[x]")));
    close();
    close();
  });
}

void Emitter::statement(const Store& s) {
  const Buffer& b = buffer(s.buffer);
  std::set<int> used;
  for (const BoxIndex& e : s.index) {
    QN_CHECK(e.gather < 0, "a GPU's updates are lowered side by side");
    e.index.collect_axes(used);
  }
  const std::vector<AxisId> axes(used.begin(), used.end());
  const std::string writer = owner(axes);
  // A buffer may be overwritten in place: every thread with a copy must have read it.
  if (!writer.empty() && indent_.size() == 2) line("__syncthreads();");
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
    line(fmt::format("for (int x = 0; x < {}; ++x) q[x] = {};", n, to_memory(b.dtype, at(s.value, element, places_))));
    line(fmt::format("qn_write(p{} + ({}), q);", s.buffer, at_spot.position));
    close();
  });
}

void Emitter::map_elements(const MapTile& m, const Places& places) {
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
        case ScalarNode::Kind::op:
          if (m.fast) text = fast(m, i, names);
          if (text.empty()) text = apply(n.op, n.dtype, m.expr[static_cast<size_t>(n.args[n.op == Op::select ? 1 : 0])].dtype, args);
          break;
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

void Emitter::across(ValueId v, Op combine, int64_t bits, Result result) {
  const DType dtype = value(v).dtype;
  const int64_t n = registers(value(v).axes, places_);
  const std::string x = name(v), type = register_type(dtype), carrier = !is_float(dtype) && size_of(dtype) < 4 ? "int" : type;
  for (int64_t b = 1; b < 32; b *= 2) {
    if (!(bits & b)) continue;
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {};", n, x,
                     apply(combine, dtype, dtype, {x + "[r]", fmt::format("({})__shfl_xor_sync(~0u, ({}){}[r], {})", type, carrier, x, b)})));
  }
  const int64_t warps = bits >> 5;
  if (!warps) return;
  const int64_t low = warps & -warps, copies = warps / low + 1;
  QN_CHECK((copies & (copies - 1)) == 0, "a sum over warps lies along neighbouring bits");
  const int64_t each = threads_ * static_cast<int64_t>(std::max<int64_t>(4, size_of(dtype)));
  const bool scattered = result == Result::scattered && n * each <= kScatterBytes;
  const int64_t chunk = scattered ? n : std::clamp<int64_t>(kExchangeBytes / each, 1, n);
  shared_bytes_ = std::max(shared_bytes_, chunk * each);
  const auto sum = [&](const std::string& target, const std::string& reg) {
    open("");
    line(fmt::format("{} s = e{}[({}) * {} + (tid & ~{})];", type, v, reg, threads_, warps << 5));
    line("#pragma unroll");
    line(fmt::format("for (int w = 1; w < {}; ++w) s = {};", copies, apply(combine, dtype, dtype, {"s", fmt::format("e{}[({}) * {} + (tid & ~{} | w * {})]", v, reg, threads_, warps << 5, low << 5)})));
    line(fmt::format("{} = s;", target));
    close();
  };
  line(fmt::format("{0}* const e{1} = ({0}*)shared;", type, v));
  for (int64_t from = 0; from < n; from += chunk) {
    const int64_t here = std::min(chunk, n - from);
    line("__syncthreads();");
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; ++r) e{}[r * {} + tid] = {}[r + {}];", here, v, threads_, x, from));
    line("__syncthreads();");
    if (scattered) break;
    line("#pragma unroll");
    open(fmt::format("for (int r = 0; r < {}; ++r)", here));
    sum(fmt::format("{}[r + {}]", x, from), "r");
    close();
  }
  if (!scattered) return;
  // What this thread keeps: register r of the new places is register `old` of the former ones.
  const Places before = places_;
  scatter(v, warps);
  line(fmt::format("{} s{}[{}];", type, x, registers(value(v).axes, places_)));
  names_[v] = "s" + x;
  Registers r;
  over(value(v).axes, places_, -1, r, [&] {
    Registers old;
    for (AxisId a : value(v).axes) old[a] = places_[static_cast<size_t>(a)].registers == before[static_cast<size_t>(a)].registers ? r[a] : fmt::format("(h{} + {})", a, r[a]);
    const std::string spelled = at(v, old, before);
    sum(at(v, r, places_), spelled.substr(spelled.find('[') + 1, spelled.rfind(']') - spelled.find('[') - 1));
  });
}

// Gives each of the warps (bits) that summed `v` a share of its registers: whole vectors first, then parts of them.
void Emitter::scatter(ValueId v, int64_t warps) {
  const int64_t low = warps & -warps;
  int64_t copies = warps / low + 1, bit = low << 5;
  std::map<AxisId, int64_t> parts;
  for (const bool whole : {true, false})
    for (AxisId a : value(v).axes) {
      const Place& p = place(a);
      const int64_t have = p.registers / parts.emplace(a, 1).first->second;
      const int64_t take = std::min(copies, whole ? std::max<int64_t>(have / p.vector, 1) : have);
      parts[a] *= take;
      copies /= take;
    }
  for (const auto& [a, n] : parts) {
    if (n == 1) continue;
    Place& p = places_[static_cast<size_t>(a)];
    const int64_t kept = p.registers / n;
    line(fmt::format("const int h{} = (tid / {} % {}) * {};", a, bit, n, kept));
    const std::string moved = local(p, fmt::format("h{}", a));
    line(fmt::format("const int u{} = {} + {};", a, p.base.empty() ? "0" : p.base, moved));
    p.base = fmt::format("u{}", a);
    p.registers = kept;
    p.vector = std::min(p.vector, kept);
    scattered_bits_[a] = (n - 1) * bit;
    bit *= n;
  }
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
  for (AxisId a : axes) open(fmt::format("for (ix {0} = 0; {0} < {1}; {0} += {2})", place(a).start, place(a).limit, place(a).tile));
  body();
  for (size_t i = 0; i < axes.size(); ++i) close();
}

void Emitter::statement(const Seq& q) {
  if (role_) return role_seq(q);
  if (is_staged(q)) return staged(q);
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
  loops(q.axes, [&] {
    block(q.body);
    for (size_t i = 0; i < q.carries.size(); ++i) {
      line("#pragma unroll");
      line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {}[r];", registers(value(q.carries[i].var).axes, places_), name(q.carries[i].var), name(q.yields[i])));
    }
  });
  for (size_t i = 0; i < q.outs.size(); ++i) names_[q.outs[i]] = name(q.carries[i].var);
  for (const auto& [i, op] : later) across(q.outs[i], op, bits(q.axes), &q == scattered_ ? Result::scattered : Result::everywhere);
}

void Emitter::statement(const Each& e) {
  if (role_) return role_each(e);
  loops(e.axes, [&] { block(e.body); });
}

}  // namespace quern::cuda
