// See duplicate.h. A value's price is its bytes, twice for the write (a line comes before it is overwritten) and once for
// each kernel that reads it. Against that stand: what those kernels would read and don't yet, what would be stored for
// them and isn't yet, and the ops, in bytes that memory moves meanwhile.
#include "passes/graph/duplicate.h"

#include <algorithm>
#include <set>

#include "passes/work.h"

namespace quern {
namespace {

class Duplicates {
 public:
  Duplicates(Groups& groups, double share) : g_(groups), share_(share) {}

  // What a copy of the value takes; false where something else than maps is in the way.
  bool copy(NodeId value) {
    value_ = value, home_ = g_.group[at(value)];
    copies.clear(), sources.clear(), stored_for_it.clear();
    work = 0;
    const bool possible = gather(value);
    std::sort(copies.begin(), copies.end());
    return possible;
  }
  std::vector<NodeId> copies;              // of the value's group
  std::set<NodeId> sources;                // in memory
  std::vector<NodeId> stored_for_it;       // those that are not there yet
  double work = 0;                         // in bytes

  std::set<int> readers(NodeId id) const {
    std::set<int> out;
    for (NodeId u : g_.consumers[at(id)]) out.insert(g_.group[at(u)]);
    out.erase(g_.group[at(id)]);
    return out;
  }
  bool is_stored(NodeId id) const { return g_.root[at(id)] || !readers(id).empty(); }

  bool pays() {
    const int64_t bytes = type(value_).bytes();
    const std::set<int> all = readers(value_);
    double price = 0;
    for (NodeId s : stored_for_it) price += 2.0 * static_cast<double>(type(s).bytes());
    for (int c : all) {
      const std::set<NodeId> known = reads(c);
      int64_t walks = 1;
      for (NodeId m : g_.members[static_cast<size_t>(c)]) walks += means<Reduce>(g_.graph.at(m).op);
      for (NodeId s : sources)
        if (!known.count(s)) price += static_cast<double>(type(s).bytes());
      price += work * static_cast<double>(walks) * (bytes < kCached ? 4 : 1);
    }
    return price < static_cast<double>(bytes) * static_cast<double>(2 + all.size());
  }

  // From now on every group that wants it has its own copy.
  void detach(NodeId id) {
    const auto without = [](std::vector<NodeId> list, NodeId gone, const std::vector<NodeId>& more) {
      std::erase(list, gone);
      std::vector<NodeId> out;
      std::set_union(list.begin(), list.end(), more.begin(), more.end(), std::back_inserter(out));
      return out;
    };
    for (NodeId u : g_.consumers[at(id)]) g_.producers[at(u)] = without(g_.producers[at(u)], id, g_.producers[at(id)]);
    for (NodeId p : g_.producers[at(id)]) g_.consumers[at(p)] = without(g_.consumers[at(p)], id, g_.consumers[at(id)]);
    std::erase(g_.members[static_cast<size_t>(g_.group[at(id)])], id);
    g_.group[at(id)] = -1;
    g_.free[at(id)] = 1;
  }

 private:
  Groups& g_;
  double share_;
  NodeId value_ = -1;
  int home_ = -1;
  std::set<NodeId> seen_;

  static size_t at(NodeId id) { return static_cast<size_t>(id); }
  const Type& type(NodeId id) const { return g_.graph.type(id); }

  bool gather(NodeId id) {
    if (id == value_) seen_.clear();
    if (!seen_.insert(id).second) return true;
    const Node& n = g_.graph.at(id);
    const bool grouped = g_.group[at(id)] >= 0;
    if (!grouped && !g_.free[at(id)]) return sources.insert(id), true;
    if (grouped && (g_.group[at(id)] != home_ || (id != value_ && is_stored(id)))) return sources.insert(id), true;
    if (grouped && !means<Map>(n.op)) return sources.insert(id), stored_for_it.push_back(id), true;
    if (grouped) copies.push_back(id);
    if (means<Contract>(n.op) || means<Reduce>(n.op)) return false;   // a free one
    if (means<Map>(n.op)) work += share_ * price_of(n.op) * static_cast<double>(n.type.size());
    return std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) { return gather(a); });
  }

  std::set<NodeId> reads(int group) const {
    std::set<NodeId> seen, out;
    std::vector<NodeId> stack = g_.members[static_cast<size_t>(group)];
    while (!stack.empty()) {
      const NodeId id = stack.back();
      stack.pop_back();
      if (!seen.insert(id).second) continue;
      if (g_.group[at(id)] == group || g_.free[at(id)]) stack.insert(stack.end(), g_.graph.at(id).args.begin(), g_.graph.at(id).args.end());
      else out.insert(id);
    }
    return out;
  }
};

}  // namespace

void duplicate_maps(Groups& g, const std::function<bool(int group, const std::vector<NodeId>& copies, const std::vector<NodeId>& outputs)>& legal, const std::function<bool(NodeId)>& chosen, double share) {
  Duplicates d(g, share);
  for (size_t i = 0; i < g.graph.nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    if (g.group[i] < 0 || g.root[i] || !means<Map>(g.graph.at(id).op) || d.readers(id).empty()) continue;
    if (!d.copy(id) || !d.pays()) continue;
    const std::set<int> readers = d.readers(id);
    if (!std::all_of(readers.begin(), readers.end(), [&](int c) { return legal(c, d.copies, {}); })) continue;
    if (!d.stored_for_it.empty()) {
      std::vector<NodeId> outputs = d.stored_for_it;
      for (NodeId m : g.members[static_cast<size_t>(g.group[i])])
        if (m != id && d.is_stored(m)) outputs.push_back(m);
      std::sort(outputs.begin(), outputs.end());
      if (!legal(g.group[i], {}, outputs)) continue;
    }
    if (!chosen(id)) continue;
    for (NodeId c : std::vector(d.copies)) d.detach(c);
  }
}

}  // namespace quern
