// align: where the copy engine reaches rows that start at multiples of so many bytes (PassContext::row_bytes), a large product of short floats
// with other rows is one of longer ones: zeros follow in its operands, and what they make is left out of its result.
//   before: %2 = contract %0, %1 {spec="mk,nk->mn"} : bf16[512,1001]
//   after:  %3 = pad %1, 0 {low=[0,0], high=[7,0]};  %4 = contract %0, %3 : bf16[512,1008];  %5 = slice %4 {start=[0,0], limit=[512,1001]}
// A product's result that is transposed on its way to another one, whose operand would have to be in memory so, is made in that order:
//   before: %2 = contract %0, %1 {spec="bhqk,bhkd->bhqd"};  %3 = transpose %2 {axes=[0,2,1,3]};  %4 = reshape %3;  %6 = contract %4, %5
//   after:  %2 = contract %0, %1 {spec="bhqk,bhkd->bqhd"};  %3 = reshape %2;  %5 = contract %3, %4
// Rows are those in memory: a product that only transposes look at, or of transposed operands, as a convolution with channels last, has other ones than its
// type says. Values stay the same: a sum has zeros at its end. A padded operand is written once (partition); what reads the result looks at
// longer rows. Scores that are recomputed (recompute.h) stay as they are.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/symbol.h"
#include "passes/graph/rebuild.h"
#include "passes/graph/recompute.h"
#include "passes/pass.h"

namespace quern {
namespace {

constexpr int64_t kManyRows = 256, kLongRow = 1024, kLine = 128;   // of each operand, so that a copy of the other one pays; elements; bytes

class Align {
 public:
  Align(const Graph& graph, PassContext& context) : g_(graph), context_(context), nested_(context.nested_products ? recomputed_nodes(graph) : std::vector<char>(graph.nodes.size())) {}

  Graph run() {
    look_for_views();
    for (const Node& n : g_.nodes)
      if (means<Contract>(n.op))
        for (NodeId a : n.args) look_for_turned(source(g_, a));
    return rebuild(g_, b_, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
      const std::map<char, int64_t> longer = means<Contract>(n.op) ? longer_axes(n) : std::map<char, int64_t>{};
      const NodeId id = static_cast<NodeId>(&n - g_.nodes.data());
      if (const auto it = turned_.find(id); it != turned_.end() && context_.allow()) {   // made in another order, and seen in this one
        ContractSpec spec = parse_contract(n.attrs.spec);
        Attrs turned = n.attrs, back;
        std::string out;
        back.axes.resize(it->second.size());
        for (size_t d = 0; d < it->second.size(); ++d) out += spec.out[static_cast<size_t>(it->second[d])], back.axes[static_cast<size_t>(it->second[d])] = static_cast<int64_t>(d);
        turned.spec = fmt::format("{},{}->{}", spec.lhs, spec.rhs, out);
        return b_.add(Op::transpose, {b_.add(n.op, std::move(args), turned, where)}, back, where);
      }
      if (n.op == Op::transpose && b_.graph().at(args[0]).op == Op::transpose && turned_.count(n.args[0]) && turned_.at(n.args[0]) == n.attrs.axes) return b_.graph().at(args[0]).args[0];
      if (longer.empty() || !context_.allow()) return b_.add(n.op, std::move(args), n.attrs, where);
      const ContractSpec spec = parse_contract(n.attrs.spec);
      const NodeId product = b_.add(n.op, {padded(args[0], spec.lhs, longer), padded(args[1], spec.rhs, longer)}, n.attrs, where);
      if (b_.type(product).shape == n.type.shape) return product;
      Attrs all;
      all.start.resize(n.type.shape.size());
      all.limit = n.type.shape;
      all.stride.assign(n.type.shape.size(), 1);
      return b_.add(Op::slice, {product}, all, where);
    });
  }

 private:
  const Graph& g_;
  PassContext& context_;
  std::vector<char> nested_;
  GraphBuilder b_;

  std::map<NodeId, int64_t> seen_along_;
  std::map<NodeId, Shape> turned_;   // products: the order of their axes in which another one wants them

  // Of an operand: is it some product's result, transposed and then reshaped?
  void look_for_turned(NodeId id) {
    bool reshaped = false;
    for (; g_.at(id).op == Op::reshape; id = g_.at(id).args[0]) reshaped = true;
    const Node& n = g_.at(id);
    if (!reshaped || n.op != Op::transpose) return;
    const Node& product = g_.at(n.args[0]);
    if (!means<Contract>(product.op) || !is_short(product.type.dtype) || is_symbolic(product.type.shape) || n.attrs.axes.back() + 1 != static_cast<int64_t>(n.attrs.axes.size())) return;
    if (nested_[static_cast<size_t>(n.args[0])] || is_nested(product.args[0]) || is_nested(product.args[1])) return;
    turned_.emplace(n.args[0], n.attrs.axes);
  }

  static bool is_short(DType d) { return d == DType::bf16 || d == DType::f16; }
  // What a product of f32 reads where it is one of short floats in truth (lower.h).
  static NodeId source(const Graph& g, NodeId id) { return g.type(id).dtype == DType::f32 && g.at(id).op == Op::cast ? g.at(id).args[0] : id; }
  bool is_nested(NodeId id) const {
    const Node& n = g_.at(id);
    return nested_[static_cast<size_t>(id)] || (means<View>(n.op) && is_nested(n.args[0]));
  }

  // The dim along which elements lie side by side where the value, or what it is a view of, is in memory.
  size_t last_in_memory(NodeId id) const {
    const Node& n = g_.at(id);
    const size_t last = n.type.shape.empty() ? 0 : n.type.shape.size() - 1;
    if (n.op == Op::transpose) return static_cast<size_t>(std::find(n.attrs.axes.begin(), n.attrs.axes.end(), static_cast<int64_t>(last_in_memory(n.args[0]))) - n.attrs.axes.begin());
    if (n.op != Op::reshape) return last;
    const auto longer = [](const Shape& s) {   // dims of more than one element
      std::vector<size_t> out;
      for (size_t d = 0; d < s.size(); ++d)
        if (s[d] != 1) out.push_back(d);
      return out;
    };
    const Shape &from = g_.type(n.args[0]).shape, &to = n.type.shape;
    const std::vector<size_t> before = longer(from), after = longer(to);
    const auto at = std::find(before.begin(), before.end(), last_in_memory(n.args[0]));
    const bool same = std::equal(before.begin(), before.end(), after.begin(), after.end(), [&](size_t a, size_t b) { return from[a] == to[b]; });
    return same && at != before.end() ? after[static_cast<size_t>(at - before.begin())] : last;
  }
  // Of each product, the last dim where all that look at it are transposes with that one last; -1 where others look.
  void look_for_views() {
    for (const Node& n : g_.nodes)
      for (NodeId a : n.args)
        if (means<Contract>(g_.at(a).op)) {
          const int64_t last = n.op == Op::transpose ? n.attrs.axes.back() : -1;
          if (const auto [it, fresh] = seen_along_.emplace(a, last); !fresh && it->second != last) it->second = -1;
        }
    for (NodeId root : g_.roots()) seen_along_[root] = -1;
  }
  size_t last_of_result(const Node& product) const {
    const auto it = seen_along_.find(static_cast<NodeId>(&product - g_.nodes.data()));
    return it == seen_along_.end() || it->second < 0 ? product.type.shape.size() - 1 : static_cast<size_t>(it->second);
  }

  bool is_windowed(NodeId id) const {
    const Node& n = g_.at(id);
    return n.op == Op::window || (means<View>(n.op) && is_windowed(n.args[0]));
  }

  // The extents that axes get, of those that lie last somewhere.
  std::map<char, int64_t> longer_axes(const Node& n) const {
    const NodeId a = source(g_, n.args[0]), b = source(g_, n.args[1]);
    if (!is_short(g_.type(a).dtype) || g_.type(b).dtype != g_.type(a).dtype || is_symbolic(n.type.shape) || is_symbolic(g_.type(a).shape)) return {};
    if (nested_[static_cast<size_t>(&n - g_.nodes.data())] || is_nested(a) || is_nested(b) || is_windowed(a) || is_windowed(b)) return {};
    const ContractSpec spec = parse_contract(n.attrs.spec);
    int64_t rows = 1, columns = 1;
    std::map<char, int64_t> out;
    const auto look_at = [&](const std::string& letters, const Type& type, size_t last) {
      const int64_t size = size_of(type.dtype);
      for (size_t d = 0; d < letters.size(); ++d) {
        const bool in_out = spec.out.find(letters[d]) != std::string::npos, in_lhs = spec.lhs.find(letters[d]) != std::string::npos, in_rhs = spec.rhs.find(letters[d]) != std::string::npos;
        if (&letters == &spec.lhs && in_out && !in_rhs) rows *= type.shape[d];
        if (&letters == &spec.rhs && in_out && !in_lhs) columns *= type.shape[d];
        if (d == last && type.shape[d] > 1 && type.shape[d] * size % context_.row_bytes) out[letters[d]] = round_up(type.shape[d], (type.shape[d] < kLongRow ? context_.row_bytes : kLine) / size);
      }
    };
    look_at(spec.lhs, g_.type(a), last_in_memory(a));
    look_at(spec.rhs, g_.type(b), last_in_memory(b));
    look_at(spec.out, n.type, last_of_result(n));
    return rows < kManyRows || columns < kManyRows ? std::map<char, int64_t>{} : out;
  }

  NodeId padded(NodeId id, const std::string& letters, const std::map<char, int64_t>& longer) {
    const NodeId from = source(b_.graph(), id);
    const Type type = b_.type(from);
    Attrs more;
    more.low.resize(letters.size());
    more.high.resize(letters.size());
    bool some = false;
    for (size_t d = 0; d < letters.size(); ++d)
      if (const auto it = longer.find(letters[d]); it != longer.end()) more.high[d] = it->second - type.shape[d], some = true;
    if (!some) return id;
    const NodeId whole = b_.add(Op::pad, {from, b_.scalar(type.dtype, 0)}, more);
    if (from == id) return whole;
    Attrs wide;
    wide.dtype = {DType::f32};
    return b_.add(Op::cast, {whole}, wide);
  }
};

}  // namespace

Graph align(const Graph& graph, PassContext& context) { return context.row_bytes > 0 ? Align(graph, context).run() : graph; }

}  // namespace quern
