// Drawing random graphs; see fuzz_graphs.h. An op is drawn among the least hit op×dtype pairs together with one of its
// samples (shapes and attributes that its type rule accepts); each argument is an earlier value of that type, or such
// a value made to fit by reshaping, slicing or padding, or a new input. In between, values are dressed up in chains of
// views and of arithmetic with constants, which is what the rewriting passes look for.
#include "tools/fuzz_graphs.h"

#include <algorithm>
#include <cmath>

#include "ir/op.h"

namespace quern {

Coverage::Coverage() {
  for (int o = 0; o < kOpCount; ++o)
    for (int d = 0; d < kDTypeCount; ++d)
      if (!def_of(static_cast<Op>(o)).samples(static_cast<DType>(d)).empty()) hits[{static_cast<Op>(o), static_cast<DType>(d)}] = 0;
}

double Coverage::fraction() const {
  const auto hit = std::count_if(hits.begin(), hits.end(), [](const auto& h) { return h.second > 0; });
  return static_cast<double>(hit) / static_cast<double>(hits.size());
}

namespace {

constexpr double kInputLow = 0.8, kInputHigh = 1.35;   // of floats

class Drawer {
 public:
  Drawer(std::mt19937_64& random, Coverage& coverage) : random_(random), coverage_(coverage) {}

  Graph run() {
    const int wanted = 2 + static_cast<int>(below(39));
    for (int made = 0; made < wanted; ++made) {
      draw_op();
      if (below(3) == 0 && !pool_.empty()) dress(pool_[below(pool_.size())]);
    }
    name_outputs();
    return dead_code(builder_.finish());
  }

 private:
  struct Made {
    NodeId id;
    bool exact;        // bit-equal on every target
    double low, high;  // its values
  };
  std::mt19937_64& random_;
  Coverage& coverage_;
  GraphBuilder builder_;
  std::vector<Made> pool_;

  uint64_t below(uint64_t n) { return random_() % n; }

  // The pairs hit least come first, with some noise.
  std::pair<Op, DType> draw_pair() {
    std::pair<Op, DType> best{};
    double least = INFINITY;
    for (int tries = 0; tries < 12; ++tries) {
      auto it = coverage_.hits.begin();
      std::advance(it, static_cast<int64_t>(below(coverage_.hits.size())));
      const double weight = static_cast<double>(it->second) * (0.5 + static_cast<double>(below(1000)) / 1000);
      if (weight < least) least = weight, best = it->first;
    }
    return best;
  }

  static bool discontinuous(Op op, DType dtype) {
    if (!is_float(dtype)) return false;
    return op == Op::floor || op == Op::round || op == Op::sign || op == Op::mod || op == Op::rem || op == Op::eq || op == Op::ne || op == Op::lt || op == Op::le || op == Op::cast || op == Op::bitcast || op == Op::argmax || op == Op::argsort;
  }
  static bool exact_op(const Node& n) {
    if (!is_float(n.type.dtype)) return true;
    if (means<View>(n.op) || means<Take>(n.op) || means<Source>(n.op)) return true;
    switch (n.op) {
      case Op::neg: case Op::abs: case Op::sign: case Op::floor: case Op::round: case Op::rem: case Op::add: case Op::sub: case Op::mul: case Op::max:
      case Op::min: case Op::select: case Op::cast: case Op::bitcast: case Op::reduce_max: case Op::reduce_min: case Op::cumulate_max: case Op::cumulate_min: return true;
      default: return false;
    }
  }

  // Inputs are drawn from [0.8, 1.35] (random_inputs); an op that wants others gets them moved into its range.
  NodeId new_input(const Type& type, double low, double high) {
    NodeId id = builder_.input("x" + std::to_string(builder_.graph().inputs.size()), type);
    const bool moved = is_float(type.dtype) && (low > kInputLow || high < kInputHigh);
    if (moved) {
      const double scale = 0.9 * (high - low) / (kInputHigh - kInputLow), shift = (low + high) / 2 - scale * (kInputLow + kInputHigh) / 2;
      id = builder_.add(Op::add, {builder_.add(Op::mul, {id, builder_.full(type, scale)}), builder_.full(type, shift)});
    }
    pool_.push_back({id, !moved, low, high});
    return id;
  }

  // An earlier value of the type whose range fits, made to fit if need be.
  NodeId argument(const Type& type, double low, double high, bool need_exact) {
    if (below(8) != 0) {
      for (int tries = 0; tries < 16 && !pool_.empty(); ++tries) {
        const Made& m = pool_[below(pool_.size())];
        const Type have = builder_.type(m.id);
        if (have.dtype != type.dtype || (need_exact && !m.exact)) continue;
        if (is_float(type.dtype) || type.dtype == DType::boolean ? m.low < low || m.high > high : low < 0 || m.low < low || m.high > high) continue;
        NodeId id = m.id;
        const bool exact = m.exact;
        const double from = m.low, to = m.high;
        if (have.shape != type.shape) {
          id = fit(id, type);
          if (id < 0) continue;
          pool_.push_back({id, exact, from, to});
        }
        return id;
      }
    }
    return new_input(type, low, high);
  }
  NodeId fit(NodeId id, const Type& type) {
    const Type have = builder_.type(id);
    Attrs attrs;
    attrs.shape = type.shape;
    if (have.size() == type.size()) return builder_.add(Op::reshape, {id}, attrs);
    if (have.size() == 1) {
      Attrs flat;
      if (!have.shape.empty()) id = builder_.add(Op::reshape, {id}, flat);
      return builder_.add(Op::broadcast, {id}, attrs);
    }
    if (have.size() > type.size() && type.size() > 0) {
      Attrs flat, cut;
      flat.shape = {have.size()};
      id = builder_.add(Op::reshape, {id}, flat);
      const int64_t start = static_cast<int64_t>(below(static_cast<uint64_t>(have.size() - type.size() + 1)));
      cut.start = {start};
      cut.limit = {start + type.size()};
      cut.stride = {1};
      return builder_.add(Op::reshape, {builder_.add(Op::slice, {id}, cut)}, attrs);
    }
    return -1;
  }

  void draw_op() {
    const auto [op, dtype] = draw_pair();
    const std::vector<Sample> samples = def_of(op).samples(dtype);
    const Sample sample = samples[below(samples.size())];
    ++coverage_.drawn;
    const bool need_exact = discontinuous(op, dtype);
    std::vector<NodeId> args;
    bool exact = true;
    for (const Type& t : sample.args) {
      const bool boolean = t.dtype == DType::boolean;
      double low = boolean ? 0 : sample.low, high = boolean ? 1 : sample.high;
      if (is_unsigned(t.dtype)) low = std::max(low, 0.0);
      args.push_back(argument(t, low, high, need_exact));
    }
    for (NodeId a : args)
      for (const Made& m : pool_)
        if (m.id == a) exact = exact && m.exact;
    NodeId id;
    try {
      id = builder_.add(op, args, sample.attrs);
    } catch (const Error&) {
      ++coverage_.rejected;
      return;
    }
    ++coverage_.hits[{op, dtype}];
    const Node& n = builder_.graph().at(id);
    exact = exact && exact_op(n);
    keep(id, exact);
  }

  // Floats come back into [-2, 2] (tanh, scaled) so that errors do not grow; integers are taken as they wrap.
  void keep(NodeId id, bool exact) {
    const Type type = builder_.type(id);
    outputs_.push_back(id);
    if (is_float(type.dtype) && type.size() > 0) {
      const NodeId bounded = builder_.add(Op::mul, {builder_.add(Op::tanh, {id}), builder_.full(type, 2)});
      pool_.push_back({bounded, false, -2, 2});
      const NodeId positive = builder_.add(Op::add, {builder_.add(Op::abs, {bounded}), builder_.full(type, 0.75)});
      if (below(3) == 0) pool_.push_back({positive, false, 0.75, 2.75});
      (void)exact;
    } else {
      pool_.push_back({id, exact, type.dtype == DType::boolean ? 0.0 : -0x1p63, type.dtype == DType::boolean ? 1.0 : 0x1p63});
    }
  }
  std::vector<NodeId> outputs_;

  // One to four more ops on a value, none of which leaves its range; often on an input of their own, where the error bound
  // is as tight as the dtype allows.
  void dress(Made m) {
    const Type type = builder_.type(m.id);
    if (below(3) == 0) {
      new_input(type, m.low, m.high);
      m = pool_.back();
    }
    const bool floating = is_float(type.dtype);
    for (uint64_t left = 1 + below(4); left > 0; --left) {
      const Type now = builder_.type(m.id);
      Attrs axes;
      for (int64_t d = 0; d < now.rank(); ++d) axes.axes.push_back(d);
      switch (below(floating ? 5 : 2)) {
        case 0:
          if (!axes.axes.empty()) axes.axes = {axes.axes[below(axes.axes.size())]};
          m.id = builder_.add(Op::reverse, {m.id}, axes);
          break;
        case 1:
          std::shuffle(axes.axes.begin(), axes.axes.end(), random_);
          m.id = builder_.add(Op::transpose, {m.id}, axes);
          break;
        case 2:
          m.id = builder_.add(Op::neg, {builder_.add(Op::neg, {m.id})});
          break;
        case 3:
          m.id = builder_.add(below(2) ? Op::mul : Op::div, {m.id, builder_.full(now, 1)});
          break;
        case 4:   // a product of constants that no short dtype holds: 1 up to its rounding
          m.id = builder_.add(Op::mul, {m.id, builder_.add(Op::mul, {builder_.full(now, 3), builder_.full(now, 0.333)})});
          m.exact = false;
          break;
      }
    }
    outputs_.push_back(m.id);
    pool_.push_back(m);
  }

  // Everything that nothing reads is an output, and some of what is read, too.
  void name_outputs() {
    const std::vector<int> uses = builder_.graph().use_counts();
    std::vector<NodeId> chosen;
    for (NodeId id : outputs_)
      if (uses[static_cast<size_t>(id)] == 0 || is_float(builder_.type(id).dtype) || below(4) == 0) chosen.push_back(id);
    if (chosen.empty()) chosen.push_back(static_cast<NodeId>(builder_.graph().nodes.size() - 1));
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    for (NodeId id : chosen) builder_.output("y" + std::to_string(builder_.graph().outputs.size()), id);
  }
};

}  // namespace

Graph random_graph(std::mt19937_64& random, Coverage& coverage) { return Drawer(random, coverage).run(); }

std::vector<HostTensor> random_inputs(const Graph& graph, std::mt19937_64& random) {
  // Positive and moderate: within the range of every sample (see OpDef::samples), no kink of max or abs in reach.
  std::vector<HostTensor> out;
  for (NodeId id : graph.inputs) {
    const Type& type = graph.type(id);
    HostTensor t(type.dtype, type.shape);
    for (int64_t i = 0; i < t.size(); ++i) {
      const double u = static_cast<double>(random() >> 11) * 0x1p-53;
      t.set(i, is_float(type.dtype) ? Scalar::of(type.dtype, kInputLow + (kInputHigh - kInputLow) * u) : Scalar::of_int(type.dtype, static_cast<int64_t>(random() % (type.dtype == DType::boolean ? 2 : 4))));
    }
    out.push_back(std::move(t));
  }
  return out;
}

}  // namespace quern
