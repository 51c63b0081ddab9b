// See control.h.
#include "frontend/control.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {
namespace {

constexpr int64_t kStepStream = 0x5CA1;   // of the keys of a scan's steps

std::string list(const std::vector<Type>& types) { return types.empty() ? "nothing" : to_string(Type{DType::f32, {}, types}); }
std::vector<Type> types_at(const GraphBuilder& b, const std::vector<NodeId>& ids, size_t first, size_t limit) {
  std::vector<Type> out;
  for (size_t i = first; i < limit && i < ids.size(); ++i) out.push_back(b.type(ids[i]));
  return out;
}

// Random bits of a key that is the same in all steps: each such key becomes a scanned one, with its own value in each step.
// (The names that kept them apart go.)
void vary_keys(GraphBuilder& b, Closure& c) {
  const Graph body = *c.attrs.body;
  const size_t moving = static_cast<size_t>(c.attrs.index[0] + c.attrs.index[1]);
  std::vector<char> varies(body.nodes.size());
  for (size_t i = 0; i < moving; ++i) varies[static_cast<size_t>(body.inputs[i])] = 1;
  std::vector<NodeId> keys;   // in the body
  for (size_t i = 0; i < body.nodes.size(); ++i) {
    const Node& n = body.nodes[i];
    for (NodeId a : n.args) varies[i] = varies[i] || varies[static_cast<size_t>(a)];
    if (n.op == Op::random && !varies[i] && !std::count(keys.begin(), keys.end(), n.args[0])) keys.push_back(n.args[0]);
  }
  // The keys outside, then the body with further scanned inputs.
  GraphBuilder inner;
  std::vector<NodeId> map(body.nodes.size(), -1), outside, stepwise(body.nodes.size(), -1);
  Graph only = body;   // the keys, of what does not move
  only.outputs.clear();
  only.inputs.erase(only.inputs.begin(), only.inputs.begin() + static_cast<int64_t>(moving));
  for (NodeId k : keys) only.outputs.push_back({"", k});
  for (NodeId k : b.inline_body(dead_code(only), {c.args.begin() + static_cast<int64_t>(moving), c.args.end()})) {
    Attrs attrs;
    attrs.shape = c.attrs.limit;
    attrs.index = {kStepStream};
    outside.push_back(b.add(Op::random, {k}, std::move(attrs)));
  }
  const auto add_input = [&](size_t i) { map[static_cast<size_t>(body.inputs[i])] = inner.input(body.at(body.inputs[i]).attrs.name, body.type(body.inputs[i])); };
  for (size_t i = 0; i < moving; ++i) add_input(i);
  for (NodeId k : keys) stepwise[static_cast<size_t>(k)] = inner.input("key", {DType::u32, {}, {}});
  for (size_t i = moving; i < body.inputs.size(); ++i) add_input(i);
  for (size_t i = 0; i < body.nodes.size(); ++i) {
    const Node& n = body.nodes[i];
    if (n.op == Op::input) continue;
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    if (n.op == Op::random && stepwise[static_cast<size_t>(n.args[0])] >= 0) args[0] = stepwise[static_cast<size_t>(n.args[0])];
    Attrs attrs = n.attrs;
    if (n.op == Op::random) attrs.name.clear();
    map[i] = inner.add(n.op, std::move(args), std::move(attrs), body.where(static_cast<NodeId>(i)));
  }
  for (const NamedOutput& o : body.outputs) inner.output(o.name, map[static_cast<size_t>(o.node)]);
  c.args.insert(c.args.begin() + static_cast<int64_t>(moving), outside.begin(), outside.end());
  c.attrs.index[1] += static_cast<int64_t>(outside.size());
  c.attrs.body = std::make_shared<const Graph>(dead_code(inner.finish()));
}

}  // namespace

Scan scan(const StepFunction& f, const std::vector<Tensor>& init, const std::vector<Tensor>& xs, int64_t steps, Direction direction, Where where) {
  std::vector<Tensor> args = init;
  args.insert(args.end(), xs.begin(), xs.end());
  GraphBuilder& b = graph_of("scan", args, where);
  std::vector<Type> types = types_of(args);
  const size_t carries = init.size();
  for (size_t i = carries; i < args.size(); ++i) {
    if (types[i].rank() == 0) throw error_at(Code::bad_axis, "scan: a scalar has no axis to go along", where, {{"scanned", args[i]}}).with_help("capture it: what a function uses beside its arguments is the same in every step");
    if (steps < 0) steps = types[i].shape[0];
    if (types[i].shape[0] != steps) throw error_at(Code::shapes_differ, fmt::format("scan: {} steps, but a scanned tensor is {}", steps, to_string(types[i])), where, {{"scanned", args[i]}}).with_help("axis 0 of all scanned tensors is the steps; transpose, or slice them");
    types[i].shape.erase(types[i].shape.begin());
  }
  if (steps < 0) throw error_at(Code::argument_count, "scan: nothing is scanned, so the number of steps is unknown", where).with_help("pass it as `steps`");
  const Function flat = [&](const std::vector<Tensor>& at) {
    const ScanStep r = f(part(at, 0, carries), part(at, carries, at.size()));
    if (r.carries.size() != carries) throw error_at(Code::loop_body, fmt::format("scan: {} carries go in, {} come out", carries, r.carries.size()), where).with_help("return the next value of every carry, in order");
    std::vector<Tensor> all = r.carries;
    all.insert(all.end(), r.stacked.begin(), r.stacked.end());
    return all;
  };
  const std::string outer = b.random_name(), name = fmt::format("step {}", b.graph().nodes.size());
  b.name_random(name);
  const Traced traced = [&] {
    try {
      return trace_function("scan", b, flat, types, where);
    } catch (...) {
      b.name_random(outer);
      throw;
    }
  }();
  b.name_random(outer);
  const std::vector<Type> next = types_at(b, traced.results, 0, carries), want(types.begin(), types.begin() + static_cast<int64_t>(carries));
  if (next != want) throw error_at(Code::loop_body, fmt::format("scan: the carries are {} before a step and {} after it", list(want), list(next)), where).with_help("a carry keeps its type: cast or broadcast what goes in");
  Closure c = close(b, traced.from, traced.results, name);
  put_arguments(c, args);
  c.attrs.index = {static_cast<int64_t>(carries), static_cast<int64_t>(xs.size())};
  c.attrs.limit = {steps};
  if (direction == Direction::backward) c.attrs.stride = {-1};
  vary_keys(b, c);
  const std::vector<Tensor> all = results_of(b, c, where, Op::scan);
  return {part(all, 0, carries), part(all, carries, all.size())};
}

std::vector<Tensor> while_loop(const Predicate& go_on, const Function& f, const std::vector<Tensor>& init, Where where) {
  GraphBuilder& b = graph_of("while_loop", init, where);
  const auto flag = [&](const std::vector<Tensor>& at) {
    const Tensor t = go_on(at);
    if (!t || !(t.type() == Type{DType::boolean, {}, {}})) throw error_at(Code::loop_body, fmt::format("while_loop: whether to go on is {}, wanted is bool[]", t ? to_string(t.type()) : "nothing"), where, {{"predicate", t}}).with_help("compare two scalars, or reduce with max");
    return t;
  };
  std::vector<Tensor> args = {flag(init)};
  args.insert(args.end(), init.begin(), init.end());
  const Function step = [&](const std::vector<Tensor>& at) {
    std::vector<Tensor> next = f(part(at, 1, at.size()));
    if (next.size() != init.size()) throw error_at(Code::loop_body, fmt::format("while_loop: {} carries go in, {} come out", init.size(), next.size()), where).with_help("return the next value of every carry, in order");
    next.insert(next.begin(), flag(next));
    return next;
  };
  const Traced traced = trace_function("while_loop", b, step, types_of(args), where);
  const std::vector<Type> next = types_at(b, traced.results, 1, args.size()), want = types_of(init);
  if (next != want) throw error_at(Code::loop_body, fmt::format("while_loop: the carries are {} before a step and {} after it", list(want), list(next)), where).with_help("a carry keeps its type: cast or broadcast what goes in");
  Closure c = close(b, traced.from, traced.results);
  put_arguments(c, args);
  c.attrs.index = {static_cast<int64_t>(args.size())};
  const std::vector<Tensor> all = results_of(b, c, where, Op::while_loop);
  return part(all, 1, all.size());
}

std::vector<Tensor> cond(const Tensor& predicate, const Function& yes, const Function& no, const std::vector<Tensor>& args, Where where) {
  GraphBuilder& b = graph_of("cond", {predicate}, where);
  if (!(predicate.type() == Type{DType::boolean, {}, {}})) throw error_at(Code::loop_body, fmt::format("cond: the predicate is {}, wanted is bool[]", to_string(predicate.type())), where, {{"predicate", predicate}}).with_help("compare two scalars; `select` chooses element by element");
  if (!args.empty()) graph_of("cond", args, where);
  const Traced a = trace_function("cond", b, yes, types_of(args), where), o = trace_function("cond", b, no, types_of(args), where);
  const std::vector<Type> of_yes = types_at(b, a.results, 0, a.results.size()), of_no = types_at(b, o.results, 0, o.results.size());
  if (of_yes != of_no) throw error_at(Code::loop_body, fmt::format("cond: one function returns {}, the other {}", list(of_yes), list(of_no)), where).with_help("both return the same types: cast or broadcast one of them");
  // What either captures is an argument of both.
  const Closure first = close(b, a.from, a.results), second = close(b, o.from, o.results);
  std::vector<NodeId> captured;
  for (const Closure* c : {&first, &second})
    for (size_t i = args.size(); i < c->args.size(); ++i)
      if (!std::count(captured.begin(), captured.end(), c->args[i])) captured.push_back(c->args[i]);
  const auto closed = [&](const Closure& c) {
    GraphBuilder body;
    std::vector<NodeId> in;
    std::vector<NodeId> given;
    for (const Tensor& t : args) in.push_back(body.input("", t.type()));
    for (NodeId id : captured) given.push_back(body.input("", b.type(id)));
    for (size_t i = args.size(); i < c.args.size(); ++i) in.push_back(given[static_cast<size_t>(std::find(captured.begin(), captured.end(), c.args[i]) - captured.begin())]);
    for (NodeId r : body.inline_body(*c.attrs.body, in)) body.output("", r);
    return std::make_shared<const Graph>(body.finish());
  };
  Closure c;
  c.attrs.body = closed(first);
  c.attrs.otherwise = closed(second);
  c.args = {predicate.id()};
  for (const Tensor& t : args) c.args.push_back(t.id());
  c.args.insert(c.args.end(), captured.begin(), captured.end());
  return results_of(b, c, where, Op::cond);
}

}  // namespace quern
