// Spelling of errors; see check.h.
#include "ir/support/check.h"

#include <fmt/format.h>

namespace quern {

std::string to_string(const SourceLoc& loc) { return fmt::format("{}:{}", loc.file, loc.line); }

static std::string spell(const std::string& message, const SourceLoc& where) {
  return where.line == 0 ? message : fmt::format("{}\n  --> {}", message, to_string(where));
}

Error::Error(ErrorKind kind, std::string message, SourceLoc where)
    : std::runtime_error(spell(message, where)), kind(kind), where(std::move(where)) {}

void fail_check(const char* condition, const std::string& message, const char* file, int line) {
  std::string name = file;
  name = name.substr(name.find_last_of('/') + 1);
  throw Error(ErrorKind::internal,
              fmt::format("this is a bug in Quern: {} (check `{}` failed at {}:{})", message, condition, name, line));
}

}  // namespace quern
