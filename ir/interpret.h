// The reference: evaluates a Graph node by node with OpDef::eval. Slow, obvious, and what everything is compared with.
#pragma once
#include "ir/graph.h"

namespace quern {

/// Results in the order outputs, then states' new values. `inputs` in Graph::inputs order. Calls are evaluated through
/// their body when the transform is none or kernel; vjp and vmap must have been expanded (throws otherwise).
std::vector<HostTensor> interpret(const Graph& graph, const std::vector<HostTensor>& inputs);

}  // namespace quern
