// A training step 784-256-10 (relu, cross-entropy, Adam) as one program. Two rows a batch size: each step waited for,
// and many steps enqueued with one wait at the end. Batches lie on the device; copying one there is not timed. The rows
// have the names of bench/peers/mlp_step.py, and bench/peers/join.py puts both into one table.
#include <algorithm>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/harness.h"
#include "models/mlp.h"

namespace quern::bench {
namespace {

constexpr int64_t kInputs = 784, kHidden = 256, kClasses = 10, kSets = 4;
constexpr int kLossSteps = 10;   // after so many, the losses of all peers are compared

TrainingStep training_step(int64_t batch) { return mlp_step({kInputs, kClasses, {kHidden}, 0}, batch, {}, 1); }

std::vector<Case> cases() {
  std::vector<Case> out;
  for (int64_t batch : {1, 8, 32, 128, 512})
    out.push_back({fmt::format("mlp step 784-256-10 batch {}", batch), training_step(batch).graph, 0, 0, {{"op", "mlp_step"}, {"batch", batch}}});
  return out;
}

void run(Harness& h, const Case& c) {
  const int64_t batch = c.peer.at("batch");
  TrainingStep step = training_step(batch);
  for (auto& [name, value] : step.initial) {
    if (name == "hidden0.weight") value = uniform(1, {kInputs, kHidden}, static_cast<float>(std::sqrt(6.0 / kInputs)));
    if (name == "out.weight") value = uniform(2, {kHidden, kClasses}, static_cast<float>(std::sqrt(6.0 / (kHidden + kClasses))));
  }
  const auto e = jit(h.device, step.graph, h.options);
  std::vector<std::pair<HostTensor, HostTensor>> sets;
  for (int64_t s = 0; s < kSets; ++s) sets.emplace_back(uniform(stream_of(s, 0), {batch, kInputs}), labels(stream_of(s, 1), batch, kClasses));
  const auto load = [&](size_t run) {
    const auto& [x, label] = sets[run % sets.size()];
    e->set_input(0, x);
    e->set_input(1, label);
    h.device.synchronize();
  };
  // Before every block: a model that has trained for long has denormal moments, which no real run has.
  const auto reset = [&] {
    for (const auto& [name, value] : step.initial) e->set_state(name, value);
    h.device.synchronize();
  };
  reset();
  for (size_t s = 0; s < kLossSteps; ++s) {
    load(s);
    e->run();
  }
  const double loss = e->output(0).at(0);
  const auto peer = h.peers.prepare(c.peer, kSets);
  if (peer) h.want_equal(c.name, loss, *peer, 1e-2);

  const auto one_by_one = [&] {
    reset();
    return block([&](size_t run) {
      load(run);
      return microseconds([&] {
        e->run();
        h.device.synchronize();
      });
    });
  };
  size_t steps = 0;
  const auto together = [&] {
    reset();
    load(0);
    return std::vector<double>{microseconds([&] {
      for (size_t s = 0; s < steps; ++s) e->run();
      h.device.synchronize();
    }) / static_cast<double>(steps)};
  };
  for (const bool synchronised : {true, false}) {
    std::function<std::vector<double>()> theirs;
    if (peer) theirs = [&, synchronised] { return peer->block(synchronised); };
    const Harness::Times t = synchronised ? h.interleave(one_by_one, theirs) : h.interleave(together, theirs);
    Json more = {{"batch", batch}, {"precision", h.options.f32_products == F32Products::tf32 ? "tf32" : "f32"}, {"synchronised", synchronised}, {"loss", loss}};
    if (!synchronised) more["steps"] = steps;
    h.add(c.name, t, peer ? peer->name : "", more, synchronised ? "" : "  enqueued");
    steps = static_cast<size_t>(std::clamp(50000 / t.ours.median, 10.0, 200.0));
  }
}

}  // namespace

const Family mlp_step_family{cases, run};

}  // namespace quern::bench
