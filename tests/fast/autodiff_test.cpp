// Derivatives against central differences in f64: every op with a vjp on its samples, in both modes and to second order,
// then the cases that its kinks and zeros make special.
#include <cmath>

#include <gtest/gtest.h>

#include "frontend/nn.h"
#include "frontend/shape.h"
#include "frontend/transforms.h"
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

// The sweep's cases that have derivatives, in f64 and not large.
std::vector<test::Case> differentiable_cases() {
  std::vector<test::Case> out;
  for (test::Case& c : test::all_cases()) {
    const Node& n = c.graph.at(c.graph.outputs[0].node);
    if (def_of(n.op).vjp == no_gradient || n.type.dtype != DType::f64) continue;
    int64_t size = 0;
    bool f64 = true, any = false;
    for (const HostTensor& x : c.inputs) {
      size += x.size();
      f64 = f64 && (x.dtype == DType::f64 || !is_float(x.dtype));
      any = any || is_float(x.dtype);
    }
    if (f64 && any && size <= 700) out.push_back(std::move(c));
  }
  return out;
}

TEST(Autodiff, EveryOpAgainstCentralDifferences) {
  int checked = 0;
  for (const test::Case& c : differentiable_cases()) {
    SCOPED_TRACE(c.name);
    check_gradient(c.graph, c.inputs);
    ++checked;
  }
  EXPECT_GT(checked, 120);
}

// One call of `body` with the transform, by all its float inputs; its results from `first` on, not expanded.
Graph transformed(const Graph& body, Transform transform, size_t first) {
  GraphBuilder b;
  Attrs attrs;
  attrs.body = std::make_shared<const Graph>(body);
  attrs.transform = transform;
  std::vector<NodeId> args;
  for (NodeId i : body.inputs) {
    if (is_float(body.type(i).dtype)) attrs.index.push_back(static_cast<int64_t>(args.size()));
    args.push_back(b.input("", body.type(i)));
  }
  if (transform == Transform::jvp)
    for (int64_t i : attrs.index) args.push_back(b.input("", Type(b.type(args[static_cast<size_t>(i)]))));
  const NodeId call = b.add(Op::call, args, attrs);
  for (size_t r = first; r < b.type(call).results.size(); ++r) {
    Attrs which;
    which.index = {static_cast<int64_t>(r)};
    b.output("", b.add(Op::result, {call}, which));
  }
  return b.finish();
}

// Constants as cotangents of the outputs, and the sum of products with them.
Graph weighted(const Graph& graph, const std::vector<HostTensor>& weights) {
  GraphBuilder b;
  std::vector<NodeId> inputs;
  for (NodeId i : graph.inputs) inputs.push_back(b.input("", graph.type(i)));
  const std::vector<NodeId> outputs = b.inline_body(graph, inputs);
  NodeId loss = b.scalar(DType::f64, 0);
  for (size_t o = 0; o < outputs.size(); ++o) {
    Attrs all;
    for (int64_t d = 0; d < b.type(outputs[o]).rank(); ++d) all.axes.push_back(d);
    loss = b.add(Op::add, {loss, b.add(Op::reduce_sum, {b.add(Op::mul, {outputs[o], b.constant(weights[o])})}, all)});
  }
  b.output("loss", loss);
  return b.finish();
}

// Of a function, expanded or not, whose outputs are all f64: <u, J v> = <u J, v>, and J v is its central difference along v.
void check_tangents(const Graph& graph, const std::vector<HostTensor>& inputs, double bound) {
  PassContext context;
  std::mt19937_64 random(5);
  const auto random_like = [&](const Type& type) { return test::random_tensor(type, -1, 1, random); };
  std::vector<HostTensor> u, v, with_v = inputs, up = inputs, down = inputs;
  const double h = 1e-5;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!is_float(inputs[i].dtype)) continue;
    v.push_back(random_like(graph.type(graph.inputs[i])));
    with_v.push_back(v.back());
    for (int64_t k = 0; k < inputs[i].size(); ++k) {
      up[i].set(k, Scalar::of(DType::f64, inputs[i].at(k) + h * v.back().at(k)));
      down[i].set(k, Scalar::of(DType::f64, inputs[i].at(k) - h * v.back().at(k)));
    }
  }
  for (const NamedOutput& o : graph.outputs) u.push_back(random_like(graph.type(o.node)));
  const std::vector<HostTensor> tangents = interpret(expand(transformed(graph, Transform::jvp, graph.outputs.size()), context), with_v);
  const std::vector<HostTensor> gradients = interpret(expand(transformed(weighted(graph, u), Transform::vjp, 1), context), inputs);
  ASSERT_EQ(tangents.size(), u.size());
  ASSERT_EQ(gradients.size(), v.size());
  double forward = 0, reverse = 0, scale = 1e-300, error = 0, norm = 0;
  const auto dot = [&](const std::vector<HostTensor>& x, const std::vector<HostTensor>& y, double& sum) {
    for (size_t t = 0; t < x.size(); ++t)
      for (int64_t k = 0; k < x[t].size(); ++k) {
        sum += x[t].at(k) * y[t].at(k);
        scale += std::fabs(x[t].at(k) * y[t].at(k));
      }
  };
  dot(u, tangents, forward);
  dot(gradients, v, reverse);
  EXPECT_LE(std::fabs(forward - reverse), 1e-12 * scale) << forward << " and " << reverse;
  const Graph value = expand(graph, context);
  const std::vector<HostTensor> above = interpret(value, up), below = interpret(value, down);
  for (size_t o = 0; o < tangents.size(); ++o)
    for (int64_t k = 0; k < tangents[o].size(); ++k) {
      const double a = above[o].at(k), b = below[o].at(k), want = a == b ? 0 : (a - b) / (2 * h);   // also of infinities
      error += (tangents[o].at(k) - want) * (tangents[o].at(k) - want);
      norm += want * want;
    }
  EXPECT_LE(std::sqrt(error), bound * std::max(1.0, std::sqrt(norm)));
}

TEST(Autodiff, ForwardModeOfEveryOp) {
  int checked = 0;
  for (const test::Case& c : differentiable_cases()) {
    SCOPED_TRACE(c.name);
    check_tangents(c.graph, c.inputs, 1e-6);
    ++checked;
  }
  EXPECT_GT(checked, 120);
}

// The function is the gradient itself: forward over reverse against reverse over reverse.
TEST(Autodiff, SecondDerivativesOfEveryOp) {
  int checked = 0;
  for (const test::Case& c : differentiable_cases()) {
    SCOPED_TRACE(c.name);
    HostTensor weights(DType::f64, c.graph.type(c.graph.outputs[0].node).shape);
    for (int64_t i = 0; i < weights.size(); ++i) weights.set(i, Scalar::of(DType::f64, 0.5 + 0.125 * static_cast<double>((i * 7) % 11)));
    check_tangents(transformed(weighted(c.graph, {weights}), Transform::vjp, 1), c.inputs, 1e-5);
    ++checked;
  }
  EXPECT_GT(checked, 120);
}

// Several outputs, of which one is no float and one depends on nothing.
TEST(Autodiff, TangentsOfEveryOutput) {
  GraphBuilder b;
  const NodeId x = b.input("x", {DType::f64, {2}, {}}), i = b.input("i", {DType::i32, {2}, {}});
  b.output("square", b.add(Op::mul, {x, x}));
  b.output("i", i);
  b.output("one", b.full({DType::f64, {2}, {}}, 1));
  b.output("x", x);
  PassContext context;
  const Graph g = expand(transformed(b.finish(), Transform::jvp, 0), context);
  verify(g);
  const HostTensor at = HostTensor::from(DType::f64, {2}, {3, 5}), v = HostTensor::from(DType::f64, {2}, {1, 10}), k = HostTensor::from(DType::i32, {2}, {7, 8});
  const std::vector<HostTensor> want = {HostTensor::from(DType::f64, {2}, {9, 25}), k, HostTensor::full(DType::f64, {2}, 1), at,
                                        HostTensor::from(DType::f64, {2}, {6, 100}), HostTensor::full(DType::i32, {2}, 0), HostTensor::full(DType::f64, {2}, 0), v};
  EXPECT_EQ(interpret(g, {at, k, v}), want);
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

// The derivatives of sum(weights * f(x)) in f64 where f is a running op along the only axis.
std::vector<double> running(Op op, const char* spec, const std::vector<double>& x, const std::vector<double>& weights) {
  GraphBuilder b;
  const Type type{DType::f64, {static_cast<int64_t>(x.size())}, {}};
  const NodeId in = b.input("x", type), w = b.input("w", type);
  Attrs attrs;
  attrs.axes = {0};
  attrs.spec = spec;
  const NodeId y = b.add(op, {in}, attrs);
  b.output("g", def_of(op).vjp(b, y, w)[0]);
  return interpret(b.finish(), {HostTensor::from(DType::f64, type.shape, x), HostTensor::from(DType::f64, type.shape, weights)})[0].to_doubles();
}
TEST(Autodiff, RunningOpsAtTiesZerosAndNaN) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const std::vector<double> w = {1, 2, 4, 8, 16};
  using V = std::vector<double>;
  EXPECT_EQ(running(Op::cumulate_max, "", {3, 1, 3, 5, 5}, w), V({7, 0, 0, 24, 0}));   // the first that gave the value
  EXPECT_EQ(running(Op::cumulate_max, "reverse", {3, 1, 3, 5, 5}, w), V({0, 0, 0, 0, 31}));
  EXPECT_EQ(running(Op::cumulate_min, "", {3, 1, 1, 5, 0}, w), V({1, 14, 0, 0, 16}));
  EXPECT_EQ(running(Op::cumulate_max, "", {1, nan, 7, nan, 2}, w), V({1, 30, 0, 0, 0}));
  EXPECT_EQ(running(Op::cumulate_max, "", {-inf, -inf, 0, 1, 1}, w), V({3, 0, 4, 24, 0}));
  EXPECT_EQ(running(Op::cumulate_max, "exclusive", {1, 3, 2, 4, 9}, w), V({2, 12, 0, 16, 0}));   // w[0] is of the identity
  EXPECT_EQ(running(Op::cumulate_prod, "", {2, 0, 3, 0, 5}, w), V({1, 2 * 2 + 2 * 3 * 4, 0, 0, 0}));
  EXPECT_EQ(running(Op::cumulate_prod, "", {0, 2, 3, 1, 1}, w), V({1 + 4 + 24 + 48 + 96, 0, 0, 0, 0}));
  EXPECT_EQ(running(Op::cumulate_prod, "exclusive,reverse", {7, 2, 0, 3, 5}, w), V({0, 0, 15 * (2 + 1 * 2), 5 * 4, 8 + 3 * 4}));
  EXPECT_EQ(running(Op::cumulate_sum, "exclusive", {1, 2, 3, 4, 5}, w), V({30, 28, 24, 16, 0}));
}

// A maximum that cancels has no derivative that anything would compute; one that does not has.
TEST(Autodiff, WhatAResultDoesNotDependOn) {
  using Spelling = Tensor (*)(const Tensor& x, const Tensor& m, const Tensor& v);   // x [2,6,5], its maximum [2,6,1], v [2,5,3]
  static const auto of_row = [](const Tensor& t) { return reshape(sum(t, {2}), {2, 6, 1}); };
  const std::vector<std::pair<Spelling, bool>> spellings = {
      {[](const Tensor& x, const Tensor& m, const Tensor&) { const Tensor e = exp(x - m); return e / of_row(e); }, true},
      {[](const Tensor& x, const Tensor& m, const Tensor& v) { const Tensor e = exp(x - m); return contract("bij,bjd->bid", e, v) / of_row(e); }, true},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { return log(of_row(exp(x - m))) + m - x; }, true},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { const Tensor e = exp((x - m) * 0.5); return e * e / of_row(e * e); }, true},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { return transpose(x - m - (x * 2.0 - m), {0, 2, 1}); }, true},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { return exp(x - m); }, false},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { const Tensor e = exp(x - m); return e * e / of_row(e); }, false},
      {[](const Tensor& x, const Tensor& m, const Tensor&) { const Tensor e = exp(x - m); return e / sum(e); }, false},   // of all rows together
      {[](const Tensor& x, const Tensor& m, const Tensor&) { const Tensor e = exp(x - m); return e / (of_row(e) + 1.0); }, false},
  };
  for (size_t k = 0; k < spellings.size(); ++k) {
    const auto& [spelling, cancels] = spellings[k];
    Model value, gradient;
    for (Model* m : {&value, &gradient}) {
      const Tensor x = m->input("x", DType::f64, {2, 6, 5}), v = m->input("v", DType::f64, {2, 5, 3}), y = spelling(x, reshape(max(x, {2}), {2, 6, 1}), v), loss = sum(y * y * y);
      m->output("y", m == &value ? loss : grad(loss, {x})[0]);
    }
    PassContext context;
    const Graph g = expand(gradient.finish(), context), f = expand(value.finish(), context);
    EXPECT_EQ(std::none_of(g.nodes.begin(), g.nodes.end(), [](const Node& n) { return n.op == Op::eq; }), cancels) << k;
    std::mt19937_64 random(4);
    std::vector<HostTensor> inputs;
    for (NodeId i : g.inputs) inputs.push_back(test::random_tensor(g.type(i), -1, 1, random));
    const HostTensor got = interpret(g, inputs)[0];
    for (int64_t i = 0; i < got.size(); i += 7) {
      const double at = inputs[0].at(i), h = 1e-5;
      double ends[2];
      for (const int side : {0, 1}) {
        inputs[0].set(i, Scalar::of(DType::f64, at + (side ? h : -h)));
        ends[side] = interpret(f, inputs)[0].at(0);
      }
      inputs[0].set(i, Scalar::of(DType::f64, at));
      EXPECT_NEAR(got.at(i), (ends[1] - ends[0]) / (2 * h), 1e-6) << k << " " << i;
    }
  }
}

}  // namespace
}  // namespace quern
