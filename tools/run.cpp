// quern run: executes a package or a model once, on random or zero inputs.
#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "ir/interpret.h"
#include "models/dataset.h"
#include "models/trainer.h"
#include "tools/commands.h"
#include "tools/fuzz_graphs.h"
#include "ir/text.h"

namespace quern {
namespace {

struct Arguments {
  ModelArgument model;
  std::string device = "cpu", fill = "random", print = "stats";
  uint64_t seed = 1;
};

void show(const Arguments& a, const std::string& name, const HostTensor& t) {
  double low = INFINITY, high = -INFINITY, sum = 0;
  int64_t nan = 0, inf = 0;
  for (int64_t i = 0; i < t.size(); ++i) {
    const double v = t.at(i);
    if (std::isnan(v)) ++nan;
    else if (std::isinf(v)) ++inf;
    else low = std::min(low, v), high = std::max(high, v), sum += v;
  }
  fmt::print("{} {} min {:.6g} max {:.6g} mean {:.6g} nan {} inf {}\n", name, to_string(Type{t.dtype, t.shape, {}}), low, high, t.size() ? sum / static_cast<double>(t.size()) : 0, nan, inf);
  if (a.print == "values")
    for (int64_t i = 0; i < t.size(); ++i) fmt::print("{:.9g}{}", t.at(i), i + 1 == t.size() ? "\n" : " ");
}

void run(const Arguments& a) {
  const std::string& m = a.model.name;
  if (a.print != "stats" && a.print != "values") throw Error(ErrorKind::usage, "--print wants stats or values");
  if (a.fill != "random" && a.fill != "zeros") throw Error(ErrorKind::usage, "--fill wants random or zeros");
  std::unique_ptr<Device> device = a.device == "interpret" ? nullptr : open_device(a.device);
  Graph graph;
  std::unique_ptr<Executable> executable;
  if (m.size() > 4 && m.substr(m.size() - 4) == ".qpk") {
    if (!device) throw Error(ErrorKind::usage, "a package runs on a device; to interpret, give the .qir");
    const Program program = load_program(read_file(m, int64_t{1} << 31), m);
    graph = parse_graph(program.graph_text, m);
    if (graph.outputs.size() != program.outputs.size() || graph.inputs.size() != program.inputs.size() + program.states.size())
      throw Error(ErrorKind::bad_file, fmt::format("{}: its graph and its program disagree; compile it again", m));
    executable = std::make_unique<Executable>(*device, program);
  } else {
    graph = a.model.load();
    if (device) executable = jit(*device, graph);
  }
  std::mt19937_64 random(a.seed);
  std::vector<HostTensor> all = random_inputs(graph, random), inputs;
  if (a.fill == "zeros")
    for (HostTensor& t : all) t = HostTensor(t.dtype, t.shape);
  for (size_t i = 0; i < all.size(); ++i) {
    const State* state = nullptr;
    for (const State& s : graph.states)
      if (s.input == graph.inputs[i]) state = &s;
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
  for (size_t o = 0; o < graph.outputs.size(); ++o) show(a, graph.outputs[o].name, outputs[o]);
}

}  // namespace

void register_run(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("run", "execute a package (.qpk), a model or a .qir once");
  a->model.add_to(*c);
  c->add_option("--device", a->device, "interpret, cpu, cuda[:N] or null")->capture_default_str();
  c->add_option("--fill", a->fill, "inputs: random or zeros")->capture_default_str();
  c->add_option("--print", a->print, "stats or values")->capture_default_str();
  c->add_option("--seed", a->seed)->capture_default_str();
  c->footer("Examples:\n  quern run mlp.qpk\n  quern run model.qir --device interpret --print values");
  c->callback([a] { run(*a); });
}

}  // namespace quern
