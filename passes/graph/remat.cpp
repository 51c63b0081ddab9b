// remat: values that wait in memory while the most is live are computed once more where they are read, until the
// temporaries fit a limit. Runs only where there is one (PassContext::memory_limit); its choices are events.
//   before: %3 = tanh %0;  … much else …;  %90 = mul %3, %89
//   after:  %3 = tanh %0;  … much else …;  %88 = barrier %0;  %89 = tanh %88;  %90 = mul %89, %88
// Greedy: the peak of the partitioned graph in step order is found; of the kernels' results that are live there but not
// read, that one is recomputed for its later readers which brings the peak down most cheaply (elementwise kernels before
// products, large values before small ones). What a recomputation reads lives longer, so each choice is measured.
// Relies on partition and order, which it runs. A loop or branch counts with what it holds (codegen/assemble.cpp): its
// places for carries and stacks, and what its bodies need; nothing inside of it is recomputed.
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

struct Bodies {
  int64_t bound;       // of the symbol
  PassContext quiet;   // what partition decides by
  std::map<std::shared_ptr<const Graph>, int64_t> known;
};
std::vector<Live> values_of(const Graph& g, const std::map<NodeId, int>& step, Bodies& bodies);

// What the body of a loop or branch needs beside its inputs and outputs.
int64_t bytes_of_body(const std::shared_ptr<const Graph>& body, Bodies& bodies) {
  if (!body) return 0;
  if (const auto it = bodies.known.find(body); it != bodies.known.end()) return it->second;
  PassContext quiet = bodies.quiet;
  const Graph kernels = partition(*body, quiet);
  std::map<NodeId, int> step;
  for (NodeId call : order_calls(kernels)) step.emplace(call, static_cast<int>(step.size()));
  std::vector<Lifetime> lifetimes;
  for (const Live& v : values_of(kernels, step, bodies)) lifetimes.push_back({v.bytes, v.made, v.last});
  return bodies.known[body] = plan_memory(lifetimes).total;
}

// The places for the results of a loop or branch. A carry has two that take turns; where the scan stacks it, they are part
// of one stack.
int64_t bytes_of_places(const Graph& g, const Node& n, int64_t bound) {
  int64_t bytes = 0;
  const auto rounded = [&](const Type& type) { return round_up(at_size(type, bound).bytes(), 64); };
  const size_t carries = n.op == Op::cond ? 0 : static_cast<size_t>(n.attrs.index[0]);
  std::set<size_t> shared;   // stacks that lie where the carries do
  for (size_t k = 0; k < carries; ++k) {
    const Type& type = g.type(n.args[k]);
    bool before = false, after = false;
    for (size_t o = carries; o < n.type.results.size() && n.op == Op::scan && !is_symbolic(n.attrs.limit[0]) && at_size(type, bound).bytes() % 64 == 0; ++o) {
      const NodeId stacked = n.attrs.body->outputs[o].node;
      if (stacked == n.attrs.body->inputs[k] && !before) before = true, shared.insert(o);
      if (stacked == n.attrs.body->outputs[k].node && !after && !shared.count(o)) after = true, shared.insert(o);
    }
    bytes += checked_mul(before || after ? n.attrs.limit[0] + 1 : 2, rounded(type));
  }
  for (size_t o = carries; o < n.type.results.size(); ++o)
    if (!shared.count(o)) bytes += rounded(n.type.results[o]);
  return bytes;
}

// The temporaries of a graph of kernels; `value`: the result that one is, if it is one alone.
std::vector<Live> values_of(const Graph& g, const std::map<NodeId, int>& step, Bodies& bodies) {
  const std::vector<Place> places = places_of(g);
  const auto whole = [&](NodeId id) { return places[static_cast<size_t>(id)].whole; };
  const auto control = [&](NodeId id) { return g.at(id).op == Op::result && is_control_flow(g.at(g.at(id).args[0]).op); };
  std::set<NodeId> kept, late;   // roots: in slots of their own; in those of loops and branches, copied at the end
  for (NodeId r : g.roots()) (control(whole(r)) ? late : kept).insert(whole(r));
  std::map<NodeId, Live> live;   // by whole, or by loop or branch
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    const Node& n = g.nodes[i];
    if (is_control_flow(n.op)) live.emplace(id, Live{-1, bytes_of_places(g, n, bodies.bound), step.at(id), step.at(id), {}});
    if (n.op == Op::result && !control(whole(id)) && !kept.count(whole(id))) {
      const int at = step.at(n.args[0]);
      const auto [it, fresh] = live.emplace(whole(id), Live{whole(id) == id ? id : -1, at_size(g.type(whole(id)), bodies.bound).bytes(), at, at, {}});
      it->second.made = std::min(it->second.made, at);
      if (!fresh) it->second.value = -1;
    } else if (control(id) && late.count(id)) {
      live.at(n.args[0]).last = static_cast<int>(step.size()) - 1;
    } else if (means<Body>(n.op) && n.op != Op::result) {
      for (NodeId a : n.args)
        if (const auto it = live.find(control(whole(a)) ? g.at(whole(a)).args[0] : whole(a)); it != live.end()) {
          it->second.last = std::max(it->second.last, step.at(id));
          it->second.reads.insert(step.at(id));
        }
    }
  }
  std::vector<Live> out;
  for (const auto& [id, v] : live) out.push_back(v);
  for (const auto& [call, at] : step)
    if (const Node& n = g.at(call); is_control_flow(n.op)) out.push_back({-1, std::max(bytes_of_body(n.attrs.body, bodies), bytes_of_body(n.attrs.otherwise, bodies)), at, at, {}});
  return out;
}

Measured measure(const Graph& graph, Bodies& bodies) {
  Measured m;
  PassContext quiet = bodies.quiet;
  m.partition = partition_with_origins(graph, quiet);
  const Graph& g = m.partition.kernels;
  const std::vector<NodeId> calls = order_calls(g);
  for (size_t i = 0; i < calls.size(); ++i) m.step[calls[i]] = static_cast<int>(i);
  std::map<NodeId, NodeId> origin;
  for (const auto& [before, after] : m.partition.result_of) origin[after] = before;
  std::vector<Lifetime> lifetimes;
  std::vector<int64_t> change(calls.size() + 1);
  for (Live& v : values_of(g, m.step, bodies)) {
    v.value = v.value >= 0 && origin.count(v.value) ? origin.at(v.value) : -1;
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
  Bodies bodies{g.symbol ? g.symbol->high : 1, {}, {}};
  bodies.quiet.nested_products = context.nested_products, bodies.quiet.op_share = context.op_share;
  Measured m = measure(g, bodies);
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
      Measured after = measure(next, bodies);
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
      throw Error(Code::out_of_memory, fmt::format("the least bytes of temporaries that were found are {}, the memory limit is {}", m.total, context.memory_limit)).with_help(fmt::format("raise the limit; {} values are computed once more already, chosen one by one, and none more that waits at the peak makes it lower", context.recomputed.size()));
  }
  return g;
}

}  // namespace quern
