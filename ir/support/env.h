// The environment: the one table of variables that Quern reads and the one place that reads them.
#pragma once
#include <string>
#include <vector>

namespace quern {

enum class Env { threads, cache_dir, nvrtc, compiler, binary, cuda_home, xdg_cache_home, home, tmpdir, path, fault, test_device, data };
struct EnvInfo {
  Env variable;
  const char *name, *doc;
};
const std::vector<EnvInfo>& all_variables();
/// The variable's value, or null where it is not set.
const char* env(Env variable);
/// A warning for every QUERN_* variable that is not in the table, with the name that may have been meant.
std::vector<std::string> unknown_variables();

}  // namespace quern
