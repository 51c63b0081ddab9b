// quern import: a model of another tool as a .qir file and its weights; and the options of every command that takes an
// ONNX model.
#include <charconv>
#include <memory>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "frontend/npy.h"
#include "ir/text.h"
#include "tools/commands.h"

namespace quern {
namespace {

std::pair<std::string, std::string> split(const char* flag, const std::string& word, const char* form, const char* example) {
  const size_t equals = word.rfind('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == word.size()) throw Error(Code::bad_value, fmt::format("{} {}: wants {}", flag, word, form)).with_help(example);
  return {word.substr(0, equals), word.substr(equals + 1)};
}
Shape extents(const char* flag, const std::string& word, std::string_view text, const char* example) {
  Shape out;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    int64_t v = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + comma, v);
    if (error != std::errc() || end != text.data() + comma || v < 0 || v > kMaxExtent || out.size() == kMaxRank) throw Error(Code::bad_value, fmt::format("{} {}: wants extents from 0 to 2^40, at most {}", flag, word, kMaxRank)).with_help(example);
    out.push_back(v);
    at = comma + 1;
  }
  return out;
}

struct Arguments {
  std::string model, out, weights;
  OnnxArguments onnx;
  JsonArgument json;
};

void import_onnx(const Arguments& a) {
  const onnx::ModelProto model = onnx::load_model(a.model);
  onnx::Imported imported = onnx::import_model(model, a.onnx.options());
  int64_t opset = 0, bytes = 0;
  for (const auto& [domain, version] : model.opsets)
    if (domain.empty()) opset = version;
  for (const onnx::TensorProto& t : model.graph.initializers)
    if (const auto d = onnx::element_dtype(t.data_type)) bytes += checked_mul(count(t.dims), size_of(*d));
  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "{}: opset {}, {} nodes, {} initializers ({:.1f} MB)\n", a.model, opset, imported.nodes, model.graph.initializers.size(), static_cast<double>(bytes) / 1e6);
  Json missing = Json::array();
  for (const onnx::Missing& m : imported.missing) missing.push_back({{"node", m.node}, {"op", m.op}, {"reason", m.reason}});
  Json report = {{"schema", 1}, {"model", a.model}, {"opset", opset}, {"nodes", imported.nodes}, {"missing", missing}};
  if (!imported.missing.empty()) {
    a.json.write(report);
    throw onnx::missing_error(a.model, imported.missing);
  }
  if (!imported.weights.empty() && a.weights.empty()) throw Error(Code::missing_argument, fmt::format("{} has {} weights of more than 64 elements: --weights is missing", a.model, imported.weights.size())).with_help("--weights w.safetensors writes them; `quern run m.qir --weights w.safetensors` reads them");
  std::vector<std::string> inputs, outputs;
  for (const onnx::Port& p : imported.inputs)
    for (const std::string& n : p.names) inputs.push_back(n);
  for (const NamedOutput& o : imported.graph.outputs) outputs.push_back(fmt::format("{} {}", o.name, to_string(imported.graph.type(o.node))));
  write_text(a.out, to_string(imported.graph));
  if (!a.weights.empty()) save_safetensors(a.weights, imported.weights);
  fmt::print(out, "inputs {}; outputs {}\nwrote {}: {} ops{}\n", fmt::join(inputs, ", "), fmt::join(outputs, ", "), a.out, imported.graph.nodes.size() - imported.graph.inputs.size(),
             a.weights.empty() ? "" : fmt::format(" and {}: {} tensors", a.weights, imported.weights.size()));
  report["inputs"] = inputs;
  report["outputs"] = outputs;
  report["ops"] = imported.graph.nodes.size() - imported.graph.inputs.size();
  report["weights"] = imported.weights.size();
  a.json.write(report);
}

}  // namespace

void OnnxArguments::add_to(CLI::App& command) {
  command.add_option("--dim", dims, "NAME=N: the extent of a named dim of an .onnx model; repeat for several")->allow_extra_args(false);
  command.add_option("--input-shape", shapes, "NAME=2,3: the shape of an input of an .onnx model")->allow_extra_args(false);
  command.add_option("--bind", bound, "NAME=FILE.npy: an input of an .onnx model that becomes a constant, as shapes depend on it")->allow_extra_args(false);
}

onnx::ImportOptions OnnxArguments::options() const {
  onnx::ImportOptions out;
  for (const std::string& w : dims) {
    const auto [name, text] = split("--dim", w, "NAME=N", "e.g. --dim batch=8");
    const Shape n = extents("--dim", w, text, "e.g. --dim batch=8");
    if (n.size() != 1) throw Error(Code::bad_value, fmt::format("--dim {}: wants one extent", w)).with_help("e.g. --dim batch=8");
    out.dims[name] = n[0];
  }
  for (const std::string& w : shapes) {
    const auto [name, text] = split("--input-shape", w, "NAME=2,3", "e.g. --input-shape x=8,3,224,224");
    out.shapes[name] = {extents("--input-shape", w, text, "e.g. --input-shape x=8,3,224,224")};
  }
  for (const std::string& w : bound) {
    const auto [name, file] = split("--bind", w, "NAME=FILE.npy", "e.g. --bind shape=shape.npy");
    out.bound[name] = load_npy(file);
  }
  return out;
}

void register_import(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("import", "a model of another tool as a .qir file and weights");
  c->require_subcommand(1);
  CLI::App* o = c->add_subcommand("onnx", "an ONNX model (opsets 1 to 28)");
  o->add_option("model", a->model, "an .onnx file; external data must lie in its folder or below")->required();
  add_output(*o, "-o,--output", a->out, "the .qir file, or - for standard output")->required();
  add_output(*o, "--weights", a->weights, "a .safetensors file for initializers of more than 64 elements");
  a->onnx.add_to(*o);
  a->json.add_to(*o);
  o->footer("Examples:\n  quern import onnx m.onnx -o m.qir --weights w.safetensors\n  quern import onnx m.onnx -o m.qir --weights w.safetensors --dim batch=8");
  o->callback([a] { import_onnx(*a); });
}

}  // namespace quern
