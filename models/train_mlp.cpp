// Training the MLP on labelled images; see trainer.h.
#include <chrono>
#include <cstring>

#include <fmt/format.h>

#include "models/dataset.h"
#include "models/trainer.h"
#include "passes/pass.h"

namespace quern {
namespace {

class Compiled : public Stepper {
 public:
  Compiled(Device& device, const Graph& graph, const CompileOptions& options, CompileReport* report) : executable_(jit(device, graph, options, report)) {}
  void set_inputs(const std::vector<HostTensor>& inputs) override {
    for (size_t i = 0; i < inputs.size(); ++i) executable_->set_input(static_cast<int64_t>(i), inputs[i]);
  }
  void start() override { executable_->run(); }
  HostTensor output() override { return executable_->output(0); }
  void set_state(const std::string& name, const HostTensor& value) override { executable_->set_state(name, value); }
  HostTensor state(const std::string& name) override { return executable_->state(name); }

 private:
  std::unique_ptr<Executable> executable_;
};

class Interpreted : public Stepper {
 public:
  Interpreted(const Graph& graph, PassContext context) {
    graph_ = expand(graph, context);
  }
  void set_inputs(const std::vector<HostTensor>& inputs) override { inputs_ = inputs; }
  HostTensor output() override { return output_; }
  void start() override {
    std::vector<HostTensor> all;
    size_t next = 0;
    for (NodeId i : graph_.inputs) {
      const State* s = state_of(i);
      all.push_back(s ? values_.at(s->name) : inputs_.at(next++));
    }
    std::vector<HostTensor> results = interpret(graph_, all);
    for (size_t s = 0; s < graph_.states.size(); ++s) values_[graph_.states[s].name] = results[graph_.outputs.size() + s];
    output_ = results.at(0);
  }
  void set_state(const std::string& name, const HostTensor& value) override { values_[name] = value; }
  HostTensor state(const std::string& name) override { return values_.at(name); }

 private:
  Graph graph_;
  std::map<std::string, HostTensor> values_;
  std::vector<HostTensor> inputs_;
  HostTensor output_;
  const State* state_of(NodeId input) const {
    for (const State& s : graph_.states)
      if (s.input == input) return &s;
    return nullptr;
  }
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

std::unique_ptr<Stepper> make_stepper(Device* device, const Graph& graph, const CompileOptions& options, CompileReport* report) {
  if (device) return std::make_unique<Compiled>(*device, graph, options, report);
  return std::make_unique<Interpreted>(graph, options.passes);
}

TrainResult train_mlp(const Dataset& data, Device* device, const TrainOptions& o, const std::function<void(int64_t, int64_t, double)>& progress) {
  const int64_t batches = data.train_size() / o.batch, f = data.features;
  if (batches == 0) throw Error(Code::bad_value, fmt::format("a batch of {} is larger than the {} training images", o.batch, data.train_size())).with_help("use a smaller --batch");
  const int64_t steps = o.max_steps >= 0 ? std::min(o.max_steps, o.epochs * batches) : o.epochs * batches;
  Optimizer optimizer = o.optimizer;
  optimizer.steps = o.epochs * batches;
  TrainResult out;
  auto start = std::chrono::steady_clock::now();
  const TrainingStep step = mlp_step(o.model, o.batch, optimizer, o.seed);
  CompileReport report;
  const auto stepper = make_stepper(device, step.graph, o.compile, &report);
  for (const auto& [name, value] : step.initial) stepper->set_state(name, value);
  const int64_t test_batch = std::min<int64_t>(data.test_size(), 500);
  const auto predictor = make_stepper(device, mlp_predict(o.model, {1, test_batch}), o.compile, &report);
  out.notes = report.notes;
  out.compile_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  HostTensor x(DType::f32, {o.batch, f}), y(DType::i32, {o.batch});
  std::vector<int64_t> order;
  const auto set_batch = [&](int64_t s) {
    const int64_t b = s % batches;
    if (b == 0) order = shuffled(data.train_size(), o.seed * 1000003u + static_cast<uint32_t>(s / batches));
    for (int64_t i = 0; i < o.batch; ++i) {
      const int64_t row = order[static_cast<size_t>(b * o.batch + i)];
      std::memcpy(x.data<float>() + i * f, data.train_x.data() + row * f, static_cast<size_t>(f) * sizeof(float));
      y.data<int32_t>()[i] = data.train_y[static_cast<size_t>(row)];
    }
    stepper->set_inputs({x, y});
  };
  if (steps > 0) set_batch(0);
  for (int64_t s = 0; s < steps; ++s) {
    stepper->start();
    if (s + 1 < steps) set_batch(s + 1);   // while the step runs
    out.losses.push_back(stepper->output().at(0));
    if (progress) progress(s + 1, steps, out.losses.back());
  }
  for (const auto& [name, value] : step.initial) out.states.emplace_back(name, stepper->state(name));
  for (const auto& [name, value] : out.states)
    if (name.find("weight") != std::string::npos || name.find("bias") != std::string::npos)
      if (name.size() < 2 || name[name.size() - 2] != '.') predictor->set_state(name, value);

  int64_t right = 0;
  for (int64_t at = 0; at < data.test_size(); at += test_batch) {
    const int64_t n = std::min(test_batch, data.test_size() - at);
    HostTensor tx(DType::f32, {n, f});
    std::memcpy(tx.data<float>(), data.test_x.data() + at * f, static_cast<size_t>(n * f) * sizeof(float));
    predictor->set_inputs({tx});
    predictor->start();
    const HostTensor classes = predictor->output();
    for (int64_t i = 0; i < n; ++i) right += classes.data<int64_t>()[i] == data.test_y[static_cast<size_t>(at + i)];
  }
  out.test_accuracy = static_cast<double>(right) / static_cast<double>(data.test_size());
  out.seconds = seconds_since(start);
  return out;
}

}  // namespace quern
