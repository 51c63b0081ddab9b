// The kernel cache; see cache.h. An entry is {magic, version, key hash, payload size, checksum} and the payload.
#include "codegen/cache.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include "ir/support/env.h"
#include "ir/support/fault.h"
#include "ir/support/hash.h"

namespace quern {
namespace {

struct Head {
  char magic[8] = {'Q', 'U', 'E', 'R', 'N', 'K', 'C', '1'};
  char key[32] = {};        // hash of the key in hex
  uint64_t bytes = 0;       // of the payload
  uint64_t checksum = 0;    // of the payload
};

uint64_t checksum_of(const std::vector<uint8_t>& payload) { return hash64({reinterpret_cast<const char*>(payload.data()), payload.size()}); }

enum class ReadResult { good, absent, damaged, unreadable };

ReadResult read_entry(const std::string& file, const std::string& key_hash, std::vector<uint8_t>& payload) {
  // The size is the open file's: another process may rename a new entry over this one, or remove it, at any time.
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return errno == ENOENT ? ReadResult::absent : ReadResult::unreadable;
  const uint64_t size = static_cast<uint64_t>(std::max<std::streamoff>(in.tellg(), 0));
  in.seekg(0);
  Head head;
  if (!in.read(reinterpret_cast<char*>(&head), sizeof head)) return ReadResult::damaged;
  if (std::memcmp(head.magic, Head().magic, 8) != 0 || size != sizeof head + head.bytes || std::memcmp(head.key, key_hash.data(), 32) != 0) return ReadResult::damaged;
  payload.resize(head.bytes);
  if (!in.read(reinterpret_cast<char*>(payload.data()), static_cast<std::streamsize>(payload.size()))) return ReadResult::damaged;
  return checksum_of(payload) == head.checksum ? ReadResult::good : ReadResult::damaged;
}

bool write_all(int fd, const void* data, size_t n) {
  const char* p = static_cast<const char*>(data);
  while (n > 0) {
    const int planted = planted_write_error();
    const ssize_t written = planted ? (errno = planted, -1) : ::write(fd, p, n);
    if (written <= 0) return false;
    p += written;
    n -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

std::string Cache::default_directory() {
  if (const char* d = env(Env::cache_dir)) return d;
  if (const char* d = env(Env::xdg_cache_home); d && *d) return std::string(d) + "/quern";
  if (const char* d = env(Env::home); d && *d) return std::string(d) + "/.cache/quern";
  return "";
}

Cache::Cache(std::string directory) : directory_(std::move(directory)) {
  if (directory_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(directory_).parent_path(), error);
  if (::mkdir(directory_.c_str(), 0700) != 0 && errno != EEXIST) {
    notes_.push_back(fmt::format("cache off: cannot create {}: {}", directory_, std::strerror(errno)));
    return;
  }
  struct stat info {};
  if (::lstat(directory_.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) notes_.push_back(fmt::format("cache off: {} is not a directory", directory_));
  else if (info.st_uid != ::geteuid()) notes_.push_back(fmt::format("cache off: {} belongs to another user", directory_));
  else if (info.st_mode & 022) notes_.push_back(fmt::format("cache off: {} is writable by others; chmod 700 it", directory_));
  else usable_ = true;
}

std::string Cache::path_of(const std::string& key) const { return directory_ + "/" + hash_hex(key) + ".kernel"; }

std::optional<std::vector<uint8_t>> Cache::get(const std::string& key) {
  if (!usable_) return std::nullopt;
  std::vector<uint8_t> payload;
  const std::string file = path_of(key);
  switch (read_entry(file, hash_hex(key), payload)) {
    case ReadResult::good: return payload;
    case ReadResult::damaged:
      ::unlink(file.c_str());
      notes_.push_back(fmt::format("cache: the entry {} was damaged; it is compiled again", std::filesystem::path(file).filename().string()));
      break;
    case ReadResult::unreadable: notes_.push_back(fmt::format("cache: cannot read {}", file)); break;
    case ReadResult::absent: break;
  }
  return std::nullopt;
}

void Cache::put(const std::string& key, const std::vector<uint8_t>& payload) {
  if (!usable_) return;
  Head head;
  const std::string name = hash_hex(key), file = path_of(key);
  std::memcpy(head.key, name.data(), 32);
  head.bytes = payload.size();
  head.checksum = checksum_of(payload);
  std::string temporary = directory_ + "/.tmp-XXXXXX";
  const int fd = ::mkstemp(temporary.data());
  bool good = fd >= 0;
  good = good && write_all(fd, &head, sizeof head) && write_all(fd, payload.data(), payload.size()) && ::fsync(fd) == 0;
  if (fd >= 0) good = ::close(fd) == 0 && good;
  good = good && ::rename(temporary.c_str(), file.c_str()) == 0;
  if (good) return;
  notes_.push_back(fmt::format("cache off: cannot write to {}: {}", directory_, std::strerror(errno)));
  if (fd >= 0) ::unlink(temporary.c_str());
  usable_ = false;
}

std::vector<Cache::Entry> Cache::list() {
  std::vector<Entry> out;
  if (!usable_) return out;
  std::error_code error;
  for (const auto& e : std::filesystem::directory_iterator(directory_, error)) {
    if (e.path().extension() != ".kernel") continue;
    std::vector<uint8_t> payload;
    const ReadResult r = read_entry(e.path().string(), e.path().stem().string(), payload);
    out.push_back({e.path().string(), static_cast<int64_t>(std::filesystem::file_size(e.path(), error)), r == ReadResult::good});
  }
  return out;
}

int64_t Cache::clear() {
  int64_t removed = 0;
  for (const Entry& e : list()) removed += ::unlink(e.file.c_str()) == 0;
  return removed;
}

std::vector<std::string> Cache::take_notes() { return std::exchange(notes_, {}); }

}  // namespace quern
