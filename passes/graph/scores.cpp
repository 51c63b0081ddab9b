// scores: exponentials over their row's sum are exponentials less its logarithm: exp(x - r) / l = exp(x - (r + log l)) where l is the
// sum of exp(x - r). Then one number of a row is all that other kernels want of its sum (recompute.h), and the gradient reads that.
//   before: %4 = exp (sub %x, %r);  %5 = reduce_sum %4;  %6 = div %4, %5 …   %9 = mul (add (div %g, %5), (div %d, %5)), %4 …
//   after:  %5 = add %r, (log (reduce_sum (exp (sub %x, %r))));  %6 = exp (sub %x, %5) …   %9 = mul (add %g, %d), %6 …
// Were r another one, exponential and sum would grow by one factor: degree 1. Where all that is made of them ends in degree 0,
// r may be r + log l, and the sum 1. Rows that a kernel hands on, and what is made of the scores, are f32 till products
// read them. It changes roundings: done under Fp::fast, for sums of which several products want the weights, on targets that
// compute them in each (roles_nested.h).
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "ir/op.h"
#include "passes/graph/rebuild.h"
#include "passes/graph/recompute.h"
#include "passes/pass.h"

namespace quern {
namespace {

bool is_short(const Type& type) { return type.dtype == DType::bf16 || type.dtype == DType::f16; }
Shape without_ones(Shape shape) {
  std::erase(shape, 1);
  return shape;
}

class Scores {
 public:
  Scores(const Graph& graph, PassContext& context) : g_(graph), context_(context), nested_(recomputed_nodes(graph)) {}

  Graph run() {
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      if (nested_[i] && g_.nodes[i].op == Op::exp) find(static_cast<NodeId>(i));
    if (shifts_.empty()) return g_;
    std::vector<char> of_scores(nested_);
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      for (NodeId a : g_.nodes[i].args) of_scores[i] = of_scores[i] || of_scores[static_cast<size_t>(a)];
    for (const auto& [e, s] : shifts_) follow(at(s.spread).args[0], of_scores);
    b_.symbol(g_.symbol);
    narrow_.assign(g_.nodes.size(), -1);
    wide_.assign(g_.nodes.size(), -1);
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      if (!nested_[i] && !one_.count(static_cast<NodeId>(i))) narrow(static_cast<NodeId>(i));
    for (const NamedOutput& o : g_.outputs) b_.output(o.name, narrow(o.node));
    for (const State& s : g_.states) b_.state(s.name, narrow(s.input), narrow(s.output));
    return dead_code(b_.finish());
  }

 private:
  struct Shift {
    NodeId spread;               // r, along the row
    NodeId sum, guard = -1;      // l; what stands for it where it is 0
    NodeId node = -1;            // r + log l, spread, in the new graph
  };
  const Graph& g_;
  PassContext& context_;
  std::vector<char> nested_;
  std::map<NodeId, Shift> shifts_;        // by exponential
  std::set<NodeId> one_;                  // what becomes 1
  std::set<NodeId> of_shift_;             // what r is made of
  std::map<NodeId, NodeId> kept_;         // selects that are their last argument wherever it matters
  int64_t rows_ = 0;                      // most elements of a sum
  GraphBuilder b_;
  std::vector<NodeId> narrow_, wide_;     // each node as its dtype, and in f32

  const Node& at(NodeId id) const { return g_.at(id); }
  const Shape& shape(NodeId id) const { return g_.type(id).shape; }
  std::optional<double> number(NodeId id) const { return number_of(g_, id); }

  // --- degrees ---
  // Of exp(x - r): all that depends on it, in order.
  struct Degrees {
    NodeId exp, sum;
    Shape all, rows;                      // shapes without ones
    int64_t row = 0;                      // the dim of `all` that the sum is over
    std::map<NodeId, int> of;             // what depends on it
    std::set<NodeId> one, tests;          // the sum, and whether it is 0
    std::map<NodeId, NodeId> kept;
    NodeId guard = -1;
  };
  void find(NodeId e) {
    const Node& difference = at(at(e).args[0]);
    if (difference.op != Op::sub || at(difference.args[1]).op != Op::broadcast) return;
    Degrees d{e, -1, without_ones(shape(e)), {}, 0, {}, {}, {}, {}};
    for (size_t i = 0; i < g_.nodes.size() && d.sum < 0; ++i)
      if (g_.nodes[i].op == Op::reduce_sum && g_.nodes[i].args[0] == e && g_.nodes[i].attrs.axes.size() == 1) d.sum = static_cast<NodeId>(i);
    if (d.sum < 0) return;
    const int64_t axis = at(d.sum).attrs.axes[0];
    if (shape(e)[static_cast<size_t>(axis)] == 1) return;
    d.row = std::count_if(shape(e).begin(), shape(e).begin() + axis, [](int64_t n) { return n != 1; });
    d.rows = d.all;
    d.rows.erase(d.rows.begin() + d.row);
    if (!is_spread_row(difference.args[1], d)) return;
    d.of[e] = 1, d.of[d.sum] = 1;
    d.one = {d.sum};
    int products = 0;
    for (NodeId id = e + 1; id < static_cast<NodeId>(g_.nodes.size()); ++id) {
      const Node& n = at(id);
      if (id == d.sum || std::none_of(n.args.begin(), n.args.end(), [&](NodeId a) { return d.of.count(a) > 0; })) continue;
      const std::optional<int> degree = degree_of(id, d);
      if (!degree) return;
      d.of[id] = *degree;
      products += means<Contract>(n.op) && !nested_[static_cast<size_t>(id)] && std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return nested_[static_cast<size_t>(a)] && d.of.count(a); });
    }
    for (NodeId r : g_.roots())
      if (const auto it = d.of.find(r); it != d.of.end() && it->second != 0) return;
    if (products < 2 || !context_.allow()) return;
    shifts_[e] = {difference.args[1], d.sum, d.guard};
    one_.insert(d.one.begin(), d.one.end());
    kept_.insert(d.kept.begin(), d.kept.end());
    rows_ = std::max(rows_, g_.type(d.sum).size());
  }
  // A broadcast of a row's numbers to all places of the row.
  bool is_spread_row(NodeId id, const Degrees& d) const {
    const Node& n = at(id);
    if (without_ones(shape(id)) != d.all || without_ones(shape(n.args[0])) != d.rows) return false;
    std::vector<char> covered(shape(id).size());
    for (size_t i = 0; i < n.attrs.axes.size(); ++i)
      if (shape(n.args[0])[i] != 1) covered[static_cast<size_t>(n.attrs.axes[i])] = 1;
    int64_t place = 0;
    for (size_t i = 0; i < covered.size(); ++i)
      if (shape(id)[i] != 1 && covered[i] == (place++ == d.row)) return false;
    return std::is_sorted(n.attrs.axes.begin(), n.attrs.axes.end());
  }
  std::optional<int> degree_of(NodeId id, Degrees& d) const {
    const Node& n = at(id);
    const auto degree = [&](size_t a) {
      const auto it = d.of.find(n.args[a]);
      return it == d.of.end() ? 0 : it->second;
    };
    const auto is_one = [&](size_t a) { return d.one.count(n.args[a]) > 0; };
    const auto zero = [&](size_t a) { return number(n.args[a]) == 0.0; };
    if (n.op == Op::eq && ((is_one(0) && zero(1)) || (is_one(1) && zero(0)))) return d.tests.insert(id), 0;
    const bool tested = std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return d.tests.count(a) > 0; });
    if (tested && (n.op == Op::reshape || n.op == Op::broadcast)) return d.tests.insert(id), 0;
    if (tested) {   // where the sum is 0 every exponential is, and what is multiplied by it does not matter
      if (n.op != Op::select || !d.tests.count(n.args[0])) return std::nullopt;
      if (is_one(2) && number(n.args[1]).value_or(0) > 0 && d.guard < 0) return d.guard = id, d.one.insert(id), 1;
      if (!zero(1) || degree(2) == 0) return std::nullopt;
      d.kept[id] = n.args[2];
      return degree(2);
    }
    bool all_zero = true;
    for (size_t a = 0; a < n.args.size(); ++a) all_zero = all_zero && degree(a) == 0;
    if (all_zero) return 0;
    const Shape own = without_ones(n.type.shape), argument = without_ones(shape(n.args[0]));
    if (own != d.all && own != d.rows) return std::nullopt;
    switch (n.op) {
      case Op::neg:
      case Op::cast:
      case Op::stop_gradient:
      case Op::reshape:
        if (own != argument) return std::nullopt;
        if (is_one(0)) d.one.insert(id);
        return degree(0);
      case Op::broadcast:
        if (own != argument && !is_spread_row(id, d)) return std::nullopt;
        if (is_one(0)) d.one.insert(id);
        return degree(0);
      case Op::reduce_sum: return own == d.rows && argument == d.all && is_sum_of_rows(n, d) ? std::optional(degree(0)) : std::nullopt;
      case Op::mul: return degree(0) + degree(1);
      case Op::div: return degree(0) - degree(1);
      case Op::add:
      case Op::sub: return zero(0) ? degree(1) : zero(1) || degree(0) == degree(1) ? std::optional(degree(0))
                                                                                   : std::nullopt;
      case Op::select: return degree(0) != 0 ? std::nullopt : zero(1)                         ? std::optional(degree(2))
                                                          : zero(2) || degree(1) == degree(2) ? std::optional(degree(1))
                                                                                              : std::nullopt;
      default: return std::nullopt;
    }
  }
  bool is_sum_of_rows(const Node& n, const Degrees& d) const {
    int64_t place = 0, summed = 0;
    for (size_t i = 0; i < shape(n.args[0]).size(); ++i) {
      if (shape(n.args[0])[i] == 1) continue;
      const bool over = std::count(n.attrs.axes.begin(), n.attrs.axes.end(), static_cast<int64_t>(i)) > 0;
      if (over && place != d.row) return false;
      summed += over, ++place;
    }
    return summed == 1;
  }

  // What r is made of on the way from the scores.
  void follow(NodeId id, const std::vector<char>& of_scores) {
    if (nested_[static_cast<size_t>(id)] || !of_scores[static_cast<size_t>(id)] || !of_shift_.insert(id).second) return;
    for (NodeId a : at(id).args) follow(a, of_scores);
  }

  // --- the new graph ---
  NodeId cast(NodeId x, DType dtype) {
    Attrs attrs;
    attrs.dtype = {dtype};
    return b_.type(x).dtype == dtype ? x : b_.add(Op::cast, {x}, std::move(attrs));
  }
  NodeId spread(double x, DType dtype, const Shape& shape) {
    HostTensor value(dtype, {});
    value.set(0, Scalar::of(dtype, x));
    Attrs attrs;
    attrs.shape = shape;
    const NodeId c = b_.constant(std::move(value), {});
    return shape.empty() ? c : b_.add(Op::broadcast, {c}, std::move(attrs));
  }
  // Of the scores, or of rows' numbers.
  bool widens(NodeId id) const {
    const Node& n = at(id);
    if (shifts_.count(id)) return true;
    if (n.op == Op::cast || !(means<Map>(n.op) || means<Reduce>(n.op) || n.op == Op::reshape || n.op == Op::transpose || n.op == Op::broadcast)) return false;
    return nested_[static_cast<size_t>(id)] || n.op == Op::broadcast || n.type.size() <= rows_;
  }
  NodeId narrow(NodeId id) {
    NodeId& out = narrow_[static_cast<size_t>(id)];
    if (out >= 0) return out;
    const bool made_wide = is_short(g_.type(id)) && (nested_[static_cast<size_t>(id)] || shifts_.count(id) || of_shift_.count(id)) && widens(id);
    return out = made_wide ? cast(wide(id), g_.type(id).dtype) : made(id, false);
  }
  NodeId wide(NodeId id) {
    if (!is_short(g_.type(id))) return narrow(id);
    NodeId& out = wide_[static_cast<size_t>(id)];
    if (out >= 0) return out;
    return out = one_.count(id) || widens(id) ? made(id, true) : cast(narrow(id), DType::f32);
  }
  NodeId made(NodeId id, bool in_f32) {
    const Node& n = at(id);
    const SourceLoc where = g_.where(id);
    const auto arg = [&](NodeId a) { return in_f32 || of_shift_.count(id) ? wide(a) : narrow(a); };
    if (n.op == Op::input) return b_.input(n.attrs.name, n.type, where);
    if (one_.count(id)) return spread(1, in_f32 ? DType::f32 : n.type.dtype, n.type.shape);
    if (const auto it = kept_.find(id); it != kept_.end()) return arg(it->second);
    if (const auto it = shifts_.find(id); it != shifts_.end()) return cast(b_.add(Op::exp, {b_.add(Op::sub, {wide(at(n.args[0]).args[0]), shift(it->second, at(n.args[0]).args[0])}, {}, where)}, {}, where), in_f32 ? DType::f32 : n.type.dtype);
    if ((n.op == Op::div || n.op == Op::mul) && one_.count(n.args[1])) return arg(n.args[0]);
    if (n.op == Op::mul && one_.count(n.args[0])) return arg(n.args[1]);
    if (n.op == Op::cast && n.type.dtype == DType::f32 && is_short(g_.type(n.args[0])) && nested_[static_cast<size_t>(n.args[0])]) return wide(n.args[0]);   // as under `precision`
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(arg(a));
    return b_.add(n.op, std::move(args), n.attrs, where);
  }
  NodeId shift(Shift& s, NodeId x) {
    if (s.node >= 0) return s.node;
    const Node &along = at(s.spread), &sum = at(s.sum);
    const SourceLoc where = g_.where(s.sum);
    const Shape& rows = sum.type.shape;
    const auto reshaped = [&](NodeId id) {
      Attrs attrs;
      attrs.shape = rows;
      return b_.type(id).shape == rows ? id : b_.add(Op::reshape, {id}, std::move(attrs), where);
    };
    const NodeId r = wide(along.args[0]);
    NodeId total = b_.add(Op::reduce_sum, {b_.add(Op::exp, {b_.add(Op::sub, {wide(x), b_.add(Op::broadcast, {r}, along.attrs, where)}, {}, where)}, {}, where)}, sum.attrs, where);
    const DType dtype = b_.type(total).dtype;
    if (s.guard >= 0) total = b_.add(Op::select, {b_.add(Op::eq, {total, spread(0, dtype, rows)}, {}, where), spread(*number(at(s.guard).args[1]), dtype, rows), total}, {}, where);
    Attrs to_all;
    to_all.shape = along.type.shape;
    for (int64_t d = 0; d < static_cast<int64_t>(to_all.shape.size()); ++d)
      if (d != sum.attrs.axes[0]) to_all.axes.push_back(d);
    return s.node = b_.add(Op::broadcast, {b_.add(Op::add, {reshaped(r), b_.add(Op::log, {total}, {}, where)}, {}, where)}, to_all, where);
  }
};

}  // namespace

Graph scores(const Graph& graph, PassContext& context) {
  return context.nested_in_roles ? Scores(dead_code(graph), context).run() : graph;
}

}  // namespace quern
