// The peers of the suite: OpenBLAS and oneDNN in this process (dlopen; products), the frameworks as child processes.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <future>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/suite.h"
#include "ir/support/suggest.h"

namespace quern::bench {
namespace {

constexpr int kAnswerSeconds = 900;   // a peer that compiles does so before its first answer
constexpr int kStarts = 3;            // of a peer whose process ends
constexpr double kTiming = 1.0 / 3;   // of a case's share, kept for its rounds
constexpr double kPatience = 3;       // shares, and at least a minute, that a peer may take where nothing is known of it

struct Framework {
  const char* name;
  TargetKind kind;
  const char *script, *variant;
};
constexpr Framework kFrameworks[] = {
    {"torch", TargetKind::cpu, "bench/peers/suite_torch.py", "eager"},
    {"torch-compile", TargetKind::cpu, "bench/peers/suite_torch.py", "compile"},
    {"jax", TargetKind::cpu, "bench/peers/suite_jax.py", "jit"},
    {"onnxruntime", TargetKind::cpu, "bench/peers/suite_onnxruntime.py", "all optimizations"},
    {"torch", TargetKind::cuda, "bench/peers/suite_cuda.py", "torch"},
    {"torch-compile", TargetKind::cuda, "bench/peers/suite_cuda.py", "torch-compile"},
    {"cublaslt", TargetKind::cuda, "bench/peers/suite_cuda.py", "cublaslt"},
    {"jax", TargetKind::cuda, "bench/peers/suite_cuda.py", "jax"},
};

std::pair<std::unique_ptr<Child>, std::string> start_child(const std::string& name, int threads, TargetKind kind) {
  const Framework& f = *std::find_if(std::begin(kFrameworks), std::end(kFrameworks), [&](const Framework& g) { return name == g.name && g.kind == kind; });
  auto child = std::make_unique<Child>(f.script, kAnswerSeconds);
  std::string version = child->ask({{"start", {{"threads", threads}, {"variant", f.variant}}}}).at("version");
  return {std::move(child), std::move(version)};
}

template <class F>
F symbol(void* library, const char* name) { return reinterpret_cast<F>(::dlsym(library, name)); }

void* open_first(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  return nullptr;
}

}  // namespace

std::vector<std::string> SuitePeers::names(TargetKind kind) {
  std::vector<std::string> all;
  if (kind == TargetKind::cpu) all = {"openblas", "onednn"};
  for (const Framework& f : kFrameworks)
    if (f.kind == kind) all.emplace_back(f.name);
  return all;
}

SuitePeers::SuitePeers(const std::vector<std::string>& wanted, int threads, TargetKind kind) : threads_(threads), kind_(kind) {
  const std::vector<std::string> known = names(kind);
  for (const std::string& name : wanted)
    if (std::find(known.begin(), known.end(), name) == known.end()) throw Error(Code::bad_value, fmt::format("--peers {}: there is no such peer", name)).with_help(suggestion(name, known, "peers are " + fmt::format("{}", fmt::join(known, ", ")) + ", or none"));
  std::vector<std::pair<std::string, std::future<std::pair<std::unique_ptr<Child>, std::string>>>> starting;   // frameworks, side by side
  for (const std::string& name : wanted)
    if (std::any_of(std::begin(kFrameworks), std::end(kFrameworks), [&](const Framework& f) { return name == f.name; }))
      starting.emplace_back(name, std::async(std::launch::async, start_child, name, threads, kind));
  const auto note = [&](const std::string& name, const std::function<std::string()>& version) {
    try {
      found_[name] = {{"version", version()}};
    } catch (const Error& e) {
      found_[name] = {{"missing", e.what()}};
    }
  };
  for (const std::string& name : wanted)
    if (name == "openblas" || name == "onednn") note(name, [&] { return open_library(name, threads); });
  for (auto& [name, start] : starting)
    note(name, [&] {
      auto [child, version] = start.get();
      children_.push_back({name, std::move(child)});
      return version;
    });
}

SuitePeers::~SuitePeers() = default;

std::string SuitePeers::open_library(const std::string& name, int threads) {
  if (name == "openblas") {
    using Sgemm = void (*)(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
    void* library = open_first({"libopenblas.so.0", "libopenblas.so"});
    const auto sgemm = library ? symbol<Sgemm>(library, "cblas_sgemm") : nullptr;
    const auto set = library ? symbol<void (*)(int)>(library, "openblas_set_num_threads") : nullptr;
    if (!sgemm || !set) throw Error(Code::peer_failed, "libopenblas.so.0 is not installed").with_help("apt-get install libopenblas0-pthread");
    set(threads);
    libraries_.emplace_back(name, [=](bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
      const auto i = [](int64_t v) { return static_cast<int>(v); };
      sgemm(101, ta ? 112 : 111, tb ? 112 : 111, i(m), i(n), i(k), 1, a, i(ta ? m : k), b, i(tb ? k : n), 0, c, i(n));
    });
    const auto config = symbol<char* (*)()>(library, "openblas_get_config");
    return config ? config() : "without a configuration string";
  }
  using Sgemm = int (*)(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc);
  struct Version { int major, minor, patch; };   // the head of dnnl_version_t
  void* library = open_first({"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"});
  const auto sgemm = library ? symbol<Sgemm>(library, "dnnl_sgemm") : nullptr;
  const auto version = library ? symbol<const Version* (*)()>(library, "dnnl_version") : nullptr;
  if (!sgemm || !version) throw Error(Code::peer_failed, "libdnnl.so is not installed").with_help("apt-get install libdnnl2");
  const auto set = symbol<void (*)(int)>(library, "omp_set_num_threads");   // of the runtime that it is linked to
  if (!set) throw Error(Code::peer_failed, "this libdnnl.so has no OpenMP, so its threads cannot be limited").with_help("install the system's package");
  set(threads);
  libraries_.emplace_back(name, [=](bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float* a, const float* b, float* c) {
    sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, ta ? m : k, b, tb ? k : n, 0, c, n);
  });
  return fmt::format("{}.{}.{}", version()->major, version()->minor, version()->patch);
}

std::vector<PreparedPeer> SuitePeers::prepare(const Json& request, const Shares& time, Json& failures) {
  std::vector<PreparedPeer> out;
  const int64_t sets = request.at("sets");
  if (request.at("op") == "matmul")
    for (const auto& [name, product] : libraries_) {
      struct Set { HostTensor a, b, c; };
      const Json &a = request.at("inputs")[0].at("shape"), &b = request.at("inputs")[1].at("shape");
      const std::string layout = request.at("layout");
      const bool ta = layout[0] == 't', tb = layout[1] == 't';
      const int64_t m = a[ta ? 1 : 0], k = a[ta ? 0 : 1], n = b[tb ? 0 : 1];
      auto data = std::make_shared<std::vector<Set>>();
      for (int64_t s = 0; s < sets; ++s) data->push_back({uniform(stream_of(s, 0), a), uniform(stream_of(s, 1), b), HostTensor(DType::f32, {m, n})});
      const auto run = [=, product = product](size_t r) {
        Set& s = (*data)[r % data->size()];
        product(ta, tb, m, n, k, s.a.data<float>(), s.b.data<float>(), s.c.data<float>());
      };
      run(0);
      out.push_back({name, mean_abs((*data)[0].c), [run](bool) { return block([&](size_t r) { return microseconds([&] { run(r); }); }); }});
    }
  const std::string op = request.at("op");
  Json wanted = request;
  wanted["exact"] = true;   // of the first one that has it
  const auto prepare_one = [&](Peer& peer) {
    double& last = peer.seconds[op];
    const double left = time.left() - kTiming * time.share();
    if (time.limited() && left < last && peer.lacks.count(op)) return;   // nothing is missed
    if (time.limited() && left < last) throw Error(Code::peer_failed, left <= 0 ? std::string("left out: the case's share of the time is over") : fmt::format("left out: the last {} took {:.1f} s, and {:.1f} s are left of this case's share", op, last, left));
    if (peer.child && peer.child->ended() && peer.starts++ < kStarts) peer.child.reset(), peer.child = start_child(peer.name, threads_, kind_).first;
    if (!peer.child || peer.child->ended()) throw Error(Code::peer_failed, "its process has ended, and is not started again");
    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    try {
      const Json answer = peer.child->ask({{"prepare", wanted}}, std::clamp(kPatience * time.share(), 60.0, std::max(60.0, time.until_end())));
      last = seconds();
      if (answer.contains("unsupported")) {
        peer.lacks.insert(op);
        return;
      }
      Child& child = *peer.child;
      out.push_back({peer.name, answer.at("check"), [&child](bool) {
                       return child.ask({{"measure", {{"milliseconds", kBlockMilliseconds}, {"runs", kBlockRuns}}}}).at("us").get<std::vector<double>>();
                     },
                     answer.value("samples", std::vector<std::vector<double>>{}), last});
      if (!out.back().samples.empty()) wanted["exact"] = false;
    } catch (const Error&) {
      last = seconds();
      throw;
    }
  };
  std::vector<Peer*> order;
  for (Peer& p : children_) order.push_back(&p);
  std::stable_partition(order.begin(), order.end(), [&](const Peer* p) { return request.value("first", "") == p->name; });
  for (Peer* p : order) try {
      prepare_one(*p);
    } catch (const Error& e) {
      failures[p->name] = e.what();
    }
  return out;
}

}  // namespace quern::bench
