// See repeated.h.
#include "bench/repeated.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "bench/data.h"

namespace quern::bench {
namespace {

constexpr int64_t kTogether = 20, kOutOfCache = int64_t{256} << 20, kLarge = int64_t{512} << 20;
constexpr double kShortError = 4e-3, kTf32Error = 1e-3, kFloatError = 3e-5;   // of f64's norm: half a place in the last of bf16, operands of tf32, and long sums of f32

/// Calls f(first, last) on parts of [0, n), on all threads.
void in_parts(int64_t n, const std::function<void(int64_t, int64_t)>& f) {
  const int64_t parts = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 64), each = ceil_div(n, parts);
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < n; first += each) threads.emplace_back(f, first, std::min(n, first + each));
  for (std::thread& t : threads) t.join();
}

HostTensor random(const SuiteCase::Input& i, int64_t position) {
  if (i.classes) return labels(stream_of(0, position), i.shape[0], i.classes);
  HostTensor out(i.dtype, i.shape);
  in_parts(out.size(), [&](int64_t first, int64_t last) {
    for (int64_t e = first; e < last; ++e) out.set(e, Scalar::of(i.dtype, uniform_at(stream_of(0, position), e, static_cast<float>(i.scale)) + static_cast<float>(i.shift)));
  });
  return out;
}

// As many bytes read and written together.
Program copy_of(const Target& target, int64_t bytes) {
  Program p;
  p.target = target;
  const Shape half{std::max<int64_t>(bytes / 2, 1)};
  p.slots = {{SlotKind::input, DType::u8, half, "from"}, {SlotKind::output, DType::u8, half, "to"}};
  p.inputs = {0};
  p.outputs = {1};
  p.steps = {Copy{0, 1}};
  return p;
}

}  // namespace

HostTensor rounded(const HostTensor& value, DType dtype) {
  HostTensor out(dtype, value.shape);
  in_parts(out.size(), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) out.set(i, Scalar::of(dtype, value.data<float>()[i]));
  });
  return out;
}

RepeatedProgram::RepeatedProgram(Device& device, const SuiteCase& c, CompiledCase compiled) : device_(device) {
  TrainingStep& built = compiled.built;
  const Graph& graph = built.graph;
  trains_ = !built.initial.empty();
  states_ = std::move(built.initial);
  for (const State& s : graph.states)
    if (!trains_) states_.emplace_back(s.name, HostTensor(DType::f32, graph.type(s.input).shape));
  parameters_ = fill_parameters(states_);
  float_error_ = c.matmul == F32Products::tf32 ? kTf32Error : kFloatError;
  const Program& program = compiled.program;
  int64_t inputs = 0, moved = static_cast<int64_t>(c.read + c.written);
  for (NodeId id : graph.inputs) inputs += graph.type(id).bytes();
  outputs_ = graph.outputs.size();
  sets_ = trains_ || inputs > kLarge ? 1 : std::clamp<int64_t>(ceil_div(kOutOfCache, inputs), 2, 16);
  together_ = trains_          ? kTogether
              : c.flops > 0    ? std::clamp<int64_t>(static_cast<int64_t>(1.2e12 / c.flops), 3, 100)
              : moved > kLarge ? kTogether / 4
                               : kTogether;
  executable_ = std::make_unique<Executable>(device, repeated(program, together_, sets_));
  size_t position = 0;   // without the states
  for (NodeId id : graph.inputs) {
    if (graph.state_of(id)) continue;
    const bool data = position < c.inputs.size();
    if (!data) parameters_.push_back(parameter_fill(graph.at(id).attrs.name, graph.type(id).shape, parameters_.size()));
    const HostTensor value = data ? random(c.inputs[position], static_cast<int64_t>(position)) : parameters_.back().value();
    for (int64_t s = 0; s < sets_; ++s) executable_->set_input(s * static_cast<int64_t>(program.inputs.size()) + static_cast<int64_t>(position), value);
    ++position;
  }
  reset();
  if (moved == 0) return;
  const int64_t copies = moved / 2 > kLarge ? 1 : std::clamp<int64_t>(ceil_div(2 * kOutOfCache, moved), 2, 16);
  copy_ = std::make_unique<Executable>(device, repeated(copy_of(device.target(), moved), together_, copies));
  for (int64_t s = 0; s < copies; ++s) {
    HostTensor value(DType::u8, copy_->program().slots[0].shape);
    in_parts(value.size() / 8, [&](int64_t first, int64_t last) {
      for (int64_t e = first; e < last; ++e) value.data<uint64_t>()[e] = bits(static_cast<uint64_t>(s), static_cast<uint64_t>(e));
    });
    copy_->set_input(s, value);
  }
}

void RepeatedProgram::reset() {
  for (const auto& [name, value] : states_)
    if (trains_ || results_.empty()) executable_->set_state(name, value);
  device_.synchronize();
}

Json RepeatedProgram::request(const SuiteCase& c) const {
  Json r = c.peer;
  r["sets"] = sets_;
  r["together"] = together_;
  r["trains"] = trains_;
  r["parameters"] = Json::array();
  for (const ParameterFill& p : parameters_) r["parameters"].push_back(p.json());
  r["inputs"] = Json::array();
  for (const auto& i : c.inputs) r["inputs"].push_back({{"shape", i.shape}, {"classes", i.classes}, {"dtype", std::string(name_of(i.dtype))}, {"scale", i.scale}, {"shift", i.shift}});
  return r;
}

double RepeatedProgram::check() {
  executable_->run();
  double sum = 0;
  for (size_t i = 0; i < outputs_; ++i) {
    const HostTensor& y = results_.emplace_back(executable_->output(static_cast<int64_t>(i)));
    std::mutex one;
    double all = 0;
    in_parts(y.size(), [&](int64_t first, int64_t last) {
      double part = 0;
      for (int64_t e = first; e < last; ++e) part += std::abs(y.at(e));
      const std::lock_guard lock(one);
      all += part;
    });
    sum += all / static_cast<double>(y.size());
  }
  return sum;
}

double RepeatedProgram::error(const std::vector<std::vector<double>>& exact) {
  double most = 0;
  for (size_t o = 0; o < outputs_; ++o) {
    const HostTensor& y = results_[o];
    const uint64_t n = static_cast<uint64_t>(y.size());
    double wrong = 0, all = 0;
    for (size_t s = 0; s < exact.at(o).size(); ++s) {
      const double e = y.at(static_cast<int64_t>(s * 2654435761u % n)) - exact[o][s];
      wrong += e * e;
      all += exact[o][s] * exact[o][s];
    }
    const double error = std::sqrt(wrong / all) / (size_of(y.dtype) < 4 ? kShortError : float_error_);
    most = error <= most ? most : error;   // NaN is an error
  }
  return most;
}

std::function<std::vector<double>()> RepeatedProgram::copy() {
  if (!copy_) return {};
  return [this] { return block_of(*copy_); };
}

std::vector<double> RepeatedProgram::block_of(Executable& e) {
  return block_together(together_, [&] {
    e.run();
    device_.synchronize();
  });
}

Ceilings measure_ceilings(Device& device) {
  constexpr int64_t kSide = 4096, kCopied = int64_t{1} << 30;
  const SuiteCase::Input square{{kSide, kSide}, 0, DType::bf16};
  SuiteCase c = plain_case("ceilings", "", {square, square}, {}, [](Model& g, const std::vector<Tensor>& x) { g.output("y", contract("mk,nk->mn", x[0], x[1])); });
  c.flops = 2.0 * kSide * kSide * kSide;
  c.read = c.written = kCopied;
  RepeatedProgram program(device, c, compile_case(c, device.target()));
  const auto least = [](const std::function<std::vector<double>()>& block) {
    block();
    const std::vector<double> us = block();
    return *std::min_element(us.begin(), us.end());
  };
  const double copied = 2.0 * kCopied / least(program.copy()) / 1000;
  return {c.flops / least([&] { return program.block(); }) / 1000, copied, copied, copied};
}

}  // namespace quern::bench
