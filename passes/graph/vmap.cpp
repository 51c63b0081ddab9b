// See vmap.h. Values that do not depend on an argument stay unbatched and are broadcast where they meet batched ones.
#include "passes/graph/vmap.h"

#include <numeric>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"

namespace quern {
namespace {

class Batcher {
 public:
  Batcher(GraphBuilder& b, const Graph& body, int64_t lanes) : b_(b), body_(body), lanes_(lanes) {}

  std::vector<NodeId> run(const std::vector<NodeId>& args) {
    map_.assign(body_.nodes.size(), {});
    for (size_t i = 0; i < args.size(); ++i) map_[static_cast<size_t>(body_.inputs[i])] = {args[i], true};
    for (size_t i = 0; i < body_.nodes.size(); ++i)
      if (body_.nodes[i].op != Op::input) map_[i] = node(static_cast<NodeId>(i));
    std::vector<NodeId> out;
    for (const NamedOutput& o : body_.outputs) out.push_back(batched(o.node));
    return out;
  }

 private:
  struct Value {
    NodeId id = -1;
    bool batched = false;
  };
  GraphBuilder& b_;
  const Graph& body_;
  int64_t lanes_;
  std::vector<Value> map_;

  Value& at(NodeId id) { return map_[static_cast<size_t>(id)]; }
  NodeId batched(NodeId id) {
    if (at(id).batched) return at(id).id;
    Attrs attrs;
    attrs.shape = body_.type(id).shape;
    attrs.axes.resize(attrs.shape.size());
    std::iota(attrs.axes.begin(), attrs.axes.end(), 1);
    attrs.shape.insert(attrs.shape.begin(), lanes_);
    return b_.add(Op::broadcast, {at(id).id}, std::move(attrs));
  }

  static void shift(Shape& axes) {
    for (int64_t& a : axes) ++a;
  }
  static void prepend(Shape& values, int64_t value) { values.insert(values.begin(), value); }

  Value node(NodeId id) {
    const Node& n = body_.at(id);
    bool any = false;
    for (NodeId a : n.args) any = any || at(a).batched;
    std::vector<NodeId> args;
    if (!any) {
      for (NodeId a : n.args) args.push_back(at(a).id);
      return {b_.add(n.op, std::move(args), n.attrs, body_.where(id)), false};
    }
    Attrs attrs = n.attrs;
    if (means<Map>(n.op)) {
      for (NodeId a : n.args) args.push_back(batched(a));
    } else if (means<Reduce>(n.op) || n.op == Op::argmax) {
      args = {batched(n.args[0])};
      if (!planted(Fault::vmap_axis)) shift(attrs.axes);
    } else if (means<Contract>(n.op) || n.op == Op::convolve) {
      ContractSpec s = parse_contract(attrs.spec);
      char fresh = 'a';
      while ((s.lhs + s.rhs).find(fresh) != std::string::npos) ++fresh;
      for (NodeId a : n.args) args.push_back(at(a).id);
      if (at(n.args[0]).batched) s.lhs = fresh + s.lhs;
      if (at(n.args[1]).batched) s.rhs = fresh + s.rhs;
      attrs.spec = fmt::format("{},{}->{}{}", s.lhs, s.rhs, fresh, s.out);
    } else if (means<View>(n.op)) {
      // A view keeps the new axis as it is. What `pad` and `window` fill in must not vary along it.
      const bool fills = n.op == Op::pad || n.op == Op::window;
      if (fills && at(n.args[1]).batched) unsupported(n, id);
      for (size_t a = 0; a < n.args.size(); ++a) args.push_back(fills && a == 1 ? at(n.args[1]).id : batched(n.args[a]));
      if (n.op == Op::transpose || n.op == Op::broadcast) {
        shift(attrs.axes);
        prepend(attrs.axes, 0);
      } else {
        shift(attrs.axes);
      }
      if (n.op == Op::reshape || n.op == Op::broadcast) prepend(attrs.shape, lanes_);
      if (n.op == Op::slice) prepend(attrs.start, 0), prepend(attrs.limit, lanes_), prepend(attrs.stride, 1);
      if (n.op == Op::pad) prepend(attrs.low, 0), prepend(attrs.high, 0);
    } else if (means<Take>(n.op) && !at(n.args[0]).batched && attrs.axes[0] == 0) {
      args = {at(n.args[0]).id, at(n.args[1]).id};   // the indices' dims come first: the new axis leads already
    } else {
      unsupported(n, id);
    }
    return {b_.add(n.op, std::move(args), std::move(attrs), body_.where(id)), true};
  }

  [[noreturn]] void unsupported(const Node& n, NodeId id) const {
    throw Error(Code::no_batched_form, fmt::format("vmap: `{}` has no batched form yet", name_of(n.op)), body_.where(id)).with_help("write the batch axis out");
  }
};

}  // namespace

std::vector<NodeId> vmap_inline(GraphBuilder& b, const Graph& body, const std::vector<NodeId>& args) {
  QN_CHECK(!args.empty(), "vmap has an argument");
  return Batcher(b, body, b.type(args[0]).shape[0]).run(args);
}

}  // namespace quern
