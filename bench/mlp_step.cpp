// A training step 784-256-10 (relu, cross-entropy, Adam) as one program. Two rows a batch size: each step waited for,
// and many steps enqueued with one wait at the end. "any batch": the one program for every size, beside one for this. Batches lie on the device; copying one there is not timed. The rows
// have the names of bench/peers/mlp_step.py, and bench/peers/join.py puts both into one table.
#include <algorithm>
#include <memory>
#include <optional>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/harness.h"
#include "models/mlp.h"

namespace quern::bench {
namespace {

constexpr int64_t kInputs = 784, kHidden = 256, kClasses = 10, kSets = 4;
constexpr int kLossSteps = 10;   // after so many, the losses of all peers are compared

constexpr int64_t kBound = 4096;   // of the program for every batch size

TrainingStep training_step(Batch batch) { return mlp_step({kInputs, kClasses, {kHidden}, 0}, batch, {}, 1); }

std::vector<Case> cases() {
  std::vector<Case> out;
  for (int64_t batch : {1, 8, 32, 128, 512})
    out.push_back({fmt::format("mlp step 784-256-10 batch {}", batch), training_step(batch).graph, 0, 0, {{"op", "mlp_step"}, {"batch", batch}}});
  for (int64_t batch : {1, 7, 128, 4096})   // beside one compiled for this size
    out.push_back({fmt::format("mlp step 784-256-10 any batch: {}", batch), training_step({1, kBound}).graph, 0, 0, {{"op", "mlp_step"}, {"batch", batch}, {"any", true}}});
  return out;
}

// A compiled step with its states and batches, and the two ways to time it.
class Steps {
 public:
  Steps(Harness& h, const std::string& name, Batch sizes, int64_t batch) : device_(h.device), step_(training_step(sizes)) {
    CompileReport report;
    executable_ = jit(h.device, step_.graph, h.options, &report);
    h.compiled(name, report);
    for (auto& [name, value] : step_.initial) {
      if (name == "hidden0.weight") value = uniform(1, {kInputs, kHidden}, static_cast<float>(std::sqrt(6.0 / kInputs)));
      if (name == "out.weight") value = uniform(2, {kHidden, kClasses}, static_cast<float>(std::sqrt(6.0 / (kHidden + kClasses))));
    }
    for (int64_t s = 0; s < kSets; ++s) sets_.emplace_back(uniform(stream_of(s, 0), {batch, kInputs}), labels(stream_of(s, 1), batch, kClasses));
  }
  double loss() {
    reset();
    for (size_t s = 0; s < kLossSteps; ++s) {
      load(s);
      executable_->run();
    }
    return executable_->output(0).at(0);
  }
  std::vector<double> one_by_one() {
    reset();
    return block([&](size_t run) {
      load(run);
      return microseconds([&] {
        executable_->run();
        device_.synchronize();
      });
    });
  }
  std::vector<double> together(size_t steps) {
    reset();
    load(0);
    return {microseconds([&] {
      for (size_t s = 0; s < steps; ++s) executable_->run();
      device_.synchronize();
    }) / static_cast<double>(steps)};
  }

 private:
  Device& device_;
  TrainingStep step_;
  std::unique_ptr<Executable> executable_;
  std::vector<std::pair<HostTensor, HostTensor>> sets_;

  void load(size_t run) {
    const auto& [x, label] = sets_[run % sets_.size()];
    executable_->set_input(0, x);
    executable_->set_input(1, label);
    device_.synchronize();
  }
  // Before every block: a model that has trained for long has denormal moments, which no real run has.
  void reset() {
    for (const auto& [name, value] : step_.initial) executable_->set_state(name, value);
    device_.synchronize();
  }
};

void run(Harness& h, const Case& c) {
  const int64_t batch = c.peer.at("batch");
  const bool any = c.peer.contains("any");
  Steps ours(h, c.name, any ? Batch(1, kBound) : Batch(batch), batch);
  const double loss = ours.loss();
  const auto peer = any ? std::nullopt : h.peers.prepare(c.peer, kSets);
  if (peer) h.want_equal(c.name, loss, *peer, 1e-2);
  std::optional<Steps> fixed;
  if (any) fixed.emplace(h, c.name, batch, batch);
  size_t steps = 0;
  for (const bool synchronised : {true, false}) {
    std::function<std::vector<double>()> theirs;
    if (peer) theirs = [&, synchronised] { return peer->block(synchronised); };
    if (any) theirs = [&, synchronised] { return synchronised ? fixed->one_by_one() : fixed->together(steps); };
    const Harness::Times t = h.interleave([&] { return synchronised ? ours.one_by_one() : ours.together(steps); }, theirs);
    Json more = {{"batch", batch}, {"precision", kF32Products[static_cast<size_t>(h.options.f32_products)]}, {"synchronised", synchronised}, {"loss", loss}};
    if (!synchronised) more["steps"] = steps;
    h.add(c.name, t, any ? "compiled for this size" : peer ? peer->name : "", more, synchronised ? "" : "  enqueued");
    steps = static_cast<size_t>(std::clamp(50000 / t.ours.median, 10.0, 200.0));
  }
}

}  // namespace

const Family mlp_step_family{cases, run};

}  // namespace quern::bench
