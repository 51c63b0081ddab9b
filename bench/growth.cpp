// See growth.h. Nothing is compared with peers here: `bench suite` does that.
#include "bench/growth.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>

#include <fmt/format.h>

#include "bench/suite_program.h"
#include "models/zoo.h"

namespace quern::bench {
namespace {

constexpr double kStep = 1.25;   // of the least time of a unit at smaller sizes

struct Point {
  int64_t size;
  SuiteCase c;
  double units;   // of work
};
struct Curve {
  std::string name, size, unit;   // what grows, and what the time is divided by
  std::vector<Point> points;
};

SuiteCase model_case(const std::string& name, std::vector<SuiteCase::Input> inputs, std::function<TrainingStep()> build, Json peer = Json::object()) {
  return {name, name, std::move(inputs), std::move(build), std::move(peer)};
}

std::vector<Curve> curves() {
  std::vector<Curve> out;
  for (const char* layout : {"nn", "nt", "tn"}) {
    out.push_back({fmt::format("matmul {}", layout), "n of n x n x n", "GFLOP", {}});
    for (int64_t n : {32, 64, 128, 256, 512, 1024, 2048}) out.back().points.push_back({n, product_case(n, n, n, layout), 2e-9 * static_cast<double>(n * n * n)});
  }
  const auto memory = [&](const std::string& what, const std::string& size, std::initializer_list<int64_t> sizes, auto shape_of) {
    const size_t first = out.size();
    for (int64_t n : sizes) {
      const auto [rows, columns] = shape_of(n);
      std::vector<SuiteCase> cases = memory_cases(rows, columns);
      for (size_t i = 0; i < cases.size(); ++i) {
        const double elements = static_cast<double>(rows * columns);
        if (out.size() == first + i) out.push_back({fmt::format("{}, {}", cases[i].name.substr(0, cases[i].name.rfind(' ')), what), size, "million elements", {}});
        out[first + i].points.push_back({n, std::move(cases[i]), 1e-6 * elements});
      }
    }
  };
  memory("rows of 1024", "rows", {16, 64, 256, 1024, 4096, 16384, 65536}, [](int64_t n) { return std::pair<int64_t, int64_t>{n, 1024}; });
  memory("2^24 elements", "columns", {64, 256, 1024, 4096, 16384, 65536, 262144}, [](int64_t n) { return std::pair<int64_t, int64_t>{(1 << 24) / n, n}; });
  const auto model = [&](const std::string& name, const std::string& size, const std::string& unit, std::initializer_list<int64_t> sizes, auto inputs, auto build, auto units) {
    out.push_back({name, size, unit, {}});
    for (int64_t n : sizes) out.back().points.push_back({n, model_case(name, inputs(n), [build, n] { return build(n); }), units(n)});
  };
  const auto itself = [](int64_t n) { return static_cast<double>(n); };
  using Inputs = std::vector<SuiteCase::Input>;
  model("mlp step", "batch", "row", {1, 4, 16, 64, 256, 1024, 4096}, [](int64_t n) { return Inputs{{{n, 784}}, {{n}, 10}}; }, [](int64_t n) { return mlp_step({784, 10, {256}, 0}, n, {}, 1); }, itself);
  model("cnn step", "batch", "picture", {1, 2, 4, 8, 16, 32, 64, 128, 256}, [](int64_t n) { return Inputs{{{n, 1, 28, 28}}, {{n}, 10}}; }, [](int64_t n) { return zoo::cnn_step(n); }, itself);
  model("residual block", "batch", "picture", {1, 2, 3, 4, 8, 16}, [](int64_t n) { return Inputs{{{n, 64, 56, 56}}}; }, zoo::residual_forward, itself);
  model("lstm gradients", "steps", "step", {2, 4, 8, 16, 32, 64}, [](int64_t n) { return Inputs{{{n, 32, 128}}}; }, [](int64_t n) { return zoo::lstm_gradients({.steps = n}); }, itself);
  constexpr double kDense = 12.0 * zoo::kWidth * zoo::kWidth;   // of one token, and half of a token's products with all others
  model("gpt block step", "tokens", "GFLOP", {16, 32, 64, 128, 256, 512, 1024}, [](int64_t n) { return Inputs{{{zoo::kBlockBatch, n, zoo::kWidth}}}; }, [](int64_t n) { return zoo::block_step(n); }, [](int64_t n) { return 1e-9 * 6.0 * static_cast<double>(zoo::kBlockBatch * n) * (kDense + static_cast<double>(n * zoo::kWidth)); });
  out.push_back({"compile gpt step", "layers", "layer", {}});
  for (int64_t n : {1, 2, 4, 6, 8, 12})
    out.back().points.push_back({n, model_case("compile gpt step", {{{zoo::kGptTokens}, zoo::kVocabulary}, {{zoo::kGptTokens}, zoo::kVocabulary}}, [n] { return zoo::gpt_step({.layers = n}); }, {{"compile", "cold"}}), static_cast<double>(n)});
  return out;
}

struct Arguments {
  std::string filter;
  int threads = 1;
  int64_t rounds = 5;
  JsonArgument json;
};

void run(const Arguments& a) {
  std::vector<Curve> wanted = curves();
  std::erase_if(wanted, [&](const Curve& c) { return c.name.find(a.filter) == std::string::npos; });
  if (wanted.empty()) throw Error(Code::unknown_case, fmt::format("no curve has \"{}\" in its name", a.filter)).with_help("without a word all are run; their names are printed");
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  ::setenv("QUERN_THREADS", std::to_string(a.threads).c_str(), 1);
  const auto device = open_device("cpu");
  Json head = {{"schema", 1}, {"command", command_line()}, {"machine", machine(*device)}, {"target", to_string(device->target())}, {"threads", a.threads}, {"rounds", a.rounds}, {"curves", Json::array()}};
  for (const Curve& curve : wanted) {
    fmt::print(out, "{}: by {}, {} threads\n  {:>10} {:>14} {:>20} {:>10}\n", curve.name, curve.size, a.threads, curve.size.substr(0, 10), "us", fmt::format("us / {}", curve.unit), "of least");
    Json points = Json::array();
    double least = std::numeric_limits<double>::infinity();
    for (const Point& p : curve.points) {
      SuiteProgram program(*device, p.c, compile_case(p.c, device->target()));
      program.check();
      std::vector<double> medians;
      for (int64_t r = 0; r < (p.c.peer.contains("compile") ? std::min<int64_t>(a.rounds, 3) : a.rounds); ++r) medians.push_back(spread(program.block()).median);
      const double us = spread(medians).median, unit = us / p.units;
      const double factor = unit / std::min(least, unit);
      fmt::print(out, "  {:>10} {:>14.1f} {:>20.3f} {:>10.2f}{}\n", p.size, us, unit, factor, factor > kStep ? "  step" : "");
      std::fflush(out);
      points.push_back({{"size", p.size}, {"median_us", us}, {"us_per_unit", unit}, {"step", factor > kStep}});
      least = std::min(least, unit);
    }
    head["curves"].push_back({{"name", curve.name}, {"size", curve.size}, {"unit", curve.unit}, {"points", points}});
  }
  if (!a.json.path.empty()) a.json.write(head);
}

}  // namespace

void register_growth(CLI::App& bench) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = bench.add_subcommand("growth", "time against size on the CPU, for each family of work at six sizes and more");
  c->add_option("filter", a->filter, "only curves whose name contains this");
  c->add_option("--threads", a->threads, "CPU workers")->capture_default_str()->check(CLI::Range(1, 256));
  c->add_option("--rounds", a->rounds, "blocks of runs at each size; compilations: at most 3")->capture_default_str()->check(CLI::Range(1, 10000));
  a->json.add_to(*c);
  c->footer("Examples:\n  quern bench growth matmul --threads 2\n  quern bench growth 'gpt block' --json growth.json");
  c->callback([a] { run(*a); });
}

}  // namespace quern::bench
