// Tile IR → LLVM IR. Tiles live in registers: a tile over axes A is an array of values indexed by the unrolled
// coordinates of its axes, where the axis marked `lanes` counts in vectors. Everything but a symbolic loop is static: the
// remainder is a second instance of the body, clipped; a partial last vector is masked. Relies on plan_cpu; decides
// nothing but what is asked for early in loops whose steps lie far apart (memory.h).
#include "codegen/llvm/emit.h"

#include <algorithm>
#include <functional>
#include <map>

#include <fmt/format.h>
#include <llvm/IR/IntrinsicsX86.h>

#include "codegen/llvm/memory.h"
#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "passes/tile/facts.h"

namespace quern::cpu {

using namespace tile;

int64_t scratch_bytes(const Kernel& kernel) {
  int64_t bytes = 0;
  for (const Buffer& b : kernel.buffers)
    if (b.kind == BufferKind::scratch) bytes += round_up(checked_mul(count(b.shape), size_of(b.dtype)), 64);
  return bytes;
}

namespace {

class Emitter : Memory {
 public:
  Emitter(const Kernel& kernel, const CpuArch& arch, llvm::Function* function) : Memory(kernel, arch, function) {}

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
    if (!streams_.empty()) b_.CreateIntrinsic(llvm::Intrinsic::x86_sse_sfence, {}, {});
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
    const std::function<void(const Block&)> visit = [&](const Block& block) {
      const Load* load = nullptr;
      for (const Stmt& s : block) {
        if (const auto* l = std::get_if<Load>(&s.node)) load = l;
        if (const auto* t = std::get_if<Store>(&s.node); t && load) copies_.try_emplace(t->buffer, Copy{load, t});
        if (const auto* seq = std::get_if<Seq>(&s.node)) visit(seq->body);
        if (const auto* each = std::get_if<Each>(&s.node)) visit(each->body);
        if (const auto* t = std::get_if<Store>(&s.node); t && t->stream) {
          const LlvmValue address = b_.CreatePtrToInt(pointers_[static_cast<size_t>(t->buffer)], b_.getInt64Ty());
          streams_[t->buffer] = b_.CreateICmpEQ(b_.CreateAnd(address, i64(kLine - 1)), i64(0));
        }
      }
    };
    visit(k_.phases[0].body);
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

  // Of a walk: its axes stand at the first coordinates of their blocks, or at the last.
  LlvmValue bound(const Index& e, bool last) {
    LlvmValue v = evaluate(e, {}, false);
    std::set<int> axes;
    e.collect_axes(axes);
    for (int x : axes) {
      const At& at = at_[static_cast<size_t>(x)];
      if (last && !planted(Fault::bound_of_first)) v = b_.CreateAdd(v, b_.CreateMul(i64(*e.stride(x)), b_.CreateSub(at.size ? at.size : i64(at.count), i64(1))));
    }
    return v;
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
    if (a.from || a.to) {   // the blocks that hold such coordinates; the shorter last one may be among them
      const int64_t full = a.extent / a.tile, rest = a.extent % a.tile;
      const LlvmValue from = a.from ? s_.call(llvm::Intrinsic::smax, {bound(*a.from, false), i64(0)}) : i64(0), to = a.to ? s_.call(llvm::Intrinsic::smax, {bound(*a.to, true), i64(0)}) : i64(a.extent);
      const LlvmValue first = s_.call(llvm::Intrinsic::umin, {b_.CreateUDiv(from, i64(a.tile)), i64(full)});
      const LlvmValue last = s_.call(llvm::Intrinsic::umin, {b_.CreateUDiv(b_.CreateAdd(to, i64(a.tile - 1)), i64(a.tile)), i64(full)});
      blocks(a.tile, b_.CreateMul(first, i64(a.tile)), b_.CreateSub(last, first));
      const LlvmValue ends = b_.CreateAnd(b_.CreateICmpSLT(from, i64(a.extent)), b_.CreateICmpSGT(to, i64(full * a.tile)));
      if (rest > 0) blocks(rest, i64(full * a.tile), b_.CreateZExt(ends, b_.getInt64Ty()));
      return state;
    }
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

  std::set<const Load*> asked_;   // what they ask for early is asked for where their loop's body begins
  void statement(const Load& l) {
    allocate(l.out);
    const Buffer& buffer = k_.buffers[static_cast<size_t>(l.buffer)];
    if (const AxisId across = turned(value(l.out).axes, l.buffer, l.index); across >= 0) return load_turned(l, buffer, across);
    if (!asked_.count(&l)) ask(l);
    each_coordinate(value(l.out).axes, [&](Coords& c) { reg(l.out, c) = load(l, buffer, c); });
  }

  void statement(const MapTile& m) {
    allocate(m.out);
    const auto divisions = std::count_if(m.expr.begin(), m.expr.end(), [](const ScalarNode& n) { return n.kind == ScalarNode::Kind::op && n.op == Op::div; });
    s_.branches = divisions * static_cast<int64_t>(tiles_[static_cast<size_t>(m.out)].size()) <= 8;
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
    std::map<int64_t, std::vector<LlvmValue>> parts;   // by position in the result
    const AxisId lanes = lanes_axis(value(r.arg).axes);
    const bool over_lanes = std::count(r.axes.begin(), r.axes.end(), lanes) > 0;
    const DType dtype = value(r.out).dtype;
    each_coordinate(value(r.arg).axes, [&](Coords& c) {
      LlvmValue v = reg(r.arg, c);
      if (over_lanes)
        if (const LlvmValue mask = lane_mask(lanes, c)) v = b_.CreateSelect(mask, v, s_.constant(identity_of(r.combine, dtype), v));
      parts[result_position(r.out, c)].push_back(v);
    });
    // A tree, so that from one step to the next there is one op.
    std::map<int64_t, LlvmValue> sums = start;
    for (auto& [position, v] : parts) {
      for (; v.size() > 1; v.resize((v.size() + 1) / 2))
        for (size_t i = 0; i + (v.size() + 1) / 2 < v.size(); ++i) v[i] = s_.combine(r.combine, dtype, v[i], v[i + (v.size() + 1) / 2]);
      LlvmValue& sum = sums[position];
      sum = sum ? s_.combine(r.combine, dtype, sum, v[0]) : v[0];
    }
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
      } else if (!std::holds_alternative<Load>(s.node) && !std::holds_alternative<ReduceTile>(s.node) && !std::holds_alternative<Store>(s.node)) {
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
    loops_.emplace_back(q.axes.end() - std::min<int64_t>(1, static_cast<int64_t>(q.axes.size())), q.axes.end());
    state = walk(q.axes, 0, std::move(state), [&](std::vector<LlvmValue> current) {
      size_t p = 0;
      for (size_t i = 0; i < q.carries.size(); ++i) {
        auto& tile = tiles_[static_cast<size_t>(q.carries[i].var)];
        tile.assign(current.begin() + static_cast<int64_t>(p), current.begin() + static_cast<int64_t>(p + sizes[i]));
        p += sizes[i];
      }
      for (const Stmt& s : q.body)
        if (const auto* l = std::get_if<Load>(&s.node); l && turned(value(l->out).axes, l->buffer, l->index) < 0 && std::none_of(l->index.begin(), l->index.end(), [](const BoxIndex& e) { return e.gather >= 0; })) {
          asked_.insert(l);
          ask(*l);
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

  void statement(const Store& t) { store(t); }
  void statement(const InRole&) { QN_CHECK(false, "a CPU kernel has no roles"); }
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
