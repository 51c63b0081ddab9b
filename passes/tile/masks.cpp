// See masks.h.
#include "passes/tile/masks.h"

namespace quern::tile {

std::optional<Index> in_coordinates(const MapTile& m, int node, const std::map<ValueId, Index>& numbers) {
  const ScalarNode& n = m.expr[static_cast<size_t>(node)];
  if (n.dtype != DType::i32 && n.dtype != DType::i64) return std::nullopt;
  const auto fits = [&](const Index& x) { return n.dtype == DType::i64 || (x.low() >= INT32_MIN && x.high() <= INT32_MAX) ? std::optional(x) : std::nullopt; };
  if (n.kind == ScalarNode::Kind::coord) return n.coord;
  if (n.kind == ScalarNode::Kind::constant) return std::abs(n.constant.i) <= kMaxExtent ? std::optional(Index(n.constant.i)) : std::nullopt;
  if (n.kind == ScalarNode::Kind::operand) {
    const auto it = numbers.find(m.args[static_cast<size_t>(n.operand)]);
    return it == numbers.end() ? std::nullopt : std::optional(it->second);
  }
  if (n.kind != ScalarNode::Kind::op || (n.op != Op::cast && n.op != Op::add && n.op != Op::sub)) return std::nullopt;
  const auto x = in_coordinates(m, n.args[0], numbers);
  if (n.op == Op::cast || !x) return x ? fits(*x) : x;
  const auto y = in_coordinates(m, n.args[1], numbers);
  return y ? fits(n.op == Op::add ? *x + *y : *x - *y) : y;
}

std::optional<Index> excess_of(const MapTile& m, const ScalarNode& n, const std::map<ValueId, Index>& numbers) {
  if (n.kind != ScalarNode::Kind::op || (n.op != Op::lt && n.op != Op::le)) return std::nullopt;
  const auto x = in_coordinates(m, n.args[0], numbers), y = in_coordinates(m, n.args[1], numbers);
  return x && y ? std::optional(*x - *y + Index(n.op == Op::lt)) : std::nullopt;
}

}  // namespace quern::tile
