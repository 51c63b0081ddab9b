// precision: where values of short floats (bf16, f16) are rounded. By default every op rounds to its dtype, so that a
// fused kernel computes bit for bit what its ops would compute alone. Under Fp::fast a value stays in f32
// between the ops of one kernel; what a kernel stores, a product's operands, casts that the user wrote and two values that are compared round as ever (a value
// beside the stored maximum that it is part of must equal it); a product of short floats gives its f32 sum (lower.h).
//   before: %2 = exp %0 : bf16[8];  %3 = add %2, %1 : bf16[8];  output %3      (two roundings)
//   after:  %2 = cast %0 : f32[8];  %3 = exp %2;  %4 = cast %1 : f32[8];  %5 = add %3, %4;  %6 = cast %5 : bf16[8];  output %6
// Every rounding that falls away is in the ledger. Relies on partition; changes bodies of kernels alone.
#include "ir/op.h"
#include "passes/graph/rebuild.h"
#include "passes/pass.h"

namespace quern {
namespace {

bool is_short(const Type& type) { return type.dtype == DType::bf16 || type.dtype == DType::f16; }

class Widener {
 public:
  explicit Widener(const Graph& body) : body_(body) {}

  Graph run() {
    narrow_.assign(body_.nodes.size(), -1);
    wide_.assign(body_.nodes.size(), -1);
    unrounded_.assign(body_.nodes.size(), 0);
    for (size_t i = 0; i < body_.nodes.size(); ++i) node(static_cast<NodeId>(i));
    for (const NamedOutput& o : body_.outputs) b_.output(o.name, narrow(o.node));
    return dead_code(b_.finish());
  }
  int64_t dropped() const { return dropped_; }

 private:
  const Graph& body_;
  GraphBuilder b_;
  std::vector<NodeId> narrow_, wide_;   // of each node: its value as its dtype, and in f32; -1: not there (yet)
  std::vector<char> unrounded_;         // computed in f32
  int64_t dropped_ = 0;                 // uses of unrounded values

  NodeId cast(NodeId x, DType dtype) {
    Attrs attrs;
    attrs.dtype = {dtype};
    return b_.add(Op::cast, {x}, std::move(attrs));
  }
  NodeId narrow(NodeId id) {
    NodeId& n = narrow_[static_cast<size_t>(id)];
    return n >= 0 ? n : n = cast(wide_[static_cast<size_t>(id)], body_.type(id).dtype);
  }
  NodeId wide(NodeId id) {
    if (!is_short(body_.type(id))) return narrow(id);
    NodeId& w = wide_[static_cast<size_t>(id)];
    if (w < 0) w = cast(narrow(id), DType::f32);
    dropped_ += unrounded_[static_cast<size_t>(id)];
    return w;
  }
  // Of a product: short floats are rounded as they are read, in products of f32 of them, too.
  NodeId operand(NodeId id, bool widened) {
    const Node& n = body_.at(id);
    if (n.op == Op::cast && n.type.dtype == DType::f32 && is_short(body_.type(n.args[0]))) return cast(narrow(n.args[0]), DType::f32);
    return widened ? cast(narrow(id), DType::f32) : narrow(id);
  }
  // Two values: with a number it makes no difference that one could notice.
  bool compares(const Node& n) const {
    return n.args.size() == 2 && means<Map>(n.op) && n.type.dtype == DType::boolean && !number_of(body_, n.args[0]) && !number_of(body_, n.args[1]);
  }
  // Does the op compute with short floats that may as well be f32?
  bool widens(const Node& n) const {
    if (compares(n)) return false;
    if (n.op == Op::cast) return is_short(body_.type(n.args[0])) && n.type.dtype == DType::f32;
    if (!means<Map>(n.op) && !means<Reduce>(n.op) && !means<Contract>(n.op) && !(means<View>(n.op) && wide_[static_cast<size_t>(n.args[0])] >= 0)) return false;
    for (NodeId a : n.args)
      if (is_short(body_.type(a))) return true;
    return false;
  }
  void node(NodeId id) {
    const Node& n = body_.at(id);
    const size_t i = static_cast<size_t>(id);
    if (n.op == Op::input) {
      narrow_[i] = b_.input(n.attrs.name, n.type, body_.where(id));
      return;
    }
    const bool widened = widens(n);
    std::vector<NodeId> args;
    for (NodeId a : n.args) args.push_back(means<Contract>(n.op) ? operand(a, widened) : widened ? wide(a)
                                                                                                 : narrow(a));
    const NodeId out = widened && n.op == Op::cast ? args[0] : b_.add(n.op, std::move(args), n.attrs, body_.where(id));
    unrounded_[i] = widened && is_short(n.type);
    (unrounded_[i] ? wide_ : narrow_)[i] = out;
  }
};

}  // namespace

Graph precision(const Graph& kernels, PassContext& context) {
  if (context.fp != Fp::fast) return kernels;
  Graph out = kernels;
  for (size_t i = 0; i < out.nodes.size(); ++i) {
    Attrs& attrs = out.nodes[i].attrs;
    if (out.nodes[i].op != Op::call || !context.allow()) continue;
    Widener widener(*attrs.body);
    Graph body = widener.run();
    if (widener.dropped() == 0) continue;
    attrs.body = std::make_shared<const Graph>(std::move(body));
    context.ledger.push_back({static_cast<NodeId>(i), attrs.name, widener.dropped()});
  }
  return out;
}

}  // namespace quern
