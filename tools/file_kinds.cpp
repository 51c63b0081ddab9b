// What `quern fuzz files` damages: small valid files of every kind, made here, with the reader of each and what is asked
// of a file that loads: graphs verify, print and parse back to themselves, packages run on the null device.
#include <algorithm>
#include <cstring>
#include <filesystem>

#include <unistd.h>

#include "codegen/plan_file.h"
#include "frontend/npy.h"
#include "frontend/npz.h"
#include "frontend/onnx/import.h"
#include "ir/support/file.h"
#include "ir/support/hash.h"
#include "ir/text.h"
#include "models/dataset.h"
#include "models/mlp.h"
#include "passes/pass.h"
#include "runtime/executable.h"
#include "tools/fuzz_files.h"
#include "tools/fuzz_graphs.h"
#include "tools/onnx_writer.h"
#include "tools/package.h"

namespace quern {
namespace {

std::string text_of(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }

// What a writer writes under a name.
template <class Writer>
std::string written(const char* name, Writer&& write) {
  const std::string path = (std::filesystem::temp_directory_path() / (std::string("quern-seed-") + std::to_string(::getpid()) + name)).string();
  write(path);
  const std::string out = text_of(read_bytes(path, 1 << 20));
  std::filesystem::remove(path);
  return out;
}

void check_graph(const Graph& graph) {
  verify(graph);
  const std::string text = to_string(graph);
  QN_CHECK(to_string(parse_graph(text)) == text, "a graph parses back to what it prints");   // a NaN prints as "nan", whatever its bits
}

NamedTensors tensors() {
  NamedTensors out = {{"weight", HostTensor::full(DType::f32, {3, 4}, 0.5)}, {"bias", HostTensor::full(DType::bf16, {4}, 1)}, {"", HostTensor(DType::i64, {})}, {"empty", HostTensor(DType::f64, {0, 7})}};
  out.emplace_back("mask", HostTensor::from(DType::boolean, {2}, {1, 0}));
  return out;
}

std::vector<Graph> graphs() {
  std::vector<Graph> out = {mlp_step({4, 3, {5}, 0}, 2, {}, 1).graph, mlp_step({4, 3, {5, 6}, 0.25}, {1, 8}, {.algorithm = Algorithm::adam}, 1).graph};
  std::mt19937_64 random(7);
  Coverage coverage;
  for (int i = 0; i < 12; ++i) out.push_back(random_graph(random, coverage));
  return out;
}

// One of every kind of step, and of slot; the machine code returns at once.
Program package() {
  const auto slot = [](SlotKind kind, DType dtype, Shape shape, std::string name = "", int64_t offset = 0, int64_t parent = -1) {
    Slot s{kind, dtype, std::move(shape), std::move(name), offset, 0, parent};
    if (kind == SlotKind::constant) s.value = HostTensor::full(dtype, s.shape, 1.5);
    return s;
  };
  Program p;
  p.target = {TargetKind::cpu, "avx2"};
  p.graph_text = "graph (%0: f32[2,3] \"x\", %1: i32[] \"step\") {\n  %2 = exp %0 : f32[2,3]\n  output \"y\" %2\n  state \"step\" %1 -> %1\n}\n";
  KernelImage image;
  image.name = "k0_exp";
  image.code = {0xc3, 0x90, 0x90};
  image.grid = 4, image.operands = 3, image.outputs = 1, image.scratch_bytes = 128;
  image.lines = "m.h:12";
  p.images = {image};
  p.slots = {slot(SlotKind::input, DType::f32, {2, 3}, "x"), slot(SlotKind::state, DType::i32, {}, "step"), slot(SlotKind::constant, DType::f32, {3}), slot(SlotKind::arena, DType::f32, {2, 3}),
             slot(SlotKind::arena, DType::boolean, {5}, "", 64), slot(SlotKind::output, DType::f32, {2, 3}, "y"), slot(SlotKind::output, DType::f32, {2}, "", 0, 5), slot(SlotKind::arena, DType::f32, {2}, "", 0, 3), slot(SlotKind::arena, DType::boolean, {}, "", 64),
             slot(SlotKind::kept, DType::i32, {}), slot(SlotKind::kept, DType::f32, {2})};
  Slot& moving = p.slots[7];   // the rows of another
  moving.loop = 0, moving.stride = 8, moving.step = 1, moving.entries = 3;
  p.inputs = {0}, p.states = {1}, p.outputs = {5};
  p.setup = {Copy{1, 9}, Launch{{0}, {2, 1, 10}}};
  p.steps = {Launch{{0}, {0, 2, 3}}, Copy{9, 1}, Launch{{0}, {3, 10, 6}}, Loop{0, 3, {Copy{7, 6}}}, While{8, {Copy{8, 8}}}, Branch{8, {Copy{4, 4}}, {Copy{6, 6}}}};
  p.loops = 1;
  p.arena_bytes = 128, p.lower_bound = 69;
  return p;
}
Program sized_package() {   // for several sizes, by two images
  Program p = package();
  p.graph_text = "graph (%0: f32[n,3] \"x\", %1: i32[] \"step\") {\n  symbol \"batch\" 1 8\n  %2 = exp %0 : f32[n,3]\n  output \"y\" %2\n  state \"step\" %1 -> %1\n}\n";
  p.slots.resize(6);
  p.setup.clear();
  for (int i : {0, 3, 5}) p.slots[static_cast<size_t>(i)].shape = {8, 3}, p.slots[static_cast<size_t>(i)].symbol = 1;
  p.slots[3].shape = {3, 8}, p.slots[3].along = 1;
  p.slots[4].offset = 128;
  p.arena_bytes = 192, p.size_high = 8, p.bounds = {2, 8};
  p.images = {p.images[0], p.images[0]};
  for (size_t i = 0; i < 2; ++i) p.images[i].symbol = 1, p.images[i].tile = 2, p.images[i].bound = p.bounds[i], p.images[i].grid = p.bounds[i] / 2;
  p.steps = {Launch{{0, 1}, {0, 2, 3}}, Launch{{0, 1}, {3, 4, 5}}, Loop{0, 8, {Copy{0, 5}}, 1, true}};
  return p;
}
// How many steps a run takes, up to many.
int64_t steps_of(const std::vector<Step>& steps) {
  constexpr int64_t kMany = 1 << 20;
  int64_t n = 0;
  for (const Step& s : steps) {
    if (const auto* l = std::get_if<Loop>(&s)) n += std::min(l->count, kMany) * steps_of(l->steps);
    else if (const auto* w = std::get_if<While>(&s)) n += steps_of(w->steps);
    else if (const auto* b = std::get_if<Branch>(&s)) n += steps_of(b->yes) + steps_of(b->no);
    n = std::min(n + 1, kMany);
  }
  return n;
}
void read_package(const std::string& path) {
  Graph graph;
  const Program p = load_package(path, &graph);
  check_graph(graph);
  if (planned_bytes(p, 1) > (1 << 22) || steps_of(p.setup) + steps_of(p.steps) > 1000) return;   // large or long to try
  std::string transcript;
  const auto device = open_device("null", &transcript);
  Executable e(*device, p);
  for (int64_t s : p.states) e.set_state(p.slots[static_cast<size_t>(s)].name, HostTensor(p.slots[static_cast<size_t>(s)].dtype, p.slots[static_cast<size_t>(s)].shape));
  for (size_t i = 0; i < p.inputs.size(); ++i) e.set_input(static_cast<int64_t>(i), HostTensor(p.slots[static_cast<size_t>(p.inputs[i])].dtype, p.slots[static_cast<size_t>(p.inputs[i])].shape));
  e.run();
}
void repair_package(std::string& bytes) {
  constexpr size_t kHead = 24, kChecksum = 16;
  if (bytes.size() <= kHead) return;
  const uint64_t checksum = hash64(std::string_view(bytes).substr(kHead));
  std::memcpy(bytes.data() + kChecksum, &checksum, 8);
}

// The length of the head, as far as one can be seen.
void repair_npy(std::string& bytes) {
  const size_t end = bytes.find('\n', 10);
  if (end == std::string::npos || end > 0xffff) return;
  bytes[8] = static_cast<char>(end - 9), bytes[9] = static_cast<char>((end - 9) >> 8);
}
void repair_safetensors(std::string& bytes) {
  size_t end = 8;
  for (int64_t depth = 0; end < bytes.size(); ++end) {
    depth += bytes[end] == '{' ? 1 : bytes[end] == '}' ? -1 : 0;
    if (depth == 0) break;
  }
  if (end >= bytes.size() || bytes[8] != '{') return;
  for (++end; end < bytes.size() && bytes[end] == ' ';) ++end;
  const uint64_t size = end - 8;
  std::memcpy(bytes.data(), &size, 8);
}

// Stored members' checksums, by the directory: a damaged .npy is met behind its sound archive.
void repair_archive(std::string& bytes) {
  std::vector<ZipMember> members;
  try {
    members = zip_members({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, "");
  } catch (const Error&) {
    return;
  }
  size_t at = 0;
  for (const ZipMember& m : members) {
    at = bytes.find(std::string("PK\x01\x02", 4), at);
    if (at == std::string::npos || at + 20 > bytes.size()) return;
    if (!m.deflated) {
      const uint32_t crc = zip_checksum(m.data);
      std::memcpy(bytes.data() + at + 16, &crc, 4);
    }
    ++at;
  }
}
void read_archive(const std::string& path) {
  const Npz archive(path);
  for (const std::string& name : archive.names()) archive.at(name);
}
// numpy.savez_compressed of a = arange(12.).reshape(3, 4) and b = True (NumPy 2.4).
constexpr std::string_view kDeflated(
    "PK\x03\x04-\x00\x00\x00\x08\x00\x00\x00!\x00T\x15\xa9\x66\xff\xff\xff\xff\xff\xff\xff\xff\x05\x00\x14\x00\x61.npy\x01\x00\x10\x00\xe0\x00\x00\x00"
    "\x00\x00\x00\x00\x66\x00\x00\x00\x00\x00\x00\x00\x9b\xec\x17\xea\x1b\x10\xc9\xc8P\xc6P\xad\x9e\x92Z\x9c\x5c\xa4n\xa5\xa0n\x93\x66\xa1\xae\xa3\xa0"
    "\x9e\x96_TR\x94\x98\x17\x9f_\x94\x92\x0a\x12wK\xcc)N\x05\x8a\x17g$\x16\xa4\x02\xf9\x1a\xc6:\x0a&\x9a:\x0a\xb5\x0a\x64\x03.\x06\x14\xf0\xc1\x1e"
    "\xcap\x80P\x1cPZ\x00J\x8b@i\x09(-\x03\xa5\x15\xa0\xb4\x12\x94V\x81\xd2j\x0e\x00PK\x03\x04-\x00\x00\x00\x08\x00\x00\x00!\x00\x82-\xf8\xd3\xff\xff"
    "\xff\xff\xff\xff\xff\xff\x05\x00\x14\x00\x62.npy\x01\x00\x10\x00\x81\x00\x00\x00\x00\x00\x00\x00\x43\x00\x00\x00\x00\x00\x00\x00\x9b\xec\x17\xea"
    "\x1b\x10\xc9\xc8P\xc6P\xad\x9e\x92Z\x9c\x5c\xa4n\xa5\xa0^\x93\x64\xa8\xae\xa3\xa0\x9e\x96_TR\x94\x98\x17\x9f_\x94\x92\x0a\x12wK\xcc)N\x05\x8a\x17"
    "g$\x16\xa4\x02\xf9\x1a\x9a:\x0a\xb5\x0a\x14\x01.F\x00PK\x01\x02-\x03-\x00\x00\x00\x08\x00\x00\x00!\x00T\x15\xa9\x66\x66\x00\x00\x00\xe0\x00\x00"
    "\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00\x61.npyPK\x01\x02-\x03-\x00\x00\x00\x08\x00\x00\x00!\x00\x82-\xf8"
    "\xd3\x43\x00\x00\x00\x81\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x9d\x00\x00\x00\x62.npyPK\x05\x06\x00\x00\x00\x00"
    "\x02\x00\x02\x00\x66\x00\x00\x00\x17\x01\x00\x00\x00\x00",
    403);

// --- ONNX ---
std::vector<std::string> models() {
  using namespace onnx_writer;
  const auto f32 = [](Shape shape) { return HostTensor::full(DType::f32, std::move(shape), 0.25); };
  const auto i64 = [](std::vector<double> v) { return HostTensor::from(DType::i64, {static_cast<int64_t>(v.size())}, v); };
  const auto text = [](const Pb& pb) { return text_of(pb.file()); };
  GraphParts dense, image, control, mixed;
  dense.nodes = {node("MatMul", {"x", "w"}, {"h"}), node("Add", {"h", "b"}, {"g"}), node("Relu", {"g"}, {"r"}), node("Softmax", {"r"}, {"y"}, {attribute("axis", int64_t{-1})})};
  dense.inputs = {value("x", 1, {2, 10})};
  dense.outputs = {value("y", 1, {2, 10})};
  dense.initializers = {tensor("w", f32({10, 10})), tensor("b", f32({10}))};
  image.nodes = {node("Conv", {"x", "k"}, {"c"}, {attribute("pads", std::vector<int64_t>{1, 1, 1, 1}), attribute("strides", std::vector<int64_t>{2, 2})}),
                 node("BatchNormalization", {"c", "s", "s", "s", "s"}, {"n"}, {attribute("epsilon", 1e-3f)}), node("MaxPool", {"n"}, {"p"}, {attribute("kernel_shape", std::vector<int64_t>{2, 2}), attribute("auto_pad", std::string("SAME_UPPER"))}),
                 node("Reshape", {"p", "to"}, {"f"}), node("Gemm", {"f", "g"}, {"y"}, {attribute("transB", int64_t{1}), attribute("alpha", 0.5f)})};
  image.inputs = {value("x", 1, {1, 2, 5, 5})};
  image.outputs = {value("y", 1, {1, 4})};
  image.initializers = {tensor("k", f32({3, 2, 3, 3})), tensor("s", f32({3})), tensor("to", i64({0, -1})), tensor("g", f32({4, 27}))};
  GraphParts body, then;
  body.nodes = {node("Add", {"sum", "x"}, {"next"}), node("Identity", {"go"}, {"still"}), node("ReduceSum", {"next"}, {"total"}, {attribute("keepdims", int64_t{0})})};
  body.inputs = {value("i", 7, {}), value("go", 9, {}), value("sum", 1, {3})};
  body.outputs = {value("still", 9, {}), value("next", 1, {3}), value("total", 1, {})};
  then.nodes = {node("Neg", {"x"}, {"t"})};
  then.outputs = {value("t", 1, {3})};
  control.nodes = {node("Loop", {"times", "", "x"}, {"last", "all"}, {graph_attribute("body", body.pb())}), node("If", {"which"}, {"y"}, {graph_attribute("then_branch", then.pb()), graph_attribute("else_branch", then.pb())})};
  control.inputs = {value("x", 1, {3})};
  control.outputs = {value("last", 1, {3}), value("all", 1, {4}), value("y", 1, {3})};
  control.initializers = {tensor("times", HostTensor::full(DType::i64, {}, 4)), tensor("which", HostTensor::full(DType::boolean, {}, 1))};
  const Pb twice = Pb().bytes(1, "Twice").bytes(4, "in").bytes(5, "out").message(7, node("Add", {"in", "in"}, {"out"})).message(9, opset("", 17)).bytes(10, "mine");
  Pb outside = Pb().number(1, 4).number(2, 1).bytes(8, "e").number(14, 1);
  outside.message(13, Pb().bytes(1, "location").bytes(2, "e.bin")).message(13, Pb().bytes(1, "offset").bytes(2, "8")).message(13, Pb().bytes(1, "length").bytes(2, "16"));
  mixed.nodes = {node("Slice", {"x", "from", "to", "axes", "steps"}, {"s"}), node("Concat", {"s", "e"}, {"c"}, {attribute("axis", int64_t{0})}), node("Twice", {"c"}, {"d"}, {}, "mine"), node("Unsqueeze", {"d", "axes"}, {"u"}),
                 node("Expand", {"u", "wide"}, {"w"}), node("Constant", {}, {"k"}, {attribute("value", f32({2}))}), node("Tile", {"k", "from"}, {"v"}), node("Range", {"zero", "four", "one"}, {"r"}), node("Cast", {"r"}, {"y"}, {attribute("to", int64_t{1})}),
                 node("Pad", {"d", "pads"}, {"p"}), node("TopK", {"d", "from"}, {"a", "i"}), node("OneHot", {"r", "four", "k"}, {"o"}), node("Einsum", {"w", "d"}, {"m"}, {attribute("equation", std::string("ij,j->i"))})};
  mixed.inputs = {value("x", 1, {6})};
  for (const char* name : {"w", "v", "y", "p", "a", "o", "m"}) mixed.outputs.push_back(value(name, 1, {}));
  const auto one = [](double v) { return HostTensor::full(DType::i64, {}, v); };
  mixed.initializers = {tensor("from", i64({1})), tensor("to", i64({5})), tensor("axes", i64({0})), tensor("steps", i64({2})), tensor("wide", i64({3, 6})), tensor("pads", i64({1, 2})), tensor("zero", one(0)), tensor("four", one(4)), tensor("one", one(1)), outside};
  return {text(model(dense)), text(model(image)), text(model(control)), text(model(mixed, 17, {twice}))};
}

// --- IDX ---
std::string big(std::initializer_list<uint32_t> numbers) {
  std::string out;
  for (uint32_t n : numbers)
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(n >> shift);
  return out;
}
// Such images as gzip makes them.
constexpr std::string_view kGzipped(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x63`\xe0`f```\x02\x62\x19\x10v\x18\x05\xa3`\x14\x8c\x82Q0\x0a\xb0\x00\x00\x9fZJ\x05\x30\x06\x00\x00",
    44);
std::string images() { return big({0x803, 2, 28, 28}) + std::string(2 * 784, '\x40'); }
std::string labels() { return big({0x801, 2}) + std::string("\x03\x07"); }

}  // namespace

std::vector<FileKind> file_kinds() {
  std::vector<FileKind> out;
  out.push_back({"onnx", "m.onnx", models(), [](const std::string& path) { check_graph(onnx::import_file(path, {}).graph); }, {}, {{"e.bin", std::string(24, '\0')}}, true});
  out.push_back({"safetensors", "w.safetensors", {written("w", [](const std::string& p) { save_safetensors(p, tensors()); }), written("w", [](const std::string& p) { save_safetensors(p, {}); })}, [](const std::string& path) { load_safetensors(path); }, repair_safetensors});
  FileKind npy{"npy", "x.npy", {}, [](const std::string& path) { load_npy(path); }, repair_npy};
  for (const auto& [name, tensor] : tensors()) npy.seeds.push_back(written("x", [&t = tensor](const std::string& p) { save_npy(p, t); }));
  out.push_back(npy);
  out.push_back({"npz", "x.npz", {written("x", [](const std::string& p) { save_npz(p, tensors()); }), std::string(kDeflated)}, read_archive, repair_archive});
  FileKind qir{"qir", "m.qir", {}, [](const std::string& path) {
                 const std::vector<uint8_t> bytes = read_file(path, int64_t{1} << 30);
                 check_graph(parse_graph(std::string(bytes.begin(), bytes.end()), path));
               }};
  for (const Graph& g : graphs()) qir.seeds.push_back(to_string(g));
  out.push_back(qir);
  out.push_back({"qpk", "p.qpk", {text_of(save_program(package())), text_of(save_program(sized_package()))}, read_package, repair_package});
  PlanFile plan{{TargetKind::cpu, "avx512"}, "here", {}, ""};
  for (char digit : {'a', 'b'}) plan.kernels.push_back({"k0_contract", std::string(32, digit), {{"rows", 8}, {"vectors", 3}}, "mma<f32> i2<784 by 2", 10, 9, 1.5, 2.5});
  out.push_back({"plan", "m.plan", {to_string(plan)}, [](const std::string& path) {
                   const PlanFile p = load_plan(path);
                   QN_CHECK(to_string(parse_plan(to_string(p), path)) == to_string(p), "a plan parses back to what it prints");
                 }});
  out.push_back({"idx", "train-images-idx3-ubyte", {images(), std::string(kGzipped)}, [](const std::string& path) { load_mnist(std::filesystem::path(path).parent_path().string()); }, {}, {{"train-labels-idx1-ubyte", labels()}, {"t10k-images-idx3-ubyte", images()}, {"t10k-labels-idx1-ubyte", labels()}}});
  return out;
}

}  // namespace quern
