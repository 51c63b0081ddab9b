// Printing kernels (parse.cpp reads them); the grammar stands at the head of kernel.h. Scalar expressions print as nested calls,
// `let t0 = …;` first for what is used twice or nested deep: map(let t0 = exp(a0); div(t0, add(t0, 1:f32))). Tiles and
// lets are numbered in the order of the text, so that what is parsed prints as it was read.
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/support/overloaded.h"
#include "ir/support/reader.h"
#include "ir/tile/kernel.h"

namespace quern::tile {
namespace {

constexpr const char* kBufferKinds[] = {"in", "out", "scratch", "view"};

class Printer {
 public:
  explicit Printer(const Kernel& kernel) : k_(kernel) {}

  std::string kernel() {
    std::string out = "kernel " + k_.name + "(";
    for (size_t b = 0; b < k_.buffers.size(); ++b) {
      const Buffer& buffer = k_.buffers[b];
      out += fmt::format("{}%{}: {} {}{}", b ? ", " : "", buffer.name, kBufferKinds[static_cast<int>(buffer.kind)], type_text(buffer), buffer.of < 0 ? "" : " of %" + k_.buffers[static_cast<size_t>(buffer.of)].name);
    }
    out += ") {\n";
    for (const Axis& a : k_.axes) out += fmt::format("  axis {}<{} by {}{}{}{}{}{}\n", a.name, extent_text(a.extent, a.symbol), a.tile, a.from ? " from " + index(*a.from) : "", a.to ? " to " + index(*a.to) : "", a.within >= 0 ? " within " + axis(a.within) : "", a.lanes ? " lanes" : "", spread(a.spread));
    if (k_.cluster) out += fmt::format("  cluster of {}{}\n", k_.cluster, k_.steps < 0 ? "" : " seq " + axis(k_.steps));
    for (const Phase& p : k_.phases) out += p.roles.empty() ? fmt::format("  {}grid ({}) {}{}\n", p.beside ? "beside " : "", names(p.grid), p.mirrored ? "mirrored " : "", block(p.body, "  ", nullptr)) : work(p);
    return out + "}\n";
  }

  std::string expr(const ScalarExpr& e) const {
    std::vector<int> uses(e.size()), depth(e.size());
    if (!e.empty()) uses.back() = 1;   // nodes that the last one does not need are not printed
    for (size_t i = e.size(); i-- > 0;)
      if (uses[i] > 0)
        for (int a : e[i].args) ++uses[static_cast<size_t>(a)];
    std::vector<std::string> lets(e.size());
    std::string out;
    int count = 0;
    for (size_t i = 0; i + 1 < e.size(); ++i) {
      if (uses[i] == 0 || e[i].args.empty()) continue;
      for (int a : e[i].args) depth[i] = std::max(depth[i], depth[static_cast<size_t>(a)] + 1);
      if (uses[i] == 1 && depth[i] < kMaxDepth) continue;
      out += fmt::format("let t{} = {}; ", count, node(e, i, lets));
      lets[i] = fmt::format("t{}", count++);
      depth[i] = 0;
    }
    return out + node(e, e.size() - 1, lets);
  }

 private:
  static constexpr int kMaxDepth = 12;   // of calls within calls; the reader refuses more than 32
  const Kernel& k_;
  const std::vector<Channel>* channels_ = nullptr;   // of the phase
  mutable std::map<ValueId, size_t> numbers_;   // tiles are numbered in the order of the text

  static std::string extent_text(int64_t extent, int64_t symbol) {
    return symbol == 0 ? fmt::format("{}", extent) : fmt::format("{}n<={}", symbol == 1 ? "" : fmt::format("{}", symbol), extent);
  }
  static std::string type_text(const Buffer& b) {
    std::string out;
    for (size_t d = 0; d < b.shape.size(); ++d) {
      const bool symbolic = b.symbol && static_cast<int64_t>(d) == b.along;
      out += (d ? "," : "") + extent_text(b.shape[d], symbolic ? b.symbol : 0) + (symbolic && b.room ? fmt::format(" of {}", b.room) : "");
    }
    return fmt::format("{}[{}]", name_of(b.dtype), out);
  }
  static std::string spread(const Spread& s) {
    std::string out;
    if (s.threads > 1) out += fmt::format(" threads {}@{}", s.threads, s.threads_at);
    if (s.warps > 1) out += fmt::format(" warps {}@{}", s.warps, s.warps_at);
    return s.vector > 1 ? out + fmt::format(" vector {}", s.vector) : out;
  }
  size_t number(ValueId v) const { return numbers_.emplace(v, numbers_.size()).first->second; }
  std::string axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)].name; }
  std::string names(const std::vector<AxisId>& axes) const {
    std::vector<std::string> out;
    for (AxisId a : axes) out.push_back(axis(a));
    return fmt::format("{}", fmt::join(out, ", "));
  }
  std::string index(const Index& e) const {
    return e.text([this](int a) { return axis(a); });
  }
  std::string type(ValueId v) const {
    const Value& value = k_.values[static_cast<size_t>(v)];
    return fmt::format("{}[{}]", name_of(value.dtype), names(value.axes));
  }
  std::string node(const ScalarExpr& e, size_t i, const std::vector<std::string>& lets) const {
    if (!lets[i].empty()) return lets[i];
    const ScalarNode& n = e[i];
    switch (n.kind) {
      case ScalarNode::Kind::constant: return fmt::format("{}:{}", number_text(n.constant), name_of(n.dtype));
      case ScalarNode::Kind::operand: return fmt::format("a{}", n.operand);
      case ScalarNode::Kind::coord: return fmt::format("coord({})", index(n.coord));
      case ScalarNode::Kind::symbol: return fmt::format("symbol<{}>", n.constant.i);
      default: break;
    }
    std::vector<std::string> args;
    for (int a : n.args) args.push_back(node(e, static_cast<size_t>(a), lets));
    if (n.kind == ScalarNode::Kind::random) return fmt::format("random<{}>({}, {})", n.operand, args[0], index(n.coord));
    const std::string suffix = names_dtype(n.op) ? fmt::format("<{}>", name_of(n.dtype)) : "";
    return fmt::format("{}{}({})", quern::name_of(n.op), suffix, fmt::join(args, ", "));
  }
  std::string values(const std::vector<ValueId>& ids) const {
    std::vector<std::string> out;
    for (ValueId v : ids) out.push_back(fmt::format("%{}", number(v)));
    return fmt::format("{}", fmt::join(out, ", "));
  }
  std::string block(const Block& stmts, const std::string& indent, const std::vector<ValueId>* yields) const {
    std::string out = "{\n";
    for (const Stmt& s : stmts) out += indent + "  " + stmt(s, indent + "  ") + "\n";
    if (yields) out += fmt::format("{}  yield {}\n", indent, values(*yields));
    return out + indent + "}";
  }
  std::string define(ValueId v) const { return fmt::format("%{}: {} = ", number(v), type(v)); }
  std::string defines(const std::vector<ValueId>& ids) const {
    std::string out;
    for (ValueId v : ids) out += fmt::format("{}%{}: {}", out.empty() ? "" : ", ", number(v), type(v));
    return out + (out.empty() ? "" : " = ");
  }

  std::string box(const std::vector<BoxIndex>& at) const {
    std::vector<std::string> out;
    for (const BoxIndex& b : at) out.push_back(b.gather >= 0 ? fmt::format("%{}", number(b.gather)) : index(b.index));
    return fmt::format("{}", fmt::join(out, ", "));
  }
  std::string work(const Phase& p) {
    std::string out = fmt::format("  work ({}) in groups of {}{}{}{} {{\n", names(p.grid), p.group, p.backward ? " backward" : p.winding ? " winding"
                                                                                                                                         : "",
                                  p.claimed ? " claimed" : "", p.shared >= 0 ? " shared along " + axis(p.shared) : "");
    channels_ = &p.channels;
    for (const Channel& c : p.channels) {
      std::vector<std::string> parts;
      for (const Value& v : c.parts) parts.push_back(fmt::format("{}[{}]", name_of(v.dtype), names(v.axes)));
      out += fmt::format("    chan %{} ({}) x {}\n", c.name, fmt::join(parts, ", "), c.depth);
    }
    for (const Role& r : p.roles)
      out += fmt::format("    role {}{}{}{} {}\n", r.name, r.count > 1 || !r.along.empty() || r.turns ? fmt::format(" x {}", r.count) : "", !r.along.empty() ? " along " + names(r.along) : r.turns ? " in turns"
                                                                                                                                                                                        : r.steps   ? " in steps"
                                                                                                                                                                                                    : "",
                         r.registers ? fmt::format(" regs {}", r.registers) : "", block(r.body, "    ", nullptr));
    return out + "  }\n";
  }
  std::string in_role(const InRole& s, const std::string& indent) const {
    const auto channel = [&](int c) { return "%" + channels_->at(static_cast<size_t>(c)).name; };
    const auto place = [&](const auto& access) { return fmt::format("%{}[{}]", k_.buffers[static_cast<size_t>(access.buffer)].name, box(access.index)); };
    const auto places = [&](const auto& list) {
      std::vector<std::string> out;
      for (const auto& access : list) out.push_back(place(access));
      return fmt::format("{}", fmt::join(out, ", "));
    };
    return std::visit(
        Overloaded{[&](const Fetch& f) { return fmt::format("fetch {} ({})", channel(f.channel), places(f.loads)); },
                   [&](const Get& g) {
                     return defines(g.outs) + "get " + channel(g.channel);
                   },
                   [&](const Release& r) { return fmt::format("release {}@s{}", channel(r.channel), r.behind ? fmt::format("-{}", r.behind) : ""); },
                   [&](const Put& p) { return fmt::format("put {} ({})", channel(p.channel), values(p.values)); },
                   [&](const Fence&) { return std::string("fence"); },
                   [&](const Send& p) { return fmt::format("send {} to ({})", channel(p.channel), places(p.stores)); },
                   [&](const Add& a) { return fmt::format("add {} to ({}) over {}", channel(a.channel), places(a.stores), axis(a.over)); },
                   [&](const Await& a) { return fmt::format("await {}", a.left); },
                   [&](const Slice& c) { return define(c.out) + fmt::format("slice %{}", number(c.arg)); },
                   [&](const Past& p) {
                     const auto part = [&](const Block& b, const std::vector<ValueId>& yields) { return block(b, indent, p.outs.empty() ? nullptr : &yields); };
                     std::string head = defines(p.outs);
                     head += fmt::format("past ({}) {}", names(p.axes), part(p.body, p.yields));
                     return p.otherwise.empty() && p.outs.empty() ? head : head + " else " + part(p.otherwise, p.others);
                   },
                   [&](const Turn& t) { return std::string(t.taken ? "turn" : "pass"); },
                   [&](const Share& h) { return fmt::format("share %{}", number(h.value)); },
                   [&](const Deal& d) { return fmt::format("deal ({}) {}", names(d.axes), block(d.body, indent, nullptr)); },
                   [&](const Total& t) { return define(t.out) + fmt::format("total %{}", number(t.arg)); }},
        s.node);
  }
  std::string stmt(const Stmt& s, const std::string& indent) const {
    return std::visit(
        Overloaded{[&](const Load& l) { return define(l.out) + fmt::format("load {}%{}[{}]", l.ahead ? "ahead " : l.early ? "early "
                                                                                                                          : "",
                                                                           k_.buffers[static_cast<size_t>(l.buffer)].name, box(l.index)); },
                   [&](const MapTile& m) { return define(m.out) + fmt::format("map{}({}) ({})", m.fast ? " fast" : "", expr(m.expr), values(m.args)); },
                   [&](const ReduceTile& r) { return define(r.out) + fmt::format("reduce<{}> {} (%{})", quern::name_of(r.combine), names(r.axes), number(r.arg)); },
                   [&](const Mma& m) {
                     return define(m.out) + fmt::format("{}mma[{}{}] {} (%{}, %{}, %{})", m.issued ? "issue " : "", kPrecisions[static_cast<int>(m.precision)], m.atom.empty() ? "" : m.issued ? ", " + m.atom
                                                                                                                                                                                               : fmt::format(", {} x {}", m.atom, m.stages),
                                                        names(m.axes), number(m.acc), number(m.a), number(m.b));
                   },
                   [&](const Seq& q) {
                     std::string out = defines(q.outs) + fmt::format("seq ({})", names(q.axes));
                     if (!q.carries.empty()) {
                       out += " carry (";
                       for (size_t c = 0; c < q.carries.size(); ++c)
                         out += fmt::format("{}%{}: {} = {}", c ? ", " : "", number(q.carries[c].var), type(q.carries[c].var), number_text(q.carries[c].init));
                       out += ")";
                     }
                     return out + " " + block(q.body, indent, q.carries.empty() ? nullptr : &q.yields);
                   },
                   [&](const Each& e) { return fmt::format("each ({}) {}", names(e.axes), block(e.body, indent, nullptr)); },
                   [&](const Store& t) { return fmt::format("store {}%{}[{}] = %{}", t.stream ? "stream " : "", k_.buffers[static_cast<size_t>(t.buffer)].name, box(t.index), number(t.value)); },
                   [&](const InRole& r) { return in_role(r, indent); }},
        s.node);
  }
};

}  // namespace

std::string to_string(const Kernel& kernel) { return Printer(kernel).kernel(); }
std::string to_string(const ScalarExpr& expr, const Kernel& kernel) { return Printer(kernel).expr(expr); }

std::string structure(const Kernel& kernel) {
  Kernel anonymous = kernel;
  anonymous.name = "k";
  for (size_t a = 0; a < anonymous.axes.size(); ++a) anonymous.axes[a].name = fmt::format("i{}", a);
  for (size_t b = 0; b < anonymous.buffers.size(); ++b) anonymous.buffers[b].name = fmt::format("p{}", b);
  return to_string(anonymous);
}

int64_t Kernel::params() const {
  int64_t n = 0;
  for (const Buffer& b : buffers) n += b.kind == BufferKind::in || b.kind == BufferKind::out;
  return n;
}

}  // namespace quern::tile
