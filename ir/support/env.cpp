// See env.h.
#include "ir/support/env.h"

#include <cstdlib>
#include <cstring>

#include "ir/support/suggest.h"

extern char** environ;

namespace quern {

const std::vector<EnvInfo>& all_variables() {
  static const std::vector<EnvInfo> table = {   // in the order of Env
      {Env::threads, "QUERN_THREADS", "CPU workers, 1 to 256; default: the number of cores"},
      {Env::cache_dir, "QUERN_CACHE_DIR", "where compiled kernels are kept; default: $XDG_CACHE_HOME/quern or ~/.cache/quern; empty: nowhere"},
      {Env::nvrtc, "QUERN_NVRTC", "the path of libnvrtc; no other place is searched then"},
      {Env::compiler, "QUERN_CC", "the path of quern-cc, which runs NVRTC; default: beside quern or libquern.so"},
      {Env::binary, "QUERN_BINARY", "tests only: the command to test"},
      {Env::cuda_home, "CUDA_HOME", "a CUDA toolkit to search for NVRTC, too"},
      {Env::xdg_cache_home, "XDG_CACHE_HOME", "parent of the cache folder"},
      {Env::home, "HOME", "parent of .cache"},
      {Env::tmpdir, "TMPDIR", "for the input of Graphviz; default: /tmp"},
      {Env::path, "PATH", "where Graphviz' dot is found"},
      {Env::fault, "QUERN_FAULT", "builds with tests only: a mistake to make on purpose"},
      {Env::test_device, "QUERN_TEST_DEVICE", "tests only: the device to test"},
      {Env::data, "QUERN_DATA", "tests only: the folder of data sets, onnx-node-tests among them; default: ../shared/data"},
  };
  return table;
}

const char* env(Env variable) { return std::getenv(all_variables()[static_cast<size_t>(variable)].name); }

std::vector<std::string> unknown_variables() {
  std::vector<std::string> known, out;
  for (const EnvInfo& v : all_variables()) known.push_back(v.name);
  for (char** e = environ; e && *e; ++e) {
    if (std::strncmp(*e, "QUERN_", 6) != 0) continue;
    const char* end = std::strchr(*e, '=');
    const std::string name(*e, end ? static_cast<size_t>(end - *e) : std::strlen(*e));
    bool found = false;
    for (const std::string& k : known) found = found || k == name;
    if (!found) out.push_back("the environment variable " + name + " has no meaning; " + suggestion(name, known, "`quern doctor` lists those that have one"));
  }
  return out;
}

}  // namespace quern
