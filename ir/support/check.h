// Errors and checks. `Error` is what a user can mend: it carries a stable code, the exit status of the
// command line, and, where there is one, the user's source line. `QN_CHECK` states an invariant of Quern
// itself; a failure is a bug in Quern and says so. Nothing else in the project throws.
#pragma once
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

namespace quern {

/// What went wrong, as the command line's exit status tells it.
enum class ErrorKind { mismatch = 1, usage = 2, bad_file = 3, compile = 4, device = 5, memory = 6, internal = 7 };

/// A place in the user's program. `line` 0 means unknown.
struct SourceLoc {
  std::string file;
  uint32_t line = 0;
  bool operator==(const SourceLoc&) const = default;
};
std::string to_string(const SourceLoc& loc);

/// An error that the user can mend. The message names shapes and one way out.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string message, SourceLoc where = {});
  ErrorKind kind;
  SourceLoc where;
};

[[noreturn]] void fail_check(const char* condition, const std::string& message, const char* file, int line);

}  // namespace quern

#define QN_CHECK(condition, message) \
  do {                               \
    if (!(condition)) ::quern::fail_check(#condition, (message), __FILE__, __LINE__); \
  } while (false)
