// See nest.h. A panel pays when it is read by many row tiles and the operand is large or not contiguous along the lanes.
#include "passes/tile/nest.h"

#include <algorithm>

#include "ir/support/fault.h"

namespace quern {

using namespace tile;

constexpr int64_t kManyRowTiles = 6, kLargeOperand = 96 << 10, kLargestPanel = 4 << 20;   // tiles, bytes, bytes

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
  if (ceil_div(row_axis.extent, row_axis.tile) < kManyRowTiles) return kernel;

  Load* load = nullptr;
  for (Stmt& s : seq->body)
    if (auto* l = std::get_if<Load>(&s.node); l && l->out == operand) load = l;
  if (!load) return kernel;
  const Buffer& source = k.buffers[static_cast<size_t>(load->buffer)];
  const Shape strides = row_major(source.shape);
  int64_t along = 0;
  for (size_t d = 0; d < load->index.size(); ++d) {
    if (load->index[d].gather >= 0) return kernel;
    const auto s = load->index[d].index.stride(lanes);
    if (!s) return kernel;
    along += *s * strides[d];
  }
  // The panel: the summed axes, then the lanes of one tile. Batch axes are fixed within an instance.
  Buffer panel{"s0", BufferKind::scratch, source.dtype, {}};
  std::vector<Index> place;
  std::vector<AxisId> summed;
  for (AxisId a : axes_of(operand)) {
    if (a == lanes) continue;
    if (std::count(mma->axes.begin(), mma->axes.end(), a)) {
      summed.push_back(a);
      panel.shape.push_back(k.axes[static_cast<size_t>(a)].extent - planted(Fault::panel_tail));
      place.push_back(k.coordinate(a));
    }
  }
  panel.shape.push_back(lane_axis.tile);
  place.push_back(lane_axis.extent > lane_axis.tile && !planted(Fault::panel_without_mod) ? floor_mod(k.coordinate(lanes), lane_axis.tile) : k.coordinate(lanes));
  const int64_t bytes = checked_mul(count(source.shape), size_of(source.dtype));
  if (checked_mul(count(panel.shape), size_of(panel.dtype)) > kLargestPanel) return kernel;
  const bool several_panels = ceil_div(lane_axis.extent, lane_axis.tile) > 1;
  if (along == 1 && (bytes < kLargeOperand || !several_panels)) return kernel;

  const BufferId scratch = static_cast<BufferId>(k.buffers.size());
  k.buffers.push_back(std::move(panel));
  // Fill it.
  Each fill;
  fill.axes = summed;
  Load copy = *load;
  k.values.push_back(k.values[static_cast<size_t>(operand)]);
  copy.out = static_cast<ValueId>(k.values.size() - 1);
  fill.body.push_back({copy});
  fill.body.push_back({Store{scratch, place, copy.out}});
  // Read it.
  load->buffer = scratch;
  load->index.clear();
  for (const Index& e : place) load->index.push_back({e, -1});
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
