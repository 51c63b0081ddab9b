// ONNX's control flow, sequences and optionals, as far as they are static: branches are chosen or selected from, loops of
// a known number of steps unrolled, sequences and optionals exist only while the model is imported.
#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

constexpr int64_t kMaxSteps = 4096;   // of an unrolled loop

void import_if(Call& c) {
  if (const auto known = c.known_if(c.in(0))) {
    c.want(known->size() == 1, "one condition");
    const std::vector<Value> taken = c.body(known->at(0) != 0 ? "then_branch" : "else_branch", {});
    for (size_t o = 0; o < taken.size(); ++o) c.out(taken[o], o);
    return;
  }
  // Both branches are computed and one is selected: they have no effects.
  const std::vector<Value> yes = c.body("then_branch", {}), no = c.body("else_branch", {});
  c.want(yes.size() == no.size(), "branches of one number of results");
  for (size_t o = 0; o < yes.size(); ++o) {
    if (yes[o].kind != Value::Kind::tensor || no[o].kind != Value::Kind::tensor || !(yes[o].items[0].type() == no[o].items[0].type()))
      c.unsupported("branches with results of different types under a condition that is not known at import");
    c.out(where(reshape(c.in(0), {}), yes[o].items[0], no[o].items[0]), o);
  }
}

// One item of x along an axis, without the axis.
Tensor item(const Tensor& x, int64_t axis, int64_t i) {
  Shape shape = x.shape();
  shape.erase(shape.begin() + axis);
  return reshape(slice(x, axis, i, i + 1), shape);
}
Tensor stacked(const std::vector<Tensor>& parts, int64_t axis) {
  std::vector<Tensor> wide;
  for (const Tensor& t : parts) wide.push_back(expand_dims(t, axis));
  return concat(wide, axis);
}

void import_loop(Call& c) {
  const bool limited = c.has(0);
  const int64_t limit = limited ? c.known_integer(0, "the number of steps") : kMaxSteps + 1;
  const auto truth = [&](const Tensor& t) { return c.known_number(t, "the loop's condition") != 0; };
  bool go = !c.has(1) || truth(c.in(1));
  std::vector<Value> carried;
  for (size_t i = 2; i < c.inputs(); ++i) carried.push_back(c.value(i));
  std::vector<std::vector<Tensor>> scanned;
  const size_t states = carried.size(), outputs = c.node.outputs.size();
  c.want(outputs >= states, "an output for every carried value");
  scanned.resize(outputs - states);
  for (int64_t step = 0; go && step < limit; ++step) {
    if (step == kMaxSteps) c.unsupported(fmt::format("more than {} steps", kMaxSteps));
    std::vector<Value> arguments = {Value::of(reshape(c.integers_tensor({step}), {})), Value::of(c.number(DType::boolean, 1))};
    arguments.insert(arguments.end(), carried.begin(), carried.end());
    const std::vector<Value> next = c.body("body", arguments);
    c.want(next.size() == 1 + outputs && next[0].kind == Value::Kind::tensor, "the body's number of results");
    carried.assign(next.begin() + 1, next.begin() + 1 + static_cast<int64_t>(states));
    for (size_t s = 0; s < scanned.size(); ++s) {
      c.want(next[1 + states + s].kind == Value::Kind::tensor, "a scanned output is a tensor");
      scanned[s].push_back(next[1 + states + s].items[0]);
    }
    go = truth(next[0].items[0]);
  }
  for (size_t s = 0; s < states; ++s) c.out(carried[s], s);
  for (size_t s = 0; s < scanned.size(); ++s) {
    if (scanned[s].empty()) c.unsupported("a loop of no steps with scanned outputs");
    c.out(stacked(scanned[s], 0), states + s);
  }
}

Shape list_of(const Call& c, const char* name, size_t n) {
  Shape out = c.integers(name);
  if (out.empty()) out.assign(n, 0);
  c.want(out.size() == n, fmt::format("{}: {} entries for {}", name, out.size(), n));
  return out;
}
// One scan over `inputs`, from `states`; scanned results are appended to `scanned`.
void scan_once(const Call& c, std::vector<Value>& states, const std::vector<Tensor>& inputs, const Shape& axes, const Shape& directions, std::vector<std::vector<Tensor>>& scanned) {
  c.want(!inputs.empty(), "a scan without inputs");
  const int64_t steps = inputs[0].shape().at(static_cast<size_t>(axes[0]));
  if (steps > kMaxSteps) c.unsupported(fmt::format("{} steps; at most {} are unrolled", steps, kMaxSteps));
  if (steps == 0) c.unsupported("a scan of no steps");
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<Value> arguments = states;
    for (size_t i = 0; i < inputs.size(); ++i) arguments.push_back(Value::of(item(inputs[i], axes[i], directions[i] ? steps - 1 - step : step)));
    const std::vector<Value> next = c.body("body", arguments);
    c.want(next.size() == states.size() + scanned.size(), "the body's number of results");
    std::copy(next.begin(), next.begin() + static_cast<int64_t>(states.size()), states.begin());
    for (size_t s = 0; s < scanned.size(); ++s) scanned[s].push_back(next[states.size() + s].items.at(0));
  }
}
void import_scan(Call& c) {
  const size_t inputs = static_cast<size_t>(c.integer("num_scan_inputs", 0)), first = c.opset < 9 ? 1 : 0;
  c.want(inputs > 0 && inputs + first <= c.inputs(), "num_scan_inputs");
  const size_t states = c.inputs() - first - inputs;
  c.want(c.node.outputs.size() >= states, "an output for every state");
  const size_t outputs = c.node.outputs.size() - states;
  if (c.opset < 9) {   // a batch axis in front of everything, no axes to choose
    if (c.has(0)) c.unsupported("sequence lengths");
    const Shape directions = list_of(c, "directions", inputs);
    const int64_t batch = c.in(first).shape().at(0);
    std::vector<std::vector<Tensor>> rows(states + outputs);
    for (int64_t b = 0; b < batch; ++b) {
      std::vector<Value> carried;
      std::vector<Tensor> scanned_in;
      for (size_t i = 0; i < states; ++i) carried.push_back(Value::of(item(c.in(first + i), 0, b)));
      for (size_t i = 0; i < inputs; ++i) scanned_in.push_back(item(c.in(first + states + i), 0, b));
      std::vector<std::vector<Tensor>> scanned(outputs);
      scan_once(c, carried, scanned_in, Shape(inputs, 0), directions, scanned);
      for (size_t i = 0; i < states; ++i) rows[i].push_back(carried[i].items.at(0));
      for (size_t o = 0; o < outputs; ++o) rows[states + o].push_back(stacked(scanned[o], 0));
    }
    for (size_t o = 0; o < rows.size(); ++o) c.out(stacked(rows[o], 0), o);
    return;
  }
  std::vector<Value> carried;
  std::vector<Tensor> scanned_in;
  for (size_t i = 0; i < states; ++i) carried.push_back(c.value(i));
  Shape axes = list_of(c, "scan_input_axes", inputs);
  for (size_t i = 0; i < inputs; ++i) {
    scanned_in.push_back(c.in(states + i));
    axes[i] = c.axis(axes[i], scanned_in[i].rank());
  }
  std::vector<std::vector<Tensor>> scanned(outputs);
  scan_once(c, carried, scanned_in, axes, list_of(c, "scan_input_directions", inputs), scanned);
  for (size_t i = 0; i < states; ++i) c.out(carried[i], i);
  const Shape out_axes = list_of(c, "scan_output_axes", outputs), out_directions = list_of(c, "scan_output_directions", outputs);
  for (size_t o = 0; o < outputs; ++o) {
    if (out_directions[o]) std::reverse(scanned[o].begin(), scanned[o].end());
    c.out(stacked(scanned[o], c.axis(out_axes[o], scanned[o][0].rank() + 1)), states + o);
  }
}

// --- sequences ---
Value sequence(const Call& c, size_t i) {
  const Value v = c.value(i);
  c.want(v.kind == Value::Kind::sequence, fmt::format("input {} must be a sequence", i));
  return v;
}
int64_t position(const Call& c, size_t i, int64_t limit, int64_t fallback) {
  if (!c.has(i)) return fallback;
  const int64_t p = c.known_integer(i, "the position");
  c.want(p >= -limit && p < limit, fmt::format("position {} of {}", p, limit));
  return p < 0 ? p + limit : p;
}
void import_sequence_construct(Call& c) {
  Value out{Value::Kind::sequence, {}};
  for (size_t i = 0; i < c.inputs(); ++i) out.items.push_back(c.in(i));
  c.out(out);
}
void import_sequence_at(Call& c) {
  const Value s = sequence(c, 0);
  const int64_t n = static_cast<int64_t>(s.items.size());
  c.out(s.items[static_cast<size_t>(position(c, 1, n, 0))]);
}
void import_sequence_insert(Call& c) {
  Value s = sequence(c, 0);
  const int64_t n = static_cast<int64_t>(s.items.size());
  int64_t at = n;
  if (c.has(2)) {
    at = c.known_integer(2, "the position");
    c.want(at >= -n && at <= n, "position");
    if (at < 0) at += n;
  }
  s.items.insert(s.items.begin() + at, c.in(1));
  c.out(s);
}
void import_sequence_erase(Call& c) {
  Value s = sequence(c, 0);
  const int64_t n = static_cast<int64_t>(s.items.size());
  s.items.erase(s.items.begin() + position(c, 1, n, n - 1));
  c.out(s);
}
void import_concat_from_sequence(Call& c) {
  const Value s = sequence(c, 0);
  c.want(!s.items.empty(), "an empty sequence");
  if (c.flag("new_axis")) return c.out(stacked(s.items, c.axis(c.integer("axis", 0), s.items[0].rank() + 1)));
  c.out(concat(s.items, c.axis(c.integer("axis", 0), s.items[0].rank())));
}
void import_split_to_sequence(Call& c) {
  const Tensor x = c.in(0);
  const int64_t axis = c.axis(c.integer("axis", 0), x.rank()), n = x.shape().at(static_cast<size_t>(axis));
  Shape sizes;
  bool keep = true;
  if (!c.has(1)) {
    sizes.assign(static_cast<size_t>(n), 1);
    keep = c.flag("keepdims", true);
  } else if (c.in(1).rank() == 0) {
    const int64_t each = c.known_integer(1, "the split");
    c.want(each > 0, "a positive part");
    for (int64_t at = 0; at < n; at += each) sizes.push_back(std::min(each, n - at));
  } else {
    sizes = c.known_integers(1, "the split");
  }
  if (sizes.size() > static_cast<size_t>(kMaxSteps)) c.unsupported(fmt::format("{} parts", sizes.size()));
  Value out{Value::Kind::sequence, {}};
  int64_t at = 0;
  for (int64_t s : sizes) {
    out.items.push_back(keep ? slice(x, axis, at, at + s) : item(x, axis, at));
    at += s;
  }
  c.out(out);
}
void import_sequence_map(Call& c) {
  const Value s = sequence(c, 0);
  std::vector<Value> outs(c.node.outputs.size(), Value{Value::Kind::sequence, {}});
  for (size_t k = 0; k < s.items.size(); ++k) {
    std::vector<Value> arguments = {Value::of(s.items[k])};
    for (size_t i = 1; i < c.inputs(); ++i) {
      const Value v = c.value(i);
      c.want(v.kind != Value::Kind::sequence || v.items.size() == s.items.size(), "sequences of one length");
      arguments.push_back(v.kind == Value::Kind::sequence ? Value::of(v.items[k]) : v);
    }
    const std::vector<Value> results = c.body("body", arguments);
    c.want(results.size() == outs.size(), "the body's number of results");
    for (size_t o = 0; o < outs.size(); ++o) outs[o].items.push_back(results[o].items.at(0));
  }
  for (size_t o = 0; o < outs.size(); ++o) c.out(outs[o], o);
}

}  // namespace

std::vector<OpEntry> control_ops() {
  return {
      {"ConcatFromSequence", import_concat_from_sequence}, {"If", import_if}, {"Loop", import_loop},
      {"Optional", [](Call& c) { c.out(c.value(0)); }},
      {"OptionalGetElement", [](Call& c) { c.want(c.has(0), "the optional is empty"); c.out(c.value(0)); }},
      {"OptionalHasElement", [](Call& c) { c.out(c.number(DType::boolean, c.has(0))); }},
      {"Scan", import_scan}, {"SequenceAt", import_sequence_at}, {"SequenceConstruct", import_sequence_construct},
      {"SequenceEmpty", [](Call& c) { c.out(Value{Value::Kind::sequence, {}}); }}, {"SequenceErase", import_sequence_erase}, {"SequenceInsert", import_sequence_insert},
      {"SequenceLength", [](Call& c) { c.out(reshape(c.integers_tensor({static_cast<int64_t>(sequence(c, 0).items.size())}), {})); }},
      {"SequenceMap", import_sequence_map}, {"SplitToSequence", import_split_to_sequence},
  };
}

}  // namespace quern::onnx
