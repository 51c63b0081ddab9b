// Values of generated LLVM code: a scalar or a vector of L lanes per tile element group, for each dtype one register
// form: f64 double, f32 float, bf16 and f16 float (kept rounded), integers iN, f8e4m3 and f8e5m2 their bits as i8, i4 and
// u4 i8 (kept wrapped), bool i1.
#pragma once
#include <llvm/IR/IRBuilder.h>

#include "ir/op.h"

namespace quern::cpu {

using Builder = llvm::IRBuilder<>;
using LlvmValue = llvm::Value*;

/// The spelling of scalar ops on register values; every argument is a scalar, or every one is a vector.
class Scalars {
 public:
  Scalars(Builder& builder, int lanes, bool fused) : b(builder), lanes(lanes), fused(fused) {}

  Builder& b;
  int lanes;
  bool fused;   // the target has fused multiply-add
  bool branches = false;   // few values stand side by side: one may have code of its own for unusual ones

  llvm::Type* element(DType dtype) const;              // register form
  llvm::Type* memory(DType dtype) const;               // i16 for bf16 and f16, i8 for bool
  llvm::Type* like(llvm::Type* element, LlvmValue shape) const;   // vector of element where `shape` is a vector
  LlvmValue constant(const Scalar& value, LlvmValue shape = nullptr) const;
  LlvmValue number(llvm::Type* type, double value) const;         // float type or vector of it
  LlvmValue integer(llvm::Type* type, int64_t value) const;
  LlvmValue splat(LlvmValue scalar) const { return scalar->getType()->isVectorTy() ? scalar : b.CreateVectorSplat(static_cast<unsigned>(lanes), scalar); }
  /// Neighbours in memory where the mask is set, 0 elsewhere. 64-bit elements go by AVX2's own instructions there: of a
  /// masked access in two registers, LLVM 19 drops the mask of one that is never taken, and touches memory that is not ours.
  LlvmValue masked_load(llvm::Type* element, LlvmValue at, llvm::Align align, LlvmValue mask) const;
  void masked_store(LlvmValue value, LlvmValue at, llvm::Align align, LlvmValue mask) const;
  LlvmValue from_memory(DType dtype, LlvmValue raw) const;
  LlvmValue to_memory(DType dtype, LlvmValue value) const;
  LlvmValue round(DType dtype, LlvmValue value) const;            // float → the nearest bf16 or f16, still a float
  LlvmValue apply(Op op, DType out, DType arg, std::vector<LlvmValue> args) const;
  LlvmValue combine(Op op, DType dtype, LlvmValue x, LlvmValue y) const { return apply(op, dtype, dtype, {x, y}); }
  LlvmValue philox(LlvmValue key, uint32_t stream, LlvmValue index) const;

  /// What is not arithmetic, on f32 or f64, within 2 ULP; in math.cpp.
  LlvmValue transcendental(Op op, const std::vector<LlvmValue>& args) const;

  LlvmValue call(llvm::Intrinsic::ID id, std::vector<LlvmValue> args) const;
  LlvmValue fma(LlvmValue x, LlvmValue y, LlvmValue z) const { return call(llvm::Intrinsic::fmuladd, {x, y, z}); }

 private:
  LlvmValue cast(DType to, DType from, LlvmValue x) const;
  LlvmValue bitcast(DType to, DType from, LlvmValue x) const;
  LlvmValue from_f8(DType dtype, LlvmValue bits) const;   // as float
  LlvmValue to_f8(DType dtype, LlvmValue x) const;        // of a float or double
  LlvmValue wrap4(DType dtype, LlvmValue x) const;        // i4 or u4 in an i8
  LlvmValue divide_by_one(LlvmValue x, LlvmValue y) const;   // f32; the divisor is the same for all lanes
  LlvmValue divide(DType dtype, LlvmValue x, LlvmValue y, bool remainder) const;
  LlvmValue truncated_remainder(bool is_unsigned, LlvmValue x, LlvmValue y) const;
  LlvmValue shift(Op op, bool is_unsigned, LlvmValue x, LlvmValue by) const;
  LlvmValue integer_power(DType dtype, LlvmValue x, LlvmValue y) const;
  std::pair<LlvmValue, LlvmValue> mask_halves(LlvmValue mask) const;
  LlvmValue float_op(Op op, const std::vector<LlvmValue>& args) const;
};

}  // namespace quern::cpu
