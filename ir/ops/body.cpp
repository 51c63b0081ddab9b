// Ops that hold closed graphs: call, the control flow, and `result`, the only user of their several results. Evaluated by
// interpret(); differentiated and batched in passes/graph.
#include <algorithm>

#include <fmt/format.h>

#include "ir/interpret.h"
#include "ir/ops/define.h"

namespace quern {
namespace {

std::vector<Type> types_in(const Graph& g) {
  std::vector<Type> out;
  for (NodeId i : g.inputs) out.push_back(g.type(i));
  return out;
}
std::vector<Type> types_out(const Graph& g) {
  std::vector<Type> out;
  for (const NamedOutput& o : g.outputs) out.push_back(g.type(o.node));
  return out;
}

Type infer_call(const InferContext& c) {
  QN_CHECK(c.attrs.body != nullptr, "a call has a body");
  const Graph& body = *c.attrs.body;
  c.want(body.states.empty(), Code::bad_body, "a body has no states", "make states inputs and outputs of the body");
  const size_t n = body.inputs.size();
  const bool mapped = c.attrs.transform == Transform::vmap, forward = c.attrs.transform == Transform::jvp;
  want_args(c, n + (forward ? c.attrs.index.size() : 0));
  if (forward || c.attrs.transform == Transform::vjp)
    for (size_t k = 0; k < c.attrs.index.size(); ++k) {
      const int64_t i = c.attrs.index[k];
      c.want(i >= 0 && i < static_cast<int64_t>(n), Code::gradient_by, "a derivative is with respect to an argument", fmt::format("index counts the {} arguments from 0", n));
      c.want(is_float(c.args[static_cast<size_t>(i)].dtype), Code::gradient_by, fmt::format("{} has no derivative: it is not a float", to_string(c.args[static_cast<size_t>(i)])), "cast it to f32 before use");
      c.want(!forward || std::find(c.attrs.index.begin(), c.attrs.index.begin() + static_cast<int64_t>(k), i) == c.attrs.index.begin() + static_cast<int64_t>(k), Code::gradient_by, fmt::format("argument {} has two tangents", i), "add them first");
    }
  c.want(!mapped || c.attrs.axes.empty() || c.attrs.axes.size() == n, Code::bad_body, "vmap needs one axis for every argument", fmt::format("give {} axes, -1 for an argument without one", n));
  int64_t lanes = -1;
  for (size_t i = 0; i < c.args.size(); ++i) {
    Type want = body.type(body.inputs[i < n ? i : static_cast<size_t>(c.attrs.index[i - n])]);
    const int64_t axis = !mapped ? -1 : c.attrs.axes.empty() ? 0 : c.attrs.axes[i];
    c.want(axis >= -1 && axis <= want.rank(), Code::bad_axis, fmt::format("vmap: argument {} has no axis {}", i, axis), fmt::format("axes run from 0 to {}; -1 stands for none", want.rank()));
    if (axis >= 0) {
      c.want(axis < c.args[i].rank(), Code::bad_body, fmt::format("vmap needs one more axis on argument {}", i), "broadcast the argument along a new axis, or give it the axis -1");
      if (lanes < 0) lanes = c.args[i].shape[static_cast<size_t>(axis)];
      want.shape.insert(want.shape.begin() + axis, lanes);
    }
    c.want(c.args[i] == want, Code::bad_body, fmt::format("argument {} is {}, the body wants {}", i, to_string(c.args[i]), to_string(want)), "cast or reshape the argument");
  }
  Type t;
  for (const NamedOutput& o : body.outputs) {
    t.results.push_back(body.type(o.node));
    if (mapped) t.results.back().shape.insert(t.results.back().shape.begin(), lanes);
  }
  c.want(!t.results.empty(), Code::bad_body, "a body needs an output", "give the body an `output`");
  c.want(!mapped || lanes >= 0, Code::bad_body, "vmap needs an argument with an axis", "call the body without vmap");
  if (c.attrs.derivative) {
    const Graph& rule = *c.attrs.derivative;
    std::vector<Type> in(c.args.begin(), c.args.end()), out;
    in.insert(in.end(), t.results.begin(), t.results.end());
    for (const Type& a : c.args)
      if (is_float(a.dtype)) out.push_back(a);
    c.want(c.attrs.transform == Transform::none && rule.states.empty() && types_in(rule) == in && types_out(rule) == out, Code::bad_body,
           "`derivative` does not fit the body", "it takes the arguments and a cotangent for each result, and gives a cotangent for each float argument");
  }
  if (forward)
    for (const NamedOutput& o : body.outputs) t.results.push_back(body.type(o.node));   // tangents
  if (c.attrs.transform == Transform::vjp) {
    c.want(t.results[0].rank() == 0 && is_float(t.results[0].dtype), Code::gradient_of, fmt::format("only a scalar float has a gradient, output 0 is {}", to_string(t.results[0])), "sum or mean it first");
    for (int64_t i : c.attrs.index) t.results.push_back(c.args[static_cast<size_t>(i)]);
  }
  return t;
}
// What a body is applied to and what it gives back, in words that name the place.
void want_types(const InferContext& c, const std::vector<Type>& want, const std::vector<Type>& got, const char* what) {
  c.want(want.size() == got.size(), Code::bad_body, fmt::format("the body has {} {}s, wanted are {}", got.size(), what, want.size()), "quern ops describes what the body takes and gives");
  for (size_t i = 0; i < want.size(); ++i)
    c.want(want[i] == got[i], Code::bad_body, fmt::format("{} {} of the body is {}, wanted is {}", what, i, to_string(got[i]), to_string(want[i])), "a carry keeps its type from step to step; a scanned argument is seen without its axis 0");
}
void want_body(const InferContext& c, const Graph* body) {
  QN_CHECK(body != nullptr, "control flow has a body");
  c.want(body->states.empty(), Code::bad_body, "a body has no states", "make states carries of the loop");
}
int64_t count_attr(const InferContext& c, size_t i, size_t of) {
  c.want(c.attrs.index.size() == of, Code::attribute_missing, fmt::format("wants the attribute index with {} numbers", of), of == 2 ? "index=[carries, scanned]" : "index=[carries]");
  const int64_t n = c.attrs.index[i];
  c.want(n >= 0 && n <= static_cast<int64_t>(c.args.size()), Code::attribute_missing, fmt::format("index says {} arguments, there are {}", n, c.args.size()), "carries come first, then what is scanned, then the rest");
  return n;
}
Type results_of(const InferContext& c, std::vector<Type> results) {
  c.want(!results.empty(), Code::bad_body, "a body needs an output", "give the body an `output`");
  Type t;
  for (Type& r : results) t.results.push_back(checked(c, std::move(r)));
  return t;
}

Type infer_scan(const InferContext& c) {
  want_body(c, c.attrs.body.get());
  const int64_t carries = count_attr(c, 0, 2), scanned = count_attr(c, 1, 2);
  c.want(c.attrs.limit.size() == 1 && c.attrs.limit[0] >= 0 && c.attrs.limit[0] <= kMaxExtent, Code::attribute_missing, "wants the number of steps", "limit=[10], say");
  c.want(c.attrs.stride.empty() || (c.attrs.stride.size() == 1 && (c.attrs.stride[0] == 1 || c.attrs.stride[0] == -1)), Code::attribute_missing, "a scan goes forward or backward", "stride=[-1] goes from the last step to the first");
  c.want(carries + scanned <= static_cast<int64_t>(c.args.size()), Code::argument_count, fmt::format("{} carries and {} scanned arguments, but {} arguments", carries, scanned, c.args.size()), "carries come first, then what is scanned, then the rest");
  const int64_t steps = c.attrs.limit[0];
  std::vector<Type> in(c.args.begin(), c.args.end());
  for (int64_t i = carries; i < carries + scanned; ++i) {
    Type& t = in[static_cast<size_t>(i)];
    c.want(t.rank() > 0 && t.shape[0] == steps, Code::bad_body, fmt::format("argument {} is {}: a scanned argument has {} steps along axis 0", i, to_string(t), steps), "transpose it, or give it behind the scanned ones");
    t.shape.erase(t.shape.begin());
  }
  want_types(c, in, types_in(*c.attrs.body), "input");
  std::vector<Type> out = types_out(*c.attrs.body);
  c.want(static_cast<int64_t>(out.size()) >= carries, Code::bad_body, fmt::format("{} carries, but the body has {} outputs", carries, out.size()), "the body gives the next carries first");
  want_types(c, {in.begin(), in.begin() + carries}, {out.begin(), out.begin() + carries}, "output");
  for (size_t i = static_cast<size_t>(carries); i < out.size(); ++i) out[i].shape.insert(out[i].shape.begin(), steps);
  return results_of(c, std::move(out));
}
Type infer_while_loop(const InferContext& c) {
  want_body(c, c.attrs.body.get());
  const int64_t carries = count_attr(c, 0, 1);
  c.want(carries > 0 && c.args[0] == Type{DType::boolean, {}, {}}, Code::bad_body, "the first carry says whether to go on: a bool[]", "compare two scalars");
  want_types(c, {c.args.begin(), c.args.end()}, types_in(*c.attrs.body), "input");
  want_types(c, {c.args.begin(), c.args.begin() + carries}, types_out(*c.attrs.body), "output");
  return results_of(c, {c.args.begin(), c.args.begin() + carries});
}
Type infer_cond(const InferContext& c) {
  want_body(c, c.attrs.body.get());
  want_body(c, c.attrs.otherwise.get());
  c.want(!c.args.empty() && c.args[0] == Type{DType::boolean, {}, {}}, Code::bad_body, "the first argument chooses the body: a bool[]", "compare two scalars; `select` chooses element by element");
  for (const auto& body : {c.attrs.body, c.attrs.otherwise}) want_types(c, {c.args.begin() + 1, c.args.end()}, types_in(*body), "input");
  want_types(c, types_out(*c.attrs.body), types_out(*c.attrs.otherwise), "output");
  return results_of(c, types_out(*c.attrs.body));
}
Type infer_result(const InferContext& c) {
  want_args(c, 1);
  QN_CHECK(c.attrs.index.size() == 1 && !c.args[0].results.empty(), "result i is of a call");
  c.want(c.attrs.index[0] >= 0 && c.attrs.index[0] < static_cast<int64_t>(c.args[0].results.size()), Code::attribute_missing, "there is no such result", fmt::format("index counts the {} results from 0", c.args[0].results.size()));
  return c.args[0].results[static_cast<size_t>(c.attrs.index[0])];
}
HostTensor eval_none(const Node&, std::span<const HostTensor* const>) {
  QN_CHECK(false, "bodies are evaluated by interpret()");
  return {};
}
std::vector<Sample> no_samples(DType) { return {}; }

}  // namespace

std::vector<OpDef> body_ops() {
  return {
      define(Op::call, "call", "a closed graph applied to arguments, after a transform", infer_call, eval_none, no_gradient, Body{}, no_samples),
      define(Op::scan, "scan", "a closed graph applied step by step along axis 0 of the scanned arguments, with carries", infer_scan, eval_none, no_gradient, Body{}, no_samples),
      define(Op::while_loop, "while_loop", "a closed graph applied to its own results as long as the first of them is true", infer_while_loop, eval_none, no_gradient, Body{}, no_samples),
      define(Op::cond, "cond", "one of two closed graphs", infer_cond, eval_none, no_gradient, Body{}, no_samples),
      define(Op::result, "result", "the i-th result of a call, scan, while_loop or cond", infer_result, eval_none, no_gradient, Body{}, no_samples),
  };
}

}  // namespace quern
