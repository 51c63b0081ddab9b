// quern fuzz graphs: random graphs on a target against the interpreter; what fails is made small and written to files.
// quern fuzz files: damaged files and their readers.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "frontend/npy.h"
#include "ir/support/fault.h"
#include "ir/support/file.h"
#include "ir/support/suggest.h"
#include "ir/symbol.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "tools/commands.h"
#include "tools/diagnostics.h"
#include "tools/fuzz_extents.h"
#include "tools/fuzz_files.h"
#include "tools/fuzz_graphs.h"
#include "tools/fuzz_products.h"
#include "tools/fuzz_reduce.h"

namespace quern {
namespace {

struct Arguments {
  int64_t count = 100, only = -1;
  uint64_t seed = 1;
  std::string target = "cpu", out, part;
  bool grad = false, vmap = false, products = false, tile = false, stop = false, no_reduce = false;
  JsonArgument json;
};

// Beside the outputs, the gradient of the weighted sum of all float outputs with respect to all float inputs, or with `forward`
// the tangents of all outputs for tangents of these.
Graph with_derivative(const Graph& graph, bool forward) {
  GraphBuilder body, b;
  std::vector<NodeId> inputs, args;
  Attrs attrs;
  attrs.transform = forward ? Transform::jvp : Transform::vjp;
  for (NodeId i : graph.inputs) {
    inputs.push_back(body.input(graph.at(i).attrs.name, graph.type(i)));
    args.push_back(b.input(graph.at(i).attrs.name, graph.type(i)));
    if (is_float(graph.type(i).dtype)) attrs.index.push_back(static_cast<int64_t>(inputs.size()) - 1);
  }
  if (attrs.index.empty()) return graph;
  const std::vector<NodeId> outputs = body.inline_body(graph, inputs), values = b.inline_body(graph, args);
  NodeId loss = body.scalar(DType::f64, 0);
  for (NodeId o : outputs) {
    if (!is_float(body.type(o).dtype)) continue;
    Attrs cast, all;
    cast.dtype = {DType::f64};
    for (int64_t d = 0; d < body.type(o).rank(); ++d) all.axes.push_back(d);
    const NodeId wide = body.add(Op::cast, {o}, cast);
    const NodeId bounded = body.add(Op::tanh, {body.add(Op::mul, {wide, body.full(body.type(wide), 0.25)})});
    if (forward) body.output("", bounded);
    else loss = body.add(Op::add, {loss, all.axes.empty() ? bounded : body.add(Op::reduce_sum, {bounded}, all)});
  }
  if (!forward) body.output("loss", loss);
  if (body.graph().outputs.empty()) return graph;
  const size_t first = body.graph().outputs.size(), wanted = forward ? first : attrs.index.size();
  if (forward)
    for (int64_t i : std::vector<int64_t>(attrs.index)) args.push_back(b.input(fmt::format("t{}", i), graph.type(graph.inputs[static_cast<size_t>(i)])));
  attrs.body = std::make_shared<const Graph>(body.finish());
  for (size_t o = 0; o < values.size(); ++o) b.output(graph.outputs[o].name, values[o]);
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t g = 0; g < wanted; ++g) {
    Attrs which;
    which.index = {static_cast<int64_t>(first + g)};
    b.output(fmt::format("d{}", g), b.add(Op::result, {call}, which));
  }
  return b.finish();
}

// The graph for one to three lanes, of most of its inputs, along any axis of theirs.
Graph with_lanes(const Graph& graph, std::mt19937_64& random) {
  if (graph.inputs.empty()) return graph;
  GraphBuilder b;
  std::vector<NodeId> args;
  Attrs attrs;
  const int64_t lanes = 1 + static_cast<int64_t>(random() % 3);
  const size_t always = random() % graph.inputs.size();
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    Type type = graph.type(graph.inputs[i]);
    const int64_t axis = i != always && random() % 4 == 0 ? -1 : static_cast<int64_t>(random() % (type.shape.size() + 1));
    if (axis >= 0) type.shape.insert(type.shape.begin() + axis, lanes);
    attrs.axes.push_back(axis);
    args.push_back(b.input(graph.at(graph.inputs[i]).attrs.name, type));
  }
  attrs.transform = Transform::vmap;
  attrs.body = std::make_shared<const Graph>(graph);
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t o = 0; o < graph.outputs.size(); ++o) {
    Attrs which;
    which.index = {static_cast<int64_t>(o)};
    b.output(graph.outputs[o].name, b.add(Op::result, {call}, which));
  }
  return b.finish();
}

// Some inputs become states: their new value is a value of their type that the graph computes, the old value of another
// state, or their own. Some outputs show an old value, or what another output shows, too.
void add_states(Graph& graph, std::mt19937_64& random) {
  std::vector<NodeId> values;
  for (const NamedOutput& o : graph.outputs) values.push_back(o.node);
  values.insert(values.end(), graph.inputs.begin(), graph.inputs.end());
  for (NodeId i : graph.inputs) {
    std::vector<NodeId> fitting;
    for (NodeId v : values)
      if (v != i && graph.type(v) == graph.type(i)) fitting.push_back(v);
    if (random() % 3 == 0) graph.states.push_back({fmt::format("s{}", graph.states.size()), i, i});
    else if (!fitting.empty() && random() % 2) graph.states.push_back({fmt::format("s{}", graph.states.size()), i, fitting[random() % fitting.size()]});
  }
  graph.outputs.push_back({"again", values[random() % values.size()]});
}

// The graph for any size of what some of its inputs have in common, a leading dim mostly; none where no extent can be one.
std::optional<Graph> with_symbol(const Graph& graph, std::mt19937_64& random) {
  const Extents extents(graph);
  std::vector<Extents::Class> leading, others;
  for (const Extents::Class& c : extents.classes()) {
    if (c.inputs.empty() || c.of_state || c.extent == 0) continue;
    const bool first = std::all_of(c.inputs.begin(), c.inputs.end(), [](const auto& input) { return input.second == 0; });
    (first ? leading : others).push_back(c);
  }
  std::shuffle(leading.begin(), leading.end(), random);
  if (!others.empty() && random() % 8 == 0) leading.insert(leading.begin(), others[random() % others.size()]);
  const int64_t high = 2 + static_cast<int64_t>(random() % (random() % 8 ? 12 : 90)), low = random() % 4 ? 1 : 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(high));
  for (const Extents::Class& c : leading) {
    try {
      return extents.with(c.id, kSymbol, Symbol{"size", low, high});
    } catch (const Error&) {   // a shape would hold it twice, or a view is not of whole rows
    }
  }
  return std::nullopt;
}

// "I/N": which of the graphs are this process's.
std::pair<int64_t, int64_t> parse_part(const std::string& text) {
  int64_t part = 0, parts = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%ld/%ld%n", &part, &parts, &end) != 2 || static_cast<size_t>(end) != text.size() || parts < 1 || parts > 4096 || part < 1 || part > parts)
    throw Error(Code::bad_value, fmt::format("--part {}: wants I/N, from 1/N to N/N", text)).with_help("--part 1/8 to --part 8/8 are eight processes' shares of one campaign");
  return {part - 1, parts};
}

void write_case(const FuzzCase& c, const std::string& base) {
  write_text(base + ".qir", to_string(c.graph));
  for (size_t i = 0; i < c.inputs.size(); ++i) save_npy(fmt::format("{}.{}.npy", base, c.graph.at(c.graph.inputs[i]).attrs.name), c.inputs[i]);
}

void fuzz(const Arguments& a) {
  const auto [part, parts] = a.part.empty() ? std::pair<int64_t, int64_t>{0, 1} : parse_part(a.part);
  const Target target = parse_target(a.target);
  const bool plans = a.tile && target.kind == TargetKind::cuda;   // which no device runs
  const auto device = plans ? nullptr : open_device(target.kind == TargetKind::cpu ? to_string(target) : "cuda");
  if (!plans && !(device->target() == target)) throw Error(Code::unknown_target, fmt::format("fuzz runs what it compiles: this machine's target is {}, not {}", to_string(device->target()), to_string(target))).with_help("--target " + to_string(device->target()));
  any_planted();   // an unknown fault is an error at once
  std::mt19937_64 random(a.seed);
  Coverage coverage;
  OracleCounts counts;
  int64_t graphs = 0, mismatches = 0, lanes = 0, symbols = 0, refused = 0;
  const DrawOptions draw{true};
  // False where a symbol is refused; `more` are input sets of other sizes.
  const auto run = [&](FuzzCase c, const std::vector<InputSet>& more, int64_t k, const char* what, bool strict) {
    OracleCounts scratch;
    const Fp fp = a.products && k % 2 ? Fp::fast : Fp::standard;   // attention has roles where it is fast
    const auto check_all = [&](const Graph& graph, const std::vector<InputSet>& sets, OracleCounts& into) {
      if (plans) return check_plans(target, graph, sets, strict, fp, into);
      return a.tile ? check_tiles(graph, sets, strict, 1 + k % 5, into) : check_compiled(*device, graph, sets, strict, fp, into);
    };
    const Oracle oracle = [&](const Graph& graph, const InputSet& inputs) { return check_all(graph, {inputs}, scratch); };
    const std::string name = fmt::format("fuzz-{}-{}{}", a.seed, k, what), base = a.out.empty() ? name : a.out + "/" + name;
    if (a.only >= 0 && !a.out.empty()) write_case(c, base);
    std::vector<InputSet> sets = {c.inputs};
    sets.insert(sets.end(), more.begin(), more.end());
    const Failure failure = check_all(c.graph, sets, counts);
    if (!failure) return true;
    if (c.graph.symbol && (failure.kind == to_string(Code::symbol_place) || failure.kind == to_string(Code::symbol_shape))) return false;   // sorting along it compares all pairs
    c.inputs = sets[failure.set];
    ++mismatches;
    fmt::print(stderr, "graph {}{}: {}\n", k, what, failure.text);
    if (a.no_reduce) return true;
    const int64_t before = ops_of(c.graph);
    c = reduce_case(std::move(c), oracle, failure, 30);
    write_case(c, base);
    std::string inputs;
    for (NodeId i : c.graph.inputs) inputs += fmt::format(" --input {0}={1}.{0}.npy", c.graph.at(i).attrs.name, base);
    fmt::print(stderr, "  from {} to {} ops; ", before, ops_of(c.graph));
    if (c.graph.states.empty() && !c.graph.symbol && !a.tile && fp == Fp::standard) fmt::print(stderr, "again: quern check {}.qir{}\n", base, inputs);
    else fmt::print(stderr, "again: quern fuzz graphs -n {} --seed {} --target {}{}{}{}{} --only {}\n", k + 1, a.seed, to_string(target), a.grad ? " --grad" : "", a.vmap ? " --vmap" : "", a.products ? " --products" : "", a.tile ? " --tile" : "", k);
    return true;
  };
  for (int64_t k = 0; k < a.count && !(a.stop && mismatches); ++k) {
    Graph graph = a.products ? random_products(random) : random_graph(random, coverage, draw);
    if (a.grad) graph = with_derivative(graph, random() % 4 == 0);
    FuzzCase batched;
    if (a.vmap) {
      batched.graph = with_lanes(graph, random);
      batched.inputs = random_inputs(batched.graph, random);
    }
    add_states(graph, random);
    FuzzCase plain{graph, random_inputs(graph, random)};
    const bool special = !a.grad && random() % 8 == 0;
    const bool strict = special && add_special_values(plain.graph, plain.inputs, random);
    const std::optional<Graph> any_size = !plans && random() % 2 ? with_symbol(graph, random) : std::nullopt;
    std::vector<InputSet> sets;   // the bound, the least size, others
    for (int s = 0; any_size && s < 4; ++s) {
      const Symbol& symbol = *any_size->symbol;
      const Graph sized = at_size(*any_size, s == 0 ? symbol.high : s == 1 ? symbol.low : symbol.low + static_cast<int64_t>(random() % static_cast<uint64_t>(symbol.high - symbol.low + 1)));
      sets.push_back(random_inputs(sized, random));
    }
    if ((a.only >= 0 && k != a.only) || k % parts != part) continue;
    ++graphs;
    bool ran = false;
    if (any_size) {
      ran = run({*any_size, sets[0]}, {sets.begin() + 1, sets.end()}, k, "-sizes", false);
      ++(ran ? symbols : refused);
    }
    if (!ran) run(std::move(plain), {}, k, "", strict);
    if (a.vmap && !(a.stop && mismatches)) ++lanes, run(std::move(batched), {}, k, "-lanes", false);
  }
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  const double rejected = coverage.drawn ? 100.0 * static_cast<double>(coverage.rejected) / static_cast<double>(coverage.drawn) : 0;
  std::string bodies;
  Json by_body = Json::object();
  for (const auto& [name, n] : coverage.bodies) {
    bodies += fmt::format("{} {} {}", bodies.empty() ? "; drawn in all" : ",", n, name);
    by_body[name] = n;
  }
  fmt::print(out, "{} graphs, {} ops, {} kernels ({} with roles) on {}: {} mismatches; {:.1f} % of {} op x dtype pairs hit, {:.1f} % of draws rejected, {} outputs not finite, {} sensitive to rounding; {} graphs in lanes, {} of any size ({} more refused){}\n", graphs, counts.ops, counts.kernels, counts.roles, plans ? "tiles, as planned for " + to_string(target) : a.tile ? "tiles"
                                                                                                                                                                                                                                                                                                                                                                                    : to_string(target),
             mismatches, 100 * coverage.fraction(), coverage.hits.size(), rejected, counts.unstable, counts.sensitive, lanes, symbols, refused, bodies);
  a.json.write({{"schema", 1}, {"target", to_string(target)}, {"seed", a.seed}, {"grad", a.grad}, {"vmap", a.vmap}, {"products", a.products}, {"tile", a.tile}, {"graphs", graphs}, {"symbols", symbols}, {"refused", refused}, {"ops", counts.ops}, {"kernels", counts.kernels}, {"roles", counts.roles}, {"mismatches", mismatches}, {"coverage", coverage.fraction()}, {"rejected_percent", rejected}, {"bodies", by_body}});
  if (mismatches) throw Error(Code::model_differs, fmt::format("{} graphs differ from the interpreter", mismatches)).with_help("quern check runs the reduced cases again; --disable-pass there finds the pass");
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
  g->add_flag("--grad", a->grad, "with the gradient of all outputs, or their tangents");
  g->add_flag("--vmap", a->vmap, "each graph also for several lanes");
  g->add_flag("--products", a->products, "graphs around products and attention that are large enough for kernels with roles, every other one with --fp fast");
  g->add_flag("--tile", a->tile, "on the tile interpreter: no code is generated; with --target cuda:sm_90a the kernels as planned for it, roles included");
  g->add_flag("--no-reduce", a->no_reduce, "do not make what differs small, nor write it");
  g->add_flag("--stop", a->stop, "at the first graph that differs");
  g->add_option("--only", a->only, "of all N graphs run this one, counted from 0, and write it to --out")->check(CLI::Range(0, 999999999));
  g->add_option("--part", a->part, "I/N: of all graphs run every N-th from the I-th, as one of N processes");
  g->add_option("--out", a->out, "a folder for graphs that differ; without it the current one")->each([](const std::string& folder) { want_writable(folder + "/fuzz.qir"); });
  a->json.add_to(*g);
  g->footer("Examples:\n  quern fuzz graphs -n 500 --seed 1 --grad --target cpu\n  quern fuzz graphs -n 20 --vmap --out found/\n  quern fuzz graphs -n 200000 --tile --part 1/8");
  g->callback([a] { fuzz(*a); });
  auto b = std::make_shared<FileArguments>();
  CLI::App* f = c->add_subcommand("files", "files that are damaged: each must load or be refused with a reason");
  f->add_option("-n", b->fuzz.count, "how many files")->capture_default_str()->check(CLI::Range(1, 1000000000));
  f->add_option("--seed", b->fuzz.seed, "of the damage")->capture_default_str();
  f->add_option("--kind", b->kind, "onnx, safetensors, npy, npz, qir, qpk, plan, idx or all")->capture_default_str();
  f->add_option("--only", b->fuzz.only, "of all N files try this one, counted from 0")->check(CLI::Range(0, 999999999));
  f->add_option("--out", b->fuzz.out, "a folder for files that are mishandled")->capture_default_str()->each([](const std::string& folder) { want_writable(folder + "/fuzz.bin"); });
  b->json.add_to(*f);
  f->footer("A reader may take 2 seconds of CPU time, and 64 MiB and four times the file's size of memory.\n\nExamples:\n  quern fuzz files -n 10000 --seed 1\n  quern fuzz files -n 10000 --seed 1 --kind onnx --only 4711 --out found/");
  f->callback([b] { fuzz_all_files(*b); });
}

}  // namespace quern
