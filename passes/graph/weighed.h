// Products of what kernels compute for themselves (recompute.h), in a partition under way: which may be one kernel, what else may
// be in it where roles are to take it (passes/tile/roles_nested.h), and what the target then refuses.
#pragma once
#include <optional>
#include <string>

#include "passes/graph/groups.h"

namespace quern {

struct Summed {
  Shape shape;               // of the recomputed operand
  std::vector<size_t> dims;  // which of it are summed
  std::set<NodeId> products; // what it is made of
};
/// Of a product with such an operand.
std::optional<Summed> summed_scores(const Groups& groups, NodeId id);
/// Both products of the nodes sum the same places of it, for results of one shape.
bool share_scores(const Groups& groups, const std::vector<NodeId>& nodes);
/// Two products that share_scores, of which the second one's weights are made of all that the first one's are, and a third that sums the second's along their other axis, for results of the same shape.
struct InOrder {
  NodeId first, second, across;
  NodeId wide = -1;          // the third's sum in f32, where that is what is read of it, from memory (ordered.cpp)
};
std::vector<InOrder> sums_in_order(const Groups& groups);
/// They are of the nodes.
bool are_among(const InOrder& sums, const std::vector<NodeId>& nodes);
/// Roles store one result of each such product, and what makes it of the sum reads nothing else; empty, or what stands against it.
std::string not_for_roles(const Groups& groups, const std::vector<NodeId>& nodes, const std::vector<NodeId>& outputs);
/// What the target refuses to compute within kernels, and why: by the cluster's first node. `cluster`: that of each node, or -1.
std::map<NodeId, std::string> refused_clusters(const Groups& groups, const std::vector<NodeId>& cluster, const Partition& made, const PassContext& context);

}  // namespace quern
