// See online.h. Two loops at the top of a kernel, the later one over the same elements (equal.h) and reading the earlier one's
// maximum. Only where a product is in the loops: to load elements again costs less than to scale sums.
#include "passes/tile/online.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "ir/support/fault.h"
#include "passes/tile/equal.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

ScalarNode operand_node(int i, DType dtype) {
  ScalarNode n{ScalarNode::Kind::operand, dtype};
  n.operand = i;
  return n;
}
ScalarNode constant_node(double value, DType dtype) {
  ScalarNode n{ScalarNode::Kind::constant, dtype};
  n.constant = Scalar::of(dtype, value);
  return n;
}
ScalarNode op_node(Op op, DType dtype, std::vector<int> args) {
  ScalarNode n{ScalarNode::Kind::op, dtype, op};
  n.args = std::move(args);
  return n;
}
bool is_op(const ScalarNode& n, Op op) { return n.kind == ScalarNode::Kind::op && n.op == op; }

class Online {
 public:
  explicit Online(const Kernel& kernel) : k_(kernel) {}

  Kernel run() {
    Block& body = k_.phases[0].body;
    for (size_t j = 1; j < body.size(); ++j)
      for (size_t i = 0; i < j; ++i)
        if (merge(body, i, j)) i = j = 0;
    return std::move(k_);
  }

 private:
  Kernel k_;

  const Value& value(ValueId v) const { return k_.values[static_cast<size_t>(v)]; }
  ValueId new_value(DType dtype, std::vector<AxisId> axes) {
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  template <class T>
  static const T* maker(const Block& block, ValueId v) {
    for (const Stmt& s : block)
      if (const T* t = std::get_if<T>(&s.node); t && t->out == v) return t;
    return nullptr;
  }
  static bool comes_first(const Block& block, ValueId a, ValueId b) {
    for (const Stmt& s : block)
      if (const auto* m = std::get_if<MapTile>(&s.node); m && (m->out == a || m->out == b)) return m->out == a;
    return false;
  }
  static bool has_loop(const Block& block) {
    return std::any_of(block.begin(), block.end(), [](const Stmt& s) { return std::holds_alternative<Seq>(s.node); });
  }
  static bool plain(const Block& block) {
    return std::none_of(block.begin(), block.end(), [](const Stmt& s) { return std::holds_alternative<Each>(s.node) || std::holds_alternative<Store>(s.node); });
  }

  // The reduction whose results a carry combines.
  static const ReduceTile* combined(const Seq& q, size_t carry, Op combine) {
    const MapTile* update = maker<MapTile>(q.body, q.yields[carry]);
    if (!update || update->args.size() != 2 || update->expr.size() != 3 || !is_op(update->expr[2], combine) || update->expr[2].args != std::vector{0, 1} || update->args[0] != q.carries[carry].var) return nullptr;
    const ReduceTile* r = maker<ReduceTile>(q.body, update->args[1]);
    return r && r->combine == combine && r->axes == q.axes && q.carries[carry].init == identity_of(combine, q.carries[carry].init.dtype) ? r : nullptr;
  }
  // Is it the maximum, but another number where that is not finite?
  static bool is_finite_maximum(const MapTile& m) {
    const auto node = [&](int i) -> const ScalarNode& { return m.expr[static_cast<size_t>(i)]; };
    const auto is_argument = [&](int i) { return node(i).kind == ScalarNode::Kind::operand; };
    const auto is_constant = [&](int i) { return node(i).kind == ScalarNode::Kind::constant; };
    const ScalarNode& chosen = m.expr.back();
    if (!is_op(chosen, Op::select) || !is_op(node(chosen.args[0]), Op::lt) || !is_argument(chosen.args[1]) || !is_constant(chosen.args[2])) return false;
    const std::vector<int>& compared = node(chosen.args[0]).args;
    return is_op(node(compared[0]), Op::abs) && is_argument(node(compared[0]).args[0]) && is_constant(compared[1]) && node(compared[1]).constant.f == INFINITY && std::isfinite(node(chosen.args[2]).constant.f);
  }

  static bool reads(const MapTile& m, int node, ValueId v) {
    const ScalarNode& n = m.expr[static_cast<size_t>(node)];
    if (n.kind == ScalarNode::Kind::operand) return m.args[static_cast<size_t>(n.operand)] == v;
    return std::any_of(n.args.begin(), n.args.end(), [&](int a) { return reads(m, a, v); });
  }
  // The node x of exp(x - r), perhaps times and over what does not read r.
  static std::optional<int> exponent(const MapTile& m, ValueId r) {
    int node = static_cast<int>(m.expr.size()) - 1;
    for (;;) {
      const ScalarNode& n = m.expr[static_cast<size_t>(node)];
      if (is_op(n, Op::exp)) {
        const ScalarNode& difference = m.expr[static_cast<size_t>(n.args[0])];
        if (!is_op(difference, Op::sub) || reads(m, difference.args[0], r)) return std::nullopt;
        const ScalarNode& shift = m.expr[static_cast<size_t>(difference.args[1])];
        return shift.kind == ScalarNode::Kind::operand && reads(m, difference.args[1], r) ? std::optional(difference.args[0]) : std::nullopt;
      }
      if (!is_op(n, Op::mul) && !is_op(n, Op::div)) return std::nullopt;
      const bool left = reads(m, n.args[0], r), right = reads(m, n.args[1], r);
      if (left == right || (right && n.op == Op::div)) return std::nullopt;
      node = n.args[left ? 0 : 1];
    }
  }
  static bool equal_trees(const MapTile& a, int i, const MapTile& b, int j, const Names& names) {
    ScalarNode x = a.expr[static_cast<size_t>(i)], y = b.expr[static_cast<size_t>(j)];
    if (x.kind == ScalarNode::Kind::operand && y.kind == ScalarNode::Kind::operand) return a.args[static_cast<size_t>(x.operand)] == named(names, b.args[static_cast<size_t>(y.operand)]);
    std::vector<int> below_x, below_y;
    x.args.swap(below_x), y.args.swap(below_y);
    return equal_nodes(x, y) && std::equal(below_x.begin(), below_x.end(), below_y.begin(), below_y.end(), [&](int p, int q) { return equal_trees(a, p, b, q, names); });
  }
  // Is the node, in the later loop, what the earlier one finds the maximum of?
  bool is_same(const Block& body, size_t i, size_t j, ValueId x, const MapTile& m, int node) const {
    Kernel trial = k_;
    Equal equal(trial);
    const Seq &first = std::get<Seq>(body[i].node), &second = std::get<Seq>(body[j].node);
    Names names;
    Block outside, inside = first.body, later = second.body;
    for (size_t s = 0; s < j; ++s)
      if (!std::holds_alternative<Seq>(body[s].node) && !std::holds_alternative<Each>(body[s].node)) equal.take_in(outside, {body[s]}, names);
    std::map<AxisId, AxisId> axes;
    for (size_t a = 0; a < first.axes.size(); ++a) axes[second.axes[a]] = first.axes[a];
    for (Stmt& s : inside) rename_reads(s, names);
    rename_axes(trial, later, axes);
    const MapTile renamed = *maker<MapTile>(later, m.out);
    equal.take_in(inside, later, names);
    if (const ScalarNode& n = renamed.expr[static_cast<size_t>(node)]; n.kind == ScalarNode::Kind::operand && named(names, renamed.args[static_cast<size_t>(n.operand)]) == x) return true;
    const MapTile* made = maker<MapTile>(inside, x);
    return made && equal_trees(*made, static_cast<int>(made->expr.size()) - 1, renamed, node, names);
  }
  // The node as a map of its own.
  static MapTile part_of(const MapTile& m, int node) {
    MapTile out{-1, {}, {}};
    std::map<int, int> done;
    const std::function<int(int)> copy = [&](int i) {
      if (const auto it = done.find(i); it != done.end()) return it->second;
      ScalarNode n = m.expr[static_cast<size_t>(i)];
      for (int& a : n.args) a = copy(a);
      if (n.kind == ScalarNode::Kind::operand) {
        out.args.push_back(m.args[static_cast<size_t>(n.operand)]);
        n.operand = static_cast<int>(out.args.size()) - 1;
      }
      out.expr.push_back(std::move(n));
      return done[i] = static_cast<int>(out.expr.size()) - 1;
    };
    copy(node);
    return out;
  }

  bool merge(Block& body, size_t i, size_t j) {
    const auto *first = std::get_if<Seq>(&body[i].node), *second = std::get_if<Seq>(&body[j].node);
    if (!first || !second || first->carries.size() != 1 || second->carries.empty() || !has_loop(first->body) || !plain(first->body) || !plain(second->body) || !Equal(k_).alike(first->axes, second->axes)) return false;
    const ReduceTile* top = combined(*first, 0, Op::max);
    const ValueId most = first->outs[0];
    const DType dtype = value(most).dtype;
    if (!top || (dtype != DType::f32 && dtype != DType::f64)) return false;
    if (std::any_of(first->axes.begin(), first->axes.end(), [&](AxisId a) { return k_.axes[static_cast<size_t>(a)].extent < 1 || k_.axes[static_cast<size_t>(a)].symbol; })) return false;
    // What the maximum becomes; of it the later loop reads one value.
    std::set<ValueId> behind{most}, read, shifts;
    std::vector<char> late(body.size());
    for (size_t s = i + 1; s < j; ++s) {
      std::set<ValueId> wants;
      add_read_by(body[s], wants);
      late[s] = std::any_of(wants.begin(), wants.end(), [&](ValueId v) { return behind.count(v) > 0; });
      if (late[s]) add_made_by(body[s], behind);
    }
    add_read_by(body[j], read);
    std::set_intersection(read.begin(), read.end(), behind.begin(), behind.end(), std::inserter(shifts, shifts.end()));
    if (shifts.size() != 1) return false;
    const ValueId shift = *shifts.begin();
    const MapTile* guard = shift == most ? nullptr : maker<MapTile>(body, shift);
    if (shift != most && (!guard || guard->args != std::vector{most} || !is_finite_maximum(*guard))) return false;
    // Each sum is one of exp(x - shift).
    std::vector<const ReduceTile*> sums;
    const MapTile* x_in = nullptr;
    int x = -1;
    std::set<ValueId> shifted;
    for (size_t c = 0; c < second->carries.size(); ++c) {
      sums.push_back(combined(*second, c, Op::add));
      const MapTile* terms = sums.back() ? maker<MapTile>(second->body, sums.back()->arg) : nullptr;
      const auto e = terms && value(terms->out).dtype == dtype ? exponent(*terms, shift) : std::nullopt;
      if (!e || !is_same(body, i, j, top->arg, *terms, *e)) return false;
      if (!x_in || comes_first(second->body, terms->out, x_in->out)) x_in = terms, x = *e;   // its arguments are there before all of them
      shifted.insert(terms->out);
    }
    for (const Stmt& s : second->body) {   // and nothing else reads the shift or a sum so far
      std::set<ValueId> wants, made;
      add_read_by(s, wants);
      add_made_by(s, made);
      for (size_t c = 0; c < second->carries.size(); ++c)
        if (wants.count(second->carries[c].var) && !made.count(second->yields[c])) return false;
      if (wants.count(shift) && !std::any_of(made.begin(), made.end(), [&](ValueId v) { return shifted.count(v) > 0; })) return false;
    }

    // Maximum, shift and factor, before the first terms.
    const std::vector<AxisId> kept = value(most).axes;
    Seq one = *second;
    const ValueId before = new_value(dtype, kept), part = new_value(dtype, kept), after = new_value(dtype, kept), now = new_value(dtype, kept), factor = new_value(dtype, kept);
    MapTile elements = part_of(*x_in, x);
    std::vector<AxisId> axes = kept;
    axes.insert(axes.end(), one.axes.begin(), one.axes.end());
    std::sort(axes.begin(), axes.end());
    elements.out = new_value(dtype, axes);
    Block head;
    head.push_back({elements});
    head.push_back({ReduceTile{part, Op::max, one.axes, elements.out}});
    head.push_back({MapTile{after, {operand_node(0, dtype), operand_node(1, dtype), op_node(Op::max, dtype, {0, 1})}, {before, part}}});
    if (guard) head.push_back({MapTile{now, guard->expr, {after}}});
    else head.push_back({MapTile{now, {operand_node(0, dtype), constant_node(-INFINITY, dtype), op_node(Op::eq, DType::boolean, {0, 1}), constant_node(0, dtype), op_node(Op::select, dtype, {2, 3, 0})}, {after}}});
    head.push_back({MapTile{factor, {operand_node(0, dtype), operand_node(1, dtype), op_node(Op::sub, dtype, {0, 1}), op_node(Op::exp, dtype, {2})}, {before, now}}});
    Block steps;
    for (Stmt& s : one.body) {
      if (auto* m = std::get_if<MapTile>(&s.node)) {
        if (shifted.count(m->out)) std::move(head.begin(), head.end(), std::back_inserter(steps)), head.clear();
        rename_reads(s, {{shift, now}});
        const bool is_sum = std::find(one.yields.begin(), one.yields.end(), m->out) != one.yields.end();
        if (is_sum && !planted(Fault::sum_not_scaled)) *m = {m->out, {operand_node(0, dtype), operand_node(1, dtype), operand_node(2, dtype), op_node(Op::mul, dtype, {0, 1}), op_node(Op::add, dtype, {3, 2})}, {m->args[0], factor, m->args[1]}};
      }
      steps.push_back(std::move(s));
    }
    one.body = std::move(steps);
    Block fixed;
    if (!guard)
      for (ValueId& out : one.outs) {
        const ValueId sum = new_value(dtype, kept);
        fixed.push_back({MapTile{out, {operand_node(0, dtype), operand_node(1, dtype), constant_node(-INFINITY, dtype), op_node(Op::eq, DType::boolean, {1, 2}), constant_node(NAN, dtype), op_node(Op::select, dtype, {3, 4, 0})}, {sum, most}}});
        out = sum;
      }
    one.carries.push_back({before, first->carries[0].init});
    one.yields.push_back(after);
    one.outs.push_back(most);

    for (AxisId a : first->axes) k_.axes[static_cast<size_t>(a)].from.reset(), k_.axes[static_cast<size_t>(a)].to.reset();   // nothing walks it
    Block out;
    for (size_t s = 0; s < j; ++s)
      if (s != i && !late[s]) out.push_back(std::move(body[s]));
    out.push_back({std::move(one)});
    std::move(fixed.begin(), fixed.end(), std::back_inserter(out));
    for (size_t s = i + 1; s < body.size(); ++s)
      if (s > j || late[s]) out.push_back(std::move(body[s]));
    body = std::move(out);
    return true;
  }
};

}  // namespace

Kernel online(const Kernel& kernel) { return Online(kernel).run(); }

}  // namespace quern
