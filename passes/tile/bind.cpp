// See bind.h.
#include "passes/tile/bind.h"

#include <algorithm>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "ir/symbol.h"

namespace quern {

using namespace tile;

// A row of a symbolic tensor has less than 2^31 bytes, so no stride of one reaches this far; n - 1 and the like do.
constexpr int64_t kFar = kSymbol / 2;

static Error not_yet(const std::string& what) {
  return Error(Code::symbol_place, what).with_help("let it work along another dim, or make the size a constant: at_size(graph, n)");
}

static bool is_far(int64_t value) { return value >= kFar || value <= -kFar; }

void want_constant(int64_t value) {
  if (is_far(value)) throw not_yet("a slice, pad, window, concat, reverse or reshape works along the symbolic size, which is not compiled yet");
}

namespace {

class Binder {
 public:
  Binder(Kernel kernel, int64_t bound, int64_t room) : k_(std::move(kernel)), bound_(bound), room_(room) {}

  Kernel run() {
    bool any = false;
    for (Axis& a : k_.axes) any |= bind(a.extent, a.symbol);
    for (Buffer& b : k_.buffers) {
      const bool rows = rows_before_symbol(b.shape) > 1;
      for (size_t d = 0; d < b.shape.size(); ++d)
        if (bind(b.shape[d], b.symbol)) {
          b.along = static_cast<int64_t>(d), any = true;
          if (rows) b.room = checked_mul(b.symbol, planted(Fault::room_of_kernel) ? bound_ : room_);
        }
    }
    if (!any) return std::move(k_);
    for (Phase& p : k_.phases) {
      std::stable_partition(p.grid.begin(), p.grid.end(), [&](AxisId a) { return symbol(a) > 0; });
      QN_CHECK(p.grid.size() < 2 || symbol(p.grid[1]) == 0, "one axis of a grid is symbolic");
      block(p.body);
    }
    return std::move(k_);
  }

 private:
  Kernel k_;
  int64_t bound_, room_;

  int64_t symbol(AxisId a) const { return k_.axes[static_cast<size_t>(a)].symbol; }
  bool bind(int64_t& extent, int64_t& factor) const {
    if (!is_symbolic(extent)) return false;
    QN_CHECK(bound_ > 0, "a symbolic region has a bound");
    factor = symbol_factor(extent);
    extent = checked_mul(factor, bound_);
    return true;
  }
  static int64_t farthest(const Index& e) {   // of its constants
    switch (e.kind()) {
      case Index::Kind::axis: return 0;
      case Index::Kind::constant: return std::abs(e.value());
      case Index::Kind::add: return std::max(farthest(e.left()), farthest(e.right()));
      default: return std::max(std::abs(e.value()), farthest(e.left()));
    }
  }
  // The same index, with the axes' ranges up to the bound.
  Index bound(const Index& e) const {
    want_constant(farthest(e));
    return e.substitute([&](int a, int64_t) { return k_.coordinate(a); });
  }
  void box(std::vector<BoxIndex>& at) const {
    for (BoxIndex& i : at)
      if (i.gather < 0) i.index = bound(i.index);
  }
  void block(Block& stmts) {
    for (Stmt& s : stmts)
      std::visit(Overloaded{[&](Load& l) { box(l.index); },
                            [&](MapTile& m) {
                              for (ScalarNode& n : m.expr) {
                                if (n.kind == ScalarNode::Kind::random && is_far(farthest(n.coord))) throw not_yet("random bits are numbered along a symbolic size that is not the first dim, which is not compiled yet");
                                if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) n.coord = bound(n.coord);
                              }
                            },
                            [&](Seq& q) { block(q.body); },
                            [&](Each& e) { block(e.body); },
                            [&](Store& t) { box(t.index); },
                            [](ReduceTile&) {}, [](Mma&) {}, [](InRole&) {}},
                 s.node);
  }
};

}  // namespace

Kernel bind_symbol(Kernel kernel, int64_t bound, int64_t room) { return Binder(std::move(kernel), bound, room).run(); }

}  // namespace quern
