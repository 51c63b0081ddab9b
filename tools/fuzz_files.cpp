// The campaign of fuzz_files.h. A worker process writes each file before it reads it and says in shared memory how far
// it is; a worker that dies, is killed by its timer or meets what should not be leaves the file behind as a finding,
// and another goes on behind it. Memory is limited by the system, under the address sanitizer counted by its hooks.
#include "tools/fuzz_files.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "tools/mutate.h"

#if defined(__SANITIZE_ADDRESS__)
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, size_t), void (*)(const volatile void*));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void*);
#endif

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCodes = 1000;
constexpr int kFound = 100;   // a worker's exit status: `what` says it

// What worker and campaign share.
struct Shared {
  std::atomic<int64_t> at;                    // the file under test
  std::array<std::atomic<int64_t>, 64> files, loaded;
  std::array<std::array<std::atomic<int64_t>, kCodes>, 64> refused;
  char what[500];
};
Shared* shared = nullptr;

[[noreturn]] void found(const std::string& what) {
  std::snprintf(shared->what, sizeof shared->what, "%s", what.c_str());
  ::_exit(kFound);
}

#if defined(__SANITIZE_ADDRESS__)
std::atomic<int64_t> live, peak;
void on_malloc(const volatile void*, size_t size) {
  const int64_t now = live += static_cast<int64_t>(size);
  if (now > peak) peak = now;
  if (now > int64_t{4} << 30) {
    std::strcpy(shared->what, "takes more than 4 GiB");
    ::_exit(kFound);
  }
}
void on_free(const volatile void* p) {
  if (p) live -= static_cast<int64_t>(__sanitizer_get_allocated_size(p));
}
// Calls f; true where it held more than `limit` bytes at once.
template <class F>
bool exceeds(int64_t limit, F&& f) {
  const int64_t before = live;
  peak = before;
  f();
  return peak - before > limit;
}
#else
void limit_data(rlim_t bytes) {
  rlimit limit{};
  ::getrlimit(RLIMIT_DATA, &limit);
  limit.rlim_cur = std::min(bytes, limit.rlim_max);
  ::setrlimit(RLIMIT_DATA, &limit);
}
int64_t data_bytes() {
  long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%*d %*d %*d %*d %*d %ld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages * ::sysconf(_SC_PAGESIZE);
}
// Calls f; true where the system refused it memory past `limit` bytes more than before.
template <class F>
bool exceeds(int64_t limit, F&& f) {
  bool refused = false;
  limit_data(static_cast<rlim_t>(data_bytes() + limit));
  try {
    f();
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  limit_data(RLIM_INFINITY);
  return refused;
}
#endif

void set_timer(int seconds) {   // CPU time kills, and so does a wait without end
  const itimerval cpu{{}, {seconds, 0}}, wall{{}, {30 * seconds, 0}};
  ::setitimer(ITIMER_PROF, &cpu, nullptr);
  ::setitimer(ITIMER_REAL, &wall, nullptr);
}

void write_file(const std::string& path, const std::string& bytes) {
  ::unlink(path.c_str());   // some file systems write at once what is truncated
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  if (!out) throw Error(Code::cannot_write, fmt::format("{}: cannot be written", path)).with_help("make room in the folder for temporary files, or set TMPDIR");
}

std::string file_of(const FileKind& kind, uint64_t seed, int64_t k) {
  std::seed_seq mix{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(k), static_cast<uint32_t>(k >> 32)};
  std::mt19937_64 random(mix);
  std::string bytes = kind.protobuf && random() % 4 ? mutated_protobuf(kind.seeds, random) : mutated(kind.seeds, random);
  if (kind.repair && random() % 4) kind.repair(bytes);
  return bytes;
}

void try_file(const FileKind& kind, size_t number, const std::string& path, int64_t limit) {
  bool loaded = false;
  Code code{};
  const bool exceeded = exceeds(limit, [&] {
    try {
      kind.read(path);
      loaded = true;
    } catch (const Error& e) {
      if (e.kind == ErrorKind::internal || e.kind == ErrorKind::mismatch) found(fmt::format("{}: {}", to_string(e.code), e.message));
      if (e.help.empty()) found(fmt::format("{} without a way out: {}", to_string(e.code), e.message));
      code = e.code;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& e) {
      found(fmt::format("an exception that is no Error: {}", e.what()));
    }
  });
  if (exceeded) found(fmt::format("takes more than {} bytes of memory", limit));
  ++shared->files[number];
  if (loaded) ++shared->loaded[number];
  else ++shared->refused[number][static_cast<size_t>(code)];
}

[[noreturn]] void work(const std::vector<FileKind>& kinds, const FileFuzz& o, int64_t from, int64_t to, const std::string& folder) {
  for (int signal : {SIGPROF, SIGALRM, SIGSEGV, SIGABRT}) ::signal(signal, SIG_DFL);
#if defined(__SANITIZE_ADDRESS__)
  if (__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) == 0) found("the sanitizer takes no hooks");
#endif
  try {
    for (int64_t k = from; k < to; ++k) {
      shared->at = k;
      const size_t number = static_cast<size_t>(k) % kinds.size();
      const FileKind& kind = kinds[number];
      const std::string bytes = file_of(kind, o.seed, k), path = fmt::format("{}/{}/{}", folder, kind.name, kind.file);
      write_file(path, bytes);
      set_timer(kFileSeconds);
      try_file(kind, number, path, 4 * static_cast<int64_t>(bytes.size()) + o.slack);
      set_timer(0);
    }
  } catch (const std::exception& e) {
    found(e.what());
  }
  ::_exit(0);
}

std::string reason_of(int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == kFound) return shared->what;
  if (WIFEXITED(status)) return fmt::format("its reader ended the process with status {}", WEXITSTATUS(status));
  if (WTERMSIG(status) == SIGPROF) return fmt::format("takes more than {} seconds", kFileSeconds);
  if (WTERMSIG(status) == SIGALRM) return "waits without end";
  return fmt::format("kills its reader: {}", ::strsignal(WTERMSIG(status)));
}

struct Scratch {   // a folder and the memory shared with workers, for the time of a campaign
  std::string folder = (fs::temp_directory_path() / fmt::format("quern-fuzz-{}", ::getpid())).string();
  Scratch() {
    void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw Error(Code::system_refuses, "the system refuses memory shared with a process").with_help("free some memory");
    shared = new (memory) Shared{};
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    ::munmap(shared, sizeof(Shared));
  }
};

}  // namespace

FileFuzzReport fuzz_files(const std::vector<FileKind>& kinds, const FileFuzz& o) {
  QN_CHECK(!kinds.empty() && kinds.size() <= 64, "1 to 64 kinds");
  Scratch scratch;
  for (const FileKind& kind : kinds) {
    std::error_code error;
    fs::create_directories(fs::path(scratch.folder) / kind.name, error);
    if (error) throw Error(Code::cannot_write, fmt::format("{}: {}", scratch.folder, error.message())).with_help("set TMPDIR to a folder that can be written");
    for (const auto& [name, bytes] : kind.beside) write_file(fmt::format("{}/{}/{}", scratch.folder, kind.name, name), bytes);
  }
  FileFuzzReport out;
  const int64_t end = o.only >= 0 ? o.only + 1 : o.count;
  for (int64_t next = std::max<int64_t>(o.only, 0); next < end && out.findings.size() < kMostFindings;) {
    std::fflush(nullptr);
    const pid_t worker = ::fork();
    if (worker < 0) throw Error(Code::system_refuses, "the system refuses a process").with_help("end some others");
    if (worker == 0) work(kinds, o, next, end, scratch.folder);
    int status = 0;
    while (::waitpid(worker, &status, 0) < 0 && errno == EINTR) {}
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    const int64_t k = shared->at;
    const FileKind& kind = kinds[static_cast<size_t>(k) % kinds.size()];
    const std::string kept = fmt::format("{}/fuzz-{}-{}-{}", o.out, o.seed, k, kind.file);
    std::error_code error;
    fs::copy_file(fmt::format("{}/{}/{}", scratch.folder, kind.name, kind.file), kept, fs::copy_options::overwrite_existing, error);
    out.findings.push_back({k, kind.name, reason_of(status), error ? "" : kept});
    ++shared->files[static_cast<size_t>(k) % kinds.size()];
    next = k + 1;
  }
  for (size_t i = 0; i < kinds.size(); ++i) {
    FileFuzzReport::Counts& c = out.kinds[kinds[i].name];
    c.files = shared->files[i], c.loaded = shared->loaded[i];
    for (size_t code = 0; code < kCodes; ++code)
      if (const int64_t n = shared->refused[i][code]) c.refused[static_cast<Code>(code)] = n;
  }
  return out;
}

void FileFuzzReport::want_none() const {
  if (!findings.empty()) throw Error(Code::file_mishandled, fmt::format("{} damaged files are mishandled", findings.size())).with_help("--only N makes one again; the files are kept in --out");
}

}  // namespace quern
