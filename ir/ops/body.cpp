// Ops that hold a closed graph: call, and `result`, the only user of its several results.
#include <algorithm>

#include <fmt/format.h>

#include "ir/interpret.h"
#include "ir/ops/define.h"

namespace quern {
namespace {

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
  if (forward)
    for (const NamedOutput& o : body.outputs) t.results.push_back(body.type(o.node));   // tangents
  if (c.attrs.transform == Transform::vjp) {
    c.want(t.results[0].rank() == 0 && is_float(t.results[0].dtype), Code::gradient_of, fmt::format("only a scalar float has a gradient, output 0 is {}", to_string(t.results[0])), "sum or mean it first");
    for (int64_t i : c.attrs.index) t.results.push_back(c.args[static_cast<size_t>(i)]);
  }
  return t;
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
      define(Op::result, "result", "the i-th result of a call", infer_result, eval_none, no_gradient, Body{}, no_samples),
  };
}

}  // namespace quern
