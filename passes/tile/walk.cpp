// Lowering of what walks along an axis, one element of the grid after step by step: running sums, updates at indices, and
// scans whose steps are elementwise. Part of lower.cpp; the axis is a seq whose steps are stored, or that carries a flag (tile::is_walked).
#include <functional>
#include <iterator>

#include "passes/tile/lowering.h"

namespace quern {

namespace {
constexpr int64_t kRanges = 256;   // of rows, side by side: enough for a large GPU; each walks all indices
}

std::vector<AxisId> Lowering::store_steps(const Node& n) {
  const Op combine = std::get<Cumulate>(def_of(n.op).meaning).combine;
  const CumulateSpec spec = *parse_cumulate(n.attrs.spec);
  const DType wide = accumulator(n.type.dtype);
  const size_t along = static_cast<size_t>(n.attrs.axes[0]);
  Shape rows = n.type.shape;
  const int64_t extent = rows[along];
  rows.erase(rows.begin() + static_cast<int64_t>(along));
  std::vector<Index> index = open_axes(rows, 0);
  const std::vector<AxisId> kept = axes_of(index);
  const AxisId axis = static_cast<AxisId>(kernel_.axes.size());   // also of one element: the loop makes the step
  kernel_.axes.push_back({fmt::format("i{}", axis), extent, 1, false});
  axis_depth_.push_back(1);
  const Index step = Index::axis(axis, extent);
  index.insert(index.begin() + static_cast<int64_t>(along), spec.reverse ? step * -1 + Index(extent - 1) : step);
  carried({axis}, kept, identity_of(combine, wide), [&](ValueId carry) {
    const ValueId x = materialise(convert(element(n.args[0], index), wide), {axis}), part = new_value(wide, without(kernel_.values[static_cast<size_t>(x)].axes, {axis}));
    scopes_.back().block.push_back({ReduceTile{part, combine, {axis}, x}});   // of one element
    const ValueId next = map_here(combine, wide, kept, {carry, part}), wanted = spec.exclusive ? carry : next;
    const ValueId out = wide == n.type.dtype ? wanted : map_here(Op::cast, n.type.dtype, kept, {wanted});
    scopes_.back().block.push_back({Store{static_cast<BufferId>(graph_.inputs.size()), box_of(index), out}});
    return next;
  });
  return kept;
}

std::vector<AxisId> Lowering::put_in_order(const Node& n) {
  const DType dtype = n.type.dtype;
  QN_CHECK(accumulator(dtype) == dtype && graph_.outputs.size() == 1, "a put_add is the result of its kernel, of a dtype that sums are made in");
  const BufferId out = static_cast<BufferId>(graph_.inputs.size());
  const size_t axis = static_cast<size_t>(n.attrs.axes[0]);
  Shape columns = n.type.shape;
  columns.erase(columns.begin() + static_cast<int64_t>(axis));
  // Side by side each instance has a range of the rows, walks all indices, and reads and adds what is meant for its rows.
  const int64_t rows = n.type.shape[axis], each = updates_ == Updates::in_order ? rows : ceil_div(rows, kRanges);
  const std::vector<Index> range = open_axes({each == rows ? 1 : ceil_div(rows, each)}, 0), index = open_axes(columns, 0), in_range = open_axes({each}, 1), at = open_axes(graph_.type(n.args[1]).shape, 1);
  const Index first = range[0] * each;
  const std::vector<Index> row = {first + in_range[0]};
  const std::vector<AxisId> ranges = axes_of(range);
  const auto with_ranges = [&](std::vector<AxisId> axes) { return axes.insert(axes.begin(), ranges.begin(), ranges.end()), axes; };
  const auto in_place_of_axis = [&](const std::vector<Index>& rows) {
    std::vector<Index> all = index;
    all.insert(all.begin() + static_cast<int64_t>(axis), rows.begin(), rows.end());
    return all;
  };
  const std::vector<Index> x = in_place_of_axis(row), u = in_place_of_axis(at);
  Each copy;
  copy.axes = axes_of(in_range);
  copy.body = nested(0, [&] { scopes_.back().block.push_back({Store{out, box_of(x), materialise(element(n.args[0], x), axes_of(x))}}); });
  // One row, one index: no loop.
  const auto put = [&](auto loop) {
    Block& block = scopes_[0].block;
    if (loop.axes.empty()) block.insert(block.end(), std::make_move_iterator(loop.body.begin()), std::make_move_iterator(loop.body.end()));
    else block.push_back({std::move(loop)});
  };
  put(std::move(copy));
  Seq steps;
  steps.axes = axes_of(at);
  steps.body = nested(0, [&] {
    std::vector<BoxIndex> place = box_of(x);
    int to = row_of(n, at), mine = -1;
    if (!ranges.empty()) {
      to = convert(to, DType::i64);
      mine = apply(Op::logical_and, DType::boolean, {apply(Op::le, DType::boolean, {coord(first), to}), apply(Op::lt, DType::boolean, {to, coord(first + Index(each))})});
      to = apply(Op::select, DType::i64, {mine, to, constant(Scalar::of_int(DType::i64, -1))});
    }
    place[axis] = {0, materialise(to, steps.axes)};   // in every step, also where it is the same
    const size_t before_change = scopes_.back().block.size();
    const ValueId change = materialise(element(n.args[2], u), axes_of(u));
    if (!ranges.empty()) read_where(mine, before_change, ranges, steps.axes);
    const std::vector<AxisId> all = with_ranges(axes_of(u));
    const ValueId before = new_value(dtype, all);
    scopes_.back().block.push_back({Load{before, out, place}});
    const ValueId sum = map_here(Op::add, dtype, all, {before, change});
    scopes_.back().block.push_back({Store{out, std::move(place), sum}});
  });
  put(std::move(steps));
  return with_ranges(axes_of(index));
}

void Lowering::read_where(int condition, size_t from, const std::vector<AxisId>& axes, const std::vector<AxisId>& steps) {
  Block& block = scopes_.back().block;
  Block guarded(std::make_move_iterator(block.begin() + static_cast<int64_t>(from)), std::make_move_iterator(block.end()));
  block.resize(from);
  for (Stmt& s : guarded) {
    auto* l = std::get_if<Load>(&s.node);
    if (l)
      for (BoxIndex& b : l->index) {
        if (b.gather >= 0 || std::none_of(steps.begin(), steps.end(), [&](AxisId a) { return b.index.uses(a); })) continue;
        b = {Index(0), materialise(apply(Op::select, DType::i64, {condition, coord(b.index), constant(Scalar::of_int(DType::i64, -1))}), steps)};
        break;
      }
    std::vector<AxisId>& of = kernel_.values[static_cast<size_t>(l ? l->out : std::get<MapTile>(s.node).out)].axes;
    of.insert(of.begin(), axes.begin(), axes.end());   // they come before all others
    block.push_back(std::move(s));
  }
}

// grid (chunk) { each (column) { store out[chunk, column] = identity }
//                seq (row) { …  each (column) { load out[chunk, column];  store out[chunk, column] = combine(before, reduce row (value)) } } }
std::vector<AxisId> Lowering::walk_chunks() {
  const std::vector<Index> chunk = open_axes({chunked_.chunks}, 0);
  chunk_ = chunk[0];
  for (const ChunkSums::Sum& s : chunked_.sums) {
    const Shape shape = graph_.type(s.sum).shape;
    std::vector<Index> index = open_axes(Shape(shape.begin() + 1, shape.end()), 1);
    Each start{axes_of(index), {}};
    index.insert(index.begin(), chunk[0]);
    const auto output = std::find_if(graph_.outputs.begin(), graph_.outputs.end(), [&](const NamedOutput& o) { return o.node == s.sum; });
    start.body = nested(0, [&] {
      const ValueId nothing = materialise(constant(identity_of(std::get<Reduce>(def_of(graph_.at(s.sum).op).meaning).combine, graph_.type(s.sum).dtype)), axes_of(index));
      scopes_.back().block.push_back({Store{static_cast<BufferId>(graph_.inputs.size() + static_cast<size_t>(output - graph_.outputs.begin())), box_of(index), nothing}});
    });
    Block& block = scopes_[0].block;
    if (start.axes.empty()) block.insert(block.end(), std::make_move_iterator(start.body.begin()), std::make_move_iterator(start.body.end()));
    else block.push_back({std::move(start)});
  }
  const std::vector<Index> row = open_axes({chunked_.each}, 1);
  Seq steps;
  steps.axes = axes_of(row);
  steps.body = nested(0, [&] { store_outputs(unflatten(chunk[0] * chunked_.each + row[0], chunked_.rows), 1); });
  scopes_[0].block.push_back({std::move(steps)});
  return axes_of(chunk);
}

void Lowering::add_to_sum(size_t output, const ChunkSums::Sum& sum, const std::vector<Index>& index) {
  const Op combine = std::get<Reduce>(def_of(graph_.at(sum.sum).op).meaning).combine;
  const DType dtype = graph_.type(sum.sum).dtype;
  const BufferId out = static_cast<BufferId>(graph_.inputs.size() + output);
  std::vector<Index> place{chunk_};
  place.insert(place.end(), index.begin() + static_cast<int64_t>(chunked_.rows.size()), index.end());
  const ValueId value = materialise(element(sum.value, index), axes_of(index)), part = new_value(dtype, axes_of(place)), before = new_value(dtype, axes_of(place));
  Block& block = scopes_.back().block;
  block.push_back({ReduceTile{part, combine, without(axes_of(index), axes_of(place)), value}});
  block.push_back({Load{before, out, box_of(place)}});
  const ValueId next = map_here(combine, dtype, axes_of(place), {before, part});
  block.push_back({Store{out, box_of(place), next}});
}

std::vector<AxisId> Lowering::walk_scan(const Node& n) {
  const Graph& body = *n.attrs.body;
  const size_t carries = static_cast<size_t>(n.attrs.index[0]), scanned = static_cast<size_t>(n.attrs.index[1]);
  const int64_t steps = n.attrs.limit[0];
  const bool backward = !n.attrs.stride.empty() && n.attrs.stride[0] < 0;
  Shape shape;   // of every value in a step but single elements
  for (const Node& inner : body.nodes)
    if (inner.type.size() != 1) shape = inner.type.shape;
  const std::vector<Index> rows = open_axes(shape, 0);
  const std::vector<AxisId> kept = axes_of(rows);
  const AxisId axis = static_cast<AxisId>(kernel_.axes.size());
  kernel_.axes.push_back({fmt::format("i{}", axis), steps, 1, false});
  axis_depth_.push_back(1);
  const Index step = backward ? Index::axis(axis, steps) * -1 + Index(steps - 1) : Index::axis(axis, steps);
  const auto place = [&](const Type& in_a_step) { return in_a_step.size() == 1 ? std::vector<Index>(in_a_step.shape.size(), Index(0)) : rows; };
  std::map<NodeId, ValueId> values;   // inputs of the body
  const auto init_of = [&](size_t i) { return materialise(element(n.args[i], place(body.type(body.inputs[i]))), kept); };
  std::vector<ValueId> starts;
  for (size_t k = 0; k < carries; ++k) starts.push_back(init_of(k));
  for (size_t i = carries + scanned; i < n.args.size(); ++i) values[body.inputs[i]] = init_of(i);
  Seq seq;
  seq.axes = {axis};
  seq.carries = {{new_value(DType::boolean, kept), Scalar::of_int(DType::boolean, 0)}};
  for (ValueId s : starts) {
    const DType dtype = kernel_.values[static_cast<size_t>(s)].dtype;
    seq.carries.push_back({new_value(dtype, kept), Scalar::of(dtype, 0)});
  }
  seq.body = nested(0, [&] {
    for (size_t k = 0; k < carries; ++k) values[body.inputs[k]] = map_here(Op::select, kernel_.values[static_cast<size_t>(starts[k])].dtype, kept, {seq.carries[0].var, seq.carries[k + 1].var, starts[k]});
    for (size_t i = carries; i < carries + scanned; ++i) {
      std::vector<Index> index = place(body.type(body.inputs[i]));
      index.insert(index.begin(), step);
      const ValueId x = materialise(element(n.args[i], index), {axis});
      const ValueId one = new_value(kernel_.values[static_cast<size_t>(x)].dtype, without(kernel_.values[static_cast<size_t>(x)].axes, {axis}));
      scopes_.back().block.push_back({ReduceTile{one, Op::min, {axis}, x}});   // of one element
      values[body.inputs[i]] = one;
    }
    std::map<NodeId, ValueId> made;
    const auto value = [&](NodeId id) {
      const auto [it, fresh] = made.emplace(id, -1);
      if (fresh) it->second = step_value(body, id, values, kept);
      return it->second;
    };
    MapTile yes{new_value(DType::boolean, kept), {}, {}};
    yes.expr.push_back({ScalarNode::Kind::constant, DType::boolean});
    yes.expr.back().constant = Scalar::of_int(DType::boolean, 1);
    seq.yields = {yes.out};
    scopes_.back().block.push_back({std::move(yes)});
    for (size_t k = 0; k < carries; ++k) seq.yields.push_back(value(body.outputs[k].node));
    for (size_t o = 0; o < graph_.outputs.size(); ++o) {
      const size_t r = static_cast<size_t>(graph_.at(graph_.outputs[o].node).attrs.index[0]);
      if (r < carries) continue;
      std::vector<Index> index = place(body.type(body.outputs[r].node));
      index.insert(index.begin(), step);
      scopes_.back().block.push_back({Store{static_cast<BufferId>(graph_.inputs.size() + o), box_of(index), value(body.outputs[r].node)}});
    }
  });
  for (const Carry& c : seq.carries) seq.outs.push_back(new_value(kernel_.values[static_cast<size_t>(c.var)].dtype, kept));
  const std::vector<ValueId> last = seq.outs;
  scopes_[0].block.push_back({std::move(seq)});
  for (size_t o = 0; o < graph_.outputs.size(); ++o)
    if (const size_t r = static_cast<size_t>(graph_.at(graph_.outputs[o].node).attrs.index[0]); r < carries)
      scopes_[0].block.push_back({Store{static_cast<BufferId>(graph_.inputs.size() + o), box_of(place(body.type(body.inputs[r]))), last[r + 1]}});
  return kept;
}

ValueId Lowering::step_value(const Graph& body, NodeId id, const std::map<NodeId, ValueId>& values, const std::vector<AxisId>& kept) {
  MapTile map{new_value(body.type(id).dtype, kept), {}, {}};
  std::map<NodeId, int> done;
  const std::function<int(NodeId)> at = [&](NodeId node) {
    if (const auto it = done.find(node); it != done.end()) return it->second;
    const Node& n = body.at(node);
    ScalarNode s{ScalarNode::Kind::op, n.type.dtype, n.op};
    if (means<View>(n.op)) return done[node] = at(n.args[0]);
    if (n.op == Op::input) {
      s.kind = ScalarNode::Kind::operand;
      s.operand = static_cast<int>(map.args.size());
      map.args.push_back(values.at(node));
    } else if (n.op == Op::constant) {
      s.kind = ScalarNode::Kind::constant;
      s.constant = n.attrs.value->get(0);
    } else {
      for (NodeId a : n.args) s.args.push_back(at(a));
    }
    map.expr.push_back(std::move(s));
    return done[node] = static_cast<int>(map.expr.size()) - 1;
  };
  at(id);
  const ValueId out = map.out;
  scopes_.back().block.push_back({std::move(map)});
  return out;
}

}  // namespace quern
