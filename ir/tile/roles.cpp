// What the roles of a kernel are seen to do (kernel.h).
#include <algorithm>

#include "ir/tile/interpreter.h"

namespace quern::tile {
namespace {

bool moves(const Stmt& s) {
  if (const auto* q = std::get_if<Seq>(&s.node)) return std::ranges::all_of(q->body, moves);
  const auto* r = std::get_if<InRole>(&s.node);
  if (!r) return false;
  if (std::holds_alternative<Past>(r->node)) return std::ranges::all_of(blocks_of(*r), [](const Block* b) { return std::ranges::all_of(*b, moves); });
  return std::holds_alternative<Fetch>(r->node) || std::holds_alternative<Get>(r->node) || std::holds_alternative<Add>(r->node);
}

}  // namespace

bool has_in_role(const Block& block, const std::function<bool(const InRole&)>& test) {
  return std::any_of(block.begin(), block.end(), [&](const Stmt& s) {
    if (const auto* q = std::get_if<Seq>(&s.node)) return has_in_role(q->body, test);
    if (const auto* e = std::get_if<Each>(&s.node)) return has_in_role(e->body, test);
    const auto* r = std::get_if<InRole>(&s.node);
    return r && (test(*r) || std::ranges::any_of(blocks_of(*r), [&](const Block* inner) { return has_in_role(*inner, test); }));
  });
}
bool only_moves(const Role& role) {
  return std::ranges::all_of(role.body, [](const Stmt& s) { return moves(s); });
}
bool is_got(const Phase& p, ChannelId c) {
  return std::ranges::any_of(p.roles, [&](const Role& r) {
    return has_in_role(r.body, [&](const InRole& s) { const auto* g = std::get_if<Get>(&s.node); return g && g->channel == c; });
  });
}
bool lies_within(const Kernel& k, AxisId inner, AxisId outer) {
  for (AxisId a = inner; a >= 0; a = k.axes[static_cast<size_t>(a)].within)
    if (a == outer) return true;
  return false;
}

}  // namespace quern::tile
