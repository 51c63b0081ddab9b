// The one reader of Quern's text forms: words, numbers, strings and punctuation, with line numbers in every error.
#pragma once
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "ir/dtype.h"
#include "ir/support/arith.h"

namespace quern {

class Reader {
 public:
  Reader(std::string_view text, std::string file) : text_(text), file_(std::move(file)) { skip(); }

  bool at_end() const { return pos_ == text_.size(); }
  bool peek(std::string_view token) const {
    if (text_.substr(pos_, token.size()) != token) return false;
    const size_t end = pos_ + token.size();   // a word must end where the token ends
    return !is_word(token.back()) || end == text_.size() || !is_word(text_[end]);
  }
  bool accept(std::string_view token) {
    if (!peek(token)) return false;
    last_ = pos_;
    pos_ += token.size();
    skip();
    return true;
  }
  void expect(std::string_view token) {
    if (!accept(token)) fail(fmt::format("expected `{}`", token));
  }
  std::string word() {
    const size_t start = pos_;
    while (pos_ < text_.size() && is_word(text_[pos_])) ++pos_;
    if (pos_ == start) fail("expected a name");
    std::string out(text_.substr(start, pos_ - start));
    last_ = start;
    skip();
    return out;
  }
  template <class T = int64_t>
  T integer() {
    T value = 0;
    const char* begin = text_.data() + pos_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (error != std::errc()) fail("expected an integer");
    last_ = pos_;
    pos_ += static_cast<size_t>(end - begin);
    skip();
    return value;
  }
  /// A decimal number, nan, inf or -inf.
  double number() {
    const size_t start = pos_;
    while (pos_ < text_.size() && (is_word(text_[pos_]) || text_[pos_] == '-' || text_[pos_] == '+' || text_[pos_] == '.')) ++pos_;
    const std::string token(text_.substr(start, pos_ - start));
    char* end = nullptr;
    const double value = std::strtod(token.c_str(), &end);
    if (token.empty() || *end) fail("expected a number");
    last_ = start;
    skip();
    return value;
  }
  /// The next character, 0 at the end.
  char next() const { return at_end() ? '\0' : text_[pos_]; }
  /// Everything before the next `stop` on this line.
  std::string until(char stop) {
    const size_t end = text_.find_first_of(std::string{stop, '\n'}, pos_);
    if (end == std::string_view::npos || text_[end] != stop) fail(fmt::format("expected `{}`", stop));
    std::string out(text_.substr(pos_, end - pos_));
    pos_ = end;
    return out;
  }
  std::string quoted() {
    if (pos_ >= text_.size() || text_[pos_] != '"') fail("expected a string in double quotes");
    std::string out;
    last_ = pos_;
    for (++pos_; pos_ < text_.size() && text_[pos_] != '"'; ++pos_) {
      if (text_[pos_] == '\n') fail("a string ends on its line");
      if (static_cast<unsigned char>(text_[pos_]) < 32) fail("a control character in a string");   // would not print
      if (text_[pos_] == '\\' && pos_ + 1 < text_.size()) {
        ++pos_;
        out += text_[pos_] == 'n' ? '\n' : text_[pos_];
      } else {
        out += text_[pos_];
      }
    }
    if (pos_ >= text_.size()) fail("a string without its closing quote");
    ++pos_;
    skip();
    return out;
  }
  DType dtype() {
    const std::string name = word();
    const auto d = parse_dtype(name);
    if (!d) fail(Code::unknown_word, fmt::format("`{}` is no dtype", name), "dtypes are f64, f32, bf16, f16, i64 to i8, u64 to u8, bool, and for storage f8e4m3, f8e5m2, i4 and u4");
    return *d;
  }
  /// "[" number,* "]"; where the symbol is a number, `n` and `2n` stand for it and its multiples.
  Shape integers(int64_t symbol = 0) {
    Shape out;
    expect("[");
    while (!accept("]")) {
      if (!out.empty()) expect(",");
      out.push_back(symbol && peek("n") ? 1 : integer());
      if (symbol && accept("n") && __builtin_mul_overflow(out.back(), symbol, &out.back())) fail(Code::text_limits, "a size overflows 64 bits", "use a smaller multiple");
      if (out.size() > 64) fail(Code::text_limits, "a list of more than 64 numbers", "attributes are lists of at most 8");
    }
    return out;
  }
  int depth() const { return depth_; }
  size_t position() const { return pos_; }   // of the next token
  SourceLoc place(size_t position) const {
    SourceLoc at{file_, 1, 1};
    for (size_t i = 0; i < position && i < text_.size(); ++i) {
      ++at.column;
      if (text_[i] == '\n') ++at.line, at.column = 1;
    }
    return at;
  }
  /// Syntax: the next token is not what is expected.
  [[noreturn]] void fail(const std::string& message) const { fail_at(pos_, Code::syntax, message, "`quern dump mlp` prints a graph in the text form"); }
  /// Meaning: the last token read cannot be used.
  [[noreturn]] void fail(Code code, const std::string& message, const std::string& help) const { fail_at(last_, code, message, help); }
  [[noreturn]] void fail_at(size_t position, Code code, const std::string& message, const std::string& help) const {
    Error e(code, message, place(position));
    e.kind = ErrorKind::bad_file;   // whatever the rule: here a text breaks it
    throw std::move(e.with_help(help));
  }
  /// Guards against deep nesting.
  struct Level {
    explicit Level(Reader& r) : reader(r) {
      if (++reader.depth_ > 32) reader.fail(Code::text_limits, "nested more than 32 deep", "flatten the bodies");
    }
    ~Level() { --reader.depth_; }
    Reader& reader;
  };

 private:
  std::string_view text_;
  std::string file_;
  size_t pos_ = 0, last_ = 0;   // the next token, the last one read
  int depth_ = 0;

  static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }
  // White space, and comments to the end of the line: from "# " anywhere, from "//" (a division in an index) on its own line.
  void skip() {
    while (pos_ < text_.size()) {
      if (std::isspace(static_cast<unsigned char>(text_[pos_]))) ++pos_;
      else if (text_.substr(pos_, 2) == "# " || (text_.substr(pos_, 2) == "//" && first_on_line())) while (pos_ < text_.size() && text_[pos_] != '\n') ++pos_;
      else return;
    }
  }
  bool first_on_line() const {
    size_t at = pos_;
    while (at > 0 && text_[at - 1] != '\n' && std::isspace(static_cast<unsigned char>(text_[at - 1]))) --at;
    return at == 0 || text_[at - 1] == '\n';
  }
};

/// A string in quotes, with ", \ and newlines escaped.
inline std::string quote(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') out += "\\n";
    else out += static_cast<unsigned char>(c) < 32 ? '?' : c;
  }
  return out + "\"";
}

/// A value that reads back bit-equal (NaNs as one NaN).
inline std::string number_text(const Scalar& value) {
  if (value.dtype == DType::u64) return fmt::format("{}", static_cast<uint64_t>(value.i));
  if (!is_float(value.dtype) && !is_f8(value.dtype)) return fmt::format("{}", value.i);
  const double number = value.as_double();
  return number != number ? "nan" : fmt::format("{}", number);
}
/// The value of a number read for a dtype; an integer must fit.
inline Scalar read_scalar(Reader& r, DType dtype) {
  if (is_float(dtype) || is_f8(dtype)) return Scalar::of(dtype, r.number());
  const int64_t value = dtype == DType::u64 ? static_cast<int64_t>(r.integer<uint64_t>()) : r.integer();
  const Scalar out = Scalar::of_int(dtype, value);
  if (out.i != value) r.fail(fmt::format("{} does not fit {}", value, name_of(dtype)));
  return out;
}

}  // namespace quern
