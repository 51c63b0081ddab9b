// Graph IR: tensors in SSA form, no memory, no devices. A Graph is a value: the node vector's order is a
// topological order, is printed, evaluated and laid out in memory as it stands. Bodies of `call`, `scan`, `while_loop` and
// `cond` are closed Graphs.
//
//   graph (%0: f32[2,3] "x", %1: f32[3] "b") {
//     %2 = broadcast %1 {axes=[1], shape=[2,3]} : f32[2,3] @ "mlp.cpp:41"
//     %3 = add %0, %2 : f32[2,3]
//     output "y" %3
//     state "b" %1 -> %5
//   }
//
// Inputs are nodes (op `input`), printed in the head. A state is a pair {input, output}: the slot of the input is
// updated in place by a run. Every argument's id is smaller than the node's own.
#pragma once
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <unordered_map>
#include <vector>

#include "ir/host_tensor.h"

namespace quern {

enum class Op : uint8_t {
#define QN_OP(name) name,
#include "ir/ops.def"
#undef QN_OP
};
constexpr int kOpCount = 0
#define QN_OP(name) +1
#include "ir/ops.def"
#undef QN_OP
    ;

using NodeId = int32_t;
using SourceId = int32_t;  // index into Graph::sources; 0 is "unknown"

/// A size that is given when the graph runs, low <= n <= high; dims that are c times it are c * kSymbol. See ir/symbol.h.
struct Symbol {
  std::string name;
  int64_t low = 1, high = 1;
  bool operator==(const Symbol&) const = default;
};
constexpr int64_t kSymbol = 2147483647;   // 2^31 - 1

/// A tensor's type, or, for the body ops, the types of several results.
struct Type {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<Type> results;   // non-empty: the type Results{t0, t1, …}
  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t size() const { return count(shape); }
  int64_t bytes() const { return checked_mul(size(), size_of(dtype)); }
  bool operator==(const Type&) const = default;
};
std::string to_string(const Type& type);   // "f32[2,3]", "f32[n,3]"

class Graph;
enum class Transform : uint8_t { none, vjp, vmap, kernel, jvp, checkpoint };

/// All attributes an op may have; unused ones stay empty and are not printed. `fields` names them once for
/// printing, parsing, hashing and comparing.
struct Attrs {
  Shape axes;                      // reduce, argmax, cumulate, argsort, transpose (permutation), broadcast, reverse, concat, iota, take, vmap
  Shape shape;                     // reshape, broadcast, iota, random, window
  Shape start, limit, stride;      // slice; window, convolve: no limit; scan: limit=[steps], stride=[-1] from the last step on
  Shape dilation, base;            // window, convolve
  Shape low, high;                 // pad
  std::string spec;                // contract: "bmk,bkn->bmn"; convolve, cumulate, argsort
  std::string name;                // input; call; contract: "tf32"
  std::vector<DType> dtype;        // cast, iota, input: one element
  Shape index;                     // result: which; random: stream; call vjp, jvp: arguments to differentiate; scan: [carries, scanned]; while_loop: [carries]
  std::shared_ptr<const HostTensor> value;   // constant
  std::shared_ptr<const Graph> body;         // call, scan, while_loop, cond
  std::shared_ptr<const Graph> otherwise;    // cond
  std::shared_ptr<const Graph> derivative;   // call: the user's own
  Transform transform = Transform::none;     // call

  template <class Visitor>
  void fields(Visitor&& visit) {
    visit("axes", axes); visit("shape", shape); visit("start", start); visit("limit", limit); visit("stride", stride);
    visit("dilation", dilation); visit("base", base);
    visit("low", low); visit("high", high); visit("spec", spec); visit("name", name); visit("dtype", dtype);
    visit("index", index); visit("transform", transform); visit("value", value); visit("body", body);
    visit("otherwise", otherwise); visit("derivative", derivative);
  }
  bool operator==(const Attrs& other) const;  // by content
};

struct Node {
  Op op;
  Type type;
  std::vector<NodeId> args;
  Attrs attrs;
  SourceId source = 0;
};

struct NamedOutput {
  std::string name;
  NodeId node;
};
struct State {
  std::string name;
  NodeId input, output;
};

class Graph {
 public:
  std::vector<Node> nodes;
  std::vector<NodeId> inputs;            // nodes of op `input`, in call order (states included)
  std::vector<NamedOutput> outputs;      // in result order; states' new values are not among them
  std::vector<State> states;
  std::vector<SourceLoc> sources{{}};
  std::optional<Symbol> symbol;

  const Node& at(NodeId id) const { return nodes[static_cast<size_t>(id)]; }
  const Type& type(NodeId id) const { return at(id).type; }
  SourceLoc where(NodeId id) const { return sources[static_cast<size_t>(at(id).source)]; }
  /// Outputs, then states' outputs: everything that must be computed.
  std::vector<NodeId> roots() const;
  /// The state that starts from this input, or null.
  const State* state_of(NodeId input) const;
  /// How many times each node is used by other nodes and by roots.
  std::vector<int> use_counts() const;
  uint64_t hash() const;                 // of structure; sources and names of inputs do not count
  bool operator==(const Graph& other) const;  // structure, names; not sources
};

/// Builds a Graph: infers types, merges equal nodes (hash-consing), records the user's line.
class GraphBuilder {
 public:
  /// The graph's symbol, and with it the right to use kSymbol in shapes. Throws Error(compile) for bounds that are none.
  void symbol(const std::optional<Symbol>& symbol);
  /// Adds a node or returns the equal one that exists. Throws Error(compile) where the type rule is broken.
  NodeId add(Op op, std::vector<NodeId> args, Attrs attrs = {}, SourceLoc where = {});
  NodeId input(std::string name, Type type, SourceLoc where = {});
  /// Stands for an argument of a function whose body is being built among these nodes; see frontend/transforms.cpp.
  NodeId placeholder(std::string name, Type type, SourceLoc where = {});
  /// While it is not empty, random nodes bear this name: those of one step of a loop, which are no others of equal key.
  void name_random(std::string name) { random_name_ = std::move(name); }
  const std::string& random_name() const { return random_name_; }
  NodeId constant(HostTensor value, SourceLoc where = {});
  NodeId scalar(DType dtype, double value, SourceLoc where = {});
  /// A scalar constant broadcast to the type's shape.
  NodeId full(const Type& type, double value, SourceLoc where = {});
  /// The i-th result of a node that has several; all of them.
  NodeId result(NodeId node, size_t i, SourceLoc where = {});
  std::vector<NodeId> results(NodeId node, SourceLoc where = {});
  void output(std::string name, NodeId node) { graph_.outputs.push_back({std::move(name), node}); }
  void state(std::string name, NodeId in, NodeId out) { graph_.states.push_back({std::move(name), in, out}); }
  /// Copies `body` into this graph with `args` in place of its inputs; returns its outputs.
  std::vector<NodeId> inline_body(const Graph& body, const std::vector<NodeId>& args);

  const Graph& graph() const { return graph_; }
  const Type& type(NodeId id) const { return graph_.type(id); }
  /// What a node is, for messages: `input "x"`, `reduce_sum`.
  std::string describe(NodeId id) const;
  SourceId intern(const SourceLoc& where);
  /// The graph, without placeholders. Throws Error(other_model) where an output or a state needs one.
  Graph finish();

 private:
  Graph graph_;
  std::vector<NodeId> placeholders_;
  std::string random_name_;
  Type infer(Op op, const std::vector<NodeId>& args, const std::vector<Type>& types, const Attrs& attrs, const SourceLoc& where) const;
  std::unordered_multimap<uint64_t, NodeId> table_;  // structure hash → nodes
};

/// The graph without the nodes that no root needs; inputs stay. Order is kept.
Graph dead_code(const Graph& graph);

}  // namespace quern
