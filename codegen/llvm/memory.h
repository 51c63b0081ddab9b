// Loads and stores of a CPU kernel's tiles: plain vectors, masks, gathers, squares turned in registers, stores past the caches,
// and what is asked for early.
#pragma once
#include <algorithm>

#include "codegen/llvm/places.h"
#include "passes/tile/facts.h"

namespace quern::cpu {

constexpr int64_t kLine = 64;   // bytes of a cache line

class Memory : protected Places {
 protected:
  using Places::Places;
  using Load = tile::Load;
  using Store = tile::Store;
  using Buffer = tile::Buffer;
  using BoxIndex = tile::BoxIndex;
  using BufferId = tile::BufferId;
  std::map<BufferId, LlvmValue> streams_;    // of streamed buffers: whether this one begins with a line
  std::vector<std::vector<AxisId>> loops_;   // the axes of the open ones, outermost first
  struct Copy {
    const Load* load;
    const Store* store;
  };
  std::map<BufferId, Copy> copies_;          // of a scratch: what is copied there

  // Is the place linear along the lanes, does it vary (steps of two dims may cancel, their bounds do not), and by how many
  // elements from one to the next?
  struct Along {
    bool linear = true, varies = false;
    int64_t step = 0;
  };
  Along along(const std::vector<BoxIndex>& index, const Buffer& buffer, AxisId lanes) const {
    const Shape strides = buffer.strides();
    Along out;
    for (size_t d = 0; d < index.size() && lanes >= 0; ++d) {
      if (index[d].gather >= 0) {
        out.linear = out.linear && lanes_axis(value(index[d].gather).axes) < 0;
        continue;
      }
      const auto s = stride(index[d].index, lanes);
      out.linear = out.linear && s;
      out.varies = out.varies || !s || *s != 0;
      out.step += s.value_or(0) * strides[d];
    }
    return out;
  }
  // The place in elements: of each lane where it is spread over them, of the first where they are neighbours (`whole`). To
  // the mask comes that it is inside.
  LlvmValue place(const std::vector<BoxIndex>& index, const Buffer& buffer, const Coords& c, bool spread, bool whole, LlvmValue& mask) {
    const Shape strides = buffer.strides();
    LlvmValue position = i64(0);
    for (size_t d = 0; d < index.size(); ++d) {
      const auto& [expression, gather] = index[d];
      LlvmValue i;
      if (gather >= 0) {
        i = s_.apply(Op::cast, DType::i64, value(gather).dtype, {reg(gather, c)});
        if (!planted(Fault::gather_unchecked)) mask = both(mask, within(i, buffer.shape[d]));
      } else {
        if (!proven(expression, buffer.shape[d])) mask = both(mask, within(evaluate(expression, c, spread), buffer.shape[d]));
        i = evaluate(expression, c, spread && !whole);
      }
      LlvmValue term = b_.CreateMul(i, s_.integer(i->getType(), strides[d]));
      if (term->getType()->isVectorTy() != position->getType()->isVectorTy()) term = s_.splat(term), position = s_.splat(position);
      position = b_.CreateAdd(position, term);
    }
    return position;
  }

  // Where the lanes lie apart in memory and another axis of the tile lies together: that axis, else -1.
  AxisId turned(const std::vector<AxisId>& axes, BufferId id, const std::vector<BoxIndex>& index) const {
    const AxisId lanes = lanes_axis(axes);
    const Buffer& buffer = k_.buffers[static_cast<size_t>(id)];
    const auto step = [&](AxisId a) { return step_of(k_, id, index, a); };
    if (lanes < 0 || count(buffer.shape) == 0 || step(lanes) <= 1) return -1;
    for (const BoxIndex& box : index)
      if (box.gather >= 0 || !proven(box.index, buffer.shape[static_cast<size_t>(&box - index.data())])) return -1;
    for (AxisId a : axes)
      if (a != lanes && axis(a).tile == lanes_ && axis(lanes).tile % lanes_ == 0 && step(a) == 1) return a;
    return -1;
  }
  // A square of vectors becomes that of its columns.
  void turn(std::vector<LlvmValue>& rows) {
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
  }
  // The squares of a tile: so many vectors of so many elements along `across`, one for each lane.
  struct Square {
    Coords first;
    std::vector<LlvmValue> at;   // where the vectors lie
    int64_t columns;
    LlvmValue mask = nullptr;    // of fewer columns than a vector has
  };
  void each_square(const std::vector<AxisId>& axes, BufferId id, const std::vector<BoxIndex>& index, AxisId across, const std::function<void(const Square&)>& f) {
    const AxisId lanes = lanes_axis(axes);
    const Buffer& buffer = k_.buffers[static_cast<size_t>(id)];
    const int64_t step = step_of(k_, id, index, lanes), columns = at_[static_cast<size_t>(across)].count;
    std::vector<llvm::Constant*> bits;
    for (int i = 0; i < lanes_; ++i) bits.push_back(b_.getInt1(i < columns));
    each_coordinate(axes, [&](Coords& c) {
      if (c.at(across) > 0) return;
      LlvmValue inside = nullptr;
      const LlvmValue position = place(index, buffer, c, false, false, inside);
      const LlvmValue at = b_.CreateGEP(s_.memory(buffer.dtype), pointers_[static_cast<size_t>(id)], position);
      Square square{c, {}, columns, columns < lanes_ ? llvm::ConstantVector::get(bits) : nullptr};
      for (int64_t i = 0; i < std::min<int64_t>(lanes_, at_[static_cast<size_t>(lanes)].count - c.at(lanes) * lanes_); ++i)
        square.at.push_back(b_.CreateConstGEP1_64(s_.memory(buffer.dtype), at, static_cast<uint64_t>(i * step)));
      f(square);
    });
  }
  void load_turned(const Load& l, const Buffer& buffer, AxisId across) {
    llvm::Type* memory = s_.memory(buffer.dtype);
    llvm::Type* vector = llvm::FixedVectorType::get(memory, static_cast<unsigned>(lanes_));
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    each_square(value(l.out).axes, l.buffer, l.index, across, [&](const Square& square) {
      std::vector<LlvmValue> rows;
      for (LlvmValue at : square.at) rows.push_back(square.mask ? s_.masked_load(memory, at, align, square.mask) : static_cast<LlvmValue>(b_.CreateAlignedLoad(vector, at, align)));
      rows.resize(static_cast<size_t>(lanes_), llvm::Constant::getNullValue(vector));
      turn(rows);
      Coords to = square.first;
      for (int64_t j = 0; j < square.columns; ++j) {
        to[across] = j;
        reg(l.out, to) = s_.from_memory(buffer.dtype, rows[static_cast<size_t>(j)]);
      }
    });
  }
  void store_turned(const Store& t, const Buffer& buffer, AxisId across) {
    llvm::Type* vector = llvm::FixedVectorType::get(s_.memory(buffer.dtype), static_cast<unsigned>(lanes_));
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    each_square(value(t.value).axes, t.buffer, t.index, across, [&](const Square& square) {
      std::vector<LlvmValue> columns;
      Coords from = square.first;
      for (int64_t j = 0; j < square.columns; ++j) {
        from[across] = j;
        columns.push_back(s_.splat(s_.to_memory(buffer.dtype, reg(t.value, from))));
      }
      columns.resize(static_cast<size_t>(lanes_), llvm::Constant::getNullValue(vector));
      turn(columns);
      for (size_t i = 0; i < square.at.size(); ++i)
        if (square.mask) s_.masked_store(columns[i], square.at[i], align, square.mask);
        else b_.CreateAlignedStore(columns[i], square.at[i], align);
    });
  }

  // Lanes whose places are 2 to 4 elements apart, or the same for 2 or more neighbours (… + lane // so many): the elements
  // from the first to the last are loaded as they lie, and each lane takes its own. Null where that is not how they lie.
  LlvmValue load_spaced(const Load& l, const Buffer& buffer, const Coords& c, AxisId lanes) {
    constexpr int64_t kFarthest = 4;
    for (size_t d = 0; d < l.index.size(); ++d)
      if (l.index[d].gather >= 0 || !proven(l.index[d].index, buffer.shape[d])) return nullptr;
    const auto [linear, varies, step] = along(l.index, buffer, lanes);
    int64_t share = 1;
    if (!linear) {
      const Shape strides = buffer.strides();
      for (size_t d = 0; d < l.index.size(); ++d)
        if (l.index[d].index.uses(lanes)) share = share == 1 && strides[d] == 1 ? neighbours(l.index[d].index, lanes) : 0;
      if (share < 2 || lanes_ % share != 0 || unit(lanes) % share != 0) return nullptr;
    } else if (step < 2 || step > kFarthest) {
      return nullptr;
    }
    const auto from = [&](int64_t lane) { return linear ? lane * step : lane / share; };
    const int64_t here = std::min<int64_t>(lanes_, at_[static_cast<size_t>(lanes)].count - c.at(lanes) * lanes_), total = from(here - 1) + 1;
    LlvmValue inside = nullptr, out = nullptr;
    llvm::Type* memory = s_.memory(buffer.dtype);
    llvm::Type* vector = llvm::FixedVectorType::get(memory, static_cast<unsigned>(lanes_));
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    const LlvmValue first = b_.CreateGEP(memory, pointers_[static_cast<size_t>(l.buffer)], place(l.index, buffer, c, false, false, inside));
    for (int64_t begin = 0; begin < total; begin += lanes_) {
      std::vector<llvm::Constant*> there;
      std::vector<int> taken;
      for (int64_t i = 0; i < lanes_; ++i) {
        there.push_back(b_.getInt1(begin + i < total));
        const int64_t element = from(std::min(i, here - 1)) - begin;
        taken.push_back(static_cast<int>(element >= 0 && element < lanes_ ? lanes_ + element : i));
      }
      const LlvmValue at = b_.CreateConstGEP1_64(memory, first, static_cast<uint64_t>(begin));
      const LlvmValue part = begin + lanes_ > total ? s_.masked_load(memory, at, align, llvm::ConstantVector::get(there)) : static_cast<LlvmValue>(b_.CreateAlignedLoad(vector, at, align));
      out = b_.CreateShuffleVector(out ? out : part, part, taken);
    }
    return out;
  }
  // The q of … + lanes // q, where nothing else varies along them; else 0.
  static int64_t neighbours(const Index& e, AxisId lanes) {
    if (e.kind() == Index::Kind::add) return e.left().uses(lanes) && e.right().uses(lanes) ? 0 : neighbours(e.left().uses(lanes) ? e.left() : e.right(), lanes);
    return e.kind() == Index::Kind::div && e.left().kind() == Index::Kind::axis && e.left().value() == lanes ? e.value() : 0;
  }

  // For what the next grid instance reads where this one reads its lines.
  void ask_ahead(const Load& l, LlvmValue at, const Coords& c) {
    const std::vector<AxisId>& grid = k_.phases[0].grid;
    const Buffer& buffer = k_.buffers[static_cast<size_t>(l.buffer)];
    const AxisId row = loops_.size() > 1 ? loops_.front().back() : grid.back();   // a chunk's rows are walked
    const int64_t step = step_of(k_, l.buffer, l.index, row) * axis(row).tile, vector = lanes_ * size_of(buffer.dtype);
    constexpr uint32_t kToSecondCache = 2;
    const AxisId lanes = lanes_axis(value(l.out).axes);
    if (lanes < 0 || c.at(lanes) % std::max<int64_t>(1, kLine / vector) != 0) return;
    for (int64_t line = 0; line < std::max<int64_t>(vector, kLine); line += kLine) {
      const LlvmValue there = b_.CreateConstGEP1_64(b_.getInt8Ty(), at, static_cast<uint64_t>(step * size_of(buffer.dtype) + line));
      b_.CreateIntrinsic(llvm::Intrinsic::prefetch, {there->getType()}, {there, b_.getInt32(0), b_.getInt32(kToSecondCache), b_.getInt32(1)});
    }
  }

  // For what will be copied next to the place that this one reads: the next block of the sum, or the first of the next grid
  // instance. The tiles that read the place one after the other ask for some of its lines each.
  void ask_for_copy(const Load& l, const Coords& c) {
    constexpr uint32_t kToSecondCache = 2;
    const AxisId lanes = lanes_axis(value(l.out).axes), columns = k_.phases[0].grid.back();
    if (c.at(lanes) > 0) return;
    const auto [source, store] = copies_.at(l.buffer);
    const Buffer& from = k_.buffers[static_cast<size_t>(source->buffer)];
    Coords there = c;   // the copying loop's axes stand where those of this one do
    LlvmValue next = i64(axis(columns).tile);
    for (size_t d = 0; d < l.index.size(); ++d) {
      std::set<int> here, copied;
      l.index[d].index.collect_axes(here);
      store->index[d].index.collect_axes(copied);
      if (here.empty()) continue;
      const AxisId a = *here.begin(), b = *copied.begin(), block = axis(a).within;
      at_[static_cast<size_t>(b)] = at_[static_cast<size_t>(a)];
      there[b] = c.at(a);
      if (is_lanes(a) || block < 0) continue;
      const int64_t step = step_of(k_, source->buffer, source->index, b);
      const LlvmValue start = at_[static_cast<size_t>(block)].start, last = b_.CreateICmpSGE(b_.CreateAdd(start, i64(axis(block).tile)), i64(axis(block).extent));
      next = b_.CreateSelect(last, b_.CreateSub(next, b_.CreateMul(start, i64(step))), i64(axis(block).tile * step));
    }
    const auto shared = std::find_if(loops_.rbegin(), loops_.rend(), [&](const std::vector<AxisId>& loop) {
      return std::none_of(l.index.begin(), l.index.end(), [&](const BoxIndex& e) { return e.index.uses(loop.back()); });
    });
    QN_CHECK(shared != loops_.rend(), "a copy that several tiles read");
    const AxisId rows = shared->back();
    const int64_t readers = ceil_div(axis(rows).within < 0 ? axis(rows).extent : std::min(axis(rows).extent, axis(axis(rows).within).tile), axis(rows).tile);
    const int64_t lines = ceil_div(axis(lanes).tile * size_of(from.dtype), kLine), each = ceil_div(lines, readers);
    LlvmValue inside = nullptr;
    const LlvmValue reader = b_.CreateUDiv(at_[static_cast<size_t>(rows)].offset, i64(axis(rows).tile));
    const LlvmValue at = b_.CreateGEP(s_.memory(from.dtype), pointers_[static_cast<size_t>(source->buffer)], b_.CreateAdd(place(source->index, from, there, false, false, inside), next));
    for (int64_t i = 0; i < each; ++i) {
      const LlvmValue line = s_.call(llvm::Intrinsic::umin, {b_.CreateAdd(b_.CreateMul(reader, i64(each)), i64(i)), i64(lines - 1)});
      s_.call(llvm::Intrinsic::prefetch, {b_.CreateGEP(b_.getInt8Ty(), at, b_.CreateMul(line, i64(kLine))), b_.getInt32(0), b_.getInt32(kToSecondCache), b_.getInt32(1)});
    }
  }

  LlvmValue load(const Load& l, const Buffer& buffer, const Coords& c) {
    const AxisId lanes = lanes_axis(value(l.out).axes);
    llvm::Type* memory = s_.memory(buffer.dtype);
    llvm::Type* vector = llvm::FixedVectorType::get(memory, static_cast<unsigned>(lanes_));
    if (count(buffer.shape) == 0) {
      const LlvmValue zero = s_.constant(Scalar::of(buffer.dtype, 0));
      return lanes >= 0 ? s_.splat(zero) : zero;
    }
    const auto [linear, varies, step] = along(l.index, buffer, lanes);
    const bool spread = lanes >= 0 && (!linear || varies);
    const bool whole = spread && linear && (step == 1 || planted(Fault::load_stride));
    if (spread && !whole)
      if (const LlvmValue raw = load_spaced(l, buffer, c, lanes)) return s_.from_memory(buffer.dtype, raw);
    LlvmValue mask = spread ? lane_mask(lanes, c) : nullptr;
    LlvmValue position = place(l.index, buffer, c, spread, whole, mask);
    LlvmValue pointer = pointers_[static_cast<size_t>(l.buffer)];
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    if (spread && !whole && checked_mul(count(buffer.layout()), size_of(buffer.dtype)) <= INT32_MAX) position = b_.CreateTrunc(s_.splat(position), llvm::FixedVectorType::get(b_.getInt32Ty(), static_cast<unsigned>(lanes_)));   // a gather takes these at once
    LlvmValue raw;
    if (!spread) {
      if (mask) position = b_.CreateSelect(mask, position, i64(0));
      raw = b_.CreateAlignedLoad(memory, b_.CreateGEP(memory, pointer, position), align);
      if (mask) raw = b_.CreateSelect(mask, raw, llvm::Constant::getNullValue(memory));
      raw = s_.from_memory(buffer.dtype, raw);
      return lanes >= 0 ? s_.splat(raw) : raw;
    }
    const LlvmValue at = b_.CreateGEP(memory, pointer, whole ? position : s_.splat(position));
    if (whole && l.ahead && buffer.kind != tile::BufferKind::scratch) ask_ahead(l, at, c);
    if (!whole) raw = b_.CreateMaskedGather(vector, at, align, mask ? s_.splat(mask) : s_.splat(b_.getTrue()), llvm::Constant::getNullValue(vector));
    else if (mask) raw = s_.masked_load(memory, at, align, s_.splat(mask));
    else raw = b_.CreateAlignedLoad(vector, at, align);
    return s_.from_memory(buffer.dtype, raw);
  }

  // In a loop whose steps lie far apart in a large buffer no hardware looks ahead: each step asks for the line of a later
  // one, or of the next tile where the loop around walks along the lines.
  void prefetch(const Load& l, const Buffer& buffer, const Coords& c) {
    constexpr int64_t kAhead = 8, kFarApart = 512, kLarge = 128 << 10;   // steps, bytes, bytes
    if (loops_.empty() || buffer.kind == tile::BufferKind::scratch || count(buffer.shape) * size_of(buffer.dtype) < kLarge) return;
    const AxisId lanes = lanes_axis(value(l.out).axes);
    const auto [linear, varies, lane_step] = along(l.index, buffer, lanes);
    const bool spread = lanes >= 0 && (!linear || varies), whole = spread && linear && lane_step == 1;
    if (spread && !whole) return;
    const std::vector<AxisId>& loop = loops_.back();
    const auto far = std::find_if(loop.begin(), loop.end(), [&](AxisId a) { return step_of(k_, l.buffer, l.index, a) * size_of(buffer.dtype) >= kFarApart; });
    if (far == loop.end()) return;
    // Neighbours of other axes are in the line of the first.
    for (const auto& [a, i] : c)
      if (a != *far && !is_lanes(a) && i > 0) return;
    int64_t distance = step_of(k_, l.buffer, l.index, *far) * kAhead;
    if (loops_.size() > 1)
      for (AxisId a : loops_[loops_.size() - 2])
        if (is_lanes(a) && step_of(k_, l.buffer, l.index, a) == 1) distance = unit(a);
    constexpr int64_t kShortBlock = 64;   // steps: what it reads stays in the first cache
    if (const AxisId block = axis(*far).within; block >= 0 && axis(block).tile <= kShortBlock) distance = step_of(k_, l.buffer, l.index, *far) * axis(block).tile;
    LlvmValue inside = nullptr;
    const LlvmValue at = b_.CreateGEP(s_.memory(buffer.dtype), pointers_[static_cast<size_t>(l.buffer)], place(l.index, buffer, c, spread, whole, inside));
    s_.call(llvm::Intrinsic::prefetch, {b_.CreateConstGEP1_64(s_.memory(buffer.dtype), at, static_cast<uint64_t>(distance)), b_.getInt32(0), b_.getInt32(3), b_.getInt32(1)});
  }

  // What a load asks for early comes before all loads of its loop: they cannot pass it, and would wait in registers for it.
  void ask(const Load& l) {
    const Buffer& buffer = k_.buffers[static_cast<size_t>(l.buffer)];
    const bool copied = l.ahead && buffer.kind == tile::BufferKind::scratch;
    each_coordinate(value(l.out).axes, [&](Coords& c) { copied ? ask_for_copy(l, c) : prefetch(l, buffer, c); });
  }

  void store(const Store& t) {
    const Buffer& buffer = k_.buffers[static_cast<size_t>(t.buffer)];
    if (count(buffer.shape) == 0) return;
    std::set<int> used(value(t.value).axes.begin(), value(t.value).axes.end());
    for (const BoxIndex& e : t.index)
      if (e.gather < 0) e.index.collect_axes(used);
      else used.insert(value(e.gather).axes.begin(), value(e.gather).axes.end());
    const std::vector<AxisId> axes(used.begin(), used.end());
    const AxisId lanes = lanes_axis(axes);
    if (const AxisId across = turned(value(t.value).axes, t.buffer, t.index); across >= 0) return store_turned(t, buffer, across);
    if (t.stream && lanes >= 0 && axis(lanes).tile * size_of(buffer.dtype) % kLine == 0 && in_lines(t, buffer, lanes)) {
      llvm::BasicBlock *past = new_block("past"), *through = new_block("through"), *after = new_block("after");
      b_.CreateCondBr(streams_.at(t.buffer), past, through);
      b_.SetInsertPoint(past);
      store(t, axes, lanes, true);
      b_.CreateBr(after);
      b_.SetInsertPoint(through);
      store(t, axes, lanes, false);
      b_.CreateBr(after);
      b_.SetInsertPoint(after);
      return;
    }
    store(t, axes, lanes, false);
  }
  // Whether each whole vector of a buffer that begins with a line does so, too.
  bool in_lines(const Store& t, const Buffer& buffer, AxisId lanes) const {
    const Shape strides = buffer.strides();
    const int64_t line = kLine / size_of(buffer.dtype);
    for (size_t d = 0; d < t.index.size(); ++d) {
      const auto& [e, gather] = t.index[d];
      const bool vectors = gather < 0 && e.kind() == Index::Kind::axis && e.value() == lanes && axis(lanes).tile % lanes_ == 0;
      if (strides[d] % line != 0 && !vectors && !(gather < 0 && e.is_constant() && e.value() * strides[d] % line == 0)) return false;
    }
    return true;
  }
  void store(const Store& t, const std::vector<AxisId>& axes, AxisId lanes, bool past_caches) {
    const Buffer& buffer = k_.buffers[static_cast<size_t>(t.buffer)];
    llvm::Type* memory = s_.memory(buffer.dtype);
    const llvm::Align align(static_cast<uint64_t>(size_of(buffer.dtype)));
    each_coordinate(axes, [&](Coords& c) {
      const auto [linear, varies, step] = along(t.index, buffer, lanes);
      const bool whole = lanes >= 0 && linear && step == 1;
      LlvmValue mask = lane_mask(lanes, c);
      const LlvmValue position = place(t.index, buffer, c, lanes >= 0, whole, mask);
      LlvmValue v = s_.to_memory(buffer.dtype, reg(t.value, c));
      const LlvmValue pointer = pointers_[static_cast<size_t>(t.buffer)];
      if (lanes >= 0) {
        v = s_.splat(v);
        const LlvmValue at = b_.CreateGEP(memory, pointer, whole ? position : s_.splat(position));
        if (!whole) b_.CreateMaskedScatter(v, at, align, mask ? s_.splat(mask) : s_.splat(b_.getTrue()));
        else if (mask) s_.masked_store(v, at, align, s_.splat(mask));
        else if (past_caches) b_.CreateAlignedStore(v, at, llvm::Align(static_cast<uint64_t>(std::min(kLine, lanes_ * size_of(buffer.dtype)))))->setMetadata(llvm::LLVMContext::MD_nontemporal, llvm::MDNode::get(b_.getContext(), llvm::ConstantAsMetadata::get(b_.getInt32(1))));
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

}  // namespace quern::cpu
