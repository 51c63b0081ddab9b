// The reader of ONNX files: what it makes of whole ones, and that no other bytes do harm: truncated at every length,
// every byte changed, lengths and depths beyond bounds, small files that ask for much memory, paths that lead out.
#include <filesystem>
#include <fstream>
#include <random>

#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include "frontend/onnx/model.h"
#include "tools/onnx_writer.h"

namespace quern::onnx {
namespace {

using namespace onnx_writer;
namespace fs = std::filesystem;

Pb small_model() {
  GraphParts then, g;
  then.nodes = {node("Neg", {"x"}, {"t"})};
  then.outputs = {value("t", 1, {2, "N"})};
  g.nodes = {node("Gemm", {"x", "w", ""}, {"y"}, {attribute("alpha", 0.5f), attribute("transB", int64_t{1}), attribute("axes", std::vector<int64_t>{0, -1}), attribute("mode", std::string("linear"))}),
             node("If", {"c"}, {"z"}, {graph_attribute("then_branch", then.pb())})};
  g.inputs = {value("x", 1, {2, "N"}), value("c", 9, {})};
  g.outputs = {value("y", 1, {2, 3})};
  g.initializers = {tensor("w", HostTensor::from(DType::f32, {3, 2}, {1, 2, 3, 4, 5, -0.5}))};
  return model(g, 17, {Pb().bytes(1, "Twice").bytes(4, "a").bytes(5, "b").message(7, node("Add", {"a", "a"}, {"b"})).message(9, opset("", 17)).bytes(10, "mine")});
}

// The error, or "" where the bytes are taken.
std::string refusal(const std::vector<uint8_t>& bytes) {
  try {
    const ModelProto m = parse_model(bytes, "m.onnx");
    for (const TensorProto& t : m.graph.initializers) to_host(t, "m.onnx", ".");
    return "";
  } catch (const Error& e) {
    EXPECT_TRUE(e.kind == ErrorKind::bad_file || e.kind == ErrorKind::memory) << e.what();
    EXPECT_FALSE(e.help.empty());
    return e.what();
  }
}
void refused(const Pb& pb, const std::string& part) {
  const std::string got = refusal(pb.file());
  EXPECT_NE(got.find(part), std::string::npos) << "wanted \"" << part << "\", got \"" << got << '"';
}

TEST(OnnxWire, ReadsAModel) {
  const ModelProto m = parse_model(small_model().file(), "m.onnx");
  EXPECT_EQ(m.ir_version, 8);
  EXPECT_EQ(m.producer, "test");
  ASSERT_EQ(m.opsets.size(), 2u);
  EXPECT_EQ(m.opsets[0].second, 17);
  ASSERT_EQ(m.graph.nodes.size(), 2u);
  const NodeProto& gemm = m.graph.nodes[0];
  EXPECT_EQ(gemm.op, "Gemm");
  EXPECT_EQ(gemm.inputs, (std::vector<std::string_view>{"x", "w", ""}));
  EXPECT_EQ(gemm.find("alpha")->f, 0.5);
  EXPECT_EQ(gemm.find("transB")->i, 1);
  EXPECT_EQ(gemm.find("axes")->ints, (std::vector<int64_t>{0, -1}));
  EXPECT_EQ(gemm.find("mode")->s, "linear");
  EXPECT_EQ(gemm.find("beta"), nullptr);
  EXPECT_EQ(m.graph.nodes[1].find("then_branch")->bodies.at(0).nodes.at(0).op, "Neg");
  const TypeProto& x = m.graph.inputs.at(0).type;
  EXPECT_EQ(x.elem_type, 1);
  EXPECT_EQ(x.shape->at(0).value, 2);
  EXPECT_EQ(x.shape->at(1).param, "N");
  EXPECT_EQ(to_host(m.graph.initializers.at(0), "m.onnx", "."), HostTensor::from(DType::f32, {3, 2}, {1, 2, 3, 4, 5, -0.5}));
  ASSERT_EQ(m.functions.size(), 1u);
  EXPECT_EQ(m.functions[0].domain, "mine");
  EXPECT_EQ(m.functions[0].nodes.at(0).op, "Add");
}

TEST(OnnxWire, ReadsTypedDataPackedAndNot) {
  TensorProto t;
  const auto parse = [&](const Pb& tensor) {
    GraphParts g;
    g.initializers = {tensor};
    static ModelProto keep;
    keep = parse_model(model(g).file(), "m.onnx");
    return to_host(keep.graph.initializers.at(0), "m.onnx", ".");
  };
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 1).real(4, 1.5f).real(4, -2.f)), HostTensor::from(DType::f32, {2}, {1.5, -2}));
  EXPECT_EQ(parse(Pb().bytes(1, Pb::varint(1) + Pb::varint(2)).number(2, 7).bytes(7, Pb::varint(300) + Pb::varint(static_cast<uint64_t>(-1)))), HostTensor::from(DType::i64, {1, 2}, {300, -1}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 10).number(5, 0x3c00).number(5, 0xc000)), HostTensor::from(DType::f16, {2}, {1, -2}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 16).number(5, 0x3f80).number(5, 0xc000)), HostTensor::from(DType::bf16, {2}, {1, -2}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 9).number(5, 7).number(5, 0)), HostTensor::from(DType::boolean, {2}, {1, 0}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 9).bytes(9, std::string("\x05\0", 2))), HostTensor::from(DType::boolean, {2}, {1, 0}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 12).number(11, 4294967295).number(11, 1)), HostTensor::from(DType::u32, {2}, {4294967295, 1}));
  EXPECT_EQ(parse(Pb().number(2, 11).bytes(10, std::string("\0\0\0\0\0\0\xf8\x3f", 8))), HostTensor::from(DType::f64, {}, {1.5}));
  EXPECT_EQ(parse(Pb().number(1, 0).number(2, 1)), HostTensor(DType::f32, {0}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 3).bytes(9, std::string("\x80\x05", 2))), HostTensor::from(DType::i8, {2}, {-128, 5}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 4).number(5, 65535).number(5, 1)), HostTensor::from(DType::u16, {2}, {65535, 1}));
  EXPECT_EQ(parse(Pb().number(1, 1).number(2, 13).number(11, uint64_t{1} << 63)), HostTensor::from(DType::u64, {1}, {0x1p63}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 17).number(5, 0x38).number(5, 0xfe)), HostTensor::from(DType::f8e4m3, {2}, {1, -448}));
  EXPECT_EQ(parse(Pb().number(1, 2).number(2, 19).bytes(9, std::string("\x3c\xfc", 2))), HostTensor::from(DType::f8e5m2, {2}, {1, -INFINITY}));
  // Two to a byte, the first in the lower bits; what is left over of the last byte does not count.
  EXPECT_EQ(parse(Pb().number(1, 3).number(2, 22).bytes(9, std::string("\x87\xf9", 2))), HostTensor::from(DType::i4, {3}, {7, -8, -7}));
  EXPECT_EQ(parse(Pb().number(1, 3).number(2, 21).number(5, 0x87).number(5, 9)), HostTensor::from(DType::u4, {3}, {7, 8, 9}));
  EXPECT_THROW(parse(Pb().number(1, 3).number(2, 22).bytes(9, std::string("\x87\xf9\x01", 3))), Error);
  EXPECT_THROW(parse(Pb().number(1, 3).number(2, 21).number(5, 7).number(5, 8).number(5, 9)), Error);
}

TEST(OnnxWire, EveryTruncationIsSafe) {
  const std::vector<uint8_t> whole = small_model().file();
  ASSERT_EQ(refusal(whole), "");
  int refusals = 0;
  for (size_t n = 0; n < whole.size(); ++n) refusals += !refusal({whole.begin(), whole.begin() + static_cast<int64_t>(n)}).empty();
  // Whole fields may be missing at the end; inside the graph every cut is found.
  EXPECT_GT(refusals, static_cast<int>(whole.size()) / 2);
}

TEST(OnnxWire, EveryChangedByteIsSafe) {
  const std::vector<uint8_t> whole = small_model().file();
  std::mt19937 random(7);
  for (size_t n = 0; n < whole.size(); ++n)
    for (int change : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}) {
      std::vector<uint8_t> bytes = whole;
      bytes[n] = static_cast<uint8_t>(bytes[n] ^ change);
      refusal(bytes);
    }
  for (int i = 0; i < 20000; ++i) {
    std::vector<uint8_t> bytes = whole;
    for (int k = 0; k < 4; ++k) {
      const size_t at = random() % bytes.size();
      if (k % 2) bytes[at] = static_cast<uint8_t>(random());
      else bytes.erase(bytes.begin() + static_cast<int64_t>(at));
    }
    refusal(bytes);
  }
}

TEST(OnnxWire, Bounds) {
  refused(Pb{"\x3a\x7f"}, "message around it");                                                // a length beyond the file
  refused(Pb{std::string("\x3a") + Pb::varint(~uint64_t{0})}, "message around it");
  refused(Pb{"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"}, "64 bits");
  refused(Pb{"\x08\xff"}, "does not end");
  refused(Pb{"\x0d\x01"}, "does not end");
  refused(Pb{std::string("\0", 1)}, "field number");
  refused(Pb{"\x0b"}, "wire type 3");
  refused(Pb().bytes(1, "eight"), "not an integer");
  refused(Pb().number(7, 1), "not a string or message");
  refused(Pb(), "no graph");
  refused(Pb().bytes(7, "").bytes(7, ""), "second graph");
  const auto with_tensor = [](const Pb& t) { return Pb().message(7, Pb().message(5, t)); };
  refused(with_tensor(Pb().number(1, -1).number(2, 1)), "extent of -1");
  refused(with_tensor(Pb().bytes(1, std::string(11, '\1')).number(2, 1)), "more than 10 dims");
  refused(with_tensor(Pb().bytes(1, Pb::varint(uint64_t{1} << 40) + Pb::varint(uint64_t{1} << 40)).number(2, 1)), "overflow");
  refused(with_tensor(Pb().number(1, int64_t{1} << 40).number(2, 1)), "0 values for 1099511627776 elements");
  refused(with_tensor(Pb().number(1, 3).number(2, 1).bytes(9, "12345678")), "8 bytes for 3 elements of f32");
  refused(with_tensor(Pb().number(1, 1).number(2, 8).bytes(6, "text")), "string");
  refused(with_tensor(Pb().number(1, 1).number(2, 77).bytes(9, "x")), "type 77");
  // Nodes within nodes within nodes…
  Pb graph;
  for (int i = 0; i < 40; ++i) graph = Pb().message(1, Pb().message(5, Pb().bytes(1, "body").message(6, graph)));
  refused(Pb().message(7, graph), "nested more than 64 deep");
}

TEST(OnnxWire, SmallFilesDoNotTakeMuchMemory) {
  std::string nodes;   // two bytes each, some 150 in memory
  for (int i = 0; i < 1 << 21; ++i) nodes += std::string("\x0a\x00", 2);
  refused(Pb().bytes(7, nodes), "four times the file");
}

TEST(OnnxWire, ExternalDataStaysBelowTheModel) {
  const fs::path root = fs::path(testing::TempDir()) / "quern_onnx_external", folder = root / "model";
  fs::remove_all(root);
  fs::create_directories(folder / "sub");
  const auto put = [](const fs::path& p, const std::string& text) { std::ofstream(p) << text; };
  put(root / "secret", std::string(64, 's'));
  put(folder / "w.bin", std::string("\0\0\x80\x3f\0\0\0\x40", 8));
  put(folder / "sub/w.bin", std::string("\0\0\x80\x3f\0\0\0\x40", 8));
  put(folder / "two_names", std::string(8, 'x'));
  fs::create_hard_link(folder / "two_names", root / "other_name");
  fs::create_symlink(root / "secret", folder / "link");
  fs::create_symlink("w.bin", folder / "inner_link");
  fs::create_directory_symlink(root, folder / "sub/up");
  fs::create_symlink("loop", folder / "loop");
  ::mkfifo((folder / "pipe").c_str(), 0600);
  const auto load = [&](const std::string& location, const std::string& offset = "0", const std::string& length = "8") {
    TensorProto t;
    t.name = "w";
    t.data_type = 1;
    t.dims = {2};
    t.external = true;
    t.external_data = {{"location", location}, {"offset", offset}, {"length", length}};
    return to_host(t, "m.onnx", folder.string());
  };
  const HostTensor want = HostTensor::from(DType::f32, {2}, {1, 2});
  EXPECT_EQ(load("w.bin"), want);
  EXPECT_EQ(load("sub/w.bin"), want);
  EXPECT_EQ(load("sub/../w.bin"), want);       // does not leave
  EXPECT_EQ(load("inner_link"), want);
  for (const std::string& bad : {std::string("../secret"), std::string("sub/../../secret"), (root / "secret").string(), (folder / "w.bin").string(), std::string("link"), std::string("sub/up/secret"),
                                 std::string("loop"), std::string("pipe"), std::string("sub"), std::string("two_names"), std::string("missing"), std::string(""), std::string(5000, 'a'),
                                 std::string("w.bin\0x", 7), std::string("/dev/zero"), std::string("/proc/self/environ"), std::string("..")})
    try {
      load(bad);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code, Code::onnx_external) << e.what();
      EXPECT_FALSE(e.help.empty());
    }
  for (const auto& [offset, length] : {std::pair{"4", "8"}, {"9", "8"}, {"-1", "8"}, {"0", "4"}, {"0", "x"}, {"9223372036854775807", "8"}, {"0", "99999999999999999999"}}) EXPECT_THROW(load("w.bin", offset, length), Error) << offset << ' ' << length;
  fs::remove_all(root);
}

}  // namespace
}  // namespace quern::onnx
