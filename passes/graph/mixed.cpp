// See mixed.h.
#include "passes/graph/mixed.h"

#include <algorithm>

#include "ir/op.h"
#include "ir/support/fault.h"

namespace quern {
namespace {

class Mixer {
 public:
  Mixer(const Graph& graph, DType dtype) : g_(graph), dtype_(dtype) {
    const size_t n = g_.nodes.size();
    for (auto* flags : {&reaches_, &single_, &short_}) flags->assign(n, 0);
    for (auto* ids : {&wide_, &narrow_}) ids->assign(n, -1);
    for (size_t i = n; i-- > 0;)
      for (NodeId a : g_.nodes[i].args) reaches_[at(a)] = reaches_[at(a)] || reaches_[i] || means<Contract>(g_.nodes[i].op);
    for (size_t i = 0; i < n; ++i) {
      const Node& node = g_.nodes[i];
      const bool plain = means<Map>(node.op) || means<View>(node.op) || node.op == Op::constant || node.op == Op::input;
      single_[i] = plain && node.type.results.empty() && node.type.size() == 1 && std::all_of(node.args.begin(), node.args.end(), [&](NodeId a) { return single_[at(a)]; });
      short_[i] = becomes_short(i);
    }
  }

  Graph run() {
    b_.symbol(g_.symbol);
    for (size_t i = 0; i < g_.nodes.size(); ++i) node(static_cast<NodeId>(i));
    for (const NamedOutput& o : g_.outputs) b_.output(o.name, wide(o.node));
    for (const State& s : g_.states) b_.state(s.name, wide(s.input), wide(s.output));
    return dead_code(b_.finish());
  }

 private:
  const Graph& g_;
  const DType dtype_;
  GraphBuilder b_;
  std::vector<char> reaches_;          // another product
  std::vector<char> single_;           // one number, made of such
  std::vector<char> short_;            // computed in the short dtype
  std::vector<NodeId> wide_, narrow_;  // of each node: as its own dtype, and as the short one; -1: not there (yet)

  static size_t at(NodeId id) { return static_cast<size_t>(id); }
  bool is_f32(NodeId id) const { return g_.type(id).results.empty() && g_.type(id).dtype == DType::f32; }

  // A number, or given numbers that are fewer than the places they are at: what is computed with them keeps its dtype.
  bool is_small(NodeId id) const {
    NodeId source = id;
    while (means<View>(g_.at(source).op) && g_.at(source).args.size() == 1) source = g_.at(source).args[0];
    const Node& n = g_.at(source);
    return single_[at(source)] || ((n.op == Op::input || n.op == Op::constant) && n.type.size() < g_.type(id).size());
  }
  bool becomes_short(size_t i) const {
    const Node& n = g_.nodes[i];
    if (!is_f32(static_cast<NodeId>(i))) return false;
    if (means<Contract>(n.op)) return reaches_[i] || planted(Fault::gradient_rounded);
    if (!means<Map>(n.op) && !means<View>(n.op) && !means<Take>(n.op)) return false;
    bool some = false;
    for (NodeId a : n.args) {
      if (!is_f32(a)) continue;
      if (!short_[at(a)] && !is_small(a)) return false;
      some = some || short_[at(a)];
    }
    return some;
  }

  NodeId cast(NodeId x, DType dtype) {
    Attrs attrs;
    attrs.dtype = {dtype};
    return b_.add(Op::cast, {x}, std::move(attrs));
  }
  NodeId wide(NodeId id) {
    NodeId& w = wide_[at(id)];
    return w >= 0 ? w : w = cast(narrow_[at(id)], DType::f32);
  }
  // Views come behind the rounding, so that what several of them show is rounded once.
  NodeId narrow(NodeId id) {
    if (narrow_[at(id)] >= 0) return narrow_[at(id)];
    const Node& n = g_.at(id);
    NodeId made = -1;
    if (n.op == Op::cast && g_.type(n.args[0]).dtype == dtype_) {
      made = wide(n.args[0]);
    } else if (means<View>(n.op) && std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) { return is_f32(a) && g_.type(a).size() <= n.type.size(); })) {
      std::vector<NodeId> args;
      for (NodeId a : n.args) args.push_back(narrow(a));
      made = b_.add(n.op, std::move(args), n.attrs, g_.where(id));
    } else {
      made = cast(wide(id), dtype_);
    }
    return narrow_[at(id)] = made;
  }

  void node(NodeId id) {
    const Node& n = g_.at(id);
    if (n.op == Op::input) {
      wide_[at(id)] = b_.input(n.attrs.name, n.type, g_.where(id));
      return;
    }
    const bool product = means<Contract>(n.op) && is_f32(id);
    std::vector<NodeId> args;
    for (NodeId a : n.args) {
      args.push_back((product || short_[at(id)]) && is_f32(a) ? narrow(a) : wide(a));
      if (product && !short_[at(id)]) args.back() = cast(args.back(), DType::f32);
    }
    Attrs attrs = n.attrs;
    if (is_control_flow(n.op))
      for (auto* body : {&attrs.body, &attrs.otherwise})
        if (*body) *body = std::make_shared<const Graph>(mixed(**body, dtype_));
    (short_[at(id)] ? narrow_ : wide_)[at(id)] = b_.add(n.op, std::move(args), std::move(attrs), g_.where(id));
  }
};

}  // namespace

Graph mixed(const Graph& graph, DType narrow) { return Mixer(graph, narrow).run(); }

}  // namespace quern
