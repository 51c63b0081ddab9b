// A framework in a process of its own: python3 runs a script of bench/peers/, which reads one JSON value a line and answers
// each with one. It ends with this object.
#pragma once
#include <string>

#include <sys/types.h>

#include "tools/commands.h"

namespace quern::bench {

class Child {
 public:
  /// `seconds`: the longest that an answer may take. Throws Error(bad_file) or Error(device).
  explicit Child(std::string script, int seconds = 120);
  ~Child();
  Child(const Child&) = delete;

  /// Throws Error(device) with the peer's own words where it answers with an error, or ends.
  Json ask(const Json& request);

 private:
  std::string script_, buffer_;
  int seconds_, socket_ = -1;
  pid_t pid_ = 0;

  Error failed(const std::string& why) const;
};

}  // namespace quern::bench
