// See place.h: a view is a place where every element's distance from its argument's element is one constant.
#include "passes/plan/place.h"

#include <algorithm>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {

Placement placement_of(const Graph& graph, NodeId id) {
  constexpr int64_t kAlignment = 64;
  const Node& n = graph.at(id);
  const auto* view = std::get_if<View>(&def_of(n.op).meaning);
  if (!view || n.type.size() == 0) return {};
  std::vector<Type> types;
  for (NodeId a : n.args) types.push_back(graph.type(a));
  std::vector<Index> out;
  for (size_t d = 0; d < n.type.shape.size(); ++d) out.push_back(Index::axis(static_cast<int>(d), n.type.shape[d]));
  const Index position = flatten(out, n.type.shape);
  const std::vector<Piece> pieces = view->pieces(n, types, out);
  Placement place{pieces.size() == 1 && pieces[0].guards.empty() ? Placement::Kind::inside : Placement::Kind::around, std::vector<int64_t>(n.args.size(), -1)};
  int64_t covered = 0;
  for (const Piece& p : pieces) {
    const size_t arg = static_cast<size_t>(p.arg);
    const Index distance = flatten(p.index, types[arg].shape) - position;
    if (!distance.is_constant() || place.offsets[arg] >= 0) return {};
    // Offsets are known when the program is planned; what is laid out for the bound keeps its rows.
    const bool open = is_symbolic(n.type.shape) || is_symbolic(types[arg].shape);
    if (open && (distance.value() != 0 || rows_before_symbol(n.type.shape) != rows_before_symbol(types[arg].shape))) return {};
    const int64_t offset = distance.value() * size_of(n.type.dtype);
    place.offsets[arg] = place.kind == Placement::Kind::inside ? offset : -offset;
    if (place.offsets[arg] < 0 || place.offsets[arg] % kAlignment != 0) return {};
    covered += types[arg].size();
  }
  const bool tiles = pieces.size() == n.args.size() && covered == n.type.size();   // disjoint and all of it: pieces do not overlap
  if (place.kind == Placement::Kind::around ? !tiles : n.args.size() != 1) return {};
  return place;
}

std::vector<Place> places_of(const Graph& kernels) {
  std::vector<Place> places;
  for (size_t i = 0; i < kernels.nodes.size(); ++i) places.push_back({static_cast<NodeId>(i), 0});
  const auto at = [&](NodeId id) -> Place& { return places[static_cast<size_t>(id)]; };
  // Readers first: what an `around` holds may itself hold others. Then what lies inside something, in order.
  for (size_t i = kernels.nodes.size(); i-- > 0;) {
    const NodeId id = static_cast<NodeId>(i);
    if (const Placement p = placement_of(kernels, id); p.kind == Placement::Kind::around)
      for (size_t a = 0; a < p.offsets.size(); ++a) at(kernels.at(id).args[a]) = {at(id).whole, at(id).offset + p.offsets[a]};
  }
  for (size_t i = 0; i < kernels.nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    if (const Placement p = placement_of(kernels, id); p.kind == Placement::Kind::inside) {
      const Place& held = at(kernels.at(id).args[0]);
      at(id) = {held.whole, held.offset + p.offsets[0]};
    }
  }
  return places;
}

}  // namespace quern
