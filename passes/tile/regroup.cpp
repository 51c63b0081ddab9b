// See regroup.h. An axis is split where it is divided, if nothing is divided any more; two axes become one where they
// stand side by side in every loop and every tile, and lie side by side in every buffer, whose dims then become one, too.
#include "passes/tile/regroup.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "ir/support/overloaded.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kLeastPart = 16;   // of a split axis: shorter ones would leave a vector's lanes empty

class Regroup {
 public:
  explicit Regroup(Kernel kernel) : k_(std::move(kernel)) {}

  Kernel run() {
    drop_single_dims();
    for (size_t a = 0, n = k_.axes.size(); a < n; ++a) split(static_cast<AxisId>(a));
    bool merged = false;
    for (size_t a = k_.axes.size(); a-- > 0;)
      for (AxisId b = follower(static_cast<AxisId>(a)); b >= 0 && merge(static_cast<AxisId>(a), b); b = follower(static_cast<AxisId>(a))) merged = true;
    if (merged) drop_unused();
    return std::move(k_);
  }

  Kernel run_dims() {
    for (size_t b = 0; b < k_.buffers.size(); ++b) {
      for (size_t d = k_.buffers[b].symbol || k_.buffers[b].shape.empty() ? 0 : k_.buffers[b].shape.size() - 1; d-- > 0;) join_dims(static_cast<BufferId>(b), d);
      for (size_t d = k_.buffers[b].symbol ? 0 : k_.buffers[b].shape.size(); d-- > 0;) {
        const int64_t part = part_of(static_cast<BufferId>(b), d);
        if (!part) continue;
        Shape& shape = k_.buffers[b].shape;
        shape[d] /= part;
        shape.insert(shape.begin() + static_cast<int64_t>(d) + 1, part);
        each_access([&](BufferId buffer, std::vector<BoxIndex>& index) {
          if (buffer != static_cast<BufferId>(b)) return;
          const Index whole = index[d].index;
          index[d].index = floor_div(whole, part);
          index.insert(index.begin() + static_cast<int64_t>(d) + 1, floor_mod(whole, part));
        });
      }
    }
    return std::move(k_);
  }

 private:
  Kernel k_;

  Axis& axis(AxisId a) { return k_.axes[static_cast<size_t>(a)]; }
  static bool holds(const std::vector<AxisId>& list, AxisId a) { return std::find(list.begin(), list.end(), a) != list.end(); }

  void each_statement(const std::function<void(Stmt&)>& f) {
    const std::function<void(Block&)> walk = [&](Block& block) {
      for (Stmt& s : block) {
        f(s);
        if (auto* q = std::get_if<Seq>(&s.node)) walk(q->body);
        if (auto* e = std::get_if<Each>(&s.node)) walk(e->body);
      }
    };
    for (Phase& p : k_.phases) walk(p.body);
  }
  // Loops' axes, in order; those that are summed; and tiles'.
  void each_list(const std::function<void(std::vector<AxisId>&, bool ordered)>& f) {
    for (Phase& p : k_.phases) f(p.grid, true);
    each_statement([&](Stmt& s) {
      std::visit(Overloaded{[&](Seq& q) { f(q.axes, true); }, [&](Each& e) { f(e.axes, true); }, [&](ReduceTile& r) { f(r.axes, true); }, [&](Mma& m) { f(m.axes, true); }, [](auto&) {}}, s.node);
    });
    for (Value& v : k_.values) f(v.axes, false);
  }
  void each_access(const std::function<void(BufferId, std::vector<BoxIndex>&)>& f) {
    each_statement([&](Stmt& s) {
      if (auto* l = std::get_if<Load>(&s.node)) f(l->buffer, l->index);
      if (auto* t = std::get_if<Store>(&s.node)) f(t->buffer, t->index);
    });
  }
  void each_coordinate(const std::function<void(Index&)>& f) {
    each_statement([&](Stmt& s) {
      if (auto* m = std::get_if<MapTile>(&s.node))
        for (ScalarNode& n : m->expr)
          if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) f(n.coord);
    });
  }
  // The dim and the next, where they are e // n and e % n of one axis in every access.
  void join_dims(BufferId buffer, size_t dim) {
    Shape& shape = k_.buffers[static_cast<size_t>(buffer)].shape;
    const int64_t inner = shape[dim + 1], extent = checked_mul(shape[dim], inner);
    bool possible = true, accessed = false;
    const auto axis_of = [&](const std::vector<BoxIndex>& index) {
      std::set<int> axes;
      if (index[dim].gather < 0 && index[dim + 1].gather < 0) index[dim].index.collect_axes(axes);
      const Index whole = axes.size() == 1 ? Index::axis(*axes.begin(), axis(*axes.begin()).extent) : Index(0);
      return axes.size() == 1 && axis(*axes.begin()).extent == extent && index[dim].index == floor_div(whole, inner) && index[dim + 1].index == floor_mod(whole, inner) ? *axes.begin() : -1;
    };
    each_access([&](BufferId b, std::vector<BoxIndex>& index) {
      if (b == buffer) possible = possible && axis_of(index) >= 0, accessed = true;
    });
    if (!possible || !accessed) return;
    each_access([&](BufferId b, std::vector<BoxIndex>& index) {
      if (b != buffer) return;
      index[dim].index = Index::axis(axis_of(index), extent);
      index.erase(index.begin() + static_cast<int64_t>(dim) + 1);
    });
    shape[dim] = extent;
    shape.erase(shape.begin() + static_cast<int64_t>(dim) + 1);
  }
  // The extent of axes that walk parts of the dim in every access; 0: none does.
  int64_t part_of(BufferId buffer, size_t dim) {
    const int64_t extent = k_.buffers[static_cast<size_t>(buffer)].shape[dim];
    std::optional<std::set<int64_t>> parts;
    each_access([&](BufferId b, std::vector<BoxIndex>& index) {
      if (b != buffer) return;
      const Index& e = index[dim].index;
      std::set<int> axes;
      std::set<int64_t> walked;
      if (index[dim].gather < 0) e.collect_axes(axes);
      for (int a : axes)
        if (const int64_t part = axis(a).extent; part >= kLeastPart && part < extent && extent % part == 0 && !axis(a).symbol && (!parts || parts->count(part)) && floor_mod(e, part) == Index::axis(a, part)) walked.insert(part);
      parts = std::move(walked);
    });
    return parts && !parts->empty() ? *parts->rbegin() : 0;
  }
  void each_index(const std::function<void(Index&)>& f) {
    each_access([&](BufferId, std::vector<BoxIndex>& index) {
      for (BoxIndex& b : index)
        if (b.gather < 0) f(b.index);
    });
    each_coordinate(f);
  }

  // Buffers' dims of one element.
  void drop_single_dims() {
    std::vector<std::vector<char>> single;
    for (const Buffer& b : k_.buffers) {
      single.emplace_back(b.shape.size());
      for (size_t d = 0; d < b.shape.size() && !b.symbol; ++d) single.back()[d] = b.shape[d] == 1;
    }
    each_access([&](BufferId buffer, std::vector<BoxIndex>& index) {
      for (size_t d = 0; d < index.size(); ++d)
        if (index[d].gather >= 0 || !(index[d].index == Index(0))) single[static_cast<size_t>(buffer)][d] = 0;
    });
    const auto drop = [&](BufferId buffer, auto& list) {
      for (size_t d = list.size(); d-- > 0;)
        if (single[static_cast<size_t>(buffer)][d]) list.erase(list.begin() + static_cast<int64_t>(d));
    };
    each_access([&](BufferId buffer, std::vector<BoxIndex>& index) { drop(buffer, index); });
    for (size_t b = 0; b < k_.buffers.size(); ++b) drop(static_cast<BufferId>(b), k_.buffers[b].shape);
  }

  // By what it is divided, -1 for several numbers.
  static void divisors(const Index& e, AxisId a, int64_t& found) {
    const Index::Kind kind = e.kind();
    if (kind == Index::Kind::constant || kind == Index::Kind::axis) return;
    if ((kind == Index::Kind::div || kind == Index::Kind::mod) && e.uses(a)) found = found == 0 || found == e.value() ? e.value() : -1;
    divisors(e.left(), a, found);
    if (kind == Index::Kind::add) divisors(e.right(), a, found);
  }

  void split(AxisId a) {
    const int64_t extent = axis(a).extent;
    int64_t by = 0;
    each_index([&](Index& e) { divisors(e, a, by); });
    if (by < kLeastPart || axis(a).symbol || extent % by != 0 || extent == by || is_walked(k_, a) || of_product(a)) return;
    const AxisId inner = static_cast<AxisId>(k_.axes.size());
    const Index parts = Index::axis(a, extent / by) * by + Index::axis(inner, by);
    const auto substitute = [&](const Index& e) { return e.substitute([&](int id, int64_t n) { return id == a ? parts : Index::axis(id, n); }); };
    bool divided = false;
    each_index([&](Index& e) {
      const Index now = substitute(e);
      divided = divided || (e.uses(a) && !(now.stride(a) && now.stride(inner)));
    });
    if (divided) return;
    each_index([&](Index& e) { e = substitute(e); });
    k_.axes.push_back({fmt::format("i{}", inner), by});
    axis(a).extent = extent / by;
    each_list([&](std::vector<AxisId>& list, bool ordered) {
      if (const auto at = std::find(list.begin(), list.end(), a); at != list.end()) list.insert(ordered ? at + 1 : list.end(), inner);
    });
  }
  // Does a product have it in its result? There it would be a row of few, or a vector.
  bool of_product(AxisId a) {
    bool out = false;
    each_statement([&](Stmt& s) {
      if (const auto* m = std::get_if<Mma>(&s.node)) out = out || holds(k_.values[static_cast<size_t>(m->out)].axes, a);
    });
    return out;
  }

  // The axis that follows it in a loop.
  AxisId follower(AxisId a) {
    AxisId out = -1;
    each_list([&](std::vector<AxisId>& list, bool ordered) {
      const auto at = std::find(list.begin(), list.end(), a);
      if (ordered && at != list.end() && at + 1 != list.end()) out = at[1];
    });
    return out;
  }

  bool merge(AxisId a, AxisId b) {
    if (axis(a).symbol || axis(b).symbol || is_walked(k_, a) || is_walked(k_, b)) return false;
    bool possible = true;
    each_list([&](std::vector<AxisId>& list, bool ordered) {
      const auto at = std::find(list.begin(), list.end(), a);
      const bool first = at != list.end(), second = holds(list, b);
      possible = possible && first == second && !(ordered && first && (at + 1 == list.end() || at[1] != b));
    });
    if (!possible) return false;
    const int64_t inner = axis(b).extent, extent = checked_mul(axis(a).extent, inner);
    const Index whole = Index::axis(a, extent);
    // An index that walks both as one axis.
    const auto linear = [&](const Index& e) {
      const auto x = e.stride(a), y = e.stride(b);
      return x && y && *x == checked_mul(*y, inner);
    };
    const auto merged = [&](const Index& e) { return e.substitute([&](int id, int64_t n) { return id == a ? Index(0) : id == b ? whole
                                                                                                                               : Index::axis(id, n); }); };
    std::map<BufferId, std::set<size_t>> dims;   // the first of two dims that become one; none: as they are
    each_access([&](BufferId buffer, std::vector<BoxIndex>& index) {
      const Buffer& where = k_.buffers[static_cast<size_t>(buffer)];
      size_t dim = index.size();
      for (size_t d = 0; d < index.size(); ++d) {
        const Index& e = index[d].index;
        if (index[d].gather >= 0 || linear(e)) continue;
        if (dim == d - 1 && dim < index.size()) continue;   // the second one
        const bool pair = d + 1 < index.size() && index[d + 1].gather < 0 && e == Index::axis(a, axis(a).extent) && index[d + 1].index == Index::axis(b, inner) && where.shape[d + 1] == inner;
        possible = possible && pair && dim == index.size() && !where.symbol;
        dim = d;
      }
      dims[buffer].insert(dim);
    });
    each_coordinate([&](Index& e) { possible = possible && linear(e); });
    for (const auto& [buffer, at] : dims) possible = possible && at.size() == 1;
    if (!possible) return false;

    each_access([&](BufferId buffer, std::vector<BoxIndex>& index) {
      const size_t dim = *dims.at(buffer).begin();
      for (size_t d = 0; d < index.size(); ++d)
        if (index[d].gather < 0) index[d].index = d == dim ? whole : merged(index[d].index);
      if (dim < index.size()) index.erase(index.begin() + static_cast<int64_t>(dim) + 1);
    });
    each_coordinate([&](Index& e) { e = merged(e); });
    for (const auto& [buffer, at] : dims) {
      Shape& shape = k_.buffers[static_cast<size_t>(buffer)].shape;
      const size_t dim = *at.begin();
      if (dim >= shape.size()) continue;
      shape[dim] = checked_mul(shape[dim], inner);
      shape.erase(shape.begin() + static_cast<int64_t>(dim) + 1);
    }
    each_list([&](std::vector<AxisId>& list, bool) { std::erase(list, b); });
    axis(a).extent = extent;
    return true;
  }

  void drop_unused() {
    std::set<AxisId> used;
    each_list([&](std::vector<AxisId>& list, bool) { used.insert(list.begin(), list.end()); });
    std::map<AxisId, AxisId> renamed;
    std::vector<Axis> axes;
    for (AxisId a : used) {
      renamed[a] = static_cast<AxisId>(axes.size());
      axes.push_back(axis(a));
      axes.back().name = fmt::format("i{}", renamed[a]);
    }
    each_index([&](Index& e) { e = e.substitute([&](int id, int64_t n) { return Index::axis(renamed.at(id), n); }); });
    each_list([&](std::vector<AxisId>& list, bool) {
      for (AxisId& a : list) a = renamed.at(a);
    });
    k_.axes = std::move(axes);
  }
};

}  // namespace

Kernel match_dims(Kernel kernel) { return Regroup(std::move(kernel)).run_dims(); }
Kernel regroup(Kernel kernel) { return Regroup(std::move(kernel)).run(); }

}  // namespace quern
