// Which extents of a graph go together, so that one of them can become another number or a symbol: what elementwise ops,
// views, products and bodies make alike is one class. Where a class changes, the graph is built anew and its type rules say
// whether it still is one.
#pragma once
#include <map>
#include <optional>

#include "ir/graph.h"

namespace quern {

class Extents {
 public:
  explicit Extents(const Graph& graph);
  struct Class {
    int id;
    int64_t extent;
    std::vector<std::pair<size_t, size_t>> inputs;   // and dims of them
    bool of_state = false;
  };
  const std::vector<Class>& classes() const { return classes_; }
  /// The graph whose extents of class `id` are others; what reshapes make of them follows. Throws Error where there is none.
  Graph with(int id, int64_t extent, const std::optional<Symbol>& symbol) const;

 private:
  using Dims = std::vector<int>;
  const Graph& graph_;
  std::vector<int> parent_;
  std::vector<int64_t> extent_;
  std::vector<char> fixed_;
  std::map<const Graph*, std::vector<std::vector<Dims>>> dims_;   // of every result of every node
  std::vector<Class> classes_;

  int root(int v) const;
  void alike(int a, int b);
  void alike(const Dims& a, const Dims& b);
  void visit(const Graph& g);
  void relate(const Graph& g, const Node& n, const std::vector<Dims>& out);
  void relate_body(const Graph& g, const Node& n, const std::vector<Dims>& out);
  using Others = std::map<int, int64_t>;   // extents of classes that have changed
  int64_t extent(int v, const Others& others) const;
  Attrs attrs_of(const Graph& g, NodeId id, const GraphBuilder& b, const std::vector<NodeId>& args, Others& others, bool& again) const;
  Graph build(const Graph& g, Others& others, const std::optional<Symbol>& symbol, bool& again) const;
};

/// The leading elements, in every dim.
HostTensor cropped(const HostTensor& value, const Shape& shape);

}  // namespace quern
