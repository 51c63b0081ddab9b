// See child.h. The child's standard input and output are one socket.
#include "bench/child.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

extern char** environ;

namespace quern::bench {

Child::Child(std::string script, int seconds) : script_(std::move(script)), seconds_(seconds) {
  if (::access(script_.c_str(), R_OK) != 0) throw Error(Code::cannot_read, fmt::format("{} is not here", script_)).with_help("run quern in the source folder");
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw Error(Code::system_refuses, fmt::format("no socket for the peer: {}", std::strerror(errno))).with_help("close some files, or use --peer none");
  socket_ = ends[0];
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  const char* argv[] = {"python3", script_.c_str(), nullptr};
  const int status = ::posix_spawnp(&pid_, "python3", &actions, nullptr, const_cast<char**>(argv), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (status != 0) {
    ::close(socket_);
    throw failed(fmt::format("python3 does not start: {}", std::strerror(status)));
  }
}

Child::~Child() {
  ::close(socket_);
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

Json Child::ask(const Json& request, double seconds) {
  const double longest = std::min<double>(seconds, seconds_);
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(longest);
  const std::string line = request.dump() + "\n";
  for (size_t at = 0; at < line.size();) {
    const ssize_t n = ::send(socket_, line.data() + at, line.size() - at, MSG_NOSIGNAL);
    if (n < 0) throw gone("the peer's process has ended");
    at += static_cast<size_t>(n);
  }
  size_t end;
  while ((end = buffer_.find('\n')) == std::string::npos) {
    pollfd p{socket_, POLLIN, 0};
    const double left = std::chrono::duration<double>(until - std::chrono::steady_clock::now()).count();
    if (left <= 0 || ::poll(&p, 1, static_cast<int>(left * 1000) + 1) == 0) throw gone(fmt::format("the peer gave no answer in {:.0f} s", longest));
    char block[65536];
    const ssize_t n = ::recv(socket_, block, sizeof block, 0);
    if (n <= 0) throw gone("the peer's process has ended");
    buffer_.append(block, static_cast<size_t>(n));
  }
  const Json answer = Json::parse(buffer_.substr(0, end), nullptr, false);
  buffer_.erase(0, end + 1);
  if (!answer.is_object()) throw failed("the peer's answer is not JSON");
  if (answer.contains("error")) throw failed(answer["error"].get<std::string>());
  return answer;
}

Error Child::gone(const std::string& why) {
  ended_ = true;
  ::kill(pid_, SIGKILL);
  return failed(why);
}

Error Child::failed(const std::string& why) const { return Error(Code::peer_failed, why).with_help("run it by hand to see why: python3 " + script_); }

}  // namespace quern::bench
