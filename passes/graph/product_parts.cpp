// See product_parts.h.
#include "passes/graph/product_parts.h"

#include <algorithm>
#include <cmath>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {
namespace {

constexpr double kTile = 128, kStep = 64;              // of a tile: rows, columns, and terms that are fetched together
constexpr double kRowsPerNanosecond = 80, kLeastStep = 0.12, kBytesPerMicrosecond = 2.5e6, kSecondKernel = 4;   // as measured on one chip; microseconds
constexpr int64_t kMostShares = 8;                     // that blocks of a cluster have of one tile (passes/tile/roles.h)
constexpr double kWorth = 0.85;
constexpr int64_t kMostBytes = 256 << 20, kMostWaves = 4;   // of all parts

bool is_short(DType d) { return d == DType::bf16 || d == DType::f16; }

// What an operand is a view of, or rounded from.
NodeId source_of(const Graph& g, NodeId id) {
  while (g.at(id).op == Op::cast || g.at(id).op == Op::transpose || g.at(id).op == Op::reshape) id = g.at(id).args[0];
  return id;
}

struct Letters {
  double side[2] = {1, 1}, others = 1, sum = 1;   // rows and columns
  std::vector<std::pair<char, int64_t>> summed;
};
// Of a window's operand one dim is tiled, for each place apart.
Letters letters_of(const Graph& g, const Node& n) {
  const ContractSpec spec = parse_contract(n.attrs.spec);
  const auto has = [](const std::string& letters, char c) { return letters.find(c) != std::string::npos; };
  Letters out;
  for (size_t a = 0; a < 2; ++a) {
    const std::string &mine = a ? spec.rhs : spec.lhs, &others = a ? spec.lhs : spec.rhs;
    double most = 1;
    for (size_t d = 0; d < mine.size(); ++d) {
      const int64_t extent = g.type(n.args[a]).shape[d];
      if (!has(others, mine[d])) most = std::max(most, static_cast<double>(extent)), out.side[a] *= static_cast<double>(extent);
      else if (a == 0) (has(spec.out, mine[d]) ? out.others : out.sum) *= static_cast<double>(extent);
      if (a == 0 && !has(spec.out, mine[d])) out.summed.emplace_back(mine[d], extent);
    }
    if (g.at(source_of(g, n.args[a])).op == Op::window) out.others *= out.side[a] / most, out.side[a] = most;
  }
  return out;
}
double tiles_of(double extent) { return std::ceil(extent / kTile); }

// Of 16 bits, or of such in f32.
bool is_product_of_short(const Graph& g, const Node& n) {
  return std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) {
    return is_short(n.type.dtype) || (n.type.dtype == DType::f32 && g.at(a).op == Op::cast && is_short(g.type(g.at(a).args[0]).dtype));
  });
}

NodeId with(GraphBuilder& b, Op op, NodeId x, Shape Attrs::*field, Shape value, const SourceLoc& where) {
  Attrs attrs;
  attrs.*field = std::move(value);
  return b.add(op, {x}, std::move(attrs), where);
}
NodeId cast(GraphBuilder& b, NodeId x, DType dtype, const SourceLoc& where) {
  if (b.type(x).dtype == dtype) return x;
  Attrs attrs;
  attrs.dtype = {dtype};
  return b.add(Op::cast, {x}, std::move(attrs), where);
}

}  // namespace

ProductParts product_parts(const Graph& graph, NodeId product, int64_t blocks, const std::vector<std::vector<NodeId>>& users, const std::vector<char>& nested) {
  const Node& n = graph.at(product);
  ProductParts best;
  if (std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return nested[static_cast<size_t>(source_of(graph, a))]; })) return best;
  if (n.op != Op::contract || !is_product_of_short(graph, n) || is_symbolic(graph.type(n.args[0]).shape) || is_symbolic(graph.type(n.args[1]).shape)) return best;
  const Letters l = letters_of(graph, n);
  const double rows = std::min(l.side[0], kTile), columns = std::min(l.side[1], kTile), tiles = l.others * tiles_of(l.side[0]) * tiles_of(l.side[1]), results = l.others * l.side[0] * l.side[1];
  const double step = std::max(kLeastStep, (rows + columns) * static_cast<double>(blocks) / kRowsPerNanosecond / 1000), steps = l.sum / kStep;
  if (tiles * 2 > static_cast<double>(blocks)) return best;
  const double shares = std::clamp<double>(static_cast<double>(blocks) * 3 / 4 / tiles, 1, kMostShares);
  double least = kWorth * (steps / shares * step * (shares > 1 ? 1.15 : 1) + 2);
  for (const auto& [letter, extent] : l.summed)
    for (int64_t parts = 2; parts <= std::min(extent, kMostWaves * blocks); ++parts) {
      const auto is_whole = [&](int64_t left) { return left % static_cast<int64_t>(kStep) == 0; };
      const bool other = std::any_of(l.summed.begin(), l.summed.end(), [&, own = letter](const auto& s) { return s.first != own && s.second >= static_cast<int64_t>(kStep); });
      if (extent % parts || (!is_whole(extent / parts) && !other) || static_cast<double>(parts) * results * 4 > kMostBytes) continue;
      const double count = static_cast<double>(parts), us = std::ceil(tiles * count / static_cast<double>(blocks)) * std::ceil(steps / count) * step + kSecondKernel + count * results * 8 / kBytesPerMicrosecond;
      if (us < least) least = us, best.letter = letter, best.parts = parts;
    }
  const std::vector<NodeId>& readers = users[static_cast<size_t>(product)];
  if (readers.size() == 1 && graph.at(readers[0]).op == Op::transpose) best.transposed = graph.at(readers[0]).attrs.axes;
  return best;
}

NodeId add_in_parts(GraphBuilder& b, const Node& product, const std::vector<NodeId>& args, const ProductParts& parts, const SourceLoc& where) {
  ContractSpec spec = parse_contract(product.attrs.spec);
  char part = 'a';
  while ((spec.lhs + spec.rhs).find(part) != std::string::npos) ++part;
  std::vector<NodeId> operands;
  for (size_t a = 0; a < 2; ++a) {
    std::string& letters = a ? spec.rhs : spec.lhs;
    const NodeId wide = args[a], x = b.type(wide).dtype == DType::f32 ? b.graph().at(wide).args[0] : wide;
    const size_t at = letters.find(parts.letter);
    Shape shape = b.type(x).shape;
    shape[at] /= parts.parts;
    shape.insert(shape.begin() + static_cast<int64_t>(at), parts.parts);
    letters.insert(at, 1, part);
    operands.push_back(cast(b, with(b, Op::reshape, x, &Attrs::shape, std::move(shape), where), DType::f32, where));
  }
  std::string out = spec.out;
  Shape back(parts.transposed.size());
  for (size_t d = 0; d < parts.transposed.size(); ++d) {
    out[d] = spec.out[static_cast<size_t>(parts.transposed[d])];
    back[static_cast<size_t>(parts.transposed[d])] = static_cast<int64_t>(d);
  }
  Attrs attrs;
  attrs.spec = spec.lhs + "," + spec.rhs + "->" + part + out;
  const NodeId sum = cast(b, with(b, Op::reduce_sum, b.add(Op::contract, std::move(operands), std::move(attrs), where), &Attrs::axes, {0}, where), product.type.dtype, where);
  return back.empty() ? sum : with(b, Op::transpose, sum, &Attrs::axes, std::move(back), where);
}

}  // namespace quern
