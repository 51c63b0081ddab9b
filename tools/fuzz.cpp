// quern fuzz graphs: random graphs on a target against the interpreter. quern fuzz files: damaged files and their readers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/compare.h"
#include "ir/interpret.h"
#include "ir/support/file.h"
#include "ir/support/suggest.h"
#include "ir/text.h"
#include "runtime/jit.h"
#include "tools/commands.h"
#include "tools/diagnostics.h"
#include "tools/fuzz_files.h"
#include "tools/fuzz_graphs.h"

namespace quern {
namespace {

struct Arguments {
  int64_t count = 100, only = -1;
  uint64_t seed = 1;
  std::string target = "cpu", out, part;
  bool grad = false, stop = false;
  JsonArgument json;
};

// The gradient of the weighted sum of all float outputs with respect to all float inputs, beside the outputs.
Graph with_gradient(const Graph& graph) {
  GraphBuilder body;
  std::vector<NodeId> inputs;
  Attrs attrs;
  for (NodeId i : graph.inputs) {
    inputs.push_back(body.input(graph.at(i).attrs.name, graph.type(i)));
    if (is_float(graph.type(i).dtype)) attrs.index.push_back(static_cast<int64_t>(inputs.size()) - 1);
  }
  const std::vector<NodeId> outputs = body.inline_body(graph, inputs);
  NodeId loss = body.scalar(DType::f64, 0);
  for (NodeId o : outputs) {
    if (!is_float(body.type(o).dtype)) continue;
    Attrs cast, all;
    cast.dtype = {DType::f64};
    for (int64_t d = 0; d < body.type(o).rank(); ++d) all.axes.push_back(d);
    const NodeId wide = body.add(Op::cast, {o}, cast);
    const NodeId bounded = body.add(Op::tanh, {wide});
    loss = body.add(Op::add, {loss, all.axes.empty() ? bounded : body.add(Op::reduce_sum, {bounded}, all)});
  }
  if (attrs.index.empty()) return graph;
  body.output("loss", loss);
  attrs.body = std::make_shared<const Graph>(body.finish());
  attrs.transform = Transform::vjp;
  GraphBuilder b;
  std::vector<NodeId> args;
  for (NodeId i : graph.inputs) args.push_back(b.input(graph.at(i).attrs.name, graph.type(i)));
  const std::vector<NodeId> values = b.inline_body(graph, args);
  for (size_t o = 0; o < values.size(); ++o) b.output(graph.outputs[o].name, values[o]);
  const size_t wanted = attrs.index.size();
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t g = 0; g < wanted; ++g) {
    Attrs which;
    which.index = {static_cast<int64_t>(g) + 1};
    b.output(fmt::format("d{}", g), b.add(Op::result, {call}, which));
  }
  return b.finish();
}

// Some inputs become states: their new value is a value of their type that the graph computes, or the old value of
// another state. Some outputs show an old value, or what another output shows, too.
void add_states(Graph& graph, std::mt19937_64& random) {
  std::vector<NodeId> values;
  for (const NamedOutput& o : graph.outputs) values.push_back(o.node);
  values.insert(values.end(), graph.inputs.begin(), graph.inputs.end());
  for (NodeId i : graph.inputs) {
    std::vector<NodeId> fitting;
    for (NodeId v : values)
      if (v != i && graph.type(v) == graph.type(i)) fitting.push_back(v);
    if (!fitting.empty() && random() % 2) graph.states.push_back({fmt::format("s{}", graph.states.size()), i, fitting[random() % fitting.size()]});
  }
  graph.outputs.push_back({"again", values[random() % values.size()]});
}

// Runs one step; the outputs, then the new states.
std::vector<HostTensor> run_step(Executable& executable, const Graph& graph, const std::vector<HostTensor>& inputs) {
  std::vector<HostTensor> plain;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto state = std::find_if(graph.states.begin(), graph.states.end(), [&](const State& s) { return s.input == graph.inputs[i]; });
    if (state == graph.states.end()) plain.push_back(inputs[i]);
    else executable.set_state(state->name, inputs[i]);
  }
  std::vector<HostTensor> out = executable.run(plain);
  for (const State& s : graph.states) out.push_back(executable.state(s.name));
  return out;
}

// What one output or new state depends on: an error bound of its own, not that of the least precise output.
Graph computation_of(const Graph& graph, size_t root) {
  Graph one = graph;
  one.outputs = {{"", graph.roots()[root]}};
  one.states.clear();
  return dead_code(one);
}

// "I/N": which of the graphs are this process's.
std::pair<int64_t, int64_t> parse_part(const std::string& text) {
  int64_t part = 0, parts = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%ld/%ld%n", &part, &parts, &end) != 2 || static_cast<size_t>(end) != text.size() || parts < 1 || parts > 4096 || part < 1 || part > parts)
    throw Error(Code::bad_value, fmt::format("--part {}: wants I/N, from 1/N to N/N", text)).with_help("--part 1/8 to --part 8/8 are eight processes' shares of one campaign");
  return {part - 1, parts};
}

void fuzz(const Arguments& a) {
  const auto [part, parts] = a.part.empty() ? std::pair<int64_t, int64_t>{0, 1} : parse_part(a.part);
  const Target target = parse_target(a.target);
  const auto device = open_device(target.kind == TargetKind::cpu ? to_string(target) : "cuda");
  if (!(device->target() == target)) throw Error(Code::unknown_target, fmt::format("fuzz runs what it compiles: this machine's target is {}, not {}", to_string(device->target()), to_string(target))).with_help("--target " + to_string(device->target()));
  std::mt19937_64 random(a.seed);
  Coverage coverage;
  int64_t graphs = 0, ops = 0, mismatches = 0, kernels = 0, unstable = 0;
  for (int64_t k = 0; k < a.count && !(a.stop && mismatches); ++k) {
    Graph graph = random_graph(random, coverage);
    if (a.grad) graph = with_gradient(graph);
    add_states(graph, random);
    const std::vector<HostTensor> inputs = random_inputs(graph, random);
    const std::string file = fmt::format("{}fuzz-{}-{}.qir", a.out.empty() ? "" : a.out + "/", a.seed, k);
    if ((a.only >= 0 && k != a.only) || k % parts != part) continue;
    if (a.only >= 0 && !a.out.empty()) write_text(file, to_string(graph));
    ++graphs;
    PassContext context;
    const Graph reference = expand(graph, context);
    ops += static_cast<int64_t>(reference.nodes.size());
    const std::vector<HostTensor> want = interpret(reference, inputs);
    CompileOptions options;
    options.use_cache = false;
    CompileReport report;
    const auto executable = jit(*device, graph, options, &report);
    kernels += static_cast<int64_t>(report.lowered.size());
    const std::vector<HostTensor> got = run_step(*executable, graph, inputs);
    for (size_t o = 0; o < got.size(); ++o) {
      // Where the reference itself is not finite (an overflow of a short float), only its absence is compared.
      const std::vector<double> values = want[o].to_doubles();
      const bool finite = std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
      unstable += !finite;
      const Difference d = compare(got[o], want[o]);
      const double bound = tolerance_of(computation_of(reference, o)).bound();
      if (d.error <= bound || !finite) continue;
      ++mismatches;
      fmt::print(stderr, "graph {}: output {} differs by {:.2e} (bound {:.2e}) at element {}: got {}, want {}\n", k, o < graph.outputs.size() ? graph.outputs[o].name : graph.states[o - graph.outputs.size()].name, d.error, bound, d.at, d.got, d.want);
      if (!a.out.empty()) write_text(file, to_string(graph));
      break;
    }
  }
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  const double rejected = coverage.drawn ? 100.0 * static_cast<double>(coverage.rejected) / static_cast<double>(coverage.drawn) : 0;
  fmt::print(out, "{} graphs, {} ops, {} kernels on {}: {} mismatches; {:.1f} % of {} op x dtype pairs hit, {:.1f} % of draws rejected, {} outputs not finite\n", graphs, ops, kernels, to_string(target),
             mismatches, 100 * coverage.fraction(), coverage.hits.size(), rejected, unstable);
  a.json.write({{"schema", 1}, {"target", to_string(target)}, {"seed", a.seed}, {"grad", a.grad}, {"graphs", graphs}, {"ops", ops}, {"mismatches", mismatches}, {"coverage", coverage.fraction()}, {"rejected_percent", rejected}});
  if (mismatches) throw Error(Code::model_differs, fmt::format("{} graphs differ from the interpreter", mismatches)).with_help(a.out.empty() ? "--out DIR writes them" : fmt::format("quern check {}/FILE.qir", a.out));
}

struct FileArguments {
  FileFuzz fuzz;
  std::string kind = "all";
  JsonArgument json;
};

void fuzz_all_files(const FileArguments& a) {
  std::vector<FileKind> kinds = file_kinds();
  std::vector<std::string> names = {"all"};
  for (const FileKind& k : kinds) names.push_back(k.name);
  if (std::find(names.begin(), names.end(), a.kind) == names.end()) throw Error(Code::bad_value, fmt::format("--kind {}: wants one of {}", a.kind, fmt::join(names, ", "))).with_help(suggestion(a.kind, names, "all is the default"));
  std::erase_if(kinds, [&](const FileKind& k) { return a.kind != "all" && k.name != a.kind; });
  const FileFuzzReport report = fuzz_files(kinds, a.fuzz);
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  Json rows = Json::object(), found = Json::array();
  int64_t files = 0;
  for (const auto& [name, c] : report.kinds) {
    Json codes = Json::object();
    std::string text;
    for (const auto& [code, times] : c.refused) {
      codes[to_string(code)] = times;
      text += fmt::format(" {} x{}", to_string(code), times);
    }
    fmt::print(out, "{:<12} {:>8} files {:>8} loaded; refused:{}\n", name, c.files, c.loaded, text.empty() ? " none" : text);
    rows[name] = {{"files", c.files}, {"loaded", c.loaded}, {"refused", codes}};
    files += c.files;
  }
  for (const FileFinding& f : report.findings) {
    fmt::print(out, "FOUND {} {}: {}; {}\n", f.kind, f.index, visible(f.what), f.file.empty() ? "the file could not be kept" : f.file);
    found.push_back({{"index", f.index}, {"kind", f.kind}, {"what", f.what}, {"file", f.file}});
  }
  fmt::print(out, "{} damaged files, seed {}: {} findings{}\n", files, a.fuzz.seed, report.findings.size(), report.findings.size() == kMostFindings ? ", where the campaign ended" : "");
  a.json.write({{"schema", 1}, {"seed", a.fuzz.seed}, {"files", files}, {"kinds", rows}, {"findings", found}});
  report.want_none();
}

}  // namespace

void register_fuzz(CLI::App& root) {
  CLI::App* c = root.add_subcommand("fuzz", "random graphs against the interpreter, damaged files against their readers");
  c->require_subcommand(1);
  auto a = std::make_shared<Arguments>();
  CLI::App* g = c->add_subcommand("graphs", "random graphs on a target");
  g->add_option("-n", a->count, "how many graphs")->capture_default_str()->check(CLI::Range(1, 1000000000));
  g->add_option("--seed", a->seed, "of the graphs and their inputs")->capture_default_str();
  g->add_option("--target", a->target, "cpu[:ARCH] or cuda[:ARCH]")->capture_default_str();
  g->add_flag("--grad", a->grad, "with the gradient of all outputs");
  g->add_flag("--stop", a->stop, "at the first graph that differs");
  g->add_option("--only", a->only, "of all N graphs run this one, counted from 0, and write it to --out")->check(CLI::Range(0, 999999999));
  g->add_option("--part", a->part, "I/N: of all graphs run every N-th from the I-th, as one of N processes");
  g->add_option("--out", a->out, "a folder for graphs that differ")->each([](const std::string& folder) { want_writable(folder + "/fuzz.qir"); });
  a->json.add_to(*g);
  g->footer("Examples:\n  quern fuzz graphs -n 500 --seed 1 --grad --target cpu\n  quern fuzz graphs -n 20 --out found/");
  g->callback([a] { fuzz(*a); });
  auto b = std::make_shared<FileArguments>();
  CLI::App* f = c->add_subcommand("files", "files that are damaged: each must load or be refused with a reason");
  f->add_option("-n", b->fuzz.count, "how many files")->capture_default_str()->check(CLI::Range(1, 1000000000));
  f->add_option("--seed", b->fuzz.seed, "of the damage")->capture_default_str();
  f->add_option("--kind", b->kind, "onnx, safetensors, npy, npz, qir, qpk, idx or all")->capture_default_str();
  f->add_option("--only", b->fuzz.only, "of all N files try this one, counted from 0")->check(CLI::Range(0, 999999999));
  f->add_option("--out", b->fuzz.out, "a folder for files that are mishandled")->capture_default_str()->each([](const std::string& folder) { want_writable(folder + "/fuzz.bin"); });
  b->json.add_to(*f);
  f->footer("A reader may take 2 seconds of CPU time, and 64 MiB and four times the file's size of memory.\n\nExamples:\n  quern fuzz files -n 10000 --seed 1\n  quern fuzz files -n 10000 --seed 1 --kind onnx --only 4711 --out found/");
  f->callback([b] { fuzz_all_files(*b); });
}

}  // namespace quern
