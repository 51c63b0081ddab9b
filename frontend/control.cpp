// See control.h.
#include "frontend/control.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {
namespace {

constexpr int64_t kStepStream = 0x5CA1;   // of what keys of loops are mixed with

std::string list(const std::vector<Type>& types) { return types.empty() ? "nothing" : to_string(Type{DType::f32, {}, types}); }
std::vector<Type> types_at(const GraphBuilder& b, const std::vector<NodeId>& ids, size_t first, size_t limit) {
  std::vector<Type> out;
  for (size_t i = first; i < limit && i < ids.size(); ++i) out.push_back(b.type(ids[i]));
  return out;
}

// Keys of random bits that are the same in every step of a loop are mixed with a number that is not, the salt: one more input
// of the step's body, and of the bodies in it that draw. The names of random nodes become those of the loop around it.
struct Salted {
  Graph graph;
  NodeId salt = -1;   // its last input, where it needs one
};
// The graph with its salt as input number `at`; one that it does not read where it needs none.
std::shared_ptr<const Graph> placed(const Salted& s, size_t at) {
  GraphBuilder b;
  std::vector<NodeId> in;
  NodeId salt = -1;
  const size_t others = s.graph.inputs.size() - (s.salt >= 0);
  for (size_t i = 0; i <= others; ++i) {
    if (i == at) salt = b.input("salt", {DType::u32, {}, {}});
    if (i < others) in.push_back(b.input(s.graph.at(s.graph.inputs[i]).attrs.name, s.graph.type(s.graph.inputs[i])));
  }
  if (s.salt >= 0) in.push_back(salt);
  const std::vector<NodeId> results = b.inline_body(s.graph, in);
  for (size_t i = 0; i < results.size(); ++i) b.output(s.graph.outputs[i].name, results[i]);
  return std::make_shared<const Graph>(b.finish());
}
// moving: which inputs differ from step to step. name: of random nodes from now on.
Salted salted(const Graph& g, const std::vector<char>& moving, const std::string& name) {
  GraphBuilder b;
  Salted out;
  std::vector<NodeId> map(g.nodes.size(), -1);
  std::vector<char> varies(g.nodes.size());
  const auto salt = [&] { return out.salt >= 0 ? out.salt : out.salt = b.input("salt", {DType::u32, {}, {}}); };
  for (size_t i = 0; i < g.inputs.size(); ++i) {
    const size_t id = static_cast<size_t>(g.inputs[i]);
    map[id] = b.input(g.nodes[id].attrs.name, g.nodes[id].type);
    varies[id] = moving[i];
  }
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    if (n.op == Op::input) continue;
    std::vector<NodeId> args;
    std::vector<char> given;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]), given.push_back(varies[static_cast<size_t>(a)]);
    varies[i] = std::count(given.begin(), given.end(), 1) > 0;
    Attrs attrs = n.attrs;
    if (n.op == Op::random) {
      attrs.name = name;
      if (!varies[i]) args[0] = b.add(Op::bit_xor, {args[0], salt()});
      varies[i] = 1;
    }
    if (attrs.body) {
      const size_t first = n.op == Op::cond, at = attrs.body->inputs.size();   // a jvp's tangents come behind
      given.erase(given.begin(), given.begin() + static_cast<int64_t>(first));
      std::vector<std::pair<std::shared_ptr<const Graph>*, Salted>> bodies;
      for (auto* body : {&attrs.body, &attrs.otherwise, &attrs.derivative}) {
        if (!*body) continue;
        given.resize((*body)->inputs.size(), 1);   // of a derivative: cotangents
        bodies.emplace_back(body, salted(**body, given, name));
      }
      const bool any = std::any_of(bodies.begin(), bodies.end(), [](const auto& body) { return body.second.salt >= 0; });
      for (auto& [body, s] : bodies) *body = any ? placed(s, at) : std::make_shared<const Graph>(std::move(s.graph));
      if (any) {
        args.insert(args.begin() + static_cast<int64_t>(first + at), salt());
        if (attrs.transform == Transform::vmap && attrs.axes.empty()) attrs.axes.resize(at, 0);
        if (attrs.transform == Transform::vmap) attrs.axes.insert(attrs.axes.begin() + static_cast<int64_t>(at), -1);
      }
    }
    map[i] = b.add(n.op, std::move(args), std::move(attrs), g.where(static_cast<NodeId>(i)));
  }
  for (const NamedOutput& o : g.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  out.graph = dead_code(b.finish());
  return out;
}
NodeId draw_salt(GraphBuilder& b, NodeId key, Shape shape) {
  Attrs attrs;
  attrs.shape = std::move(shape);
  attrs.index = {kStepStream};
  return b.add(Op::random, {key}, std::move(attrs));
}
// A scan's salts are scanned.
void vary_steps(GraphBuilder& b, Closure& c) {
  const size_t moving = static_cast<size_t>(c.attrs.index[0] + c.attrs.index[1]);
  std::vector<char> flags(c.attrs.body->inputs.size());
  std::fill_n(flags.begin(), moving, 1);
  const Salted s = salted(*c.attrs.body, flags, b.random_name());
  if (s.salt < 0) return void(c.attrs.body = std::make_shared<const Graph>(s.graph));
  c.attrs.body = placed(s, moving);
  c.args.insert(c.args.begin() + static_cast<int64_t>(moving), draw_salt(b, b.scalar(DType::u32, 0), c.attrs.limit));
  ++c.attrs.index[1];
}
// A while_loop's is drawn by the number of the turn, one more carry.
void vary_turns(GraphBuilder& b, Closure& c) {
  const size_t carries = static_cast<size_t>(c.attrs.index[0]);
  std::vector<char> flags(c.attrs.body->inputs.size());
  std::fill_n(flags.begin(), carries, 1);
  const Salted s = salted(*c.attrs.body, flags, b.random_name());
  if (s.salt < 0) return void(c.attrs.body = std::make_shared<const Graph>(s.graph));
  const Graph body = *placed(s, carries);
  GraphBuilder inner;
  inner.name_random(b.random_name());
  std::vector<NodeId> in;
  for (NodeId i : body.inputs) in.push_back(inner.input(body.at(i).attrs.name, body.type(i)));
  const NodeId turn = in[carries];
  in[carries] = draw_salt(inner, turn, {});
  for (NodeId r : inner.inline_body(body, in)) inner.output("", r);
  inner.output("", inner.add(Op::add, {turn, inner.scalar(DType::u32, 1)}));
  c.attrs.body = std::make_shared<const Graph>(inner.finish());
  c.args.insert(c.args.begin() + static_cast<int64_t>(carries), b.scalar(DType::u32, 0));
  ++c.attrs.index[0];
}
// f on placeholders; random bits in it are named, so that they are no others of equal key.
std::pair<Traced, std::string> trace_steps(const char* what, GraphBuilder& b, const Function& f, const std::vector<Type>& types, const Where& where) {
  const std::string name = fmt::format("step {}", b.graph().nodes.size());
  struct Naming {
    GraphBuilder& b;
    std::string outer;
    ~Naming() { b.name_random(outer); }
  } naming{b, b.random_name()};
  b.name_random(name);
  return {trace_function(what, b, f, types, where), name};
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
  if (steps > kMaxExtent) throw error_at(Code::too_large, fmt::format("scan: {} steps", steps), where, {{"argument", args[0]}}).with_help("at most 2^40; a while_loop has no such limit");
  if (steps < 0) throw error_at(Code::argument_count, "scan: nothing is scanned, so the number of steps is unknown", where).with_help("pass it as `steps`");
  const Function flat = [&](const std::vector<Tensor>& at) {
    const ScanStep r = f(part(at, 0, carries), part(at, carries, at.size()));
    if (r.carries.size() != carries) throw error_at(Code::loop_body, fmt::format("scan: {} carries go in, {} come out", carries, r.carries.size()), where).with_help("return the next value of every carry, in order");
    std::vector<Tensor> all = r.carries;
    all.insert(all.end(), r.stacked.begin(), r.stacked.end());
    return all;
  };
  const auto [traced, name] = trace_steps("scan", b, flat, types, where);
  const std::vector<Type> next = types_at(b, traced.results, 0, carries), want(types.begin(), types.begin() + static_cast<int64_t>(carries));
  if (next != want) throw error_at(Code::loop_body, fmt::format("scan: the carries are {} before a step and {} after it", list(want), list(next)), where).with_help("a carry keeps its type: cast or broadcast what goes in");
  Closure c = close(b, traced.from, traced.results, name);
  put_arguments(c, args);
  c.attrs.index = {static_cast<int64_t>(carries), static_cast<int64_t>(xs.size())};
  c.attrs.limit = {steps};
  if (direction == Direction::backward) c.attrs.stride = {-1};
  vary_steps(b, c);
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
  const auto [traced, name] = trace_steps("while_loop", b, step, types_of(args), where);
  const std::vector<Type> next = types_at(b, traced.results, 1, args.size()), want = types_of(init);
  if (next != want) throw error_at(Code::loop_body, fmt::format("while_loop: the carries are {} before a step and {} after it", list(want), list(next)), where).with_help("a carry keeps its type: cast or broadcast what goes in");
  Closure c = close(b, traced.from, traced.results, name);
  put_arguments(c, args);
  c.attrs.index = {static_cast<int64_t>(args.size())};
  vary_turns(b, c);
  return part(results_of(b, c, where, Op::while_loop), 1, args.size());
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
