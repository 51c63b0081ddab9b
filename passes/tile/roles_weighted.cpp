// See roles_weighted.h. A weight is a tree of products' results and vectors; subtrees become maps in the step at which all
// their products are there, each once.
#include "passes/tile/roles_weighted.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "ir/support/fault.h"
#include "passes/tile/nested_walk.h"
#include "passes/tile/weights.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kInstances = 2, kRegisters = 240, kLoadRegisters = 24, kFreeRegisters = 32;   // of each instance; those that hold no tile
constexpr int64_t kSharedBytes = 227 * 1024 - 1024;
using L = Tree::Leaf;

class WeightedRoles : NestedWalk {
 public:
  explicit WeightedRoles(const Kernel& kernel) : NestedWalk(by_columns(kernel)) {}

  Kernel run() {
    find_sums();
    order_products();
    find_rows();
    name_sizes();
    find_places();
    for (Sum& s : sums_) s.weight = factored(s.weight, s.factor);
    choose();
    for (Sum& s : sums_) s.wants_end = wants_end(s);
    build();
    return std::move(k_);
  }

 private:
  struct Operand {                 // of 16 bits, its index in the axes of the first sum's walk
    BufferId buffer;
    std::vector<BoxIndex> index;
    AxisId size;                   // its last dim, summed or a result's
    bool operator==(const Operand& o) const {
      return buffer == o.buffer && size == o.size && index.size() == o.index.size() && std::equal(index.begin(), index.end(), o.index.begin(), [](const BoxIndex& a, const BoxIndex& b) { return a.index == b.index; });
    }
  };
  struct Product {
    Operand rows, walked;
    Precision precision;
  };
  struct Sum {
    TreePtr weight;
    double factor = 1;
    Operand value;
    ValueId out;
    const Store* store = nullptr;
    TreePtr stored;
    bool wants_end = false;        // past the walk's end weights are not finite
  };
  struct Vector {
    BufferId buffer;
    std::vector<BoxIndex> index;
    bool walked;
  };
  std::vector<Product> products_;
  std::vector<Sum> sums_;
  std::vector<RowSum> row_sums_;
  std::vector<std::pair<const Store*, TreePtr>> rows_stored_;   // what is made of such
  std::vector<Vector> vectors_;
  std::vector<AxisId> columns_;    // of the results
  std::vector<AxisId> over_;       // what is walked once for each of: heads that share the rows
  DType dtype_ = DType::bf16;
  int64_t block_ = 0;              // of the walk

  const Block& body() const { return before_.phases[0].body; }
  bool is_walked(const std::vector<BoxIndex>& index) const {
    return std::any_of(index.begin(), index.end(), [&](const BoxIndex& b) { return b.index.uses(walk_); });
  }

  // --- what is there ---
  void find_sums() {
    want(before_.phases.size() == 1 && std::none_of(before_.axes.begin(), before_.axes.end(), [](const Axis& a) { return a.extent < 1 || a.symbol; }), "its size is the run's");
    for (const Stmt& s : body()) {
      if (const auto* q = std::get_if<Seq>(&s.node)) {
        want(!q->yields.empty(), "a loop of it carries nothing");
        maker<Mma>(q->body, q->yields[0]) ? find_sum(*q) : row_sums_.push_back(row_sum(*q));
      } else want(!std::holds_alternative<Each>(s.node), "it has outputs of several shapes");
    }
    want(!sums_.empty(), "it has no weighted sum");
    for (const Stmt& s : body())
      if (const auto* t = std::get_if<Store>(&s.node)) {
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
  TreePtr row_sum_leaf(ValueId v) const {
    for (size_t n = 0; n < row_sums_.size(); ++n)
      if (row_sums_[n].out == v) return leaf(L::total, static_cast<int>(n));
    return nullptr;
  }
  void find_sum(const Seq& q) {
    want(q.carries.size() == 1, "a loop carries several tiles");
    if (walk_ < 0) walk_ = q.axes.back(), over_.assign(q.axes.begin(), q.axes.end() - 1);
    want(q.axes.size() == over_.size() + 1 && same_walk(axis(q.axes.back()), axis(walk_)), "its sums walk differently");
    std::map<AxisId, AxisId> names = {{q.axes.back(), walk_}};
    for (size_t n = 0; n < over_.size(); ++n) {
      want(same_walk(axis(q.axes[n]), axis(over_[n])), "its sums walk differently");
      names.emplace(q.axes[n], over_[n]);
    }
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
    sums_.push_back({w, 1, operand(*value, names, -1), q.outs[0]});
  }
  static bool same_walk(const Axis& a, const Axis& b) { return a.extent == b.extent && a.from == b.from && a.to == b.to; }
  // The one axis of the last dim is the operand's size.
  Operand operand(const Load& l, const std::map<AxisId, AxisId>& names, AxisId size) const {
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
  int product(const Seq& q, const std::map<AxisId, AxisId>& names) {
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
  static Operand called(Operand o, AxisId size) {
    for (BoxIndex& b : o.index) b.index = renamed(b.index, {{o.size, size}});
    o.size = size;
    return o;
  }
  int vector(const Load& l, const std::map<AxisId, AxisId>& names) {
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
  void order_products() {
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

  static std::set<int> axes_in(const std::vector<BoxIndex>& index) {
    std::set<int> out;
    for (const BoxIndex& b : index) b.index.collect_axes(out);
    return out;
  }
  void find_rows() {
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
  void name_sizes() {
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
  void find_places() {
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
  bool wants_end(const Sum& s) const {
    if (axis(walk_).extent % block_ == 0) return false;
    if (has(s.weight, [&](const Tree& x) { return x.leaf == L::total || (x.leaf == L::vector && !vectors_[static_cast<size_t>(x.which)].walked); })) return true;
    for (const bool seen : {true, false})
      if (const auto x = at_zero(s.weight, seen); !x || !std::isfinite(*x)) return true;
    return false;
  }

  // --- sizes ---
  int64_t width(AxisId a) const { return round_up(axis(a).extent, 64); }
  std::vector<Operand> rows() const {
    std::vector<Operand> out;
    for (const Product& p : products_)
      if (std::find(out.begin(), out.end(), p.rows) == out.end()) out.push_back(p.rows);
    return out;
  }
  std::vector<Operand> walked() const {
    std::vector<Operand> out;
    for (const Product& p : products_)
      if (std::find(out.begin(), out.end(), p.walked) == out.end()) out.push_back(p.walked);
    for (const Sum& s : sums_)
      if (std::find(out.begin(), out.end(), s.value) == out.end()) out.push_back(s.value);
    return out;
  }
  int64_t shared_bytes(int64_t block, int64_t stages, int64_t sends) const {
    int64_t bytes = kInstances * sends * 64 * 128;
    for (const Operand& o : rows()) bytes += kInstances * 64 * width(o.size) * 2;
    for (const Operand& o : walked()) bytes += stages * block * width(o.size) * 2;
    for (const Vector& v : vectors_) bytes += v.walked ? stages * 1024 : 0;
    return bytes;
  }
  int64_t sends_ = 2;
  void choose() {
    int64_t sums = 0;
    for (const Sum& s : sums_) sums += width(s.value.size) / 2;
    for (int64_t block : {128, 64}) {
      const int64_t registers = sums + static_cast<int64_t>(products_.size()) * block / 2 + (static_cast<int64_t>(sums_.size()) - 1) * block / 4;
      if (registers > kRegisters - kFreeRegisters) continue;
      for (int64_t sends : {2, 1})
        if (shared_bytes(block, 2, sends) <= kSharedBytes) {
          block_ = block, sends_ = sends;
          return;
        }
    }
    want(false, "its sums and products do not fit the registers, or its blocks shared memory");
  }

  // --- the new kernel ---
  AxisId rows_ = -1, mine_ = -1, at_ = -1, key_ = -1;   // of an instance of the work, of a role's; blocks, and what lies in one
  std::vector<AxisId> steps_;                            // over_, and the blocks
  std::map<AxisId, AxisId> size_axes_;                   // of before → new
  std::map<int, ValueId> scores_, vector_tiles_, totals_, tiles_;   // by their number
  std::vector<TreePtr> made_;                            // what is a tile, by its number

  ValueId tile_of(const Tree& x) const {
    const auto& of = x.leaf == L::score ? scores_ : x.leaf == L::vector ? vector_tiles_
                                                : x.leaf == L::total    ? totals_
                                                                        : tiles_;
    return of.at(x.which);
  }
  MapTile map_of(const TreePtr& t, ValueId out, bool fast) const {
    return quern::map_of(t, out, k_.values, [&](const Tree& x) { return tile_of(x); }, [&](const Index& i) { return moved(i, mine_); }, fast);
  }
  AxisId size_axis(AxisId a) const { return size_axes_.at(a); }
  ValueId operand_value(const Operand& o, AxisId along) { return value(dtype_, {along, size_axis(o.size)}); }
  static size_t place(const std::vector<Operand>& list, const Operand& o) { return static_cast<size_t>(std::find(list.begin(), list.end(), o) - list.begin()); }

  ValueId add_tile(Block& to, const TreePtr& of, const TreePtr& t, bool fast) {
    const ValueId v = value(DType::f32, {key_, mine_});
    to.push_back({map_of(t, v, fast)});
    tiles_[static_cast<int>(made_.size())] = v;
    made_.push_back(of);
    return v;
  }
  TreePtr found(const TreePtr& t) const {
    for (size_t n = 0; n < made_.size(); ++n)
      if (equal(made_[n], t)) return leaf(L::tile, static_cast<int>(n));
    return nullptr;
  }
  // As a tile; masks in it are maps of their own, which whole blocks pass by.
  TreePtr as_tile(Block& to, const TreePtr& t) {
    if (t->leaf == L::score || t->leaf == L::tile) return t;
    if (TreePtr f = found(t)) return f;
    const bool mask = is_mask(t);
    add_tile(to, t, mask ? with_args(*t, {t->args[0], as_tile(to, t->args[1]), t->args[2]}) : with_masks(to, t), !mask);
    return found(t);
  }
  TreePtr with_masks(Block& to, const TreePtr& t) {
    std::vector<TreePtr> args;
    for (const TreePtr& a : t->args) args.push_back(is_mask(a) ? as_tile(to, a) : with_masks(to, a));
    return t->args.empty() ? t : with_args(*t, std::move(args));
  }
  // What the products up to this one give becomes tiles.
  TreePtr staged(Block& to, const TreePtr& t, int product) {
    const int last = last_product(t);
    if (last >= 0 && last <= product) return as_tile(to, t);
    std::vector<TreePtr> args;
    for (const TreePtr& a : t->args) args.push_back(staged(to, a, product));
    return t->args.empty() ? t : with_args(*t, std::move(args));
  }
  void build() {
    k_.name = before_.name, k_.buffers = before_.buffers, k_.sources = before_.sources;
    const std::vector<Operand> rows = this->rows(), walked = this->walked();
    int64_t head_bytes = 0, walks = 1;
    for (AxisId a : over_) walks *= axis(a).extent;
    for (const Operand& o : walked) head_bytes += walks * axis(o.size).extent * axis(walk_).extent * 2;
    Phase p;
    const std::vector<AxisId> outer = add_outer_axes(columns_);
    const int64_t blocks = ceil_div(axis(walk_).extent, block_);
    rows_ = add_axis(axis(row_).extent, 64 * kInstances);
    for (const auto* list : {&rows, &walked})
      for (const Operand& o : *list)
        if (!size_axes_.count(o.size)) {
          const AxisId a = size_axes_[o.size] = add_axis(axis(o.size).extent, width(o.size), -1, kAcross);
          there_.emplace(o.size, Index::axis(a, axis(o.size).extent));
          p.grid.push_back(a);
        }
    for (AxisId a : over_) {
      steps_.push_back(add_axis(planted(Fault::one_head_walked) ? 1 : axis(a).extent, 1));
      there_.emplace(a, Index::axis(steps_.back(), axis(a).extent));
    }
    steps_.push_back(at_ = add_axis(blocks, 1)), key_ = add_axis(block_, block_, -1, kAcross), mine_ = add_axis(axis(row_).extent, 64, rows_, kDown);
    there_.emplace(walk_, Index::axis(at_, blocks) * block_ + Index::axis(key_, block_));
    bound_blocks(at_, rows_, block_);
    for (const RowSum& r : row_sums_) p.grid.push_back(add_row_axis(r));
    p.grid.push_back(key_);
    p.grid.insert(p.grid.end(), outer.begin(), outer.end());
    p.grid.push_back(rows_);
    p.group = share(kInstances, block_, static_cast<double>(walks), head_bytes, columns_).group;
    p.winding = axis(walk_).from.has_value();
    p.backward = !p.winding;

    // Channels: of the rows, of each walked operand with its vectors, of results.
    std::vector<size_t> comes_with(vectors_.size());
    const auto chan = [&](std::vector<Value> parts, int64_t depth) { p.channels.push_back({fmt::format("c{}", p.channels.size()), std::move(parts), depth}); };
    Role load{"load"}, math{"math", kInstances, {mine_}};
    load.registers = kLoadRegisters, math.registers = kRegisters;
    std::vector<Value> parts;
    Fetch all{0, {}};
    for (const Operand& o : rows) {
      parts.push_back({dtype_, {rows_, size_axis(o.size)}});
      all.loads.push_back({operand_value(o, rows_), o.buffer, moved(o.index, rows_)});
    }
    chan(std::move(parts), 1);
    load.body.push_back(in_role(std::move(all)));
    for (size_t v = 0; v < vectors_.size(); ++v)
      for (const Sum& s : sums_)
        if (const int first = meets(s.weight, static_cast<int>(v)); first >= 0 && vectors_[v].walked) {
          comes_with[v] = place(walked, products_[static_cast<size_t>(first)].walked);
          break;
        }
    Seq walk{steps_, {}, {}, {}, {}};
    for (size_t w = 0; w < walked.size(); ++w) {
      Fetch f{static_cast<int>(w) + 1, {{operand_value(walked[w], key_), walked[w].buffer, moved(walked[w].index, rows_)}}};
      parts = {{dtype_, {key_, size_axis(walked[w].size)}}};
      for (size_t v = 0; v < vectors_.size(); ++v)
        if (vectors_[v].walked && comes_with[v] == w) {
          f.loads.push_back({value(DType::f32, {key_}), vectors_[v].buffer, moved(vectors_[v].index, rows_)});
          parts.push_back({DType::f32, {key_}});
        }
      chan(std::move(parts), 2);
      walk.body.push_back(in_role(std::move(f)));
    }
    load.body.push_back({std::move(walk)});

    multiply(math, rows, walked, comes_with);
    store(p, math);
    p.roles = {std::move(load), std::move(math)};
    k_.phases = {std::move(p)};
  }

  void multiply(Role& math, const std::vector<Operand>& rows, const std::vector<Operand>& walked, const std::vector<size_t>& comes_with) {
    for (size_t n = 0; n < row_sums_.size(); ++n) totals_[static_cast<int>(n)] = add_row_sum(math.body, row_sums_[n], mine_);
    for (const auto& [to, of] : rows_stored_) {
      const ValueId x = value(before_.buffers[static_cast<size_t>(to->buffer)].dtype, {mine_});
      math.body.push_back({map_of(of, x, false)});
      math.body.push_back({Store{to->buffer, moved(to->index, mine_), x}});
    }

    Get whole{0, {}};
    std::vector<ValueId> mine;
    for (const Operand& o : rows) whole.outs.push_back(operand_value(o, rows_)), mine.push_back(operand_value(o, mine_));
    math.body.push_back(in_role(whole));
    for (size_t r = 0; r < rows.size(); ++r) math.body.push_back(in_role(Slice{mine[r], whole.outs[r]}));
    for (size_t v = 0; v < vectors_.size(); ++v)
      if (!vectors_[v].walked) {
        const ValueId x = vector_tiles_[static_cast<int>(v)] = value(before_.buffers[static_cast<size_t>(vectors_[v].buffer)].dtype, {mine_});
        math.body.push_back({Load{x, vectors_[v].buffer, moved(vectors_[v].index, mine_)}});
      }

    Seq loop{steps_, {}, {}, {}, {}};
    Block& body = loop.body;
    for (const Sum& s : sums_) {
      loop.carries.push_back({value(DType::f32, {size_axis(s.value.size), mine_}), Scalar::of(DType::f32, 0)});
      loop.outs.push_back(value(DType::f32, {size_axis(s.value.size), mine_}));
    }
    loop.yields.assign(sums_.size(), -1);
    std::vector<ValueId> tiles(walked.size(), -1);
    const auto got = [&](const Operand& o) {
      const size_t w = place(walked, o);
      if (tiles[w] >= 0) return tiles[w];
      Get get{static_cast<int>(w) + 1, {tiles[w] = operand_value(o, key_)}};
      for (size_t v = 0; v < vectors_.size(); ++v)
        if (vectors_[v].walked && comes_with[v] == w) get.outs.push_back(vector_tiles_[static_cast<int>(v)] = value(DType::f32, {key_}));
      body.push_back(in_role(std::move(get)));
      return tiles[w];
    };
    // Products in flight, and which of them is the last to read each walked operand. A vector is read by all threads before
    // any of them issues the sum whose weights it is in.
    std::vector<size_t> last_reader(walked.size());
    size_t issues = 0, done = 0;
    const auto await = [&](size_t number) {
      if (number < done) return;
      body.push_back(in_role(Await{static_cast<int64_t>(issues - number) - 1}));
      done = number + 1;
    };
    for (size_t n = 0; n < products_.size(); ++n) {
      const Product& x = products_[n];
      const ValueId b = got(x.walked), nothing = value(DType::f32, {key_, mine_});
      body.push_back({map_of(constant(0), nothing, false)});
      const Mma m = issued(nothing, mine[place(rows, x.rows)], b, x.precision, size_axis(x.rows.size), block_);
      body.push_back({m});
      scores_[static_cast<int>(n)] = m.out;
      last_reader[place(walked, x.walked)] = issues++;
    }
    // Given back as soon as no product reads it and none will.
    std::vector<char> held(walked.size(), 1);
    const auto release = [&] {
      for (size_t w = 0; w < walked.size(); ++w) {
        bool waits = !held[w] || last_reader[w] >= done + planted(Fault::slot_released_early);
        for (size_t i = 0; i < sums_.size(); ++i) {
          const bool vectors = std::any_of(vectors_.begin(), vectors_.end(), [&](const Vector& v) { return v.walked && comes_with[static_cast<size_t>(&v - vectors_.data())] == w; });
          waits = waits || (loop.yields[i] < 0 && (vectors || sums_[i].value == walked[w]));
        }
        if (waits) continue;
        held[w] = 0;
        body.push_back(in_role(Release{static_cast<int>(w) + 1, 0}));
      }
    };
    for (size_t n = 0; n < products_.size(); ++n) {
      await(n);
      release();
      for (Sum& s : sums_) s.weight = staged(body, s.weight, static_cast<int>(n));
      for (size_t i = 0; i < sums_.size(); ++i) {
        if (loop.yields[i] >= 0 || !is_made(sums_[i].weight, static_cast<int>(n))) continue;
        loop.yields[i] = add_to_sum(body, sums_[i], loop.carries[i].var, got(sums_[i].value));
        last_reader[place(walked, sums_[i].value)] = issues;
        for (size_t v = 0; v < vectors_.size(); ++v)
          if (vectors_[v].walked) last_reader[comes_with[v]] = std::max(last_reader[comes_with[v]], issues);
        ++issues;
      }
    }
    for (size_t n = 0; n < issues; ++n) {
      if (n + 1 < issues && !std::count(last_reader.begin(), last_reader.end(), n)) continue;
      await(n);
      release();
    }
    for (size_t i = 0; i < sums_.size(); ++i) sums_[i].out = loop.outs[i];
    math.body.push_back({std::move(loop)});
    math.body.push_back(in_role(Release{0, 0}));
  }
  static bool is_made(const TreePtr& t, int product) { return t->leaf == L::tile || (t->leaf == L::score && t->which <= product); }

  ValueId add_to_sum(Block& body, const Sum& s, ValueId sum, ValueId walked) {
    ValueId w = tile_of(*s.weight);
    if (s.wants_end) {
      w = value(DType::f32, {key_, mine_});
      body.push_back({map_of(op(Op::select, {inside(walk_, axis(walk_).extent), s.weight, constant(0)}), w, false)});
    }
    const ValueId rounded = value(dtype_, {key_, mine_});
    tiles_[-1] = w;
    body.push_back({map_of(op(Op::cast, {leaf(L::tile, -1)}, dtype_), rounded, false)});
    const Mma m = issued(sum, rounded, walked, products_[0].precision, key_, width(s.value.size));
    body.push_back({m});
    return m.out;
  }

  // Each sum, by 64 columns, times what was a factor of all its weights.
  void store(Phase& p, Role& math) {
    std::map<AxisId, std::pair<AxisId, int>> parts;   // by size: the axis of a part, its channel
    for (const Sum& s : sums_) {
      auto it = parts.find(s.value.size);
      if (it == parts.end()) {
        const AxisId part = add_axis(axis(s.value.size).extent, 64, size_axis(s.value.size), kAcross);
        it = parts.emplace(s.value.size, std::pair(part, static_cast<int>(p.channels.size()))).first;
        p.channels.push_back({fmt::format("c{}", p.channels.size()), {Value{dtype_, {mine_, part}}}, sends_});
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
};

}  // namespace

Kernel plan_weighted_roles(const Kernel& kernel) { return WeightedRoles(kernel).run(); }

}  // namespace quern
