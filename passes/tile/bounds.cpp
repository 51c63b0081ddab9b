// See bounds.h. A loop is looked at with each comparison of coordinates in it: what the tiles of its body then are for sure, and
// whether each carry is yielded as it was.
#include "passes/tile/bounds.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>

#include "ir/support/fault.h"
#include "passes/tile/facts.h"
#include "passes/tile/masks.h"

namespace quern {

using namespace tile;

namespace {

class Bounds {
 public:
  explicit Bounds(const Kernel& kernel) : k_(kernel) {}

  Kernel run() {
    for (const Phase& p : k_.phases) look(p.body);
    for (const Phase& p : k_.phases) visit(p.body, p.grid);
    return std::move(k_);
  }

 private:
  Kernel k_;
  std::map<AxisId, int> loops_;         // that walk an axis
  std::map<ValueId, Index> numbers_;    // tiles of integers that are coordinates
  std::map<ValueId, Scalar> constants_;   // tiles that are one number

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }

  void look(const Block& block) {
    for (const Stmt& s : block) {
      if (const auto* m = std::get_if<MapTile>(&s.node))
        if (const auto c = number(*m)) constants_.emplace(m->out, *c);
      if (const auto* m = std::get_if<MapTile>(&s.node))
        if (const auto x = in_coordinates(*m, static_cast<int>(m->expr.size()) - 1, numbers_)) numbers_.emplace(m->out, *x);
      const auto* q = std::get_if<Seq>(&s.node);
      const auto* e = std::get_if<Each>(&s.node);
      if (!q && !e) continue;
      for (AxisId a : q ? q->axes : e->axes) ++loops_[a];
      look(q ? q->body : e->body);
    }
  }
  void visit(const Block& block, const std::vector<AxisId>& open) {
    for (const Stmt& s : block) {
      const auto* q = std::get_if<Seq>(&s.node);
      const auto* e = std::get_if<Each>(&s.node);
      if (!q && !e) continue;
      if (q)
        for (AxisId a : q->axes) bound(*q, a, open);
      std::vector<AxisId> inside = open;
      inside.insert(inside.end(), q ? q->axes.begin() : e->axes.begin(), q ? q->axes.end() : e->axes.end());
      visit(q ? q->body : e->body, inside);
    }
  }

  // --- what is known where some number is positive ---
  struct Known {
    std::map<ValueId, Scalar> constants;
    std::map<ValueId, ValueId> same;   // as which carry
  };
  // Of a map that reads nothing and compares nothing.
  std::optional<Scalar> number(const MapTile& m) const {
    const bool plain = m.args.empty() && std::all_of(m.expr.begin(), m.expr.end(), [](const ScalarNode& n) { return n.kind == ScalarNode::Kind::constant || (n.kind == ScalarNode::Kind::op && n.op != Op::lt && n.op != Op::le); });
    return plain ? evaluate(m, {}, Index(0)) : std::nullopt;
  }
  static bool is_identity(Op combine, const Scalar& x) { return x == identity_of(combine, x.dtype) || (combine == Op::add && is_zero(x)); }
  static bool is_zero(const std::optional<Scalar>& x) { return x && is_float(x->dtype) && x->f == 0; }
  static bool is_lowest(const std::optional<Scalar>& x) { return x && is_float(x->dtype) && x->f == -INFINITY; }

  std::optional<Scalar> evaluate(const MapTile& m, const Known& known, const Index& positive) const {
    std::vector<std::optional<Scalar>> v(m.expr.size());
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      if (n.kind == ScalarNode::Kind::constant) v[i] = n.constant;
      if (n.kind == ScalarNode::Kind::operand)
        if (const auto it = known.constants.find(m.args[static_cast<size_t>(n.operand)]); it != known.constants.end()) v[i] = it->second;
      if (n.kind == ScalarNode::Kind::op) v[i] = op(m, n, v, positive);
    }
    return v.back();
  }
  std::optional<Scalar> op(const MapTile& m, const ScalarNode& n, const std::vector<std::optional<Scalar>>& v, const Index& positive) const {
    if (const auto excess = excess_of(m, n, numbers_)) {
      const Index more = *excess - positive, sum = *excess + positive;
      if (more.is_constant() && more.value() >= 0) return Scalar::of_int(DType::boolean, 0);
      if (sum.is_constant() && sum.value() <= 1) return Scalar::of_int(DType::boolean, 1);
      return std::nullopt;
    }
    const auto arg = [&](size_t a) { return v[static_cast<size_t>(n.args[a])]; };
    std::vector<Scalar> args;
    for (size_t a = 0; a < n.args.size(); ++a)
      if (arg(a)) args.push_back(*arg(a));
    if (n.op == Op::select) {
      if (arg(0)) return arg(arg(0)->truthy() ? 1 : 2);
      return arg(1) && arg(2) && *arg(1) == *arg(2) ? arg(1) : std::nullopt;
    }
    if (args.size() == n.args.size()) return apply_scalar(n.op, n.dtype, args);
    const auto either = [&](const Scalar& s) { return (arg(0) && *arg(0) == s) || (arg(1) && *arg(1) == s) ? std::optional(s) : std::nullopt; };
    switch (n.op) {
      case Op::logical_and: return either(Scalar::of_int(DType::boolean, 0));
      case Op::logical_or: return either(Scalar::of_int(DType::boolean, 1));
      case Op::mul: return is_zero(arg(0)) || is_zero(arg(1)) ? std::optional(Scalar::of(n.dtype, 0)) : std::nullopt;
      case Op::div: return is_zero(arg(0)) ? std::optional(Scalar::of(n.dtype, 0)) : std::nullopt;
      case Op::add: return is_lowest(arg(0)) || is_lowest(arg(1)) ? std::optional(Scalar::of(n.dtype, -INFINITY)) : std::nullopt;
      case Op::sub: return is_lowest(arg(0)) ? std::optional(Scalar::of(n.dtype, -INFINITY)) : std::nullopt;
      default: return std::nullopt;
    }
  }

  // Does the body then change no carry? The values that maps give are known, what is summed in it but zeros is not.
  bool changes_nothing(const Seq& q, const Index& positive) const {
    Known known{constants_, {}};
    for (const Carry& c : q.carries) known.same[c.var] = c.var;
    const auto zero = [&](ValueId v) {
      const auto it = known.constants.find(v);
      return it != known.constants.end() && is_zero(it->second);
    };
    const auto copy = [&](ValueId from, ValueId to) {
      if (const auto it = known.same.find(from); it != known.same.end()) known.same[to] = it->second;
    };
    for (const Stmt& s : q.body) {
      if (std::holds_alternative<Store>(s.node) || std::holds_alternative<Each>(s.node)) return false;
      if (const auto* m = std::get_if<MapTile>(&s.node)) {
        if (const auto c = evaluate(*m, known, positive)) known.constants[m->out] = *c;
        const ScalarNode& last = m->expr.back();
        if (m->expr.size() == 3 && m->args.size() == 2 && last.args.size() == 2 && last.args[0] != last.args[1] && reduces(last.op))
          for (size_t i = 0; i < 2; ++i)
            if (const auto it = known.constants.find(m->args[1 - i]); it != known.constants.end() && is_identity(last.op, it->second)) copy(m->args[i], m->out);
      }
      if (const auto* r = std::get_if<ReduceTile>(&s.node))
        if (const auto it = known.constants.find(r->arg); it != known.constants.end() && is_identity(r->combine, it->second)) known.constants[r->out] = it->second;
      if (const auto* m = std::get_if<Mma>(&s.node); m && (zero(m->a) || zero(m->b))) copy(m->acc, m->out);
    }
    for (size_t c = 0; c < q.carries.size(); ++c)
      if (const auto it = known.same.find(q.yields[c]); it == known.same.end() || it->second != q.carries[c].var) return false;
    return true;
  }
  static bool reduces(Op op) { return op == Op::add || op == Op::max || op == Op::min || op == Op::mul; }

  // --- bounds ---
  void comparisons(const Block& block, std::vector<Index>& out) const {
    for (const Stmt& s : block)
      if (const auto* m = std::get_if<MapTile>(&s.node))
        for (const ScalarNode& n : m->expr)
          if (const auto excess = excess_of(*m, n, numbers_)) out.insert(out.end(), {*excess, Index(1) - *excess});
  }
  void bound(const Seq& q, AxisId a, const std::vector<AxisId>& open) {
    Axis& walked = axis(a);
    if (q.carries.empty() || walked.symbol || walked.extent < 2 || loops_.at(a) > 1) return;
    const Index own = k_.coordinate(a);
    std::vector<Index> masks;
    comparisons(q.body, masks);
    std::optional<Index> from, to;
    for (const Index& excess : masks) {   // no step where it is positive
      const auto step = excess.stride(a);
      if (!step || std::abs(*step) != 1) continue;
      const Index rest = *step > 0 ? own - excess : excess + own;   // beyond it, or before it
      if (!grows(rest, a, open) || !changes_nothing(q, excess)) continue;
      // Each coordinate of the axis is left for some row, and each row has some.
      if (*step > 0 && !to && rest.low() >= 0 && rest.high() >= walked.extent - 1) to = rest + Index(planted(Fault::mask_ends_early) ? -walked.extent / 2 : 1);
      if (*step < 0 && !from && rest.low() <= 0 && rest.high() <= walked.extent - 1) from = rest;
    }
    if (from && to) {
      const Index room = *to - *from;
      if (room.low() < 1) from.reset();
    }
    walked.from = from;
    walked.to = to;
  }
  // A sum of positive multiples of axes that stand still in the loop.
  bool grows(const Index& e, AxisId a, const std::vector<AxisId>& open) const {
    std::set<int> axes;
    e.collect_axes(axes);
    return !axes.empty() && std::all_of(axes.begin(), axes.end(), [&](int x) {
      return x < a && std::count(open.begin(), open.end(), x) && !k_.axes[static_cast<size_t>(x)].symbol && e.stride(x).value_or(-1) >= 0;
    });
  }
};

}  // namespace

Kernel bounds(const Kernel& kernel) { return Bounds(kernel).run(); }

}  // namespace quern
