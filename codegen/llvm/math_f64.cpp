// Transcendental functions in f64 arithmetic, by the methods of math_f32.cpp; the polynomials are made the same way, in
// 45 digits and rounded to f64 (those from kSinh on interpolate at Chebyshev's nodes). pow, lgamma and the inverses of the
// hyperbolic functions carry their logarithm, or its argument, as an unevaluated sum of two doubles.
#include <algorithm>
#include <limits>
#include <numbers>

#include "codegen/llvm/math.h"

namespace quern::cpu::f64 {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b39p-40;   // the first part ends in 17 zero bits

// (e^r - 1 - r)/r^2 on |r| <= ln 2/2; 2^-60.8 of e^r - 1.
constexpr std::array kExp = {0x1p-1,                0x1.5555555555559p-3,  0x1.555555555555ap-5,  0x1.111111110f67fp-7,  0x1.6c16c16c1440ep-10, 0x1.a01a01affad7ep-13,
                             0x1.a01a01b0d4b6ep-16, 0x1.71ddf81684846p-19, 0x1.27e4c5571efb2p-22, 0x1.af5f33b560c30p-26, 0x1.1f95ddd0a985bp-29};
// (2 atanh(s) - 2s)/s^3 in s^2 on |s| <= (sqrt 2 - 1)/(sqrt 2 + 1); 2^-59 of 2 atanh(s).
constexpr std::array kLog = {0x1.5555555555593p-1, 0x1.999999997f8b8p-2, 0x1.249249423ed6dp-2, 0x1.c71c51c531452p-3, 0x1.74664dd3683c5p-3, 0x1.39a023aed095bp-3, 0x1.2f1638f629afap-3};
// (2 atanh(s) - 2s - 2/3 s^3)/s^5, likewise; 2^-73.
constexpr std::array kLogTail = {0x1.9999999999995p-2, 0x1.2492492493193p-2, 0x1.c71c71c5570e0p-3, 0x1.745d184607805p-3,
                                 0x1.3b135d7dd583fp-3, 0x1.11217d2cfd518p-3, 0x1.de13ffb6e1a3ap-4, 0x1.ec154216e6e7cp-4};
// (tanh(x)/x - 1)/x^2 in x^2 on |x| <= 0.625; 2^-56.
constexpr std::array kTanh = {-0x1.55555555554fep-2, 0x1.111111110ab61p-3,  -0x1.ba1ba1b4f57a8p-5,  0x1.664f4777d0783p-6,  -0x1.226e15dbdcce3p-7, 0x1.d6cf1def44741p-9,
                              -0x1.7d683b1f07b67p-10, 0x1.336368e6beefcp-11, -0x1.df3feb86490f6p-13, 0x1.436013cbfa72cp-14, -0x1.0d471c848d28bp-16};
// erf(x)/x - 1 as a polynomial in x^2 on |x| <= 0.84375; 2^-56.1.
constexpr std::array kErf = {0x1.06eba8214db69p-3, -0x1.812746b0379e6p-2, 0x1.ce2f21a042ad4p-4,  -0x1.b82ce31281c1bp-6, 0x1.565bcd0cefba7p-8,  -0x1.c02db3a12328ap-11,
                             0x1.f9a317cf5c234p-14, -0x1.f4d0c3fbddb43p-17, 0x1.b9ca0ea95f0cbp-20, -0x1.5e1c4f107ba27p-23, 0x1.e824181e5b42fp-27, -0x1.e855048a34147p-31};
// log(erfc(x)) on 0.84375 <= x <= 5.95; 2^-57.2 of erf.
constexpr std::array kLogErfc = {0x1.4ba404d6f6bdcp-27, -0x1.20dd776012f38p+0, -0x1.45f2e6c71f0f3p-1, -0x1.a4f91ffd1f439p-4, 0x1.39989c7fe17c2p-6,
                                 0x1.7fb7b4d8cb183p-13, -0x1.b0fe4d40af432p-10, 0x1.161d5be1e59fap-11, 0x1.428b24690d463p-15, -0x1.fa4064e29727cp-14,
                                 0x1.23db7194147e4p-14, -0x1.b7182065c61ccp-16, 0x1.ef44c0e72bfc4p-18, -0x1.b2a2d233ae4e3p-20, 0x1.2a00de4df1ab2p-22,
                                 -0x1.3aa29fef58135p-25, 0x1.ef1fd31e005e4p-29, -0x1.11a4591db4b81p-32, 0x1.7b20781fbc52ap-37, -0x1.ef304e720facfp-43};
// (sin(r)/r - 1)/r^2 and (cos(r) - 1 + r^2/2)/r^4 in r^2 on |r| <= pi/4; 2^-58.0 and 2^-64.1.
constexpr std::array kSin = {-0x1.5555555555549p-3, 0x1.111111110f891p-7, -0x1.a01a019c11d6cp-13, 0x1.71de35766c3e6p-19, -0x1.ae5e645df49d8p-26, 0x1.5d924614fc5aep-33};
constexpr std::array kCos = {0x1.555555555554cp-5, -0x1.6c16c16c15210p-10, 0x1.a01a019cbcce0p-16, -0x1.27e4f81030764p-22, 0x1.1ee9ef39cdfd7p-29, -0x1.8fafeef24ba22p-37};

// (sinh(x)/x - 1)/x^2 on |x| <= 1; 2^-56. (atan(x)/x - 1)/x^2 and (asin(x)/x - 1)/x^2 on |x| <= 1/2; 2^-57.6, 2^-58.
// All in x^2, relative to the function.
constexpr std::array kSinh = {0x1.5555555555555p-3, 0x1.11111111110fdp-7, 0x1.a01a01a01ee7p-13, 0x1.71de3a4e14f4p-19, 0x1.ae6460fae3728p-26, 0x1.611cb330c1fe8p-33, 0x1.b41232cf9950fp-41};
constexpr std::array kAtan = {-0x1.5555555555555p-2, 0x1.99999999998ddp-3, -0x1.2492492487f69p-3, 0x1.c71c71bffba03p-4, -0x1.745d15fd6680bp-4, 0x1.3b138dea73a9dp-4, -0x1.110e9dd3eae6bp-4,
                              0x1.e1a7231251304p-5,  -0x1.ad41230ba5907p-5, 0x1.7b10772fed72bp-5, -0x1.37aa5272f453ep-5, 0x1.992606a8e556bp-6, -0x1.2d3590821ec26p-7};
constexpr std::array kAsin = {0x1.5555555555555p-3, 0x1.3333333333388p-4, 0x1.6db6db6dac1ep-5,  0x1.f1c71c7a52ba3p-6, 0x1.6e8ba123e494cp-6, 0x1.1c4efce23019fp-6,  0x1.c990ad3d8fdcap-7,
                              0x1.7b027ee1dd585p-7, 0x1.3b49de7121487p-7, 0x1.31622469ce5adp-7, 0x1.8f193743418ffp-9, 0x1.406192d124629p-6, -0x1.3b416bb7d9257p-6, 0x1.e529c6fce9bb4p-6};
// (x+2) exp(x^2) erfc(x) in (x-2)/(x+2) on 0.39 <= x <= 28; 2^-55.5.
constexpr std::array kErfc = {0x1.058671b52c776p+0,   -0x1.5fd386754eff9p-1,  0x1.1e2deea6b1178p-2,  -0x1.2a88e6107d53cp-5,  -0x1.606e41552b62ap-6,  0x1.a89eaff864d9ap-8,  0x1.9517bb727b1e3p-9,
                              -0x1.b6fbf991df13ap-11, -0x1.5ba438e6ffce1p-11, 0x1.20540961fd259p-15, 0x1.2efa44edb335dp-13,  0x1.1e76a6c005b09p-15,  -0x1.6c075ecb2ca2bp-16, -0x1.0e7aaad2a2d88p-16,
                              -0x1.2c4806a19c016p-20, 0x1.e94ddaada50a7p-19,  0x1.09f8e7f80e68dp-19, 0x1.767b6db8b2dc9p-29,  -0x1.1d41f62d9af61p-21, -0x1.69e63c15cc008p-22, -0x1.cdd4a0f2f982fp-25,
                              0x1.2d0394fbd37d9p-23,  0x1.9299c07ef7eb9p-24,  -0x1.6ba4ba5652edp-25, -0x1.e1c7935a7ff56p-26, 0x1.882e5d639b3cbp-27};
// erf_inv(x)/sqrt(w), w = -log(1 - x^2), in (w-8)/(w+8) on 0 <= w <= 37; 2^-55.7.
constexpr std::array kErfInv = {0x1.e1b0e80a599ffp-1,   0x1.e4d3a6aa328d1p-5,   -0x1.2eb19230b3df3p-8,  -0x1.3527ce421921fp-8,  0x1.23bfdc0572c84p-7,  -0x1.14f30355f870cp-12, -0x1.718efd9e66896p-8,
                                0x1.f99365f5b5f3ep-9,   0x1.3185e3ce2ccfcp-8,   -0x1.0777e87a2d676p-8,  -0x1.8981c7c703992p-9, 0x1.d51ff642ae9bep-9,  0x1.0bba8b21e9598p-9,   -0x1.bb3bf3bda3f49p-10,
                                -0x1.c7877b7952a83p-13, 0x1.13f9ac001b76cp-12,  -0x1.a4afbaa81d8d3p-10, 0x1.3e62561171d16p-12,  0x1.8382a152c5872p-9,  0x1.f527bbf00645fp-12,  -0x1.3536f68593d73p-9,
                                -0x1.a146f45e72d8bp-11, 0x1.a12f491f81e6bp-11,  -0x1.1f610f416f32ep-14, 0x1.c7c5928690f7p-15,  0x1.5122f0837107ap-10, 0x1.4d2080912a05p-11,   -0x1.09013331ba81p-10,
                                -0x1.13c39830bf50fp-10, 0x1.ac478b2dca087p-17,  0x1.02f1914585911p-11,  0x1.39e4848243306p-12,  0x1.38c9ca2d69facp-14, 0x1.c34edee80a7a7p-18};
// What Stirling's formula lacks, times y, in 1/y^2, for y >= 8; 2^-60 of lgamma's value as it stands.
constexpr std::array kStirling = {0x1.5555555555555p-4, -0x1.6c16c16c149f4p-9, 0x1.a01a017dcf9c3p-11, -0x1.38134d4f87051p-11, 0x1.b92c33f89d4f4p-11, -0x1.ef8d747a3e87cp-10, 0x1.4bffc986bf769p-8};

struct Exponential {
  V less_one, n;   // e^x = 2^n (1 + less_one)
};
Exponential exponential(V x) {   // |x| < 2^11
  const Nearest n = nearest(x, std::numbers::log2e);
  const V r = fma(n.number, -kLn2Low, fma(n.number, -kLn2High, x));
  return {fma(r * r, polynomial(r, kExp), r), n.integer};
}
Exponential exponential(V x, V low) {   // of x + low
  const Nearest n = nearest(x, std::numbers::log2e);
  const Pair r = fast_sum(fma(n.number, -kLn2High, x), fma(n.number, -kLn2Low, low));
  return {r.hi + fma(r.hi * r.hi, polynomial(r.hi, kExp), r.lo), n.integer};
}
V bounded(V x) { return at_least(at_most(x, 710), -746); }

struct Parts {
  V k, m;   // x = 2^k m, sqrt(1/2) <= m < sqrt 2, k as a float; for x > 0
};
Parts parts(V x) {
  const V tiny = x < 0x1p-1022;
  const V bits = select(tiny, x * 0x1p54, x).bits(), past = bits - 0x3fe6a09e667f3bcd;
  const V k = past.shr(32).to(x.b().getInt32Ty(), llvm::Instruction::Trunc).sar(20).to(x.b().getDoubleTy(), llvm::Instruction::SIToFP);
  return {select(tiny, k - 54, k), (bits - (past & (int64_t{-1} << 52))).as_float()};
}

// log x to a relative error of 2^-65, x > 0 and finite.
Pair logarithm(V x) {
  const auto [k, m] = parts(x);
  const V f = m - 1;
  const Pair d = two_sum(m, m.like(1));
  const V s = f / d.hi;
  const Pair back = two_product(s, d.hi);
  const V s_low = (((f - back.hi) - back.lo) - s * d.lo) / d.hi;
  Pair z = two_product(s, s);
  z.lo = fma(s * 2.0, s_low, z.lo);
  // 2 atanh(s) = s (2 + z (2/3 + z tail))
  Pair a = fast_sum(z.hi.like(0x1.5555555555555p-1), z.hi * polynomial(z.hi, kLogTail));
  a.lo = a.lo + 0x1.5555555555555p-55;
  Pair t = two_product(z.hi, a.hi);
  t.lo = t.lo + fma(z.hi, a.lo, z.lo * a.hi);
  Pair u = fast_sum(t.hi.like(2), t.hi);
  u.lo = u.lo + t.lo;
  Pair l = two_product(s, u.hi);
  l.lo = l.lo + fma(s, u.lo, s_low * u.hi);
  const Pair sum = two_sum(k * kLn2High, l.hi);
  return fast_sum(sum.hi, sum.lo + fma(k, kLn2Low, l.lo));
}

struct Sines {
  Pair sine, cosine;   // of the reduced angle
  V quarter;           // the quarter turns taken off, plus the given ones
};
Sines sines(V x, int quarter) {
  const Nearest n = nearest(x, 2 / std::numbers::pi);
  const V minus = -n.number;
  const Pair second = two_sum(fma(minus, kHalfPi[0], x), minus * kHalfPi[1]);
  const Pair third = two_sum(second.hi, minus * kHalfPi[2]);
  const Pair rest = fast_sum(third.hi, (second.lo + third.lo) + minus * kHalfPi[3]);
  const QuarterTurns turns = quarter_turns_if_large(x, {rest.hi, rest.lo, n.integer});
  const V r = turns.hi, z = r * r, half = z * 0.5, less = 1 - half;
  const Pair sine = fast_sum(r, fma(r * z, polynomial(z, kSin), turns.lo * less));
  const Pair cosine = fast_sum(less, ((1 - less) - half) + fma(z * z, polynomial(z, kCos), -(r * turns.lo)));
  return {sine, cosine, turns.quarter + quarter};
}

V root(V x) { return x.with(x.s->call(llvm::Intrinsic::sqrt, {x})); }
V whole(V x) { return x.with(x.s->call(llvm::Intrinsic::roundeven, {x})); }
/// sqrt(x.hi + x.lo).
Pair root(Pair x) {
  const V s = root(x.hi);
  const Pair square = two_product(s, s);
  return {s, ((x.hi - square.hi) - square.lo + x.lo) / at_least(s + s, 0x1p-1022)};
}
Pair product(Pair x, Pair y) {
  const Pair p = two_product(x.hi, y.hi);
  return fast_sum(p.hi, p.lo + fma(x.hi, y.lo, x.lo * y.hi));
}
/// log(x.hi + x.lo) for |x.lo| <= ulp(x.hi): accurate near 1, too; what log says of x.hi where that is no positive number.
Pair log_pair(Pair x) {
  const V l = log(x.hi);
  return fast_sum(l, select((x.hi > 0) & (x.hi < kInfinity), x.lo / x.hi, l.like(0)));
}
V log_of(Pair x) {
  const V l = log(x.hi);
  return select((x.hi > 0) & (x.hi < kInfinity), l + x.lo / x.hi, l);
}
/// A polynomial whose last addition is not rounded.
template <size_t N>
Pair polynomial_pair(V x, const std::array<double, N>& c) {
  std::array<double, N - 1> rest;
  std::copy(c.begin() + 1, c.end(), rest.begin());
  return fast_sum(x.like(c[0]), x * polynomial(x, rest));
}
/// log(1 + x + low).
V log_after_one(V x, V low) {
  const Pair sum = two_sum(x, x.like(1));
  return log_of({sum.hi, sum.lo + low});
}
/// pi/4 times a small integer, plus x.
V quarters(V k, V x) { return fma(k, 0x1.921fb54442d18p-1, fma(k, 0x1.1a62633145c07p-55, x)); }

struct Arc {
  V s, tail, big;   // asin = s + tail, of |x| or, where big, of sqrt((1-|x|)/2)
};
Arc arc(V x) {
  const V a = magnitude(x), big = a > 0.5, half = (1 - a) * 0.5;
  const Pair r = root({half, half.like(0)});
  const V z = select(big, half, a * a), s = select(big, r.hi, a);
  return {s, fma(s * z, polynomial(z, kAsin), select(big, r.lo, r.lo.like(0))), big};
}
/// n pi/2 + x + low, |x| <= pi/2.
V from_quarter(double n, V x, V low) {
  const Pair sum = fast_sum(x.like(n * 0x1.921fb54442d18p+0), x);
  return sum.hi + (sum.lo + (low + n * 0x1.1a62633145c07p-54));
}

// e^|x| = 2^(n+1) grown, and e^-|x| = 2^(n+1) shrunk.
struct Hyperbolic {
  V grown, shrunk, n;
};
Hyperbolic hyperbolic(V x) {
  const Exponential e = exponential(at_most(magnitude(x), 711));
  const V grown = e.less_one + 1, small = select(e.n < 500, e.n, e.n.like(500));
  return {grown, power_of_two(small.like(0) - small.shl(1)) / grown, e.n - 1};
}

}  // namespace

V exp(V x) {
  const Exponential e = exponential(bounded(x));
  return scaled(e.less_one + 1, e.n);
}

V log(V x) {
  const auto [k, m] = parts(x);
  // log m = f - (f^2/2 - s (f^2/2 + tail)), s = f/(2 + f)
  const V f = m - 1, s = f / (f + 2), z = s * s, half = f * f * 0.5;
  const V inner = fma(s, half + z * polynomial(z, kLog), k * kLn2Low);
  const V out = fma(k, kLn2High, f - (half - inner));
  const V special = !((x > 0) & (x < kInfinity));
  const V instead = select(x == 0, -kInfinity, select(x < 0, std::numeric_limits<double>::quiet_NaN(), x));
  return select(special, instead, out);
}

V tanh(V x) {
  const V a = magnitude(x), z = a * a, small = fma(a * z, polynomial(z, kTanh), a);
  const Exponential e = exponential(at_most(a + a, 44));
  const V power = power_of_two(e.n), large = 1 - x.like(2) / (fma(power, e.less_one, power) + 1);
  return copysign(select(a > 0.625, large, small), x);
}

V erf(V x) {
  const V a = magnitude(x), small = fma(polynomial(a * a, kErf), a, a);
  const Exponential e = exponential(polynomial(at_most(a, 5.95), kLogErfc));
  const V power = power_of_two(e.n), large = 1 - fma(power, e.less_one, power);
  return copysign(select(a > 0.84375, large, small), x);
}

V sine(V x, int quarter) {
  const auto [sine, cosine, q] = sines(x, quarter);
  const V turned = (select((q & 1) == 1, cosine.hi, sine.hi).bits() ^ (q & 2).shl(62)).as_float();
  return quarter == 0 ? select(x == 0, x, turned) : turned;   // keeps the sign of zero
}

V pow(V x, V y) {   // e^(y log |x|)
  const V a = magnitude(x);
  const Pair l = logarithm(a);
  // The largest |y| that matters, as |log x| is at least 2^-53 where it is not 0.
  const V times = at_least(at_most(y, 0x1p70), -0x1p70);
  const Pair p = two_product(l.hi, times);
  const V whole = bounded(p.hi), low = fma(l.lo, times, p.lo);
  const Exponential e = exponential(whole, select(whole == p.hi, low, low.like(0)));   // past the bounds, low may be large
  V size = scaled(e.less_one + 1, e.n);
  const V infinite = a == kInfinity;
  size = select(infinite | (a == 0), select(infinite ^ (y < 0), size.like(kInfinity), size.like(0)), size);
  size = select((a < kInfinity) | infinite, size, a);   // NaN
  return finish_power(x, y, select(y == y, size, y));
}

V expm1(V x) {   // 2^n (less_one + 1 - 2^-n)
  const Exponential e = exponential(at_least(at_most(x, 710), -40));
  const V less = select(e.n < 64, e.n, e.n.like(64));
  return copysign(scaled(e.less_one + (1 - power_of_two(less.like(0) - less)), e.n), x);
}

V log1p(V x) { return copysign(log_after_one(x, x.like(0)), x); }

V tan(V x) {
  const auto [sine, cosine, q] = sines(x, 0);
  const V odd = (q & 1) == 1;
  const V over = select(odd, -cosine.hi, sine.hi), under = select(odd, sine.hi, cosine.hi), out = over / under;
  const V low = select(odd, -cosine.lo, sine.lo) - out * select(odd, sine.lo, cosine.lo);
  return select(x == 0, x, out + low / under);
}

V asin(V x) {
  const auto [s, tail, big] = arc(x);
  return copysign(select(big, from_quarter(1, s * -2.0, tail * -2.0), s + tail), x);
}

V acos(V x) {
  const auto [s, tail, big] = arc(x);
  const V near = (s + tail) * 2.0, far = from_quarter(2, s * -2.0, tail * -2.0);
  const V small = from_quarter(1, copysign(s, -x), copysign(tail, -x));
  return select(big, select(x < 0, far, near), small);
}

V atan2(V y, V x) {   // k pi/4 ± atan(t), |t| <= 1/2
  const V up = magnitude(y), along = magnitude(x), steep = up > along;
  V low = select(steep, along, up), high = select(steep, up, along);
  const V scale = select(high > 0x1p1000, 0x1p-10, select(high < 0x1p-900, x.like(0x1p100), x.like(1)));   // away from the ends
  low = low * scale;
  high = high * scale;
  const V diagonal = (low > high * 0.5) | ((low == high) & (high > 0));
  const V over = select(diagonal, low - high, low), under = select(diagonal, low + high, high);
  V t = over / under;
  t = select((low == high) | (low == 0), 0, t);   // 0/0 and inf/inf are 0 on their diagonal
  const V z = t * t;
  V angle = fma(t * z, polynomial(z, kAtan), t), k = select(diagonal, x.like(1), x.like(0));
  const auto mirror = [&](V where, double whole) {
    angle = select(where, -angle, angle);
    k = select(where, whole - k, k);
  };
  mirror(steep, 2);
  mirror(x.bits() < 0, 4);
  const V nan = x + y;
  return select((x == x) & (y == y), copysign(quarters(k, angle), y), nan);
}

V sinh(V x) {
  const V z = x * x, small = fma(x * z, polynomial(z, kSinh), x);
  const auto [grown, shrunk, n] = hyperbolic(x);
  return copysign(select(magnitude(x) < 1, small, scaled(grown - shrunk, n)), x);
}

V cosh(V x) {
  const auto [grown, shrunk, n] = hyperbolic(x);
  return scaled(grown + shrunk, n);
}

// log(a + sqrt(a^2 ± 1)); log 2a where the 1 does not count.
static V inverse_hyperbolic(V a, double one) {
  const V huge = a > 0x1p400, safe = at_most(a, 0x1p400);
  const Pair square = two_product(safe, safe), under = two_sum(square.hi, square.hi.like(one));
  const Pair r = root({under.hi, under.lo + square.lo}), sum = two_sum(safe, r.hi);
  const V l = log_of({select(huge, a, sum.hi), select(huge, 0, sum.lo + r.lo)});
  return select(huge, l + std::numbers::ln2, l);
}
V asinh(V x) { return copysign(inverse_hyperbolic(magnitude(x), 1), x); }
V acosh(V x) { return select(x < 1, std::numeric_limits<double>::quiet_NaN(), inverse_hyperbolic(x, -1)); }

V atanh(V x) {   // log(1 + 2a/(1-a))/2
  const V a = magnitude(x);
  const Pair under = two_sum(a.like(1), -a);
  const V u = (a + a) / under.hi;
  const Pair back = two_product(u, under.hi);
  const V low = (((a + a) - back.hi) - back.lo - u * under.lo) / under.hi;
  return copysign(log_after_one(u, select(a < 1, low, low.like(0))) * 0.5, x);
}

V erfc(V x) {   // exp(-a^2) p/(a+2) for large a
  const V a = at_most(magnitude(x), 28);
  const Pair square = two_product(a, a), under = two_sum(a, a.like(2));
  const V q = a.like(1) / under.hi;
  const Pair back = two_product(q, under.hi);
  const V q_low = q * (((1 - back.hi) - back.lo) - q * under.lo), t = (1 - q * 4.0) - q_low * 4.0;
  const Pair g = product({q, q_low}, polynomial_pair(t, kErfc));
  const Exponential e = exponential(-square.hi, -square.lo);
  const V tail = scaled(g.hi + fma(e.less_one, g.hi, g.lo), e.n);
  return select(magnitude(x) > 0.40625, select(x < 0, 2 - tail, tail), 1 - erf(x));
}

V erf_inv(V x) {
  const V a = magnitude(x);
  const Pair square = two_product(a, a), rest = two_sum(a.like(1), -square.hi);
  const Pair l = log_pair({rest.hi, rest.lo - square.lo});
  const V w = -l.hi;
  const Pair far = product(root(Pair{w, -l.lo}), polynomial_pair((w - 8) / (w + 8), kErfInv));
  const V out = select(a < 0x1p-30, a * 0x1.c5bf891b4ef6bp-1, select(a == 1, kInfinity, far.hi));
  return copysign(out, x);
}

// Stirling's formula for y = |x|, or |x| + 8 where that is small, less the logarithm of |x| (|x|+1) … (|x|+7); all in
// pairs, so that near the zeros at 1 and 2 only an absolute error of 2^-58 is left. lgamma(-a) = log(pi/(a sin(pi a))) - lgamma(a).
V lgamma(V x) {
  const V a = magnitude(x), u = at_least(at_most(a, 0x1p60), 0x1p-60), small = u < 8, zero = u.like(0);
  Pair rising{u, zero};
  for (int k = 1; k < 8; ++k) rising = product(rising, two_sum(u, u.like(k)));
  rising = {select(small, rising.hi, u.like(1)), select(small, rising.lo, zero)};
  const Pair shifted = two_sum(u, u.like(8)), y{select(small, shifted.hi, u), select(small, shifted.lo, zero)};
  const Pair l = logarithm(y.hi), t = product(two_sum(y.hi, u.like(-0.5)), l), divisor = logarithm(rising.hi);
  const V inverse = u.like(1) / y.hi, series = inverse * polynomial(inverse * inverse, kStirling);
  Pair sum = two_sum(t.hi, -y.hi);
  V low = (t.lo + sum.lo) + (series + y.lo * (l.hi - inverse * 0.5)) - rising.lo / rising.hi;
  const auto add = [&](double sign, V hi, V lo) {
    const Pair more = two_sum(sum.hi, hi * sign);
    sum.hi = more.hi;
    low = low + (more.lo + lo * sign);
  };
  add(1, u.like(0x1.d67f1c864beb5p-1), u.like(-0x1.65b5a1b7ff5dfp-55));   // log(2 pi)/2
  add(-1, divisor.hi, divisor.lo);
  const V positive = sum.hi + low;
  const V pole = whole(a) == a, r = select(pole, u.like(0.5), u - whole(u));
  const Pair mirror = logarithm(x.like(std::numbers::pi) / (u * magnitude(sine(r * std::numbers::pi, 0))));
  sum = {-sum.hi, zero};
  low = -low;
  add(1, mirror.hi, mirror.lo);
  V out = select(x < 0, sum.hi + low, positive);
  const V plain = log(a);
  out = select(a < 0x1p-60, -plain, select(a > 0x1p60, a * (plain - 1), out));
  out = select((x < 0) & pole, kInfinity, select((x == 1) | (x == 2), 0, out));
  return select(x == x, out, x);
}

}  // namespace quern::cpu::f64
