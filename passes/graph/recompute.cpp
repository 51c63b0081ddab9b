// See recompute.h. A cluster is a product and the maps between it and where its axes are summed again. It is recomputed where
//   - the product is no convolution, and cheap (few terms in each sum) and larger than each operand, and than each product that sums it again;
//   - a reduction sums it too, and comes back into it (softmax divides by a sum of it), or the product has batch axes:
//     scores, and not the hidden layer of a perceptron, which is as large but cheaper kept;
//   - what reads it can do so element by element: maps, reductions, products, through views that only rename axes;
//   - no value of it is compared with what a reduction of it gave (the derivative of a maximum): computed again in another order it is not equal.
// Maps that only the cluster reads belong to it (masks, biases, what dropout keeps). Nothing here knows of attention.
#include "passes/graph/recompute.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "ir/op.h"
#include "ir/symbol.h"

namespace quern {
namespace {

constexpr int64_t kFewTerms = 256, kLargeBlock = 128 * 128;

class Clusters {
 public:
  explicit Clusters(const Graph& graph) : g_(graph), users_(graph.nodes.size()), root_(graph.nodes.size()), member_(graph.nodes.size()), parent_(graph.nodes.size()) {
    for (size_t i = 0; i < g_.nodes.size(); ++i)
      for (NodeId a : g_.nodes[i].args) users_[at(a)].push_back(static_cast<NodeId>(i));
    for (NodeId r : g_.roots()) root_[at(r)] = 1;
    std::iota(parent_.begin(), parent_.end(), size_t{0});
  }

  // By what is made of products: a mask that several read joins nothing.
  std::vector<NodeId> clusters() {
    const std::vector<char> members = run();
    std::vector<NodeId> first(members.size(), -1), out(members.size(), -1);
    std::vector<char> made(members.size());
    std::iota(parent_.begin(), parent_.end(), size_t{0});
    for (size_t i = 0; i < members.size(); ++i) {
      made[i] = members[i] && means<Contract>(g_.nodes[i].op);
      for (NodeId a : g_.nodes[i].args)
        if (const size_t from = at(viewed(a)); members[i] && made[from]) made[i] = 1, parent_[find(i)] = find(from);
    }
    for (size_t i = 0; i < members.size(); ++i)
      if (members[i]) {
        NodeId& f = first[find(i)];
        out[i] = f < 0 ? f = static_cast<NodeId>(i) : f;
      }
    return out;
  }
  std::vector<char> run() {
    grow();
    if (std::none_of(member_.begin(), member_.end(), [](char m) { return m; })) return member_;
    while (refuse_readers()) {}
    take_in();
    join();
    std::vector<size_t> seeds;
    for (size_t i = 0; i < member_.size(); ++i)
      if (member_[i] && is_seed(static_cast<NodeId>(i))) seeds.push_back(i);
    std::vector<char> good(member_.size());
    for (size_t s : seeds)
      if (!good[find(s)] && pays(find(s))) good[find(s)] = 1;
    for (size_t i = 0; i < member_.size(); ++i) member_[i] = member_[i] && good[find(i)];
    return member_;
  }

 private:
  const Graph& g_;
  std::vector<std::vector<NodeId>> users_;
  std::vector<char> root_, member_;
  std::vector<size_t> parent_;

  static size_t at(NodeId id) { return static_cast<size_t>(id); }
  size_t find(size_t i) {
    while (parent_[i] != i) i = parent_[i] = parent_[parent_[i]];
    return i;
  }
  const Type& type(NodeId id) const { return g_.type(id); }
  // Gives the same elements other places.
  bool renames(const Node& n) const { return n.op == Op::reshape || n.op == Op::transpose || (means<Reduce>(n.op) && n.type.size() == type(n.args[0]).size()); }

  // A convolution's operand, which is read at overlapping places.
  bool is_windowed(NodeId id) const {
    const Node& n = g_.at(id);
    return n.op == Op::window || (means<View>(n.op) && std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return is_windowed(a); }));
  }
  // A product that is larger than its operands, in a block for each batch.
  bool is_seed(NodeId id) const {
    const Node& n = g_.at(id);
    if (!means<Contract>(n.op) || root_[at(id)] || !is_float(n.type.dtype) || is_symbolic(n.type.shape) || is_windowed(n.args[0]) || is_windowed(n.args[1])) return false;
    const ContractSpec spec = parse_contract(n.attrs.spec);
    int64_t terms = 1, rows = 1, columns = 1;
    const auto in = [](const std::string& letters, char c) { return letters.find(c) != std::string::npos; };
    for (size_t d = 0; d < spec.lhs.size(); ++d) {
      const int64_t extent = type(n.args[0]).shape[d];
      if (is_symbolic(extent)) return false;
      if (!in(spec.out, spec.lhs[d])) terms = checked_mul(terms, extent);
      else if (!in(spec.rhs, spec.lhs[d])) rows = checked_mul(rows, extent);
    }
    for (size_t d = 0; d < spec.rhs.size(); ++d)
      if (!in(spec.lhs, spec.rhs[d])) columns = checked_mul(columns, type(n.args[1]).shape[d]);
    return terms <= kFewTerms && rows > 0 && columns >= ceil_div(kLargeBlock, rows) && n.type.size() > type(n.args[0]).size() && n.type.size() > type(n.args[1]).size();
  }

  // Products, and what maps make of them.
  void grow() {
    for (size_t i = 0; i < g_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = g_.at(id);
      const bool of_member = std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return is_of_member(a); });
      member_[i] = !root_[i] && (of_member ? means<Map>(n.op) || renames(n) : is_seed(id));
    }
  }

  // What is read in some other way is in memory.
  bool is_readable(NodeId id) const {
    return std::all_of(users_[at(id)].begin(), users_[at(id)].end(), [&](NodeId u) {
      const Node& user = g_.at(u);
      if (renames(user) || user.op == Op::broadcast) return is_readable(u);
      return means<Map>(user.op) || means<Reduce>(user.op) || means<Contract>(user.op);
    });
  }
  bool refuse_readers() {
    bool changed = false;
    for (size_t i = 0; i < member_.size(); ++i)
      if (member_[i] && !is_readable(static_cast<NodeId>(i))) member_[i] = 0, changed = true;
    return changed;
  }

  // Large maps that members' maps alone read.
  void take_in() {
    for (size_t i = member_.size(); i-- > 0;) {
      const Node& n = g_.nodes[i];
      if (member_[i] || root_[i] || users_[i].empty() || n.type.size() < kLargeBlock || is_symbolic(n.type.shape)) continue;
      if ((!means<Map>(n.op) && !renames(n) && n.op != Op::broadcast) || ends_rows(static_cast<NodeId>(i))) continue;
      member_[i] = std::all_of(users_[i].begin(), users_[i].end(), [&](NodeId u) { return member_[at(u)] && !means<Contract>(g_.at(u).op); });
    }
  }

  // A map of sums that are in memory and have fewer elements than the product: the kernel that makes them makes it, too.
  bool ends_rows(NodeId id) const {
    if (member_[at(id)]) return false;
    const Node& n = g_.at(id);
    return means<Reduce>(n.op) || means<Contract>(n.op) || ((means<Map>(n.op) || renames(n)) && std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return ends_rows(a); }));
  }

  // Members that read each other are one cluster.
  void join() {
    for (size_t i = 0; i < member_.size(); ++i)
      for (NodeId a : g_.nodes[i].args)
        if (member_[i] && member_[at(a)]) parent_[find(i)] = find(at(a));
  }

  bool pays(size_t cluster) {
    std::vector<char> behind(member_.size());   // made of a reduction of the cluster
    bool summed = false, reduced = false, batched = false, returns = false;
    int64_t largest = 0;
    for (size_t i = 0; i < member_.size(); ++i)
      if (member_[i] && find(i) == cluster) {
        largest = std::max(largest, g_.nodes[i].type.size());
        if (!means<Contract>(g_.nodes[i].op)) continue;
        const ContractSpec spec = parse_contract(g_.nodes[i].attrs.spec);
        for (size_t d = 0; d < spec.lhs.size(); ++d)
          batched = batched || (spec.rhs.find(spec.lhs[d]) != std::string::npos && spec.out.find(spec.lhs[d]) != std::string::npos && type(g_.nodes[i].args[0]).shape[d] > 1);
      }
    for (size_t i = 0; i < member_.size(); ++i) {
      const Node& n = g_.nodes[i];
      const bool own = member_[i] && find(i) == cluster;
      const bool reads = !own && std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return is_of(a, cluster); });
      if (reads && means<Contract>(n.op)) {
        if (n.type.size() >= largest) return false;
        summed = true;
      }
      if (reads && means<Reduce>(n.op)) reduced = true, behind[i] = 1;
      if (std::any_of(n.args.begin(), n.args.end(), [&](NodeId a) { return behind[at(a)]; })) {
        if (own && is_discontinuous(n.op)) return false;
        behind[i] = 1;
        returns = returns || own;
      }
    }
    return summed && reduced && (returns || batched);
  }
  // What lies behind views.
  NodeId viewed(NodeId id) const {
    const Node& n = g_.at(id);
    return !member_[at(id)] && (renames(n) || n.op == Op::broadcast) ? viewed(n.args[0]) : id;
  }
  bool is_of_member(NodeId id) const { return member_[at(viewed(id))]; }
  bool is_of(NodeId id, size_t cluster) { return is_of_member(id) && find(at(viewed(id))) == cluster; }
};

}  // namespace

std::vector<char> recomputed_nodes(const Graph& graph) { return Clusters(graph).run(); }
std::vector<NodeId> recomputed_clusters(const Graph& graph) { return Clusters(graph).clusters(); }

}  // namespace quern
