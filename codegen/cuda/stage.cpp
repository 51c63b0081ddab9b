// Staged products: both operands go through shared memory in two stages. While one stage is multiplied the next one is
// on its way in registers:
//   fetch(0);  for each step { put → shared[step % 2];  sync;  fetch(step + 1);  multiply shared[step % 2] }
// An operand is fetched in a layout of its own (16 bytes along what is contiguous in memory), so the statements that
// make it are written again for that layout, prologue maps included; outside the extents it is 0.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "passes/tile/atoms.h"
#include "passes/tile/facts.h"

namespace quern::cuda {

using namespace tile;

struct Emitter::Operand {
  ValueId value;
  AxisId outer, depth;
  std::vector<const Stmt*> definitions;   // in order
  Places places;                          // as it is fetched
  AxisId along = -1, across = -1;         // which of outer and depth is contiguous in memory, and the other
  bool depth_inner = false;               // shared memory is [outer][depth], else [depth][outer]
  AxisId vector = -1;                     // the axis of its 16-byte accesses
  bool rounded = false;                   // to tf32
  std::string letter;                     // of its variables
  DType element;                          // in shared memory
  int64_t pitch = 0, elements = 0, offset = 0;   // row in elements; one stage; bytes from the start of shared memory
  std::string type() const { return memory_type(element); }
  std::string place(const std::string& o, const std::string& d) const {
    return depth_inner ? fmt::format("({}) * {} + {}", o, pitch, d) : fmt::format("({}) * {} + {}", d, pitch, o);
  }
};

static const Mma* product_of(const Block& body) {
  for (const Stmt& s : body)
    if (const auto* m = std::get_if<Mma>(&s.node)) return m;
  return nullptr;
}

bool Emitter::is_staged(const Seq& q) const {
  const Mma* m = product_of(q.body);
  return m && !m->atom.empty();
}

const Stmt* Emitter::definition(ValueId v, const Block& body) const {
  for (const Block* block : {&body, &k_.phases[0].body})
    for (const Stmt& s : *block) {
      if (const auto* l = std::get_if<Load>(&s.node); l && l->out == v) return &s;
      if (const auto* m = std::get_if<MapTile>(&s.node); m && m->out == v) return &s;
    }
  QN_CHECK(false, "the planner stages only operands made of loads and maps");
  return nullptr;
}

Emitter::Operand Emitter::operand(const Mma& m, bool columns, const Seq& q) const {
  // Columns are the axis on the lowest lanes.
  Operand o;
  for (AxisId a : value(m.out).axes) {
    const Spread& s = k_.axes[static_cast<size_t>(a)].spread;
    if (s.threads > 1 && (s.threads_at == 0) == columns) o.outer = a;
  }
  o.depth = m.axes.back();
  for (AxisId a : m.axes)
    if (place(a).tile > 1) o.depth = a;
  const auto has = [&](ValueId v, AxisId a) { return std::count(value(v).axes.begin(), value(v).axes.end(), a) > 0; };
  o.value = has(m.a, o.outer) ? m.a : m.b;
  o.letter = columns ? "b" : "a";

  const std::function<void(ValueId)> collect = [&](ValueId v) {
    const Stmt* s = definition(v, q.body);
    if (std::find(o.definitions.begin(), o.definitions.end(), s) != o.definitions.end()) return;
    if (const auto* l = std::get_if<Load>(&s->node)) {
      for (const BoxIndex& b : l->index)
        if (b.gather >= 0) collect(b.gather);
    } else {
      for (ValueId a : std::get<MapTile>(s->node).args) collect(a);
    }
    o.definitions.push_back(s);
  };
  collect(o.value);

  // What is contiguous in memory gets the vectors and the lowest threads.
  AxisId along = o.depth, across = o.outer;
  int64_t size = size_of(value(o.value).dtype);
  for (const Stmt* s : o.definitions)
    if (const auto* l = std::get_if<Load>(&s->node)) {
      for (AxisId a : {o.depth, o.outer})
        if (has(l->out, a) && step_of(k_, l->buffer, l->index, a) == 1) {
          along = a;
          across = a == o.depth ? o.outer : o.depth;
          size = size_of(buffer(l->buffer).dtype);
        }
    }
  int64_t vector = std::min<int64_t>({16 / std::max<int64_t>(size, 2), 8, place(along).tile});
  while (vector > 1 && place(along).extent % vector != 0) vector /= 2;
  const int64_t along_threads = std::min(threads_, place(along).tile / vector), across_threads = std::min(threads_ / along_threads, place(across).tile);
  o.places = places_;
  const auto lay = [&](AxisId a, int64_t threads, int64_t v, std::string base) {
    Place& p = o.places[static_cast<size_t>(a)];
    p.base = std::move(base);
    p.threads = threads;
    p.vector = v;
    p.registers = p.tile / threads;
  };
  // Threads beyond the tile repeat the work of others.
  lay(along, along_threads, vector, fmt::format("l{}{}", o.letter, along));
  lay(across, across_threads, 1, fmt::format("l{}{}", o.letter, across));
  o.along = along, o.across = across;
  o.vector = vector > 1 ? along : -1;

  const auto atom = find_atom(m.atom, m.precision);
  o.rounded = m.precision == Precision::tf32;
  o.element = atom && m.precision != Precision::tf32 ? value(o.value).dtype : m.precision == Precision::f64 ? DType::f64 : DType::f32;
  o.depth_inner = atom && along == o.depth;
  // Rows are padded so that eight of them, or the lanes of a fragment, meet different banks; 16-byte steps stay aligned.
  const int64_t pad = atom ? (m.precision == Precision::tf32 && o.depth_inner ? 4 : 8) : 16 / size_of(o.element);
  o.pitch = (o.depth_inner ? place(o.depth).tile : place(o.outer).tile) + pad;
  o.elements = o.pitch * (o.depth_inner ? place(o.outer).tile : place(o.depth).tile);
  return o;
}

// Inside the fetch lambda: the operand's tile of this step → the registers r{letter}.
void Emitter::fetch(const Operand& o) {
  const auto names = names_;
  open("");
  for (const Stmt* s : o.definitions) {
    if (const auto* l = std::get_if<Load>(&s->node)) load(*l, o.places, "f");
    else map(std::get<MapTile>(s->node), o.places, "f");
  }
  Registers r;
  const std::vector<AxisId>& axes = value(o.value).axes;
  over(axes, o.places, -1, r, [&] {
    const std::string condition = inside(axes, r, o.places), x = at(o.value, r, o.places);
    const std::string target = "r" + o.letter + x.substr(x.find('['));
    line(fmt::format("{} = {};", target, condition.empty() ? x : fmt::format("({}) ? {} : 0", condition, x)));
  });
  close();
  names_ = names;
}

// Registers → this step's stage in shared memory.
void Emitter::put(const Operand& o) {
  const std::vector<AxisId>& axes = value(o.value).axes;
  const bool whole = o.vector >= 0 && (o.vector == o.depth) == o.depth_inner;
  const auto spelled = [&](const Registers& r) {
    std::string index = "0";
    for (AxisId a : axes)
      if (o.places[static_cast<size_t>(a)].registers > 1) index = fmt::format("({}) * {} + {}", index, o.places[static_cast<size_t>(a)].registers, r.at(a));
    const std::string x = fmt::format("r{}[{}]", o.letter, index);
    return o.rounded ? fmt::format("qn_to_tf32({})", x) : to_memory(o.element, x);
  };
  Registers r;
  over(axes, o.places, whole ? o.vector : -1, r, [&] {
    const auto in_tile = [&](AxisId a) {
      const Place& p = o.places[static_cast<size_t>(a)];
      const std::string l = local(p, r.at(a));
      return l.empty() ? p.base : p.base + " + " + l;
    };
    const std::string position = o.place(in_tile(o.outer), in_tile(o.depth));
    if (!whole) {
      line(fmt::format("s{}[{}] = {};", o.letter, position, spelled(r)));
      return;
    }
    const int64_t n = o.places[static_cast<size_t>(o.vector)].vector;
    open("");
    line(fmt::format("__align__(16) {} q[{}];", o.type(), n));
    line("#pragma unroll");
    Registers element = r;
    element[o.vector] = r[o.vector] == "0" ? "x" : r[o.vector] + " + x";
    line(fmt::format("for (int x = 0; x < {}; ++x) q[x] = {};", n, spelled(element)));
    line(fmt::format("qn_write(s{} + {}, q);", o.letter, position));
    close();
  });
}

void Emitter::staged(const Seq& q) {
  const Mma& m = *product_of(q.body);
  Operand a = operand(m, false, q), b = operand(m, true, q);
  const AxisId depth = a.depth;
  b.offset = round_up(2 * a.elements * size_of(a.element), 16);
  shared_bytes_ = std::max(shared_bytes_, b.offset + 2 * b.elements * size_of(b.element));

  names_[q.outs[0]] = names_[q.carries[0].var] = fmt::format("v{}", q.outs[0]);
  const std::string sum = name(q.outs[0]);
  const int64_t sums = registers(value(m.out).axes, places_);
  line(fmt::format("{} {}[{}];", register_type(value(m.out).dtype), sum, sums));
  line("#pragma unroll");
  line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {};", sums, sum, constant(q.carries[0].init)));
  int64_t steps = 1;
  for (AxisId x : q.axes) steps *= ceil_div(place(x).extent, place(x).tile);
  if (steps == 0) return;

  for (const Operand* o : {&a, &b}) {
    const Place &low = o->places[static_cast<size_t>(o->along)], &high = o->places[static_cast<size_t>(o->across)];
    line(fmt::format("const int {} = tid % {} * {}, {} = tid / {} % {};", low.base, low.threads, low.vector, high.base, low.threads, high.threads));
    line(fmt::format("{} r{}[{}];", register_type(value(o->value).dtype), o->letter, registers(value(o->value).axes, o->places)));
  }
  open("const auto fetch = [&](const ix step)");
  std::string rest = "step";
  for (size_t d = q.axes.size(); d-- > 0;) {
    const Place& p = place(q.axes[d]);
    const int64_t tiles = ceil_div(p.extent, p.tile);
    line(fmt::format("const ix {} = {} * {};", p.start, d == 0 ? rest : fmt::format("{} % {}", rest, tiles), p.tile));
    rest = fmt::format("({} / {})", rest, tiles);
  }
  fetch(a);
  fetch(b);
  indent_.resize(indent_.size() - 2);
  line("};");
  line("__syncthreads();");   // shared memory may still be read by what stood before
  line("fetch(0);");
  open(fmt::format("for (ix step = 0; step < {}; ++step)", steps));
  for (const Operand* o : {&a, &b})
    line(fmt::format("{0}* const s{1} = ({0}*)(shared + {2}) + (step & 1) * {3};", o->type(), o->letter, o->offset, o->elements));
  put(a);
  put(b);
  line("__syncthreads();");
  line(fmt::format("if (step + 1 < {}) fetch(step + 1);", steps));
  if (m.atom == "simt") multiply_simt(m, a, b, depth, sum);
  else multiply_atoms(m, a, b, depth, sum);
  close();
  across(q.outs[0], Op::add, bits({depth}));
}

void Emitter::multiply_simt(const Mma& m, const Operand& a, const Operand& b, AxisId depth, const std::string& sum) {
  const Place& p = place(depth);
  line("#pragma unroll");
  open(fmt::format("for (int k = 0; k < {}; ++k)", p.registers));
  const std::string k = p.base.empty() ? "k" : p.base + " + k";
  for (const Operand* o : {&a, &b}) {
    const Place& outer = place(o->outer);
    line(fmt::format("__align__(16) {} f{}[{}];", o->type(), o->letter, outer.registers));
    line("#pragma unroll");
    line(fmt::format("for (int r = 0; r < {}; r += {}) qn_read<{}>(f{} + r, s{} + {});", outer.registers, outer.vector, outer.vector, o->letter, o->letter,
                     o->place(fmt::format("{} + {}", outer.base, local(outer, "r").empty() ? "0" : local(outer, "r")), k)));
  }
  Registers r;
  over({a.outer, b.outer}, places_, -1, r, [&] {
    names_[m.out] = sum;
    const std::string target = at(m.out, r, places_);
    line(fmt::format("{} = qn_fma(fa[{}], fb[{}], {});", target, r[a.outer], r[b.outer], target));
  });
  close();
}

void Emitter::multiply_atoms(const Mma& m, const Operand& a, const Operand& b, AxisId depth, const std::string& sum) {
  const Atom atom = *find_atom(m.atom, m.precision);
  const Place &rows = place(a.outer), &columns = place(b.outer), &p = place(depth);
  const int64_t row_atoms = rows.registers / 2, column_atoms = columns.registers / 2;
  const auto warp = [&](AxisId axis) { return k_.axes[static_cast<size_t>(axis)].spread.warps > 1 ? fmt::format("w{} + ", axis) : std::string(); };
  line("#pragma unroll");
  open(fmt::format("for (int k = 0; k < {}; k += {})", p.registers, atom.k));
  const std::string k = p.base.empty() ? "k" : p.base + " + k";
  line(fmt::format("u32 fa[{}][{}], fb[{}][{}];", row_atoms, atom.a_registers, column_atoms, atom.b_registers));
  const auto each = [&](const char* variable, int64_t n, int64_t step, const std::vector<std::string>& lines) {
    line("#pragma unroll");
    open(fmt::format("for (int {0} = 0; {0} < {1}; {0} += {2})", variable, n, step));
    for (const std::string& text : lines) line(text);
    close();
  };
  const std::string row = warp(a.outer) + "y * 16", column = warp(b.outer) + "x * 8";
  if (m.precision == Precision::tf32) {
    std::vector<std::string> lines;
    for (int f = 0; f < 4; ++f)
      lines.push_back(fmt::format("fa[y][{}] = __float_as_uint(sa[{}]);", f, a.place(fmt::format("{} + {} + lane / 4", row, f % 2 * 8), fmt::format("{} + {} + lane % 4", k, f / 2 * 4))));
    line("const int lane = tid & 31;");
    each("y", row_atoms, 1, lines);
    lines.clear();
    for (int f = 0; f < 2; ++f)
      lines.push_back(fmt::format("fb[x][{}] = __float_as_uint(sb[{}]);", f, b.place(fmt::format("{} + lane / 4", column), fmt::format("{} + {} + lane % 4", k, f * 4))));
    each("x", column_atoms, 1, lines);
  } else {
    line("const int lane = tid & 31;");
    const bool wide = atom.k == 16;
    // Eight rows of 16 bytes are one fragment register; lanes 8·f … 8·f+7 give the rows of register f.
    const std::string at_a = a.depth_inner ? a.place(row + " + (lane & 15)", k + " + (lane >> 4) * 8")
                                           : a.place(row + " + (lane >> 3 & 1) * 8", k + " + (lane & 7) + (lane >> 4) * 8");
    each("y", row_atoms, 1, {fmt::format("qn_ldmatrix{}<{}>(fa[y], sa + {});", a.depth_inner ? "" : "_trans", wide ? 4 : 2, at_a)});
    const int64_t pair = wide ? 2 : 1;   // column atoms per access
    const std::string at_b = wide ? (b.depth_inner ? b.place(column + " + (lane & 7) + (lane >> 4) * 8", k + " + (lane >> 3 & 1) * 8")
                                                   : b.place(column + " + (lane >> 4) * 8", k + " + (lane & 15)"))
                                  : b.place(column + (b.depth_inner ? " + (lane & 7)" : ""), k + (b.depth_inner ? "" : " + (lane & 7)"));
    each("x", column_atoms, pair, {fmt::format("qn_ldmatrix{}<{}>(fb[x], sb + {});", b.depth_inner ? "" : "_trans", wide ? 4 : 1, at_b)});
  }
  names_[m.out] = sum;
  const auto element = [&](int half, int parity) {
    return at(m.out, {{a.outer, fmt::format("(y * 2 + {})", half)}, {b.outer, fmt::format("(x * 2 + {})", parity)}}, places_);
  };
  line("#pragma unroll");
  open(fmt::format("for (int y = 0; y < {}; ++y)", row_atoms));
  line("#pragma unroll");
  line(fmt::format("for (int x = 0; x < {}; ++x) qn_mma_{}_{}({}, {}, {}, {}, fa[y], fb[x]);", column_atoms, m.atom,
                   m.precision == Precision::bf16 ? "bf16" : m.precision == Precision::f16 ? "f16" : "tf32", element(0, 0), element(0, 1), element(1, 0), element(1, 1)));
  close();
  close();
}

}  // namespace quern::cuda
