// See transforms.h, and grad in tensor.h. Each makes a function the closed body of a `call` (closure.h), which the pass
// `expand` differentiates or batches.
#include "frontend/transforms.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>


namespace quern {
namespace {

// The unit tensors of a type, one after the other.
Tensor identity(const Tensor& like, const Where& where) {
  const int64_t n = like.type().size();
  const Tensor rows = iota(like.graph(), DType::i64, {n, n}, 0, where), columns = iota(like.graph(), DType::i64, {n, n}, 1, where);
  Shape shape = like.shape();
  shape.insert(shape.begin(), n);
  return reshape(cast(quern::equal(rows, columns, where), like.dtype(), where), std::move(shape), where);
}

}  // namespace

std::vector<Tensor> grad(const Tensor& loss, const std::vector<Tensor>& wanted, Where where) {
  if (!loss) throw error_at(Code::empty_tensor, "grad: the loss is a default-constructed Tensor", where).with_help("assign it before");
  GraphBuilder& b = loss.graph();
  if (loss.rank() != 0 || !is_float(loss.dtype()))
    throw error_at(Code::gradient_of, fmt::format("grad: only a scalar float has a gradient, the loss is {}", to_string(loss.type())), where, {{"loss", loss}}).with_help(is_float(loss.dtype()) ? "sum or mean it first" : "cast it to f32 and sum or mean it");
  std::vector<NodeId> from;
  for (const Tensor& w : wanted) {
    if (!w || &w.graph() != &b) throw error_at(w ? Code::other_model : Code::empty_tensor, "grad: a wanted tensor is not of the loss's model", where, {{"loss", loss}, {"wanted", w}}).with_help("ask for tensors that the loss was computed from");
    if (!is_float(w.dtype())) throw error_at(Code::gradient_by, fmt::format("grad: {} has no gradient: it is not a float", to_string(w.type())), where, {{"loss", loss}, {"wanted", w}}).with_help("cast it to f32 before use");
    if (std::count(from.begin(), from.end(), w.id())) throw error_at(Code::gradient_by, "grad: a tensor is asked for twice", where, {{"loss", loss}, {"wanted", w}}).with_help("ask once and use the result twice");
    from.push_back(w.id());
  }
  Closure c = close(b, from, {loss.id()});
  c.attrs.transform = Transform::vjp;
  for (size_t w = 0; w < wanted.size(); ++w) c.attrs.index.push_back(static_cast<int64_t>(w));
  const std::vector<Tensor> all = results_of(b, c, where);
  return part(all, 1, all.size());
}

std::vector<Tensor> vmap(const Function& f, const std::vector<Tensor>& args, const std::vector<int64_t>& axes, Where where) {
  GraphBuilder& b = graph_of("vmap", args, where);
  Shape along = axes.empty() ? Shape(args.size(), 0) : Shape(axes.begin(), axes.end());
  if (along.size() != args.size()) throw error_at(Code::argument_count, fmt::format("vmap: {} arguments, but {} axes", args.size(), axes.size()), where).with_help("give every argument its axis, -1 for none");
  std::vector<Type> types = types_of(args);
  int64_t lanes = -1;
  for (size_t i = 0; i < args.size(); ++i) {
    if (along[i] == -1) continue;
    if (along[i] < -1 || along[i] >= args[i].rank()) throw error_at(Code::bad_axis, fmt::format("vmap: axis {} is outside argument {}, {}", along[i], i, to_string(args[i].type())), where, {{"argument", args[i]}}).with_help("axes count from 0; -1 is an argument that is the same in every lane");
    const auto at = types[i].shape.begin() + along[i];
    if (lanes >= 0 && *at != lanes) throw error_at(Code::shapes_differ, fmt::format("vmap: {} lanes, but {} in argument {}", lanes, *at, i), where, {{"argument", args[i]}}).with_help("the batched axes have one extent");
    lanes = *at;
    types[i].shape.erase(at);
  }
  if (lanes < 0) throw error_at(Code::bad_axis, "vmap: no argument has an axis", where).with_help("give one an axis, or call the function itself");
  Closure c = trace("vmap", b, f, types, where);
  put_arguments(c, args);
  c.attrs.transform = Transform::vmap;
  c.attrs.axes = along;
  c.attrs.axes.resize(c.args.size(), -1);
  return results_of(b, c, where);
}

Forward jvp(const Function& f, const std::vector<Tensor>& args, const std::vector<Tensor>& tangents, Where where) {
  GraphBuilder& b = graph_of("jvp", args, where);
  if (tangents.size() != args.size()) throw error_at(Code::argument_count, fmt::format("jvp: {} arguments, but {} tangents", args.size(), tangents.size()), where).with_help("give every argument its tangent; Tensor() stands for zero");
  Closure c = trace("jvp", b, f, types_of(args), where);
  put_arguments(c, args);
  c.attrs.transform = Transform::jvp;
  for (size_t i = 0; i < args.size(); ++i) {
    if (!tangents[i]) continue;
    const std::vector<std::pair<const char*, Tensor>> both = {{"argument", args[i]}, {"tangent", tangents[i]}};
    if (&tangents[i].graph() != &b) throw error_at(Code::other_model, "jvp: a tangent is of another model", where, both).with_help("build it in the model of the arguments");
    if (!is_float(args[i].dtype())) throw error_at(Code::gradient_by, fmt::format("jvp: {} has no tangent: it is not a float", to_string(args[i].type())), where, both).with_help("give it Tensor(), or cast it to f32 before use");
    if (!(tangents[i].type() == args[i].type())) throw error_at(Code::shapes_differ, fmt::format("jvp: the tangent of {} is {}", to_string(args[i].type()), to_string(tangents[i].type())), where, both).with_help("a tangent has its argument's type");
    c.attrs.index.push_back(static_cast<int64_t>(i));
    c.args.push_back(tangents[i].id());
  }
  const std::vector<Tensor> all = results_of(b, c, where);
  return {part(all, 0, all.size() / 2), part(all, all.size() / 2, all.size())};
}

Reverse value_and_grad(const Function& f, const std::vector<Tensor>& args, Where where) {
  GraphBuilder& b = graph_of("value_and_grad", args, where);
  Closure c = trace("value_and_grad", b, f, types_of(args), where);
  const Type& loss = c.attrs.body->type(c.attrs.body->outputs[0].node);
  if (loss.rank() != 0 || !is_float(loss.dtype)) throw error_at(Code::gradient_of, fmt::format("value_and_grad: only a scalar float has a gradient, the function's first result is {}", to_string(loss)), where).with_help(is_float(loss.dtype) ? "sum or mean it first" : "cast it to f32 and sum or mean it");
  put_arguments(c, args);
  c.attrs.transform = Transform::vjp;
  for (size_t i = 0; i < args.size(); ++i)
    if (is_float(args[i].dtype())) c.attrs.index.push_back(static_cast<int64_t>(i));
  const size_t outputs = c.attrs.body->outputs.size();
  const std::vector<Tensor> all = results_of(b, c, where);
  Reverse out{part(all, 0, outputs), std::vector<Tensor>(args.size())};
  for (size_t k = 0; k < c.attrs.index.size(); ++k) out.gradients[static_cast<size_t>(c.attrs.index[k])] = all[outputs + k];
  return out;
}

std::vector<Tensor> checkpoint(const Function& f, const std::vector<Tensor>& args, Where where) {
  GraphBuilder& b = graph_of("checkpoint", args, where);
  Closure c = trace("checkpoint", b, f, types_of(args), where);
  put_arguments(c, args);
  c.attrs.transform = Transform::checkpoint;
  return results_of(b, c, where);
}

std::vector<Tensor> with_derivative(const Function& f, const Function& rule, const std::vector<Tensor>& args, Where where) {
  GraphBuilder& b = graph_of("with_derivative", args, where);
  Closure c = trace("with_derivative", b, f, types_of(args), where);
  // What either function captures is an argument of both; only the given ones get cotangents.
  std::vector<Type> types = types_of(args), want;
  for (const NamedOutput& o : c.attrs.body->outputs) types.push_back(c.attrs.body->type(o.node));
  for (const Tensor& a : args)
    if (is_float(a.dtype())) want.push_back(a.type());
  const Traced reverse = trace_function("with_derivative's rule", b, rule, types, where);
  std::vector<Type> got;
  for (NodeId r : reverse.results) got.push_back(b.type(r));
  if (got != want) throw error_at(Code::loop_body, fmt::format("with_derivative: the rule returns {}, wanted is {}", to_string(Type{DType::f32, {}, got}), to_string(Type{DType::f32, {}, want})), where).with_help("return a cotangent for each float argument, of its type");
  const Closure r = close(b, reverse.from, reverse.results);
  std::vector<NodeId> captured(c.args.begin() + static_cast<int64_t>(args.size()), c.args.end());
  for (size_t i = reverse.from.size(); i < r.args.size(); ++i)
    if (!std::count(captured.begin(), captured.end(), r.args[i])) captured.push_back(r.args[i]);
  GraphBuilder forward, backward;
  std::vector<NodeId> in, at;   // inputs of `forward`; those of `backward` for the arguments
  for (const Tensor& a : args) in.push_back(forward.input("", a.type())), at.push_back(backward.input("", a.type()));
  std::map<NodeId, std::pair<NodeId, NodeId>> of;   // captured → its inputs
  for (NodeId id : captured) of[id] = {forward.input("", b.type(id)), backward.input("", b.type(id))};
  for (size_t i = args.size(); i < c.args.size(); ++i) in.push_back(of.at(c.args[i]).first);
  for (NodeId o : forward.inline_body(*c.attrs.body, in)) forward.output("", o);
  for (size_t i = args.size(); i < types.size(); ++i) at.push_back(backward.input("", types[i]));
  for (size_t i = types.size(); i < r.args.size(); ++i) at.push_back(of.at(r.args[i]).second);
  const std::vector<NodeId> parts = backward.inline_body(*r.attrs.body, at);
  for (size_t i = 0, k = 0; i < args.size(); ++i)
    if (is_float(args[i].dtype())) backward.output("", parts[k++]);
  for (NodeId id : captured)
    if (is_float(b.type(id).dtype)) backward.output("", backward.full(b.type(id), 0));
  c.args.resize(args.size());
  put_arguments(c, args);
  c.args.insert(c.args.end(), captured.begin(), captured.end());
  c.attrs.body = std::make_shared<const Graph>(forward.finish());
  c.attrs.derivative = std::make_shared<const Graph>(backward.finish());
  return results_of(b, c, where);
}

Tensor jacobian(const TensorFunction& f, const Tensor& x, Where where) {
  GraphBuilder& b = graph_of("jacobian", {x}, where);
  if (!is_float(x.dtype())) throw error_at(Code::gradient_by, fmt::format("jacobian: {} has no derivative: it is not a float", to_string(x.type())), where, {{"argument", x}}).with_help("cast it to f32 before use");
  const Closure c = trace("jacobian", b, [&](const std::vector<Tensor>& at) { return std::vector<Tensor>{f(at[0])}; }, {x.type()}, where);
  const Function whole = [&](const std::vector<Tensor>& at) {   // f, which has run once
    Closure here = c;
    put_arguments(here, at);
    return results_of(b, here, where);
  };
  const Type y = c.attrs.body->type(c.attrs.body->outputs[0].node);
  if (!is_float(y.dtype)) throw error_at(Code::gradient_of, fmt::format("jacobian: only a float has derivatives, the function's result is {}", to_string(y)), where).with_help("cast it to f32");
  Shape shape = y.shape;
  shape.insert(shape.end(), x.shape().begin(), x.shape().end());
  if (x.type().size() <= y.size()) {
    const Tensor columns = vmap([&](const std::vector<Tensor>& t) { return jvp(whole, {x}, t, where).tangents; }, {identity(x, where)}, {}, where)[0];
    Shape order;
    for (int64_t d = 1; d <= y.rank(); ++d) order.push_back(d);
    order.push_back(0);
    return reshape(transpose(columns, std::move(order), where), std::move(shape), where);
  }
  const Tensor like(&b, b.full(y, 0));
  const auto row = [&](const std::vector<Tensor>& u) {
    const Function loss = [&](const std::vector<Tensor>& at) { return std::vector<Tensor>{sum(whole(at)[0] * Operand(u[0], where), {}, where)}; };
    return value_and_grad(loss, {x}, where).gradients;
  };
  return reshape(vmap(row, {identity(like, where)}, {}, where)[0], std::move(shape), where);
}

Tensor hessian(const TensorFunction& f, const Tensor& x, Where where) {
  graph_of("hessian", {x}, where);
  const Function whole = [&](const std::vector<Tensor>& at) { return std::vector<Tensor>{f(at[0])}; };
  return jacobian([&](const Tensor& at) { return value_and_grad(whole, {at}, where).gradients[0]; }, x, where);
}

}  // namespace quern
