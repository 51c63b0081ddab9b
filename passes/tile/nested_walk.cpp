// See nested_walk.h.
#include "passes/tile/nested_walk.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/reach.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kMachine = 132;     // multiprocessors; a constant, so that plans do not vary
constexpr int64_t kNear = 48 << 20;   // bytes of what is walked that stay in the cache while neighbours walk them

}  // namespace

Index NestedWalk::renamed(const Index& i, const std::map<AxisId, AxisId>& names) {
  return i.substitute([&](int a, int64_t extent) {
    const auto it = names.find(a);
    return Index::axis(it == names.end() ? a : it->second, extent);
  });
}

TreePtr NestedWalk::tree(const Block& block, ValueId v, const std::map<AxisId, AxisId>& names, const std::function<TreePtr(ValueId)>& leaf_of) const {
  if (TreePtr l = leaf_of(v)) return l;
  const MapTile* m = maker<MapTile>(block, v);
  if (!m) m = maker<MapTile>(before_.phases[0].body, v);
  want(m != nullptr, "its scores are made of more than one product");
  std::vector<TreePtr> nodes;
  for (const ScalarNode& n : m->expr) {
    if (n.kind == ScalarNode::Kind::operand) {
      nodes.push_back(tree(block, m->args[static_cast<size_t>(n.operand)], names, leaf_of));
      continue;
    }
    want(n.kind != ScalarNode::Kind::random && n.kind != ScalarNode::Kind::symbol, "its weights are random, or know the run's size");
    Tree t{Tree::Leaf::none, n, {}};
    if (n.kind == ScalarNode::Kind::coord) t.node.coord = renamed(n.coord, names);
    std::vector<TreePtr> args;
    for (int a : n.args) args.push_back(nodes[static_cast<size_t>(a)]);
    nodes.push_back(with_args(t, std::move(args)));
  }
  return nodes.back();
}

std::pair<const Load*, const Load*> NestedWalk::loads_of(const Seq& q, const Mma*& product) const {
  product = nullptr;
  std::vector<const Load*> loads;
  for (const Stmt& s : q.body) {
    if (const auto* m = std::get_if<Mma>(&s.node)) product = m;
    else if (const auto* l = std::get_if<Load>(&s.node)) loads.push_back(l);
    else want(false, "a product's operands are computed");
  }
  want(product && loads.size() == 2 && q.carries.size() == 1 && q.yields[0] == product->out && product->acc == q.carries[0].var && q.carries[0].init.f == 0 && product->axes.size() == 1 && product->axes == q.axes, "a product is no sum of two loads along one axis");
  want(product->precision == Precision::bf16 || product->precision == Precision::f16, "its operands have not 16 bits");
  if (loads[0]->out != product->a) std::swap(loads[0], loads[1]);
  return {loads[0], loads[1]};
}

const ReduceTile* NestedWalk::reduction(const Seq& q) const {
  want(q.carries.size() == 1 && q.axes.size() == 1, "a loop carries several tiles");
  const auto* update = maker<MapTile>(q.body, q.yields[0]);
  want(update && update->args.size() == 2 && update->expr.size() == 3, "a loop is no reduction");
  const auto* r = maker<ReduceTile>(q.body, update->args[1]);
  want(r && update->args[0] == q.carries[0].var && update->expr[2].kind == ScalarNode::Kind::op && update->expr[2].op == r->combine && r->axes == q.axes && q.carries[0].init == identity_of(r->combine, q.carries[0].init.dtype), "a loop is no reduction");
  return r;
}

Kernel NestedWalk::by_columns(Kernel k) {
  Block& body = k.phases.at(0).body;
  const auto is_each = [](const Stmt& s) { return std::holds_alternative<Each>(s.node); };
  if (body.empty() || !is_each(body.back()) || std::count_if(body.begin(), body.end(), is_each) > 1) return k;
  const Each columns = std::get<Each>(body.back().node);
  body.pop_back();
  body.insert(body.end(), columns.body.begin(), columns.body.end());
  k.phases[0].grid.insert(k.phases[0].grid.end(), columns.axes.begin(), columns.axes.end());
  return k;
}
NestedWalk::RowSum NestedWalk::row_sum(const Seq& q) const {
  const ReduceTile* r = reduction(q);
  want(r->combine == Op::add && dtype_of(r->out) == DType::f32 && axis(q.axes[0]).extent <= 256, "it reduces something else than sums of rows of up to 256");
  RowSum s{q.outs[0], q.axes[0], {}, nullptr};
  s.element = tree(q.body, r->arg, {}, [&](ValueId v) -> TreePtr {
    const Load* l = maker<Load>(q.body, v);
    if (!l) return nullptr;
    for (const BoxIndex& b : l->index) want(b.gather < 0, "rows are gathered");
    s.loads.push_back(l);
    return leaf(Tree::Leaf::vector, static_cast<int>(s.loads.size()) - 1, dtype_of(v));
  });
  want(!s.loads.empty(), "it sums nothing of a row");
  return s;
}

void NestedWalk::reachable(BufferId b, const std::vector<BoxIndex>& index, AxisId first, AxisId second) const {
  const std::string why = out_of_reach(before_, b, index, first, second);
  want(why.empty(), why);
  want(index.back().index.kind() == Index::Kind::axis && index.back().index.value() == second, fmt::format("rows of %{} do not run along its last dim", before_.buffers[static_cast<size_t>(b)].name));
}

bool NestedWalk::rounds_inside(const TreePtr& t) {
  return has(t, [](const Tree& x) { return x.leaf == Tree::Leaf::none && is_float(x.node.dtype) && x.node.dtype != DType::f32; });
}

AxisId NestedWalk::add_axis(int64_t extent, int64_t tile, AxisId within, Spread spread) {
  Axis a{fmt::format("i{}", k_.axes.size()), extent, tile};
  a.within = within, a.spread = spread;
  k_.axes.push_back(std::move(a));
  return static_cast<AxisId>(k_.axes.size() - 1);
}
ValueId NestedWalk::value(DType dtype, std::vector<AxisId> axes) {
  std::sort(axes.begin(), axes.end());
  k_.values.push_back({dtype, std::move(axes)});
  return static_cast<ValueId>(k_.values.size() - 1);
}
Index NestedWalk::moved(const Index& i, AxisId rows) const {
  return i.substitute([&](int a, int64_t extent) { return a == row_ ? Index::axis(rows, extent) : there_.at(a); });
}
std::vector<BoxIndex> NestedWalk::moved(std::vector<BoxIndex> box, AxisId rows) const {
  for (BoxIndex& b : box) b.index = moved(b.index, rows);
  return box;
}
Mma NestedWalk::issued(ValueId acc, ValueId a, ValueId b, Precision precision, AxisId summed, int64_t columns) {
  Mma m{value(DType::f32, k_.values[static_cast<size_t>(acc)].axes), precision, {summed}, acc, a, b, fmt::format("m64n{}k16", columns)};
  m.issued = true;
  return m;
}

std::vector<AxisId> NestedWalk::add_outer_axes(const std::vector<AxisId>& columns) {
  std::vector<AxisId> outer;
  for (AxisId a : before_.phases[0].grid)
    if (a != row_ && !std::count(columns.begin(), columns.end(), a)) {
      outer.push_back(add_axis(axis(a).extent, 1));
      there_.emplace(a, Index::axis(outer.back(), axis(a).extent));
    }
  if (outer.empty()) outer.push_back(add_axis(1, 1));
  return outer;
}

AxisId NestedWalk::add_row_axis(const RowSum& s) {
  const int64_t vector = 16 / size_of(dtype_of(s.loads[0]->out)), extent = axis(s.along).extent;
  const AxisId out = add_axis(extent, round_up(extent, 4 * vector), -1, {4, 0, 1, 0, vector});
  there_.insert_or_assign(s.along, Index::axis(out, extent));
  return out;
}
ValueId NestedWalk::add_row_sum(Block& to, const RowSum& s, AxisId rows) {
  const AxisId along = static_cast<AxisId>(there_.at(s.along).value());
  std::vector<ValueId> loaded;
  for (const Load* l : s.loads) {
    loaded.push_back(value(dtype_of(l->out), {along, rows}));
    to.push_back({Load{loaded.back(), l->buffer, moved(l->index, rows)}});
  }
  const ValueId each = value(DType::f32, {along, rows}), sum = value(DType::f32, {rows});
  to.push_back({map_of(s.element, each, k_.values, [&](const Tree& x) { return loaded[static_cast<size_t>(x.which)]; }, [&](const Index& i) { return moved(i, rows); }, false)});
  to.push_back({ReduceTile{sum, Op::add, {along}, each}});
  return sum;
}

void NestedWalk::bound_blocks(AxisId blocks, AxisId rows, int64_t block) {
  Axis& steps = k_.axes[static_cast<size_t>(blocks)];
  if (const auto& to = axis(walk_).to) steps.to = floor_div(moved(*to, rows) - Index(1), block) + Index(1);
  std::set<int> of;   // where it starts is asked for rows alone: else it starts at the first
  if (const auto& from = axis(walk_).from) from->collect_axes(of);
  if (of == std::set<int>{row_}) steps.from = floor_div(moved(*axis(walk_).from, rows), block) + Index(planted(Fault::window_walked_late));
}

// As many heads as leave the least to the block that has the most, each taking every so-manieth instance there and back.
NestedWalk::Share NestedWalk::share(int64_t instances, int64_t block, double step, int64_t head_bytes, const std::vector<AxisId>& columns) const {
  constexpr double kAfter = 1.5;   // steps that what follows them costs
  const Axis &r = axis(row_), &w = axis(walk_);
  std::vector<double> costs;       // of the tiles of rows, in the order of the work
  for (int64_t at = 0; at < r.extent; at += 64 * instances) {
    const int64_t last = std::min(at + 64 * instances, r.extent) - 1;
    const int64_t end = w.to ? w.to->evaluate([&](int a) { return a == row_ ? last : 0; }) : w.extent, begin = w.from ? w.from->evaluate([&](int a) { return a == row_ ? at : 0; }) : 0;
    costs.push_back(static_cast<double>(std::max<int64_t>(ceil_div(std::clamp<int64_t>(end, 1, w.extent), block) - std::max<int64_t>(begin, 0) / block, 1)) + kAfter);
  }
  if (!w.from) std::reverse(costs.begin(), costs.end());
  int64_t heads = 1, others = 1;
  for (AxisId a : before_.phases[0].grid)
    if (a != row_ && !std::count(columns.begin(), columns.end(), a)) others *= std::exchange(heads, axis(a).extent);
  const int64_t most = std::clamp<int64_t>(kNear / head_bytes, 1, std::min<int64_t>(heads, kMachine)), tiles = static_cast<int64_t>(costs.size());
  Share best{instances, most, static_cast<double>(ceil_div(heads * others * tiles, kMachine)) * costs[0] * step};
  if (heads * others * tiles > 100'000'000 / most) return best;   // so many that any share is even
  for (int64_t g = most; g >= 1; --g) {
    std::vector<double> sums(kMachine);
    int64_t item = 0;
    for (int64_t first = 0; first < heads * others; first += std::min(g, heads - first % heads))
      for (const double cost : costs)
        for (int64_t h = 0; h < std::min(g, heads - first % heads); ++h, ++item) sums[static_cast<size_t>(item / kMachine % 2 ? kMachine - 1 - item % kMachine : item % kMachine)] += cost * step;
    if (const double top = *std::max_element(sums.begin(), sums.end()); top < 0.995 * best.most) best = {instances, g, top};
  }
  return best;
}

}  // namespace quern
