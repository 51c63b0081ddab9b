// Operands of large products of f32 as tensor cores take them. Those of tf32 are multiplied where they run along the sum; one of both may
// lie across it, and is turned in registers (passes/tile/roles.h). Where both do, the smaller one is stored along it first.
// Both of 8-bit floats are: what lies across is stored along the sum, as it was before it was cast up.
// A sum over neighbouring dims that both operands have in one order, as steps and rows of a loop, is one over all of them: reshapes.
//   before: %2 = contract %0, %1 {spec="km,kn->mn"}
//   after:  %2 = transpose %0 {axes=[1,0]};  %3 = stored %2;  %4 = contract %3, %1 {spec="mk,kn->mn"}
// In two parts of tf32, x = big + small, both operands are stored three times as long, so that their product of tf32 is big*small + small*big +
// big*big, in this order: tensor cores cut what they add to a sum, and cut less of a small one.
// big is x rounded to 11 bits by Veltkamp's splitting (T. J. Dekker, Numer. Math. 18, 1971); x above 2^114 becomes NaN.
//   before: %2 = contract %0, %1 {spec="mk,nk->mn"}
//   after:  %2 = mul %0, 8193;  %3 = sub %2, %0;  %4 = sub %2, %3;  %5 = sub %0, %4;  %6 = concat %4, %5, %4 {axes=[1]};  %7 = stored %6;  … of %1: small, big, big
//           %13 = contract %7, %12 {spec="mk,nk->mn", name="tf32"}
#include <algorithm>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/panels.h"
#include "passes/graph/rebuild.h"

namespace quern {
namespace {

constexpr int64_t kSide = 64;     // a tile's shortest
constexpr int64_t kReuse = 512, kReuseTurned = 256;   // of each element of an operand that is stored in parts, or turned: fewer do not pay

// An operand as it lies in memory, looking through transposes, and through what casts 8-bit floats up.
struct Operand {
  NodeId at;
  std::string letters;
  Shape shape;        // by letters
  DType dtype;
  int64_t kept = 0;   // the extent of its own letter
  size_t place_of(char sum) const { return letters.find(sum); }
  bool lies_across(char sum) const { return letters.back() != sum; }
};
struct Product {
  Operand operands[2];
  char sum = 0;
};

bool casts_up(const Graph& g, NodeId id) {
  const Node& n = g.at(id);
  if (n.op != Op::cast || !is_float(n.type.dtype) || is_f8(n.type.dtype)) return false;
  const NodeId from = n.args[0];
  return is_f8(g.type(from).dtype) || casts_up(g, from);
}
Operand in_memory(const Graph& g, NodeId id, std::string letters) {
  for (; g.at(id).op == Op::transpose || casts_up(g, id); id = g.at(id).args[0]) {
    if (g.at(id).op == Op::cast) continue;
    std::string before = letters;
    for (size_t d = 0; d < letters.size(); ++d) before[static_cast<size_t>(g.at(id).attrs.axes[d])] = letters[d];
    letters = before;
  }
  return {id, letters, g.type(id).shape, g.type(id).dtype};
}
// Dims that are summed in both, side by side in the same order, become the first of them.
void merge_sums(Operand (&operands)[2], const std::string& out) {
  std::string sums;
  for (char c : operands[0].letters)
    if (out.find(c) == std::string::npos) sums += c;
  if (sums.size() < 2 || operands[0].letters.find(sums) == std::string::npos || operands[1].letters.find(sums) == std::string::npos) return;
  for (Operand& o : operands) {
    const auto first = o.shape.begin() + static_cast<int64_t>(o.letters.find(sums)), last = first + static_cast<int64_t>(sums.size());
    *first = std::accumulate(first, last, int64_t{1}, checked_mul);
    o.shape.erase(first + 1, last);
    o.letters.erase(o.letters.find(sums) + 1, sums.size() - 1);
  }
}

// Of a product of f32, or of 8-bit floats, that has tiles, one sum and enough to do; its arguments are in `g`.
std::optional<Product> large_product(const Graph& g, const Node& n, const std::vector<NodeId>& args, const PassContext& context) {
  const bool of_bytes = context.operands_of_bytes;
  if (!means<Contract>(n.op) || (n.type.dtype != DType::f32 && (!of_bytes || !is_float(n.type.dtype))) || is_symbolic(n.type.shape)) return std::nullopt;
  if (!of_bytes && g.at(args[0]).op == Op::cast && g.at(args[1]).op == Op::cast) return std::nullopt;   // of short floats, multiplied as such
  const ContractSpec spec = parse_contract(n.attrs.spec);
  const auto has = [](const std::string& letters, char c) { return letters.find(c) != std::string::npos; };
  Product p{{in_memory(g, args[0], spec.lhs), in_memory(g, args[1], spec.rhs)}};
  for (const Operand& o : p.operands)
    if (is_symbolic(o.shape) || (of_bytes && !is_f8(o.dtype))) return std::nullopt;   // no role takes a sum as long as the run says
  merge_sums(p.operands, spec.out);
  int64_t multiplications = n.type.size();
  for (const size_t side : {0, 1}) {
    Operand& o = p.operands[side];
    for (size_t d = 0; d < o.letters.size(); ++d) {
      const bool sum = !has(spec.out, o.letters[d]);
      if (!sum && has(p.operands[1 - side].letters, o.letters[d])) continue;
      if (o.shape[d] < kSide || o.shape[d] * (sum ? size_of(o.dtype) : 4) % 16 != 0 || (!sum && o.kept) || (sum && side == 0 && p.sum)) return std::nullopt;
      if (!sum) o.kept = o.shape[d];
      else if (side == 0) p.sum = o.letters[d], multiplications = checked_mul(multiplications, o.shape[d]);
    }
  }
  return p.sum && p.operands[0].kept && p.operands[1].kept && multiplications >= context.large_product ? std::optional(p) : std::nullopt;
}

NodeId cast(GraphBuilder& b, NodeId x, DType to) {
  Attrs attrs;
  attrs.dtype = {to};
  return b.add(Op::cast, {x}, std::move(attrs));
}
NodeId stored(GraphBuilder& b, NodeId x) { return b.add(Op::stored, {x}); }

void turn(GraphBuilder& b, Operand& o, char sum) {
  const size_t from = o.place_of(sum), last = o.letters.size() - 1;
  o.at = stored(b, transposed(b, o.at, moved(o.letters.size(), from, last)));
  o.letters = o.letters.substr(0, from) + o.letters.substr(from + 1) + sum;
}
// The left one big, small, big, the right one small, big, big.
void split(GraphBuilder& b, Operand& o, char sum, bool left) {
  const NodeId x = o.at, scaled = b.add(Op::mul, {x, b.full(b.type(x), 8193)}), big = b.add(Op::sub, {scaled, b.add(Op::sub, {scaled, x})}), small = b.add(Op::sub, {x, big});
  Attrs attrs;
  attrs.axes = {static_cast<int64_t>(o.place_of(sum))};
  o.at = stored(b, b.add(Op::concat, left ? std::vector{big, small, big} : std::vector{small, big, big}, std::move(attrs)));
}

}  // namespace

Graph operands_for_tensor_cores(const Graph& graph, PassContext& context) {
  GraphBuilder b;
  return rebuild(graph, b, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
    std::optional<Product> p = large_product(b.graph(), n, args, context);
    const bool each = context.operands_of_bytes;
    const size_t smaller = p && p->operands[1].kept < p->operands[0].kept;
    const bool across[] = {p && p->operands[0].lies_across(p->sum), p && p->operands[1].lies_across(p->sum)};
    const bool turns = each ? across[0] || across[1] : across[0] && across[1];
    const bool pays = p && (context.split_operands ? p->operands[smaller].kept >= kReuse : p->operands[each && across[1 - smaller] ? smaller : 1 - smaller].kept >= kReuseTurned);
    if (!pays || (!turns && !context.split_operands) || !context.allow()) return b.add(n.op, std::move(args), n.attrs, where);
    Attrs attrs = n.attrs;
    for (Operand& o : p->operands) o.at = reshaped(b, o.at, o.shape);
    for (const size_t side : {0, 1})
      if (turns && (each ? across[side] : side == smaller)) turn(b, p->operands[side], p->sum);
    for (const size_t side : {0, 1})
      if (each) p->operands[side].at = cast(b, p->operands[side].at, b.type(args[side]).dtype);
    if (context.split_operands) {
      for (const size_t side : {0, 1}) split(b, p->operands[side], p->sum, side == 0);
      attrs.name = "tf32";
    }
    attrs.spec = fmt::format("{},{}->{}", p->operands[0].letters, p->operands[1].letters, parse_contract(n.attrs.spec).out);
    return b.add(n.op, {p->operands[0].at, p->operands[1].at}, std::move(attrs), where);
  });
}

}  // namespace quern
