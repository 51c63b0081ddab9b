// See nest.h. A panel pays when it is read by many row tiles and the operand is large or is masked where it is
// outside, and when it is read twice and would be gathered or computed each time.
#include "passes/tile/nest.h"

#include <algorithm>
#include <functional>
#include <map>

#include "ir/support/fault.h"

namespace quern {

using namespace tile;

constexpr int64_t kManyRowTiles = 6, kLargeOperand = 96 << 10, kLargestPanel = 4 << 20, kLargestGathered = 64 << 20;   // tiles, bytes

static ValueId out_of(const Stmt& s) {
  if (const auto* l = std::get_if<Load>(&s.node)) return l->out;
  if (const auto* m = std::get_if<MapTile>(&s.node)) return m->out;
  return -1;
}

Kernel nest(const Kernel& kernel) {
  Kernel k = kernel;
  Phase& phase = k.phases[0];
  // The product stands in a seq at the top of the block; everything at the top moves into `each (rows)`.
  Seq* seq = nullptr;
  for (Stmt& s : phase.body)
    if (auto* q = std::get_if<Seq>(&s.node)) {
      if (seq) return kernel;
      seq = q;
    } else if (std::holds_alternative<Each>(s.node)) {
      return kernel;
    }
  if (!seq) return kernel;
  const Mma* mma = nullptr;
  for (const Stmt& s : seq->body)
    if (const auto* m = std::get_if<Mma>(&s.node)) mma = m;
  if (!mma) return kernel;

  // Lanes axis, rows axis, and the operand that runs along the lanes.
  const auto axes_of = [&](ValueId v) -> const std::vector<AxisId>& { return k.values[static_cast<size_t>(v)].axes; };
  const auto lanes_it = std::find_if(axes_of(mma->out).begin(), axes_of(mma->out).end(), [&](AxisId a) { return k.axes[static_cast<size_t>(a)].lanes; });
  if (lanes_it == axes_of(mma->out).end()) return kernel;
  const AxisId lanes = *lanes_it;
  const bool in_a = std::count(axes_of(mma->a).begin(), axes_of(mma->a).end(), lanes) > 0;
  const ValueId operand = in_a ? mma->a : mma->b;
  AxisId rows = -1;
  for (AxisId a : axes_of(mma->out))
    if (a != lanes && !std::count(axes_of(operand).begin(), axes_of(operand).end(), a) && k.axes[static_cast<size_t>(a)].tile > 1) rows = a;
  if (rows < 0 || !std::count(phase.grid.begin(), phase.grid.end(), lanes)) return kernel;
  const Axis &row_axis = k.axes[static_cast<size_t>(rows)], &lane_axis = k.axes[static_cast<size_t>(lanes)];
  const int64_t readers = ceil_div(row_axis.extent, row_axis.tile);
  if (readers < 2) return kernel;

  // What makes the operand within the loop: one load, perhaps with maps of it (a window with holes reads 0 there).
  std::vector<const Stmt*> makers;
  const std::function<bool(ValueId)> collect = [&](ValueId v) {
    if (std::any_of(makers.begin(), makers.end(), [&](const Stmt* s) { return out_of(*s) == v; })) return true;
    const auto made = std::find_if(seq->body.begin(), seq->body.end(), [&](const Stmt& s) { return out_of(s) == v; });
    if (made == seq->body.end()) return false;
    const auto* map = std::get_if<MapTile>(&made->node);
    if (map && !std::all_of(map->args.begin(), map->args.end(), collect)) return false;
    makers.push_back(&*made);
    return true;
  };
  if (!collect(operand)) return kernel;
  const Load* load = nullptr;
  for (const Stmt* s : makers)
    if (const auto* l = std::get_if<Load>(&s->node)) {
      if (load) return kernel;
      load = l;
    }
  if (!load) return kernel;
  const Buffer& source = k.buffers[static_cast<size_t>(load->buffer)];
  const Shape strides = source.strides();
  int64_t along = 0;
  bool as_it_lies = makers.size() == 1;   // a vector is one plain access
  for (size_t d = 0; d < load->index.size(); ++d) {
    if (load->index[d].gather >= 0) return kernel;
    const Index& e = load->index[d].index;
    const auto s = e.stride(lanes);
    as_it_lies = as_it_lies && s && e.low() >= 0 && e.high() < source.shape[d];
    along += s.value_or(0) * strides[d];
  }
  as_it_lies = as_it_lies && along == 1;
  if (along == 1 && makers.size() == 1 && readers < kManyRowTiles) return kernel;
  // The panel: the summed axes, then the lanes of one tile. Batch axes are fixed within an instance.
  Buffer panel{"s0", BufferKind::scratch, k.values[static_cast<size_t>(operand)].dtype, {}};
  std::vector<Index> place;
  std::vector<AxisId> summed;
  for (AxisId a : axes_of(operand)) {
    if (a == lanes) continue;
    if (std::count(mma->axes.begin(), mma->axes.end(), a)) {
      summed.push_back(a);
      panel.shape.push_back(k.axes[static_cast<size_t>(a)].extent - planted(Fault::panel_tail));
      place.push_back(k.coordinate(a));
    } else if (k.axes[static_cast<size_t>(a)].tile != 1) {
      return kernel;
    }
  }
  panel.shape.push_back(lane_axis.tile);
  place.push_back(lane_axis.extent > lane_axis.tile && !planted(Fault::panel_without_mod) ? floor_mod(k.coordinate(lanes), lane_axis.tile) : k.coordinate(lanes));
  const int64_t bytes = checked_mul(count(source.shape), size_of(source.dtype));
  if (checked_mul(count(panel.shape), size_of(panel.dtype)) > (along == 1 ? kLargestPanel : kLargestGathered)) return kernel;
  const bool several_panels = ceil_div(lane_axis.extent, lane_axis.tile) > 1;
  if (as_it_lies && (bytes < kLargeOperand || !several_panels)) return kernel;

  const BufferId scratch = static_cast<BufferId>(k.buffers.size());
  k.buffers.push_back(std::move(panel));
  // Fill it.
  Each fill;
  fill.axes = summed;
  std::map<ValueId, ValueId> copies;
  for (const Stmt* made : makers) {
    Stmt copy = *made;
    const ValueId old = out_of(copy), fresh = copies[old] = static_cast<ValueId>(k.values.size());
    k.values.push_back(Value(k.values[static_cast<size_t>(old)]));
    if (auto* l = std::get_if<Load>(&copy.node)) l->out = fresh;
    if (auto* m = std::get_if<MapTile>(&copy.node)) {
      m->out = fresh;
      for (ValueId& a : m->args) a = copies.at(a);
    }
    fill.body.push_back(std::move(copy));
  }
  fill.body.push_back({Store{scratch, box_of(place), copies.at(operand)}});
  // Read it.
  const Load read{operand, scratch, box_of(place)};
  Block body;
  for (Stmt& s : seq->body) {
    const bool made = std::any_of(makers.begin(), makers.end(), [&](const Stmt* m) { return m == &s; });
    if (!made) body.push_back(std::move(s));
    else if (out_of(s) == operand) body.push_back({read});
  }
  seq->body = std::move(body);
  Each each;
  each.axes = {rows};
  each.body = std::move(phase.body);
  std::erase(phase.grid, rows);
  phase.body.clear();
  phase.body.push_back({std::move(fill)});
  phase.body.push_back({std::move(each)});
  return k;
}

}  // namespace quern
