// Symbolic sizes in graphs and kernels: texts, specialisation, the interpreter, lowering, and what is refused.
#include <gtest/gtest.h>

#include "ir/text.h"
#include "models/mlp.h"
#include "passes/tile/plan.h"
#include "tests/support/sweep.h"

namespace quern {
namespace {

Graph step(Batch batch) {
  Graph open = mlp_step({12, 4, {8}, 0}, batch, {}, 1).graph;
  for (const State& s : open.states) open.outputs.push_back({"next " + s.name, s.output});
  open.states.clear();
  return open;
}
std::vector<HostTensor> inputs_for(const Graph& graph, int64_t n) {
  std::mt19937_64 random(3);
  std::vector<HostTensor> out;
  const Graph sized = at_size(graph, n);
  for (NodeId i : sized.inputs) out.push_back(test::random_tensor(sized.type(i), 0, is_float(sized.type(i).dtype) ? 1 : 4, random));
  return out;
}
Code code_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.code;
  }
  return Code::general_bug;
}

TEST(Symbol, TextRoundTrips) {
  Model m;
  const int64_t n = m.symbol("batch", 2, 512);
  const Tensor x = m.input("x", DType::f32, {n, 6});
  m.output("y", reshape(mean(x) * x, {3 * n, 2}));
  const Graph g = m.finish();
  const std::string text = to_string(g);
  EXPECT_NE(text.find("symbol \"batch\" 2 512"), std::string::npos) << text;
  EXPECT_NE(text.find("f32[3n,2]"), std::string::npos) << text;
  EXPECT_NE(text.find("extent {shape=[6n]}"), std::string::npos) << text;
  EXPECT_EQ(parse_graph(text, "text"), g);
}

TEST(Symbol, SpecialisedGraphsAreThoseOfTheirSize) {
  const Graph any = step({1, 64});
  for (int64_t n : {1, 5, 64}) {
    PassContext context;
    const std::vector<HostTensor> inputs = inputs_for(any, n);
    const std::vector<HostTensor> got = interpret(expand(any, context), inputs), want = interpret(expand(step(n), context), inputs);
    ASSERT_EQ(got.size(), want.size());
    for (size_t o = 0; o < got.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-6) << any.outputs[o].name;
  }
}

TEST(Symbol, KernelsOfOneSymbolServeEverySize) {
  const Graph any = step({1, 64});
  PassContext context;
  const Graph reference = expand(any, context);
  for (int64_t n : {1, 5, 63, 64}) {
    const std::vector<HostTensor> inputs = inputs_for(any, n), want = interpret(reference, inputs);
    const std::vector<HostTensor> lowered = test::run_tiles(any, inputs, [](tile::Kernel k) { return k; });
    const std::vector<HostTensor> planned = test::run_tiles(any, inputs, [](const tile::Kernel& k) {
      const tile::Kernel p = plan_cpu(k, "avx2");
      EXPECT_EQ(to_string(tile::parse_kernel(to_string(p))), to_string(p));
      return p;
    });
    for (size_t o = 0; o < want.size(); ++o) {
      EXPECT_LE(compare(lowered[o], want[o]).error, 1e-5) << any.outputs[o].name;
      EXPECT_LE(compare(planned[o], want[o]).error, 1e-5) << any.outputs[o].name;
    }
  }
}

// A kernel for sizes up to 8 in a program for sizes up to 64: the tensor's rows are as far apart as for 64.
TEST(Symbol, RowsHaveTheRoomOfTheBound) {
  Model m;
  const int64_t n = m.symbol("n", 1, 64);
  m.output("y", exp(m.input("x", DType::f32, {3, 2 * n, 4})) * 2.0);
  PassContext context;
  const Graph kernels = run_pipeline(m.finish(), context);
  for (const Node& node : kernels.nodes) {
    if (node.op != Op::call) continue;
    const tile::Kernel k = lower(*node.attrs.body, "k", 8, 64);
    const std::string text = to_string(k);
    EXPECT_NE(text.find("f32[3,8n<=64 of 512]"), std::string::npos) << text;
    EXPECT_EQ(to_string(tile::parse_kernel(text)), text);
    EXPECT_EQ(k.buffers[0].strides(), (Shape{512, 1}));
    EXPECT_EQ(tile::at_size(k, 5).buffers[0].strides(), (Shape{40, 1}));
    EXPECT_THROW(tile::parse_kernel(std::string(text).replace(text.find("of 512"), 6, "of 63")), Error);
  }
}

TEST(Symbol, WhatIsRefused) {
  const auto model = [](const std::function<void(Model&, int64_t)>& build) {
    return [build] {
      Model m;
      build(m, m.symbol("n", 1, 8));
    };
  };
  EXPECT_EQ(code_of([] { Model().symbol("n", 0, 4); }), Code::symbol_shape);
  EXPECT_EQ(code_of([] { Model().symbol("n", 5, 4); }), Code::symbol_shape);
  EXPECT_EQ(code_of(model([](Model& m, int64_t) { m.symbol("other", 1, 4); })), Code::symbol_shape);
  EXPECT_EQ(code_of([] { Model().input("x", DType::f32, {kSymbol}); }), Code::symbol_shape);
  EXPECT_EQ(code_of(model([](Model& m, int64_t n) { m.input("x", DType::f32, {n + 1}); })), Code::symbol_shape);
  EXPECT_EQ(code_of(model([](Model& m, int64_t n) { m.input("x", DType::f32, {n, n}); })), Code::symbol_shape);
  EXPECT_EQ(code_of(model([](Model& m, int64_t n) { m.input("x", DType::f32, {n, 4}) + m.input("y", DType::f32, {8, 4}); })), Code::shapes_differ);
  EXPECT_EQ(code_of([] { parse_graph("graph (%0: f32[n] \"x\") {\n  output \"y\" %0\n}\n", "t"); }), Code::symbol_shape);
  // Parts of a symbolic dim that are no multiple of it, or not there at the least size.
  for (const auto& [start, limit, stride, code] : {std::tuple<int64_t, int64_t, int64_t, Code>{0, kSymbol, 2, Code::symbol_shape}, {1, kSymbol, 1, Code::symbol_shape}, {0, 2, 1, Code::slice_bounds}})
    EXPECT_EQ(code_of(model([&](Model& m, int64_t n) { slice(m.input("x", DType::f32, {n, 4}), 0, start, limit, stride); })), code) << start << " " << limit << " " << stride;
  EXPECT_EQ(code_of(model([](Model& m, int64_t n) { slice(m.input("x", DType::f32, {n, 4}), 0, 0, 1); })), Code::general_bug);   // the first row is always there
  // Not compiled yet: views along the symbol, and random bits of rows of it.
  const auto lowered = [](const std::function<Tensor(Model&, int64_t)>& build) {
    return [build] {
      Model m;
      m.output("y", build(m, m.symbol("n", 1, 8)));
      PassContext context;
      const Graph kernels = run_pipeline(m.finish(), context);
      for (const Node& n : kernels.nodes)
        if (n.op == Op::call) lower(*n.attrs.body, "k", 8);
    };
  };
  EXPECT_EQ(code_of(lowered([](Model& m, int64_t n) { return reverse(m.input("x", DType::f32, {n, 4}), {0}); })), Code::symbol_place);
  EXPECT_EQ(code_of(lowered([](Model& m, int64_t n) { const Tensor x = m.input("x", DType::f32, {n, 4}); return concat({x, x}, 0); })), Code::symbol_place);
  for (int64_t start : {-1, 0})   // nine positions, of which a short x has fewer
    EXPECT_EQ(code_of(lowered([start](Model& m, int64_t n) {
      Attrs attrs;
      attrs.shape = {9}, attrs.start = {start}, attrs.stride = attrs.dilation = attrs.base = {1};
      GraphBuilder& b = m.builder();
      return Tensor(&b, b.add(Op::window, {m.input("x", DType::f32, {n, 1}).id(), b.scalar(DType::f32, 3)}, attrs));
    })), Code::symbol_place);
  EXPECT_EQ(code_of(lowered([](Model& m, int64_t n) { return slice(m.input("x", DType::f32, {2 * n, 4}), 0, 0, n); })), Code::general_bug);   // the first rows: no index depends on n
  EXPECT_EQ(code_of(lowered([](Model& m, int64_t n) { return slice(m.input("x", DType::f32, {2 * n, 4}), 0, n, 2 * n); })), Code::symbol_place);
  // Row 1 of [3, n] begins at element n, whose place in [n, 3] depends on n; row 3 of [6, n] begins at row 1 of [3, 3n].
  const auto row_of = [](Shape rows, int64_t row) {
    return [rows, row](Model& m, int64_t n) {
      Shape x = rows, turned = {count(rows), n};
      x[x[0] == 1 ? 0 : 1] *= n;
      return slice(reshape(m.input("x", DType::f32, x), turned), 0, row, row + 1);
    };
  };
  EXPECT_EQ(code_of(lowered(row_of({1, 3}, 1))), Code::symbol_place);
  EXPECT_EQ(code_of(lowered(row_of({1, 70}, 26))), Code::symbol_place);
  EXPECT_EQ(code_of(lowered(row_of({2, 3}, 3))), Code::general_bug);
}

}  // namespace
}  // namespace quern
