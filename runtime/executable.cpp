// See executable.h.
#include "runtime/executable.h"

#include <algorithm>
#include <chrono>

#include <fmt/format.h>

#include "ir/support/overloaded.h"

namespace quern {

static std::string type_text(DType dtype, const Shape& shape) {
  std::string out(name_of(dtype));
  out += "[";
  for (size_t d = 0; d < shape.size(); ++d) out += fmt::format("{}{}", d ? "," : "", shape[d]);
  return out + "]";
}

Executable::Executable(Device& device, Program program) : device_(device), program_(std::move(program)), slots_(program_.slots.size()) {
  if (!(device_.target() == program_.target))
    throw Error(ErrorKind::device, fmt::format("this program was compiled for {}, the device {} wants {}; compile it again", to_string(program_.target), device_.name(), to_string(device_.target())));
  for (const KernelImage& image : program_.images) images_.push_back(device_.load(image));
  DevicePtr arena = nullptr;
  if (program_.arena_bytes > 0) owned_.push_back(arena = device_.alloc(program_.arena_bytes));
  for (size_t i = 0; i < slots_.size(); ++i) {
    const Slot& s = program_.slots[i];
    if (s.kind == SlotKind::arena) {
      slots_[i] = static_cast<char*>(arena) + s.offset;
    } else if (s.parent < 0) {
      owned_.push_back(slots_[i] = device_.alloc(s.bytes()));
      if (s.kind == SlotKind::constant) device_.upload(slots_[i], s.value.bytes.data(), s.bytes());
      if (s.kind == SlotKind::state) unset_states_.insert(static_cast<int64_t>(i));
    }
  }
  for (size_t i = 0; i < slots_.size(); ++i)
    if (const Slot& s = program_.slots[i]; s.kind != SlotKind::arena && s.parent >= 0) slots_[i] = static_cast<char*>(slots_[static_cast<size_t>(s.parent)]) + s.offset;
}

Executable::~Executable() {
  replay_ = nullptr;
  for (DevicePtr p : owned_) device_.free(p);
}

void Executable::set_state(const std::string& name, const HostTensor& value) {
  for (int64_t id : program_.states) {
    const Slot& s = program_.slots[static_cast<size_t>(id)];
    if (s.name != name) continue;
    if (s.dtype != value.dtype || s.shape != value.shape)
      throw Error(ErrorKind::usage, fmt::format("state \"{}\" is {}, got {}", name, type_text(s.dtype, s.shape), type_text(value.dtype, value.shape)));
    unset_states_.erase(id);
    return device_.upload(slots_[static_cast<size_t>(id)], value.bytes.data(), s.bytes());
  }
  throw Error(ErrorKind::usage, fmt::format("the program has no state \"{}\"", name));
}

HostTensor Executable::state(const std::string& name) {
  for (int64_t id : program_.states) {
    const Slot& s = program_.slots[static_cast<size_t>(id)];
    if (s.name != name) continue;
    HostTensor out(s.dtype, s.shape);
    device_.download(out.bytes.data(), slots_[static_cast<size_t>(id)], s.bytes());
    return out;
  }
  throw Error(ErrorKind::usage, fmt::format("the program has no state \"{}\"", name));
}

void Executable::set_input(int64_t position, const HostTensor& value) {
  if (position < 0 || position >= static_cast<int64_t>(program_.inputs.size()))
    throw Error(ErrorKind::usage, fmt::format("the program takes {} inputs, there is no input {}", program_.inputs.size(), position));
  const int64_t id = program_.inputs[static_cast<size_t>(position)];
  const Slot& s = program_.slots[static_cast<size_t>(id)];
  if (s.dtype != value.dtype || s.shape != value.shape)
    throw Error(ErrorKind::usage, fmt::format("input \"{}\" is {}, got {}", s.name, type_text(s.dtype, s.shape), type_text(value.dtype, value.shape)));
  device_.upload(slots_[static_cast<size_t>(id)], value.bytes.data(), s.bytes());
}

void Executable::run_step(const Step& step) {
  std::visit(Overloaded{[&](const Launch& l) {
                          std::vector<DevicePtr> operands;
                          for (int64_t s : l.slots) operands.push_back(slots_[static_cast<size_t>(s)]);
                          const KernelImage& image = program_.images[static_cast<size_t>(l.image)];
                          if (image.grid > 0) device_.launch(*images_[static_cast<size_t>(l.image)], image, operands);
                        },
                        [&](const Copy& c) { device_.copy(slots_[static_cast<size_t>(c.to)], slots_[static_cast<size_t>(c.from)], program_.slots[static_cast<size_t>(c.to)].bytes()); },
                        [&](const Fill& f) { device_.fill(slots_[static_cast<size_t>(f.slot)], f.byte, program_.slots[static_cast<size_t>(f.slot)].bytes()); }},
             step);
}

void Executable::play() {
  for (const Step& s : program_.steps) run_step(s);
}

void Executable::run() {
  if (!unset_states_.empty())
    throw Error(ErrorKind::usage, fmt::format("state \"{}\" has no value yet; call set_state before the first run", program_.slots[static_cast<size_t>(*unset_states_.begin())].name));
  if (!replay_) replay_ = device_.record([this] { play(); });
  replay_();
}

HostTensor Executable::output(int64_t position) {
  const int64_t id = program_.outputs.at(static_cast<size_t>(position));
  const Slot& s = program_.slots[static_cast<size_t>(id)];
  HostTensor out(s.dtype, s.shape);
  device_.download(out.bytes.data(), slots_[static_cast<size_t>(id)], s.bytes());
  return out;
}

std::vector<HostTensor> Executable::run(const std::vector<HostTensor>& inputs) {
  if (inputs.size() != program_.inputs.size()) throw Error(ErrorKind::usage, fmt::format("the program takes {} inputs, got {}", program_.inputs.size(), inputs.size()));
  for (size_t i = 0; i < inputs.size(); ++i) set_input(static_cast<int64_t>(i), inputs[i]);
  run();
  std::vector<HostTensor> out;
  for (size_t i = 0; i < program_.outputs.size(); ++i) out.push_back(output(static_cast<int64_t>(i)));
  return out;
}

std::vector<double> Executable::profile(int repeats) {
  std::vector<double> out;
  for (const Step& s : program_.steps) {
    std::vector<double> times;
    for (int r = 0; r < repeats; ++r) {
      device_.synchronize();
      const auto start = std::chrono::steady_clock::now();
      run_step(s);
      device_.synchronize();
      times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    out.push_back(times[times.size() / 2]);
  }
  return out;
}

}  // namespace quern
