// See weighted_walk.h.
#include "passes/tile/weighted_walk.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "passes/tile/weights.h"

namespace quern {

using namespace tile;

using L = Tree::Leaf;

bool WeightedWalk::is_walked(const std::vector<BoxIndex>& index) const {
  return std::any_of(index.begin(), index.end(), [&](const BoxIndex& b) { return b.index.uses(walk_); });
}

// --- what is there ---
void WeightedWalk::find_sums() {
  want(before_.phases.size() == 1 && std::none_of(before_.axes.begin(), before_.axes.end(), [](const Axis& a) { return a.extent < 1 || a.symbol; }), "its size is the run's");
  for (const Stmt& s : body()) {
    if (const auto* q = std::get_if<Seq>(&s.node)) {
      want(!q->yields.empty(), "a loop of it carries nothing");
      if (is_stored_wide(*q)) want(!wide_, "several sums are stored in f32"), wide_ = q;
      else maker<Mma>(q->body, q->yields[0]) ? find_sum(*q) : row_sums_.push_back(row_sum(*q));
    } else want(!std::holds_alternative<Each>(s.node), "it has outputs of several shapes");
  }
  want(!sums_.empty(), "it has no weighted sum");
  for (const Stmt& s : body())
    if (const auto* t = std::get_if<Store>(&s.node); t && !(wide_ && t->value == wide_->outs[0])) {
      int found = -1;
      const TreePtr x = tree(body(), t->value, {}, [&](ValueId v) -> TreePtr {
        for (size_t n = 0; n < sums_.size(); ++n)
          if (sums_[n].out == v) return want(found < 0 || found == static_cast<int>(n), "a result is made of several sums"), found = static_cast<int>(n), leaf(L::product);
        return row_sum_leaf(v);
      });
      if (found < 0 && has_leaf(x, L::total)) {
        rows_stored_.emplace_back(t, x);
        continue;
      }
      want(!has_leaf(x, L::total), "a result is made of several sums");
      want(found >= 0 && !sums_[static_cast<size_t>(found)].store && x->node.dtype == dtype_, "a sum has several results, or one of another dtype");
      sums_[static_cast<size_t>(found)].store = t, sums_[static_cast<size_t>(found)].stored = x;
    }
  want(std::all_of(sums_.begin(), sums_.end(), [](const Sum& s) { return s.store != nullptr; }), "a sum is no result");
}

// A sum of products, as it is.
bool WeightedWalk::is_stored_wide(const Seq& q) const {
  if (q.yields.size() != 1 || !maker<Mma>(q.body, q.yields[0])) return false;
  return std::any_of(body().begin(), body().end(), [&](const Stmt& s) { const auto* t = std::get_if<Store>(&s.node); return t && t->value == q.outs[0]; });
}

TreePtr WeightedWalk::row_sum_leaf(ValueId v) const {
  for (size_t n = 0; n < row_sums_.size(); ++n)
    if (row_sums_[n].out == v) return leaf(L::total, static_cast<int>(n));
  return nullptr;
}

void WeightedWalk::find_sum(const Seq& q) {
  if (walk_ < 0) walk_ = q.axes.back(), over_.assign(q.axes.begin(), q.axes.end() - 1);
  want(q.axes.size() == over_.size() + 1 && same_walk(axis(q.axes.back()), axis(walk_)), "its sums walk differently");
  std::map<AxisId, AxisId> names = {{q.axes.back(), walk_}};
  for (size_t n = 0; n < over_.size(); ++n) {
    want(same_walk(axis(q.axes[n]), axis(over_[n])), "its sums walk differently");
    names.emplace(q.axes[n], over_[n]);
  }
  sums_.push_back(sum_of(q, names));
}

WeightedWalk::Sum WeightedWalk::sum_of(const Seq& q, const std::map<AxisId, AxisId>& names) {
  want(q.carries.size() == 1, "a loop carries several tiles");
  const Mma* m = maker<Mma>(q.body, q.yields[0]);
  want(m && m->acc == q.carries[0].var && q.carries[0].init.f == 0 && m->axes == q.axes && (m->precision == Precision::bf16 || m->precision == Precision::f16), "a loop is no weighted sum of 16 bits");
  const bool first = maker<MapTile>(q.body, m->a) != nullptr;
  const Load* value = maker<Load>(q.body, first ? m->b : m->a);
  want(value != nullptr, "what is weighted is computed");
  dtype_ = dtype_of(value->out);
  const auto leaf_of = [&](ValueId v) -> TreePtr {
    for (const Stmt& s : q.body)
      if (const auto* inner = std::get_if<Seq>(&s.node); inner && inner->outs[0] == v) return leaf(L::score, product(*inner, names));
    const Load* l = maker<Load>(q.body, v);
    if (!l) l = maker<Load>(body(), v);
    return l ? leaf(L::vector, vector(*l, names), dtype_of(v)) : row_sum_leaf(v);
  };
  TreePtr w = tree(q.body, first ? m->a : m->b, names, leaf_of);
  want(is(w, Op::cast) && w->node.dtype == dtype_, "its weights are not rounded last");
  w = w->args[0];
  want(!rounds_inside(w), "its scores round to 16 bits (--fp fast keeps them in f32)");
  return {w, 1, operand(*value, names, -1), q.outs[0]};
}

bool WeightedWalk::same_walk(const Axis& a, const Axis& b) { return a.extent == b.extent && a.from == b.from && a.to == b.to; }

// The one axis of the last dim is the operand's size.
WeightedWalk::Operand WeightedWalk::operand(const Load& l, const std::map<AxisId, AxisId>& names, AxisId size) const {
  Operand o{l.buffer, l.index, size};
  for (BoxIndex& b : o.index) {
    want(b.gather < 0, "rows are gathered");
    b.index = renamed(b.index, names);
  }
  const Index& last = o.index.back().index;
  want(last.kind() == Index::Kind::axis && (size < 0 || last.value() == size), fmt::format("rows of %{} do not run along its last dim", before_.buffers[static_cast<size_t>(l.buffer)].name));
  o.size = static_cast<AxisId>(last.value());
  return o;
}

int WeightedWalk::product(const Seq& q, const std::map<AxisId, AxisId>& names) {
  const Mma* m = nullptr;
  auto [a, b] = loads_of(q, m);
  const auto walked = [&](const Load& l) { return std::any_of(l.index.begin(), l.index.end(), [&](const BoxIndex& i) { return renamed(i.index, names).uses(walk_); }); };
  if (walked(*a)) std::swap(a, b);
  want(!walked(*a) && walked(*b), "the walk is in both operands of a product");
  Product p{operand(*a, names, m->axes[0]), operand(*b, names, m->axes[0]), m->precision};
  // The same as one before, but for what its sum is called?
  for (size_t n = 0; n < products_.size(); ++n) {
    const AxisId size = products_[n].rows.size;
    if (axis(size).extent != axis(p.rows.size).extent || p.precision != products_[n].precision) continue;
    if (called(p.rows, size) == products_[n].rows && called(p.walked, size) == products_[n].walked) return static_cast<int>(n);
  }
  products_.push_back(std::move(p));
  return static_cast<int>(products_.size()) - 1;
}

WeightedWalk::Operand WeightedWalk::called(Operand o, AxisId size) {
  for (BoxIndex& b : o.index) b.index = renamed(b.index, {{o.size, size}});
  o.size = size;
  return o;
}

int WeightedWalk::vector(const Load& l, const std::map<AxisId, AxisId>& names) {
  Vector v{l.buffer, l.index, false};
  for (BoxIndex& b : v.index) {
    want(b.gather < 0, "its weights are gathered");
    b.index = renamed(b.index, names);
  }
  v.walked = is_walked(v.index);
  for (size_t n = 0; n < vectors_.size(); ++n)
    if (vectors_[n].buffer == v.buffer && std::equal(v.index.begin(), v.index.end(), vectors_[n].index.begin(), [](const BoxIndex& a, const BoxIndex& b) { return a.index == b.index; })) return static_cast<int>(n);
  vectors_.push_back(std::move(v));
  return static_cast<int>(vectors_.size()) - 1;
}

// First those of which exponentials are made: they are, while the others are multiplied.
void WeightedWalk::order_products() {
  std::vector<char> early(products_.size());
  const std::function<void(const TreePtr&, bool)> look = [&](const TreePtr& t, bool in_exp) {
    if (t->leaf == L::score && in_exp) early[static_cast<size_t>(t->which)] = 1;
    for (const TreePtr& a : t->args) look(a, in_exp || is(t, Op::exp));
  };
  for (const Sum& s : sums_) look(s.weight, false);
  std::vector<int> place(products_.size());
  std::vector<Product> ordered;
  for (const bool now : {true, false})
    for (size_t n = 0; n < products_.size(); ++n)
      if (early[n] == now) place[n] = static_cast<int>(ordered.size()), ordered.push_back(products_[n]);
  products_ = std::move(ordered);
  for (Sum& s : sums_) s.weight = rewritten(s.weight, [&](const TreePtr& t) { return t->leaf == L::score ? leaf(L::score, place[static_cast<size_t>(t->which)]) : t; });
}

std::set<int> WeightedWalk::axes_in(const std::vector<BoxIndex>& index) {
  std::set<int> out;
  for (const BoxIndex& b : index) b.index.collect_axes(out);
  return out;
}

void WeightedWalk::find_rows() {
  for (int a : axes_in(products_.at(0).rows.index))
    if (a != products_[0].rows.size && !axes_in(products_[0].walked.index).count(a) && (row_ < 0 || axis(a).extent > axis(row_).extent)) row_ = a;
  want(row_ >= 0, "it has no rows");
  const auto uses = [&](const std::vector<BoxIndex>& index, AxisId a) { return axes_in(index).count(a) > 0; };
  for (const Product& p : products_) want(uses(p.rows.index, row_) && !uses(p.walked.index, row_), "its products are of different rows");
  for (const Sum& s : sums_) want(uses(s.value.index, walk_) && !uses(s.value.index, row_), "what is weighted is no walked rows");
  for (const Vector& v : vectors_) want(!(uses(v.index, row_) && v.walked), "its weights read a matrix");
  for (const RowSum& s : row_sums_)
    for (const Load* l : s.loads)
      for (int a : axes_in(l->index)) want(a == row_ || a == s.along || (std::count(before_.phases[0].grid.begin(), before_.phases[0].grid.end(), a) && !std::count_if(sums_.begin(), sums_.end(), [&](const Sum& x) { return x.value.size == a; })), "its rows' sums are of other rows");
  for (AxisId o : over_) {   // what stays is fetched once
    for (const Product& p : products_) want(!uses(p.rows.index, o), "its rows are others in each walk");
    for (const Vector& v : vectors_) want(v.walked || !uses(v.index, o), "its rows' numbers are others in each walk");
  }
}

// A sum's value that is a product's operand, too: both walk the same axis of a row's elements.
void WeightedWalk::name_sizes() {
  for (Sum& s : sums_) columns_.push_back(s.value.size);
  std::sort(columns_.begin(), columns_.end());
  columns_.erase(std::unique(columns_.begin(), columns_.end()), columns_.end());
  for (Product& p : products_)
    for (const Sum& s : sums_)
      if (p.walked.size != s.value.size && axis(p.walked.size).extent == axis(s.value.size).extent && called(p.walked, s.value.size) == s.value) {
        p.walked = s.value;
        p.rows = called(p.rows, s.value.size);
      }
}

void WeightedWalk::find_places() {
  for (const Product& p : products_) {
    reachable(p.rows.buffer, p.rows.index, row_, p.rows.size);
    reachable(p.walked.buffer, p.walked.index, walk_, p.walked.size);
    want(before_.buffers[static_cast<size_t>(p.rows.buffer)].dtype == dtype_ && before_.buffers[static_cast<size_t>(p.walked.buffer)].dtype == dtype_, "its operands are of different dtypes");
  }
  std::set<AxisId> known(before_.phases[0].grid.begin(), before_.phases[0].grid.end());
  for (const Sum& s : sums_) {
    reachable(s.value.buffer, s.value.index, walk_, s.value.size);
    reachable(s.store->buffer, s.store->index, row_, s.value.size);
    want(known.count(s.value.size) > 0, "its results are no grid's");
  }
  known.insert(walk_), known.insert(over_.begin(), over_.end());
  for (const Product& p : products_) {
    known.insert(p.rows.size);
    want(axis(p.rows.size).extent % 16 == 0 && axis(p.rows.size).extent <= 256, "its rows are no multiple of 16 long, or longer than 256");
  }
  for (AxisId c : columns_) want(axis(c).extent % 16 == 0 && axis(c).extent <= 256, "its rows are no multiple of 16 long, or longer than 256");
  for (const Vector& v : vectors_) {
    const Buffer& b = before_.buffers[static_cast<size_t>(v.buffer)];
    for (int a : axes_in(v.index)) want(a == row_ || a == walk_ || (known.count(a) && !std::count(columns_.begin(), columns_.end(), a)), "its weights read a matrix");
    if (!v.walked) continue;
    const Shape strides = b.strides();
    bool plain = b.dtype == DType::f32 && b.shape.size() >= 2 && b.shape.size() <= 5 && v.index.back().index == Index::axis(walk_, axis(walk_).extent) && strides.back() == 1;
    for (size_t d = 0; d + 1 < b.shape.size(); ++d) plain = plain && strides[d] * 4 % 16 == 0 && !v.index[d].index.uses(walk_);
    want(plain, fmt::format("%{} is no vector of f32 along the walk, in multiples of 16 bytes", b.name));
  }
}

// --- weights ---
bool WeightedWalk::wants_end(const Sum& s) const {
  if (axis(walk_).extent % block_ == 0) return false;
  if (has(s.weight, [&](const Tree& x) { return x.leaf == L::total || (x.leaf == L::vector && !vectors_[static_cast<size_t>(x.which)].walked); })) return true;
  for (const bool seen : {true, false})
    if (const auto x = at_zero(s.weight, seen); !x || !std::isfinite(*x)) return true;
  return false;
}

// --- sizes ---
int64_t WeightedWalk::width(AxisId a) const { return round_up(axis(a).extent, 64); }

std::vector<WeightedWalk::Operand> WeightedWalk::rows() const {
  std::vector<Operand> out;
  for (const Product& p : products_)
    if (std::find(out.begin(), out.end(), p.rows) == out.end()) out.push_back(p.rows);
  return out;
}

std::vector<WeightedWalk::Operand> WeightedWalk::walked() const {
  std::vector<Operand> out;
  for (const Product& p : products_)
    if (std::find(out.begin(), out.end(), p.walked) == out.end()) out.push_back(p.walked);
  for (const Sum& s : sums_)
    if (std::find(out.begin(), out.end(), s.value) == out.end()) out.push_back(s.value);
  return out;
}

ValueId WeightedWalk::tile_of(const Tree& x) const {
  const auto& of = x.leaf == L::score ? scores_ : x.leaf == L::vector ? vector_tiles_
                                              : x.leaf == L::total    ? totals_
                                                                      : tiles_;
  return of.at(x.which);
}

MapTile WeightedWalk::map_of(const TreePtr& t, ValueId out, bool fast) const {
  return quern::map_of(t, out, k_.values, [&](const Tree& x) { return tile_of(x); }, [&](const Index& i) { return moved(i, mine_); }, fast);
}

AxisId WeightedWalk::size_axis(AxisId a) const { return size_axes_.at(a); }

ValueId WeightedWalk::operand_value(const Operand& o, AxisId along) { return value(dtype_, {along, size_axis(o.size)}); }

size_t WeightedWalk::place(const std::vector<Operand>& list, const Operand& o) { return static_cast<size_t>(std::find(list.begin(), list.end(), o) - list.begin()); }

ValueId WeightedWalk::add_tile(Block& to, const TreePtr& of, const TreePtr& t, bool fast) {
  const ValueId v = value(DType::f32, {key_, mine_});
  to.push_back({map_of(t, v, fast)});
  tiles_[static_cast<int>(made_.size())] = v;
  made_.push_back(of);
  return v;
}

TreePtr WeightedWalk::found(const TreePtr& t) const {
  for (size_t n = 0; n < made_.size(); ++n)
    if (equal(made_[n], t)) return leaf(L::tile, static_cast<int>(n));
  return nullptr;
}

// As a tile; masks in it are maps of their own, which whole blocks pass by.
TreePtr WeightedWalk::as_tile(Block& to, const TreePtr& t) {
  if (t->leaf == L::score || t->leaf == L::tile) return t;
  if (TreePtr f = found(t)) return f;
  const bool mask = is_mask(t);
  add_tile(to, t, mask ? with_args(*t, {t->args[0], as_tile(to, t->args[1]), t->args[2]}) : with_masks(to, t), !mask);
  return found(t);
}

TreePtr WeightedWalk::with_masks(Block& to, const TreePtr& t) {
  std::vector<TreePtr> args;
  for (const TreePtr& a : t->args) args.push_back(is_mask(a) ? as_tile(to, a) : with_masks(to, a));
  return t->args.empty() ? t : with_args(*t, std::move(args));
}

// What the products up to this one give becomes tiles.
TreePtr WeightedWalk::staged(Block& to, const TreePtr& t, int product) {
  const int last = last_product(t);
  if (last >= 0 && last <= product) return as_tile(to, t);
  std::vector<TreePtr> args;
  for (const TreePtr& a : t->args) args.push_back(staged(to, a, product));
  return t->args.empty() ? t : with_args(*t, std::move(args));
}

bool WeightedWalk::is_made(const TreePtr& t, int product) { return t->leaf == L::tile || (t->leaf == L::score && t->which <= product); }

ValueId WeightedWalk::rounded_weight(Block& body, const Sum& s) {
  ValueId w = tile_of(*s.weight);
  for (const AxisId end : {s.wants_end ? walk_ : -1, s.wants_row_end ? row_ : -1})
    if (end >= 0) {
      tiles_[-1] = w, w = value(DType::f32, {key_, mine_});
      body.push_back({map_of(op(Op::select, {inside(end, axis(end).extent), leaf(L::tile, -1), constant(0)}), w, false)});
    }
  const ValueId rounded = value(dtype_, {key_, mine_});
  tiles_[-1] = w;
  body.push_back({map_of(op(Op::cast, {leaf(L::tile, -1)}, dtype_), rounded, false)});
  return rounded;
}
ValueId WeightedWalk::add_to_sum(Block& body, const Sum& s, ValueId rounded, ValueId sum) {
  const Mma m = issued(sum, rounded, got(body, s.value), products_[0].precision, key_, width(s.value.size));
  body.push_back({m});
  return m.out;
}

// Channels: of the rows, and of each walked operand with its vectors; who fills them.
Role WeightedWalk::load(Phase& p) {
  comes_with_.assign(vectors_.size(), 0);
  for (size_t v = 0; v < vectors_.size(); ++v)
    for (const Sum& s : sums_)
      if (const int first = meets(s.weight, static_cast<int>(v)); first >= 0 && vectors_[v].walked) {
        comes_with_[v] = place(walked(), products_[static_cast<size_t>(first)].walked);
        break;
      }
  Role load{"load"};
  std::vector<Value> parts;
  Fetch all{0, {}};
  for (const Operand& o : rows()) {
    parts.push_back({dtype_, {rows_, size_axis(o.size)}});
    all.loads.push_back({operand_value(o, rows_), o.buffer, moved(o.index, rows_)});
  }
  add_channel(p, std::move(parts), 1);
  load.body.push_back(in_role(std::move(all)));
  Seq walk{steps_, {}, {}, {}, {}};
  for (const Operand& o : walked()) {
    const size_t w = p.channels.size() - 1;
    Fetch f{static_cast<int>(w) + 1, {{operand_value(o, key_), o.buffer, moved(o.index, rows_)}}};
    parts = {{dtype_, {key_, size_axis(o.size)}}};
    for (size_t v = 0; v < vectors_.size(); ++v)
      if (comes_with(v, w)) {
        f.loads.push_back({value(DType::f32, {key_}), vectors_[v].buffer, moved(vectors_[v].index, rows_)});
        parts.push_back({DType::f32, {key_}});
      }
    add_channel(p, std::move(parts), 2);
    walk.body.push_back(in_role(std::move(f)));
  }
  load.body.push_back({std::move(walk)});
  return load;
}

// All of an instance's rows; `mine` become those of one role.
std::vector<ValueId> WeightedWalk::take_rows(Role& math) {
  Get whole{0, {}};
  mine_of_.clear();
  for (const Operand& o : rows()) whole.outs.push_back(operand_value(o, rows_)), mine_of_.push_back(operand_value(o, mine_));
  math.body.push_back(in_role(whole));
  for (size_t r = 0; r < mine_of_.size(); ++r) math.body.push_back(in_role(Slice{mine_of_[r], whole.outs[r]}));
  for (size_t v = 0; v < vectors_.size(); ++v)
    if (!vectors_[v].walked) {
      const ValueId x = vector_tiles_[static_cast<int>(v)] = value(before_.buffers[static_cast<size_t>(vectors_[v].buffer)].dtype, {mine_});
      math.body.push_back({Load{x, vectors_[v].buffer, moved(vectors_[v].index, mine_)}});
    }
  return whole.outs;
}
Seq WeightedWalk::loop_of_sums() {
  Seq loop{steps_, {}, {}, {}, {}};
  for (const Sum& s : sums_) {
    loop.carries.push_back({value(DType::f32, {size_axis(s.value.size), mine_}), Scalar::of(DType::f32, 0)});
    loop.outs.push_back(value(DType::f32, {size_axis(s.value.size), mine_}));
  }
  loop.yields.assign(sums_.size(), -1);
  return loop;
}
ValueId WeightedWalk::got(Block& body, const Operand& o) {
  const size_t w = place(walked(), o);
  const auto [tile, fresh] = got_.emplace(w, -1);
  if (!fresh) return tile->second;
  tile->second = operand_value(o, key_);
  Get get{static_cast<int>(w) + 1, {tile->second}};
  for (size_t v = 0; v < vectors_.size(); ++v)
    if (comes_with(v, w)) get.outs.push_back(vector_tiles_[static_cast<int>(v)] = value(DType::f32, {key_}));
  body.push_back(in_role(std::move(get)));
  return tile->second;
}
void WeightedWalk::issue_product(Block& body, size_t n) {
  const Product& x = products_[n];
  const ValueId b = got(body, x.walked), nothing = value(DType::f32, {key_, mine_});
  body.push_back({map_of(constant(0), nothing, false)});
  const Mma m = issued(nothing, mine_of_[place(rows(), x.rows)], b, x.precision, size_axis(x.rows.size), block_);
  body.push_back({m});
  scores_[static_cast<int>(n)] = m.out;
}

// Each sum, by 64 columns, times what was a factor of all its weights.
void WeightedWalk::store(Phase& p, Role& math) {
  std::map<AxisId, std::pair<AxisId, int>> parts;   // by size: the axis of a part, its channel
  for (const Sum& s : sums_) {
    auto it = parts.find(s.value.size);
    if (it == parts.end()) {
      const AxisId part = add_axis(axis(s.value.size).extent, 64, size_axis(s.value.size), kAcross);
      it = parts.emplace(s.value.size, std::pair(part, static_cast<int>(p.channels.size()))).first;
      add_channel(p, {Value{dtype_, {mine_, part}}}, sends_);
    }
    const auto [part, channel] = it->second;
    there_.at(s.value.size) = Index::axis(part, axis(s.value.size).extent);
    const ValueId piece = value(DType::f32, {mine_, part}), rounded = value(dtype_, {mine_, part});
    Each out{{part}, {}};
    out.body.push_back(in_role(Slice{piece, s.out}));
    tiles_[-1] = piece;
    const TreePtr whole = s.factor == 1 ? leaf(L::tile, -1) : op(Op::mul, {leaf(L::tile, -1), constant(s.factor)});
    out.body.push_back({map_of(rewritten(s.stored, [&](const TreePtr& t) { return t->leaf == L::product ? whole : t; }), rounded, false)});
    out.body.push_back(in_role(Put{channel, {rounded}}));
    out.body.push_back(in_role(Fence{}));
    out.body.push_back(in_role(Send{channel, {Store{s.store->buffer, moved(s.store->index, mine_), value(dtype_, {mine_, part})}}}));
    math.body.push_back({std::move(out)});
  }
}

}  // namespace quern
