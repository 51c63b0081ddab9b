// See reach.h.
#include "passes/tile/reach.h"

#include <fmt/format.h>

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kColumn = 128;   // bytes of a row that one copy moves

// The axis that walks the last dim and another one as its parts, … a // extent …, a % extent, where each copy lies in one part; -1: none.
AxisId axis_in_parts(const Kernel& kernel, const Buffer& buffer, const std::vector<BoxIndex>& index) {
  const Index &within = index.back().index, whole = within.left();
  const int64_t part = buffer.shape.back();
  if (index.back().gather >= 0 || within.kind() != Index::Kind::mod || whole.kind() != Index::Kind::axis || within.value() != part || part * size_of(buffer.dtype) % kColumn != 0) return -1;
  const AxisId a = static_cast<AxisId>(whole.value());
  int found = 0;
  for (size_t d = 0; d + 1 < index.size(); ++d) {
    if (index[d].gather >= 0 || !index[d].index.uses(a)) continue;
    if (!(index[d].index == floor_div(whole, part)) || buffer.shape[d] * part != kernel.axes[static_cast<size_t>(a)].extent) return -1;
    ++found;
  }
  return found == 1 && kernel.axes[static_cast<size_t>(a)].symbol == 0 ? a : -1;
}

}  // namespace

std::string out_of_reach(const Kernel& kernel, BufferId id, const std::vector<BoxIndex>& index, AxisId first, AxisId second, AxisId longer, int64_t part) {
  const Buffer& buffer = kernel.buffers[static_cast<size_t>(id)];
  const Shape strides = buffer.strides();
  const int64_t size = size_of(buffer.dtype);
  if (index.size() < 2 || index.size() > 5) return fmt::format("%{} has not 2 to 5 dims", buffer.name);
  const AxisId in_parts = axis_in_parts(kernel, buffer, index);
  int found = 0;
  for (size_t d = 0; d < index.size(); ++d) {
    const Index& i = index[d].index;
    const bool last = d + 1 == index.size();
    if (index[d].gather >= 0) return fmt::format("%{} is gathered", buffer.name);
    if (buffer.shape[d] >= int64_t{1} << 31 || strides[d] * size >= int64_t{1} << 40) return fmt::format("%{} is too large for one map", buffer.name);
    if (last ? strides[d] != 1 : strides[d] * size % 16 != 0) return fmt::format("rows of %{} are no multiple of 16 bytes apart", buffer.name);
    if (!i.uses(first) && !i.uses(second)) {
      if (last) return fmt::format("%{} does not run along an axis of the product", buffer.name);
      continue;
    }
    if (in_parts >= 0 && i.uses(in_parts)) {
      found += last;
      continue;
    }
    const bool range = part > 0 && i.uses(second) && i.stride(second) == 1 && kernel.axes[static_cast<size_t>(second)].extent % part == 0 && i.low() >= 0 && i.high() < buffer.shape[d];
    const bool whole = i.kind() == Index::Kind::axis && (kernel.axes[static_cast<size_t>(i.value())].extent == buffer.shape[d] || (i.value() == longer && kernel.axes[static_cast<size_t>(longer)].extent < buffer.shape[d]));
    if (!whole && !range) return fmt::format("a dim of %{} is not one whole axis of the product", buffer.name);
    ++found;
  }
  return found == 2 ? "" : fmt::format("%{} has not two dims of the product", buffer.name);
}

}  // namespace quern
