// See peers.h.
#include "bench/peers.h"

#include <dlfcn.h>

#include <fmt/format.h>

#include "bench/child.h"
#include "bench/data.h"
#include "bench/harness.h"
#include "ir/support/suggest.h"

namespace quern::bench {

constexpr const char* kScript = "bench/peers/torch_ops.py";

Peers::Peers(const std::string& which, const Device& device) {
  if (which != "none" && which != "openblas" && which != "torch") throw Error(Code::bad_value, fmt::format("--peer {}: wants none, openblas or torch", which)).with_help(suggestion(which, {"none", "openblas", "torch"}, "openblas is the default"));
  const TargetKind kind = device.target().kind;
  if (which == "none") return;
  if (device.name() == "null") {
    found_["all"] = "none: the null device computes nothing";
    return;
  }
  if (kind != TargetKind::cpu) {
    found_["OpenBLAS"] = "none: it has no GPU code";
  } else if (void* library = ::dlopen("libopenblas.so.0", RTLD_NOW)) {
    openblas_ = ::dlsym(library, "cblas_sgemm");
    if (auto* set = reinterpret_cast<void (*)(int)>(::dlsym(library, "openblas_set_num_threads"))) set(device.threads());
    const auto config = reinterpret_cast<char* (*)()>(::dlsym(library, "openblas_get_config"));
    found_["OpenBLAS"] = openblas_ && config ? std::string(config()) : "without a configuration string";
  } else {
    found_["OpenBLAS"] = "none: libopenblas.so.0 is not installed";
  }
  if (which != "torch") return;
  try {
    torch_ = std::make_unique<Child>(kScript);
    found_["PyTorch"] = torch_->ask({{"start", {{"threads", device.threads()}, {"device", kind == TargetKind::cuda ? "cuda" : "cpu"}}}}).at("version");
  } catch (const Error& e) {
    torch_ = nullptr;
    found_["PyTorch"] = fmt::format("none: {}", e.what());
  }
}

Peers::~Peers() = default;

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);

static PreparedPeer prepare_openblas(Sgemm sgemm, const Json& request, int64_t sets) {
  struct Set { HostTensor a, b, c; };
  auto data = std::make_shared<std::vector<Set>>();
  const Shape a = request["shapes"][0], b = request["shapes"][1];
  for (int64_t s = 0; s < sets; ++s) data->push_back({uniform(stream_of(s, 0), a), uniform(stream_of(s, 1), b), HostTensor(DType::f32, {a[0], b[1]})});
  const int m = static_cast<int>(a[0]), k = static_cast<int>(a[1]), n = static_cast<int>(b[1]);
  const auto run = [=](size_t r) {
    Set& s = (*data)[r % data->size()];
    sgemm(101, 111, 111, m, n, k, 1, s.a.data<float>(), k, s.b.data<float>(), n, 0, s.c.data<float>(), n);
  };
  run(0);
  return {"OpenBLAS", mean_abs((*data)[0].c), [run](bool) { return block([&](size_t r) { return microseconds([&] { run(r); }); }); }};
}

std::optional<PreparedPeer> Peers::prepare(const Json& request, int64_t sets) {
  if (request.is_null()) return std::nullopt;
  if (openblas_ && request["op"] == "matmul") return prepare_openblas(reinterpret_cast<Sgemm>(openblas_), request, sets);
  if (!torch_) return std::nullopt;
  Json r = request;
  r["sets"] = sets;
  const double check = torch_->ask({{"prepare", r}}).at("check");
  return PreparedPeer{"PyTorch", check, [this](bool synchronised) {
                        const Json answer = torch_->ask({{"measure", {{"milliseconds", kBlockMilliseconds}, {"runs", kBlockRuns}, {"synchronised", synchronised}}}});
                        return answer.at("us").get<std::vector<double>>();
                      }};
}

}  // namespace quern::bench
