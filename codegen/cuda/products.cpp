// Products that roles issue: wgmma, its operands in slots of shared memory by descriptors, the left one also in registers.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "passes/tile/atoms.h"

namespace quern::cuda {

using namespace tile;

namespace {

std::string list(int from, int n, const char* form) {
  std::string out;
  for (int i = 0; i < n; ++i) out += (i ? "," : "") + fmt::format(fmt::runtime(form), from + i);
  return out;
}

}  // namespace

// How a product's operand is walked along the sum: an instruction takes 32 bytes of rows along it, or 16 rows across.
Emitter::Walk Emitter::walk(const SharedTile& t, AxisId k) const {
  QN_CHECK(t.part.row_bytes == 128, "operands have rows of 128 bytes");
  if (t.part.inner != k) return {false, false, 128, 1 << 20, 0};
  const int64_t every = t.part.row_bytes / 32, column = t.part.rows * t.part.row_bytes / 16;
  return {false, true, 2, every, column - 2 * (every - 1)};
}

// A product of wgmma: descriptors of its operands in shared memory, the k-chain of one step in one asm statement for every 64 rows.
void Emitter::issue(const Mma& m) {
  const SharedTile& b = tiles_.at(m.b);
  const auto shared = tiles_.find(m.a);
  const AxisId k = m.axes.back();
  const auto kept = [&](const SharedTile& t) { return t.axis >= 0 ? t.axis : t.part.inner == k ? t.part.outer
                                                                                               : t.part.inner; };
  const AxisId columns = kept(b);
  AxisId rows = -1;
  for (AxisId a : value(m.out).axes)
    if (a != columns) rows = a;
  const auto atom = find_atom(m.atom, m.precision);
  QN_CHECK(atom && atom->asynchronous && m.axes.size() == 1 && place(columns).tile == atom->n && place(rows).tile % atom->m == 0 && place(k).tile % atom->k == 0 && adds_.count(m.acc), "an issued product has an atom's shape, and something to add to");
  const int64_t sums = place(rows).tile * place(columns).tile / 128;
  if (names_.count(m.acc)) {
    names_[m.out] = names_.at(m.acc);
  } else {
    line(fmt::format("float v{}[{}];", m.out, sums));
    names_[m.out] = fmt::format("v{}", m.out);
  }
  if (is_fragment_type(value(m.out))) fragments_.insert(m.out);
  adds_[m.out] = "1";
  const auto descriptor = [&](const char* name, const SharedTile& t, bool along) {
    const uint64_t stride = along ? 0 : static_cast<uint64_t>(t.part.rows * t.part.row_bytes) >> 4;
    line(fmt::format("const u64 {} = {}ull | (({} & 0x3ffff) >> 4);", name, (uint64_t{1} << 62) | (uint64_t{64} << 32) | (stride << 16), t.address));
  };
  QN_CHECK(b.part.size == 2 || (b.part.inner == k && (shared == tiles_.end() || shared->second.part.inner == k)), "operands of 8 or 32 bits in shared memory run along the sum");
  const Walk along_b = walk(b, k), along_a = shared == tiles_.end() ? Walk{true, true, 0, 1, 0} : walk(shared->second, k);
  const std::string add = adds_.at(m.acc);
  const std::string call = product_helper(*atom, m, place(k).tile / atom->k, along_a, along_b, add);
  open("");
  descriptor("db", b, along_b.along);
  if (!along_a.registers) descriptor("da", shared->second, along_a.along);
  line("qn_products();");
  if (along_a.registers) {
    QN_CHECK(place(rows).tile == 64, "an operand in registers has 64 rows");
    line(fmt::format("{}({}, {}, db{});", call, name(m.out), name(m.a), add == "0" || add == "1" ? "" : ", " + add));
  } else {
    const Part& p = shared->second.part;
    const int64_t step = (along_a.along ? atom->m * p.row_bytes : p.rows * p.row_bytes) >> 4;
    for (int64_t i = 0; i < place(rows).tile / atom->m; ++i) line(fmt::format("{}({} + {}, da + {}, db{});", call, name(m.out), i * atom->n / 2, i * step, add == "0" || add == "1" ? "" : ", " + add));
  }
  line("qn_issued();");
  close();
  in_flight_.push_back({name(m.out), along_a.registers ? name(m.a) : "", sums});
  computed_ = false;
}

std::string Emitter::product_helper(const Atom& atom, const Mma& m, int64_t steps, const Walk& a, const Walk& b, const std::string& add) {
  const int sums = atom.n / 2, operands = a.registers ? static_cast<int>(steps) * 4 : 1;
  const bool asked = add != "0" && add != "1";
  const auto type = [&](ValueId v) { return m.precision == Precision::f8 ? name_of(value(v).dtype).substr(2) : std::string_view(kPrecisions[static_cast<int>(m.precision)]); };   // e4m3
  std::string name = fmt::format("qn_product_{}_{}{}_{}{}x{}{}", atom.name, type(m.a), type(m.a) == type(m.b) ? "" : fmt::format("_{}", type(m.b)), a.registers ? 'r' : a.along ? 'k'
                                                                                                                                                                                : 'm',
                                 b.along ? 'k' : 'n', steps, asked ? "" : "_" + add);
  for (const Walk* w : {&a, &b})
    if (!w->registers && w->every < steps) name += fmt::format("_{}", w->jump);
  if (helpers_.find(name + "(") != std::string::npos) return name;
  helpers_ += fmt::format("__device__ __forceinline__ void {}(float* d, {}, u64 b{}) {{\n  asm volatile(\"{{.reg .u64 a, b; ", name, a.registers ? "const u32* a" : "u64 a", asked ? ", u32 add" : "");
  if (!a.registers) helpers_ += fmt::format("mov.u64 a, %{}; ", sums);
  helpers_ += fmt::format("mov.u64 b, %{};", sums + operands);
  if (asked) helpers_ += fmt::format(" .reg .pred p; setp.ne.u32 p, %{}, 0;", sums + operands + 1);
  helpers_ += "\\n\"\n";
  for (int64_t s = 0; s < steps; ++s) {
    const std::string left = a.registers ? fmt::format("{{{}}}", list(sums + 4 * static_cast<int>(s), 4, "%{}")) : "a";
    const std::string majors = tiles_.at(m.b).part.size != 2 ? "" : fmt::format("{}, {}", a.registers ? "" : a.along ? ", 0"
                                                                                                                     : ", 1",
                                                                                b.along ? 0 : 1);
    helpers_ += fmt::format("    \"wgmma.mma_async.sync.aligned.{}.f32.{}.{} {{{}}}, {}, b, {}, 1, 1{};\\n\"\n", atom.name, type(m.a), type(m.b), list(0, sums, "%{}"), left, s ? "1" : asked ? "p"
                                                                                                                                                                                              : add,
                            majors);
    if (s + 1 == steps) break;
    const auto next = [&](const Walk& w) { return (s + 1) % w.every ? w.step : w.jump; };
    helpers_ += fmt::format("    \"{}add.u64 b, b, {};\\n\"\n", a.registers ? "" : fmt::format("add.u64 a, a, {}; ", next(a)), next(b));
  }
  helpers_ += fmt::format("    \"}}\" : {} : {}, \"l\"(b){});\n}}\n", list(0, sums, add == "0" ? "\"=f\"(d[{}])" : "\"+f\"(d[{}])"), a.registers ? list(0, operands, "\"r\"(a[{}])") : "\"l\"(a)", asked ? ", \"r\"(add)" : "");
  return name;
}
// What waits for products, so that no use of the sums of those that are then done is moved before it.
std::string Emitter::settle_helper(int64_t sums, int64_t left) {
  const std::string name = fmt::format("qn_settled_{}_{}", sums, left);
  if (helpers_.find(name + "(") == std::string::npos)
    helpers_ += fmt::format("__device__ __forceinline__ void {}(float* d) {{ asm volatile(\"wgmma.wait_group.sync.aligned {};\" : {} :: \"memory\"); }}\n", name, left, list(0, static_cast<int>(sums), "\"+f\"(d[{}])"));
  return name;
}

}  // namespace quern::cuda
