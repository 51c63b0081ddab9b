// Text forms under damage: truncations and random bytes give Error(bad_file) or a graph, never a crash.
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "frontend/checkpoint.h"
#include "frontend/nn.h"
#include "ir/text.h"
#include "models/mlp.h"

namespace quern {
namespace {

std::string sample() { return to_string(mlp_step({6, 3, {4}, 0.5}, 2, {}, 1).graph); }

TEST(Text, TrainingStepRoundTrips) {
  const Graph g = mlp_step({6, 3, {4}, 0.5}, 2, {}, 1).graph;
  EXPECT_TRUE(parse_graph(to_string(g)) == g);
  EXPECT_EQ(parse_graph(to_string(g)).hash(), g.hash());
}

TEST(Text, SpecialValuesRoundTrip) {
  GraphBuilder b;
  const double inf = std::numeric_limits<double>::infinity();
  b.output("y", b.constant(HostTensor::from(DType::f32, {6}, {inf, -inf, std::nan(""), -0.0, 1e-45, 0.1})));
  const Graph g = b.finish();
  EXPECT_TRUE(parse_graph(to_string(g)) == g);
}

TEST(Text, CommentLines) {
  const std::string text = "// a head\ngraph (%0: f32[3] \"x\") {\n  // the body // of it\n  %1 = neg %0 : f32[3]   # to the end\n  output \"y\" %1\n}\n//";
  EXPECT_EQ(to_string(parse_graph(text)), "graph (%0: f32[3] \"x\") {\n  %1 = neg %0 : f32[3]\n  output \"y\" %1\n}\n");
  EXPECT_THROW(parse_graph("graph () { } // not on its own line"), Error);
}

TEST(Text, EveryTruncationIsRefused) {
  const std::string text = sample();
  for (size_t n = 0; n + 2 < text.size(); n += 7) {
    try {
      parse_graph(text.substr(0, n), "cut.qir");
      FAIL() << "accepted " << n << " bytes";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::bad_file);
      EXPECT_NE(std::string(e.what()).find("cut.qir:"), std::string::npos);
    }
  }
}

TEST(Text, RandomBytesNeverCrash) {
  const std::string text = sample();
  std::mt19937 random(11);
  int refused = 0;
  for (int k = 0; k < 600; ++k) {
    std::string damaged = text;
    for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(32 + random() % 95);
    try {
      parse_graph(damaged);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::bad_file) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Errors, NameTheLineBothShapesAndAWayOut) {
  Model g;
  const Tensor x = g.input("x", DType::f32, {64, 512}), w = g.input("w", DType::f32, {500, 256});
  try {
    matmul(x, w);
    FAIL();
  } catch (const Error& e) {
    const std::string text = e.what();
    for (const char* part : {"text_test.cpp:", "f32[64,512]", "f32[500,256]", "help:"}) EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_EQ(e.kind, ErrorKind::compile);
  }
  const Tensor y = g.input("y", DType::f32, {7});
  EXPECT_THROW(x + y, Error);
  EXPECT_THROW(grad(x, {x}), Error);
  EXPECT_THROW(x + cast(x, DType::f64), Error);
}

TEST(Text, EveryAttributeTellsGraphsApart) {
  const std::string text = "graph (%0: f32[9,3] \"x\", %1: f32[] \"v\") {\n  %2 = window %0, %1 {shape=[5], start=[0], stride=[2], dilation=[1], base=[1]} : f32[5,3]\n  output \"y\" %2\n}\n";
  for (const char* attribute : {"start", "stride", "dilation", "base"}) {
    std::string other = text;
    other.replace(other.find(std::string(attribute) + "=[") + std::strlen(attribute) + 2, 1, "3");
    EXPECT_FALSE(parse_graph(text) == parse_graph(other)) << attribute;
  }
}

TEST(Checkpoint, RoundTripAndDamage) {
  const std::string path = testing::TempDir() + "quern_checkpoint.safetensors";
  const NamedTensors tensors = {{"a", HostTensor::from(DType::f32, {2, 2}, {1, 2, 3, 4})}, {"b", HostTensor::full(DType::i64, {}, 7)}, {"c", HostTensor(DType::bf16, {0, 3})}};
  save_safetensors(path, tensors);
  EXPECT_EQ(load_safetensors(path), tensors);
  FILE* f = std::fopen(path.c_str(), "rb");
  std::string bytes(4096, 0);
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), f));
  std::fclose(f);
  for (size_t n = 0; n < bytes.size(); ++n) {
    f = std::fopen(path.c_str(), "wb");
    std::fwrite(bytes.data(), 1, n, f);
    std::fclose(f);
    EXPECT_THROW(load_safetensors(path), Error) << n;
  }
  std::remove(path.c_str());
}

}  // namespace
}  // namespace quern
