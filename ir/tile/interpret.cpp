// The tile interpreter: runs a kernel at any stage by the semantics page in kernel.h.
#include <functional>
#include <utility>

#include "ir/tile/interpreter.h"

namespace quern::tile {

Shape Buffer::layout() const {
  Shape out = shape;
  if (room) out[static_cast<size_t>(along)] = room;
  return out;
}
Shape Buffer::strides() const { return row_major(layout()); }

Kernel at_size(Kernel k, int64_t n) {
  for (Axis& a : k.axes)
    if (a.symbol) a.extent = checked_mul(std::exchange(a.symbol, 0), n);
  for (Buffer& b : k.buffers)
    if (b.symbol) b.shape[static_cast<size_t>(std::exchange(b.along, 0))] = checked_mul(std::exchange(b.symbol, 0), n), b.room = 0;
  const std::function<void(Block&)> visit = [&](Block& block) {
    for (Stmt& s : block) {
      if (auto* seq = std::get_if<Seq>(&s.node)) visit(seq->body);
      if (auto* each = std::get_if<Each>(&s.node)) visit(each->body);
      if (auto* in_role = std::get_if<InRole>(&s.node))
        for (Block* inner : blocks_of(*in_role)) visit(*inner);
      if (auto* map = std::get_if<MapTile>(&s.node))
        for (ScalarNode& node : map->expr)
          if (node.kind == ScalarNode::Kind::symbol) {
            node.kind = ScalarNode::Kind::constant;
            node.constant = Scalar::of_int(DType::i64, checked_mul(node.constant.i, n));
          }
    }
  };
  for (Phase& p : k.phases) {
    visit(p.body);
    for (Role& r : p.roles) visit(r.body);
  }
  return k;
}

void interpret(const Kernel& kernel, std::vector<HostTensor*> buffers) {
  verify(kernel);
  interpreter(kernel, std::move(buffers))->run();
}

}  // namespace quern::tile
