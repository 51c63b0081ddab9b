// quern check: a compiled model against the reference interpreter, outputs, states and gradients.
#include <cmath>
#include <memory>
#include <numbers>

#include <fmt/format.h>

#include "frontend/npy.h"
#include "ir/compare.h"
#include "ir/interpret.h"
#include "ir/symbol.h"
#include "runtime/jit.h"
#include "tools/commands.h"
#include "tools/fuzz_graphs.h"
#include "tools/fuzz_oracle.h"

namespace quern {
namespace {

struct Arguments {
  ModelArgument model;
  std::string target = "cpu";
  int64_t samples = 3;
  uint64_t seed = 1;
  std::vector<std::string> inputs;   // NAME=FILE.npy
  bool grad = false;
  PassArguments passes;
  JsonArgument json;
};

// States become plain inputs and outputs; with `grad`, the gradient of the first output with respect to every float
// input is added.
Graph comparable(const Graph& graph, bool grad) {
  Graph open = graph;
  for (const State& s : open.states) open.outputs.push_back({"next " + s.name, s.output});
  open.states.clear();
  if (!grad) return open;
  if (open.outputs.empty()) throw Error(Code::bad_value, "--grad wants a model with an output").with_help("give the graph an `output`");
  const Type& first = open.type(open.outputs[0].node);
  if (first.rank() != 0 || !is_float(first.dtype)) throw Error(Code::bad_value, fmt::format("--grad wants a model whose first output is a scalar float; \"{}\" is {}", open.outputs[0].name, to_string(first))).with_help("make the loss the first output, or leave --grad out");
  GraphBuilder b;
  b.symbol(open.symbol);
  std::vector<NodeId> args;
  Attrs attrs;
  for (size_t i = 0; i < open.inputs.size(); ++i) {
    const Node& n = open.at(open.inputs[i]);
    args.push_back(b.input(n.attrs.name, n.type));
    if (is_float(n.type.dtype)) attrs.index.push_back(static_cast<int64_t>(i));
  }
  Graph body = open;
  body.outputs.resize(1);
  attrs.body = std::make_shared<const Graph>(dead_code(body));
  attrs.transform = Transform::vjp;
  const std::vector<NodeId> values = b.inline_body(open, args);
  for (size_t o = 0; o < values.size(); ++o) b.output(open.outputs[o].name, values[o]);
  const std::vector<int64_t> wanted = attrs.index;
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t g = 0; g < wanted.size(); ++g) b.output("d " + open.at(open.inputs[static_cast<size_t>(wanted[g])]).attrs.name, b.result(call, g + 1));
  return b.finish();
}

// Values for the inputs that files give, in their place. What NumPy lacks was saved as another dtype.
void give_files(const std::vector<std::string>& words, const Graph& graph, std::vector<HostTensor>& inputs) {
  for (const std::string& w : words) {
    const size_t equals = w.find('=');
    size_t i = 0;
    while (i < graph.inputs.size() && (equals == std::string::npos || graph.at(graph.inputs[i]).attrs.name != w.substr(0, equals))) ++i;
    if (i == graph.inputs.size()) throw Error(Code::bad_value, fmt::format("--input {}: wants NAME=FILE.npy of an input of the model", w)).with_help("quern dump shows the inputs");
    const HostTensor t = load_npy(w.substr(equals + 1));
    if ((t.dtype != inputs[i].dtype && t.dtype != npy_dtype(inputs[i].dtype)) || t.shape != inputs[i].shape)
      throw Error(Code::tensor_mismatch, fmt::format("--input {}: {} does not fit {}", w, to_string(Type{t.dtype, t.shape, {}}), to_string(Type{inputs[i].dtype, inputs[i].shape, {}}))).with_help("save it with that dtype and shape");
    for (int64_t e = 0; e < t.size(); ++e) inputs[i].set(e, Scalar::cast(inputs[i].dtype, t.get(e)));
  }
}

// Floats as models meet them far from their beginning: from -20, or where that leaves a domain from 0, to 20.
constexpr double kWide = 20;
void widen(std::vector<HostTensor>& inputs, double low, std::mt19937_64& random) {
  std::uniform_real_distribution<double> draw(low, kWide);
  for (HostTensor& t : inputs)
    if (is_float(t.dtype))
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(t.dtype, draw(random)));
}
bool finite(const std::vector<HostTensor>& tensors) {
  for (const HostTensor& t : tensors)
    for (int64_t i = 0; is_float(t.dtype) && i < t.size(); ++i)
      if (!std::isfinite(t.at(i))) return false;
  return true;
}
// Every float next to itself, up or down, or by `epsilon` where that is more: how far results move is what rounding may do to them, however large it makes them.
std::vector<HostTensor> nudged(std::vector<HostTensor> inputs, std::mt19937_64& random, double epsilon = 0) {
  for (HostTensor& t : inputs)
    if (is_float(t.dtype) && !is_storage(t.dtype))
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(t.dtype, t.at(i) * (1 + (random() % 2 ? 1 : -1) * std::max(epsilon, 2 * epsilon_of(t.dtype)))));
  return inputs;
}

void check(const Arguments& a) {
  const Target target = parse_target(a.target);
  const Graph graph = comparable(a.model.load(a.passes), a.grad);
  const auto device = open_device(target.kind == TargetKind::cpu ? to_string(target) : "cuda");
  CompileReport report;
  CompileOptions options = a.passes.options(target);
  if (!(device->target() == target)) throw Error(Code::unknown_target, fmt::format("check runs what it compiles: this machine's target is {}, not {}", to_string(device->target()), to_string(target))).with_help("--target " + to_string(device->target()));
  const auto executable = jit(*device, graph, options, &report);
  print_notes(report);
  const bool as_is = graph.symbol || options.passes.compute != DType::f32;   // sizes are not written out; what is rounded depends on what a loop's body is
  const Graph reference = as_is ? expand(graph, options.passes) : reference_of(graph);
  const Symbol symbol = graph.symbol.value_or(Symbol{});
  const double products = options.f32_products == F32Products::tf32 ? kTf32Products : options.f32_products == F32Products::f8 ? kF8Products
                                                                                                                              : 0;
  const Tolerance tolerance = tolerance_of(at_size(reference, symbol.high), products);
  std::mt19937_64 random(a.seed);
  std::vector<Difference> worst(graph.outputs.size());
  std::vector<double> bounds(worst.size(), tolerance.bound()), excess(worst.size(), -1);   // of the worst one; how far it is beyond
  std::vector<double> apart(worst.size()), apart_bounds(worst.size(), tolerance.rms()), apart_excess(worst.size(), -1);   // the same of root mean squares
  std::string wide = "none up to 20: results are not finite there";
  for (int64_t s = 0; s < a.samples; ++s) {
    // The bounds of the symbol, then sizes between them.
    const int64_t size = s == 0 ? symbol.high : s == 1 ? symbol.low : std::uniform_int_distribution<int64_t>(symbol.low, symbol.high)(random);
    std::vector<HostTensor> inputs = random_inputs(at_size(graph, size), random);
    // Parameters and inputs around zero, small: products of hundreds of terms stay moderate.
    for (HostTensor& t : inputs)
      if (t.dtype == DType::f32 && t.shape.size() >= 2)
        for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = (t.data<float>()[i] - 1.075f) * 0.4f;
    give_files(a.inputs, graph, inputs);
    std::vector<HostTensor> want = interpret(reference, inputs), moved;
    for (const double low : {-kWide, 0.0}) {   // the last one
      if (s == 0 || s + 1 < a.samples || !moved.empty()) break;
      std::vector<HostTensor> far = inputs;
      widen(far, low, random);
      give_files(a.inputs, graph, far);
      std::vector<HostTensor> there = interpret(reference, far), beside = interpret(reference, nudged(far, random));
      if (!finite(there) || !finite(beside)) continue;
      inputs = std::move(far), want = std::move(there), moved = std::move(beside);
      wide = fmt::format("the last from {} to {}", low, kWide);
    }
    const std::vector<HostTensor> got = executable->run(inputs);
    std::vector<HostTensor> rounded;
    for (size_t o = 0; o < worst.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      const double bound = tolerance.bound() + (moved.empty() ? 0 : 16 * compare(moved[o], want[o]).error);
      if (d.error / bound > excess[o]) worst[o] = d, bounds[o] = bound, excess[o] = d.error / bound;
      double rms = tolerance.rms();
      if (d.rms > rms) {   // roundings, or what cancels makes of them?
        if (rounded.empty()) rounded = interpret(reference, nudged(inputs, random, tolerance.epsilon));
        rms += 4 / std::numbers::sqrt3 * compare(rounded[o], want[o]).rms;
      }
      if (d.rms / rms > apart_excess[o]) apart[o] = d.rms, apart_bounds[o] = rms, apart_excess[o] = d.rms / rms;
    }
  }
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "{} on {} against the interpreter: {} samples{}, seed {}; {}\n", a.model.name, to_string(target), a.samples, a.samples > 1 ? ", " + wide : "", a.seed, to_string(tolerance));
  double most = 0;
  bool passed = true;
  Json tensors = Json::array();
  for (size_t o = 0; o < worst.size(); ++o) {
    const bool near = worst[o].error <= bounds[o], good = near && apart[o] <= apart_bounds[o];
    passed = passed && good;
    most = std::max(most, worst[o].error);
    fmt::print(out, "  {:<24} {:<16} max error {:.2e}  rms {:.2e}  {}\n", graph.outputs[o].name, to_string(graph.type(graph.outputs[o].node)), worst[o].error, apart[o],
               good   ? "ok"
               : near ? fmt::format("MISMATCH: root mean square above {:.1e}", apart_bounds[o])
                      : fmt::format("MISMATCH at element {}: got {}, want {}", worst[o].at, worst[o].got, worst[o].want));
    tensors.push_back({{"name", graph.outputs[o].name}, {"error", worst[o].error}, {"bound", bounds[o]}, {"rms", apart[o]}, {"rms_bound", apart_bounds[o]}, {"ok", good}});
  }
  fmt::print(out, "{}\n", passed ? "passed" : "FAILED");
  a.json.write({{"schema", 1}, {"model", a.model.name}, {"target", to_string(target)}, {"seed", a.seed}, {"samples", a.samples}, {"passed", passed}, {"max_relative_error", most}, {"bound", tolerance.bound()}, {"tensors", tensors}});
  if (!passed) throw Error(Code::model_differs, "the compiled model differs from the interpreter").with_help("--opt-bisect-limit N finds the rewrite; --disable-pass leaves one pass out");
}

}  // namespace

void register_check(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("check", "compare a compiled model with the reference interpreter");
  a->model.add_to(*c);
  c->add_option("--target", a->target, "cpu[:ARCH] or cuda[:ARCH]")->capture_default_str();
  c->add_flag("--grad", a->grad, "compare gradients, too");
  c->add_option("--samples", a->samples, "how many sets of random inputs; of several, the last is of values from -20, or where results are not finite from 0, to 20")->capture_default_str()->check(CLI::Range(1, 1000));
  c->add_option("--seed", a->seed, "of the random inputs")->capture_default_str();
  c->add_option("--input", a->inputs, "NAME=FILE.npy: an input or a state from a file, in all samples; repeat for several")->allow_extra_args(false);
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("Examples:\n  quern check mlp --target cpu --grad\n  quern check model.qir --samples 10 --json -");
  c->callback([a] { check(*a); });
}

}  // namespace quern
