// Drawing random graphs; see fuzz_graphs.h. An op is drawn among the least hit op×dtype pairs together with one of its
// samples (shapes and attributes that its type rule accepts); each argument is an earlier value of that type, or such
// a value made to fit by reshaping, slicing or scaling, or a new input. Ops meet each other directly as long as what is
// known of a result (fuzz_range.h) is moderate; else the graph goes on with it scaled, clamped or squashed. In between,
// values are dressed up in chains of views and of arithmetic with constants, which is what the rewriting passes look
// for. With `bodies`, a sub-graph is drawn for a call, a loop or a branch by a Drawer of its own, which says for each
// input what range it needs.
#include "tools/fuzz_graphs.h"

#include <algorithm>
#include <cmath>

#include "tools/fuzz_range.h"

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
constexpr double kMost = 16;                           // beyond it floats are made small before they are used

class Drawer {
 public:
  Drawer(std::mt19937_64& random, Coverage& coverage, const DrawOptions& options, int depth = 0) : random_(random), coverage_(coverage), options_(options), depth_(depth) {}

  Graph run() {
    const uint64_t kind = below(20);   // small ones mostly: what differs needs few ops, and more graphs fit in the time
    draw(kind < 14 ? 1 + below(6) : kind < 19 ? 2 + below(11) : 12 + below(29));
    name_outputs();
    return dead_code(builder_.finish());
  }

 private:
  struct Made {
    NodeId id;
    Known known;
  };
  std::mt19937_64& random_;
  Coverage& coverage_;
  const DrawOptions& options_;
  int depth_;                    // of bodies around this one
  GraphBuilder builder_;
  std::vector<Made> pool_;
  std::vector<Made> inputs_;     // of a body: what it may be given

  void draw(uint64_t wanted) {
    for (uint64_t made = 0; made < wanted; ++made) {
      if (options_.bodies && depth_ < 2 && below(depth_ ? 6 : 12) == 0) draw_body();
      else draw_op();
      if (below(3) == 0 && !pool_.empty()) dress(pool_[below(pool_.size())]);
    }
  }

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

  static bool discontinuous(Op op, DType dtype, const Attrs& attrs) {
    if (!is_float(dtype)) return false;
    if (op == Op::cast) return !is_float(attrs.dtype[0]);
    return is_discontinuous(op) || op == Op::bitcast;
  }
  static Known within(double low, double high) { return {true, low, high}; }
  static Known rounded(DType dtype, double low, double high) { return {false, low, high, 2 * epsilon_of(dtype), epsilon_of(dtype), 1}; }

  // Inputs are drawn from [0.8, 1.35] (random_inputs), integers from 0 to 3; an op that wants others gets them moved into its range.
  Made new_input(const Type& type, const Known& wanted, bool need_exact) {
    if (depth_) return body_input(type, wanted, need_exact || !is_float(type.dtype) || below(4) == 0);
    const NodeId id = builder_.input("x" + std::to_string(builder_.graph().inputs.size()), type);
    Known k = any_of(type.dtype);
    if (is_float(type.dtype)) k.low = kInputLow, k.high = kInputHigh;
    else if (type.dtype != DType::boolean && !is_storage(type.dtype)) k.low = 0, k.high = 3;
    pool_.push_back({id, k});
    if (is_float(type.dtype) && (wanted.low > kInputLow || wanted.high < kInputHigh || (wanted.low < 0 && wanted.high > 0 && below(2)))) pool_.push_back(moved(pool_.back(), wanted));
    return pool_.back();
  }
  Made body_input(const Type& type, Known wanted, bool exact) {
    const NodeId id = builder_.input("x" + std::to_string(inputs_.size()), type);
    if (!exact && is_float(type.dtype)) wanted = rounded(type.dtype, wanted.low, wanted.high);
    wanted.exact = exact;
    inputs_.push_back({id, wanted});
    pool_.push_back(inputs_.back());
    return pool_.back();
  }

  Made make(Op op, const std::vector<Made>& args, const Attrs& attrs = {}) {
    std::vector<NodeId> ids;
    std::vector<Known> known;
    for (const Made& m : args) ids.push_back(m.id), known.push_back(m.known);
    const NodeId id = builder_.add(op, ids, attrs);
    return {id, known_of(builder_.graph(), builder_.graph().at(id), known)};
  }
  Made constant(const Type& type, double value) {
    const double v = Scalar::of(type.dtype, value).as_double();
    return {builder_.full(type, value), within(v, v)};
  }
  // a*x + b, within the range.
  Made moved(const Made& m, const Known& wanted) {
    const Type type = builder_.type(m.id);
    const double wide = m.known.high - m.known.low, scale = std::min(wide > 0 ? 0.9 * (wanted.high - wanted.low) / wide : 1, 8.0);
    return make(Op::add, {make(Op::mul, {m, constant(type, scale)}), constant(type, (wanted.low + wanted.high - scale * (m.known.low + m.known.high)) / 2)});
  }
  static bool inside(const Known& k, const Known& wanted) { return k.low >= wanted.low && k.high <= wanted.high; }

  // An earlier value of the type whose range fits, made to fit if need be; without `fresh`, no id where there is none.
  Made argument(const Type& type, const Known& wanted, bool need_exact, bool fresh = true) {
    if (!fresh || below(8) != 0) {
      for (int tries = 0; tries < 16 && !pool_.empty(); ++tries) {
        Made m = pool_[below(2) ? pool_.size() - 1 - below(std::min<size_t>(pool_.size(), 3)) : below(pool_.size())];
        const Type have = builder_.type(m.id);
        if (have.dtype != type.dtype || (need_exact && !m.known.exact)) continue;
        if (!is_float(type.dtype) && below(3) == 0) continue;   // small integers are of inputs
        const bool far = is_float(type.dtype) && !inside(m.known, wanted);
        if (far && (!fresh || below(3))) continue;
        if (have.shape != type.shape) {
          m.id = fit(m.id, type);
          if (m.id < 0) continue;
          pool_.push_back(m);
        }
        if (far) {
          m = moved(m, wanted);
          if (!inside(m.known, wanted)) continue;
          pool_.push_back(m);
        }
        return m;
      }
    }
    return fresh ? new_input(type, wanted, need_exact) : Made{-1, {}};
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

  // Often in the shape of a value at hand: what is elementwise takes any, what reduces any of its rank.
  void reshaped(Op op, Sample& sample) {
    if (pool_.empty() || below(4) == 0 || sample.args.empty()) return;
    const Shape shape = sample.args[0].shape;
    if (!std::all_of(sample.args.begin(), sample.args.end(), [&](const Type& t) { return t.shape == shape; })) return;
    for (int tries = 0; tries < 6; ++tries) {
      const Type have = builder_.type(pool_[below(pool_.size())].id);
      if (have.dtype != sample.args.back().dtype || have.size() > 4000) continue;
      if (!means<Map>(op) && !((means<Reduce>(op) || means<Cumulate>(op)) && have.shape.size() == shape.size() && have.size() <= std::max<int64_t>(count(shape), 64))) continue;
      for (Type& t : sample.args) t.shape = have.shape;
      return;
    }
  }

  void draw_op() {
    const auto [op, dtype] = draw_pair();
    const std::vector<Sample> samples = def_of(op).samples(dtype);
    Sample sample = samples[below(samples.size())];
    ++coverage_.drawn;
    reshaped(op, sample);
    const bool need_exact = discontinuous(op, dtype, sample.attrs);
    try {
      // Any values at hand, as long as the result is moderate; then what the sample wants.
      for (int tries = sample.args.empty() ? 3 : 0; tries < 4; ++tries) {
        const bool strict = tries == 3;
        std::vector<Made> args;
        for (const Type& t : sample.args) {
          Known wanted = within(t.dtype == DType::boolean ? 0 : sample.low, t.dtype == DType::boolean ? 1 : sample.high);
          if (is_unsigned(t.dtype)) wanted.low = std::max(wanted.low, 0.0);
          args.push_back(argument(t, strict ? wanted : within(-kMost, kMost), need_exact, strict));
          if (args.back().id < 0) break;
        }
        if (!args.empty() && args.back().id < 0) continue;
        const Made made = make(op, args, sample.attrs);
        if (!strict && is_float(builder_.type(made.id).dtype) && !(moderate(made.known) && made.known.most() > 0)) continue;
        ++coverage_.hits[{op, dtype}];
        return keep(made);
      }
    } catch (const Error&) {
      ++coverage_.rejected;
    }
  }

  static bool moderate(const Known& k) { return k.bounded() && k.most() <= kMost && k.precise(); }
  // Floats that are not moderate are outputs, if they are numbers, but the graph goes on with them made so: errors do not grow.
  void keep(const Made& m) {
    const Type type = builder_.type(m.id);
    const bool number = !is_float(type.dtype) || type.size() == 0 || (m.known.bounded() && m.known.most() < 3e4);
    if (number) outputs_.push_back(m.id);
    if (!is_float(type.dtype) || type.size() == 0 || moderate(m.known)) {
      pool_.push_back(m);
    } else if (!m.known.bounded() && m.known.exact) {   // infinities and NaN become 1
      Made small = make(Op::select, {make(Op::lt, {make(Op::abs, {m}), constant(type, 4)}), m, constant(type, 1)});
      small.known.low = -4, small.known.high = 4;
      pool_.push_back(small);
    } else if (!m.known.bounded() || (m.known.precise() && below(2))) {
      Made small = make(Op::mul, {make(Op::tanh, {m}), constant(type, 2)});
      small.known = rounded(type.dtype, -2, 2);
      pool_.push_back(small);
    } else {
      const double allowed = 4 * std::max(m.known.epsilon, epsilon_of(type.dtype)), times = std::max(m.known.most() / 4, m.known.error / allowed);
      pool_.push_back(make(Op::mul, {m, constant(type, std::ldexp(1.0, -std::min(60, std::ilogb(times) + 1)))}));
    }
    if (!outputs_.empty() && !number) outputs_.push_back(pool_.back().id);
    const Made last = pool_.back();
    if (is_float(type.dtype) && type.size() > 0 && last.known.low < 0 && below(4) == 0) pool_.push_back(make(Op::add, {make(Op::abs, {last}), constant(type, 0.75)}));
  }
  std::vector<NodeId> outputs_;

  // One to four more ops on a value, none of which leaves its range; often on an input of their own, where the error bound
  // is as tight as the dtype allows. Views, views around reductions, arithmetic with constants.
  void dress(Made m) {
    const Type type = builder_.type(m.id);
    if (below(3) == 0) m = new_input(type, m.known, false);
    const bool floating = is_float(type.dtype);
    for (uint64_t left = 1 + below(4); left > 0; --left) {
      const Type now = builder_.type(m.id);
      const size_t rank = now.shape.size(), axis = rank ? below(rank) : 0;
      Attrs axes, shape, cut;
      for (int64_t d = 0; d < now.rank(); ++d) axes.axes.push_back(d);
      switch (below(floating ? 11 : 6)) {
        case 0:
          if (rank) axes.axes = {static_cast<int64_t>(axis)};
          m.id = builder_.add(Op::reverse, {m.id}, axes);
          break;
        case 1:
          std::shuffle(axes.axes.begin(), axes.axes.end(), random_);
          m.id = builder_.add(Op::transpose, {m.id}, axes);
          break;
        case 2:
          shape.shape = {now.size()};
          if (rank == 2) shape.shape = {now.shape[1], now.shape[0]};
          if (rank == 1 && now.size() % 2 == 0) shape.shape = {2, now.size() / 2};
          m.id = builder_.add(Op::reshape, {m.id}, shape);
          break;
        case 3:   // along a new axis
          if (now.size() > 500 || rank > 4) break;
          shape.shape = now.shape;
          shape.shape.insert(shape.shape.begin() + static_cast<int64_t>(axis), static_cast<int64_t>(below(4)));
          for (int64_t& d : axes.axes) d += d >= static_cast<int64_t>(axis);
          shape.axes = axes.axes;
          m.id = builder_.add(Op::broadcast, {m.id}, shape);
          break;
        case 4:
          cut.start.assign(rank, 0), cut.limit = now.shape, cut.stride.assign(rank, 1);
          if (rank && now.shape[axis] > 0) {
            cut.start[axis] = static_cast<int64_t>(below(static_cast<uint64_t>(now.shape[axis])));
            cut.stride[axis] = 1 + static_cast<int64_t>(below(2));
          }
          m.id = builder_.add(Op::slice, {m.id}, cut);
          break;
        case 5:
          if (!rank || is_storage(now.dtype) || now.dtype == DType::boolean || now.shape[axis] == 0) break;
          axes.axes = {static_cast<int64_t>(axis)};
          m.id = builder_.add(below(2) ? Op::reduce_max : Op::reduce_min, {m.id}, axes);
          break;
        case 6:
          m.id = builder_.add(Op::neg, {builder_.add(Op::neg, {m.id})});
          break;
        case 7:
          m.id = builder_.add(below(2) ? Op::mul : Op::div, {m.id, builder_.full(now, 1)});
          break;
        case 8:   // a product of constants that no short dtype holds: 1 up to its rounding
          m = make(Op::mul, {m, {builder_.add(Op::mul, {builder_.full(now, 3), builder_.full(now, 0.333)}), within(1, 1)}});
          m.known.exact = false;
          break;
        case 9: {   // through another dtype and back again, which rounds if it is shorter
          constexpr DType floats[] = {DType::f64, DType::f32, DType::bf16, DType::f16};
          cut.dtype = {floats[below(4)]}, shape.dtype = {now.dtype};
          m = make(Op::cast, {make(Op::cast, {m}, cut)}, shape);
          break;
        }
        case 10:   // of itself
          if (const Made twice = make(below(2) ? Op::add : Op::mul, {m, m}); moderate(twice.known)) m = twice;
          break;
      }
    }
    outputs_.push_back(m.id);
    pool_.push_back(m);
  }

  // --- sub-graphs ---
  static std::shared_ptr<const Graph> shared(GraphBuilder& b) { return std::make_shared<const Graph>(dead_code(b.finish())); }
  static Type with_axis(Type type, size_t axis, int64_t extent) {
    type.shape.insert(type.shape.begin() + static_cast<int64_t>(axis), extent);
    return type;
  }
  // Of a carry, or of what is scanned: often that of a value at hand.
  Type small_type() {
    for (int tries = 0; tries < 4 && !pool_.empty(); ++tries)
      if (const Type t = builder_.type(pool_[below(pool_.size())].id); t.size() <= 64 && t.rank() <= 3 && below(2)) return t;
    constexpr DType dtypes[] = {DType::f32, DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8, DType::i8, DType::u64, DType::boolean};
    const Shape shapes[] = {{}, {3}, {8}, {16}, {4, 4}, {2, 3}, {1}, {0}, {2, 1, 5}, {32}};
    return {dtypes[below(std::size(dtypes))], shapes[below(std::size(shapes))], {}};
  }
  // One to three values of this body that it may give back, late ones mostly.
  std::vector<Made> chosen(uint64_t most) {
    std::vector<Made> out;
    for (uint64_t n = 1 + below(most), tries = 0; out.size() < n && tries < 20; ++tries) {
      const uint64_t back = below(below(3) ? std::min<uint64_t>(pool_.size(), 4) : pool_.size());
      out.push_back(pool_[pool_.size() - 1 - back]);
    }
    return out;
  }
  NodeId given(const Made& input, const Type& type) { return argument(type, input.known, input.known.exact).id; }
  void keep_results(NodeId node, const std::vector<Made>& results) {
    for (size_t r = 0; r < results.size(); ++r) {
      if (below(6) == 0 && r + 1 < results.size()) continue;   // one that nobody reads
      Attrs which;
      which.index = {static_cast<int64_t>(r)};
      keep({builder_.add(Op::result, {node}, which), results[r].known});
    }
  }

  void draw_body() {
    switch (below(8)) {
      case 0: return draw_call(Transform::none);
      case 1: return draw_call(Transform::checkpoint);
      case 2: return draw_call(Transform::vmap);
      case 3: case 4: return draw_scan();
      case 5: return draw_rnn();
      case 6: return draw_while();
      case 7: return draw_cond();
    }
  }

  void draw_call(Transform transform) {
    Drawer inner(random_, coverage_, options_, depth_ + 1);
    inner.draw(1 + below(4));
    if (inner.pool_.empty()) return;
    std::vector<Made> results = inner.chosen(3);
    for (const Made& r : results) inner.builder_.output("", r.id);
    if (inner.inputs_.empty() && transform == Transform::vmap) transform = Transform::none;
    Attrs attrs;
    attrs.transform = transform;
    const int64_t lanes = 1 + static_cast<int64_t>(below(3));
    const size_t always = inner.inputs_.empty() ? 0 : below(inner.inputs_.size());
    std::vector<NodeId> args;
    for (size_t i = 0; i < inner.inputs_.size(); ++i) {
      const Type type = inner.builder_.type(inner.inputs_[i].id);
      const bool mapped = transform == Transform::vmap && (i == always || below(4));
      const size_t axis = mapped ? below(type.shape.size() + 1) : 0;
      if (transform == Transform::vmap) attrs.axes.push_back(mapped ? static_cast<int64_t>(axis) : -1);
      args.push_back(given(inner.inputs_[i], mapped ? with_axis(type, axis, lanes) : type));
    }
    attrs.body = shared(inner.builder_);
    ++coverage_.bodies[transform == Transform::vmap ? "vmap" : transform == Transform::checkpoint ? "checkpoint" : "call"];
    keep_results(builder_.add(Op::call, args, attrs), results);
  }

  // How a carry goes on: within its range, which is wider for a sum over the steps that nothing else reads.
  struct Carry { Made in; bool sum; };
  Carry carry(Drawer& inner, const Type& type) {
    const bool floating = is_float(type.dtype), sum = floating && below(3) == 0;
    inner.body_input(type, floating ? within(sum ? -10 : -2, sum ? 10 : 2) : any_of(type.dtype), !floating);
    if (sum) inner.pool_.pop_back();
    return {inner.inputs_.back(), sum};
  }
  static NodeId next_of(Drawer& inner, const Carry& c) {
    GraphBuilder& b = inner.builder_;
    const Type type = b.type(c.in.id);
    const bool number = type.dtype != DType::boolean && !is_storage(type.dtype);
    if (inner.below(8) == 0) return c.in.id;
    const NodeId value = inner.argument(type, is_float(type.dtype) ? within(-2, 2) : any_of(type.dtype), !is_float(type.dtype)).id;
    if (c.sum) return b.add(Op::add, inner.below(2) ? std::vector{c.in.id, value} : std::vector{value, c.in.id});
    if (!number || inner.below(3) == 0) return value;
    const NodeId both = b.add(inner.below(2) ? Op::add : Op::sub, {c.in.id, value});
    return is_float(type.dtype) ? b.add(Op::tanh, {both}) : both;
  }

  void draw_scan() {
    Drawer inner(random_, coverage_, options_, depth_ + 1);
    Attrs attrs;
    const size_t carries = below(3), scanned = below(3);
    attrs.index = {static_cast<int64_t>(carries), static_cast<int64_t>(scanned)};
    attrs.limit = {below(10) ? 1 + static_cast<int64_t>(below(4)) : 0};
    if (below(2)) attrs.stride = {-1};
    std::vector<Carry> kept;
    for (size_t k = 0; k < carries; ++k) kept.push_back(carry(inner, small_type()));
    for (size_t k = 0; k < scanned; ++k) {
      const Type type = small_type();
      inner.body_input(type, is_float(type.dtype) ? within(-2, 2) : any_of(type.dtype), !is_float(type.dtype) || below(2));
    }
    inner.draw(1 + below(4));
    std::vector<Made> results, next;
    for (const Carry& c : kept) {
      next.push_back({next_of(inner, c), c.in.known});
      results.push_back(next.back());
    }
    if (inner.pool_.empty() && results.empty()) return;
    if (!inner.pool_.empty() && (results.empty() || below(4)))
      for (const Made& r : inner.chosen(3)) results.push_back(r);
    for (size_t k = 0; k < carries; ++k)
      if (below(3) == 0) results.push_back(below(2) ? next[k] : kept[k].in);   // its history
    finish_scan(inner, attrs, results, kept);
  }
  void finish_scan(Drawer& inner, Attrs attrs, const std::vector<Made>& results, const std::vector<Carry>& kept) {
    for (const Made& r : results) inner.builder_.output("", r.id);
    const size_t carries = kept.size(), scanned = static_cast<size_t>(attrs.index[1]);
    std::vector<NodeId> args;
    for (size_t i = 0; i < inner.inputs_.size(); ++i) {
      Made in = inner.inputs_[i];
      if (i < carries && kept[i].sum) in.known.low = -2, in.known.high = 2;
      const Type type = inner.builder_.type(in.id);
      args.push_back(given(in, i >= carries && i < carries + scanned ? with_axis(type, 0, attrs.limit[0]) : type));
    }
    attrs.body = shared(inner.builder_);
    ++coverage_.bodies["scan"];
    keep_results(builder_.add(Op::scan, args, attrs), results);
    if (below(5)) return;   // the same again, in the other direction
    attrs.stride = attrs.stride.empty() ? Shape{-1} : Shape{};
    keep_results(builder_.add(Op::scan, args, attrs), results);
  }

  // h' = tanh(x W + h U), s' = s + h V: products move out of the loop.
  void draw_rnn() {
    Drawer inner(random_, coverage_, options_, depth_ + 1);
    GraphBuilder& b = inner.builder_;
    const DType dtype = below(3) ? DType::f32 : DType::f64;
    const int64_t rows = 1 + static_cast<int64_t>(below(3)), in = 1 + static_cast<int64_t>(below(5)), wide = below(2) ? 16 : 3;
    const auto input = [&](Shape shape) { return inner.body_input({dtype, std::move(shape), {}}, within(-1, 1), false).id; };
    const NodeId h = input({rows, wide});
    std::vector<Carry> kept = {{inner.inputs_.back(), false}};
    inner.body_input({dtype, {rows, wide}, {}}, within(-70, 70), false);   // a sum of products over the steps
    inner.pool_.pop_back();
    kept.push_back({inner.inputs_.back(), true});
    const NodeId x = input({rows, in}), w = input({in, wide}), u = input({wide, wide}), v = input({wide, wide});
    Attrs product, attrs;
    product.spec = "mk,kn->mn";
    const NodeId from_x = b.add(Op::contract, {x, w}, product);
    const NodeId from_h = b.add(Op::contract, {h, u}, product);
    const NodeId next = b.add(Op::tanh, {b.add(Op::add, {from_x, from_h})});
    NodeId part = b.add(Op::contract, {h, v}, product);
    if (below(2)) part = b.add(Op::neg, {part});
    const NodeId sum = b.add(Op::add, {kept[1].in.id, part});
    attrs.index = {2, 1};
    attrs.limit = {1 + static_cast<int64_t>(below(4))};
    if (below(2)) attrs.stride = {-1};
    inner.pool_.push_back({next, rounded(dtype, -1, 1)});
    if (below(2)) inner.draw(1);
    std::vector<Made> results = {{next, rounded(dtype, -1, 1)}, {sum, rounded(dtype, -70, 70)}, {next, rounded(dtype, -1, 1)}};
    for (const Made& r : inner.chosen(2)) results.push_back(r);
    finish_scan(inner, attrs, results, kept);
  }

  // At most four times, which lanes may do differently often; derivatives stop here.
  void draw_while() {
    Drawer inner(random_, coverage_, options_, depth_ + 1);
    GraphBuilder& b = inner.builder_;
    const Type flag{DType::boolean, {}, {}}, number{DType::i32, {}, {}};
    std::vector<Carry> kept;
    for (const Type& type : {flag, number}) {
      inner.body_input(type, any_of(type.dtype), true);
      kept.push_back({inner.inputs_.back(), false});
    }
    for (uint64_t k = 1 + below(2); k > 0; --k) kept.push_back(carry(inner, small_type()));
    inner.draw(1 + below(3));
    const NodeId limit = inner.argument(number, within(0, 3), true).id;
    const NodeId count = b.add(Op::add, {kept[1].in.id, b.scalar(DType::i32, 1)});
    const NodeId more = b.add(Op::lt, {count, b.add(Op::min, {limit, b.scalar(DType::i32, 4)})});
    std::vector<Made> results;
    for (size_t k = 0; k < kept.size(); ++k) {
      const NodeId next = k == 0 ? more : k == 1 ? count : next_of(inner, kept[k]);
      results.push_back({next, kept[k].in.known});
      b.output("", next);
    }
    std::vector<NodeId> args;
    for (size_t i = 0; i < inner.inputs_.size(); ++i) {
      Made in = inner.inputs_[i];
      if (i < kept.size() && kept[i].sum) in.known.low = -2, in.known.high = 2;
      NodeId arg = i == 1 ? builder_.scalar(DType::i32, 0) : i == 0 && below(4) ? builder_.scalar(DType::boolean, 1) : given(in, b.type(in.id));
      if (is_float(b.type(in.id).dtype)) arg = builder_.add(Op::stop_gradient, {arg});
      args.push_back(arg);
    }
    Attrs attrs;
    attrs.index = {static_cast<int64_t>(kept.size())};
    attrs.body = shared(b);
    ++coverage_.bodies["while_loop"];
    keep_results(builder_.add(Op::while_loop, args, attrs), results);
  }

  void draw_cond() {
    Drawer yes(random_, coverage_, options_, depth_ + 1), no(random_, coverage_, options_, depth_ + 1);
    yes.draw(1 + below(3));
    if (yes.pool_.empty()) return;
    std::vector<Made> results = yes.chosen(3);
    for (const Made& in : yes.inputs_) no.body_input(yes.builder_.type(in.id), in.known, in.known.exact);
    no.draw(1 + below(2));
    for (const Made& r : results) {
      yes.builder_.output("", r.id);
      no.builder_.output("", no.given(r, yes.builder_.type(r.id)));
    }
    for (size_t i = yes.inputs_.size(); i < no.inputs_.size(); ++i) yes.builder_.input("x" + std::to_string(i), no.builder_.type(no.inputs_[i].id));
    std::vector<NodeId> args = {argument({DType::boolean, {}, {}}, within(0, 1), true).id};
    for (const Made& in : no.inputs_) args.push_back(given(in, no.builder_.type(in.id)));
    Attrs attrs;
    attrs.body = shared(yes.builder_);
    attrs.otherwise = shared(no.builder_);
    ++coverage_.bodies["cond"];
    keep_results(builder_.add(Op::cond, args, attrs), results);
  }

  // Everything that nothing reads is an output, and some of what is read, too.
  void name_outputs() {
    const std::vector<int> uses = builder_.graph().use_counts();
    std::vector<NodeId> chosen;
    for (NodeId id : outputs_)
      if (uses[static_cast<size_t>(id)] == 0 || below(3) == 0) chosen.push_back(id);
    if (chosen.empty()) chosen.push_back(static_cast<NodeId>(builder_.graph().nodes.size() - 1));
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    for (NodeId id : chosen) builder_.output("y" + std::to_string(builder_.graph().outputs.size()), id);
  }
};

}  // namespace

Graph random_graph(std::mt19937_64& random, Coverage& coverage, const DrawOptions& options) { return Drawer(random, coverage, options).run(); }

// Sums whose order is open, and what tells one zero from the other, or one NaN.
static bool has_op(const Graph& graph, bool (*wanted)(const Graph&, const Node&)) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [&](const Node& n) {
    for (const auto& body : {n.attrs.body, n.attrs.otherwise})
      if (body && has_op(*body, wanted)) return true;
    return wanted(graph, n);
  });
}
bool add_special_values(const Graph& graph, std::vector<HostTensor>& inputs, std::mt19937_64& random) {
  if (has_op(graph, [](const Graph& g, const Node& n) { return n.op == Op::convolve || (n.op == Op::bitcast && !is_integer(g.type(n.args[0]).dtype)); })) return false;
  const bool sums = has_op(graph, [](const Graph&, const Node& n) { return means<Contract>(n.op) || means<PutAdd>(n.op) || n.op == Op::reduce_sum; });
  for (HostTensor& t : inputs) {
    std::vector<double> values = {0, -1, 127, -128, 255, 0x1p15, 0x1p31 - 1, -0x1p31, 0x1p63, -0x1p63, 0x1p64};
    if (is_float(t.dtype)) values = {NAN, INFINITY, -INFINITY, 0, sums ? 0 : -0.0, -1, t.dtype == DType::f64 ? 0x1p-1074 : t.dtype == DType::f16 ? 0x1p-24 : t.dtype == DType::bf16 ? 0x1p-133 : 0x1p-149};
    if (!is_storage(t.dtype) && t.dtype != DType::boolean)
      for (int64_t i = 0; i < t.size(); ++i)
        if (random() % 12 == 0) t.set(i, Scalar::of(t.dtype, values[random() % values.size()]));
  }
  return true;
}

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
