// Printing and parsing graphs; see text.h and the head of graph.h.
#include "ir/text.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/op.h"
#include "ir/support/reader.h"
#include "ir/support/suggest.h"
#include "ir/symbol.h"

namespace quern {
namespace {

constexpr const char* kTransforms[] = {"none", "vjp", "vmap", "kernel", "jvp", "checkpoint"};

void print_graph(const Graph& graph, const std::string& indent, std::string& out);

struct AttrPrinter {
  std::string& out;
  const std::string& indent;
  bool first = true;
  void name(const char* key) {
    out += first ? " {" : ", ";
    out += key;
    out += "=";
    first = false;
  }
  void operator()(const char* key, const Shape& v) {
    if (v.empty()) return;
    name(key);
    out += "[" + shape_text(v) + "]";
  }
  void operator()(const char* key, const std::string& v) {
    if (v.empty()) return;
    name(key);
    out += quote(v);
  }
  void operator()(const char* key, const std::vector<DType>& v) {
    if (v.empty()) return;
    name(key);
    out += name_of(v[0]);
  }
  void operator()(const char* key, Transform v) {
    if (v == Transform::none) return;
    name(key);
    out += kTransforms[static_cast<int>(v)];
  }
  void operator()(const char* key, const std::shared_ptr<const HostTensor>& v) {
    if (!v) return;
    name(key);
    out += to_string(Type{v->dtype, v->shape, {}}) + " ";
    const int64_t n = v->size();
    bool splat = n > 1;
    for (int64_t i = 1; i < n && splat; ++i) splat = v->get(i) == v->get(0);
    if (splat) {
      out += "splat " + number_text(v->get(0));
      return;
    }
    out += "[";
    for (int64_t i = 0; i < n; ++i) out += (i ? ", " : "") + number_text(v->get(i));
    out += "]";
  }
  void operator()(const char* key, const std::shared_ptr<const Graph>& v) {
    if (!v) return;
    name(key);
    print_graph(*v, indent + "  ", out);
  }
};

void print_graph(const Graph& graph, const std::string& indent, std::string& out) {
  out += "graph (";
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const NodeId id = graph.inputs[i];
    const SourceLoc where = graph.where(id);
    out += fmt::format("{}%{}: {} {}", i ? ", " : "", id, to_string(graph.type(id)), quote(graph.at(id).attrs.name));
    if (where.line) out += " @ " + quote(to_string(where));
  }
  out += ") {\n";
  if (graph.symbol) out += fmt::format("{}  symbol {} {} {}\n", indent, quote(graph.symbol->name), graph.symbol->low, graph.symbol->high);
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& n = graph.nodes[i];
    if (n.op == Op::input) continue;
    out += fmt::format("{}  %{} = {}", indent, i, name_of(n.op));
    for (size_t a = 0; a < n.args.size(); ++a) out += fmt::format("{}%{}", a ? ", " : " ", n.args[a]);
    AttrPrinter printer{out, indent};
    const_cast<Attrs&>(n.attrs).fields(printer);
    if (!printer.first) out += "}";
    out += " : " + to_string(n.type);
    const SourceLoc where = graph.where(static_cast<NodeId>(i));
    if (where.line) out += " @ " + quote(to_string(where));
    out += "\n";
  }
  for (const NamedOutput& o : graph.outputs) out += fmt::format("{}  output {} %{}\n", indent, quote(o.name), o.node);
  for (const State& s : graph.states) out += fmt::format("{}  state {} %{} -> %{}\n", indent, quote(s.name), s.input, s.output);
  out += indent + "}";
}

// --- parsing ---

Type read_type(Reader& r) {
  Reader::Level level(r);
  Type t;
  if (r.accept("{")) {
    do t.results.push_back(read_type(r));
    while (r.accept(","));
    r.expect("}");
    return t;
  }
  t.dtype = r.dtype();
  t.shape = r.integers(kSymbol);
  if (t.rank() > kMaxRank) r.fail(Code::text_limits, "rank above 10", "reshape to join axes");
  for (int64_t d : t.shape)
    if (d < 0 || (d > kMaxExtent && !is_symbolic(d))) r.fail(Code::text_limits, "an extent outside [0, 2^40]", "use a smaller shape");
  t.bytes();   // throws where it overflows
  return t;
}

SourceLoc read_source(Reader& r) {
  if (!r.accept("@")) return {};
  const std::string text = r.quoted();
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) r.fail("a source is \"file:line\"");
  return {text.substr(0, colon), static_cast<uint32_t>(std::strtoul(text.c_str() + colon + 1, nullptr, 10))};
}

Graph read_graph(Reader& r);

struct AttrReader {
  Reader& r;
  const std::string& key;
  bool found = false;
  std::vector<std::string> names = {};
  bool mine(const char* name) {
    names.push_back(name);
    if (key != name) return false;
    return found = true;
  }
  void operator()(const char* name, Shape& v) {
    if (mine(name)) v = r.integers(kSymbol);
  }
  void operator()(const char* name, std::string& v) {
    if (mine(name)) v = r.quoted();
  }
  void operator()(const char* name, std::vector<DType>& v) {
    if (mine(name)) v = {r.dtype()};
  }
  void operator()(const char* name, Transform& v) {
    if (!mine(name)) return;
    const std::string word = r.word();
    for (size_t i = 0; i < std::size(kTransforms); ++i)
      if (word == kTransforms[i]) {
        v = static_cast<Transform>(i);
        return;
      }
    r.fail(Code::unknown_word, fmt::format("`{}` is no transform", word), "transforms are none, vjp, jvp, vmap, checkpoint and kernel");
  }
  void operator()(const char* name, std::shared_ptr<const HostTensor>& v) {
    if (!mine(name)) return;
    const Type t = read_type(r);
    if (t.bytes() > (int64_t{1} << 30)) r.fail(Code::text_limits, "a constant above 1 GiB", "pass it as an input");
    if (r.accept("splat")) {
      HostTensor one(t.dtype, {});
      const Scalar value = read_scalar(r, t.dtype);
      HostTensor out(t.dtype, t.shape);
      for (int64_t i = 0; i < out.size(); ++i) out.set(i, value);
      v = std::make_shared<const HostTensor>(std::move(out));
      return;
    }
    std::vector<Scalar> values;
    r.expect("[");
    while (!r.accept("]")) {
      if (!values.empty()) r.expect(",");
      values.push_back(read_scalar(r, t.dtype));
      if (static_cast<int64_t>(values.size()) > t.size()) r.fail(Code::written_type, "more values than the shape has elements", "one value per element, or `splat` and one value");
    }
    if (static_cast<int64_t>(values.size()) != t.size()) r.fail(Code::written_type, "fewer values than the shape has elements", "one value per element, or `splat` and one value");
    HostTensor out(t.dtype, t.shape);
    for (size_t i = 0; i < values.size(); ++i) out.set(static_cast<int64_t>(i), values[i]);
    v = std::make_shared<const HostTensor>(std::move(out));
  }
  void operator()(const char* name, std::shared_ptr<const Graph>& v) {
    if (mine(name)) v = std::make_shared<const Graph>(read_graph(r));
  }
};

[[noreturn]] void fail_op(Reader& r, const std::string& name) {
  std::vector<std::string> ops;
  for (int o = 0; o < kOpCount; ++o) ops.emplace_back(name_of(static_cast<Op>(o)));
  r.fail(Code::unknown_word, fmt::format("`{}` is no op", name), suggestion(name, ops, "`quern ops` lists them"));
}

// Found by name from outside, so each may be there once. Bodies are called by position; their names are comments.
void want_distinct(const Graph& g, Reader& r) {
  const auto check = [&](const char* what, const auto& list, const auto& name_of_item) {
    std::set<std::string> seen;
    for (const auto& item : list) {
      const std::string& name = name_of_item(item);
      if (name.size() > 255) r.fail(Code::text_limits, fmt::format("the name of an {} is longer than 255 bytes", what), "use a shorter name");
      if (!seen.insert(name).second) r.fail(Code::duplicate_label, fmt::format("there are two {}s {}", what, quote(name)), "rename one of them");
    }
  };
  check("input", g.inputs, [&](NodeId id) -> const std::string& { return g.at(id).attrs.name; });
  check("output", g.outputs, [](const NamedOutput& o) -> const std::string& { return o.name; });
  check("state", g.states, [](const State& s) -> const std::string& { return s.name; });
}

// Bodies take their symbol from the graph around them.
void want_symbol(const Graph& g, Reader& r) {
  if (g.symbol || r.depth() > 1) return;
  for (const Node& n : g.nodes)
    if (is_symbolic(n.type.shape)) r.fail(Code::symbol_shape, fmt::format("{} needs a symbol", to_string(n.type)), "declare it on the first line of the graph: symbol \"batch\" 1 4096");
}

Graph read_graph(Reader& r) {
  Reader::Level level(r);
  GraphBuilder b;
  std::map<int64_t, NodeId> ids;
  // Inputs stand in the head, but get their nodes in the order of the numbers, where that is the head's: so the parsed graph
  // equals the printed.
  struct Pending {
    int64_t name;
    std::string label;
    Type type;
    SourceLoc where;
  };
  std::vector<Pending> head;
  const auto add_inputs = [&](int64_t limit) {
    for (const Pending& p : head)
      if (p.name < limit && !ids.count(p.name)) ids[p.name] = b.input(p.label, p.type, p.where);
  };
  const auto reference = [&] {
    const size_t at = r.position();
    r.expect("%");
    const int64_t name = r.integer();
    if (!ids.count(name)) add_inputs(name == INT64_MAX ? name : name + 1);
    const auto it = ids.find(name);
    if (it == ids.end()) r.fail_at(at, Code::undefined_value, fmt::format("%{} is a value that is not defined before", name), "define it in the head or on an earlier line");
    return it->second;
  };
  size_t statement = 0;   // where the current line or input begins
  const auto define = [&](int64_t name, NodeId id) {
    if (!ids.emplace(name, id).second) r.fail_at(statement, Code::defined_twice, fmt::format("%{} is defined twice", name), "give every value its own number");
  };
  const auto guarded = [&](const auto& build) {
    try {
      return build();
    } catch (Error& e) {   // a broken type rule: the file is bad, at this place
      if (e.kind == ErrorKind::bad_file || e.kind == ErrorKind::internal) throw;
      e.kind = ErrorKind::bad_file;
      e.move_to(r.place(statement));
      throw;
    }
  };
  r.expect("graph");
  r.expect("(");
  while (!r.accept(")")) {
    if (!head.empty()) r.expect(",");
    statement = r.position();
    r.expect("%");
    Pending p{r.integer(), {}, {}, {}};
    for (const Pending& other : head)
      if (other.name == p.name) r.fail(Code::defined_twice, fmt::format("%{} is defined twice", p.name), "give every value its own number");
    r.expect(":");
    p.type = guarded([&] { return read_type(r); });
    if (!p.type.results.empty()) r.fail(Code::written_type, "an input is one tensor", "write one input for every tensor");
    p.label = r.quoted();
    p.where = read_source(r);
    head.push_back(std::move(p));
  }
  std::vector<int64_t> order;
  for (const Pending& p : head) order.push_back(p.name);
  if (!std::is_sorted(order.begin(), order.end())) add_inputs(INT64_MAX);   // passes keep the nodes' order
  r.expect("{");
  while (!r.accept("}")) {
    statement = r.position();
    if (r.accept("symbol")) {
      Symbol symbol{r.quoted(), 0, 0};
      symbol.low = r.integer();
      symbol.high = r.integer();
      guarded([&] { return b.symbol(symbol), 0; });
    } else if (r.accept("output")) {
      const std::string name = r.quoted();
      b.output(name, reference());
      if (!b.type(b.graph().outputs.back().node).results.empty()) r.fail_at(statement, Code::written_type, "an output is one tensor", "take one with `result`");
    } else if (r.accept("state")) {
      const std::string name = r.quoted();
      const NodeId in = reference();
      r.expect("->");
      const NodeId out = reference();
      if (b.graph().at(in).op != Op::input || !(b.type(in) == b.type(out))) r.fail_at(statement, Code::bad_state, "a state is an input and a value of its type", fmt::format("write: state \"name\" %INPUT -> %VALUE; here {} and {}", to_string(b.type(in)), to_string(b.type(out))));
      b.state(name, in, out);
    } else {
      r.expect("%");
      const int64_t name = r.integer();
      r.expect("=");
      add_inputs(name == INT64_MAX ? name : name + 1);   // with an input of this name, which is then defined twice
      const std::string op_name = r.word();
      const auto op = parse_op(op_name);
      if (!op || *op == Op::input) fail_op(r, op_name);
      std::vector<NodeId> args;
      while (r.peek("%") || (!args.empty() && r.accept(","))) args.push_back(reference());
      Attrs attrs;
      if (r.accept("{")) {
        do {
          const size_t at = r.position();
          const std::string key = r.word();
          r.expect("=");
          AttrReader reader{r, key};
          guarded([&] {
            attrs.fields(reader);
            return 0;
          });
          if (!reader.found) r.fail_at(at, Code::unknown_word, fmt::format("`{}` is no attribute", key), suggestion(key, reader.names, "`quern dump mlp` shows ops with theirs"));
        } while (r.accept(","));
        r.expect("}");
      }
      r.expect(":");
      const Type type = guarded([&] { return read_type(r); });
      const SourceLoc where = read_source(r);
      for (NodeId a : args)
        if (*op != Op::result && !b.type(a).results.empty()) r.fail_at(statement, Code::written_type, "only `result` uses several results", "take one with `result`");
      const bool needs_body = means<Body>(*op) && *op != Op::result, needs_value = *op == Op::constant;
      if ((needs_body && !attrs.body) || (*op == Op::cond && !attrs.otherwise) || (needs_value && !attrs.value) || (*op == Op::result && (args.size() != 1 || attrs.index.size() != 1 || b.type(args[0]).results.empty())))
        r.fail_at(statement, Code::attribute_missing, fmt::format("`{}` lacks what it needs", op_name), "call, scan, while_loop and cond need body=, cond otherwise=, too, constant needs value=, result needs one of them and index=[i]");
      const NodeId id = guarded([&] { return b.add(*op, args, attrs, where); });
      if (!(b.type(id) == type)) r.fail_at(statement, Code::written_type, fmt::format("written as {}, but `{}` gives {}", to_string(type), op_name, to_string(b.type(id))), fmt::format("write {}", to_string(b.type(id))));
      define(name, id);
    }
  }
  add_inputs(INT64_MAX);
  Graph out = b.finish();
  want_symbol(out, r);
  out.inputs.clear();
  for (int64_t name : order) out.inputs.push_back(ids.at(name));
  return out;
}

}  // namespace

std::string to_string(const Graph& graph) {
  std::string out;
  print_graph(graph, "", out);
  return out + "\n";
}

Graph parse_graph(const std::string& text, const std::string& file) {
  Reader r(text, file);
  Graph g = read_graph(r);
  if (!r.at_end()) r.fail("text after the end of the graph");
  want_distinct(g, r);
  return g;
}

}  // namespace quern
