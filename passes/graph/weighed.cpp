// See weighed.h.
#include "passes/graph/weighed.h"

#include <algorithm>
#include <array>
#include <functional>

#include "ir/op.h"

namespace quern {
namespace {

Shape without_ones(Shape shape) {
  std::erase(shape, 1);
  return shape;
}
// What of the recomputed a node reads, through what is free.
void each_free(const Groups& g, NodeId id, std::set<NodeId>& seen, const std::function<void(NodeId)>& f) {
  if (!g.free[static_cast<size_t>(id)] || !seen.insert(id).second) return;
  f(id);
  for (NodeId a : g.graph.at(id).args) each_free(g, a, seen, f);
}

// What reads it, a cast to f32, where that is stored and nothing else does.
NodeId stored_wide(const Groups& g, NodeId product) {
  const auto all = [&](NodeId id, const std::function<bool(NodeId)>& f) { return !g.consumers.empty() && !g.consumers[static_cast<size_t>(id)].empty() && std::ranges::all_of(g.consumers[static_cast<size_t>(id)], f); };
  const auto is_stored = [&](NodeId id) { return g.graph.at(id).op == Op::stored; };
  if (!all(product, [&](NodeId id) { return g.is_widening(id) && all(id, is_stored); })) return -1;
  return g.consumers[static_cast<size_t>(product)].size() == 1 ? g.consumers[static_cast<size_t>(product)][0] : -1;
}

}  // namespace

std::optional<Summed> summed_scores(const Groups& g, NodeId id) {
  const Node& n = g.graph.at(id);
  if (!means<Contract>(n.op)) return std::nullopt;
  const ContractSpec spec = parse_contract(n.attrs.spec);
  for (size_t a = 0; a < 2; ++a) {
    std::set<NodeId> seen;
    Summed s{g.graph.type(n.args[a]).shape, {}, {}};
    each_free(g, n.args[a], seen, [&](NodeId x) {
      if (means<Contract>(g.graph.at(x).op)) s.products.insert(x);
    });
    const std::string& letters = a ? spec.rhs : spec.lhs;
    for (size_t d = 0; d < letters.size(); ++d)
      if (spec.out.find(letters[d]) == std::string::npos) s.dims.push_back(d);
    if (!s.products.empty()) return s;
  }
  return std::nullopt;
}

bool share_scores(const Groups& g, const std::vector<NodeId>& nodes) {
  std::vector<std::pair<NodeId, Summed>> found;
  for (NodeId id : nodes)
    if (means<Contract>(g.graph.at(id).op)) {
      auto s = summed_scores(g, id);
      if (!s) return false;
      found.emplace_back(id, std::move(*s));
    }
  const auto& [x, sx] = found[0];
  const auto& [y, sy] = found[1];
  return g.graph.type(x) == g.graph.type(y) && sx.shape == sy.shape && sx.dims == sy.dims && std::any_of(sx.products.begin(), sx.products.end(), [&, &products = sy.products](NodeId p) { return products.count(p) > 0; });
}

std::vector<InOrder> sums_in_order(const Groups& g) {
  std::vector<std::pair<NodeId, Summed>> found;   // without dims of one element
  for (size_t i = 0; i < g.graph.nodes.size(); ++i)
    if (const NodeId id = static_cast<NodeId>(i); !g.free[i])
      if (auto s = summed_scores(g, id)) {
        Summed longer{{}, {}, std::move(s->products)};
        for (size_t d = 0; d < s->shape.size(); ++d) {
          if (s->shape[d] == 1) continue;
          if (std::count(s->dims.begin(), s->dims.end(), d)) longer.dims.push_back(longer.shape.size());
          longer.shape.push_back(s->shape[d]);
        }
        found.emplace_back(id, std::move(longer));
      }
  const auto alike = [&](const auto& x, const auto& y) { return g.graph.type(x.first).dtype == g.graph.type(y.first).dtype && without_ones(g.graph.type(x.first).shape) == without_ones(g.graph.type(y.first).shape) && x.second.shape == y.second.shape; };
  std::vector<InOrder> out;
  std::set<NodeId> taken;
  for (const auto& second : found)
    for (const auto& across : found) {
      if (!alike(second, across) || second.second.products != across.second.products || second.second.products.size() < 2 || second.second.dims.size() != 1 || across.second.dims.size() != 1 || second.second.dims >= across.second.dims) continue;
      const auto first = std::find_if(found.begin(), found.end(), [&](const auto& x) {
        return x.first != second.first && alike(x, second) && x.second.dims == second.second.dims && std::includes(second.second.products.begin(), second.second.products.end(), x.second.products.begin(), x.second.products.end());
      });
      if (first == found.end() || taken.count(first->first) || taken.count(second.first) || taken.count(across.first)) continue;
      taken.insert({first->first, second.first, across.first});
      out.push_back({first->first, second.first, across.first, stored_wide(g, across.first)});
    }
  return out;
}
bool are_among(const InOrder& s, const std::vector<NodeId>& nodes) {
  return std::ranges::all_of(std::array{s.first, s.second, s.across, s.wide}, [&](NodeId id) { return std::binary_search(nodes.begin(), nodes.end(), id); });
}

std::string not_for_roles(const Groups& g, const std::vector<NodeId>& nodes, const std::vector<NodeId>& outputs) {
  std::set<NodeId> behind;   // such products, and what is made of them
  const auto is_free = [&](NodeId id) { return g.free[static_cast<size_t>(id)] != 0; };
  const auto any_arg = [&](NodeId id, const std::function<bool(NodeId)>& f) { return std::any_of(g.graph.at(id).args.begin(), g.graph.at(id).args.end(), f); };
  const std::function<bool(NodeId)> is_behind = [&](NodeId id) { return behind.count(id) > 0 || (is_free(id) && any_arg(id, is_behind)); };
  const std::function<bool(NodeId)> reads = [&](NodeId id) { return !std::binary_search(nodes.begin(), nodes.end(), id) && (!is_free(id) || any_arg(id, reads)); };
  int64_t products = 0;
  for (NodeId id : nodes) {
    const bool weighing = summed_scores(g, id).has_value();
    products += weighing;
    if (weighing || (products && any_arg(id, is_behind))) behind.insert(id);
    if (!weighing && behind.count(id) && any_arg(id, reads)) return "a role that has weighted reads nothing else";
  }
  if (products && std::count_if(outputs.begin(), outputs.end(), [&](NodeId o) { return behind.count(o) > 0; }) > products) return "a role stores one result of what it weighs";
  return "";
}

std::map<NodeId, std::string> refused_clusters(const Groups& g, const std::vector<NodeId>& cluster, const Partition& made, const PassContext& context) {
  std::map<NodeId, std::string> why, of_call;
  if (!context.refuses) return why;
  PassContext quiet;
  quiet.fp = std::count(context.disabled.begin(), context.disabled.end(), "precision") ? Fp::standard : context.fp;
  const Graph kernels = precision(made.kernels, quiet);
  for (size_t i = 0; i < kernels.nodes.size(); ++i)
    if (const Node& n = kernels.nodes[i]; n.op == Op::call) of_call[static_cast<NodeId>(i)] = context.refuses(n);
  for (size_t i = 0; i < g.graph.nodes.size(); ++i) {
    const auto it = of_call.find(made.call_of[i]);
    if (it == of_call.end() || it->second.empty()) continue;
    std::set<NodeId> seen;
    for (NodeId a : g.graph.nodes[i].args)
      each_free(g, a, seen, [&](NodeId x) {
        if (cluster[static_cast<size_t>(x)] >= 0 && means<Contract>(g.graph.at(x).op)) why.emplace(cluster[static_cast<size_t>(x)], it->second);
      });
  }
  return why;
}

}  // namespace quern
