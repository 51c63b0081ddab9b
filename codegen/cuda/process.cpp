// See process.h. A request is the architecture and the source, an answer a code (0: none), a message, its help, the log and the
// cubin; each part is its size in 8 bytes, then its bytes.
#include "codegen/cuda/process.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "codegen/image.h"
#include "ir/support/env.h"

extern char** environ;

namespace quern::cuda {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t kMostBytes = uint64_t{1} << 30;   // of one part
constexpr size_t kMostProcesses = 16;

bool send_bytes(int socket, const void* data, size_t size) {
  for (size_t at = 0; at < size;) {
    const ssize_t n = ::send(socket, static_cast<const char*>(data) + at, size - at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += static_cast<size_t>(n);
  }
  return true;
}

bool send_parts(int socket, std::initializer_list<std::string_view> parts) {
  for (std::string_view part : parts) {
    const uint64_t size = part.size();
    if (!send_bytes(socket, &size, sizeof size) || !send_bytes(socket, part.data(), part.size())) return false;
  }
  return true;
}

enum class Received { all, ended, late, wrong };

Received receive_bytes(int socket, char* data, size_t size, Clock::time_point until) {
  for (size_t at = 0; at < size;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    pollfd p{socket, POLLIN, 0};
    const int ready = until == Clock::time_point::max() ? ::poll(&p, 1, -1) : left <= 0 ? 0 : ::poll(&p, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return Received::late;
    const ssize_t n = ::recv(socket, data + at, size - at, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Received::ended;
    at += static_cast<size_t>(n);
  }
  return Received::all;
}

template <size_t N>
Received receive_parts(int socket, std::array<std::string, N>& parts, Clock::time_point until) {
  for (std::string& part : parts) {
    uint64_t size;
    if (const Received r = receive_bytes(socket, reinterpret_cast<char*>(&size), sizeof size, until); r != Received::all) return r;
    if (size > kMostBytes) return Received::wrong;
    part.resize(size);
    if (const Received r = receive_bytes(socket, part.data(), size, until); r != Received::all) return r;
  }
  return Received::all;
}

bool spills(const std::string& log) {
  const std::string_view words = " bytes spill stores";
  for (size_t at = log.find(words); at != std::string::npos; at = log.find(words, at + 1))
    if (at > 1 && (log[at - 1] != '0' || log[at - 2] != ' ')) return true;
  return false;
}

// The assembler spills a few registers where one more block of threads then stands beside the others: without the wish for that it does not.
std::string with_one_block(std::string source) {
  const std::string_view words = "__launch_bounds__(";
  for (size_t at = source.find(words); at != std::string::npos; at = source.find(words, at + 1)) {
    const size_t end = source.find(')', at);
    if (source.find(',', at) > end) source.insert(end, ", 1");
  }
  return source;
}

std::string folder_of(const std::filesystem::path& file) {
  std::error_code unknown;
  return std::filesystem::weakly_canonical(file, unknown).parent_path().string();
}

// Processes that have nothing to do: starting one, NVRTC's library included, takes as long as a small kernel.
class Pool {
 public:
  std::unique_ptr<CompilerProcess> take(const std::string& path) {
    const std::lock_guard lock(mutex_);
    if (path != path_ || owner_ != ::getpid()) idle_.clear(), path_ = path, owner_ = ::getpid();
    if (idle_.empty()) return nullptr;
    auto out = std::move(idle_.back());
    idle_.pop_back();
    return out;
  }
  void give(std::unique_ptr<CompilerProcess> process, const std::string& path) {
    const std::lock_guard lock(mutex_);
    if (path == path_ && idle_.size() < kMostProcesses) idle_.push_back(std::move(process));
  }

 private:
  std::mutex mutex_;
  std::string path_;
  pid_t owner_ = 0;
  std::vector<std::unique_ptr<CompilerProcess>> idle_;
};

Compiled compile_there(const std::string& path, const std::string& source, const std::string& arch) {
  static Pool pool;
  std::unique_ptr<CompilerProcess> process = pool.take(path);
  if (!process) process = std::make_unique<CompilerProcess>(path);
  try {
    Compiled out = process->compile(source, arch);
    pool.give(std::move(process), path);
    return out;
  } catch (const Error& e) {
    if (e.code != Code::compiler_died) pool.give(std::move(process), path);
    throw;
  }
}

}  // namespace

std::string compiler_path() {
  if (const char* named = env(Env::compiler)) return named;
  std::vector<std::string> folders = {folder_of("/proc/self/exe")};
  Dl_info library;
  if (::dladdr(reinterpret_cast<const void*>(&compiler_path), &library) && library.dli_fname) {
    folders.push_back(folder_of(library.dli_fname));
    folders.push_back(folder_of(folders.back()) + "/bin");
  }
  for (const std::string& folder : folders)
    if (const std::string path = folder + "/quern-cc"; ::access(path.c_str(), X_OK) == 0) return path;
  return "";
}

CompilerProcess::CompilerProcess(std::string path, int seconds) : path_(std::move(path)), seconds_(seconds), owner_(::getpid()) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw Error(Code::system_refuses, fmt::format("no socket for {}: {}", path_, std::strerror(errno))).with_help("close some files");
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
  ::posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  const char* argv[] = {path_.c_str(), nullptr};
  const int status = ::posix_spawn(&pid_, path_.c_str(), &actions, nullptr, const_cast<char**>(argv), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  socket_ = ends[0];
  if (status == 0) return;
  ::close(socket_);
  throw Error(Code::compiler_died, fmt::format("{} does not start: {}", path_, std::strerror(status))).with_help("QUERN_CC names the compiler's program; it is installed beside quern");
}

CompilerProcess::~CompilerProcess() {
  ::close(socket_);
  if (pid_ == 0 || owner_ != ::getpid()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

Compiled CompilerProcess::compile(const std::string& source, const std::string& arch) {
  const auto until = Clock::now() + std::chrono::seconds(seconds_);
  std::array<std::string, 5> parts;
  const Received received = send_parts(socket_, {arch, source}) ? receive_parts(socket_, parts, until) : Received::ended;
  if (received == Received::late) throw failed(fmt::format("gave no answer in {} s", seconds_));
  if (received == Received::ended) {
    int status = 0;
    const bool known = ::waitpid(std::exchange(pid_, 0), &status, 0) > 0;
    throw failed(!known ? "has ended" : WIFSIGNALED(status) ? fmt::format("was ended by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status))) : fmt::format("ended with status {}", WEXITSTATUS(status)));
  }
  const auto& [code, message, help, log, cubin] = parts;
  const auto of_that_number = [&](const CodeInfo& c) { return fmt::format("{}", static_cast<int>(c.code)) == code; };
  const auto info = std::find_if(all_codes().begin(), all_codes().end(), of_that_number);
  if (received == Received::wrong || (code != "0" && info == all_codes().end())) throw failed("answers with something that is no answer");
  if (code != "0") throw Error(info->code, message).with_help(help);
  return {{cubin.begin(), cubin.end()}, log};
}

Error CompilerProcess::failed(const std::string& why) {
  return Error(Code::compiler_died, fmt::format("{} {}", path_, why)).with_help("it may use 4 GiB of memory; `quern dump MODEL --what kernels --target cuda` shows what it compiles. Please report a kernel that ends it");
}

int serve(int socket) {
  std::array<std::string, 2> parts;
  while (receive_parts(socket, parts, Clock::time_point::max()) == Received::all) {
    bool sent;
    try {
      const Compiled made = compile_here(parts[1], parts[0]);
      sent = send_parts(socket, {"0", "", "", made.log, {reinterpret_cast<const char*>(made.code.data()), made.code.size()}});
    } catch (const Error& e) {
      sent = send_parts(socket, {fmt::format("{}", static_cast<int>(e.code)), e.message, e.help, "", ""});
    }
    if (!sent) return 1;
  }
  return 0;
}

std::string compile(KernelImage& image, const std::string& arch) {
  const std::string path = compiler_path();
  const auto compiled = [&](const std::string& source) { return path.empty() ? compile_here(source, arch) : compile_there(path, source, arch); };
  Compiled made = compiled(image.source);
  if (spills(made.log)) {
    std::string alone = with_one_block(image.source);
    if (Compiled again = compiled(alone); !spills(again.log)) made = std::move(again), image.source = std::move(alone);
  }
  image.code = std::move(made.code);
  return made.log;
}

std::vector<std::string> compile(std::vector<KernelImage>& images, const std::string& arch) {
  std::vector<std::string> notes;
  const bool here = compiler_path().empty();
  if (here && !images.empty()) notes.push_back("quern-cc is not beside this program, and QUERN_CC does not name it: kernels are compiled in this process, one after the other");
  std::vector<std::string> logs(images.size());
  std::vector<std::exception_ptr> problems(images.size());
  std::vector<size_t> order(images.size());   // the longest first: one of them alone at the end would be waited for
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return images[a].source.size() > images[b].source.size(); });
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t at; (at = next++) < order.size();) try {
        logs[order[at]] = compile(images[order[at]], arch);
      } catch (...) {
        problems[order[at]] = std::current_exception();
      }
  };
  std::vector<std::thread> others;
  const size_t wanted = here ? 1 : std::min({std::max<size_t>(1, std::thread::hardware_concurrency()), images.size(), kMostProcesses});
  for (size_t t = 1; t < wanted; ++t) others.emplace_back(work);
  work();
  for (std::thread& t : others) t.join();
  for (const std::exception_ptr& p : problems)
    if (p) std::rethrow_exception(p);
  return notes;
}

}  // namespace quern::cuda
