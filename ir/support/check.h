// Errors and checks. `Error` is what a user can mend: it carries a stable code, the exit status of the
// command line, and, where there is one, the user's source line. `QN_CHECK` states an invariant of Quern
// itself; a failure is a bug in Quern and says so. Nothing else in the project throws.
#pragma once
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// What went wrong, as the command line's exit status tells it.
enum class ErrorKind { mismatch = 1, usage = 2, bad_file = 3, compile = 4, device = 5, memory = 6, internal = 7 };

/// Stable codes, see error_codes.def; the number is the value.
enum class Code : uint16_t {
#define QN_CODE(number, kind, name, title, text) name = number,
#include "ir/support/error_codes.def"
#undef QN_CODE
};
struct CodeInfo {
  Code code;
  ErrorKind kind;
  std::string_view title, text;
};
const std::vector<CodeInfo>& all_codes();   // by number
const CodeInfo& info_of(Code code);
std::string to_string(Code code);           // "Q0102"

/// A place in the user's program or file. `line` 0 means unknown, `column` 0 the whole line.
struct SourceLoc {
  std::string file;
  uint32_t line = 0;
  uint32_t column = 0;
  bool operator==(const SourceLoc&) const = default;
};
std::string to_string(const SourceLoc& loc);

/// One operand of the op that went wrong: "lhs", "f32[64,512]", and what it is and where it was made, as far as known.
struct ErrorOperand {
  std::string label, type, what;
  SourceLoc where;
};

/// An error that the user can mend. The message names shapes; `help` is one way out. Written
/// `throw Error(Code::shapes_differ, "…", where).with_operand("lhs", "f32[2]").with_help("…")`.
class Error : public std::runtime_error {
 public:
  Error(Code code, std::string message, SourceLoc where = {});
  Error& with_operand(std::string label, std::string type, std::string what = {}, SourceLoc made = {});
  Error& with_note(std::string text);
  Error& with_help(std::string text);
  /// Adds what operand i is and where it was made, unless that is known.
  void describe_operand(size_t i, const std::string& what, const SourceLoc& made);
  /// Moves the error to a place in a file; a place that was known becomes a note.
  void move_to(SourceLoc place);
  const char* what() const noexcept override { return text_.c_str(); }

  ErrorKind kind;
  Code code;
  SourceLoc where;
  std::string message;                  // one line or a few, without operands, notes and help
  std::vector<ErrorOperand> operands;
  std::vector<std::string> notes;
  std::string help;

 private:
  std::string text_;                    // everything, for what()
  Error& spell();
};

[[noreturn]] void fail_check(const char* condition, const std::string& message, const char* file, int line);

}  // namespace quern

#define QN_CHECK(condition, message) \
  do {                               \
    if (!(condition)) ::quern::fail_check(#condition, (message), __FILE__, __LINE__); \
  } while (false)
