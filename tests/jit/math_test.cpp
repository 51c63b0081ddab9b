// The transcendental functions of the CPU target on every arch that this machine runs, beside libm in more bits: f32
// beside double, f64 beside long double (64 bits of significand on x86), bf16 and f16 on all their values. Errors are
// in ULP of the wanted value, infinity counting as the number that follows the largest one; NaN, exact infinities and
// signs of zero must agree. The worst of each function is printed.
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "frontend/nn.h"
#include "runtime/jit.h"

namespace quern {
namespace {

// The inverse of erf by Newton's iteration; near 1, of erfc.
template <class T>
T erf_inverse(T x) {
  if (!(std::fabs(x) < 1)) return std::fabs(x) == 1 ? std::copysign(std::numeric_limits<T>::infinity(), x) : std::numeric_limits<T>::quiet_NaN();
  const long double a = std::fabs(x), slope = std::sqrt(std::acos(-1.0L)) / 2, rest = 1 - a;
  if (a < 1e-11L) return static_cast<T>(slope * x);
  long double y = std::sqrt(-std::log1p(-a * a));
  for (int step = 0; step < 200; ++step) {   // convex on this side: from above it falls, by less and less
    const long double by = (a < 0.5L ? std::erf(y) - a : rest - std::erfc(y)) * slope * std::exp(y * y);
    y -= by;
    if (std::fabs(by) < 1e-20L * y) break;
  }
  return static_cast<T>(std::copysign(y, static_cast<long double>(x)));
}
// The derivative of lgamma: recurrence and series (to 3 terms) past 400.
template <class T>
T digamma(T x) {
  const long double pi = std::acos(-1.0L), a = x < 0 ? -static_cast<long double>(x) : static_cast<long double>(x);
  if (std::isinf(x) && x < 0) return std::numeric_limits<T>::quiet_NaN();
  if (a > 1e6L && x > 0) return static_cast<T>(std::log(a) - 1 / (2 * a) - 1 / (12 * a * a));
  long double sum = 0, y = a + 400;
  const bool whole = a == std::floor(a);
  if (x < 0 && whole) return std::numeric_limits<T>::quiet_NaN();
  for (int k = 399; k > 0; --k) sum += 1 / (a + k);
  const long double z = 1 / (y * y), value = std::log(y) - 1 / (2 * y) - z * (1.0L / 12 - z * (1.0L / 120 - z / 252)) - sum;
  if (!(x < 0)) return static_cast<T>(value - 1 / static_cast<long double>(x));
  return static_cast<T>(value + pi / std::tan(pi * (a - std::round(a))));
}

struct Function {
  Op op;
  double (*wide)(double);
  long double (*wider)(long double);
  double bound;       // ULP
  double (*least)(double x) = nullptr;   // of numbers at least so large: the error near zeros is one of what cancels
};
int sign_of_gamma;
double least_of(const Function& f, double x) { return f.least ? f.least(x) : 0; }
const Function kFunctions[] = {
    {Op::exp, std::exp, std::exp, 2},
    {Op::log, std::log, std::log, 2},
    {Op::tanh, std::tanh, std::tanh, 2},
    {Op::erf, std::erf, std::erf, 2},
    {Op::sin, std::sin, std::sin, 2},
    {Op::cos, std::cos, std::cos, 2},
    {Op::sqrt, std::sqrt, std::sqrt, 0.5},
    {Op::rsqrt, [](double x) { return 1 / std::sqrt(x); }, [](long double x) { return 1 / std::sqrt(x); }, 2},
    {Op::expm1, std::expm1, std::expm1, 2},
    {Op::log1p, std::log1p, std::log1p, 2},
    {Op::tan, std::tan, std::tan, 2},
    {Op::asin, std::asin, std::asin, 2},
    {Op::acos, std::acos, std::acos, 2},
    {Op::sinh, std::sinh, std::sinh, 2},
    {Op::cosh, std::cosh, std::cosh, 2},
    {Op::asinh, std::asinh, std::asinh, 2},
    {Op::acosh, std::acosh, std::acosh, 2},
    {Op::atanh, std::atanh, std::atanh, 2},
    {Op::round, std::nearbyint, std::nearbyint, 0},
    {Op::erfc, std::erfc, std::erfc, 2},
    {Op::erf_inv, erf_inverse<double>, erf_inverse<long double>, 2},
    {Op::lgamma, [](double x) { return ::lgamma_r(x, &sign_of_gamma); }, [](long double x) { return ::lgammal_r(x, &sign_of_gamma); }, 2, [](double x) { return x < 0 ? std::max(4.0, std::fabs(::lgamma_r(-x, &sign_of_gamma))) : 1.0; }},
    {Op::digamma, digamma<double>, digamma<long double>, 4, [](double x) { return x < 0 ? std::max(4.0, 2 * std::log(-x)) : 4.0; }},
};

struct Format { int digits, least; };   // bits of significand, exponent of the least subnormal
Format format_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return {53, -1074};
    case DType::f32: return {24, -149};
    case DType::bf16: return {8, -133};
    default: return {11, -24};
  }
}
int top_of(DType dtype) { return dtype == DType::f64 ? 1024 : dtype == DType::f16 ? 16 : 128; }   // infinity begins at 2^top

// Infinite where the class or the sign of a zero is wrong.
double ulps(DType dtype, double got, long double want, bool signed_zero, double at_least = 0) {
  constexpr double wrong = std::numeric_limits<double>::infinity();
  if (std::isnan(want) || std::isnan(got)) return std::isnan(want) && std::isnan(got) ? 0 : wrong;
  if (signed_zero && (got == 0 || want == 0) && std::signbit(got) != std::signbit(want)) return wrong;
  const auto [digits, least] = format_of(dtype);
  const long double end = std::ldexp(1.0L, top_of(dtype));
  const auto finite = [&](long double v) { return std::copysign(std::min(std::fabs(v), end), v); };
  if (std::isinf(want) && !std::isinf(got)) return wrong;
  if (std::isfinite(at_least) && std::fabs(want) < at_least) return static_cast<double>(std::fabs(got - want) / std::ldexp(1.0L, std::ilogb(at_least) - digits + 1));
  const int exponent = want == 0 ? least : std::max(std::ilogb(finite(want) == want ? want : end / 2) - digits + 1, least);
  return static_cast<double>(std::fabs(finite(got) - finite(want)) / std::ldexp(1.0L, exponent));
}

struct Worst {
  double error = 0, x = 0, y = 0, got = 0;
  long double want = 0;
  void see(double e, double x_, double y_, double got_, long double want_) {
    if (e > error) *this = {e, x_, y_, got_, want_};
  }
  std::string text() const { return fmt::format("{:.3f} ULP at {:a}, {:a}: got {:a}, want {:a}", error, x, y, got, static_cast<double>(want)); }
};

template <class T, class Bits>
std::vector<double> special_values() {
  std::vector<double> out;
  using L = std::numeric_limits<T>;
  for (T v : {T(0), L::infinity(), L::quiet_NaN(), L::max(), L::min(), L::denorm_min(), L::min() - L::denorm_min(), T(1), T(0.5), T(2), T(3), T(1.5), T(88.72284), T(-103.97208), T(709.782712893384),
              T(-745.1332191019411), T(10), T(4), T(0x1p20), T(0x1p22), T(0x1p31), T(0x1p32), T(0x1p63), T(0x1p64), T(1e10), T(5.92158), T(3.83), T(0.9296875), T(0.84375)})
    for (int step = -2; step <= 2; ++step) {   // with the neighbours
      const T near = std::isfinite(v) && v != 0 ? std::bit_cast<T>(static_cast<Bits>(std::bit_cast<Bits>(v) + static_cast<Bits>(step))) : v;
      const T quiet = std::isnan(near) ? L::quiet_NaN() : near;   // to IEEE's pow, a signalling one is another matter
      out.push_back(quiet), out.push_back(-quiet);
    }
  // Where sin and cos are hardest: the numbers nearest to multiples of pi/2.
  for (int64_t k = 1; k < 3000; ++k) out.push_back(static_cast<T>(static_cast<long double>(k) * 1.57079632679489661923132169163975144L));
  for (int e = 12; e < 60; ++e) out.push_back(static_cast<T>(std::ldexp(1.57079632679489661923132169163975144L, e)));
  return out;
}

HostTensor tensor(DType dtype, const std::vector<double>& values) { return HostTensor::from(dtype, {static_cast<int64_t>(values.size())}, values); }

/// Every function of one input.
Graph all_functions(DType dtype, const Shape& shape) {
  GraphBuilder b;
  const NodeId x = b.input("x", {dtype, shape});
  for (const Function& f : kFunctions) b.output(std::string(name_of(f.op)), b.add(f.op, {x}));
  return b.finish();
}

class Math : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Device> device;
  void SetUp() override {
    try {
      device = open_device(GetParam());
    } catch (const Error& e) {
      if (e.kind != ErrorKind::device) throw;
      GTEST_SKIP() << e.what();
    }
  }
  std::vector<HostTensor> run(const Graph& graph, const std::vector<HostTensor>& inputs) {
    CompileOptions options;
    options.use_cache = false;
    return jit(*device, graph, options)->run(inputs);
  }
  // `wants[f][i]`: what function f should give for input i.
  template <class Want>
  void compare_all(DType dtype, const HostTensor& x, const std::vector<std::vector<Want>>& wants, double bound_of_short = 0) {
    const std::vector<HostTensor> got = run(all_functions(dtype, x.shape), {x});
    for (size_t f = 0; f < got.size(); ++f) {
      Worst worst;
      for (int64_t i = 0; i < x.size(); ++i) worst.see(ulps(dtype, got[f].at(i), wants[f][static_cast<size_t>(i)], true, least_of(kFunctions[f], x.at(i))), x.at(i), 0, got[f].at(i), wants[f][static_cast<size_t>(i)]);
      report(std::string(name_of(kFunctions[f].op)), dtype, worst, bound_of_short > 0 ? bound_of_short : kFunctions[f].bound, x.size());
    }
  }
  void report(const std::string& name, DType dtype, const Worst& worst, double bound, int64_t values) {
    std::printf("%-10s %-8s %-4s %8ld values, worst %s\n", GetParam(), name.c_str(), std::string(name_of(dtype)).c_str(), static_cast<long>(values), worst.text().c_str());
    EXPECT_LE(worst.error, bound) << name << " in " << name_of(dtype) << ": " << worst.text();
  }
};

template <class Want, class Reference>
std::vector<std::vector<Want>> reference(const HostTensor& x, Reference&& of) {
  std::vector<std::vector<Want>> out;
  for (const Function& f : kFunctions) {
    out.emplace_back();
    for (int64_t i = 0; i < x.size(); ++i) out.back().push_back(of(f, x.at(i)));
  }
  return out;
}
double wide(const Function& f, double x) { return f.wide(x); }
long double wider(const Function& f, double x) { return f.wider(x); }

TEST_P(Math, F32) {
  static const HostTensor x = [] {   // every 4093rd bit pattern
    std::vector<double> v = special_values<float, uint32_t>();
    for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 4093) v.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    return tensor(DType::f32, v);
  }();
  static const auto wants = reference<double>(x, wide);
  compare_all(DType::f32, x, wants);
}

TEST_P(Math, F64) {
  static const HostTensor x = [] {   // any bits, and numbers whose logarithm is spread evenly near 1
    std::vector<double> v = special_values<double, uint64_t>();
    v.push_back(0x1.6ac5b262ca1ffp+849);   // of all doubles the nearest to a multiple of pi/2
    std::mt19937_64 random(1);
    for (int i = 0; i < 100000; ++i) v.push_back(std::bit_cast<double>(random()));
    for (int i = 0; i < 200000; ++i) v.push_back(std::copysign(std::exp2(static_cast<double>(random() >> 11) * 0x1p-53 * 70 - 50), random() & 1 ? 1.0 : -1.0));
    for (int i = 0; i < 100000; ++i) v.push_back((static_cast<double>(random() >> 11) * 0x1p-53 - 0.5) * 12);
    return tensor(DType::f64, v);
  }();
  static const auto wants = reference<long double>(x, wider);
  compare_all(DType::f64, x, wants);
}

TEST_P(Math, ShortFloatsExhaustively) {
  for (DType dtype : {DType::bf16, DType::f16}) {
    std::vector<double> v;
    for (uint32_t bits = 0; bits < 65536; ++bits) v.push_back(dtype == DType::bf16 ? from_bf16_bits(static_cast<uint16_t>(bits)) : from_f16_bits(static_cast<uint16_t>(bits)));
    const HostTensor x = tensor(dtype, v);
    compare_all(dtype, x, reference<double>(x, wide), 0.51);   // rounded from f32
  }
}

// A value alone is computed without vectors.
TEST_P(Math, Scalars) {
  for (DType dtype : {DType::f32, DType::f64}) {
    CompileOptions options;
    options.use_cache = false;
    const auto program = jit(*device, all_functions(dtype, {}), options);
    for (double v : {0.0, -0.0, 1.0, -0.7, 3.5, 1e-30, 1e6, 1e22, 3e38, static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
      const HostTensor x = HostTensor::full(dtype, {}, v);
      const std::vector<HostTensor> got = program->run({x});
      for (size_t f = 0; f < got.size(); ++f)
        EXPECT_LE(ulps(dtype, got[f].at(0), kFunctions[f].wider(x.at(0)), true, least_of(kFunctions[f], x.at(0))), kFunctions[f].bound) << name_of(kFunctions[f].op) << " of " << v << " is " << got[f].at(0);
    }
  }
}

template <class T, class Bits>
std::pair<std::vector<double>, std::vector<double>> powers() {
  std::vector<double> x, y, base = special_values<T, Bits>();
  base.resize(290);   // without the multiples of pi/2
  for (double v : {7.0, 1e3, -1e3, 1.0 / 3, 0x1p23 + 1, -0x1p23 - 1, 0x1p53 + 2, -0x1p52 - 1}) base.push_back(static_cast<T>(v));
  for (double a : base)
    for (double b : base) x.push_back(a), y.push_back(b);
  std::mt19937_64 random(2);
  const auto unit = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
  for (int i = 0; i < 100000; ++i) x.push_back(std::bit_cast<T>(static_cast<Bits>(random()))), y.push_back(std::bit_cast<T>(static_cast<Bits>(random())));
  for (int i = 0; i < 200000; ++i) x.push_back(static_cast<T>(std::exp2(unit() * 40 - 20))), y.push_back(static_cast<T>(unit() * 40 - 20));
  for (int i = 0; i < 100000; ++i) {   // results up to both ends of the range
    const double a = std::exp2((unit() - 0.5) * std::exp2(-30 * unit()));
    x.push_back(static_cast<T>(a)), y.push_back(static_cast<T>((unit() * 2.2 - 1.1) * (std::numeric_limits<T>::max_exponent) / std::log2(a)));
  }
  for (int i = 0; i < 20000; ++i) x.push_back(static_cast<T>(-unit() * 9)), y.push_back(std::floor(unit() * 60 - 30));
  return {x, y};
}

TEST_P(Math, Pow) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const auto [xs, ys] = dtype == DType::f32 ? powers<float, uint32_t>() : powers<double, uint64_t>();
    const HostTensor x = tensor(dtype, xs), y = tensor(dtype, ys);
    GraphBuilder b;
    const NodeId in_x = b.input("x", {dtype, x.shape}), in_y = b.input("y", {dtype, y.shape});
    b.output("z", b.add(Op::pow, {in_x, in_y}));
    const HostTensor got = run(b.finish(), {x, y})[0];
    Worst worst;
    for (int64_t i = 0; i < x.size(); ++i) {
      // pow where the result is exact: the powl of glibc 2.36 says that (-inf)^(-2^63) is inf.
      const bool exact = dtype == DType::f32 || !std::isfinite(x.at(i)) || x.at(i) == 0;
      const long double want = exact ? std::pow(x.at(i), y.at(i)) : std::pow(static_cast<long double>(x.at(i)), static_cast<long double>(y.at(i)));
      worst.see(ulps(dtype, got.at(i), want, true), x.at(i), y.at(i), got.at(i), want);
    }
    report("pow", dtype, worst, 2, x.size());
  }
}

// Of two numbers: signed zeros, infinities, quotients up to the whole range.
TEST_P(Math, RemainderAndAngle) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const auto [xs, ys] = dtype == DType::f32 ? powers<float, uint32_t>() : powers<double, uint64_t>();
    const HostTensor x = tensor(dtype, xs), y = tensor(dtype, ys);
    GraphBuilder b;
    const NodeId in_x = b.input("x", {dtype, x.shape}), in_y = b.input("y", {dtype, y.shape});
    b.output("rem", b.add(Op::rem, {in_x, in_y}));
    b.output("atan2", b.add(Op::atan2, {in_x, in_y}));
    const std::vector<HostTensor> got = run(b.finish(), {x, y});
    Worst rem, angle;
    for (int64_t i = 0; i < x.size(); ++i) {
      const double want = std::fmod(x.at(i), y.at(i));
      rem.see(ulps(dtype, got[0].at(i), want, true), x.at(i), y.at(i), got[0].at(i), want);
      const long double wide = std::atan2(static_cast<long double>(x.at(i)), static_cast<long double>(y.at(i)));
      angle.see(ulps(dtype, got[1].at(i), wide, true), x.at(i), y.at(i), got[1].at(i), wide);
    }
    report("rem", dtype, rem, 0, x.size());
    report("atan2", dtype, angle, 2, x.size());
  }
}

// gelu is x (1 + erf)/2: its error is that of numbers near x.
TEST_P(Math, Compositions) {
  std::vector<double> v = special_values<float, uint32_t>();
  std::erase_if(v, [](double x) { return !std::isfinite(x); });
  for (int64_t i = -200000; i <= 200000; ++i) v.push_back(static_cast<float>(static_cast<double>(i) * 1e-4));
  const HostTensor x = tensor(DType::f32, v);
  Model model;
  const Tensor in = model.input("x", DType::f32, x.shape);
  model.output("sigmoid", sigmoid(in));
  model.output("gelu", gelu(in));
  const std::vector<HostTensor> got = run(model.finish(), {x});
  Worst sigmoids, gelus;
  for (int64_t i = 0; i < x.size(); ++i) {
    const double u = x.at(i), s = 1 / (1 + std::exp(-u)), g = u * 0.5 * std::erfc(-u / std::sqrt(2.0));
    sigmoids.see(ulps(DType::f32, got[0].at(i), s, true), u, 0, got[0].at(i), s);
    gelus.see(std::fabs(got[1].at(i) - g) / std::max(0x1p-149, std::fabs(u) * 0x1p-23), u, 0, got[1].at(i), g);
  }
  report("sigmoid", DType::f32, sigmoids, 3, x.size());
  report("gelu", DType::f32, gelus, 2, x.size());
}

INSTANTIATE_TEST_SUITE_P(Archs, Math, testing::Values("cpu:avx512", "cpu:avx2", "cpu:v128"), [](const auto& i) { return std::string(i.param).substr(4); });

}  // namespace
}  // namespace quern
