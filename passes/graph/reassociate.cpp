// reassociate: a sum over weights times a product's elements, where the product of these weights is a value anyway.
//   sum_j w[i,j] sum_d a[i,d] b[j,d] = sum_d a[i,d] sum_j w[i,j] b[j,d] = sum_d a[i,d] o[i,d]
//   before: %4 = contract %w, %b {"ij,jd->id"};  %5 = contract %a, %b {"id,jd->ij"};  %6 = mul %w, %5;  %7 = reduce_sum %6 {axes=[1]}
//   after:  %4 = contract %w, %b {"ij,jd->id"};  %5 = contract %a, %4 {"id,id->i"}
// In attention's backward pass this is the row sum that softmax wants: of results instead of scores; roles make it beside the
// queries' gradient, as a sum of rows: %5 = reduce_sum (mul %a, %4) {axes=[1]}. Factors that are
// the same along the sum move out of it. It changes the order of sums, so it is done where it saves one over elements
// that no kernel keeps (recompute.h), and nowhere else. Under Fp::fast roundings between these do not count.
//   sum_d (c a[i,d]) b[j,d] = c sum_d a[i,d] b[j,d] for a number c
//   before: %3 = mul %a, %c;  %4 = contract %3, %b {"id,jd->ij"}
//   after:  %4 = contract %a, %b {"id,jd->ij"};  %5 = mul %4, %c
// Roles read operands as memory has them (passes/tile/roles_nested.h): what a query is scaled by goes with the scores, and with the keys' gradient.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/rebuild.h"
#include "passes/graph/recompute.h"
#include "passes/pass.h"

namespace quern {
namespace {

class Reassociate {
 public:
  Reassociate(const Graph& graph, PassContext& context) : g_(graph), context_(context), nested_(recomputed_nodes(graph)), weights_(graph.nodes.size()), map_(graph.nodes.size(), -1) {
    b_.symbol(graph.symbol);
    for (const Node& n : graph.nodes)
      if (means<Contract>(n.op))
        for (NodeId a : n.args) weights_[static_cast<size_t>(unshaped(a))] = 1;
  }

  Graph run() {
    for (size_t i = 0; i < g_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = g_.at(id);
      if (n.op == Op::input) {
        map_[i] = b_.input(n.attrs.name, n.type, g_.where(id));
        continue;
      }
      if (const auto shorter = n.op == Op::reduce_sum ? rewritten(id) : std::nullopt) {
        map_[i] = *shorter;
        continue;
      }
      if (context_.nested_in_roles && means<Contract>(n.op)) {
        map_[i] = unscaled(id);
        continue;
      }
      std::vector<NodeId> args;
      for (NodeId a : n.args) args.push_back(mapped(a));
      map_[i] = b_.add(n.op, std::move(args), n.attrs, g_.where(id));
    }
    for (const NamedOutput& o : g_.outputs) b_.output(o.name, mapped(o.node));
    for (const State& s : g_.states) b_.state(s.name, mapped(s.input), mapped(s.output));
    return dead_code(b_.finish());
  }

 private:
  const Graph& g_;
  PassContext& context_;
  std::vector<char> nested_, weights_;   // weights: what products take, perhaps reshaped
  GraphBuilder b_;
  std::vector<NodeId> map_;

  NodeId mapped(NodeId id) const { return map_[static_cast<size_t>(id)]; }
  const Shape& shape(NodeId id) const { return g_.type(id).shape; }
  // What it is another shape of, or, where roundings may fall away, another float.
  NodeId unshaped(NodeId id) const {
    const Node& n = g_.at(id);
    const bool rounded = n.op == Op::cast && context_.fp == Fp::fast && is_float(n.type.dtype) && is_float(g_.type(n.args[0]).dtype);
    return n.op == Op::reshape || rounded ? unshaped(n.args[0]) : id;
  }

  // Where the product or an operand is computed in each kernel: of the other operands without the numbers that they are multiplied by.
  NodeId unscaled(NodeId id) {
    const Node& n = g_.at(id);
    const SourceLoc where = g_.where(id);
    const bool nested = nested_[static_cast<size_t>(id)] || std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return nested_[static_cast<size_t>(a)]; });
    double factor = 1;
    std::vector<NodeId> args;
    for (NodeId a : n.args) {
      const Node& x = g_.at(a);
      const std::optional<double> c = nested && !nested_[static_cast<size_t>(a)] && x.op == Op::mul ? number_of(g_, x.args[1]) : std::nullopt;
      const bool moves = c && std::isfinite(*c) && context_.allow();
      args.push_back(mapped(moves ? x.args[0] : a));
      if (moves) factor *= *c;
    }
    const NodeId product = b_.add(n.op, std::move(args), n.attrs, where);
    return factor == 1 ? product : b_.add(Op::mul, {product, b_.full(n.type, factor)}, {}, where);
  }

  // What is multiplied and divided by, and how often the sign turns.
  struct Factors {
    std::vector<NodeId> above, below;
    bool negative = false;
  };
  void collect(NodeId id, Factors& out) const {
    const Node& n = g_.at(id);
    if (weights_[static_cast<size_t>(id)]) {
      out.above.push_back(id);
    } else if (n.op == Op::neg) {
      out.negative = !out.negative;
      collect(n.args[0], out);
    } else if (n.op == Op::mul) {
      for (NodeId a : n.args) collect(a, out);
    } else if (n.op == Op::div && row_of(n.args[1], 0, true)) {
      collect(n.args[0], out);
      out.below.push_back(n.args[1]);
    } else {
      out.above.push_back(id);
    }
  }
  // Of a broadcast: whether it is the same along the axis; `any`: whether it is one at all.
  bool row_of(NodeId id, int64_t axis, bool any = false) const {
    const Node& n = g_.at(id);
    if (n.op != Op::broadcast) return false;
    for (size_t d = 0; d < n.attrs.axes.size(); ++d)
      if (!any && n.attrs.axes[d] == axis && shape(n.args[0])[d] != 1) return false;
    return true;
  }
  // The same without the axis.
  NodeId add_row(NodeId id, int64_t axis, const Shape& rows) {
    const Node& n = g_.at(id);
    Attrs spread, dropped;
    for (size_t d = 0; d < n.attrs.axes.size(); ++d) {
      if (n.attrs.axes[d] == axis) continue;
      dropped.shape.push_back(shape(n.args[0])[d]);
      spread.axes.push_back(n.attrs.axes[d] - (n.attrs.axes[d] > axis));
    }
    NodeId source = mapped(n.args[0]);
    if (dropped.shape != shape(n.args[0])) source = b_.add(Op::reshape, {source}, dropped, g_.where(id));
    spread.shape = rows;
    return b_.add(Op::broadcast, {source}, spread, g_.where(id));
  }

  std::optional<NodeId> rewritten(NodeId id) {
    const Node& n = g_.at(id);
    int64_t axis = -1;   // the one that is longer than 1
    for (int64_t a : n.attrs.axes)
      if (shape(n.args[0])[static_cast<size_t>(a)] != 1) {
        if (axis >= 0) return std::nullopt;
        axis = a;
      }
    if (axis < 0) return std::nullopt;
    Shape kept = shape(n.args[0]);
    kept.erase(kept.begin() + axis);
    Factors f;
    collect(n.args[0], f);
    std::vector<NodeId> rows, others;
    for (NodeId a : f.above) (row_of(a, axis) ? rows : others).push_back(a);
    if (others.size() != 2 || !std::all_of(f.below.begin(), f.below.end(), [&](NodeId a) { return row_of(a, axis); })) return std::nullopt;
    std::optional<NodeId> sum;
    for (size_t product = 0; product < 2 && !sum; ++product) sum = exchanged(others[product], others[1 - product], axis, kept, id);
    if (!sum || !context_.allow()) return std::nullopt;
    NodeId out = *sum;
    const SourceLoc where = g_.where(id);
    for (NodeId r : rows) out = b_.add(Op::mul, {out, add_row(r, axis, kept)}, {}, where);
    for (NodeId r : f.below) out = b_.add(Op::div, {out, add_row(r, axis, kept)}, {}, where);
    return reshaped(f.negative ? b_.add(Op::neg, {out}, {}, where) : out, n.type.shape, where);
  }
  NodeId as(NodeId id, DType dtype) {
    Attrs attrs;
    attrs.dtype = {dtype};
    return b_.type(id).dtype == dtype ? id : b_.add(Op::cast, {id}, attrs);
  }
  NodeId reshaped(NodeId id, const Shape& shape, const SourceLoc& where) {
    Attrs attrs;
    attrs.shape = shape;
    return b_.type(id).shape == shape ? id : b_.add(Op::reshape, {id}, attrs, where);
  }

  // `product` is sum_d a b, in memory of the weights' order; the other product of the weights with b must be a value.
  std::optional<NodeId> exchanged(NodeId product, NodeId weights, int64_t axis, const Shape& kept, NodeId sum) {
    const NodeId p = unshaped(product), w = unshaped(weights);
    const Node& inner = g_.at(p);
    if (!means<Contract>(inner.op) || !nested_[static_cast<size_t>(p)] || shape(product) != shape(weights)) return std::nullopt;
    const bool other_shape = shape(p) != shape(product);
    // Through a reshape the axis is the same one where it is the last of both.
    if (other_shape && (axis + 1 != static_cast<int64_t>(shape(product).size()) || shape(p).back() != shape(product).back())) return std::nullopt;
    const size_t place = other_shape ? shape(p).size() - 1 : static_cast<size_t>(axis);
    const ContractSpec in = parse_contract(inner.attrs.spec);
    const char j = in.out[place];
    for (int side = 0; side < 2; ++side) {   // which operand is b
      const std::string &a_letters = side ? in.lhs : in.rhs, &b_letters = side ? in.rhs : in.lhs;
      const NodeId a = inner.args[side ? 0 : 1], b = inner.args[side ? 1 : 0];
      if (a_letters.find(j) != std::string::npos || b_letters.find(j) == std::string::npos) continue;
      for (NodeId o = 0; o < static_cast<NodeId>(g_.nodes.size()); ++o) {
        const Node& outer = g_.at(o);
        if (!means<Contract>(outer.op) || outer.type.dtype != inner.type.dtype) continue;
        for (int at = 0; at < 2; ++at) {   // which operand the weights are
          const NodeId ow = outer.args[static_cast<size_t>(at)];
          if (outer.args[static_cast<size_t>(1 - at)] != b || unshaped(ow) != w || shape(ow) != shape(p) || ow >= sum || b >= sum) continue;
          const auto letters = renamed(outer, at, in, j, b_letters);
          if (!letters) continue;
          Attrs attrs;
          std::string rows = in.out;
          rows.erase(place, 1);
          attrs.spec = a_letters + "," + *letters + "->" + rows;
          const SourceLoc where = g_.where(sum);
          const NodeId result = b_.add(outer.op, {mapped(outer.args[0]), mapped(outer.args[1])}, outer.attrs, g_.where(o));
          const DType dtype = g_.type(sum).dtype;
          const NodeId x = as(mapped(a), dtype), y = as(result, dtype);
          if (context_.nested_in_roles && a_letters == *letters && rows + a_letters.back() == a_letters) {   // which the roles that want it sum beside
            Attrs last;
            last.axes = {static_cast<int64_t>(rows.size())};
            return reshaped(b_.add(Op::reduce_sum, {b_.add(Op::mul, {x, y}, {}, where)}, last, where), kept, where);
          }
          return reshaped(b_.add(Op::contract, {x, y}, attrs, where), kept, where);
        }
      }
    }
    return std::nullopt;
  }

  // The letters of the outer product's result, by the names of the inner one; nothing where they differ in more than names.
  static std::optional<std::string> renamed(const Node& outer, int at, const ContractSpec& in, char j, const std::string& b_letters) {
    const ContractSpec spec = parse_contract(outer.attrs.spec);
    const std::string &w = at ? spec.rhs : spec.lhs, &b = at ? spec.lhs : spec.rhs;
    if (w.size() != in.out.size() || b.size() != b_letters.size()) return std::nullopt;
    std::map<char, char> name;
    const auto bind = [&](char from, char to) { return name.emplace(from, to).first->second == to; };
    for (size_t d = 0; d < w.size(); ++d)
      if (!bind(w[d], in.out[d])) return std::nullopt;
    for (size_t d = 0; d < b.size(); ++d)
      if (!bind(b[d], b_letters[d])) return std::nullopt;
    std::string out;
    for (const auto& [from, to] : name) {   // it sums j and nothing else
      const bool kept = spec.out.find(from) != std::string::npos;
      if (kept == (to == j)) return std::nullopt;
    }
    for (char c : spec.out) out += name.at(c);
    return out;
  }
};

}  // namespace

Graph reassociate(const Graph& graph, PassContext& context) {
  return context.nested_products ? Reassociate(dead_code(graph), context).run() : graph;
}

}  // namespace quern
