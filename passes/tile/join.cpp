// See join.h. The later loop's statements are renamed to the earlier one's axes and taken in one by one; a statement that is
// there already gives its value another name.
#include "passes/tile/join.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "ir/support/overloaded.h"
#include "passes/tile/equal.h"
#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

class Join {
 public:
  explicit Join(const Kernel& kernel) : k_(kernel), equal_(k_) {}

  Kernel run() {
    Block& body = *row_block(k_).block;
    for (size_t i = 0; i < body.size(); ++i)
      for (size_t j = i + 1; j < body.size(); ++j)
        if (join(body, i, j)) j = i;   // what stood between has moved
    return std::move(k_);
  }

 private:
  Kernel k_;
  Equal equal_;

  static bool stores(const Block& block) {
    return std::any_of(block.begin(), block.end(), [](const Stmt& s) { return std::holds_alternative<Store>(s.node) || std::holds_alternative<Each>(s.node); });
  }
  // The loops at i and j, where the later one and what it reads do not want the earlier one's results.
  bool join(Block& body, size_t i, size_t j) {
    auto *first = std::get_if<Seq>(&body[i].node), *second = std::get_if<Seq>(&body[j].node);
    if (!first || !second || !equal_.alike(first->axes, second->axes) || stores(first->body) || stores(second->body)) return false;
    std::set<ValueId> behind(first->outs.begin(), first->outs.end());   // what wants the earlier one
    std::vector<char> late(body.size());
    for (size_t s = i + 1; s <= j; ++s) {
      std::set<ValueId> read;
      add_read_by(body[s], read);
      late[s] = std::any_of(read.begin(), read.end(), [&](ValueId v) { return behind.count(v) > 0; });
      if (late[s]) add_made_by(body[s], behind);
    }
    if (late[j]) return false;
    Seq one = std::move(*first), two = std::move(*second);
    std::map<AxisId, AxisId> axes;
    for (size_t a = 0; a < one.axes.size(); ++a) axes[two.axes[a]] = one.axes[a];
    rename_axes(k_, two.body, axes);
    Names names;
    equal_.take_in(one.body, std::move(two.body), names);
    for (ValueId y : two.yields) one.yields.push_back(named(names, y));
    one.carries.insert(one.carries.end(), two.carries.begin(), two.carries.end());
    one.outs.insert(one.outs.end(), two.outs.begin(), two.outs.end());
    Block out(std::make_move_iterator(body.begin()), std::make_move_iterator(body.begin() + static_cast<int64_t>(i)));
    for (size_t s = i + 1; s < j; ++s)
      if (!late[s] && !std::holds_alternative<Store>(body[s].node)) out.push_back(std::move(body[s]));
      else late[s] = 1;
    out.push_back({std::move(one)});
    for (size_t s = i + 1; s < body.size(); ++s)
      if (s > j || (s < j && late[s])) out.push_back(std::move(body[s]));
    body = std::move(out);
    return true;
  }
};

}  // namespace

Kernel join(const Kernel& kernel) { return Join(kernel).run(); }

}  // namespace quern
