// Text form of a Graph (.qir), see ir/graph.h for its shape: prints and parses back to an equal graph.
#pragma once
#include "ir/graph.h"

namespace quern {

std::string to_string(const Graph& graph);
/// Throws Error(bad_file) with file:line and what was expected. Every node goes through its type rule; the written type must agree.
Graph parse_graph(const std::string& text, const std::string& file = "<text>");
/// Graphviz. Kernel calls become clusters. Names are escaped.
std::string to_dot(const Graph& graph);

}  // namespace quern
