// What the transcendental functions share: their choice by type, exact sums and products, powers of two, and the
// reduction of huge angles (Payne and Hanek, "Radian reduction for trigonometric functions", 1983).
// Error bounds, which tests/jit/math_test.cpp measures: every function within 2 ULP on every arch, f32 and f64;
// near the zeros of lgamma, 2 ULP of 1 or of the terms that cancel. digamma is made of ops: 4 ULP of the larger of 4 and
// those terms in f64, the nearest number in the other dtypes, which compute it in f64.
#include "codegen/llvm/math.h"

#include <limits>

#include <llvm/IR/IntrinsicsX86.h>
#include <llvm/IR/MDBuilder.h>
#include <llvm/IR/Module.h>

namespace quern::cpu {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// 2/pi as a binary fraction of 1216 bits after 64 zero bits.
constexpr uint64_t kTwoOverPi[20] = {
    0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561, 0xb7246e3a424dd2e0, 0x06492eea09d1921c,
    0xfe1deb1cb129a73e, 0xe88235f52ebb4484, 0xe99c7026b45f7e41, 0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f, 0xef2f118b5a0a6d1f,
    0x6d367ecf27cb09b7, 0x4f463f669e5fea2d, 0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab};

// {double hi, double lo, i64 quarter} quarter_turns(double x), 2^20 <= |x|, one per module. x = M*2^e with an integer
// M < 2^53: the bits of 2/pi worth 4 or more after the shift by e do not matter, the next 192 leave a fraction of a
// turn with an error below 2^-126, and no double is closer than 2^-62 to a multiple of pi/2.
llvm::Function* exact_quarter_turns(const Scalars& caller) {
  llvm::Module& module = *caller.b.GetInsertBlock()->getModule();
  const char* name = "quarter_turns";
  if (llvm::Function* known = module.getFunction(name)) return known;
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* real = llvm::Type::getDoubleTy(context);
  llvm::Type* word = llvm::Type::getInt64Ty(context);
  llvm::Type* wide = llvm::Type::getInt128Ty(context);
  llvm::StructType* result = llvm::StructType::get(context, {real, real, word});
  auto* f = llvm::Function::Create(llvm::FunctionType::get(result, {real}, false), llvm::Function::InternalLinkage, name, module);
  f->setDoesNotThrow();
  f->addFnAttr(llvm::Attribute::NoInline);
  llvm::Constant* digits = llvm::ConstantDataArray::get(context, llvm::ArrayRef<uint64_t>(kTwoOverPi));
  auto* table = new llvm::GlobalVariable(module, digits->getType(), true, llvm::GlobalValue::PrivateLinkage, digits, "two_over_pi");

  Builder b(llvm::BasicBlock::Create(context, "entry", f));
  const Scalars s(b, 1, caller.fused);
  const V x(s, f->getArg(0)), bits = x.bits();
  const V mantissa = (bits & 0xfffffffffffff) | bits.like(int64_t{1} << 52);
  const V first = (bits.shr(52) & 0x7ff) - 1013;   // bit of the table where the window starts
  const V at = first.shr(6), by = first & 63;
  V words[4] = {at, at, at, at};
  for (int i = 0; i < 4; ++i) words[i] = x.with(b.CreateLoad(word, b.CreateGEP(word, table, (at + i).v)));
  const auto window = [&](int i) { return x.with(b.CreateIntrinsic(llvm::Intrinsic::fshl, {word}, {words[i], words[i + 1], by})).to(wide, llvm::Instruction::ZExt); };
  const V m = mantissa.to(wide, llvm::Instruction::ZExt);
  const V turn = (m * window(0)).shl(64) + m * window(1) + (m * window(2)).shr(64);   // fraction of 2 pi, times 2^128
  const V quarter = (turn.shr(64).to(word, llvm::Instruction::Trunc) + (int64_t{1} << 61)).shr(62);
  const V rest = turn.shl(2);   // signed fraction of pi/2
  const V below = rest < 0, size = select(below, x.with(b.CreateNeg(rest)), rest);
  const V zeros = x.with(b.CreateIntrinsic(llvm::Intrinsic::ctlz, {wide}, {size, b.getTrue()}));
  const V whole = x.with(b.CreateShl(size, zeros));
  const auto digits_of = [&](int drop) { return ((whole.shr(drop).to(word, llvm::Instruction::Trunc)) & ((int64_t{1} << 53) - 1)).to(real, llvm::Instruction::SIToFP); };
  const V high = digits_of(75) * 0x1p-53, low = digits_of(22) * 0x1p-106;
  const Pair p = two_product(high, x.like(0x1.921fb54442d18p+0));
  const Pair r = fast_sum(p.hi, p.lo + (high * 0x1.1a62633145c07p-54 + low * 0x1.921fb54442d18p+0));
  const V scale = power_of_two(x.with(b.CreateNeg(zeros.to(word, llvm::Instruction::Trunc))));
  const V backwards = (bits < 0) ^ below;   // r is negative
  const auto finish = [&](V part) {
    part = part * scale;
    part = select(backwards, -part, part);
    return select(magnitude(x) < kInfinity, part, part.like(std::numeric_limits<double>::quiet_NaN()));
  };
  LlvmValue out = llvm::PoisonValue::get(result);
  out = b.CreateInsertValue(out, finish(r.hi), 0u);
  out = b.CreateInsertValue(out, finish(r.lo), 1u);
  out = b.CreateInsertValue(out, select(bits < 0, x.with(b.CreateNeg(quarter)), quarter), 2u);
  b.CreateRet(out);
  return f;
}

}  // namespace

Pair two_sum(V x, V y) {
  const V sum = x + y, back = sum - x;
  return {sum, (x - (sum - back)) + (y - back)};
}

Pair fast_sum(V x, V y) {
  const V sum = x + y;
  return {sum, y - (sum - x)};
}

Pair two_product(V x, V y) {
  const V p = x * y;
  if (x.s->fused) return {p, p.with(p.s->call(llvm::Intrinsic::fma, {x, y, -p}))};
  // Veltkamp's split in halves, Dekker's product.
  const double factor = p.type()->getScalarSizeInBits() == 32 ? 0x1p12 + 1 : 0x1p27 + 1;
  const auto split = [&](V v) {
    const V c = v * factor, high = c - (c - v);
    return Pair{high, v - high};
  };
  const Pair a = split(x), b = split(y);
  return {p, ((a.hi * b.hi - p) + a.hi * b.lo + a.lo * b.hi) + a.lo * b.lo};
}

Nearest nearest(V x, double factor) {
  const double magic = x.type()->getScalarSizeInBits() == 32 ? 0x1.8p23 : 0x1.8p52;   // its last bit is worth 1
  const V sum = fma(x, factor, x.like(magic));
  return {sum - magic, sum.bits() - x.like(magic).bits()};
}

V power_of_two(V n) {
  const bool single = n.type()->getScalarSizeInBits() == 32;
  return (n + (single ? 127 : 1023)).shl(single ? 23 : 52).as_float();
}

V scaled(V p, V n) {
  const V half = n.sar(1);
  return p * power_of_two(half) * power_of_two(n - half);
}

V scaled(V p, Nearest n) {
  if (p.s->lanes != 16 || !p.type()->isVectorTy() || !p.type()->getScalarType()->isFloatTy()) return scaled(p, n.integer);
  constexpr int kCurrentRounding = 4;
  return p.with(p.b().CreateIntrinsic(llvm::Intrinsic::x86_avx512_mask_scalef_ps_512, {}, {p, n.number, p, p.b().getInt16(0xffff), p.b().getInt32(kCurrentRounding)}));
}

V finish_power(V x, V y, V size) {
  const auto whole = [](V v) { return v.with(v.s->call(llvm::Intrinsic::floor, {v})) == v; };
  const V integer = whole(y), odd = integer & !whole(y * 0.5);
  V out = select((x.bits() < 0) & odd, -size, size);
  const V infinite_y = magnitude(y) == kInfinity;
  // A negative finite base wants an integer.
  out = select((x < 0) & (x > -kInfinity) & !integer, std::numeric_limits<double>::quiet_NaN(), out);
  out = select((magnitude(x) == 1) & infinite_y, 1, out);
  return select((x == 1) | (y == 0), 1, out);
}

QuarterTurns quarter_turns_if_large(V x, QuarterTurns fast) {
  Builder& b = x.b();
  const V large = !(magnitude(x) < 0x1p20);   // NaN too
  const bool vector = x.type()->isVectorTy();
  llvm::Function* function = b.GetInsertBlock()->getParent();
  llvm::LLVMContext& context = function->getContext();
  llvm::Function* exact = exact_quarter_turns(*x.s);
  llvm::BasicBlock *before = b.GetInsertBlock(), *slow = llvm::BasicBlock::Create(context, "huge", function), *after = llvm::BasicBlock::Create(context, "reduced", function);
  const LlvmValue any = vector ? b.CreateOrReduce(large) : large.v;
  b.CreateCondBr(any, slow, after, llvm::MDBuilder(context).createBranchWeights(1, 10000));
  b.SetInsertPoint(slow);
  const V safe = select(large, x, x.like(0x1p20));
  std::vector<LlvmValue> found;
  if (vector) {   // lane by lane
    llvm::BasicBlock *loop = llvm::BasicBlock::Create(context, "lane", function), *done = llvm::BasicBlock::Create(context, "lanes", function);
    b.CreateBr(loop);
    b.SetInsertPoint(loop);
    llvm::PHINode* lane = b.CreatePHI(b.getInt64Ty(), 2);
    lane->addIncoming(b.getInt64(0), slow);
    std::vector<llvm::PHINode*> parts;
    for (const V& part : {fast.hi, fast.lo, fast.quarter}) {
      parts.push_back(b.CreatePHI(part.type(), 2));
      parts.back()->addIncoming(llvm::PoisonValue::get(part.type()), slow);
    }
    const LlvmValue one = b.CreateCall(exact, {b.CreateExtractElement(safe, lane)});
    for (unsigned i = 0; i < 3; ++i) {
      found.push_back(b.CreateInsertElement(parts[i], b.CreateExtractValue(one, i), lane));
      parts[i]->addIncoming(found[i], loop);
    }
    const LlvmValue next = b.CreateAdd(lane, b.getInt64(1));
    lane->addIncoming(next, loop);
    b.CreateCondBr(b.CreateICmpULT(next, b.getInt64(static_cast<uint64_t>(x.s->lanes))), loop, done);
    b.SetInsertPoint(done);
    slow = done;
  } else {
    const LlvmValue one = b.CreateCall(exact, {safe});
    for (unsigned i = 0; i < 3; ++i) found.push_back(b.CreateExtractValue(one, i));
  }
  const LlvmValue mixed[3] = {b.CreateSelect(large, found[0], fast.hi), b.CreateSelect(large, found[1], fast.lo), b.CreateSelect(large, found[2], fast.quarter)};
  b.CreateBr(after);
  b.SetInsertPoint(after);
  const auto join = [&](V kept, LlvmValue replaced) {
    llvm::PHINode* phi = b.CreatePHI(kept.type(), 2);
    phi->addIncoming(kept, before);
    phi->addIncoming(replaced, slow);
    return kept.with(phi);
  };
  const V hi = join(fast.hi, mixed[0]), lo = join(fast.lo, mixed[1]), quarter = join(fast.quarter, mixed[2]);
  return {hi, lo, quarter};
}

namespace {

// double remainder(double x, double y), one per module: x and y as integers times powers of 2, the first reduced by the
// second 11 bits at a time.
llvm::Function* exact_remainder(const Scalars& caller) {
  llvm::Module& module = *caller.b.GetInsertBlock()->getModule();
  const char* name = "remainder";
  if (llvm::Function* known = module.getFunction(name)) return known;
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* real = llvm::Type::getDoubleTy(context);
  auto* f = llvm::Function::Create(llvm::FunctionType::get(real, {real, real}, false), llvm::Function::InternalLinkage, name, module);
  f->setDoesNotThrow();
  f->addFnAttr(llvm::Attribute::NoInline);
  llvm::BasicBlock *entry = llvm::BasicBlock::Create(context, "entry", f), *loop = llvm::BasicBlock::Create(context, "loop", f), *body = llvm::BasicBlock::Create(context, "body", f),
                   *done = llvm::BasicBlock::Create(context, "done", f);
  Builder b(entry);
  const Scalars s(b, 1, caller.fused);
  const V x(s, f->getArg(0)), y(s, f->getArg(1));
  const V size = magnitude(x).bits(), divisor = magnitude(y).bits();
  const auto exponent = [](V bits) { const V e = bits.shr(52); return select(e == 0, 1, e); };
  const auto digits = [](V bits) { return select(bits.shr(52) == 0, bits, (bits & 0xfffffffffffff) | bits.like(int64_t{1} << 52)); };
  const V m = select(divisor == 0, 1, digits(divisor)), e = exponent(divisor);
  const auto reduced = [&](V v) { return v.with(b.CreateURem(v, m)); };
  const V first = reduced(digits(size)), steps = exponent(size) - e;
  b.CreateBr(loop);
  b.SetInsertPoint(loop);
  llvm::PHINode *rest_phi = b.CreatePHI(b.getInt64Ty(), 2), *left_phi = b.CreatePHI(b.getInt64Ty(), 2);
  rest_phi->addIncoming(first, entry), left_phi->addIncoming(steps, entry);
  const V rest(s, rest_phi), left(s, left_phi);
  b.CreateCondBr(left > 0, body, done);
  b.SetInsertPoint(body);
  const V by = select(left < 11, left, left.like(11));
  rest_phi->addIncoming(reduced(x.with(b.CreateShl(rest, by))), body), left_phi->addIncoming(left - by, body);
  b.CreateBr(loop);
  b.SetInsertPoint(done);
  const V found = copysign(scaled(rest.to(real, llvm::Instruction::SIToFP), e - 1075), x);
  const V valid = (magnitude(x) < kInfinity) & (y == y) & !(y == 0);
  b.CreateRet(select(valid, select(size < divisor, x, found), x.like(std::numeric_limits<double>::quiet_NaN())));
  return f;
}

}  // namespace

V f64::remainder(V x, V y) {
  Builder& b = x.b();
  llvm::Function* exact = exact_remainder(*x.s);
  if (!x.type()->isVectorTy()) return x.with(b.CreateCall(exact, {x, y}));
  LlvmValue out = llvm::PoisonValue::get(x.type());
  for (int i = 0; i < x.s->lanes; ++i) {
    const LlvmValue lane = b.getInt64(static_cast<uint64_t>(i));
    out = b.CreateInsertElement(out, b.CreateCall(exact, {b.CreateExtractElement(x, lane), b.CreateExtractElement(y, lane)}), lane);
  }
  return x.with(out);
}

LlvmValue Scalars::transcendental(Op op, const std::vector<LlvmValue>& args) const {
  const V x(*this, args[0]);
  const bool single = x.type()->getScalarType()->isFloatTy();
  const auto wide = [&](LlvmValue v) { return single ? V(*this, v).to(b.getDoubleTy(), llvm::Instruction::FPExt) : V(*this, v); };
  const auto in_f64 = [&](auto f) -> LlvmValue {
    const V out = args.size() == 1 ? f(wide(x), wide(x)) : f(wide(x), wide(args[1]));
    return single ? out.to(b.getFloatTy(), llvm::Instruction::FPTrunc) : out;
  };
#define QN_IN_F64(name) case Op::name: return in_f64([](V v, V) { return f64::name(v); })
  switch (op) {
    case Op::exp: return single ? f32::exp(x) : f64::exp(x);
    case Op::log: return single ? f32::log(x) : f64::log(x);
    case Op::tanh: return single ? f32::tanh(x) : f64::tanh(x);
    case Op::erf: return single ? f32::erf(x) : f64::erf(x);
    case Op::sin: return single ? f32::sine(x, 0) : f64::sine(x, 0);
    case Op::cos: return single ? f32::sine(x, 1) : f64::sine(x, 1);
    case Op::pow: return single ? f32::pow(x, {*this, args[1]}) : f64::pow(x, {*this, args[1]});
    QN_IN_F64(expm1); QN_IN_F64(log1p); QN_IN_F64(tan); QN_IN_F64(asin); QN_IN_F64(acos); QN_IN_F64(sinh); QN_IN_F64(cosh);
    QN_IN_F64(asinh); QN_IN_F64(acosh); QN_IN_F64(atanh); QN_IN_F64(erfc); QN_IN_F64(erf_inv); QN_IN_F64(lgamma);
    case Op::atan2: return in_f64(f64::atan2);
    case Op::rem: return in_f64(f64::remainder);
    default: QN_CHECK(false, "every float op has its spelling"); return nullptr;
  }
#undef QN_IN_F64
}

}  // namespace quern::cpu
