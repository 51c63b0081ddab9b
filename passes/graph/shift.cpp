// See shift.h.
#include "passes/graph/shift.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "ir/op.h"
#include "passes/graph/rebuild.h"

namespace quern {
namespace {

// How a value depends on r: v + shift * r, or v * exp(degree * r); one of them is 0. `place`: its dim for each of r's, -1 for those of one element.
struct Form {
  double shift = 0, degree = 0;
  std::vector<int64_t> place;
  bool constant() const { return shift == 0 && degree == 0; }
};

class Follower {
 public:
  Follower(const Graph& graph, NodeId r) : g_(graph), r_(r) {
    Form& own = forms_[r];
    own.shift = 1;
    for (int64_t d = 0; d < g_.type(r).rank(); ++d) own.place.push_back(g_.type(r).shape[static_cast<size_t>(d)] == 1 ? -1 : d);
  }

  bool run(const std::vector<NodeId>& outputs) {
    std::vector<char> needed(g_.nodes.size());
    for (NodeId o : outputs) needed[static_cast<size_t>(o)] = 1;
    for (size_t i = g_.nodes.size(); i-- > 0;)
      for (NodeId a : g_.nodes[i].args) needed[static_cast<size_t>(a)] |= needed[i];
    for (size_t i = static_cast<size_t>(r_) + 1; i < g_.nodes.size(); ++i) {
      const Node& n = g_.nodes[i];
      if (!needed[i] || std::none_of(n.args.begin(), n.args.end(), [&](NodeId a) { return forms_.count(a); })) continue;
      const std::optional<Form> form = form_of(n);
      if (!form) return false;
      if (!form->constant()) forms_[static_cast<NodeId>(i)] = *form;
    }
    return std::none_of(outputs.begin(), outputs.end(), [&](NodeId o) { return forms_.count(o); });
  }

 private:
  const Graph& g_;
  const NodeId r_;
  std::map<NodeId, Form> forms_;   // of what depends on r

  const Form* at(const Node& n, size_t arg) const {
    const auto it = forms_.find(n.args[arg]);
    return it == forms_.end() ? nullptr : &it->second;
  }
  // Where dims go: to[d] is the new place of dim d, or -1.
  static std::optional<Form> moved(Form form, const std::vector<int64_t>& to) {
    for (int64_t& p : form.place)
      if (p >= 0 && (p = to[static_cast<size_t>(p)]) < 0) return std::nullopt;
    return form;
  }
  static std::optional<Form> as(Form form, double shift, double degree) {
    form.shift = shift, form.degree = degree;
    return form;
  }

  std::optional<Form> form_of(const Node& n) const {
    const Form* x = at(n, 0);
    const Form* y = n.args.size() > 1 ? at(n, 1) : nullptr;
    if (x && y && x->place != y->place && n.op != Op::contract) return std::nullopt;
    const Form any = x ? *x : y ? *y
                                : Form{};
    const double xs = x ? x->shift : 0, xd = x ? x->degree : 0, ys = y ? y->shift : 0, yd = y ? y->degree : 0;
    switch (n.op) {
      case Op::cast: return is_float(n.type.dtype) ? std::optional(*x) : std::nullopt;
      case Op::neg: return as(any, -xs, xd);
      case Op::exp: return xd == 0 ? as(any, 0, xs) : std::nullopt;
      case Op::log: return xs == 0 ? as(any, xd, 0) : std::nullopt;
      case Op::add:
      case Op::sub:
        if (xd == 0 && yd == 0) return as(any, n.op == Op::add ? xs + ys : xs - ys, 0);
        return xd == yd && xs == 0 && ys == 0 ? std::optional(any) : std::nullopt;
      case Op::mul:
      case Op::div: {
        if (xs == 0 && ys == 0) return as(any, 0, n.op == Op::mul ? xd + yd : xd - yd);
        if (x && y) return std::nullopt;
        const std::optional<double> c = number_of(g_, n.args[x ? 1 : 0]);
        if (!c || (!x && n.op == Op::div)) return std::nullopt;
        return as(any, (xs + ys) * (n.op == Op::mul ? *c : 1 / *c), 0);
      }
      case Op::select: return chosen(n);
      case Op::reduce_sum: return xs == 0 ? reduced(n) : std::nullopt;
      case Op::reduce_max:
      case Op::reduce_min: return xd == 0 ? reduced(n) : std::nullopt;
      case Op::contract: return product(n);
      case Op::broadcast: return moved(*x, n.attrs.axes);
      case Op::transpose: {
        std::vector<int64_t> to(n.attrs.axes.size());
        for (size_t d = 0; d < to.size(); ++d) to[static_cast<size_t>(n.attrs.axes[d])] = static_cast<int64_t>(d);
        return moved(*x, to);
      }
      case Op::reshape: return reshaped(n);
      default: return std::nullopt;
    }
  }
  // A mask: where it leaves nothing, -inf stays what it is when r is added, and 0 when it is multiplied.
  std::optional<Form> chosen(const Node& n) const {
    if (at(n, 0)) return std::nullopt;
    const Form *a = at(n, 1), *b = at(n, 2);
    if (a && b) return a->shift == b->shift && a->degree == b->degree && a->place == b->place ? std::optional(*a) : std::nullopt;
    const Form& form = a ? *a : *b;
    const std::optional<double> other = number_of(g_, n.args[a ? 2 : 1]);
    return other && (form.degree == 0 ? std::isinf(*other) : *other == 0) ? std::optional(form) : std::nullopt;
  }
  std::optional<Form> reduced(const Node& n) const {
    std::vector<int64_t> to;
    for (int64_t d = 0, next = 0; d < g_.type(n.args[0]).rank(); ++d) to.push_back(std::count(n.attrs.axes.begin(), n.attrs.axes.end(), d) ? -1 : next++);
    return moved(*at(n, 0), to);
  }
  // Sums along rows: of one operand that r multiplies.
  std::optional<Form> product(const Node& n) const {
    if (at(n, 0) && at(n, 1)) return std::nullopt;
    const size_t side = at(n, 0) ? 0 : 1;
    if (at(n, side)->shift != 0) return std::nullopt;
    const ContractSpec spec = parse_contract(n.attrs.spec);
    std::vector<int64_t> to;
    for (char c : side == 0 ? spec.lhs : spec.rhs) {
      const size_t p = spec.out.find(c);
      to.push_back(p == std::string::npos ? -1 : static_cast<int64_t>(p));
    }
    return moved(*at(n, side), to);
  }
  // Dims of one element come and go.
  std::optional<Form> reshaped(const Node& n) const {
    const Shape &from = g_.type(n.args[0]).shape, &shape = n.type.shape;
    std::vector<int64_t> to(from.size(), -1);
    size_t next = 0;
    for (size_t d = 0; d < from.size(); ++d) {
      if (from[d] == 1) continue;
      while (next < shape.size() && shape[next] == 1) ++next;
      if (next == shape.size() || shape[next] != from[d]) return std::nullopt;
      to[d] = static_cast<int64_t>(next++);
    }
    return moved(*at(n, 0), to);
  }
};

}  // namespace

bool is_without_effect(const Graph& graph, NodeId r, const std::vector<NodeId>& outputs) { return Follower(graph, r).run(outputs); }

}  // namespace quern
