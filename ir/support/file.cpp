// See file.h.
#include "ir/support/file.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include "ir/support/check.h"
#include "ir/support/memory.h"

namespace quern {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

// 0, or the errno of what failed.
int write_to(int fd, const std::vector<std::string_view>& parts, bool sync) {
  for (std::string_view part : parts)
    while (!part.empty()) {
      const ssize_t n = ::write(fd, part.data(), part.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return n < 0 ? errno : EIO;
      part.remove_prefix(static_cast<size_t>(n));
    }
  return sync && ::fsync(fd) != 0 ? errno : 0;
}

[[noreturn]] void cannot_write(const std::string& path, int error) {
  const char* help = error == EISDIR ? "name a file in it" : error == ENOSPC || error == EDQUOT || error == EFBIG ? "make room there, or choose another place" : "check the path and its permissions";
  throw Error(Code::cannot_write, fmt::format("{}: cannot be written: {}", path.empty() ? "\"\"" : path, std::strerror(error))).with_help(help);
}

}  // namespace

std::vector<uint8_t> read_bytes(const std::string& path, int64_t limit) {
  const auto fail = [&](const std::string& why, const std::string& help) { throw Error(Code::cannot_read, fmt::format("{}: {}", path, why)).with_help(help); };
  // Not blocking: opening a pipe that nobody writes would wait for ever.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(std::strerror(errno), "check the path and its permissions");
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail(std::strerror(errno), "check the path");
  if (!S_ISREG(info.st_mode)) fail(S_ISDIR(info.st_mode) ? "is a folder" : "is not a regular file", "name a regular file");
  const auto too_large = [&] { throw Error(Code::file_too_large, fmt::format("{}: larger than {} bytes", path, limit)).with_help("is it the right file?"); };
  if (info.st_size > limit) too_large();
  std::vector<uint8_t> out(static_cast<size_t>(info.st_size) + 1);   // one more, to meet the end; a growing file is met, too
  size_t at = 0;
  for (;;) {
    const ssize_t n = ::read(file.fd, out.data() + at, out.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(std::strerror(errno), "try again");
    if (n == 0) break;
    at += static_cast<size_t>(n);
    if (static_cast<int64_t>(at) > limit) too_large();
    if (at == out.size()) out.resize(2 * at);
  }
  out.resize(at);
  return out;
}

std::vector<uint8_t> read_beneath(const std::string& folder, const std::string& name, int64_t offset, int64_t length) {
  const auto fail = [&](const std::string& why, const std::string& help) { throw Error(Code::onnx_external, fmt::format("external data \"{}\": {}", name, why)).with_help(help); };
  if (name.empty() || name.size() > 4095 || name.find('\0') != std::string::npos) fail("is no file name", "export the model again");
  const Descriptor root{::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  if (root.fd < 0) fail(fmt::format("{}: {}", folder, std::strerror(errno)), "check the model's folder");
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const Descriptor file{static_cast<int>(::syscall(SYS_openat2, root.fd, name.c_str(), &how, sizeof how))};
  if (file.fd < 0 && (errno == EXDEV || errno == ELOOP)) fail("leads out of the model's folder", "put the file beside the model and name it without folders");
  if (file.fd < 0) fail(std::strerror(errno), "put the file where the model says, beside it");
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail(std::strerror(errno), "check the file");
  if (!S_ISREG(info.st_mode)) fail("is not a regular file", "put the file where the model says, beside it");
  if (info.st_nlink > 1) fail("has several names (hard links), so it may lie elsewhere, too", "copy it: cp f g && mv g f");
  if (offset < 0 || length < 0 || length > info.st_size || offset > info.st_size - length) fail(fmt::format("{} bytes at {} of a file of {}", length, offset, info.st_size), "is the file whole?");
  want_memory("external data", static_cast<double>(length));
  std::vector<uint8_t> out(static_cast<size_t>(length));
  for (size_t at = 0; at < out.size();) {
    const ssize_t n = ::pread(file.fd, out.data() + at, out.size() - at, offset + static_cast<int64_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? std::strerror(errno) : "ends early", "is the file whole?");
    at += static_cast<size_t>(n);
  }
  return out;
}

void write_bytes(const std::string& path, const std::vector<std::string_view>& parts) {
  const auto fail = [&](int error) { cannot_write(path, error); };
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && !S_ISREG(info.st_mode)) {   // renaming over a device would replace it
    const Descriptor file{::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY)};
    if (file.fd < 0) fail(errno);
    if (const int error = write_to(file.fd, parts, false)) fail(error);
    return;
  }
  std::string target = path;   // through a symbolic link, the file that it names is replaced
  if (exists)
    if (char* real = ::realpath(path.c_str(), nullptr)) {
      target = real;
      std::free(real);
    }
  const std::string temporary = fmt::format("{}.tmp-{}", target, ::getpid());
  int error = 0;
  {
    const Descriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)};
    if (file.fd < 0) fail(errno);
    error = write_to(file.fd, parts, true);
  }
  if (error == 0 && ::rename(temporary.c_str(), target.c_str()) != 0) error = errno;
  if (error == 0) return;
  ::unlink(temporary.c_str());
  fail(error);
}

void want_writable(const std::string& path) {
  std::error_code none;
  const std::filesystem::path file = std::filesystem::exists(path, none) ? std::filesystem::canonical(path, none) : std::filesystem::path(path);
  if (std::filesystem::is_directory(file, none) || path.empty()) cannot_write(path, path.empty() ? ENOENT : EISDIR);
  if (std::filesystem::exists(file, none) && ::access(path.c_str(), W_OK) != 0) cannot_write(path, errno);
  if (std::filesystem::exists(file, none) && !std::filesystem::is_regular_file(file, none)) return;   // written in place
  const std::filesystem::path folder = file.has_parent_path() ? file.parent_path() : ".";
  if (::access((folder / ".").c_str(), W_OK | X_OK) != 0) cannot_write(path, errno);
}

}  // namespace quern
