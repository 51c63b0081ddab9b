// The DSL's composed functions in f64 on the interpreter: values beside plain formulas, at infinities and NaN, too, and
// derivatives beside central differences.
#include <cmath>

#include <gtest/gtest.h>

#include "frontend/activations.h"
#include "frontend/nn.h"
#include "ir/interpret.h"
#include "passes/pass.h"

namespace quern {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

HostTensor run(Model& model, const std::vector<HostTensor>& inputs) {
  PassContext context;
  return interpret(expand(model.finish(), context), inputs)[0];
}

struct Function {
  const char* name;
  Tensor (*of)(const Tensor&);
  double (*want)(double);
  double low = -inf;   // of its domain
};
double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }
double softplus_of(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double elu_of(double x, double alpha) { return x > 0 ? x : alpha * std::expm1(x); }
double clipped(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
const Function kFunctions[] = {
    {"atan", [](const Tensor& x) { return atan(x); }, std::atan},
    {"ceil", [](const Tensor& x) { return ceil(x); }, std::ceil},
    {"trunc", [](const Tensor& x) { return trunc(x); }, std::trunc},
    {"log2", [](const Tensor& x) { return log2(x); }, std::log2, 0},
    {"log10", [](const Tensor& x) { return log10(x); }, std::log10, 0},
    {"exp2", [](const Tensor& x) { return exp2(x); }, std::exp2},
    {"square", [](const Tensor& x) { return square(x); }, [](double x) { return x * x; }},
    {"reciprocal", [](const Tensor& x) { return reciprocal(x); }, [](double x) { return 1 / x; }},
    {"softplus", [](const Tensor& x) { return softplus(x); }, softplus_of},
    {"log_sigmoid", [](const Tensor& x) { return log_sigmoid(x); }, [](double x) { return -softplus_of(-x); }},
    {"silu", [](const Tensor& x) { return silu(x); }, [](double x) { return x * sigmoid_of(x); }},
    {"mish", [](const Tensor& x) { return mish(x); }, [](double x) { return x * std::tanh(softplus_of(x)); }},
    {"gelu_tanh", [](const Tensor& x) { return gelu_tanh(x); }, [](double x) { return x * 0.5 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))); }},
    {"softsign", [](const Tensor& x) { return softsign(x); }, [](double x) { return x / (1 + std::fabs(x)); }},
    {"elu", [](const Tensor& x) { return elu(x, 0.7); }, [](double x) { return elu_of(x, 0.7); }},
    {"celu", [](const Tensor& x) { return celu(x, 2); }, [](double x) { return x > 0 ? x : 2 * std::expm1(x / 2); }},
    {"selu", [](const Tensor& x) { return selu(x); }, [](double x) { return 1.0507009873554805 * elu_of(x, 1.6732632423543772); }},
    {"leaky_relu", [](const Tensor& x) { return leaky_relu(x); }, [](double x) { return x > 0 ? x : 0.01 * x; }},
    {"relu6", [](const Tensor& x) { return relu6(x); }, [](double x) { return clipped(x, 0, 6); }},
    {"hardtanh", [](const Tensor& x) { return hardtanh(x, -2, 3); }, [](double x) { return clipped(x, -2, 3); }},
    {"hardsigmoid", [](const Tensor& x) { return hardsigmoid(x); }, [](double x) { return clipped(x + 3, 0, 6) / 6; }},
    {"hardswish", [](const Tensor& x) { return hardswish(x); }, [](double x) { return x * clipped(x + 3, 0, 6) / 6; }},
};

TEST(Activations, ValuesAndDerivatives) {
  const std::vector<double> points = {-40.3, -8.3, -3.6, -2.5, -1.1, -0.4, -1e-3, 1e-3, 0.3, 0.9, 1.7, 2.5, 3.4, 5.8, 6.4, 40.3, 700.3, -700.3, 0, inf, -inf, std::nan("")};
  const size_t smooth = points.size() - 4;   // derivatives are asked of these: no kinks
  const HostTensor x = HostTensor::from(DType::f64, {static_cast<int64_t>(points.size())}, points);
  for (const Function& f : kFunctions) {
    SCOPED_TRACE(f.name);
    Model model;
    model.output("y", f.of(model.input("x", DType::f64, x.shape)));
    const HostTensor got = run(model, {x});
    Model derived;
    const Tensor in = derived.input("x", DType::f64, x.shape);
    derived.output("g", grad(sum(slice(f.of(in), 0, 0, static_cast<int64_t>(smooth))), {in})[0]);
    const HostTensor slope = run(derived, {x});
    for (size_t i = 0; i < points.size(); ++i) {
      const double at = points[i], want = f.want(at), g = got.at(static_cast<int64_t>(i));
      if (at < f.low) continue;
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(g) || std::isinf(at)) << at << " gives " << g;
        continue;
      }
      if (std::isinf(at) && std::isnan(g)) continue;   // inf * 0 of a product: as the formula in IEEE arithmetic
      EXPECT_TRUE(g == want || std::fabs(g - want) <= 4e-15 * std::max(1.0, std::fabs(want))) << at << " gives " << g << ", not " << want;
      if (i >= smooth || at <= f.low || std::isinf(want)) continue;
      const double h = 1e-6 * std::min(1.0, std::max(1e-3, std::fabs(at))), central = (f.want(at + h) - f.want(at - h)) / (2 * h), s = slope.at(static_cast<int64_t>(i));
      EXPECT_LE(std::fabs(s - central), 1e-5 * std::max(1.0, std::fabs(central))) << "derivative at " << at;
    }
  }
}

// At 0 the derivative is the mean of both sides', and finite where an arm overflows.
TEST(Activations, KinksAndFarArms) {
  const HostTensor x = HostTensor::from(DType::f32, {3}, {0, 200, -200});
  const auto slopes = [&](auto&& of) {
    Model m;
    const Tensor in = m.input("x", DType::f32, {3});
    m.output("g", grad(sum(of(in)), {in})[0]);
    return run(m, {x}).to_doubles();
  };
  EXPECT_EQ(slopes([](const Tensor& t) { return elu(t); }), (std::vector<double>{1, 1, 0}));
  EXPECT_EQ(slopes([](const Tensor& t) { return softplus(t); }), (std::vector<double>{0.5, 1, 0}));
  EXPECT_EQ(slopes([](const Tensor& t) { return leaky_relu(t, 0.5); }), (std::vector<double>{0.75, 1, 0.5}));
  EXPECT_EQ(slopes([](const Tensor& t) { return logaddexp(t, t); }), (std::vector<double>{1, 1, 1}));
}

TEST(Activations, Prelu) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {2, 3}), slope = m.input("slope", DType::f64, {3});
  m.output("y", prelu(x, slope));
  const HostTensor y = run(m, {HostTensor::from(DType::f64, {2, 3}, {-1, -2, -4, 1, 2, 3}), HostTensor::from(DType::f64, {3}, {0.5, 0.25, 2})});
  EXPECT_EQ(y.to_doubles(), (std::vector<double>{-0.5, -0.5, -8, 1, 2, 3}));
}

TEST(Activations, Logaddexp) {
  Model m;
  const Tensor a = m.input("a", DType::f64, {7}), b = m.input("b", DType::f64, {7});
  m.output("y", logaddexp(a, b));
  const double nan = std::nan("");
  const HostTensor y = run(m, {HostTensor::from(DType::f64, {7}, {1, 900, -inf, inf, -inf, inf, nan}), HostTensor::from(DType::f64, {7}, {2, 900, -inf, inf, 3, -inf, 1})});
  const std::vector<double> want = {2 + std::log1p(std::exp(-1)), 900 + std::log(2), -inf, inf, 3, inf, nan};
  for (int64_t i = 0; i < 7; ++i) {
    const double w = want[static_cast<size_t>(i)], g = y.at(i);
    EXPECT_TRUE(g == w || (std::isnan(g) && std::isnan(w)) || std::fabs(g - w) < 1e-13) << i << ": " << g;
  }
}

TEST(Activations, ClassesOfFloats) {
  const HostTensor x = HostTensor::from(DType::f32, {6}, {0, -0.0, 3.5, inf, -inf, std::nan("")});
  const auto of = [&](Tensor (*f)(const Tensor&)) {
    Model m;
    m.output("y", f(m.input("x", DType::f32, {6})));
    return run(m, {x}).to_doubles();
  };
  EXPECT_EQ(of([](const Tensor& t) { return is_nan(t); }), (std::vector<double>{0, 0, 0, 0, 0, 1}));
  EXPECT_EQ(of([](const Tensor& t) { return is_inf(t); }), (std::vector<double>{0, 0, 0, 1, 1, 0}));
  EXPECT_EQ(of([](const Tensor& t) { return is_finite(t); }), (std::vector<double>{1, 1, 1, 0, 0, 0}));
}

// Two rows of one dtype through a function of two tensors.
std::vector<double> pairs(DType dtype, const std::vector<double>& a, const std::vector<double>& b, Tensor (*f)(const Tensor&, const Tensor&)) {
  Model m;
  const int64_t n = static_cast<int64_t>(a.size());
  const Tensor x = m.input("a", dtype, {n}), y = m.input("b", dtype, {n});
  m.output("y", f(x, y));
  return run(m, {HostTensor::from(dtype, {n}, a), HostTensor::from(dtype, {n}, b)}).to_doubles();
}

TEST(Activations, ComparisonsAndIntegers) {
  using T = const Tensor&;
  EXPECT_EQ(pairs(DType::f32, {1, 2, 3, std::nan("")}, {2, 2, 2, 2}, [](T a, T b) { return greater(a, b); }), (std::vector<double>{0, 0, 1, 0}));
  EXPECT_EQ(pairs(DType::f32, {1, 2, 3, std::nan("")}, {2, 2, 2, 2}, [](T a, T b) { return greater_equal(a, b); }), (std::vector<double>{0, 1, 1, 0}));
  EXPECT_EQ(pairs(DType::boolean, {0, 0, 1, 1}, {0, 1, 0, 1}, [](T a, T b) { return logical_xor(a, b); }), (std::vector<double>{0, 1, 1, 0}));
  EXPECT_EQ(pairs(DType::i32, {7, -7, 7, 5}, {2, 2, -2, 0}, [](T a, T b) { return floor_divide(a, b); }), (std::vector<double>{3, -4, -4, 0}));
  EXPECT_EQ(pairs(DType::f32, {7, -7, 7, 5}, {2, 2, -2, 0}, [](T a, T b) { return floor_divide(a, b); }), (std::vector<double>{3, -4, -4, inf}));
  EXPECT_EQ(pairs(DType::i32, {7, -7, 7, 5, -0x1p31}, {3, 3, -3, 0, -1}, [](T a, T b) { return rem(a, b); }), (std::vector<double>{1, -1, 1, 0, 0}));
  EXPECT_EQ(pairs(DType::u8, {0xa5, 0xff, 1}, {0x0f, 1, 2}, [](T a, T b) { return bit_xor(bit_and(a, b), bit_not(bit_or(a, b))); }), (std::vector<double>{0x55, 1, 0xfc}));
  EXPECT_EQ(pairs(DType::i32, {-1, 5, 0}, {0, 0, 0}, [](T a, T) { return bit_not(a); }), (std::vector<double>{0, -6, -1}));
  EXPECT_EQ(pairs(DType::u32, {1, 0xffffffff}, {0, 0}, [](T a, T) { return bit_not(a); }), (std::vector<double>{0xfffffffe, 0}));
  EXPECT_EQ(pairs(DType::i32, {1, 1, 1, -1, -1}, {4, 31, 32, -1, 33}, [](T a, T b) { return shift_left(a, b); }), (std::vector<double>{16, -0x1p31, 0, 0, 0}));
  EXPECT_EQ(pairs(DType::i32, {-16, -16, -16, 16, -16}, {2, 31, 32, 40, -1}, [](T a, T b) { return shift_right_arithmetic(a, b); }), (std::vector<double>{-4, -1, -1, 0, -1}));
  EXPECT_EQ(pairs(DType::i32, {-16, -16, -16, 16}, {2, 31, 32, 2}, [](T a, T b) { return shift_right_logical(a, b); }), (std::vector<double>{0x3ffffffc, 1, 0, 4}));
  EXPECT_EQ(pairs(DType::u8, {0x80, 0x80, 0x80}, {7, 8, 255}, [](T a, T b) { return shift_right_arithmetic(a, b); }), (std::vector<double>{1, 0, 0}));
}

}  // namespace
}  // namespace quern
