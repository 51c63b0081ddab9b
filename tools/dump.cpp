// quern dump and quern compile: look inside, or write a package.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/op.h"
#include "ir/support/env.h"
#include "ir/support/file.h"
#include "ir/support/overloaded.h"
#include "ir/support/suggest.h"
#include "ir/text.h"
#include "passes/tile/lower.h"
#include "tools/commands.h"

extern char** environ;

namespace quern {
namespace {

struct DumpArguments {
  ModelArgument model;
  std::string what = "ir", target = "cpu", after, out;
  PassArguments passes;
  JsonArgument json;
};
const std::vector<std::string> kWhat = {"ir", "dot", "svg", "tile", "plan", "kernels", "fusion", "program"};

// The text, and the JSON with it; to standard output goes one of the two.
void emit(const DumpArguments& a, const std::string& text, const Json& more = Json::object()) {
  if (!a.json.wants_stdout() || (!a.out.empty() && a.out != "-")) write_text(a.out, text);
  Json report = {{"schema", 1}, {"model", a.model.name}, {"what", a.what}};
  report.update(more);
  report["text"] = text;
  a.json.write(report);
}

// Graphviz as a subprocess: text and picture through files, so that a picture that cannot be stored is noticed here.
std::string svg_of(const std::string& dot) {
  std::string source = std::string(env(Env::tmpdir) ? env(Env::tmpdir) : "/tmp") + "/quern-XXXXXX";
  const int fd = ::mkstemp(source.data());
  if (fd < 0 || ::write(fd, dot.data(), dot.size()) != static_cast<ssize_t>(dot.size())) throw Error(Code::cannot_write, fmt::format("{}: cannot be written", source)).with_help("TMPDIR chooses another folder");
  ::close(fd);
  const std::string picture = source + ".svg";
  std::vector<std::string> words = {"dot", "-Tsvg", source, "-o", picture};
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  int status = -1;
  const int error = ::posix_spawnp(&pid, "dot", nullptr, nullptr, argv.data(), environ);
  if (error == 0) ::waitpid(pid, &status, 0);
  ::unlink(source.c_str());
  if (error != 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 127)) throw Error(Code::no_graphviz, "Graphviz' `dot` is not installed").with_help("apt-get install graphviz, or use --what dot");
  std::string svg;
  if (std::error_code none; status == 0) {
    const std::vector<uint8_t> bytes = read_bytes(picture, int64_t{1} << 30);
    svg.assign(bytes.begin(), bytes.end());
    std::filesystem::remove(picture, none);
  }
  if (status != 0) throw Error(Code::no_graphviz, "Graphviz' `dot` failed").with_help("--what dot prints what it was given");
  return svg;
}

std::string steps_text(const Program& p, const std::vector<Step>& steps, const std::string& indent) {
  std::string text;
  const auto inside = [&](const std::vector<Step>& body) { return steps_text(p, body, indent + "  "); };
  for (const Step& s : steps)
    text += indent + std::visit(Overloaded{[&](const Launch& l) { return fmt::format("launch {} [{}]\n", p.images[static_cast<size_t>(l.images.back())].name, fmt::join(l.slots, ", ")); },
                                           [](const Copy& c) { return fmt::format("copy {} -> {}\n", c.from, c.to); },
                                           [&](const Loop& l) { return fmt::format("loop {}, {} times\n{}", l.id, l.count, inside(l.steps)); },
                                           [&](const While& w) { return fmt::format("while {}\n{}", w.flag, inside(w.steps)); },
                                           [&](const Branch& b) { return fmt::format("if {}\n{}{}else\n{}", b.flag, inside(b.yes), indent, inside(b.no)); }},
                                static_cast<const std::variant<Launch, Copy, Loop, While, Branch>&>(s));
  return text;
}
std::string place_text(const Slot& s) {
  if (s.loop >= 0) return fmt::format("in {}, {} bytes further for each of the entries ({}{:+}*t) mod {} in loop {}", s.parent, s.stride, s.first, s.step, s.entries, s.loop);
  if (s.parent >= 0) return fmt::format("in {} at {}", s.parent, s.offset);
  return s.kind == SlotKind::arena ? fmt::format("at {}", s.offset) : s.name;
}

void dump(const DumpArguments& a) {
  const bool graph_itself = a.what == "ir" || a.what == "dot" || a.what == "svg";
  if (std::find(kWhat.begin(), kWhat.end(), a.what) == kWhat.end()) throw Error(Code::bad_value, fmt::format("--what {}: wants {}", a.what, fmt::join(kWhat, ", "))).with_help(suggestion(a.what, kWhat, "ir is the default"));
  if (!a.after.empty() && !graph_itself) throw Error(Code::bad_value, fmt::format("--after goes with --what ir, dot or svg, not {}", a.what)).with_help("leave --after out");
  const Graph graph = a.model.load(a.passes);
  CompileOptions options = a.passes.options(parse_target(a.target));
  options.want_source = true;
  set_target(options.passes, parse_target(a.target), options.f32_products);
  if (graph_itself) {
    Graph shown = graph;
    if (!a.after.empty()) {
      bool found = false;
      options.passes.after = [&](const std::string& pass, const Graph& g) {
        if (pass == a.after) shown = g, found = true;
      };
      run_pipeline(graph, options.passes);
      if (!found) throw Error(Code::unknown_pass, fmt::format("there is no pass \"{}\"", a.after)).with_help(suggestion(a.after, {"expand", "simplify", "fold", "loops", "reassociate", "scores", "chunks", "align", "panels", "remat", "setup", "ordered", "partition", "precision"}, "passes are expand, simplify, fold, loops, reassociate, scores, chunks, align, panels, remat, ordered, partition and precision"));
    }
    return emit(a, a.what == "ir" ? to_string(shown) : a.what == "dot" ? to_dot(shown) : svg_of(to_dot(shown)));
  }
  if (a.what == "fusion") {
    std::string text;
    run_pipeline(graph, options.passes);
    for (const std::string& l : options.passes.in_memory) text += l + "\n";
    Json edges = Json::array();
    for (const Verdict& v : options.passes.verdicts) {
      text += fmt::format("{}: {}{}\n", v.edge, !v.fused ? "not fused: " + v.reason : v.reason.rfind("recomputed", 0) == 0 ? v.reason : "fused", v.fused ? "" : fmt::format(" ({} bytes of traffic)", v.bytes));
      edges.push_back({{"edge", v.edge}, {"producer", v.producer}, {"consumer", v.consumer}, {"fused", v.fused}, {"reason", v.reason}, {"bytes", v.bytes}});
    }
    for (const std::string& l : options.passes.loops) text += "loop: " + l + "\n";
    for (const std::string& l : options.passes.setup) text += "once: " + l + "\n";
    for (const std::string& l : options.passes.ordered) text += "in order: " + l + "\n";
    Json ledger = Json::array();
    for (const KeptWide& k : options.passes.ledger) {
      text += fmt::format("kernel {}: {} uses of short floats that were not rounded (--fp fast)\n", k.kernel, k.roundings);
      ledger.push_back({{"kernel", k.kernel}, {"roundings", k.roundings}});
    }
    return emit(a, text, {{"edges", edges}, {"loops", options.passes.loops}, {"setup", options.passes.setup}, {"ordered", options.passes.ordered}, {"ledger", ledger}});
  }
  options.target = parse_target(a.target);   // the graph's own forms above need none
  CompileReport report;
  const Program p = compile(graph, options, &report);
  print_notes(report);
  std::string text;
  Json more = {{"target", to_string(p.target)}};
  if (a.what == "tile") {
    for (const tile::Kernel& k : report.lowered) text += to_string(k) + "\n";
  } else if (a.what == "plan") {
    for (size_t k = 0; k < report.planned.size(); ++k)
      text += (report.plan_reasons[k].empty() ? "" : "# no roles: " + report.plan_reasons[k] + "\n") + to_string(report.planned[k]) + "\n";
  } else if (a.what == "kernels") {
    more["kernels"] = Json::array();
    for (const KernelImage& i : p.images) more["kernels"].push_back({{"name", i.name}, {"grid", i.grid}, {"code_bytes", i.code.size()}, {"flops", i.flops}, {"bytes", i.bytes}, {"lines", i.lines}});
    for (const KernelImage& i : p.images) text += fmt::format("; {} grid {} code {} bytes, {:.3g} flops, {:.3g} bytes; {}\n{}\n", i.name, i.grid, i.code.size(), i.flops, i.bytes, i.lines, i.source);
  } else {
    more.update({{"arena_bytes", p.arena_bytes}, {"lower_bound", p.lower_bound}, {"kept_bytes", kept_bytes(p)}, {"slots", p.slots.size()}, {"setup", p.setup.size()}, {"steps", p.steps.size()}});
    text = fmt::format("target {}\narena {} bytes (lower bound {}); kept by setup {} bytes\n", to_string(p.target), p.arena_bytes, p.lower_bound, kept_bytes(p));
    for (size_t s = 0; s < p.slots.size(); ++s) {
      static constexpr const char* kKinds[] = {"input", "output", "state", "constant", "arena", "kept"};
      const Slot& slot = p.slots[s];
      text += fmt::format("slot {} {} {} {}\n", s, kKinds[static_cast<int>(slot.kind)], to_string(Type{slot.dtype, slot.shape, {}}), place_text(slot));
    }
    if (!p.setup.empty()) text += "setup\n" + steps_text(p, p.setup, "  ") + "steps\n";
    text += steps_text(p, p.steps, p.setup.empty() ? "" : "  ");
    for (const std::string& l : report.clusters) text += "# " + l + "\n";
    more["clusters"] = report.clusters;
  }
  emit(a, text, more);
}

struct CompileArguments {
  ModelArgument model;
  std::string target = "cpu", out;
  bool times = false;
  PassArguments passes;
  JsonArgument json;
};

void compile_command(const CompileArguments& a) {
  if (a.out == "-" && a.json.wants_stdout()) throw Error(Code::bad_value, "-o - and --json - are both standard output").with_help("give one of them a file");
  TimeBudget times;
  const Graph graph = a.model.load(a.passes);
  times.lap("trace");
  CompileReport report;
  const Program p = compile(graph, a.passes.options(parse_target(a.target)), &report);
  times.lap(report, "other");
  print_notes(report);
  const std::vector<uint8_t> bytes = save_program(p);
  write_text(a.out, std::string(bytes.begin(), bytes.end()));
  times.lap("write");
  FILE* out = a.json.wants_stdout() || a.out == "-" ? stderr : stdout;
  if (a.times) times.print(out);
  int64_t launches = 0, once = 0;
  for_each_launch(p.steps, [&](const Launch&) { ++launches; });
  for_each_launch(p.setup, [&](const Launch&) { ++once; });
  fmt::print(out, "{}: {} ops -> {} launches of {} kernels ({} compiled, {} cached) for {}; arena {} bytes (lower bound {}){}; wrote {} {} bytes\n", a.model.name, graph.nodes.size(),
             launches, p.images.size(), report.compiled, report.cached, to_string(p.target), p.arena_bytes,
             p.lower_bound, once ? fmt::format("; {} launches once, which keep {} bytes", once, kept_bytes(p)) : "", a.out, bytes.size());
  a.json.write({{"schema", 1}, {"kernels", p.images.size()}, {"compiled", report.compiled}, {"cached", report.cached}, {"arena_bytes", p.arena_bytes}, {"lower_bound", p.lower_bound}, {"kept_bytes", kept_bytes(p)}, {"bytes", bytes.size()}});
}

}  // namespace

void register_dump(CLI::App& root) {
  auto a = std::make_shared<DumpArguments>();
  CLI::App* c = root.add_subcommand("dump", "print what the compiler makes of a model");
  a->model.add_to(*c);
  c->add_option("--what", a->what, "ir, dot, svg, tile, plan, kernels, fusion or program")->capture_default_str();
  c->add_option("--target", a->target, "cpu[:ARCH] or cuda[:ARCH], for all but ir, dot and svg")->capture_default_str();
  c->add_option("--after", a->after, "ir, dot, svg: the graph after this pass");
  add_output(*c, "-o", a->out, "a file instead of standard output");
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("Examples:\n  quern dump mlp --what fusion\n  quern dump model.qir --what svg --after expand -o model.svg");
  c->callback([a] { dump(*a); });
}

void register_compile(CLI::App& root) {
  auto a = std::make_shared<CompileArguments>();
  CLI::App* c = root.add_subcommand("compile", "compile a model to a package");
  a->model.add_to(*c);
  add_output(*c, "-o", a->out, "the package, e.g. mlp.qpk, or - for standard output")->required();
  c->add_option("--target", a->target, "cpu[:ARCH] or cuda[:ARCH]")->capture_default_str();
  c->add_flag("--time-passes", a->times, "print the time of every phase");
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("Examples:\n  quern compile mlp -o mlp.qpk --time-passes\n  quern compile model.qir --target cpu:avx2 -o model.qpk");
  c->callback([a] { compile_command(*a); });
}

}  // namespace quern
