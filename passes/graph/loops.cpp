// loops: work moves out of the bodies of scans, and what nobody reads goes.
//   before: %5 = scan %h0, %xs, %w {index=[1, 1], limit=[24], body: h' = tanh(contract(x, w) + h)}
//   after:  %3 = contract %xs, %w {all steps at once};  %5 = scan %h0, %3 {h' = tanh(x + h)}
// In this order: scans of the same arguments and carries become one (a loop and the one that keeps its residuals); results,
// carries and arguments that nothing depends on go; what depends on no carry is computed before the loop, products and what
// they need and what follows them for all steps at once; products that no carry depends on, but stacked results and sums
// over the steps, come behind it, on stacks of what they read (dW of a recurrent layer is one product).
// A sum over the steps that became one product rounds once: an order of sums is changed, as in a kernel's own.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/vmap.h"
#include "passes/pass.h"

namespace quern {
namespace {

bool is_heavy(Op op) { return means<Contract>(op); }
bool is_cheap(Op op) { return means<View>(op) || means<Source>(op); }

// --- scans that do the same ---

// Does the later scan `other` go through the same carries as `n`, on arguments that are there before `n`? Then one scan
// with the results of `n`, then those stacks of `other`.
std::optional<Attrs> merged(const Graph& g, NodeId id, NodeId other_id) {
  const Node &n = g.at(id), &other = g.at(other_id);
  if (n.args != other.args || n.attrs.index != other.attrs.index || n.attrs.limit != other.attrs.limit || (n.attrs.stride != other.attrs.stride && !planted(Fault::directions_merged))) return std::nullopt;
  GraphBuilder b;
  std::vector<NodeId> in;
  for (NodeId i : n.attrs.body->inputs) in.push_back(b.input(n.attrs.body->at(i).attrs.name, n.attrs.body->type(i)));
  const std::vector<NodeId> mine = b.inline_body(*n.attrs.body, in), theirs = b.inline_body(*other.attrs.body, in);
  const int64_t carries = n.attrs.index[0];
  if (!std::equal(mine.begin(), mine.begin() + carries, theirs.begin())) return std::nullopt;
  for (NodeId o : mine) b.output("", o);
  for (size_t o = static_cast<size_t>(carries); o < theirs.size(); ++o) b.output("", theirs[o]);
  Attrs attrs = n.attrs;
  attrs.body = std::make_shared<const Graph>(b.finish());
  return attrs;
}

Graph merge_scans(const Graph& graph, PassContext& context) {
  Graph g = graph;
  for (size_t i = 0; i < g.nodes.size(); ++i)
    for (size_t j = i + 1; j < g.nodes.size() && g.nodes[i].op == Op::scan; ++j) {
      if (g.nodes[j].op != Op::scan) continue;
      const std::optional<Attrs> attrs = merged(g, static_cast<NodeId>(i), static_cast<NodeId>(j));
      if (!attrs || !context.allow()) continue;
      const int64_t carries = g.nodes[i].attrs.index[0], stacks = static_cast<int64_t>(g.nodes[i].type.results.size()) - carries;
      for (Node& r : g.nodes)
        if (r.op == Op::result && r.args[0] == static_cast<NodeId>(j)) {
          r.args[0] = static_cast<NodeId>(i);
          if (r.attrs.index[0] >= carries) r.attrs.index[0] += stacks;
        }
      const std::vector<Type>& more = g.nodes[j].type.results;
      g.nodes[i].attrs = *attrs;
      g.nodes[i].type.results.insert(g.nodes[i].type.results.end(), more.begin() + carries, more.end());
      g = dead_code(g);
      --i;   // perhaps another one
      break;
    }
  return g;
}

// --- one scan ---

class ScanMover {
 public:
  ScanMover(GraphBuilder& b, const Node& n, const std::vector<NodeId>& args, const std::vector<char>& used, PassContext& context)
      : b_(b), body_(*n.attrs.body), attrs_(n.attrs), context_(context), args_(args), carries_(static_cast<size_t>(n.attrs.index[0])), scanned_(static_cast<size_t>(n.attrs.index[1])), steps_(n.attrs.limit[0]), used_(used) {}

  /// What stands for each result; -1 where it is not used.
  std::vector<NodeId> run() {
    results_.assign(body_.outputs.size(), -1);
    find_live();
    move_before();
    move_behind();
    build();
    return results_;
  }

 private:
  GraphBuilder& b_;
  const Graph& body_;
  const Attrs& attrs_;
  PassContext& context_;
  const std::vector<NodeId>& args_;
  size_t carries_, scanned_;
  int64_t steps_;
  std::vector<char> used_;                      // results
  std::vector<NodeId> results_;
  std::vector<char> live_;                      // carries
  std::vector<char> fixed_, scan_, carry_;      // of each node: depends on no carry and no scanned input; on these; on a carry
  std::map<NodeId, NodeId> hoisted_;            // body node → for all steps outside of it, along axis 0, or (fixed) the same in all
  std::map<NodeId, NodeId> behind_;             // the same, of nodes that move behind: known when the loop is there
  std::set<size_t> sums_;                       // carries that sum up what moves behind
  std::vector<NodeId> stacked_;                 // nodes that are stacked for what moves behind
  std::set<NodeId> moved_;                      // nodes that come behind the loop
  std::vector<NodeId> behind_roots_;            // those of them, and the stacked summands, that are asked for
  std::map<size_t, NodeId> summand_;            // of carries that are sums
  std::map<NodeId, NodeId> stack_;              // body node → its stack, when the loop is there

  NodeId out(size_t o) const { return body_.outputs[o].node; }
  size_t input_of(NodeId id) const { return static_cast<size_t>(std::find(body_.inputs.begin(), body_.inputs.end(), id) - body_.inputs.begin()); }
  bool is_carry(size_t input) const { return input < carries_ && !fixed_[static_cast<size_t>(body_.inputs[input])]; }
  bool is_scanned(size_t input) const { return input >= carries_ && input < carries_ + scanned_; }
  std::vector<char> reach(const std::vector<NodeId>& from) const {
    std::vector<char> seen(body_.nodes.size());
    for (NodeId f : from) seen[static_cast<size_t>(f)] = 1;
    for (size_t i = seen.size(); i-- > 0;)
      if (seen[i])
        for (NodeId a : body_.nodes[i].args) seen[static_cast<size_t>(a)] = 1;
    return seen;
  }

  void find_live() {
    live_.assign(used_.begin(), used_.begin() + static_cast<int64_t>(carries_));
    for (bool changed = true; changed;) {
      changed = false;
      std::vector<NodeId> from;
      for (size_t o = 0; o < used_.size(); ++o)
        if (o < carries_ ? live_[o] : used_[o]) from.push_back(out(o));
      const std::vector<char> seen = reach(from);
      for (size_t k = 0; k < carries_; ++k)
        if (!live_[k] && seen[static_cast<size_t>(body_.inputs[k])]) live_[k] = changed = true;
    }
    const size_t n = body_.nodes.size();
    fixed_.assign(n, 1), scan_.assign(n, 0), carry_.assign(n, 0);
    for (size_t i = 0; i < body_.inputs.size(); ++i) {
      const size_t id = static_cast<size_t>(body_.inputs[i]);
      if (i < carries_ && out(i) != body_.inputs[i] && !(i > 0 && planted(Fault::carry_hoisted))) carry_[id] = 1;   // one that never changes is a fixed one
      if (is_scanned(i)) scan_[id] = 1;
      fixed_[id] = !carry_[id] && !scan_[id];
    }
    for (size_t i = 0; i < n; ++i) {
      for (NodeId a : body_.nodes[i].args) carry_[i] = carry_[i] || carry_[static_cast<size_t>(a)], scan_[i] = scan_[i] || scan_[static_cast<size_t>(a)];
      if (body_.nodes[i].op != Op::input) fixed_[i] = !carry_[i] && !scan_[i];
    }
  }

  // Copies what `wanted` need into a graph of its own, whose inputs are the nodes that `given` knows.
  struct Cut {
    Graph graph;
    std::vector<NodeId> inputs;   // body nodes
  };
  template <class Given>
  Cut cut(const std::vector<NodeId>& wanted, Given&& given) const {
    Cut c;
    GraphBuilder own;
    std::map<NodeId, NodeId> map;
    std::vector<char> needed(body_.nodes.size());
    for (NodeId w : wanted) needed[static_cast<size_t>(w)] = 1;
    for (size_t i = needed.size(); i-- > 0;)
      if (needed[i] && !given(static_cast<NodeId>(i)))
        for (NodeId a : body_.nodes[i].args) needed[static_cast<size_t>(a)] = 1;
    for (size_t i = 0; i < needed.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      if (!needed[i]) continue;
      if (given(id)) {
        map[id] = own.input("", body_.type(id));
        c.inputs.push_back(id);
      } else {
        std::vector<NodeId> args;
        for (NodeId a : body_.nodes[i].args) args.push_back(map.at(a));
        map[id] = own.add(body_.nodes[i].op, std::move(args), body_.nodes[i].attrs, body_.where(id));
      }
    }
    for (NodeId w : wanted) own.output("", map.at(w));
    c.graph = own.finish();
    return c;
  }
  // `wanted` for all steps at once, from nodes that are known so.
  template <class Known>
  void for_all_steps(const std::vector<NodeId>& wanted, Known&& known, std::map<NodeId, NodeId>& to) {
    if (wanted.empty()) return;
    const Cut c = cut(wanted, [&](NodeId id) { return known(id) >= 0; });
    std::vector<NodeId> args;
    Shape axes;
    for (NodeId i : c.inputs) {
      args.push_back(known(i));
      axes.push_back(fixed_[static_cast<size_t>(i)] ? -1 : 0);
    }
    const std::vector<NodeId> made = vmap_inline(b_, c.graph, args, axes);
    for (size_t w = 0; w < wanted.size(); ++w) to[wanted[w]] = made[w];
  }

  void move_before() {
    const auto live_outputs = [&] {
      std::vector<NodeId> from;
      for (size_t o = 0; o < used_.size(); ++o)
        if (o < carries_ ? live_[o] && carry_[static_cast<size_t>(body_.inputs[o])] : used_[o]) from.push_back(out(o));
      return from;
    };
    const std::vector<char> needed = reach(live_outputs());
    // The same in all steps: once.
    std::vector<NodeId> once, all;
    std::vector<char> follows(body_.nodes.size());   // a product, or what is computed from one
    std::set<NodeId> read;                           // by what stays in the loop
    for (NodeId o : live_outputs()) read.insert(o);
    for (size_t i = 0; i < body_.nodes.size(); ++i) {
      if (!needed[i]) continue;
      const Node& n = body_.nodes[i];
      for (NodeId a : n.args) follows[i] = follows[i] || follows[static_cast<size_t>(a)];
      follows[i] = (follows[i] || is_heavy(n.op)) && !carry_[i] && !means<Body>(n.op);
      if (fixed_[i] || (!carry_[i] && follows[i])) continue;
      for (NodeId a : n.args) read.insert(a);
    }
    for (NodeId id : read) {
      const Node& n = body_.at(id);
      if (n.op == Op::input || !n.type.results.empty()) continue;
      if (fixed_[static_cast<size_t>(id)] && !is_cheap(n.op)) once.push_back(id);
      // Single steps of a stack must begin where kernels can read them; and a loop of one step moves nothing.
      if (!fixed_[static_cast<size_t>(id)] && follows[static_cast<size_t>(id)] && steps_ > 1) all.push_back(id);
    }
    for (size_t o = carries_; o < used_.size(); ++o)   // stacks that no carry takes part in
      if (used_[o] && !carry_[static_cast<size_t>(out(o))] && !fixed_[static_cast<size_t>(out(o))] && !std::count(all.begin(), all.end(), out(o)) && body_.at(out(o)).op != Op::input && steps_ > 0) all.push_back(out(o));
    if (!once.empty() && context_.allow()) {
      const Cut c = cut(once, [&](NodeId id) { return body_.at(id).op == Op::input; });
      std::vector<NodeId> args;
      for (NodeId i : c.inputs) args.push_back(args_[input_of(i)]);
      const std::vector<NodeId> made = b_.inline_body(c.graph, args);
      for (size_t w = 0; w < once.size(); ++w) hoisted_[once[w]] = made[w];
    }
    if (!all.empty() && context_.allow()) {
      for_all_steps(all, [&](NodeId id) { return hoisted_.count(id) ? hoisted_.at(id) : body_.at(id).op == Op::input ? args_[input_of(id)] : -1; }, hoisted_);
      note("before", all);
    }
  }

  void note(const char* where, const std::vector<NodeId>& nodes) {
    std::string names;
    for (NodeId id : nodes) names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(body_.at(id).op));
    context_.loops.push_back(fmt::format("{}{} steps: {} the loop, for all at once: {}", context_.within, extent_text(steps_), where, names));
  }

  // What a sum over the steps adds in each: out = in + v, where nothing else reads in.
  NodeId summand(size_t k) const {
    const Node& n = body_.at(out(k));
    const NodeId in = body_.inputs[k];
    if (n.op != Op::add || (n.args[0] == in) == (n.args[1] == in)) return -1;
    for (size_t i = 0; i < body_.nodes.size(); ++i)
      if (static_cast<NodeId>(i) != out(k) && std::count(body_.nodes[i].args.begin(), body_.nodes[i].args.end(), in)) return -1;
    for (size_t o = 0; o < body_.outputs.size(); ++o)
      if (o != k && (out(o) == in || out(o) == out(k))) return -1;
    for (size_t i = 0; i < body_.nodes.size(); ++i)
      if (std::count(body_.nodes[i].args.begin(), body_.nodes[i].args.end(), out(k))) return -1;
    return n.args[0] == in ? n.args[1] : n.args[0];
  }

  void move_behind() {
    if (steps_ < 2) return;
    std::vector<NodeId> of_carries;
    for (size_t k = 0; k < carries_; ++k) {
      if (!live_[k] || !is_carry(k)) continue;
      const NodeId v = summand(k);
      if (v >= 0 && !fixed_[static_cast<size_t>(v)]) summand_[k] = v;
      else of_carries.push_back(out(k));
    }
    for (size_t i = 0; i < body_.nodes.size(); ++i)
      if (is_control_flow(body_.nodes[i].op)) of_carries.push_back(static_cast<NodeId>(i));
    const std::vector<char> kept = reach(of_carries);   // what the other carries need, and loops and branches inside
    std::vector<NodeId> roots;
    for (const auto& [k, v] : summand_) roots.push_back(v);
    for (size_t o = carries_; o < used_.size(); ++o)
      if (used_[o] && !hoisted_.count(out(o))) roots.push_back(out(o));
    const std::vector<char> wanted = reach(roots);
    std::set<NodeId> stacks;   // with what their views are of
    for (size_t before = SIZE_MAX; before != moved_.size();) {
      before = moved_.size();
      for (size_t i = 0; i < body_.nodes.size(); ++i) {
        const NodeId id = static_cast<NodeId>(i);
        const Node& n = body_.nodes[i];
        if (kept[i] || !wanted[i] || fixed_[i] || hoisted_.count(id) || means<Body>(n.op)) continue;
        const auto moved = [&](NodeId a) { return moved_.count(a) > 0; };
        const bool of_stack = n.op == Op::reduce_sum && (moved(n.args[0]) || stacks.count(n.args[0]) > 0);
        if (!is_heavy(n.op) && !of_stack && std::none_of(n.args.begin(), n.args.end(), moved)) continue;
        moved_.insert(id);
        for (NodeId a : n.args)
          for (NodeId s = a; !moved(s) && !fixed_[static_cast<size_t>(s)]; s = body_.at(s).args[0]) {
            stacks.insert(s);
            if (!through(s)) break;
          }
      }
    }
    if (moved_.empty() || !context_.allow()) return moved_.clear();
    for (const auto& [k, v] : summand_)   // a sum moves if its summand does or is stacked: the carry goes
      if (moved_.count(v) || stacks.count(v)) sums_.insert(k);
    std::vector<NodeId> heavy;
    for (NodeId id : moved_)
      if (is_heavy(body_.at(id).op)) heavy.push_back(id);
    note("behind", heavy);
    // What the moved ones read of the loop, through views.
    for (size_t o = carries_; o < used_.size(); ++o)
      if (used_[o] && moved_.count(out(o))) behind_roots_.push_back(out(o));
    for (size_t k : sums_) behind_roots_.push_back(summand_.at(k));
    std::vector<char> walk(body_.nodes.size());
    for (NodeId f : behind_roots_) walk[static_cast<size_t>(f)] = 1;
    for (size_t i = walk.size(); i-- > 0;) {
      const NodeId id = static_cast<NodeId>(i);
      if (!walk[i] || fixed_[i] || hoisted_.count(id)) continue;
      if (!moved_.count(id) && !through(id)) {
        if (!(body_.at(id).op == Op::input && is_scanned(input_of(id)))) stacked_.push_back(id);
        continue;
      }
      for (NodeId a : body_.at(id).args) walk[static_cast<size_t>(a)] = 1;
    }
  }
  // A view is made anew behind the loop rather than stacked.
  bool through(NodeId id) const { return means<View>(body_.at(id).op) && body_.at(id).args.size() == 1; }

  void build() {
    // The new body: carries, scanned, others; hoisted nodes are inputs.
    std::vector<NodeId> outputs;                       // body nodes: the next carries, then stacks
    std::vector<size_t> carry_of, stack_of;            // results that they are
    for (size_t k = 0; k < carries_; ++k)
      if (live_[k] && is_carry(k) && !sums_.count(k)) outputs.push_back(out(k)), carry_of.push_back(k);
    std::map<NodeId, size_t> place;                    // stacked body node → output
    const auto stack = [&](NodeId id) {
      if (place.emplace(id, outputs.size()).second) outputs.push_back(id);
    };
    for (size_t o = carries_; o < used_.size(); ++o)
      if (used_[o] && !hoisted_.count(out(o)) && !moved_.count(out(o)) && !(body_.at(out(o)).op == Op::input && is_scanned(input_of(out(o))))) stack(out(o)), stack_of.push_back(o);
    for (NodeId id : stacked_) stack(id);
    for (size_t k = 0; k < carries_; ++k)
      if (used_[k] && !is_carry(k)) results_[k] = args_[k];   // never changes
    NodeId loop = -1;
    if (!outputs.empty()) {
      GraphBuilder own;
      std::vector<NodeId> args[3];
      std::vector<NodeId> map(body_.nodes.size(), -1);
      const std::vector<char> needed = [&] {
        std::vector<char> seen(body_.nodes.size());
        for (NodeId o : outputs) seen[static_cast<size_t>(o)] = 1;
        for (size_t i = seen.size(); i-- > 0;)
          if (seen[i] && !hoisted_.count(static_cast<NodeId>(i)))
            for (NodeId a : body_.nodes[i].args) seen[static_cast<size_t>(a)] = 1;
        return seen;
      }();
      const auto input = [&](int role, NodeId arg, NodeId id) {
        args[role].push_back(arg);
        map[static_cast<size_t>(id)] = own.input(body_.at(id).attrs.name, body_.type(id));
      };
      for (size_t k : carry_of) input(0, args_[k], body_.inputs[k]);
      for (int role : {1, 2}) {
        for (size_t i = 0; i < body_.inputs.size(); ++i) {
          const NodeId id = body_.inputs[i];
          if (needed[static_cast<size_t>(id)] && map[static_cast<size_t>(id)] < 0 && (role == 1) == is_scanned(i)) input(role, args_[i], id);
        }
        for (const auto& [id, outside] : hoisted_)
          if (needed[static_cast<size_t>(id)] && (role == 1) == !fixed_[static_cast<size_t>(id)]) input(role, outside, id);
      }
      for (size_t i = 0; i < body_.nodes.size(); ++i) {
        if (!needed[i] || map[i] >= 0) continue;
        std::vector<NodeId> mapped;
        for (NodeId a : body_.nodes[i].args) mapped.push_back(map[static_cast<size_t>(a)]);
        map[i] = own.add(body_.nodes[i].op, std::move(mapped), body_.nodes[i].attrs, body_.where(static_cast<NodeId>(i)));
      }
      for (NodeId o : outputs) own.output("", map[static_cast<size_t>(o)]);
      Attrs attrs = attrs_;
      attrs.index = {static_cast<int64_t>(args[0].size()), static_cast<int64_t>(args[1].size())};
      attrs.body = std::make_shared<const Graph>(own.finish());
      std::vector<NodeId> all;
      for (const auto& role : args) all.insert(all.end(), role.begin(), role.end());
      loop = b_.add(Op::scan, std::move(all), std::move(attrs));
      int64_t bytes[2] = {};   // of a constant size; per unit of the symbol
      for (size_t o = carry_of.size(); o < outputs.size(); ++o) {
        const bool open = is_symbolic(steps_) || is_symbolic(body_.type(outputs[o]).shape);
        bytes[open] += checked_mul(at_size(steps_, 1), at_size(body_.type(outputs[o]), 1).bytes());
      }
      context_.loops.push_back(fmt::format("{}{} steps: {} carries, {} stacks of {}{} bytes", context_.within, extent_text(steps_), carry_of.size(), outputs.size() - carry_of.size(), bytes[0] || !bytes[1] ? fmt::format("{}", bytes[0]) : "", bytes[1] ? fmt::format("{}{}n", bytes[0] ? " + " : "", bytes[1]) : ""));
      for (size_t i = 0; i < carry_of.size(); ++i)
        if (used_[carry_of[i]]) results_[carry_of[i]] = b_.result(loop, i);
      for (size_t o : stack_of) results_[o] = b_.result(loop, place.at(out(o)));
      for (const auto& [id, i] : place) stack_[id] = b_.result(loop, i);
    }
    const auto known = [&](NodeId id) -> NodeId {
      if (hoisted_.count(id)) return hoisted_.at(id);
      if (stack_.count(id) && !fixed_[static_cast<size_t>(id)]) return stack_.at(id);   // what is the same in all steps is not read from its stack
      if (body_.at(id).op != Op::input) return -1;
      const size_t i = input_of(id);
      return is_scanned(i) || fixed_[static_cast<size_t>(id)] ? args_[i] : -1;
    };
    for_all_steps(behind_roots_, known, behind_);
    for (size_t o = carries_; o < used_.size(); ++o) {
      if (!used_[o] || results_[o] >= 0) continue;
      if (behind_.count(out(o))) results_[o] = behind_.at(out(o));
      else if (hoisted_.count(out(o)) && !fixed_[static_cast<size_t>(out(o))]) results_[o] = hoisted_.at(out(o));
      else if (hoisted_.count(out(o))) results_[o] = spread(b_, hoisted_.at(out(o)), steps_);
      else results_[o] = known(out(o));   // a scanned argument itself
      QN_CHECK(results_[o] >= 0, "every used stack is somewhere");
    }
    for (size_t k : sums_) {
      const NodeId sum = sum_over_steps(behind_.at(summand_.at(k)));
      const Node& start = b_.graph().at(args_[k]);
      const bool zero = start.op == Op::broadcast && b_.graph().at(start.args[0]).op == Op::constant && b_.graph().at(start.args[0]).attrs.value->at(0) == 0;
      results_[k] = zero ? sum : b_.add(Op::add, {args_[k], sum});
    }
  }

  // The sum along axis 0, drawn into what makes the value: a product sums over it, too. Not through a cast to integers,
  // which rounds each summand, nor to a wider float, which holds sums that overflow before it.
  NodeId sum_over_steps(NodeId x) {
    const Node n = b_.graph().at(x);
    if (n.op == Op::add || n.op == Op::sub) return b_.add(n.op, {sum_over_steps(n.args[0]), sum_over_steps(n.args[1])});
    if (n.op == Op::neg) return b_.add(n.op, {sum_over_steps(n.args[0])});
    if (n.op == Op::cast && is_float(n.type.dtype) && is_float(b_.type(n.args[0]).dtype) && size_of(n.type.dtype) < size_of(b_.type(n.args[0]).dtype)) return b_.add(n.op, {sum_over_steps(n.args[0])}, n.attrs);
    if (n.op == Op::transpose && n.attrs.axes[0] == 0) {
      Attrs attrs;
      for (size_t d = 1; d < n.attrs.axes.size(); ++d) attrs.axes.push_back(n.attrs.axes[d] - 1);
      return b_.add(n.op, {sum_over_steps(n.args[0])}, std::move(attrs));
    }
    if (n.op == Op::reshape && b_.type(n.args[0]).rank() > 0 && b_.type(n.args[0]).shape[0] == steps_) {
      Attrs attrs;
      attrs.shape = {n.attrs.shape.begin() + 1, n.attrs.shape.end()};
      return b_.add(n.op, {sum_over_steps(n.args[0])}, std::move(attrs));
    }
    if (n.op == Op::contract) {
      const ContractSpec s = parse_contract(n.attrs.spec);
      const char step = s.out[0];
      if (s.lhs.find(step) != std::string::npos && s.rhs.find(step) != std::string::npos) {
        Attrs attrs;
        attrs.spec = s.lhs + "," + s.rhs + "->" + s.out.substr(1);
        return b_.add(n.op, n.args, std::move(attrs));
      }
    }
    Attrs attrs;
    attrs.axes = {0};
    if (n.op == Op::reduce_sum && !std::count(n.attrs.axes.begin(), n.attrs.axes.end(), 0)) {
      attrs.axes.insert(attrs.axes.end(), n.attrs.axes.begin(), n.attrs.axes.end());
      return b_.add(Op::reduce_sum, {n.args[0]}, std::move(attrs));
    }
    return b_.add(Op::reduce_sum, {x}, std::move(attrs));
  }
};

}  // namespace

Graph loops(const Graph& graph, PassContext& context) {
  if (std::none_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) { return n.op == Op::scan; })) return graph;
  const Graph g = merge_scans(dead_code(graph), context);
  GraphBuilder b;
  b.symbol(g.symbol);
  std::vector<NodeId> map(g.nodes.size(), -1);
  std::map<NodeId, std::vector<NodeId>> results;   // of scans
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const Node& n = g.nodes[i];
    const SourceLoc where = g.where(static_cast<NodeId>(i));
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(map[static_cast<size_t>(a)]);
    if (n.op == Op::input) {
      map[i] = b.input(n.attrs.name, n.type, where);
    } else if (n.op == Op::scan) {
      std::vector<char> used(n.type.results.size());
      for (const Node& r : g.nodes)
        if (r.op == Op::result && r.args[0] == static_cast<NodeId>(i)) used[static_cast<size_t>(r.attrs.index[0])] = 1;
      results[static_cast<NodeId>(i)] = ScanMover(b, n, args, used, context).run();
    } else if (n.op == Op::result && results.count(n.args[0])) {
      map[i] = results.at(n.args[0])[static_cast<size_t>(n.attrs.index[0])];
    } else {
      map[i] = b.add(n.op, std::move(args), n.attrs, where);
    }
  }
  for (const NamedOutput& o : g.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : g.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  return dead_code(b.finish());
}

}  // namespace quern
