// The ONNX importer on models written here: values, weights, names, what is static, what is refused and how it is told.
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "frontend/onnx/import.h"
#include "ir/interpret.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "tools/onnx_writer.h"

namespace quern::onnx {
namespace {

using namespace onnx_writer;
constexpr int64_t kF32 = 1, kI64 = 7;

struct Loaded {
  ModelProto model;
  Imported imported;
};
Loaded load(const Pb& pb, const ImportOptions& options = {}) {
  Loaded out{parse_model(pb.file(), "dir/m.onnx"), {}};
  out.imported = import_model(out.model, options);
  return out;
}
std::vector<HostTensor> run(const Imported& m, const std::vector<HostTensor>& inputs) {
  std::vector<HostTensor> all;
  size_t next = 0;
  for (NodeId i : m.graph.inputs) {
    const std::string& name = m.graph.at(i).attrs.name;
    const HostTensor* weight = nullptr;
    for (const auto& [n, v] : m.weights)
      if (n == name) weight = &v;
    all.push_back(weight ? *weight : inputs.at(next++));
  }
  return interpret(m.graph, all);
}
std::string reasons(const Imported& m) {
  std::string out;
  for (const Missing& x : m.missing) out += x.op + " \"" + x.node + "\": " + x.reason + "\n";
  return out;
}
HostTensor f32(Shape s, const std::vector<double>& v) { return HostTensor::from(DType::f32, std::move(s), v); }
HostTensor i64(const std::vector<double>& v) { return HostTensor::from(DType::i64, {static_cast<int64_t>(v.size())}, v); }
template <class F>
void throws(Code code, const std::string& part, F&& f) {
  try {
    f();
    ADD_FAILURE() << "accepted; wanted " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code, code) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_FALSE(e.help.empty());
  }
}

TEST(OnnxImport, WeightsAreStatesAndSmallInitializersConstants) {
  GraphParts g;
  std::vector<double> w(100);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<double>(i % 7);
  g.nodes = {node("MatMul", {"x", "w"}, {"h"}), node("Add", {"h", "b"}, {"y"}), node("Reshape", {"y", "shape"}, {"z"})};
  g.inputs = {value("x", kF32, {std::string("batch"), int64_t{10}})};
  g.outputs = {value("z", kF32, {})};
  g.initializers = {tensor("w", f32({10, 10}, w)), tensor("b", f32({10}, std::vector<double>(10, 0.5))), tensor("shape", i64({-1, 2, 5})), tensor("unused", f32({100}, w))};
  ImportOptions options;
  options.dims["batch"] = 3;
  const Loaded m = load(model(g), options);
  ASSERT_EQ(reasons(m.imported), "");
  ASSERT_EQ(m.imported.weights.size(), 1u);   // "unused" is not asked for
  EXPECT_EQ(m.imported.weights[0].first, "w");
  ASSERT_EQ(m.imported.graph.states.size(), 1u);
  EXPECT_EQ(m.imported.graph.states[0].name, "w");
  EXPECT_EQ(m.imported.graph.states[0].output, m.imported.graph.states[0].input);   // which no run changes
  const HostTensor x = f32({3, 10}, std::vector<double>(30, 1));
  const HostTensor z = run(m.imported, {x})[0];
  EXPECT_EQ(z.shape, (Shape{3, 2, 5}));
  double column = 0.5;
  for (size_t i = 0; i < 10; ++i) column += w[10 * i];
  EXPECT_EQ(z.at(0), column);
  // Prints, reads back, and names the ONNX node by number.
  const std::string text = to_string(m.imported.graph);
  EXPECT_EQ(parse_graph(text), m.imported.graph);
  EXPECT_NE(text.find("m.onnx:1\""), std::string::npos) << text;
}

TEST(OnnxImport, ExtentsThatAreNotKnownAreAskedFor) {
  GraphParts g;
  g.nodes = {node("Neg", {"x"}, {"y"})};
  g.inputs = {value("x", kF32, {std::string("N"), int64_t{2}})};
  g.outputs = {value("y", kF32, {})};
  throws(Code::unknown_extent, "--dim N=8", [&] { load(model(g)); });
  ImportOptions by_shape;
  by_shape.shapes["x"] = {{4, 2}};
  EXPECT_EQ(load(model(g), by_shape).imported.graph.type(0).shape, (Shape{4, 2}));
}

TEST(OnnxImport, ShapesComputedFromShapesAreFolded) {
  GraphParts g;   // flatten all but the first axis by hand
  g.nodes = {node("Shape", {"x"}, {"s"}), node("Gather", {"s", "zero"}, {"n"}, {attribute("axis", int64_t{0})}), node("Unsqueeze", {"n", "axes"}, {"n1"}), node("Concat", {"n1", "rest"}, {"to"}, {attribute("axis", int64_t{0})}),
             node("Reshape", {"x", "to"}, {"y"})};
  g.inputs = {value("x", kF32, {2, 3, 4})};
  g.outputs = {value("y", kF32, {})};
  g.initializers = {tensor("zero", HostTensor::full(DType::i64, {}, 0)), tensor("axes", i64({0})), tensor("rest", i64({-1}))};
  const Loaded m = load(model(g));
  ASSERT_EQ(reasons(m.imported), "");
  EXPECT_EQ(m.imported.graph.type(m.imported.graph.outputs[0].node).shape, (Shape{2, 12}));
  EXPECT_EQ(m.imported.graph.nodes.size(), 2u) << to_string(m.imported.graph);   // the computed shape leaves nothing
}

TEST(OnnxImport, EverythingMissingIsListed) {
  GraphParts g;
  g.nodes = {node("NonMaxSuppression", {"x", "x"}, {"a"}), node("Neg", {"a"}, {"b"}), node("Magic", {"b"}, {"c"}, {}, "mine"), node("Reshape", {"x", "s"}, {"d"}), node("Cast", {"x"}, {"e"}, {attribute("to", int64_t{23})}),
             node("Exp", {"x"}, {"f"})};
  g.inputs = {value("x", kF32, {2, 3}), value("s", kI64, {1}), value("q", 18, {4})};
  g.outputs = {value("c", kF32, {}), value("f", kF32, {})};
  const Loaded m = load(model(g));
  ASSERT_EQ(m.imported.missing.size(), 5u) << reasons(m.imported);
  const std::string text = missing_error("m.onnx", m.imported.missing).what();
  for (const char* part : {"NonMaxSuppression \"node_a\"", "mine.Magic \"node_c\": no such op", "Reshape \"node_d\": the shape must be known", "Cast \"node_e\": dtype f4e2m1", "input \"q\": dtype f8e4m3fnuz", "--bind"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  for (const Missing& x : m.imported.missing) EXPECT_FALSE(x.wrong) << x.reason;
}

TEST(OnnxImport, BoundInputsAreConstants) {
  GraphParts g;
  g.nodes = {node("Reshape", {"x", "s"}, {"y"})};
  g.inputs = {value("x", kF32, {2, 3}), value("s", kI64, {1})};
  g.outputs = {value("y", kF32, {})};
  ImportOptions bound, offered;
  bound.bound["s"] = i64({6});
  const Loaded a = load(model(g), bound);
  EXPECT_EQ(a.imported.graph.inputs.size(), 1u);
  EXPECT_EQ(run(a.imported, {f32({2, 3}, {1, 2, 3, 4, 5, 6})})[0], f32({6}, {1, 2, 3, 4, 5, 6}));
  offered.offered["s"] = i64({6});
  const Loaded b = load(model(g), offered);
  EXPECT_EQ(b.imported.graph.inputs.size(), 2u);
  EXPECT_EQ(b.imported.used, std::set<std::string>{"s"});
}

TEST(OnnxImport, OldPReluHasASlopeForEveryChannel) {
  GraphParts g;
  g.nodes = {node("PRelu", {"x", "slope"}, {"y"})};
  g.inputs = {value("x", kF32, {2, 3, 2})};
  g.outputs = {value("y", kF32, {})};
  g.initializers = {tensor("slope", f32({3}, {0.5, 2, 4}))};
  const Loaded m = load(model(g, 6));
  ASSERT_EQ(reasons(m.imported), "");
  EXPECT_EQ(run(m.imported, {f32({2, 3, 2}, {-1, 1, -1, 1, -1, 1, 1, 1, 1, 1, -2, -3})})[0], f32({2, 3, 2}, {-0.5, 1, -2, 1, -4, 1, 1, 1, 1, 1, -8, -12}));
  EXPECT_FALSE(load(model(g, 7)).imported.missing.empty());   // broadcasts from the last axis
}

// Far below 0 and close to it: nothing cancels.
TEST(OnnxImport, ActivationsDoNotCancel) {
  const std::pair<const char*, double (*)(double)> ops[] = {{"Softplus", [](double x) { return std::log1p(std::exp(x)); }},
                                                            {"Mish", [](double x) { return x * std::tanh(std::log1p(std::exp(x))); }},
                                                            {"Elu", [](double x) { return std::expm1(x); }},
                                                            {"Celu", [](double x) { return std::expm1(x); }},
                                                            {"Selu", [](double x) { return 1.0507009873554805 * 1.6732632423543772 * std::expm1(x); }}};
  for (const auto& [op, want] : ops) {
    GraphParts g;
    g.nodes = {node(op, {"x"}, {"y"})};
    g.inputs = {value("x", kF32, {int64_t{3}})};
    g.outputs = {value("y", kF32, {})};
    const Loaded m = load(model(g, 22));
    ASSERT_EQ(reasons(m.imported), "");
    const HostTensor x = f32({3}, {-20, -1e-6, -1}), y = run(m.imported, {x})[0];
    for (int64_t i = 0; i < 3; ++i) EXPECT_NEAR(y.at(i) / want(x.at(i)), 1, 1e-6) << op << " at " << x.at(i);
  }
}

TEST(OnnxImport, LargePoolsAreTheSmallOnes) {
  GraphParts g;   // 9 x 9 places, past the limit, and the same with indices, which takes the other way
  const std::vector<Pb> how = {attribute("kernel_shape", std::vector<int64_t>{9, 9}), attribute("strides", std::vector<int64_t>{3, 2}), attribute("dilations", std::vector<int64_t>{2, 1}), attribute("pads", std::vector<int64_t>{4, 3, 2, 1}), attribute("ceil_mode", int64_t{1})};
  g.nodes = {node("MaxPool", {"x"}, {"y"}, how), node("MaxPool", {"x"}, {"z", "i"}, how)};
  g.inputs = {value("x", kF32, {2, 1, 20, 15})};
  g.outputs = {value("y", kF32, {}), value("z", kF32, {}), value("i", kI64, {})};
  const Loaded m = load(model(g));
  ASSERT_EQ(reasons(m.imported), "");
  std::vector<double> x(600);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i * 7919 % 601) - 300;
  const std::vector<HostTensor> out = run(m.imported, {f32({2, 1, 20, 15}, x)});
  EXPECT_EQ(out[0], out[1]);
  EXPECT_GT(out[0].size(), 20);
}

TEST(OnnxImport, GradientsOfWhatCameBefore) {
  Pb xs = Pb().bytes(1, "xs").bytes(9, "a").bytes(9, "b").number(20, 8);
  GraphParts g;
  g.nodes = {node("Mul", {"a", "b"}, {"c"}), node("Mul", {"c", "a"}, {"d"}), node("Gradient", {"a", "b"}, {"da", "db"}, {xs, attribute("y", std::string("d"))}, "ai.onnx.preview.training")};
  g.inputs = {value("a", kF32, {}), value("b", kF32, {})};
  g.outputs = {value("d", kF32, {}), value("da", kF32, {}), value("db", kF32, {})};
  const Loaded m = load(model(g));
  ASSERT_EQ(reasons(m.imported), "");
  PassContext context;
  Imported expanded = m.imported;
  expanded.graph = expand(m.imported.graph, context);
  const std::vector<HostTensor> out = run(expanded, {f32({}, {3}), f32({}, {5})});
  EXPECT_EQ(out[0].at(0), 45);
  EXPECT_EQ(out[1].at(0), 30);
  EXPECT_EQ(out[2].at(0), 9);
  g.nodes[2] = node("Gradient", {"b", "a"}, {"da", "db"}, {xs, attribute("y", std::string("d"))}, "ai.onnx.preview.training");
  EXPECT_NE(reasons(load(model(g)).imported).find("at other values"), std::string::npos);
  g.nodes[2] = node("Gradient", {"a", "b"}, {"da", "db"}, {xs, attribute("y", std::string("none"))}, "ai.onnx.preview.training");
  EXPECT_NE(reasons(load(model(g)).imported).find("\"none\" is not defined"), std::string::npos);
}

TEST(OnnxImport, FunctionsAreInlinedWithTheirAttributes) {
  Pb leaky = node("LeakyRelu", {"t"}, {"out"});
  leaky.message(5, Pb().bytes(1, "alpha").number(20, 1).bytes(21, "slope"));   // stands for the call's slope
  const Pb f = Pb().bytes(1, "Twice").bytes(4, "in").bytes(5, "out").bytes(6, "slope").message(7, node("Add", {"in", "in"}, {"t"})).message(7, leaky).message(9, opset("", 17)).bytes(10, "mine");
  GraphParts g;
  g.nodes = {node("Twice", {"x"}, {"y"}, {attribute("slope", 0.25f)}, "mine"), node("Twice", {"y"}, {"z"}, {attribute("slope", 0.5f)}, "mine")};
  g.inputs = {value("x", kF32, {2})};
  g.outputs = {value("z", kF32, {})};
  const Loaded m = load(model(g, 17, {f}));
  ASSERT_EQ(reasons(m.imported), "");
  EXPECT_EQ(run(m.imported, {f32({2}, {1, -1})})[0], f32({2}, {4, -0.5}));
}

TEST(OnnxImport, FunctionsThatCallThemselvesEnd) {
  const auto calls = [](const std::string& name, const std::string& callee, int times) {
    Pb f = Pb().bytes(1, name).bytes(4, "a").bytes(5, "b").bytes(10, "mine").message(9, opset("", 17)).message(9, opset("mine", 1));
    std::string from = "a";
    for (int i = 0; i < times; ++i) {
      const std::string to = i + 1 == times ? "b" : "t" + std::to_string(i);
      f.message(7, node(callee, {from}, {to}, {}, callee == "Neg" ? "" : "mine"));
      from = to;
    }
    return f;
  };
  GraphParts g;
  g.nodes = {node("F0", {"x"}, {"y"}, {}, "mine")};
  g.inputs = {value("x", kF32, {2})};
  g.outputs = {value("y", kF32, {})};
  throws(Code::bad_onnx, "call each other", [&] { load(model(g, 17, {calls("F0", "F0", 1)})); });
  std::vector<Pb> doubling;   // 10^7 nodes
  for (int i = 0; i < 7; ++i) doubling.push_back(calls("F" + std::to_string(i), i == 6 ? "Neg" : "F" + std::to_string(i + 1), 10));
  throws(Code::onnx_unsupported, "more than 200000 nodes", [&] { load(model(g, 17, doubling)); });
}

TEST(OnnxImport, BranchesAndLoops) {
  GraphParts yes, no, body, g;
  yes.nodes = {node("Neg", {"x"}, {"r"})};
  yes.outputs = {value("r", kF32, {2})};
  no.nodes = {node("Add", {"x", "x"}, {"r"})};
  no.outputs = {value("r", kF32, {2})};
  body.nodes = {node("Mul", {"v", "x"}, {"next"}), node("Identity", {"go"}, {"go_on"})};
  body.inputs = {value("i", kI64, {}), value("go", 9, {}), value("v", kF32, {2})};
  body.outputs = {value("go_on", 9, {}), value("next", kF32, {2}), value("next", kF32, {2})};
  g.nodes = {node("If", {"c"}, {"a"}, {graph_attribute("then_branch", yes.pb()), graph_attribute("else_branch", no.pb())}),
             node("Loop", {"n", "", "x"}, {"power", "powers"}, {graph_attribute("body", body.pb())})};
  g.inputs = {value("x", kF32, {2}), value("c", 9, {})};
  g.outputs = {value("a", kF32, {}), value("power", kF32, {}), value("powers", kF32, {})};
  g.initializers = {tensor("n", HostTensor::full(DType::i64, {}, 2))};
  const Loaded m = load(model(g));
  ASSERT_EQ(reasons(m.imported), "");
  for (bool condition : {true, false}) {
    const auto out = run(m.imported, {f32({2}, {2, 3}), HostTensor::full(DType::boolean, {}, condition)});
    EXPECT_EQ(out[0], condition ? f32({2}, {-2, -3}) : f32({2}, {4, 6}));
    EXPECT_EQ(out[1], f32({2}, {8, 27}));
    EXPECT_EQ(out[2], f32({2, 2}, {4, 9, 8, 27}));
  }
}

TEST(OnnxImport, DamagedGraphs) {
  GraphParts g;
  g.inputs = {value("x", kF32, {2})};
  g.outputs = {value("y", kF32, {})};
  g.nodes = {node("Neg", {"nowhere"}, {"y"})};
  throws(Code::bad_onnx, "\"nowhere\", which is not defined", [&] { load(model(g)); });
  g.nodes = {node("Neg", {"x"}, {"y"}), node("Neg", {"x"}, {"y"})};
  throws(Code::bad_onnx, "defines \"y\" again", [&] { load(model(g)); });
  g.nodes = {node("Neg", {"x"}, {"z"})};
  throws(Code::bad_onnx, "output \"y\" is not defined", [&] { load(model(g)); });
  g.nodes = {node("Add", {"x", "w"}, {"y"})};
  g.initializers = {tensor("w", f32({3}, {1, 2, 3}))};
  const Loaded m = load(model(g));
  ASSERT_EQ(m.imported.missing.size(), 1u);
  EXPECT_TRUE(m.imported.missing[0].wrong);
  EXPECT_NE(m.imported.missing[0].reason.find("do not broadcast"), std::string::npos) << m.imported.missing[0].reason;
}

// One node of f32 inputs x, w, … and constants, run on the interpreter; `outs` outputs.
std::vector<HostTensor> run_node(const std::string& op, const std::vector<HostTensor>& inputs, const std::vector<Pb>& attributes, size_t outs = 1, const std::vector<HostTensor>& constants = {}) {
  GraphParts g;
  std::vector<std::string> names, results;
  for (size_t i = 0; i < inputs.size(); ++i) {
    names.push_back("x" + std::to_string(i));
    std::vector<Dim> dims;
    for (int64_t e : inputs[i].shape) dims.emplace_back(e);
    g.inputs.push_back(value(names.back(), element_of(inputs[i].dtype), dims));
  }
  for (size_t i = 0; i < constants.size(); ++i) {
    names.push_back("c" + std::to_string(i));
    g.initializers.push_back(tensor(names.back(), constants[i]));
  }
  for (size_t o = 0; o < outs; ++o) {
    results.push_back("y" + std::to_string(o));
    g.outputs.push_back(value(results.back(), kF32, {}));
  }
  g.nodes = {node(op, names, results, attributes)};
  const Loaded m = load(model(g, 22));
  EXPECT_EQ(reasons(m.imported), "");
  return m.imported.missing.empty() ? run(m.imported, inputs) : std::vector<HostTensor>(outs);
}
HostTensor counted(Shape s, int64_t modulus) {
  std::vector<double> v(static_cast<size_t>(count(s)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(static_cast<int64_t>(i * 7) % modulus) - 3;
  return f32(std::move(s), v);
}

TEST(OnnxImport, ConvolutionsPadThemselvesAndKeepGroupsApart) {
  // Two groups of two channels; 6 elements at stride 2 want one of padding for kernels of 3: where auto_pad says.
  const HostTensor x = counted({1, 4, 6}, 11), w = counted({4, 2, 3}, 5);
  for (const std::string pad : {"SAME_UPPER", "SAME_LOWER"}) {
    const HostTensor y = run_node("Conv", {x, w}, {attribute("auto_pad", pad), attribute("strides", std::vector<int64_t>{2}), attribute("group", int64_t{2})})[0];
    ASSERT_EQ(y.shape, (Shape{1, 4, 3})) << pad;
    for (int64_t o = 0; o < 4; ++o)
      for (int64_t p = 0; p < 3; ++p) {
        double want = 0;
        for (int64_t i = 0; i < 2; ++i)
          for (int64_t k = 0; k < 3; ++k) {
            const int64_t at = 2 * p + k - (pad == "SAME_LOWER");
            if (at >= 0 && at < 6) want += x.at((o / 2 * 2 + i) * 6 + at) * w.at((o * 2 + i) * 3 + k);
          }
        EXPECT_EQ(y.at(o * 3 + p), want) << pad << " " << o << " " << p;
      }
  }
  // Of its transpose, output_shape crops; the odd rest goes to the end only for SAME_UPPER.
  const HostTensor a = f32({1, 1, 2}, {1, 10}), b = f32({1, 1, 3}, {1, 2, 3});   // 1 2 13 20 30
  const std::vector<int64_t> two = {2}, four = {4};
  EXPECT_EQ(run_node("ConvTranspose", {a, b}, {attribute("strides", two), attribute("output_shape", four)})[0], f32({1, 1, 4}, {2, 13, 20, 30}));
  EXPECT_EQ(run_node("ConvTranspose", {a, b}, {attribute("strides", two), attribute("output_shape", four), attribute("auto_pad", std::string("SAME_UPPER"))})[0], f32({1, 1, 4}, {1, 2, 13, 20}));
}

TEST(OnnxImport, PoolsInCeilModeReachPastTheEnd) {
  const HostTensor x = f32({1, 1, 7}, {4, 1, 2, 2, 5, 3, 0});
  const std::vector<int64_t> three = {3}, two = {2}, pads = {1, 0};
  const std::vector<Pb> plain = {attribute("kernel_shape", three), attribute("strides", two), attribute("pads", pads)};
  std::vector<Pb> ceil = plain;
  ceil.push_back(attribute("ceil_mode", int64_t{1}));
  // Windows at -1, 1, 3 and, in ceil mode, 5, of which two elements exist.
  EXPECT_EQ(run_node("MaxPool", {x}, plain)[0], f32({1, 1, 3}, {4, 2, 5}));
  const std::vector<HostTensor> most = run_node("MaxPool", {x}, ceil, 2);
  EXPECT_EQ(most[0], f32({1, 1, 4}, {4, 2, 5, 3}));
  EXPECT_EQ(most[1], HostTensor::from(DType::i64, {1, 1, 4}, {0, 2, 4, 5}));   // the first of equals
  EXPECT_EQ(run_node("AveragePool", {x}, ceil)[0], f32({1, 1, 4}, {2.5, 5.0 / 3, 10.0 / 3, 1.5}));
  ceil.push_back(attribute("count_include_pad", int64_t{1}));   // the padding that is named, not what ceil mode adds
  EXPECT_EQ(run_node("AveragePool", {x}, ceil)[0], f32({1, 1, 4}, {5.0 / 3, 5.0 / 3, 10.0 / 3, 1.5}));
  // A window that would begin behind the elements and their low padding is none: those of 1 at stride 2 are at 0 and 2, not 4.
  const HostTensor y = f32({1, 1, 4}, {1, 2, 3, 4});
  EXPECT_EQ(run_node("MaxPool", {y}, {attribute("kernel_shape", std::vector<int64_t>{1}), attribute("strides", two), attribute("ceil_mode", int64_t{1})})[0], f32({1, 1, 2}, {1, 3}));
  // Beside -inf the padding, which is -inf as well, is never the greatest; storage_order 1 counts columns first.
  const HostTensor z = f32({1, 1, 1, 2}, {-INFINITY, -INFINITY});
  const std::vector<HostTensor> least = run_node("MaxPool", {z}, {attribute("kernel_shape", std::vector<int64_t>{2, 2}), attribute("pads", std::vector<int64_t>{1, 0, 1, 0})}, 2);
  EXPECT_EQ(least[1], HostTensor::from(DType::i64, {1, 1, 2, 1}, {0, 0}));
  const HostTensor m = f32({1, 1, 2, 3}, {0, 0, 0, 0, 0, 9});
  EXPECT_EQ(run_node("MaxPool", {m}, {attribute("kernel_shape", std::vector<int64_t>{2, 3}), attribute("storage_order", int64_t{1})}, 2)[1].at(0), 5);
  EXPECT_EQ(run_node("MaxPool", {f32({1, 1, 2, 3}, {0, 0, 9, 0, 0, 0})}, {attribute("kernel_shape", std::vector<int64_t>{2, 3}), attribute("storage_order", int64_t{1})}, 2)[1].at(0), 4);
}

TEST(OnnxImport, OrdersAndRunningSums) {
  const double inf = INFINITY, nan = NAN;
  const std::vector<HostTensor> top = run_node("TopK", {f32({6}, {1, nan, 3, -inf, 3, inf})}, {}, 2, {i64({5})});
  EXPECT_EQ(top[1], i64({1, 5, 2, 4, 0}));
  EXPECT_TRUE(std::isnan(top[0].at(0)));
  EXPECT_EQ(top[0].at(1), inf);
  EXPECT_EQ(run_node("TopK", {f32({6}, {1, nan, 3, -inf, 3, inf})}, {attribute("largest", int64_t{0})}, 2, {i64({6})})[1], i64({3, 0, 2, 4, 5, 1}));
  const std::vector<Pb> backwards = {attribute("reverse", int64_t{1}), attribute("exclusive", int64_t{1})};
  const HostTensor axis = HostTensor::full(DType::i64, {}, 0);
  EXPECT_EQ(run_node("CumSum", {f32({4}, {inf, 1, 2, 3})}, backwards, 1, {axis})[0], f32({4}, {6, 5, 3, 0}));
  EXPECT_EQ(run_node("CumProd", {f32({4}, {2, 3, 4, inf})}, {}, 1, {axis})[0], f32({4}, {2, 6, 24, inf}));
  const HostTensor ones = HostTensor::full(DType::f32, {5000}, 1);   // long axes are sorted and summed, too
  EXPECT_EQ(run_node("CumSum", {ones}, {}, 1, {axis})[0].at(4999), 5000);
  EXPECT_EQ(run_node("TopK", {ones}, {}, 2, {i64({2})})[1], i64({0, 1}));
  // Windows that overlap name an element twice, with one value.
  EXPECT_EQ(run_node("MaxUnpool", {f32({1, 1, 3}, {7, 7, 5})}, {attribute("kernel_shape", std::vector<int64_t>{2})}, 1, {HostTensor::from(DType::i64, {1, 1, 3}, {1, 1, 3})})[0], f32({1, 1, 4}, {0, 7, 0, 5}));
}

TEST(OnnxImport, WhatTheDataShapesNeedsTheData) {
  GraphParts g;
  g.nodes = {node("Unique", {"x"}, {"y", "first", "inverse", "counts"}, {attribute("sorted", int64_t{0})}), node("NonZero", {"x"}, {"places"})};
  g.inputs = {value("x", kF32, {5})};
  for (const char* name : {"y", "first", "inverse", "counts", "places"}) g.outputs.push_back(value(name, kF32, {}));
  ImportOptions options;
  EXPECT_EQ(load(model(g)).imported.missing.size(), 2u);
  options.bound["x"] = f32({5}, {2, 0, 2, 1, 0});
  const Loaded m = load(model(g), options);
  ASSERT_EQ(reasons(m.imported), "");
  const std::vector<HostTensor> got = run(m.imported, {});
  EXPECT_EQ(got[0], f32({3}, {2, 0, 1}));
  EXPECT_EQ(got[1], i64({0, 1, 3}));
  EXPECT_EQ(got[2], i64({0, 1, 0, 2, 1}));
  EXPECT_EQ(got[3], i64({2, 2, 1}));
  EXPECT_EQ(got[4], HostTensor::from(DType::i64, {1, 3}, {0, 2, 3}));
}

TEST(OnnxImport, FewBitsSaturateOrWrap) {
  const HostTensor x = f32({6}, {0.3, 460, 500, -1e6, -INFINITY, 61439});
  const auto to = [&](DType d, int64_t saturate) {
    return run_node("Cast", {x}, {attribute("to", element_of(d)), attribute("saturate", saturate)})[0];
  };
  EXPECT_EQ(to(DType::f8e4m3, 1), HostTensor::from(DType::f8e4m3, {6}, {0.3125, 448, 448, -448, -448, 448}));
  EXPECT_EQ(to(DType::f8e4m3, 0), HostTensor::from(DType::f8e4m3, {6}, {0.3125, 448, NAN, -NAN, -NAN, NAN}));
  EXPECT_EQ(to(DType::f8e5m2, 1), HostTensor::from(DType::f8e5m2, {6}, {0.3125, 448, 512, -57344, -57344, 57344}));
  EXPECT_EQ(to(DType::f8e5m2, 0), HostTensor::from(DType::f8e5m2, {6}, {0.3125, 448, 512, -INFINITY, -INFINITY, 57344}));
  EXPECT_EQ(run_node("Cast", {f32({4}, {-9, 7.9, 8, 15})}, {attribute("to", int64_t{22})})[0], HostTensor::from(DType::i4, {4}, {7, 7, -8, -1}));
  const auto i8 = [](const std::vector<double>& v) { return HostTensor::from(DType::i8, {static_cast<int64_t>(v.size())}, v); };
  EXPECT_EQ(run_node("Div", {i8({-128, -128, 7, -7}), i8({2, -1, -2, 3})}, {})[0], i8({-64, -128, -3, -2}));
}

// Every op of the tables refuses nonsense without harm: no inputs, too many, inputs of odd types and shapes.
TEST(OnnxImport, AnyOpOnAnyInputIsSafe) {
  const std::vector<std::string> ops = {
      "Abs", "Add", "AffineGrid", "ArgMax", "ArgMin", "Attention", "BatchNormalization", "Cast", "CausalConvWithState", "CenterCropPad", "Clip", "Col2Im", "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Div", "Dropout",
      "Einsum", "Expand", "EyeLike", "Flatten", "GRU", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GroupNormalization", "Hardmax", "If", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "LinearAttention",
      "LogSoftmax", "Loop", "LpNormalization", "MatMul", "Max", "MeanVarianceNormalization", "Mod", "NegativeLogLikelihoodLoss", "OneHot", "PRelu", "Pad", "Pow", "RMSNormalization", "RNN", "Range", "ReduceLogSumExp", "ReduceMax", "ReduceSum", "Reshape",
      "Resize", "ReverseSequence", "RotaryEmbedding", "Scan", "ScatterElements", "ScatterND", "SequenceAt", "SequenceInsert", "Shape", "Slice", "Softmax", "SoftmaxCrossEntropyLoss", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "SwiGLU",
      "TensorScatter", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "AveragePool", "BitCast", "BitShift", "BitwiseAnd", "Conv", "ConvInteger", "ConvTranspose", "CumProd", "CumSum", "DeformConv", "LpPool", "MaxPool", "MaxUnpool",
      "NonMaxSuppression", "NonZero", "QLinearConv", "RoiAlign", "TfIdfVectorizer", "TopK", "Unique"};
  const std::vector<Pb> constants = {tensor("i1", i64({2})), tensor("i3", i64({-1, 0, 7})), tensor("huge", i64({int64_t{1} << 40, int64_t{1} << 40})), tensor("scalar", HostTensor::full(DType::f32, {}, 3)), tensor("zero", HostTensor::full(DType::i64, {}, 0)),
                                     tensor("truth", HostTensor::full(DType::boolean, {2}, 1)), tensor("empty", HostTensor(DType::f32, {0, 3})), tensor("m", f32({2, 3}, {1, 2, 3, 4, 5, 6})), tensor("cube", f32({1, 2, 2, 2}, std::vector<double>(8, 1)))};
  const std::vector<std::string> names = {"x", "i1", "i3", "huge", "scalar", "zero", "truth", "empty", "m", "cube", ""};
  std::mt19937 random(11);
  int fine = 0, refused = 0;
  for (const std::string& op : ops)
    for (int trial = 0; trial < 60; ++trial) {
      GraphParts g;
      std::vector<std::string> inputs;
      for (size_t n = random() % 6; inputs.size() < n;) inputs.push_back(names[random() % names.size()]);
      std::vector<Pb> attributes;
      for (const char* a : {"axis", "to", "axes", "num_groups", "hidden_size", "blocksize", "q_num_heads", "kv_num_heads", "num_scan_inputs", "keepdims", "size"})
        if (random() % 3 == 0) {
          const int64_t v = std::vector<int64_t>{-5, -1, 0, 1, 2, 99, int64_t{1} << 62}[random() % 7];
          attributes.push_back(std::string(a) == "axes" ? attribute(a, std::vector<int64_t>{v, 0}) : attribute(a, v));
        }
      for (const char* a : {"kernel_shape", "strides", "pads", "dilations", "output_shape", "ngram_counts", "ngram_indexes", "pool_int64s"})
        if (random() % 3 == 0) {
          std::vector<int64_t> v;
          for (size_t n = random() % 5; v.size() < n;) v.push_back(std::vector<int64_t>{-1, 0, 1, 1, 2, 3, int64_t{1} << 40, int64_t{1} << 62}[random() % 8]);
          attributes.push_back(attribute(a, v));
        }
      for (const char* a : {"group", "ceil_mode", "storage_order", "k", "sampling_ratio", "offset_group", "max_gram_length", "p"})
        if (random() % 4 == 0) attributes.push_back(attribute(a, std::vector<int64_t>{-1, 0, 1, 2, int64_t{1} << 62}[random() % 5]));
      g.nodes = {node(op, inputs, {"y", "y2"}, attributes)};
      g.inputs = {value("x", kF32, {2, 3, 4})};
      g.initializers = constants;
      try {
        const Loaded m = load(model(g, std::vector<int64_t>{7, 11, 13, 18, 22}[random() % 5]));
        ++(m.imported.missing.empty() ? fine : refused);
      } catch (const Error& e) {
        EXPECT_NE(e.kind, ErrorKind::internal) << op << ": " << e.what();
        ++refused;
      }
    }
  EXPECT_GT(fine, 100);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace quern::onnx
