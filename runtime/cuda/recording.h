// A CUDA graph, built node by node with an edge wherever two nodes touch the same memory and one of them writes it.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <vector>

#include "runtime/cuda/driver.h"

namespace quern::cuda_driver {

/// When a node may begin: behind those that it waits for; or, of a kernel that waits by itself, beside the one of its kind that it waits
/// for. Such a kernel passes its wait when that one is done, and what it wrote is seen; that one has passed its own by then, so what
/// it waited for is done as well, and an edge that follows from two others may be left out here as anywhere. A kernel begins when
/// all blocks of the one before it have ended, so none of these waits for a place that it holds. But kernels of other branches
/// would: it begins beside only where it and the one before are the only nodes of their levels.
enum class Begins : uint8_t { behind,
                              beside };

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
  /// It runs after the nodes that touch the same memory, where one of the two writes, and after node number `after`. Returns its number.
  template <class Add>
  size_t add(const std::vector<MemoryRange>& operands, Add&& add, Begins begins = Begins::behind, size_t after = kNone) {
    const size_t me = nodes_.size();
    std::vector<size_t> earlier;
    if (after != kNone) earlier.push_back(after);
    for (const MemoryRange& o : operands)
      for (auto it = first_of(o); o.bytes > 0 && it != pieces_.end() && it->first < end_of(o); ++it) {
        if (it->second.writer != kNone) earlier.push_back(it->second.writer);
        if (o.written) earlier.insert(earlier.end(), it->second.readers.begin(), it->second.readers.end());
      }
    std::sort(earlier.begin(), earlier.end(), std::greater<>());
    earlier.erase(std::unique(earlier.begin(), earlier.end()), earlier.end());
    // What a later dependency waits for already needs no edge of its own.
    std::vector<Handle> dependencies;
    Node node{nullptr, begins};
    Waits waits{};
    for (size_t n : earlier) {
      if (waits_for(me, waits, n)) continue;
      dependencies.push_back(nodes_[n].handle);
      node.level = std::max(node.level, nodes_[n].level + 1);
      node.before = n;
      ++nodes_[n].readers;
      if (me - n > kWindow) continue;
      waits[n / 64 % kWords] |= uint64_t{1} << n % 64;
      const Waits& its = waits_[n % kWindow];
      for (size_t w = me / 64 - std::min(me / 64, kWindow / 64); w <= n / 64; ++w) waits[w % kWords] |= its[w % kWords];
    }
    const bool later = dependencies.size() == 1 && begins == Begins::beside && nodes_[node.before].begins == Begins::beside;   // its edge, by `finish`
    if (!later) node.before = kNone;
    add(graph_, dependencies.data(), later ? 0 : dependencies.size(), &node.handle);
    nodes_.push_back(node);
    if (widths_.size() <= node.level) widths_.resize(node.level + 1);
    ++widths_[node.level];
    if (waits_.size() < kWindow) waits_.push_back(waits);
    else waits_[me % kWindow] = waits;
    for (const MemoryRange& o : operands)
      if (!o.written) read(me, waits, o);
    for (const MemoryRange& o : operands)
      if (o.written) write(me, o);
    return me;
  }
  /// Behind the last node.
  void finish() {
    std::vector<Handle> from, to;
    std::vector<EdgeKind> kinds;
    for (const Node& n : nodes_) {
      if (n.before == kNone) continue;
      const Node& before = nodes_[n.before];
      from.push_back(before.handle), to.push_back(n.handle);
      kinds.push_back(before.readers == 1 && widths_[before.level] == 1 && widths_[n.level] == 1 ? kProgrammatic : EdgeKind{});
    }
    if (!from.empty()) want(driver().add_edges(graph_, from.data(), to.data(), kinds.data(), from.size()), "cuGraphAddDependencies");
  }
  void instantiate() {
    finish();
    want(driver().instantiate(&executable, graph_, 0), "cuGraphInstantiate");
    pieces_.clear();
    waits_ = {};
  }

 private:
  static constexpr size_t kNone = SIZE_MAX;
  // Of so many nodes before it a node knows whether it waits for them; edges to older ones are kept.
  static constexpr size_t kWindow = 4096, kWords = kWindow / 64 + 1;
  using Waits = std::array<uint64_t, kWords>;   // node n: bit n % 64 of word n / 64 % kWords
  // Memory up to `end`, with the node that wrote it last and those that have read it since.
  struct Piece {
    Ptr end;
    size_t writer;
    std::vector<size_t> readers;
  };
  using Pieces = std::map<Ptr, Piece>;   // by where they begin; disjoint

  Handle graph_ = nullptr;
  bool owned_ = true;
  struct Node {
    Handle handle;
    Begins begins;
    size_t before = kNone;    // the only one that it waits for, with an edge that `finish` adds
    size_t level = 0, readers = 0;   // of the nodes that it waits for the longest line; that wait for it
  };
  std::vector<Node> nodes_;
  std::vector<size_t> widths_;   // nodes of each level
  Pieces pieces_;
  std::vector<Waits> waits_;   // of the last nodes: number n % kWindow

  static bool waits_for(size_t node, const Waits& waits, size_t n) { return node - n <= kWindow && (waits[n / 64 % kWords] >> n % 64 & 1); }
  static Ptr end_of(const MemoryRange& o) { return raw(o.ptr) + static_cast<Ptr>(o.bytes); }
  // The first piece that may meet a range.
  Pieces::iterator first_of(const MemoryRange& o) {
    const auto it = pieces_.upper_bound(raw(o.ptr));
    return it != pieces_.begin() && std::prev(it)->second.end > raw(o.ptr) ? std::prev(it) : it;
  }
  // No piece lies on both sides of `at`.
  void cut(Ptr at) {
    auto it = pieces_.lower_bound(at);
    if (it == pieces_.begin() || (--it)->second.end <= at) return;
    pieces_.emplace(at, it->second);
    it->second.end = at;
  }
  void read(size_t node, const Waits& waits, const MemoryRange& o) {
    if (o.bytes == 0) return;
    cut(raw(o.ptr)), cut(end_of(o));
    auto it = pieces_.lower_bound(raw(o.ptr));
    for (Ptr at = raw(o.ptr); at < end_of(o); at = it->second.end, ++it) {
      if (it == pieces_.end() || it->first > at) {
        it = pieces_.emplace(at, Piece{it == pieces_.end() ? end_of(o) : std::min(end_of(o), it->first), kNone, {node}}).first;
        continue;
      }
      std::vector<size_t>& readers = it->second.readers;   // who waits for this one waits for those that it waits for
      while (!readers.empty() && (readers.back() == node || waits_for(node, waits, readers.back()))) readers.pop_back();
      readers.push_back(node);
    }
  }
  void write(size_t node, const MemoryRange& o) {
    if (o.bytes == 0) return;
    cut(raw(o.ptr)), cut(end_of(o));
    pieces_.erase(pieces_.lower_bound(raw(o.ptr)), pieces_.lower_bound(end_of(o)));
    pieces_.emplace(raw(o.ptr), Piece{end_of(o), node, {}});
  }
};

}  // namespace quern::cuda_driver
