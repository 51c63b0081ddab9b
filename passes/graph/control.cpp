// See control.h. All of it is Graph → Graph on the bodies: a body's derivative is built with it in one builder, by the
// same functions as a whole graph's, and then cut into the bodies of new ops.
//
// The derivative of a scan is a scan in the opposite direction. What it reads of the forward one are residuals: nodes of
// the body, stacked by a second forward scan that has the same carries (the pass `loops` makes one of the two).
// Scanned arguments are scanned again; what depends on neither carries nor scanned arguments, and views, are computed anew, and
// so are maps of what is kept besides, where that is cheaper than to write and read them:
//   keeps: x, e = exp(-x), d = 1 + e, y = 1 / d, c, tanh(c)      →   keeps: e, c
#include "passes/graph/control.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/autodiff.h"
#include "passes/graph/forward.h"
#include "passes/work.h"

namespace quern {
namespace {

std::shared_ptr<const Graph> shared(Graph graph) { return std::make_shared<const Graph>(dead_code(graph)); }
std::vector<NodeId> inputs_like(GraphBuilder& own, const Graph& body) {
  std::vector<NodeId> out;
  for (NodeId i : body.inputs) out.push_back(own.input(body.at(i).attrs.name, body.type(i)));
  return out;
}
bool float_typed(const Type& type) { return is_float(type.dtype); }
NodeId or_zero(GraphBuilder& b, NodeId cotangent, const Type& type) { return cotangent >= 0 ? cotangent : b.full(type, 0); }

/// Which nodes depend on one of `from`.
std::vector<char> dependents(const Graph& g, const std::vector<NodeId>& from) {
  std::vector<char> out(g.nodes.size());
  for (NodeId f : from) out[static_cast<size_t>(f)] = 1;
  for (size_t i = 0; i < g.nodes.size(); ++i)
    for (NodeId a : g.nodes[i].args) out[i] = out[i] || out[static_cast<size_t>(a)];
  return out;
}
/// The inputs of a loop's body that may depend on the `moving` ones when it has run some times.
std::vector<char> moving_inputs(const Graph& body, std::vector<char> moving, int64_t carries) {
  for (bool changed = true; changed;) {
    changed = false;
    std::vector<NodeId> from;
    for (size_t i = 0; i < moving.size(); ++i)
      if (moving[i]) from.push_back(body.inputs[i]);
    const std::vector<char> depends = differentiable(body, from, body.nodes.size());
    for (size_t k = 0; k < static_cast<size_t>(carries); ++k)
      if (!moving[k] && depends[static_cast<size_t>(body.outputs[k].node)] && float_typed(body.type(body.inputs[k]))) moving[k] = changed = true;
  }
  return moving;
}

// --- reverse ---

// args, then the cotangents of all outputs → the cotangents of the wanted inputs.
Graph vjp_graph(const Graph& body, const std::vector<char>& wanted) {
  GraphBuilder own;
  const std::vector<NodeId> in = inputs_like(own, body), out = own.inline_body(body, in);
  std::vector<Cotangent> pairs;
  for (NodeId o : out) {
    const NodeId g = own.input("", own.type(o));
    if (float_typed(own.type(o))) pairs.push_back({o, g});
  }
  std::vector<NodeId> of;
  for (size_t i = 0; i < in.size(); ++i)
    if (wanted[i]) of.push_back(in[i]);
  for (NodeId g : gradients(own, pairs, of)) own.output("", g);
  return own.finish();
}
std::vector<NodeId> spread(const std::vector<NodeId>& parts, const std::vector<char>& wanted) {
  std::vector<NodeId> out(wanted.size(), -1);
  for (size_t i = 0, k = 0; i < wanted.size(); ++i)
    if (wanted[i]) out[i] = parts[k++];
  return out;
}
std::vector<NodeId> with_cotangents(GraphBuilder& b, std::vector<NodeId> args, const std::vector<Type>& results, const std::vector<NodeId>& cotangents) {
  for (size_t r = 0; r < results.size(); ++r) args.push_back(or_zero(b, cotangents[r], results[r]));
  return args;
}

std::vector<NodeId> vjp_of_checkpoint(GraphBuilder& b, const Node& node, const std::vector<NodeId>& cotangents, const std::vector<char>& wanted) {
  std::vector<NodeId> args;
  for (NodeId a : node.args) args.push_back(b.add(Op::barrier, {a}));
  return spread(b.inline_body(vjp_graph(*node.attrs.body, wanted), with_cotangents(b, std::move(args), node.type.results, cotangents)), wanted);
}

std::vector<NodeId> vjp_by_user(GraphBuilder& b, const Node& node, const std::vector<NodeId>& cotangents) {
  std::vector<char> floats;
  for (NodeId a : node.args) floats.push_back(float_typed(b.type(a)));
  return spread(b.inline_body(*node.attrs.derivative, with_cotangents(b, node.args, node.type.results, cotangents)), floats);
}

std::vector<NodeId> vjp_of_cond(GraphBuilder& b, const Node& node, const std::vector<NodeId>& cotangents, const std::vector<char>& wanted) {
  const std::vector<char> of(wanted.begin() + 1, wanted.end());
  Attrs attrs;
  attrs.body = shared(vjp_graph(*node.attrs.body, of));
  attrs.otherwise = shared(vjp_graph(*node.attrs.otherwise, of));
  if (planted(Fault::cond_vjp_swapped)) std::swap(attrs.body, attrs.otherwise);
  const NodeId reverse = b.add(Op::cond, with_cotangents(b, node.args, node.type.results, cotangents), std::move(attrs));
  std::vector<NodeId> out = spread(b.results(reverse), of);
  out.insert(out.begin(), -1);
  return out;
}

class ScanVjp {
 public:
  ScanVjp(GraphBuilder& b, const Node& node, const std::vector<NodeId>& cotangents, const std::vector<char>& wanted)
      : b_(b), node_(node), body_(*node.attrs.body), cotangents_(cotangents), carries_(static_cast<size_t>(node.attrs.index[0])), scanned_(static_cast<size_t>(node.attrs.index[1])),
        wanted_(moving_inputs(body_, wanted, node.attrs.index[0])) {}

  std::vector<NodeId> run() {
    differentiate();
    choose_residuals();
    return build(stacks());
  }

 private:
  GraphBuilder& b_;
  const Node& node_;
  const Graph& body_;
  const std::vector<NodeId>& cotangents_;
  size_t carries_, scanned_;
  std::vector<char> wanted_;                 // of the body's inputs
  GraphBuilder own_;                         // the body, then its derivative
  std::vector<NodeId> in_, given_;           // the body's inputs; cotangents of its outputs, -1: none
  std::vector<NodeId> parts_;                // cotangents of the wanted inputs
  NodeId first_ = 0;                         // where the derivative begins
  std::vector<NodeId> order_;                // nodes of the reverse body
  std::vector<char> varies_;                 // from step to step
  std::set<NodeId> again_;                   // nodes of the body that the reverse one computes, too
  std::vector<NodeId> residuals_;            // nodes of the body that are stacked
  std::vector<char> used_;                   // inputs of the body that the reverse one reads as they are

  bool is_carry(size_t input) const { return input < carries_; }
  bool is_scanned(size_t input) const { return input >= carries_ && input < carries_ + scanned_; }

  void differentiate() {
    in_ = inputs_like(own_, body_);
    const std::vector<NodeId> out = own_.inline_body(body_, in_);
    first_ = static_cast<NodeId>(own_.graph().nodes.size());
    std::vector<Cotangent> pairs;
    for (size_t o = 0; o < out.size(); ++o) {
      const bool flows = o < carries_ ? wanted_[o] != 0 : cotangents_[o] >= 0 && float_typed(own_.type(out[o])) && !planted(Fault::stack_cotangent);
      given_.push_back(flows ? own_.input("", own_.type(out[o])) : -1);
      if (flows) pairs.push_back({out[o], given_.back()});
    }
    std::vector<NodeId> of;
    for (size_t i = 0; i < in_.size(); ++i)
      if (wanted_[i]) of.push_back(in_[i]);
    parts_ = gradients(own_, pairs, of);
  }

  // Walks what the derivative reads of the body: inputs, what is kept, and what is computed there.
  void choose_residuals() {
    const Graph& g = own_.graph();
    std::vector<NodeId> from;
    for (size_t i = 0; i < in_.size(); ++i)
      if (is_carry(i) || is_scanned(i)) from.push_back(in_[i]);
    varies_ = dependents(g, from);
    walk();
    for (size_t r = residuals_.size(); r-- > 0;)
      if (residuals_[r] >= 0) compute_again(r);
    walk();
  }
  void walk() {
    const Graph& g = own_.graph();
    std::vector<char> needed(g.nodes.size());
    used_.assign(in_.size(), 0), residuals_.clear(), order_.clear();
    for (NodeId p : parts_) needed[static_cast<size_t>(p)] = 1;
    for (size_t i = g.nodes.size(); i-- > 0;) {
      if (!needed[i]) continue;
      const NodeId id = static_cast<NodeId>(i);
      if (const size_t input = input_of(id); input < in_.size()) {
        if (is_carry(input)) residuals_.push_back(id);
        else used_[input] = 1;
      } else if (id < first_ && varies_[i] && !means<View>(g.at(id).op) && !again_.count(id)) {
        residuals_.push_back(id);
      } else if (g.at(id).op != Op::input) {
        order_.push_back(id);
        for (NodeId a : g.at(id).args) needed[static_cast<size_t>(a)] = 1;
      }
    }
    std::reverse(order_.begin(), order_.end());
    std::reverse(residuals_.begin(), residuals_.end());
  }
  size_t input_of(NodeId id) const { return static_cast<size_t>(std::find(in_.begin(), in_.end(), id) - in_.begin()); }

  // A residual that maps make of others and of what is read anyway is made again where that is cheaper than to write it,
  // which reads a line first, and to read it.
  void compute_again(size_t residual) {
    const Graph& g = own_.graph();
    const NodeId id = residuals_[residual];
    std::set<NodeId> path;
    double work = 0;
    std::vector<NodeId> stack{id};
    while (!stack.empty()) {
      const NodeId n = stack.back();
      stack.pop_back();
      const bool kept = n != id && std::count(residuals_.begin(), residuals_.end(), n) > 0, fixed = !varies_[static_cast<size_t>(n)];
      const size_t input = input_of(n);
      if (kept || fixed || (input < in_.size() && used_[input]) || again_.count(n) || !path.insert(n).second) continue;
      if (!means<Map>(g.at(n).op) && !means<View>(g.at(n).op)) return;
      if (means<Map>(g.at(n).op)) work += price_of(g.at(n).op) * static_cast<double>(at_size(own_.type(n), 1).size());
      stack.insert(stack.end(), g.at(n).args.begin(), g.at(n).args.end());
    }
    const int64_t bytes = at_size(own_.type(id), 1).bytes(), all = is_symbolic(node_.attrs.limit[0]) ? kCached : checked_mul(bytes, node_.attrs.limit[0]);
    if (work * (all < kCached ? 4 : 1) >= 3 * static_cast<double>(bytes)) return;
    again_.insert(path.begin(), path.end());
    residuals_[residual] = -1;
  }

  // A forward scan that also stacks the residuals; theirs.
  std::vector<NodeId> stacks() {
    if (residuals_.empty()) return {};
    GraphBuilder forward;   // built as own_ was, so that numbers agree
    const std::vector<NodeId> out = forward.inline_body(body_, inputs_like(forward, body_));
    for (size_t o = 0; o < carries_; ++o) forward.output(body_.outputs[o].name, out[o]);
    for (NodeId r : residuals_) {
      const auto carry = std::find(in_.begin(), in_.begin() + static_cast<int64_t>(carries_), r);
      const bool late = planted(Fault::residual_step) && carry != in_.begin() + static_cast<int64_t>(carries_);
      forward.output("residual", late ? out[static_cast<size_t>(carry - in_.begin())] : r);
    }
    Attrs attrs = node_.attrs;
    attrs.body = shared(forward.finish());
    const std::vector<NodeId> all = b_.results(b_.add(Op::scan, node_.args, std::move(attrs)));
    return {all.begin() + static_cast<int64_t>(carries_), all.end()};
  }

  std::vector<NodeId> build(const std::vector<NodeId>& residual_stacks) {
    GraphBuilder reverse;
    std::vector<NodeId> args[3];   // of the reverse scan: carries, scanned, others
    std::vector<NodeId> map(own_.graph().nodes.size(), -1);
    const auto input = [&](int role, NodeId arg, Type type, NodeId of = -1) {
      args[role].push_back(arg);
      const NodeId id = reverse.input("", std::move(type));
      if (of >= 0) map[static_cast<size_t>(of)] = id;
      return id;
    };
    const auto type = [&](NodeId own) { return own_.type(own); };
    for (size_t k = 0; k < carries_; ++k)
      if (given_[k] >= 0) input(0, or_zero(b_, planted(Fault::carry_cotangent) ? -1 : cotangents_[k], type(given_[k])), type(given_[k]), given_[k]);
    std::vector<NodeId> sums(in_.size(), -1);   // over the steps, of what is the same in all; short floats are summed in f32
    for (size_t i = carries_ + scanned_; i < in_.size(); ++i) {
      Type sum = type(in_[i]);
      if (sum.dtype == DType::bf16 || sum.dtype == DType::f16) sum.dtype = DType::f32;
      if (wanted_[i]) sums[i] = input(0, b_.full(sum, 0), sum);
    }
    for (size_t o = carries_; o < given_.size(); ++o)
      if (given_[o] >= 0) input(1, cotangents_[o], type(given_[o]), given_[o]);
    for (size_t r = 0; r < residuals_.size(); ++r) input(1, residual_stacks[r], type(residuals_[r]), residuals_[r]);
    for (size_t i = carries_; i < in_.size(); ++i)
      if (used_[i] && is_scanned(i)) input(1, node_.args[i], type(in_[i]), in_[i]);
    for (size_t i = carries_; i < in_.size(); ++i)
      if (used_[i] && !is_scanned(i)) input(2, node_.args[i], type(in_[i]), in_[i]);
    for (NodeId id : order_) {
      const Node& n = own_.graph().at(id);
      std::vector<NodeId> mapped;
      for (NodeId a : n.args) mapped.push_back(map[static_cast<size_t>(a)]);
      map[static_cast<size_t>(id)] = reverse.add(n.op, std::move(mapped), n.attrs);
    }
    const std::vector<NodeId> part = spread(parts_, wanted_);
    const auto cast = [&](GraphBuilder& b, NodeId x, DType to) {
      Attrs attrs;
      attrs.dtype = {to};
      return b.type(x).dtype == to ? x : b.add(Op::cast, {x}, std::move(attrs));
    };
    const auto mapped = [&](size_t i) { return map[static_cast<size_t>(part[i])]; };
    for (size_t k = 0; k < carries_; ++k)
      if (wanted_[k]) reverse.output("", mapped(k));
    for (size_t i = carries_ + scanned_; i < in_.size(); ++i)
      if (wanted_[i]) reverse.output("", reverse.add(planted(Fault::last_step_only) ? Op::max : Op::add, {sums[i], cast(reverse, mapped(i), reverse.type(sums[i]).dtype)}));
    for (size_t i = carries_; i < carries_ + scanned_; ++i)
      if (wanted_[i]) reverse.output("", mapped(i));
    std::vector<NodeId> out(in_.size(), -1);
    if (reverse.graph().outputs.empty()) return out;
    Attrs attrs;
    attrs.index = {static_cast<int64_t>(args[0].size()), static_cast<int64_t>(args[1].size())};
    attrs.limit = node_.attrs.limit;
    if ((node_.attrs.stride.empty() || node_.attrs.stride[0] > 0) != planted(Fault::scan_vjp_direction)) attrs.stride = {-1};
    attrs.body = shared(reverse.finish());
    std::vector<NodeId> all;
    for (const auto& role : args) all.insert(all.end(), role.begin(), role.end());
    const std::vector<NodeId> results = b_.results(b_.add(Op::scan, std::move(all), std::move(attrs)));
    size_t next = 0;
    for (size_t k = 0; k < carries_; ++k)
      if (wanted_[k]) out[k] = results[next++];
    for (size_t i = carries_ + scanned_; i < in_.size(); ++i)
      if (wanted_[i]) out[i] = cast(b_, results[next++], type(in_[i]).dtype);
    for (size_t i = carries_; i < carries_ + scanned_; ++i)
      if (wanted_[i]) out[i] = results[next++];
    return out;
  }
};

// --- forward ---

// Results of a body and their tangents, where those of the inputs with a mark are given by further inputs. Float outputs
// listed in `of` get one; where a body's own order of inputs matters, the caller reorders.
struct Jvp {
  GraphBuilder own;
  std::vector<NodeId> in, given, out, tangent;   // given: -1 where there is none; tangent: of every float output, else -1
};
void differentiate(Jvp& j, const Graph& body, const std::vector<char>& moving) {
  j.in = inputs_like(j.own, body);
  std::vector<NodeId> of, with;
  for (size_t i = 0; i < j.in.size(); ++i) {
    j.given.push_back(moving[i] ? j.own.input("", j.own.type(j.in[i])) : -1);
    if (moving[i]) of.push_back(j.in[i]), with.push_back(j.given.back());
  }
  j.out = j.own.inline_body(body, j.in);
  j.tangent = tangents(j.own, j.out, of, with);
  for (size_t o = 0; o < j.out.size(); ++o)
    if (!float_typed(j.own.type(j.out[o]))) j.tangent[o] = -1;
}
// The graph with the inputs in this order (-1 is skipped).
std::shared_ptr<const Graph> finish(Jvp& j, const std::vector<std::vector<NodeId>>& order) {
  const Graph made = j.own.finish();
  GraphBuilder b;
  std::map<NodeId, NodeId> input;
  for (const auto& part : order)
    for (NodeId id : part)
      if (id >= 0) input[id] = b.input(made.at(id).attrs.name, made.type(id));
  std::vector<NodeId> args;
  for (NodeId id : made.inputs) args.push_back(input.at(id));
  for (NodeId o : b.inline_body(made, args)) b.output("", o);
  return shared(b.finish());
}
std::vector<NodeId> slice(const std::vector<NodeId>& all, size_t first, size_t limit) {
  return {all.begin() + static_cast<int64_t>(first), all.begin() + static_cast<int64_t>(limit)};
}
void append(std::vector<NodeId>& all, const std::vector<NodeId>& more) {
  for (NodeId id : more)
    if (id >= 0) all.push_back(id);
}

std::vector<char> marks(const std::vector<NodeId>& tangents) {
  std::vector<char> out;
  for (NodeId t : tangents) out.push_back(t >= 0);
  return out;
}

// Tangents of a loop: scan and while_loop (which scans nothing).
std::vector<NodeId> jvp_of_loop(GraphBuilder& b, const Node& node, std::vector<NodeId> given) {
  const Graph& body = *node.attrs.body;
  const size_t carries = static_cast<size_t>(node.attrs.index[0]), scanned = node.op == Op::scan ? static_cast<size_t>(node.attrs.index[1]) : 0;
  const std::vector<char> moving = moving_inputs(body, marks(given), node.attrs.index[0]);
  for (size_t k = 0; k < carries; ++k)
    if (moving[k]) given[k] = or_zero(b, given[k], body.type(body.inputs[k]));
  Jvp j;
  differentiate(j, body, moving);
  const size_t n = j.in.size(), outs = j.out.size();
  for (size_t k = 0; k < carries; ++k)
    if (!moving[k]) j.tangent[k] = -1;
  std::vector<NodeId> args, outputs;
  std::vector<std::vector<NodeId>> order;
  for (const auto& [first, limit] : {std::pair{size_t{0}, carries}, {carries, carries + scanned}, {carries + scanned, n}}) {
    append(args, slice(node.args, first, limit));
    append(args, slice(given, first, limit));
    order.push_back(slice(planted(Fault::tangents_for_carries) && first == 0 && limit > 0 ? j.given : j.in, first, limit));
    order.push_back(slice(planted(Fault::tangents_for_carries) && first == 0 && limit > 0 ? j.in : j.given, first, limit));
  }
  for (const auto& [first, limit] : {std::pair{size_t{0}, carries}, {carries, outs}}) {
    append(outputs, slice(j.out, first, limit));
    append(outputs, slice(j.tangent, first, limit));
  }
  for (NodeId o : outputs) j.own.output("", o);
  const std::vector<NodeId> with = j.tangent;
  const int64_t moved = std::count(moving.begin(), moving.begin() + static_cast<int64_t>(carries), 1), extra = std::count(moving.begin() + static_cast<int64_t>(carries), moving.begin() + static_cast<int64_t>(carries + scanned), 1);
  Attrs attrs = node.attrs;
  attrs.index[0] += moved;
  if (node.op == Op::scan) attrs.index[1] += extra;
  attrs.body = finish(j, order);
  const std::vector<NodeId> results = b.results(b.add(node.op, std::move(args), std::move(attrs)));
  std::vector<NodeId> out(outs, -1);
  size_t next = carries;
  for (size_t k = 0; k < carries; ++k)
    if (with[k] >= 0) out[k] = results[next++];
  next += outs - carries;
  for (size_t o = carries; o < outs; ++o)
    if (with[o] >= 0) out[o] = results[next++];
  return out;
}

// A body of arguments, then given tangents → results, then the tangents of the float ones.
std::shared_ptr<const Graph> jvp_graph(const Graph& body, const std::vector<char>& moving) {
  Jvp j;
  differentiate(j, body, moving);
  for (NodeId o : j.out) j.own.output("", o);
  for (NodeId t : j.tangent)
    if (t >= 0) j.own.output("", t);
  return finish(j, {j.in, j.given});
}
std::vector<NodeId> jvp_of_branches(GraphBuilder& b, const Node& node, const std::vector<NodeId>& given) {
  const size_t skip = node.op == Op::cond;   // the predicate
  const std::vector<NodeId> of = slice(given, skip, given.size());
  Attrs attrs = node.attrs;
  attrs.body = jvp_graph(*node.attrs.body, marks(of));
  if (attrs.otherwise) attrs.otherwise = jvp_graph(*node.attrs.otherwise, marks(of));
  std::vector<NodeId> args = node.args;
  append(args, of);
  const std::vector<NodeId> results = b.results(b.add(node.op, std::move(args), std::move(attrs)));
  std::vector<NodeId> out;
  size_t next = node.type.results.size();
  for (const Type& t : node.type.results) out.push_back(float_typed(t) ? results[next++] : -1);
  return out;
}

// As of ops (forward.cpp): the transpose of what the user's derivative does with the cotangents.
std::vector<NodeId> jvp_by_user(GraphBuilder& b, const Node& node, const std::vector<NodeId>& given) {
  GraphBuilder own;
  std::vector<NodeId> args, outer, cotangents, of;
  const auto input = [&](NodeId with, const Type& type) {
    outer.push_back(with);
    return own.input("", type);
  };
  for (NodeId a : node.args) args.push_back(input(a, b.type(a)));
  for (const Type& t : node.type.results) cotangents.push_back(input(b.full(t, 0), t));   // it is linear in them: any will do
  std::vector<NodeId> all = args;
  append(all, cotangents);
  const std::vector<NodeId> parts = own.inline_body(*node.attrs.derivative, all);
  std::vector<Cotangent> pairs;
  for (size_t i = 0, k = 0; i < args.size(); ++i) {
    if (!float_typed(own.type(args[i]))) continue;
    if (given[i] >= 0) pairs.push_back({parts[k], input(given[i], own.type(args[i]))});
    ++k;
  }
  for (size_t r = 0; r < cotangents.size(); ++r)
    if (float_typed(node.type.results[r])) of.push_back(cotangents[r]);
  for (NodeId t : gradients(own, pairs, of)) own.output("", t);
  const std::vector<NodeId> found = b.inline_body(own.finish(), outer);
  std::vector<NodeId> out;
  size_t next = 0;
  for (const Type& t : node.type.results) out.push_back(float_typed(t) ? found[next++] : -1);
  return out;
}

[[noreturn]] void not_expanded(GraphBuilder& b, NodeId id) {
  throw Error(Code::not_expanded, "the derivative of a call that has not been expanded", b.graph().where(id)).with_help("run the pass `expand` on the body first");
}

}  // namespace

std::vector<NodeId> vjp_of_body(GraphBuilder& b, NodeId id, const std::vector<NodeId>& cotangents, const std::vector<char>& wanted) {
  const Node node = b.graph().at(id);   // by value: building moves the nodes
  switch (node.op) {
    case Op::scan: return ScanVjp(b, node, cotangents, wanted).run();
    case Op::cond: return vjp_of_cond(b, node, cotangents, wanted);
    case Op::while_loop:
      throw Error(Code::while_gradient, "a while_loop has no reverse-mode derivative: how often it runs is not known before", b.graph().where(id)).with_help("use scan with a fixed number of steps, jvp, or stop_gradient around the loop");
    default:
      if (node.attrs.transform == Transform::checkpoint) return vjp_of_checkpoint(b, node, cotangents, wanted);
      if (node.attrs.derivative) return vjp_by_user(b, node, cotangents);
      not_expanded(b, id);
  }
}

std::vector<NodeId> jvp_of_body(GraphBuilder& b, NodeId id, const std::vector<NodeId>& tangents) {
  const Node node = b.graph().at(id);
  switch (node.op) {
    case Op::scan:
    case Op::while_loop: return jvp_of_loop(b, node, tangents);
    case Op::cond: return jvp_of_branches(b, node, tangents);
    default:
      if (node.attrs.transform == Transform::checkpoint) return jvp_of_branches(b, node, tangents);
      if (node.attrs.derivative) return jvp_by_user(b, node, tangents);
      not_expanded(b, id);
  }
}

}  // namespace quern
