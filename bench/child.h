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

  /// Throws Error(device) with the peer's own words where it answers with an error, or ends. It is ended where it gives no answer in `seconds`, or in
  /// those of the constructor: what it would answer later is no answer to the next request.
  Json ask(const Json& request, double seconds = 1e9);
  bool ended() const { return ended_; }

 private:
  std::string script_, buffer_;
  int seconds_, socket_ = -1;
  bool ended_ = false;
  pid_t pid_ = 0;

  Error failed(const std::string& why) const;
  Error gone(const std::string& why);
};

}  // namespace quern::bench
