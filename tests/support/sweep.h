// The op sweep's parts: one graph per op × dtype × sample with values for its inputs, the same with special values, its
// gradient, and graphs of many rows; the tile interpreter as a way of running a graph.
#pragma once
#include <cmath>
#include <random>

#include <fmt/format.h>

#include "frontend/nn.h"
#include "ir/compare.h"
#include "ir/interpret.h"
#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/pass.h"
#include "passes/tile/lower.h"

namespace quern::test {

struct Case {
  std::string name;
  Graph graph;
  std::vector<HostTensor> inputs;
  Op op = Op::input;      // of a sweep's case: the one op, and which of its samples for which dtype
  DType dtype = DType::f32;
  size_t sample = 0;
};

inline HostTensor random_tensor(const Type& type, double low, double high, std::mt19937_64& random) {
  HostTensor t(type.dtype, type.shape);
  for (int64_t i = 0; i < t.size(); ++i) {
    const double u = low + (high - low) * (static_cast<double>(random() >> 11) * 0x1p-53);
    if (type.dtype == DType::boolean) t.set(i, Scalar::of_int(type.dtype, static_cast<int64_t>(random() & 1)));
    else t.set(i, Scalar::of(type.dtype, u < 0 && is_unsigned(type.dtype) ? -u : u));
  }
  return t;
}

inline Graph graph_of(Op op, const Sample& s) {
  GraphBuilder b;
  std::vector<NodeId> args;
  for (size_t a = 0; a < s.args.size(); ++a) args.push_back(b.input(fmt::format("x{}", a), s.args[a]));
  b.output("y", b.add(op, args, s.attrs));
  return b.finish();
}

/// Does the sweep run this sample? Of dtypes whose logic others have shown, two: the largest that is quick, and the last,
/// which for integers has all their values. Casts choose for themselves.
inline bool runs(Op op, DType dtype, const std::vector<Sample>& samples, size_t n) {
  if (dtype <= DType::boolean || names_dtype(op) || n + 1 == samples.size()) return true;
  size_t largest = 0;
  int64_t most = -1;
  for (size_t k = 0; k + 1 < samples.size(); ++k) {
    int64_t size = 0;
    for (const Type& t : samples[k].args) size += t.size();
    if (size > most && size <= 1000) largest = k, most = size;
  }
  return n == largest;
}

/// An op's dtypes × samples, each as a graph of that one op.
inline std::vector<Case> cases_of(Op op) {
  std::vector<Case> out;
  std::mt19937_64 random(static_cast<uint64_t>(op) + 1);
  const OpDef& def = def_of(op);
  for (int d = 0; d < kDTypeCount; ++d) {
    const std::vector<Sample> samples = def.samples(static_cast<DType>(d));
    for (size_t n = 0; n < samples.size(); ++n) {
      if (!runs(op, static_cast<DType>(d), samples, n)) continue;
      Case c{fmt::format("{}.{}.{}", def.name, name_of(static_cast<DType>(d)), n), graph_of(op, samples[n]), {}, op, static_cast<DType>(d), n};
      for (const Type& type : samples[n].args) c.inputs.push_back(random_tensor(type, samples[n].low, samples[n].high, random));
      out.push_back(std::move(c));
    }
  }
  return out;
}
inline std::vector<Case> all_cases() {
  std::vector<Case> out;
  for (int o = 0; o < kOpCount; ++o)
    for (Case& c : cases_of(static_cast<Op>(o))) out.push_back(std::move(c));
  return out;
}
/// The ops that have samples: the parameters of a sweep with one test per op.
inline std::vector<Op> swept_ops() {
  std::vector<Op> out;
  for (int o = 0; o < kOpCount; ++o)
    if (!cases_of(static_cast<Op>(o)).empty()) out.push_back(static_cast<Op>(o));
  return out;
}
/// Does every target give the same bits for a graph of this one op? Those that round once and are not approximated.
inline bool is_exact(Op op) {
  switch (op) {
    case Op::neg: case Op::abs: case Op::sign: case Op::floor: case Op::sqrt: case Op::add: case Op::sub: case Op::mul: case Op::div:
    case Op::mod: case Op::rem: case Op::round: case Op::max: case Op::min: case Op::select: case Op::cast: case Op::bitcast: case Op::reduce_max: case Op::reduce_min:
    case Op::cumulate_max: case Op::cumulate_min: case Op::argsort: return true;
    default: return means<View>(op) || means<Take>(op) || means<Source>(op);
  }
}
/// Every axis in tiles of n elements, but for those that are walked one by one.
inline void tile_by(tile::Kernel& k, int64_t n) {
  for (size_t a = 0; a < k.axes.size(); ++a)
    if (!is_walked(k, static_cast<tile::AxisId>(a))) k.axes[a].tile = n;
}
/// The bound of a sweep case.
inline double bound_of(const Case& c) {
  return is_exact(c.op) ? 0 : tolerance_of(c.graph).bound();
}

/// Whether the op sums: then the order of terms shows where they cancel or overflow, and in the sign of a zero.
inline bool sums(Op op) { return means<Contract>(op) || op == Op::convolve || means<PutAdd>(op) || op == Op::reduce_sum || op == Op::reduce_prod || op == Op::cumulate_sum || op == Op::cumulate_prod; }

/// The sweep's smaller cases on NaN, infinities, signed zeros and the ends of each dtype's range (which sums leave out).
inline std::vector<Case> special_cases() {
  constexpr double inf = std::numeric_limits<double>::infinity();
  std::vector<Case> out;
  std::mt19937_64 random(2);
  for (Case& c : all_cases()) {
    int64_t most = 0;
    for (const HostTensor& t : c.inputs) most = std::max(most, t.size());
    if (most == 0 || most > 200) continue;
    for (size_t a = 0; a < c.inputs.size(); ++a) {
      HostTensor& t = c.inputs[a];
      std::vector<double> values = {std::nan(""), inf, -inf, 0.0, -0.0, 1, -1, 0.5, -2.5, 3, -3};
      if (!is_float(t.dtype)) values = {0, 1, -1, 2, 3, -7, 100, 0x1p31 - 1, -0x1p31, 0x1p63, -0x1p63, 0x1p64, -128, 448, -464, 0x1p-9};
      else if (!sums(c.op))
        for (double v : {1.0, -1.0}) {
          values.push_back(v * (t.dtype == DType::f64 ? 0x1.fffffffffffffp1023 : t.dtype == DType::f32 ? 0x1.fffffep127 : t.dtype == DType::bf16 ? 0x1.fep127 : 65504.0));
          values.push_back(v * (t.dtype == DType::f64 ? 0x1p-1074 : t.dtype == DType::f32 ? 0x1p-149 : t.dtype == DType::bf16 ? 0x1p-133 : 0x1p-24));
        }
      const int64_t n = static_cast<int64_t>(values.size());
      for (int64_t i = 0; i < t.size(); ++i) {
        // One argument walks fast, the next slowly, so that pairs meet; sums see few special values among others.
        const int64_t walk = a == 0 ? i % n : a == 1 ? (i / n + i) % n : static_cast<int64_t>(random() % static_cast<uint64_t>(n));
        if (!sums(c.op) || random() % 4 == 0) t.set(i, Scalar::of(t.dtype, values[static_cast<size_t>(walk)]));
      }
    }
    c.name += ".special";
    out.push_back(std::move(c));
  }
  return out;
}

/// Element by element: NaN where NaN is wanted, equal infinities and (but for sums) signs of zero, else within `bound` of
/// the wanted value itself. Empty where all is well.
inline std::string class_mismatch(const HostTensor& got, const HostTensor& want, double bound, bool zero_signs) {
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = got.at(i), w = want.at(i);
    const bool whole = !is_float(want.dtype) && !is_f8(want.dtype);   // not every i64 is a double
    bool good = whole ? got.get(i) == want.get(i) : g == w || (std::isnan(g) && std::isnan(w));
    if (!good && std::isfinite(g) && std::isfinite(w)) good = is_float(want.dtype) && std::fabs(g - w) <= bound * std::max(1.0, std::fabs(w));
    if (good && zero_signs && w == 0 && g == 0) good = std::signbit(g) == std::signbit(w);
    if (!good) return fmt::format("element {}: got {}, want {}", i, g, w);
  }
  return "";
}

/// The weighted sum of the graph's one float output or, with `gradient`, the derivatives of that sum with respect to every
/// float input. The weights have few bits: they are the same in every float dtype.
inline Graph loss_graph(const Graph& graph, bool gradient) {
  GraphBuilder body;
  std::vector<NodeId> inputs;
  Attrs attrs;
  for (NodeId i : graph.inputs) {
    inputs.push_back(body.input("", graph.type(i)));
    if (is_float(graph.type(i).dtype)) attrs.index.push_back(static_cast<int64_t>(inputs.size()) - 1);
  }
  const NodeId y = body.inline_body(graph, inputs)[0];
  HostTensor weights(body.type(y).dtype, body.type(y).shape);
  for (int64_t i = 0; i < weights.size(); ++i) weights.set(i, Scalar::of(weights.dtype, 0.5 + 0.125 * static_cast<double>((i * 7) % 11)));
  Attrs all;
  for (int64_t d = 0; d < body.type(y).rank(); ++d) all.axes.push_back(d);
  NodeId loss = body.add(Op::mul, {y, body.constant(weights)});
  if (!all.axes.empty()) loss = body.add(Op::reduce_sum, {loss}, all);
  body.output("loss", loss);
  if (!gradient) return body.finish();
  attrs.body = std::make_shared<const Graph>(body.finish());
  attrs.transform = Transform::vjp;
  GraphBuilder b;
  std::vector<NodeId> args;
  for (NodeId i : graph.inputs) args.push_back(b.input("", graph.type(i)));
  const size_t wanted = attrs.index.size();
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t g = 0; g < wanted; ++g) {
    Attrs which;
    which.index = {static_cast<int64_t>(g) + 1};
    b.output("", b.add(Op::result, {call}, which));
  }
  PassContext context;
  Graph out = expand(b.finish(), context);
  verify(out);
  return out;
}

/// Many rows of three: maps, both ways of reducing, products that keep or sum the rows, a loss with its gradient.
inline std::vector<Case> many_rows(int64_t rows) {
  std::vector<Case> out;
  std::mt19937_64 random(4);
  const auto add = [&](const char* name, auto&& build) {
    Model m;
    const Tensor x = m.input("x", DType::f32, {rows, 3});
    build(m, x);
    Graph g = m.finish();
    PassContext context;
    Case c{fmt::format("rows.{}", name), expand(g, context), {}};
    for (NodeId i : c.graph.inputs) c.inputs.push_back(random_tensor(c.graph.type(i), is_float(c.graph.type(i).dtype) ? -1 : 0, is_float(c.graph.type(i).dtype) ? 1 : 3, random));
    out.push_back(std::move(c));
  };
  add("map", [](Model& m, const Tensor& x) { m.output("y", tanh(x) * 2 + x); });
  add("sum_rows", [](Model& m, const Tensor& x) { m.output("y", sum(x, {0})); });
  add("max_columns", [](Model& m, const Tensor& x) { m.output("y", max(x, {1})); });
  add("sum_all", [](Model& m, const Tensor& x) { m.output("y", sum(x)); });
  add("argmax", [](Model& m, const Tensor& x) { m.output("y", argmax(x, 1)); });
  add("softmax", [](Model& m, const Tensor& x) { m.output("y", softmax(x)); });
  add("transpose", [](Model& m, const Tensor& x) { m.output("y", transpose(x, {1, 0}) + 1); });
  add("concat", [](Model& m, const Tensor& x) { m.output("y", concat({x, x * x}, 0)); });
  add("matmul", [](Model& m, const Tensor& x) { m.output("y", matmul(x, m.input("w", DType::f32, {3, 5}))); });
  add("gram", [](Model& m, const Tensor& x) { m.output("y", contract("mk,mn->kn", x, x)); });
  add("take", [&](Model& m, const Tensor& x) { m.output("y", take(m.input("table", DType::f32, {3, 3}), m.input("i", DType::i32, {rows})) * x); });
  add("put_add", [&](Model& m, const Tensor& x) {   // at rows that not every size has; and of many rows into few
    const auto put = [&](const Tensor& to, const Tensor& at, const Tensor& update) {
      Attrs attrs;
      attrs.axes = {0};
      return Tensor(&x.graph(), x.graph().add(Op::put_add, {to.id(), at.id(), update.id()}, attrs));
    };
    m.output("few", put(x, m.input("i", DType::i32, {4}) * 3, m.input("u", DType::f32, {4, 3})));
    m.output("many", put(m.input("few", DType::f32, {2, 3}), m.input("j", DType::i32, {rows}), x * 2));
  });
  add("loss", [&](Model& m, const Tensor& x) {
    const Tensor w = m.input("w", DType::f32, {3, 3}), table = m.input("table", DType::f32, {3, 3}), label = m.input("label", DType::i32, {rows});
    const Tensor loss = cross_entropy(matmul(x + take(table, label), w), label);
    const std::vector<Tensor> g = grad(loss, {w, table});
    m.output("loss", loss);
    m.output("dw", g[0]);
    m.output("dtable", g[1]);
  });
  return out;
}

/// Runs the graph kernel by kernel through the tile interpreter. `plan` may change each kernel first.
template <class Plan>
std::vector<HostTensor> run_tiles(const Graph& graph, const std::vector<HostTensor>& inputs, Plan&& plan, PassContext context = {}) {
  std::vector<Shape> shapes;
  for (const HostTensor& t : inputs) shapes.push_back(t.shape);
  const int64_t size = size_for(graph, shapes), bound = graph.symbol ? graph.symbol->high : 0;
  const Graph symbolic = run_pipeline(graph, context), kernels = bound ? at_size(symbolic, size) : symbolic;
  std::vector<std::vector<HostTensor>> values(kernels.nodes.size());
  for (size_t i = 0; i < inputs.size(); ++i) values[static_cast<size_t>(kernels.inputs[i])] = {inputs[i]};
  for (size_t i = 0; i < kernels.nodes.size(); ++i) {
    const Node& n = kernels.nodes[i];
    if (n.op == Op::constant) values[i] = {*n.attrs.value};
    if (n.op == Op::result) values[i] = {values[static_cast<size_t>(n.args[0])][static_cast<size_t>(n.attrs.index[0])]};
    if (means<View>(n.op)) {   // between kernels: another place
      std::vector<const HostTensor*> args;
      for (NodeId a : n.args) args.push_back(&values[static_cast<size_t>(a)][0]);
      values[i] = {def_of(n.op).eval(n, args)};
    }
    if (n.op != Op::call) continue;
    const tile::Kernel planned = plan(lower(*symbolic.at(static_cast<NodeId>(i)).attrs.body, "k", bound));
    tile::verify(planned);
    const tile::Kernel kernel = tile::at_size(planned, size);
    std::vector<HostTensor*> buffers;
    for (NodeId a : n.args) buffers.push_back(&values[static_cast<size_t>(a)][0]);
    for (const Type& t : n.type.results) values[i].emplace_back(t.dtype, t.shape);
    for (HostTensor& t : values[i]) buffers.push_back(&t);
    tile::interpret(kernel, buffers);
  }
  std::vector<HostTensor> out;
  for (NodeId r : kernels.roots()) out.push_back(values[static_cast<size_t>(r)][0]);
  return out;
}

}  // namespace quern::test
