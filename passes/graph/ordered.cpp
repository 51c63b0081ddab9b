// ordered: where two sums of recomputed weights (recompute.h) are one kernel, and a third one sums the same weights along their other axis, as the gradients
// of attention's keys and values, and of its queries: if a kernel in roles makes all three (passes/tile/roles_ordered.h), the third is stored in f32, to which
// its blocks add in order, and rounded behind it. Then the weights are computed once: five products instead of seven. What that kernel would have
// reduced, the rows' sums, is a kernel before it. A number that multiplies all weights of the third multiplies it behind.
//   before: %4 = contract %w, %g {spec="qk,qd->kd"};  %5 = contract %s, %q {spec="qk,qd->kd"};  %6 = contract %s, %k {spec="qk,kd->qd"} : bf16[…]
//   after:  … the same %4 and %5;  %6 = contract %s, %k {spec="qk,kd->qd"};  %7 = cast %6 {dtype=f32};  %8 = stored %7;  %9 = cast %8 {dtype=bf16}
// The roundings change: done under Fp::fast. What the target refuses stays as it was, with its reason.
#include <algorithm>

#include <fmt/format.h>

#include "passes/graph/rebuild.h"
#include "passes/graph/recompute.h"
#include "passes/graph/weighed.h"

namespace quern {
namespace {

// Such sums of a graph before its partition.
std::vector<InOrder> find(const Graph& graph) {
  std::vector<char> free = recomputed_nodes(graph), root(graph.nodes.size());
  std::vector<int> group;
  std::vector<std::vector<NodeId>> members, producers, consumers;
  const Groups groups{graph, root, free, group, members, producers, consumers};
  for (size_t i = 0; i < free.size(); ++i) free[i] = free[i] || means<View>(graph.nodes[i].op) || groups.is_widening(static_cast<NodeId>(i));
  return sums_in_order(groups);
}

NodeId cast(GraphBuilder& b, NodeId x, DType dtype) {
  Attrs attrs;
  attrs.dtype = {dtype};
  return b.add(Op::cast, {x}, std::move(attrs));
}

class Ordered {
 public:
  Ordered(const Graph& graph, const std::vector<InOrder>& sums) : g_(graph), sums_(sums) {}
  Graph run() {
    return rebuild(g_, b_, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
      const NodeId id = static_cast<NodeId>(&n - g_.nodes.data());
      const auto across = std::find_if(sums_.begin(), sums_.end(), [&](const InOrder& s) { return s.across == id; });
      return across == sums_.end() ? b_.add(n.op, std::move(args), n.attrs, where) : wide(n, std::move(args), g_.type(across->second).shape, where);
    });
  }

 private:
  const Graph& g_;
  const std::vector<InOrder>& sums_;
  GraphBuilder b_;

  // As the others' results have it, `shape`: dims of one element aside the same.
  NodeId wide(const Node& n, std::vector<NodeId> args, const Shape& shape, const SourceLoc& where) {
    double factor = 1;
    for (NodeId& a : args) a = without_factor(a, factor);
    Attrs attrs = n.attrs;
    if (n.type.shape != shape) {
      ContractSpec spec = parse_contract(n.attrs.spec);
      std::string ones;   // those that the others' results have not
      size_t there = 0;
      for (size_t d = 0; d < spec.out.size(); ++d)
        if (there < shape.size() && n.type.shape[d] == shape[there]) ++there;
        else if (n.type.shape[d] == 1) ones += spec.out[d];
      for (size_t a = 0; a < 2; ++a) args[a] = without(args[a], a ? spec.rhs : spec.lhs, ones);
      std::erase_if(spec.out, [&](char c) { return ones.find(c) != std::string::npos; });
      attrs.spec = fmt::format("{},{}->{}", spec.lhs, spec.rhs, spec.out);
    }
    NodeId x = reshaped(b_.add(n.op, std::move(args), attrs, where), shape);
    x = reshaped(b_.add(Op::stored, {cast(b_, x, DType::f32)}), n.type.shape);
    if (factor != 1) {
      HostTensor value(DType::f32, {});
      value.set(0, Scalar::of(DType::f32, factor));
      Attrs all;
      all.shape = n.type.shape;
      x = b_.add(Op::mul, {x, b_.add(Op::broadcast, {b_.constant(std::move(value), {})}, std::move(all))}, {}, where);
    }
    return cast(b_, x, n.type.dtype);
  }
  NodeId reshaped(NodeId x, const Shape& shape) {
    Attrs attrs;
    attrs.shape = shape;
    return b_.type(x).shape == shape ? x : b_.add(Op::reshape, {x}, std::move(attrs));
  }
  // Without the dims that these letters name.
  NodeId without(NodeId x, std::string& letters, const std::string& ones) {
    Shape shape;
    std::string rest;
    for (size_t d = 0; d < letters.size(); ++d)
      if (ones.find(letters[d]) == std::string::npos) shape.push_back(b_.type(x).shape[d]), rest += letters[d];
    letters = rest;
    return reshaped(x, shape);
  }
  // Of weights that are rounded last.
  NodeId without_factor(NodeId weight, double& factor) {
    const auto at = [&](NodeId id) -> const Node& { return b_.graph().at(id); };
    if (at(weight).op != Op::cast || at(at(weight).args[0]).op != Op::mul) return weight;
    const Node product = at(at(weight).args[0]);
    for (size_t a = 0; a < 2; ++a)
      if (const auto c = number_of(b_.graph(), product.args[a]); c && *c > 0 && at(product.args[1 - a]).type == product.type) {
        factor *= *c;
        return cast(b_, product.args[1 - a], at(weight).type.dtype);
      }
    return weight;
  }
};

}  // namespace

Graph ordered(const Graph& graph, PassContext& context) {
  if (!context.nested_in_roles || !context.refuses) return graph;
  std::vector<InOrder> sums = find(graph);
  std::erase_if(sums, [&](const InOrder&) { return !context.allow(); });
  const auto told = [&](const InOrder& s, const std::string& how) { context.ordered.push_back(fmt::format("{}%{} {} {}", context.within, s.across, name_of(graph.at(s.across).op), how)); };
  while (!sums.empty()) {
    Graph tried = Ordered(graph, sums).run();
    std::string why = "its kernel holds something else";
    PassContext quiet = context;
    quiet.refuses = [&](const Node& call) {
      std::string reason = context.refuses(call);
      if (!reason.empty()) why = reason;
      return reason;
    };
    const Partition made = partition_with_origins(tried, quiet);
    const std::vector<InOrder> now = find(tried);   // in the same order, if they are still there
    std::vector<InOrder> taken;
    for (size_t i = 0; i < sums.size(); ++i) {
      const auto call = [&](NodeId id) { return made.call_of[static_cast<size_t>(id)]; };
      if (now.size() == sums.size() && call(now[i].across) == call(now[i].first) && call(now[i].across) == call(now[i].second)) taken.push_back(sums[i]);
      else told(sums[i], fmt::format("has a kernel of its own: in one with %{} and %{} {}", sums[i].first, sums[i].second, why));
    }
    if (taken.size() == sums.size()) {
      for (const InOrder& s : taken) told(s, fmt::format("is added up in order, in f32, by the kernel of %{} and %{}", s.first, s.second));
      return tried;
    }
    sums = std::move(taken);
  }
  return graph;
}

}  // namespace quern
