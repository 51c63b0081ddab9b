// A CUDA graph, built node by node with an edge wherever two nodes touch the same memory and one of them writes it.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/cuda/driver.h"

namespace quern::cuda_driver {

/// A graph under construction and then its executable form, destroyed with the last copy of its replay function; or the
/// body of a conditional node in such a graph.
class Recording {
 public:
  Recording() { want(driver().graph_create(&graph_, 0), "cuGraphCreate"); }
  explicit Recording(Handle body) : graph_(body), owned_(false) {}
  ~Recording() {
    if (executable) driver().graph_exec_destroy(executable);
    if (owned_) driver().graph_destroy(graph_);
  }
  Recording(const Recording&) = delete;
  Handle executable = nullptr;
  Handle graph() const { return graph_; }

  /// `add(graph, dependencies, count, &node)` adds the node that touches `operands`.
  /// It runs after the nodes that touch the same memory, where one of the two writes, and after node number `after`.
  /// Returns its number.
  template <class Add>
  size_t add(const std::vector<MemoryRange>& operands, Add&& add, size_t after = SIZE_MAX) {
    std::vector<char> wanted(nodes_.size()), covered(nodes_.size());
    if (after != SIZE_MAX) wanted[after] = 1;
    for (const Access& a : accesses_)
      for (const MemoryRange& o : operands)
        if ((a.written || o.written) && a.begin < raw(o.ptr) + static_cast<Ptr>(o.bytes) && raw(o.ptr) < a.end) wanted[a.node] = 1;
    // What a later dependency waits for already needs no edge of its own.
    std::vector<Handle> dependencies;
    std::vector<char> ancestors(nodes_.size() + 1);
    for (size_t n = nodes_.size(); n-- > 0;) {
      if (!wanted[n]) continue;
      ancestors[n] = 1;
      for (size_t m = 0; m < n; ++m) ancestors[m] = ancestors[m] || ancestors_[n][m];
      if (!covered[n]) dependencies.push_back(nodes_[n]);
      for (size_t m = 0; m < n; ++m) covered[m] = covered[m] || ancestors_[n][m];
    }
    Handle node = nullptr;
    add(graph_, dependencies.data(), dependencies.size(), &node);
    for (const MemoryRange& o : operands)   // whoever touches what this one writes waits for it, and so for those before it
      if (o.written) std::erase_if(accesses_, [&](const Access& a) { return raw(o.ptr) <= a.begin && a.end <= raw(o.ptr) + static_cast<Ptr>(o.bytes); });
    for (const MemoryRange& o : operands)
      if (o.bytes > 0) accesses_.push_back({raw(o.ptr), raw(o.ptr) + static_cast<Ptr>(o.bytes), nodes_.size(), o.written});
    nodes_.push_back(node);
    ancestors_.push_back(std::move(ancestors));
    return nodes_.size() - 1;
  }
  void instantiate() {
    want(driver().instantiate(&executable, graph_, 0), "cuGraphInstantiate");
    accesses_.clear();
    ancestors_.clear();
  }

 private:
  struct Access { Ptr begin, end; size_t node; bool written; };
  Handle graph_ = nullptr;
  bool owned_ = true;
  std::vector<Handle> nodes_;
  std::vector<Access> accesses_;
  std::vector<std::vector<char>> ancestors_;   // of each node: which earlier ones it waits for
};

}  // namespace quern::cuda_driver
