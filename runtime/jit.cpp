// See jit.h.
#include "runtime/jit.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include <fmt/format.h>

namespace quern {

std::unique_ptr<Executable> jit(Device& device, const Graph& graph, CompileOptions options, CompileReport* report) {
  options.target = device.target();
  return std::make_unique<Executable>(device, compile(graph, std::move(options), report));
}

static Type type_of(const HostTensor& t) { return {t.dtype, t.shape, {}}; }

// The first input that a program does not take, or that one of the two lacks; -1: it takes all.
static int64_t misfit(const Program& program, const std::vector<HostTensor>& inputs) {
  if (inputs.size() != program.inputs.size()) return static_cast<int64_t>(std::min(inputs.size(), program.inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Slot& s = program.slots[static_cast<size_t>(program.inputs[i])];
    Shape shape = inputs[i].shape;
    const int64_t n = s.size_of_symbol(shape);
    if (s.dtype != inputs[i].dtype || !(n >= program.size_low && n <= program.size_high ? s.shape_at(n) == shape : s.shape == shape)) return static_cast<int64_t>(i);
  }
  return -1;
}

std::vector<HostTensor> Specialized::run(const std::vector<HostTensor>& inputs) {
  for (const auto& p : programs_)
    if (misfit(p->program(), inputs) < 0) return p->run(inputs);
  std::vector<Type> types;
  for (const HostTensor& t : inputs) types.push_back(type_of(t));
  const auto start = std::chrono::steady_clock::now();
  const Graph graph = build_(types);
  if (!graph.states.empty()) throw Error(Code::bad_state, fmt::format("a function compiled for each shape has the state \"{}\": its value would belong to one shape's program", graph.states[0].name), graph.where(graph.states[0].input)).with_help("make it an input and an output, or compile one graph with jit");
  if (graph.inputs.size() != inputs.size()) throw Error(Code::tensor_mismatch, fmt::format("the function was called with {} tensors and built a graph of {} inputs", inputs.size(), graph.inputs.size())).with_help("declare one input for each tensor, in order");
  std::string reason = "the first call";
  if (!programs_.empty()) {
    const Program& last = programs_.back()->program();
    const size_t i = static_cast<size_t>(misfit(last, inputs));
    if (inputs.size() != last.inputs.size()) {
      reason = fmt::format("there are {} inputs, the latest of {} programs takes {}", inputs.size(), programs_.size(), last.inputs.size());
    } else {
      const Slot& s = last.slots[static_cast<size_t>(last.inputs[i])];
      reason = fmt::format("input \"{}\" is {}, the latest of {} programs takes {}{}", s.name, to_string(types[i]), programs_.size(), s.symbol ? "at most " : "", to_string(Type{s.dtype, s.shape, {}}));
    }
  }
  programs_.push_back(jit(device_, graph, options_));
  if (misfit(programs_.back()->program(), inputs) >= 0) {
    programs_.pop_back();
    throw Error(Code::tensor_mismatch, fmt::format("the function was called with {} and built a graph of other inputs", to_string(Type{DType::f32, {}, types}))).with_help("declare the inputs with the types that the function is given");
  }
  compilations_.push_back({reason, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count()});
  if (compilations_.size() > 1) fmt::print(stderr, "quern: compiled again in {:.0f} ms ({} times now): {}; a symbol would serve all sizes\n", compilations_.back().milliseconds, compilations_.size(), reason);
  return programs_.back()->run(inputs);
}

}  // namespace quern
