// See diagnostics.h. The human layout:
//
//   error[Q0102]: matmul: inner dimensions differ: 512 (lhs dim 1) vs 500 (rhs dim 0)
//     --> models/mlp.h:41
//      |
//   41 |   auto h = matmul(x, w1);
//      |            ^^^^^^ lhs: f32[64,512]   (input "x", models/mlp.h:33)
//      |                   rhs: f32[500,256]  (input "w1", models/mlp.h:37)
//      = note: matmul contracts the last axis of lhs with the second-to-last of rhs
//   help: did you mean the shape {512, 256} for input "w1"?
//      = explain: quern explain Q0102
#include "tools/diagnostics.h"

#include <algorithm>
#include <fstream>

#include <sys/stat.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "ir/support/suggest.h"

namespace quern {
namespace {

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// The line of the user's file, or "". A place with a column is in a file that the user named; one without comes from a
// graph, which may be anyone's: only a plain relative path is opened then.
std::string source_line(const SourceLoc& where) {
  if (where.column == 0 && (where.file.empty() || where.file[0] == '/' || where.file.find("..") != std::string::npos)) return "";
  struct stat info {};
  if (::stat(where.file.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > (16 << 20)) return "";
  std::ifstream in(where.file);
  std::string line;
  for (uint32_t n = 0; n < where.line; ++n)
    if (!std::getline(in, line)) return "";
  const bool text = std::all_of(line.begin(), line.end(), [](unsigned char c) { return c >= 32 || c == '\t' || c == '\r'; });
  if (!text || line.size() > 300) return "";
  std::replace(line.begin(), line.end(), '\t', ' ');   // keeps columns
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

std::string human(const Error& e) {
  std::string out = fmt::format("error[{}]: {}\n", to_string(e.code), e.message);
  std::string gutter = "   ";
  std::vector<std::string> rows;
  size_t width = 0, labels = 0;
  for (const ErrorOperand& o : e.operands) width = std::max(width, o.type.size()), labels = std::max(labels, o.label.size());
  for (const ErrorOperand& o : e.operands) {
    const std::string made = o.where.line ? to_string(o.where) : "";
    rows.push_back(fmt::format("{:<{}}: {}", o.label, labels, o.type));
    if (!o.what.empty() || !made.empty()) rows.back() += fmt::format("{:<{}}  ({}{}{})", "", width - o.type.size(), o.what, o.what.empty() || made.empty() ? "" : ", ", made);
  }
  if (e.where.line) {
    const std::string number = fmt::format("{}", e.where.line);
    gutter = std::string(number.size() + 1, ' ');
    out += fmt::format("{}--> {}\n", std::string(number.size(), ' '), to_string(e.where));
    const std::string line = source_line(e.where);
    if (!line.empty()) {
      // The mark: at the column, or under the op's name where the line has it once.
      size_t start = std::string::npos, length = 1;
      if (e.where.column) {
        start = e.where.column - 1;
      } else if (const std::string name = e.message.substr(0, e.message.find(':')); name.find(' ') == std::string::npos && line.find(name) != std::string::npos && line.find(name) == line.rfind(name)) {
        start = line.find(name);
        length = name.size();
      }
      out += fmt::format("{}|\n{} | {}\n", gutter, number, line);
      if (start <= line.size()) {
        const std::string mark = std::string(start, ' ') + std::string(length, '^');
        out += fmt::format("{}| {}{}{}\n", gutter, mark, rows.empty() ? "" : " ", rows.empty() ? "" : rows[0]);
        for (size_t r = 1; r < rows.size(); ++r) out += fmt::format("{}| {} {}\n", gutter, std::string(mark.size(), ' '), rows[r]);
        rows.clear();
      }
    }
  }
  for (const std::string& row : rows) out += fmt::format("{}| {}\n", gutter, row);
  for (const std::string& n : e.notes) out += fmt::format("{}= note: {}\n", gutter, n);
  if (!e.help.empty()) out += fmt::format("help: {}\n", e.help);
  return visible(out + fmt::format("{}= explain: quern explain {}\n", gutter, to_string(e.code)));
}

std::string json(const Error& e) {
  using Json = nlohmann::ordered_json;
  static constexpr const char* kKinds[] = {"", "mismatch", "usage", "bad_file", "compile", "device", "memory", "internal"};
  const auto place = [](Json& out, const SourceLoc& where) {
    if (where.line == 0) return;
    out["file"] = where.file;
    out["line"] = where.line;
    if (where.column) out["column"] = where.column;
  };
  Json out = {{"schema", 1}, {"code", to_string(e.code)}, {"kind", kKinds[static_cast<int>(e.kind)]}, {"exit", static_cast<int>(e.kind)}, {"message", e.message}};
  place(out, e.where);
  out["operands"] = Json::array();
  for (const ErrorOperand& o : e.operands) {
    Json operand = {{"label", o.label}, {"type", o.type}, {"what", o.what}};
    place(operand, o.where);
    out["operands"].push_back(operand);
  }
  out["notes"] = e.notes;
  out["help"] = e.help;
  return out.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

ErrorFormat parse_error_format(const std::string& name) {
  if (name == "human") return ErrorFormat::human;
  if (name == "short") return ErrorFormat::short_;
  if (name == "json") return ErrorFormat::json;
  throw Error(Code::bad_value, "--error-format " + name + ": wants human, short or json").with_help(suggestion(name, {"human", "short", "json"}, "human is the default"));
}

std::string visible(const std::string& text) {
  std::string out;
  for (char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if ((u < 32 && c != '\n') || u == 127) out += fmt::format("\\x{:02x}", u);
    else out += c;
  }
  return out;
}

std::string render(const Error& e, ErrorFormat format) {
  if (format == ErrorFormat::json) return json(e);
  if (format == ErrorFormat::human) return human(e);
  return visible(fmt::format("{}error[{}]: {}", e.where.line ? to_string(e.where) + ": " : "", to_string(e.code), first_line(e.message))) + "\n";
}

}  // namespace quern
