// Building and simplifying index expressions; see index.h. Sums are kept as left-deep lists of terms with one
// constant last; // and % pull out the terms that are multiples of the divisor.
#include "ir/index.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {

Index Index::make(Kind kind, int64_t value, int64_t low, int64_t high, const Index* left, const Index* right) {
  return Index(std::make_shared<const Node>(
      Node{kind, value, low, high, left ? left->node_ : nullptr, right ? right->node_ : nullptr}));
}

Index::Index(int64_t value) : Index(make(Kind::constant, value, value, value)) {}

Index Index::axis(int id, int64_t extent) {
  if (extent == 1) return Index(0);
  return make(Kind::axis, id, 0, std::max<int64_t>(extent - 1, 0));
}

namespace {

struct Term {
  Index atom;      // not an add, a mul or a constant
  int64_t factor;
};
struct Sum {
  std::vector<Term> terms;
  int64_t constant = 0;
};

void gather(const Index& e, int64_t factor, Sum& out) {
  switch (e.kind()) {
    case Index::Kind::constant: out.constant += e.value() * factor; return;
    case Index::Kind::add: gather(e.left(), factor, out); gather(e.right(), factor, out); return;
    case Index::Kind::mul: gather(e.left(), factor * e.value(), out); return;
    default: break;
  }
  for (Term& t : out.terms)
    if (t.atom == e) {
      t.factor += factor;
      return;
    }
  out.terms.push_back({e, factor});
}

// x//d*d + x%d = x, with any common factor.
void merge_div_mod(Sum& s) {
  for (size_t i = 0; i < s.terms.size(); ++i)
    for (size_t j = 0; j < s.terms.size(); ++j) {
      const Term &a = s.terms[i], &b = s.terms[j];
      if (a.atom.kind() != Index::Kind::div || b.atom.kind() != Index::Kind::mod) continue;
      if (a.atom.value() != b.atom.value() || a.factor != b.factor * b.atom.value()) continue;
      if (!(a.atom.left() == b.atom.left())) continue;
      const Index whole = a.atom.left();
      const int64_t factor = b.factor;
      s.terms.erase(s.terms.begin() + std::max(i, j));
      s.terms.erase(s.terms.begin() + std::min(i, j));
      gather(whole, factor, s);
      return merge_div_mod(s);
    }
}

}  // namespace

struct IndexBuilder {
  static Index scaled(const Index& atom, int64_t factor) {
    if (factor == 1) return atom;
    const int64_t a = atom.low() * factor, b = atom.high() * factor;
    return Index::make(Index::Kind::mul, factor, std::min(a, b), std::max(a, b), &atom);
  }
  static Index add(const Index& a, const Index& b) {
    return Index::make(Index::Kind::add, 0, a.low() + b.low(), a.high() + b.high(), &a, &b);
  }
  static Index divided(Index::Kind kind, const Index& a, int64_t divisor) {
    const bool div = kind == Index::Kind::div;
    return Index::make(kind, divisor, div ? floor_div(a.low(), divisor) : 0, div ? floor_div(a.high(), divisor) : divisor - 1, &a);
  }
  static Index build(Sum s) {
    std::erase_if(s.terms, [](const Term& t) { return t.factor == 0; });
    merge_div_mod(s);
    std::erase_if(s.terms, [](const Term& t) { return t.factor == 0; });
    if (s.terms.empty()) return Index(s.constant);
    Index out = scaled(s.terms[0].atom, s.terms[0].factor);
    for (size_t i = 1; i < s.terms.size(); ++i) out = add(out, scaled(s.terms[i].atom, s.terms[i].factor));
    return s.constant == 0 ? out : add(out, Index(s.constant));
  }
};

Index operator+(const Index& a, const Index& b) {
  Sum s;
  gather(a, 1, s);
  gather(b, 1, s);
  return IndexBuilder::build(std::move(s));
}

Index operator*(const Index& a, int64_t factor) {
  Sum s;
  gather(a, factor, s);
  return IndexBuilder::build(std::move(s));
}

// a = divisor*whole + rest, where rest holds the terms that are no multiples of the divisor.
static void split(const Index& a, int64_t divisor, Index& whole, Index& rest) {
  Sum s, w, r;
  gather(a, 1, s);
  for (const Term& t : s.terms) {
    Sum& side = t.factor % divisor == 0 ? w : r;
    side.terms.push_back({t.atom, t.factor % divisor == 0 ? t.factor / divisor : t.factor});
  }
  w.constant = floor_div(s.constant, divisor);
  r.constant = floor_mod(s.constant, divisor);
  whole = IndexBuilder::build(std::move(w));
  rest = IndexBuilder::build(std::move(r));
}

Index floor_div(const Index& a, int64_t divisor) {
  QN_CHECK(divisor > 0, "index divisors are positive");
  if (divisor == 1) return a;
  Index whole, rest;
  split(a, divisor, whole, rest);
  const int64_t low = floor_div(rest.low(), divisor);
  if (low == floor_div(rest.high(), divisor)) return whole + Index(low);
  if (rest.kind() == Index::Kind::div) return whole + floor_div(rest.left(), checked_mul(rest.value(), divisor));
  return whole + IndexBuilder::divided(Index::Kind::div, rest, divisor);
}

Index floor_mod(const Index& a, int64_t divisor) {
  QN_CHECK(divisor > 0, "index divisors are positive");
  if (divisor == 1) return Index(0);
  Index whole, rest;
  split(a, divisor, whole, rest);
  const int64_t low = floor_div(rest.low(), divisor);
  if (low == floor_div(rest.high(), divisor)) return rest + Index(-low * divisor);
  if (rest.kind() == Index::Kind::mod && rest.value() % divisor == 0) return floor_mod(rest.left(), divisor);
  return IndexBuilder::divided(Index::Kind::mod, rest, divisor);
}

int64_t Index::evaluate(const std::function<int64_t(int)>& axis_value) const {
  switch (kind()) {
    case Kind::constant: return value();
    case Kind::axis: return axis_value(static_cast<int>(value()));
    case Kind::add: return left().evaluate(axis_value) + right().evaluate(axis_value);
    case Kind::mul: return left().evaluate(axis_value) * value();
    case Kind::div: return quern::floor_div(left().evaluate(axis_value), value());
    case Kind::mod: return quern::floor_mod(left().evaluate(axis_value), value());
  }
  return 0;
}

Index Index::substitute(const std::function<Index(int, int64_t)>& replacement) const {
  switch (kind()) {
    case Kind::constant: return *this;
    case Kind::axis: return replacement(static_cast<int>(value()), high() + 1);
    case Kind::add: return left().substitute(replacement) + right().substitute(replacement);
    case Kind::mul: return left().substitute(replacement) * value();
    case Kind::div: return floor_div(left().substitute(replacement), value());
    case Kind::mod: return floor_mod(left().substitute(replacement), value());
  }
  return *this;
}

void Index::collect_axes(std::set<int>& out) const {
  if (kind() == Kind::axis) out.insert(static_cast<int>(value()));
  if (node_->left) left().collect_axes(out);
  if (node_->right) right().collect_axes(out);
}

bool Index::uses(int axis) const {
  if (kind() == Kind::axis) return value() == axis;
  return (node_->left && left().uses(axis)) || (node_->right && right().uses(axis));
}

std::optional<int64_t> Index::stride(int axis) const {
  switch (kind()) {
    case Kind::constant: return 0;
    case Kind::axis: return value() == axis ? 1 : 0;
    case Kind::add: {
      const auto a = left().stride(axis), b = right().stride(axis);
      if (!a || !b) return std::nullopt;
      return *a + *b;
    }
    case Kind::mul: {
      const auto a = left().stride(axis);
      if (!a) return std::nullopt;
      return *a * value();
    }
    default: return uses(axis) ? std::nullopt : std::optional<int64_t>(0);
  }
}

std::string Index::text(const std::function<std::string(int)>& name) const {
  switch (kind()) {
    case Kind::constant: return fmt::format("{}", value());
    case Kind::axis: return name(static_cast<int>(value()));
    case Kind::add: {
      const Index b = right();
      if (b.is_constant() && b.value() < 0) return fmt::format("{} - {}", left().text(name), -b.value());
      return fmt::format("{} + {}", left().text(name), b.text(name));
    }
    default: break;
  }
  std::string inner = left().text(name);
  if (left().kind() == Kind::add) inner = fmt::format("({})", inner);
  return fmt::format("{}{}{}", inner, kind() == Kind::mul ? "*" : kind() == Kind::div ? "//" : "%", value());
}

bool Index::operator==(const Index& other) const {
  if (node_ == other.node_) return true;
  if (kind() != other.kind() || value() != other.value()) return false;
  if ((node_->left == nullptr) != (other.node_->left == nullptr)) return false;
  if (node_->left && !(left() == other.left())) return false;
  return !node_->right || right() == other.right();
}

Index flatten(std::span<const Index> index, std::span<const int64_t> shape) {
  const Shape strides = row_major(shape);
  Index out;
  for (size_t d = 0; d < index.size(); ++d) out = out + index[d] * strides[d];
  return out;
}

std::vector<Index> unflatten(const Index& position, std::span<const int64_t> shape) {
  const Shape strides = row_major(shape);
  std::vector<Index> out;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] == 0 || strides[d] == 0) out.emplace_back(0);
    else out.push_back(d == 0 ? floor_div(position, strides[d]) : floor_mod(floor_div(position, strides[d]), shape[d]));
  }
  return out;
}

}  // namespace quern
