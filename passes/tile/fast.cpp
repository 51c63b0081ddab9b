// See fast.h.
#include "passes/tile/fast.h"

#include <algorithm>

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

}  // namespace

Kernel fast_maps(Kernel kernel) {
  for (Phase& p : kernel.phases) {
    mark(kernel, p.body);
    for (Role& r : p.roles) mark(kernel, r.body);
  }
  return kernel;
}

}  // namespace quern
