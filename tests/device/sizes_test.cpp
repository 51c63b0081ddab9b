// One program for every batch size: results at each size against the interpreter, sizes that are refused, packages.
#include "models/mlp.h"
#include "tests/support/sizes.h"

namespace quern {
namespace {

using Symbols = test::Symbols;

TEST_F(Symbols, EveryKindOfKernel) {
  Model m;
  const int64_t n = m.symbol("batch", 1, 700);
  const Tensor x = m.input("x", DType::f32, {n, 33}), y = m.input("y", DType::f32, {n, 33}), w = m.input("w", DType::f32, {33, 20});
  const Tensor v = m.input("v", DType::f32, {n}), i = m.input("i", DType::i32, {n}), table = m.input("table", DType::f32, {6, 16});
  const Tensor h = m.input("h", DType::bf16, {2 * n, 8});
  m.output("elementwise", x * y + 0.5);
  m.output("flat with a row", tanh(x) * exp(y));
  m.output("softmax", softmax(x));
  m.output("row sum", sum(x, {1}));
  m.output("column sum", sum(x, {0}));
  m.output("column max", max(x, {0}));
  m.output("all", mean(x * y));
  m.output("mean of a vector", mean(v));
  m.output("product", relu(matmul(x, w)));
  m.output("weight gradient", contract("na,nb->ab", x, y));
  m.output("vector by matrix", contract("n,na->a", v, x));
  m.output("per row", contract("na,na->n", x, y));
  m.output("take", take(table, i));
  m.output("arg", argmax(x, 1));
  m.output("pad", pad(x, {0, 1}, {0, 2}));
  m.output("reshape", reshape(x, {n, 3, 11}));
  m.output("join", reshape(reshape(x, {n, 3, 11}) + 1.0, {3 * n, 11}));
  m.output("transposed in the kernel", sum(transpose(x, {1, 0}), {1}));
  m.output("iota", cast(iota(x.graph(), DType::i32, {n, 4}, 0), DType::f32) + 1.0);
  m.output("bf16", h * h + 1.0);
  m.output("bf16 product", contract("na,nb->ab", h, h));
  expect_like_interpreter(m.finish(), {700, 1, 7, 128, 699, 64, 2, 700});
}

// One extent of a sample, wherever it occurs, becomes the symbol: what compiles is right at every size, the rest is refused.
TEST_F(Symbols, EveryOpWithEveryDim) {
  int64_t ran = 0, refused = 0;
  for (int o = 0; o < kOpCount; ++o) {
    const Op op = static_cast<Op>(o);
    std::vector<Sample> samples = def_of(op).samples(DType::f32);
    if (samples.empty()) samples = def_of(op).samples(DType::i32);
    if (samples.size() > 4) samples.resize(4);
    for (const Sample& sample : samples) {
      std::set<int64_t> extents;
      for (const Type& t : sample.args)
        for (int64_t d : t.shape)
          if (d > 1 && d < 40) extents.insert(d);
      for (int64_t e : extents) {
        Sample open = sample;
        const auto replace = [&](Shape& shape) { std::replace(shape.begin(), shape.end(), e, kSymbol); };
        for (Type& t : open.args) replace(t.shape);
        if (op == Op::reshape || op == Op::broadcast || op == Op::iota || op == Op::random) replace(open.attrs.shape);
        SCOPED_TRACE(fmt::format("{} with n for {}", name_of(op), e));
        Graph graph;
        std::unique_ptr<Executable> program;
        try {
          GraphBuilder b;
          b.symbol(Symbol{"n", e, e + 5});
          std::vector<NodeId> args;
          for (const Type& t : open.args) args.push_back(b.input(fmt::format("x{}", args.size()), t));
          b.output("y", b.add(op, args, open.attrs));
          graph = b.finish();
          program = compiled(graph);
        } catch (const Error& error) {
          EXPECT_NE(error.kind, ErrorKind::internal) << error.what();
          ++refused;
          continue;
        }
        PassContext context;
        const Graph reference = expand(graph, context);
        for (int64_t n : {e + 5, e, e + 1}) {
          std::vector<HostTensor> inputs;
          for (const Type& t : open.args) inputs.push_back(test::random_tensor(at_size(t, n), is_float(t.dtype) ? sample.low : 0, is_float(t.dtype) ? sample.high : 3, random));
          const HostTensor want = interpret(reference, inputs)[0], got = program->run(inputs)[0];
          const Difference d = compare(got, want);
          EXPECT_EQ(got.shape, want.shape);
          EXPECT_LE(d.error, tolerance_of(at_size(reference, n)).bound()) << "n = " << n << ", element " << d.at << ": got " << d.got << ", want " << d.want;
        }
        ++ran;
      }
    }
  }
  std::printf("%ld ran, %ld refused\n", static_cast<long>(ran), static_cast<long>(refused));
  EXPECT_GT(ran, 200);
}

// Past the end of a run lies what an earlier one left: nothing may read it.
TEST_F(Symbols, NothingIsReadPastTheEnd) {
  Model m;
  const int64_t n = m.symbol("n", 3, 60);
  const Tensor x = m.input("x", DType::f32, {n, 4}), y = m.input("y", DType::f32, {2, n}), i = m.input("i", DType::i32, {7});
  m.output("rows", take(x, i));
  m.output("columns", take(y, i, 1));
  m.output("first three", slice(x, 0, 0, 3) * 2.0);
  const Graph graph = m.finish();
  const auto e = compiled(graph);
  PassContext context;
  for (int64_t size : {60, 5, 3}) {
    std::vector<HostTensor> inputs = random_inputs(graph, size);
    for (int64_t k = 0; k < 7; ++k) inputs[2].set(k, Scalar::of_int(DType::i32, k - 1 + (k > 4) * 40));
    const std::vector<HostTensor> want = interpret(expand(graph, context), inputs), got = e->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_EQ(got[o], want[o]) << graph.outputs[o].name << " of size " << size;
  }
  Model four;
  const Tensor x4 = four.input("x", DType::f32, {four.symbol("n", 3, 60), 4});
  EXPECT_THROW(slice(x4, 0, 0, 4), Error);
}

TEST_F(Symbols, TrainingStepForEveryBatch) {
  for (const MlpConfig& config : {MlpConfig{64, 10, {32}, 0}, {17, 5, {9, 6}, 0.25}}) {
    Graph open = mlp_step(config, {1, 300}, {}, 1).graph;
    for (const State& s : open.states) open.outputs.push_back({"next " + s.name, s.output});
    open.states.clear();
    expect_like_interpreter(open, {1, 7, 128, 300, 12, 1});
  }
}

TEST_F(Symbols, TwoSizesInTurnsKeepTheirStates) {
  const TrainingStep any = mlp_step({12, 4, {8}, 0}, {1, 64}, {}, 1), ten = mlp_step({12, 4, {8}, 0}, 10, {}, 1), three = mlp_step({12, 4, {8}, 0}, 3, {}, 1);
  const auto e = compiled(any.graph), at_ten = compiled(ten.graph), at_three = compiled(three.graph);
  for (const auto& [name, value] : any.initial) {
    e->set_state(name, value);
    at_ten->set_state(name, value);
  }
  for (int k = 0; k < 6; ++k) {
    const bool small = k % 2;
    const std::vector<HostTensor> inputs = {test::random_tensor({DType::f32, {small ? 3 : 10, 12}, {}}, 0, 1, random), test::random_tensor({DType::i32, {small ? 3 : 10}, {}}, 0, 4, random)};
    Executable &fixed = small ? *at_three : *at_ten, &other = small ? *at_ten : *at_three;
    const HostTensor loss = e->run(inputs)[0], want = fixed.run(inputs)[0];
    EXPECT_NEAR(loss.at(0), want.at(0), 1e-5) << k;
    for (const auto& [name, value] : any.initial) other.set_state(name, fixed.state(name));
  }
}

TEST_F(Symbols, PackagesKeepTheSymbol) {
  const Graph graph = mlp_predict({12, 4, {8}, 0}, {2, 40});
  CompileOptions options;
  options.target = device->target();
  options.use_cache = false;
  Executable e(*device, load_program(save_program(compile(graph, options)), "p.qpk"));
  const Graph sized = at_size(graph, 9);
  std::vector<HostTensor> inputs;
  for (NodeId i : sized.inputs) inputs.push_back(test::random_tensor(sized.type(i), -1, 1, random));
  for (size_t s = 0; s < graph.states.size(); ++s)
    for (size_t i = 0; i < graph.inputs.size(); ++i)
      if (graph.states[s].input == graph.inputs[i]) e.set_state(graph.states[s].name, inputs[i]);
  PassContext context;
  EXPECT_EQ(e.run({inputs[0]})[0], interpret(expand(graph, context), inputs)[0]);
}

// The kernel for one row is that of a tensor that always has one.
TEST_F(Symbols, PackagesShareTheKernelForOneRow) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {m.symbol("n", 1, 100), 4}), w = m.input("w", DType::f32, {1, 4});
  m.output("y", tanh(x));
  m.output("z", tanh(w));
  CompileOptions options;
  options.target = device->target();
  const Program program = load_program(save_program(compile(m.finish(), options)), "p.qpk");
  Executable e(*device, program);
  for (int64_t n : {1, 100}) {
    const auto out = e.run({HostTensor::full(DType::f32, {n, 4}, 1), HostTensor::full(DType::f32, {1, 4}, 2)});
    EXPECT_NEAR(out[0].at(4 * n - 1), std::tanh(1), 1e-6);
    EXPECT_NEAR(out[1].at(3), std::tanh(2), 1e-6);
  }
}

TEST_F(Symbols, SizesThatAreRefused) {
  const TrainingStep step = mlp_step({12, 4, {8}, 0}, {2, 40}, {}, 1);
  const auto e = compiled(step.graph);
  for (const auto& [name, value] : step.initial) e->set_state(name, value);
  const auto code = [](const auto& f) {
    try {
      f();
    } catch (const Error& error) {
      return error.code;
    }
    return Code::general_bug;
  };
  EXPECT_EQ(code([&] { e->set_input(0, HostTensor(DType::f32, {1, 12})); }), Code::symbol_size);
  EXPECT_EQ(code([&] { e->set_input(0, HostTensor(DType::f32, {41, 12})); }), Code::symbol_size);
  EXPECT_EQ(code([&] { e->set_input(0, HostTensor(DType::f32, {8, 11})); }), Code::tensor_mismatch);
  e->set_input(0, HostTensor(DType::f32, {8, 12}));
  e->set_input(1, HostTensor(DType::i32, {9}));
  EXPECT_EQ(code([&] { e->run(); }), Code::symbol_size);
  e->set_input(1, HostTensor(DType::i32, {8}));
  e->run();
  EXPECT_EQ(e->output(0).shape, Shape{});
  EXPECT_EQ(code([&] {
    Model m;
    m.output("y", reverse(m.input("x", DType::f32, {m.symbol("n", 1, 8), 4}), {0}));
    compiled(m.finish());
  }), Code::symbol_place);
}

// Compiled once for each shape that comes, and the events say why; a symbol needs one program.
TEST_F(Symbols, CompilationsAreCounted) {
  const auto build = [](bool symbolic) {
    return [symbolic](const std::vector<Type>& in) {
      Model m;
      const Shape shape = {symbolic ? m.symbol("n", 1, 64) : in[0].shape[0], in[0].shape[1]};
      const Tensor x = m.input("x", in[0].dtype, shape);
      m.output("y", exp(x) * 2);
      return m.finish();
    };
  };
  CompileOptions options;
  options.use_cache = false;
  const auto call = [&](Specialized& f, DType dtype, Shape shape) {
    const HostTensor x = HostTensor::full(dtype, shape, 0.5);
    const HostTensor y = f.run({x})[0];
    EXPECT_EQ(y.shape, shape);
    EXPECT_NEAR(y.at(y.size() - 1), 2 * std::exp(0.5), 1e-6);
  };
  Specialized fixed(*device, build(false), options), any(*device, build(true), options);
  for (int64_t n : {4, 7, 4, 9, 7}) {
    call(fixed, DType::f32, {n, 3});
    call(any, DType::f32, {n, 3});
  }
  ASSERT_EQ(fixed.compilations().size(), 3u);
  EXPECT_EQ(fixed.compilations()[0].reason, "the first call");
  EXPECT_EQ(fixed.compilations()[2].reason, "input \"x\" is f32[9,3], the latest of 2 programs takes f32[7,3]");
  EXPECT_EQ(any.compilations().size(), 1u);
  call(any, DType::f64, {4, 3});
  EXPECT_EQ(any.compilations().size(), 2u);
  const auto wrong = [&](const std::vector<Type>&) { return build(false)({Type{DType::f32, {1, 1}, {}}}); };
  Specialized other(*device, wrong, options);
  EXPECT_THROW(other.run({HostTensor(DType::f32, {2, 2})}), Error);
  EXPECT_TRUE(other.compilations().empty());
}

// Calls with more and with fewer tensors than an earlier program takes are other programs.
TEST_F(Symbols, AnotherNumberOfInputsIsAnotherProgram) {
  CompileOptions options;
  options.use_cache = false;
  Specialized sum(*device, [](const std::vector<Type>& in) {
    Model m;
    Tensor total;
    for (size_t i = 0; i < in.size(); ++i) {
      const Tensor x = m.input(fmt::format("x{}", i), in[i].dtype, in[i].shape);
      total = i ? total + x : x;
    }
    m.output("y", total + 0.5);
    return m.finish();
  }, options);
  const HostTensor one = HostTensor::full(DType::f32, {4}, 1);
  for (size_t n : {2, 1, 40, 2, 1, 40}) EXPECT_EQ(sum.run(std::vector<HostTensor>(n, one))[0], HostTensor::full(DType::f32, {4}, static_cast<double>(n) + 0.5)) << n;
  ASSERT_EQ(sum.compilations().size(), 3u);
  EXPECT_EQ(sum.compilations()[2].reason, "there are 40 inputs, the latest of 2 programs takes 1");
}

}  // namespace
}  // namespace quern
