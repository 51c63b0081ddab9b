// See executable.h.
#include "runtime/executable.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "ir/support/suggest.h"

namespace quern {

static std::string type_text(DType dtype, const Shape& shape) {
  std::string out(name_of(dtype));
  out += "[";
  for (size_t d = 0; d < shape.size(); ++d) out += fmt::format("{}{}", d ? "," : "", shape[d]);
  return out + "]";
}

// Recorded runs that are kept: one per value of the symbol, until there are so many.
static constexpr size_t kReplays = 64;
static constexpr const char* kFit = "give a tensor of that dtype and shape, or compile the model for this one";

Executable::Executable(Device& device, Program program)
    : device_(device), program_(std::move(program)), slots_(static_cast<size_t>(device.input_sets()), std::vector<DevicePtr>(program_.slots.size())), replay_(slots_.size()), holder_(program_.inputs.size()), sizes_(program_.inputs.size()), size_(program_.size_high), moves_(program_.slots.size()), iteration_(static_cast<size_t>(program_.loops)) {
  if (!device_.runs(program_.target))
    throw Error(Code::other_target, fmt::format("this program was compiled for {}, the device {} wants {}", to_string(program_.target), device_.name(), to_string(device_.target()))).with_help("compile it again with --target " + to_string(device_.target()));
  for (const KernelImage& image : program_.images) images_.push_back(device_.load(image));
  DevicePtr arena = nullptr;
  if (program_.arena_bytes > 0) arena = alloc(program_.arena_bytes);
  for (size_t i = 0; i < program_.slots.size(); ++i) {
    const Slot& s = program_.slots[i];
    for (size_t set = 0; set < slots_.size(); ++set) {
      DevicePtr& ptr = slots_[set][i];
      if (s.parent >= 0) continue;
      else if (s.kind == SlotKind::arena) ptr = static_cast<char*>(arena) + s.offset;
      else if (set > 0 && s.kind != SlotKind::input) ptr = slots_[0][i];
      else ptr = alloc(s.bytes());
    }
    if (s.parent >= 0) continue;
    if (s.kind == SlotKind::constant) device_.upload(slots_[0][i], s.value.bytes.data(), s.bytes());
    if (s.kind == SlotKind::state || s.kind == SlotKind::input) unset_.insert(static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < program_.slots.size(); ++i)
    if (const Slot& s = program_.slots[i]; s.parent >= 0) {
      moves_[i] = s.loop >= 0 || moves_[static_cast<size_t>(s.parent)];
      for (auto& set : slots_) set[i] = static_cast<char*>(set[static_cast<size_t>(s.parent)]) + s.offset;   // of those that move: not used
    }
  collect_reads(program_.setup);
  stale_ = !program_.setup.empty();
}

// Of setup: in what it launches, copies or decides by.
void Executable::collect_reads(const std::vector<Step>& steps) {
  const auto add = [&](int64_t slot) {
    while (program_.slots[static_cast<size_t>(slot)].parent >= 0) slot = program_.slots[static_cast<size_t>(slot)].parent;
    if (program_.slots[static_cast<size_t>(slot)].kind == SlotKind::state) read_once_.insert(slot);
  };
  for (const Step& step : steps)
    std::visit(Overloaded{[&](const Launch& l) { std::for_each(l.slots.begin(), l.slots.end(), add); }, [&](const Copy& c) { add(c.from); },
                          [&](const Loop& l) { collect_reads(l.steps); },
                          [&](const While& w) { add(w.flag), collect_reads(w.steps); },
                          [&](const Branch& b) { add(b.flag), collect_reads(b.yes), collect_reads(b.no); }},
               static_cast<const std::variant<Launch, Copy, Loop, While, Branch>&>(step));
}

DevicePtr Executable::at(int64_t slot, size_t set) const {
  if (!moves_[static_cast<size_t>(slot)]) return slots_[set][static_cast<size_t>(slot)];
  const Slot& s = program_.slots[static_cast<size_t>(slot)];
  int64_t offset = s.offset;
  if (s.loop >= 0) offset += s.stride * floor_mod(s.first + s.step * iteration_[static_cast<size_t>(s.loop)], s.entries);
  return static_cast<char*>(at(s.parent, set)) + offset;
}

// What a run under way still touches may become another program's memory only behind it.
Executable::~Executable() {
  try {
    device_.synchronize();
  } catch (const Error&) {
    // the device failed: whoever reads next hears of it
  }
}

DevicePtr Executable::alloc(int64_t bytes) {
  owned_.push_back(std::unique_ptr<void, Free>(device_.alloc(bytes), Free{&device_}));
  return owned_.back().get();
}

static Error unknown_state(const Program& program, const std::string& name) {
  std::vector<std::string> names;
  for (int64_t id : program.states) names.push_back(program.slots[static_cast<size_t>(id)].name);
  return Error(Code::unknown_tensor, fmt::format("the program has no state \"{}\"", name)).with_help(suggestion(name, names, names.empty() ? "it has none" : fmt::format("its states are {}", fmt::join(names, ", "))));
}

void Executable::set_state(const std::string& name, const HostTensor& value) {
  for (int64_t id : program_.states) {
    const Slot& s = program_.slots[static_cast<size_t>(id)];
    if (s.name != name) continue;
    if (s.dtype != value.dtype || s.shape != value.shape)
      throw Error(Code::tensor_mismatch, fmt::format("state \"{}\" is {}, got {}", name, type_text(s.dtype, s.shape), type_text(value.dtype, value.shape))).with_help(kFit);
    unset_.erase(id);
    if (read_once_.count(id) && !planted(Fault::stale_setup)) stale_ = true;
    return device_.upload(at(id, 0), value.bytes.data(), s.bytes());
  }
  throw unknown_state(program_, name);
}

HostTensor Executable::state(const std::string& name) {
  for (int64_t id : program_.states) {
    const Slot& s = program_.slots[static_cast<size_t>(id)];
    if (s.name != name) continue;
    HostTensor out(s.dtype, s.shape);
    device_.download(out.bytes.data(), at(id, 0), s.bytes());
    return out;
  }
  throw unknown_state(program_, name);
}

void Executable::set_input(int64_t position, const HostTensor& value) {
  if (position < 0 || position >= static_cast<int64_t>(program_.inputs.size()))
    throw Error(Code::unknown_tensor, fmt::format("the program takes {} inputs, there is no input {}", program_.inputs.size(), position)).with_help("inputs are numbered from 0, without the states");
  const int64_t id = program_.inputs[static_cast<size_t>(position)];
  const Slot& s = program_.slots[static_cast<size_t>(id)];
  const int64_t size = s.size_of_symbol(value.shape);
  const bool symbolic = size >= 0;
  if (symbolic && (size < program_.size_low || size > program_.size_high))
    throw Error(Code::symbol_size, fmt::format("input \"{}\" is {}: the program was compiled for {} to {}", s.name, type_text(value.dtype, value.shape), program_.size_low, program_.size_high)).with_help("split the input, or compile the model with wider bounds");
  if (s.dtype != value.dtype || (symbolic ? s.shape_at(size) : s.shape) != value.shape)
    throw Error(Code::tensor_mismatch, fmt::format("input \"{}\" is {}, got {}", s.name, type_text(s.dtype, s.shape), type_text(value.dtype, value.shape))).with_help(kFit);
  if (ran_) {   // a run may still read the set at hand
    set_ = (set_ + 1) % slots_.size();
    ran_ = false;
  }
  device_.stage(at(id, set_), s.bytes(), value.bytes.data(), s.rows_at(size), static_cast<int>(set_));
  sizes_[static_cast<size_t>(position)] = std::max<int64_t>(size, 0);
  holder_[static_cast<size_t>(position)] = set_;
  unset_.erase(id);
}

void Executable::run_step(const Step& step, size_t set) {
  const auto bytes = [&](int64_t slot) { return program_.slots[static_cast<size_t>(slot)].bytes(); };
  const auto bytes_now = [&](int64_t slot) { return program_.slots[static_cast<size_t>(slot)].rows_at(size_).span(); };
  std::visit(Overloaded{[&](const Launch& l) {
                          const size_t i = static_cast<size_t>(l.images[l.images.size() == 1 ? 0 : kernels_]);
                          const KernelImage& image = program_.images[i];
                          if (image.grid_at(size_) == 0) return;
                          std::vector<MemoryRange> operands;
                          for (int64_t s : l.slots) operands.push_back({at(s, set), bytes(s), static_cast<int64_t>(operands.size()) >= image.operands - image.outputs});
                          device_.launch(*images_[i], image, operands, size_);
                        },
                        [&](const Copy& c) { device_.copy(at(c.to, set), at(c.from, set), bytes_now(c.to)); },
                        [&](const Loop& l) {
                          const int64_t count = l.symbol && !planted(Fault::steps_of_bound) ? l.symbol * size_ : l.count;
                          for (int64_t t = 0; t < count; ++t) {
                            iteration_[static_cast<size_t>(l.id)] = l.backward ? count - 1 - t : t;
                            run_steps(l.steps, set);
                          }
                        },
                        [&](const While& w) { device_.repeat_while(at(w.flag, set), [&] { run_steps(w.steps, set); }); },
                        [&](const Branch& b) { device_.branch(at(b.flag, set), [&] { run_steps(b.yes, set); }, [&] { run_steps(b.no, set); }); }},
             static_cast<const std::variant<Launch, Copy, Loop, While, Branch>&>(step));
}

void Executable::run_steps(const std::vector<Step>& steps, size_t set) {
  for (const Step& s : steps) run_step(s, set);
}

// The inputs' common value of the symbol; the bound where none depends on it.
void Executable::choose_size() {
  int64_t size = 0;
  for (size_t i = 0; i < sizes_.size(); ++i) {
    if (sizes_[i] == 0) continue;
    if (size != 0 && size != sizes_[i])
      throw Error(Code::symbol_size, fmt::format("the inputs disagree: input \"{}\" is of size {}, another of size {}", program_.slots[static_cast<size_t>(program_.inputs[i])].name, sizes_[i], size)).with_help("give all inputs the same size");
    size = sizes_[i];
  }
  size_ = size ? size : program_.size_high;
  kernels_ = static_cast<size_t>(std::lower_bound(program_.bounds.begin(), program_.bounds.end(), size_) - program_.bounds.begin());
}

void Executable::run() {
  if (!unset_.empty()) {
    const Slot& s = program_.slots[static_cast<size_t>(*unset_.begin())];
    const bool state = s.kind == SlotKind::state;
    throw Error(Code::unset_value, fmt::format("{} \"{}\" has no value yet", state ? "state" : "input", s.name)).with_help(fmt::format("call {} before the first run", state ? "set_state" : "set_input"));
  }
  choose_size();
  device_.begin_run(static_cast<int>(set_));
  std::set<size_t> read;
  for (size_t i = 0; i < holder_.size(); ++i) {
    if (holder_[i] == set_) continue;
    const int64_t slot = program_.inputs[i];
    device_.copy(at(slot, set_), at(slot, holder_[i]), program_.slots[static_cast<size_t>(slot)].rows_at(size_).span());
    read.insert(std::exchange(holder_[i], set_));
  }
  if (stale_) {
    if (!setup_) setup_ = device_.record([this] { run_steps(program_.setup, 0); });
    setup_();
    stale_ = false;
  }
  for (size_t set : read) device_.end_run(static_cast<int>(set));   // what is staged there next waits for these copies
  auto& replays = replay_[set_];
  if (replays.size() >= kReplays && !replays.count(size_)) {
    device_.synchronize();
    replays.clear();
  }
  std::function<void()>& replay = replays[size_];
  if (!replay)
    replay = device_.record([this, set = set_] { run_steps(program_.steps, set); });
  replay();
  device_.end_run(static_cast<int>(set_));
  ran_ = true;
}

HostTensor Executable::output(int64_t position) {
  if (position < 0 || position >= static_cast<int64_t>(program_.outputs.size()))
    throw Error(Code::unknown_tensor, fmt::format("the program has {} outputs, there is no output {}", program_.outputs.size(), position)).with_help("outputs are numbered from 0, without the states");
  const int64_t id = program_.outputs[static_cast<size_t>(position)];
  const Slot& s = program_.slots[static_cast<size_t>(id)];
  HostTensor out(s.dtype, s.shape_at(size_));
  device_.download_rows(out.bytes.data(), at(id, 0), s.rows_at(size_));
  return out;
}

std::vector<HostTensor> Executable::run(const std::vector<HostTensor>& inputs) {
  if (inputs.size() != program_.inputs.size()) throw Error(Code::tensor_mismatch, fmt::format("the program takes {} inputs, got {}", program_.inputs.size(), inputs.size())).with_help("give one tensor for every input, in order; states are set by name");
  for (size_t i = 0; i < inputs.size(); ++i) set_input(static_cast<int64_t>(i), inputs[i]);
  run();
  std::vector<HostTensor> out;
  for (size_t i = 0; i < program_.outputs.size(); ++i) out.push_back(output(static_cast<int64_t>(i)));
  return out;
}

std::vector<double> Executable::profile(const std::vector<Step>& steps, int repeats) {
  std::vector<double> out;
  for (const Step& s : steps) {
    std::vector<double> times;
    const bool single = std::holds_alternative<Launch>(s) || std::holds_alternative<Copy>(s);
    const std::function<void()> run = [&] { run_step(s, set_); }, step = single ? run : device_.record(run);
    for (int r = 0; r < repeats; ++r) {
      device_.synchronize();
      const auto start = std::chrono::steady_clock::now();
      step();
      device_.synchronize();
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    out.push_back(times[times.size() / 2]);
  }
  return out;
}

}  // namespace quern
