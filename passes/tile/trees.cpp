// See trees.h.
#include "passes/tile/trees.h"

#include <algorithm>
#include <map>

namespace quern {

using namespace tile;

bool is(const TreePtr& t, Op op) { return t->leaf == Tree::Leaf::none && t->node.kind == ScalarNode::Kind::op && t->node.op == op; }
bool is_constant(const TreePtr& t) { return t->leaf == Tree::Leaf::none && t->node.kind == ScalarNode::Kind::constant; }
bool has(const TreePtr& t, const std::function<bool(const Tree&)>& test) {
  return test(*t) || std::any_of(t->args.begin(), t->args.end(), [&](const TreePtr& a) { return has(a, test); });
}
bool has_leaf(const TreePtr& t, Tree::Leaf leaf) {
  return has(t, [&](const Tree& x) { return x.leaf == leaf; });
}
bool equal(const TreePtr& a, const TreePtr& b) {
  const ScalarNode &x = a->node, &y = b->node;
  if (a->leaf != b->leaf || a->which != b->which || a->args.size() != b->args.size()) return false;
  if (a->leaf == Tree::Leaf::none && (x.kind != y.kind || x.dtype != y.dtype || x.op != y.op || !(x.coord == y.coord) || (is_constant(a) && !(x.constant == y.constant)))) return false;
  return std::equal(a->args.begin(), a->args.end(), b->args.begin(), equal);
}

TreePtr leaf(Tree::Leaf l, int which, DType dtype) { return std::make_shared<const Tree>(Tree{l, {ScalarNode::Kind::operand, dtype}, {}, which}); }
TreePtr constant(double x) {
  Tree t{Tree::Leaf::none, {ScalarNode::Kind::constant, DType::f32}, {}};
  t.node.constant = Scalar::of(DType::f32, x);
  return std::make_shared<const Tree>(std::move(t));
}
TreePtr op(Op o, std::vector<TreePtr> args, DType dtype) { return std::make_shared<const Tree>(Tree{Tree::Leaf::none, {ScalarNode::Kind::op, dtype, o}, std::move(args)}); }

TreePtr with_args(const Tree& t, std::vector<TreePtr> args) {
  Tree out{t.leaf, t.node, std::move(args), t.which};
  out.node.args.clear();
  if (out.leaf == Tree::Leaf::none && out.node.kind == ScalarNode::Kind::op && !out.args.empty() && std::all_of(out.args.begin(), out.args.end(), is_constant)) {
    std::vector<Scalar> numbers;
    for (const TreePtr& a : out.args) numbers.push_back(a->node.constant);
    out.node = {ScalarNode::Kind::constant, t.node.dtype};
    out.node.constant = apply_scalar(t.node.op, t.node.dtype, numbers);
    out.args.clear();
  }
  return std::make_shared<const Tree>(std::move(out));
}
TreePtr rewritten(const TreePtr& t, const std::function<TreePtr(const TreePtr&)>& f) {
  std::vector<TreePtr> args;
  for (const TreePtr& a : t->args) args.push_back(rewritten(a, f));
  return f(args == t->args ? t : with_args(*t, std::move(args)));
}
TreePtr inside(AxisId axis, int64_t extent) {
  Tree at{Tree::Leaf::none, {ScalarNode::Kind::coord, DType::i64}, {}}, end{Tree::Leaf::none, {ScalarNode::Kind::constant, DType::i64}, {}};
  at.node.coord = Index::axis(axis, extent), end.node.constant = Scalar::of_int(DType::i64, extent);
  return op(Op::lt, {std::make_shared<const Tree>(at), std::make_shared<const Tree>(end)}, DType::boolean);
}

MapTile map_of(const TreePtr& t, ValueId out, const std::vector<Value>& values, const std::function<ValueId(const Tree&)>& tile_of, const std::function<Index(const Index&)>& moved, bool fast) {
  MapTile m{out, {}, {}, fast};
  std::map<const Tree*, int> done;
  const std::function<int(const TreePtr&)> add = [&](const TreePtr& x) {
    if (const auto it = done.find(x.get()); it != done.end()) return it->second;
    ScalarNode n = x->node;
    if (x->leaf != Tree::Leaf::none) {
      const ValueId v = tile_of(*x);
      const auto at = std::find(m.args.begin(), m.args.end(), v);
      n = {ScalarNode::Kind::operand, values[static_cast<size_t>(v)].dtype};
      n.operand = static_cast<int>(at - m.args.begin());
      if (at == m.args.end()) m.args.push_back(v);
    }
    if (n.kind == ScalarNode::Kind::coord) n.coord = moved(n.coord);
    n.args.clear();
    for (const TreePtr& a : x->args) n.args.push_back(add(a));
    m.expr.push_back(std::move(n));
    return done[x.get()] = static_cast<int>(m.expr.size()) - 1;
  };
  add(t);
  return m;
}

}  // namespace quern
