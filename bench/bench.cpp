// quern bench: times generated programs beside the libraries that do the same. One row per case in the JSON: {name,
// median_us, low_us, high_us, peer, peer_median_us, ratio, …}, ratio = peer's time / ours; machine and command on top.
#include <cstdlib>
#include <fstream>
#include <memory>
#include <thread>

#include <fmt/format.h>

#include "bench/growth.h"
#include "bench/harness.h"
#include "bench/suite.h"
#include "ir/support/env.h"

namespace quern {
namespace bench {

static const std::vector<const Family*> kTimed = {&matmul_family, &convolution_family, &elementwise_family, &softmax_family, &layer_norm_family, &mlp_step_family};

std::vector<Case> timed_cases() {
  std::vector<Case> out;
  for (const Family* f : kTimed)
    for (Case& c : f->cases()) out.push_back(std::move(c));
  return out;
}

static std::string first_line_of(const char* command) {
  FILE* pipe = ::popen(command, "r");
  char line[256] = "";
  if (pipe && !std::fgets(line, sizeof line, pipe)) line[0] = 0;
  if (pipe) ::pclose(pipe);
  std::string text = line;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Json machine(const Device& device) {
  Json m = {{"cpu", "unknown"}, {"cores", std::thread::hardware_concurrency()}};
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0) {
      m["cpu"] = line.substr(line.find(':') + 2);
      break;
    }
  if (device.target().kind == TargetKind::cuda) m["gpu"] = first_line_of("nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null");
  double load[1];
  if (::getloadavg(load, 1) == 1) m["load_at_start"] = load[0];   // work of others on the same cores
  return m;
}

// The command as it was typed, without the folder of the program, with the variable that changes what is measured.
std::string command_line() {
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  const char* threads = env(Env::threads);
  std::string text = threads ? fmt::format("QUERN_THREADS={} ", threads) : "", part;
  for (bool first = true; std::getline(in, part, '\0'); first = false) text += first ? part.substr(part.rfind('/') + 1) : " " + part;
  return text;
}

struct Arguments {
  std::string device = "cpu", filter, peer = "openblas", plan;
  int64_t rounds = 11;
  std::string matmul = "f32";
  bool time_passes = false;
  JsonArgument json;
};

static void run(const Arguments& a) {
  const auto device = open_device(a.device);
  Peers peers(a.peer, *device);
  Harness h{*device, peers, a.rounds, a.json.wants_stdout() ? stderr : stdout, {}};
  h.options.use_cache = false;
  h.options.f32_products = f32_products(a.matmul);
  h.time_passes = a.time_passes;
  if (!a.plan.empty()) h.options.plan = load_plan(a.plan);
  Json head = {{"schema", 2}, {"command", command_line()}, {"machine", machine(*device)}, {"device", device->name()}, {"target", to_string(device->target())}, {"threads", device->threads()}, {"rounds", a.rounds}, {"peers", peers.found()}};
  fmt::print(h.out, "{}\ndevice {} ({} threads), target {}, {} rounds; machine {}\n", head["command"].get<std::string>(), device->name(), device->threads(), to_string(device->target()), a.rounds, head["machine"].dump());
  for (const auto& [name, text] : peers.found().items()) fmt::print(h.out, "peer {}: {}\n", name, text.get<std::string>());
  for (const Family* f : kTimed)
    for (const Case& c : f->cases())
      if (c.name.find(a.filter) != std::string::npos) f->run(h, c);
  for (const Family* f : {&product_family, &attention_family})   // large: only where asked for
    for (const Case& c : f->cases())
      if (!a.filter.empty() && c.name.rfind(a.filter, 0) == 0) f->run(h, c);
  // Names of other families are part of these names: a filter must begin with compile_time to mean them.
  for (const Case& c : compile_time_family.cases())
    if (c.name.rfind(a.filter, 0) == 0) compile_time_family.run(h, c);
  if (h.rows.empty()) throw Error(Code::unknown_case, fmt::format("no case has \"{}\" in its name", a.filter)).with_help("families are matmul, product and attention (cuda), conv, elementwise, softmax, layer_norm, mlp step and compile_time");
  head["rows"] = h.rows;
  a.json.write(head);
}

}  // namespace bench

void register_bench(CLI::App& root) {
  auto a = std::make_shared<bench::Arguments>();
  CLI::App* c = root.add_subcommand("bench", "time generated programs and compilation, beside OpenBLAS and PyTorch where installed");
  c->add_option("filter", a->filter, "only cases whose name contains this; compile_time…: only those that begin with it");
  c->add_option("--device", a->device, "cpu[:ARCH], cuda[:N] or null")->capture_default_str();
  c->add_option("--rounds", a->rounds, "blocks of runs, ours and the peer's in turns")->capture_default_str()->check(CLI::Range(1, 10000));
  add_matmul(*c, a->matmul);
  c->add_flag("--time-passes", a->time_passes, "print the time of every phase of each compilation");
  c->add_option("--plan", a->plan, "a plan file that quern tune has written for this target");
  c->add_option("--peer", a->peer, "none; openblas: for products on the CPU; torch: PyTorch for the rest, too, through python3 bench/peers/torch_ops.py")->capture_default_str();
  a->json.add_to(*c);
  c->footer("Examples:\n  QUERN_THREADS=1 quern bench matmul\n  quern bench mlp --device cuda --json bench.json\n  quern bench --peer torch\n  python3 bench/peers/mlp_step.py >peers.jsonl; python3 bench/peers/join.py bench.json peers.jsonl");
  bench::register_suite(*c);
  bench::register_growth(*c);
  c->callback([a, c] {
    if (c->get_subcommands().empty()) bench::run(*a);
  });
}

}  // namespace quern
