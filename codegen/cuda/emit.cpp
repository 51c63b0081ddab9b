// Tile IR → CUDA C++, the first plan: every axis has tile 1, one thread is one grid instance, the last grid axis runs
// fastest over neighbouring threads. Correct for every verified kernel; products and row reductions are not tuned.
// Only generated identifiers reach the source.
#include <cmath>
#include <functional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "codegen/cuda/prelude.h"
#include "codegen/image.h"
#include "ir/support/hash.h"
#include "ir/support/overloaded.h"
#include "passes/tile/plan.h"

namespace quern {

// One thread per element: all tiles are 1, as lowered.
tile::Kernel plan_cuda(const tile::Kernel& kernel, const std::string&) { return kernel; }

namespace cuda {

using namespace tile;

namespace {

constexpr int64_t kThreads = 256;

class Emitter {
 public:
  explicit Emitter(const Kernel& kernel) : k_(kernel) {}

  std::string run(const std::string& name, int64_t instances) {
    std::string params;
    for (size_t b = 0; b < k_.buffers.size(); ++b) {
      const Buffer& buffer = k_.buffers[b];
      QN_CHECK(buffer.kind != BufferKind::scratch, "a CUDA kernel has no scratch yet");
      // Inputs and outputs may share memory (states in place): no __restrict__.
      params += fmt::format("{}{}{}* {}", b ? ", " : "", buffer.kind == BufferKind::in ? "const " : "", memory(buffer.dtype), buffer.name);
    }
    QN_CHECK(k_.phases.size() == 1, "a CUDA kernel has one phase");
    out_ = fmt::format("extern \"C\" __global__ void __launch_bounds__({}) {}({}) {{\n", kThreads, name, params);
    line(fmt::format("const i64 instance = (i64)blockIdx.x * {} + threadIdx.x;", kThreads));
    line(fmt::format("if (instance >= {}) return;", instances));
    std::string rest = "instance";
    for (size_t d = k_.phases[0].grid.size(); d-- > 0;) {
      const Axis& a = axis(k_.phases[0].grid[d]);
      line(fmt::format("const i64 {} = {};", a.name, d == 0 ? rest : fmt::format("({}) % {}", rest, a.extent)));
      if (d > 0) rest = fmt::format("({}) / {}", rest, a.extent);
    }
    block(k_.phases[0].body);
    return out_ + "}\n";
  }

 private:
  const Kernel& k_;
  std::string out_, indent_ = "  ";

  void line(const std::string& text) { out_ += indent_ + text + "\n"; }
  const Axis& axis(AxisId a) const { return k_.axes[static_cast<size_t>(a)]; }
  DType dtype(ValueId v) const { return k_.values[static_cast<size_t>(v)].dtype; }
  static const char* memory(DType d) {
    switch (d) {
      case DType::bf16: case DType::f16: return "u16";
      case DType::boolean: return "u8";
      default: return type(d);
    }
  }
  static const char* type(DType d) {
    switch (d) {
      case DType::f64: return "double";
      case DType::f32: case DType::bf16: case DType::f16: return "float";
      case DType::i64: return "i64";
      case DType::i32: return "int";
      case DType::u32: return "u32";
      case DType::u8: return "u8";
      case DType::boolean: return "bool";
    }
    return "";
  }
  static std::string from_memory(DType d, const std::string& x) {
    if (d == DType::bf16) return fmt::format("qn_from_bf16({})", x);
    if (d == DType::f16) return fmt::format("qn_from_f16({})", x);
    return d == DType::boolean ? fmt::format("({} != 0)", x) : x;
  }
  static std::string to_memory(DType d, const std::string& x) {
    if (d == DType::bf16) return fmt::format("qn_to_bf16({})", x);
    if (d == DType::f16) return fmt::format("qn_to_f16({})", x);
    return d == DType::boolean ? fmt::format("(u8)({})", x) : x;
  }
  static std::string rounded(DType d, const std::string& x) {
    if (d == DType::bf16) return fmt::format("qn_round_bf16({})", x);
    return d == DType::f16 ? fmt::format("qn_round_f16({})", x) : x;
  }
  static std::string constant(const Scalar& s) {
    if (!is_float(s.dtype)) {
      if (s.dtype == DType::i64) return fmt::format("(i64){}ull", static_cast<uint64_t>(s.i));
      return fmt::format("({}){}", type(s.dtype), s.dtype == DType::i32 ? fmt::format("({}u)", static_cast<uint32_t>(s.i)) : fmt::format("{}u", s.i));
    }
    const bool wide = s.dtype == DType::f64;
    if (std::isnan(s.f)) return wide ? "__longlong_as_double(0x7ff8000000000000ll)" : "__uint_as_float(0x7fc00000u)";
    if (std::isinf(s.f)) {
      if (wide) return s.f > 0 ? "__longlong_as_double(0x7ff0000000000000ll)" : "__longlong_as_double((i64)0xfff0000000000000ull)";
      return s.f > 0 ? "__uint_as_float(0x7f800000u)" : "__uint_as_float(0xff800000u)";
    }
    return wide ? fmt::format("({:a})", s.f) : fmt::format("({:a}f)", static_cast<float>(s.f));
  }
  std::string index(const Index& e) const {
    switch (e.kind()) {
      case Index::Kind::constant: return fmt::format("{}ll", e.value());
      case Index::Kind::axis: return axis(static_cast<AxisId>(e.value())).name;
      case Index::Kind::add: return fmt::format("({} + {})", index(e.left()), index(e.right()));
      case Index::Kind::mul: return fmt::format("{} * {}ll", index(e.left()), e.value());
      default: break;
    }
    const bool div = e.kind() == Index::Kind::div;
    if (e.left().low() >= 0) return fmt::format("(({}) {} {}ll)", index(e.left()), div ? "/" : "%", e.value());
    return fmt::format("{}({}, {}ll)", div ? "qn_floor_div" : "qn_floor_mod", index(e.left()), e.value());
  }

  // The flattened position and, where not proven, the condition that it exists.
  std::pair<std::string, std::string> place(const Buffer& b, const std::vector<BoxIndex>& box) const {
    const Shape strides = row_major(b.shape);
    std::string position = "0", inside;
    for (size_t d = 0; d < box.size(); ++d) {
      const std::string i = box[d].gather >= 0 ? fmt::format("(i64)v{}", box[d].gather) : index(box[d].index);
      if (box[d].gather >= 0 || box[d].index.low() < 0 || box[d].index.high() >= b.shape[d])
        inside += fmt::format("{}(u64)({}) < {}ull", inside.empty() ? "" : " && ", i, b.shape[d]);
      position += fmt::format(" + {} * {}ll", i, strides[d]);
    }
    return {position, inside};
  }

  void block(const Block& stmts) {
    for (const Stmt& s : stmts) std::visit([this](const auto& node) { statement(node); }, s.node);
  }
  void define(ValueId v, const std::string& value) { line(fmt::format("const {} v{} = {};", type(dtype(v)), v, value)); }

  void statement(const Load& l) {
    const Buffer& b = k_.buffers[static_cast<size_t>(l.buffer)];
    const auto [position, inside] = place(b, l.index);
    const std::string value = from_memory(b.dtype, fmt::format("{}[{}]", b.name, position));
    define(l.out, inside.empty() ? value : fmt::format("({}) ? {} : ({})0", inside, value, type(b.dtype)));
  }
  void statement(const Store& s) {
    const Buffer& b = k_.buffers[static_cast<size_t>(s.buffer)];
    std::vector<BoxIndex> box;
    for (const Index& e : s.index) box.push_back({e, -1});
    const auto [position, inside] = place(b, box);
    line(fmt::format("{}{}[{}] = {};", inside.empty() ? "" : fmt::format("if ({}) ", inside), b.name, position, to_memory(b.dtype, fmt::format("v{}", s.value))));
  }
  void statement(const MapTile& m) {
    std::vector<std::string> names;
    for (size_t i = 0; i < m.expr.size(); ++i) {
      const ScalarNode& n = m.expr[i];
      std::vector<std::string> args;
      for (int a : n.args) args.push_back(names[static_cast<size_t>(a)]);
      std::string value;
      switch (n.kind) {
        case ScalarNode::Kind::constant: names.push_back(constant(n.constant)); continue;
        case ScalarNode::Kind::operand: names.push_back(fmt::format("v{}", m.args[static_cast<size_t>(n.operand)])); continue;
        case ScalarNode::Kind::coord: value = fmt::format("(i64)({})", index(n.coord)); break;
        case ScalarNode::Kind::random: value = fmt::format("qn_philox({}, {}u, (u64)({}))", args[0], n.operand, index(n.coord)); break;
        case ScalarNode::Kind::op: value = apply(n.op, n.dtype, m.expr[static_cast<size_t>(n.args[n.op == Op::select ? 1 : 0])].dtype, args); break;
      }
      names.push_back(fmt::format("v{}_{}", m.out, i));
      line(fmt::format("const {} {} = {};", type(n.dtype), names.back(), value));
    }
    define(m.out, names.back());
  }
  static std::string apply(Op op, DType out, DType arg, const std::vector<std::string>& a) {
    switch (op) {
      case Op::cast: return cast(out, arg, a[0]);
      case Op::select: return fmt::format("{} ? {} : {}", a[0], a[1], a[2]);
      case Op::eq: return fmt::format("{} == {}", a[0], a[1]);
      case Op::ne: return fmt::format("{} != {}", a[0], a[1]);
      case Op::lt: return fmt::format("{} < {}", a[0], a[1]);
      case Op::le: return fmt::format("{} <= {}", a[0], a[1]);
      case Op::logical_and: return fmt::format("{} && {}", a[0], a[1]);
      case Op::logical_or: return fmt::format("{} || {}", a[0], a[1]);
      case Op::logical_not: return fmt::format("!{}", a[0]);
      case Op::mod:
        if (is_float(arg)) {   // each step rounds
          const std::string q = fmt::format("qn_floor({})", rounded(out, fmt::format("{} / {}", a[0], a[1])));
          return rounded(out, fmt::format("{} - {}", a[0], rounded(out, fmt::format("{} * {}", q, a[1]))));
        }
        break;
      default: break;
    }
    return rounded(out, fmt::format("qn_{}({})", quern::name_of(op), fmt::join(a, ", ")));
  }
  static std::string cast(DType to, DType from, const std::string& x) {
    if (to == from) return x;
    if (to == DType::boolean) return fmt::format("{} != 0", x);
    if (is_float(from) && !is_float(to)) return fmt::format("qn_to_{}({})", name_of(to), x);
    return rounded(to, fmt::format("({}){}", type(to), x));
  }
  void statement(const ReduceTile& r) { define(r.out, fmt::format("v{}", r.arg)); }   // a tile of one element
  void statement(const Mma& m) { define(m.out, fmt::format("qn_fma(v{}, v{}, v{})", m.a, m.b, m.acc)); }

  void loops(const std::vector<AxisId>& axes, const std::function<void()>& body) {
    const std::string indent = indent_;
    for (AxisId a : axes) {
      line(fmt::format("for (i64 {0} = 0; {0} < {1}; ++{0}) {{", axis(a).name, axis(a).extent));
      indent_ += "  ";
    }
    body();
    for (size_t i = 0; i < axes.size(); ++i) {
      indent_.resize(indent_.size() - 2);
      line("}");
    }
    indent_ = indent;
  }
  void statement(const Seq& q) {
    for (const Carry& c : q.carries) line(fmt::format("{} v{} = {};", type(c.init.dtype), c.var, constant(c.init)));
    loops(q.axes, [&] {
      block(q.body);
      for (size_t i = 0; i < q.carries.size(); ++i) line(fmt::format("v{} = v{};", q.carries[i].var, q.yields[i]));
    });
    for (size_t i = 0; i < q.outs.size(); ++i) define(q.outs[i], fmt::format("v{}", q.carries[i].var));
  }
  void statement(const Each& e) {
    loops(e.axes, [&] { block(e.body); });
  }
};

}  // namespace

KernelImage emit(const Kernel& kernel, const std::string&) {
  for (const Axis& a : kernel.axes) QN_CHECK(a.tile == 1, "the CUDA plan keeps tiles of 1");
  KernelImage image;
  image.name = "k_" + hash_hex(structure(kernel)).substr(0, 16);
  int64_t instances = 1;
  for (AxisId a : kernel.phases.at(0).grid) instances = checked_mul(instances, kernel.axes[static_cast<size_t>(a)].extent);
  image.grid = ceil_div(instances, kThreads);
  image.threads = kThreads;
  image.source = std::string(kPrelude) + Emitter(kernel).run(image.name, instances);
  return image;
}

}  // namespace cuda
}  // namespace quern
