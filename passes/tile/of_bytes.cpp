// See of_bytes.h.
#include "passes/tile/of_bytes.h"

#include <algorithm>

#include "passes/tile/facts.h"

namespace quern {

using namespace tile;

namespace {

// The 8-bit floats that a map only casts up; -1: none.
ValueId before_casts(const Kernel& k, const Block& body, ValueId v) {
  for (const Stmt& s : body) {
    const auto* m = std::get_if<MapTile>(&s.node);
    if (!m || m->out != v || m->args.size() != 1 || !is_f8(k.values[static_cast<size_t>(m->args[0])].dtype)) continue;
    const bool casts = std::all_of(m->expr.begin(), m->expr.end(), [](const ScalarNode& n) {
      return n.kind == ScalarNode::Kind::operand || (n.kind == ScalarNode::Kind::op && n.op == Op::cast && is_float(n.dtype) && !is_f8(n.dtype));
    });
    if (casts) return m->args[0];
  }
  return -1;
}

void rewrite(const Kernel& k, Block& body) {
  bool changed = false;
  for (Stmt& s : body) {
    if (auto* q = std::get_if<Seq>(&s.node)) rewrite(k, q->body);
    if (auto* e = std::get_if<Each>(&s.node)) rewrite(k, e->body);
    auto* m = std::get_if<Mma>(&s.node);
    if (!m || k.values[static_cast<size_t>(m->acc)].dtype != DType::f32) continue;
    const ValueId a = before_casts(k, body, m->a), b = before_casts(k, body, m->b);
    if (a < 0 || b < 0) continue;
    m->a = a, m->b = b, m->precision = Precision::f8;
    changed = true;
  }
  if (!changed) return;
  std::set<ValueId> read;
  for (const Stmt& s : body) add_read_by(s, read);
  std::erase_if(body, [&](const Stmt& s) { return std::holds_alternative<MapTile>(s.node) && !read.count(made_by(s)); });
}

}  // namespace

Kernel of_bytes(Kernel kernel) {
  for (Phase& p : kernel.phases) rewrite(kernel, p.body);
  return kernel;
}

}  // namespace quern
