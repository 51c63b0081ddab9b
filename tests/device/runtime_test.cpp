// Executables on a device: programs through files, memory that is planned and never grows, misuse.
#include "models/mlp.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class Runtime : public test::OnDevice {};

TEST_F(Runtime, SavedProgramRunsTheSame) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {3, 5}), w = m.input("w", DType::f32, {5, 4});
  m.output("y", tanh(matmul(x, w)));
  CompileOptions options;
  options.target = device->target();
  options.use_cache = false;
  const Program p = compile(m.finish(), options);
  const std::vector<HostTensor> inputs = {HostTensor::full(DType::f32, {3, 5}, 0.25), HostTensor::full(DType::f32, {5, 4}, 0.5)};
  Executable one(*device, p), two(*device, load_program(save_program(p), "p.qpk"));
  EXPECT_EQ(one.run(inputs), two.run(inputs));
}

TEST_F(Runtime, NoAllocationPerStepAndThePlannedMemory) {
  const TrainingStep step = mlp_step({784, 10, {256}, 0}, 64, {}, 3);
  const auto e = compiled(step.graph);
  for (const auto& [name, value] : step.initial) e->set_state(name, value);
  std::mt19937_64 random(1);
  const HostTensor x = test::random_tensor({DType::f32, {64, 784}, {}}, 0, 1, random), label = test::random_tensor({DType::i32, {64}, {}}, 0, 10, random);
  const double first = e->run({x, label})[0].at(0);
  const int64_t allocations = device->statistics().allocations;
  double last = first;
  for (int k = 0; k < 10; ++k) last = e->run({x, label})[0].at(0);
  EXPECT_EQ(device->statistics().allocations, allocations);
  EXPECT_EQ(device->statistics().high_water, planned_bytes(e->program(), device->threads(), device->input_sets()));
  const int64_t batch = round_up(x.shape[0] * 784 * 4, 64) + 64 * 4;
  EXPECT_EQ(device->staging_statistics().high_water, device->input_sets() > 1 ? batch * device->input_sets() : 0);
  EXPECT_LE(static_cast<double>(e->program().arena_bytes), 1.10 * static_cast<double>(e->program().lower_bound));
  EXPECT_LT(last, 0.8 * first);   // the states move
  for (const Step& s : e->program().steps) EXPECT_TRUE(std::holds_alternative<Launch>(s));   // all of them in place
}

// Inputs that are given at different times: what a run takes over from an earlier set is not overwritten meanwhile.
TEST_F(Runtime, InputsKeepTheirValuesUntilTheyAreSet) {
  constexpr int64_t kMany = 1 << 20;
  Model m;
  const Tensor x = m.input("x", DType::f32, {kMany}), y = m.input("y", DType::f32, {kMany}), sum = m.input("sum", DType::f32, {kMany});
  m.state("sum", sum, sum + x * y);
  const auto e = compiled(m.finish());
  e->set_state("sum", HostTensor::full(DType::f32, {kMany}, 0));
  double want = 0, a = 0, b = 0;
  for (int k = 0; k < 60; ++k) {
    if (k % 3 == 0) e->set_input(0, HostTensor::full(DType::f32, {kMany}, a = k + 1));
    if (k % 4 != 1) e->set_input(1, HostTensor::full(DType::f32, {kMany}, b = k % 7));
    e->run();
    want += a * b;
  }
  EXPECT_EQ(e->state("sum"), HostTensor::full(DType::f32, {kMany}, want));
}

// A concat of products and slices of it move nothing; states that read each other's old values keep them.
TEST_F(Runtime, ViewsBetweenKernelsAreSubRanges) {
  GraphBuilder b;
  const Type half{DType::f32, {64, 48}, {}}, whole{DType::f32, {128, 48}, {}};
  const auto with = [](auto field, auto value) {
    Attrs a;
    a.*field = value;
    return a;
  };
  const NodeId x = b.input("x", {DType::f32, {64, 32}, {}}), w = b.input("w", {DType::f32, {32, 48}, {}}), v = b.input("v", {DType::f32, {32, 48}, {}});
  const NodeId s = b.input("s", whole), t = b.input("t", half);
  Attrs rows;
  rows.start = {64, 0}, rows.limit = {128, 48}, rows.stride = {1, 1};
  const NodeId both = b.add(Op::concat, {b.add(Op::contract, {x, w}, with(&Attrs::spec, std::string("mk,kn->mn"))), b.add(Op::contract, {x, v}, with(&Attrs::spec, std::string("mk,kn->mn")))}, with(&Attrs::axes, Shape{0}));
  const NodeId gram = b.add(Op::contract, {both, s}, with(&Attrs::spec, std::string("mk,nk->mn")));
  b.output("gram", gram);
  b.output("rows", b.add(Op::slice, {gram}, [] {
    Attrs a;
    a.start = {32, 0}, a.limit = {64, 128}, a.stride = {1, 1};
    return a;
  }()));
  b.state("s", s, both);
  b.state("t", t, b.add(Op::slice, {s}, rows));   // the old s
  const Graph graph = b.finish();
  const auto e = compiled(graph);
  int launches = 0;
  for (const Step& step : e->program().steps) launches += std::holds_alternative<Launch>(step);
  EXPECT_EQ(launches, 3);   // the products
  std::mt19937_64 random(3);
  std::vector<HostTensor> inputs;
  for (NodeId i : graph.inputs) inputs.push_back(test::random_tensor(graph.type(i), -1, 1, random));
  e->set_state("s", inputs[3]);
  e->set_state("t", inputs[4]);
  for (int k = 0; k < 2; ++k) {   // the second run starts from the states of the first
    const std::vector<HostTensor> want = interpret(graph, inputs), got = e->run({inputs[0], inputs[1], inputs[2]});
    for (size_t o = 0; o < got.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5) << k << " " << o;
    EXPECT_LE(compare(e->state("s"), want[2]).error, 1e-5);
    EXPECT_LE(compare(e->state("t"), want[3]).error, 1e-5);
    inputs[3] = want[2], inputs[4] = want[3];
  }
}

// The first input fits, the second does not: what the first took is free again.
TEST_F(Runtime, AProgramThatDoesNotFitLeavesNothing) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {1 << 20}), y = m.input("y", DType::f32, {int64_t{1} << 40});
  m.output("z", x + 1);
  m.output("w", y * 2);
  const Graph graph = m.finish();
  const int64_t before = device->statistics().in_use;
  EXPECT_THROW(compiled(graph), Error);
  EXPECT_EQ(device->statistics().in_use, before);
}

// Another program's memory is no value of an input.
TEST_F(Runtime, InputsWantValues) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {64}), y = m.input("y", DType::f32, {64});
  m.output("z", x - y);
  const auto e = compiled(m.finish());
  for (int64_t i : {0, 1}) {
    try {
      e->run();
      ADD_FAILURE() << "ran";
    } catch (const Error& error) {
      EXPECT_EQ(error.code, Code::unset_value);
      EXPECT_NE(std::string(error.what()).find(i ? "\"y\"" : "\"x\""), std::string::npos) << error.what();
    }
    e->set_input(i, HostTensor::full(DType::f32, {64}, 5 + static_cast<double>(i)));
  }
  e->run();
  EXPECT_EQ(e->output(0), HostTensor::full(DType::f32, {64}, -1));
}

TEST_F(Runtime, MisuseIsAnError) {
  const TrainingStep step = mlp_step({4, 2, {3}, 0}, 2, {}, 1);
  const auto e = compiled(step.graph);
  EXPECT_THROW(e->run(), Error);   // states without values
  EXPECT_THROW(e->set_state("none", HostTensor(DType::f32, {})), Error);
  EXPECT_THROW(e->set_state("step", HostTensor(DType::f64, {})), Error);
  EXPECT_THROW(e->set_input(0, HostTensor(DType::f32, {2, 5})), Error);
  EXPECT_THROW(e->set_input(9, HostTensor(DType::f32, {2, 4})), Error);
  for (int64_t o : {int64_t{-1}, static_cast<int64_t>(step.graph.outputs.size())}) EXPECT_THROW(e->output(o), Error);
}

}  // namespace
}  // namespace quern
