// Transcendental functions as vector arithmetic in f64, for f64 and (with fewer terms) f32 results. Methods: argument
// reduction by multiples of ln 2 or pi/2 split in parts (Cody and Waite, "Software Manual for the Elementary
// Functions", 1980), then Taylor or Chebyshev series whose coefficients are computed here.
// Accuracy: f32 results within 1 ULP; f64 within 4 ULP (pow: the error grows with |y log x|). sin and cos keep it for
// |x| < 2^20; beyond, the reduction loses bits.
#include <cmath>
#include <numbers>

#include "codegen/llvm/values.h"

namespace quern::cpu {

namespace {

using llvm::Intrinsic::ID;

std::vector<double> exp_series(int degree, int first) {   // x^k/k! from x^first on
  std::vector<double> out;
  double factorial = 1;
  for (int k = 0; k <= degree; ++k) {
    if (k > 0) factorial *= k;
    if (k >= first) out.push_back(1 / factorial);
  }
  return out;
}

// Chebyshev coefficients of f on [-1, 1], n of them.
template <class F>
std::vector<double> chebyshev(int n, F&& f) {
  std::vector<double> out;
  for (int k = 0; k < n; ++k) {
    long double sum = 0;
    for (int j = 0; j < n; ++j) {
      const long double angle = std::numbers::pi_v<long double> * (j + 0.5L) / n;
      sum += f(std::cos(angle)) * std::cos(k * angle);
    }
    out.push_back(static_cast<double>(sum * (k == 0 ? 1.0L : 2.0L) / n));
  }
  return out;
}

constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b39p-40;   // high part: 11 zero bits at its end
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

LlvmValue Scalars::call(ID id, std::vector<LlvmValue> args) const {
  return b.CreateIntrinsic(id, {args[0]->getType()}, args);
}

LlvmValue Scalars::polynomial(LlvmValue x, const std::vector<double>& c) const {
  LlvmValue p = number(x->getType(), c.back());
  for (size_t k = c.size() - 1; k-- > 0;) p = fma(p, x, number(x->getType(), c[k]));
  return p;
}

// 2^n for a float n, by two factors so that subnormal results round once and overflow gives infinity.
static LlvmValue scaled(const Scalars& s, LlvmValue p, LlvmValue n) {
  Builder& b = s.b;
  llvm::Type* type = p->getType();
  llvm::Type* bits = s.like(b.getInt64Ty(), p);
  const LlvmValue whole = b.CreateFPToSI(n, bits), half = b.CreateAShr(whole, s.integer(bits, 1));
  const auto power = [&](LlvmValue e) { return b.CreateBitCast(b.CreateShl(b.CreateAdd(e, s.integer(bits, 1023)), s.integer(bits, 52)), type); };
  return b.CreateFMul(b.CreateFMul(p, power(half)), power(b.CreateSub(whole, half)));
}

LlvmValue Scalars::exp(LlvmValue x, bool single) const {
  llvm::Type* t = x->getType();
  const LlvmValue nan = b.CreateFCmpUNO(x, x);
  LlvmValue y = b.CreateSelect(nan, number(t, 0), x);
  y = call(llvm::Intrinsic::minnum, {call(llvm::Intrinsic::maxnum, {y, number(t, -760)}), number(t, 720)});
  const LlvmValue n = call(llvm::Intrinsic::rint, {b.CreateFMul(y, number(t, std::numbers::log2e))});
  const LlvmValue r = fma(n, number(t, -kLn2Low), fma(n, number(t, -kLn2High), y));
  const LlvmValue p = polynomial(r, exp_series(single ? 8 : 13, 0));
  return b.CreateSelect(nan, x, scaled(*this, p, n));
}

LlvmValue Scalars::log(LlvmValue x, bool single) const {
  llvm::Type* t = x->getType();
  llvm::Type* i = like(b.getInt64Ty(), x);
  const LlvmValue tiny = b.CreateFCmpOLT(x, number(t, 0x1p-1022));
  const LlvmValue bits = b.CreateBitCast(b.CreateSelect(tiny, b.CreateFMul(x, number(t, 0x1p54)), x), i);
  // m in [sqrt(1/2), sqrt 2): move the exponent's boundary there.
  const LlvmValue shifted = b.CreateSub(bits, integer(i, 0x3fe6a09e667f3bcd));
  const LlvmValue e = b.CreateAShr(shifted, integer(i, 52));
  const LlvmValue m = b.CreateBitCast(b.CreateSub(bits, b.CreateShl(e, integer(i, 52))), t);
  LlvmValue k = b.CreateSIToFP(e, t);
  k = b.CreateSelect(tiny, b.CreateFSub(k, number(t, 54)), k);
  // log m = 2 atanh s, s = (m-1)/(m+1)
  const LlvmValue f = b.CreateFSub(m, number(t, 1)), s = b.CreateFDiv(f, b.CreateFAdd(m, number(t, 1))), q = b.CreateFMul(s, s);
  std::vector<double> c;
  for (int j = 1; j <= (single ? 5 : 11); ++j) c.push_back(2.0 / (2 * j + 1));
  const LlvmValue tail = b.CreateFMul(b.CreateFMul(s, q), polynomial(q, c));
  const LlvmValue log_m = b.CreateFAdd(b.CreateFMul(number(t, 2), s), tail);
  LlvmValue out = b.CreateFAdd(b.CreateFMul(k, number(t, kLn2High)), fma(k, number(t, kLn2Low), log_m));
  out = b.CreateSelect(b.CreateFCmpOEQ(x, number(t, kInfinity)), x, out);
  out = b.CreateSelect(b.CreateFCmpOEQ(x, number(t, 0)), number(t, -kInfinity), out);
  out = b.CreateSelect(b.CreateFCmpOLT(x, number(t, 0)), number(t, std::nan("")), out);
  return b.CreateSelect(b.CreateFCmpUNO(x, x), x, out);
}

LlvmValue Scalars::tanh(LlvmValue x, bool single) const {
  llvm::Type* t = x->getType();
  const LlvmValue a = call(llvm::Intrinsic::fabs, {x}), y = b.CreateFMul(a, number(t, 2));
  // small: expm1(y)/(expm1(y)+2) by its series; otherwise 1 - 2/(exp(y)+1).
  const LlvmValue small_y = b.CreateSelect(b.CreateFCmpOLT(a, number(t, 0.25)), y, number(t, 0));
  const LlvmValue em = b.CreateFMul(small_y, polynomial(small_y, exp_series(single ? 10 : 16, 1)));
  const LlvmValue near = b.CreateFDiv(em, b.CreateFAdd(em, number(t, 2)));
  const LlvmValue far = b.CreateFSub(number(t, 1), b.CreateFDiv(number(t, 2), b.CreateFAdd(exp(y, single), number(t, 1))));
  const LlvmValue out = b.CreateSelect(b.CreateFCmpOLT(a, number(t, 0.25)), near, far);
  return b.CreateIntrinsic(llvm::Intrinsic::copysign, {t}, {out, x});
}

LlvmValue Scalars::erf(LlvmValue x, bool single) const {
  llvm::Type* t = x->getType();
  const LlvmValue a = call(llvm::Intrinsic::fabs, {x}), q = b.CreateFMul(a, a);
  const LlvmValue is_small = b.CreateFCmpOLT(a, number(t, 0.75));
  // small: 2/sqrt(pi) * sum (-1)^n x^(2n+1) / (n! (2n+1))
  std::vector<double> c;
  double factorial = 1;
  for (int n = 0; n <= (single ? 9 : 16); ++n) {
    if (n > 0) factorial *= -n;
    c.push_back(2 * std::numbers::inv_sqrtpi / (factorial * (2 * n + 1)));
  }
  const LlvmValue near = b.CreateFMul(a, polynomial(b.CreateSelect(is_small, q, number(t, 0)), c));
  // otherwise: 1 - exp(-x^2) g(u), where g = erfc(x) exp(x^2) is smooth in u = (x - 2)/(x + 2).
  const std::vector<double> g = chebyshev(single ? 14 : 28, [](long double u) {
    const long double z = 2 * (1 + u) / (1 - u);
    if (z > 60) {   // asymptotic: erfc(z) exp(z^2) = 1/(z sqrt(pi)) (1 - 1/(2z^2) + 3/(4z^4) - …)
      const long double w = 1 / (2 * z * z);
      return (1 - w + 3 * w * w - 15 * w * w * w) / (z * std::sqrt(std::numbers::pi_v<long double>));
    }
    return std::erfc(z) * std::exp(z * z);
  });
  const LlvmValue z = call(llvm::Intrinsic::minnum, {a, number(t, 30)});
  const LlvmValue u = b.CreateFDiv(b.CreateFSub(z, number(t, 2)), b.CreateFAdd(z, number(t, 2)));
  const LlvmValue u2 = b.CreateFMul(u, number(t, 2));
  LlvmValue b1 = number(t, 0), b2 = number(t, 0);
  for (size_t k = g.size(); k-- > 1;) {   // Clenshaw
    const LlvmValue next = b.CreateFSub(fma(u2, b1, number(t, g[k])), b2);
    b2 = b1;
    b1 = next;
  }
  const LlvmValue series = b.CreateFSub(fma(u, b1, number(t, g[0])), b2);
  const LlvmValue far = fma(b.CreateFNeg(exp(b.CreateFNeg(b.CreateFMul(z, z)), single)), series, number(t, 1));
  const LlvmValue out = b.CreateIntrinsic(llvm::Intrinsic::copysign, {t}, {b.CreateSelect(is_small, near, far), x});
  return b.CreateSelect(b.CreateFCmpUNO(x, x), x, out);
}

LlvmValue Scalars::sine(LlvmValue x, bool single, int quarter) const {
  llvm::Type* t = x->getType();
  llvm::Type* i = like(b.getInt64Ty(), x);
  const LlvmValue bad = b.CreateNot(b.CreateFCmpOLT(call(llvm::Intrinsic::fabs, {x}), number(t, 0x1p62)));   // NaN too
  const LlvmValue y = b.CreateSelect(bad, number(t, 0), x);
  const LlvmValue n = call(llvm::Intrinsic::rint, {b.CreateFMul(y, number(t, 2 / std::numbers::pi))});
  // pi/2 in three parts of 33 bits and a rest.
  LlvmValue r = fma(n, number(t, -0x1.921fb54400000p+0), y);
  r = fma(n, number(t, -0x1.0b4611a600000p-34), r);
  r = fma(n, number(t, -0x1.3198a2e037073p-69), r);
  const LlvmValue q = b.CreateFMul(r, r);
  std::vector<double> s, c;
  double factorial = 1;
  for (int k = 0; k <= (single ? 12 : 18); ++k) {
    if (k > 0) factorial *= k;
    const double sign = (k / 2) % 2 ? -1 : 1;
    (k % 2 ? s : c).push_back(sign / factorial);
  }
  const LlvmValue sin_r = b.CreateFMul(r, polynomial(q, s)), cos_r = polynomial(q, c);
  const LlvmValue quadrant = b.CreateAdd(b.CreateFPToSI(n, i), integer(i, quarter));
  const LlvmValue odd = b.CreateICmpNE(b.CreateAnd(quadrant, integer(i, 1)), integer(i, 0));
  const LlvmValue negative = b.CreateICmpNE(b.CreateAnd(quadrant, integer(i, 2)), integer(i, 0));
  const LlvmValue value = b.CreateSelect(odd, cos_r, sin_r);
  // x - x is NaN for infinities and NaN.
  const LlvmValue out = b.CreateSelect(bad, b.CreateFSub(x, x), b.CreateSelect(negative, b.CreateFNeg(value), value));
  if (quarter) return out;
  return b.CreateSelect(b.CreateFCmpOEQ(x, number(t, 0)), x, out);   // the reduction loses the sign of sin(-0)
}

LlvmValue Scalars::pow(LlvmValue x, LlvmValue y, bool single) const {
  llvm::Type* t = x->getType();
  const LlvmValue one = number(t, 1), zero = number(t, 0);
  const LlvmValue magnitude = exp(b.CreateFMul(y, log(call(llvm::Intrinsic::fabs, {x}), false)), single);
  const auto whole = [&](LlvmValue v) { return b.CreateFCmpOEQ(call(llvm::Intrinsic::floor, {v}), v); };
  const LlvmValue is_integer = whole(y), is_odd = b.CreateAnd(is_integer, b.CreateNot(whole(b.CreateFMul(y, number(t, 0.5)))));
  const LlvmValue bits = b.CreateBitCast(x, like(b.getInt64Ty(), x));
  const LlvmValue negative = b.CreateICmpSLT(bits, integer(bits->getType(), 0));
  LlvmValue out = b.CreateSelect(b.CreateAnd(negative, is_odd), b.CreateFNeg(magnitude), magnitude);
  const LlvmValue finite = b.CreateFCmpOGT(x, number(t, -kInfinity));
  const LlvmValue undefined = b.CreateAnd(b.CreateAnd(b.CreateFCmpOLT(x, zero), finite), b.CreateAnd(b.CreateNot(is_integer), b.CreateFCmpORD(y, y)));
  out = b.CreateSelect(undefined, number(t, std::nan("")), out);
  const LlvmValue infinite_y = b.CreateFCmpOEQ(call(llvm::Intrinsic::fabs, {y}), number(t, kInfinity));
  const LlvmValue unit = b.CreateFCmpOEQ(call(llvm::Intrinsic::fabs, {x}), one);
  out = b.CreateSelect(b.CreateAnd(infinite_y, unit), one, out);
  out = b.CreateSelect(b.CreateFCmpOEQ(x, one), one, out);
  return b.CreateSelect(b.CreateFCmpOEQ(y, zero), one, out);
}

}  // namespace quern::cpu
