// See suite_program.h.
#include "bench/suite_program.h"

#include <algorithm>
#include <cmath>

#include "bench/data.h"

namespace quern::bench {

namespace {

constexpr int64_t kOutOfCache = int64_t{128} << 20;
constexpr size_t kLossSteps = 4;           // after so many, the losses of training steps are compared
constexpr size_t kLossStepsCompiled = 2;   // where compiling is what is timed: the largest model runs for seconds

}  // namespace

HostTensor ParameterFill::value() const { return scale > 0 ? uniform(stream, shape, static_cast<float>(scale)) : HostTensor::full(DType::f32, shape, constant); }
Json ParameterFill::json() const { return {{"name", name}, {"shape", shape}, {"scale", scale}, {"constant", constant}, {"stream", stream}}; }

ParameterFill parameter_fill(const std::string& name, const Shape& shape, size_t position) {
  ParameterFill f{name, shape};
  f.stream = (uint64_t{1} << 20) + position;
  if (name.ends_with(".scale")) f.constant = 1;
  else if (name.ends_with(".table")) f.scale = 0.02;
  else if (name.ends_with(".cache")) f.scale = 1;
  else if (shape.size() >= 2) f.scale = 1 / std::sqrt(static_cast<double>(shape.size() == 2 ? shape[0] : count(shape) / shape[0]));   // a matrix; a convolution's kernels
  return f;
}

std::vector<ParameterFill> fill_parameters(std::vector<std::pair<std::string, HostTensor>>& initial) {
  std::vector<ParameterFill> out;
  for (auto& [name, value] : initial) {
    if (name == "step") break;
    out.push_back(parameter_fill(name, value.shape, out.size()));
    value = out.back().value();
  }
  return out;
}

HostTensor suite_input(const SuiteCase::Input& i, int64_t set, int64_t position) { return i.classes ? labels(stream_of(set, position), i.shape[0], i.classes) : uniform(stream_of(set, position), i.shape); }

CompiledCase compile_case(const SuiteCase& c, const Target& target) {
  CompiledCase out{c.build(), {}, {}};
  out.options.use_cache = false;
  out.options.target = target;
  out.options.passes = c.passes;
  out.options.f32_products = c.matmul;
  out.program = compile(out.built.graph, out.options);
  return out;
}

CompiledAhead::CompiledAhead(const std::vector<SuiteCase>& cases, const Target& target) : cases_(cases), results_(cases.size()) {
  const auto work = [this, target] {
    for (size_t i; (i = next_++) < cases_.size();) try {
        results_[i].set_value(compile_case(cases_[i], target));
      } catch (...) {
        results_[i].set_exception(std::current_exception());
      }
  };
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency() / 2); ++t) threads_.emplace_back(work);   // each has compilers of its own
}

void CompiledAhead::wait() {
  for (std::thread& t : threads_) t.join();
  threads_.clear();
}

SuiteProgram::SuiteProgram(Device& device, const SuiteCase& c, CompiledCase compiled) : device_(device) {
  TrainingStep& built = compiled.built;
  CompileOptions& options = compiled.options;
  const Program& program = compiled.program;
  if (c.peer.contains("compile")) {
    graph_ = built.graph;
    if (c.peer["compile"] == "warm") {
      cache_ = std::make_unique<PrivateCache>();
      options.use_cache = true;
      compile(built.graph, options);   // fills it
    }
    options_ = options;
  }
  int64_t bytes = 0;
  for (NodeId id : built.graph.inputs) bytes += built.graph.type(id).bytes();
  for (const NamedOutput& o : built.graph.outputs) bytes += built.graph.type(o.node).bytes();
  outputs_ = built.graph.outputs.size();
  bytes_ = bytes + program.arena_bytes + kept_bytes(program);
  trains_ = !built.initial.empty();
  sets_ = bytes >= kOutOfCache ? 1 : std::clamp<int64_t>((kOutOfCache + bytes - 1) / bytes, 2, trains_ ? 4 : 16);
  out_of_cache_ = bytes * sets_ >= kOutOfCache;
  for (int64_t s = 0; s < (trains_ ? 1 : sets_); ++s) executables_.push_back(std::make_unique<Executable>(device, program));
  if (trains_) {
    parameters_ = fill_parameters(built.initial);
    initial_ = std::move(built.initial);
    for (int64_t s = 0; s < sets_; ++s) {
      batches_.emplace_back();
      for (size_t i = 0; i < c.inputs.size(); ++i) batches_.back().push_back(suite_input(c.inputs[i], s, static_cast<int64_t>(i)));
    }
    return;
  }
  int64_t position = 0;   // without the states
  for (size_t i = 0; i < built.graph.inputs.size(); ++i) {
    const bool data = i < c.inputs.size();
    const State* state = built.graph.state_of(built.graph.inputs[i]);
    if (!data) parameters_.push_back(parameter_fill(built.graph.nodes[static_cast<size_t>(built.graph.inputs[i])].attrs.name, built.graph.type(built.graph.inputs[i]).shape, parameters_.size()));
    for (int64_t s = 0; s < sets_; ++s) {
      Executable& e = *executables_[static_cast<size_t>(s)];
      if (state) e.set_state(state->name, parameters_.back().value());
      else e.set_input(position, data ? suite_input(c.inputs[i], s, static_cast<int64_t>(i)) : parameters_.back().value());
    }
    position += !state;
  }
}

Json SuiteProgram::request(const SuiteCase& c) const {
  Json r = c.peer;
  r["sets"] = sets_;
  r["trains"] = trains_;
  r["loss_steps"] = loss_steps();
  r["inputs"] = Json::array();
  for (const auto& i : c.inputs) r["inputs"].push_back({{"shape", i.shape}, {"classes", i.classes}});
  r["parameters"] = Json::array();
  for (const ParameterFill& p : parameters_) r["parameters"].push_back(p.json());
  return r;
}

double SuiteProgram::check() {
  if (!trains_) {
    for (const auto& e : executables_) e->run();   // each touches its memory for the first time: no block should time that
    double sum = 0;
    for (size_t i = 0; i < outputs_; ++i) sum += mean_abs(executables_[0]->output(static_cast<int64_t>(i)));
    return sum;
  }
  reset();
  for (size_t s = 0; s < loss_steps(); ++s) {
    load(s);
    executables_[0]->run();
  }
  return executables_[0]->output(0).at(0);
}

std::vector<double> SuiteProgram::block() {
  if (graph_) return {microseconds([&] { jit(device_, *graph_, options_); })};
  if (trains_) reset();
  return bench::block([&](size_t run) {
    if (trains_) load(run);
    Executable& e = *executables_[run % executables_.size()];
    return microseconds([&] {
      e.run();
      device_.synchronize();
    });
  });
}

size_t SuiteProgram::loss_steps() const { return graph_ ? kLossStepsCompiled : kLossSteps; }

void SuiteProgram::reset() {   // a model that has trained for long has denormal moments, which no real run has
  for (const auto& [name, value] : initial_) executables_[0]->set_state(name, value);
}

void SuiteProgram::load(size_t run) {
  const auto& batch = batches_[run % batches_.size()];
  for (size_t i = 0; i < batch.size(); ++i) executables_[0]->set_input(static_cast<int64_t>(i), batch[i]);
}

}  // namespace quern::bench
