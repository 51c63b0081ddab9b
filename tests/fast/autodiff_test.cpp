// Derivatives against central differences in f64: every op with a vjp on its samples, then the cases that its kinks
// and zeros make special.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/sweep.h"

namespace quern {
namespace {

void check_gradient(const Graph& graph, std::vector<HostTensor> inputs) {
  const Graph value = test::loss_graph(graph, false);
  const std::vector<HostTensor> gradients = interpret(test::loss_graph(graph, true), inputs);
  double error = 0, norm = 0;
  size_t g = 0;
  for (HostTensor& x : inputs) {
    if (!is_float(x.dtype)) continue;
    for (int64_t i = 0; i < x.size(); ++i) {
      const double at = x.at(i), h = 1e-5;
      x.set(i, Scalar::of(DType::f64, at + h));
      const double up = interpret(value, inputs)[0].at(0);
      x.set(i, Scalar::of(DType::f64, at - h));
      const double down = interpret(value, inputs)[0].at(0);
      x.set(i, Scalar::of(DType::f64, at));
      const double want = (up - down) / (2 * h), got = gradients[g].at(i);
      error += (got - want) * (got - want);
      norm += want * want;
    }
    ++g;
  }
  EXPECT_LE(std::sqrt(error), 1e-6 * std::max(1.0, std::sqrt(norm)));
}

TEST(Autodiff, EveryOpAgainstCentralDifferences) {
  int checked = 0;
  for (const test::Case& c : test::all_cases()) {
    const Graph& g = c.graph;
    const Node& n = g.at(g.outputs[0].node);
    if (def_of(n.op).vjp == no_gradient || n.type.dtype != DType::f64) continue;
    int64_t size = 0;
    bool f64 = true;
    for (const HostTensor& x : c.inputs) {
      size += x.size();
      f64 = f64 && (x.dtype == DType::f64 || !is_float(x.dtype));
    }
    if (!f64 || size > 700) continue;
    SCOPED_TRACE(c.name);
    check_gradient(g, c.inputs);
    ++checked;
  }
  EXPECT_GT(checked, 120);
}

TEST(Autodiff, UsesAddUp) {
  GraphBuilder b;
  const NodeId x = b.input("x", {DType::f64, {4}, {}});
  b.output("y", b.add(Op::add, {b.add(Op::mul, {x, x}), b.add(Op::tanh, {x})}));
  check_gradient(b.finish(), {HostTensor::from(DType::f64, {4}, {1, -0.3, 0.5, 2})});
}

TEST(Autodiff, TiesShareEvenly) {
  GraphBuilder b;
  const NodeId x = b.input("x", {DType::f64, {4}, {}});
  Attrs axes;
  axes.axes = {0};
  b.output("y", b.add(Op::reduce_max, {x}, axes));
  const HostTensor at = HostTensor::from(DType::f64, {4}, {1, 3, 3, 2});
  const HostTensor g = interpret(test::loss_graph(b.finish(), true), {at})[0];
  EXPECT_EQ(g.to_doubles(), (std::vector<double>{0, 0.25, 0.25, 0}));
}

TEST(Autodiff, ProductWithZeros) {
  for (const std::vector<double>& values : {std::vector<double>{2, 0, 3}, {0, 0, 3}, {2, 5, 3}}) {
    GraphBuilder b;
    const NodeId x = b.input("x", {DType::f64, {3}, {}});
    Attrs axes;
    axes.axes = {0};
    b.output("y", b.add(Op::reduce_prod, {x}, axes));
    check_gradient(b.finish(), {HostTensor::from(DType::f64, {3}, values)});
  }
}

}  // namespace
}  // namespace quern
