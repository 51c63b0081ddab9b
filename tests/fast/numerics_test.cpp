// Where plain formulas of the frontend's functions fail: far from zero, in short floats, at the ends of a domain, with labels
// that are narrower than the classes, of keys in nested bodies. On the interpreter, beside formulas in long double.
#include <cmath>
#include <functional>
#include <set>

#include <gtest/gtest.h>

#include "frontend/activations.h"
#include "frontend/control.h"
#include "frontend/loss.h"
#include "frontend/nn.h"
#include "frontend/quantize.h"
#include "frontend/resize.h"
#include "frontend/transforms.h"
#include "ir/interpret.h"
#include "passes/pass.h"

namespace quern {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();
using Real = long double;
using V = std::vector<double>;
using X = const std::vector<Tensor>&;
using Made = std::function<std::vector<Tensor>(X)>;

std::vector<HostTensor> run(const std::vector<HostTensor>& inputs, const Made& f) {
  Model m;
  std::vector<Tensor> in;
  for (const HostTensor& t : inputs) in.push_back(m.input("x" + std::to_string(in.size()), t.dtype, t.shape));
  const std::vector<Tensor> out = f(in);
  for (size_t i = 0; i < out.size(); ++i) m.output("y" + std::to_string(i), out[i]);
  PassContext context;
  return interpret(expand(m.finish(), context), inputs);
}
HostTensor row(DType dtype, const V& v) { return HostTensor::from(dtype, {static_cast<int64_t>(v.size())}, v); }

TEST(Numerics, LabelsNarrowerThanTheClasses) {
  const V hot = run({row(DType::u8, {5})}, [](X x) { return std::vector<Tensor>{one_hot(x[0], 300, DType::f32)}; })[0].to_doubles();
  for (size_t k = 0; k < 300; ++k) EXPECT_EQ(hot[k], k == 5) << k;
  const V none = run({row(DType::i8, {-100})}, [](X x) { return std::vector<Tensor>{one_hot(x[0], 200, DType::f32)}; })[0].to_doubles();
  EXPECT_EQ(none, V(200));
  const auto r = run({HostTensor(DType::f64, {1, 300}), row(DType::u8, {5})}, [](X x) { return std::vector<Tensor>{cross_entropy(x[0], x[1]), cross_entropy(x[0], x[1], CrossEntropy{})}; });
  EXPECT_NEAR(r[0].at(0), std::log(300.0), 1e-12);
  EXPECT_NEAR(r[1].at(0), std::log(300.0), 1e-12);
}

// A class that cannot be: its logit is -inf.
TEST(Numerics, CrossEntropyOfImpossibleClasses) {
  const auto r = run({HostTensor::from(DType::f64, {1, 3}, {1, 2, -inf}), row(DType::i32, {0})}, [](X x) {
    const Tensor a = cross_entropy(x[0], x[1]);
    return std::vector<Tensor>{a, cross_entropy(x[0], x[1], CrossEntropy{}), grad(a, {x[0]})[0]};
  });
  const double want = std::log1p(std::exp(1.0)), p = 1 / (1 + std::exp(1.0));
  EXPECT_NEAR(r[0].at(0), want, 1e-12);
  EXPECT_EQ(r[0].at(0), r[1].at(0));
  const V slope = {p - 1, 1 - p, 0};
  for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(r[2].at(i), slope[static_cast<size_t>(i)], 1e-12);
}

// Certain and wrong, certain and right: a finite loss, a finite derivative.
TEST(Numerics, BinaryCrossEntropyAtTheEnds) {
  for (const DType d : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    SCOPED_TRACE(name_of(d));
    const auto r = run({row(d, {0, 1, 0, 1, 0.5}), row(d, {0, 1, 1, 0, 1})}, [](X x) {
      const Tensor each = bce(x[0], x[1], Over::none);
      return std::vector<Tensor>{each, grad(sum(each), {x[0]})[0]};
    });
    const V loss = {0, 0, 100, 100, std::log(2.0)}, slope = {1, -1, 0, 0, -2};
    for (int64_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(r[0].at(i), loss[static_cast<size_t>(i)], i < 4 ? 0 : 2e-3) << i;
      EXPECT_NEAR(r[1].at(i), slope[static_cast<size_t>(i)], 1e-12) << i;
    }
    const V through = run({row(d, {-200, 200, -200, 200}), row(d, {0, 1, 1, 0})}, [](X x) { return grad(bce(sigmoid(x[0]), x[1]), {x[0]}); })[0].to_doubles();
    for (double g : through) EXPECT_TRUE(std::isfinite(g)) << g;
  }
}

}  // namespace
}  // namespace quern
