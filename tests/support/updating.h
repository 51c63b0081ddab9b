// Whether goldens are to be written anew: `--update` on the test's command line, or UPDATE=1.
#pragma once
#include <cstdlib>
#include <string>

#include <gtest/gtest.h>

namespace quern::test {

inline bool updating() {
  const char* variable = std::getenv("UPDATE");
  if (variable && *variable && std::string(variable) != "0") return true;
  for (const std::string& a : testing::internal::GetArgvs())
    if (a == "--update") return true;
  return false;
}

}  // namespace quern::test
