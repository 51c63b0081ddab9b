// Three orders are weighed: the graph's own; greedy: among the calls whose operands are ready, the one that adds least to the live
// bytes, ties in the graph's order; and eager: the first in the graph's order that adds none, or the first of all. A state's new value
// takes its slot only after the last other reader of the old one: made earlier, it is live until the end and then copied, which counts as
// kCopy bytes more. The least peak is taken; of peaks about equal, since kernels that overwrite what they read lower some of
// them later, what has fewest bytes live in the mean without copying more.
#include "passes/plan/order.h"

#include <algorithm>
#include <map>
#include <set>

#include "ir/op.h"

namespace quern {
namespace {

constexpr int64_t kCopy = 1 << 20;   // about what a GPU moves in the time of a launch
constexpr int64_t kNone = 1 << 10;   // bytes that hardly count
constexpr int64_t kAlike = 128;      // peaks that differ by such a part are about equal

class Orderer {
 public:
  explicit Orderer(const Graph& graph) : graph_(graph) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& n = graph.nodes[i];
      if (means<Body>(n.op) && n.op != Op::result) calls_.push_back(static_cast<NodeId>(i));
      if (n.op == Op::result) results_[n.args[0]].push_back(static_cast<NodeId>(i));
    }
    for (NodeId r : graph.roots()) {
      std::vector<NodeId> results;
      collect(r, results);
      for (NodeId result : results) rooted_[result] = true;
    }
    for (NodeId c : calls_) {
      needs_[c] = temporaries(c);
      for (NodeId a : needs_[c]) ++readers_[a];
    }
    std::map<NodeId, std::vector<NodeId>> readers;   // inputs → the calls that read them
    for (NodeId c : calls_) {
      std::set<NodeId> inputs;
      for (NodeId a : graph_.at(c).args) collect_inputs(a, inputs);
      for (NodeId i : inputs) readers[i].push_back(c);
    }
    for (const State& s : graph_.states)
      if (const Node& made = graph_.at(s.output); made.op == Op::result)
        for (NodeId c : readers[s.input])
          if (c != made.args[0]) other_readers_[s.output].push_back(c);
  }
  std::vector<NodeId> run() {
    std::vector<NodeId> best = calls_;
    Cost least = cost(calls_);
    for (const Choice choice : {Choice::least_growth, Choice::first_that_fits}) {
      std::vector<NodeId> order = schedule(choice);
      if (const Cost c = cost(order); is_less(c, least)) least = c, best = std::move(order);
    }
    return best;
  }

 private:
  using Done = std::map<NodeId, bool>;
  const Graph& graph_;
  std::vector<NodeId> calls_;
  std::map<NodeId, std::vector<NodeId>> results_;
  std::map<NodeId, bool> rooted_;
  std::map<NodeId, std::vector<NodeId>> needs_;    // calls → their temporaries
  std::map<NodeId, int> readers_;
  std::map<NodeId, std::vector<NodeId>> other_readers_;   // new values of states → the calls that read the old ones elsewhere

  // The results of other calls that `call` reads, each once; through the views between calls.
  std::vector<NodeId> temporaries(NodeId call) const {
    std::vector<NodeId> out;
    for (NodeId a : graph_.at(call).args) collect(a, out);
    return out;
  }
  void collect(NodeId value, std::vector<NodeId>& out) const {
    const Node& n = graph_.at(value);
    if (n.op == Op::result) {
      if (std::find(out.begin(), out.end(), value) == out.end()) out.push_back(value);
    } else if (n.op != Op::input) {
      for (NodeId a : n.args) collect(a, out);
    }
  }
  void collect_inputs(NodeId value, std::set<NodeId>& out) const {
    const Node& n = graph_.at(value);
    if (n.op == Op::input) out.insert(value);
    else if (n.op != Op::result)
      for (NodeId a : n.args) collect_inputs(a, out);
  }
  // What states cost whose new values the call makes while their old ones are still wanted.
  int64_t early(NodeId call, const Done& done) const {
    int64_t bytes = 0;
    if (const auto it = results_.find(call); it != results_.end())
      for (NodeId r : it->second)
        if (const auto others = other_readers_.find(r); others != other_readers_.end())
          if (!std::all_of(others->second.begin(), others->second.end(), [&](NodeId c) { return done.count(c) > 0; })) bytes += graph_.type(r).bytes() + kCopy;
    return bytes;
  }
  // Bytes that become live and bytes that die with a call.
  int64_t made(NodeId call) const {
    int64_t bytes = 0;
    if (const auto it = results_.find(call); it != results_.end())
      for (NodeId r : it->second)
        if (!rooted_.count(r)) bytes += graph_.type(r).bytes();
    return bytes;
  }
  int64_t freed(NodeId call, const std::map<NodeId, int>& left) const {
    int64_t bytes = 0;
    for (NodeId a : needs_.at(call))
      if (left.at(a) == 1 && !rooted_.count(a)) bytes += graph_.type(a).bytes();
    return bytes;
  }
  enum class Choice { least_growth,
                      first_that_fits };
  std::vector<NodeId> schedule(Choice choice) const {
    std::vector<NodeId> out;
    std::map<NodeId, int> left = readers_;
    Done done;
    // Calls whose operands are there, by their place in the graph's order; and how many others a call waits for.
    std::set<size_t> ready;
    std::vector<size_t> missing;
    std::map<NodeId, std::vector<size_t>> followers;
    for (size_t i = 0; i < calls_.size(); ++i) {
      std::set<NodeId> before;
      for (NodeId a : needs_.at(calls_[i])) before.insert(graph_.at(a).args[0]);
      for (NodeId c : before) followers[c].push_back(i);
      missing.push_back(before.size());
      if (before.empty()) ready.insert(i);
    }
    while (!ready.empty()) {
      size_t best = *ready.begin();
      int64_t least = INT64_MAX;
      for (size_t i : ready) {
        const int64_t growth = made(calls_[i]) + early(calls_[i], done) - freed(calls_[i], left);
        if (growth < least && (choice == Choice::least_growth || growth <= kNone)) least = growth, best = i;
        if (choice == Choice::first_that_fits && growth <= kNone) break;
      }
      const NodeId call = calls_[best];
      ready.erase(best);
      for (NodeId a : needs_.at(call)) --left[a];
      done[call] = true;
      out.push_back(call);
      for (size_t i : followers[call])
        if (--missing[i] == 0) ready.insert(i);
    }
    return out;
  }
  struct Cost {
    int64_t highest = 0, copied = 0;   // bytes: the most that are live, states made early included; of those
    double mean = 0;
  };
  static bool is_less(const Cost& a, const Cost& b) {
    const int64_t alike = std::min(a.highest, b.highest) / kAlike;
    if (std::abs(a.highest - b.highest) > alike) return a.highest < b.highest;
    return a.copied != b.copied ? a.copied < b.copied : a.mean < b.mean;
  }
  Cost cost(const std::vector<NodeId>& order) const {
    std::map<NodeId, int> left = readers_;
    Done done;
    int64_t live = 0;
    Cost out;
    for (NodeId call : order) {
      const int64_t copied = early(call, done);
      live += made(call) + copied;
      out.highest = std::max(out.highest, live);
      out.copied += copied;
      out.mean += static_cast<double>(live) / static_cast<double>(order.size());
      live -= freed(call, left);
      for (NodeId a : needs_.at(call)) --left[a];
      done[call] = true;
    }
    return out;
  }
};

}  // namespace

std::vector<NodeId> order_calls(const Graph& kernels) { return Orderer(kernels).run(); }

}  // namespace quern
