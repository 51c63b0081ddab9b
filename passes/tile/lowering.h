// The state of lowering one region, shared by lower.cpp and walk.cpp: axes and scopes, and the scalar expressions of
// elements, which become statements when a tile is needed.
#pragma once
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/chunks.h"
#include "passes/tile/bind.h"
#include "passes/tile/lower.h"

namespace quern {

using namespace tile;

inline constexpr int64_t kLargeUpdate = 1 << 18;   // rows times indices of a put_add

/// A node of the expression DAG under construction.
struct Element {
  ScalarNode node;               // args are Element ids; operand is a ValueId
  std::vector<AxisId> axes;      // sorted
  int depth = 0;                 // innermost scope it needs
  ValueId tile = -1;             // its materialised tile, if any
};

struct Scope {
  Block block;
  std::map<std::string, int> elements;   // "node|index" → Element
};

class Lowering {
 public:
  Lowering(const Graph& region, const std::string& name, int64_t low, Updates updates) : graph_(region), low_(low), updates_(updates) { kernel_.name = name; }

  Kernel run();

 private:
  const Graph& graph_;
  int64_t low_;                          // the symbol's least value
  Updates updates_;
  Kernel kernel_;
  bool flat_ = false;                    // all tensors are seen as single elements, rank 1, or rows of it in front of the symbol
  bool symbolic_ = false;                // some shape holds the symbol
  ChunkSums chunked_;                    // its sums over chunks of rows
  Index chunk_;                          // at which chunk its instance is
  std::map<NodeId, BufferId> buffer_of_;
  std::vector<Element> elements_;
  std::vector<Scope> scopes_;            // the open ones, outermost first
  std::map<ValueId, std::pair<BufferId, std::vector<BoxIndex>>> loads_;
  std::vector<int> axis_depth_;

  // --- shapes ---
  // Maps of one shape, single elements aside: their axes collapse into one.
  bool is_flat() const;
  Shape shape_of(const Type& type) const {
    if (!flat_) return type.shape;
    if (type.size() == 1) return {};
    const int64_t rows = rows_before_symbol(type.shape);
    return rows > 1 ? Shape{rows, type.size() / rows} : Shape{type.size()};
  }
  // The shortest of the outputs and of what reductions give: the axes that one grid instance keeps.
  Shape row_shape() const;

  void add_buffer(BufferKind kind, const Type& type, NodeId node) {
    const BufferId id = static_cast<BufferId>(kernel_.buffers.size());
    kernel_.buffers.push_back({fmt::format("p{}", id), kind, type.dtype, shape_of(type)});
    if (node >= 0) buffer_of_[node] = id;
  }

  // --- axes and scopes ---
  std::vector<Index> open_axes(const Shape& extents, int depth);
  static std::vector<AxisId> axes_of(std::span<const Index> index) {
    std::set<int> axes;
    for (const Index& e : index) e.collect_axes(axes);
    return {axes.begin(), axes.end()};
  }
  int depth_of(const std::vector<AxisId>& axes) const {
    int depth = 0;
    for (AxisId a : axes) depth = std::max(depth, axis_depth_[static_cast<size_t>(a)]);
    return depth;
  }
  // Would each element of a put_add look at more indices than walking them in order takes?
  bool is_large_update(const Node& n) const {
    const Shape& rows = graph_.type(n.args[0]).shape;
    return !symbolic_ && accumulator(n.type.dtype) == n.type.dtype && rows[static_cast<size_t>(n.attrs.axes[0])] * graph_.type(n.args[1]).size() >= kLargeUpdate;
  }
  ValueId new_value(DType dtype, std::vector<AxisId> axes) {
    kernel_.values.push_back({dtype, std::move(axes)});
    return static_cast<ValueId>(kernel_.values.size() - 1);
  }
  Block& block_at(int depth) { return scopes_[static_cast<size_t>(depth)].block; }

  // Runs `build` inside a new block that stands in the scope of `depth`; returns the block.
  template <class F>
  Block nested(int depth, F&& build) {
    std::vector<Scope> hidden;
    while (static_cast<int>(scopes_.size()) > depth + 1) {
      hidden.push_back(std::move(scopes_.back()));
      scopes_.pop_back();
    }
    scopes_.emplace_back();
    build();
    Block block = std::move(scopes_.back().block);
    scopes_.pop_back();
    for (; !hidden.empty(); hidden.pop_back()) scopes_.push_back(std::move(hidden.back()));
    return block;
  }

  // --- elements ---
  int add_element(ScalarNode node, std::vector<AxisId> axes) {
    const int depth = depth_of(axes);
    elements_.push_back({std::move(node), std::move(axes), depth, -1});
    return static_cast<int>(elements_.size() - 1);
  }
  int operand(ValueId value);
  int constant(Scalar value) {
    ScalarNode n{ScalarNode::Kind::constant, value.dtype};
    n.constant = value;
    return add_element(std::move(n), {});
  }
  int limit(int64_t value) {   // of a guard
    if (symbolic_) want_constant(value);
    return constant(Scalar::of_int(DType::i64, value));
  }
  int coord(const Index& index) {
    if (index.is_constant()) return constant(Scalar::of_int(DType::i64, index.value()));
    ScalarNode n{ScalarNode::Kind::coord, DType::i64};
    n.coord = index;
    return add_element(std::move(n), axes_of(std::span(&index, 1)));
  }
  int apply(Op op, DType dtype, std::vector<int> args);
  int convert(int element, DType dtype) {
    return elements_[static_cast<size_t>(element)].node.dtype == dtype ? element : apply(Op::cast, dtype, {element});
  }

  void linearise(int id, ScalarExpr& expr, std::vector<ValueId>& args, std::map<int, int>& done) const;

  // The element as a tile over its axes and `extra`, defined in the outermost scope that knows them.
  ValueId materialise(int id, const std::vector<AxisId>& extra = {});

  // --- nodes ---
  int element(NodeId id, const std::vector<Index>& index);

  int build(NodeId id, const std::vector<Index>& index);

  std::vector<Index> index_for(NodeId arg, const std::vector<Index>& index) const {
    return flat_ && graph_.type(arg).size() == 1 ? std::vector<Index>{} : index;
  }

  int build_map(const Node& n, const std::vector<Index>& index) {
    std::vector<int> args;
    for (NodeId a : n.args) args.push_back(element(a, index_for(a, index)));
    return apply(n.op, n.type.dtype, std::move(args));
  }

  int build_view(const View& view, const Node& n, const std::vector<Index>& index);

  // A load outside its buffer reads 0: is that what the guard is for?
  bool load_guards(int taken, const Guard& g, int otherwise) const;

  // a < b for every value of the symbol, which both may hold?
  bool below(int64_t a, int64_t b) const;

  int load(BufferId buffer, std::vector<BoxIndex> index);

  int extent(int64_t size);   // as an i64

  int build_source(NodeId id, const Node& n, const std::vector<Index>& index);

  // Sums and products of short floats accumulate in f32.
  static DType accumulator(DType dtype) { return (dtype == DType::bf16 || dtype == DType::f16) && !planted(Fault::accumulator_cast) ? DType::f32 : dtype; }
  static std::vector<AxisId> without(const std::vector<AxisId>& axes, const std::vector<AxisId>& removed) {
    std::vector<AxisId> out;
    for (AxisId a : axes)
      if (std::find(removed.begin(), removed.end(), a) == removed.end()) out.push_back(a);
    return out;
  }

  // seq (axes) carry (c = init) { yield step(c) }, where step runs inside and returns the carry's next tile.
  template <class F>
  int carried(const std::vector<AxisId>& loop, const std::vector<AxisId>& kept, Scalar init, F&& step) {
    Seq seq;
    seq.axes = loop;
    const ValueId carry = new_value(init.dtype, kept);
    seq.carries = {{carry, init}};
    ValueId next = -1;
    const int depth = depth_of(kept);
    seq.body = nested(depth, [&] { next = step(carry); });
    seq.yields = {next};
    seq.outs = {new_value(init.dtype, kept)};
    const ValueId out = seq.outs[0];
    block_at(depth).push_back({std::move(seq)});
    return operand(out);
  }

  // One op on tiles, in the innermost block: where a carry is known.
  ValueId map_here(Op op, DType dtype, std::vector<AxisId> axes, std::vector<ValueId> args);

  // Reduces `inner(loop index)` over fresh axes of the given extents.
  template <class F>
  int reduced(Op combine, DType dtype, const Shape& extents, const std::vector<Index>& index, F&& inner) {
    const std::vector<AxisId> kept = axes_of(index);
    const std::vector<Index> loop_index = open_axes(extents, depth_of(kept) + 1);
    const std::vector<AxisId> loop = axes_of(loop_index);
    const DType wide = accumulator(dtype);
    if (loop.empty()) return convert(inner(loop_index), dtype);
    const int sum = carried(loop, kept, combine == Op::max && planted(Fault::reduce_identity) ? Scalar::of(wide, 0) : identity_of(combine, wide), [&](ValueId carry) {
      const ValueId tile = materialise(convert(inner(loop_index), wide), loop);
      const std::vector<AxisId> left = without(kernel_.values[static_cast<size_t>(tile)].axes, loop);
      const ValueId part = new_value(wide, left);
      scopes_.back().block.push_back({ReduceTile{part, combine, loop, tile}});
      return map_here(combine, wide, kept, {carry, part});
    });
    return convert(sum, dtype);
  }

  int build_reduce(Op combine, const Node& n, const std::vector<Index>& index);

  int build_contract(const Node& n, const std::vector<Index>& index);

  int build_take(const Node& n, const std::vector<Index>& index);

  // Which row a take reads or a put_add changes; where that is outside at this size, it is outside of the bound's memory, too.
  int row_of(const Node& n, const std::vector<Index>& at);
  // Side by side: x[v] + sum over n of (i[n] == v ? u[n] : 0).
  int build_put_add(const Node& n, const std::vector<Index>& index);

  // --- outputs ---
  void store(size_t output, const std::vector<Index>& index) {
    if (const ChunkSums::Sum* sum = chunked_.find(graph_.outputs[output].node)) return add_to_sum(output, *sum, index);
    const ValueId value = materialise(element(graph_.outputs[output].node, index), axes_of(index));
    scopes_.back().block.push_back({Store{static_cast<BufferId>(graph_.inputs.size() + output), box_of(index), value}});
  }

  // grid (kept axes) { seq (axis) carry (c = identity) { y = combine(c, x[…];  store out[…] = y;  yield y } }
  std::vector<AxisId> store_steps(const Node& n);

  // grid (all but the rows) { each (rows) { store out[…] = x[…] };  seq (n) { load out[i[n], …];  add u[n, …];  store out[i[n], …] } }
  // Side by side: grid (ranges, …), of rows, and -1 in place of n and i[n] where i[n] is not in the instance's range.
  std::vector<AxisId> put_in_order(const Node& n);

  // Makes statements of the innermost block, from one on, read where the condition holds alone: elsewhere their first index along the steps is
  // outside. They get its axes.
  void read_where(int condition, size_t from, const std::vector<AxisId>& axes, const std::vector<AxisId>& steps);

  // A scan whose steps are elementwise: grid (elements) { load what is the same in all steps;  seq (step) carry (started = false,
  // c = 0 …) { c = select(started, c, init);  load x[step, …];  store stacks;  yield true, next … };  store the last carries }
  std::vector<AxisId> walk_scan(const Node& n);
  // A node of the body as a tile in the innermost block: all of its expression, from the body's inputs on.
  ValueId step_value(const Graph& body, NodeId id, const std::map<NodeId, ValueId>& values, const std::vector<AxisId>& kept);

  // Sums over chunks of rows, beside what else is made of the rows.
  std::vector<AxisId> walk_chunks();
  void add_to_sum(size_t output, const ChunkSums::Sum& sum, const std::vector<Index>& index);

  // In the block at this depth, whose axes the rows are.
  void store_outputs(const std::vector<Index>& rows, int depth = 0);

  void collect_sources();
};

}  // namespace quern
