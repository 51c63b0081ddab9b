// quern bench: timed runs of generated programs, OpenBLAS beside them where it is installed. Random data, warm-up,
// medians; one JSON row per case {name, median_us, peer, ratio}, ratio = peer's time / ours.
#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include <dlfcn.h>

#include <fmt/format.h>

#include "models/mlp.h"
#include "runtime/jit.h"
#include "tools/commands.h"
#include "tools/fuzz_graphs.h"

namespace quern {
namespace {

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);

struct Peer {
  Sgemm sgemm = nullptr;
  Peer(int threads) {
    void* library = ::dlopen("libopenblas.so.0", RTLD_NOW);
    if (!library) return;
    sgemm = reinterpret_cast<Sgemm>(::dlsym(library, "cblas_sgemm"));
    if (auto* set = reinterpret_cast<void (*)(int)>(::dlsym(library, "openblas_set_num_threads"))) set(threads);
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
double microseconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

struct Case {
  std::string name;
  Graph graph;
  int64_t m = 0, n = 0, k = 0;   // a product that the peer can do
  double flops = 0, bytes = 0;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  const auto add = [&](const std::string& name, const std::function<void(Model&)>& build) -> Case& {
    Model model;
    build(model);
    out.push_back({name, model.finish()});
    return out.back();
  };
  for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{256, 256, 256}, {512, 512, 512}, {1024, 1024, 1024}, {128, 256, 784}, {128, 10, 256}, {32, 3072, 768}, {500, 333, 777}}) {
    Case& c = add(fmt::format("matmul {}x{}x{}", m, n, k), [m = m, n = n, k = k](Model& g) {
      const Tensor a = g.input("a", DType::f32, {m, k}), b = g.input("b", DType::f32, {k, n});
      g.output("y", matmul(a, b));
    });
    c.m = m, c.n = n, c.k = k;
    c.flops = 2.0 * static_cast<double>(m * n * k);
  }
  add("elementwise gelu 4096x1024", [](Model& g) { g.output("y", gelu(g.input("x", DType::f32, {4096, 1024}))); }).bytes = 2.0 * 4 * 4096 * 1024;
  add("softmax 4096x1024", [](Model& g) { g.output("y", softmax(g.input("x", DType::f32, {4096, 1024}))); }).bytes = 2.0 * 4 * 4096 * 1024;
  add("layer_norm 4096x1024", [](Model& g) {
    g.output("y", layer_norm(g.input("x", DType::f32, {4096, 1024}), g.input("w", DType::f32, {1024}), g.input("b", DType::f32, {1024})));
  }).bytes = 2.0 * 4 * 4096 * 1024;
  for (int64_t batch : {1, 8, 32, 128, 512}) out.push_back({fmt::format("mlp step 784-256-10 batch {}", batch), mlp_step({784, 10, {256}, 0}, batch, {}, 1).graph});
  return out;
}

void bench(const std::string& device_name, const std::string& filter, int64_t rounds, const JsonArgument& json) {
  const auto device = open_device(device_name);
  const Peer peer(device->threads());
  FILE* out = json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "device {} ({} threads), target {}, {} rounds; peer: {}\n", device->name(), device->threads(), to_string(device->target()), rounds, peer.sgemm ? "OpenBLAS" : "none found (libopenblas.so.0)");
  Json rows = Json::array();
  std::mt19937_64 random(1);
  for (const Case& c : cases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    CompileReport report;
    CompileOptions options;
    options.use_cache = false;
    std::unique_ptr<Executable> e;
    const double compile_us = microseconds([&] { e = jit(*device, c.graph, options, &report); });
    std::vector<HostTensor> all = random_inputs(c.graph, random);
    size_t position = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const State* state = nullptr;
      for (const State& s : c.graph.states)
        if (s.input == c.graph.inputs[i]) state = &s;
      if (state) e->set_state(state->name, all[i]);
      else e->set_input(static_cast<int64_t>(position++), all[i]);
    }
    const auto ours = [&] {
      e->run();
      device->synchronize();
    };
    HostTensor reference(DType::f32, c.m ? Shape{c.m, c.n} : Shape{});
    const auto theirs = [&] {
      peer.sgemm(101, 111, 111, static_cast<int>(c.m), static_cast<int>(c.n), static_cast<int>(c.k), 1, all[0].data<float>(), static_cast<int>(c.k), all[1].data<float>(), static_cast<int>(c.n), 0,
                 reference.data<float>(), static_cast<int>(c.n));
    };
    const bool compared = peer.sgemm && c.m && device_name == "cpu";
    // One after the other, not interleaved: a library's idle workers spin for a while and would take our cores.
    const auto series = [&](const std::function<void()>& f) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      for (int w = 0; w < 3; ++w) f();
      std::vector<double> times;
      for (int64_t r = 0; r < rounds; ++r) times.push_back(microseconds(f));
      return times;
    };
    std::vector<double> mine = series(ours), other;
    if (compared) other = series(theirs);
    const double us = median(mine);
    std::sort(mine.begin(), mine.end());
    Json row = {{"name", c.name}, {"median_us", us}, {"low_us", mine[mine.size() / 10]}, {"high_us", mine[mine.size() * 9 / 10]}, {"compile_ms", compile_us / 1000}, {"peer", compared ? "OpenBLAS" : ""}};
    std::string extra;
    if (c.flops > 0) extra += fmt::format("  {:7.1f} GFLOP/s", c.flops / us / 1000);
    if (c.bytes > 0) extra += fmt::format("  {:7.1f} GB/s", c.bytes / us / 1000);
    if (compared) {
      row["peer_us"] = median(other);
      row["ratio"] = median(other) / us;
      extra += fmt::format("  {:.2f} of OpenBLAS ({:.1f} us)", median(other) / us, median(other));
    }
    rows.push_back(row);
    fmt::print(out, "{:<32} {:10.1f} us  [{:.1f}, {:.1f}]  compiled in {:.0f} ms{}\n", c.name, us, mine[mine.size() / 10], mine[mine.size() * 9 / 10], compile_us / 1000, extra);
  }
  json.write({{"schema", 1}, {"device", device->name()}, {"target", to_string(device->target())}, {"threads", device->threads()}, {"rows", rows}});
}

}  // namespace

void register_bench(CLI::App& root) {
  struct Arguments {
    std::string device = "cpu", filter;
    int64_t rounds = 15;
    JsonArgument json;
  };
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("bench", "time generated programs, beside OpenBLAS where installed");
  c->add_option("filter", a->filter, "only cases whose name contains this");
  c->add_option("--device", a->device, "cpu, cuda[:N] or null")->capture_default_str();
  c->add_option("--rounds", a->rounds)->capture_default_str()->check(CLI::Range(1, 10000));
  a->json.add_to(*c);
  c->footer("Examples:\n  QUERN_THREADS=1 quern bench matmul\n  quern bench mlp --json bench.json");
  c->callback([a] { bench(a->device, a->filter, a->rounds, a->json); });
}

}  // namespace quern
