// Spelling scalar ops on register values; see values.h. Floats of 16 bits compute in f32 and round after every op,
// which for + - * / and sqrt equals rounding the exact result once (24 >= 2*11 + 2 bits).
#include <bit>
#include <cmath>

#include <llvm/IR/IntrinsicsX86.h>

#include "codegen/llvm/values.h"
#include "ir/support/fault.h"

namespace quern::cpu {

llvm::Type* Scalars::element(DType dtype) const {
  switch (dtype) {
    case DType::f64: return b.getDoubleTy();
    case DType::f32: case DType::bf16: case DType::f16: return b.getFloatTy();
    case DType::boolean: return b.getInt1Ty();
    default: return b.getIntNTy(static_cast<unsigned>(8 * size_of(dtype)));
  }
}
llvm::Type* Scalars::memory(DType dtype) const {
  if (dtype == DType::bf16 || dtype == DType::f16) return b.getInt16Ty();
  return dtype == DType::boolean ? b.getInt8Ty() : element(dtype);
}
llvm::Type* Scalars::like(llvm::Type* element, LlvmValue shape) const {
  return shape && shape->getType()->isVectorTy() ? llvm::FixedVectorType::get(element, static_cast<unsigned>(lanes)) : element;
}
LlvmValue Scalars::number(llvm::Type* type, double value) const { return llvm::ConstantFP::get(type, value); }
LlvmValue Scalars::integer(llvm::Type* type, int64_t value) const {
  return llvm::ConstantInt::get(type, static_cast<uint64_t>(value), true);
}
LlvmValue Scalars::constant(const Scalar& value, LlvmValue shape) const {
  llvm::Type* type = like(element(value.dtype), shape);
  return is_float(value.dtype) ? number(type, value.f) : integer(type, value.i);
}

LlvmValue Scalars::call(llvm::Intrinsic::ID id, std::vector<LlvmValue> args) const {
  return b.CreateIntrinsic(id, {args[0]->getType()}, args);
}

// AVX2 has eight lanes, and 64-bit elements take two registers.
static bool in_halves(llvm::Type* element, int lanes) { return lanes == 8 && element->getPrimitiveSizeInBits() == 64; }

LlvmValue Scalars::masked_load(llvm::Type* element, LlvmValue at, llvm::Align align, LlvmValue mask) const {
  llvm::Type* vector = llvm::FixedVectorType::get(element, static_cast<unsigned>(lanes));
  if (!in_halves(element, lanes)) return b.CreateMaskedLoad(vector, at, align, mask, llvm::Constant::getNullValue(vector));
  const auto id = element->isDoubleTy() ? llvm::Intrinsic::x86_avx_maskload_pd_256 : llvm::Intrinsic::x86_avx2_maskload_q_256;
  const auto [low, high] = mask_halves(mask);
  const LlvmValue first = b.CreateIntrinsic(id, {}, {at, low}), second = b.CreateIntrinsic(id, {}, {b.CreateConstGEP1_64(element, at, 4), high});
  return b.CreateShuffleVector(first, second, {0, 1, 2, 3, 4, 5, 6, 7});
}
void Scalars::masked_store(LlvmValue value, LlvmValue at, llvm::Align align, LlvmValue mask) const {
  llvm::Type* element = value->getType()->getScalarType();
  if (!in_halves(element, lanes)) {
    b.CreateMaskedStore(value, at, align, mask);
    return;
  }
  const auto id = element->isDoubleTy() ? llvm::Intrinsic::x86_avx_maskstore_pd_256 : llvm::Intrinsic::x86_avx2_maskstore_q_256;
  const auto [low, high] = mask_halves(mask);
  b.CreateIntrinsic(id, {}, {at, low, b.CreateShuffleVector(value, {0, 1, 2, 3})});
  b.CreateIntrinsic(id, {}, {b.CreateConstGEP1_64(element, at, 4), high, b.CreateShuffleVector(value, {4, 5, 6, 7})});
}
std::pair<LlvmValue, LlvmValue> Scalars::mask_halves(LlvmValue mask) const {
  const LlvmValue wide = b.CreateSExt(mask, llvm::FixedVectorType::get(b.getInt64Ty(), 8));
  return {b.CreateShuffleVector(wide, {0, 1, 2, 3}), b.CreateShuffleVector(wide, {4, 5, 6, 7})};
}

LlvmValue Scalars::from_memory(DType dtype, LlvmValue raw) const {
  llvm::Type* word = like(b.getInt32Ty(), raw);
  llvm::Type* single = like(b.getFloatTy(), raw);
  if (dtype == DType::boolean) return b.CreateICmpNE(raw, integer(raw->getType(), 0));
  if (dtype == DType::i4 || dtype == DType::u4) return wrap4(dtype, raw);
  if (dtype == DType::bf16) return b.CreateBitCast(b.CreateShl(b.CreateZExt(raw, word), integer(word, 16)), single);
  if (dtype != DType::f16) return raw;
  const LlvmValue bits = b.CreateZExt(raw, word);
  const LlvmValue body = b.CreateAnd(bits, integer(word, 0x7fff)), sign = b.CreateShl(b.CreateAnd(bits, integer(word, 0x8000)), integer(word, 16));
  const LlvmValue moved = b.CreateShl(body, integer(word, 13));
  const LlvmValue normal = b.CreateAdd(moved, integer(word, 112 << 23));
  const LlvmValue special = b.CreateOr(moved, integer(word, 0x7f800000));
  const LlvmValue small = b.CreateBitCast(b.CreateFMul(b.CreateUIToFP(body, single), number(single, 0x1p-24)), word);
  LlvmValue out = b.CreateSelect(b.CreateICmpULT(body, integer(word, 0x0400)), small, normal);
  out = b.CreateSelect(b.CreateICmpUGE(body, integer(word, 0x7c00)), special, out);
  return b.CreateBitCast(b.CreateOr(out, sign), single);
}

LlvmValue Scalars::to_memory(DType dtype, LlvmValue value) const {
  if (dtype == DType::boolean) return b.CreateZExt(value, like(b.getInt8Ty(), value));
  if (dtype != DType::bf16 && dtype != DType::f16) return value;
  llvm::Type* word = like(b.getInt32Ty(), value);
  llvm::Type* half = like(b.getInt16Ty(), value);
  const LlvmValue bits = b.CreateBitCast(value, word);
  if (dtype == DType::bf16) {   // rounded already, but a NaN must stay one
    const LlvmValue high = b.CreateLShr(bits, integer(word, 16));
    return b.CreateTrunc(b.CreateSelect(b.CreateFCmpUNO(value, value), b.CreateOr(high, integer(word, 0x40)), high), half);
  }
  const LlvmValue body = b.CreateAnd(bits, integer(word, 0x7fffffff)), sign = b.CreateAnd(b.CreateLShr(bits, integer(word, 16)), integer(word, 0x8000));
  const LlvmValue magnitude = b.CreateBitCast(body, value->getType());
  const LlvmValue is_small = b.CreateFCmpOLT(magnitude, number(value->getType(), 0x1p-14));
  const LlvmValue scaled = b.CreateSelect(is_small, b.CreateFMul(magnitude, number(value->getType(), 0x1p24)), number(value->getType(), 0));
  const LlvmValue small = b.CreateFPToSI(scaled, word);
  const LlvmValue normal = b.CreateSub(b.CreateLShr(body, integer(word, 13)), integer(word, 112 << 10));
  LlvmValue out = b.CreateSelect(is_small, small, normal);
  out = b.CreateSelect(b.CreateICmpUGE(body, integer(word, 0x7f800000)), b.CreateSelect(b.CreateFCmpUNO(value, value), integer(word, 0x7e00), integer(word, 0x7c00)), out);
  return b.CreateTrunc(b.CreateOr(out, sign), half);
}

LlvmValue Scalars::round(DType dtype, LlvmValue value) const {
  if (dtype != DType::bf16 && dtype != DType::f16) return value;
  llvm::Type* word = like(b.getInt32Ty(), value);
  const int drop = dtype == DType::bf16 ? 16 : 13;
  const LlvmValue bits = b.CreateBitCast(value, word);
  const LlvmValue odd = b.CreateAnd(b.CreateLShr(bits, integer(word, drop)), integer(word, 1));
  const LlvmValue up = drop == 16 && planted(Fault::bf16_truncated) ? bits : b.CreateAdd(b.CreateAdd(bits, integer(word, (1 << (drop - 1)) - 1)), odd);
  LlvmValue out = b.CreateBitCast(b.CreateAnd(up, integer(word, ~((int64_t{1} << drop) - 1))), value->getType());
  if (dtype == DType::f16) {
    const LlvmValue a = b.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, value);
    // Below 2^-14 the quantum is 2^-24, which is that of f32 between 0.5 and 1.
    const LlvmValue half = number(value->getType(), 0.5);
    const LlvmValue small = b.CreateIntrinsic(llvm::Intrinsic::copysign, {value->getType()}, {b.CreateFSub(b.CreateFAdd(a, half), half), value});
    out = b.CreateSelect(b.CreateFCmpOLT(a, number(value->getType(), 0x1p-14)), small, out);
    const LlvmValue infinity = b.CreateIntrinsic(llvm::Intrinsic::copysign, {value->getType()}, {number(value->getType(), INFINITY), value});
    out = b.CreateSelect(b.CreateFCmpOGE(a, number(value->getType(), 65520)), infinity, out);
  }
  return b.CreateSelect(b.CreateFCmpUNO(value, value), value, out);
}

LlvmValue Scalars::cast(DType to, DType from, LlvmValue x) const {
  if (to == from) return x;
  llvm::Type* type = like(element(to), x);
  if (is_f8(from)) return cast(to, DType::f32, from_f8(from, x));
  const bool source_float = is_float(from), unsigned_source = (is_unsigned(from) && !planted(Fault::cast_signed)) || from == DType::boolean;
  if (to == DType::boolean)
    return source_float ? b.CreateFCmpUNE(x, number(x->getType(), 0)) : b.CreateICmpNE(x, integer(x->getType(), 0));
  if (source_float && is_float(to)) return round(to, b.CreateFPCast(x, type));
  if (is_f8(to)) return to_f8(to, source_float ? x : cast(DType::f32, from, x));
  if (source_float) {
    const LlvmValue whole = b.CreateIntrinsic(is_unsigned(to) ? llvm::Intrinsic::fptoui_sat : llvm::Intrinsic::fptosi_sat, {type, x->getType()}, {x});
    if (to == DType::u4) return call(llvm::Intrinsic::umin, {whole, integer(type, 15)});
    return to == DType::i4 ? call(llvm::Intrinsic::smax, {call(llvm::Intrinsic::smin, {whole, integer(type, 7)}), integer(type, -8)}) : whole;
  }
  if (is_float(to)) return round(to, unsigned_source ? b.CreateUIToFP(x, type) : b.CreateSIToFP(x, type));
  const LlvmValue out = b.CreateIntCast(x, type, !unsigned_source);
  return to == DType::i4 || to == DType::u4 ? wrap4(to, out) : out;
}

// By way of memory's form, which has the bits of all but i4 and u4.
LlvmValue Scalars::bitcast(DType to, DType from, LlvmValue x) const {
  if (to == from) return x;
  if (planted(Fault::bitcast_as_cast)) return cast(to, from, x);
  return from_memory(to, b.CreateBitCast(to_memory(from, x), like(memory(to), x)));
}

LlvmValue Scalars::wrap4(DType dtype, LlvmValue x) const {
  llvm::Type* t = x->getType();
  return dtype == DType::u4 || planted(Fault::i4_unsigned) ? b.CreateAnd(x, integer(t, 15)) : b.CreateAShr(b.CreateShl(x, integer(t, 4)), integer(t, 4));
}

LlvmValue Scalars::from_f8(DType dtype, LlvmValue bits) const {
  if (dtype == DType::f8e5m2) {   // the upper byte of an f16
    llvm::Type* half = like(b.getInt16Ty(), bits);
    return from_memory(DType::f16, b.CreateShl(b.CreateZExt(bits, half), integer(half, 8)));
  }
  llvm::Type* word = like(b.getInt32Ty(), bits);
  llvm::Type* single = like(b.getFloatTy(), bits);
  const LlvmValue all = b.CreateZExt(bits, word), body = b.CreateAnd(all, integer(word, 0x7f)), sign = b.CreateShl(b.CreateAnd(all, integer(word, 0x80)), integer(word, 24));
  const LlvmValue normal = b.CreateAdd(b.CreateShl(body, integer(word, 20)), integer(word, 120 << 23));
  const LlvmValue small = b.CreateBitCast(b.CreateFMul(b.CreateUIToFP(body, single), number(single, 0x1p-9)), word);
  LlvmValue out = b.CreateSelect(b.CreateICmpULT(body, integer(word, 8)), small, normal);
  out = b.CreateSelect(b.CreateICmpEQ(body, integer(word, 0x7f)), integer(word, 0x7fc00000), out);
  return b.CreateBitCast(b.CreateOr(out, sign), single);
}

LlvmValue Scalars::to_f8(DType dtype, LlvmValue x) const {
  const bool wide = x->getType()->getScalarType()->isDoubleTy(), e4m3 = dtype == DType::f8e4m3;
  const int mantissa = e4m3 ? 3 : 2, bias = e4m3 ? 7 : 15, width = wide ? 64 : 32, drop = (wide ? 52 : 23) - mantissa;
  llvm::Type* t = x->getType();
  llvm::Type* word = like(b.getIntNTy(static_cast<unsigned>(width)), x);
  const auto below = [&](LlvmValue v, LlvmValue limit, LlvmValue least) { return b.CreateSelect(b.CreateICmpULT(v, limit), v, least); };
  const LlvmValue bits = b.CreateBitCast(x, word), body = b.CreateAnd(bits, integer(word, wide ? INT64_MAX : INT32_MAX)), magnitude = b.CreateBitCast(body, t);
  const LlvmValue sign = b.CreateAnd(b.CreateLShr(bits, integer(word, width - 8)), integer(word, 0x80));
  // Half a unit less one, and one more where the last kept bit is odd: nearest even.
  const LlvmValue odd = b.CreateAnd(b.CreateLShr(body, integer(word, drop)), integer(word, 1));
  const LlvmValue up = planted(Fault::f8_truncated) ? body : b.CreateAdd(b.CreateAdd(body, integer(word, (int64_t{1} << (drop - 1)) - 1)), odd);
  const LlvmValue normal = b.CreateSub(b.CreateLShr(up, integer(word, drop)), integer(word, int64_t{(wide ? 1023 : 127) - bias} << mantissa));
  // A sum whose unit is that of the numbers below the least normal one rounds to it.
  const LlvmValue large = number(t, std::ldexp(1.0, 1 - bias - mantissa + (wide ? 52 : 23)));
  const LlvmValue small = b.CreateSub(b.CreateBitCast(b.CreateFAdd(magnitude, large), word), b.CreateBitCast(large, word));
  LlvmValue out = b.CreateSelect(b.CreateFCmpOLT(magnitude, number(t, std::ldexp(1.0, 1 - bias))), small, normal);
  const LlvmValue infinity = integer(word, e4m3 ? 0x7f : 0x7c);
  out = below(out, infinity, infinity);
  out = b.CreateSelect(b.CreateFCmpUNO(x, x), integer(word, e4m3 ? 0x7f : 0x7e), out);
  return b.CreateTrunc(b.CreateOr(out, sign), like(b.getInt8Ty(), x));
}

LlvmValue Scalars::shift(Op op, bool is_unsigned, LlvmValue x, LlvmValue by) const {
  llvm::Type* t = x->getType();
  const int64_t bits = t->getScalarSizeInBits();
  const LlvmValue inside = b.CreateICmpULT(by, integer(t, bits));
  if (op == Op::shift_right_arithmetic && (!is_unsigned || planted(Fault::unsigned_shift))) return b.CreateAShr(x, b.CreateSelect(inside, by, integer(t, bits - 1)));
  const LlvmValue safe = b.CreateSelect(inside, by, integer(t, 0));
  return b.CreateSelect(inside, op == Op::shift_left ? b.CreateShl(x, safe) : b.CreateLShr(x, safe), integer(t, 0));
}

LlvmValue Scalars::truncated_remainder(bool is_unsigned, LlvmValue x, LlvmValue y) const {
  llvm::Type* t = x->getType();
  const LlvmValue zero = integer(t, 0);
  LlvmValue none = b.CreateICmpEQ(y, zero);
  if (!is_unsigned) none = b.CreateOr(none, b.CreateICmpEQ(y, integer(t, -1)));
  const LlvmValue safe = b.CreateSelect(none, integer(t, 1), y);
  return b.CreateSelect(none, zero, is_unsigned ? b.CreateURem(x, safe) : b.CreateSRem(x, safe));
}

LlvmValue Scalars::divide(DType dtype, LlvmValue x, LlvmValue y, bool remainder) const {
  llvm::Type* t = x->getType();
  const LlvmValue zero = integer(t, 0), by_zero = b.CreateICmpEQ(y, zero);
  if (is_unsigned(dtype)) {
    const LlvmValue safe = b.CreateSelect(by_zero, integer(t, 1), y);
    return b.CreateSelect(by_zero, zero, remainder ? b.CreateURem(x, safe) : b.CreateUDiv(x, safe));
  }
  const LlvmValue by_minus_one = b.CreateICmpEQ(y, integer(t, -1));
  const LlvmValue safe = b.CreateSelect(b.CreateOr(by_zero, by_minus_one), integer(t, 1), y);
  const LlvmValue r = b.CreateSRem(x, safe);
  const LlvmValue uneven = b.CreateAnd(b.CreateICmpNE(r, zero), b.CreateICmpSLT(b.CreateXor(r, y), zero));
  LlvmValue out;
  if (remainder) {
    out = b.CreateSelect(by_minus_one, zero, b.CreateSelect(uneven, b.CreateAdd(r, y), r));
  } else {
    const LlvmValue q = b.CreateSDiv(x, safe);
    out = b.CreateSelect(by_minus_one, b.CreateSub(zero, x), b.CreateSelect(planted(Fault::division_truncates) ? b.getFalse() : uneven, b.CreateSub(q, integer(t, 1)), q));
  }
  return b.CreateSelect(by_zero, zero, out);
}

// The quotient by the reciprocal, corrected twice by what it leaves (Markstein, 1990): correctly rounded, in a third of
// the division's time, where nothing under- or overflows on the way. Other lanes send all to the division.
LlvmValue Scalars::divide_by_one(LlvmValue x, LlvmValue y) const {
  llvm::Type* t = x->getType();
  llvm::Type* word = like(b.getInt32Ty(), x);
  const auto exact_fma = [&](LlvmValue p, LlvmValue q, LlvmValue z) { return call(llvm::Intrinsic::fma, {p, q, z}); };
  // |y| in [2^-20, 2^20]; x is 0 or |x| in [2^-100, 2^100]; both without their signs.
  const auto between = [&](LlvmValue v, double low, double high) {
    const uint32_t least = std::bit_cast<uint32_t>(static_cast<float>(low)), most = std::bit_cast<uint32_t>(static_cast<float>(high));
    return b.CreateICmpULE(b.CreateSub(v, integer(v->getType(), int64_t{2} * least)), integer(v->getType(), int64_t{2} * (most - least)));
  };
  const LlvmValue bits = b.CreateShl(b.CreateBitCast(x, word), integer(word, 1)), divisor = b.CreateShl(b.CreateBitCast(y, b.getInt32Ty()), b.getInt32(1));
  const LlvmValue usual = b.CreateOr(between(bits, 0x1p-100, 0x1p100), b.CreateICmpEQ(bits, integer(word, 0)));
  llvm::BasicBlock* before = b.GetInsertBlock();
  llvm::Function* f = before->getParent();
  llvm::BasicBlock *fast = llvm::BasicBlock::Create(f->getContext(), "fast", f), *slow = llvm::BasicBlock::Create(f->getContext(), "slow", f), *after = llvm::BasicBlock::Create(f->getContext(), "divided", f);
  b.CreateCondBr(b.CreateAnd(b.CreateAndReduce(usual), between(divisor, 0x1p-20, 0x1p20)), fast, slow);
  b.SetInsertPoint(fast);
  const LlvmValue inverse = splat(b.CreateFDiv(number(y->getType(), 1), y)), minus = splat(b.CreateFNeg(y));
  const LlvmValue first = b.CreateFMul(x, inverse), second = exact_fma(exact_fma(minus, first, x), inverse, first);
  const LlvmValue third = exact_fma(exact_fma(minus, second, x), inverse, second);
  const LlvmValue quotient = b.CreateIntrinsic(llvm::Intrinsic::copysign, {t}, {third, first});   // of a zero
  b.CreateBr(after);
  b.SetInsertPoint(slow);
  const LlvmValue exact = b.CreateFDiv(x, splat(y));
  b.CreateBr(after);
  b.SetInsertPoint(after);
  llvm::PHINode* out = b.CreatePHI(t, 2);
  out->addIncoming(quotient, fast);
  out->addIncoming(exact, slow);
  return out;
}

LlvmValue Scalars::integer_power(DType dtype, LlvmValue x, LlvmValue y) const {
  llvm::Type* t = x->getType();
  const int bits = static_cast<int>(t->getScalarSizeInBits());
  LlvmValue base = x, out = integer(t, 1);
  for (int i = 0; i < bits; ++i) {
    const LlvmValue set = b.CreateICmpNE(b.CreateAnd(y, integer(t, int64_t{1} << i)), integer(t, 0));
    out = b.CreateSelect(set, b.CreateMul(out, base), out);
    if (i + 1 < bits) base = b.CreateMul(base, base);
  }
  if (is_unsigned(dtype)) return out;
  return b.CreateSelect(b.CreateICmpSLT(y, integer(t, 0)), integer(t, 0), out);
}

LlvmValue Scalars::float_op(Op op, const std::vector<LlvmValue>& a) const {
  const LlvmValue x = a[0];
  llvm::Type* t = x->getType();
  switch (op) {
    case Op::neg: return b.CreateFNeg(x);
    case Op::abs: return call(llvm::Intrinsic::fabs, {x});
    case Op::sign: {
      const LlvmValue zero = number(t, 0);
      return b.CreateSelect(b.CreateFCmpOGT(x, zero), number(t, 1), b.CreateSelect(b.CreateFCmpOLT(x, zero), number(t, -1), x));
    }
    case Op::floor: return call(llvm::Intrinsic::floor, {x});
    case Op::round: return call(llvm::Intrinsic::roundeven, {x});
    case Op::sqrt: return call(llvm::Intrinsic::sqrt, {x});
    case Op::rsqrt: return b.CreateFDiv(number(t, 1), call(llvm::Intrinsic::sqrt, {x}));
    case Op::add: return b.CreateFAdd(x, a[1]);
    case Op::sub: return b.CreateFSub(x, a[1]);
    case Op::mul: return b.CreateFMul(x, a[1]);
    case Op::div: return b.CreateFDiv(x, a[1]);
    case Op::max: return call(llvm::Intrinsic::maximum, {x, a[1]});
    case Op::min: return call(llvm::Intrinsic::minimum, {x, a[1]});
    default: return transcendental(op, a);
  }
}

LlvmValue Scalars::apply(Op op, DType out, DType arg, std::vector<LlvmValue> a) const {
  if (op == Op::div && arg == DType::f32 && fused && branches && a[0]->getType()->isVectorTy() && !a[1]->getType()->isVectorTy() && !llvm::isa<llvm::Constant>(a[1])) return divide_by_one(a[0], a[1]);
  bool vector = false;
  for (LlvmValue v : a) vector = vector || v->getType()->isVectorTy();
  if (vector)
    for (LlvmValue& v : a) v = splat(v);
  const bool floating = is_float(arg), is_unsigned = (quern::is_unsigned(arg) || arg == DType::boolean) && !planted(Fault::compare_signed);
  switch (op) {
    case Op::cast: return cast(out, arg, a[0]);
    case Op::bitcast: return bitcast(out, arg, a[0]);
    case Op::select: return b.CreateSelect(a[0], a[1], a[2]);
    case Op::logical_and: return b.CreateAnd(a[0], a[1]);
    case Op::logical_or: return b.CreateOr(a[0], a[1]);
    case Op::logical_not: return b.CreateNot(a[0]);
    case Op::eq: return floating ? b.CreateFCmpOEQ(a[0], a[1]) : b.CreateICmpEQ(a[0], a[1]);
    case Op::ne: return floating ? b.CreateFCmpUNE(a[0], a[1]) : b.CreateICmpNE(a[0], a[1]);
    case Op::lt: return floating ? b.CreateFCmpOLT(a[0], a[1]) : is_unsigned ? b.CreateICmpULT(a[0], a[1]) : b.CreateICmpSLT(a[0], a[1]);
    case Op::le: return floating ? b.CreateFCmpOLE(a[0], a[1]) : is_unsigned ? b.CreateICmpULE(a[0], a[1]) : b.CreateICmpSLE(a[0], a[1]);
    case Op::mod:
      if (floating) {   // each step rounds, as in the reference
        const LlvmValue q = call(llvm::Intrinsic::floor, {round(out, b.CreateFDiv(a[0], a[1]))});
        return round(out, b.CreateFSub(a[0], round(out, b.CreateFMul(q, a[1]))));
      }
      break;
    default: break;
  }
  if (floating) return round(out, float_op(op, a));
  llvm::Type* t = a[0]->getType();
  const LlvmValue zero = integer(t, 0);
  switch (op) {
    case Op::neg: return b.CreateSub(zero, a[0]);
    case Op::abs: return is_unsigned ? a[0] : b.CreateSelect(b.CreateICmpSLT(a[0], zero), b.CreateSub(zero, a[0]), a[0]);
    case Op::sign:
      if (is_unsigned) return b.CreateZExt(b.CreateICmpNE(a[0], zero), t);
      return b.CreateSub(b.CreateZExt(b.CreateICmpSGT(a[0], zero), t), b.CreateZExt(b.CreateICmpSLT(a[0], zero), t));
    case Op::add: return b.CreateAdd(a[0], a[1]);
    case Op::sub: return b.CreateSub(a[0], a[1]);
    case Op::mul: return b.CreateMul(a[0], a[1]);
    case Op::div: return divide(arg, a[0], a[1], false);
    case Op::mod: return divide(arg, a[0], a[1], true);
    case Op::rem: return truncated_remainder(is_unsigned, a[0], a[1]);
    case Op::bit_and: return b.CreateAnd(a[0], a[1]);
    case Op::bit_or: return b.CreateOr(a[0], a[1]);
    case Op::bit_xor: return b.CreateXor(a[0], a[1]);
    case Op::shift_left: case Op::shift_right_logical: case Op::shift_right_arithmetic: return shift(op, is_unsigned, a[0], a[1]);
    case Op::pow: return integer_power(arg, a[0], a[1]);
    case Op::max: return b.CreateSelect(is_unsigned ? b.CreateICmpUGE(a[0], a[1]) : b.CreateICmpSGE(a[0], a[1]), a[0], a[1]);
    case Op::min: return b.CreateSelect(is_unsigned ? b.CreateICmpULE(a[0], a[1]) : b.CreateICmpSLE(a[0], a[1]), a[0], a[1]);
    default: QN_CHECK(false, "every elementwise op has its spelling"); return nullptr;
  }
}

LlvmValue Scalars::philox(LlvmValue key, uint32_t stream, LlvmValue index) const {
  llvm::Type* word = like(b.getInt32Ty(), index);
  llvm::Type* wide = like(b.getInt64Ty(), index);
  if (index->getType()->isVectorTy()) key = splat(key);
  const LlvmValue block = b.CreateLShr(index, integer(wide, 2)), zero = integer(word, 0);
  LlvmValue c[4] = {b.CreateTrunc(block, word), b.CreateTrunc(b.CreateLShr(block, integer(wide, 32)), word), zero, zero};
  LlvmValue k0 = key, k1 = integer(word, stream);
  const auto product = [&](LlvmValue x, uint32_t m, LlvmValue& high, LlvmValue& low) {
    const LlvmValue p = b.CreateMul(b.CreateZExt(x, wide), integer(wide, m));
    high = b.CreateTrunc(b.CreateLShr(p, integer(wide, 32)), word);
    low = b.CreateTrunc(p, word);
  };
  for (int round = 0; round < 10; ++round) {
    LlvmValue h0, l0, h1, l1;
    product(c[0], 0xD2511F53, h0, l0);
    product(c[2], 0xCD9E8D57, h1, l1);
    c[0] = b.CreateXor(b.CreateXor(h1, c[1]), k0);
    c[1] = l1;
    c[2] = b.CreateXor(b.CreateXor(h0, c[3]), k1);
    c[3] = l0;
    k0 = b.CreateAdd(k0, integer(word, 0x9E3779B9));
    k1 = b.CreateAdd(k1, integer(word, 0xBB67AE85));
  }
  const LlvmValue which = b.CreateAnd(index, integer(wide, 3));
  LlvmValue out = c[3];
  for (int i = 2; i >= 0; --i) out = b.CreateSelect(b.CreateICmpEQ(which, integer(wide, i)), c[i], out);
  return out;
}

}  // namespace quern::cpu
