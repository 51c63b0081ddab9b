// The built command (its path is in QUERN_BINARY) under a shell: exit status, and both outputs together. Death by a
// signal has the status that shells give it, 128 and more.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>
#include <sys/wait.h>

namespace quern::test {

struct Result {
  int status;
  std::string text;
};

inline Result shell(const std::string& command) {
  std::fflush(stdout);
  FILE* pipe = ::popen(("{ " + command + "; } 2>&1").c_str(), "r");
  Result r{127, ""};
  if (!pipe) return r;
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof block, pipe)) > 0;) r.text.append(block, n);
  const int status = ::pclose(pipe);
  r.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return r;
}

inline std::string binary() {
  const char* path = std::getenv("QUERN_BINARY");
  return path ? path : "build/quern";
}

/// `variables` are assignments before the command: "QUERN_THREADS=2 PATH=/nowhere".
inline Result quern(const std::string& arguments, const std::string& variables = "") {
  return shell("QUERN_CACHE_DIR='" + testing::TempDir() + "quern_cli_cache' " + variables + " " + binary() + " " + arguments);
}

inline void expect(const std::string& arguments, int status, const std::string& part, const std::string& variables = "") {
  const Result r = quern(arguments, variables);
  EXPECT_EQ(r.status, status) << variables << " quern " << arguments << "\n" << r.text;
  EXPECT_NE(r.text.find(part), std::string::npos) << variables << " quern " << arguments << "\n" << r.text;
}

}  // namespace quern::test
