// Parsing kernels, as text.cpp prints them; the grammar stands at the head of kernel.h.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include <fmt/format.h>

#include "ir/support/reader.h"
#include "ir/tile/scalar.h"

namespace quern::tile {
namespace {

class Parser {
 public:
  explicit Parser(const std::string& text) : r_(text, "<kernel>") {}

  Kernel run() {
    r_.expect("kernel");
    k_.name = r_.word();
    r_.expect("(");
    while (!r_.accept(")")) {
      if (!k_.buffers.empty()) r_.expect(",");
      buffer();
    }
    r_.expect("{");
    std::vector<std::pair<size_t, std::string>> around;   // axes within others, which may come later
    while (r_.accept("axis")) {
      Axis a;
      a.name = r_.word();
      r_.expect("<");
      a.extent = extent(a.symbol);
      r_.expect("by");
      a.tile = r_.integer();
      if (r_.accept("from")) a.from = index();
      if (r_.accept("to")) a.to = index();
      if (r_.accept("within")) around.emplace_back(k_.axes.size(), r_.word());
      a.lanes = r_.accept("lanes");
      a.spread = spread();
      if (a.tile < 1) r_.fail("an axis needs a tile >= 1");
      if (!axes_.emplace(a.name, static_cast<AxisId>(k_.axes.size())).second) r_.fail("an axis is named twice");
      k_.axes.push_back(std::move(a));
    }
    for (const auto& [a, name] : around) {
      const auto it = axes_.find(name);
      if (it == axes_.end()) r_.fail("an axis within one that is not declared");
      k_.axes[a].within = it->second;
    }
    if (r_.accept("cluster")) {
      r_.expect("of");
      k_.cluster = r_.integer();
      if (k_.cluster < 1 || k_.cluster > 16) r_.fail("a cluster has 1 to 16 blocks");
      if (r_.accept("seq")) k_.steps = axis();
    }
    for (bool work = false, beside = false; (work = false, beside = r_.accept("beside")) || (work = r_.accept("work")) || r_.accept("grid");) {
      if (beside) r_.expect("grid");
      Phase p;
      p.beside = beside;
      p.grid = axis_list("(", ")");
      p.mirrored = !work && r_.accept("mirrored");
      if (work) roles(p);
      else p.body = block(nullptr);
      k_.phases.push_back(std::move(p));
    }
    r_.expect("}");
    if (!r_.at_end()) r_.fail("text after the end of the kernel");
    return std::move(k_);
  }

 private:
  Reader r_;
  Kernel k_;
  std::map<std::string, AxisId> axes_;
  std::map<std::string, BufferId> buffers_;
  std::map<int64_t, ValueId> values_;
  std::map<std::string, ChannelId> channels_;
  Phase* phase_ = nullptr;   // whose roles are read

  // --- roles ---
  void roles(Phase& p) {
    for (const char* word : {"in", "groups", "of"}) r_.expect(word);
    p.group = r_.integer();
    p.backward = r_.accept("backward");
    p.winding = !p.backward && r_.accept("winding");
    p.claimed = r_.accept("claimed");
    if (r_.accept("shared")) {
      r_.expect("along");
      p.shared = axis();
    }
    r_.expect("{");
    channels_.clear();
    while (r_.accept("chan")) {
      Channel c;
      r_.expect("%");
      c.name = r_.word();
      r_.expect("(");
      do c.parts.push_back(type());
      while (r_.accept(","));
      r_.expect(")");
      r_.expect("x");
      c.depth = r_.integer();
      if (c.depth < 1 || c.depth > 64) r_.fail("a ring has 1 to 64 slots");
      if (!channels_.emplace(c.name, static_cast<ChannelId>(p.channels.size())).second) r_.fail("a channel is named twice");
      p.channels.push_back(std::move(c));
    }
    phase_ = &p;
    while (!r_.accept("}")) {
      r_.expect("role");
      Role role;
      role.name = r_.word();
      if (r_.accept("x")) {
        role.count = r_.integer();
        if (role.count < 1 || role.count > 8) r_.fail("a role has 1 to 8 instances");
        if (r_.accept("along")) {
          do role.along.push_back(axis());
          while (r_.accept(","));
        } else {
          r_.expect("in");
          role.steps = r_.accept("steps");
          role.turns = !role.steps;
          if (role.turns) r_.expect("turns");
        }
      }
      if (r_.accept("regs")) role.registers = r_.integer();
      role.body = block(nullptr);
      p.roles.push_back(std::move(role));
    }
    phase_ = nullptr;
  }
  const Channel& channel(int& id) {
    r_.expect("%");
    const auto it = channels_.find(r_.word());
    if (it == channels_.end()) r_.fail("a channel that is not declared");
    return phase_->channels[static_cast<size_t>(id = it->second)];
  }
  // The channel's tiles in memory: buffer and box of each, and a tile that the text has no name for.
  template <class Access>
  std::vector<Access> places(const Channel& c) {
    std::vector<Access> out;
    r_.expect("(");
    for (const Value& part : c.parts) {
      if (!out.empty()) r_.expect(",");
      const BufferId b = buffer_reference();
      std::vector<BoxIndex> index = box();
      Value v = part;
      std::sort(v.axes.begin(), v.axes.end());
      k_.values.push_back(std::move(v));
      const ValueId id = static_cast<ValueId>(k_.values.size() - 1);
      if constexpr (std::is_same_v<Access, Load>) out.push_back({id, b, std::move(index)});
      else out.push_back({b, std::move(index), id});
    }
    r_.expect(")");
    return out;
  }
  // A statement that only roles have and that defines no tile.
  std::optional<Stmt> in_role() {
    if (r_.accept("fetch")) {
      Fetch f;
      f.loads = places<Load>(channel(f.channel));
      return Stmt{InRole{std::move(f)}};
    }
    if (r_.accept("release")) {
      Release release{0, 0};
      channel(release.channel);
      for (const char* word : {"@", "s"}) r_.expect(word);
      if (r_.accept("-")) release.behind = r_.integer();
      return Stmt{InRole{release}};
    }
    if (r_.accept("put")) {
      Put put;
      channel(put.channel);
      put.values = references();
      return Stmt{InRole{std::move(put)}};
    }
    if (r_.accept("fence")) return Stmt{InRole{Fence{}}};
    if (const bool adds = r_.accept("add"); adds || r_.accept("send")) {
      ChannelId id = 0;
      const Channel& c = channel(id);
      r_.expect("to");
      std::vector<Store> stores = places<Store>(c);
      if (!adds) return Stmt{InRole{Send{id, std::move(stores)}}};
      r_.expect("over");
      return Stmt{InRole{Add{id, std::move(stores), axis()}}};
    }
    if (r_.accept("await")) return Stmt{InRole{Await{r_.integer()}}};
    if (r_.accept("turn")) return Stmt{InRole{Turn{true}}};
    if (r_.accept("pass")) return Stmt{InRole{Turn{false}}};
    if (r_.accept("share")) return Stmt{InRole{Share{reference()}}};
    if (r_.accept("deal")) return Stmt{InRole{Deal{axis_list("(", ")"), block(nullptr)}}};
    return std::nullopt;
  }

  void buffer() {
    Buffer b;
    r_.expect("%");
    b.name = r_.word();
    r_.expect(":");
    b.kind = r_.accept("in") ? BufferKind::in : r_.accept("out") ? BufferKind::out : BufferKind::scratch;
    if (b.kind == BufferKind::scratch && !r_.accept("scratch")) r_.expect("view"), b.kind = BufferKind::view;
    b.dtype = r_.dtype();
    r_.expect("[");
    while (!r_.accept("]")) {
      if (!b.shape.empty()) r_.expect(",");
      int64_t symbol = 0;
      b.shape.push_back(extent(symbol));
      if (symbol && b.symbol) r_.fail("only one extent may be symbolic");
      if (symbol) b.symbol = symbol, b.along = static_cast<int64_t>(b.shape.size()) - 1;
      if (symbol && r_.accept("of")) {
        b.room = r_.integer();
        if (b.room < b.shape.back() || b.room > kMaxExtent) r_.fail("the room of an extent is its bound at least, and 2^40 at most");
      }
      if (b.shape.size() > 64) r_.fail("a buffer of rank above 64");
    }
    if (b.kind == BufferKind::view) {
      r_.expect("of");
      b.of = buffer_reference();
    }
    if (!buffers_.emplace(b.name, static_cast<BufferId>(k_.buffers.size())).second) r_.fail("a buffer is named twice");
    k_.buffers.push_back(std::move(b));
  }
  int64_t extent(int64_t& symbol) {
    int64_t value = r_.peek("n") ? 1 : r_.integer();
    if (r_.accept("n")) {
      symbol = value;
      r_.expect("<=");
      value = r_.integer();
      if (symbol < 1 || value % symbol != 0) r_.fail("a symbolic extent is a positive multiple of the symbol, and its bound too");
    }
    if (value < 0 || value > kMaxExtent) r_.fail("an extent outside [0, 2^40]");
    return value;
  }
  AxisId axis() {
    const auto it = axes_.find(r_.word());
    if (it == axes_.end()) r_.fail("an axis that is not declared");
    return it->second;
  }
  std::vector<AxisId> axis_list(const char* open, const char* close) {
    std::vector<AxisId> out;
    r_.expect(open);
    while (!r_.accept(close)) {
      if (!out.empty()) r_.expect(",");
      out.push_back(axis());
    }
    return out;
  }
  Value type() {
    Value v{r_.dtype(), {}};
    v.axes = axis_list("[", "]");
    return v;
  }
  ValueId reference() {
    r_.expect("%");
    const auto it = values_.find(r_.integer());
    if (it == values_.end()) r_.fail("a tile that is not defined before");
    return it->second;
  }
  ValueId define(int64_t name, Value value) {
    k_.values.push_back(std::move(value));
    const ValueId id = static_cast<ValueId>(k_.values.size() - 1);
    if (!values_.emplace(name, id).second) r_.fail("a tile is defined twice");
    return id;
  }
  std::vector<ValueId> references() {
    std::vector<ValueId> out;
    r_.expect("(");
    while (!r_.accept(")")) {
      if (!out.empty()) r_.expect(",");
      out.push_back(reference());
    }
    return out;
  }
  // index ::= term (("+" | "-") term)*;  term ::= factor (("*" | "//" | "%") number)*
  // `size` bounds the sum of the terms' absolute values, so that no index arithmetic wraps.
  struct Sized {
    Index index;
    double size;
  };
  Index index() { return sum().index; }
  Sized sum() {
    Reader::Level level(r_);
    Sized out = term();
    for (;;) {
      const bool plus = r_.accept("+");
      if (!plus && !r_.accept("-")) return out;
      const Sized more = term();
      bounded(out.size += more.size);
      out.index = plus ? out.index + more.index : out.index - more.index;
    }
  }
  Sized term() {
    Sized out{Index(0), 1};
    if (r_.accept("(")) {
      out = sum();
      r_.expect(")");
    } else if (r_.peek("-") || std::isdigit(static_cast<unsigned char>(r_.next()))) {
      const int64_t value = r_.integer();
      bounded(out.size = std::fabs(static_cast<double>(value)));
      out.index = Index(value);
    } else {
      const AxisId a = axis();
      out = {k_.coordinate(a), std::max(1.0, static_cast<double>(k_.axes[static_cast<size_t>(a)].extent))};
    }
    for (;;) {
      if (r_.accept("*")) {
        const int64_t factor = r_.integer();
        bounded(out.size *= std::max(1.0, std::fabs(static_cast<double>(factor))));
        out.index = out.index * factor;
      } else if (r_.accept("//")) {
        out.index = floor_div(out.index, divisor());
      } else if (r_.accept("%")) {
        const int64_t d = divisor();
        out = {floor_mod(out.index, d), std::max(out.size, static_cast<double>(d))};
      } else {
        return out;
      }
    }
  }
  void bounded(double size) const {
    if (!(size < 0x1p61)) r_.fail("an index that does not fit 64 bits");
  }
  int64_t divisor() {
    const int64_t d = r_.integer();
    if (d <= 0 || d > kMaxExtent) r_.fail("a divisor must be in [1, 2^40]");
    return d;
  }

  int scalar(ScalarExpr& e, const std::map<std::string, int>& lets, const std::vector<ValueId>* args, std::vector<int>& operands) {
    Reader::Level level(r_);
    ScalarNode n{ScalarNode::Kind::op, DType::f32};
    if (r_.peek("-") || std::isdigit(static_cast<unsigned char>(r_.next())) || r_.peek("inf") || r_.peek("nan")) {
      const std::string value = r_.until(':');
      r_.expect(":");
      n.kind = ScalarNode::Kind::constant;
      n.dtype = r_.dtype();
      Reader number(value, "<number>");
      n.constant = read_scalar(number, n.dtype);
      if (!number.at_end()) r_.fail(fmt::format("`{}` is no number", value));
    } else if (r_.accept("coord")) {
      n.kind = ScalarNode::Kind::coord;
      n.dtype = DType::i64;
      r_.expect("(");
      n.coord = index();
      r_.expect(")");
    } else if (r_.accept("symbol")) {
      n.kind = ScalarNode::Kind::symbol;
      n.dtype = DType::i64;
      r_.expect("<");
      n.constant = Scalar::of_int(DType::i64, r_.integer());
      r_.expect(">");
    } else if (r_.accept("random")) {
      n.kind = ScalarNode::Kind::random;
      n.dtype = DType::u32;
      r_.expect("<");
      n.operand = static_cast<int>(r_.integer());
      r_.expect(">");
      r_.expect("(");
      n.args = {scalar(e, lets, args, operands)};
      r_.expect(",");
      n.coord = index();
      r_.expect(")");
    } else {
      const std::string word = r_.word();
      if (const auto it = lets.find(word); it != lets.end()) return it->second;
      if (word.size() > 1 && word[0] == 'a' && word.find_first_not_of("0123456789", 1) == std::string::npos) {
        n.kind = ScalarNode::Kind::operand;
        if (word.size() > 5) r_.fail("an operand that is not given");
        n.operand = std::atoi(word.c_str() + 1);
        operands.push_back(static_cast<int>(e.size()));   // dtypes follow once the arguments are known
        e.push_back(n);
        return static_cast<int>(e.size() - 1);
      }
      const auto op = parse_op(word);
      if (!op || !means<Map>(*op)) r_.fail(fmt::format("`{}` is no elementwise op", word));
      n.op = *op;
      if (names_dtype(n.op)) {
        r_.expect("<");
        n.dtype = r_.dtype();
        r_.expect(">");
      }
      r_.expect("(");
      do n.args.push_back(scalar(e, lets, args, operands));
      while (r_.accept(","));
      r_.expect(")");
    }
    e.push_back(std::move(n));
    return static_cast<int>(e.size() - 1);
  }

  MapTile map(ValueId out) {
    MapTile m{out, {}, {}};
    std::map<std::string, int> lets;
    std::vector<int> operands;
    r_.expect("(");
    while (r_.accept("let")) {
      const std::string name = r_.word();
      r_.expect("=");
      lets[name] = scalar(m.expr, lets, nullptr, operands);
      r_.expect(";");
    }
    scalar(m.expr, lets, nullptr, operands);
    r_.expect(")");
    m.args = references();
    for (int o : operands) {
      ScalarNode& n = m.expr[static_cast<size_t>(o)];
      if (n.operand < 0 || static_cast<size_t>(n.operand) >= m.args.size()) r_.fail("an operand that is not given");
      n.dtype = k_.values[static_cast<size_t>(m.args[static_cast<size_t>(n.operand)])].dtype;
    }
    try {
      for (size_t i = 0; i < m.expr.size(); ++i)
        if (m.expr[i].kind == ScalarNode::Kind::op) m.expr[i].dtype = infer_scalar(m.expr, i);
    } catch (const Error& e) {
      r_.fail(e.what());
    }
    return m;
  }

  Block block(std::vector<ValueId>* yields) {
    Reader::Level level(r_);
    Block out;
    r_.expect("{");
    while (!r_.accept("}")) {
      if (yields && r_.accept("yield")) {
        do yields->push_back(reference());
        while (r_.accept(","));
      } else {
        out.push_back(stmt());
      }
    }
    return out;
  }

  std::vector<BoxIndex> box() {
    std::vector<BoxIndex> out;
    r_.expect("[");
    while (!r_.accept("]")) {
      if (!out.empty()) r_.expect(",");
      if (r_.peek("%")) out.push_back({Index(0), reference()});
      else out.push_back(index());
    }
    return out;
  }
  Stmt stmt() {
    if (r_.accept("each")) {
      Each e;
      e.axes = axis_list("(", ")");
      e.body = block(nullptr);
      return {std::move(e)};
    }
    if (r_.accept("store")) {
      Store s;
      s.stream = r_.accept("stream");
      s.buffer = buffer_reference();
      s.index = box();
      r_.expect("=");
      s.value = reference();
      return {std::move(s)};
    }
    if (phase_)
      if (auto s = in_role()) return std::move(*s);
    std::vector<std::pair<int64_t, Value>> outs;
    while (r_.accept("%")) {
      const int64_t name = r_.integer();
      r_.expect(":");
      outs.emplace_back(name, type());
      if (!r_.accept(",")) break;
    }
    if (!outs.empty()) r_.expect("=");
    if (r_.accept("seq")) return seq(outs);
    if (phase_ && r_.accept("past")) return past(outs);
    if (phase_ && r_.accept("get")) {
      Get get;
      channel(get.channel);
      for (auto& [name, value] : outs) get.outs.push_back(define(name, std::move(value)));
      return {InRole{std::move(get)}};
    }
    if (outs.size() != 1) r_.fail("expected a statement");
    const auto out = [&] { return define(outs[0].first, outs[0].second); };
    if (r_.accept("load")) {
      const bool ahead = r_.accept("ahead"), early = r_.accept("early");
      Load l{0, buffer_reference(), {}, ahead, early};
      l.index = box();
      l.out = out();
      return {std::move(l)};
    }
    if (r_.accept("map")) {
      const bool fast = r_.accept("fast");
      MapTile m = map(0);
      m.fast = fast;
      m.out = out();
      return {std::move(m)};
    }
    if (r_.accept("reduce")) {
      ReduceTile t;
      r_.expect("<");
      const auto op = parse_op(r_.word());
      if (!op || (*op != Op::add && *op != Op::mul && *op != Op::max && *op != Op::min)) r_.fail("reduce takes add, mul, max or min");
      t.combine = *op;
      r_.expect(">");
      do t.axes.push_back(axis());
      while (r_.accept(","));
      r_.expect("(");
      t.arg = reference();
      r_.expect(")");
      t.out = out();
      return {std::move(t)};
    }
    for (const bool total : {false, true})
      if (phase_ && r_.accept(total ? "total" : "slice")) {
        const ValueId arg = reference();
        return total ? Stmt{InRole{Total{out(), arg}}} : Stmt{InRole{Slice{out(), arg}}};
      }
    Mma m;
    m.issued = phase_ && r_.accept("issue");
    r_.expect("mma");
    r_.expect("[");
    const std::string precision = r_.word();
    size_t p = 0;
    while (p < std::size(kPrecisions) && precision != kPrecisions[p]) ++p;
    if (p == std::size(kPrecisions)) r_.fail("an unknown precision");
    m.precision = static_cast<Precision>(p);
    if (r_.accept(",")) {
      m.atom = r_.word();
      if (!m.issued) {
        r_.expect("x");
        m.stages = r_.integer();
        if (m.stages < 2 || m.stages > 16) r_.fail("a staged product has 2 to 16 stages");
      }
    }
    r_.expect("]");
    do m.axes.push_back(axis());
    while (r_.accept(","));
    const std::vector<ValueId> args = references();
    if (args.size() != 3) r_.fail("mma takes three tiles");
    m.acc = args[0], m.a = args[1], m.b = args[2];
    m.out = out();
    return {std::move(m)};
  }

  Spread spread() {
    Spread s;
    const auto bits = [&](const char* word, int64_t& count, int64_t& at) {
      if (!r_.accept(word)) return;
      count = r_.integer();
      r_.expect("@");
      at = r_.integer();
    };
    bits("threads", s.threads, s.threads_at);
    bits("warps", s.warps, s.warps_at);
    if (r_.accept("vector")) s.vector = r_.integer();
    const auto power = [](int64_t n) { return n >= 1 && n <= 1024 && (n & (n - 1)) == 0; };
    if (!power(s.threads) || !power(s.warps) || !power(s.vector) || s.threads_at < 0 || s.threads_at > 5 || s.warps_at < 0 || s.warps_at > 5)
      r_.fail("a spread wants powers of two up to 1024 and bits from 0 to 5");
    return s;
  }

  Stmt seq(const std::vector<std::pair<int64_t, Value>>& outs) {
    Seq q;
    q.axes = axis_list("(", ")");
    if (r_.accept("carry")) {
      r_.expect("(");
      do {
        r_.expect("%");
        const int64_t name = r_.integer();
        r_.expect(":");
        Value v = type();
        r_.expect("=");
        const DType dtype = v.dtype;
        const ValueId id = define(name, std::move(v));
        q.carries.push_back({id, read_scalar(r_, dtype)});
      } while (r_.accept(","));
      r_.expect(")");
    }
    q.body = block(&q.yields);
    if (q.yields.size() != q.carries.size() || outs.size() != q.carries.size()) r_.fail("a seq yields and gives one tile per carry");
    for (const auto& [name, value] : outs) q.outs.push_back(define(name, value));
    return {std::move(q)};
  }
  Stmt past(const std::vector<std::pair<int64_t, Value>>& outs) {
    Past p;
    p.axes = axis_list("(", ")");
    p.body = block(outs.empty() ? nullptr : &p.yields);
    if (r_.accept("else")) p.otherwise = block(outs.empty() ? nullptr : &p.others);
    if (p.yields.size() != outs.size() || p.others.size() != outs.size()) r_.fail("both blocks of a past yield its results");
    for (const auto& [name, value] : outs) p.outs.push_back(define(name, value));
    return {InRole{std::move(p)}};
  }
  BufferId buffer_reference() {
    r_.expect("%");
    const auto it = buffers_.find(r_.word());
    if (it == buffers_.end()) r_.fail("a buffer that is not declared");
    return it->second;
  }
};

}  // namespace

Kernel parse_kernel(const std::string& text) { return Parser(text).run(); }

}  // namespace quern::tile
