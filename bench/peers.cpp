// See peers.h.
#include "bench/peers.h"

#include <cstring>

#include <dlfcn.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/harness.h"
#include "ir/support/suggest.h"

extern char** environ;

namespace quern::bench {

constexpr const char* kScript = "bench/peers/torch_ops.py";
constexpr int kAnswerSeconds = 120;   // the longest that a peer may take for one answer

/// The child process; it reads requests on its standard input and answers on its standard output, both one socket.
class TorchChild {
 public:
  TorchChild() {
    if (::access(kScript, R_OK) != 0) throw Error(Code::cannot_read, fmt::format("{} is not here", kScript)).with_help("run quern in the source folder");
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw Error(Code::system_refuses, fmt::format("no socket for the peer: {}", std::strerror(errno))).with_help("close some files, or use --peer none");
    socket_ = ends[0];
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
    ::posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    const char* argv[] = {"python3", kScript, nullptr};
    const int status = ::posix_spawnp(&pid_, "python3", &actions, nullptr, const_cast<char**>(argv), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    if (status != 0) {
      ::close(socket_);
      throw failed(fmt::format("python3 does not start: {}", std::strerror(status)));
    }
  }
  ~TorchChild() {
    ::close(socket_);
    ::kill(pid_, SIGTERM);
    ::waitpid(pid_, nullptr, 0);
  }
  TorchChild(const TorchChild&) = delete;

  /// Throws Error(device) with the peer's own words where it answers with an error, or ends.
  Json ask(const Json& request) {
    const std::string line = request.dump() + "\n";
    for (size_t at = 0; at < line.size();) {
      const ssize_t n = ::send(socket_, line.data() + at, line.size() - at, MSG_NOSIGNAL);
      if (n < 0) throw failed("the peer's process has ended");
      at += static_cast<size_t>(n);
    }
    size_t end;
    while ((end = buffer_.find('\n')) == std::string::npos) {
      pollfd p{socket_, POLLIN, 0};
      if (::poll(&p, 1, kAnswerSeconds * 1000) == 0) throw failed(fmt::format("the peer gave no answer in {} s", kAnswerSeconds));
      char block[65536];
      const ssize_t n = ::recv(socket_, block, sizeof block, 0);
      if (n <= 0) throw failed("the peer's process has ended");
      buffer_.append(block, static_cast<size_t>(n));
    }
    const Json answer = Json::parse(buffer_.substr(0, end), nullptr, false);
    buffer_.erase(0, end + 1);
    if (!answer.is_object()) throw failed("the peer's answer is not JSON");
    if (answer.contains("error")) throw failed(answer["error"].get<std::string>());
    return answer;
  }

 private:
  int socket_ = -1;
  pid_t pid_ = 0;
  std::string buffer_;

  static Error failed(const std::string& why) { return Error(Code::peer_failed, why).with_help(fmt::format("run it by hand to see why: python3 {}", kScript)); }
};

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
    torch_ = std::make_unique<TorchChild>();
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
