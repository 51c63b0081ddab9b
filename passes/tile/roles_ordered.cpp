// See roles_ordered.h.
#include "passes/tile/roles_ordered.h"

#include <algorithm>
#include <vector>

#include "passes/tile/weighted_walk.h"
#include "passes/tile/weights.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kInstances = 2, kRegisters = 232, kMoverRegisters = 40, kFreeRegisters = 32;   // of each instance; those that hold no tile
constexpr int64_t kSharedBytes = 227 * 1024 - 1024, kNear = 24 << 20;   // what of neighbouring heads is read and added to stays in the cache

class OrderedRoles : WeightedWalk {
 public:
  explicit OrderedRoles(const Kernel& kernel) : WeightedWalk(kernel) {}

  bool adds() const {
    return std::any_of(body().begin(), body().end(), [&](const Stmt& s) { const auto* q = std::get_if<Seq>(&s.node); return q && is_stored_wide(*q); });
  }
  // Measured on an H100, against a kernel of its own for the sum: a pair of a row and a walked one takes 0.56 ps less where a step's block is
  // 128 of them, 0.195 ps where it is 64, of longer rows; an element that is added up 3.9 ps more, as it is written and read in f32.
  double gain() {
    analyse();
    double heads = 1, pairs = 0;
    for (AxisId a : before_.phases[0].grid)
      if (a != row_ && a != size()) heads *= static_cast<double>(axis(a).extent);
    for (const auto& [from, to] : walks_) pairs += static_cast<double>((to - from) * block_ * kTile);
    return heads * (pairs * (block_ > 64 ? 0.56e-6 : 0.195e-6) - static_cast<double>(axis(walk_).extent * axis(size()).extent) * 3.9e-6);
  }
  Kernel run() {
    analyse();
    build();
    return std::move(k_);
  }

 private:
  static constexpr int64_t kTile = 64 * kInstances;   // rows of an instance
  Sum across_;                     // along the rows, of the walked
  size_t early_ = 0, late_ = 0;    // of the sums: whose weights are made of the first product alone, of both
  std::vector<std::pair<int64_t, int64_t>> walks_;    // of each tile of rows: which blocks it walks

  AxisId size() const { return across_.value.size; }

  void analyse() {
    find_sums();
    order_products();
    find_rows();
    find_across();
    name_sizes();
    find_places();
    for (Sum& s : sums_) s.weight = factored(s.weight, s.factor);
    across_.weight = factored(across_.weight, across_.factor);
    find_shape();
    choose();
    for (Sum& s : sums_) s.wants_end = wants_end(s);
    sums_[late_].wants_row_end = axis(row_).extent % kTile != 0;   // no rows are there, but weights
    find_walks();
  }

  // The rows are the walk of this one.
  void find_across() {
    want(wide_ && wide_->axes.size() == 1 && over_.empty() && axis(wide_->axes[0]).extent == axis(row_).extent && axis(row_).extent == axis(walk_).extent, "its sums walk differently");
    const size_t products = products_.size();
    across_ = sum_of(*wide_, {{wide_->axes[0], row_}, {row_, walk_}});
    want(products_.size() == products, "what is added up in order has products of its own");
    for (const Stmt& s : body())
      if (const auto* t = std::get_if<Store>(&s.node); t && t->value == wide_->outs[0]) want(!across_.store, "a sum has several results"), across_.store = t;
  }
  void find_shape() {
    want(products_.size() == 2 && sums_.size() == 2 && row_sums_.empty(), "it has not two products and two sums beside what is added up in order");
    early_ = last_product(sums_[0].weight) == 0 ? 0 : 1, late_ = 1 - early_;
    want(last_product(sums_[early_].weight) == 0 && last_product(sums_[late_].weight) == 1, "its sums have not one product's weights and both's");
    want(equal(across_.weight, sums_[late_].weight) && across_.factor == 1, "what is added up in order has weights of its own");
    want(across_.value == products_[0].rows && sums_[early_].value == products_[1].walked && sums_[late_].value == products_[0].walked, "its sums are of other rows than its products");
    for (const Product& x : products_) want(x.rows.size == size() && x.walked.size == size(), "its rows are of several lengths");
    want(axis(size()).extent == 64 || axis(size()).extent == 128, "its rows are not 64 or 128 long");
    want(is_f32(across_.store->buffer) && (before_.buffers[static_cast<size_t>(across_.store->buffer)].shape.size() <= 5), "what is added up in order is no f32");
    reachable(across_.store->buffer, across_.store->index, row_, size());
  }
  bool is_f32(BufferId b) const { return before_.buffers[static_cast<size_t>(b)].dtype == DType::f32; }
  // A part of the sum is a block of the walk by a row's length: 64 by 64 for each instance.
  void choose() {
    block_ = kInstances * 64 * 64 / axis(size()).extent;
    const int64_t registers = 2 * width(size()) / 2 + 2 * block_ / 2;
    int64_t bytes = kInstances * 64 * 128 + kTile * block_ * 2 + 2 * block_ * width(size()) * 4;   // results, weights, parts of the sum
    bytes += 2 * kTile * width(size()) * 2 + 2 * 2 * (block_ * width(size()) * 2);
    for (const Vector& v : vectors_) bytes += v.walked ? 2 * round_up(block_ * 4, 128) : 0;
    want(registers <= kRegisters - kFreeRegisters && bytes <= kSharedBytes, "its sums and products do not fit the registers, or its blocks shared memory");
    sends_ = 1;
  }
  // Each block of the walk is in that of some rows, and of all between those: who adds waits for its neighbour, and the first one stores.
  void find_walks() {
    const Axis& w = axis(walk_);
    const auto at = [&](const std::optional<Index>& bound, int64_t row, int64_t otherwise) {
      if (!bound) return otherwise;
      std::set<int> of;
      bound->collect_axes(of);
      want(of.empty() || of == std::set<int>{row_}, "its walk depends on more than its rows");
      return bound->evaluate([&](int) { return row; });
    };
    std::vector<int> seen(static_cast<size_t>(ceil_div(w.extent, block_)));   // 1: so far, 2: but not by the last rows
    for (int64_t row = 0; row < axis(row_).extent; row += kTile) {
      const int64_t from = std::max<int64_t>(at(w.from, row, 0), 0) / block_, to = ceil_div(std::clamp<int64_t>(at(w.to, std::min(row + kTile, axis(row_).extent) - 1, w.extent), 0, w.extent), block_);
      walks_.emplace_back(from, std::max(from, to));
      for (int64_t b = 0; b < static_cast<int64_t>(seen.size()); ++b) {
        int& s = seen[static_cast<size_t>(b)];
        if (b >= from && b < to) want(s != 2, "rows between others do not walk what those do"), s = 1;
        else if (s == 1) s = 2;
      }
    }
    want(std::ranges::all_of(seen, [](int s) { return s != 0; }), "no rows walk some of what is added up in order");
  }

  // --- the new kernel ---
  AxisId weighed_ = -1, part_ = -1;   // of a part of the sum: its rows, which are the walk's; its columns

  void build() {
    k_.name = before_.name, k_.buffers = before_.buffers, k_.sources = before_.sources;
    Phase p;
    const AxisId heads = add_heads();
    rows_ = add_axis(axis(row_).extent, kTile);
    const int64_t length = axis(size()).extent, blocks = ceil_div(axis(walk_).extent, block_);
    const AxisId across = size_axes_[size()] = add_axis(length, length, -1, kAcross);
    there_.emplace(size(), Index::axis(across, length));
    steps_.push_back(at_ = add_axis(blocks, 1)), key_ = add_axis(block_, block_, -1, kAcross), mine_ = add_axis(axis(row_).extent, 64, rows_, kDown);
    there_.emplace(walk_, Index::axis(at_, blocks) * block_ + Index::axis(key_, block_));
    bound_blocks(at_, rows_, block_);
    weighed_ = add_axis(block_, 64, key_, kDown), part_ = add_axis(length, 64, across, kAcross);
    p.grid = {across, key_, heads, rows_};
    p.group = std::clamp<int64_t>(kNear / (axis(walk_).extent * length * (2 + 2 + 4)), 1, k_.axes[static_cast<size_t>(heads)].extent);
    p.backward = axis(walk_).from.has_value();   // long instances first, and those that begin together add to the same place
    p.claimed = true;

    Role load = this->load(p), add{"add", 2}, math{"math", kInstances, {mine_, weighed_, part_}};
    load.registers = add.registers = kMoverRegisters, math.registers = kRegisters;
    const int weights = static_cast<int>(p.channels.size()), parts = weights + 1;
    add_channel(p, {{dtype_, {rows_, key_}}}, 1);
    add_channel(p, {{DType::f32, {key_, across}}}, 2);
    add.steps = true;
    const Add to{parts, {{across_.store->buffer, swapped(across_.store->index), value(DType::f32, {across, key_})}}, rows_};
    add.body.push_back({Seq{steps_, {}, {in_role(Get{parts, {value(DType::f32, {across, key_})}}), in_role(to)}, {}, {}}});
    multiply(math, weights, parts);
    store(p, math);
    p.roles = {std::move(load), std::move(add), std::move(math)};
    k_.phases = {std::move(p)};
  }
  // All that are not rows or columns, as one axis: as many as there is room for are walked side by side.
  AxisId add_heads() {
    std::vector<AxisId> outer;
    Shape extents;
    for (AxisId a : before_.phases[0].grid)
      if (a != row_ && a != size()) outer.push_back(a), extents.push_back(axis(a).extent);
    const int64_t all = count(extents);
    const AxisId heads = add_axis(all, 1);
    const std::vector<Index> each = unflatten(Index::axis(heads, all), extents);
    for (size_t n = 0; n < outer.size(); ++n) there_.emplace(outer[n], each[n]);
    return heads;
  }
  // Where the walk stands, a row of the sum that is added up.
  std::vector<BoxIndex> swapped(std::vector<BoxIndex> box) const {
    for (BoxIndex& b : box) b.index = moved(renamed(b.index, {{row_, walk_}}), rows_);
    return box;
  }

  void multiply(Role& math, int weights, int parts) {
    const std::vector<ValueId> whole = take_rows(math);
    const ValueId columns = value(dtype_, {rows_, part_});
    math.body.push_back(in_role(Slice{columns, whole[0]}));
    Seq loop = loop_of_sums();
    Block& body = loop.body;
    issue_product(body, 0);
    issue_product(body, 1);
    body.push_back(in_role(Await{1}));
    const auto weigh = [&](size_t sum, int product) {
      sums_[sum].weight = staged(body, sums_[sum].weight, product);
      return rounded_weight(body, sums_[sum]);
    };
    const ValueId first = weigh(early_, 0);
    const auto add_first = [&] { loop.yields[early_] = add_to_sum(body, sums_[early_], first, loop.carries[early_].var); };
    const bool wide = block_ > 64;   // then there are no registers for weights that wait beside a product that reads others
    if (!wide) add_first();
    body.push_back(in_role(Await{wide ? 0 : 1}));
    sums_[late_].weight = staged(body, sums_[late_].weight, 0);
    const ValueId second = weigh(late_, 1);
    body.push_back(in_role(Put{weights, {second}}));
    if (wide) add_first();
    const ValueId all = value(dtype_, {rows_, key_}), some = value(dtype_, {rows_, weighed_}), nothing = value(DType::f32, {weighed_, part_});
    body.push_back(in_role(Get{weights, {all}}));
    body.push_back(in_role(Slice{some, all}));
    body.push_back({map_of(constant(0), nothing, false)});
    const Mma part = issued(nothing, some, columns, products_[0].precision, rows_, 64);
    body.push_back({part});
    loop.yields[late_] = add_to_sum(body, sums_[late_], second, loop.carries[late_].var);
    const auto release = [&](int64_t left, int channel) { body.push_back(in_role(Await{left})), body.push_back(in_role(Release{channel, 0})); };
    const auto channel_of = [&](const Operand& o) { return static_cast<int>(place(walked(), o)) + 1; };
    release(2, channel_of(sums_[early_].value));
    release(1, weights);
    body.push_back(in_role(Put{parts, {part.out}}));
    release(0, channel_of(sums_[late_].value));
    for (size_t i = 0; i < sums_.size(); ++i) sums_[i].out = loop.outs[i];
    math.body.push_back({std::move(loop)});
    math.body.push_back(in_role(Release{0, 0}));
  }
};

}  // namespace

bool adds_in_order(const Kernel& kernel) { return OrderedRoles(kernel).adds(); }
double gain_in_order(const Kernel& kernel) { return OrderedRoles(kernel).gain(); }
Kernel plan_ordered_roles(const Kernel& kernel) { return OrderedRoles(kernel).run(); }

}  // namespace quern
