// The kernel verifier: ids, scopes, axes, types. Runs after lowering and after planning.
#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "ir/support/overloaded.h"
#include "ir/tile/kernel.h"

namespace quern::tile {
namespace {

class Verifier {
 public:
  explicit Verifier(const Kernel& kernel) : k_(kernel) {}

  void run() {
    for (const Axis& a : k_.axes) check(a.extent >= 0 && a.tile >= 1, "an axis has an extent and a tile");
    for (const Phase& p : k_.phases) {
      open_.clear();
      defined_.clear();
      enter(p.grid);
      block(p.body);
    }
  }

 private:
  const Kernel& k_;
  std::set<AxisId> open_;
  std::set<ValueId> defined_;

  void check(bool condition, const std::string& message) const {
    if (!condition) throw Error(ErrorKind::internal, fmt::format("this is a bug in Quern: kernel verifier: {} in\n{}", message, to_string(k_)));
  }
  void enter(const std::vector<AxisId>& axes) {
    for (AxisId a : axes) {
      check(a >= 0 && static_cast<size_t>(a) < k_.axes.size(), "an axis exists");
      check(open_.insert(a).second, "an axis is open once");
    }
  }
  const Value& use(ValueId v) const {
    check(defined_.count(v) > 0, fmt::format("%{} is defined before use", v));
    return k_.values[static_cast<size_t>(v)];
  }
  void define(ValueId v) {
    check(v >= 0 && static_cast<size_t>(v) < k_.values.size(), "a value exists");
    check(defined_.insert(v).second, fmt::format("%{} is defined once", v));
    const Value& value = k_.values[static_cast<size_t>(v)];
    check(std::is_sorted(value.axes.begin(), value.axes.end()), "a tile's axes are sorted");
    for (AxisId a : value.axes) check(open_.count(a) > 0, fmt::format("%{} uses open axes", v));
  }
  void index(const Index& e) const {
    std::set<int> axes;
    e.collect_axes(axes);
    for (int a : axes) check(open_.count(a) > 0, "an index uses open axes");
  }
  const Buffer& buffer(BufferId b, size_t rank) const {
    check(b >= 0 && static_cast<size_t>(b) < k_.buffers.size(), "a buffer exists");
    check(k_.buffers[static_cast<size_t>(b)].shape.size() == rank, "an index has the buffer's rank");
    return k_.buffers[static_cast<size_t>(b)];
  }
  void block(const Block& stmts) {
    for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
  }
  // Runs `body` with more axes open and forgets what it defined.
  template <class F>
  void nested(const std::vector<AxisId>& axes, F&& body) {
    const auto open = open_;
    const auto defined = defined_;
    enter(axes);
    body();
    open_ = open;
    defined_ = defined;
  }
  void statement(const Load& l) {
    const Buffer& b = buffer(l.buffer, l.index.size());
    for (const BoxIndex& i : l.index) {
      if (i.gather >= 0) check(is_integer(use(i.gather).dtype), "gathered rows are integers");
      else index(i.index);
    }
    define(l.out);
    check(k_.values[static_cast<size_t>(l.out)].dtype == b.dtype, "a load has the buffer's dtype");
  }
  void statement(const MapTile& m) {
    std::set<AxisId> axes;
    for (ValueId a : m.args) axes.insert(use(a).axes.begin(), use(a).axes.end());
    check(!m.expr.empty(), "a map has an expression");
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      for (int a : n.args) check(a >= 0 && static_cast<size_t>(a) < i, "a scalar's arguments come first");
      if (n.kind == ScalarNode::Kind::operand)
        check(n.operand >= 0 && static_cast<size_t>(n.operand) < m.args.size() && use(m.args[static_cast<size_t>(n.operand)]).dtype == n.dtype, "an operand is an argument of its dtype");
      if (n.kind == ScalarNode::Kind::coord || n.kind == ScalarNode::Kind::random) {
        index(n.coord);
        n.coord.collect_axes(axes);
      }
      if (n.kind == ScalarNode::Kind::op) check(means<Map>(n.op), "a scalar op is elementwise");
    }
    define(m.out);
    const Value& out = k_.values[static_cast<size_t>(m.out)];
    check(out.dtype == m.expr.back().dtype, "a map has its expression's dtype");
    check(std::includes(out.axes.begin(), out.axes.end(), axes.begin(), axes.end()), "a map has the axes of what it reads");
  }
  void statement(const ReduceTile& r) {
    const Value& arg = use(r.arg);
    for (AxisId a : r.axes) check(std::count(arg.axes.begin(), arg.axes.end(), a) == 1, "a reduced axis is the tile's");
    define(r.out);
    check(k_.values[static_cast<size_t>(r.out)].axes.size() + r.axes.size() == arg.axes.size(), "a reduce removes its axes");
  }
  void statement(const Mma& m) {
    const Value &acc = use(m.acc), &a = use(m.a), &b = use(m.b);
    for (AxisId k : m.axes) {
      check(std::count(a.axes.begin(), a.axes.end(), k) && std::count(b.axes.begin(), b.axes.end(), k), "both operands have the summed axes");
      check(!std::count(acc.axes.begin(), acc.axes.end(), k), "the sum lacks the summed axes");
    }
    define(m.out);
    check(k_.values[static_cast<size_t>(m.out)].axes == acc.axes, "an mma keeps the type of its sum");
  }
  void statement(const Seq& q) {
    check(q.carries.size() == q.yields.size() && q.carries.size() == q.outs.size(), "a seq yields and gives one tile per carry");
    nested(q.axes, [&] {
      for (const Carry& c : q.carries) define(c.var);
      block(q.body);
      for (size_t i = 0; i < q.yields.size(); ++i) {
        const Value &y = use(q.yields[i]), &c = k_.values[static_cast<size_t>(q.carries[i].var)];
        check(y.dtype == c.dtype && y.axes == c.axes, "a yield has its carry's type");
      }
    });
    for (ValueId o : q.outs) define(o);
  }
  void statement(const Each& e) {
    nested(e.axes, [&] { block(e.body); });
  }
  void statement(const Store& s) {
    const Buffer& b = buffer(s.buffer, s.index.size());
    check(b.kind != BufferKind::in, "inputs are not written");
    std::set<AxisId> axes;
    for (const Index& e : s.index) {
      index(e);
      e.collect_axes(axes);
    }
    const Value& v = use(s.value);
    check(v.dtype == b.dtype, "a store has the buffer's dtype");
    for (AxisId a : v.axes) check(axes.count(a) > 0, "a stored tile's axes are in its index");
  }
};

}  // namespace

void verify(const Kernel& kernel) { Verifier(kernel).run(); }

}  // namespace quern::tile
