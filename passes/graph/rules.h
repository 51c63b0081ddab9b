// The rule table of `simplify`: exact rewrites only, each bit-equal for every input including NaN, infinities and -0.
// A rule reads `rule(name, pattern holds?, replacement)`; the same table drives the pass and its own fuzz test
// (tests/fast/passes_test.cpp evaluates graphs before and after and wants equal bits).
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>

#include "ir/op.h"
#include "ir/support/fault.h"

namespace quern {

/// Looks at a node about to be added and at what its arguments are.
struct Match {
  GraphBuilder& b;
  Op op;
  const std::vector<NodeId>& args;
  const Attrs& attrs;
  Type type;                                         // of the result

  const Node& arg(size_t i) const { return b.graph().at(args[i]); }
  bool is(size_t i, Op o) const { return arg(i).op == o; }
  /// The value of argument i where it is one constant everywhere.
  std::optional<Scalar> constant(size_t i) const {
    const Node* n = &arg(i);
    while (means<View>(n->op) && n->args.size() == 1) n = &b.graph().at(n->args[0]);
    if (n->op != Op::constant || n->attrs.value->size() != 1) return std::nullopt;
    return n->attrs.value->get(0);
  }
  bool is_value(size_t i, double v) const {
    const auto c = constant(i);
    return c && (is_float(c->dtype) ? c->f == v && std::signbit(c->f) == std::signbit(v) : c->i == static_cast<int64_t>(v));
  }
  bool integer() const { return is_integer(type.dtype); }
};

inline Attrs attrs_with(Shape Attrs::*field, Shape value) {
  Attrs a;
  a.*field = std::move(value);
  return a;
}

/// A window whose kernel has one place, which reads what lies at its position.
inline bool single_places(const Match& m) {
  const size_t n = m.attrs.shape.size();
  for (size_t d = 0; d < n; ++d)
    if (m.attrs.start[d] != 0 || m.attrs.stride[d] != m.attrs.base[d] || m.type.shape[m.type.shape.size() - n + d] != 1) return false;
  return true;
}

/// Calls `rule(name, holds, make)` for each rule in turn until one returns true.
template <class Rule>
bool add_rules(const Match& m, Rule&& rule) {
  const auto keep = [&](size_t i) { return [&m, i] { return m.args[i]; }; };
  const auto full = [&](double v) { return [&m, v] { return m.b.full(m.type, v); }; };
  const auto same_type = [&](size_t i) { return m.arg(i).type == m.type; };
  const auto nothing_but = [&](size_t i) {   // a product with one number, of which nothing is summed or moved
    if (m.op != Op::contract || !same_type(i) || !m.arg(1 - i).type.shape.empty()) return false;
    const ContractSpec spec = parse_contract(m.attrs.spec);
    return (i ? spec.rhs : spec.lhs) == spec.out;
  };
  return rule("x + (-0) = x", m.op == Op::add && (m.is_value(1, -0.0) || (m.integer() && m.is_value(1, 0))), keep(0)) ||
         rule("(-0) + x = x", m.op == Op::add && (m.is_value(0, -0.0) || (m.integer() && m.is_value(0, 0))), keep(1)) ||
         rule("x - 0 = x", m.op == Op::sub && m.is_value(1, 0.0), keep(0)) ||
         rule("cast(number) = number", m.op == Op::cast && is_float(m.type.dtype) && is_float(m.arg(0).type.dtype) && m.constant(0) && std::isfinite(m.constant(0)->f), [&] { return m.b.full(m.type, m.constant(0)->f); }) ||
         rule("contract(1, x) = x", nothing_but(1) && m.is_value(0, 1), keep(1)) ||
         rule("contract(x, 1) = x", nothing_but(0) && m.is_value(1, 1), keep(0)) ||
         rule("x * 1 = x", m.op == Op::mul && m.is_value(1, 1), keep(0)) ||
         rule("1 * x = x", m.op == Op::mul && m.is_value(0, 1), keep(1)) ||
         rule("x / 1 = x", m.op == Op::div && m.is_value(1, 1), keep(0)) ||
         rule("integer x * 0 = 0", m.op == Op::mul && m.integer() && (m.is_value(1, 0) || m.is_value(0, 0)), full(0)) ||
         rule("integer x - x = 0", m.op == Op::sub && m.integer() && m.args[0] == m.args[1], full(0)) ||
         rule("neg(neg x) = x", m.op == Op::neg && m.is(0, Op::neg), [&] { return m.arg(0).args[0]; }) ||
         rule("abs(neg x) = abs x", m.op == Op::abs && m.is(0, Op::neg) && !is_unsigned(m.type.dtype), [&] { return m.b.add(Op::abs, {m.arg(0).args[0]}); }) ||
         rule("abs(abs x) = abs x", m.op == Op::abs && m.is(0, Op::abs), keep(0)) ||
         rule("not(not x) = x", m.op == Op::logical_not && m.is(0, Op::logical_not), [&] { return m.arg(0).args[0]; }) ||
         rule("x and x = x", (m.op == Op::logical_and || m.op == Op::logical_or) && m.args[0] == m.args[1], keep(0)) ||
         rule("max(x, x) = x", (m.op == Op::max || m.op == Op::min) && m.args[0] == m.args[1], keep(0)) ||
         rule("select(p, x, x) = x", m.op == Op::select && m.args[1] == m.args[2], keep(1)) ||
         rule("select(true, x, y) = x", m.op == Op::select && m.is_value(0, 1), keep(1)) ||
         rule("select(false, x, y) = y", m.op == Op::select && m.is_value(0, 0), keep(2)) ||
         rule("cast to the same dtype", m.op == Op::cast && same_type(0), keep(0)) ||
         rule("bitcast to the same dtype", m.op == Op::bitcast && same_type(0), keep(0)) ||
         rule("stop_gradient after autodiff", m.op == Op::stop_gradient, keep(0)) ||
         rule("reshape to the same shape", m.op == Op::reshape && same_type(0), keep(0)) ||
         rule("reshape(reshape x)", m.op == Op::reshape && m.is(0, Op::reshape), [&] { return m.b.add(Op::reshape, {m.arg(0).args[0]}, m.attrs); }) ||
         rule("transpose by the identity", m.op == Op::transpose && std::is_sorted(m.attrs.axes.begin(), m.attrs.axes.end()), keep(0)) ||
         rule("transpose(transpose x)", m.op == Op::transpose && m.is(0, Op::transpose),
              [&] {
                Shape axes, outer = m.attrs.axes, inner = m.arg(0).attrs.axes;
                if (planted(Fault::transposes_composed_backwards)) std::swap(outer, inner);
                for (int64_t a : outer) axes.push_back(inner[static_cast<size_t>(a)]);
                return m.b.add(Op::transpose, {m.arg(0).args[0]}, attrs_with(&Attrs::axes, axes));
              }) ||
         rule("broadcast to the same shape", m.op == Op::broadcast && same_type(0), keep(0)) ||
         rule("broadcast(broadcast x)", m.op == Op::broadcast && m.is(0, Op::broadcast),
              [&] {
                Attrs a = m.attrs;
                a.axes.clear();
                for (int64_t d : m.arg(0).attrs.axes) a.axes.push_back(m.attrs.axes[static_cast<size_t>(d)]);
                return m.b.add(Op::broadcast, {m.arg(0).args[0]}, a);
              }) ||
         rule("reverse(reverse x)", m.op == Op::reverse && m.is(0, Op::reverse) && m.attrs.axes == m.arg(0).attrs.axes, [&] { return m.arg(0).args[0]; }) ||
         rule("slice of everything", m.op == Op::slice && same_type(0), keep(0)) ||
         rule("pad by nothing", m.op == Op::pad && same_type(0), keep(0)) ||
         rule("window of single places", m.op == Op::window && same_type(0) && single_places(m), keep(0)) ||
         rule("concat of one", m.op == Op::concat && m.args.size() == 1, keep(0)) ||
         rule("reduce over no axis", means<Reduce>(m.op) && m.attrs.axes.empty(), keep(0));
}

}  // namespace quern
