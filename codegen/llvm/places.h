// Where a CPU kernel's tiles are: the block that each axis stands in, the registers of each value by the coordinates of
// its axes (the axis marked `lanes` counts in vectors), and index expressions as LLVM values, per lane where they vary.
#pragma once
#include <functional>
#include <map>
#include <optional>

#include "codegen/llvm/values.h"
#include "ir/support/fault.h"
#include "ir/tile/kernel.h"

namespace quern::cpu {

class Places {
 protected:
  Places(const tile::Kernel& kernel, const CpuArch& arch, llvm::Function* function)
      : k_(kernel), lanes_(arch.lanes), f_(function), b_(function->getContext()), s_(b_, arch.lanes, arch.fma), at_(kernel.axes.size()), tiles_(kernel.values.size()) {}

  using Axis = tile::Axis;
  using AxisId = tile::AxisId;
  using ValueId = tile::ValueId;
  struct At {               // where an axis stands
    LlvmValue start = nullptr;
    int64_t count = 0;      // of elements, static
    LlvmValue offset = nullptr;   // from where the block starts that it stands within
    LlvmValue size = nullptr;     // of elements, where other axes walk its blocks and no tile has it
  };
  const tile::Kernel& k_;
  int lanes_;
  llvm::Function* f_;
  Builder b_;
  Scalars s_;
  std::vector<At> at_;
  std::vector<std::vector<LlvmValue>> tiles_;   // by value: registers, row-major over coordinates
  std::vector<LlvmValue> pointers_;

  // --- small helpers ---
  LlvmValue i64(int64_t v) { return b_.getInt64(static_cast<uint64_t>(v)); }
  llvm::BasicBlock* new_block(const char* name) { return llvm::BasicBlock::Create(f_->getContext(), name, f_); }
  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  const tile::Value& value(ValueId v) const { return k_.values[static_cast<size_t>(v)]; }
  bool is_lanes(AxisId a) const { return axis(a).lanes; }
  AxisId lanes_axis(const std::vector<AxisId>& axes) const {
    for (AxisId a : axes)
      if (is_lanes(a)) return a;
    return -1;
  }
  int64_t steps(AxisId a) const {   // coordinates, or vectors on the lanes axis
    const int64_t n = at_[static_cast<size_t>(a)].count;
    return is_lanes(a) ? ceil_div(n, lanes_) : n;
  }

  // --- coordinates: one step per axis (a vector on the lanes axis) ---
  using Coords = std::map<AxisId, int64_t>;
  void each_coordinate(const std::vector<AxisId>& axes, const std::function<void(Coords&)>& f) {
    Coords c;
    const std::function<void(size_t)> go = [&](size_t d) {
      if (d == axes.size()) return f(c);
      for (int64_t i = 0, n = steps(axes[d]); i < n; ++i) {
        c[axes[d]] = i;
        go(d + 1);
      }
    };
    go(0);
  }
  LlvmValue& reg(ValueId v, const Coords& c) {
    int64_t p = 0;
    for (AxisId a : value(v).axes) p = p * steps(a) + c.at(a);
    return tiles_[static_cast<size_t>(v)][static_cast<size_t>(p)];
  }
  void allocate(ValueId v) {
    int64_t n = 1;
    for (AxisId a : value(v).axes) n *= steps(a);
    tiles_[static_cast<size_t>(v)].assign(static_cast<size_t>(n), nullptr);
  }
  // The lanes of this step that exist, or null where all do.
  LlvmValue lane_mask(AxisId lanes, const Coords& c) {
    if (lanes < 0) return nullptr;
    const int64_t left = at_[static_cast<size_t>(lanes)].count - c.at(lanes) * lanes_;
    if (left >= lanes_) return nullptr;
    std::vector<llvm::Constant*> bits;
    for (int i = 0; i < lanes_; ++i) bits.push_back(b_.getInt1(i < left + planted(Fault::tail_mask)));
    return llvm::ConstantVector::get(bits);
  }
  LlvmValue both(LlvmValue x, LlvmValue y) {
    if (!x || !y) return x ? x : y;
    if (x->getType()->isVectorTy() || y->getType()->isVectorTy()) x = s_.splat(x), y = s_.splat(y);
    return b_.CreateAnd(x, y);
  }
  LlvmValue lane_numbers() {
    std::vector<llvm::Constant*> n;
    for (int i = 0; i < lanes_; ++i) n.push_back(b_.getInt64(static_cast<uint64_t>(i)));
    return llvm::ConstantVector::get(n);
  }

  // --- index expressions ---
  // axis % tile is the coordinate inside the block; and % the tile of the axis that it stands within, the one inside that.
  bool is_in_tile(const Index& e) const {
    return e.kind() == Index::Kind::mod && e.left().kind() == Index::Kind::axis && e.value() == axis(static_cast<AxisId>(e.left().value())).tile;
  }
  bool is_local(const Index& e) const {
    if (e.kind() != Index::Kind::mod || e.left().kind() != Index::Kind::axis) return false;
    const AxisId around = axis(static_cast<AxisId>(e.left().value())).within;
    return is_in_tile(e) || (around >= 0 && e.value() == axis(around).tile);
  }
  // The most elements of a block of the axis, which starts at a multiple of it.
  int64_t unit(AxisId a) const { return axis(a).within < 0 ? axis(a).tile : std::min(axis(a).tile, axis(axis(a).within).tile); }
  // And so does what the expression gives for the block.
  bool is_aligned(const Index& e, AxisId a) const {
    if (e.kind() == Index::Kind::mod) return e.value() % unit(a) == 0 && is_aligned(e.left(), a);
    return e.kind() == Index::Kind::axis && e.value() == a;
  }
  std::optional<int64_t> stride(const Index& e, AxisId a) const {
    switch (e.kind()) {
      case Index::Kind::constant: return 0;
      case Index::Kind::axis: return e.value() == a ? 1 : 0;
      case Index::Kind::add: {
        const auto x = stride(e.left(), a), y = stride(e.right(), a);
        return x && y ? std::optional(*x + *y) : std::nullopt;
      }
      case Index::Kind::mul: {
        const auto x = stride(e.left(), a);
        return x ? std::optional(*x * e.value()) : std::nullopt;
      }
      default: break;
    }
    if (is_local(e)) return e.left().value() == a ? 1 : 0;
    if (e.value() % unit(a) == 0 && is_aligned(e.left(), a)) return e.kind() == Index::Kind::mod ? 1 : 0;
    return e.uses(a) ? std::nullopt : std::optional<int64_t>(0);
  }
  // The value at a coordinate; with `vary`, a vector over the lanes axis, else the value of its first lane.
  LlvmValue evaluate(const Index& e, const Coords& c, bool vary) {
    const auto binary = [&](LlvmValue x, LlvmValue y, auto&& op) {
      if (x->getType()->isVectorTy() || y->getType()->isVectorTy()) x = s_.splat(x), y = s_.splat(y);
      return op(x, y);
    };
    const auto constant_like = [&](LlvmValue x, int64_t v) { return s_.integer(x->getType(), v); };
    const auto place = [&](AxisId a, LlvmValue from) {
      int64_t step = 0;
      if (const auto it = c.find(a); it != c.end()) step = it->second;
      const int64_t offset = is_lanes(a) ? step * lanes_ : step;
      LlvmValue v = from ? b_.CreateAdd(from, i64(offset), "", true, true) : i64(offset);
      if (is_lanes(a) && vary) v = b_.CreateAdd(s_.splat(v), lane_numbers());
      return v;
    };
    if (is_local(e)) return place(static_cast<AxisId>(e.left().value()), is_in_tile(e) ? nullptr : at_[static_cast<size_t>(e.left().value())].offset);
    switch (e.kind()) {
      case Index::Kind::constant: return i64(e.value());
      case Index::Kind::axis: return place(static_cast<AxisId>(e.value()), at_[static_cast<size_t>(e.value())].start);
      case Index::Kind::add: return binary(evaluate(e.left(), c, vary), evaluate(e.right(), c, vary), [&](LlvmValue x, LlvmValue y) { return b_.CreateAdd(x, y); });
      case Index::Kind::mul: {
        const LlvmValue x = evaluate(e.left(), c, vary);
        return b_.CreateMul(x, constant_like(x, e.value()));
      }
      default: break;
    }
    // Made positive by a multiple of the divisor: (x + m*d) // d - m and (x + m*d) % d are those of x.
    const LlvmValue x = evaluate(e.left(), c, vary);
    const int64_t d = e.value(), m = e.left().low() < 0 ? ceil_div(-e.left().low(), d) : 0;
    const LlvmValue above = b_.CreateAdd(x, constant_like(x, m * d)), divisor = constant_like(x, d);
    return e.kind() == Index::Kind::mod ? b_.CreateURem(above, divisor) : b_.CreateSub(b_.CreateUDiv(above, divisor), constant_like(x, m));
  }

  // The condition that a position in a dim exists, or null where it always does.
  LlvmValue within(LlvmValue i, int64_t extent) {
    return b_.CreateICmpULT(i, s_.integer(i->getType(), extent));
  }
  static bool proven(const Index& e, int64_t extent) { return e.low() >= 0 && e.high() < extent; }
};

}  // namespace quern::cpu
