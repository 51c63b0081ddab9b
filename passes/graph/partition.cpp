// Partition: a graph of primitive nodes → a graph of kernel calls, one verdict per edge.
//   before: %2 = contract %0, %1;  %3 = tanh %2;  output %3
//   after:  %2 = call {transform=kernel, body=graph (…) { contract, tanh }};  %3 = result %2 {index=[0]};  output %3
//
// Nodes that only move or invent values (views, casts to wider floats, coordinates, random bits, single constants, single-element
// arithmetic of them) are free: every kernel that wants them has its own copy; so are, where kernels may hold nested
// products, products too large to be kept and maps of them (recompute.h). All others start as groups of one and
// are merged along producer → consumer edges, in graph order, where the union is legal:
//   - no path leaves the union and comes back;
//   - its outputs share their leading dims with what its reductions keep (the rows; one grid instance per row tile), but for
//     sums over chunks of rows beside them (chunks.h; one instance per chunk);
//   - walked by demand with symbolic indices, as lowering will do, a reduction is asked for at exactly the row axes, a product at these in
//     any order (otherwise it would be recomputed per element), whose operands are views (padded ones' masks would be computed in every step) or casts of memory
//     that do not round;
//   - no map is computed at more than four places for one element (chains of maps that each look at two places);
//   - a running sum or a put_add is its only output (every step is stored), and nothing else in it reduces.
// Then maps that are cheaper to compute again where they are read become free, too (duplicate.h).
// A view that must be in memory and is nothing but another place there (passes/plan/place.h) becomes no kernel: it stays
// between the calls. So does `stored`: what it is computed from and what reads it are two kernels.
// Control flow is no kernel: its arguments and results are in memory, its bodies are partitioned by themselves. But a scan
// whose steps are elementwise on one shape is one: each element walks through all steps.
// Relies on expand (no composed ops, no transforms). Every merge asks the bisect counter.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "ir/symbol.h"
#include "passes/graph/chunks.h"
#include "passes/graph/duplicate.h"
#include "passes/graph/recompute.h"
#include "passes/graph/weighed.h"
#include "passes/plan/place.h"

namespace quern {
namespace {

// A group's rows must keep a machine busy before wide outputs are produced row by row.
constexpr int64_t kFewRows = 4, kWideRow = 1 << 14;
constexpr int kMaxReads = 4;   // in one loop: a chain of maps that each read the one before at two places doubles at every step
constexpr const char *kFused = "fused", *kShapesDiffer = "outputs differ in shape", *kOtherRows = "outputs do not share their leading dims";
constexpr const char *kSameMemory = "the same memory", *kRecomputed = "recomputed: more than its operands and what becomes of it",
                     *kDuplicated = "computed again: cheaper than to write and read it";

class Partitioner {
 public:
  /// `in_memory`: clusters of what could be recomputed (recompute.h) and is not.
  Partitioner(const Graph& graph, PassContext& context, const std::set<NodeId>& in_memory) : graph_(graph), context_(context), first_verdict_(context.verdicts.size()) {
    const size_t n = graph.nodes.size();
    leaf_.resize(n);
    free_.resize(n);
    group_.assign(n, -1);
    root_.resize(n);
    cluster_ = context.nested_products ? recomputed_clusters(graph) : std::vector<NodeId>(n, -1);
    nested_.resize(n);
    for (size_t i = 0; i < n; ++i) nested_[i] = cluster_[i] >= 0 && !in_memory.count(cluster_[i]);
    for (NodeId r : graph.roots()) root_[static_cast<size_t>(r)] = 1;
    for (size_t i = 0; i < n; ++i) classify(static_cast<NodeId>(i));
    const auto store = [&](NodeId a) {
      if (free_[static_cast<size_t>(a)]) own_group(a);
    };
    for (const Node& node : graph.nodes) {   // in memory must be what `take` reads by computed rows,
      if (means<Take>(node.op)) store(node.args[0]);
      const bool reads_memory = node.op == Op::stored || (is_control_flow(node.op) && !is_elementwise_scan(node));   // what these read,
      for (NodeId a : node.args)   // and a padded operand: it is written out once rather than masked in every step of a sum
        if ((reads_memory && at(a).op != Op::constant) || (means<Contract>(node.op) && is_padded(a))) store(a);
    }
    link();
  }

  Partition run() {
    place_concats();
    merge_in_order();
    merge_all();
    merge_siblings();
    merge_sums_of_rows();
    duplicate();
    place_slices();
    tell_recomputed();
    return build_calls(groups_, places_);
  }
  std::map<NodeId, std::string> refused(const Partition& out) const { return refused_clusters(groups_, cluster_, out, context_); }

 private:
  const Graph& graph_;
  PassContext& context_;
  size_t first_verdict_;
  std::vector<char> leaf_, free_, root_, nested_;
  std::vector<NodeId> cluster_;               // of what is or could be recomputed
  // Grouped nodes that a grouped node reads, and that read it, through free ones: sorted, each once.
  std::vector<std::vector<NodeId>> producers_, consumers_;
  std::vector<int> group_;                    // of each node; -1: leaf or free
  std::vector<std::vector<NodeId>> members_;  // of each group, sorted; empty once merged away
  std::map<int, std::vector<size_t>> apart_;  // by the consumer's group: verdicts on what it reads and is not merged with
  std::vector<InOrder> in_order_;
  std::set<NodeId> places_;                   // groups' only members that need no kernel
  Groups groups_{graph_, root_, free_, group_, members_, producers_, consumers_};
  std::vector<int> seen_;                     // by node: the last walk that met it
  int marks_ = 0;                             // walks so far

  const Node& at(NodeId id) const { return graph_.at(id); }

  void classify(NodeId id) {
    const Node& n = at(id);
    const size_t i = static_cast<size_t>(id);
    if (n.op == Op::result) {   // with what it is a result of
      group_[i] = group_[static_cast<size_t>(n.args[0])];
      members_[static_cast<size_t>(group_[i])].push_back(id);
      return;
    }
    if (is_control_flow(n.op)) return own_group(id);
    const bool single = n.type.size() == 1;
    leaf_[i] = n.op == Op::input || (n.op == Op::constant && !single);
    if (leaf_[i]) return;
    const bool of_free = std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) {
      const size_t k = static_cast<size_t>(a);
      return free_[k] || (leaf_[k] && at(a).type.size() == 1);
    });
    free_[i] = means<Source>(n.op) || (means<View>(n.op) && n.op != Op::stored) || (means<Map>(n.op) && single && of_free) || groups_.is_widening(id);
    // Random bits want a key that is at hand wherever they are used.
    if (n.op == Op::random) free_[i] = of_free;
    if (root_[i]) free_[i] = 0;
    nested_[i] = nested_[i] && !free_[i] && context_.allow();
    free_[i] = free_[i] || nested_[i];
    if (!free_[i]) own_group(id);
  }
  bool of_control(NodeId id) const { return group_[static_cast<size_t>(id)] >= 0 && is_control_flow(at(members_[static_cast<size_t>(group_[static_cast<size_t>(id)])][0]).op); }
  bool is_padded(NodeId id) const {
    const Node& n = at(id);
    return n.op == Op::pad || ((n.op == Op::reshape || n.op == Op::transpose) && is_padded(n.args[0]));
  }
  void own_group(NodeId id) {
    free_[static_cast<size_t>(id)] = 0;
    group_[static_cast<size_t>(id)] = static_cast<int>(members_.size());
    members_.push_back({id});
  }

  void link() {
    const size_t n = graph_.nodes.size();
    producers_.resize(n);
    consumers_.resize(n);
    seen_.assign(n, 0);
    for (size_t i = 0; i < n; ++i) {
      if (group_[i] < 0) continue;
      const int now = ++marks_;
      std::vector<NodeId> stack = at(static_cast<NodeId>(i)).args;
      while (!stack.empty()) {
        const NodeId a = stack.back();
        stack.pop_back();
        if (std::exchange(seen_[static_cast<size_t>(a)], now) == now) continue;
        if (group_[static_cast<size_t>(a)] >= 0) producers_[i].push_back(a);
        else if (free_[static_cast<size_t>(a)]) stack.insert(stack.end(), at(a).args.begin(), at(a).args.end());
      }
      std::sort(producers_[i].begin(), producers_[i].end());
      for (NodeId p : producers_[i]) consumers_[static_cast<size_t>(p)].push_back(static_cast<NodeId>(i));
    }
  }

  std::vector<NodeId> outputs_of(const std::vector<NodeId>& nodes) const { return groups_.outputs_of(nodes); }

  // Is there a path from group p through another one to group c, which reads p? Nodes above c's last are not asked: until
  // the walk over all nodes comes to them, they stand alone or are control flow's, and what follows them is above, too.
  bool makes_cycle(int p, int c) { return makes_cycle(p, c, members_[static_cast<size_t>(c)].back()); }
  bool makes_cycle(int p, int c, NodeId last) {
    const int now = ++marks_;
    std::vector<int> stack;
    const auto push = [&](int group) {   // the whole group of a reader runs after p, so all its members' readers do
      for (NodeId m : members_[static_cast<size_t>(group)])
        for (NodeId u : consumers_[static_cast<size_t>(m)]) {
          const int g = group_[static_cast<size_t>(u)];
          if (u > last) break;
          if (g == p || (g == c && group == p)) continue;
          if (g == c) return true;
          if (const size_t first = static_cast<size_t>(members_[static_cast<size_t>(g)][0]); std::exchange(seen_[first], now) != now) stack.push_back(g);
        }
      return false;
    };
    if (push(p)) return true;
    while (!stack.empty()) {
      const int g = stack.back();
      stack.pop_back();
      if (push(g)) return true;
    }
    return false;
  }

  // --- the walk by demand ---
  struct Walk {
    const std::vector<NodeId>& nodes;
    std::vector<Index> rows;
    bool chunked = false;                       // one grid instance walks a chunk of rows
    std::set<std::pair<NodeId, std::string>> seen;
    std::map<NodeId, std::vector<Index>> products;           // where they are asked for
    std::map<std::pair<NodeId, std::set<int>>, int> reads;   // of maps, at different places of the same axes
    std::string problem;
    const std::vector<NodeId>* copies = nullptr;   // of maps that are computed again: each at one place
    std::vector<int64_t> extents;               // of the axes so far
    Index fresh(int64_t extent) { return extents.push_back(extent), Index::axis(static_cast<int>(extents.size()) - 1, extent); }
  };

  static std::string text(const std::vector<Index>& index) {
    std::string out;
    for (const Index& e : index) out += e.text([](int a) { return fmt::format("i{}", a); }) + ",";
    return out;
  }

  void walk(Walk& w, NodeId id, const std::vector<Index>& index, bool operand) const {
    if (!w.problem.empty()) return;
    const size_t i = static_cast<size_t>(id);
    if (leaf_[i] || (group_[i] >= 0 && !std::binary_search(w.nodes.begin(), w.nodes.end(), id))) return;
    if (!w.seen.insert({id, text(index) + (operand ? "!" : "")}).second) return;
    if (w.seen.size() > 4 * kMaxNodes) {
      w.problem = "too many different reads of its values";
      return;
    }
    const Node& n = at(id);
    const auto at_rows = [&] {
      if (operand) w.problem = "a product's operand must be in memory";
      else if (!(index == w.rows)) w.problem = fmt::format("`{}` would be recomputed for every element", name_of(n.op));
      return w.problem.empty();
    };
    const auto inner = Overloaded{
        [&](const Map&) {
          std::set<int> axes;
          for (const Index& e : index) e.collect_axes(axes);
          const bool copied = w.copies && std::binary_search(w.copies->begin(), w.copies->end(), id);
          const int most = copied ? 1 : kMaxReads;
          double times = copied ? 1 : 0;
          for (int a : axes) times *= static_cast<double>(w.extents[static_cast<size_t>(a)]);
          if (times > 2 * static_cast<double>(n.type.size())) w.problem = fmt::format("`{}` would be computed for each place of a window", name_of(n.op));
          if (!nested_[i] && ++w.reads[{id, axes}] > most) w.problem = fmt::format("`{}` would be computed more than {} times for every element", name_of(n.op), most);
          if (operand && (n.op != Op::cast || groups_.is_rounding(id)) && !nested_[i]) w.problem = fmt::format("`{}` would be recomputed for every tile of the product", name_of(n.op));
          for (NodeId a : n.args) walk(w, a, index, operand);
        },
        [&](const View& view) {
          if (operand && is_padded(id)) {
            w.problem = "a product's padded operand must be in memory";
            return;
          }
          std::vector<Type> types;
          for (NodeId a : n.args) types.push_back(graph_.type(a));
          for (const Piece& p : view.pieces(n, types, index)) walk(w, n.args[static_cast<size_t>(p.arg)], p.index, operand);
        },
        [&](const Reduce&) {
          if (!nested_[i] && !at_rows()) return;
          std::vector<Index> child;
          size_t next = 0;
          const Shape& shape = graph_.type(n.args[0]).shape;
          for (size_t d = 0; d < shape.size(); ++d) {
            const bool summed = std::count(n.attrs.axes.begin(), n.attrs.axes.end(), static_cast<int64_t>(d)) > 0;
            child.push_back(summed ? w.fresh(shape[d]) : index[next++]);
          }
          walk(w, n.args[0], child, operand);
        },
        [&](const Cumulate&) { walk(w, n.args[0], index, false); },   // alone with what it reads: see obstacle
        [&](const Contract&) {
          if (w.chunked) w.problem = "a product tiles the rows that their sum walks";
          if (!nested_[i] && weighs(id)) return walk_weights(w, n, index);
          const bool everywhere = index.size() == w.rows.size() && std::is_permutation(index.begin(), index.end(), w.rows.begin()), once = w.products.emplace(id, index).first->second == index;
          if (!nested_[i] && (operand || !everywhere || !once) && !at_rows()) return;
          for (NodeId a : n.args) walk(w, a, fresh_index(w, a), true);
        },
        [&](const Take&) {
          if (!leaf_[static_cast<size_t>(n.args[0])] && !is_outside(w, n.args[0])) w.problem = "what `take` reads must be in memory";
          walk(w, n.args[1], fresh_index(w, n.args[1]), operand);
        },
        [&](const PutAdd&) {
          if (!at_rows()) return;
          walk(w, n.args[0], index, false);
          walk(w, n.args[1], fresh_index(w, n.args[1]), false);
          walk(w, n.args[2], fresh_index(w, n.args[2]), false);
        },
        [&](const Source&) {
          for (NodeId a : n.args) walk(w, a, {}, operand);
        },
        [](const Body&) { QN_CHECK(false, "expand has removed calls"); },
        [](const Expand&) { QN_CHECK(false, "expand has removed composed ops"); }};
    std::visit(inner, def_of(n.op).meaning);
  }
  // Of a product with weights: they are made where its rows are, of what else is made there.
  void walk_weights(Walk& w, const Node& n, const std::vector<Index>& index) const {
    if (index.size() < w.rows.size() || !std::equal(w.rows.begin(), w.rows.end(), index.begin())) {
      w.problem = "its rows are not the product's first axes";
      return;
    }
    const ContractSpec spec = parse_contract(n.attrs.spec);
    std::map<char, Index> at;
    for (size_t d = 0; d < spec.out.size(); ++d) at.emplace(spec.out[d], index[d]);
    for (size_t a = 0; a < 2; ++a) {
      std::vector<Index> child;
      const std::string& letters = a ? spec.rhs : spec.lhs;
      for (size_t d = 0; d < letters.size(); ++d) {
        if (!at.count(letters[d])) at.emplace(letters[d], w.fresh(graph_.type(n.args[a]).shape[d]));
        child.push_back(at.at(letters[d]));
      }
      walk(w, n.args[a], child, !of_nested(n.args[a]));
    }
  }
  bool of_nested(NodeId id) const {
    return nested_[static_cast<size_t>(id)] || (means<View>(at(id).op) && std::any_of(at(id).args.begin(), at(id).args.end(), [&](NodeId a) { return of_nested(a); }));
  }
  bool is_outside(const Walk& w, NodeId id) const {
    return group_[static_cast<size_t>(id)] >= 0 && !std::binary_search(w.nodes.begin(), w.nodes.end(), id);
  }
  std::vector<Index> fresh_index(Walk& w, NodeId id) const {
    std::vector<Index> out;
    for (int64_t extent : graph_.type(id).shape) out.push_back(w.fresh(extent));
    return out;
  }

  ChunkSums sums_of(const std::vector<NodeId>& outputs, const std::vector<NodeId>& nodes) const {
    std::vector<NodeId> reductions;
    std::copy_if(nodes.begin(), nodes.end(), std::back_inserter(reductions), [&](NodeId id) { return means<Reduce>(at(id).op); });
    return chunk_sums(graph_, outputs, reductions);
  }

  /// Empty where the nodes may be one kernel, else the reason why not.
  std::string obstacle(const std::vector<NodeId>& nodes, const std::vector<NodeId>* stored = nullptr, const std::vector<NodeId>* copies = nullptr) const {
    if (nodes.size() > kMaxNodes) return fmt::format("a kernel holds at most {} ops", kMaxNodes);
    int products = 0;
    std::vector<const Node*> reductions;
    for (NodeId id : nodes) {
      products += means<Contract>(at(id).op);
      if (means<Reduce>(at(id).op) || means<PutAdd>(at(id).op)) reductions.push_back(&at(id));
    }
    if (products > 1 && !(products == 2 && share_scores(groups_, nodes)) && !(products == 3 && std::ranges::any_of(in_order_, [&](const InOrder& s) { return are_among(s, nodes); }))) return "a kernel holds one product";
    if (products && !reductions.empty() && !(products == 1 && std::any_of(nodes.begin(), nodes.end(), [&](NodeId id) { return weighs(id); }))) return "a product tiles the axis that the reduction wants whole";
    std::vector<NodeId> outputs = stored ? *stored : outputs_of(nodes);
    if (const std::string why = context_.nested_in_roles ? not_for_roles(groups_, nodes, outputs) : ""; !why.empty()) return why;
    for (NodeId id : nodes)
      if (means<Cumulate>(at(id).op) && (outputs != std::vector{id} || products || !reductions.empty())) return "a running sum is the result of its kernel";
      else if (means<PutAdd>(at(id).op) && outputs != std::vector{id}) return "a put_add is the result of its kernel";
    if (outputs.size() > kMaxOutputs) return fmt::format("a kernel has at most {} outputs", kMaxOutputs);
    // Of sums over chunks of rows, what they sum is looked at: like an output it is made row by row.
    const ChunkSums chunked = sums_of(outputs, nodes);
    for (const ChunkSums::Sum& s : chunked.sums) {
      std::replace(outputs.begin(), outputs.end(), s.sum, s.value);
      std::erase(reductions, &at(s.sum));
    }
    Shape rows = chunked.sums.empty() ? at(outputs.at(0)).type.shape : chunked.rows;
    int64_t widest = 0;
    for (NodeId o : outputs) {
      if (at(o).type.shape.size() < rows.size()) rows = at(o).type.shape;
      widest = std::max(widest, at(o).type.size());
    }
    for (const Node* r : reductions) {
      if (r->type.shape.size() < rows.size()) rows = r->type.shape;
      if (means<PutAdd>(r->op) && reductions.size() > 1) return "put_add stands alone";
    }
    if (reductions.empty() && chunked.sums.empty())
      for (NodeId o : outputs)
        if (at(o).type.shape != rows) return fmt::format("{}: {} vs {}", kShapesDiffer, to_string(at(outputs[0]).type), to_string(at(o).type));
    for (NodeId o : outputs) {
      const Shape& shape = at(o).type.shape;
      if (shape.size() < rows.size() || !std::equal(rows.begin(), rows.end(), shape.begin())) return kOtherRows;
      if (shape != rows && count(rows) < kFewRows && widest > kWideRow) return "too few rows to keep the machine busy";
    }
    if (!chunked.sums.empty() && rows != chunked.rows) return "the sums over rows are of other rows";
    Walk w{nodes, {}, !chunked.sums.empty(), {}, {}, {}, {}, copies, {}};
    for (int64_t extent : rows) w.rows.push_back(w.fresh(extent));
    for (NodeId o : outputs) {
      std::vector<Index> index = w.rows;
      for (size_t d = rows.size(); d < at(o).type.shape.size(); ++d) index.push_back(w.fresh(at(o).type.shape[d]));
      walk(w, o, index, false);
    }
    return w.problem;
  }

  void merge_all() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const NodeId consumer = static_cast<NodeId>(i);
      if (group_[i] < 0 || at(consumer).op == Op::result) continue;
      const std::vector<NodeId>& sources = producers_[i];
      const size_t alone = members_[static_cast<size_t>(group_[i])].size();
      for (auto it = sources.rbegin(); it != sources.rend(); ++it) try_merge(*it, consumer);
      if (members_[static_cast<size_t>(group_[i])].size() > alone) try_again(group_[i]);
    }
  }

  std::vector<NodeId> both(int p, int c) const {
    const auto &of_p = members_[static_cast<size_t>(p)], &of_c = members_[static_cast<size_t>(c)];
    std::vector<NodeId> out;
    std::merge(of_p.begin(), of_p.end(), of_c.begin(), of_c.end(), std::back_inserter(out));
    return out;
  }
  void join(int p, int c) {
    members_[static_cast<size_t>(c)] = both(p, c);
    for (NodeId id : std::exchange(members_[static_cast<size_t>(p)], {})) group_[static_cast<size_t>(id)] = c;
  }
  // Makes them one group, or says why not.
  std::string merged(int p, int c) {
    std::string reason = makes_cycle(p, c) && !planted(Fault::partition_cycle) ? "another kernel stands between them" : obstacle(both(p, c));
    if (reason.empty() && !context_.allow()) reason = "bisect limit";
    if (!reason.empty()) return reason;
    join(p, c);
    apart_[c].insert(apart_[c].end(), apart_[p].begin(), apart_[p].end());
    apart_.erase(p);
    return kFused;
  }
  // Where neither reads the other.
  bool merge_beside(int p, int c) {
    const NodeId end = static_cast<NodeId>(graph_.nodes.size());
    if (makes_cycle(p, c, end) || makes_cycle(c, p, end) || !obstacle(both(p, c)).empty() || !context_.allow()) return false;
    join(p, c);
    return true;
  }
  // Two nodes whose shapes kept them apart may both be within a kernel once what stands around them is.
  void try_again(int c) {
    for (size_t v : std::vector<size_t>(apart_[c])) {
      Verdict& old = context_.verdicts[v];
      const int p = group_[static_cast<size_t>(old.producer)];
      if (p != c && !old.reason.starts_with(kShapesDiffer) && old.reason != kOtherRows) continue;
      if (p == c || merged(p, c) == kFused) old.fused = true, old.reason = kFused, old.bytes = 0;
    }
  }

  void try_merge(NodeId producer, NodeId consumer) {
    const int p = group_[static_cast<size_t>(producer)], c = group_[static_cast<size_t>(consumer)];
    std::string reason = "same kernel";
    const bool place = places_.count(producer) || places_.count(consumer);
    if (place) {
      reason = kSameMemory;
    } else if (of_control(producer) || of_control(consumer)) {
      reason = of_control(producer) && is_elementwise_scan(at(members_[static_cast<size_t>(p)][0])) ? "a loop's kernel holds nothing else" : "what loops and branches read and make is in memory";
    } else if (p != c) {
      reason = merged(p, c);
      if (reason != kFused) apart_[c].push_back(context_.verdicts.size());
    }
    const bool fused = group_[static_cast<size_t>(producer)] == group_[static_cast<size_t>(consumer)];
    context_.verdicts.push_back({producer, consumer, fused, reason, fused || place ? 0 : 2 * graph_.type(producer).bytes(),
                                 fmt::format("{}%{} {} -> %{} {}", context_.within, producer, name_of(at(producer).op), consumer, name_of(at(consumer).op))});
  }

  // --- products of what is recomputed (weighed.h) ---
  // One that a GPU's roles make in one walk with the sums of its rows.
  bool weighs(NodeId id) const { return context_.nested_in_roles && summed_scores(groups_, id); }
  // Three of them, of which one is added up in order.
  void merge_in_order() {
    in_order_ = context_.nested_in_roles ? sums_in_order(groups_) : std::vector<InOrder>{};
    std::erase_if(in_order_, [](const InOrder& s) { return s.wide < 0; });
    for (const InOrder& s : in_order_) {
      std::vector<NodeId> all = {s.first, s.second, s.across, s.wide};
      std::sort(all.begin(), all.end());
      const bool apart = std::ranges::none_of(all, [&](NodeId a) { return std::ranges::any_of(all, [&](NodeId b) { return a != b && makes_cycle(group_[static_cast<size_t>(a)], group_[static_cast<size_t>(b)], static_cast<NodeId>(graph_.nodes.size())); }); });
      if (!apart || !obstacle(all).empty() || !context_.allow()) continue;
      for (size_t n = 1; n < all.size(); ++n) join(group_[static_cast<size_t>(all[n - 1])], group_[static_cast<size_t>(all[n])]);
    }
  }
  // One kernel then computes it once for both.
  void merge_siblings() {
    std::vector<NodeId> waiting;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      if (group_[i] < 0 || !summed_scores(groups_, id)) continue;
      const auto partner = std::find_if(waiting.begin(), waiting.end(), [&](NodeId other) {
        const int p = group_[static_cast<size_t>(other)], c = group_[i];
        return p != c && share_scores(groups_, {other, id}) && merge_beside(p, c);
      });
      if (partner != waiting.end()) waiting.erase(partner);
      else waiting.push_back(id);
    }
  }

  // --- sums over chunks of rows, beside a kernel that reads the same rows ---
  void merge_sums_of_rows() {
    const auto only_sums = [&](const std::vector<NodeId>& nodes) {
      const std::vector<NodeId> outputs = outputs_of(nodes);
      return !outputs.empty() && std::all_of(outputs.begin(), outputs.end(), [&](NodeId o) { return is_chunk_sum(graph_, o); });
    };
    std::map<NodeId, std::set<int>> readers;   // of what such sums read
    std::vector<std::pair<int, std::set<NodeId>>> waiting;
    for (size_t g = 0; g < members_.size(); ++g)
      if (!members_[g].empty() && of_kernel(members_[g][0]) && only_sums(members_[g])) {
        waiting.emplace_back(static_cast<int>(g), groups_.sources_of(members_[g]));
        for (NodeId s : waiting.back().second) readers[s];
      }
    for (size_t g = 0; g < members_.size() && !waiting.empty(); ++g)
      if (!members_[g].empty() && of_kernel(members_[g][0]))
        for (NodeId s : groups_.sources_of(members_[g]))
          if (const auto it = readers.find(s); it != readers.end()) it->second.insert(static_cast<int>(g));
    for (const auto& [g, sources] : waiting)
      for (NodeId s : sources) {
        const auto beside = std::find_if(readers[s].begin(), readers[s].end(), [&, g = g](int other) {
          return other != g && !members_[static_cast<size_t>(g)].empty() && !members_[static_cast<size_t>(other)].empty() && merge_beside(g, other);
        });
        if (beside != readers[s].end()) break;
      }
  }

  // --- maps that are computed again ---
  void duplicate() {
    const auto legal = [&](int group, const std::vector<NodeId>& copies, const std::vector<NodeId>& outputs) {
      const std::vector<NodeId>& own = members_[static_cast<size_t>(group)];
      if (of_control(own[0]) || places_.count(own[0]) || nests(own)) return false;
      std::vector<NodeId> all;
      std::set_union(own.begin(), own.end(), copies.begin(), copies.end(), std::back_inserter(all));
      const std::vector<NodeId> stored = outputs.empty() ? outputs_of(own) : outputs;
      return obstacle(all, &stored, &copies).empty();
    };
    std::set<NodeId> duplicated;
    duplicate_maps(groups_, legal, [&](NodeId id) { return !of_control(id) && context_.allow() && duplicated.insert(id).second; }, context_.op_share);
    for (size_t v = first_verdict_; v < context_.verdicts.size(); ++v)
      if (Verdict& verdict = context_.verdicts[v]; duplicated.count(verdict.producer) && !verdict.fused) verdict.fused = true, verdict.reason = kDuplicated, verdict.bytes = 0;
  }
  // Does it compute what is recomputed in blocks?
  bool nests(const std::vector<NodeId>& nodes) const {
    std::set<NodeId> seen;
    std::vector<NodeId> stack = nodes;
    while (!stack.empty()) {
      const NodeId id = stack.back();
      stack.pop_back();
      if (nested_[static_cast<size_t>(id)]) return true;
      if (!seen.insert(id).second || !(free_[static_cast<size_t>(id)] || std::binary_search(nodes.begin(), nodes.end(), id))) continue;
      stack.insert(stack.end(), at(id).args.begin(), at(id).args.end());
    }
    return false;
  }

  void tell_recomputed() {
    std::map<NodeId, std::set<NodeId>> readers;
    for (size_t u = 0; u < nested_.size(); ++u)
      for (NodeId a : at(static_cast<NodeId>(u)).args)
        if (nested_[static_cast<size_t>(a)] && (nested_[u] || group_[u] >= 0)) readers[a].insert(static_cast<NodeId>(u));
    for (const auto& [id, users] : readers)
      for (NodeId u : users)
        context_.verdicts.push_back({id, u, true, kRecomputed, 0, fmt::format("{}%{} {} -> %{} {}", context_.within, id, name_of(at(id).op), u, name_of(at(u).op))});
  }

  // --- views that need no kernel ---
  bool of_kernel(NodeId id) const { return group_[static_cast<size_t>(id)] >= 0 && !places_.count(id) && !of_control(id); }
  bool in_memory(NodeId id) const { return group_[static_cast<size_t>(id)] >= 0 || at(id).op == Op::input; }
  // What is stored is where it is. Operands of a concat that are results of kernels and lie nowhere else are written where it lies.
  void place_concats() {
    std::set<NodeId> held;
    for (const std::vector<NodeId>& members : members_) {
      const NodeId id = members[0];
      const Placement::Kind kind = placement_of(graph_, id).kind;
      if (at(id).op == Op::stored && kind == Placement::Kind::inside && in_memory(at(id).args[0])) places_.insert(id);
      if (kind != Placement::Kind::around) continue;
      const std::vector<NodeId>& args = at(id).args;
      const auto placeable = [&](NodeId a) { return of_kernel(a) && !root_[static_cast<size_t>(a)] && !held.count(a) && std::count(args.begin(), args.end(), a) == 1; };
      if (!std::all_of(args.begin(), args.end(), placeable) || !context_.allow()) continue;
      places_.insert(id);
      held.insert(args.begin(), args.end());
    }
  }
  // What no kernel took in and lies inside an input or a kernel's result. (Constants' views are folded.)
  void place_slices() {
    for (const std::vector<NodeId>& members : members_) {
      if (members.size() != 1 || placement_of(graph_, members[0]).kind != Placement::Kind::inside) continue;
      const NodeId id = members[0];
      if (places_.count(id) || !in_memory(at(id).args[0]) || !context_.allow()) continue;
      places_.insert(id);
      for (size_t v = first_verdict_; v < context_.verdicts.size(); ++v)
        if (context_.verdicts[v].consumer == id) context_.verdicts[v].reason = kSameMemory, context_.verdicts[v].bytes = 0;
    }
  }
};

}  // namespace

// What a kernel is refused with is in memory: once more without it.
Partition partition_with_origins(const Graph& graph, PassContext& context) {
  const size_t verdicts = context.verdicts.size();
  const int64_t rewrites = context.rewrites;
  for (std::set<NodeId> in_memory;;) {
    Partitioner partitioner(graph, context, in_memory);
    Partition out = partitioner.run();
    const auto refused = partitioner.refused(out);
    if (refused.empty()) return out;
    for (const auto& [cluster, why] : refused) {
      in_memory.insert(cluster);
      context.in_memory.push_back(fmt::format("{}%{} {} and what is made of it is kept in memory, no role takes {}", context.within, cluster, name_of(graph.at(cluster).op), why));
    }
    context.verdicts.resize(verdicts);
    context.rewrites = rewrites;
  }
}

Graph partition(const Graph& graph, PassContext& context) {
  Graph own = dead_code(graph);
  for (size_t i = 0; i < own.nodes.size(); ++i) {
    Node& n = own.nodes[i];
    if (!is_control_flow(n.op) || is_elementwise_scan(n)) continue;
    const std::string outer = std::exchange(context.within, fmt::format("{}in %{} {}: ", context.within, i, name_of(n.op)));
    for (auto* body : {&n.attrs.body, &n.attrs.otherwise})
      if (*body) *body = std::make_shared<const Graph>(partition(**body, context));
    context.within = outer;
  }
  return dead_code(partition_with_origins(own, context).kernels);
}

}  // namespace quern
