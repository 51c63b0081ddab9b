// See roles_weighted.h.
#include "passes/tile/roles_weighted.h"

#include <algorithm>
#include <vector>

#include "ir/support/fault.h"
#include "passes/tile/roles_ordered.h"
#include "passes/tile/weighted_walk.h"
#include "passes/tile/weights.h"

namespace quern {

using namespace tile;

namespace {

constexpr int64_t kInstances = 2, kRegisters = 240, kLoadRegisters = 24, kFreeRegisters = 32;   // of each instance; those that hold no tile
constexpr int64_t kSharedBytes = 227 * 1024 - 1024;

class WeightedRoles : WeightedWalk {
 public:
  explicit WeightedRoles(const Kernel& kernel) : WeightedWalk(kernel) {}

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
  int64_t shared_bytes(int64_t block, int64_t stages, int64_t sends) const {
    int64_t bytes = kInstances * sends * 64 * 128;
    for (const Operand& o : rows()) bytes += kInstances * 64 * width(o.size) * 2;
    for (const Operand& o : walked()) bytes += stages * block * width(o.size) * 2;
    for (const Vector& v : vectors_) bytes += v.walked ? stages * 1024 : 0;
    return bytes;
  }
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

    Role load = this->load(p), math{"math", kInstances, {mine_}};
    load.registers = kLoadRegisters, math.registers = kRegisters;
    multiply(math);
    store(p, math);
    p.roles = {std::move(load), std::move(math)};
    k_.phases = {std::move(p)};
  }

  void multiply(Role& math) {
    for (size_t n = 0; n < row_sums_.size(); ++n) totals_[static_cast<int>(n)] = add_row_sum(math.body, row_sums_[n], mine_);
    for (const auto& [to, of] : rows_stored_) {
      const ValueId x = value(before_.buffers[static_cast<size_t>(to->buffer)].dtype, {mine_});
      math.body.push_back({map_of(of, x, false)});
      math.body.push_back({Store{to->buffer, moved(to->index, mine_), x}});
    }

    take_rows(math);
    Seq loop = loop_of_sums();
    Block& body = loop.body;
    const std::vector<Operand> walked = this->walked();
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
      issue_product(body, n);
      last_reader[place(walked, products_[n].walked)] = issues++;
    }
    // Given back as soon as no product reads it and none will.
    std::vector<char> held(walked.size(), 1);
    const auto release = [&] {
      for (size_t w = 0; w < walked.size(); ++w) {
        bool waits = !held[w] || last_reader[w] >= done + planted(Fault::slot_released_early);
        for (size_t i = 0; i < sums_.size(); ++i) {
          const bool vectors = std::any_of(vectors_.begin(), vectors_.end(), [&](const Vector& v) { return comes_with(static_cast<size_t>(&v - vectors_.data()), w); });
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
        got(body, sums_[i].value);
        loop.yields[i] = add_to_sum(body, sums_[i], rounded_weight(body, sums_[i]), loop.carries[i].var);
        last_reader[place(walked, sums_[i].value)] = issues;
        for (size_t v = 0; v < vectors_.size(); ++v)
          if (vectors_[v].walked) last_reader[comes_with_[v]] = std::max(last_reader[comes_with_[v]], issues);
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
};

}  // namespace

Kernel plan_weighted_roles(const Kernel& kernel) {
  if (!adds_in_order(kernel)) return WeightedRoles(kernel).run();
  const double gain = gain_in_order(kernel);
  want(gain > 0, fmt::format("a sum added up in order would cost {:.0f} us more than it saves", -gain));
  return plan_ordered_roles(kernel);
}

}  // namespace quern
