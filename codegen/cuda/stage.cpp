// Staged products: both operands go through shared memory. Plain loads are copied asynchronously, as many steps ahead as
// there are stages; what has a prologue goes through registers, one step ahead, in two stages:
//   copy(0), …, copy(n-2);  for each step { wait;  sync;  copy(step + n-1);  multiply shared[step % n] }
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
  const Load* plain = nullptr;            // all that defines it, copied without registers
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

// The statements that define `v`, in order.
void Emitter::collect(ValueId v, const Block& body, std::vector<const Stmt*>& definitions) const {
  const Stmt* s = definition(v, body);
  if (std::find(definitions.begin(), definitions.end(), s) != definitions.end()) return;
  if (const auto* l = std::get_if<Load>(&s->node)) {
    for (const BoxIndex& b : l->index)
      if (b.gather >= 0) collect(b.gather, body, definitions);
  } else {
    for (ValueId a : std::get<MapTile>(s->node).args) collect(a, body, definitions);
  }
  definitions.push_back(s);
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

  collect(o.value, q.body, o.definitions);

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
  while (vector > 1 && (place(along).extent % vector != 0 || place(along).symbolic)) vector /= 2;
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
  o.element = atom && !is_of_tf32(m.precision) ? value(o.value).dtype : m.precision == Precision::f64 ? DType::f64
                                                                                                      : DType::f32;
  o.depth_inner = along == o.depth && (atom || place(o.outer).vector == 1);
  // Vectors that shared memory holds across its rows are taken apart.
  if (o.vector >= 0 && (o.vector == o.depth) != o.depth_inner && o.definitions.size() == 1 && size_of(o.element) >= 4) {
    lay(along, std::min(threads_, place(along).tile), 1, o.places[static_cast<size_t>(along)].base);
    lay(across, std::min(threads_ / o.places[static_cast<size_t>(along)].threads, place(across).tile), 1, o.places[static_cast<size_t>(across)].base);
    o.vector = -1;
  }
  const auto* only = o.definitions.size() == 1 ? std::get_if<Load>(&o.definitions[0]->node) : nullptr;
  if (only && std::string(memory_type(o.element)) == memory_type(buffer(only->buffer).dtype)) {
    const AxisId vectors = vector_axis(only->buffer, only->index, value(o.value).axes, o.places);
    const int64_t bytes = size_of(o.element) * (o.vector >= 0 ? o.places[static_cast<size_t>(o.vector)].vector : 1);
    if (vectors == o.vector && bytes >= 4 && bytes <= 16) o.plain = only;
  }
  // Rows are padded so that eight of them, or the lanes of a fragment, meet different banks; 16-byte steps stay aligned.
  const int64_t pad = atom ? (is_of_tf32(m.precision) && o.depth_inner ? 4 : 8) : 16 / size_of(o.element);
  o.pitch = (o.depth_inner ? place(o.depth).tile : place(o.outer).tile) + pad;
  o.elements = o.pitch * (o.depth_inner ? place(o.outer).tile : place(o.depth).tile);
  return o;
}

// Where an element of the fetched tile lies within its stage.
std::string Emitter::staged_place(const Operand& o, const Registers& r) const {
  const auto in_tile = [&](AxisId a) {
    const Place& p = o.places[static_cast<size_t>(a)];
    const std::string l = local(p, r.at(a));
    return l.empty() ? p.base : p.base + " + " + l;
  };
  return o.place(in_tile(o.outer), in_tile(o.depth));
}

// The operand's tile of this step → shared memory, without registers; 0 outside.
void Emitter::copy(const Operand& o) {
  const std::vector<AxisId>& axes = value(o.value).axes;
  const int64_t n = o.vector >= 0 ? o.places[static_cast<size_t>(o.vector)].vector : 1;
  Registers r;
  over(axes, o.places, o.vector, r, [&] {
    const Spot s = spot(o.plain->buffer, o.plain->index, axes, r, o.places);
    line(fmt::format("qn_async<{}>(s{} + {}, p{}, {}, {});", n, o.letter, staged_place(o, r), o.plain->buffer, s.position, s.condition.empty() ? "true" : s.condition));
  });
}

// The operand's tile of this step → the registers r{letter}.
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
    line(fmt::format("r{}{} = {};", o.letter, x.substr(x.find('[')), condition.empty() ? x : fmt::format("({}) ? {} : 0", condition, x)));
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
    return to_memory(o.element, fmt::format("r{}[{}]", o.letter, index));
  };
  Registers r;
  over(axes, o.places, whole ? o.vector : -1, r, [&] {
    const std::string position = staged_place(o, r);
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

// The first elements of the loop's axes at a step, the last axis fastest.
void Emitter::starts_of(const Seq& q, const std::string& step) {
  std::string rest = step;
  for (size_t d = q.axes.size(); d-- > 0;) {
    const Place& p = place(q.axes[d]);
    line(fmt::format("const ix {} = {} * {};", p.start, d == 0 ? rest : fmt::format("{} % {}", rest, p.tiles()), p.tile));
    rest = fmt::format("({} / {})", rest, p.tiles());
  }
}

void Emitter::staged(const Seq& q) {
  const Mma& m = *product_of(q.body);
  Operand a = operand(m, false, q), b = operand(m, true, q);
  const AxisId depth = a.depth;
  const bool asynchronous = a.plain && b.plain && arch_ >= 80;
  const int64_t stages = asynchronous ? m.stages : 2;
  b.offset = round_up(stages * a.elements * size_of(a.element), 16);
  shared_bytes_ = std::max(shared_bytes_, b.offset + stages * b.elements * size_of(b.element));

  names_[q.outs[0]] = names_[q.carries[0].var] = fmt::format("v{}", q.outs[0]);
  const std::string sum = name(q.outs[0]);
  const int64_t sums = registers(value(m.out).axes, places_);
  line(fmt::format("{} {}[{}];", register_type(value(m.out).dtype), sum, sums));
  line("#pragma unroll");
  line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = {};", sums, sum, constant(q.carries[0].init)));
  std::string steps;
  for (AxisId x : q.axes) steps += (steps.empty() ? "" : " * ") + place(x).tiles();

  for (const Operand* o : {&a, &b}) {
    const Place &low = o->places[static_cast<size_t>(o->along)], &high = o->places[static_cast<size_t>(o->across)];
    line(fmt::format("const int {} = tid % {} * {}, {} = tid / {} % {};", low.base, low.threads, low.vector, high.base, low.threads, high.threads));
    if (!asynchronous) line(fmt::format("{} r{}[{}];", register_type(value(o->value).dtype), o->letter, registers(value(o->value).axes, o->places)));
  }
  const auto stage = [&](const std::string& number) {
    for (const Operand* o : {&a, &b}) line(fmt::format("{0}* const s{1} = ({0}*)(shared + {2}) + {3} * {4};", o->type(), o->letter, o->offset, number, o->elements));
  };
  open(asynchronous ? "const auto fetch = [&](const ix step, const int stage)" : "const auto fetch = [&](const ix step)");
  starts_of(q, "step");
  if (asynchronous) stage("stage");
  for (const Operand* o : {&a, &b}) {
    if (asynchronous) copy(*o);
    else fetch(*o);
  }
  indent_.resize(indent_.size() - 2);
  line("};");
  const auto multiply = [&] {
    if (m.atom == "simt") multiply_simt(m, a, b, depth, sum);
    else multiply_atoms(m, a, b, depth, sum);
  };
  if (asynchronous) {
    line("#pragma unroll");
    line(fmt::format("for (int s = 0; s < {}; ++s) {{ if (s < {}) fetch(s, s); qn_commit(); }}", stages - 1, steps));
    line("int full = 0;");
    open(fmt::format("for (ix step = 0; step < {}; ++step)", steps));
    line(fmt::format("qn_wait<{}>();", stages - 2));
    line(sync_);
    line(fmt::format("if (step + {0} < {1}) fetch(step + {0}, full == 0 ? {0} : full - 1);", stages - 1, steps));
    line("qn_commit();");
    stage("full");
    multiply();
    line(fmt::format("full = full == {} ? 0 : full + 1;", stages - 1));
    close();
    line("qn_wait<0>();");
  } else {
    line(fmt::format("if ({} > 0) fetch(0);", steps));
    open(fmt::format("for (ix step = 0; step < {}; ++step)", steps));
    stage("(step & 1)");
    put(a);
    put(b);
    line(sync_);
    line(fmt::format("if (step + 1 < {}) fetch(step + 1);", steps));
    multiply();
    close();
  }
  across(q.outs[0], Op::add, bits({depth}), &q == scattered_ ? Result::scattered : Result::everywhere);
}

void Emitter::multiply_simt(const Mma& m, const Operand& a, const Operand& b, AxisId depth, const std::string& sum) {
  const Place& p = place(depth);
  const int64_t together = a.depth_inner || b.depth_inner ? 16 / size_of(a.element) : 1;   // terms of the sum
  line("#pragma unroll");
  open(fmt::format("for (int k = 0; k < {}; k += {})", p.registers, together));
  const std::string k = p.base.empty() ? "k" : p.base + " + k";
  for (const Operand* o : {&a, &b}) {
    const Place& outer = place(o->outer);
    const std::string in_tile = local(outer, "r"), row = in_tile.empty() ? outer.base : outer.base + " + " + in_tile;
    line(fmt::format("__align__(16) {} f{}[{}][{}];", o->type(), o->letter, together, outer.registers));
    line("#pragma unroll");
    open(fmt::format("for (int r = 0; r < {}; r += {})", outer.registers, o->depth_inner ? 1 : outer.vector));
    if (o->depth_inner) line(fmt::format("__align__(16) {} q[{}]; qn_read(q, s{} + {});", o->type(), together, o->letter, o->place(row, k)));
    line("#pragma unroll");
    line(fmt::format("for (int x = 0; x < {}; ++x) ", together) +
         (o->depth_inner ? fmt::format("f{}[x][r] = q[x];", o->letter) : fmt::format("qn_read<{}>(&f{}[x][r], s{} + {});", outer.vector, o->letter, o->letter, o->place(row, "(" + k + " + x)"))));
    close();
  }
  line("#pragma unroll");
  open(fmt::format("for (int x = 0; x < {}; ++x)", together));
  Registers r;
  over({a.outer, b.outer}, places_, -1, r, [&] {
    names_[m.out] = sum;
    const std::string target = at(m.out, r, places_);
    line(fmt::format("{} = qn_fma(fa[x][{}], fb[x][{}], {});", target, r[a.outer], r[b.outer], target));
  });
  close();
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
  const bool rests = m.precision == Precision::tf32x3;   // of operands, in ga and gb
  if (is_of_tf32(m.precision)) {
    if (rests) line(fmt::format("u32 ga[{}][{}], gb[{}][{}];", row_atoms, atom.a_registers, column_atoms, atom.b_registers));
    const auto fragment = [&](char letter, const char* of, int f, const std::string& at) {
      return rests ? fmt::format("qn_split(f{0}[{1}][{2}], g{0}[{1}][{2}], s{0}[{3}]);", letter, of, f, at) : fmt::format("f{0}[{1}][{2}] = __float_as_uint(qn_to_tf32(s{0}[{3}]));", letter, of, f, at);
    };
    std::vector<std::string> lines;
    for (int f = 0; f < 4; ++f)
      lines.push_back(fragment('a', "y", f, a.place(fmt::format("{} + {} + lane / 4", row, f % 2 * 8), fmt::format("{} + {} + lane % 4", k, f / 2 * 4))));
    line("const int lane = tid & 31;");
    each("y", row_atoms, 1, lines);
    lines.clear();
    for (int f = 0; f < 2; ++f)
      lines.push_back(fragment('b', "x", f, b.place(fmt::format("{} + lane / 4", column), fmt::format("{} + {} + lane % 4", k, f * 4))));
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
  const auto multiply = [&](char left, char right) {
    line("#pragma unroll");
    open(fmt::format("for (int y = 0; y < {}; ++y)", row_atoms));
    line("#pragma unroll");
    line(fmt::format("for (int x = 0; x < {}; ++x) qn_mma_{}_{}({}, {}, {}, {}, {}a[y], {}b[x]);", column_atoms, m.atom,
                     m.precision == Precision::bf16 ? "bf16" : m.precision == Precision::f16 ? "f16"
                                                                                             : "tf32",
                     element(0, 0), element(0, 1), element(1, 0), element(1, 1), left, right));
    close();
  };
  if (rests) multiply('g', 'f'), multiply('f', 'g');   // the small ones first
  multiply('f', 'f');
  close();
}

}  // namespace quern::cuda
