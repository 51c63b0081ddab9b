// See vmap.h. Bodies are expanded before, so what is left to batch is primitive. Values that do not depend on an argument stay unbatched and are broadcast where they meet batched ones.
#include "passes/graph/vmap.h"

#include <numeric>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"

namespace quern {
namespace {

class Batcher {
 public:
  Batcher(GraphBuilder& b, const Graph& body, int64_t lanes) : b_(b), body_(body), lanes_(lanes) {}

  std::vector<NodeId> run(const std::vector<NodeId>& args, const Shape& axes) {
    map_.assign(body_.nodes.size(), {});
    for (size_t i = 0; i < args.size(); ++i) {
      const int64_t axis = axes.empty() ? 0 : axes[i];
      map_[static_cast<size_t>(body_.inputs[i])] = {axis < 0 ? args[i] : move(args[i], axis, 0), axis >= 0};
    }
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
  Shape with_lanes(Shape shape) const {
    prepend(shape, lanes_);
    return shape;
  }
  // In every lane the same.
  NodeId spread(NodeId x) {
    Attrs attrs;
    attrs.shape = with_lanes(b_.type(x).shape);
    attrs.axes.resize(attrs.shape.size() - 1);
    std::iota(attrs.axes.begin(), attrs.axes.end(), 1);
    return b_.add(Op::broadcast, {x}, std::move(attrs));
  }
  NodeId batched(NodeId id) { return at(id).batched ? at(id).id : spread(at(id).id); }

  // `count` axes from `from` on go to `to`, which counts the axes without them.
  NodeId move(NodeId x, int64_t from, int64_t to, int64_t count = 1) {
    if (from == to || count == 0) return x;
    Attrs attrs;
    for (int64_t d = 0; d < b_.type(x).rank(); ++d)
      if (d < from || d >= from + count) attrs.axes.push_back(d);
    for (int64_t k = 0; k < count; ++k) attrs.axes.insert(attrs.axes.begin() + to + k, from + k);
    return b_.add(Op::transpose, {x}, std::move(attrs));
  }
  NodeId reshape(NodeId x, Shape shape) {
    Attrs attrs;
    attrs.shape = std::move(shape);
    return b_.add(Op::reshape, {x}, std::move(attrs));
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
    if ((n.op == Op::pad || n.op == Op::window) && at(n.args[1]).batched) return {filled(n), true};
    if (means<Take>(n.op) || means<PutAdd>(n.op)) return {at(n.args[1]).batched ? by_lane(n) : by_row(n), true};
    if (n.op == Op::random) return {random(n), true};
    Attrs attrs = n.attrs;
    if (means<Map>(n.op)) {
      for (NodeId a : n.args) args.push_back(batched(a));
    } else if (means<Reduce>(n.op)) {
      args = {batched(n.args[0])};
      if (!planted(Fault::vmap_axis)) shift(attrs.axes);
    } else if (means<Contract>(n.op)) {
      ContractSpec s = parse_contract(attrs.spec);
      char fresh = 'a';
      while ((s.lhs + s.rhs).find(fresh) != std::string::npos) ++fresh;
      for (NodeId a : n.args) args.push_back(at(a).id);
      if (at(n.args[0]).batched) s.lhs = fresh + s.lhs;
      if (at(n.args[1]).batched) s.rhs = fresh + s.rhs;
      attrs.spec = fmt::format("{},{}->{}{}", s.lhs, s.rhs, fresh, s.out);
    } else if (means<View>(n.op)) {
      const bool fills = n.op == Op::pad || n.op == Op::window;   // a view keeps the new axis as it is
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
    } else {
      throw Error(Code::no_batched_form, fmt::format("vmap: `{}` has no batched form", name_of(n.op)), body_.where(id)).with_help("run the pass `expand` on the body first");
    }
    return {b_.add(n.op, std::move(args), std::move(attrs), body_.where(id)), true};
  }

  // An extent, which may hold the symbol, in every element.
  NodeId size(const Type& type, int64_t extent) {
    if (!is_symbolic(extent)) return b_.full(type, static_cast<double>(extent));
    Attrs of, along;
    of.shape = {extent};
    along.shape = type.shape;
    return b_.add(Op::broadcast, {b_.add(Op::extent, {}, of)}, along);
  }

  // What a pad or window fills in differs between lanes: zeros first, then that value wherever nothing of x came.
  NodeId filled(const Node& n) {
    Attrs attrs = n.attrs;
    const Type x{DType::boolean, body_.type(n.args[0]).shape, {}};
    const NodeId inside = spread(b_.add(n.op, {b_.full(x, 1), b_.scalar(DType::boolean, 0)}, attrs));
    if (n.op == Op::pad) prepend(attrs.low, 0), prepend(attrs.high, 0);
    const NodeId values = b_.add(n.op, {batched(n.args[0]), b_.scalar(n.type.dtype, 0)}, attrs);
    Attrs along;
    along.axes = {0};
    along.shape = with_lanes(n.type.shape);
    return b_.add(Op::select, {inside, values, b_.add(Op::broadcast, {at(n.args[1]).id}, along)});
  }

  // take and put_add whose indices are the same in every lane.
  NodeId by_row(const Node& n) {
    Attrs attrs = n.attrs;
    shift(attrs.axes);
    std::vector<NodeId> args;
    for (size_t a = 0; a < n.args.size(); ++a) args.push_back(a == 1 ? at(n.args[1]).id : batched(n.args[a]));
    return b_.add(n.op, std::move(args), std::move(attrs));
  }

  // take and put_add whose indices differ between lanes: of the rows of all lanes, one after the other.
  NodeId by_lane(const Node& n) {
    const int64_t axis = n.attrs.axes[0], dims = body_.type(n.args[1]).rank(), rows = body_.type(n.args[0]).shape[static_cast<size_t>(axis)];
    if (means<Take>(n.op) && !at(n.args[0]).batched)
      return move(b_.add(Op::take, {at(n.args[0]).id, at(n.args[1]).id}, n.attrs), axis, 0);
    const Type type{DType::i64, b_.type(at(n.args[1]).id).shape, {}};
    Attrs to, lane, first;
    to.dtype = lane.dtype = {DType::i64};
    lane.shape = type.shape;
    lane.axes = first.axes = {0};
    NodeId index = at(n.args[1]).id;
    if (b_.type(index).dtype != DType::i64) index = b_.add(Op::cast, {index}, to);
    const NodeId inside = b_.add(Op::logical_and, {b_.add(Op::le, {b_.full(type, 0), index}), b_.add(Op::lt, {index, size(type, rows)})});
    const NodeId row = b_.add(Op::add, {index, b_.add(Op::mul, {b_.add(Op::iota, {}, lane), size(type, rows)})});
    index = b_.add(Op::select, {inside, row, b_.full(type, -1)});
    const NodeId x = move(batched(n.args[0]), axis + 1, 1);
    const Shape split = b_.type(x).shape;
    Shape joined(split.begin() + 1, split.end());
    joined[0] *= lanes_;
    const NodeId table = reshape(x, joined);
    if (means<Take>(n.op)) return move(b_.add(Op::take, {table, index}, first), dims + 1, 1, axis);
    const NodeId update = move(batched(n.args[2]), axis + 1, 1, dims);
    return move(reshape(b_.add(Op::put_add, {table, index, update}, first), split), 1, axis + 1);
  }

  // philox() written out: a node of op `random` has one key.
  NodeId random(const Node& n) {
    const Shape shape = with_lanes(n.type.shape);
    const Type word{DType::u32, shape, {}}, wide{DType::i64, shape, {}};
    const auto op = [&](Op o, NodeId x, NodeId y) { return b_.add(o, {x, y}); };
    const auto cast = [&](NodeId x, DType dtype) {
      Attrs attrs;
      attrs.dtype = {dtype};
      return b_.add(Op::cast, {x}, attrs);
    };
    const auto high = [&](NodeId x) { return cast(op(Op::shift_right_logical, x, b_.full(wide, 32)), DType::u32); };
    NodeId index = b_.full(wide, 0);   // row-major, within a lane
    for (size_t d = 0; d < n.type.shape.size(); ++d) {
      Attrs along;
      along.axes = {static_cast<int64_t>(d) + 1};
      along.shape = shape;
      along.dtype = {DType::i64};
      index = op(Op::add, op(Op::mul, index, size(wide, n.type.shape[d])), b_.add(Op::iota, {}, along));
    }
    const NodeId block = op(Op::shift_right_logical, index, b_.full(wide, 2)), place = op(Op::bit_and, index, b_.full(wide, 3));
    Attrs along;
    along.axes = {0};
    along.shape = shape;
    NodeId c[4] = {cast(block, DType::u32), high(block), b_.full(word, 0), b_.full(word, 0)};
    NodeId keys[2] = {b_.add(Op::broadcast, {at(n.args[0]).id}, along), b_.full(word, static_cast<double>(n.attrs.index[0]))};
    for (int round = 0; round < 10; ++round) {
      const NodeId p0 = op(Op::mul, cast(c[0], DType::i64), b_.full(wide, 0xD2511F53)), p1 = op(Op::mul, cast(c[2], DType::i64), b_.full(wide, 0xCD9E8D57));
      const NodeId c0 = op(Op::bit_xor, op(Op::bit_xor, high(p1), c[1]), keys[0]), c2 = op(Op::bit_xor, op(Op::bit_xor, high(p0), c[3]), keys[1]);
      c[1] = cast(p1, DType::u32), c[3] = cast(p0, DType::u32), c[0] = c0, c[2] = c2;
      keys[0] = op(Op::add, keys[0], b_.full(word, 0x9E3779B9));
      keys[1] = op(Op::add, keys[1], b_.full(word, 0xBB67AE85));
    }
    NodeId out = c[3];
    for (int k = 2; k >= 0; --k) out = b_.add(Op::select, {b_.add(Op::eq, {place, b_.full(wide, k)}), c[k], out});
    return out;
  }
};

}  // namespace

std::vector<NodeId> vmap_inline(GraphBuilder& b, const Graph& body, const std::vector<NodeId>& args, const Shape& axes) {
  for (size_t i = 0; i < args.size(); ++i) {
    const int64_t axis = axes.empty() ? 0 : axes[i];
    if (axis >= 0) return Batcher(b, body, b.type(args[i]).shape[static_cast<size_t>(axis)]).run(args, axes);
  }
  QN_CHECK(false, "vmap has an argument with an axis");
  return {};
}

}  // namespace quern
