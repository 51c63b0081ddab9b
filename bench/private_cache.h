// A kernel cache of the benchmark's own.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#include "ir/support/env.h"
#include "ir/support/check.h"

namespace quern::bench {

/// QUERN_CACHE_DIR is an empty folder of our own for as long as this lives: the user's cache is neither used nor filled.
class PrivateCache {
 public:
  PrivateCache() {
    if (const char* old = env(Env::cache_dir)) old_ = old;
    std::string path = (std::filesystem::temp_directory_path() / "quern-bench-XXXXXX").string();
    if (!::mkdtemp(path.data())) throw Error(Code::cannot_write, path + ": cannot be made").with_help("set TMPDIR to a folder that can be written");
    path_ = path;
    ::setenv("QUERN_CACHE_DIR", path_.c_str(), 1);
  }
  ~PrivateCache() {
    if (old_) ::setenv("QUERN_CACHE_DIR", old_->c_str(), 1);
    else ::unsetenv("QUERN_CACHE_DIR");
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

 private:
  std::optional<std::string> old_;
  std::string path_;
};

}  // namespace quern::bench
