// Tile IR → LLVM IR. Tiles live in registers: a tile over axes A is an array of values indexed by the unrolled
// coordinates of its axes, where the axis marked `lanes` counts in vectors. Everything but a symbolic loop is static: the
// remainder is a second instance of the body, clipped; a partial last vector is masked. Relies on plan_cpu; decides nothing.
#include "codegen/llvm/emit.h"

#include <algorithm>
#include <functional>
#include <map>

#include <fmt/format.h>

#include "codegen/llvm/places.h"
#include "ir/support/fault.h"
#include "ir/support/overloaded.h"

namespace quern::cpu {

using namespace tile;

int64_t scratch_bytes(const Kernel& kernel) {
  int64_t bytes = 0;
  for (const Buffer& b : kernel.buffers)
    if (b.kind == BufferKind::scratch) bytes += round_up(checked_mul(count(b.shape), size_of(b.dtype)), 64);
  return bytes;
}

namespace {

class Emitter : Places {
 public:
  Emitter(const Kernel& kernel, const CpuArch& arch, llvm::Function* function) : Places(kernel, arch, function) {}

  void run() {
    QN_CHECK(k_.phases.size() == 1, "a CPU kernel has one phase");
    const Phase& phase = k_.phases[0];
    llvm::BasicBlock* entry = new_block("entry");
    b_.SetInsertPoint(entry);
    load_pointers();
    std::vector<int64_t> tiles;
    for (AxisId a : phase.grid) tiles.push_back(ceil_div(k_.axes[static_cast<size_t>(a)].extent, k_.axes[static_cast<size_t>(a)].tile));
    counted(f_->getArg(2), f_->getArg(3), {}, [&](LlvmValue instance, std::vector<LlvmValue> none) {
      std::vector<LlvmValue> index(tiles.size());
      LlvmValue rest = instance;
      for (size_t d = tiles.size(); d-- > 0;) {
        index[d] = d == 0 ? rest : b_.CreateURem(rest, i64(tiles[d]));
        if (d > 0) rest = b_.CreateUDiv(rest, i64(tiles[d]));
      }
      instances(phase, index, tiles, 0);
      return none;
    });
    b_.CreateRetVoid();
  }

 private:
  void load_pointers() {
    int64_t offset = 0;
    for (size_t p = 0; p < k_.buffers.size(); ++p) {
      if (k_.buffers[p].kind == BufferKind::scratch) {
        pointers_.push_back(b_.CreateConstGEP1_64(b_.getInt8Ty(), f_->getArg(1), static_cast<uint64_t>(offset)));
        offset += round_up(checked_mul(count(k_.buffers[p].shape), size_of(k_.buffers[p].dtype)), 64);
      } else {
        pointers_.push_back(b_.CreateLoad(b_.getPtrTy(), b_.CreateConstGEP1_64(b_.getPtrTy(), f_->getArg(0), p)));
      }
    }
  }

  // for (i = begin; i < end; ++i) state = body(i, state)
  std::vector<LlvmValue> counted(LlvmValue begin, LlvmValue end, std::vector<LlvmValue> state,
                                 const std::function<std::vector<LlvmValue>(LlvmValue, std::vector<LlvmValue>)>& body) {
    llvm::BasicBlock *before = b_.GetInsertBlock(), *head = new_block("head"), *inside = new_block("body"), *after = new_block("after");
    b_.CreateBr(head);
    b_.SetInsertPoint(head);
    llvm::PHINode* i = b_.CreatePHI(b_.getInt64Ty(), 2);
    i->addIncoming(begin, before);
    std::vector<llvm::PHINode*> phis;
    std::vector<LlvmValue> current;
    for (LlvmValue v : state) {
      phis.push_back(b_.CreatePHI(v->getType(), 2));
      phis.back()->addIncoming(v, before);
      current.push_back(phis.back());
    }
    b_.CreateCondBr(b_.CreateICmpSLT(i, end), inside, after);
    b_.SetInsertPoint(inside);
    const std::vector<LlvmValue> next = body(i, current);
    const LlvmValue more = b_.CreateAdd(i, i64(1), "", true, true);
    i->addIncoming(more, b_.GetInsertBlock());
    for (size_t p = 0; p < phis.size(); ++p) phis[p]->addIncoming(next[p], b_.GetInsertBlock());
    b_.CreateBr(head);
    b_.SetInsertPoint(after);
    return current;
  }

  // Runs the block for one grid instance; where an axis has a remainder, one copy of the code for each case.
  void instances(const Phase& phase, const std::vector<LlvmValue>& index, const std::vector<int64_t>& tiles, size_t d) {
    if (d == phase.grid.size()) return block(phase.body);
    const Axis& a = axis(phase.grid[d]);
    At& at = at_[static_cast<size_t>(phase.grid[d])];
    if (is_block(phase.grid[d])) {
      const LlvmValue start = b_.CreateMul(index[d], i64(a.tile), "", true, true);
      at = {start, a.tile, nullptr, block_size(a, start, i64(a.extent))};
      return instances(phase, index, tiles, d + 1);
    }
    const int64_t rest = a.extent % a.tile;
    const auto with = [&](int64_t n) {
      at = {b_.CreateMul(index[d], i64(a.tile), "", true, true), n};
      instances(phase, index, tiles, d + 1);
    };
    if (rest == 0 || tiles[d] <= 1) return with(tiles[d] <= 1 ? a.extent : a.tile);
    llvm::BasicBlock *full = new_block("full"), *part = new_block("part"), *join = new_block("join");
    b_.CreateCondBr(b_.CreateICmpEQ(index[d], i64(tiles[d] - 1)), part, full);
    b_.SetInsertPoint(full);
    with(a.tile);
    b_.CreateBr(join);
    b_.SetInsertPoint(part);
    with(rest);
    b_.CreateBr(join);
    b_.SetInsertPoint(join);
  }

  // Does it only say where others stand? Its blocks may differ in size then without being code of their own.
  bool is_block(AxisId a) const {
    return std::any_of(k_.axes.begin(), k_.axes.end(), [&](const Axis& x) { return x.within == a; }) &&
           std::none_of(k_.values.begin(), k_.values.end(), [&](const tile::Value& v) { return std::count(v.axes.begin(), v.axes.end(), a) > 0; });
  }
  LlvmValue block_size(const Axis& a, LlvmValue start, LlvmValue end) {
    if (!a.symbol && a.extent <= a.tile) return i64(a.extent);
    if (!a.symbol && a.extent % a.tile == 0) return i64(a.tile);
    return s_.call(llvm::Intrinsic::umin, {i64(a.tile), b_.CreateSub(end, start)});
  }

  // The loops of seq and each: full blocks in a loop, then the remainder.
  std::vector<LlvmValue> walk(const std::vector<AxisId>& axes, size_t d, std::vector<LlvmValue> state,
                              const std::function<std::vector<LlvmValue>(std::vector<LlvmValue>)>& body) {
    if (d == axes.size()) return body(std::move(state));
    const Axis& a = axis(axes[d]);
    auto& at = at_[static_cast<size_t>(axes[d])];
    // What is walked: all of it, or the block of the axis around.
    const At* around = a.within >= 0 ? &at_[static_cast<size_t>(a.within)] : nullptr;
    const LlvmValue begin = around ? around->start : nullptr;
    const LlvmValue size = around ? (around->size ? around->size : i64(around->count)) : a.symbol ? b_.CreateMul(f_->getArg(4), i64(a.symbol)) : i64(a.extent);
    const bool block = is_block(axes[d]);
    const auto stand = [&](LlvmValue offset, int64_t n) {
      const LlvmValue start = begin ? b_.CreateAdd(begin, offset, "", true, true) : offset;
      at = {start, n, offset, block ? block_size(a, offset, size) : nullptr};
    };
    const auto blocks = [&](int64_t tile, LlvmValue first, LlvmValue n) {
      state = counted(i64(0), n, std::move(state), [&](LlvmValue i, std::vector<LlvmValue> inner) {
        stand(b_.CreateAdd(first, b_.CreateMul(i, i64(tile), "", true, true), "", true, true), tile);
        return walk(axes, d + 1, std::move(inner), body);
      });
    };
    const auto once = [&](int64_t start, int64_t n) {
      stand(i64(start), n);
      state = walk(axes, d + 1, std::move(state), body);
    };
    if (const auto* fixed = llvm::dyn_cast<llvm::ConstantInt>(size)) {
      const int64_t n = fixed->getSExtValue(), full = block ? ceil_div(n, a.tile) : n / a.tile, rest = block ? 0 : n % a.tile;
      if (full == 1) once(0, std::min(n, a.tile));
      if (full > 1) blocks(a.tile, i64(0), i64(full));
      if (rest > 0 && !planted(Fault::remainder_dropped)) once(full * a.tile, rest);
      return state;
    }
    if (block) {
      blocks(a.tile, i64(0), b_.CreateUDiv(b_.CreateAdd(size, i64(a.tile - 1)), i64(a.tile)));
      return state;
    }
    const int64_t tile = unit(axes[d]);
    const LlvmValue full = b_.CreateUDiv(size, i64(tile)), left = b_.CreateURem(size, i64(tile));
    blocks(tile, i64(0), full);
    // Less than a tile is left: of a constant extent, at its end; else one at a time.
    if (a.symbol && tile > 1) blocks(1, b_.CreateMul(full, i64(tile)), left);
    if (const int64_t rest = a.extent % tile; !a.symbol && rest > 0)
      blocks(rest, b_.CreateMul(full, i64(tile)), b_.CreateZExt(b_.CreateICmpNE(left, i64(0)), b_.getInt64Ty()));
    return state;
  }

  // --- statements ---
  void block(const Block& stmts) {
    for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
  }

  void statement(const Load& l) {
    allocate(l.out);
    const Buffer& buffer = k_.buffers[static_cast<size_t>(l.buffer)];
    if (const AxisId across = turned(l, buffer); across >= 0) return load_turned(l, buffer, across);
    each_coordinate(value(l.out).axes, [&](Coords& c) { reg(l.out, c) = load(l, buffer, c); });
  }

  // The step of the axis in memory, in elements, where it is the same everywhere.
  std::optional<int64_t> step_of(const Load& l, const Buffer& buffer, AxisId a) const {
    const Shape strides = buffer.strides();
    int64_t step = 0;
    for (size_t d = 0; d < l.index.size(); ++d) {
      const auto s = l.index[d].gather >= 0 ? std::nullopt : stride(l.index[d].index, a);
      if (!s) return std::nullopt;
      step += *s * strides[d];
    }
    return step;
  }
  // Where the lanes lie apart in memory and another axis of the tile, of whole vectors, lies together: that axis, else -1.
  AxisId turned(const Load& l, const Buffer& buffer) const {
    const AxisId lanes = lanes_axis(value(l.out).axes);
    if (lanes < 0 || at_[static_cast<size_t>(lanes)].count % lanes_ != 0) return -1;
    for (size_t d = 0; d < l.index.size(); ++d)
      if (l.index[d].gather >= 0 || !proven(l.index[d].index, buffer.shape[d])) return -1;
    const auto along = step_of(l, buffer, lanes);
    if (!along || *along == 0 || *along == 1) return -1;
    for (AxisId a : value(l.out).axes)
      if (a != lanes && steps(a) > 0 && steps(a) % lanes_ == 0 && step_of(l, buffer, a) == 1) return a;
    return -1;
  }
  // Squares of lanes_ vectors along `across`, turned in registers.
  void load_turned(const Load& l, const Buffer& buffer, AxisId across) {
    const int64_t along = *step_of(l, buffer, lanes_axis(value(l.out).axes));
    const Shape strides = buffer.strides();
    llvm::Type* memory = s_.memory(buffer.dtype);
    llvm::Type* vector = llvm::FixedVectorType::get(memory, static_cast<unsigned>(lanes_));
    each_coordinate(value(l.out).axes, [&](Coords& c) {
      if (c.at(across) % lanes_ != 0) return;
      LlvmValue position = i64(0);
      for (size_t d = 0; d < l.index.size(); ++d) position = b_.CreateAdd(position, b_.CreateMul(evaluate(l.index[d].index, c, false), i64(strides[d])));
      const LlvmValue at = b_.CreateGEP(memory, pointers_[static_cast<size_t>(l.buffer)], position);
      std::vector<LlvmValue> rows;
      for (int i = 0; i < lanes_; ++i)
        rows.push_back(b_.CreateAlignedLoad(vector, b_.CreateConstGEP1_64(memory, at, static_cast<uint64_t>(i * along)), llvm::Align(static_cast<uint64_t>(size_of(buffer.dtype)))));
      for (int w = 1; w < lanes_; w *= 2)   // the off-diagonal blocks of each 2w by 2w change places
        for (int i = 0; i < lanes_; ++i) {
          if (i & w) continue;
          std::vector<int> upper, lower;
          for (int e = 0; e < lanes_; ++e) {
            upper.push_back(e & w ? lanes_ + e - w : e);
            lower.push_back(e & w ? lanes_ + e : e + w);
          }
          const LlvmValue x = rows[static_cast<size_t>(i)], y = rows[static_cast<size_t>(i + w)];
          rows[static_cast<size_t>(i)] = b_.CreateShuffleVector(x, y, upper);
          rows[static_cast<size_t>(i + w)] = b_.CreateShuffleVector(x, y, lower);
        }
      Coords to = c;
      for (int j = 0; j < lanes_; ++j) {
        to[across] = c.at(across) + j;
        reg(l.out, to) = s_.from_memory(buffer.dtype, rows[static_cast<size_t>(j)]);
      }
    });
  }

  LlvmValue load(const Load& l, const Buffer& buffer, const Coords& c) {
    const AxisId lanes = lanes_axis(value(l.out).axes);
    llvm::Type* memory = s_.memory(buffer.dtype);
    llvm::Type* vector = llvm::FixedVectorType::get(memory, static_cast<unsigned>(lanes_));
    const Shape strides = buffer.strides();
    if (count(buffer.shape) == 0) {
      const LlvmValue zero = s_.constant(Scalar::of(buffer.dtype, 0));
      return lanes >= 0 ? s_.splat(zero) : zero;
    }
    // Is the position linear along the lanes?
    bool linear = true, varies = false;   // steps of two dims may cancel, their bounds do not
    int64_t along = 0;
    for (size_t d = 0; d < l.index.size() && lanes >= 0; ++d) {
      if (l.index[d].gather >= 0) {
        linear = linear && lanes_axis(value(l.index[d].gather).axes) < 0;
        continue;
      }
      const auto s = stride(l.index[d].index, lanes);
      linear = linear && s;
      varies = varies || !s || *s != 0;
      along += s.value_or(0) * strides[d];
    }
    const bool spread = lanes >= 0 && (!linear || varies);
    const bool whole = spread && linear && (along == 1 || planted(Fault::load_stride));
    LlvmValue position = i64(0), mask = spread ? lane_mask(lanes, c) : nullptr;
    for (size_t d = 0; d < l.index.size(); ++d) {
      const BoxIndex& box = l.index[d];
      LlvmValue i;
      if (box.gather >= 0) {
        i = s_.apply(Op::cast, DType::i64, value(box.gather).dtype, {reg(box.gather, c)});
        if (!planted(Fault::gather_unchecked)) mask = both(mask, within(i, buffer.shape[d]));
      } else {
        if (!proven(box.index, buffer.shape[d])) mask = both(mask, within(evaluate(box.index, c, spread), buffer.shape[d]));
        i = evaluate(box.index, c, spread && !whole);
      }
      LlvmValue term = b_.CreateMul(i, s_.integer(i->getType(), strides[d]));
      if (term->getType()->isVectorTy() != position->getType()->isVectorTy()) term = s_.splat(term), position = s_.splat(position);
      position = b_.CreateAdd(position, term);
    }
    LlvmValue pointer = pointers_[static_cast<size_t>(l.buffer)];
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    LlvmValue raw;
    if (!spread || whole) prefetch(l, buffer, b_.CreateGEP(memory, pointer, position), c);
    if (!spread) {
      if (mask) position = b_.CreateSelect(mask, position, i64(0));
      raw = b_.CreateAlignedLoad(memory, b_.CreateGEP(memory, pointer, position), align);
      if (mask) raw = b_.CreateSelect(mask, raw, llvm::Constant::getNullValue(memory));
      raw = s_.from_memory(buffer.dtype, raw);
      return lanes >= 0 ? s_.splat(raw) : raw;
    }
    const LlvmValue at = b_.CreateGEP(memory, pointer, whole ? position : s_.splat(position));
    if (!whole) raw = b_.CreateMaskedGather(vector, at, align, mask ? s_.splat(mask) : s_.splat(b_.getTrue()), llvm::Constant::getNullValue(vector));
    else if (mask) raw = s_.masked_load(memory, at, align, s_.splat(mask));
    else raw = b_.CreateAlignedLoad(vector, at, align);
    return s_.from_memory(buffer.dtype, raw);
  }

  // In a loop whose steps lie far apart in a large buffer no hardware looks ahead: each step asks for the line of a later
  // one, or of the next tile where the loop around walks along the lines.
  void prefetch(const Load& l, const Buffer& buffer, LlvmValue at, const Coords& c) {
    constexpr int64_t kAhead = 8, kFarApart = 512, kLarge = 128 << 10;   // steps, bytes, bytes
    if (loops_.empty() || buffer.kind == BufferKind::scratch || count(buffer.shape) * size_of(buffer.dtype) < kLarge) return;
    const std::vector<AxisId>& loop = loops_.back();
    const auto far = std::find_if(loop.begin(), loop.end(), [&](AxisId a) { return std::abs(step_of(l, buffer, a).value_or(0)) * size_of(buffer.dtype) >= kFarApart; });
    if (far == loop.end()) return;
    // Neighbours of other axes are in the line of the first.
    for (const auto& [a, i] : c)
      if (a != *far && !is_lanes(a) && i > 0) return;
    int64_t distance = *step_of(l, buffer, *far) * kAhead;
    if (loops_.size() > 1)
      for (AxisId a : loops_[loops_.size() - 2])
        if (is_lanes(a) && step_of(l, buffer, a) == 1) distance = unit(a);
    s_.call(llvm::Intrinsic::prefetch, {b_.CreateConstGEP1_64(s_.memory(buffer.dtype), at, static_cast<uint64_t>(distance)), b_.getInt32(0), b_.getInt32(3), b_.getInt32(1)});
  }
  std::vector<std::vector<AxisId>> loops_;   // the axes of the open ones, outermost first

  void statement(const MapTile& m) {
    allocate(m.out);
    each_coordinate(value(m.out).axes, [&](Coords& c) {
      LlvmValue v = expression(m, c);
      if (lanes_axis(value(m.out).axes) >= 0) v = s_.splat(v);
      reg(m.out, c) = v;
    });
  }

  LlvmValue expression(const MapTile& m, const Coords& c) {
    std::vector<LlvmValue> v(m.expr.size());
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      switch (n.kind) {
        case ScalarNode::Kind::constant: v[i] = s_.constant(n.constant); break;
        case ScalarNode::Kind::operand: v[i] = reg(m.args[static_cast<size_t>(n.operand)], c); break;
        case ScalarNode::Kind::symbol: v[i] = b_.CreateMul(f_->getArg(4), i64(n.constant.i + planted(Fault::symbol_factor))); break;
        case ScalarNode::Kind::coord: v[i] = evaluate(n.coord, c, true); break;
        case ScalarNode::Kind::random: v[i] = s_.philox(v[static_cast<size_t>(n.args[0])], static_cast<uint32_t>(n.operand), evaluate(n.coord, c, true)); break;
        case ScalarNode::Kind::op: {
          std::vector<LlvmValue> args;
          for (int a : n.args) args.push_back(v[static_cast<size_t>(a)]);
          v[i] = s_.apply(n.op, n.dtype, m.expr[static_cast<size_t>(n.args[n.op == Op::select ? 1 : 0])].dtype, std::move(args));
          break;
        }
      }
    }
    return v.back();
  }

  // A fixed tree over the lanes.
  LlvmValue across(Op combine, DType dtype, LlvmValue v) {
    for (int width = lanes_ / (planted(Fault::lane_tree) ? 4 : 2); width >= 1; width /= 2) {
      std::vector<int> mask;
      for (int i = 0; i < lanes_; ++i) mask.push_back(i < width ? i + width : -1);
      v = s_.combine(combine, dtype, v, b_.CreateShuffleVector(v, mask));
    }
    return b_.CreateExtractElement(v, uint64_t{0});
  }

  // Combines the tile along the axes; the result stays per lane where the lanes axis is among them.
  std::map<int64_t, LlvmValue> partial(const ReduceTile& r, const std::map<int64_t, LlvmValue>& start) {
    std::map<int64_t, LlvmValue> sums = start;   // by position in the result
    const AxisId lanes = lanes_axis(value(r.arg).axes);
    const bool over_lanes = std::count(r.axes.begin(), r.axes.end(), lanes) > 0;
    const DType dtype = value(r.out).dtype;
    each_coordinate(value(r.arg).axes, [&](Coords& c) {
      LlvmValue v = reg(r.arg, c);
      if (over_lanes)
        if (const LlvmValue mask = lane_mask(lanes, c)) v = b_.CreateSelect(mask, v, s_.constant(identity_of(r.combine, dtype), v));
      LlvmValue& sum = sums[result_position(r.out, c)];
      sum = sum ? s_.combine(r.combine, dtype, sum, v) : v;
    });
    return sums;
  }
  int64_t result_position(ValueId v, const Coords& c) {
    int64_t p = 0;
    for (AxisId a : value(v).axes) p = p * steps(a) + c.at(a);
    return p;
  }

  void statement(const ReduceTile& r) {
    allocate(r.out);
    const bool over_lanes = std::count(r.axes.begin(), r.axes.end(), lanes_axis(value(r.arg).axes)) > 0;
    const DType dtype = value(r.out).dtype;
    const auto sums = partial(r, {});
    each_coordinate(value(r.out).axes, [&](Coords& c) {
      const auto it = sums.find(result_position(r.out, c));
      LlvmValue v = it == sums.end() ? s_.constant(identity_of(r.combine, dtype)) : it->second;
      if (over_lanes && v->getType()->isVectorTy()) v = across(r.combine, dtype, v);
      if (lanes_axis(value(r.out).axes) >= 0) v = s_.splat(v);
      reg(r.out, c) = v;
    });
  }

  void statement(const Mma& m) {
    allocate(m.out);
    const DType dtype = value(m.out).dtype;
    const AxisId lanes = lanes_axis(m.axes);
    each_coordinate(value(m.out).axes, [&](Coords& c) { reg(m.out, c) = reg(m.acc, c); });
    each_coordinate(m.axes, [&](Coords& k) {
      const Coords summed = k;
      each_coordinate(value(m.out).axes, [&](Coords& c) {
        Coords all = c;
        all.insert(summed.begin(), summed.end());
        LlvmValue x = reg(m.a, all), y = reg(m.b, all);
        LlvmValue& sum = reg(m.out, c);
        if (const LlvmValue mask = lane_mask(lanes, all))
          for (LlvmValue* v : {&x, &y}) *v = b_.CreateSelect(mask, s_.splat(*v), s_.constant(Scalar::of(dtype, 0), s_.splat(*v)));
        if (sum->getType()->isVectorTy() || lanes >= 0) x = s_.splat(x), y = s_.splat(y);
        if (sum->getType()->isVectorTy()) sum = s_.fma(x, y, sum);
        else if (lanes >= 0) sum = b_.CreateFAdd(sum, across(Op::add, dtype, b_.CreateFMul(x, y)));   // on the summed axis
        else sum = s_.fma(x, y, sum);
      });
    });
  }

  // A carry that only collects what is summed over the lanes may stay per lane until the end:
  // yield map(combine(carry, part)), part = reduce<combine> (…), or yield mma (carry, …).
  struct LaneCarry {
    Op combine;
    const ReduceTile* reduce = nullptr;   // none: an mma
  };
  std::optional<LaneCarry> lane_carry(const Seq& q, size_t i) const {
    const MapTile* update = nullptr;
    const Mma* product = nullptr;
    int uses = 0;
    for (const Stmt& s : q.body)
      if (const auto* m = std::get_if<MapTile>(&s.node)) {
        if (m->out == q.yields[i]) update = m;
        uses += static_cast<int>(std::count(m->args.begin(), m->args.end(), q.carries[i].var));
      } else if (const auto* mma = std::get_if<Mma>(&s.node)) {
        if (mma->out == q.yields[i] && mma->acc == q.carries[i].var) product = mma;
        uses += mma->acc == q.carries[i].var;
      } else if (!std::holds_alternative<Load>(s.node) && !std::holds_alternative<ReduceTile>(s.node)) {
        return std::nullopt;
      }
    if (uses != 1) return std::nullopt;
    if (product) return lanes_axis(product->axes) >= 0 && q.carries[i].init == identity_of(Op::add, value(product->out).dtype) ? std::optional(LaneCarry{Op::add}) : std::nullopt;
    if (!update || update->args.size() != 2 || update->expr.size() != 3 || update->args[0] != q.carries[i].var) return std::nullopt;
    const ScalarNode& op = update->expr[2];
    for (const Stmt& s : q.body)
      if (const auto* r = std::get_if<ReduceTile>(&s.node))
        if (r->out == update->args[1] && op.kind == ScalarNode::Kind::op && op.op == r->combine && value(r->out).axes == value(q.yields[i]).axes &&
            q.carries[i].init == identity_of(r->combine, value(r->out).dtype) && std::count(r->axes.begin(), r->axes.end(), lanes_axis(value(r->arg).axes)))
          return LaneCarry{r->combine, r};
    return std::nullopt;
  }

  void statement(const Seq& q) {
    std::vector<std::optional<LaneCarry>> per_lane;
    std::vector<LlvmValue> state;
    std::vector<size_t> sizes;
    for (size_t i = 0; i < q.carries.size(); ++i) {
      const ValueId v = q.carries[i].var;
      per_lane.push_back(lane_carry(q, i));
      allocate(v);
      const bool vector = per_lane[i] || lanes_axis(value(v).axes) >= 0;
      for (LlvmValue& r : tiles_[static_cast<size_t>(v)]) {
        r = s_.constant(q.carries[i].init);
        if (vector) r = s_.splat(r);
        state.push_back(r);
      }
      sizes.push_back(tiles_[static_cast<size_t>(v)].size());
    }
    loops_.push_back({q.axes.back()});
    state = walk(q.axes, 0, std::move(state), [&](std::vector<LlvmValue> current) {
      size_t p = 0;
      for (size_t i = 0; i < q.carries.size(); ++i) {
        auto& tile = tiles_[static_cast<size_t>(q.carries[i].var)];
        tile.assign(current.begin() + static_cast<int64_t>(p), current.begin() + static_cast<int64_t>(p + sizes[i]));
        p += sizes[i];
      }
      for (const Stmt& s : q.body) {
        bool done = false;   // what a per-lane carry replaces
        for (size_t i = 0; i < q.carries.size(); ++i)
          if (per_lane[i] && per_lane[i]->reduce) {
            const auto* r = std::get_if<ReduceTile>(&s.node);
            const auto* m = std::get_if<MapTile>(&s.node);
            if (r == per_lane[i]->reduce) {
              std::map<int64_t, LlvmValue> start;
              const auto& tile = tiles_[static_cast<size_t>(q.carries[i].var)];
              for (size_t e = 0; e < tile.size(); ++e) start[static_cast<int64_t>(e)] = tile[e];
              const auto sums = partial(*r, start);
              allocate(q.yields[i]);
              for (const auto& [at, v] : sums) tiles_[static_cast<size_t>(q.yields[i])][static_cast<size_t>(at)] = v;
              done = true;
            }
            done = done || (m && m->out == q.yields[i]);
          }
        if (!done) std::visit([this](const auto& node) { statement(node); }, s.node);
      }
      std::vector<LlvmValue> next;
      for (ValueId y : q.yields) next.insert(next.end(), tiles_[static_cast<size_t>(y)].begin(), tiles_[static_cast<size_t>(y)].end());
      return next;
    });
    loops_.pop_back();
    size_t p = 0;
    for (size_t i = 0; i < q.carries.size(); ++i) {
      auto& out = tiles_[static_cast<size_t>(q.outs[i])];
      out.assign(state.begin() + static_cast<int64_t>(p), state.begin() + static_cast<int64_t>(p + sizes[i]));
      p += sizes[i];
      if (per_lane[i])
        for (LlvmValue& v : out) v = across(per_lane[i]->combine, value(q.outs[i]).dtype, v);
    }
  }

  void statement(const Each& e) {
    loops_.push_back(e.axes);
    walk(e.axes, 0, {}, [&](std::vector<LlvmValue> none) {
      block(e.body);
      return none;
    });
    loops_.pop_back();
  }

  void statement(const Store& t) {
    const Buffer& buffer = k_.buffers[static_cast<size_t>(t.buffer)];
    if (count(buffer.shape) == 0) return;
    const Shape strides = buffer.strides();
    std::set<int> used(value(t.value).axes.begin(), value(t.value).axes.end());
    for (const BoxIndex& e : t.index)
      if (e.gather < 0) e.index.collect_axes(used);
      else used.insert(value(e.gather).axes.begin(), value(e.gather).axes.end());
    const std::vector<AxisId> axes(used.begin(), used.end());
    const AxisId lanes = lanes_axis(axes);
    llvm::Type* memory = s_.memory(buffer.dtype);
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    each_coordinate(axes, [&](Coords& c) {
      bool linear = true;
      int64_t along = 0;
      for (size_t d = 0; d < t.index.size() && lanes >= 0; ++d) {
        if (t.index[d].gather >= 0) {
          linear = linear && lanes_axis(value(t.index[d].gather).axes) < 0;
          continue;
        }
        const auto s = stride(t.index[d].index, lanes);
        linear = linear && s;
        along += s.value_or(0) * strides[d];
      }
      const bool whole = lanes >= 0 && linear && along == 1;
      LlvmValue position = i64(0), mask = lane_mask(lanes, c);
      for (size_t d = 0; d < t.index.size(); ++d) {
        const auto& [index, gather] = t.index[d];
        if (gather < 0 && !proven(index, buffer.shape[d]) && !is_local(index)) mask = both(mask, within(evaluate(index, c, lanes >= 0), buffer.shape[d]));
        const LlvmValue i = gather < 0 ? evaluate(index, c, lanes >= 0 && !whole) : s_.apply(Op::cast, DType::i64, value(gather).dtype, {reg(gather, c)});
        if (gather >= 0) mask = both(mask, within(i, buffer.shape[d]));
        LlvmValue term = b_.CreateMul(i, s_.integer(i->getType(), strides[d]));
        if (term->getType()->isVectorTy() != position->getType()->isVectorTy()) term = s_.splat(term), position = s_.splat(position);
        position = b_.CreateAdd(position, term);
      }
      LlvmValue v = s_.to_memory(buffer.dtype, reg(t.value, c));
      const LlvmValue pointer = pointers_[static_cast<size_t>(t.buffer)];
      if (lanes >= 0) {
        v = s_.splat(v);
        const LlvmValue at = b_.CreateGEP(memory, pointer, whole ? position : s_.splat(position));
        if (!whole) b_.CreateMaskedScatter(v, at, align, mask ? s_.splat(mask) : s_.splat(b_.getTrue()));
        else if (mask) s_.masked_store(v, at, align, s_.splat(mask));
        else b_.CreateAlignedStore(v, at, align);
        return;
      }
      const LlvmValue at = b_.CreateGEP(memory, pointer, position);
      if (!mask) {
        b_.CreateAlignedStore(v, at, align);
        return;
      }
      llvm::BasicBlock *then = new_block("then"), *after = new_block("after");
      b_.CreateCondBr(mask, then, after);
      b_.SetInsertPoint(then);
      b_.CreateAlignedStore(v, at, align);
      b_.CreateBr(after);
      b_.SetInsertPoint(after);
    });
  }
};

}  // namespace

void emit(const Kernel& kernel, const std::string& name, const CpuArch& arch, llvm::Module& module) {
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* pointer = llvm::PointerType::getUnqual(context);
  llvm::Type* word = llvm::Type::getInt64Ty(context);
  auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), {pointer, pointer, word, word, word}, false);
  auto* function = llvm::Function::Create(type, llvm::Function::ExternalLinkage, name, module);
  function->addFnAttr("prefer-vector-width", "512");
  function->addFnAttr("min-legal-vector-width", arch.lanes == 16 ? "512" : "0");
  function->setDoesNotThrow();
  for (unsigned a = 0; a < 2; ++a) function->addParamAttr(a, llvm::Attribute::NoAlias);
  Emitter(kernel, arch, function).run();
}

}  // namespace quern::cpu
