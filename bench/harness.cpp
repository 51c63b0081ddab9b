// See harness.h.
#include "bench/harness.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "bench/data.h"

namespace quern::bench {

Spread spread(std::vector<double> values) {
  QN_CHECK(!values.empty(), "a spread needs values");
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {values[n / 2], values[n / 10], values[n * 9 / 10]};
}

double microseconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

std::vector<double> block(const std::function<double(size_t run)>& f) {
  f(0);   // wakes workers, fills caches
  std::vector<double> times;
  double total = 0;
  for (size_t run = 1; times.empty() || (total < kBlockMilliseconds * 1000 && run <= static_cast<size_t>(kBlockRuns)); ++run) {
    times.push_back(f(run));
    total += times.back();
  }
  return times;
}

std::vector<double> block_together(int64_t runs, const std::function<void()>& f) {
  std::vector<double> times = block([&](size_t) { return microseconds(f); });
  for (double& t : times) t /= static_cast<double>(runs);
  return times;
}

Harness::Times Harness::interleave(const std::function<std::vector<double>()>& ours, const std::function<std::vector<double>()>& peer) const {
  std::vector<double> mine, other;
  const auto turn = [](const std::function<std::vector<double>()>& f, std::vector<double>& times) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::vector<double> more = f();
    times.insert(times.end(), more.begin(), more.end());
  };
  ours();
  if (peer) peer();
  for (int64_t r = 0; r < rounds; ++r) {
    turn(ours, mine);
    if (peer) turn(peer, other);
  }
  Times t{spread(mine), {}};
  if (peer) t.peer = spread(other);
  return t;
}

void Harness::want_equal(const std::string& name, double ours, const PreparedPeer& peer, double tolerance) const {
  if (std::abs(ours - peer.check) <= tolerance * std::abs(peer.check)) return;
  throw Error(Code::peer_differs, fmt::format("{}: our result is {:.9g}, {} has {:.9g}", name, ours, peer.name, peer.check)).with_help("run quern check before timing it; --peer none times without a peer");
}

void Harness::add(const std::string& name, const Times& times, const std::string& peer, const Json& more, const std::string& text) {
  Json row = {{"name", name}, {"median_us", times.ours.median}, {"low_us", times.ours.low}, {"high_us", times.ours.high}, {"peer", peer}};
  std::string beside;
  if (times.peer) {
    row.update({{"peer_median_us", times.peer->median}, {"peer_low_us", times.peer->low}, {"peer_high_us", times.peer->high}, {"ratio", times.peer->median / times.ours.median}});
    beside = fmt::format("  {:.2f} of {} ({:.1f} us [{:.1f}, {:.1f}])", times.peer->median / times.ours.median, peer, times.peer->median, times.peer->low, times.peer->high);
  }
  row.update(more);
  rows.push_back(row);
  fmt::print(out, "{:<36} {:10.1f} us  [{:.1f}, {:.1f}]{}{}\n", name, times.ours.median, times.ours.low, times.ours.high, text, beside);
  std::fflush(out);
}

void Harness::compiled(const std::string& name, const CompileReport& report) const {
  print_notes(report);
  if (!time_passes) return;
  fmt::print(out, "{}: compiled\n", name);
  for (const auto& [phase, ms] : report.times) fmt::print(out, "  {:<16} {:9.2f} ms\n", phase, ms);
  for (const auto& [part, of_threads] : report.parts) fmt::print(out, "    {:<14} {:9.2f} ms of all threads\n", part, of_threads);
}

void Harness::compare(const Case& c) {
  CompileOptions options = this->options;
  options.target = device.target();
  CompileReport report;
  const Program program = compile(c.graph, options, &report);
  compiled(c.name, report);
  int64_t bytes = 0;
  for (NodeId id : c.graph.inputs) bytes += c.graph.type(id).bytes();
  for (const NamedOutput& o : c.graph.outputs) bytes += c.graph.type(o.node).bytes();
  const int64_t sets = std::clamp<int64_t>((int64_t{64} << 20) / std::max<int64_t>(bytes, 1), 2, 8);
  std::vector<std::unique_ptr<Executable>> executables;
  for (int64_t s = 0; s < sets; ++s) {
    executables.push_back(std::make_unique<Executable>(device, program));
    for (size_t i = 0; i < c.graph.inputs.size(); ++i)
      executables.back()->set_input(static_cast<int64_t>(i), uniform(stream_of(s, static_cast<int64_t>(i)), c.graph.type(c.graph.inputs[i]).shape));
  }
  const auto peer = peers.prepare(c.peer, sets);
  if (peer) {
    executables[0]->run();
    want_equal(c.name, mean_abs(executables[0]->output(0)), *peer, 1e-3);
  }
  const auto ours = [&] {
    return block([&](size_t run) {
      Executable& e = *executables[run % executables.size()];
      return microseconds([&] {
        e.run();
        device.synchronize();
      });
    });
  };
  std::function<std::vector<double>()> theirs;
  if (peer) theirs = [&] { return peer->block(true); };
  const Times times = interleave(ours, theirs);
  Json more = {{"sets", sets}};
  std::string text;
  if (c.flops > 0) {
    more["gflop_per_s"] = c.flops / times.ours.median / 1000;
    text += fmt::format("  {:.1f} GFLOP/s", c.flops / times.ours.median / 1000);
  }
  if (c.bytes > 0) {
    more["gb_per_s"] = c.bytes / times.ours.median / 1000;
    text += fmt::format("  {:.1f} GB/s", c.bytes / times.ours.median / 1000);
  }
  add(c.name, times, peer ? peer->name : "", more, text);
}

}  // namespace quern::bench
