// The table of codes and the plain spelling of errors; see check.h. The command line renders them in its own layout
// (tools/diagnostics.cpp).
#include "ir/support/check.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {

const std::vector<CodeInfo>& all_codes() {
  static const std::vector<CodeInfo> table = {
#define QN_CODE(number, kind, name, title, text) {Code::name, ErrorKind::kind, title, text},
#include "ir/support/error_codes.def"
#undef QN_CODE
  };
  return table;
}

const CodeInfo& info_of(Code code) {
  const auto& table = all_codes();
  return *std::find_if(table.begin(), table.end(), [&](const CodeInfo& i) { return i.code == code; });   // every Code has a row
}

std::string to_string(Code code) { return fmt::format("Q{:04}", static_cast<int>(code)); }

std::string to_string(const SourceLoc& loc) {
  return loc.column == 0 ? fmt::format("{}:{}", loc.file, loc.line) : fmt::format("{}:{}:{}", loc.file, loc.line, loc.column);
}

Error::Error(Code code, std::string text, SourceLoc place) : std::runtime_error(""), kind(info_of(code).kind), code(code), where(std::move(place)), message(std::move(text)) {
  if (code == Code::general_bug) help = "please report it with the model and the command line";
  spell();
}

Error& Error::with_operand(std::string label, std::string type, std::string what, SourceLoc made) {
  operands.push_back({std::move(label), std::move(type), std::move(what), std::move(made)});
  return spell();
}
Error& Error::with_note(std::string text) {
  notes.push_back(std::move(text));
  return spell();
}
Error& Error::with_help(std::string text) {
  help = std::move(text);
  return spell();
}

void Error::describe_operand(size_t i, const std::string& what, const SourceLoc& made) {
  if (i >= operands.size() || !operands[i].what.empty()) return;
  operands[i].what = what;
  operands[i].where = made;
  spell();
}

void Error::move_to(SourceLoc place) {
  if (where.line) notes.push_back("written at " + to_string(where));
  where = std::move(place);
  spell();
}

Error& Error::spell() {
  text_ = message;
  for (const ErrorOperand& o : operands) text_ += fmt::format("\n   {}: {}", o.label, o.type);
  for (const std::string& n : notes) text_ += "\n   = note: " + n;
  if (!help.empty()) text_ += "\nhelp: " + help;
  if (where.line) text_ += "\n  --> " + to_string(where);
  return *this;
}

void fail_check(const char* condition, const std::string& message, const char* file, int line) {
  std::string name = file;
  name = name.substr(name.find_last_of('/') + 1);
  throw Error(Code::general_bug, fmt::format("this is a bug in Quern: {} (check `{}` failed at {}:{})", message, condition, name, line));
}

}  // namespace quern
