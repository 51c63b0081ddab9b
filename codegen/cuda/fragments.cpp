// Tiles of roles that stay where products leave their sums: 64 rows over 128 threads, register (row, column) of a thread at
// column / 2 * 4 + row * 2 + column % 2. Maps and reductions work on them there; rounded to 16 bits and packed in pairs they are
// the next product's operand as they lie. A map that is the last to read such a tile writes in its place.
#include <fmt/format.h>

#include "codegen/cuda/emitter.h"
#include "codegen/cuda/spell.h"
#include "ir/support/overloaded.h"
#include "passes/tile/masks.h"

namespace quern::cuda {

using namespace tile;

void Emitter::count_reads(const Block& block) {
  const auto all = [](std::map<ValueId, int>& counts, const std::vector<ValueId>& values) {
    for (ValueId v : values) ++counts[v];
  };
  for (const Stmt& s : block)
    std::visit(Overloaded{[&](const MapTile& m) { all(reads_, m.args); }, [&](const ReduceTile& r) { ++reads_[r.arg]; },
                          [&](const Mma& m) { all(reads_, {m.acc, m.a, m.b}), sums_.insert(m.acc); },
                          [&](const Seq& q) { count_reads(q.body), all(reads_, q.yields); }, [&](const Each& e) { count_reads(e.body); }, [](const Load&) {}, [](const Store&) {},
                          [&](const InRole& r) {
                            if (const auto* p = std::get_if<Past>(&r.node)) count_reads(p->body), count_reads(p->otherwise), all(reads_, p->yields), all(others_, p->others);
                            if (const auto* c = std::get_if<Slice>(&r.node)) ++reads_[c->arg];
                            if (const auto* p = std::get_if<Put>(&r.node)) all(reads_, p->values), all(puts_, p->values);
                          }},
               s.node);
}

bool Emitter::is_fragment_type(const Value& v) const {
  if (v.axes.size() != 2) return false;
  int rows = 0, columns = 0;
  for (AxisId a : v.axes) {
    const Spread& s = k_.axes[static_cast<size_t>(a)].spread;
    rows += s.warps == 4 && s.threads == 8 && place(a).tile == 64;
    columns += s.warps == 1 && s.threads == 4 && s.vector == 2;
  }
  return rows == 1 && columns == 1;
}
int64_t Emitter::fragment_registers(const Value& v) const { return place(v.axes[0]).tile * place(v.axes[1]).tile / 128; }

std::string Emitter::fragment_at(ValueId v, const Registers& r) const {
  std::string row, column;
  for (AxisId a : value(v).axes) (k_.axes[static_cast<size_t>(a)].spread.warps > 1 ? row : column) = r.at(a);
  return fmt::format("{}[({}) / 2 * 4 + ({}) * 2 + ({}) % 2]", name(v), column, row, column);
}

// Whether the map brings a product's left operand out of its slot, in which it lies across the sum, and is spelled.
bool Emitter::take(const MapTile& m) {
  const auto from = m.args.size() == 1 ? tiles_.find(m.args[0]) : tiles_.end();
  if (from == tiles_.end()) return false;
  const Part& p = from->second.part;
  QN_CHECK(m.expr.size() == 1 && p.size == 4 && p.row_bytes == 128 && place(p.outer).threads == 4 && p.rows % 8 == 0, "a tile in a slot is taken as it is, across the sum");
  const int64_t n = 64 * p.rows / 128;
  line(fmt::format("u32 v{}[{}];", m.out, n));
  line(fmt::format("qn_take_across<{}>(v{}, {}, tid);", p.rows, m.out, from->second.address));
  names_[m.out] = fmt::format("v{}", m.out);
  return computed_ = true;
}

// Whether the map is of such tiles, and spelled.
bool Emitter::fragment_map(const MapTile& m) {
  computed_ = true;
  const Value& out = value(m.out);
  if (m.args.empty() && m.expr.size() == 1 && m.expr[0].kind == ScalarNode::Kind::constant && m.expr[0].constant.f == 0 && out.axes.size() == 2 && sums_.count(m.out)) {
    adds_[m.out] = "0";   // what a product does not add to
    return true;
  }
  const auto of = std::find_if(m.args.begin(), m.args.end(), [&](ValueId v) { return fragments_.count(v) && value(v).axes == out.axes; });
  if (of == m.args.end()) return false;
  if (out.dtype != DType::f32) {
    pack(m);
    return true;
  }
  const bool last = reads_[*of] + (in_past_ ? 0 : others_[*of]) == 1;
  QN_CHECK(last || !sums_.count(m.out), "a sum of products is computed with in its place");
  fragments_.insert(m.out);
  if (last) {
    names_[m.out] = name(*of);
    adds_[m.out] = "1";
    const std::string some = m.args.size() == 1 ? beyond(m) : "";
    if (!some.empty()) open(fmt::format("if ({})", some));
    map_elements(m, places_);
    if (!some.empty()) close();
    return true;
  }
  names_[m.out] = fmt::format("v{}", m.out);
  line(fmt::format("float v{}[{}];", m.out, fragment_registers(out)));
  map_elements(m, places_);
  return true;
}

// Rounded and in pairs, as a product's operand lies; in the array in which it is carried, where no product reads that.
void Emitter::pack(const MapTile& m) {
  QN_CHECK(m.args.size() == 1 && m.expr.size() == 2 && m.expr[1].kind == ScalarNode::Kind::op && m.expr[1].op == Op::cast, "an operand is a rounded tile");
  const Value& out = value(m.out);
  const int64_t n = fragment_registers(out) / 2;
  const auto home = home_.find(m.out);
  const bool there = home != home_.end() && std::none_of(in_flight_.begin(), in_flight_.end(), [&](const Flight& f) { return f.operand == home->second; });
  names_[m.out] = there ? home->second : fmt::format("v{}", m.out);
  if (!there) line(fmt::format("u32 v{}[{}];", m.out, n));
  line("#pragma unroll");
  line(fmt::format("for (int r = 0; r < {}; ++r) {}[r] = qn_rounded_{}({}[2 * r], {}[2 * r + 1]);", n, name(m.out), name_of(out.dtype), name(m.args[0]), name(m.args[0])));
}

// Does a put alone read what the map rounds? It rounds two at a time. (Where registers are few, the assembler makes worse of that.)
bool Emitter::is_put_alone(const MapTile& m) const {
  const auto puts = puts_.find(m.out);
  const DType d = value(m.out).dtype;
  return role_ && !has_few_registers() && puts != puts_.end() && puts->second == reads_.at(m.out) && (d == DType::bf16 || d == DType::f16) && m.expr.back().kind == ScalarNode::Kind::op && m.expr.back().op == Op::cast &&
         m.expr[static_cast<size_t>(m.expr.back().args[0])].dtype == DType::f32;
}

// Of a map that keeps its operand where coordinates compare as wanted: when some of the block do not.
std::string Emitter::beyond(const MapTile& m) const {
  const ScalarNode& chosen = m.expr.back();
  if (chosen.kind != ScalarNode::Kind::op || chosen.op != Op::select) return "";
  const auto node = [&](int i) -> const ScalarNode& { return m.expr[static_cast<size_t>(i)]; };
  if (node(chosen.args[1]).kind != ScalarNode::Kind::operand || node(chosen.args[2]).kind != ScalarNode::Kind::constant) return "";
  std::string out;
  const std::function<bool(int)> add = [&](int i) {
    if (node(i).kind == ScalarNode::Kind::op && node(i).op == Op::logical_and) return add(node(i).args[0]) && add(node(i).args[1]);
    const auto excess = excess_of(m, node(i), {});
    if (!excess) return false;
    std::set<int> axes;
    excess->collect_axes(axes);
    std::string most = fmt::format("{}", excess->evaluate([](int) { return 0; }));
    for (int a : axes) {
      const auto stride = excess->stride(a);
      if (!stride) return false;
      most += fmt::format(" + ({}{}) * {}", place(a).start, *stride > 0 ? fmt::format(" + {}", place(a).tile - 1) : "", *stride);
    }
    out += fmt::format("{}{} > 0", out.empty() ? "" : " || ", most);
    return true;
  };
  return add(chosen.args[0]) ? out : "";
}

// An op of a map that need not round each: a product and a sum are one, exponentials and quotients the machine's. Empty: as ever.
std::string Emitter::fast(const MapTile& m, size_t i, const std::vector<std::string>& names) const {
  const ScalarNode& n = m.expr[i];
  if (n.dtype != DType::f32) return "";
  const auto of = [&](size_t a) { return names[static_cast<size_t>(n.args[a])]; };
  const auto product = [&](size_t a) -> const ScalarNode* {
    const ScalarNode& x = m.expr[static_cast<size_t>(n.args[a])];
    return x.kind == ScalarNode::Kind::op && x.op == Op::mul ? &x : nullptr;
  };
  switch (n.op) {
    case Op::exp: {   // of a difference: what is taken off is the row's, and multiplied once for it
      constexpr double kLog2e = 1.4426950408889634;
      const ScalarNode& x = m.expr[static_cast<size_t>(n.args[0])];
      if (x.kind != ScalarNode::Kind::op || x.op != Op::sub) return fmt::format("qn_fast_exp2({} * {:a}f)", of(0), static_cast<float>(kLog2e));
      const ScalarNode& left = m.expr[static_cast<size_t>(x.args[0])];
      std::string factor = names[static_cast<size_t>(x.args[0])];
      double scale = kLog2e;
      for (size_t a = 0; a < 2 && left.kind == ScalarNode::Kind::op && left.op == Op::mul; ++a)
        if (const ScalarNode& c = m.expr[static_cast<size_t>(left.args[a])]; c.kind == ScalarNode::Kind::constant) {
          scale *= c.constant.f, factor = names[static_cast<size_t>(left.args[1 - a])];
          break;
        }
      return fmt::format("qn_fast_exp2(qn_fma({}, {:a}f, -({} * {:a}f)))", factor, static_cast<float>(scale), names[static_cast<size_t>(x.args[1])], static_cast<float>(kLog2e));
    }
    case Op::erf: return fmt::format("qn_fast_erf({})", of(0));
    case Op::div: return fmt::format("qn_fast_div({}, {})", of(0), of(1));
    case Op::add:
    case Op::sub:
      for (size_t a = 0; a < 2; ++a)
        if (const ScalarNode* p = product(a)) {
          const std::string x = names[static_cast<size_t>(p->args[0])], y = names[static_cast<size_t>(p->args[1])], sign = n.op == Op::sub ? "-" : "";
          return a == 0 ? fmt::format("qn_fma({}, {}, {}{})", x, y, sign, of(1)) : fmt::format("qn_fma({}{}, {}, {})", sign, x, y, of(0));
        }
      return "";
    default: return "";
  }
}

// In two chains a row, then across the threads that share it, unless that waits for the end of the loop.
bool Emitter::fragment_reduce(const ReduceTile& reduce) {
  if (!role_ || !fragments_.count(reduce.arg) || reduce.axes.size() != 1 || place(reduce.axes[0]).registers % 2) return false;
  computed_ = true;
  const DType dtype = value(reduce.out).dtype;
  const AxisId column = reduce.axes[0];
  QN_CHECK(!place(column).masked && k_.axes[static_cast<size_t>(column)].spread.warps == 1, "a row is summed whole, by one warp");
  define(reduce.out, places_);
  Registers r;
  over(value(reduce.out).axes, places_, -1, r, [&] {
    const auto element = [&](const std::string& c) {
      Registers e = r;
      e[column] = c;
      return at(reduce.arg, e, places_);
    };
    open("");
    line(fmt::format("float x = {}, y = {};", element("0"), element("1")));
    line("#pragma unroll");
    line(fmt::format("for (int c = 2; c < {}; c += 2) x = {}, y = {};", place(column).registers, apply(reduce.combine, dtype, dtype, {"x", element("c")}), apply(reduce.combine, dtype, dtype, {"y", element("c + 1")})));
    line(fmt::format("{} = {};", at(reduce.out, r, places_), apply(reduce.combine, dtype, dtype, {"x", "y"})));
    close();
  });
  if (!partial_.count(reduce.out)) across(reduce.out, reduce.combine, bits(reduce.axes));
  return true;
}

// A carry that only collects sums, perhaps scaled, may stay per thread until the end: %p = reduce<add> (…)  %y = map(add(mul(%c, …), %p))  yield %y
bool Emitter::is_deferred(const Seq& q, size_t carry) {
  const ValueId c = q.carries[carry].var, y = q.yields[carry];
  if (reads_[c] != 1 || reads_[y] != 1 || q.carries[carry].init.f != 0) return false;
  const MapTile* map = nullptr;
  for (const Stmt& s : q.body)
    if (const auto* m = std::get_if<MapTile>(&s.node); m && m->out == y) map = m;
  if (!map || map->expr.back().kind != ScalarNode::Kind::op || map->expr.back().op != Op::add) return false;
  const auto is = [&](int i, ValueId v) { const ScalarNode& n = map->expr[static_cast<size_t>(i)]; return n.kind == ScalarNode::Kind::operand && map->args[static_cast<size_t>(n.operand)] == v; };
  const auto collected = [&](int i) {
    const ScalarNode& n = map->expr[static_cast<size_t>(i)];
    return is(i, c) || (n.kind == ScalarNode::Kind::op && n.op == Op::mul && (is(n.args[0], c) || is(n.args[1], c)));
  };
  const std::vector<int>& args = map->expr.back().args;
  for (const Stmt& s : q.body) {
    const auto* r = std::get_if<ReduceTile>(&s.node);
    if (!r || r->combine != Op::add || reads_[r->out] != 1) continue;
    for (size_t a = 0; a < 2; ++a)
      if (is(args[a], r->out) && collected(args[1 - a])) {
        partial_[r->out] = true;
        deferred_bits_ = bits(r->axes);
        return true;
      }
  }
  return false;
}

}  // namespace quern::cuda
