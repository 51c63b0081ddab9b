// setup: what depends on nothing but constants and states that keep their value is the same in every run. Where that saves
// more than it holds in memory it is stored: kernels that run for it alone run once, before the first run behind a
// set_state (codegen/assemble.cpp). Here the line is drawn between them and the kernels of every run.
//   before: %2 = exp %w;  %3 = broadcast %2;  %4 = mul %x, %3             of %w, a state that keeps its value
//   after:  %2 = exp %w;  %3 = stored %2;  %4 = broadcast %3;  %5 = mul %x, %4
// Stored is
//   - what sums, sorts or loops;
//   - a map of such a value that is no larger, and a map whose reads and ops saved make up half of its bytes: no cast to a
//     wider dtype, which would be read in place of the narrow one;
//   - a map that a product reads: it would be in memory in every run;
//   - a large matrix in panels (panels.h) for a product of so few rows that a copy in every run would show.
// Views stay with their readers. What loops and branches read is in memory in any case, and so is computed once without a word.
#include "passes/graph/setup.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/panels.h"
#include "passes/graph/rebuild.h"
#include "passes/work.h"

namespace quern {
namespace {

constexpr int64_t kManyRows = 256;   // a product of more reads each element so often that its copy shows less than its memory

class Setup {
 public:
  Setup(const Graph& graph, PassContext& context) : g_(graph), context_(context), same_(unchanging_nodes(graph)), stored_(graph.nodes.size()), now_(graph.nodes.size(), -1), stored_now_(graph.nodes.size(), -1) {}

  Graph run() {
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      if (!same_[i]) read(static_cast<NodeId>(i));
    return rebuild(g_, b_, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
      const NodeId id = static_cast<NodeId>(&n - g_.nodes.data());
      for (size_t a = 0; a < args.size(); ++a) now_[at(n.args[a])] = args[a];
      if (same_[at(id)]) return b_.add(n.op, std::move(args), n.attrs, where);
      Attrs attrs = n.attrs;
      for (size_t a = 0; a < args.size(); ++a) args[a] = from_memory(n.args[a]);
      if (const auto found = panels_.find(id); found != panels_.end()) {
        const auto& [side, panels] = found->second;
        const ContractSpec spec = parse_contract(n.attrs.spec);
        args[side] = panels.read(b_, b_.add(Op::stored, {panels.made(b_, now_[at(n.args[side])], side ? spec.rhs : spec.lhs)}));
        attrs.spec = panels.spec(spec, side);
      }
      return b_.add(n.op, std::move(args), std::move(attrs), where);
    });
  }

 private:
  const Graph& g_;
  PassContext& context_;
  std::vector<char> same_, stored_;
  std::map<NodeId, std::pair<size_t, Panels>> panels_;   // by product: of which operand
  std::set<std::pair<NodeId, bool>> read_;               // by a product?
  GraphBuilder b_;
  std::vector<NodeId> now_, stored_now_;                 // of each node: itself; as kernels of every run read it

  static size_t at(NodeId id) { return static_cast<size_t>(id); }
  double bytes(NodeId id) const { return static_cast<double>(g_.type(id).bytes()); }
  bool is_leaf(NodeId id) const { return g_.at(id).op == Op::input || g_.at(id).op == Op::constant; }
  // Read where it is, by other indices.
  bool is_read_through(NodeId id) const { return means<View>(g_.at(id).op) || means<Source>(g_.at(id).op) || means<Take>(g_.at(id).op); }

  // A node of every run.
  void read(NodeId id) {
    const Node& n = g_.at(id);
    const bool product = means<Contract>(n.op);
    if (product) lay_out(id);
    for (size_t a = 0; a < n.args.size(); ++a)
      if (!panels_.count(id) || panels_.at(id).first != a) want(n.args[a], product);
  }
  void want(NodeId id, bool by_product) {
    const Node& n = g_.at(id);
    if (!same_[at(id)] || is_leaf(id) || !read_.insert({id, by_product}).second) return;
    const bool map = means<Map>(n.op), is_stored = map ? (by_product && n.op != Op::cast) || pays(id) : !is_read_through(id);
    if (is_stored && context_.allow()) {
      stored_[at(id)] = 1;
      context_.setup.push_back(fmt::format("%{} {}: {} bytes", id, name_of(n.op), n.type.bytes()));
    } else {
      for (NodeId a : n.args) want(a, by_product);
    }
  }

  // A product whose results run along what its matrix keeps.
  void lay_out(NodeId id) {
    const Node& n = g_.at(id);
    const ContractSpec spec = parse_contract(n.attrs.spec);
    for (size_t side = 0; side < 2; ++side) {
      const Type& other = g_.type(n.args[1 - side]);
      if (!same_[at(n.args[side])] || same_[at(n.args[1 - side])] || n.type.size() == 0) continue;
      const std::optional<Panels> panels = panels_of(spec, side, g_.type(n.args[side]), other, context_);
      if (!panels || spec.out.back() != panels->kept || n.type.size() / panels->columns > kManyRows || !context_.allow()) continue;
      panels_.emplace(id, std::pair{side, *panels});
      context_.setup.push_back(fmt::format("%{} contract: its operand {} in panels of {}: {} bytes", id, side, panels->width, g_.type(n.args[side]).bytes()));
      return;
    }
  }

  // What a kernel that computes the map reads and does, each once.
  struct Price { double read = 0, of_sums = 0, work = 0; };
  void add_price(NodeId id, double most, std::set<NodeId>& seen, Price& price) const {
    const Node& n = g_.at(id);
    if (!seen.insert(id).second) return;
    most = std::min(most, bytes(id));
    if (means<Map>(n.op)) price.work += price_of(n.op) * static_cast<double>(n.type.size());
    if (means<Map>(n.op) || (is_read_through(id) && !is_leaf(id))) {
      for (NodeId a : n.args) add_price(a, means<Map>(n.op) ? bytes(a) : most, seen, price);
      return;
    }
    price.read += most;
    if (!is_leaf(id)) price.of_sums += most;
  }
  bool pays(NodeId map) const {
    std::set<NodeId> seen;
    Price price;
    add_price(map, bytes(map), seen, price);
    return bytes(map) <= price.of_sums || (g_.type(map).size() > 1 && 2 * (price.read + price.work - bytes(map)) >= bytes(map));
  }

  NodeId from_memory(NodeId id) {
    if (!same_[at(id)] || is_leaf(id)) return now_[at(id)];
    NodeId& out = stored_now_[at(id)];
    if (out >= 0) return out;
    if (stored_[at(id)]) return out = b_.add(Op::stored, {now_[at(id)]});
    std::vector<NodeId> args;
    for (NodeId a : g_.at(id).args) args.push_back(from_memory(a));
    return out = b_.add(g_.at(id).op, std::move(args), g_.at(id).attrs, g_.where(id));
  }
};

}  // namespace

std::vector<char> unchanging_nodes(const Graph& graph) {
  std::vector<char> same(graph.nodes.size());
  for (const State& s : graph.states)
    if (s.output == s.input || planted(Fault::state_for_parameter)) same[static_cast<size_t>(s.input)] = 1;
  const Graph at_one = graph.symbol ? at_size(graph, 1) : Graph();
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    if (n.op == Op::input) continue;
    const bool sized = graph.symbol && !(at_one.nodes[i].type == n.type && at_one.nodes[i].attrs == n.attrs);
    same[i] = !sized && std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) { return same[static_cast<size_t>(a)]; });
  }
  return same;
}

Graph setup(const Graph& graph, PassContext& context) { return Setup(graph, context).run(); }

}  // namespace quern
