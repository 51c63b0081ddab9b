// Inside the CPU emitter: what math.cpp, math_f32.cpp and math_f64.cpp share. V spells arithmetic on register values as
// expressions (scalar or vector, float or integer), so that a function here reads as its formula.
#pragma once
#include <array>
#include <type_traits>

#include "codegen/llvm/values.h"

namespace quern::cpu {

class V {
 public:
  V(const Scalars& s, LlvmValue v) : s(&s), v(v) {}
  operator LlvmValue() const { return v; }
  const Scalars* s;
  LlvmValue v;

  Builder& b() const { return s->b; }
  llvm::Type* type() const { return v->getType(); }
  bool floating() const { return type()->isFPOrFPVectorTy(); }
  V with(LlvmValue value) const { return {*s, value}; }
  template <class C>
  V like(C c) const {   // a constant of this type
    if (floating()) return with(s->number(type(), static_cast<double>(c)));
    return with(s->integer(type(), static_cast<int64_t>(c)));
  }
  V to(llvm::Type* element, llvm::Instruction::CastOps how) const { return with(b().CreateCast(how, v, s->like(element, v))); }
  V bits() const { return to(b().getIntNTy(type()->getScalarSizeInBits()), llvm::Instruction::BitCast); }
  V as_float() const { return to(type()->getScalarSizeInBits() == 32 ? b().getFloatTy() : b().getDoubleTy(), llvm::Instruction::BitCast); }
  V shl(int n) const { return with(b().CreateShl(v, like(n))); }
  V shr(int n) const { return with(b().CreateLShr(v, like(n))); }
  V sar(int n) const { return with(b().CreateAShr(v, like(n))); }
};

template <class C>
concept Constant = std::is_arithmetic_v<C>;
#define QN_ARITHMETIC(op, FLOAT, INTEGER)                                                                                \
  inline V operator op(V x, V y) { return x.with(x.floating() ? x.b().FLOAT(x, y) : x.b().INTEGER(x, y)); }              \
  template <Constant C> V operator op(V x, C y) { return x op x.like(y); }                                               \
  template <Constant C> V operator op(C x, V y) { return y.like(x) op y; }
QN_ARITHMETIC(+, CreateFAdd, CreateAdd)
QN_ARITHMETIC(-, CreateFSub, CreateSub)
QN_ARITHMETIC(*, CreateFMul, CreateMul)
QN_ARITHMETIC(<, CreateFCmpOLT, CreateICmpSLT)
QN_ARITHMETIC(>, CreateFCmpOGT, CreateICmpSGT)
QN_ARITHMETIC(==, CreateFCmpOEQ, CreateICmpEQ)
#undef QN_ARITHMETIC
inline V operator/(V x, V y) { return x.with(x.b().CreateFDiv(x, y)); }
inline V operator-(V x) { return x.with(x.b().CreateFNeg(x)); }
inline V operator&(V x, V y) { return x.with(x.b().CreateAnd(x, y)); }
inline V operator|(V x, V y) { return x.with(x.b().CreateOr(x, y)); }
inline V operator^(V x, V y) { return x.with(x.b().CreateXor(x, y)); }
inline V operator!(V x) { return x.with(x.b().CreateNot(x)); }
template <Constant C> V operator&(V x, C y) { return x & x.like(y); }

inline V select(V condition, V x, V y) { return x.with(x.b().CreateSelect(condition, x, y)); }
template <Constant C> V select(V condition, C x, V y) { return select(condition, y.like(x), y); }
/// x*y + z, rounded once or twice.
inline V fma(V x, V y, V z) { return x.with(x.s->fma(x, y, z)); }
template <Constant C> V fma(V x, C y, V z) { return fma(x, x.like(y), z); }
template <Constant C> V fma(V x, V y, C z) { return fma(x, y, x.like(z)); }
inline V magnitude(V x) { return x.with(x.s->call(llvm::Intrinsic::fabs, {x})); }
inline V copysign(V x, V sign) { return x.with(x.s->call(llvm::Intrinsic::copysign, {x, sign})); }
/// The nearer of x and the bound; NaN stays.
inline V at_most(V x, double bound) { return select(x > bound, bound, x); }
inline V at_least(V x, double bound) { return select(x < bound, bound, x); }

/// Horner's rule; coefficients from the lowest degree.
template <size_t N>
V polynomial(V x, const std::array<double, N>& c) {
  V p = x.like(c[N - 1]);
  for (size_t k = N - 1; k-- > 0;) p = fma(p, x, c[k]);
  return p;
}

/// hi + lo, where hi is the sum rounded.
struct Pair {
  V hi, lo;
};
Pair two_sum(V x, V y);        // exact
Pair fast_sum(V x, V y);       // exact where |x| >= |y| or x is 0
Pair two_product(V x, V y);    // exact but for underflow; where the arch has no fma, |x| and |y| below 2^990 (f32: 2^100)

/// The integer nearest x*factor as a float and as an integer, for |x*factor| < 2^22 (f32) or 2^51.
struct Nearest {
  V number, integer;
};
Nearest nearest(V x, double factor);
/// 2^n where that is a normal number; f32 from i32, f64 from i64.
V power_of_two(V n);
/// p*2^n rounded once where the result is subnormal; infinite past the end; |n| up to twice what power_of_two takes.
V scaled(V p, V n);
V scaled(V p, Nearest n);   // AVX-512 has an instruction
/// What pow(x, y) is, given |x|^y for what has a finite logarithm times y: signs and the cases of IEEE 754.
V finish_power(V x, V y, V magnitude);

/// x = (quarter + 4k) pi/2 + r for some k, |r| <= pi/4, r = hi + lo to a relative error of 2^-60; f64 (quarter i64).
/// For |x| >= 2^20 a branch to exact integers, taken where any lane wants it. NaN for infinities.
struct QuarterTurns {
  V hi, lo, quarter;
};
QuarterTurns quarter_turns(V x);
/// Only the branch: replaces the lanes of `fast` where |x| >= 2^20.
QuarterTurns quarter_turns_if_large(V x, QuarterTurns fast);

/// pi/2 in parts; the first three of 33 bits, so that their products with integers below 2^20 are exact.
inline constexpr double kHalfPi[] = {0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104};

namespace f32 {
V exp(V x);
V log(V x);
V tanh(V x);
V erf(V x);
V sine(V x, int quarter);   // quarter 1: cosine
V pow(V x, V y);
}  // namespace f32
namespace f64 {
V exp(V x);
V log(V x);
V tanh(V x);
V erf(V x);
V sine(V x, int quarter);
V pow(V x, V y);
// f32 takes these, too.
V expm1(V x);
V log1p(V x);
V tan(V x);
V asin(V x);
V acos(V x);
V atan2(V y, V x);
V sinh(V x);
V cosh(V x);
V asinh(V x);
V acosh(V x);
V atanh(V x);
V erfc(V x);
V erf_inv(V x);
V lgamma(V x);   // near its zeros within 2^-52 of the largest term
V remainder(V x, V y);   // exact, in math.cpp
}  // namespace f64

}  // namespace quern::cpu
