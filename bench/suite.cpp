// See suite.h. Ours and the peers take turns in rounds of short blocks; a ratio is the median over the rounds with a 95 %
// interval by the bootstrap. Peers far behind in the first rounds leave the others to it; the best one also runs against itself.
// Our programs for a GPU are compiled before, side by side, while the peers start; what is timed is alone on the machine.
#include "bench/suite.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <thread>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/repeated.h"
#include "bench/suite_program.h"

namespace quern::bench {

namespace {

constexpr int64_t kScouts = 3;             // rounds of all peers
constexpr int64_t kLeast = 3, kEnough = 5; // rounds, of a case whose time is over, or whose ratios are known
constexpr double kKnown = 0.02;            // the width of an interval, of its ratio
constexpr int64_t kCompilations = 3;       // rounds where compiling is timed: peers take minutes
constexpr double kFarBehind = 1.3;         // of the best one's time
constexpr double kNearRoofline = 1.25, kNearCopy = 1 / 0.9;
constexpr int kResamples = 2000;
constexpr auto kPause = std::chrono::milliseconds(50), kPauseOfGpu = std::chrono::milliseconds(5);   // until a library's workers sleep

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const size_t n = v.size();
  return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double seconds_since(std::chrono::steady_clock::time_point start) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }

struct Estimate { double value, low, high; };
/// The median of the rounds' ratios a/b, and between which values it lies in 95 % of resampled rounds.
Estimate ratio_of(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios, medians;
  for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
  for (int r = 0; r < kResamples; ++r) {
    std::vector<double> sample;
    for (size_t i = 0; i < ratios.size(); ++i) sample.push_back(ratios[bits(static_cast<uint64_t>(r), i) % ratios.size()]);
    medians.push_back(median(std::move(sample)));
  }
  std::sort(medians.begin(), medians.end());
  return {median(ratios), medians[kResamples / 40], medians[kResamples - 1 - kResamples / 40]};
}

struct Arguments {
  std::string device, filter;
  std::vector<std::string> peers;      // empty: all
  std::vector<int> threads;            // empty: 1 and 2; of a GPU: those that compile and launch
  int64_t rounds = 15;
  double target = 0;   // 0: each case's own
  double limit = 0;    // seconds; 0: none
  JsonArgument json;
};

std::string interval(const Json& low, const Json& high) { return fmt::format("[{:.2f}, {:.2f}]", low.get<double>(), high.get<double>()); }

/// Of a GPU's products of bf16, how fast the tensor cores are at the case's; 0: it has none there.
double tensor_rate(const SuiteCase& c) {
  const bool narrow = c.passes.compute == DType::bf16 || (!c.inputs.empty() && c.inputs[0].dtype == DType::bf16);
  return narrow ? 1 : c.matmul == F32Products::tf32 ? 0.5
                  : c.matmul == F32Products::tf32x3 ? 0.5 / 3
                                                    : 0;
}

/// Sets "met" and the roofline of a row, on a GPU the copy's time where bytes are the limit; again when better ceilings are known.
void judge(Json& row, const Ceilings& ceilings) {
  if (row.contains("error") || row.contains("left_out")) return;
  if (row.contains("tensor_rate"))   // told, but no way to meet the case: our own product is the ceiling
    row["percent_of_roofline"] = 100 * std::max(row["flops"].get<double>() / row["tensor_rate"].get<double>() / ceilings.fma, row.value("bytes_moved", 0.0) / ceilings.copy) / 1000 / row["median_us"].get<double>();
  const bool copied = row.contains("copy_us");
  const double ours = row["median_us"], roofline = copied ? row["copy_us"].get<double>() : ceilings.microseconds(row["flops"], row["read_bytes"], row["written_bytes"]);
  const bool known = (copied || !row["on_gpu"]) && std::isfinite(roofline) && roofline > 0;
  if (known) row.update({{"roofline_us", roofline}, {"times_roofline", ours / roofline}});
  row["met"] = !row.contains("wrong") && ((known && ours <= (copied ? kNearCopy : kNearRoofline) * roofline) || (row.contains("ratio") && row["ratio"].get<double>() >= row["target"].get<double>()));
}

/// Times one case; what is wrong with results is in the row's "wrong".
template <class OurProgram>
Json run_case(const SuiteCase& c, Device& device, CompiledCase compiled, SuitePeers& found, const Shares& time, const std::function<void()>& alone, const Arguments& a) {
  OurProgram ours(device, c, std::move(compiled));
  const bool compiles = c.peer.contains("compile");
  const double mine = ours.check();
  Json failures = Json::object(), wrong = Json::array();
  std::vector<PreparedPeer> peers = found.prepare(ours.request(c), time, failures);
  std::optional<double> error;
  double prepared = 0;
  for (const PreparedPeer& p : peers) {
    prepared += p.seconds;
    if (!p.samples.empty() && !error) error = ours.error(p.samples);
  }
  std::erase_if(peers, [&](const PreparedPeer& p) {
    if (std::abs(mine - p.check) <= c.tolerance * std::max(std::abs(p.check), c.least)) return false;
    wrong.push_back(fmt::format("our result is {:.9g}, {} has {:.9g}", mine, p.name, p.check));
    return true;
  });
  if (error && !(*error <= 1)) wrong.push_back(fmt::format("it is {:.2g} times as far from f64 as rounding explains", *error));
  const size_t n = peers.size();
  std::vector<double> our_times, copy_times;
  std::vector<std::vector<double>> times(n + 1);   // the last one: the best peer once more
  const auto pause = device.target().kind == TargetKind::cuda ? kPauseOfGpu : kPause;
  const auto turn = [&](std::vector<double>& to, const std::function<std::vector<double>()>& block) {
    std::this_thread::sleep_for(pause);
    to.push_back(median(block()));
  };
  alone();
  const auto start = std::chrono::steady_clock::now();
  std::vector<size_t> kept(n);
  std::iota(kept.begin(), kept.end(), 0);
  for (int64_t r = 0; r < (compiles ? 1 : kScouts); ++r)
    for (size_t i : kept) turn(times[i], [&] { return peers[i].block(true); });
  std::vector<double> scouted;
  for (size_t i : kept) scouted.push_back(*std::min_element(times[i].begin(), times[i].end()));
  const size_t first = n ? static_cast<size_t>(std::min_element(scouted.begin(), scouted.end()) - scouted.begin()) : 0;
  std::erase_if(kept, [&](size_t i) { return scouted[i] > kFarBehind * scouted[first]; });
  for (size_t i : kept) times[i].clear();
  std::vector<std::function<void()>> turns = {[&] { turn(our_times, [&] { return ours.block(); }); }};
  for (size_t i : kept) turns.push_back([&, i] { turn(times[i], [&] { return peers[i].block(true); }); });
  if (const auto copy = ours.copy()) turns.push_back([&, copy] { turn(copy_times, copy); });
  if (n) turns.push_back([&] { turn(times[n], [&] { return peers[first].block(true); }); });
  const auto is_known = [&] {
    const auto narrow = [](const Estimate& e) { return e.high - e.low <= kKnown * e.value; };
    return !kept.empty() && std::all_of(kept.begin(), kept.end(), [&](size_t i) { return narrow(ratio_of(times[i], our_times)); });
  };
  for (int64_t r = 0; r < (compiles ? std::min(a.rounds, kCompilations) : a.rounds); ++r) {
    if (time.limited() && ((r >= kLeast && time.left() <= 0) || (r >= kEnough && is_known()))) break;
    for (const auto& t : turns) t();
    std::rotate(turns.begin(), turns.begin() + 1, turns.end());   // nobody runs behind the same one always
  }

  const Spread spread_of_ours = spread(our_times);
  Json row = {{"family", c.family}, {"name", c.name}, {"on_gpu", device.target().kind == TargetKind::cuda}, {"threads", device.threads()}, {"target", a.target > 0 ? a.target : c.target}, {"median_us", spread_of_ours.median}, {"low_us", spread_of_ours.low}, {"high_us", spread_of_ours.high}, {"result", mine}, {"flops", c.flops}, {"read_bytes", ours.out_of_cache() ? c.read : 0}, {"written_bytes", ours.out_of_cache() ? c.written : 0}};
  row.update({{"rounds", our_times.size()}, {"preparing_peers_seconds", prepared}, {"timing_seconds", seconds_since(start)}});
  if (c.bytes > 0) row["bytes_moved"] = c.bytes;
  if (const double rate = tensor_rate(c); rate > 0 && c.flops > 0) row["tensor_rate"] = rate;
  if (!copy_times.empty()) row["copy_us"] = median(copy_times);
  if (error) row["f64_error"] = *error;
  if (c.tokens > 0) row.update({{"tokens_per_s", c.tokens / spread_of_ours.median * 1e6}, {"bytes", ours.bytes()}});
  row["peers"] = Json::object();
  std::optional<size_t> best;
  std::vector<Estimate> ratios(n);
  for (size_t i = 0; i < n; ++i) {
    const bool close = std::find(kept.begin(), kept.end(), i) != kept.end();
    Json& p = row["peers"][peers[i].name];
    p = {{"median_us", median(times[i])}, {"rounds", times[i].size()}, {"preparing_seconds", peers[i].seconds}};
    if (!close) continue;
    ratios[i] = ratio_of(times[i], our_times);
    p.update({{"ratio", ratios[i].value}, {"ratio_low", ratios[i].low}, {"ratio_high", ratios[i].high}});
    if (!best || ratios[i].value < ratios[*best].value) best = i;
  }
  for (const auto& [name, why] : failures.items()) row["peers"][name] = {{"failed", why}};
  if (best) {
    const Estimate &e = ratios[*best], aa = ratio_of(times[n], times[first]);
    row.update({{"peer", peers[*best].name}, {"ratio", e.value}, {"ratio_low", e.low}, {"ratio_high", e.high}, {"aa_peer", peers[first].name}, {"aa_ratio", aa.value}, {"aa_low", aa.low}, {"aa_high", aa.high}});
  }
  if (!wrong.empty()) row["wrong"] = wrong;
  return row;
}

void print_row(FILE* out, const Json& row) {
  std::string text = fmt::format("{:<44}", row["name"].get<std::string>());
  if (row.contains("error")) {
    fmt::print(out, "{} failed: {}\n", text, row["error"].get<std::string>());
    return;
  }
  if (row.contains("left_out")) {
    fmt::print(out, "{} left out: {}\n", text, row["left_out"].get<std::string>());
    return;
  }
  text += fmt::format(" {:10.1f} us", row["median_us"].get<double>());
  if (row.contains("ratio"))
    text += fmt::format("  {:<13} {:10.1f} us  ratio {:5.2f} {}  A/A {:.2f} {}", row["peer"].get<std::string>(), row["peers"][row["peer"].get<std::string>()]["median_us"].get<double>(), row["ratio"].get<double>(), interval(row["ratio_low"], row["ratio_high"]), row["aa_ratio"].get<double>(), interval(row["aa_low"], row["aa_high"]));
  else text += "  no peer has it";
  const double us = row["median_us"], bytes = row["read_bytes"].get<double>() + row["written_bytes"].get<double>();
  if (row.contains("copy_us")) text += fmt::format("  {:.0f} GB/s, {:.0f} % of a copy", bytes / us / 1000, 100 / row["times_roofline"].get<double>());
  else if (row.contains("roofline_us")) text += fmt::format("  {:.2f} x roofline", row["times_roofline"].get<double>());
  else if (row.contains("tokens_per_s")) text += fmt::format("  {:.0f} tokens/s, {:.0f} TFLOP/s, {:.1f} GB", row["tokens_per_s"].get<double>(), row["flops"].get<double>() / us / 1e6, row["bytes"].get<double>() / 1e9);
  else if (row["flops"] > 0.0) text += fmt::format("  {:.0f} GFLOP/s", row["flops"].get<double>() / us / 1000);
  if (row.contains("percent_of_roofline")) text += fmt::format(", {:.0f} % of the roofline", row["percent_of_roofline"].get<double>());
  fmt::print(out, "{}{}\n", text, row["met"].get<bool>() ? "  met" : "");
  for (const auto& [name, p] : row["peers"].items())
    if (p.contains("failed")) fmt::print(out, "    {} failed: {}\n", name, p["failed"].get<std::string>());
  if (row.contains("wrong"))
    for (const Json& w : row["wrong"]) fmt::print(out, "    WRONG: {}\n", w.get<std::string>());
}

/// {"cases", "met", "compared", "geomean_ratio", "min_ratio"}; the ratios are null where nothing was compared. And where the time went: "seconds", of
/// them those for peers to make ready and those of timing; "left_out": of cases, and of peers that a case was without.
Json summary_of(const Json& rows, const std::string& family) {
  Json s = {{"cases", 0}, {"met", 0}, {"compared", 0}, {"geomean_ratio", nullptr}, {"min_ratio", nullptr}};
  double logs = 0, least = 1e300;
  double seconds = 0, preparing = 0, timing = 0;
  int64_t cases = 0, met = 0, compared = 0, left_out = 0;
  for (const Json& r : rows) {
    if (!family.empty() && r["family"] != family) continue;
    ++cases;
    seconds += r["seconds"].get<double>(), preparing += r.value("preparing_peers_seconds", 0.0), timing += r.value("timing_seconds", 0.0);
    left_out += r.contains("left_out");
    for (const auto& p : r.value("peers", Json::object())) left_out += p.contains("failed") && p["failed"].get<std::string>().find("left out: ") != std::string::npos;
    met += r.value("met", false);
    if (!r.contains("ratio")) continue;
    ++compared;
    logs += std::log(r["ratio"].get<double>());
    least = std::min(least, r["ratio"].get<double>());
  }
  s.update({{"cases", cases}, {"met", met}, {"compared", compared}, {"seconds", seconds}, {"preparing_peers_seconds", preparing}, {"timing_seconds", timing}, {"left_out", left_out}});
  if (compared) s.update({{"geomean_ratio", std::exp(logs / static_cast<double>(compared))}, {"min_ratio", least}});
  return s;
}

void print_summary(FILE* out, const std::string& name, const Json& s) {
  fmt::print(out, "  {:<16} met {:>3} of {:<3}", name, s["met"].get<int>(), s["cases"].get<int>());
  if (s["compared"] > 0) fmt::print(out, "  geomean ratio {:.2f}  least {:.2f}", s["geomean_ratio"].get<double>(), s["min_ratio"].get<double>());
  fmt::print(out, "  {:.0f} s, of them {:.0f} for peers to make ready, {:.0f} of timing", s["seconds"].get<double>(), s["preparing_peers_seconds"].get<double>(), s["timing_seconds"].get<double>());
  if (s["left_out"] > 0) fmt::print(out, "; left out for want of time: {}", s["left_out"].get<int>());
  fmt::print(out, "\n");
}

Json families_of(const Json& rows) {
  Json out = Json::object();
  for (const Json& r : rows)
    if (const std::string f = r["family"]; !out.contains(f)) out[f] = summary_of(rows, f);
  return out;
}

void run(const Arguments& a) {
  const bool gpu = a.device == "cuda";
  std::vector<SuiteCase> cases;
  for (auto family : gpu ? std::vector{suite_gpu_gpt, suite_rows, suite_gpu_products, suite_gpu_convolutions, suite_gpu_models} : std::vector{suite_products, suite_memory, suite_models})
    for (SuiteCase& c : family())
      if (c.name.find(a.filter) != std::string::npos) cases.push_back(std::move(c));
  if (cases.empty()) throw Error(Code::unknown_case, fmt::format("no case of the suite has \"{}\" in its name", a.filter)).with_help("without a word behind it all are run; their names are printed");
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  Json head = {{"schema", 1}, {"suite", a.device}, {"command", command_line()}, {"rounds", a.rounds}, {"tables", Json::array()}};
  const auto begin = std::chrono::steady_clock::now();
  int64_t wrong = 0;
  std::vector<double> weights;
  for (size_t t = 0; t < a.threads.size(); ++t)
    for (const SuiteCase& c : cases) weights.push_back(c.weight);
  Shares time(a.limit, std::move(weights));
  for (int threads : a.threads) {
    ::setenv("QUERN_THREADS", std::to_string(threads).c_str(), 1);
    const auto device = open_device(a.device);
    const TargetKind kind = device->target().kind;
    std::optional<CompiledAhead> ahead;
    if (gpu) ahead.emplace(cases, device->target());
    SuitePeers peers(a.peers, threads, kind);
    if (!head.contains("machine")) head["machine"] = machine(*device);
    fmt::print(out, "{} threads, target {}, machine {}\n", threads, to_string(device->target()), head["machine"].dump());
    for (const auto& [name, p] : peers.found().items()) fmt::print(out, "peer {}: {}\n", name, p.contains("version") ? p["version"].get<std::string>() : "missing: " + p["missing"].get<std::string>());
    if (!a.peers.empty() && !peers.any()) throw Error(Code::peer_failed, "no peer was found, so there is nothing to compare with").with_help(std::string("install one: ") + (gpu ? "torch or jax" : "apt-get install libopenblas0-pthread, or torch, jax or onnxruntime") + fmt::format(" for the python3 in PATH; names are {}", fmt::join(SuitePeers::names(kind), ", ")));
    Ceilings ceilings;
    const auto alone = [&] {   // on the machine, before anything is timed
      if (!ahead) return;
      ahead->wait();
      if (ceilings.fma > 0) return;
      fmt::print(out, "all our programs are compiled after {:.0f} s\n", seconds_since(begin));
      ceilings = measure_ceilings(*device);
      fmt::print(out, "ceilings {}\n", ceilings.json().dump());
    };
    Json rows = Json::array();
    Json table = {{"threads", threads}, {"target", to_string(device->target())}, {"peers", peers.found()}};
    const size_t place = head["tables"].size();
    for (size_t i = 0; i < cases.size(); ++i) {
      const SuiteCase& c = cases[i];
      if (!gpu && (rows.empty() || rows.back()["family"] != c.family)) {   // before every family: the machine may have been busy
        ceilings.raise(measure_ceilings(threads));
        fmt::print(out, "ceilings {}\n", ceilings.json().dump());
      }
      Json row;
      const auto start = std::chrono::steady_clock::now();
      time.next();
      if (time.limited() && time.until_end() <= 0) row = {{"family", c.family}, {"name", c.name}, {"threads", threads}, {"left_out", "no time is left"}, {"met", false}};
      else try {
          const auto run_one = gpu && c.tokens == 0 ? run_case<RepeatedProgram> : run_case<SuiteProgram>;
          row = run_one(c, *device, ahead ? ahead->take(i) : compile_case(c, device->target()), peers, time, alone, a);
        } catch (const Error& e) {
          row = {{"family", c.family}, {"name", c.name}, {"threads", threads}, {"error", e.what()}, {"met", false}};
        }
      row["seconds"] = seconds_since(start);
      wrong += row.contains("wrong") || row.contains("error");
      judge(row, ceilings);
      print_row(out, row);
      std::fflush(out);
      rows.push_back(row);
      for (Json& r : rows) judge(r, ceilings);   // the ceilings may have risen
      table.update({{"ceilings", ceilings.json()}, {"families", families_of(rows)}, {"overall", summary_of(rows, "")}, {"rows", rows}});
      head["tables"][place] = table;
      Json all = Json::array();
      for (const Json& t : head["tables"]) all.insert(all.end(), t["rows"].begin(), t["rows"].end());
      head.update({{"families", families_of(all)}, {"overall", summary_of(all, "")}});
      if (!a.json.path.empty() && !a.json.wants_stdout()) a.json.write(head);   // what is measured stays if it is interrupted
    }
    if (ahead) ahead->wait();
    for (const auto& [name, s] : table["families"].items()) print_summary(out, name, s);
    print_summary(out, "all", table["overall"]);
  }
  head["seconds"] = seconds_since(begin);
  fmt::print(out, "the whole run took {:.0f} s\n", seconds_since(begin));
  if (!a.json.path.empty() && !a.json.wants_stdout()) a.json.write(head);
  if (a.json.wants_stdout()) a.json.write(head);
  if (wrong) throw Error(Code::peer_differs, fmt::format("{} of {} cases failed, or differ from a peer", wrong, cases.size() * a.threads.size())).with_help("the rows above say which; quern check compares with the interpreter");
}

}  // namespace

void register_suite(CLI::App& bench) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = bench.add_subcommand("suite", "families of work beside all peers that are installed, with ceilings of the machine");
  c->add_option("device", a->device, "cpu or cuda")->required()->check(CLI::IsMember({"cpu", "cuda"}));
  c->add_option("filter", a->filter, "only cases whose name contains this");
  c->add_option("--peers", a->peers, "cpu: openblas, onednn, torch, torch-compile, jax, onnxruntime; cuda: torch, torch-compile, cublaslt, jax; or none; frameworks are those of the python3 in PATH")->delimiter(',')->default_str("all");
  c->add_option("--threads", a->threads, "cpu: a table for each")->delimiter(',')->check(CLI::Range(1, 256))->default_str("1,2");
  c->add_option("--rounds", a->rounds, "blocks of ours and of every peer, in turns")->capture_default_str()->check(CLI::Range(1, 10000));
  c->add_option("--target", a->target, "the ratio (peer's time / ours) that meets a case, where 1.25 times the roofline's time, or 90 % of a copy's rate, does not; default: each family's own, 1 to 2")->check(CLI::Range(0.01, 100.0));
  c->add_option("--time-limit", a->limit, "seconds for all, shared fairly: a case ends before its rounds do when its ratios are known within 2 % or its share is over, and leaves out peers that took longer to make ready for one like it; what is left out is told")->check(CLI::Range(1.0, 1e6));
  a->json.add_to(*c);
  c->footer("Examples:\n  quern bench suite cpu --json suite.json\n  quern bench suite cpu 'matmul 256x' --peers openblas,onednn --threads 1\n  PATH=/path/to/venv/bin:$PATH quern bench suite cpu softmax\n  quern bench suite cuda row --peers torch,torch-compile\n  quern bench suite cuda --time-limit 460 --json suite.json");
  c->callback([a, &bench] {
    for (const CLI::Option* o : bench.get_options())
      if (o->count()) throw Error(Code::unknown_flag, fmt::format("{} stands before suite, which has flags of its own", o->get_name())).with_help("write it behind: quern bench suite cpu --help lists them");
    const bool gpu = a->device == "cuda";
    if (gpu && !a->threads.empty()) throw Error(Code::unknown_flag, "--threads is for the CPU: a GPU's table is one").with_help("leave it out");
    if (a->threads.empty()) a->threads = gpu ? std::vector{1} : std::vector{1, 2};
    if (a->peers.empty()) a->peers = SuitePeers::names(gpu ? TargetKind::cuda : TargetKind::cpu);
    if (a->peers == std::vector<std::string>{"none"}) a->peers.clear();
    run(*a);
  });
}

}  // namespace quern::bench
