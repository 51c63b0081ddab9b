// quern run: executes a package or a model once, on tensors from .npy and .npz files, a checkpoint, or filled ones.
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include <fmt/format.h>

#include "frontend/checkpoint.h"
#include "frontend/npy.h"
#include "frontend/npz.h"
#include "ir/interpret.h"
#include "ir/symbol.h"
#include "ir/support/file.h"
#include "ir/support/suggest.h"
#include "ir/text.h"
#include "models/dataset.h"
#include "models/trainer.h"
#include "tools/commands.h"
#include "tools/fuzz_graphs.h"
#include "tools/package.h"

namespace quern {
namespace {

struct Arguments {
  ModelArgument model;
  std::string device = "cpu", fill = "random", print = "stats", weights;
  std::vector<std::string> inputs, outputs;   // NAME=FILE.npy, NAME=FILE.npz, NAME=FILE.npz:MEMBER
  uint64_t seed = 1;
  bool times = false;
  PassArguments passes;
  JsonArgument json;
};

// Where a tensor is read from or written to.
struct Place {
  std::string name, file;
  std::string member;   // of an .npz; "" for an .npy
  std::string text() const { return member.empty() ? file : fmt::format("{}:{}", file, member); }
};
std::string type_text(const HostTensor& t) { return to_string(Type{t.dtype, t.shape, {}}); }

[[noreturn]] void fail_name(const std::string& message, const std::string& name, const std::vector<std::string>& known) {
  std::string list;
  for (const std::string& k : known) list += (list.empty() ? "" : ", ") + k;
  throw Error(Code::unknown_tensor, message).with_help(suggestion(name, known, list.empty() ? "there are none" : "there are " + list));
}

// NAME=FILE.npy, NAME=FILE.npz (its member NAME) or NAME=FILE.npz:MEMBER; each name known and named once.
std::vector<Place> split(const char* flag, const std::vector<std::string>& words, const std::vector<std::string>& known) {
  std::vector<Place> out;
  std::set<std::string> seen;
  for (const std::string& w : words) {
    const size_t equals = w.rfind('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == w.size()) throw Error(Code::bad_value, fmt::format("{} {}: wants NAME=FILE.npy or NAME=FILE.npz", flag, w)).with_help(fmt::format("e.g. {} {}=file.npy", flag, known.empty() ? "x" : known[0]));
    Place p{w.substr(0, equals), w.substr(equals + 1), ""};
    if (std::find(known.begin(), known.end(), p.name) == known.end()) fail_name(fmt::format("{} {}: the model has no \"{}\"", flag, w, p.name), p.name, known);
    if (!seen.insert(p.name).second) throw Error(Code::bad_value, fmt::format("{} {}: \"{}\" is named twice", flag, w, p.name)).with_help("name each tensor once");
    if (const size_t colon = p.file.rfind(".npz:"); colon != std::string::npos) {
      p.member = p.file.substr(colon + 5);
      p.file.resize(colon + 4);
      if (p.member.empty()) throw Error(Code::bad_value, fmt::format("{} {}: names no member behind the colon", flag, w)).with_help(fmt::format("{} {}={}:{}", flag, p.name, p.file, p.name));
    } else if (p.file.ends_with(".npz")) {
      p.member = p.name;
    }
    out.push_back(std::move(p));
  }
  return out;
}

// Every archive is read once.
std::map<std::string, HostTensor> read_all(const std::vector<Place>& places) {
  std::map<std::string, HostTensor> out;
  std::map<std::string, Npz> archives;
  for (const Place& p : places) out.emplace(p.name, p.member.empty() ? load_npy(p.file) : archives.try_emplace(p.file, p.file).first->second.at(p.member));
  return out;
}

// An archive is written once, with all that goes into it.
void want_places(const std::vector<Place>& places) {
  std::set<std::string> seen;
  for (const Place& p : places) {
    want_writable(p.file);
    if (!seen.insert(p.text()).second)
      throw Error(Code::bad_value, fmt::format("--output {}={}: another output is written there", p.name, p.text())).with_help(p.member.empty() ? "give each output a file of its own, or a member of an .npz" : fmt::format("give each output a member of its own: {}={}:{}", p.name, p.file, p.name));
  }
}
void write_all(const std::vector<Place>& places, const std::vector<NamedOutput>& outputs, const std::vector<HostTensor>& values) {
  std::map<std::string, NamedTensors> archives;
  for (const Place& p : places)
    for (size_t o = 0; o < outputs.size(); ++o) {
      if (outputs[o].name != p.name) continue;
      if (p.member.empty()) save_npy(p.file, values[o]);
      else archives[p.file].emplace_back(p.member, values[o]);
    }
  for (const auto& [file, tensors] : archives) save_npz(file, tensors);
}

// The tensor for a place of `want`'s type; where NumPy has no such dtype (bf16, f8, 4 bits), one of that which stands for it is cast.
HostTensor fitted(HostTensor t, const Type& want, const std::string& what, const std::string& name) {
  if (t.dtype != want.dtype && t.dtype == npy_dtype(want.dtype) && t.shape == want.shape) {
    fmt::print(stderr, "quern: {}: {} {} to {}\n", what, name_of(t.dtype), is_float(t.dtype) ? "rounded" : "cast", name_of(want.dtype));
    HostTensor out(want.dtype, t.shape);
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, Scalar::cast(want.dtype, t.get(i)));
    return out;
  }
  if (t.dtype != want.dtype || t.shape != want.shape)
    throw Error(Code::tensor_mismatch, fmt::format("{}: {} does not fit \"{}\", which is {}", what, type_text(t), name, to_string(want)))
        .with_operand("given", type_text(t), what)
        .with_operand("wanted", to_string(want), name)
        .with_help(t.shape == want.shape ? fmt::format("save it as {}", name_of(want.dtype)) : "reshape it, or compile the model for that shape");
  return t;
}

void fill(HostTensor& t, const std::string& how) {
  if (how == "random") return;   // as drawn
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of_int(t.dtype, how == "zeros" ? 0 : i));
}

Json show(const std::string& print, FILE* out, const std::string& name, const HostTensor& t) {
  double low = INFINITY, high = -INFINITY, sum = 0;
  int64_t nan = 0, inf = 0;
  for (int64_t i = 0; i < t.size(); ++i) {
    const double v = t.at(i);
    if (std::isnan(v)) ++nan;
    else if (std::isinf(v)) ++inf;
    else low = std::min(low, v), high = std::max(high, v), sum += v;
  }
  const int64_t finite = t.size() - nan - inf;
  const double mean = finite ? sum / static_cast<double>(finite) : NAN;
  if (!finite) low = high = NAN;
  fmt::print(out, "{} {} min {:.6g} max {:.6g} mean {:.6g} nan {} inf {}\n", name, type_text(t), low, high, mean, nan, inf);
  Json row = {{"name", name}, {"dtype", name_of(t.dtype)}, {"shape", t.shape}, {"min", low}, {"max", high}, {"mean", mean}, {"nan", nan}, {"inf", inf}};
  if (print == "values") {
    row["values"] = t.to_doubles();
    for (int64_t i = 0; i < t.size(); ++i) fmt::print(out, "{:.9g}{}", t.at(i), i + 1 == t.size() ? "\n" : " ");
  }
  return row;
}

void run(const Arguments& a) {
  const std::string& m = a.model.name;
  if (a.print != "stats" && a.print != "values") throw Error(Code::bad_value, fmt::format("--print {}: wants stats or values", a.print)).with_help(suggestion(a.print, {"stats", "values"}, "stats is the default"));
  if (a.fill != "random" && a.fill != "zeros" && a.fill != "iota") throw Error(Code::bad_value, fmt::format("--fill {}: wants random, zeros or iota", a.fill)).with_help(suggestion(a.fill, {"random", "zeros", "iota"}, "random is the default"));
  std::unique_ptr<Device> device = a.device == "interpret" ? nullptr : open_device(a.device);
  Graph graph;
  NamedTensors model_weights;   // that the model's file holds
  std::unique_ptr<Executable> executable;
  TimeBudget times;
  if (m.size() > 4 && m.substr(m.size() - 4) == ".qpk") {
    if (!device) throw Error(Code::unknown_device, "a package runs on a device").with_help("to interpret, give the .qir");
    if (!a.model.settings.empty()) throw Error(Code::bad_setting, "--set is for registered models, not for packages").with_help("give --set to `quern compile`");
    if (!a.passes.plan.empty()) throw Error(Code::bad_value, "a package is compiled already: it takes no --plan").with_help("give --plan to `quern compile`");
    const Program program = load_package(m, &graph);
    executable = std::make_unique<Executable>(*device, program);
    times.lap("load");
  } else {
    if (!device && !a.passes.plan.empty()) throw Error(Code::bad_value, "the interpreter has no kernels: it takes no --plan").with_help("leave --plan out, or give --device cpu");
    graph = a.model.load(a.passes, &model_weights);
    times.lap("trace");
    CompileReport report;
    if (device) executable = jit(*device, graph, a.passes.options(device->target()), &report);
    times.lap(report, "load");
    print_notes(report);
  }
  if (a.times) times.print(stderr);

  // Names first, then files, then the run: a mistyped output is not found after an hour.
  std::map<std::string, size_t> position;
  std::vector<std::string> names, output_names;
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    names.push_back(graph.at(graph.inputs[i]).attrs.name);
    position[names.back()] = i;
  }
  for (const NamedOutput& o : graph.outputs) output_names.push_back(o.name);
  const std::vector<Place> input_files = split("--input", a.inputs, names), output_files = split("--output", a.outputs, output_names);
  want_places(output_files);
  std::mt19937_64 random(a.seed);
  // Files say the symbol's value where they can.
  std::map<std::string, HostTensor> files = read_all(input_files);
  std::vector<Shape> shapes;
  for (NodeId id : graph.inputs) shapes.push_back(files.count(graph.at(id).attrs.name) ? files.at(graph.at(id).attrs.name).shape : Shape{});
  const Graph sized = at_size(graph, size_for(graph, shapes));
  std::vector<HostTensor> all = random_inputs(sized, random), inputs;
  for (HostTensor& t : all) fill(t, a.fill);
  const auto give = [&](const std::string& name, HostTensor value, const std::string& what) {
    const size_t i = position.at(name);
    all[i] = fitted(std::move(value), sized.type(graph.inputs[i]), what, name);
  };
  for (auto& [name, value] : model_weights) give(name, std::move(value), m);
  if (!a.weights.empty()) {
    std::set<std::string> given;
    for (auto& [name, value] : load_safetensors(a.weights)) {
      // A state is found by its own name, or by its input's.
      std::string input = name;
      for (const State& s : graph.states)
        if (s.name == name) input = graph.at(s.input).attrs.name;
      if (!position.count(input)) fail_name(fmt::format("{}: the model has no \"{}\"", a.weights, name), name, names);
      give(input, std::move(value), fmt::format("{}: {}", a.weights, name));
      given.insert(input);
    }
    for (const State& s : graph.states)
      if (!given.count(graph.at(s.input).attrs.name)) fmt::print(stderr, "quern: {} has no \"{}\"; it is filled ({})\n", a.weights, s.name, a.fill);
  }
  for (const Place& p : input_files) give(p.name, std::move(files.at(p.name)), p.text());

  for (size_t i = 0; i < all.size(); ++i) {
    const State* state = graph.state_of(graph.inputs[i]);
    if (!state) inputs.push_back(all[i]);
    else if (executable) executable->set_state(state->name, all[i]);
  }
  std::vector<HostTensor> outputs;
  if (executable) {
    outputs = executable->run(inputs);
  } else {
    PassContext context;
    outputs = interpret(expand(graph, context), all);
  }
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  Json rows = Json::array();
  for (size_t o = 0; o < graph.outputs.size(); ++o) rows.push_back(show(a.print, out, graph.outputs[o].name, outputs[o]));
  write_all(output_files, graph.outputs, outputs);
  a.json.write({{"schema", 1}, {"model", m}, {"device", a.device}, {"seed", a.seed}, {"outputs", rows}});
}

}  // namespace

void register_run(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("run", "execute a package (.qpk), a model, a .qir or an .onnx file once");
  a->model.add_to(*c);
  c->get_option("model")->description("a package (.qpk), a registered model (mlp), a .qir or an .onnx file");
  c->add_option("--device", a->device, "interpret, cpu[:ARCH], cuda[:N] or null")->capture_default_str();
  c->add_option("--input", a->inputs, "NAME=FILE.npy: an input or a state from a file, or NAME=FILE.npz[:MEMBER] from an archive (its member NAME); repeat for several")->allow_extra_args(false);
  c->add_option("--output", a->outputs, "NAME=FILE.npy, or NAME=FILE.npz[:MEMBER]: write an output to a file or into an archive; repeat for several")->allow_extra_args(false);
  c->add_option("--weights", a->weights, "a .safetensors file with states or inputs by name");
  c->add_option("--fill", a->fill, "what is not given: random, zeros or iota (0, 1, 2, …)")->capture_default_str();
  c->add_option("--print", a->print, "stats or values")->capture_default_str();
  c->add_option("--seed", a->seed, "of --fill random")->capture_default_str();
  c->add_flag("--time-passes", a->times, "print the time of every phase up to the run, to standard error");
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("Examples:\n  quern run mlp.qpk --input x=batch.npy --weights mlp.safetensors --output loss=loss.npy\n  quern run model.onnx --input x=batch.npz --output y=out.npz --output z=out.npz:second\n  quern run model.qir --device interpret --print values");
  c->callback([a] { run(*a); });
}

}  // namespace quern
