// See split.h.
#include "passes/tile/split.h"

#include <functional>
#include <set>

namespace quern {

using namespace tile;

namespace {

constexpr size_t kMostDims = 5;   // of what the copy engine reaches (reach.h)

using Box = std::vector<BoxIndex>;
void each_access(Block& block, const std::function<void(BufferId, Box&)>& f) {
  for (Stmt& s : block) {
    if (auto* l = std::get_if<Load>(&s.node)) f(l->buffer, l->index);
    if (auto* t = std::get_if<Store>(&s.node)) f(t->buffer, t->index);
    if (auto* q = std::get_if<Seq>(&s.node)) each_access(q->body, f);
    if (auto* e = std::get_if<Each>(&s.node)) each_access(e->body, f);
  }
}

}  // namespace

Kernel split_dims(Kernel k) {
  const auto accesses = [&](const std::function<void(BufferId, Box&)>& f) {
    for (Phase& p : k.phases) each_access(p.body, f);
  };
  for (size_t b = 0; b < k.buffers.size(); ++b) {
    Buffer& buffer = k.buffers[b];
    for (size_t d = 0; d < buffer.shape.size(); ++d) {
      // As many as an axis has that walks neighbours, in all accesses.
      std::set<int64_t> sizes;
      bool plain = buffer.symbol == 0 && buffer.room == 0 && buffer.shape.size() < kMostDims;
      accesses([&](BufferId id, Box& box) {
        if (static_cast<size_t>(id) != b) return;
        plain = plain && box[d].gather < 0;
        std::set<int> axes;
        box[d].index.collect_axes(axes);
        for (int a : axes)
          if (box[d].index.stride(a) == 1) sizes.insert(k.axes[static_cast<size_t>(a)].extent);
      });
      if (!plain || sizes.size() != 1 || *sizes.begin() < 2 || buffer.shape[d] <= *sizes.begin() || buffer.shape[d] % *sizes.begin() != 0) continue;
      const int64_t size = *sizes.begin();
      accesses([&](BufferId id, Box& box) {
        if (static_cast<size_t>(id) == b) plain = plain && box[d].index.low() >= 0 && box[d].index.high() < buffer.shape[d] && floor_mod(box[d].index, size).kind() == Index::Kind::axis;
      });
      if (!plain) continue;
      accesses([&](BufferId id, Box& box) {
        if (static_cast<size_t>(id) != b) return;
        const Index index = box[d].index;
        box[d].index = floor_div(index, size);
        box.insert(box.begin() + static_cast<std::ptrdiff_t>(d) + 1, BoxIndex(floor_mod(index, size)));
      });
      buffer.shape[d] /= size;
      buffer.shape.insert(buffer.shape.begin() + static_cast<std::ptrdiff_t>(d) + 1, size);
      ++d;   // what has been split off stays
    }
  }
  return k;
}

}  // namespace quern
