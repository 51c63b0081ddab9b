// Damaged files for `quern fuzz files` and the tests: each goes through the reader that the commands use, in a process of
// its own, and must load or be refused with a code and a way out, within its time and memory.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "ir/support/check.h"

namespace quern {

/// A kind of file. `read` does with it what a command would, and checks what it got: it throws Error where it refuses.
struct FileKind {
  std::string name;
  std::string file;                                        // its name, which readers may go by
  std::vector<std::string> seeds;                          // valid files
  std::function<void(const std::string& path)> read;
  std::function<void(std::string& bytes)> repair = {};     // makes checksums match again: behind them is more to test
  std::map<std::string, std::string> beside = {};          // other files that it needs in its folder
  bool protobuf = false;                                   // most damage keeps to its structure
};
/// All that Quern reads: onnx, safetensors, npy, npz, qir, qpk, plan, idx.
std::vector<FileKind> file_kinds();

struct FileFuzz {
  int64_t count = 1000, only = -1;                         // files; or the one of this number
  uint64_t seed = 1;
  std::string out = ".";                                   // where findings are kept
  int64_t slack = int64_t{64} << 20;                       // a file may take 4 times its size and so many bytes
};
struct FileFinding {
  int64_t index;
  std::string kind, what, file;
};
struct FileFuzzReport {
  struct Counts {
    int64_t files = 0, loaded = 0;
    std::map<Code, int64_t> refused;
  };
  std::map<std::string, Counts> kinds;
  std::vector<FileFinding> findings;                       // at most kMostFindings, then the campaign ends
  /// Throws Error(file_mishandled) where there are findings.
  void want_none() const;
};
constexpr size_t kMostFindings = 50;
constexpr int kFileSeconds = 2;                            // of CPU time for one file

/// File k is of kind k % kinds.size() and depends on the seed and k alone.
FileFuzzReport fuzz_files(const std::vector<FileKind>& kinds, const FileFuzz& options);

}  // namespace quern
