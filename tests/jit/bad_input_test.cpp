// What users get wrong, through the command: every exit status of INTERFACE (1 mismatch, 2 usage, 3 bad file, 4 compile,
// 5 device, 6 memory) with its code and words that help; damaged packages and caches, full disks, missing tools. The
// codes written here as Q… are counted by tests/fast/error_corpus_test.cpp.
#include <algorithm>
#include <cstring>
#include <fstream>

#include <zlib.h>

#include "frontend/checkpoint.h"
#include "frontend/npy.h"
#include "frontend/npz.h"
#include "ir/support/env.h"
#include "ir/support/hash.h"
#include "ir/text.h"
#include "models/mlp.h"
#include "runtime/cpu/device.h"
#include "runtime/jit.h"
#include "tests/support/command.h"
#include "tools/onnx_writer.h"
#include "tools/diagnostics.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

// A folder of its own for every test; `at("x")` is a path in it.
class BadInput : public testing::Test {
 protected:
  fs::path folder = fs::path(testing::TempDir()) / ("quern_bad_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  void TearDown() override { fs::remove_all(folder); }
  std::string at(const std::string& name) const { return (folder / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(at(name), std::ios::binary) << bytes;
    return at(name);
  }
  static std::string read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string((std::istreambuf_iterator<char>(in)), {});
  }
};

// Fails with this status and code, says the words, and gives a way out.
void refused(const std::string& arguments, int status, const std::string& code, const std::string& words, const std::string& variables = "") {
  const Result r = quern(arguments, variables);
  SCOPED_TRACE(variables + " quern " + arguments + "\n" + r.text);
  EXPECT_EQ(r.status, status);
  EXPECT_NE(r.text.find("error[" + code + "]: "), std::string::npos);
  EXPECT_NE(r.text.find(words), std::string::npos) << words;
  EXPECT_NE(r.text.find("\nhelp: "), std::string::npos);
  EXPECT_NE(r.text.find("= explain: quern explain " + code), std::string::npos);
}

std::string gzipped(const std::string& bytes) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(bytes.size() + 1024, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  z.avail_in = static_cast<uInt>(bytes.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(out.size() - z.avail_out);
  deflateEnd(&z);
  return out;
}

// y = tanh(x w): the smallest model with a product.
Graph small_graph() {
  Model m;
  const Tensor x = m.input("x", DType::f32, {3, 5}), w = m.input("w", DType::f32, {5, 4});
  m.output("y", tanh(matmul(x, w)));
  return m.finish();
}
Program small_program() {
  CompileOptions options;
  options.target = parse_target("cpu");
  options.use_cache = false;
  return compile(small_graph(), options);
}
std::string text_of(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

// --- words of the command line ---

TEST_F(BadInput, WordsOfTheCommandLine) {
  refused("", 2, "Q0414", "give one of: train, ");
  refused("cache", 2, "Q0414", "give one of: path, ls, verify, clear");
  refused("tran mlp", 2, "Q0401", "did you mean \"train\"");
  refused("frobnicate", 2, "Q0401", "`quern --help` lists them");
  refused("train", 2, "Q0414", "model is required");
  refused("compile mlp", 2, "Q0414", "-o is required");
  refused("train mlp --epoch 3", 2, "Q0402", "did you mean \"--epochs\"");
  refused("ops add sub", 2, "Q0402", "does not take sub");
  refused("train mlp --epochs ten", 2, "Q0403", "ten");
  refused("train mlp --epochs 0", 2, "Q0403", "--epochs");
  refused("train mlp --lr nan", 2, "Q0403", "--lr");
  refused("train mlp --lr -1", 2, "Q0403", "above 0");
  refused("train mlp --optimizer sgdd", 2, "Q0403", "did you mean \"sgd\"");
  refused("train mlp --schedule cosin", 2, "Q0403", "did you mean \"cosine\"");
  refused("dump mlp --what fusoin", 2, "Q0403", "did you mean \"fusion\"");
  refused("dump mlp --what fusion --after fold", 2, "Q0403", "--after goes with");
  refused("fuzz graphs --part 9/8", 2, "Q0403", "wants I/N");
  refused("run mlp --fill ones", 2, "Q0403", "wants random, zeros or iota");
  refused("run mlp --print all", 2, "Q0403", "stats or values");
  refused("bench softmax --peer oneblas", 2, "Q0403", "did you mean \"openblas\"");
  refused("bench nonsense", 2, "Q0415", "families are");
  refused("compile mlp -o - --json -", 2, "Q0403", "standard output");
  refused("ops --error-format xml", 2, "Q0403", "human, short or json");
  refused("ops addd", 2, "Q0410", "did you mean \"add\"");
  refused("explain Q9999", 2, "Q0412", "`quern explain` lists them");
  refused("dump mlp --after folding", 2, "Q0407", "fold");
  refused("compile mlp -o /dev/null --disable-pass partition", 2, "Q0407", "simplify, fold, loops, reassociate, scores, chunks, align, panels, remat, setup, ordered, precision and clusters can");
  refused("compile mlp -o /dev/null --disable-pass simplfy", 2, "Q0407", "simplify");
}

TEST_F(BadInput, ModelsAndSettings) {
  refused("train vgg", 2, "Q0404", "registered models: mlp");
  refused("check mpl", 2, "Q0404", "did you mean \"mlp\"");
  refused("check model.txt", 2, "Q0404", "a file must end in .qir");
  refused("dump mlp --set hiden=4", 2, "Q0408", "did you mean \"hidden\"");
  refused("dump mlp --set hidden=4,x", 2, "Q0408", "separated by commas");
  refused("dump mlp --set batch=0", 2, "Q0408", "from 1 to 1000000");
  refused("dump mlp --set dropout=1", 2, "Q0408", "[0, 1)");
  refused("train mlp --set dropout=nan", 2, "Q0408", "[0, 1)");
  refused("compile mlp --set hidden=1000000,1000000 -o /dev/null", 6, "Q0601", "use a smaller batch or smaller layers");
  refused("train mlp --set hidden=1000000,1000000", 6, "Q0601", "does not fit this machine's");
}

TEST_F(BadInput, OnnxModels) {
  using namespace onnx_writer;
  const auto file = [&](const std::string& name, const Pb& pb) { return write(name, pb.text); };
  refused("run " + write("junk.onnx", "junk"), 3, "Q0312", "junk.onnx");
  refused("import onnx " + write("junk.onnx", std::string("\x3a\x7f", 2)) + " -o -", 3, "Q0312", "at byte 0");
  GraphParts g;
  g.nodes = {node("Neg", {"x"}, {"y"}), node("NonMaxSuppression", {"x", "x"}, {"z"}), node("Reshape", {"x", "s"}, {"r"})};
  g.inputs = {value("x", 1, {std::string("N")}), value("s", 7, {1})};
  g.outputs = {value("y", 1, {})};
  const std::string open = file("open.onnx", model(g));
  refused("dump " + open, 2, "Q0416", "--dim N=8");
  refused("check " + open + " --dim N=3", 3, "Q0313", "Reshape \"node_r\": the shape must be known");
  refused("import onnx " + open + " --dim N=3 -o -", 3, "Q0313", "NonMaxSuppression \"node_z\"");
  refused("import onnx " + open + " --dim N -o -", 2, "Q0403", "--dim batch=8");
  refused("import onnx " + open + " --input-shape x=2,-1 -o -", 2, "Q0403", "--input-shape x=8");
  g.nodes = {node("Add", {"x", "w"}, {"y"})};
  g.initializers = {Pb().number(1, 2).number(2, 1).bytes(8, "w").number(14, 1).message(13, Pb().bytes(1, "location").bytes(2, "../w.bin"))};
  refused("import onnx " + file("outside.onnx", model(g)) + " --dim N=2 -o -", 3, "Q0314", "../w.bin");
  g.initializers = {tensor("w", HostTensor::full(DType::f32, {100}, 1))};
  const std::string add = file("add.onnx", model(g));
  refused("import onnx " + add + " --dim N=100 -o " + at("m.qir"), 2, "Q0414", "--weights is missing");
  // What is fine: the weights are bound, and what import writes runs alike.
  expect("run " + add + " --dim N=100 --device interpret --fill zeros --print values", 0, "min 1 max 1");
  expect("import onnx " + add + " --dim N=100 -o " + at("m.qir") + " --weights " + at("w.safetensors"), 0, "1 tensors");
  expect("run " + at("m.qir") + " --weights " + at("w.safetensors") + " --device interpret --fill zeros", 0, "min 1 max 1");
}

TEST_F(BadInput, Conformance) {
  using namespace onnx_writer;
  GraphParts g;
  g.nodes = {node("Neg", {"x"}, {"y"})};
  g.inputs = {value("x", 1, {2})};
  g.outputs = {value("y", 1, {2})};
  for (const auto& [name, result] : {std::pair{"right", -1.0}, {"wrong", 1.0}}) {
    fs::create_directories(folder / "cases" / name / "test_data_set_0");
    const std::string base = std::string("cases/") + name + "/";
    write(base + "model.onnx", model(g).text);
    write(base + "test_data_set_0/input_0.pb", tensor("x", HostTensor::full(DType::f32, {2}, 1)).text);
    write(base + "test_data_set_0/output_0.pb", tensor("y", HostTensor::full(DType::f32, {2}, result)).text);
  }
  refused("conformance onnx " + at("cases") + " --device interpret", 1, "Q0704", "FAILED wrong: output \"y\": -1 instead of 1");
  expect("conformance onnx " + at("cases") + " --filter right", 0, "1 passed");
  refused("conformance onnx " + at("cases") + " --filter nothing", 2, "Q0403", "no case below");
  refused("conformance onnx " + at("cases") + " --filter '('", 2, "Q0403", "regular expression");
  refused("conformance onnx " + at("nowhere"), 3, "Q0301", "nowhere");
}

TEST_F(BadInput, Plans) {
  const std::string model = "mlp --set batch=2 --target cpu:avx2 ", head = "quern plan 1 cpu:avx2\ntuned \"\"\n";
  const auto entry = [](const std::string& structure, const std::string& fields) { return "kernel k0 \"" + structure + "\" { " + fields + " } sums \"\"\npredicted 1 of 1 cycles, measured 1 of 1 us\n"; };
  refused("compile " + model + "-o - --plan " + at("none.plan"), 3, "Q0301", "none.plan");
  refused("compile " + model + "-o - --plan " + write("bad.plan", "{}"), 3, "Q0316", "bad.plan:1");
  refused("compile " + model + "-o - --plan " + write("other.plan", "quern plan 1 cpu:v128\ntuned \"\"\n"), 2, "Q0418", "is for cpu:v128");
  expect("compile " + model + "-o " + at("m.qpk") + " --plan " + write("far.plan", head + entry(std::string(32, 'a'), "rows = 2")), 0, "is none of this program's");
  CompileOptions options;
  options.target = {TargetKind::cpu, "avx2"};
  options.use_cache = false;
  CompileReport report;
  compile(mlp_step({784, 10, {256}, 0}, 2, {}, 1).graph, options, &report);
  const auto product = std::find_if(report.lowered.begin(), report.lowered.end(), [](const tile::Kernel& k) { return to_string(k).find("mma[") != std::string::npos; });
  ASSERT_NE(product, report.lowered.end());
  const std::string hash = structure_hash(*product);
  refused("compile " + model + "-o - --plan " + write("field.plan", head + entry(hash, "colour = 2")), 4, "Q0137", "no field \"colour\"");
  refused("compile " + model + "-o - --plan " + write("sums.plan", head + entry(hash, "sum_tile = 8")), 4, "Q0138", "order of sums");
  refused("compile " + model + "-o - --plan " + write("sums.plan", head + entry(hash, "")), 4, "Q0138", "run quern tune again");
  refused("tune mlp -o " + at("x.plan") + " --device null", 2, "Q0403", "--device cpu");
  refused("run " + at("m.qpk") + " --plan " + at("far.plan"), 2, "Q0403", "compiled already");
  refused("run mlp --set batch=2 --device interpret --plan " + at("far.plan"), 2, "Q0403", "the interpreter has no kernels");
  refused("train mlp --device interpret --plan " + at("far.plan"), 2, "Q0403", "the interpreter has no kernels");
  refused("tune mlp --set batch=2 -o " + at("x.plan") + " --kernel convolve", 2, "Q0403", "no kernel of mlp");
  refused("tune mlp -o " + at("x.plan") + " --plan " + at("far.plan"), 2, "Q0403", "takes no --plan");
  refused("profile mlp --device null", 2, "Q0403", "ceilings");
}

TEST_F(BadInput, DevicesAndTargets) {
  refused("train mlp --device gpu", 2, "Q0405", "devices are interpret, cpu, cuda:N and null");
  refused("train mlp --device cuda:sm_90a", 2, "Q0405", "--target cuda:sm_90a");
  refused("run mlp --device cpu:sse9", 2, "Q0406", "avx2");
  refused("run mlp --device cuda:x", 2, "Q0405", "wants cuda or cuda:N");
  refused("bench softmax --device interpret", 2, "Q0405", "--device cpu");
  refused("check mlp --target tpu", 2, "Q0406", "targets are cpu");
  refused("check mlp --target cuda:0", 2, "Q0406", "--device cuda:0");
  refused("compile mlp -o /dev/null --target null", 2, "Q0406", "is a device");
  refused("compile mlp -o /dev/null --target cpu:avx51", 2, "Q0406", "did you mean \"avx512\"");
  refused("compile mlp -o /dev/null --target cuda:sm_91", 2, "Q0406", "sm_75, sm_80 and sm_90a");
  refused("compile mlp -o /dev/null --device cuda", 2, "Q0402", "--target cuda:sm_90a");
  refused("run mlp --target cuda", 2, "Q0402", "--device cuda:0");
}

// --- files of data ---

TEST_F(BadInput, MnistFiles) {
  const auto word = [](uint32_t v) { return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)}; };
  const std::string images = word(0x803) + word(2) + word(28) + word(28) + std::string(2 * 784, '\7'), labels = word(0x801) + word(2) + std::string("\1\2");
  const auto all_good = [&] {
    for (const char* part : {"train", "t10k"}) {
      write(std::string(part) + "-images-idx3-ubyte", images);
      write(std::string(part) + "-labels-idx1-ubyte", labels);
    }
  };
  const std::string train = "train mlp --epochs 1 --batch 2 --device interpret --data " + folder.string();
  const std::string file = "t10k-images-idx3-ubyte";
  all_good();
  expect(train, 0, "test accuracy");
  for (const size_t n : {size_t{0}, size_t{7}, size_t{16}, images.size() - 1}) {
    write(file, images.substr(0, n));
    refused(train, 3, "Q0305", file);
  }
  write(file, images + "x");
  refused(train, 3, "Q0305", "the head promises");
  write(file, labels);
  refused(train, 3, "Q0305", "00000803");
  write(file, word(0x803) + word(2) + word(14) + word(56) + std::string(2 * 784, '\7'));
  refused(train, 3, "Q0305", "wanted 28x28");
  fs::remove(at(file));
  refused(train, 3, "Q0301", "No such file");
  const std::string packed = gzipped(images);
  write(file + ".gz", packed);
  expect(train, 0, "test accuracy");
  for (const size_t n : {size_t{3}, size_t{10}, packed.size() / 2, packed.size() - 1}) {
    write(file + ".gz", packed.substr(0, n));
    refused(train, 3, "Q0304", file + ".gz");
  }
  std::string flipped = packed;
  flipped[packed.size() - 6] = static_cast<char>(flipped[packed.size() - 6] ^ 1);   // in the checksum
  write(file + ".gz", flipped);
  refused(train, 3, "Q0304", file + ".gz");
  fs::remove(at(file + ".gz"));
  all_good();
  write("train-labels-idx1-ubyte", word(0x801) + word(3) + std::string("\1\2\3"));
  refused(train, 3, "Q0311", "2 images but 3 labels");
  write("train-labels-idx1-ubyte", word(0x801) + word(2) + std::string("\1\12"));
  refused(train, 3, "Q0311", "a label above 9");
  refused("train mlp --data /nonexistent", 3, "Q0301", "No such file");
}

TEST_F(BadInput, TheDigitsWithinTheCommand) {
  const std::string digits = read(QN_SOURCE_DIR "/models/data/digits.csv.gz");
  std::string command = read(binary());
  const size_t place = command.find(digits);
  ASSERT_NE(place, std::string::npos);
  command[place + digits.size() / 2] = static_cast<char>(command[place + digits.size() / 2] ^ 1);
  fs::permissions(write("quern", command), fs::perms::owner_all);
  const Result r = shell(at("quern") + " train mlp --epochs 1 --device interpret");
  EXPECT_EQ(r.status, 3) << r.text;
  EXPECT_NE(r.text.find("error[Q0304]: digits: damaged"), std::string::npos) << r.text;
}

TEST_F(BadInput, TensorsForRun) {
  const std::string model = write("small.qir", to_string(small_graph())), run = "run " + model + " --device interpret ";
  const std::string good = at("x.npy"), weights = at("w.safetensors");
  save_npy(good, HostTensor(DType::f32, {3, 5}));
  save_safetensors(weights, {{"w", HostTensor(DType::f32, {5, 4})}});
  expect(run + "--input x=" + good + " --weights " + weights, 0, "y f32[3,4]");
  const std::string npy = read(good), tensors = read(weights);
  for (const size_t n : {size_t{0}, size_t{9}, size_t{64}, npy.size() - 1}) refused(run + "--input x=" + write("cut.npy", npy.substr(0, n)), 3, "Q0310", "cut.npy");
  refused(run + "--input x=" + weights, 3, "Q0310", "not an .npy");
  refused(run + "--input x=" + at("none.npy"), 3, "Q0301", "No such file");
  refused(run + "--input x=" + folder.string(), 3, "Q0301", "is a folder");
  refused(run + "--input z=" + good, 2, "Q0411", "there are x, w");
  refused(run + "--output z=" + good, 2, "Q0411", "there are y");
  refused(run + "--input x", 2, "Q0403", "NAME=FILE.npy");
  refused(run + "--input x=" + good + " --input x=" + good, 2, "Q0403", "named twice");
  save_npy(at("w.npy"), HostTensor(DType::f32, {5, 4}));
  refused(run + "--input x=" + at("w.npy"), 2, "Q0413", "f32[5,4] does not fit \"x\", which is f32[3,5]");
  save_npy(at("f64.npy"), HostTensor(DType::f64, {3, 5}));
  refused(run + "--input x=" + at("f64.npy"), 2, "Q0413", "save it as f32");
  for (const size_t n : {size_t{0}, size_t{7}, size_t{20}, tensors.size() - 1}) refused(run + "--weights " + write("cut.safetensors", tensors.substr(0, n)), 3, "Q0309", "cut.safetensors");
  refused(run + "--weights " + good, 3, "Q0309", "x.npy");
  save_safetensors(weights, {{"v", HostTensor(DType::f32, {5, 4})}});
  refused(run + "--weights " + weights, 2, "Q0411", "the model has no \"v\"");
  refused(run + "--output y=" + at("none/y.npy"), 3, "Q0302", "No such file");
}

TEST_F(BadInput, ArchivesForRun) {
  const std::string model = write("two.qir", "graph (%0: f32[2] \"x\", %1: f32[2] \"b\") {\n  %2 = add %0, %1 : f32[2]\n  %3 = neg %0 : f32[2]\n  output \"y\" %2\n  output \"z\" %3\n}\n"), run = "run " + model + " --device interpret ", all = at("all.npz"), out = at("out.npz");
  save_npz(all, {{"x", HostTensor::from(DType::f32, {2}, {1, 2})}, {"bias", HostTensor::from(DType::f32, {2}, {10, 20})}});
  const std::string inputs = "--input x=" + all + " --input b=" + all + ":bias ";
  expect(run + inputs + "--output y=" + out + " --output z=" + out + ":second", 0, "y f32[2] min 11");
  EXPECT_EQ(Npz(out).names(), (std::vector<std::string>{"y", "second"}));
  EXPECT_EQ(Npz(out).at("y"), HostTensor::from(DType::f32, {2}, {11, 22}));
  EXPECT_EQ(Npz(out).at("second"), HostTensor::from(DType::f32, {2}, {-1, -2}));
  refused(run + "--input b=" + all, 2, "Q0411", "all.npz: holds no \"b\"");
  refused(run + "--input b=" + all + ":", 2, "Q0403", "names no member");
  refused(run + "--output y=" + out + ":y --output z=" + out + ":y", 2, "Q0403", "another output is written there");
  refused(run + "--output y=" + at("one.npy") + " --output z=" + at("one.npy"), 2, "Q0403", "another output is written there");
  refused(run + "--output y=" + at("none/out.npz") + ":y", 3, "Q0302", "No such file");
  std::string bytes = read(all);
  refused(run + "--input x=" + write("cut.npz", bytes.substr(0, bytes.size() - 1)), 3, "Q0315", "cut.npz");
  bytes[80] = static_cast<char>(bytes[80] ^ 1);
  refused(run + "--input x=" + write("flipped.npz", bytes), 3, "Q0315", "member \"x.npy\"");
}

TEST_F(BadInput, DamagedFilesInNumbers) {
  expect("fuzz files -n 70 --seed 3 --out " + folder.string(), 0, "70 damaged files, seed 3: 0 findings");
  expect("fuzz files -n 10 --kind npz --json -", 0, "\"findings\": []");
  refused("fuzz files --kind onx", 2, "Q0403", "did you mean \"onnx\"?");
  refused("fuzz files --out " + at("none"), 3, "Q0302", "No such file");
}

TEST_F(BadInput, GraphsAsText) {
  const std::string good = to_string(small_graph());
  for (size_t n = 0; n + 2 < good.size(); n += good.size() / 7) refused("check " + write("cut.qir", good.substr(0, n)), 3, "Q0201", "cut.qir:");
  refused("check " + write("op.qir", "graph (%0: f32[2] \"x\") {\n  %1 = ad %0, %0 : f32[2]\n}\n"), 3, "Q0204", "did you mean \"add\"");
  const Result shapes = quern("check " + write("shapes.qir", "graph (%0: f32[2] \"x\", %1: f32[3] \"y\") {\n  %2 = add %0, %1 : f32[2]\n}\n"));
  EXPECT_EQ(shapes.status, 3);
  for (const char* part : {"error[Q0101]", "shapes.qir:2:3", "2 |   %2 = add", "f32[2]", "f32[3]", "\nhelp: "}) EXPECT_NE(shapes.text.find(part), std::string::npos) << part << "\n" << shapes.text;
  std::string bytes(4096, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 73 + i / 256);
  refused("check " + write("binary.qir", bytes), 3, "Q0201", "binary.qir:1");
  refused("check " + at("none.qir"), 3, "Q0301", "none.qir");
  fs::create_directory(at("folder.qir"));
  refused("check " + at("folder.qir"), 3, "Q0301", "is a folder");
  write("huge.qir", "");
  fs::resize_file(at("huge.qir"), (uintmax_t{1} << 30) + 1);   // sparse
  refused("check " + at("huge.qir"), 3, "Q0303", "larger than");
  refused("check " + write("vector.qir", "graph (%0: f32[2] \"x\") {\n  %1 = exp %0 : f32[2]\n  output \"y\" %1\n}\n") + " --grad", 2, "Q0403", "f32[2]");
}

TEST_F(BadInput, ShapesInTheDsl) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {64, 512}), w = m.input("w", DType::f32, {500, 256});
  const uint32_t line = __LINE__ + 2;
  try {
    matmul(x, w);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.kind), 4);
    const std::string text = render(e, ErrorFormat::human);
    for (const std::string& part : {std::string("error[Q0102]"), "bad_input_test.cpp:" + std::to_string(line), std::string("f32[64,512]"), std::string("f32[500,256]"), std::string("\nhelp: ")})
      EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
}

// --- packages ---

TEST_F(BadInput, PackagesWithEveryByteFlipped) {
  const std::vector<uint8_t> good = save_program(small_program());
  const auto same_or_error = [&](const std::vector<uint8_t>& bytes) {
    try {
      return save_program(load_program(bytes, "p.qpk")) == good;
    } catch (const Error& e) {
      return (e.code == Code::damaged_package || e.code == Code::not_a_package || e.code == Code::other_version) && !e.help.empty();
    }
  };
  for (size_t i = 0; i < good.size(); ++i)
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::vector<uint8_t> bad = good;
      bad[i] = static_cast<uint8_t>(bad[i] ^ flip);
      EXPECT_TRUE(same_or_error(bad)) << i;
      // With a mended checksum another program may load, but only one whose ids, offsets and sizes are sound.
      if (i < 24) continue;
      const uint64_t checksum = hash64({reinterpret_cast<const char*>(bad.data() + 24), bad.size() - 24});
      std::memcpy(bad.data() + 16, &checksum, 8);
      try {
        const Program p = load_program(bad, "p.qpk");
        EXPECT_EQ(save_program(load_program(save_program(p), "p.qpk")), save_program(p)) << i;
      } catch (const Error& e) {
        EXPECT_EQ(e.kind, ErrorKind::bad_file) << i << ": " << e.what();
      }
    }
  for (size_t n = 0; n < good.size(); n += 7) EXPECT_TRUE(same_or_error({good.begin(), good.begin() + static_cast<int64_t>(n)})) << n;
}

TEST_F(BadInput, PackagesThroughTheCommand) {
  Program p = small_program();
  const std::string good = text_of(save_program(p));
  expect("run " + write("good.qpk", good), 0, "y f32[3,4]");
  const auto changed = [&](size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 2);
    return write("bad.qpk", bytes);
  };
  refused("run " + changed(0), 3, "Q0306", "wrong magic");
  refused("run " + write("bad.qpk", "short"), 3, "Q0306", "bad.qpk");
  refused("run " + changed(8), 3, "Q0308", "another version");
  refused("run " + changed(good.size() / 2), 3, "Q0307", "checksum");
  refused("run " + write("bad.qpk", good.substr(0, good.size() - 9)), 3, "Q0307", "checksum");
  refused("run " + at("none.qpk"), 3, "Q0301", "No such file");
  refused("run " + at("good.qpk") + " --device interpret", 2, "Q0405", ".qir");
  refused("run " + at("good.qpk") + " --set batch=2", 2, "Q0408", "quern compile");
  p.target = {TargetKind::cuda, "sm_90a"};
  p.images.clear(), p.steps.clear();   // machine code is no cubin
  refused("run " + write("other.qpk", text_of(save_program(p))), 5, "Q0501", "compile it again");
  p = small_program();
  p.graph_text = "graph (%0: f32[2] \"x\") {\n  output \"y\" %0\n}\n";
  refused("run " + write("other.qpk", text_of(save_program(p))), 3, "Q0307", "disagree");
}

TEST_F(BadInput, StatesAndInputsOfAnExecutable) {
  Model m;
  const Tensor s = m.input("s", DType::f32, {2});
  m.state("s", s, s + m.input("x", DType::f32, {2}));
  m.output("sum", sum(s));
  const auto device = open_cpu_device();
  const auto step = jit(*device, m.finish());
  const auto code_of = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      EXPECT_FALSE(e.help.empty()) << e.what();
      return to_string(e.code);
    }
    return "none";
  };
  const HostTensor two(DType::f32, {2}), three(DType::f32, {3});
  EXPECT_EQ(code_of([&] { step->run({two}); }), "Q0502");
  EXPECT_EQ(code_of([&] { step->set_state("t", two); }), "Q0411");
  EXPECT_EQ(code_of([&] { step->state("t"); }), "Q0411");
  EXPECT_EQ(code_of([&] { step->set_state("s", three); }), "Q0413");
  step->set_state("s", two);
  EXPECT_EQ(code_of([&] { step->run({}); }), "Q0413");
  EXPECT_EQ(code_of([&] { step->run({three}); }), "Q0413");
  EXPECT_EQ(code_of([&] { step->set_input(1, two); }), "Q0411");
  EXPECT_EQ(code_of([&] { step->run({two}); }), "none");
}

// --- the kernel cache ---

TEST_F(BadInput, DamagedCacheEntriesAreCompiledAgain) {
  const std::string cache = "QUERN_CACHE_DIR=" + at("cache"), compile = "compile mlp --set batch=4 -o ";
  expect(compile + at("one.qpk"), 0, " 0 cached", cache);
  expect(compile + at("one.qpk"), 0, "(0 compiled", cache);
  expect("cache verify", 0, " 0 damaged", cache);
  size_t entries = 0;
  const auto damage = [&] {
    entries = 0;
    for (const auto& entry : fs::directory_iterator(at("cache"))) {
      std::string bytes = read(entry.path());
      if (entries % 3 == 0) bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      else if (entries % 3 == 1) bytes.resize(bytes.size() / 2);
      else bytes.clear();
      std::ofstream(entry.path(), std::ios::binary) << bytes;
      ++entries;
    }
  };
  damage();
  ASSERT_GE(entries, 3u);
  refused("cache verify", 1, "Q0703", std::to_string(entries) + " damaged", cache);
  refused("cache verify --json -", 1, "Q0703", "\"damaged\": " + std::to_string(entries), cache);
  expect("doctor", 0, std::to_string(entries) + " damaged", cache);
  expect(compile + at("two.qpk"), 0, " was damaged; it is compiled again", cache);
  EXPECT_EQ(read(at("one.qpk")), read(at("two.qpk")));
  expect("cache verify", 0, " 0 damaged", cache);
  expect("cache clear", 0, "removed " + std::to_string(entries), cache);
}

TEST_F(BadInput, ADiskThatFillsWhileCaching) {
  for (const int n : {1, 2, 5}) {
    const std::string name = "cache" + std::to_string(n), variables = "QUERN_FAULT=write:ENOSPC@" + std::to_string(n) + " QUERN_CACHE_DIR=" + at(name);
    expect("compile mlp --set batch=4 -o " + at("full.qpk"), 0, "cache off: cannot write to " + at(name) + ": No space left on device", variables);
    expect("run " + at("full.qpk"), 0, "loss f32[]");
    expect("cache verify", 0, " 0 damaged", "QUERN_CACHE_DIR=" + at(name));
    for (const auto& entry : fs::directory_iterator(at(name))) EXPECT_EQ(entry.path().extension(), ".kernel") << entry.path();   // no half entry is left
  }
  // Beyond the largest file that the shell allows: the cache goes off, the model runs; a package is an error.
  const std::string quern = "ulimit -f 1; QUERN_CACHE_DIR=" + at("cache") + " " + binary();
  Result r = shell("(" + quern + " run mlp --set batch=4)");
  EXPECT_EQ(r.status, 0) << r.text;
  EXPECT_NE(r.text.find("cache off: cannot write"), std::string::npos) << r.text;
  r = shell("(" + quern + " compile mlp --set batch=4 -o " + at("big.qpk") + ")");
  EXPECT_EQ(r.status, 3) << r.text;
  EXPECT_NE(r.text.find("error[Q0302]"), std::string::npos) << r.text;
  EXPECT_FALSE(fs::exists(at("big.qpk")));
}

TEST_F(BadInput, CachesThatCannotBe) {
  const std::string command = "run mlp --set batch=2";
  expect(command, 0, "cache off: cannot create", "QUERN_CACHE_DIR=/dev/null/x");
  expect(command, 0, "is not a directory", "QUERN_CACHE_DIR=" + write("file", ""));
  expect(command, 0, "loss f32[]", "QUERN_CACHE_DIR=");
  const Result r = shell("env -i " + binary() + " " + command);   // no HOME, no PATH
  EXPECT_EQ(r.status, 0) << r.text;
}

// --- outputs ---

TEST_F(BadInput, OutputsThatCannotBeWritten) {
  const std::string small = write("small.qir", to_string(small_graph()));
  for (const std::string& command : {std::string("train mlp --steps 1"), "check " + small, std::string("fuzz graphs -n 1"), std::string("bench softmax"), "run " + small, std::string("ops"), std::string("doctor"),
                                     std::string("cache ls"), "dump " + small, std::string("explain"), "compile " + small + " -o " + at("p.qpk")}) {
    refused(command + " --json " + at("none/x.json"), 3, "Q0302", "No such file");   // before the work
    refused(command + " --json " + folder.string(), 3, "Q0302", "Is a directory");
  }
  refused("ops --json /dev/full", 3, "Q0302", "No space left");
  refused("ops >/dev/full", 3, "Q0302", "standard output");
  refused("compile mlp -o " + at("none/x.qpk"), 3, "Q0302", "x.qpk");
  refused("compile mlp -o ''", 3, "Q0302", "No such file");
  refused("dump mlp -o " + folder.string(), 3, "Q0302", "name a file in it");
  refused("dump mlp -o /dev/full", 3, "Q0302", "make room");
  refused("train mlp --checkpoint " + at("none/x.safetensors"), 3, "Q0302", "x.safetensors");
  refused("fuzz graphs -n 1 --out " + at("none"), 3, "Q0302", "none/fuzz.qir");
}

// --- what the machine lacks ---

TEST_F(BadInput, NoGpuNoNvrtcNoGraphviz) {
  refused("run mlp --device cuda", 5, "Q0505", "--device cpu", "CUDA_VISIBLE_DEVICES=");
  refused("run mlp --device cuda:99", 5, "Q0505", "--device cpu");
  refused("compile mlp --target cuda -o /dev/null --no-cache", 4, "Q0506", "--target cpu", "QUERN_NVRTC=/nonexistent/libnvrtc.so");
  refused("compile mlp --target cuda -o /dev/null --no-cache", 4, "Q0506", "lacks", "QUERN_NVRTC=libz.so.1");
  expect("doctor", 0, "NVRTC was not found", "QUERN_NVRTC=/nonexistent/libnvrtc.so");
  refused("dump mlp --what svg", 5, "Q0503", "apt-get install graphviz", "PATH=/nonexistent");
  fs::permissions(write("dot", "#!/bin/sh\nexit 3\n"), fs::perms::owner_all);
  refused("dump mlp --what svg", 5, "Q0503", "failed", "PATH=" + folder.string() + ":/bin:/usr/bin");
  refused("dump mlp --what svg", 3, "Q0302", "TMPDIR", "TMPDIR=/nonexistent");
}

TEST_F(BadInput, PeersThatFailOrLie) {
  const auto python = [&](const std::string& prepared) {
    fs::permissions(write("python3", "#!/bin/sh\nread line; echo '{\"version\": \"none\"}'\nread line; " + prepared + "\n"), fs::perms::owner_all);
    return shell("cd " QN_SOURCE_DIR "; PATH=" + folder.string() + ":$PATH " + fs::absolute(binary()).string() + " bench 'softmax 128x' --rounds 1 --peer torch");
  };
  Result r = python("echo '{\"check\": 12345}'; read line");
  EXPECT_EQ(r.status, 1) << r.text;
  EXPECT_NE(r.text.find("error[Q0702]"), std::string::npos) << r.text;
  r = python("exit");
  EXPECT_EQ(r.status, 5) << r.text;
  EXPECT_NE(r.text.find("error[Q0509]: the peer's process has ended"), std::string::npos) << r.text;
  r = python("echo '{\"error\": \"no memory\"}'; read line");
  EXPECT_NE(r.text.find("error[Q0509]: no memory"), std::string::npos) << r.text;
}

TEST_F(BadInput, TooManyThreads) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers want more address space than this test allows";
#endif
  const Result r = shell("(ulimit -v 1500000; QUERN_THREADS=256 " + binary() + " run mlp --set batch=2 --no-cache)");   // 256 stacks of 8 MB
  EXPECT_EQ(r.status, 5) << r.text;
  EXPECT_NE(r.text.find("error[Q0504]: the system refuses 256 threads"), std::string::npos) << r.text;
}

TEST_F(BadInput, Environment) {
  for (const char* n : {"abc", "0", "257", "-1", "2x", "1e3"}) refused("run mlp --set batch=2", 2, "Q0409", "wants a number from 1 to 256", std::string("QUERN_THREADS=") + n);
  expect("doctor", 0, "wants a number from 1 to 256", "QUERN_THREADS=abc");
  refused("run mlp --set batch=2", 2, "Q0409", "names no fault", "QUERN_FAULT=nonsense");
  refused("run mlp --set batch=2", 2, "Q0409", "write:ENOSPC@N", "QUERN_FAULT=write:ENOSPC@0");
  expect("ops add", 0, "QUERN_THREAD has no meaning; did you mean \"QUERN_THREADS\"?", "QUERN_THREAD=4");
  expect("ops add", 0, "`quern doctor` lists those that have one", "QUERN_PLUGH=4");
  // The doctor's table is complete: every variable, with its meaning.
  const Result r = quern("doctor", "QUERN_CACHE_DIR=");
  for (const EnvInfo& v : all_variables()) EXPECT_NE(r.text.find(v.name), std::string::npos) << v.name;
}

TEST_F(BadInput, AResultThatDiffers) {
  refused("check mlp --set batch=8 --samples 1 --no-cache", 1, "Q0701", "MISMATCH", "QUERN_FAULT=tail_mask");
  refused("fuzz graphs -n 30 --seed 1 --no-reduce", 1, "Q0701", "graphs differ", "QUERN_FAULT=load_stride");
}

}  // namespace
}  // namespace quern::test
