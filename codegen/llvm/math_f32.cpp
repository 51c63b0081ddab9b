// Transcendental functions in f32 arithmetic; sines reduce their angle, and pow works, in f64. Methods: reduction by
// multiples of ln 2 or pi/2 in parts (Cody and Waite, 1980), then one polynomial. Every polynomial is a minimax fit
// (Remez exchange in 50 digits), its coefficients rounded to f32 one after the other and the rest refitted; the bound
// beside it is the largest error of the rounded polynomial relative to the function's value (1 ULP is 2^-23 or 2^-24).
#include <limits>
#include <numbers>

#include "codegen/llvm/math.h"

namespace quern::cpu::f32 {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// ln 2: the first part of 15 bits, exact times integers of 9 bits.
constexpr double kLn2High = 0x1.62e4p-1, kLn2Low = std::numbers::ln2 - kLn2High;

// (e^r - 1 - r)/r^2 on |r| <= ln 2/2; 2^-26.1 of e^r - 1.
constexpr std::array kExp = {0x1p-1, 0x1.5554a8p-3, 0x1.555538p-5, 0x1.122dfep-7, 0x1.6cd37ep-10};
// (log(1+f) - f + f^2/2)/f^3 on sqrt(1/2) <= 1+f <= sqrt 2; 2^-26.8.
constexpr std::array kLog = {0x1.55554ap-2, -0x1.000222p-2, 0x1.99a5bap-3, -0x1.5477e6p-3, 0x1.226a72p-3, -0x1.0ce16ep-3, 0x1.080abap-3, -0x1.42cbcp-4};
// (tanh(x)/x - 1)/x^2 in x^2 on |x| <= 0.625; 2^-27.7.
constexpr std::array kTanh = {-0x1.555532p-2, 0x1.1106f4p-3, -0x1.b83534p-5, 0x1.51f52p-6, -0x1.74f964p-8};
// erf(x)/x - 1 as a polynomial in x^2 on |x| <= 0.93; 2^-25.8.
constexpr std::array kErf = {0x1.06eba6p-3, -0x1.8126e8p-2, 0x1.ce1a88p-4, -0x1.b689b6p-6, 0x1.4723dep-8, -0x1.39890ap-11};
// log(erfc(x)) on 0.929 <= x <= 4; 2^-29.2 of erf.
constexpr std::array kLogErfc = {-0x1.b804acp-13, -0x1.20ab88p+0, -0x1.464994p-1, -0x1.a95a58p-4, 0x1.6b7da4p-6, -0x1.8d8744p-9, 0x1.98b4d6p-13};
// (sin(r)/r - 1)/r^2 and (cos(r) - 1 + r^2/2)/r^4 in r^2 on |r| <= pi/4; 2^-28.0 and 2^-33.1.
constexpr std::array kSin = {-0x1.555546p-3, 0x1.110778p-7, -0x1.995376p-13};
constexpr std::array kCos = {0x1.55554ap-5, -0x1.6c0c1ap-10, 0x1.99e0f6p-16};
// In f64: log2(1+f)/f as for kLog, 2^-38.5; 2^r on |r| <= 1/2, 2^-34.5.
constexpr std::array kLog2 = {0x1.71547652b58e1p+0,  -0x1.71547651b60d6p-1, 0x1.ec709de34b2afp-2,  -0x1.7154788a3a755p-2, 0x1.2776b6c83dcc3p-2,
                              -0x1.ec6f2ce31b942p-3, 0x1.a61b7e23c7c03p-3,  -0x1.7188f309d0963p-3, 0x1.481fcb0ef2b34p-3,  -0x1.23d4d0a36a41ap-3,
                              0x1.0acb26b55b25dp-3,  -0x1.13be178878281p-3, 0x1.0f736177fee64p-3,  -0x1.1dbadc3990942p-4};
constexpr std::array kExp2 = {0x1.ffffffffab504p-1, 0x1.62e42ff116cbfp-1, 0x1.ebfbe0a512e10p-3, 0x1.c6b08aaef7844p-5,
                              0x1.3b29dbfea19e2p-7, 0x1.5d8a706002d9dp-10, 0x1.446a53b66320cp-13, 0x1.fe180e67d90e6p-17};

struct Exponential {
  V less_one;
  Nearest n;   // e^x = 2^n (1 + less_one)
};
Exponential exponential(V x) {   // |x| < 2^20, but for n in the result only |x| < 180 is accurate
  const Nearest n = nearest(x, std::numbers::log2e);
  const V r = fma(n.number, -kLn2Low, fma(n.number, -kLn2High, x));
  return {fma(r * r, polynomial(r, kExp), r), n};
}

V to_double(V x) { return x.to(x.b().getDoubleTy(), llvm::Instruction::FPExt); }
V to_single(V x) { return x.to(x.b().getFloatTy(), llvm::Instruction::FPTrunc); }

}  // namespace

V exp(V x) {
  const Exponential e = exponential(at_least(at_most(x, 89), -104));
  return scaled(select(x < -104, 0, e.less_one + 1), e.n);   // what underflows takes a hundred cycles; masked scores all do
}

V log(V x) {
  const V tiny = x < 0x1p-126;
  const V bits = select(tiny, x * 0x1p25, x).bits();
  // The mantissa in [sqrt(1/2), sqrt 2): move the exponent's boundary there.
  const V e = (bits - 0x3f3504f3).sar(23), m = (bits - e.shl(23)).as_float();
  V k = e.to(x.b().getFloatTy(), llvm::Instruction::SIToFP);
  k = select(tiny, k - 25, k);
  const V f = m - 1, square = f * f;
  V out = fma(square * f, polynomial(f, kLog), k * kLn2Low);
  out = fma(k, kLn2High, f + fma(square, -0.5, out));
  const V special = !((x > 0) & (x < kInfinity));
  const V instead = select(x == 0, -kInfinity, select(x < 0, std::numeric_limits<double>::quiet_NaN(), x));
  return select(special, instead, out);
}

V tanh(V x) {   // 1 - 2/(e^2x + 1) where that does not cancel
  const V a = magnitude(x), z = a * a, small = fma(a * z, polynomial(z, kTanh), a);
  const Exponential e = exponential(at_most(a + a, 20));
  const V power = power_of_two(e.n.integer), large = 1 - x.like(2) / (fma(power, e.less_one, power) + 1);
  return copysign(select(a > 0.625, large, small), x);
}

V erf(V x) {
  const V a = magnitude(x), small = fma(polynomial(a * a, kErf), a, a);
  const Exponential e = exponential(polynomial(at_most(a, 4), kLogErfc));
  const V power = power_of_two(e.n.integer), large = 1 - fma(power, e.less_one, power);
  return copysign(select(a > 0.9296875, large, small), x);
}

V sine(V x, int quarter) {
  const V wide = to_double(x);
  const Nearest n = nearest(wide, 2 / std::numbers::pi);
  const V rest = fma(n.number, -(kHalfPi[1] + kHalfPi[2]), fma(n.number, -kHalfPi[0], wide));
  const QuarterTurns turns = quarter_turns_if_large(wide, {rest, rest.like(0), n.integer});
  const V q = turns.quarter.to(x.b().getInt32Ty(), llvm::Instruction::Trunc) + quarter;
  const V r = to_single(turns.hi), z = r * r;
  const V sine = fma(r * z, polynomial(z, kSin), r);
  const V cosine = fma(z * z, polynomial(z, kCos), fma(z, -0.5, z.like(1)));
  const V out = select((q & 1) == 1, cosine, sine);
  const V turned = (out.bits() ^ (q & 2).shl(30)).as_float();
  return quarter == 0 ? select(x == 0, x, turned) : turned;   // keeps the sign of zero
}

V pow(V x, V y) {   // 2^(y log2 |x|)
  const V a = to_double(magnitude(x)), bits = a.bits();
  const V e = (bits - 0x3fe6a09e667f3bcd).sar(52), f = (bits - e.shl(52)).as_float() - 1;
  V logarithm = fma(f, polynomial(f, kLog2), e.to(x.b().getDoubleTy(), llvm::Instruction::SIToFP));
  logarithm = select(a == 0, -kInfinity, select(a < kInfinity, logarithm, a));
  const V product = at_least(at_most(logarithm * to_double(y), 200), -200);
  const Nearest n = nearest(product, 1);
  return finish_power(x, y, to_single(polynomial(product - n.number, kExp2) * power_of_two(n.integer)));
}

}  // namespace quern::cpu::f32
