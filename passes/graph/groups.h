// A partition under way (partition.cpp): which nodes share a kernel, and what of them is in memory.
#pragma once
#include <set>
#include <vector>

#include "passes/graph/partition.h"

namespace quern {

inline constexpr size_t kMaxOutputs = 16, kMaxNodes = 400;   // of a kernel

/// Of each node its group, or -1: an input, a constant, or `free`, of which every group has its own copy. Of each group its
/// members. Grouped nodes that a grouped node reads, and that read it, through free ones. All lists are sorted.
struct Groups {
  const Graph& graph;
  const std::vector<char>& root;
  std::vector<char>& free;
  std::vector<int>& group;
  std::vector<std::vector<NodeId>>&members, &producers, &consumers;

  /// A cast to a shorter float. A product reads less where it is written out once.
  bool is_rounding(NodeId id) const;
  /// A cast to a longer float: what is in memory is the shorter one.
  bool is_widening(NodeId id) const;
  /// Those of the nodes that others read, or that are the graph's.
  std::vector<NodeId> outputs_of(const std::vector<NodeId>& nodes) const;
  /// What is in memory and they read.
  std::set<NodeId> sources_of(const std::vector<NodeId>& nodes) const;
};

/// Maps of one shape in every step, and single elements; so each element can walk through the steps alone.
bool is_elementwise_scan(const Node& n);

/// One call for each group, but for `places`, the only members of theirs: they are views that need no kernel.
Partition build_calls(const Groups& groups, const std::set<NodeId>& places);

}  // namespace quern
