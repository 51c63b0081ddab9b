// See cost.h. A statement's cost is that of one vector, times the vectors of its tile over all the elements of its axes, times
// the tiles of the loops around it that its tile lacks.
#include "passes/tile/cost.h"

#include <cmath>
#include <functional>
#include <set>

#include "passes/tile/facts.h"
#include "passes/work.h"

namespace quern {

using namespace tile;

namespace {

constexpr double kLoad = 0.5, kStore = 1, kOp = 0.5, kFunction = 10, kIteration = 2;   // cycles of a vector, of a turn of a loop

class Cost {
 public:
  Cost(const Kernel& k, const CpuArch& arch) : k_(k), lanes_(arch.lanes) {}
  double run() {
    double total = 0;
    for (const Phase& p : k_.phases) total += block(p.body, {p.grid.begin(), p.grid.end()}, false);
    return total;
  }

 private:
  const Kernel& k_;
  const double lanes_;

  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  const std::vector<AxisId>& axes_of(ValueId v) const { return k_.values[static_cast<size_t>(v)].axes; }
  static double extent(const Axis& a) { return static_cast<double>(std::max<int64_t>(a.extent, 0)); }
  double tiles(AxisId a) const { return std::ceil(extent(axis(a)) / static_cast<double>(axis(a).tile)); }
  bool stands_around(AxisId outer, AxisId inner) const {
    for (AxisId a = axis(inner).within; a >= 0; a = axis(a).within)
      if (a == outer) return true;
    return false;
  }
  // Turns of the loops that are open, but for those along the axes `of` and what these stand within.
  double turns(const std::set<AxisId>& open, const std::vector<AxisId>& of) const {
    double n = 1;
    for (AxisId a : open) {
      const auto counted = [&](AxisId b) { return b == a || stands_around(a, b); };
      const bool inner = std::any_of(open.begin(), open.end(), [&](AxisId b) { return stands_around(a, b); });
      if (!inner && std::none_of(of.begin(), of.end(), counted)) n *= tiles(a);
    }
    return n;
  }
  double vectors(const std::vector<AxisId>& axes) const {
    double n = 1;
    for (AxisId a : axes) n *= axis(a).lanes ? std::ceil(extent(axis(a)) / lanes_) : extent(axis(a));
    return n;
  }

  double product(const Mma& m, const std::set<AxisId>& open) const {
    std::vector<AxisId> all = axes_of(m.out);
    all.insert(all.end(), m.axes.begin(), m.axes.end());
    const double steps = turns(open, all) * vectors(m.axes);
    const auto holds = [&](ValueId v, AxisId a) { return std::count(axes_of(v).begin(), axes_of(v).end(), a) > 0; };
    double total = 0;
    // The last tile of an axis is a smaller one.
    const std::function<void(size_t, double, double, double)> sum = [&](size_t i, double across, double along, double times) {
      if (times == 0) return;
      if (i == axes_of(m.out).size()) {
        total += times * product_cycles(across, along);
        return;
      }
      const AxisId a = axes_of(m.out)[i];
      const double tile = static_cast<double>(axis(a).tile), full = std::floor(extent(axis(a)) / tile), rest = extent(axis(a)) - full * tile;
      for (const auto& [size, n] : {std::pair{tile, full}, {rest, rest > 0 ? 1.0 : 0.0}}) {
        if (axis(a).lanes) sum(i + 1, across, along * std::ceil(size / lanes_), times * n);
        else if (holds(m.a, a) && holds(m.b, a)) sum(i + 1, across, along, times * n * size);
        else if (holds(m.a, a)) sum(i + 1, across * size, along, times * n);
        else sum(i + 1, across, along * size, times * n);
      }
    };
    sum(0, 1, 1, steps);
    return total;
  }

  double block(const Block& statements, const std::set<AxisId>& open, bool multiplies) const {
    double total = 0;
    for (const Stmt& s : statements) {
      const auto times = [&](ValueId v) { return turns(open, axes_of(v)) * vectors(axes_of(v)); };
      const auto scattered = [&](BufferId b, const std::vector<BoxIndex>& index, ValueId v) {   // element by element
        return std::any_of(axes_of(v).begin(), axes_of(v).end(), [&](AxisId a) { return axis(a).lanes && step_of(k_, b, index, a) != 1 && step_of(k_, b, index, a) != 0; });
      };
      const auto inside = [&](const std::vector<AxisId>& axes, const Block& body) {
        std::set<AxisId> deeper = open;
        deeper.insert(axes.begin(), axes.end());
        const bool product = std::any_of(body.begin(), body.end(), [](const Stmt& t) { return std::holds_alternative<Mma>(t.node); });
        total += kIteration * turns(deeper, {}) + block(body, deeper, product);
      };
      std::visit(Overloaded{[&](const Load& l) {
                              const bool slow = scattered(l.buffer, l.index, l.out);
                              if (slow || !multiplies) total += (slow ? kLoad * lanes_ : kLoad) * times(l.out);   // a product's are counted with it
                            },
                            [&](const MapTile& m) {
                              double cycles = 0;
                              for (const ScalarNode& n : m.expr)
                                if (n.kind == ScalarNode::Kind::op) cycles += work_of(n.op) >= Work::division ? kFunction : kOp;
                              total += cycles * times(m.out);
                            },
                            [&](const ReduceTile& r) { total += kOp * times(r.arg); },
                            [&](const Mma& m) { total += product(m, open); },
                            [&](const Store& t) { total += (scattered(t.buffer, t.index, t.value) ? kStore * lanes_ : kStore) * times(t.value); },
                            [&](const Seq& q) { inside(q.axes, q.body); }, [&](const Each& e) { inside(e.axes, e.body); }, [](const InRole&) {}},
                 s.node);
    }
    return total;
  }
};

}  // namespace

double predicted_cycles(const Kernel& planned, const CpuArch& arch) { return Cost(planned, arch).run(); }

}  // namespace quern
