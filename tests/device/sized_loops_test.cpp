// Loops and branches of one program for every batch size: values and gradients against the interpreter, at several sizes in
// turns; tensors whose symbolic size is not their first dim, which lie in rows as far apart as the bound's.
#include "frontend/nn.h"
#include "frontend/reduce.h"
#include "frontend/rnn.h"
#include "frontend/transforms.h"
#include "tests/support/loss.h"
#include "tests/support/sizes.h"

namespace quern {
namespace {

using Tensors = std::vector<Tensor>;
using test::loss_of;
using SizedLoops = test::Symbols;

void outputs(Model& m, const std::string& name, const Tensors& of) {
  for (size_t i = 0; i < of.size(); ++i) m.output(fmt::format("{} {}", name, i), of[i]);
}
void with_gradient(Model& m, const std::string& name, const Function& f, const Tensors& args) {
  const Reverse r = value_and_grad(loss_of(f), args);
  outputs(m, name, r.outputs);
  outputs(m, name + " gradient", r.gradients);
}

Graph lstm_graph(int64_t low, int64_t high, int64_t in, int64_t n, int64_t steps) {
  Model m;
  const int64_t batch = low == high ? low : m.symbol("batch", low, high);
  const Tensor x = m.input("x", DType::f32, {steps, batch, in}), h = m.input("h", DType::f32, {batch, n}), c = m.input("c", DType::f32, {batch, n});
  const Tensor wx = m.input("wx", DType::f32, {in, 4 * n}), wh = m.input("wh", DType::f32, {n, 4 * n}), b = m.input("b", DType::f32, {4 * n});
  with_gradient(m, "lstm", [](const Tensors& p) {
    const Recurrent r = lstm(p[0], p[1], p[2], p[3], p[4], p[5]);
    return Tensors{r.all, r.h, r.c};
  }, {x, h, c, wx, wh, b});
  return m.finish();
}

// Slices beside the alignment of slots and on it.
TEST_F(SizedLoops, LstmAndItsGradient) {
  expect_like_interpreter(lstm_graph(1, 64, 6, 5, 4), {64, 1, 3, 17, 64, 2});
  expect_like_interpreter(lstm_graph(1, 64, 16, 16, 7), {3, 64, 1, 33});
  expect_like_interpreter(lstm_graph(2, 10, 3, 3, 1), {2, 10, 7});
}

TEST_F(SizedLoops, OneSizeGivesWhatItsOwnProgramGives) {
  const Graph any = lstm_graph(1, 64, 6, 8, 5);
  const auto e = compiled(any);
  for (int64_t n : {64, 1, 3}) {
    SCOPED_TRACE(n);
    const std::vector<HostTensor> inputs = random_inputs(any, n), got = e->run(inputs), want = compiled(lstm_graph(n, n, 6, 8, 5))->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5) << any.outputs[o].name;
  }
}

TEST_F(SizedLoops, OtherLayersBothWays) {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 20), n = 16;
  const Tensor x = m.input("x", DType::f32, {batch, 6, 4}), h = m.input("h", DType::f32, {batch, n});   // as data lies: batch first
  const Tensor vx = m.input("vx", DType::f32, {4, 3 * n}), vh = m.input("vh", DType::f32, {n, 3 * n}), d = m.input("d", DType::f32, {3 * n}), e = m.input("e", DType::f32, {3 * n});
  const Tensor wx = m.input("wx", DType::f32, {4, n}), wh = m.input("wh", DType::f32, {n, n}), b = m.input("b", DType::f32, {n});
  with_gradient(m, "gru", [](const Tensors& p) {
    const Recurrent r = gru(transpose(p[0], {1, 0, 2}), p[1], p[2], p[3], p[4], p[5], Direction::backward);
    return Tensors{transpose(r.all, {1, 0, 2}), r.h};
  }, {x, h, vx, vh, d, e});
  with_gradient(m, "elman", [](const Tensors& p) {
    const Recurrent r = elman(transpose(p[0], {1, 0, 2}), p[1], p[2], p[3], p[4]);
    return Tensors{r.all, r.h};
  }, {x, h, wx, wh, b});
  expect_like_interpreter(m.finish(), {20, 1, 8, 3, 19});
}

// Carries that are stacked before and after each step, either way; results that are outputs and go on.
TEST_F(SizedLoops, HistoriesAndStacks) {
  for (Direction d : {Direction::forward, Direction::backward})
    for (int64_t n : {5, 16}) {
      Model m;
      const int64_t batch = m.symbol("batch", 1, 16);
      const Tensor xs = m.input("xs", DType::f32, {3, batch, n}), h = m.input("h", DType::f32, {batch, n}), w = m.input("w", DType::f32, {n, n});
      const Scan r = scan([&](const Tensors& c, const Tensors& x) {
        const Tensor next = tanh(matmul(c[0], w) + x[0]);
        return ScanStep{{next, c[1] + mean(next)}, {c[0], next, sum(next, {1}), matmul(x[0], w)}};
      }, {h, m.constant(HostTensor(DType::f32, {}))}, {xs}, -1, d);
      outputs(m, "carry", r.carries);
      outputs(m, "stack", r.stacked);
      m.output("again", r.stacked[1]);
      m.output("behind", r.stacked[0] * r.stacked[1] + expand_dims(r.stacked[2], 2));
      m.output("over the steps", sum(r.stacked[1], {0}));
      m.output("over the batch", sum(r.stacked[1], {1}));
      m.output("argument", xs);
      expect_like_interpreter(m.finish(), {16, 1, 5, 16, 2});
    }
}

TEST_F(SizedLoops, BranchesAndWhileLoops) {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 40);
  const Tensor x = m.input("x", DType::f32, {batch, 6}), y = m.input("y", DType::f32, {2, batch}), w = m.input("w", DType::f32, {6, 6});
  const Tensor positive = m.input("positive", DType::boolean, {});
  with_gradient(m, "cond", [&](const Tensors& p) {
    return cond(positive, [](const Tensors& q) { return Tensors{matmul(q[0], q[1]), q[2] * 2.0}; }, [](const Tensors& q) { return Tensors{tanh(q[0]), transpose(slice(q[0], 1, 0, 2), {1, 0}) + q[2]}; }, {p[0], p[2], p[1]});
  }, {x, y, w});
  const Tensors halved = while_loop([](const Tensors& c) { return greater(max(c[0] * c[0]), 0.01); }, [](const Tensors& c) { return Tensors{c[0] * 0.5, c[1] + transpose(slice(c[0], 1, 0, 2), {1, 0}), c[2] + 1}; }, {x, y, m.constant(HostTensor(DType::i32, {}))});
  outputs(m, "while", halved);
  expect_like_interpreter(m.finish(), {40, 1, 7, 40, 3});
}

// A loop in a loop, with a branch in it, batched over constant lanes and over the symbol itself.
TEST_F(SizedLoops, NestedAndBatched) {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 12);
  const Tensor xs = m.input("xs", DType::f32, {3, 2, batch, 5}), h = m.input("h", DType::f32, {4, batch, 5}), w = m.input("w", DType::f32, {5, 5});
  const Function loops = [&](const Tensors& p) {
    const Scan r = scan([&](const Tensors& c, const Tensors& x) {
      const Scan inner = scan([&](const Tensors& k, const Tensors& z) {
        const Tensor next = cond(greater(sum(k[0]), 0), [&](const Tensors& q) { return Tensors{tanh(matmul(q[0], w))}; }, [](const Tensors& q) { return Tensors{q[0] - 0.25}; }, {k[0]})[0] + z[0];
        return ScanStep{{next}, {next}};
      }, {c[0]}, {x[0]});
      return ScanStep{{inner.carries[0]}, {inner.stacked[0]}};
    }, {p[0]}, {p[1]});
    return Tensors{r.carries[0], r.stacked[0]};
  };
  outputs(m, "lanes", vmap(loops, {h, xs}, {0, -1}));
  outputs(m, "gradients", value_and_grad([&](const Tensors& p) {
    const Tensors r = vmap(loops, {p[0], p[1]}, {0, -1});
    return Tensors{sum(sin(r[0])) + sum(r[1] * r[1])};
  }, {h, xs}).gradients);
  const Tensor rows = m.input("rows", DType::f32, {batch, 4, 6}), start = m.input("start", DType::f32, {6}), u = m.input("u", DType::f32, {6, 6});
  const Function one = [&](const Tensors& p) {
    const Scan r = scan([&](const Tensors& c, const Tensors& x) {
      const Tensor next = tanh(matmul(expand_dims(c[0] + x[0], 0), u));
      return ScanStep{{reshape(next, {6})}, {sum(next)}};
    }, {start}, {p[0]});
    return Tensors{r.carries[0], r.stacked[0]};
  };
  outputs(m, "of each", vmap(one, {rows}));
  expect_like_interpreter(m.finish(), {12, 1, 5, 12, 2});
}

// The symbol says how many steps there are.
TEST_F(SizedLoops, AsManyStepsAsTheInputHas) {
  for (int64_t n : {3, 16}) {
    Model m;
    const int64_t steps = m.symbol("steps", 1, 20);
    const Tensor x = m.input("x", DType::f32, {steps, 2, n}), h = m.input("h", DType::f32, {2, n}), c = m.input("c", DType::f32, {2, n});
    const Tensor wx = m.input("wx", DType::f32, {n, 4 * n}), wh = m.input("wh", DType::f32, {n, 4 * n}), b = m.input("b", DType::f32, {4 * n});
    for (Direction d : {Direction::forward, Direction::backward})
      with_gradient(m, d == Direction::forward ? "forward" : "backward", [d](const Tensors& p) {
        const Recurrent r = lstm(p[0], p[1], p[2], p[3], p[4], p[5], d);
        return Tensors{r.all, r.h, r.c};
      }, {x, h, c, wx, wh, b});
    const Scan swapped = scan([](const Tensors& k, const Tensors& z) { return ScanStep{{k[1], softmax(k[0] + z[0])}, {k[0], k[1]}}; }, {h, c}, {x});
    outputs(m, "swapped", swapped.carries);
    outputs(m, "stacks of swapped", swapped.stacked);
    with_gradient(m, "elementwise", [](const Tensors& p) {
      const Scan r = scan([](const Tensors& k, const Tensors& z) { return ScanStep{{sin(k[0]) + z[0]}, {k[0]}}; }, {p[0]}, {p[1]});
      return Tensors{r.stacked[0], r.carries[0]};
    }, {h, x});
    expect_like_interpreter(m.finish(), {20, 1, 2, 7, 20, 19});
  }
}

// Steps that are elementwise are one kernel, whatever the size of a step.
TEST_F(SizedLoops, ElementwiseStepsAreOneKernel) {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 50);
  const Tensor xs = m.input("xs", DType::f32, {9, batch, 3}), decay = m.input("decay", DType::f32, {batch, 3});
  for (Direction d : {Direction::forward, Direction::backward}) {
    const Scan r = scan([&](const Tensors& c, const Tensors& x) {
      const Tensor next = c[0] * decay + x[0];
      return ScanStep{{next}, {next}};
    }, {decay}, {xs}, -1, d);
    outputs(m, d == Direction::forward ? "forward" : "backward", {r.carries[0], r.stacked[0]});
  }
  m.output("running sum", cumsum(xs, 0));
  const Graph graph = m.finish();
  CompileOptions options;
  options.target = device->target();
  options.use_cache = false;
  for (const Step& s : compile(graph, options).steps) EXPECT_FALSE(std::holds_alternative<Loop>(s));
  expect_like_interpreter(graph, {50, 1, 4, 33});
}

TEST_F(SizedLoops, TheSymbolInAnyDim) {
  Model m;
  const int64_t n = m.symbol("n", 1, 70);
  const Tensor x = m.input("x", DType::f32, {4, n}), y = m.input("y", DType::f32, {3, 2 * n, 8}), w = m.input("w", DType::f32, {8, 5}), k = m.input("k", DType::bf16, {2, 3, n});
  const Tensor i = m.input("i", DType::i32, {2, n}), table = m.input("table", DType::f32, {6, 16});
  m.output("elementwise", exp(x) * 2 + x);
  m.output("rows", tanh(y) * y);
  m.output("short", k * k);
  m.output("transposed", transpose(x, {1, 0}));
  m.output("twice", transpose(y, {1, 2, 0}) + 1.0);
  m.output("softmax over the symbol", softmax(x));
  m.output("sum over the symbol", sum(y, {1}));
  m.output("sum over the rest", sum(y, {0, 2}));
  m.output("max", max(x, {1}));
  m.output("all", mean(y * y));
  m.output("product", contract("tna,ab->tnb", y, w));
  m.output("weight gradient", contract("tna,tnb->ab", y, y * y));
  m.output("gram", contract("an,bn->ab", x, x));
  m.output("by lanes", contract("tna,tnb->tab", y, tanh(y)));
  m.output("short product", contract("abn,acn->abc", k, k));
  m.output("take", take(table, i));
  m.output("arg", argmax(x, 1));
  m.output("split", reshape(y, {3, 2 * n, 2, 4}));
  m.output("join", reshape(reshape(y, {3, 2 * n, 2, 4}) + 1.0, {3, 16 * n}));
  m.output("pad", pad(y, {1, 0, 2}, {0, 0, 1}));
  m.output("first rows", slice(y, 0, 0, 2));
  m.output("last rows", slice(y, 0, 1, 3) * 1.5);
  m.output("reversed", reverse(y, {0, 2}));
  m.output("above each other", concat({x, tanh(x)}, 0));
  m.output("running sum", cumsum(x, 1));
  m.output("iota", cast(iota(x.graph(), DType::i32, {4, n}, 1), DType::f32) + x);
  m.output("one row", m.input("z", DType::f32, {1, n, 3}) + 1.0);
  expect_like_interpreter(m.finish(), {70, 1, 7, 64, 69, 2, 70});
}

TEST_F(SizedLoops, Packages) {
  const Graph graph = lstm_graph(1, 16, 6, 8, 3);
  CompileOptions options;
  options.target = device->target();
  options.use_cache = false;
  const Program program = compile(graph, options);
  Executable direct(*device, program), loaded(*device, load_program(save_program(program), "p.qpk"));
  for (int64_t n : {5, 16, 1}) {
    const std::vector<HostTensor> inputs = random_inputs(graph, n);
    EXPECT_EQ(loaded.run(inputs), direct.run(inputs));
  }
}

TEST_F(SizedLoops, WhatIsRefused) {
  const auto code = [&](const std::function<void(Model&, int64_t)>& build) {
    try {
      Model m;
      build(m, m.symbol("n", 1, 8));
      compiled(m.finish());
    } catch (const Error& error) {
      return error.code;
    }
    return Code::general_bug;
  };
  EXPECT_EQ(code([](Model& m, int64_t n) {   // a stack of [n, n, 4]
    const Tensor xs = m.input("xs", DType::f32, {n, 4});
    outputs(m, "y", scan([&](const Tensors& c, const Tensors& x) { return ScanStep{{c[0] + x[0]}, {c[0]}}; }, {xs}, {xs}).stacked);
  }), Code::symbol_shape);
  EXPECT_EQ(code([](Model& m, int64_t n) { m.output("y", reverse(m.input("x", DType::f32, {4, n}), {1})); }), Code::symbol_place);
  EXPECT_EQ(code([](Model& m, int64_t n) { m.output("y", reshape(m.input("x", DType::f32, {3, n, 4}), {3 * n, 4})); }), Code::symbol_place);
  EXPECT_EQ(code([](Model& m, int64_t n) { m.output("y", random_uniform(m.input("key", DType::u32, {}), {3, n}, 0)); }), Code::symbol_place);
  EXPECT_EQ(code([](Model& m, int64_t n) { m.output("y", concat({m.input("x", DType::f32, {3, n}), m.input("y", DType::f32, {3, n})}, 1)); }), Code::symbol_place);
}

// What a run of one size moves: rows of that size, as far apart as the bound's.
TEST(SizedLoopsOnNothing, RowsAreMovedOneByOne) {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 8);
  const Tensor xs = m.input("xs", DType::f32, {2, batch, 16}), h = m.input("h", DType::f32, {batch, 16});
  const Scan r = scan([](const Tensors& c, const Tensors& x) { return ScanStep{{softmax(c[0] + x[0])}, {c[0]}}; }, {h}, {xs});
  m.output("all", r.stacked[0]);
  std::string transcript;
  const auto null = open_device("null", &transcript);
  CompileOptions options;
  options.use_cache = false;
  const auto e = jit(*null, m.finish(), options);
  transcript.clear();
  EXPECT_EQ(e->run({HostTensor(DType::f32, {2, 3, 16}), HostTensor(DType::f32, {3, 16})})[0].shape, (Shape{2, 3, 16}));
  EXPECT_NE(transcript.find("upload m1 192\nupload m1+512 192\nupload m2 192\n"), std::string::npos) << transcript;
  EXPECT_NE(transcript.find("download m3 192\ndownload m3+512 192\n"), std::string::npos) << transcript;
  const auto launches = [&] {
    int64_t n = 0;
    for (size_t at = 0; (at = transcript.find("\nlaunch", at)) != std::string::npos; ++at) ++n;
    return n;
  };
  EXPECT_EQ(launches(), 2) << transcript;
}

}  // namespace
}  // namespace quern
