// See repeat.h.
#include "bench/repeat.h"

#include <algorithm>
#include <functional>

#include <fmt/format.h>

namespace quern::bench {

Program repeated(Program program, int64_t times, int64_t sets) {
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(sets), std::vector<int64_t>(program.slots.size()));
  const std::vector<int64_t> inputs = program.inputs;
  for (auto& place : places)
    for (size_t s = 0; s < place.size(); ++s) place[s] = static_cast<int64_t>(s);
  const size_t own = program.slots.size();
  for (int64_t set = 1; set < sets; ++set) {
    std::vector<int64_t>& place = places[static_cast<size_t>(set)];
    for (size_t s = 0; s < own; ++s) {   // a part stands behind its whole
      const Slot& slot = program.slots[s];
      const bool input = std::find(inputs.begin(), inputs.end(), static_cast<int64_t>(s)) != inputs.end();
      if (!input && (slot.parent < 0 || place[static_cast<size_t>(slot.parent)] == slot.parent)) continue;
      Slot copy = slot;
      if (input) copy.name += fmt::format(" again {}", set);
      if (copy.parent >= 0) copy.parent = place[static_cast<size_t>(copy.parent)];
      place[s] = static_cast<int64_t>(program.slots.size());
      program.slots.push_back(std::move(copy));
    }
    for (int64_t i : inputs) program.inputs.push_back(place[static_cast<size_t>(i)]);
  }
  const std::vector<Step> steps = std::move(program.steps);
  program.steps.clear();
  const std::function<Step(Step, const std::vector<int64_t>&)> moved = [&](Step step, const std::vector<int64_t>& place) {
    const auto move = [&](int64_t& slot) { slot = place[static_cast<size_t>(slot)]; };
    if (auto* copy = std::get_if<Copy>(&step)) move(copy->from), move(copy->to);
    else if (auto* launch = std::get_if<Launch>(&step)) std::for_each(launch->slots.begin(), launch->slots.end(), move);
    else QN_CHECK(std::holds_alternative<Loop>(step), "what is repeated has no flags");
    if (auto* loop = std::get_if<Loop>(&step))
      for (Step& s : loop->steps) s = moved(s, place);
    return step;
  };
  for (int64_t run = 0; run < times; ++run)
    for (const Step& step : steps) program.steps.push_back(moved(step, places[static_cast<size_t>(run % sets)]));
  return program;
}

}  // namespace quern::bench
