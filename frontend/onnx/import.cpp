// The walk over a model's nodes: scopes of names, inlining, evaluation of what shapes depend on, the report. See import.h.
#include "frontend/onnx/import.h"

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {

static constexpr int64_t kConstantLimit = 64;        // elements of an initializer that is written into the graph
static constexpr int64_t kKnownLimit = 1 << 16;      // elements of a value evaluated at import
static constexpr int64_t kNodeLimit = 200'000;       // ONNX nodes, inlined and unrolled
static constexpr int kCallDepth = 32;

/// Names of one graph or function body; a graph inside a node sees the names around it.
struct Scope {
  const Scope* outer = nullptr;
  std::string path;                                        // of the nodes around it, for the report
  const std::vector<std::pair<std::string_view, int64_t>>* opsets = nullptr;
  std::span<const Attribute> arguments, defaults;          // of the function call
  std::map<std::string_view, Value> values;

  const Value* find(std::string_view name) const {
    for (const Scope* s = this; s; s = s->outer)
      if (const auto it = s->values.find(name); it != s->values.end()) return &it->second;
    return nullptr;
  }
};

class Importer {
 public:
  Importer(const ModelProto& model, const ImportOptions& options) : model_(model), options_(options) {
    const std::filesystem::path file(model.file);
    folder_ = file.has_parent_path() ? file.parent_path().string() : ".";
    for (const auto& table : {math_ops(), shape_ops(), index_ops(), reduce_ops(), norm_ops(), nn_ops(), control_ops(), quant_ops(), signal_ops(), window_ops(), scan_ops(), data_ops(), region_ops()})
      for (const OpEntry& e : table) QN_CHECK(table_.emplace(e.name, e.import).second, "an op is in one table");
  }
  Imported run();

  std::vector<Value> run_body(const GraphProto& graph, const Scope& outer, const std::string& path, const std::vector<Value>& arguments);
  const HostTensor* known(NodeId id);
  GraphBuilder& builder() { return builder_; }
  const ModelProto& model() const { return model_; }
  const std::string& folder() const { return folder_; }

 private:
  const ModelProto& model_;
  const ImportOptions& options_;
  std::string folder_;
  std::map<std::string, Handler, std::less<>> table_;
  GraphBuilder builder_;
  Imported out_;
  std::map<NodeId, size_t> weight_of_;                     // inputs that are weights
  std::map<NodeId, const HostTensor*> offered_;            // inputs with a value on offer
  std::unordered_map<NodeId, std::optional<HostTensor>> memo_;
  std::vector<std::pair<NodeId, uint32_t>> starts_;        // first graph node of a top-level ONNX node, its number
  std::set<std::string> names_;                            // of the Graph's inputs
  int depth_ = 0;

  void add_inputs(Scope& scope);
  void add_initializers(const GraphProto& graph, Scope& scope, bool top);
  void run_nodes(std::span<const NodeProto> nodes, Scope& scope, bool top);
  void run_node(const NodeProto& node, Scope& scope);
  void run_function(const FunctionProto& f, const NodeProto& node, Scope& scope);
  void report(const NodeProto& node, const Scope& scope, const std::string& reason, bool wrong);
  Graph finish();
  std::string input_name(std::string_view name);
  [[noreturn]] void bad(const std::string& what) const { throw Error(Code::bad_onnx, fmt::format("{}: {}", model_.file, what)).with_help("python3 -c \"import onnx; onnx.checker.check_model('m.onnx')\" says more"); }
};

// --- Call ---
Value Call::value(size_t i) const {
  if (i >= node.inputs.size() || node.inputs[i].empty()) return {Value::Kind::nothing, {}};
  const Value* v = scope_.find(node.inputs[i]);
  if (!v || v->kind == Value::Kind::missing) throw Depends{};
  return *v;
}
bool Call::has(size_t i) const { return value(i).kind != Value::Kind::nothing; }
Tensor Call::in(size_t i) const {
  const Value v = value(i);
  if (v.kind == Value::Kind::nothing) wrong(fmt::format("input {} is missing", i));
  if (v.kind == Value::Kind::sequence) unsupported(fmt::format("input {} is a sequence", i));
  return v.items[0];
}
Tensor Call::named(std::string_view name) const {
  const Value* v = scope_.find(name);
  want(v, fmt::format("\"{}\" is not defined before", name));
  if (v->kind == Value::Kind::missing) throw Depends{};
  want(v->kind == Value::Kind::tensor, fmt::format("\"{}\" is no tensor", name));
  return v->items[0];
}
void Call::out(Value v, size_t o) {
  if (wants(o)) scope_.values[node.outputs[o]] = std::move(v);
}
void Call::out(Tensor t, size_t o) { out(Value::of(t), o); }

// Attributes of a function's nodes may stand for the call's.
const Attribute* Call::find(std::string_view name) const {
  const Attribute* a = node.find(name);
  if (!a || a->ref.empty()) return a;
  for (const Scope* s = &scope_; s; s = s->outer)
    for (const auto& list : {s->arguments, s->defaults})
      for (const Attribute& b : list)
        if (b.name == a->ref) return &b;
  return nullptr;
}
int64_t Call::integer(std::string_view name, int64_t fallback) const {
  const Attribute* a = find(name);
  return a ? a->i : fallback;
}
double Call::real(std::string_view name, double fallback) const {
  const Attribute* a = find(name);
  return a ? a->f : fallback;
}
std::string Call::text(std::string_view name, const std::string& fallback) const {
  const Attribute* a = find(name);
  return a ? std::string(a->s) : fallback;
}
Shape Call::integers(std::string_view name) const {
  const Attribute* a = find(name);
  return a ? a->ints : Shape{};
}
HostTensor Call::tensor(const TensorProto& t) const {
  try {
    return to_host(t, importer_.model().file, importer_.folder());
  } catch (const Error& e) {
    if (e.code == Code::onnx_unsupported) unsupported(fmt::format("dtype {}", element_name(t.data_type)));
    throw;
  }
}
std::optional<HostTensor> Call::known_if(const Tensor& t) const {
  const HostTensor* v = importer_.known(t.id());
  return v ? std::optional(*v) : std::nullopt;
}
HostTensor Call::known(const Tensor& t, const std::string& what) const {
  if (const HostTensor* v = importer_.known(t.id())) return *v;
  unsupported(fmt::format("{} must be known when the model is imported", what));
}
Shape Call::known_integers(size_t i, const std::string& what) const {
  const HostTensor v = known(in(i), what);
  if (is_float(v.dtype) || v.shape.size() > 1) wrong(fmt::format("{} must be integers", what));
  Shape out;
  for (int64_t k = 0; k < v.size(); ++k) out.push_back(v.get(k).i);
  return out;
}
int64_t Call::known_integer(size_t i, const std::string& what) const {
  const Shape v = known_integers(i, what);
  if (v.size() != 1) wrong(fmt::format("{} must be one integer", what));
  return v[0];
}
double Call::known_number(const Tensor& t, const std::string& what) const {
  const HostTensor v = known(t, what);
  if (v.size() != 1) wrong(fmt::format("{} must be one number", what));
  return v.at(0);
}
Tensor Call::constant(HostTensor t) const { return {&importer_.builder(), importer_.builder().constant(std::move(t))}; }
Tensor Call::integers_tensor(const Shape& values) const {
  HostTensor t(DType::i64, {static_cast<int64_t>(values.size())});
  for (size_t k = 0; k < values.size(); ++k) t.set(static_cast<int64_t>(k), Scalar::of_int(DType::i64, values[k]));
  return constant(std::move(t));
}
Tensor Call::coordinates(DType dtype, Shape shape, int64_t axis) const { return iota(importer_.builder(), dtype, std::move(shape), axis); }
DType Call::dtype_of(int64_t element) const {
  const auto d = element_dtype(element);
  if (!d) unsupported(fmt::format("dtype {}", element_name(element)));
  return *d;
}
int64_t Call::axis(int64_t a, int64_t rank) const {
  if (a < -rank || a >= rank) wrong(fmt::format("axis {} of rank {}", a, rank));
  return a < 0 ? a + rank : a;
}
std::vector<Value> Call::body(std::string_view attribute, const std::vector<Value>& arguments) const {
  const Attribute* a = find(attribute);
  if (!a || a->bodies.size() != 1) wrong(fmt::format("no graph \"{}\"", attribute));
  return importer_.run_body(a->bodies[0], scope_, fmt::format("{}{}/{}/", scope_.path, node.name, attribute), arguments);
}
size_t Call::body_inputs(std::string_view attribute) const {
  const Attribute* a = find(attribute);
  return a && a->bodies.size() == 1 ? a->bodies[0].inputs.size() : 0;
}

// --- what is known at import ---
const HostTensor* Importer::known(NodeId id) {
  const Graph& g = builder_.graph();
  std::vector<NodeId> work = {id}, need;
  std::set<NodeId> seen;
  while (!work.empty()) {
    const NodeId n = work.back();
    work.pop_back();
    if (!seen.insert(n).second) continue;
    if (const auto it = memo_.find(n); it != memo_.end()) {
      if (!it->second) return nullptr;
      continue;
    }
    const Node& node = g.at(n);
    bool possible = node.type.results.empty() && !node.attrs.body && node.type.size() <= kKnownLimit;
    if (means<Contract>(node.op)) possible = possible && checked_mul(g.type(node.args[0]).size(), g.type(node.args[1]).size()) <= (1 << 24);
    if (node.op == Op::input) {
      if (const auto w = weight_of_.find(n); possible && w != weight_of_.end()) memo_[n] = out_.weights[w->second].second;
      else if (const auto o = offered_.find(n); possible && o != offered_.end()) {
        memo_[n] = *o->second;
        out_.used.insert(node.attrs.name);
      } else possible = false;
      if (possible) continue;
    }
    if (!possible) {
      memo_[n] = std::nullopt;
      return nullptr;
    }
    need.push_back(n);
    work.insert(work.end(), node.args.begin(), node.args.end());
  }
  std::sort(need.begin(), need.end());   // arguments have smaller ids
  for (NodeId n : need) {
    std::vector<const HostTensor*> args;
    for (NodeId a : g.at(n).args) args.push_back(&*memo_.at(a));
    memo_[n] = def_of(g.at(n).op).eval(g.at(n), args);
  }
  return &*memo_.at(id);
}

// --- the walk ---
void Importer::report(const NodeProto& node, const Scope& scope, const std::string& reason, bool wrong) {
  std::string name = scope.path + std::string(node.name);
  if (node.name.empty()) name += node.outputs.empty() ? "?" : "-> " + std::string(node.outputs[0]);
  out_.missing.push_back({name, (node.domain.empty() ? "" : std::string(node.domain) + ".") + std::string(node.op), reason, wrong});
}

// A name for an input of the Graph that prints and reads back, and that no other has.
std::string Importer::input_name(std::string_view name) {
  std::string out(name.substr(0, 200));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 32 || c == 127) c = '_';
  const std::string plain = out;
  for (int k = 1; !names_.insert(out).second; ++k) out = fmt::format("{}~{}", plain, k);
  return out;
}

void Importer::add_inputs(Scope& scope) {
  std::set<std::string_view> initialized;
  for (const TensorProto& t : model_.graph.initializers) initialized.insert(t.name);
  std::vector<std::string> unknown;
  for (const ValueInfo& v : model_.graph.inputs) {
    if (initialized.count(v.name)) continue;   // before IR version 4, every initializer was an input, too
    const std::string name(v.name);
    if (const auto b = options_.bound.find(name); b != options_.bound.end()) {
      scope.values[v.name] = Value::of({&builder_, builder_.constant(b->second)});
      continue;
    }
    const TypeProto* tensor = &v.type;
    while (!tensor->element.empty()) tensor = &tensor->element[0];
    Port port{name, v.type.kind, {}};
    const auto dtype = tensor->kind == TypeProto::Kind::tensor ? element_dtype(tensor->elem_type) : std::nullopt;
    if (!dtype) {
      out_.missing.push_back({name, "input", tensor->kind == TypeProto::Kind::tensor ? "dtype " + element_name(tensor->elem_type) : "a map or sparse tensor"});
      scope.values[v.name] = {};
      continue;
    }
    std::vector<Shape> shapes;
    if (const auto given = options_.shapes.find(name); given != options_.shapes.end()) {
      shapes = given->second;
    } else if (v.type.kind != TypeProto::Kind::tensor) {
      unknown.push_back(fmt::format("\"{}\" is a sequence or optional", name));
      continue;
    } else if (!tensor->shape) {
      unknown.push_back(fmt::format("\"{}\" has no shape (--input-shape {}=2,3)", name, name));
      continue;
    } else {
      Shape s;
      for (size_t d = 0; d < tensor->shape->size(); ++d) {
        const TypeProto::Dim& dim = (*tensor->shape)[d];
        const auto named = options_.dims.find(std::string(dim.param));
        if (dim.value) s.push_back(*dim.value);
        else if (named != options_.dims.end()) s.push_back(named->second);
        else if (dim.param.empty()) unknown.push_back(fmt::format("\"{}\" dim {} (--input-shape {}=2,3)", name, d, name));
        else unknown.push_back(fmt::format("\"{}\" dim {} is \"{}\" (--dim {}=8)", name, d, dim.param, dim.param));
      }
      if (s.size() != tensor->shape->size()) continue;
      shapes = {s};
    }
    Value value{v.type.kind == TypeProto::Kind::sequence || (v.type.kind == TypeProto::Kind::optional && !v.type.element.empty() && v.type.element[0].kind == TypeProto::Kind::sequence)
                    ? Value::Kind::sequence
                    : shapes.empty() ? Value::Kind::nothing : Value::Kind::tensor,
                {}};
    for (size_t k = 0; k < shapes.size(); ++k) {
      port.names.push_back(input_name(value.kind == Value::Kind::tensor ? name : fmt::format("{}.{}", name, k)));
      const NodeId id = builder_.input(port.names.back(), {*dtype, shapes[k], {}});
      value.items.push_back({&builder_, id});
      if (const auto o = options_.offered.find(name); o != options_.offered.end() && value.kind == Value::Kind::tensor) {
        QN_CHECK(o->second.dtype == *dtype && o->second.shape == shapes[k], "an offered value fits its input");
        offered_[id] = &o->second;
      }
    }
    scope.values[v.name] = std::move(value);
    out_.inputs.push_back(std::move(port));
  }
  if (!unknown.empty()) throw Error(Code::unknown_extent, fmt::format("{}: extents that are not known: {}", model_.file, fmt::join(unknown, "; "))).with_help("give them: --dim NAME=N, --input-shape NAME=2,3 or --bind NAME=FILE.npy");
}

void Importer::add_initializers(const GraphProto& graph, Scope& scope, bool top) {
  if (graph.sparse_initializers) out_.missing.push_back({scope.path + "sparse_initializer", "initializer", "sparse tensors"});
  for (const TensorProto& t : graph.initializers) {
    if (t.name.empty()) bad("an initializer without a name");
    if (scope.values.count(t.name)) bad(fmt::format("\"{}\" is defined twice", t.name));
    if (!element_dtype(t.data_type)) {
      out_.missing.push_back({scope.path + std::string(t.name), "initializer", "dtype " + element_name(t.data_type)});
      scope.values[t.name] = {};
      continue;
    }
    HostTensor value = to_host(t, model_.file, folder_);
    NodeId id;
    if (!top || value.size() <= kConstantLimit) {
      id = builder_.constant(std::move(value));
    } else {
      id = builder_.input(input_name(t.name), {value.dtype, value.shape, {}});
      weight_of_[id] = out_.weights.size();
      out_.weights.emplace_back(builder_.graph().at(id).attrs.name, std::move(value));
    }
    scope.values[t.name] = Value::of({&builder_, id});
  }
}

void Importer::run_nodes(std::span<const NodeProto> nodes, Scope& scope, bool top) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (++out_.nodes > kNodeLimit) throw Error(Code::onnx_unsupported, fmt::format("{}: more than {} nodes after inlining and unrolling", model_.file, kNodeLimit)).with_help("import a smaller model, or one with shorter loops");
    if (top) starts_.emplace_back(static_cast<NodeId>(builder_.graph().nodes.size()), static_cast<uint32_t>(i + 1));
    const NodeProto& node = nodes[i];
    for (std::string_view name : node.inputs)
      if (!name.empty() && !scope.find(name)) bad(fmt::format("node {} \"{}\" ({}) uses \"{}\", which is not defined before", i + 1, node.name, node.op, name));
    for (std::string_view name : node.outputs) {
      if (name.empty()) continue;
      if (scope.values.count(name)) bad(fmt::format("node {} \"{}\" ({}) defines \"{}\" again", i + 1, node.name, node.op, name));
      scope.values[name] = {};
    }
    run_node(node, scope);
  }
}

void Importer::run_node(const NodeProto& node, Scope& scope) {
  for (const FunctionProto& f : model_.functions)
    if (f.name == node.op && f.domain == node.domain && f.overload == node.overload) return run_function(f, node, scope);
  int64_t opset = 0;
  for (const auto& [domain, version] : *scope.opsets)
    if (domain == node.domain) opset = version;
  const std::string key = (node.domain.empty() ? "" : std::string(node.domain) + ".") + std::string(node.op);
  const auto handler = table_.find(key);
  if (handler == table_.end()) return report(node, scope, "no such op in Quern's importer", false);
  if (opset < 1 && !node.domain.empty()) opset = 1;
  if (opset < 1 || (node.domain.empty() && opset > 28)) return report(node, scope, opset < 1 ? "the model imports no opset of ai.onnx" : fmt::format("opset {}; 1 to 28 are read", opset), false);
  Call call(*this, scope, node, opset);
  try {
    handler->second(call);
  } catch (const Unsupported& u) {
    report(node, scope, u.reason, u.wrong);
  } catch (const Depends&) {   // reported where it went missing
  } catch (const std::out_of_range&) {   // of shape().at()
    report(node, scope, "an operand has fewer dims than the op wants", true);
  } catch (const Error& e) {
    if (e.kind != ErrorKind::compile && e.kind != ErrorKind::memory) throw;
    const bool limit = e.code == Code::dtype_unsupported || e.code == Code::too_large || e.code == Code::index_dtype || e.kind == ErrorKind::memory;
    report(node, scope, e.message, !limit);
  }
}

void Importer::run_function(const FunctionProto& f, const NodeProto& node, Scope& scope) {
  if (depth_ == kCallDepth) bad(fmt::format("functions call each other more than {} deep, \"{}\" among them", kCallDepth, f.name));
  const Call call(*this, scope, node, 0);
  Scope inner;
  inner.path = fmt::format("{}{}/", scope.path, node.name.empty() ? node.op : node.name);
  inner.opsets = f.opsets.empty() ? scope.opsets : &f.opsets;
  std::vector<Attribute> arguments = node.attributes;
  for (Attribute& a : arguments)
    if (const Attribute* meant = call.find(a.name); meant && meant != node.find(a.name)) {
      const std::string_view name = a.name;
      a = *meant;
      a.name = name;
    }
  inner.arguments = arguments;
  inner.defaults = f.defaults;
  for (size_t i = 0; i < f.inputs.size(); ++i) {
    Value v{Value::Kind::nothing, {}};
    if (i < node.inputs.size() && !node.inputs[i].empty()) v = *scope.find(node.inputs[i]);
    inner.values[f.inputs[i]] = std::move(v);
  }
  ++depth_;
  run_nodes(f.nodes, inner, false);
  --depth_;
  for (size_t o = 0; o < f.outputs.size() && o < node.outputs.size(); ++o) {
    const Value* v = inner.find(f.outputs[o]);
    if (!v) bad(fmt::format("function \"{}\" does not define its output \"{}\"", f.name, f.outputs[o]));
    if (!node.outputs[o].empty()) scope.values[node.outputs[o]] = *v;
  }
}

std::vector<Value> Importer::run_body(const GraphProto& graph, const Scope& outer, const std::string& path, const std::vector<Value>& arguments) {
  Scope inner;
  inner.outer = &outer;
  inner.path = path;
  inner.opsets = outer.opsets;
  if (arguments.size() != graph.inputs.size()) throw Unsupported{fmt::format("a body of {} inputs gets {}", graph.inputs.size(), arguments.size()), true};
  for (size_t i = 0; i < arguments.size(); ++i) inner.values[graph.inputs[i].name] = arguments[i];
  if (depth_ == kCallDepth) bad("graphs inside nodes are nested too deep");
  ++depth_;
  add_initializers(graph, inner, false);
  const size_t before = out_.missing.size();
  run_nodes(graph.nodes, inner, false);
  --depth_;
  std::vector<Value> out;
  for (const ValueInfo& o : graph.outputs) {
    const Value* v = inner.find(o.name);
    if (!v) bad(fmt::format("{}: the output \"{}\" is not defined", path, o.name));
    out.push_back(*v);
  }
  if (out_.missing.size() > before) throw Depends{};
  return out;
}

// Sources are ONNX nodes by number: m.onnx:12 is the twelfth node. Weights that nothing needs at run time go.
Graph Importer::finish() {
  Graph g = builder_.finish();
  const std::string name = std::filesystem::path(model_.file).filename().string();
  std::vector<SourceId> source(g.nodes.size());
  g.sources = {{}};
  for (size_t s = 0; s < starts_.size(); ++s) {
    const size_t end = s + 1 < starts_.size() ? static_cast<size_t>(starts_[s + 1].first) : g.nodes.size();
    if (static_cast<size_t>(starts_[s].first) == end) continue;
    g.sources.push_back({name, starts_[s].second, 0});
    for (size_t n = static_cast<size_t>(starts_[s].first); n < end; ++n) source[n] = static_cast<SourceId>(g.sources.size() - 1);
  }
  std::vector<char> live(g.nodes.size());
  for (NodeId r : g.roots()) live[static_cast<size_t>(r)] = 1;
  for (size_t n = g.nodes.size(); n-- > 0;) {
    g.nodes[n].source = source[n];
    if (live[n])
      for (NodeId a : g.nodes[n].args) live[static_cast<size_t>(a)] = 1;
  }
  NamedTensors weights;
  std::erase_if(g.inputs, [&](NodeId i) {
    const auto w = weight_of_.find(i);
    if (w == weight_of_.end()) return false;
    if (!live[static_cast<size_t>(i)]) return true;
    weights.push_back(std::move(out_.weights[w->second]));
    g.states.push_back({weights.back().first, i, i});
    return false;
  });
  out_.weights = std::move(weights);
  return dead_code(g);
}

Imported Importer::run() {
  Scope scope;
  scope.opsets = &model_.opsets;
  add_inputs(scope);
  add_initializers(model_.graph, scope, true);
  run_nodes(model_.graph.nodes, scope, true);
  std::set<std::string_view> seen;
  for (const ValueInfo& o : model_.graph.outputs) {
    const Value* v = scope.find(o.name);
    if (!v) bad(fmt::format("the output \"{}\" is not defined", o.name));
    if (!seen.insert(o.name).second) bad(fmt::format("two outputs \"{}\"", o.name));
    if (v->kind == Value::Kind::missing) continue;
    Port port{std::string(o.name), v->kind == Value::Kind::tensor ? TypeProto::Kind::tensor : v->kind == Value::Kind::sequence ? TypeProto::Kind::sequence : TypeProto::Kind::optional, {}};
    for (size_t k = 0; k < v->items.size(); ++k) {
      port.names.push_back(v->kind == Value::Kind::sequence ? fmt::format("{}.{}", o.name, k) : port.name);
      builder_.output(port.names.back(), v->items[k].id());
    }
    out_.outputs.push_back(std::move(port));
  }
  if (out_.missing.empty()) out_.graph = finish();
  return std::move(out_);
}

Imported import_model(const ModelProto& model, const ImportOptions& options) { return Importer(model, options).run(); }

Error missing_error(const std::string& file, const std::vector<Missing>& missing) {
  Error e(Code::onnx_unsupported, fmt::format("{}: {} node{} cannot be imported", file, missing.size(), missing.size() == 1 ? "" : "s"));
  for (size_t i = 0; i < missing.size() && i < 100; ++i) e.with_note(fmt::format("{} \"{}\": {}", missing[i].op, missing[i].node, missing[i].reason));
  if (missing.size() > 100) e.with_note(fmt::format("and {} more", missing.size() - 100));
  if (std::any_of(missing.begin(), missing.end(), [](const Missing& m) { return m.reason.find("must be known") != std::string::npos; }))
    return e.with_help("what shapes depend on can be given: --bind NAME=FILE.npy, --input-shape NAME=2,3; other nodes must be replaced in the model");
  if (std::any_of(missing.begin(), missing.end(), [](const Missing& m) { return m.wrong; }))
    return e.with_help("the model, or an --input-shape, breaks a rule of the op; python3 -c \"import onnx; onnx.shape_inference.infer_shapes(onnx.load('m.onnx'), strict_mode=True)\" says more");
  return e.with_help("replace these nodes in the model, or export it with another opset");
}

Imported import_file(const std::string& path, const ImportOptions& options) {
  Imported out = import_model(load_model(path), options);
  if (!out.missing.empty()) throw missing_error(path, out.missing);
  return out;
}

}  // namespace quern::onnx
