// See fuzz_reduce.h. Everything is an Edit of a graph: nodes replaced by earlier ones, by constants or by new inputs that
// hold what the reference computes there; bodies replaced by edited ones.
#include "tools/fuzz_reduce.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <set>

#include <fmt/format.h>

#include "ir/interpret.h"
#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/pass.h"
#include "tools/fuzz_extents.h"

namespace quern {
namespace {

struct Edit {
  std::map<NodeId, NodeId> by;             // an earlier node of the type
  std::map<NodeId, HostTensor> given;      // a new input
  std::set<NodeId> ones;                   // a constant
  std::map<NodeId, Attrs> attrs;           // other bodies
  std::map<NodeId, std::vector<NodeId>> args;
};

// The graph after the edit with the inputs that are still read, in a body all of them. States stay if their output does.
FuzzCase apply(const FuzzCase& c, const Edit& e, bool body = false) {
  const Graph& g = c.graph;
  const auto args_of = [&](NodeId id) { return e.args.count(id) ? e.args.at(id) : g.at(id).args; };
  std::vector<char> needed(g.nodes.size());
  for (NodeId r : g.roots()) needed[static_cast<size_t>(r)] = 1;
  for (const State& s : g.states) needed[static_cast<size_t>(s.input)] = 1;
  for (size_t i = needed.size(); i-- > 0;) {
    const NodeId id = static_cast<NodeId>(i);
    if (!needed[i] || e.given.count(id) || e.ones.count(id)) continue;
    if (e.by.count(id)) needed[static_cast<size_t>(e.by.at(id))] = 1;
    else for (NodeId a : args_of(id)) needed[static_cast<size_t>(a)] = 1;
  }
  FuzzCase out;
  GraphBuilder b;
  b.symbol(g.symbol);
  std::vector<NodeId> map(g.nodes.size(), -1);
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    const NodeId id = static_cast<NodeId>(i);
    const Node& n = g.nodes[i];
    const bool is_input = n.op == Op::input;
    if (!needed[i] && !(is_input && body)) continue;
    if (e.by.count(id)) {
      map[i] = map[static_cast<size_t>(e.by.at(id))];
    } else if (e.ones.count(id)) {
      map[i] = b.full(n.type, 1);
    } else if (is_input || e.given.count(id)) {
      map[i] = b.input(fmt::format("x{}", b.graph().inputs.size()), n.type);
      if (body) continue;
      const auto at = std::find(g.inputs.begin(), g.inputs.end(), id);
      out.inputs.push_back(is_input ? c.inputs[static_cast<size_t>(at - g.inputs.begin())] : e.given.at(id));
    } else {
      std::vector<NodeId> args;
      for (NodeId a : args_of(id)) args.push_back(map[static_cast<size_t>(a)]);
      map[i] = b.add(n.op, args, e.attrs.count(id) ? e.attrs.at(id) : n.attrs);
    }
  }
  for (const NamedOutput& o : g.outputs) b.output(o.name, map[static_cast<size_t>(o.node)]);
  for (const State& s : g.states) b.state(s.name, map[static_cast<size_t>(s.input)], map[static_cast<size_t>(s.output)]);
  out.graph = b.finish();
  return out;
}

bool is_tensor(const Node& n) { return n.type.results.empty(); }

class Reducer {
 public:
  Reducer(const Oracle& oracle, const Failure& failure, double seconds)
      : oracle_(oracle), kind_(failure.kind), end_(std::chrono::steady_clock::now() + std::chrono::milliseconds(static_cast<int64_t>(1000 * seconds))) {}

  FuzzCase run(FuzzCase c) {
    c_ = std::move(c);
    if (c_.graph.symbol) take({at_size(c_.graph, size()), c_.inputs});   // perhaps it is not the symbol
    open_states();
    drop_roots();
    shrink_all();
    // What calls and derivatives stand for may fail as well, and then less of it may.
    const FuzzCase kept = c_;
    for (const bool all : {false, true}) {
      if (all && kept.graph.symbol) break;   // so many lanes and steps cannot be written out
      FuzzCase flat = kept;
      PassContext context;
      try {
        flat.graph = all ? reference_of(kept.graph) : expand(kept.graph, context);
      } catch (const Error&) {
        continue;
      }
      if (flat.graph == kept.graph || !fails(flat)) continue;
      const FuzzCase best = c_;
      c_ = flat;
      shrink_all();
      if (ops_of(c_.graph) >= ops_of(best.graph)) c_ = best;
    }
    return c_;
  }

 private:
  const Oracle& oracle_;
  std::string kind_;
  std::chrono::steady_clock::time_point end_;
  FuzzCase c_;

  bool late() const { return std::chrono::steady_clock::now() > end_; }
  bool fails(const FuzzCase& c) const { return !late() && oracle_(c.graph, c.inputs).kind == kind_; }
  bool take(FuzzCase c) {
    if (!fails(c)) return false;
    c_ = std::move(c);
    return true;
  }
  bool take(const Edit& e) {
    try {
      return take(apply(c_, e));
    } catch (const Error&) {   // a body that no longer fits
      return false;
    }
  }

  int64_t size() const {   // the symbol's value
    std::vector<Shape> shapes;
    for (const HostTensor& t : c_.inputs) shapes.push_back(t.shape);
    return size_for(c_.graph, shapes);
  }

  // Ops, then extents, then perhaps fewer ops do.
  void shrink_all() {
    shrink();
    if (smaller_extents()) shrink();
  }
  bool smaller_extents() {
    bool any = false;
    for (bool again = true; again && !late();) {
      again = false;
      const Graph graph = c_.graph;
      const Extents extents(graph);
      std::vector<Extents::Class> classes = extents.classes();
      std::stable_sort(classes.begin(), classes.end(), [](const auto& a, const auto& b) { return a.extent > b.extent; });
      for (const Extents::Class& c : classes) {
        if (is_symbolic(c.extent)) continue;
        for (int64_t e : {int64_t{1}, int64_t{2}, int64_t{3}, c.extent / 2})
          if (e < c.extent && !again) again = take_extents([&] { return extents.with(c.id, e, graph.symbol); });
        if (again) break;
      }
      any = any || again;
    }
    return any;
  }
  template <class Make>
  bool take_extents(Make&& make) {
    try {
      FuzzCase less{make(), {}};
      const Graph sized = less.graph.symbol ? at_size(less.graph, size()) : less.graph;
      for (size_t i = 0; i < c_.inputs.size(); ++i) less.inputs.push_back(cropped(c_.inputs[i], sized.type(sized.inputs[i]).shape));
      return take(std::move(less));
    } catch (const Error&) {   // no graph has these extents
      return false;
    }
  }

  void open_states() {
    if (c_.graph.states.empty()) return;
    FuzzCase open = c_;
    for (const State& s : open.graph.states) open.graph.outputs.push_back({"next " + s.name, s.output});
    open.graph.states.clear();
    take(std::move(open));
  }
  void drop_roots() {
    const std::vector<NamedOutput> outputs = c_.graph.outputs;
    if (c_.graph.states.empty())
      for (const NamedOutput& o : outputs) {
        FuzzCase one = c_;
        one.graph.outputs = {o};
        if (take(std::move(one))) return;
      }
    const auto drop = [&](auto member) {   // one by one
      for (size_t i = (c_.graph.*member).size(); i-- > 0;) {
        FuzzCase less = c_;
        (less.graph.*member).erase((less.graph.*member).begin() + static_cast<int64_t>(i));
        if (!less.graph.roots().empty()) take(std::move(less));
      }
    };
    drop(&Graph::outputs);
    drop(&Graph::states);
  }

  void shrink() {
    take(Edit{});
    cut();
    const auto ops = [&] { return ops_of(c_.graph) + static_cast<int64_t>(c_.graph.inputs.size()); };
    for (int64_t before = -1; before != ops() && !late();) {
      before = ops();
      replace_nodes();
      for (size_t i = c_.graph.nodes.size(); i-- > 0 && !late();)
        if (i < c_.graph.nodes.size() && means<Body>(c_.graph.nodes[i].op) && c_.graph.nodes[i].op != Op::result) reduce_bodies(static_cast<NodeId>(i));
    }
  }

  // What the reference computes at every node that is one tensor.
  std::map<NodeId, HostTensor> values() const {
    Graph all = c_.graph;
    all.outputs.clear(), all.states.clear();
    for (size_t i = 0; i < all.nodes.size(); ++i)
      if (is_tensor(all.nodes[i])) all.outputs.push_back({"", static_cast<NodeId>(i)});
    std::map<NodeId, HostTensor> out;
    try {
      if (all.symbol) all = at_size(all, size());
      const std::vector<HostTensor> found = interpret(reference_of(all), c_.inputs);
      for (size_t o = 0; o < found.size(); ++o) out.emplace(all.outputs[o].node, found[o]);
    } catch (const Error&) {   // the case fails there: nothing is known
    }
    return out;
  }

  // Only what is near the roots.
  void cut() {
    const std::map<NodeId, HostTensor> known = values();
    for (int64_t most : {1, 2, 3, 4, 6, 9, 14, 20}) {
      const Graph& g = c_.graph;
      std::vector<int64_t> distance(g.nodes.size(), INT32_MAX);
      for (NodeId r : g.roots()) distance[static_cast<size_t>(r)] = 1;
      Edit e;
      for (size_t i = g.nodes.size(); i-- > 0;) {
        const NodeId id = static_cast<NodeId>(i);
        if (distance[i] == INT32_MAX) continue;
        if (distance[i] > most && is_tensor(g.nodes[i]) && g.nodes[i].op != Op::input && g.nodes[i].op != Op::constant && known.count(id)) {
          e.given.emplace(id, known.at(id));
          continue;
        }
        for (NodeId a : g.nodes[i].args) distance[static_cast<size_t>(a)] = std::min(distance[static_cast<size_t>(a)], distance[i] + (g.nodes[i].op != Op::result));
      }
      if (e.given.empty() || take(e)) return;
    }
  }

  // Each node in turn by one of its arguments, or by an input.
  void replace_nodes() {
    std::map<NodeId, HostTensor> known = values();
    for (size_t i = c_.graph.nodes.size(); i-- > 0 && !late();) {
      if (i >= c_.graph.nodes.size()) continue;
      const NodeId id = static_cast<NodeId>(i);
      const Node n = c_.graph.nodes[i];
      if (n.op == Op::input || n.op == Op::constant || !is_tensor(n)) continue;
      bool done = false;
      for (NodeId a : n.args) {
        if (done || !is_tensor(c_.graph.at(a)) || c_.graph.type(a) != n.type) continue;
        Edit e;
        e.by[id] = a;
        done = take(e);
      }
      if (!done && known.count(id)) {
        Edit e;
        e.given.emplace(id, known.at(id));
        done = take(e);
      }
      if (done) known = values();
    }
  }

  // --- bodies ---
  void reduce_bodies(NodeId id) {
    drop_results(id);
    for (const auto field : {&Attrs::body, &Attrs::otherwise}) {
      if (static_cast<size_t>(id) >= c_.graph.nodes.size() || !(c_.graph.at(id).attrs.*field)) continue;
      reduce_body(*(c_.graph.at(id).attrs.*field), [&](const Graph& smaller) {
        Edit e;
        Attrs attrs = c_.graph.at(id).attrs;
        attrs.*field = std::make_shared<const Graph>(smaller);
        e.attrs[id] = attrs;
        const size_t before = c_.graph.nodes.size();
        return take(e) && c_.graph.nodes.size() == before;   // else numbers have changed: another round
      });
    }
    if (static_cast<size_t>(id) < c_.graph.nodes.size() && c_.graph.at(id).op == Op::scan) fewer_steps(id);
    if (static_cast<size_t>(id) < c_.graph.nodes.size() && means<Body>(c_.graph.at(id).op)) drop_inputs(id);
  }
  // `put(body)` tries a body of the same inputs and outputs and says whether to go on with it.
  using Put = std::function<bool(const Graph&)>;
  void reduce_body(Graph body, const Put& put) {
    const auto attempt = [&](const Edit& e) {
      try {
        Graph smaller = apply({body, {}}, e, true).graph;
        if (ops_of(smaller) >= ops_of(body) || !put(smaller)) return false;
        body = std::move(smaller);
        return true;
      } catch (const Error&) {
        return false;
      }
    };
    for (size_t i = body.nodes.size(); i-- > 0 && !late();) {
      if (i >= body.nodes.size()) continue;
      const NodeId id = static_cast<NodeId>(i);
      const Node n = body.nodes[i];
      if (n.op == Op::input || n.op == Op::constant || !is_tensor(n)) continue;
      bool done = false;
      for (NodeId other = 0; other < id && !done; ++other) {
        const bool argument = std::count(n.args.begin(), n.args.end(), other) > 0;
        if (!is_tensor(body.at(other)) || body.type(other) != n.type || (!argument && body.at(other).op != Op::input)) continue;
        Edit e;
        e.by[id] = other;
        done = attempt(e);
      }
      if (done) continue;
      Edit e;
      e.ones.insert(id);
      attempt(e);
    }
    for (size_t i = body.nodes.size(); i-- > 0 && !late();) {   // bodies in it
      if (i >= body.nodes.size() || !means<Body>(body.nodes[i].op) || body.nodes[i].op == Op::result) continue;
      const NodeId id = static_cast<NodeId>(i);
      for (const auto field : {&Attrs::body, &Attrs::otherwise}) {
        if (i >= body.nodes.size() || !(body.at(id).attrs.*field)) continue;
        reduce_body(*(body.at(id).attrs.*field), [&](const Graph& smaller) {
          Edit e;
          Attrs attrs = body.at(id).attrs;
          attrs.*field = std::make_shared<const Graph>(smaller);
          e.attrs[id] = attrs;
          const size_t before = body.nodes.size();
          return attempt(e) && body.nodes.size() == before;
        });
      }
    }
  }

  // Results that nobody reads: of calls, stacks of scans, of branches; of a vjp, derivatives.
  void drop_results(NodeId id) {
    const Node n = c_.graph.at(id);
    const bool reverse = n.attrs.transform == Transform::vjp;
    if (n.attrs.transform == Transform::jvp || n.op == Op::while_loop) return;
    std::vector<char> read(n.type.results.size());
    for (const Node& r : c_.graph.nodes)
      if (r.op == Op::result && r.args[0] == id) read[static_cast<size_t>(r.attrs.index[0])] = 1;
    if (n.op == Op::scan) std::fill(read.begin(), read.begin() + n.attrs.index[0], 1);
    if (std::count(read.begin(), read.end(), 0) == 0) return;
    Edit e;
    Attrs attrs = n.attrs;
    if (reverse) {
      const size_t outputs = n.attrs.body->outputs.size();
      std::fill(read.begin(), read.begin() + static_cast<int64_t>(outputs), 1);
      attrs.index.clear();
      for (size_t k = 0; k < n.attrs.index.size(); ++k)
        if (read[outputs + k]) attrs.index.push_back(n.attrs.index[k]);
    }
    for (const auto field : {&Attrs::body, &Attrs::otherwise}) {
      if (!(attrs.*field) || reverse) continue;
      Graph body = *(attrs.*field);
      body.outputs.clear();
      for (size_t r = 0; r < read.size(); ++r)
        if (read[r]) body.outputs.push_back((attrs.*field)->outputs[r]);
      attrs.*field = std::make_shared<const Graph>(dead_code(body));
    }
    e.attrs[id] = attrs;
    for (size_t i = 0; i < c_.graph.nodes.size(); ++i) {
      const Node& r = c_.graph.nodes[i];
      if (r.op != Op::result || r.args[0] != id) continue;
      Attrs which = r.attrs;
      which.index[0] = std::count(read.begin(), read.begin() + r.attrs.index[0], 1);
      e.attrs[static_cast<NodeId>(i)] = which;
    }
    take(e);
  }
  // Arguments that no body reads; a carry that only hands itself on and whose result nobody reads, with it.
  void drop_inputs(NodeId id) {
    for (size_t i = c_.graph.at(id).args.size(); i-- > 0 && !late();) {
      const Node n = c_.graph.at(id);
      if (n.attrs.transform == Transform::jvp || n.attrs.derivative || (n.op == Op::cond && i == 0) || (n.op == Op::while_loop && i == 0)) continue;
      const size_t input = i - (n.op == Op::cond), carries = is_control_flow(n.op) && n.op != Op::cond ? static_cast<size_t>(n.attrs.index[0]) : 0;
      Attrs attrs = n.attrs;
      bool read = false;
      if (input < carries)
        for (const Node& r : c_.graph.nodes) read = read || (r.op == Op::result && r.args[0] == id && r.attrs.index[0] == static_cast<int64_t>(input));
      for (const auto field : {&Attrs::body, &Attrs::otherwise}) {
        if (!(attrs.*field)) continue;
        Graph body = *(attrs.*field);
        if (input < carries) body.outputs.erase(body.outputs.begin() + static_cast<int64_t>(input));
        body = dead_code(body);
        if (body.outputs.empty() || body.use_counts()[static_cast<size_t>(body.inputs[input])]) {
          read = true;
          break;
        }
        GraphBuilder b;
        b.symbol(body.symbol);
        std::vector<NodeId> inputs;
        for (size_t k = 0; k < body.inputs.size(); ++k) inputs.push_back(k == input ? b.full(body.type(body.inputs[k]), 1) : b.input("", body.type(body.inputs[k])));
        for (NodeId o : b.inline_body(body, inputs)) b.output("", o);
        attrs.*field = std::make_shared<const Graph>(dead_code(b.finish()));
      }
      if (read || n.args.size() == 1) continue;
      if (!attrs.axes.empty()) attrs.axes.erase(attrs.axes.begin() + static_cast<int64_t>(input));
      if (attrs.transform == Transform::vjp && std::count(attrs.index.begin(), attrs.index.end(), static_cast<int64_t>(input))) continue;
      if (attrs.transform == Transform::vjp)
        for (int64_t& k : attrs.index) k -= k > static_cast<int64_t>(input);
      Edit e;
      if (n.op == Op::scan && input >= carries && input < carries + static_cast<size_t>(attrs.index[1])) --attrs.index[1];
      if (input < carries) {
        --attrs.index[0];
        for (size_t k = 0; k < c_.graph.nodes.size(); ++k) {
          const Node& r = c_.graph.nodes[k];
          if (r.op != Op::result || r.args[0] != id || r.attrs.index[0] < static_cast<int64_t>(input)) continue;
          Attrs which = r.attrs;
          --which.index[0];
          e.attrs[static_cast<NodeId>(k)] = which;
        }
      }
      e.attrs[id] = attrs;
      e.args[id] = n.args;
      e.args[id].erase(e.args[id].begin() + static_cast<int64_t>(i));
      const size_t before = c_.graph.nodes.size();
      take(e);
      if (c_.graph.nodes.size() != before) return;   // numbers have changed: another round
    }
  }
  // Nothing scanned nor stacked: fewer steps.
  void fewer_steps(NodeId id) {
    const Node n = c_.graph.at(id);
    if (n.attrs.index[1] || static_cast<int64_t>(n.type.results.size()) > n.attrs.index[0]) return;
    for (int64_t steps = 1; steps < n.attrs.limit[0]; ++steps) {
      Edit e;
      e.attrs[id] = n.attrs;
      e.attrs[id].limit = {steps};
      if (take(e)) return;
    }
  }
};

}  // namespace

int64_t ops_of(const Graph& graph) {
  int64_t n = 0;
  for (const Node& node : graph.nodes) {
    const bool spread = node.op == Op::broadcast && graph.at(node.args[0]).op == Op::constant;
    n += node.op != Op::input && node.op != Op::constant && node.op != Op::result && !spread;
    for (const auto& body : {node.attrs.body, node.attrs.otherwise})
      if (body) n += ops_of(*body);
  }
  return n;
}

FuzzCase reduce_case(FuzzCase found, const Oracle& oracle, const Failure& failure, double seconds) { return Reducer(oracle, failure, seconds).run(std::move(found)); }

}  // namespace quern
