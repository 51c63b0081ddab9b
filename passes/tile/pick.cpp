// See pick.h. Such sums come from labels: the loss of a row reads one logit, and its gradient subtracts 1 at one place.
#include "passes/tile/pick.h"

#include <algorithm>

namespace quern {

using namespace tile;

namespace {

class Picker {
 public:
  explicit Picker(const Kernel& kernel) : k_(kernel) {}

  Kernel run() {
    for (Phase& phase : k_.phases) {
      Block out;
      for (Stmt& s : phase.body) {
        const auto* q = std::get_if<Seq>(&s.node);
        if (q) {
          std::vector<Value> before = k_.values;
          if (replace(*q, out)) continue;
          k_.values = std::move(before);
        }
        out.push_back(std::move(s));
      }
      phase.body = std::move(out);
    }
    return std::move(k_);
  }

 private:
  Kernel k_;

  Value& value(ValueId v) { return k_.values[static_cast<size_t>(v)]; }
  ValueId fresh(DType dtype, std::vector<AxisId> axes) {
    k_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(k_.values.size() - 1);
  }
  static ScalarNode op(Op o, DType dtype, std::vector<int> args) {
    ScalarNode n{ScalarNode::Kind::op, dtype, o};
    n.args = std::move(args);
    return n;
  }
  static ScalarNode constant(Scalar c) {
    ScalarNode n{ScalarNode::Kind::constant, c.dtype};
    n.constant = c;
    return n;
  }
  static ScalarNode operand(DType dtype, int which) {
    ScalarNode n{ScalarNode::Kind::operand, dtype};
    n.operand = which;
    return n;
  }
  static bool is_zero(const ScalarNode& n) { return n.kind == ScalarNode::Kind::constant && (is_float(n.dtype) ? n.constant.f == 0 : n.constant.i == 0); }

  // The coordinate of the axis, in an integer type that counts so far.
  bool counts(const ScalarExpr& e, int i, AxisId axis) const {
    const ScalarNode& n = e[static_cast<size_t>(i)];
    if (n.kind == ScalarNode::Kind::coord) return n.coord.kind() == Index::Kind::axis && n.coord.value() == axis;
    if (n.kind != ScalarNode::Kind::op || n.op != Op::cast || is_float(n.dtype) || n.dtype == DType::boolean || size_of(n.dtype) < 2) return false;
    return k_.axes[static_cast<size_t>(axis)].extent <= (size_of(n.dtype) == 2 ? INT16_MAX : INT32_MAX) && counts(e, n.args[0], axis);
  }

  // Appends what the loop comes to and returns true, or returns false.
  bool replace(const Seq& q, Block& out) {
    if (q.axes.size() != 1 || q.carries.size() != 1 || k_.axes[static_cast<size_t>(q.axes[0])].symbol) return false;
    const AxisId axis = q.axes[0];
    const Scalar init = q.carries[0].init;
    if (is_float(init.dtype) ? init.f != 0 : init.i != 0) return false;
    // … map, reduce<add>, map(add(carry, part)).
    if (q.body.size() < 3) return false;
    const auto* update = std::get_if<MapTile>(&q.body.back().node);
    const auto* sum = std::get_if<ReduceTile>(&q.body[q.body.size() - 2].node);
    const auto* last = std::get_if<MapTile>(&q.body[q.body.size() - 3].node);
    if (!update || !sum || !last || sum->combine != Op::add || sum->axes != q.axes || sum->arg != last->out || update->out != q.yields[0]) return false;
    if (update->args != std::vector{q.carries[0].var, sum->out} || update->expr.size() != 3 || update->expr.back().kind != ScalarNode::Kind::op || update->expr.back().op != Op::add) return false;
    // What is summed is select(label == coordinate, x, 0), or the negative of that.
    const ScalarExpr& e = last->expr;
    const ScalarNode* root = &e.back();
    const auto is_op = [](const ScalarNode& n, Op o) { return n.kind == ScalarNode::Kind::op && n.op == o; };
    if (is_op(*root, Op::neg)) root = &e[static_cast<size_t>(root->args[0])];
    if (!is_op(*root, Op::select) || !is_zero(e[static_cast<size_t>(root->args[2])])) return false;
    const ScalarNode& equal = e[static_cast<size_t>(root->args[0])];
    if (!is_op(equal, Op::eq)) return false;
    ValueId label = -1;
    for (int side = 0; side < 2; ++side) {
      const ScalarNode &l = e[static_cast<size_t>(equal.args[static_cast<size_t>(side)])], &c = e[static_cast<size_t>(equal.args[static_cast<size_t>(1 - side)])];
      if (l.kind != ScalarNode::Kind::operand || is_float(l.dtype) || l.dtype == DType::boolean) continue;
      const ValueId of = last->args[static_cast<size_t>(l.operand)];
      if (std::count(value(of).axes.begin(), value(of).axes.end(), axis)) continue;
      bool coordinate = counts(e, equal.args[static_cast<size_t>(1 - side)], axis);
      if (c.kind == ScalarNode::Kind::operand)
        for (const Stmt& s : q.body)
          if (const auto* m = std::get_if<MapTile>(&s.node)) coordinate = coordinate || (m->out == last->args[static_cast<size_t>(c.operand)] && counts(m->expr, static_cast<int>(m->expr.size()) - 1, axis));
      if (coordinate) label = of;
    }
    if (label < 0) return false;

    Block made;
    MapTile key{fresh(DType::i64, value(label).axes), {operand(value(label).dtype, 0)}, {label}};
    if (value(label).dtype != DType::i64) key.expr.push_back(op(Op::cast, DType::i64, {0}));
    const ValueId at = key.out;
    made.push_back({std::move(key)});
    for (size_t i = 0; i + 2 < q.body.size(); ++i) {
      Stmt s = q.body[i];
      ValueId defined = -1;
      if (auto* l = std::get_if<Load>(&s.node)) {
        defined = l->out;
        for (BoxIndex& box : l->index)
          if (box.gather < 0 && box.index.uses(axis)) {
            if (box.index.kind() != Index::Kind::axis) return false;
            box = {Index(0), at};
          }
      } else if (auto* m = std::get_if<MapTile>(&s.node)) {
        defined = m->out;
        for (ScalarNode& n : m->expr) {
          if (n.kind == ScalarNode::Kind::random && n.coord.uses(axis)) return false;
          if (n.kind != ScalarNode::Kind::coord || !n.coord.uses(axis)) continue;
          if (n.coord.kind() != Index::Kind::axis) return false;
          n = operand(DType::i64, static_cast<int>(m->args.size()));
          m->args.push_back(at);
        }
      } else {
        return false;
      }
      Value& v = value(defined);
      std::erase(v.axes, axis);
      for (AxisId a : value(at).axes)   // what was the same for all labels may not be any more
        if (!std::count(v.axes.begin(), v.axes.end(), a)) v.axes.insert(std::upper_bound(v.axes.begin(), v.axes.end(), a), a);
      made.push_back(std::move(s));
    }
    // Nothing is picked outside; a sum that began with 0 has no negative zero.
    const DType dtype = init.dtype;
    MapTile result{q.outs[0], {operand(DType::i64, 0), constant(Scalar::of_int(DType::i64, 0)), constant(Scalar::of_int(DType::i64, k_.axes[static_cast<size_t>(axis)].extent)),
                              op(Op::le, DType::boolean, {1, 0}), op(Op::lt, DType::boolean, {0, 2}), op(Op::logical_and, DType::boolean, {3, 4}),
                              operand(dtype, 1), constant(Scalar::of(dtype, 0)), op(Op::select, dtype, {5, 6, 7}), op(Op::add, dtype, {8, 7})}, {at, last->out}};
    if (value(q.outs[0]).axes != value(last->out).axes) return false;
    made.push_back({std::move(result)});
    out.insert(out.end(), std::make_move_iterator(made.begin()), std::make_move_iterator(made.end()));
    return true;
  }
};

}  // namespace

Kernel pick(const Kernel& kernel) { return Picker(kernel).run(); }

}  // namespace quern
