// See einsum.h.
#include "frontend/einsum.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "frontend/shape.h"
#include "ir/symbol.h"

namespace quern {
namespace {

struct Term {
  Tensor x;
  std::string letters;   // of its axes
};

// A letter that repeats: both axes to the end, then their diagonal.
void take_diagonals(Term& t) {
  for (;;) {
    size_t d = 0;
    while (d < t.letters.size() && t.letters.find(t.letters[d], d + 1) == std::string::npos) ++d;
    if (d == t.letters.size()) return;
    const char letter = t.letters[d];
    const size_t again = t.letters.find(letter, d + 1);
    t.x = diagonal(move_axis(move_axis(t.x, static_cast<int64_t>(again), -1), static_cast<int64_t>(d), -2));
    t.letters.erase(again, 1);
    t.letters.erase(d, 1);
    t.letters += letter;
  }
}
// Letters that nobody else wants are summed.
void sum_lonely(Term& t, const std::string& wanted) {
  Shape axes;
  std::string rest;
  for (size_t d = 0; d < t.letters.size(); ++d)
    if (wanted.find(t.letters[d]) == std::string::npos) axes.push_back(static_cast<int64_t>(d));
    else rest += t.letters[d];
  if (!axes.empty()) t = {sum(t.x, axes), rest};
}

}  // namespace

Tensor einsum(const std::string& spec, const std::vector<Tensor>& operands, Where where) {
  const Composed line(where);
  if (operands.empty()) throw error_at(Code::argument_count, "einsum: wants at least one tensor", where).with_help("einsum(\"ij->ji\", {x})");
  want_tensors("einsum", operands, where);
  const auto fail = [&](Code code, const std::string& what, const std::string& help) {
    std::vector<std::pair<const char*, Tensor>> shown;
    for (size_t i = 0; i < operands.size(); ++i) shown.push_back({i == 0 ? "lhs" : i == 1 && operands.size() == 2 ? "rhs" : "operand", operands[i]});
    throw error_at(code, fmt::format("einsum \"{}\": {}", spec, what), where, shown).with_help(help);
  };
  std::string text = spec;
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  const std::string left = text.substr(0, arrow);
  std::string out = arrow == std::string::npos ? "" : text.substr(arrow + 2);
  std::vector<Term> terms(1);
  for (char c : left) {
    if (c == ',') terms.emplace_back();
    else if (c >= 'a' && c <= 'z') terms.back().letters += c;
    else fail(Code::contract_spec, fmt::format("`{}` is no letter from a to z", c), "ij,jk->ik, say");
  }
  if (terms.size() != operands.size()) fail(Code::argument_count, fmt::format("{} terms for {} operands", terms.size(), operands.size()), "one term for every operand, with commas between");
  if (arrow == std::string::npos)
    for (char c = 'a'; c <= 'z'; ++c)
      if (std::count(left.begin(), left.end(), c) == 1) out += c;
  for (size_t i = 0; i < out.size(); ++i)
    if (left.find(out[i]) == std::string::npos || out[i] == ',' || out.find(out[i], i + 1) != std::string::npos)
      fail(Code::contract_spec, fmt::format("`{}` of the output is in no operand, or there twice", out[i]), "every letter of the output names one axis of the operands");
  std::map<char, int64_t> extents;
  for (size_t i = 0; i < terms.size(); ++i) {
    Term& t = terms[i];
    t.x = operands[i];
    if (static_cast<int64_t>(t.letters.size()) != t.x.rank()) fail(Code::bad_rank, fmt::format("\"{}\" for {}", t.letters, to_string(t.x.type())), "a letter for every axis");
    for (size_t d = 0; d < t.letters.size(); ++d) {
      const int64_t n = t.x.shape()[d], known = extents.emplace(t.letters[d], n).first->second;
      if (n != known) fail(Code::inner_dims, fmt::format("`{}` is {} and {}", t.letters[d], extent_text(known), extent_text(n)), "axes of one letter have one extent");
    }
    take_diagonals(t);
  }
  Term total = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) {
    std::string later = out, kept;
    for (size_t j = i + 1; j < terms.size(); ++j) later += terms[j].letters;
    sum_lonely(total, later + terms[i].letters);
    sum_lonely(terms[i], later + total.letters);
    for (char l : total.letters + terms[i].letters)
      if (later.find(l) != std::string::npos && kept.find(l) == std::string::npos) kept += l;
    total = {contract(fmt::format("{},{}->{}", total.letters, terms[i].letters, kept), total.x, terms[i].x), kept};
  }
  sum_lonely(total, out);
  Shape order;
  for (char l : out) order.push_back(static_cast<int64_t>(total.letters.find(l)));
  return std::is_sorted(order.begin(), order.end()) ? total.x : transpose(total.x, order);
}

}  // namespace quern
