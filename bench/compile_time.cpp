// How long each benchmark's graph takes to become an Executable: cold (no kernel cache) and warm (all images in it),
// split by the compiler's own phases; "load" is the rest: images, memory, constants onto the device.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "bench/harness.h"
#include "bench/private_cache.h"

namespace quern::bench {
namespace {

std::vector<Case> cases() {
  std::vector<Case> out = timed_cases();
  for (Case& c : out) c.name = "compile_time " + c.name;
  return out;
}

void run(Harness& h, const Case& c) {
  const PrivateCache cache;
  for (const bool warm : {false, true}) {
    CompileOptions options = h.options;
    options.use_cache = warm;
    if (warm) jit(h.device, c.graph, options);   // fills it
    std::vector<double> totals;
    std::map<std::string, std::vector<double>> phases;
    CompileReport report;
    double spent = 0;
    for (int64_t r = 0; r < std::max<int64_t>(3, h.rounds) && (r < 3 || spent < 2e6); ++r) {
      report = {};
      const double total = microseconds([&] { jit(h.device, c.graph, options, &report); });
      std::map<std::string, double> sums;
      double rest = total / 1000;
      for (const auto& [phase, ms] : report.times) sums[phase] += ms, rest -= ms;
      sums["load"] = rest;
      for (const auto& [phase, ms] : sums) phases[phase].push_back(ms);
      totals.push_back(total);
      spent += total;
    }
    if (warm && report.compiled != 0) throw Error(Code::general_bug, fmt::format("this is a bug in Quern, or {} is full: {}: {} kernels were not found in the cache that holds them", std::filesystem::temp_directory_path().string(), c.name, report.compiled)).with_help("TMPDIR chooses another folder");
    Json split = Json::object();
    std::vector<std::string> order;
    for (const auto& [phase, ms] : report.times)
      if (std::find(order.begin(), order.end(), phase) == order.end()) order.push_back(phase);
    order.push_back("load");
    std::string text = fmt::format("  {} kernels; ms:", report.compiled + report.cached);
    for (const std::string& phase : order) {
      const double ms = spread(phases[phase]).median;
      split[phase] = ms;
      text += fmt::format(" {} {:.2f}", phase, ms);
    }
    h.add(c.name + (warm ? " warm" : " cold"), {spread(totals), {}}, "", {{"kernels", report.compiled + report.cached}, {"phases_ms", split}}, text);
  }
}

}  // namespace

const Family compile_time_family{cases, run};

}  // namespace quern::bench
