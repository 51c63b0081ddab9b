// See weights.h.
#include "passes/tile/weights.h"

#include <algorithm>
#include <cmath>

namespace quern {

using namespace tile;

namespace {

using L = Tree::Leaf;

// Of the product and quotients that it is, the one that is exp(select(mask, …, -inf) - …): 0 where the mask is not.
bool is_zero_outside(const TreePtr& t, const TreePtr& mask) {
  if (is(t, Op::mul)) return is_zero_outside(t->args[0], mask) || is_zero_outside(t->args[1], mask);
  if (is(t, Op::div)) return is_zero_outside(t->args[0], mask);
  if (!is(t, Op::exp) || !is(t->args[0], Op::sub)) return false;
  const TreePtr& x = t->args[0]->args[0];
  return is(x, Op::select) && equal(x->args[0], mask) && is_constant(x->args[2]) && x->args[2]->node.constant.f == -INFINITY;
}
bool is_number(const TreePtr& t, double x) { return is_constant(t) && is_float(t->node.dtype) && t->node.constant.f == x; }
std::optional<double> factor_of(const TreePtr& t) {
  return is_constant(t) && t->node.dtype == DType::f32 && std::isfinite(t->node.constant.f) && t->node.constant.f != 0 ? std::optional(t->node.constant.f) : std::nullopt;
}

}  // namespace

TreePtr factored(TreePtr w, double& factor) {
  for (bool more = true; more;) {
    more = false;
    if (is(w, Op::neg)) factor = -factor, w = TreePtr(w->args[0]), more = true;
    for (size_t a = 0; a < 2 && is(w, Op::mul) && !more; ++a)
      if (const auto c = factor_of(w->args[a])) factor *= *c, w = TreePtr(w->args[1 - a]), more = true;
    if (is(w, Op::select) && is_number(w->args[2], 0) && is_zero_outside(w->args[1], w->args[0])) w = TreePtr(w->args[1]), more = true;
  }
  // select(mask, c x, -inf) = c select(mask, x, -inf): then a block that the mask leaves whole is not looked at.
  return rewritten(w, [](const TreePtr& t) {
    if (!is(t, Op::select) || !is_number(t->args[2], -INFINITY) || !is(t->args[1], Op::mul)) return t;
    for (size_t a = 0; a < 2; ++a)
      if (const auto c = factor_of(t->args[1]->args[a]); c && *c > 0) return op(Op::mul, {op(Op::select, {t->args[0], t->args[1]->args[1 - a], t->args[2]}), t->args[1]->args[a]});
    return t;
  });
}

std::optional<double> at_zero(const TreePtr& t, bool seen) {
  if (t->leaf == L::score || t->leaf == L::vector) return 0;
  if (is_constant(t)) return is_float(t->node.dtype) ? std::optional(t->node.constant.f) : std::nullopt;
  if (is(t, Op::select)) return at_zero(t->args[seen ? 1 : 2], seen);
  if (t->leaf != L::none || t->node.kind != ScalarNode::Kind::op) return std::nullopt;
  std::vector<Scalar> args;
  for (const TreePtr& a : t->args) {
    const auto x = at_zero(a, seen);
    if (!x) return std::nullopt;
    args.push_back(Scalar::of(DType::f32, *x));
  }
  return t->node.dtype == DType::f32 ? std::optional(apply_scalar(t->node.op, DType::f32, args).f) : std::nullopt;
}

int last_product(const TreePtr& t) {
  int last = t->leaf == L::score ? t->which : -1;
  for (const TreePtr& a : t->args) last = std::max(last, last_product(a));
  return last;
}

int meets(const TreePtr& t, int vector) {
  for (const TreePtr& a : t->args) {
    if (!has(a, [&](const Tree& x) { return x.leaf == L::vector && x.which == vector; })) continue;
    const int there = meets(a, vector);
    return there >= 0 ? there : last_product(t);
  }
  return -1;
}

bool is_mask(const TreePtr& t) { return is(t, Op::select) && last_product(t->args[0]) < 0 && last_product(t->args[1]) >= 0 && is_constant(t->args[2]); }

}  // namespace quern
