// quern tune: times the schedules of each kernel that the cost model thinks best, on this machine, and writes those that are
// faster than the standard ones as a plan file. Schedules change no result: every candidate's outputs are compared bit by bit
// with the standard plan's before it is timed, and so are the whole program's.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/symbol.h"
#include "passes/tile/fast.h"
#include "passes/tile/schedule.h"
#include "runtime/jit.h"
#include "tools/commands.h"
#include "tools/fuzz_graphs.h"
#include "tools/kernel_timer.h"

namespace quern {
namespace {

constexpr int64_t kScouts = 3;          // rounds of all candidates; then those far behind stop
constexpr double kFarBehind = 1.1;      // of the best one's time
constexpr double kNoise = 1.03;         // standard time / ours, twice, for a schedule to be kept

struct Arguments {
  ModelArgument model;
  std::string device = "cpu", out, kernel;
  int64_t rounds = 9, candidates = 12;
  PassArguments passes;
  JsonArgument json;
};

/// The medians of all that take turns, and the median of the rounds' ratios of the first one's time to each one's.
struct Race {
  std::vector<double> medians, ratios;
};
Race race(const std::vector<std::function<double()>>& runners, int64_t rounds) {
  std::vector<std::vector<double>> times(runners.size());
  std::vector<size_t> kept(runners.size());
  for (size_t i = 0; i < kept.size(); ++i) kept[i] = i;
  for (int64_t r = 0; r < rounds; ++r) {
    for (size_t i = 0; i < kept.size(); ++i) {   // each round begins with another one
      const size_t runner = kept[(i + static_cast<size_t>(r)) % kept.size()];
      times[runner].push_back(runners[runner]());
    }
    if (r + 1 != kScouts) continue;
    double best = 1e300;
    for (const auto& t : times) best = std::min(best, median(t));
    std::erase_if(kept, [&](size_t i) { return i != 0 && median(times[i]) > kFarBehind * best; });
  }
  Race out;
  for (const auto& t : times) {
    std::vector<double> ratios;
    for (size_t r = 0; r < t.size(); ++r) ratios.push_back(times[0][r] / t[r]);
    out.medians.push_back(median(t));
    out.ratios.push_back(median(ratios));
  }
  return out;
}

struct Tuned {
  std::string name, fields;
  size_t candidates;
  double standard, best, change;   // microseconds; standard / best
  Json timed;                      // of all candidates
};

/// Times a kernel's candidates; adds an entry to the plan where one is faster.
Tuned tune_kernel(Device& device, const tile::Kernel& lowered, int64_t size, const Arguments& a, PlanFile& plan) {
  const size_t most = static_cast<size_t>(a.candidates);
  const bool cuda = device.target().kind == TargetKind::cuda;
  const std::vector<Candidate> candidates = cuda ? candidates_cuda(lowered, device.target().arch, f32_products(a.passes.matmul), most) : candidates_cpu(lowered, device.target().arch, most);
  std::vector<tile::Kernel> planned;
  for (const Candidate& c : candidates) planned.push_back(cuda && a.passes.fp == "fast" ? fast_maps(c.planned) : c.planned);
  KernelTimer timer(device, lowered, size);
  for (KernelImage& image : compile_plans(planned, lowered, device.target(), size)) timer.add(std::move(image));
  const auto want = timer.outputs(0);
  for (size_t c = 1; c < candidates.size(); ++c)
    if (timer.outputs(c) != want) throw Error(Code::general_bug, fmt::format("this is a bug in Quern: {} computes something else with the schedule {}", lowered.name, to_string(candidates[c].fields))).with_help("please report it with the command line");
  std::vector<std::function<double()>> runners;
  for (size_t c = 0; c < candidates.size(); ++c) runners.push_back([&timer, c] { return timer.block(c); });
  const int64_t scouts = candidates.size() == 1 ? kScouts : a.rounds;
  const Race first = race(runners, scouts);
  const size_t best = static_cast<size_t>(std::min_element(first.medians.begin(), first.medians.end()) - first.medians.begin());
  Json timed = Json::array();
  for (size_t c = 0; c < candidates.size(); ++c) timed.push_back({{"schedule", to_string(candidates[c].fields)}, {"predicted", candidates[c].cost}, {"us", first.medians[c]}});
  Tuned out{lowered.name, "standard", candidates.size(), first.medians[0], first.medians[0], 1, timed};
  if (first.ratios[best] < kNoise) return out;
  // The best of many is lucky as well: once more, alone.
  const Race again = race({runners[0], runners[best]}, a.rounds);
  if (again.ratios[1] < kNoise) return out;
  plan.kernels.push_back({lowered.name, structure_hash(lowered), candidates[best].fields, sums_of(candidates[best].planned), candidates[best].cost, candidates[0].cost, again.medians[1], again.medians[0]});
  return {lowered.name, to_string(candidates[best].fields), candidates.size(), again.medians[0], again.medians[1], again.ratios[1], timed};
}

/// The whole program on random inputs, from the same states in every block.
class Whole {
 public:
  Whole(Device& device, const Graph& graph, const Program& program) : executable_(device, program), device_(device) {
    std::mt19937_64 random(1);
    const std::vector<HostTensor> all = random_inputs(at_size(graph, program.size_high), random);
    for (size_t i = 0; i < all.size(); ++i) {
      const State* state = graph.state_of(graph.inputs[i]);
      if (!state) inputs_.push_back(all[i]);
      else states_.emplace_back(state->name, all[i]);
    }
    reset();
    for (size_t i = 0; i < inputs_.size(); ++i) executable_.set_input(static_cast<int64_t>(i), inputs_[i]);
  }
  /// Everything that one run leaves behind.
  std::vector<std::vector<std::byte>> results() {
    reset();
    std::vector<std::vector<std::byte>> out;
    for (const HostTensor& t : executable_.run(inputs_)) out.push_back(t.bytes);
    for (const auto& [name, value] : states_) out.push_back(executable_.state(name).bytes);
    return out;
  }
  /// Microseconds of a run.
  double block() {
    reset();
    executable_.run();
    double total = 0;
    int runs = 0;
    for (; total < 5000 && runs < 200; ++runs) {
      const auto start = std::chrono::steady_clock::now();
      executable_.run();
      device_.synchronize();
      total += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    }
    return total / runs;
  }

 private:
  Executable executable_;
  Device& device_;
  std::vector<HostTensor> inputs_;
  std::vector<std::pair<std::string, HostTensor>> states_;
  void reset() {
    for (const auto& [name, value] : states_) executable_.set_state(name, value);
  }
};

void tune(const Arguments& a) {
  if (!a.passes.plan.empty()) throw Error(Code::bad_value, "tune starts from the standard plan: it takes no --plan").with_help("-o says where the plan is written");
  const auto device = open_device(a.device);
  if (device->name() == "null") throw Error(Code::bad_value, fmt::format("--device {}: it has no time to measure", a.device)).with_help("--device cpu or cuda");
  const Graph graph = a.model.load(a.passes);
  CompileOptions options = a.passes.options(device->target());
  options.use_cache = false;   // a program from the cache has no kernels to look into
  CompileReport report;
  const Program before = compile(graph, options, &report);
  print_notes(report);
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  PlanFile plan{device->target(), fmt::format("{}, {} thread{}", a.model.name, device->threads(), device->threads() == 1 ? "" : "s"), {}, a.out};
  fmt::print(out, "{} on {} ({} threads): {} kernels, up to {} candidates each, {} rounds\n", a.model.name, to_string(device->target()), device->threads(), report.lowered.size(), a.candidates, a.rounds);
  fmt::print(out, "{:<44} {:>5} {:>12} {:>12} {:>8}  {}\n", "kernel", "tried", "default us", "best us", "change", "schedule");
  Json rows = Json::array();
  for (size_t i = 0; i < report.lowered.size(); ++i) {
    if (report.lowered[i].name.find(a.kernel) == std::string::npos) continue;
    const Tuned t = tune_kernel(*device, report.lowered[i], before.images[i].bound, a, plan);
    fmt::print(out, "{:<44} {:>5} {:>12.2f} {:>12.2f} {:>8}  {}\n", t.name, t.candidates, t.standard, t.best, t.change > 1 ? fmt::format("{:+.1f} %", 100 * (1 / t.change - 1)) : "-", t.fields);
    std::fflush(out);
    rows.push_back({{"kernel", t.name}, {"candidates", t.candidates}, {"standard_us", t.standard}, {"best_us", t.best}, {"ratio", t.change}, {"schedule", t.fields}, {"timed", t.timed}});
  }
  if (rows.empty() && !a.kernel.empty()) throw Error(Code::bad_value, fmt::format("--kernel {}: no kernel of {} has this in its name", a.kernel, a.model.name)).with_help("quern dump MODEL --what kernels lists them");
  Json whole = nullptr;
  if (!plan.kernels.empty()) {
    options.plan = plan;
    Whole standard(*device, graph, before), tuned(*device, graph, compile(graph, options));
    if (standard.results() != tuned.results()) throw Error(Code::general_bug, "this is a bug in Quern: the program computes something else with the plan").with_help("please report it with the command line");
    const Race r = race({[&] { return standard.block(); }, [&] { return tuned.block(); }}, std::max<int64_t>(a.rounds, 11));
    fmt::print(out, "whole program: {:.1f} us before, {:.1f} us with the plan ({:.3f} times as fast); results are bit-equal\n", r.medians[0], r.medians[1], r.ratios[1]);
    whole = {{"standard_us", r.medians[0]}, {"tuned_us", r.medians[1]}, {"ratio", r.ratios[1]}};
    if (r.ratios[1] < 1 / kNoise) {
      fmt::print(out, "together they are slower than the standard plan, so none is kept\n");
      plan.kernels.clear();
    }
  }
  write_text(a.out, to_string(plan));
  fmt::print(out, "wrote {}: schedules of {} of {} kernels\n", a.out, plan.kernels.size(), report.lowered.size());
  a.json.write({{"schema", 1}, {"model", a.model.name}, {"target", to_string(plan.target)}, {"threads", device->threads()}, {"kernels", rows}, {"program", whole}, {"kept", plan.kernels.size()}});
}

}  // namespace

void register_tune(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("tune", "time other schedules of a model's kernels and write the best as a plan file");
  a->model.add_to(*c);
  add_output(*c, "-o", a->out, "the plan file, e.g. mlp.plan; --plan of compile, run, check, train and bench takes it")->required();
  c->add_option("--device", a->device, "cpu[:ARCH] or cuda[:N]: where kernels are timed, and what the plan is for")->capture_default_str();
  c->add_option("--kernel", a->kernel, "only kernels whose name contains this, e.g. contract");
  c->add_option("--candidates", a->candidates, "schedules that are timed of each kernel, the standard one included")->capture_default_str()->check(CLI::Range(2, 64));
  c->add_option("--rounds", a->rounds, "blocks of runs of each, in turns")->capture_default_str()->check(CLI::Range(7, 1000));
  a->passes.add_to(*c);
  a->json.add_to(*c);
  c->footer("A schedule is kept where it is more than 3 % faster, twice. It changes no bit of the results.\nExamples:\n  QUERN_THREADS=1 quern tune mlp -o mlp.plan\n  quern tune gpt --device cuda --precision bf16 --fp fast --kernel contract -o gpt.plan\n  quern tune model.qir -o model.plan --candidates 16\n  quern run model.qir --plan model.plan");
  c->callback([a] {
    if (a->out == "-" && a->json.wants_stdout()) throw Error(Code::bad_value, "-o - and --json - are both standard output").with_help("give one of them a file");
    tune(*a);
  });
}

}  // namespace quern
