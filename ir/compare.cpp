// See compare.h.
#include "ir/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "ir/op.h"

namespace quern {

// `top`: its inputs are those of the whole graph, and products take them as they are.
static void visit(const Graph& graph, Tolerance& t, bool top) {
  std::vector<int64_t> depth(graph.nodes.size());
  std::vector<double> squares(graph.nodes.size());
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    for (NodeId a : n.args) depth[i] = std::max(depth[i], depth[static_cast<size_t>(a)]), squares[i] = std::max(squares[i], squares[static_cast<size_t>(a)]);
    if (!means<View>(n.op) && !means<Source>(n.op)) ++depth[i];
    for (const auto& body : {n.attrs.body, n.attrs.otherwise})
      if (body) {
        Tolerance inside;
        visit(*body, inside, false);
        const int64_t times = n.op == Op::scan ? std::max<int64_t>(n.attrs.limit[0], 1) : 1;
        depth[i] += times * inside.depth;
        squares[i] += static_cast<double>(times) * inside.squares;
        t.epsilon = std::max(t.epsilon, inside.epsilon);
        t.reduction = std::max(t.reduction, times * inside.reduction);
      }
    if (n.op != Op::input && n.type.results.empty()) t.epsilon = std::max(t.epsilon, epsilon_of(n.type.dtype));
    int64_t summed = 1;
    if (means<Reduce>(n.op) || means<Cumulate>(n.op))
      for (int64_t a : n.attrs.axes) summed = checked_mul(summed, graph.type(n.args[0]).shape[static_cast<size_t>(a)]);
    if (means<Contract>(n.op)) {
      const ContractSpec spec = parse_contract(n.attrs.spec);
      for (size_t d = 0; d < spec.lhs.size(); ++d)
        if (spec.out.find(spec.lhs[d]) == std::string::npos) summed = checked_mul(summed, graph.type(n.args[0]).shape[d]);
    }
    if (n.op == Op::convolve) {   // all of the kernel but what the output has
      const ContractSpec spec = parse_contract(n.attrs.spec);
      const Shape& kernel = graph.type(n.args[1]).shape;
      for (size_t d = 0; d < kernel.size(); ++d)
        if (d >= spec.rhs.size() || spec.out.find(spec.rhs[d]) == std::string::npos) summed = checked_mul(summed, kernel[d]);
    }
    if (means<PutAdd>(n.op)) summed = std::max<int64_t>(1, graph.type(n.args[1]).size());
    if (n.type.results.empty() && is_float(n.type.dtype) && !means<View>(n.op) && !means<Source>(n.op)) {
      const double rounding = epsilon_of(n.type.dtype), partial = std::min(rounding, epsilon_of(DType::f32));
      squares[i] += (rounding * rounding + (summed > 1 ? partial * partial * static_cast<double>(summed) / 2 : 0)) / 3;
    }
    t.squares = std::max(t.squares, squares[i]);
    const bool of_inputs = top && std::all_of(n.args.begin(), n.args.end(), [&](NodeId a) { return depth[static_cast<size_t>(a)] == 0; });
    if (!of_inputs) t.reduction = std::max(t.reduction, summed);
    else if (summed > 1) t.direct = std::max(t.direct, std::min(epsilon_of(n.type.dtype), epsilon_of(DType::f32)) * std::sqrt(static_cast<double>(summed)));
    t.depth = std::max(t.depth, depth[i]);
  }
}

double Tolerance::bound() const {
  return 16 * (epsilon * (static_cast<double>(depth) + std::sqrt(static_cast<double>(reduction))) + direct);
}

double Tolerance::rms() const { return 4 * std::sqrt(squares); }

Tolerance tolerance_of(const Graph& graph, double products) {
  Tolerance t;
  visit(graph, t, products == 0);
  t.epsilon = std::max(t.epsilon, products), t.squares += static_cast<double>(t.depth) * products * products;
  return t;
}

std::string to_string(const Tolerance& t) {
  const std::string direct = t.direct > 0 ? fmt::format(", sums of inputs {:.1e}", 16 * t.direct) : "";
  return fmt::format("bound {:.1e} (eps {:.1e}, depth {}, reduction {}{}), root mean square {:.1e}", t.bound(), t.epsilon, t.depth, t.reduction, direct, t.rms());
}

Difference compare(const HostTensor& got, const HostTensor& want) {
  QN_CHECK(got.dtype == want.dtype && got.shape == want.shape, "compared tensors have one type");
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double scale = 1;
  for (int64_t i = 0; i < want.size(); ++i)
    if (const double w = std::fabs(want.at(i)); std::isfinite(w)) scale = std::max(scale, w);
  constexpr int64_t kSeveral = 64;
  double distance = 0, length = 0;
  Difference worst;
  for (int64_t i = 0; i < want.size(); ++i) {
    const double g = got.at(i), w = want.at(i);
    double error = 0;
    if (std::isnan(w) || std::isnan(g)) error = std::isnan(w) && std::isnan(g) ? 0 : kInfinity;
    else if (std::isinf(w) || std::isinf(g)) error = w == g ? 0 : kInfinity;
    else if (is_float(want.dtype)) error = std::fabs(g - w) / scale;
    else error = (is_f8(want.dtype) ? g == w : got.get(i) == want.get(i)) ? 0 : kInfinity;   // not every i64 is a double
    if (error > worst.error || (worst.at < 0 && i == 0)) worst = {error, i, g, w};
    if (std::isfinite(g) && std::isfinite(w)) distance += (g - w) * (g - w), length += w * w;
  }
  if (is_float(want.dtype) && want.size() >= kSeveral && distance > 0) worst.rms = std::sqrt(distance / length);   // infinite where zeros were wanted
  return worst;
}

}  // namespace quern
