// Which scans are one kernel: those whose steps are elementwise on one shape (groups.h).
#include <algorithm>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/groups.h"

namespace quern {

bool is_elementwise_scan(const Node& n) {
  if (n.op != Op::scan || n.attrs.limit[0] < 1) return false;
  if (is_symbolic(n.attrs.limit) && !n.attrs.stride.empty() && n.attrs.stride[0] < 0) return false;   // an index would hold the symbol
  const Graph& body = *n.attrs.body;
  const size_t varying = static_cast<size_t>(n.attrs.index[0]);
  const Shape* shape = nullptr;
  if (body.nodes.size() > kMaxNodes || body.outputs.size() > kMaxOutputs) return false;
  for (size_t i = 0; i < body.nodes.size(); ++i) {
    const Node& inner = body.nodes[i];
    const bool spread = (inner.op == Op::broadcast || inner.op == Op::reshape || inner.op == Op::barrier) && (body.type(inner.args[0]).size() == 1 || inner.type == body.type(inner.args[0]));
    if (!means<Map>(inner.op) && !spread && inner.op != Op::input && !(inner.op == Op::constant && inner.type.size() == 1)) return false;
    if (inner.type.size() == 1) continue;
    if (inner.type.size() == 0 || (shape && inner.type.shape != *shape)) return false;
    shape = &inner.type.shape;
  }
  const auto whole = [&](NodeId id) { return !shape || body.type(id).shape == *shape; };   // of all elements, not one for all
  for (size_t k = 0; k < varying; ++k)
    if (!whole(body.inputs[k])) return false;
  return std::all_of(body.outputs.begin(), body.outputs.end(), [&](const NamedOutput& o) { return whole(o.node); });
}

}  // namespace quern
