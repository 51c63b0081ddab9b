// Transcendental functions in f64 arithmetic, by the methods of math_f32.cpp; the polynomials are made the same way, in
// 45 digits and rounded to f64. pow carries its logarithm as an unevaluated sum of two doubles.
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

struct Exponential {
  V less_one, n;   // e^(x + low) = 2^n (1 + less_one)
};
Exponential exponential(V x, V low) {   // |x| < 2^11
  const Nearest n = nearest(x, std::numbers::log2e);
  const V r = fma(n.number, -kLn2Low, fma(n.number, -kLn2High, x)) + low;
  return {fma(r * r, polynomial(r, kExp), r), n.integer};
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

}  // namespace

V exp(V x) {
  const Exponential e = exponential(bounded(x), x.like(0));
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
  const Exponential e = exponential(at_most(a + a, 44), x.like(0));
  const V power = power_of_two(e.n), large = 1 - x.like(2) / (fma(power, e.less_one, power) + 1);
  return copysign(select(a > 0.625, large, small), x);
}

V erf(V x) {
  const V a = magnitude(x), small = fma(polynomial(a * a, kErf), a, a);
  const Exponential e = exponential(polynomial(at_most(a, 5.95), kLogErfc), x.like(0));
  const V power = power_of_two(e.n), large = 1 - fma(power, e.less_one, power);
  return copysign(select(a > 0.84375, large, small), x);
}

V sine(V x, int quarter) {
  const Nearest n = nearest(x, 2 / std::numbers::pi);
  const V minus = -n.number;
  const Pair second = two_sum(fma(minus, kHalfPi[0], x), minus * kHalfPi[1]);
  const Pair third = two_sum(second.hi, minus * kHalfPi[2]);
  const Pair rest = fast_sum(third.hi, (second.lo + third.lo) + minus * kHalfPi[3]);
  const QuarterTurns turns = quarter_turns_if_large(x, {rest.hi, rest.lo, n.integer});
  const V q = turns.quarter + quarter, r = turns.hi, z = r * r, half = z * 0.5, less = 1 - half;
  const V sine = r + fma(r * z, polynomial(z, kSin), turns.lo * less);
  const V cosine = less + (((1 - less) - half) + fma(z * z, polynomial(z, kCos), -(r * turns.lo)));
  const V odd = (q & 1) == 1, out = select(odd, cosine, sine);
  const V turned = (out.bits() ^ (q & 2).shl(62)).as_float();
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

}  // namespace quern::cpu::f64
