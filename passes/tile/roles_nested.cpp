// See roles_nested.h. What loops compute is looked at as trees of scalar ops, whose leaves are the inner product, the maximum and the sum.
#include "passes/tile/roles_nested.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/atoms.h"
#include "passes/tile/bounds.h"
#include "passes/tile/nested_walk.h"
#include "passes/tile/regroup.h"
#include "passes/tile/roles_weighted.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kKeys = 128;   // of a block

class NestedRoles : NestedWalk {
 public:
  explicit NestedRoles(const Kernel& kernel) : NestedWalk(kernel) {}

  Kernel run() {
    find_loops();
    find_scores();
    find_weights();
    find_places();
    build();
    return std::move(k_);
  }

 private:
  const Seq *most_ = nullptr, *total_ = nullptr, *sum_ = nullptr;   // three loops over the keys
  const Each* columns_ = nullptr;                                   // around the last
  const Mma *inner_ = nullptr, *outer_ = nullptr;
  const Load *q_ = nullptr, *key_ = nullptr, *value_ = nullptr;
  AxisId column_ = -1, depth_ = -1;
  std::vector<const Store*> rows_stored_;           // of the rows' maxima and sums
  TreePtr score_, shift_;                           // x and r of exp(x - r)
  std::vector<std::pair<TreePtr, bool>> factors_;   // of each weight, or what divides it
  TreePtr mask_;                                    // where a score is seen; none: everywhere
  TreePtr raw_;                                     // the score without its mask and scale
  double in_raw_ = 1;                               // scores are so many times that

  // --- what is there ---
  static const Seq* inner_loop(const Seq& q) {
    const Seq* found = nullptr;
    for (const Stmt& s : q.body)
      if (const auto* inner = std::get_if<Seq>(&s.node)) want(!found, "a loop holds several products"), found = inner;
    want(found != nullptr, "a loop holds no product");
    return found;
  }
  void find_loops() {
    want(before_.phases.size() == 1 && std::none_of(before_.axes.begin(), before_.axes.end(), [](const Axis& a) { return a.extent < 1 || a.symbol; }), "its size is the run's");
    for (const Stmt& s : before_.phases[0].body) {
      if (const auto* q = std::get_if<Seq>(&s.node)) {
        const Op combine = reduction(*q)->combine;
        const Seq*& loop = combine == Op::max ? most_ : total_;
        want(!loop && (combine == Op::max || combine == Op::add), "it reduces something else than maxima and sums");
        loop = q;
      } else if (const auto* e = std::get_if<Each>(&s.node)) {
        want(!columns_ && e->axes.size() == 1, "it has outputs of several shapes");
        columns_ = e;
      } else {
        const auto* t = std::get_if<Store>(&s.node);
        want(t || std::holds_alternative<MapTile>(s.node), "it loads rows beside the sum");
        if (t) rows_stored_.push_back(t);
      }
    }
    want(most_ && total_ && columns_, "it is no sum with weights that add up to one");
    for (const Stmt& s : columns_->body) {
      if (const auto* q = std::get_if<Seq>(&s.node)) want(!sum_ && q->carries.size() == 1 && q->axes.size() == 1, "it has several weighted sums"), sum_ = q;
      else want(sum_ && (std::holds_alternative<MapTile>(s.node) || std::holds_alternative<Store>(s.node)), "not only maps and stores follow the sum");
    }
    want(sum_ != nullptr, "it has no weighted sum");
    column_ = columns_->axes[0], walk_ = sum_->axes[0];
  }

  // The tree of a value of a loop, or of the rows; the walk is called as the last loop's.
  TreePtr tree(const Block& block, ValueId v, const Seq* loop) const {
    std::map<AxisId, AxisId> names;
    if (loop) names.emplace(loop->axes[0], walk_);
    return NestedWalk::tree(block, v, names, [&](ValueId x) {
      return x == most_->outs[0] ? leaf(Tree::Leaf::most) : x == total_->outs[0]                  ? leaf(Tree::Leaf::total)
                                                        : x == sum_->outs[0]                      ? leaf(Tree::Leaf::product)
                                                        : loop && x == inner_loop(*loop)->outs[0] ? leaf(Tree::Leaf::score)
                                                                                                  : nullptr;
    });
  }
  void find_scores() {
    const Seq* scores = inner_loop(*sum_);
    std::tie(q_, key_) = loads_of(*scores, inner_);
    depth_ = inner_->axes[0];
    if (has_axis(q_->out, walk_)) std::swap(q_, key_);
    want(has_axis(key_->out, walk_) && !has_axis(q_->out, walk_), "its keys are in both operands");
    for (AxisId a : axes_of(q_->out))
      if (a != depth_ && !has_axis(key_->out, a) && (row_ < 0 || axis(a).extent > axis(row_).extent)) row_ = a;
    want(row_ >= 0, "it has no rows");
    for (const Seq* loop : {most_, total_}) {   // the same product
      const Mma* other = nullptr;
      auto [a, b] = loads_of(*inner_loop(*loop), other);
      if (has_axis(a->out, loop->axes[0])) std::swap(a, b);
      const auto same = [&](const Load& x, const Load& y) {
        if (x.buffer != y.buffer || x.index.size() != y.index.size()) return false;
        for (size_t d = 0; d < x.index.size(); ++d) {
          const Index there = y.index[d].index.substitute([&](int i, int64_t extent) { return Index::axis(i == loop->axes[0] ? walk_ : i == other->axes[0] ? depth_
                                                                                                                                                           : i,
                                                                                                          extent); });
          if (x.index[d].gather >= 0 || y.index[d].gather >= 0 || !(x.index[d].index == there)) return false;
        }
        return true;
      };
      want(other->precision == inner_->precision && same(*q_, *a) && same(*key_, *b), "its maxima and sums are of other scores");
    }
  }

  void find_weights() {
    outer_ = nullptr;
    for (const Stmt& s : sum_->body)
      if (const auto* m = std::get_if<Mma>(&s.node)) outer_ = m;
    want(outer_ && outer_->out == sum_->yields[0] && outer_->acc == sum_->carries[0].var && sum_->carries[0].init.f == 0 && outer_->axes == sum_->axes, "it is no weighted sum");
    const bool first = maker<MapTile>(sum_->body, outer_->a) != nullptr;
    value_ = maker<Load>(sum_->body, first ? outer_->b : outer_->a);
    want(value_ != nullptr, "what is weighted is computed");
    TreePtr p = tree(sum_->body, first ? outer_->a : outer_->b, sum_);
    want(is(p, Op::cast) && p->node.dtype == before_.values[static_cast<size_t>(value_->out)].dtype, "its weights are not rounded last");
    p = p->args[0];
    const auto narrow = [](const Tree& t) { return t.leaf == Tree::Leaf::none && is_float(t.node.dtype) && t.node.dtype != DType::f32; };
    want(!has(p, narrow), "its scores round to 16 bits (--fp fast keeps them in f32)");
    for (; is(p, Op::mul) || is(p, Op::div);) {
      const bool left = has_leaf(p->args[0], Tree::Leaf::score), right = has_leaf(p->args[1], Tree::Leaf::score);
      want(left != right && (left || is(p, Op::mul)) && is_row(p->args[left ? 1 : 0]), "its weights are more than exponentials times numbers of their rows");
      factors_.emplace_back(p->args[left ? 1 : 0], is(p, Op::div));
      p = p->args[left ? 0 : 1];
    }
    want(is(p, Op::exp) && is(p->args[0], Op::sub) && is_row(p->args[0]->args[1]), "its weights are no exponentials of scores less their maximum");
    score_ = p->args[0]->args[0], shift_ = p->args[0]->args[1];
    if (is(shift_, Op::add) && is(shift_->args[1], Op::log)) {   // exp(x - (r + log l)) = exp(x - r) / l
      factors_.emplace_back(shift_->args[1]->args[0], true);
      shift_ = TreePtr(shift_->args[0]);
      p = op(Op::exp, {op(Op::sub, {score_, shift_})});
    }
    want(is_shift(), "its scores are not shifted by their maximum");
    want(!has_leaf(score_, Tree::Leaf::most) && !has_leaf(score_, Tree::Leaf::total), "its scores know their maximum");
    want(equal(score_, tree(most_->body, reduction(*most_)->arg, most_)) && equal(p, tree(total_->body, reduction(*total_)->arg, total_)), "its maxima and sums are of other scores");
    raw_ = score_;
    if (is(raw_, Op::select) && is_constant(raw_->args[2]) && raw_->args[2]->node.constant.f == -INFINITY && !has_leaf(raw_->args[0], Tree::Leaf::score)) mask_ = raw_->args[0], raw_ = raw_->args[1];
    // A maximum of products by a positive number is that of the factors, times it.
    for (size_t a = 0; a < 2; ++a)
      if (is(raw_, Op::mul) && is_constant(raw_->args[a]) && raw_->args[a]->node.constant.f > 0 && std::isfinite(raw_->args[a]->node.constant.f)) {
        in_raw_ = raw_->args[a]->node.constant.f;
        raw_ = TreePtr(raw_->args[1 - a]);
        break;
      }
  }
  bool is_row(const TreePtr& t) const {
    return !has(t, [&](const Tree& x) { return x.leaf == Tree::Leaf::score || (x.leaf == Tree::Leaf::none && x.node.kind == ScalarNode::Kind::coord); });
  }
  // The maximum, or 0 where it is not finite.
  bool is_shift() const {
    if (shift_->leaf == Tree::Leaf::most) return true;
    const auto most = [](const TreePtr& t) { return t->leaf == Tree::Leaf::most; };
    return is(shift_, Op::select) && is(shift_->args[0], Op::lt) && is(shift_->args[0]->args[0], Op::abs) && most(shift_->args[0]->args[0]->args[0]) && is_constant(shift_->args[0]->args[1]) &&
           shift_->args[0]->args[1]->node.constant.f == INFINITY && most(shift_->args[1]) && is_constant(shift_->args[2]) && shift_->args[2]->node.constant.f == 0;
  }

  void find_places() {
    reachable(q_->buffer, q_->index, row_, depth_);
    reachable(key_->buffer, key_->index, walk_, depth_);
    reachable(value_->buffer, value_->index, walk_, column_);
    int stores = 0;
    for (const Stmt& s : columns_->body)
      if (const auto* t = std::get_if<Store>(&s.node)) {
        reachable(t->buffer, t->index, row_, column_);
        want(++stores == 1 && before_.buffers[static_cast<size_t>(t->buffer)].dtype == before_.values[static_cast<size_t>(value_->out)].dtype, "it has several outputs, or one of another dtype");
      }
    want(stores == 1, "it has no output");
    for (AxisId a : axes_of(outer_->out)) want(a == column_ || std::count(before_.phases[0].grid.begin(), before_.phases[0].grid.end(), a), "an axis of it is no grid's");
    want(axis(depth_).extent % 16 == 0 && axis(column_).extent % 16 == 0 && std::max(axis(depth_).extent, axis(column_).extent) <= 256, "its rows are no multiple of 16 long, or longer than 256");
  }

  // --- the new kernel ---
  MapTile map_of(const TreePtr& t, ValueId out, const std::map<Tree::Leaf, ValueId>& leaves, AxisId rows, bool fast) const {
    return quern::map_of(t, out, k_.values, [&](const Tree& x) { return leaves.at(x.leaf); }, [&](const Index& i) { return moved(i, rows); }, fast);
  }
  // Behind the loop: is a row's maximum read?
  bool uses_most() const {
    bool uses = std::any_of(factors_.begin(), factors_.end(), [](const auto& f) { return has_leaf(f.first, Tree::Leaf::most); });
    for (const Stmt& s : columns_->body)
      if (const auto* t = std::get_if<Store>(&s.node)) uses = uses || has_leaf(tree(columns_->body, t->value, nullptr), Tree::Leaf::most);
    return uses || !rows_stored_.empty();
  }
  void build() {
    const DType dtype = before_.values[static_cast<size_t>(value_->out)].dtype;
    const int64_t head_bytes = (axis(depth_).extent + axis(column_).extent) * axis(walk_).extent * 2;
    const int64_t depth = round_up(axis(depth_).extent, 64), width = round_up(axis(column_).extent, 64), longest = std::max(depth, width);
    const int64_t keys = longest <= 128 ? kKeys : 64, blocks = ceil_div(axis(walk_).extent, keys);
    Share chosen = share(2, keys, 0.8, head_bytes, {column_});   // three instances hide more of each other's waits, so that their steps are not half as long again
    if (const Share three = share(3, keys, 1, head_bytes, {column_}); longest <= 64 && three.most < chosen.most) chosen = three;
    const int64_t instances = chosen.instances;
    k_.name = before_.name, k_.buffers = before_.buffers, k_.sources = before_.sources;
    Phase p;
    const std::vector<AxisId> outer = add_outer_axes({column_});
    const AxisId rows = add_axis(axis(row_).extent, 64 * instances), d = add_axis(axis(depth_).extent, depth);
    const AxisId block = add_axis(blocks, 1), c = add_axis(axis(column_).extent, width, -1, kAcross), key = add_axis(keys, keys, -1, kAcross);
    const AxisId mine = add_axis(axis(row_).extent, 64, rows, kDown), part = add_axis(axis(column_).extent, 64, c, kAcross);
    there_.emplace(depth_, Index::axis(d, axis(depth_).extent));
    there_.emplace(column_, Index::axis(c, axis(column_).extent));
    there_.emplace(walk_, Index::axis(block, blocks) * keys + Index::axis(key, keys));
    bound_blocks(block, rows, keys);

    p.grid = {d, c, key};
    p.grid.insert(p.grid.end(), outer.begin(), outer.end());
    p.grid.push_back(rows);
    p.group = chosen.group;
    p.winding = axis(walk_).from.has_value();
    p.backward = !p.winding;   // a mask leaves the last rows the most
    p.channels = {{"c0", {Value{dtype, {rows, d}}}, 1}, {"c1", {Value{dtype, {key, d}}}, 2}, {"c2", {Value{dtype, {key, c}}}, 2}, {"c3", {Value{dtype, {mine, part}}}, longest <= 128 ? 2 : 1}};
    Role load{"load"}, math{"math", instances, {mine}};
    load.registers = instances == 3 ? 32 : 24, math.registers = instances == 3 ? 160 : 240;
    const auto fetch = [&](int channel, const Load& l, AxisId a, AxisId b) { return in_role(Fetch{channel, {Load{value(dtype, {a, b}), l.buffer, moved(l.index, rows)}}}); };
    load.body.push_back(fetch(0, *q_, rows, d));
    load.body.push_back({Seq{{block}, {}, {fetch(1, *key_, key, d), fetch(2, *value_, key, c)}, {}, {}}});

    // The loop: scores of a block while the block before is weighted.
    const auto row = [&] { return value(DType::f32, {mine}); };
    const auto scores = [&] { return value(DType::f32, {key, mine}); };
    const auto sums = [&] { return value(DType::f32, {c, mine}); };
    const auto weights = [&] { return value(dtype, {key, mine}); };
    const auto leaves = [](ValueId v) { return std::map<Tree::Leaf, ValueId>{{Tree::Leaf::score, v}}; };
    using L = Tree::Leaf;
    const ValueId q = value(dtype, {rows, d}), q_mine = value(dtype, {d, mine});
    math.body.push_back(in_role(Get{0, {q}}));
    math.body.push_back(in_role(Slice{q_mine, q}));
    const ValueId o = sums(), m = row(), l = row(), f = row(), w = weights();
    Seq loop{{block}, {{o, Scalar::of(DType::f32, 0)}, {m, Scalar::of(DType::f32, -INFINITY)}, {l, Scalar::of(DType::f32, 0)}, {f, Scalar::of(DType::f32, 1)}, {w, Scalar::of(dtype, 0)}}, {}, {}, {sums(), row(), row(), row(), weights()}};
    Block& body = loop.body;
    const ValueId k_block = value(dtype, {key, d}), nothing = scores();
    body.push_back(in_role(Get{1, {k_block}}));
    body.push_back({map_of(constant(0), nothing, {}, mine, false)});
    const Mma s = issued(nothing, q_mine, k_block, inner_->precision, d, keys);
    body.push_back({s});
    const auto weigh = [&](Block& to, ValueId sum, ValueId factor, ValueId weight) {
      const ValueId v = value(dtype, {key, c}), scaled = sums();
      to.push_back(in_role(Get{2, {v}}));
      to.push_back({map_of(planted(Fault::sum_not_scaled) ? leaf(L::product) : op(Op::mul, {leaf(L::product), leaf(L::score)}), scaled, {{L::product, sum}, {L::score, factor}}, mine, false)});
      const Mma next = issued(scaled, weight, v, inner_->precision, key, width);
      to.push_back({next});
      return next.out;
    };
    Past past{{block}, {}, {in_role(Await{0})}, {}, {o}, {sums()}};
    past.yields = {weigh(past.body, o, f, w)};
    past.body.push_back(in_role(Await{1}));
    const ValueId o_next = past.outs[0];
    body.push_back(in_role(std::move(past)));
    body.push_back(in_role(Release{1, 0}));
    ValueId x = s.out;
    const auto make = [&](const TreePtr& t, ValueId out, const std::map<L, ValueId>& of, bool fast) {
      body.push_back({map_of(t, out, of, mine, fast)});
      return out;
    };
    if (raw_->leaf != L::score) x = make(raw_, scores(), leaves(x), true);
    TreePtr seen = mask_;
    if (axis(walk_).extent % keys != 0) {
      const TreePtr inside = quern::inside(walk_, axis(walk_).extent);
      seen = seen ? op(Op::logical_and, {seen, inside}, DType::boolean) : inside;
    }
    if (seen) x = make(op(Op::select, {seen, leaf(L::score), constant(-INFINITY)}), scores(), leaves(x), false);
    const ValueId top = row(), part_sum = row();
    body.push_back({ReduceTile{top, Op::max, {key}, x}});
    const ValueId m_next = make(op(Op::max, {leaf(L::most), leaf(L::score)}), row(), {{L::most, m}, {L::score, top}}, false);
    const TreePtr raised = op(Op::mul, {leaf(L::most), constant(in_raw_)});
    const TreePtr finite = shift_->leaf == L::most ? op(Op::select, {op(Op::eq, {leaf(L::most), constant(-INFINITY)}, DType::boolean), constant(0), raised})
                                                   : op(Op::select, {op(Op::lt, {op(Op::abs, {leaf(L::most)}), constant(INFINITY)}, DType::boolean), raised, constant(0)});
    const ValueId h = make(finite, row(), {{L::most, m_next}}, true);
    const TreePtr power = op(Op::exp, {op(Op::sub, {op(Op::mul, {leaf(L::score), constant(in_raw_)}), leaf(L::most)})});
    const ValueId f_next = make(power, row(), {{L::score, m}, {L::most, h}}, true), e = make(power, scores(), {{L::score, x}, {L::most, h}}, true);
    body.push_back({ReduceTile{part_sum, Op::add, {key}, e}});
    const ValueId l_next = make(op(Op::add, {op(Op::mul, {leaf(L::total), leaf(L::most)}), leaf(L::score)}), row(), {{L::total, l}, {L::most, f_next}, {L::score, part_sum}}, true);
    body.push_back(in_role(Await{0}));
    body.push_back(in_role(Past{{block}, {in_role(Release{2, 0})}}));
    const ValueId w_next = make(op(Op::cast, {leaf(L::score)}, dtype), weights(), leaves(e), false);
    loop.yields = {o_next, m_next, l_next, f_next, w_next};
    const std::vector<ValueId> last = loop.outs;
    math.body.push_back({std::move(loop)});
    math.body.push_back(in_role(Release{0, 0}));
    const ValueId sum = weigh(math.body, last[0], last[3], last[4]);

    // What each weight was divided by, and what follows the sum.
    TreePtr all = constant(1);
    for (const auto& [factor, divides] : factors_) all = op(divides ? Op::div : Op::mul, {all, factor});
    const ValueId shares = row(), most = row();
    if (uses_most()) math.body.push_back({map_of(op(Op::mul, {leaf(L::most), constant(in_raw_)}), most, {{L::most, last[1]}}, mine, true)});
    math.body.push_back({map_of(all, shares, {{L::most, most}, {L::total, last[2]}}, mine, true)});
    math.body.push_back(in_role(Await{0}));
    math.body.push_back(in_role(Release{2, 0}));
    for (const Store* t : rows_stored_) {   // where the weights have left their registers
      const ValueId v = value(before_.buffers[static_cast<size_t>(t->buffer)].dtype, {mine});
      math.body.push_back({map_of(tree({}, t->value, nullptr), v, {{L::most, most}, {L::total, last[2]}}, mine, true)});
      math.body.push_back({Store{t->buffer, moved(t->index, mine), v}});
    }
    Each out{{part}, {}};
    const ValueId piece = value(DType::f32, {mine, part}), whole = value(DType::f32, {mine, part});
    out.body.push_back(in_role(Slice{piece, sum}));
    out.body.push_back({map_of(op(Op::mul, {leaf(L::product), leaf(L::most)}), whole, {{L::product, piece}, {L::most, shares}}, mine, false)});
    there_.at(column_) = Index::axis(part, axis(column_).extent);
    for (const Stmt& t : columns_->body)
      if (const auto* store = std::get_if<Store>(&t.node)) {
        const ValueId y = value(dtype, {mine, part});
        out.body.push_back({map_of(tree(columns_->body, store->value, nullptr), y, {{L::product, whole}, {L::most, most}, {L::total, last[2]}}, mine, false)});
        out.body.push_back(in_role(Put{3, {y}}));
        out.body.push_back(in_role(Fence{}));
        out.body.push_back(in_role(Send{3, {Store{store->buffer, moved(store->index, mine), value(dtype, {mine, part})}}}));
      }
    math.body.push_back({std::move(out)});
    p.roles = {std::move(load), std::move(math)};
    k_.phases = {std::move(p)};
  }
};

// Of what a product gives in its loop, as maxima of scores are.
bool reduces_products(const Kernel& k) {
  const auto has = [](const Block& block, auto&& is) { return std::any_of(block.begin(), block.end(), is); };
  return has(k.phases[0].body, [&](const Stmt& s) {
    const auto* q = std::get_if<Seq>(&s.node);
    return q && has(q->body, [](const Stmt& i) { return std::holds_alternative<ReduceTile>(i.node); }) && has(q->body, [](const Stmt& i) { return std::holds_alternative<Seq>(i.node); });
  });
}

}  // namespace

std::optional<Kernel> plan_nested_roles(const Kernel& kernel, std::string& why) {
  try {
    const Kernel bounded = bounds(match_dims(kernel));
    return reduces_products(bounded) ? NestedRoles(bounded).run() : plan_weighted_roles(bounded);
  } catch (const Refused& r) {
    why = r.why;
    return std::nullopt;
  }
}

}  // namespace quern
