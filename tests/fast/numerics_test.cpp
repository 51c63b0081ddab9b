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

// Within how many units in the last place, and so many more where the argument's own rounding counts.
double units(DType d, double got, Real want) {
  if (got == static_cast<double>(want)) return 0;
  const int digits = d == DType::f64 ? 53 : d == DType::f32 ? 24 : d == DType::f16 ? 11 : 8, least = d == DType::f64 ? -1074 : d == DType::f16 ? -24 : d == DType::f32 ? -149 : -133;
  return static_cast<double>(std::fabs(got - want) / std::ldexp(1.0L, std::max(std::ilogb(want) + 1 - digits, least)));
}
Real sigmoid_of(Real x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }
Real softplus_of(Real x) { return std::fmax(x, 0.0L) + std::log1p(std::exp(-std::fabs(x))); }
Real elu_of(Real x) { return x > 0 ? x : std::expm1(x); }
const Real kRoot = std::sqrt(2.0L), kPi = std::acos(-1.0L);

struct Function {
  const char* name;
  Tensor (*of)(const Tensor&);
  Real (*want)(Real);
  double slack = 0, of_x = 0;   // units for each unit of x^2: of functions that fall like exp(-x^2/2); how many 2^-24 of x count as nothing
};
const Function kFunctions[] = {
    {"sigmoid", [](const Tensor& x) { return sigmoid(x); }, sigmoid_of},
    {"silu", [](const Tensor& x) { return silu(x); }, [](Real x) { return x * sigmoid_of(x); }},
    {"gelu", [](const Tensor& x) { return gelu(x); }, [](Real x) { return x / 2 * std::erfc(-x / kRoot); }, 0, 2},
    {"gelu_tanh", [](const Tensor& x) { return gelu_tanh(x); }, [](Real x) { return x * sigmoid_of(2 * std::sqrt(2 / kPi) * (x + 0.044715L * x * x * x)); }, 2},
    {"softplus", [](const Tensor& x) { return softplus(x); }, softplus_of},
    {"log_sigmoid", [](const Tensor& x) { return log_sigmoid(x); }, [](Real x) { return -softplus_of(-x); }},
    {"mish", [](const Tensor& x) { return mish(x); }, [](Real x) { return x * std::tanh(softplus_of(x)); }},
    {"softsign", [](const Tensor& x) { return softsign(x); }, [](Real x) { return x / (1 + std::fabs(x)); }},
    {"elu", [](const Tensor& x) { return elu(x); }, elu_of},
    {"celu", [](const Tensor& x) { return celu(x, 2); }, [](Real x) { return x > 0 ? x : 2 * std::expm1(x / 2); }},
    {"selu", [](const Tensor& x) { return selu(x); }, [](Real x) { return 1.0507009873554805L * (x > 0 ? x : 1.6732632423543772L * std::expm1(x)); }},
    {"hardsigmoid", [](const Tensor& x) { return hardsigmoid(x); }, [](Real x) { return std::fmin(std::fmax(x + 3, 0.0L), 6.0L) / 6; }},
    {"hardswish", [](const Tensor& x) { return hardswish(x); }, [](Real x) { return x * std::fmin(std::fmax(x + 3, 0.0L), 6.0L) / 6; }},
    {"bce_with_logits 1", [](const Tensor& x) { return bce_with_logits(x, x * 0 + 1, Over::none); }, [](Real x) { return softplus_of(-x); }},
    {"bce_with_logits 0", [](const Tensor& x) { return bce_with_logits(x, x * 0, Over::none); }, softplus_of},
};
// Short floats are rounded once: within a unit. f32: a few roundings.
TEST(Numerics, ActivationsFarFromZero) {
  for (const DType d : {DType::f32, DType::bf16, DType::f16}) {
    V points;
    for (int i = -960; i <= 960; ++i) points.push_back(i / 32.0);
    const HostTensor x = row(d, points);
    for (const Function& f : kFunctions) {
      SCOPED_TRACE(std::string(f.name) + " " + std::string(name_of(d)));
      const HostTensor y = run({x}, [&](X in) { return std::vector<Tensor>{f.of(in[0])}; })[0];
      double worst = 0, at = 0;
      for (int64_t i = 0; i < x.size(); ++i) {
        const double u = x.at(i), off = std::fabs(y.at(i) - static_cast<double>(f.want(u)));
        if (u < 0 && off <= f.of_x * -u * 0x1p-24) continue;
        const double e = units(d, y.at(i), f.want(u)) - (d == DType::f32 ? f.slack * u * u : 0);
        if (!(e <= worst)) worst = e, at = u;
      }
      EXPECT_LE(worst, d == DType::f32 ? 4 : 0.51) << "at " << at;
    }
  }
}
TEST(Numerics, DerivativesOfSigmoidAndGelu) {
  const V at = {0, -0.0, 0.5, -0.5, 20, -20, 300, -300, 1e4, -1e4, inf, -inf};
  const HostTensor x = row(DType::f64, at);
  for (const bool gaussian : {false, true}) {
    const auto f = [&](const Tensor& t) { return gaussian ? gelu(t) : sigmoid(t); };
    const auto r = run({x, HostTensor::full(DType::f64, x.shape, 1)}, [&](X in) {
      return std::vector<Tensor>{grad(sum(f(in[0])), {in[0]})[0], jvp([&](X t) { return std::vector<Tensor>{f(t[0])}; }, {in[0]}, {in[1]}).tangents[0]};
    });
    for (size_t i = 0; i < at.size(); ++i) {
      if (gaussian && std::isinf(at[i])) continue;   // inf * 0
      const Real u = at[i], s = sigmoid_of(-std::fabs(u));
      const double want = static_cast<double>(gaussian ? std::erfc(-u / kRoot) / 2 + u * std::exp(-u * u / 2) / std::sqrt(2 * kPi) : s * (1 - s));
      for (const HostTensor& t : r) EXPECT_LE(std::fabs(t.at(static_cast<int64_t>(i)) - want), 1e-12 * std::max(std::fabs(want), 1e-200)) << at[i];
    }
  }
  const V second = run({row(DType::f64, {0, 1, -1, 300})}, [](X in) {
    return grad(sum(grad(sum(sigmoid(in[0])), {in[0]})[0]), {in[0]});
  })[0].to_doubles();
  for (size_t i = 0; i < 4; ++i) {
    const double s = static_cast<double>(sigmoid_of(std::vector<Real>{0, 1, -1, 300}[i]));
    EXPECT_NEAR(second[i], s * (1 - s) * (1 - 2 * s), 1e-12);
  }
}

// Exact in dequantization as far as the result's dtype goes; wider integers than these are refused.
TEST(Numerics, QuantizedWideIntegers) {
  const auto d = run({row(DType::i32, {-2147483648.0, 2e9, 16777217}), row(DType::f64, {1}), row(DType::i32, {1000000001})}, [](X x) {
    return std::vector<Tensor>{dequantize(x[0], x[1], x[2])};
  });
  EXPECT_EQ(d[0].to_doubles(), (V{-3147483649.0, 999999999, -983222784}));
  for (const DType wide : {DType::u32, DType::i64, DType::u64}) EXPECT_THROW(run({HostTensor(wide, {2}), row(DType::f32, {1}), HostTensor(wide, {1})}, [](X x) { return std::vector<Tensor>{dequantize(x[0], x[1], x[2])}; }), Error);
  EXPECT_THROW(run({row(DType::f32, {3}), row(DType::f32, {1}), row(DType::i32, {16777217})}, [](X x) { return std::vector<Tensor>{quantize(x[0], x[1], x[2], DType::i32)}; }), Error);
  EXPECT_EQ(run({row(DType::f32, {3, 9e4}), row(DType::f32, {1}), row(DType::u16, {5})}, [](X x) { return std::vector<Tensor>{quantize(x[0], x[1], x[2], DType::u16)}; })[0].to_doubles(), (V{8, 65535}));
}

// Coordinates that are whole numbers are found so: beside integer arithmetic.
TEST(Numerics, NearestAtWholeCoordinates) {
  using R = Resampling;
  for (int64_t n = 1; n <= 24; ++n) {
    V v;
    for (int64_t i = 0; i < n; ++i) v.push_back(static_cast<double>(i));
    const HostTensor x = row(DType::f64, v);
    std::vector<int64_t> wrong;
    for (int64_t to = 1; to <= 40; ++to) {
      const auto r = run({x}, [&](X in) {
        const auto by = [&](R::Coordinates c, R::Rounding r) { return resize(in[0], {to}, {.mode = R::Mode::nearest, .coordinates = c, .nearest = r}); };
        return std::vector<Tensor>{by(R::Coordinates::asymmetric, R::Rounding::floor), by(R::Coordinates::align_corners, R::Rounding::floor), by(R::Coordinates::asymmetric, R::Rounding::ceil), by(R::Coordinates::half_pixel, R::Rounding::floor)};
      });
      for (int64_t o = 0; o < to; ++o) {
        const int64_t want[] = {o * n / to, to > 1 ? o * (n - 1) / (to - 1) : 0, std::min((o * n + to - 1) / to, n - 1), std::max<int64_t>((2 * o + 1) * n - to, 0) / (2 * to)};
        for (size_t k = 0; k < 4; ++k)
          if (r[k].at(o) != static_cast<double>(want[k])) wrong.push_back(to);
      }
    }
    EXPECT_TRUE(wrong.empty()) << n << " to " << wrong.front();
  }
}
TEST(Numerics, ResizeOfBadRegions) {
  const auto made = [](const Resampling& how, double scale, double start, double end) { run({row(DType::f64, {1, 2, 3, 4, 5})}, [&](X x) { return std::vector<Tensor>{resize_axis(x[0], 0, 3, how, scale, start, end)}; }); };
  const Resampling crop = {.coordinates = Resampling::Coordinates::crop}, smooth = {.antialias = true};
  EXPECT_NO_THROW(made(crop, 0, 0.25, 0.75));
  for (const double bad : {std::nan(""), inf, 2.2e18}) {   // shares of the extent
    EXPECT_THROW(made(crop, 0, bad, 1), Error) << bad;
    EXPECT_THROW(made(crop, 0, 0, bad), Error) << bad;
  }
  EXPECT_THROW(made(smooth, 1e-12, 0, 1), Error);
}

// The masks of a loop's steps or turns: how many differ.
size_t masks(const std::function<Tensor(const Tensor& x, const Tensor& key)>& f, bool turns = false) {
  constexpr int64_t n = 64, steps = 6;
  const HostTensor all = run({HostTensor::full(DType::u32, {}, 7), HostTensor::full(DType::f32, {n}, 1)}, [&](X in) {
    const Tensor key = in[0], x = in[1];
    if (!turns) return std::vector<Tensor>{scan([&](X c, X) { return ScanStep{c, {f(x, key)}}; }, {x}, {}, steps).stacked[0]};
    const Tensor rows = iota(x.graph(), DType::i32, {steps, 1}, 0);
    return std::vector<Tensor>{while_loop([&](X c) { return less(c[0], static_cast<int>(steps)); }, [&](X c) { return std::vector<Tensor>{c[0] + 1, where(equal(rows, c[0]), expand_dims(f(x, key), 0), c[1])}; },
                                          {cast(key * 0, DType::i32), broadcast_to(x, {steps, n})})[1]};
  })[0];
  std::set<V> seen;
  const V flat = all.to_doubles();
  for (int64_t s = 0; s < steps; ++s) seen.insert(V(flat.begin() + s * n, flat.begin() + (s + 1) * n));
  return seen.size();
}
TEST(Numerics, KeysInNestedBodiesVary) {
  const auto drop = [](X a) { return std::vector<Tensor>{dropout(a[0], 0.5, a[1], 0)}; };
  const auto later = [](X a) { return std::vector<Tensor>{dropout(a[0], 0.5, a[1] + 3, 0)}; };
  const auto keep = [](X a) { return std::vector<Tensor>{a[0]}; };
  const std::pair<const char*, std::function<Tensor(const Tensor&, const Tensor&)>> rows[] = {
      {"plain", [&](const Tensor& x, const Tensor& k) { return dropout(x, 0.5, k, 0); }},
      {"checkpoint", [&](const Tensor& x, const Tensor& k) { return checkpoint(drop, {x, k})[0]; }},
      {"checkpoint, of a key", [&](const Tensor& x, const Tensor& k) { return checkpoint(later, {x, k})[0]; }},
      {"cond", [&](const Tensor& x, const Tensor& k) { return cond(less(0, sum(x)), drop, keep, {x, k})[0]; }},
      {"cond's other", [&](const Tensor& x, const Tensor& k) { return cond(less(sum(x), 0), keep, later, {x, k})[0]; }},
      {"vmap", [&](const Tensor& x, const Tensor& k) { return reshape(vmap(drop, {reshape(x, {8, 8}), k}, {0, -1})[0], {64}); }},
      {"vmap of keys", [&](const Tensor& x, const Tensor& k) { return reshape(vmap(drop, {reshape(x, {8, 8}), k + iota(k.graph(), DType::u32, {8}, 0)})[0], {64}); }},
      {"scan", [&](const Tensor& x, const Tensor& k) { return scan([&](X c, X) { return ScanStep{{dropout(c[0], 0.5, c[1], 0), c[1]}, {}}; }, {x, k}, {}, 1).carries[0]; }},
      {"while", [&](const Tensor& x, const Tensor& k) { return while_loop([](X c) { return less(c[2], 1); }, [](X c) { return std::vector<Tensor>{dropout(c[0], 0.5, c[1], 0), c[1], c[2] + 1}; }, {x, k, sum(x) * 0})[0]; }},
      {"jvp", [&](const Tensor& x, const Tensor& k) { return jvp(drop, {x, k}, {x, Tensor()}).tangents[0]; }},
      {"gradient", [&](const Tensor& x, const Tensor& k) { return value_and_grad([&](X a) { return std::vector<Tensor>{sum(drop(a)[0])}; }, {x, k}).gradients[0]; }},
      {"its own derivative", [&](const Tensor& x, const Tensor& k) { return value_and_grad([&](X a) { return std::vector<Tensor>{sum(with_derivative(drop, [](X b) { return std::vector<Tensor>{dropout(b[2], 0.5, b[1], 0)}; }, {a[0], a[1]})[0])}; }, {x, k}).gradients[0]; }},
      {"two deep", [&](const Tensor& x, const Tensor& k) { return checkpoint([&](X a) { return cond(less(0, sum(a[0])), drop, keep, {a[0], a[1]}); }, {x, k})[0]; }},
  };
  for (const auto& [name, f] : rows) {
    SCOPED_TRACE(name);
    EXPECT_EQ(masks(f), 6u);
    EXPECT_EQ(masks(f, true), 6u);
  }
}
// One key, two loops inside one another: no two turns have a mask in common.
TEST(Numerics, KeysOfLoopsInLoops) {
  const auto r = run({HostTensor::full(DType::u32, {}, 7), HostTensor::full(DType::f32, {64}, 1)}, [&](X in) {
    return std::vector<Tensor>{scan([&](X c, X) { return ScanStep{c, {scan([&](X d, X) { return ScanStep{d, {dropout(in[1], 0.5, in[0], 0)}}; }, {c[0]}, {}, 5).stacked[0]}}; }, {in[1]}, {}, 5).stacked[0]};
  });
  std::set<V> seen;
  const V flat = r[0].to_doubles();
  for (int64_t s = 0; s < 25; ++s) seen.insert(V(flat.begin() + s * 64, flat.begin() + (s + 1) * 64));
  EXPECT_EQ(seen.size(), 25u);
}

}  // namespace
}  // namespace quern
