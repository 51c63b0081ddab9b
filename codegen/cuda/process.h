// NVRTC in processes of their own, several side by side: it ends its process where it finds no memory, and takes no notice
// of a second thread. Each runs `quern-cc` (tools/cc), which has no GPU, at most 4 GiB and no further privileges.
#pragma once
#include <string>
#include <vector>

#include <sys/types.h>

#include "codegen/cuda/nvrtc.h"
#include "ir/support/check.h"

namespace quern::cuda {

/// QUERN_CC, or `quern-cc` beside this program, beside libquern.so or in ../bin of that; "" where there is none.
std::string compiler_path();

class CompilerProcess {
 public:
  /// `seconds`: the longest that one source may take. Throws Error(compile) where the program does not start.
  explicit CompilerProcess(std::string path, int seconds = 120);
  ~CompilerProcess();
  CompilerProcess(const CompilerProcess&) = delete;

  /// As compile_here; and throws Error(compile) where the process ends, is silent or answers with something else. It is of no use then.
  Compiled compile(const std::string& source, const std::string& arch);

 private:
  std::string path_;
  int seconds_, socket_ = -1;
  pid_t pid_ = 0, owner_;   // a copy of this process has no say over the other

  Error failed(const std::string& why);
};

/// Answers requests on the socket until it closes: what `quern-cc` does. Returns its exit status.
int serve(int socket);

}  // namespace quern::cuda
