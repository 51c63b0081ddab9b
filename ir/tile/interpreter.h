// The tile interpreter's state and statements (interpret.cpp runs a kernel by them, interpret_roles.cpp its roles). Obvious, not
// fast. A tile is a dense array over its axes' current block; coordinates past an axis's extent do not exist in it.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "ir/tile/kernel.h"

namespace quern::tile {

class Interpreter {
 public:
  Interpreter(const Kernel& kernel, std::vector<HostTensor*> buffers) : k_(kernel), buffers_(std::move(buffers)) {
    QN_CHECK(static_cast<int64_t>(buffers_.size()) == k_.params(), "one tensor per parameter");
    for (size_t b = 0; b < buffers_.size(); ++b) {
      QN_CHECK(buffers_[b]->dtype == k_.buffers[b].dtype && buffers_[b]->size() == count(k_.buffers[b].shape), "a tensor has its buffer's type");
      if (k_.buffers[b].kind == BufferKind::out) writer_.emplace(static_cast<BufferId>(b), std::vector<int64_t>(static_cast<size_t>(buffers_[b]->size()), -1));
    }
    scratch_.resize(k_.buffers.size());
    for (size_t b = buffers_.size(); b < k_.buffers.size(); ++b) {
      const BufferId of = k_.buffers[b].of;
      if (of < 0) scratch_[b] = HostTensor(k_.buffers[b].dtype, k_.buffers[b].shape);
      buffers_.push_back(of < 0 ? &scratch_[b] : buffers_[static_cast<size_t>(of)]);
    }
    start_.assign(k_.axes.size(), 0);
    extent_.assign(k_.axes.size(), 1);
    at_.assign(k_.axes.size(), 0);
    tiles_.resize(k_.values.size());
  }

  virtual ~Interpreter() = default;
  void run() {
    if (k_.steps < 0) return phases();
    loop({k_.steps}, 0, [&] {
      at_[static_cast<size_t>(k_.steps)] = start_[static_cast<size_t>(k_.steps)];
      phases();
    });
  }

 protected:
  void phases() {
    for (const Phase& p : k_.phases) {
      for (auto& [buffer, writers] : writer_) std::fill(writers.begin(), writers.end(), -1);
      instance_ = 0;
      if (!p.roles.empty()) {
        work(p);
        continue;
      }
      loop(p.grid, 0, [&] {
        for (HostTensor& s : scratch_) std::fill(s.bytes.begin(), s.bytes.end(), std::byte{0xff});   // of this instance only
        block(p.body);
        ++instance_;
      });
    }
  }

  struct Tile {
    std::vector<int64_t> strides;   // by the value's axes
    std::vector<Scalar> data;
  };
  const Kernel& k_;
  std::vector<HostTensor*> buffers_;
  std::vector<HostTensor> scratch_;
  std::vector<int64_t> start_, extent_, at_;   // by axis: the current block and the current coordinate in it
  std::vector<Tile> tiles_;
  std::map<BufferId, std::vector<int64_t>> writer_;   // which instance stored each element
  int64_t instance_ = 0;

  template <class F>
  void loop(const std::vector<AxisId>& axes, size_t depth, F&& body) {
    if (depth == axes.size()) return body();
    const size_t a = static_cast<size_t>(axes[depth]);
    const AxisId around = k_.axes[a].within;
    const int64_t begin = around < 0 ? 0 : start_[static_cast<size_t>(around)], end = around < 0 ? k_.axes[a].extent : begin + extent_[static_cast<size_t>(around)];
    const auto &from = k_.axes[a].from, &to = k_.axes[a].to;
    const int64_t low = from ? from->evaluate([&](int x) { return start_[static_cast<size_t>(x)]; }) : begin;
    const int64_t high = to ? to->evaluate([&](int x) { return start_[static_cast<size_t>(x)] + extent_[static_cast<size_t>(x)] - 1; }) : end;
    for (int64_t s = begin; s < std::min(end, high); s += k_.axes[a].tile) {
      if (s + k_.axes[a].tile <= low) continue;
      start_[a] = s;
      extent_[a] = std::min(k_.axes[a].tile, end - s);
      loop(axes, depth + 1, body);
    }
  }
  // Calls f() for every coordinate of `axes`, with at_ set to the element coordinate.
  template <class F>
  void elements(const std::vector<AxisId>& axes, size_t depth, F&& f) {
    if (depth == axes.size()) return f();
    const size_t a = static_cast<size_t>(axes[depth]);
    for (int64_t i = 0; i < extent_[a]; ++i) {
      at_[a] = start_[a] + i;
      elements(axes, depth + 1, f);
    }
  }
  Tile& allocate(ValueId v) {
    Tile& t = tiles_[static_cast<size_t>(v)];
    const std::vector<AxisId>& axes = k_.values[static_cast<size_t>(v)].axes;
    t.strides.assign(axes.size(), 1);
    int64_t n = 1;
    for (size_t d = axes.size(); d-- > 0;) {
      t.strides[d] = n;
      n *= extent_[static_cast<size_t>(axes[d])];
    }
    t.data.assign(static_cast<size_t>(n), Scalar{k_.values[static_cast<size_t>(v)].dtype});
    return t;
  }
  Scalar& element(ValueId v) {
    Tile& t = tiles_[static_cast<size_t>(v)];
    const std::vector<AxisId>& axes = k_.values[static_cast<size_t>(v)].axes;
    int64_t p = 0;
    for (size_t d = 0; d < axes.size(); ++d) p += (at_[static_cast<size_t>(axes[d])] - start_[static_cast<size_t>(axes[d])]) * t.strides[d];
    return t.data[static_cast<size_t>(p)];
  }
  int64_t evaluate(const Index& e) const {
    return e.evaluate([this](int a) { return at_[static_cast<size_t>(a)]; });
  }
  template <class F>
  void fill(ValueId v, F&& f) {
    allocate(v);
    elements(k_.values[static_cast<size_t>(v)].axes, 0, [&] { element(v) = f(); });
  }

  void block(const Block& stmts) {
    for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
  }

  // All instances of a phase with roles (interpret_roles.cpp).
  virtual void work(const Phase& phase) = 0;
  void statement(const InRole&) { QN_CHECK(false, "roles run by their traces"); }

  void statement(const Load& l) {
    const Buffer& b = k_.buffers[static_cast<size_t>(l.buffer)];
    const Shape strides = row_major(b.shape);
    fill(l.out, [&] {
      int64_t p = 0;
      for (size_t d = 0; d < l.index.size(); ++d) {
        const int64_t i = l.index[d].gather >= 0 ? element(l.index[d].gather).i : evaluate(l.index[d].index);
        if (i < 0 || i >= b.shape[d]) return Scalar::of(b.dtype, 0);
        p += i * strides[d];
      }
      return buffers_[static_cast<size_t>(l.buffer)]->get(p);
    });
  }

  void statement(const MapTile& m) {
    std::vector<Scalar> values(m.expr.size());
    fill(m.out, [&] {
      for (size_t i = 0; i < m.expr.size(); ++i) {
        const ScalarNode& n = m.expr[i];
        switch (n.kind) {
          case ScalarNode::Kind::constant: values[i] = n.constant; break;
          case ScalarNode::Kind::operand: values[i] = element(m.args[static_cast<size_t>(n.operand)]); break;
          case ScalarNode::Kind::symbol: QN_CHECK(false, "a kernel is interpreted at one size"); break;
          case ScalarNode::Kind::coord: values[i] = Scalar::of_int(DType::i64, evaluate(n.coord)); break;
          case ScalarNode::Kind::random:
            values[i] = Scalar::of_int(DType::u32, philox(static_cast<uint32_t>(values[static_cast<size_t>(n.args[0])].i), static_cast<uint32_t>(n.operand), static_cast<uint64_t>(evaluate(n.coord))));
            break;
          case ScalarNode::Kind::op: {
            Scalar args[3];
            for (size_t a = 0; a < n.args.size(); ++a) args[a] = values[static_cast<size_t>(n.args[a])];
            values[i] = apply_scalar(n.op, n.dtype, std::span(args, n.args.size()));
            break;
          }
        }
      }
      return values.back();
    });
  }

  void statement(const ReduceTile& r) {
    const DType dtype = k_.values[static_cast<size_t>(r.out)].dtype;
    fill(r.out, [&] { return identity_of(r.combine, dtype); });
    elements(k_.values[static_cast<size_t>(r.arg)].axes, 0, [&] {
      Scalar& out = element(r.out);
      out = apply_scalar(r.combine, dtype, std::array{out, element(r.arg)});
    });
  }

  // To nearest with 10 explicit bits of significand, ties away from zero, as the instruction cvt.rna.tf32 does.
  static double round_tf32(double x) {
    uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(x));
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
    return static_cast<double>(std::bit_cast<float>(bits));
  }
  // To 14 bits of significand, toward zero.
  static double cut(double x) {
    const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(x));
    return std::isfinite(x) ? static_cast<double>(std::bit_cast<float>(bits & ~0x3ffu)) : x;
  }
  void statement(const Mma& m) {
    const Value& out = k_.values[static_cast<size_t>(m.out)];
    fill(m.out, [&] {
      double sum = element(m.acc).f;
      elements(m.axes, 0, [&] {
        const double a = element(m.a).as_double(), b = element(m.b).as_double();
        if (!is_of_tf32(m.precision)) return void(sum += a * b);
        const double big_a = round_tf32(a), big_b = round_tf32(b);
        sum += big_a * big_b;
        if (m.precision == Precision::tf32x3) sum += big_a * round_tf32(b - big_b) + round_tf32(a - big_a) * big_b;
      });
      return Scalar::of(out.dtype, m.precision == Precision::f8 ? cut(sum) : sum);
    });
  }

  void statement(const Seq& q) {
    for (const Carry& c : q.carries) fill(c.var, [&] { return c.init; });
    loop(q.axes, 0, [&] {
      block(q.body);
      std::vector<Tile> next;
      for (ValueId y : q.yields) next.push_back(tiles_[static_cast<size_t>(y)]);
      for (size_t i = 0; i < next.size(); ++i) tiles_[static_cast<size_t>(q.carries[i].var)] = std::move(next[i]);
    });
    for (size_t i = 0; i < q.outs.size(); ++i) tiles_[static_cast<size_t>(q.outs[i])] = tiles_[static_cast<size_t>(q.carries[i].var)];
  }

  void statement(const Each& e) {
    loop(e.axes, 0, [&] { block(e.body); });
  }

  void statement(const Store& s) {
    const Buffer& b = k_.buffers[static_cast<size_t>(s.buffer)];
    const Shape strides = row_major(b.shape);
    std::set<int> used;
    for (const BoxIndex& e : s.index)
      if (e.gather < 0) e.index.collect_axes(used);
      else used.insert(k_.values[static_cast<size_t>(e.gather)].axes.begin(), k_.values[static_cast<size_t>(e.gather)].axes.end());
    elements({used.begin(), used.end()}, 0, [&] {
      int64_t p = 0;
      for (size_t d = 0; d < s.index.size(); ++d) {
        const int64_t i = s.index[d].gather >= 0 ? element(s.index[d].gather).i : evaluate(s.index[d].index);
        if (i < 0 || i >= b.shape[d]) return;
        p += i * strides[d];
      }
      buffers_[static_cast<size_t>(s.buffer)]->set(p, element(s.value));
      const auto writers = writer_.find(s.buffer);
      if (writers == writer_.end()) return;
      int64_t& writer = writers->second[static_cast<size_t>(p)];
      QN_CHECK(writer < 0 || writer == instance_, "no two instances store one element");
      writer = instance_;
    });
  }
};

/// Whether something that only roles have passes the test, inner blocks included.
bool has_in_role(const Block& block, const std::function<bool(const InRole&)>& test);
/// The one that runs every kernel, roles included.
std::unique_ptr<Interpreter> interpreter(const Kernel& kernel, std::vector<HostTensor*> buffers);

}  // namespace quern::tile
