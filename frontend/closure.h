// Functions of tensors as closed graphs. A function runs once, on placeholders that stand for its arguments; the sub-graph
// from these to the results is copied into a body, and what stays behind is dead. Values that do not depend on where the
// sub-graph starts enter as further arguments; constants, what is reshaped of them, and broadcasts are copied.
#pragma once
#include <functional>

#include "frontend/tensor.h"

namespace quern {

using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

struct Closure {
  Attrs attrs;                // with the body
  std::vector<NodeId> args;   // of the call: first `from`
};
/// The sub-graph from the nodes `from`, and from what draws random bits of the name `random` where it is given, to the results.
Closure close(const GraphBuilder& b, const std::vector<NodeId>& from, const std::vector<NodeId>& results, const std::string& random = "");

/// f on placeholders of the given types: its results, and the placeholders.
struct Traced { std::vector<NodeId> from, results; };
Traced trace_function(const char* name, GraphBuilder& b, const Function& f, const std::vector<Type>& types, const Where& where);
/// The same, closed; the arguments stand for the placeholders until `put_arguments`.
Closure trace(const char* name, GraphBuilder& b, const Function& f, const std::vector<Type>& types, const Where& where);
/// The arguments' nodes in place of the placeholders.
void put_arguments(Closure& c, const std::vector<Tensor>& args);

/// All results of the op that the closure makes.
std::vector<Tensor> results_of(GraphBuilder& b, const Closure& c, const Where& where, Op op = Op::call);
/// The arguments' graph. Throws where there are none, or not all of one model.
GraphBuilder& graph_of(const char* name, const std::vector<Tensor>& args, const Where& where);
std::vector<Type> types_of(const std::vector<Tensor>& args);
std::vector<Tensor> part(const std::vector<Tensor>& all, size_t first, size_t limit);

}  // namespace quern
