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
  EXPECT_EQ(device->statistics().high_water, planned_bytes(e->program(), device->threads()));
  EXPECT_LE(static_cast<double>(e->program().arena_bytes), 1.10 * static_cast<double>(e->program().lower_bound));
  EXPECT_LT(last, 0.8 * first);   // the states move
}

TEST_F(Runtime, MisuseIsAnError) {
  const TrainingStep step = mlp_step({4, 2, {3}, 0}, 2, {}, 1);
  const auto e = compiled(step.graph);
  EXPECT_THROW(e->run(), Error);   // states without values
  EXPECT_THROW(e->set_state("none", HostTensor(DType::f32, {})), Error);
  EXPECT_THROW(e->set_state("step", HostTensor(DType::f64, {})), Error);
  EXPECT_THROW(e->set_input(0, HostTensor(DType::f32, {2, 5})), Error);
  EXPECT_THROW(e->set_input(9, HostTensor(DType::f32, {2, 4})), Error);
}

}  // namespace
}  // namespace quern
