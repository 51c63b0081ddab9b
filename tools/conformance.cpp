// quern conformance onnx DIR: runs the cases below DIR that hold model.onnx and test_data_set_*/input_*.pb, output_*.pb,
// as ONNX's backend tests do, and compares with ONNX's own tolerances: |got - want| <= 1e-7 + 1e-3 |want|, for bf16
// 2^-6 |want|, NaN where NaN is wanted. Beyond them, only f32 results of the cases test_dft_inverse* may be off by 2^-24
// of their tensor's largest value: what they list is NumPy's f32 FFT, whose sums that should be 0 are off by a rounding
// of that value. What is let through so is counted. A case is unsupported where the importer says so; whatever else
// goes wrong fails.
//
// Programs of Quern have static shapes, so an input that shapes depend on (the shape of a Reshape, the ends of a Slice)
// is bound to the case's value when the model is imported, as ONNX's other static backends do; the report names them.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <regex>

#include <fmt/format.h>

#include "ir/interpret.h"
#include "runtime/jit.h"
#include "tools/commands.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string folder, device = "cpu", filter;
  PassArguments passes;
  JsonArgument json;
};

enum class State { passed, failed, unsupported };
constexpr const char* kStates[] = {"passed", "failed", "unsupported"};
struct Outcome {
  State state = State::passed;
  std::string reason;
  std::set<std::string> bound;
  bool rounding = false;   // a result was let through within 2^-24 of its tensor's largest value
};
struct Case {
  std::string name, op;
  fs::path folder;
  Outcome outcome;
};

// Every folder with a model and test data, by path.
std::vector<Case> find_cases(const std::string& folder) {
  std::vector<Case> out;
  std::error_code error, ignored;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename() == "model.onnx" && it->is_regular_file(ignored) && fs::is_directory(it->path().parent_path() / "test_data_set_0", ignored))
      out.push_back({it->path().parent_path().filename().string(), "", it->path().parent_path(), {}});
  if (error) throw Error(Code::cannot_read, fmt::format("{}: {}", folder, error.message())).with_help("name a folder of cases, each with model.onnx and test_data_set_0");
  std::sort(out.begin(), out.end(), [](const Case& a, const Case& b) { return a.folder < b.folder; });
  return out;
}

// "" where the tensor is as wanted.
std::string difference(const HostTensor& got, const onnx::TensorProto& want, const std::string& file, bool may_round, bool& rounding) {
  if (onnx::element_name(want.data_type) != name_of(got.dtype)) return fmt::format("{} instead of {}", name_of(got.dtype), onnx::element_name(want.data_type));
  if (got.shape != want.dims) return fmt::format("{} instead of {}", to_string(Type{got.dtype, got.shape, {}}), to_string(Type{got.dtype, want.dims, {}}));
  const HostTensor w = onnx::to_host(want, file, ".");
  const double relative = got.dtype == DType::bf16 ? 0x1p-6 : 1e-3;
  double most = 0;
  for (int64_t i = 0; i < w.size(); ++i)
    if (const double y = std::fabs(w.at(i)); std::isfinite(y)) most = std::max(most, y);
  for (int64_t i = 0; i < got.size(); ++i) {
    const double x = got.at(i), y = w.at(i);
    bool close = std::isnan(y) ? std::isnan(x) : std::isinf(y) ? x == y : std::fabs(x - y) <= 1e-7 + relative * std::fabs(y);
    if (!close && may_round && got.dtype == DType::f32 && std::fabs(x - y) <= 0x1p-24 * most) close = rounding = true;
    if (!close) return fmt::format("{:.9g} instead of {:.9g} at element {}", x, y, i);
  }
  return "";
}

std::string data_file(const fs::path& set, const char* kind, size_t i) { return (set / fmt::format("{}_{}.pb", kind, i)).string(); }

Outcome run_set(const onnx::ModelProto& model, const fs::path& set, bool may_round, Device* device, const CompileOptions& compile) {
  onnx::ImportOptions options;
  std::map<std::string, std::vector<HostTensor>> values;
  std::vector<onnx::PbValue> keep;
  for (size_t i = 0; i < model.graph.inputs.size(); ++i) {
    const onnx::ValueInfo& input = model.graph.inputs[i];
    const std::string file = data_file(set, "input", i), name(input.name);
    if (!fs::exists(file)) continue;   // of an initializer
    keep.push_back(onnx::load_value(file, input.type.kind));
    std::vector<Shape>& shapes = options.shapes[name];
    for (const onnx::TensorProto& t : keep.back().tensors) {
      shapes.push_back(t.dims);
      if (onnx::element_dtype(t.data_type)) values[name].push_back(onnx::to_host(t, file, "."));
    }
    if (input.type.kind == onnx::TypeProto::Kind::tensor && values[name].size() == 1) options.offered[name] = values[name][0];
  }
  const onnx::Imported imported = onnx::import_model(model, options);
  if (!imported.missing.empty()) {
    Outcome out{State::unsupported, "", {}};
    std::set<std::string> reasons;
    for (const onnx::Missing& m : imported.missing) {
      if (m.wrong) out.state = State::failed;
      reasons.insert(fmt::format("{}: {}", m.op, m.reason));
    }
    for (const std::string& r : reasons) out.reason += (out.reason.empty() ? "" : "; ") + r;
    return out;
  }
  std::map<std::string, HostTensor> by_name;
  for (const onnx::Port& p : imported.inputs)
    for (size_t k = 0; k < p.names.size(); ++k) by_name[p.names[k]] = values.at(p.name).at(k);
  for (const auto& [name, value] : imported.weights) by_name[name] = value;
  std::vector<HostTensor> inputs, all;
  const auto on_device = device ? jit(*device, imported.graph, compile) : nullptr;
  for (NodeId i : imported.graph.inputs) {
    all.push_back(by_name.at(imported.graph.at(i).attrs.name));
    const auto* state = imported.graph.state_of(i);
    if (state && on_device) on_device->set_state(state->name, all.back());
    else inputs.push_back(all.back());
  }
  PassContext context;
  const std::vector<HostTensor> got = on_device ? on_device->run(inputs) : interpret(expand(imported.graph, context), all);

  Outcome out{State::passed, "", imported.used, false};
  size_t next = 0;
  for (size_t o = 0; o < imported.outputs.size(); ++o) {
    const onnx::Port& port = imported.outputs[o];
    const std::string file = data_file(set, "output", o);
    const onnx::PbValue want = onnx::load_value(file, o < model.graph.outputs.size() ? model.graph.outputs[o].type.kind : port.kind);
    if (want.tensors.size() != port.names.size()) return {State::failed, fmt::format("output \"{}\" has {} tensors instead of {}", port.name, port.names.size(), want.tensors.size()), {}};
    for (const onnx::TensorProto& t : want.tensors)
      if (const std::string d = difference(got.at(next++), t, file, may_round, out.rounding); !d.empty()) return {State::failed, fmt::format("output \"{}\": {}", port.name, d), {}};
  }
  return out;
}

Outcome run_case(const Case& c, Device* device, const CompileOptions& compile, std::string& op) {
  try {
    const onnx::ModelProto model = onnx::load_model((c.folder / "model.onnx").string());
    if (model.graph.nodes.size() == 1) {
      const onnx::NodeProto& n = model.graph.nodes[0];
      op = (n.domain.empty() ? "" : std::string(n.domain) + ".") + std::string(n.op);
    }
    Outcome all;
    for (size_t set = 0; fs::is_directory(c.folder / fmt::format("test_data_set_{}", set)); ++set) {
      const Outcome one = run_set(model, c.folder / fmt::format("test_data_set_{}", set), c.name.starts_with("test_dft_inverse"), device, compile);
      if (one.state != State::passed) return one;
      all.bound.insert(one.bound.begin(), one.bound.end());
      all.rounding = all.rounding || one.rounding;
    }
    return all;
  } catch (const Error& e) {
    return {State::failed, fmt::format("{}: {}", to_string(e.code), e.message), {}};
  } catch (const std::out_of_range&) {
    return {State::failed, "the case's files do not fit its model", {}};
  }
}

// Cases of several nodes count to the op that their name begins with: test_celu_expanded to that of test_celu.
void name_ops(std::vector<Case>& cases) {
  std::map<std::string, std::string> known;
  for (const Case& c : cases)
    if (!c.op.empty()) known[c.name] = c.op;
  for (Case& c : cases) {
    if (!c.op.empty()) continue;
    const auto base = known.find(c.name.substr(0, c.name.find("_expanded")));
    c.op = base == known.end() ? "(several)" : base->second;
  }
}

void conformance(const Arguments& a) {
  std::regex filter;
  try {
    filter = std::regex(a.filter);
  } catch (const std::regex_error&) {
    throw Error(Code::bad_value, fmt::format("--filter {}: is no regular expression", a.filter)).with_help("e.g. --filter '^test_reduce'");
  }
  const std::unique_ptr<Device> device = a.device == "interpret" ? nullptr : open_device(a.device);
  const CompileOptions compile = device ? a.passes.options(device->target()) : CompileOptions{};
  std::vector<Case> cases = find_cases(a.folder);
  std::erase_if(cases, [&](const Case& c) { return !std::regex_search(c.name, filter); });
  if (cases.empty()) throw Error(Code::bad_value, fmt::format("{}: no case below it{}", a.folder, a.filter.empty() ? "" : " that --filter lets through")).with_help("a case is a folder with model.onnx and test_data_set_0");
  for (Case& c : cases) c.outcome = run_case(c, device.get(), compile, c.op);
  name_ops(cases);

  FILE* out = a.json.wants_stdout() ? stderr : stdout;
  std::map<std::string, std::array<int64_t, 3>> ops;
  std::array<int64_t, 3> total{};
  int64_t bound = 0, rounding = 0;
  Json rows = Json::array(), by_op = Json::object();
  for (const Case& c : cases) {
    const size_t s = static_cast<size_t>(c.outcome.state);
    ++ops[c.op][s];
    ++total[s];
    bound += !c.outcome.bound.empty();
    rounding += c.outcome.rounding;
    Json row = {{"case", c.name}, {"op", c.op}, {"state", kStates[s]}};
    if (!c.outcome.reason.empty()) row["reason"] = c.outcome.reason;
    if (!c.outcome.bound.empty()) row["bound"] = c.outcome.bound;
    if (c.outcome.rounding) row["rounding"] = true;
    rows.push_back(row);
  }
  fmt::print(out, "{:<36} {:>7} {:>7} {:>12}\n", "op", kStates[0], kStates[1], kStates[2]);
  for (const auto& [op, n] : ops) {
    fmt::print(out, "{:<36} {:>7} {:>7} {:>12}\n", op, n[0], n[1], n[2]);
    by_op[op] = {{kStates[0], n[0]}, {kStates[1], n[1]}, {kStates[2], n[2]}};
    std::map<std::string, int64_t> reasons;
    for (const Case& c : cases)
      if (c.op == op && c.outcome.state == State::unsupported) ++reasons[c.outcome.reason];
    for (const auto& [reason, times] : reasons) fmt::print(out, "    unsupported x{}: {}\n", times, reason);
    for (const Case& c : cases)
      if (c.op == op && c.outcome.state == State::failed) fmt::print(out, "    FAILED {}: {}\n", c.name, c.outcome.reason);
  }
  fmt::print(out, "{} cases on {}: {} passed ({:.1f} %; {} of them with inputs bound at import, {} within a rounding of the largest value), {} failed, {} unsupported\n", cases.size(), a.device, total[0], 100.0 * static_cast<double>(total[0]) / static_cast<double>(cases.size()), bound, rounding, total[1], total[2]);
  a.json.write({{"schema", 1}, {"folder", a.folder}, {"device", a.device}, {"passed", total[0]}, {"failed", total[1]}, {"unsupported", total[2]}, {"bound", bound}, {"rounding", rounding}, {"ops", by_op}, {"cases", rows}});
  if (total[1]) throw Error(Code::conformance_failed, fmt::format("{} of {} cases failed", total[1], cases.size())).with_help("--filter NAME runs one alone; --device interpret tells the importer from the compiler");
}

}  // namespace

void register_conformance(CLI::App& root) {
  auto a = std::make_shared<Arguments>();
  CLI::App* c = root.add_subcommand("conformance", "run other projects' test cases");
  c->require_subcommand(1);
  CLI::App* o = c->add_subcommand("onnx", "ONNX's backend test cases");
  o->add_option("folder", a->folder, "cases lie below it: model.onnx with test_data_set_0/input_0.pb, output_0.pb")->required();
  o->add_option("--device", a->device, "interpret, cpu[:ARCH], cuda[:N]")->capture_default_str();
  o->add_option("--filter", a->filter, "only cases whose name has a match of this regular expression");
  a->passes.add_to(*o);
  a->json.add_to(*o);
  o->footer("Tolerances are ONNX's own: |got - want| <= 1e-7 + 1e-3 |want|, for bf16 2^-6 |want|. One allowance is made beyond\n"
            "them: f32 results of test_dft_inverse* may be off by 2^-24 of the tensor's largest value, a rounding that the wanted\n"
            "values have themselves; the last line of the report counts the cases that need it.\n\nExamples:\n  quern conformance onnx node --device interpret\n  quern conformance onnx node --filter '^test_reduce' --json report.json");
  o->callback([a] { conformance(*a); });
}

}  // namespace quern
