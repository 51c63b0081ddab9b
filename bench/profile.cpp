// quern profile: every launch of a program's run with its time, beside the least that this machine's ceilings (bench/ceilings.h,
// measured in the same run) allow for its operations and bytes. Launches run in the program's order, each waited for.
#include <memory>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "bench/ceilings.h"
#include "bench/harness.h"
#include "bench/repeated.h"
#include "ir/support/overloaded.h"
#include "ir/symbol.h"
#include "tools/fuzz_graphs.h"
#include "tools/kernel_timer.h"

namespace quern {
namespace {

struct Arguments {
  ModelArgument model;
  std::string device = "cpu";
  int64_t rounds = 15;
  bool times = false;
  PassArguments passes;
  JsonArgument json;
};

/// A step of the program: one launch, or a loop or branch with the launches in it.
struct Line {
  std::string name;
  std::set<std::string> ops;
  double flops = 0, read = 0, written = 0;
};

void collect_ops(const tile::Block& block, std::set<std::string>& out) {
  for (const tile::Stmt& s : block)
    std::visit(Overloaded{[&](const tile::Mma&) { out.insert("contract"); }, [&](const tile::ReduceTile& r) { out.insert(fmt::format("reduce<{}>", name_of(r.combine))); },
                          [&](const tile::MapTile& m) {
                            for (const tile::ScalarNode& n : m.expr)
                              if (n.kind == tile::ScalarNode::Kind::op) out.insert(std::string(name_of(n.op)));
                          },
                          [&](const tile::Seq& q) { collect_ops(q.body, out); }, [&](const tile::Each& e) { collect_ops(e.body, out); }, [](const auto&) {}},
               s.node);
}

void add_step(const Program& p, const CompileReport& report, const Step& step, double times, Line& line) {
  const auto inside = [&](const std::string& what, const std::vector<Step>& steps, double each) {
    Line body;
    for (const Step& s : steps) add_step(p, report, s, 1, body);
    line.name += fmt::format("{}{} {{{}}}", line.name.empty() ? "" : ", ", what, body.name);
    line.ops.insert(body.ops.begin(), body.ops.end());
    line.flops += times * each * body.flops, line.read += times * each * body.read, line.written += times * each * body.written;
  };
  const auto add = [&](const std::string& name) { line.name += (line.name.empty() ? "" : ", ") + name; };
  const auto bytes = [&](int64_t slot) { return static_cast<double>(p.slots[static_cast<size_t>(slot)].bytes()); };
  std::visit(Overloaded{[&](const Launch& l) {
                          const size_t i = static_cast<size_t>(l.images.back());
                          const KernelImage& image = p.images[i];
                          add(image.name);
                          for (const tile::Phase& phase : report.lowered[i].phases) collect_ops(phase.body, line.ops);
                          line.flops += times * image.flops;
                          std::set<int64_t> read;   // an operand that is there twice is read once
                          for (size_t o = 0; o < l.slots.size(); ++o) {
                            if (static_cast<int64_t>(o) >= image.operands - image.outputs) line.written += times * bytes(l.slots[o]);
                            else if (read.insert(l.slots[o]).second) line.read += times * bytes(l.slots[o]);
                          }
                        },
                        [&](const Copy& c) {
                          add("copy");
                          line.read += times * bytes(c.from), line.written += times * bytes(c.to);
                        },
                        [&](const Loop& l) { inside(fmt::format("loop {} times", l.count), l.steps, static_cast<double>(l.count)); },
                        [&](const While& w) { inside("while", w.steps, 1); },
                        [&](const Branch& b) {
                          inside("if", b.yes, 1);
                          inside("else", b.no, 0);
                        }},
             static_cast<const std::variant<Launch, Copy, Loop, While, Branch>&>(step));
}

void profile(const Arguments& a) {
  const auto device = open_device(a.device);
  if (device->name() == "null") throw Error(Code::bad_value, fmt::format("--device {}: it runs nothing that could be held against ceilings", a.device)).with_help("--device cpu, or cuda");
  const bool gpu = device->target().kind == TargetKind::cuda;
  const auto measured_ceilings = [&] { return gpu ? bench::measure_ceilings(*device) : bench::measure_ceilings(device->threads()); };
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  TimeBudget times;
  const Graph graph = a.model.load(a.passes);
  times.lap("trace");
  CompileOptions options = a.passes.options(device->target());
  options.use_cache = false;   // a program from the cache has no kernels to look into
  CompileReport report;
  const Program program = compile(graph, options, &report);
  Executable executable(*device, program);
  times.lap(report, "load");
  if (a.times) times.print(out);
  print_notes(report);
  std::mt19937_64 random(1);
  std::vector<HostTensor> values = random_inputs(at_size(graph, program.size_high), random);
  const auto reset = [&] {   // a model that has trained for long has denormal moments
    size_t input = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const State* state = graph.state_of(graph.inputs[i]);
      if (state) executable.set_state(state->name, values[i]);
      else executable.set_input(static_cast<int64_t>(input++), values[i]);
    }
  };
  reset();
  executable.run();
  bench::Ceilings ceilings = measured_ceilings();
  struct Part {   // setup, and what every run does
    const std::vector<Step>& steps;
    std::vector<std::vector<double>> measured = std::vector<std::vector<double>>(steps.size());
    double total = 0, predicted = 0;
    Json rows = Json::array();
  };
  Part once{program.setup}, every{program.steps};
  std::vector<double> whole;
  for (int64_t r = 0; r < a.rounds; ++r) {
    reset();
    executable.run();
    device->synchronize();   // a GPU's run returns before the end
    whole.push_back(bench::microseconds([&] {
      executable.run();
      device->synchronize();
    }));
    for (Part* part : {&once, &every}) {
      const std::vector<double> steps = executable.profile(part->steps, 1);
      for (size_t s = 0; s < steps.size(); ++s) part->measured[s].push_back(steps[s]);
    }
  }
  if (!gpu) ceilings.raise(measured_ceilings());   // a GPU's are not shared

  fmt::print(out, "{} on {}, {} thread{}, median of {} runs\n", a.model.name, to_string(device->target()), device->threads(), device->threads() == 1 ? "" : "s", a.rounds);
  fmt::print(out, "ceilings: {:.1f} GFLOP/s, read {:.1f}, write {:.1f}, copy {:.1f} GB/s; predicted: the time of all operations, or of all bytes once from and to\nmemory, whichever is more. What lies in a cache may be faster (above 100 %); a gathered operand counts whole, a function as one flop.\n", ceilings.fma, ceilings.read, ceilings.write, ceilings.copy);
  fmt::print(out, "{:>6} {:>12} {:>12} {:>8}  {:<7} {:>10} {:>10}  {:<40} {}\n", "share", "measured us", "predicted us", "ceiling", "bound", "MB", "MFLOP", "kernel", "ops");
  const auto print = [&](Part& part) {
    for (const auto& m : part.measured) part.total += median(m);
    for (size_t s = 0; s < part.steps.size(); ++s) {
      Line line;
      add_step(program, report, part.steps[s], 1, line);
      const double us = median(part.measured[s]), predicted = ceilings.microseconds(line.flops, line.read, line.written), compute = ceilings.microseconds(line.flops, 0, 0);
      part.predicted += predicted;
      const char* bound = compute >= predicted ? "compute" : "memory";
      fmt::print(out, "{:>5.1f}% {:>12.2f} {:>12.2f} {:>7.1f}%  {:<7} {:>10.3f} {:>10.3f}  {:<40} {}\n", 100 * us / part.total, us, predicted, 100 * predicted / us, bound, (line.read + line.written) / 1e6, line.flops / 1e6, line.name, fmt::join(line.ops, " "));
      part.rows.push_back({{"kernel", line.name}, {"ops", line.ops}, {"read_bytes", line.read}, {"written_bytes", line.written}, {"flops", line.flops}, {"predicted_us", predicted}, {"measured_us", us}, {"ceiling", predicted / us}, {"bound", bound}, {"share", us / part.total}});
    }
  };
  print(every);
  fmt::print(out, "{} steps: {:.1f} us one by one, {:.1f} us predicted ({:.1f} %); a run takes {:.1f} us\n", every.rows.size(), every.total, every.predicted, 100 * every.predicted / every.total, median(whole));
  if (!program.setup.empty()) {
    fmt::print(out, "once, behind every set_state of what it reads (setup keeps {} bytes):\n", kept_bytes(program));
    print(once);
  }
  a.json.write({{"schema", 1}, {"model", a.model.name}, {"target", to_string(device->target())}, {"threads", device->threads()}, {"machine", bench::machine(*device)}, {"rounds", a.rounds}, {"ceilings", ceilings.json()}, {"setup", once.rows}, {"setup_us", once.total}, {"steps", every.rows}, {"steps_us", every.total}, {"predicted_us", every.predicted}, {"run_us", median(whole)}});
}

}  // namespace

void register_profile(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("profile", "every kernel of a model with its time, beside this machine's roofline");
  a->model.add_to(*c);
  c->add_option("--device", a->device, "cpu[:ARCH] or cuda[:N]; a GPU's ceilings are a product of bf16 and a copy, and each of its times has the host's few microseconds in it")->capture_default_str();
  c->add_option("--rounds", a->rounds, "runs that are timed")->capture_default_str()->check(CLI::Range(1, 10000));
  c->add_flag("--time-passes", a->times, "print the time of every phase up to the run");
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("Examples:\n  QUERN_THREADS=1 quern profile mlp --set batch=512\n  quern profile model.qir --plan model.plan --json profile.json");
  c->callback([a] { profile(*a); });
}

}  // namespace quern
