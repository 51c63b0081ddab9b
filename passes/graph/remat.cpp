// remat: values that wait in memory while the most is live are computed once more where they are read, until the
// temporaries fit a limit. Runs only where there is one (PassContext::memory_limit); its choices are events.
//   before: %3 = tanh %0;  … much else …;  %90 = mul %3, %89
//   after:  %3 = tanh %0;  … much else …;  %88 = barrier %0;  %89 = tanh %88;  %90 = mul %89, %88
// Greedy: the peak of the partitioned graph in step order is found; of the kernels' results that are live there but not
// read, that one is recomputed for its later readers which brings the peak down most cheaply (elementwise kernels before
// products, large values before small ones). What a recomputation reads lives longer, so each choice is measured.
// Relies on partition and order, which it runs; bodies of control flow count as they are.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/partition.h"
#include "passes/pass.h"
#include "passes/plan/memory.h"
#include "passes/plan/order.h"
#include "passes/plan/place.h"

namespace quern {
namespace {

struct Live {
  NodeId value;              // of the graph before partition; -1: of none alone
  int64_t bytes;
  int made, last;
  std::set<int> reads;       // steps
};
struct Measured {
  Partition partition;
  std::map<NodeId, int> step;   // of calls
  std::vector<Live> values;
  int64_t total = 0;         // of the plan
  int peak = 0;              // the step at which most is live
};

Measured measure(const Graph& graph) {
  Measured m;
  PassContext quiet;
  m.partition = partition_with_origins(graph, quiet);
  const Graph& g = m.partition.kernels;
  const std::vector<NodeId> calls = order_calls(g);
  for (size_t i = 0; i < calls.size(); ++i) m.step[calls[i]] = static_cast<int>(i);
  const std::vector<Place> places = places_of(g);
  const auto whole = [&](NodeId id) { return places[static_cast<size_t>(id)].whole; };
  std::set<NodeId> kept;   // in slots of their own: outputs and states
  for (NodeId r : g.roots()) kept.insert(whole(r));
  std::map<NodeId, NodeId> origin;
  for (const auto& [before, after] : m.partition.result_of) origin[after] = before;
  std::map<NodeId, Live> live;
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    const Node& n = g.nodes[i];
    if (n.op == Op::result && !kept.count(whole(id))) {
      const int at = m.step.at(n.args[0]);
      const bool alone = whole(id) == id && g.at(n.args[0]).op == Op::call && origin.count(id);
      const auto [it, fresh] = live.emplace(whole(id), Live{alone ? origin.at(id) : -1, at_size(g.type(whole(id)), graph.symbol ? graph.symbol->high : 1).bytes(), at, at, {}});
      it->second.made = std::min(it->second.made, at);
      if (!fresh) it->second.value = -1;
    } else if (means<Body>(n.op) && n.op != Op::result) {
      for (NodeId a : n.args)
        if (const auto it = live.find(whole(a)); it != live.end()) {
          it->second.last = std::max(it->second.last, m.step.at(id));
          it->second.reads.insert(m.step.at(id));
        }
    }
  }
  std::vector<Lifetime> lifetimes;
  std::vector<int64_t> change(calls.size() + 1);
  for (const auto& [id, v] : live) {
    m.values.push_back(v);
    lifetimes.push_back({v.bytes, v.made, v.last});
    change[static_cast<size_t>(v.made)] += v.bytes;
    change[static_cast<size_t>(v.last) + 1] -= v.bytes;
  }
  int64_t now = 0, most = -1;
  for (size_t i = 0; i < change.size(); ++i)
    if (now += change[i]; now > most) most = now, m.peak = static_cast<int>(i);
  m.total = plan_memory(lifetimes).total;
  return m;
}

// The graph in which readers of `value` in kernels after the peak read a copy that is computed from the kernel's operands.
class Recompute {
 public:
  Recompute(const Graph& graph, const Measured& m, NodeId value) : graph_(graph), m_(m), value_(value) {}
  Graph run() {
    b_.symbol(graph_.symbol);
    map_.assign(graph_.nodes.size(), -1);
    late_.assign(graph_.nodes.size(), -1);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = graph_.nodes[i];
      if (n.op == Op::input) {
        map_[i] = b_.input(n.attrs.name, n.type, graph_.where(id));
        continue;
      }
      const NodeId call = m_.partition.call_of[i];
      const bool late = call >= 0 && id != value_ && m_.step.at(call) > m_.peak;
      std::vector<NodeId> args;
      for (NodeId a : n.args) args.push_back(late ? read_late(a) : map_[static_cast<size_t>(a)]);
      map_[i] = b_.add(n.op, std::move(args), n.attrs, graph_.where(id));
    }
    for (const NamedOutput& o : graph_.outputs) b_.output(o.name, map_[static_cast<size_t>(o.node)]);
    for (const State& s : graph_.states) b_.state(s.name, map_[static_cast<size_t>(s.input)], map_[static_cast<size_t>(s.output)]);
    return dead_code(b_.finish());
  }

 private:
  const Graph& graph_;
  const Measured& m_;
  NodeId value_;
  GraphBuilder b_;
  std::vector<NodeId> map_, late_;   // of each node: as it was; as kernels after the peak read it, -1: not asked yet
  std::map<NodeId, NodeId> copy_;

  bool free(NodeId id) const { return m_.partition.call_of[static_cast<size_t>(id)] < 0 && graph_.at(id).op != Op::input && graph_.at(id).op != Op::constant; }
  NodeId read_late(NodeId id) {
    NodeId& known = late_[static_cast<size_t>(id)];
    if (known >= 0) return known;
    if (id == value_) return known = copy(id);
    if (!free(id)) return known = map_[static_cast<size_t>(id)];
    std::vector<NodeId> args;
    for (NodeId a : graph_.at(id).args) args.push_back(read_late(a));
    return known = b_.add(graph_.at(id).op, std::move(args), graph_.at(id).attrs, graph_.where(id));
  }
  // Within the value's kernel again, from a barrier in front of what the kernel reads.
  NodeId copy(NodeId id) {
    if (const auto it = copy_.find(id); it != copy_.end()) return it->second;
    const Node& n = graph_.at(id);
    const bool inside = m_.partition.call_of[static_cast<size_t>(id)] == m_.partition.call_of[static_cast<size_t>(value_)] || (free(id) && !n.args.empty());
    if (!inside && n.args.empty() && n.op != Op::input) return copy_[id] = map_[static_cast<size_t>(id)];
    if (!inside) return copy_[id] = b_.add(Op::barrier, {map_[static_cast<size_t>(id)]});
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(copy(a));
    return copy_[id] = b_.add(n.op, std::move(args), n.attrs, graph_.where(id));
  }
};

}  // namespace

Graph remat(const Graph& graph, PassContext& context) {
  if (context.memory_limit < 0) return graph;
  Graph g = dead_code(graph);
  Measured m = measure(g);
  std::set<std::string> refused;   // values that did not help, by what they are: numbers change
  const auto text = [&](NodeId v) { return fmt::format("`{}` {} {}", name_of(g.at(v).op), to_string(g.type(v)), to_string(g.where(v))); };
  while (m.total > context.memory_limit) {
    std::vector<const Live*> candidates;
    for (const Live& v : m.values)
      if (v.value >= 0 && v.made < m.peak && v.last > m.peak && !v.reads.count(m.peak) && !refused.count(fmt::format("{}{}", v.value, text(v.value)))) candidates.push_back(&v);
    const auto product = [&](const Live* v) {
      const NodeId call = m.partition.call_of[static_cast<size_t>(v->value)];
      const std::vector<Node>& nodes = m.partition.kernels.at(call).attrs.body->nodes;
      return std::any_of(nodes.begin(), nodes.end(), [](const Node& n) { return means<Contract>(n.op) || means<PutAdd>(n.op); });
    };
    std::stable_sort(candidates.begin(), candidates.end(), [&](const Live* x, const Live* y) { return product(x) != product(y) ? product(y) : x->bytes > y->bytes; });
    bool found = false;
    for (const Live* v : candidates) {
      const std::string what = text(v->value);
      Graph next = Recompute(g, m, v->value).run();
      Measured after = measure(next);
      if (after.total >= m.total || !context.allow()) {
        refused.insert(fmt::format("{}{}", v->value, what));
        continue;
      }
      context.recomputed.push_back(fmt::format("memory limit {} bytes: {} is computed once more instead of kept: {} -> {} bytes", context.memory_limit, what, m.total, after.total));
      g = std::move(next);
      m = std::move(after);
      refused.clear();
      found = true;
      break;
    }
    if (!found)
      throw Error(Code::out_of_memory, fmt::format("temporaries need {} bytes at least, the memory limit is {}", m.total, context.memory_limit)).with_help(fmt::format("raise the limit; {} values are computed once more already, and nothing that waits at the peak makes it lower", context.recomputed.size()));
  }
  return g;
}

}  // namespace quern
