// See gpu_cost.h. A statement is counted once for every turn of the loops and every instance around it.
#include "passes/tile/gpu_cost.h"

#include <cmath>
#include <set>

#include "passes/tile/facts.h"
#include "passes/work.h"

namespace quern {

using namespace tile;

namespace {

constexpr double kLatency = 0.6, kStep = 0.25;                         // microseconds: from an instance's loads to its stores; of one more step of a loop
constexpr double kBytes = 70e3, kMostBytes = 4e6, kOperations = 0.6e6; // of a multiprocessor in a microsecond; of all of them
constexpr int64_t kRoom = 2048, kMostBlocks = 16;                      // threads and blocks of a multiprocessor

class Counter {
 public:
  explicit Counter(const Kernel& k) : k_(k) {}
  GpuWork run() {
    const Phase& p = k_.phases[0];
    for (AxisId a : p.grid) out_.instances *= tiles(a);
    for (const Axis& a : k_.axes) out_.threads = std::max(out_.threads, 32 * (a.spread.warps << a.spread.warps_at));
    out_.chain = kLatency;
    block(p.body, {p.grid.begin(), p.grid.end()});
    return out_;
  }

 private:
  const Kernel& k_;
  GpuWork out_;

  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  int64_t tiles(AxisId a) const { return std::max<int64_t>(ceil_div(axis(a).extent, axis(a).tile), 1); }
  // Elements of tiles with these axes, in all turns of what is open.
  double times(const std::vector<AxisId>& axes, const std::set<AxisId>& open) const {
    double n = 1;
    std::set<AxisId> own(axes.begin(), axes.end());
    for (AxisId a : own) n *= static_cast<double>(axis(a).extent);
    for (AxisId a : open)
      if (!own.count(a)) n *= static_cast<double>(tiles(a));
    return n;
  }
  void moved(BufferId b, ValueId v, const std::set<AxisId>& open) {
    const Buffer& buffer = k_.buffers[static_cast<size_t>(b)];
    if (buffer.kind != BufferKind::scratch) out_.bytes += times(k_.values[static_cast<size_t>(v)].axes, open) * static_cast<double>(size_of(buffer.dtype));
  }
  void block(const Block& body, const std::set<AxisId>& open) {
    const auto loop = [&](const std::vector<AxisId>& axes, const Block& inner) {
      double steps = 1;
      for (AxisId a : axes) steps *= static_cast<double>(tiles(a));
      out_.chain += kStep * (steps - 1);
      std::set<AxisId> deeper = open;
      deeper.insert(axes.begin(), axes.end());
      block(inner, deeper);
    };
    for (const Stmt& s : body)
      std::visit(Overloaded{[&](const Load& l) { moved(l.buffer, l.out, open); },
                            [&](const Store& t) { moved(t.buffer, t.value, open); },
                            [&](const MapTile& m) {
                              double price = 0;
                              for (const ScalarNode& n : m.expr)
                                if (n.kind == ScalarNode::Kind::op) price += 4 * price_of(n.op);
                              out_.operations += price * times(k_.values[static_cast<size_t>(m.out)].axes, open);
                            },
                            [&](const ReduceTile& r) { out_.operations += times(k_.values[static_cast<size_t>(r.arg)].axes, open); },
                            [&](const Mma& m) {
                              std::vector<AxisId> all = k_.values[static_cast<size_t>(m.out)].axes;
                              all.insert(all.end(), m.axes.begin(), m.axes.end());
                              out_.operations += (m.atom.empty() || m.atom == "simt" ? 2 : 0.5) * times(all, open);
                            },
                            [&](const Seq& q) { loop(q.axes, q.body); }, [&](const Each& e) { loop(e.axes, e.body); }, [](const InRole&) {}},
                 s.node);
  }
};

}  // namespace

GpuWork gpu_work(const Kernel& planned) { return Counter(planned).run(); }

double gpu_microseconds(const std::vector<const GpuWork*>& work, int64_t multiprocessors, int64_t threads) {
  double share = 0, chain = 0, bytes = 0, operations = 0;
  int64_t instances = 0;
  for (const GpuWork* w : work) {
    const int64_t together = std::clamp<int64_t>((threads ? threads : kRoom) / w->threads, 1, kMostBlocks);
    share += static_cast<double>(w->instances) / static_cast<double>(together * multiprocessors);
    chain = std::max(chain, w->chain);
    bytes += w->bytes, operations += w->operations, instances += w->instances;
  }
  const double busy = static_cast<double>(std::min(instances, multiprocessors));
  return std::ceil(share) * chain + std::max(bytes / std::min(busy * kBytes, kMostBytes), operations / (busy * kOperations));
}

}  // namespace quern
