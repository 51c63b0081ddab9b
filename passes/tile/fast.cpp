// See fast.h.
#include "passes/tile/fast.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

// Ops that `map fast` makes in another way: without one the map stays as it is.
bool differs(const ScalarExpr& expr) {
  return std::any_of(expr.begin(), expr.end(), [&](const ScalarNode& n) {
    if (n.kind != ScalarNode::Kind::op || n.dtype != DType::f32) return false;
    const auto is_product = [&](int a) { return expr[static_cast<size_t>(a)].kind == ScalarNode::Kind::op && expr[static_cast<size_t>(a)].op == Op::mul; };
    return n.op == Op::exp || n.op == Op::div || n.op == Op::erf || ((n.op == Op::add || n.op == Op::sub) && std::any_of(n.args.begin(), n.args.end(), is_product));
  });
}

void mark(const Kernel& k, Block& block) {
  const auto is_short = [&](ValueId v) {
    const DType d = k.values[static_cast<size_t>(v)].dtype;
    return d == DType::bf16 || d == DType::f16;
  };
  for (Stmt& s : block) {
    if (auto* m = std::get_if<MapTile>(&s.node)) m->fast = m->fast || (differs(m->expr) && (is_short(m->out) || std::any_of(m->args.begin(), m->args.end(), is_short)));
    if (auto* q = std::get_if<Seq>(&s.node)) mark(k, q->body);
    if (auto* e = std::get_if<Each>(&s.node)) mark(k, e->body);
    if (auto* r = std::get_if<InRole>(&s.node))
      for (Block* inner : blocks_of(*r)) mark(k, *inner);
  }
}

// A constant of f32, or a cast of one.
std::optional<double> constant_of(const ScalarExpr& expr) {
  const ScalarNode& last = expr.back();
  if (last.dtype != DType::f32) return std::nullopt;
  if (expr.size() == 1 && last.kind == ScalarNode::Kind::constant) return last.constant.f;
  if (expr.size() == 2 && expr[0].kind == ScalarNode::Kind::constant && last.kind == ScalarNode::Kind::op && last.op == Op::cast) return Scalar::cast(DType::f32, expr[0].constant).f;
  return std::nullopt;
}

// One map's expression with its constant factors together: each node is a factor times a node of the new expression.
class Factors {
 public:
  Factors(const MapTile& map, const std::map<ValueId, double>& constants) : map_(map), constants_(constants), uses_(map.expr.size()) {
    for (const ScalarNode& n : map.expr)
      for (int a : n.args) ++uses_[static_cast<size_t>(a)];
    for (size_t i = 0; i < map.expr.size(); ++i) done_.push_back(of(map.expr[i]));
    whole(static_cast<int>(map.expr.size()) - 1);
  }
  /// Without what is not used, and the arguments that are.
  void write(MapTile& map) const {
    std::vector<bool> used(out_.size());
    used[static_cast<size_t>(last_)] = true;
    for (size_t i = out_.size(); i-- > 0;)
      for (int a : out_[i].args) used[static_cast<size_t>(a)] = used[static_cast<size_t>(a)] || used[i];
    ScalarExpr expr;
    std::vector<int> at(out_.size());
    std::vector<ValueId> args;
    for (size_t i = 0; i <= static_cast<size_t>(last_); ++i) {
      if (!used[i]) continue;
      ScalarNode n = out_[i];
      for (int& a : n.args) a = at[static_cast<size_t>(a)];
      if (n.kind == ScalarNode::Kind::operand) {
        const ValueId read = map.args[static_cast<size_t>(n.operand)];
        n.operand = static_cast<int>(std::find(args.begin(), args.end(), read) - args.begin());
        if (n.operand == static_cast<int>(args.size())) args.push_back(read);
      }
      at[i] = static_cast<int>(expr.size());
      expr.push_back(std::move(n));
    }
    map.expr = std::move(expr), map.args = std::move(args);
  }

 private:
  struct Scaled {
    int node;
    double by;
  };   // node -1: the factor alone
  const MapTile& map_;
  const std::map<ValueId, double>& constants_;
  std::vector<int> uses_;
  std::vector<Scaled> done_;
  ScalarExpr out_;
  int last_ = -1;

  int push(ScalarNode n) {
    out_.push_back(std::move(n));
    return last_ = static_cast<int>(out_.size()) - 1;
  }
  int op(Op op, std::vector<int> args) { return push({ScalarNode::Kind::op, DType::f32, op, std::move(args)}); }
  int constant(double c) {
    ScalarNode n{ScalarNode::Kind::constant, DType::f32};
    n.constant = Scalar::of(DType::f32, c);
    return push(std::move(n));
  }
  // The node of a value as it is.
  int whole(int i) {
    Scaled& s = done_[static_cast<size_t>(i)];
    if (s.node < 0) s = {constant(s.by), 1};
    else if (s.by == -1) s = {op(Op::neg, {s.node}), 1};
    else if (s.by != 1) s = {op(Op::mul, {s.node, constant(s.by)}), 1};
    return last_ = s.node;
  }
  // As a factor: what others use, too, is made once.
  Scaled factor(int i) {
    const Scaled& s = done_[static_cast<size_t>(i)];
    return s.node < 0 || uses_[static_cast<size_t>(i)] == 1 ? s : Scaled{whole(i), 1};
  }
  static bool is_moderate(double c) { return std::abs(c) >= 0x1p-40 && std::abs(c) <= 0x1p40; }
  // (x + c) * by, where that rounds no more: x * by + c * by.
  std::optional<Scaled> inside(const Scaled& sum, double by) {
    int exponent = 0;
    if (sum.by != 1 || std::abs(std::frexp(by, &exponent)) != 0.5 || !is_moderate(by)) return std::nullopt;
    const ScalarNode n = out_[static_cast<size_t>(sum.node)];
    if (n.kind != ScalarNode::Kind::op || n.op != Op::add || n.dtype != DType::f32) return std::nullopt;
    for (size_t a = 0; a < 2; ++a)
      if (const ScalarNode c = out_[static_cast<size_t>(n.args[a])]; c.kind == ScalarNode::Kind::constant && is_moderate(c.constant.f)) {
        const int product = op(Op::mul, {n.args[1 - a], constant(by)});
        return Scaled{op(Op::add, {product, constant(c.constant.f * by)}), 1};
      }
    return std::nullopt;
  }
  Scaled product(int left, int right) {
    const Scaled a = factor(left), b = factor(right);
    const double by = a.by * b.by;
    if (a.node < 0 && b.node < 0) return {-1, static_cast<float>(by)};
    if (a.node < 0 || b.node < 0) {
      const bool first = a.node >= 0;
      if (uses_[static_cast<size_t>(first ? left : right)] == 1)
        if (const auto sum = inside(first ? a : b, first ? b.by : a.by)) return *sum;
      if (is_moderate(by)) return {first ? a.node : b.node, static_cast<float>(by)};
    } else if (is_moderate(by)) {
      return {op(Op::mul, {a.node, b.node}), static_cast<float>(by)};
    }
    const int x = whole(left), y = whole(right);
    return {op(Op::mul, {x, y}), 1};
  }
  Scaled of(const ScalarNode& n) {
    const auto f32 = [&](int a) { return map_.expr[static_cast<size_t>(a)].dtype == DType::f32; };
    if (n.kind == ScalarNode::Kind::operand && n.dtype == DType::f32)
      if (const auto c = constants_.find(map_.args[static_cast<size_t>(n.operand)]); c != constants_.end()) return {-1, c->second};
    if (n.kind == ScalarNode::Kind::constant && n.dtype == DType::f32) return {-1, n.constant.f};
    if (n.kind == ScalarNode::Kind::op && n.dtype == DType::f32 && n.op == Op::mul && f32(n.args[0]) && f32(n.args[1])) return product(n.args[0], n.args[1]);
    if (n.kind == ScalarNode::Kind::op && n.dtype == DType::f32 && n.op == Op::neg) {
      const Scaled s = factor(n.args[0]);
      return {s.node, -s.by};
    }
    ScalarNode copy = n;
    for (int& a : copy.args) a = whole(a);
    return {push(std::move(copy)), 1};
  }
};

// Fast maps of a block, which may read constants of blocks around.
void gather_factors(const Kernel& k, Block& block, std::map<ValueId, double> constants) {
  for (Stmt& s : block) {
    if (auto* m = std::get_if<MapTile>(&s.node)) {
      if (m->fast) Factors(*m, constants).write(*m);
      else if (const auto c = m->args.empty() ? constant_of(m->expr) : std::nullopt; c && k.values[static_cast<size_t>(m->out)].axes.empty()) constants[m->out] = *c;
    }
    if (auto* q = std::get_if<Seq>(&s.node)) gather_factors(k, q->body, constants);
    if (auto* e = std::get_if<Each>(&s.node)) gather_factors(k, e->body, constants);
    if (auto* r = std::get_if<InRole>(&s.node))
      for (Block* inner : blocks_of(*r)) gather_factors(k, *inner, constants);
  }
}

// Constants that nobody reads any more.
void drop_unread(Block& block, const std::set<ValueId>& read) {
  std::erase_if(block, [&](const Stmt& s) {
    const auto* m = std::get_if<MapTile>(&s.node);
    return m && m->args.empty() && !read.count(m->out);
  });
  for (Stmt& s : block) {
    if (auto* q = std::get_if<Seq>(&s.node)) drop_unread(q->body, read);
    if (auto* e = std::get_if<Each>(&s.node)) drop_unread(e->body, read);
    if (auto* r = std::get_if<InRole>(&s.node))
      for (Block* inner : blocks_of(*r)) drop_unread(*inner, read);
  }
}

}  // namespace

Kernel fast_maps(Kernel kernel) {
  for (Phase& p : kernel.phases) {
    std::vector<Block*> blocks = {&p.body};
    for (Role& r : p.roles) blocks.push_back(&r.body);
    for (Block* block : blocks) {
      mark(kernel, *block);
      gather_factors(kernel, *block, {});
      std::set<ValueId> read;
      for (const Stmt& s : *block) add_read_by(s, read);
      drop_unread(*block, read);
    }
  }
  return kernel;
}

}  // namespace quern
