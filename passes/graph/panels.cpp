// panels: a matrix that does not change in a loop, and of which a product in it keeps one axis, is laid out for that product
// before the loop: panels as wide as the sums that its registers hold, [columns / width, summed …, width]. Each step would
// else copy it so, or read along its other axis. The loop's kernels read the panels where they lie.
//   before: %2 = scan %h, %w {h' = contract(h, w) "bk,kn->bn"}                          of %w : f32[256,1008]
//   after:  %3 = reshape %w [256,21,48];  %4 = transpose %3 : f32[21,256,48];
//           %5 = scan %h, %4 {h' = contract(h, reshape(transpose(panels))) "bk,kn->bn"}
// What fills no panel is padded with zeros, which nothing reads. It changes the order of sums, as another plan does.
// For tensor cores: tensor_operands.cpp.
#include "passes/graph/panels.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "ir/op.h"
#include "ir/support/fault.h"
#include "ir/symbol.h"
#include "passes/graph/rebuild.h"
#include "passes/pass.h"
#include "passes/tile/plan.h"

namespace quern {
namespace {

constexpr int64_t kFewSteps = 4;   // that does not pay for the copy

bool has(const std::string& letters, char c) { return letters.find(c) != std::string::npos; }

}  // namespace

NodeId reshaped(GraphBuilder& b, NodeId x, Shape shape) {
  Attrs attrs;
  attrs.shape = std::move(shape);
  return b.type(x).shape == attrs.shape ? x : b.add(Op::reshape, {x}, std::move(attrs));
}
NodeId transposed(GraphBuilder& b, NodeId x, Shape axes) {
  if (std::is_sorted(axes.begin(), axes.end())) return x;
  Attrs attrs;
  attrs.axes = std::move(axes);
  return b.add(Op::transpose, {x}, std::move(attrs));
}
Shape moved(size_t rank, size_t from, size_t to) {
  Shape axes(rank);
  std::iota(axes.begin(), axes.end(), 0);
  axes.erase(axes.begin() + static_cast<int64_t>(from));
  axes.insert(axes.begin() + static_cast<int64_t>(to), static_cast<int64_t>(from));
  return axes;
}

NodeId Panels::made(GraphBuilder& b, NodeId x, const std::string& letters) const {
  const size_t summed = letters.size() - 1;
  x = transposed(b, x, moved(letters.size(), letters.find(kept), summed));
  if (const int64_t more = count() * width - columns; more > 0) {
    Attrs pad;
    pad.low.assign(letters.size(), 0), pad.high.assign(letters.size(), 0);
    (planted(Fault::panels_filled_in_front) ? pad.low : pad.high).back() = more;
    x = b.add(Op::pad, {x, b.scalar(b.type(x).dtype, 0)}, std::move(pad));
  }
  Shape parts = b.type(x).shape;
  parts.back() = count();
  parts.push_back(width);
  return transposed(b, reshaped(b, x, parts), moved(parts.size(), summed, 0));
}

NodeId Panels::read(GraphBuilder& b, NodeId panels) const {
  const size_t summed = b.type(panels).shape.size() - 2;
  NodeId x = transposed(b, panels, moved(summed + 2, 0, summed));
  Shape whole(b.type(x).shape.begin(), b.type(x).shape.end() - 2);
  whole.push_back(count() * width);
  x = reshaped(b, x, whole);
  if (count() * width == columns) return x;
  Attrs cut;
  cut.start.assign(whole.size(), 0), cut.stride.assign(whole.size(), 1);
  cut.limit = whole;
  cut.limit.back() = columns;
  return b.add(Op::slice, {x}, std::move(cut));
}

std::string Panels::spec(ContractSpec spec, size_t side) const {
  std::string& letters = side ? spec.rhs : spec.lhs;
  std::erase(letters, kept);
  letters += kept;
  return fmt::format("{},{}->{}", spec.lhs, spec.rhs, spec.out);
}

std::optional<Panels> panels_of(const ContractSpec& spec, size_t side, const Type& matrix, const Type& other, const PassContext& context) {
  const std::string &own = side ? spec.rhs : spec.lhs, &theirs = side ? spec.lhs : spec.rhs;
  if (context.large_matrix == 0 || own.size() < 2 || is_symbolic(matrix.shape) || matrix.bytes() < context.large_matrix || !is_float(matrix.dtype)) return std::nullopt;
  Panels out{0, 0, 0};
  int64_t rows = 1;
  for (size_t d = 0; d < own.size(); ++d) {
    if (has(theirs, own[d]) && has(spec.out, own[d])) return std::nullopt;
    if (!has(spec.out, own[d])) continue;
    if (out.kept) return std::nullopt;
    out.kept = own[d], out.columns = matrix.shape[d];
  }
  for (size_t d = 0; d < theirs.size(); ++d)
    if (has(spec.out, theirs[d])) rows = std::max(rows, at_size(other.shape[d], 1));
  if (!out.kept || out.columns <= context.lanes) return std::nullopt;
  const auto [across, along] = accumulators(rows, ceil_div(out.columns, context.lanes), context.registers);
  out.width = along * context.lanes;
  const bool is_one = out.count() == 1 && own.back() == out.kept;
  return rows > across && !is_one ? std::optional(out) : std::nullopt;
}

namespace {

class Loop {
 public:
  Loop(GraphBuilder& b, const Node& scan, std::vector<NodeId> args, PassContext& context) : b_(b), scan_(scan), body_(*scan.attrs.body), args_(std::move(args)), context_(context) {}

  NodeId run(const SourceLoc& where) {
    for (size_t i = 0; i < body_.nodes.size() && scan_.attrs.limit[0] >= kFewSteps; ++i)
      if (body_.nodes[i].op == Op::contract) find(static_cast<NodeId>(i));
    Attrs attrs = scan_.attrs;
    if (!found_.empty()) attrs.body = std::make_shared<const Graph>(new_body());
    return b_.add(Op::scan, args_, std::move(attrs), where);
  }

 private:
  GraphBuilder& b_;
  const Node& scan_;
  const Graph& body_;
  std::vector<NodeId> args_;
  PassContext& context_;
  struct Found {
    size_t side, input;   // which operand; of the body, what it is
    Panels panels;
  };
  std::map<NodeId, Found> found_;   // by product

  size_t first_fixed() const { return static_cast<size_t>(scan_.attrs.index[0] + scan_.attrs.index[1]); }

  void find(NodeId id) {
    const Node& n = body_.at(id);
    const ContractSpec spec = parse_contract(n.attrs.spec);
    for (size_t side = 0; side < 2; ++side) {
      const auto at = std::find(body_.inputs.begin() + static_cast<int64_t>(first_fixed()), body_.inputs.end(), n.args[side]);
      if (at == body_.inputs.end() || n.args[0] == n.args[1]) continue;
      const std::optional<Panels> panels = panels_of(spec, side, body_.type(n.args[side]), body_.type(n.args[1 - side]), context_);
      if (!panels || !context_.allow()) continue;
      found_.emplace(id, Found{side, static_cast<size_t>(at - body_.inputs.begin()), *panels});
      context_.loops.push_back(fmt::format("{}%{} contract: its operand {} lies in panels of {} before the loop", context_.within, id, side, panels->width));
      return;
    }
  }

  Graph new_body() {
    GraphBuilder own;
    std::vector<char> read(body_.nodes.size());
    for (const NamedOutput& o : body_.outputs) read[static_cast<size_t>(o.node)] = 1;
    for (size_t i = 0; i < body_.nodes.size(); ++i) {
      const auto found = found_.find(static_cast<NodeId>(i));
      for (size_t a = 0; a < body_.nodes[i].args.size(); ++a)
        if (found == found_.end() || a != found->second.side) read[static_cast<size_t>(body_.nodes[i].args[a])] = 1;
    }
    std::vector<NodeId> map(body_.nodes.size(), -1), args;
    for (size_t i = 0; i < body_.inputs.size(); ++i) {
      const NodeId id = body_.inputs[i];
      if (i >= first_fixed() && !read[static_cast<size_t>(id)]) continue;
      map[static_cast<size_t>(id)] = own.input(body_.at(id).attrs.name, body_.type(id), body_.where(id));
      args.push_back(args_[i]);
    }
    std::map<NodeId, NodeId> panels;   // by product: what it reads
    std::map<NodeId, NodeId> inputs;   // of what is before the loop: products may share it
    for (const auto& [id, f] : found_) {
      const Node& n = body_.at(id);
      const ContractSpec spec = parse_contract(n.attrs.spec);
      const NodeId before = f.panels.made(b_, args_[f.input], f.side ? spec.rhs : spec.lhs);
      const auto [at, fresh] = inputs.emplace(before, -1);
      if (fresh) {
        at->second = own.input("", b_.type(before));
        args.push_back(before);
      }
      panels[id] = at->second;
    }
    for (size_t i = 0; i < body_.nodes.size(); ++i) {
      const NodeId id = static_cast<NodeId>(i);
      const Node& n = body_.at(id);
      if (n.op == Op::input) continue;
      std::vector<NodeId> mapped;
      for (NodeId a : n.args) mapped.push_back(map[static_cast<size_t>(a)]);
      Attrs attrs = n.attrs;
      if (const auto found = found_.find(id); found != found_.end()) {
        const Panels& p = found->second.panels;
        mapped[found->second.side] = p.read(own, panels.at(id));
        attrs.spec = p.spec(parse_contract(n.attrs.spec), found->second.side);
      }
      map[i] = own.add(n.op, std::move(mapped), std::move(attrs), body_.where(id));
    }
    for (const NamedOutput& o : body_.outputs) own.output(o.name, map[static_cast<size_t>(o.node)]);
    args_ = std::move(args);
    return own.finish();
  }
};

}  // namespace

Graph panels(const Graph& graph, PassContext& context) {
  if (context.large_product > 0) return operands_for_tensor_cores(graph, context);
  if (context.large_matrix == 0 || std::none_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& n) { return n.op == Op::scan; })) return graph;
  GraphBuilder b;
  return rebuild(graph, b, [&](const Node& n, std::vector<NodeId> args, const SourceLoc& where) {
    return n.op == Op::scan ? Loop(b, n, std::move(args), context).run(where) : b.add(n.op, std::move(args), n.attrs, where);
  });
}

}  // namespace quern
