// Graphviz form of a graph: nodes with their types, kernel calls as clusters. Names are escaped.
#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/reader.h"
#include "ir/text.h"

namespace quern {
namespace {

void draw(const Graph& graph, const std::string& prefix, std::string& out) {
  const auto label = [](const std::string& text) { return quote(text); };
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    const std::string id = fmt::format("{}n{}", prefix, i);
    if (n.attrs.body) {
      out += fmt::format("  subgraph \"cluster_{}\" {{ label={};\n", id, label(n.attrs.name.empty() ? std::string(name_of(n.op)) : n.attrs.name));
      draw(*n.attrs.body, id + "_", out);
      if (n.attrs.otherwise) {
        out += fmt::format("  subgraph \"cluster_{}_else\" {{ label=\"otherwise\";\n", id);
        draw(*n.attrs.otherwise, id + "_else_", out);
        out += "  }\n";
      }
      out += fmt::format("  {} [shape=point];\n  }}\n", id);
    } else {
      std::string text = n.op == Op::input ? n.attrs.name : std::string(name_of(n.op));
      text += "\n" + to_string(n.type);
      out += fmt::format("  {} [label={}, shape={}];\n", id, label(text), n.op == Op::input ? "ellipse" : "box");
    }
    for (NodeId a : n.args) out += fmt::format("  {}n{} -> {};\n", prefix, a, id);
  }
  for (size_t o = 0; o < graph.outputs.size(); ++o)
    out += fmt::format("  {0}o{1} [label={2}, shape=ellipse];\n  {0}n{3} -> {0}o{1};\n", prefix, o, label(graph.outputs[o].name), graph.outputs[o].node);
}

}  // namespace

std::string to_dot(const Graph& graph) {
  std::string out = "digraph quern {\n  node [fontname=\"sans-serif\", fontsize=10];\n";
  draw(graph, "", out);
  return out + "}\n";
}

}  // namespace quern
