// Places: views that are nothing but another place in memory. A reshape or a slice of whole rows lies inside its
// argument; the arguments of a concat of whole rows lie inside its result, so that whoever makes them fills it. After
// partition such views stand between the kernel calls, and the memory plan gives them sub-ranges instead of copies.
//   %3 = call {…}; %4 = call {…}; %5 = concat %3, %4 {axes=[0]}     three values, one range of memory
// Offsets are multiples of 64 bytes, as those of all slots, or the view is no place. Relies on View::pieces alone.
#pragma once
#include "ir/graph.h"

namespace quern {

struct Placement {
  enum class Kind { none, inside, around } kind = Kind::none;
  std::vector<int64_t> offsets;   // bytes: of the view in its argument (inside), of each argument in the view (around)
};
Placement placement_of(const Graph& graph, NodeId view);

/// The value whose memory holds a value, and where: itself and 0 for all but views between calls and what they hold.
struct Place {
  NodeId whole;
  int64_t offset;
};
std::vector<Place> places_of(const Graph& kernels);

}  // namespace quern
