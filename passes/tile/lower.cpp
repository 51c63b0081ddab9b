// Lowering by demand; see lower.h. `element(node, index)` gives the scalar expression of one element of a node; axes in
// the index make it a tile. Expressions are kept as a DAG and become `map` statements when a tile is needed (a reduce,
// an mma, a store, or an operand with fewer axes, which then stands further out).
#include "ir/support/overloaded.h"
#include "ir/symbol.h"
#include "passes/tile/lowering.h"

namespace quern {

Kernel Lowering::run() {
  flat_ = is_flat();
  symbolic_ = std::any_of(graph_.nodes.begin(), graph_.nodes.end(), [](const Node& n) { return is_symbolic(n.type.shape); });
  for (NodeId i : graph_.inputs) add_buffer(BufferKind::in, graph_.type(i), i);
  for (const NamedOutput& o : graph_.outputs) add_buffer(BufferKind::out, graph_.type(o.node), -1);
  scopes_.emplace_back();
  Phase phase;
  const Node& result = graph_.at(graph_.outputs.at(0).node);
  const bool updated = means<PutAdd>(result.op) && (updates_ == Updates::in_order || is_large_update(result));
  if (updated || means<Cumulate>(result.op) || result.op == Op::result) {
    phase.grid = updated ? put_in_order(result) : result.op == Op::result ? walk_scan(graph_.at(result.args[0])) : store_steps(result);
    phase.body = std::move(scopes_[0].block);
    kernel_.phases.push_back(std::move(phase));
    collect_sources();
    return std::move(kernel_);
  }
  std::vector<NodeId> outputs, reductions;
  for (const NamedOutput& o : graph_.outputs) outputs.push_back(o.node);
  for (size_t i = 0; i < graph_.nodes.size(); ++i)
    if (means<Reduce>(graph_.nodes[i].op)) reductions.push_back(static_cast<NodeId>(i));
  if (std::none_of(graph_.nodes.begin(), graph_.nodes.end(), [](const Node& n) { return means<Contract>(n.op); })) chunked_ = chunk_sums(graph_, outputs, reductions);
  if (!chunked_.sums.empty()) {
    phase.grid = walk_chunks();
    phase.body = std::move(scopes_[0].block);
    kernel_.phases.push_back(std::move(phase));
    collect_sources();
    return std::move(kernel_);
  }
  const std::vector<Index> rows = open_axes(row_shape(), 0);
  for (size_t a = 0; a < kernel_.axes.size(); ++a) phase.grid.push_back(static_cast<AxisId>(a));
  store_outputs(rows);
  phase.body = std::move(scopes_[0].block);
  kernel_.phases.push_back(std::move(phase));
  collect_sources();
  return std::move(kernel_);
}

bool Lowering::is_flat() const {
  const Shape* shape = nullptr;
  for (const Node& n : graph_.nodes) {
    const bool spread = means<View>(n.op) && n.args.size() == 1 && graph_.type(n.args[0]).size() == 1;
    const bool leaf = n.op == Op::input || n.op == Op::constant || n.op == Op::random || n.op == Op::extent;
    if (!means<Map>(n.op) && !spread && !leaf) return false;
    if (n.type.size() == 1) continue;
    if (!shape) shape = &n.type.shape;
    if (n.type.shape != *shape) return false;
  }
  return true;
}

Shape Lowering::row_shape() const {
  Shape rows = shape_of(graph_.type(graph_.outputs.at(0).node));
  const auto shorten = [&](const Type& type) {
    const Shape shape = shape_of(type);
    if (shape.size() < rows.size()) rows = shape;
  };
  for (const NamedOutput& o : graph_.outputs) shorten(graph_.type(o.node));
  for (const Node& n : graph_.nodes)
    if (means<Reduce>(n.op) || means<PutAdd>(n.op)) shorten(n.type);
  return rows;
}

std::vector<Index> Lowering::open_axes(const Shape& extents, int depth) {
  std::vector<Index> out;
  for (int64_t extent : extents) {
    if (extent == 1) {
      out.emplace_back(0);
      continue;
    }
    const AxisId id = static_cast<AxisId>(kernel_.axes.size());
    kernel_.axes.push_back({fmt::format("i{}", id), extent, 1, false});
    axis_depth_.push_back(depth);
    out.push_back(Index::axis(id, extent));
  }
  return out;
}

int Lowering::operand(ValueId value) {
  ScalarNode n{ScalarNode::Kind::operand, kernel_.values[static_cast<size_t>(value)].dtype};
  n.operand = value;
  const int id = add_element(std::move(n), kernel_.values[static_cast<size_t>(value)].axes);
  elements_[static_cast<size_t>(id)].tile = value;
  return id;
}

int Lowering::apply(Op op, DType dtype, std::vector<int> args) {
  std::set<AxisId> all;
  for (int a : args) all.insert(elements_[static_cast<size_t>(a)].axes.begin(), elements_[static_cast<size_t>(a)].axes.end());
  // What varies along fewer axes is computed once, further out.
  for (int& a : args)
    if (elements_[static_cast<size_t>(a)].node.kind != ScalarNode::Kind::constant && elements_[static_cast<size_t>(a)].node.kind != ScalarNode::Kind::coord && elements_[static_cast<size_t>(a)].axes.size() < all.size())
      a = operand(materialise(a));
  ScalarNode n{ScalarNode::Kind::op, dtype, op};
  n.args = std::move(args);
  return add_element(std::move(n), {all.begin(), all.end()});
}

void Lowering::linearise(int id, ScalarExpr& expr, std::vector<ValueId>& args, std::map<int, int>& done) const {
  if (done.count(id)) return;
  const Element& e = elements_[static_cast<size_t>(id)];
  ScalarNode n = e.node;
  if (e.tile >= 0) {   // already a tile
    n = {ScalarNode::Kind::operand, e.node.dtype};
    const auto at = std::find(args.begin(), args.end(), e.tile);
    n.operand = static_cast<int>(at - args.begin());
    if (at == args.end()) args.push_back(e.tile);
  } else {
    for (int& a : n.args) {
      linearise(a, expr, args, done);
      a = done.at(a);
    }
  }
  done[id] = static_cast<int>(expr.size());
  expr.push_back(std::move(n));
}

ValueId Lowering::materialise(int id, const std::vector<AxisId>& extra) {
  Element& e = elements_[static_cast<size_t>(id)];
  std::set<AxisId> axes(e.axes.begin(), e.axes.end());
  axes.insert(extra.begin(), extra.end());
  if (e.tile >= 0 && axes.size() == e.axes.size()) return e.tile;
  MapTile map;
  std::map<int, int> done;
  linearise(id, map.expr, map.args, done);
  std::vector<AxisId> sorted(axes.begin(), axes.end());
  map.out = new_value(e.node.dtype, sorted);
  const ValueId out = map.out;
  block_at(depth_of(sorted)).push_back({std::move(map)});
  if (axes.size() == e.axes.size()) e.tile = out;
  return out;
}

int Lowering::element(NodeId id, const std::vector<Index>& index) {
  std::string key = fmt::format("{}|", id);
  for (const Index& e : index) key += e.text([](int a) { return fmt::format("i{}", a); }) + ",";
  for (const Scope& s : scopes_)
    if (const auto it = s.elements.find(key); it != s.elements.end()) return it->second;
  const int out = build(id, index);
  scopes_[static_cast<size_t>(depth_of(axes_of(index)))].elements[key] = out;
  return out;
}

int Lowering::build(NodeId id, const std::vector<Index>& index) {
  const Node& n = graph_.at(id);
  const auto alternative = Overloaded{
      [&](const Map&) { return build_map(n, index); },
      [&](const View& view) { return build_view(view, n, index); },
      [&](const Reduce& reduce) { return build_reduce(reduce.combine, n, index); },
      [&](const Cumulate&) -> int { QN_CHECK(false, "a running sum is the result of its kernel"); return 0; },
      [&](const Contract&) { return build_contract(n, index); },
      [&](const Take&) { return build_take(n, index); },
      [&](const PutAdd&) { return build_put_add(n, index); },
      [&](const Source&) { return build_source(id, n, index); },
      [&](const Body&) -> int { QN_CHECK(false, "a region holds no calls but one scan"); return 0; },
      [&](const Expand&) -> int { QN_CHECK(false, "expand has removed composed ops"); return 0; }};
  return std::visit(alternative, def_of(n.op).meaning);
}

int Lowering::build_view(const View& view, const Node& n, const std::vector<Index>& index) {
  if (flat_) return element(n.args[0], {});   // a single element, spread
  std::vector<Type> types;
  for (NodeId a : n.args) types.push_back(graph_.type(a));
  const std::vector<Piece> pieces = view.pieces(n, types, index);
  const auto piece_element = [&](const Piece& p) { return element(n.args[static_cast<size_t>(p.arg)], p.index); };
  int out = piece_element(pieces.back());
  for (size_t p = pieces.size() - 1; p-- > 0;) {
    const int taken = piece_element(pieces[p]);
    int inside = -1;
    const auto require = [&](int condition) { inside = inside < 0 ? condition : apply(Op::logical_and, DType::boolean, {inside, condition}); };
    for (const Guard& g : pieces[p].guards) {
      if (!below(g.expr.high(), g.high)) want_constant(g.high);   // at run time no buffer ends there
      if (load_guards(taken, g, out)) continue;
      if (!below(g.low - 1, g.expr.low()) && !planted(Fault::guard_dropped)) require(apply(Op::le, DType::boolean, {limit(g.low), coord(g.expr)}));
      if (g.expr.high() >= g.high) require(apply(Op::lt, DType::boolean, {coord(g.expr), limit(g.high)}));
    }
    out = inside < 0 ? taken : apply(Op::select, n.type.dtype, {inside, taken, out});
  }
  return out;
}

bool Lowering::load_guards(int taken, const Guard& g, int otherwise) const {
  const auto& [node, axes, depth, tile] = elements_[static_cast<size_t>(taken)];
  const ScalarNode& fill = elements_[static_cast<size_t>(otherwise)].node;
  const auto it = loads_.find(tile);
  if (it == loads_.end() || fill.kind != ScalarNode::Kind::constant || !(fill.constant == Scalar::of(fill.dtype, 0))) return false;
  const auto& [buffer, index] = it->second;
  const Shape& shape = kernel_.buffers[static_cast<size_t>(buffer)].shape;
  for (size_t d = 0; d < index.size(); ++d)
    if (index[d].gather < 0 && index[d].index == g.expr && g.low == 0 && g.high == shape[d]) return true;
  return false;
}

bool Lowering::below(int64_t a, int64_t b) const {
  if (!symbolic_) return a < b;
  const auto factor = [](int64_t x) { return floor_div(x + kSymbol / 2, kSymbol); };
  const auto least = [&](int64_t x) { return factor(x) * low_ + x - factor(x) * kSymbol; };
  return factor(a) <= factor(b) && least(a) < least(b);
}

int Lowering::load(BufferId buffer, std::vector<BoxIndex> index) {
  const Shape& shape = kernel_.buffers[static_cast<size_t>(buffer)].shape;
  for (size_t d = 0; d < index.size(); ++d)   // what is past the run's extent may be within the bound's
    if (index[d].gather < 0 && is_symbolic(shape[d]) && !below(index[d].index.high(), shape[d])) want_constant(shape[d]);
  std::set<AxisId> axes;
  for (const BoxIndex& b : index) {
    if (b.gather >= 0) axes.insert(kernel_.values[static_cast<size_t>(b.gather)].axes.begin(), kernel_.values[static_cast<size_t>(b.gather)].axes.end());
    else b.index.collect_axes(axes);
  }
  const std::vector<AxisId> sorted(axes.begin(), axes.end());
  const ValueId out = new_value(kernel_.buffers[static_cast<size_t>(buffer)].dtype, sorted);
  loads_[out] = {buffer, index};
  block_at(depth_of(sorted)).push_back({Load{out, buffer, std::move(index)}});
  return operand(out);
}

int Lowering::extent(int64_t size) {
  if (!is_symbolic(size)) return constant(Scalar::of_int(DType::i64, size));
  ScalarNode s{ScalarNode::Kind::symbol, DType::i64};
  s.constant = Scalar::of_int(DType::i64, symbol_factor(size));
  return add_element(std::move(s), {});
}

int Lowering::build_source(NodeId id, const Node& n, const std::vector<Index>& index) {
  if (n.op == Op::input) {
    std::vector<BoxIndex> box;
    for (const Index& e : index) box.push_back({e, -1});
    return load(buffer_of_.at(id), std::move(box));
  }
  if (n.op == Op::constant) {
    QN_CHECK(n.type.size() == 1, "partition passes constants of several elements as operands");
    return constant(n.attrs.value->get(0));
  }
  if (n.op == Op::extent) {
    return extent(count(n.attrs.shape));
  }
  if (n.op == Op::iota) return convert(coord(index[static_cast<size_t>(n.attrs.axes[0])]), n.type.dtype);
  ScalarNode r{ScalarNode::Kind::random, DType::u32};
  r.args = {operand(materialise(element(n.args[0], {})))};
  r.operand = static_cast<int>(n.attrs.index[0]);
  r.coord = flatten(index, shape_of(n.type));
  if (planted(Fault::random_counter)) r.coord = r.coord + Index(1);
  const Index position = r.coord;
  return add_element(std::move(r), axes_of(std::span(&position, 1)));
}

ValueId Lowering::map_here(Op op, DType dtype, std::vector<AxisId> axes, std::vector<ValueId> args) {
  MapTile map{new_value(dtype, std::move(axes)), {}, std::move(args)};
  ScalarNode result{ScalarNode::Kind::op, dtype, op};
  for (size_t i = 0; i < map.args.size(); ++i) {
    map.expr.push_back({ScalarNode::Kind::operand, kernel_.values[static_cast<size_t>(map.args[i])].dtype});
    map.expr.back().operand = static_cast<int>(i);
    result.args.push_back(static_cast<int>(i));
  }
  map.expr.push_back(std::move(result));
  const ValueId out = map.out;
  scopes_.back().block.push_back({std::move(map)});
  return out;
}

int Lowering::build_reduce(Op combine, const Node& n, const std::vector<Index>& index) {
  const Shape shape = graph_.type(n.args[0]).shape;
  Shape extents;
  for (int64_t a : n.attrs.axes) extents.push_back(shape[static_cast<size_t>(a)]);
  return reduced(combine, n.type.dtype, extents, index, [&](const std::vector<Index>& loop) {
    std::vector<Index> inner;
    size_t next = 0;
    for (size_t d = 0; d < shape.size(); ++d) {
      const auto at = std::find(n.attrs.axes.begin(), n.attrs.axes.end(), static_cast<int64_t>(d));
      inner.push_back(at == n.attrs.axes.end() ? index[next++] : loop[static_cast<size_t>(at - n.attrs.axes.begin())]);
    }
    return element(n.args[0], inner);
  });
}

int Lowering::build_contract(const Node& n, const std::vector<Index>& index) {
  const ContractSpec spec = parse_contract(n.attrs.spec);
  std::string summed;
  Shape extents;
  for (size_t d = 0; d < spec.lhs.size(); ++d)
    if (spec.out.find(spec.lhs[d]) == std::string::npos) {
      summed += spec.lhs[d];
      extents.push_back(graph_.type(n.args[0]).shape[d]);
    }
  const auto operand_index = [&](const std::string& letters, const std::vector<Index>& loop) {
    std::vector<Index> out;
    for (char c : letters) {
      const size_t at = spec.out.find(c);
      out.push_back(at != std::string::npos ? index[at] : loop[summed.find(c)]);
    }
    return out;
  };
  // Short floats in f32: products of them are exact, and their sum is what a product of the short ones has before it rounds.
  const auto short_of = [&](NodeId id) { return graph_.at(id).op == Op::cast ? graph_.type(graph_.at(id).args[0]).dtype : DType::f32; };
  const DType narrow = short_of(n.args[0]);
  const bool widened = n.type.dtype == DType::f32 && narrow == short_of(n.args[1]) && (narrow == DType::bf16 || narrow == DType::f16);
  const auto source = [&](size_t a) { return widened ? graph_.at(n.args[a]).args[0] : n.args[a]; };
  const auto product = [&](DType dtype, const std::vector<Index>& loop) {
    return apply(Op::mul, dtype, {convert(element(n.args[0], operand_index(spec.lhs, loop)), dtype),
                                  convert(element(n.args[1], operand_index(spec.rhs, loop)), dtype)});
  };
  const DType wide = accumulator(n.type.dtype);
  if (planted(Fault::last_term_dropped) && (widened || n.type.dtype == DType::bf16 || n.type.dtype == DType::f16) && extents.size() == 1 && extents[0] > 256) --extents[0];
  const bool single = count(extents) == 1;
  if (!is_float(n.type.dtype) || single)
    return reduced(Op::add, n.type.dtype, extents, index, [&](const std::vector<Index>& loop) { return product(single ? n.type.dtype : wide, loop); });
  const std::vector<AxisId> kept = axes_of(index);
  const std::vector<Index> loop_index = open_axes(extents, depth_of(kept) + 1);
  const std::vector<AxisId> loop = axes_of(loop_index);
  const int sum = carried(loop, kept, Scalar::of(wide, 0), [&](ValueId carry) {
    Mma mma;
    const DType dtype = widened ? narrow : n.type.dtype;
    mma.precision = dtype == DType::f64 ? Precision::f64 : n.attrs.name == "tf32" ? Precision::tf32
                                                       : dtype == DType::f32      ? Precision::f32
                                                       : dtype == DType::bf16     ? Precision::bf16
                                                                                  : Precision::f16;
    mma.axes = loop;
    mma.acc = carry;
    mma.a = materialise(element(source(0), operand_index(spec.lhs, loop_index)), loop);
    mma.b = materialise(element(source(1), operand_index(spec.rhs, loop_index)), loop);
    mma.out = new_value(wide, kept);
    const ValueId out = mma.out;
    scopes_.back().block.push_back({std::move(mma)});
    return out;
  });
  return convert(sum, n.type.dtype);
}

int Lowering::build_take(const Node& n, const std::vector<Index>& index) {
  QN_CHECK(graph_.at(n.args[0]).op == Op::input, "partition keeps what take reads in memory");
  const size_t axis = static_cast<size_t>(n.attrs.axes[0]), rank = graph_.type(n.args[1]).shape.size();
  const std::vector<Index> at(index.begin() + static_cast<int64_t>(axis), index.begin() + static_cast<int64_t>(axis + rank));
  std::vector<BoxIndex> box;
  for (size_t d = 0; d < axis; ++d) box.push_back({index[d], -1});
  box.push_back({Index(0), materialise(row_of(n, at))});
  for (size_t d = axis + rank; d < index.size(); ++d) box.push_back({index[d], -1});
  return load(buffer_of_.at(n.args[0]), std::move(box));
}

int Lowering::row_of(const Node& n, const std::vector<Index>& at) {
  const int64_t rows = graph_.type(n.args[0]).shape[static_cast<size_t>(n.attrs.axes[0])];
  int row = element(n.args[1], at);
  if (!is_symbolic(rows)) return row;
  row = convert(row, DType::i64);
  return apply(Op::select, DType::i64, {apply(Op::lt, DType::boolean, {row, extent(rows)}), row, constant(Scalar::of_int(DType::i64, -1))});
}

int Lowering::build_put_add(const Node& n, const std::vector<Index>& index) {
  const size_t axis = static_cast<size_t>(n.attrs.axes[0]);
  const DType dtype = n.type.dtype, wide = accumulator(dtype);
  const int row = coord(index[axis]);
  const int added = reduced(Op::add, wide, graph_.type(n.args[1]).shape, index, [&](const std::vector<Index>& loop) {
    std::vector<Index> at(index.begin(), index.begin() + static_cast<int64_t>(axis));
    at.insert(at.end(), loop.begin(), loop.end());
    at.insert(at.end(), index.begin() + static_cast<int64_t>(axis) + 1, index.end());
    const int hit = apply(Op::eq, DType::boolean, {convert(element(n.args[1], loop), DType::i64), row});
    return apply(Op::select, wide, {hit, convert(element(n.args[2], at), wide), constant(Scalar::of(wide, 0))});
  });
  return convert(apply(Op::add, wide, {convert(element(n.args[0], index), wide), added}), dtype);
}

void Lowering::store_outputs(const std::vector<Index>& rows, int depth) {
  std::map<Shape, std::vector<size_t>> wide;   // by the shape behind the rows
  for (size_t o = 0; o < graph_.outputs.size(); ++o) {
    const ChunkSums::Sum* sum = chunked_.find(graph_.outputs[o].node);
    const Shape shape = shape_of(graph_.type(sum ? sum->value : graph_.outputs[o].node));
    if (shape.size() == rows.size()) store(o, rows);
    else wide[Shape(shape.begin() + static_cast<int64_t>(rows.size()), shape.end())].push_back(o);
  }
  for (const auto& [rest, outputs] : wide) {
    std::vector<Index> index = rows;
    const std::vector<Index> inner = open_axes(rest, depth + 1);
    index.insert(index.end(), inner.begin(), inner.end());
    Each each;
    each.axes = axes_of(inner);
    each.body = nested(depth, [&] {
      for (size_t o : outputs) store(o, index);
    });
    Block& block = block_at(depth);
    if (each.axes.empty()) block.insert(block.end(), std::make_move_iterator(each.body.begin()), std::make_move_iterator(each.body.end()));   // dims of one element behind the rows
    else block.push_back({std::move(each)});
  }
}

void Lowering::collect_sources() {
  for (size_t i = 0; i < graph_.nodes.size(); ++i) {
    const SourceLoc where = graph_.where(static_cast<NodeId>(i));
    if (where.line && std::find(kernel_.sources.begin(), kernel_.sources.end(), where) == kernel_.sources.end())
      kernel_.sources.push_back(where);
  }
}

tile::Kernel lower(const Graph& region, const std::string& name, int64_t bound, int64_t room, int64_t low, Updates updates) { return bind_symbol(Lowering(region, name, low, updates).run(), bound, std::max(bound, room)); }

}  // namespace quern
