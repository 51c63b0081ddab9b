// See vmap.h. Bodies are expanded before, so what is left to batch is primitive, control flow, or kept for its derivative.
// Values that do not depend on an argument stay unbatched and are broadcast where they meet batched ones.
#include "passes/graph/vmap.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"

namespace quern {
namespace {

class Batcher {
 public:
  Batcher(GraphBuilder& b, const Graph& body, int64_t lanes) : b_(b), body_(body), lanes_(lanes) {}

  struct Value {
    NodeId id = -1;
    bool batched = false;   // has an axis of lanes, at 0
  };

  std::vector<NodeId> run(const std::vector<NodeId>& args, const Shape& axes) {
    std::vector<Value> in;
    for (size_t i = 0; i < args.size(); ++i) {
      const int64_t axis = axes.empty() ? 0 : axes[i];
      in.push_back({axis < 0 ? args[i] : move(args[i], axis, 0), axis >= 0});
    }
    std::vector<NodeId> out;
    for (const Value& v : values(in)) out.push_back(v.batched ? v.id : spread(b_, v.id, lanes_));
    return out;
  }

  /// The outputs for these inputs.
  std::vector<Value> values(const std::vector<Value>& in) {
    map_.assign(body_.nodes.size(), {});
    for (size_t i = 0; i < in.size(); ++i) map_[static_cast<size_t>(body_.inputs[i])] = in[i];
    for (size_t i = 0; i < body_.nodes.size(); ++i)
      if (body_.nodes[i].op != Op::input) map_[i] = node(static_cast<NodeId>(i));
    std::vector<Value> out;
    for (const NamedOutput& o : body_.outputs) out.push_back(at(o.node));
    return out;
  }

 private:
  GraphBuilder& b_;
  const Graph& body_;
  int64_t lanes_;
  std::vector<Value> map_;
  std::map<NodeId, std::vector<char>> lanes_of_;   // of ops with bodies: which results are batched
  std::map<NodeId, std::vector<NodeId>> chosen_;   // of a cond that became selects: its results
  std::set<NodeId> more_carries_;                  // while_loops that got a carry in front

  Value& at(NodeId id) { return map_[static_cast<size_t>(id)]; }
  Shape with_lanes(Shape shape) const {
    prepend(shape, lanes_);
    return shape;
  }
  NodeId batched(NodeId id) { return at(id).batched ? at(id).id : spread(b_, at(id).id, lanes_); }

  // `count` axes from `from` on go to `to`, which counts the axes without them.
  NodeId move(NodeId x, int64_t from, int64_t to, int64_t count = 1) {
    if (from == to || count == 0) return x;
    Attrs attrs;
    for (int64_t d = 0; d < b_.type(x).rank(); ++d)
      if (d < from || d >= from + count) attrs.axes.push_back(d);
    for (int64_t k = 0; k < count; ++k) attrs.axes.insert(attrs.axes.begin() + to + k, from + k);
    if (planted(Fault::lanes_moved_back)) {
      const Shape there = attrs.axes;
      for (size_t d = 0; d < there.size(); ++d) attrs.axes[static_cast<size_t>(there[d])] = static_cast<int64_t>(d);
    }
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
    if (n.op == Op::result && lanes_of_.count(n.args[0])) return result(n);
    if (any && (is_control_flow(n.op) || n.attrs.transform == Transform::checkpoint || n.attrs.derivative)) return control(id, n);
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
    } else if (means<Reduce>(n.op) || means<Cumulate>(n.op)) {
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

  // --- ops with bodies ---
  using Flags = std::vector<char>;

  // A closed graph whose inputs with a flag have lanes. Of its outputs, those with a flag in `out` have, too, and where
  // `out` is shorter or they must, others: `out` says it afterwards.
  std::shared_ptr<const Graph> batched_body(const Graph& body, const Flags& in, Flags& out) {
    GraphBuilder own;
    Batcher inner(own, body, lanes_);
    std::vector<Value> inputs;
    for (size_t i = 0; i < in.size(); ++i) {
      Type type = body.type(body.inputs[i]);
      if (in[i]) type.shape = with_lanes(type.shape);
      inputs.push_back({own.input(body.at(body.inputs[i]).attrs.name, type), in[i] != 0});
    }
    const std::vector<Value> values = inner.values(inputs);
    out.resize(values.size());
    for (size_t o = 0; o < values.size(); ++o) {
      out[o] = out[o] || values[o].batched;
      own.output(body.outputs[o].name, out[o] && !values[o].batched ? spread(own, values[o].id, lanes_) : values[o].id);
    }
    return std::make_shared<const Graph>(dead_code(own.finish()));
  }

  Value control(NodeId id, const Node& n) {
    Flags in, out;
    for (NodeId a : n.args) in.push_back(at(a).batched);
    Attrs attrs = n.attrs;
    if (n.op == Op::cond) {
      if (in[0]) return both(id, n);
      const Flags of(in.begin() + 1, in.end());
      batched_body(*n.attrs.otherwise, of, out);   // which results have lanes in either
      attrs.body = batched_body(*n.attrs.body, of, out);
      attrs.otherwise = batched_body(*n.attrs.otherwise, of, out);
    } else if (n.op == Op::call) {
      attrs.body = batched_body(*n.attrs.body, in, out);
      if (attrs.derivative) {   // of whatever has lanes in any way: all have
        in.assign(in.size(), 1);
        out.assign(out.size(), 1);
        attrs.body = batched_body(*n.attrs.body, in, out);
        Flags given = in, parts;
        given.resize(attrs.derivative->inputs.size(), 1);
        parts.assign(attrs.derivative->outputs.size(), 1);
        attrs.derivative = batched_body(*attrs.derivative, given, parts);
      }
    } else {
      const size_t carries = static_cast<size_t>(n.attrs.index[0]);
      for (bool changed = true; changed;) {   // a carry that gets lanes in the body has them from the start
        changed = false;
        if (n.op == Op::while_loop && in[0]) std::fill(in.begin(), in.begin() + static_cast<int64_t>(carries), 1);
        out.assign(in.begin(), in.begin() + static_cast<int64_t>(carries));
        attrs.body = batched_body(*n.attrs.body, in, out);
        for (size_t k = 0; k < carries; ++k)
          if (out[k] && !in[k]) in[k] = changed = true;
      }
      if (n.op == Op::while_loop && in[0]) return while_any(id, n, attrs, in);
    }
    std::vector<NodeId> args;
    for (size_t a = 0; a < n.args.size(); ++a) {
      NodeId arg = in[a] ? batched(n.args[a]) : at(n.args[a]).id;
      const bool sliced = n.op == Op::scan && a >= static_cast<size_t>(n.attrs.index[0]) && a < static_cast<size_t>(n.attrs.index[0] + n.attrs.index[1]);
      args.push_back(sliced && in[a] ? move(arg, 0, 1) : arg);   // steps first
    }
    lanes_of_[id] = out;
    return {b_.add(n.op, std::move(args), std::move(attrs), body_.where(id)), false};
  }

  Value result(const Node& n) {
    const size_t i = static_cast<size_t>(n.attrs.index[0]);
    const Node& of = body_.at(n.args[0]);
    if (const auto it = chosen_.find(n.args[0]); it != chosen_.end()) return {it->second[i], true};
    const bool lanes = lanes_of_.at(n.args[0])[i];
    Attrs which = n.attrs;
    which.index[0] += more_carries_.count(n.args[0]) > 0;
    const NodeId r = b_.add(Op::result, {at(n.args[0]).id}, which);
    return {lanes && of.op == Op::scan && static_cast<int64_t>(i) >= of.attrs.index[0] && !planted(Fault::stacks_by_step) ? move(r, 1, 0) : r, lanes};
  }

  // A flag for every lane in the shape of a value with lanes.
  NodeId along(GraphBuilder& b, NodeId flags, NodeId like) {
    Attrs attrs;
    attrs.axes = {0};
    attrs.shape = b.type(like).shape;
    return attrs.shape.size() == 1 ? flags : b.add(Op::broadcast, {flags}, std::move(attrs));
  }

  // Lanes choose differently: both bodies for all of them, then element by element.
  Value both(NodeId id, const Node& n) {
    std::vector<Value> in, yes, no;
    for (size_t a = 1; a < n.args.size(); ++a) in.push_back(at(n.args[a]));
    yes = Batcher(b_, *n.attrs.body, lanes_).values(in);
    no = Batcher(b_, *n.attrs.otherwise, lanes_).values(in);
    std::vector<NodeId> out;
    for (size_t o = 0; o < yes.size(); ++o) {
      const NodeId x = yes[o].batched ? yes[o].id : spread(b_, yes[o].id, lanes_), y = no[o].batched ? no[o].id : spread(b_, no[o].id, lanes_);
      out.push_back(planted(Fault::lanes_branch_swapped) ? b_.add(Op::select, {along(b_, at(n.args[0]).id, x), y, x}) : b_.add(Op::select, {along(b_, at(n.args[0]).id, x), x, y}));
    }
    lanes_of_[id] = Flags(out.size(), 1);
    chosen_[id] = out;
    return {-1, false};
  }

  // Until all lanes are done; those that are keep their carries. A further first carry says whether one goes on.
  Value while_any(NodeId id, const Node& n, Attrs attrs, const Flags& in) {
    const auto any = [](GraphBuilder& b, NodeId flags) {
      Attrs to, all;
      to.dtype = {DType::i32};
      all.axes = {0};
      const NodeId most = b.add(planted(Fault::while_all) ? Op::reduce_min : Op::reduce_max, {b.add(Op::cast, {flags}, to)}, all);
      return b.add(Op::lt, {b.full(b.type(most), 0), most});
    };
    const size_t carries = static_cast<size_t>(n.attrs.index[0]);
    const Graph& step = *attrs.body;
    GraphBuilder own;
    own.input("any", {DType::boolean, {}, {}});
    std::vector<NodeId> inside, args;
    for (NodeId i : step.inputs) inside.push_back(own.input(step.at(i).attrs.name, step.type(i)));
    std::vector<NodeId> next = own.inline_body(step, inside);
    for (size_t k = 0; k < carries && !planted(Fault::done_lanes_go_on); ++k) next[k] = own.add(Op::select, {along(own, inside[0], next[k]), next[k], inside[k]});
    own.output("any", any(own, next[0]));
    for (NodeId o : next) own.output("", o);
    attrs.body = std::make_shared<const Graph>(own.finish());
    attrs.index[0] += 1;
    for (size_t a = 0; a < n.args.size(); ++a) args.push_back(in[a] ? batched(n.args[a]) : at(n.args[a]).id);
    args.insert(args.begin(), any(b_, args[0]));
    lanes_of_[id] = Flags(carries, 1);
    more_carries_.insert(id);
    return {b_.add(Op::while_loop, std::move(args), std::move(attrs), body_.where(id)), false};
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
    const NodeId inside = spread(b_, b_.add(n.op, {b_.full(x, 1), b_.scalar(DType::boolean, 0)}, attrs), lanes_);
    if (n.op == Op::pad) prepend(attrs.low, 0), prepend(attrs.high, 0);
    const NodeId values = b_.add(n.op, {batched(n.args[0]), b_.scalar(n.type.dtype, 0)}, attrs);
    if (planted(Fault::lanes_fill)) return values;
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
    index = b_.add(Op::select, {inside, planted(Fault::rows_of_lane_0) ? index : row, b_.full(type, -1)});
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

NodeId spread(GraphBuilder& b, NodeId x, int64_t n) {
  Attrs attrs;
  attrs.shape = b.type(x).shape;
  attrs.shape.insert(attrs.shape.begin(), n);
  attrs.axes.resize(attrs.shape.size() - 1);
  std::iota(attrs.axes.begin(), attrs.axes.end(), 1);
  return b.add(Op::broadcast, {x}, std::move(attrs));
}

std::vector<NodeId> vmap_inline(GraphBuilder& b, const Graph& body, const std::vector<NodeId>& args, const Shape& axes) {
  for (size_t i = 0; i < args.size(); ++i) {
    const int64_t axis = axes.empty() ? 0 : axes[i];
    if (axis >= 0) return Batcher(b, body, b.type(args[i]).shape[static_cast<size_t>(axis)]).run(args, axes);
  }
  QN_CHECK(false, "vmap has an argument with an axis");
  return {};
}

}  // namespace quern
