// See schedule.h. Candidates: registers first (every pair of rows and vectors), then around the best of these one other choice at
// a time.
#include "passes/tile/schedule.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "ir/support/fault.h"
#include "ir/support/overloaded.h"
#include "ir/support/suggest.h"
#include "passes/tile/cost.h"

namespace quern {

using namespace tile;

namespace {

constexpr size_t kBases = 3;   // of the candidates for registers, the best: around these the rest varies

// What fixes the order of sums; no schedule has them.
const std::vector<std::string> kNumerics = {"sum", "sum_tile", "sum_block", "sum_lanes", "split", "shares", "online", "precision", "atom"};

}  // namespace

std::string to_string(const ScheduleFields& fields) {
  std::vector<std::string> words;
  for (const auto& [name, value] : fields) words.push_back(fmt::format("{} = {}", name, value));
  return fmt::format("{}", fmt::join(words, " "));
}

int64_t KernelSchedule::choose(const std::string& name, int64_t standard, int64_t low, int64_t high) {
  high = std::max(high, standard), low = std::min(low, standard);
  const auto it = given_.find(name);
  if (it != given_.end() && (it->second < low || it->second > high))
    throw Error(Code::plan_field, fmt::format("{}: {} = {}, where this kernel takes {} to {}", origin_, name, it->second, low, high)).with_help("quern tune writes what fits");
  const int64_t value = it == given_.end() ? standard : it->second;
  fields_[name] = {value, standard, low, high};
  return value;
}

size_t KernelSchedule::choose_way(std::vector<Way> ways, size_t standard) {
  ways_ = std::move(ways);
  ScheduleFields wanted = ways_[standard].fields;
  for (auto& [name, value] : wanted)
    if (const auto it = given_.find(name); it != given_.end()) value = it->second;
  for (const auto& [name, value] : ways_[standard].fields) fields_[name] = {wanted.at(name), value, INT64_MIN, INT64_MAX};
  const auto it = std::find_if(ways_.begin(), ways_.end(), [&](const Way& w) { return w.fields == wanted; });
  if (it == ways_.end()) throw Error(Code::plan_field, fmt::format("{}: this kernel has no plan with {}", origin_, to_string(wanted))).with_help(fmt::format("the standard one has {}; quern tune writes what fits", to_string(ways_[standard].fields)));
  return static_cast<size_t>(it - ways_.begin());
}

void KernelSchedule::want_all_used() const {
  std::vector<std::string> known;
  for (const auto& [name, field] : fields_) known.push_back(name);
  for (const auto& [name, value] : given_) {
    if (fields_.count(name)) continue;
    if (std::count(kNumerics.begin(), kNumerics.end(), name))
      throw Error(Code::plan_numerics, fmt::format("{}: {} = {} would change the order of sums, and so the results", origin_, name, value)).with_help(fmt::format("a plan has schedule fields only; this kernel has {}", known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", "))));
    throw Error(Code::plan_field, fmt::format("{}: this kernel has no field \"{}\"", origin_, name)).with_help(suggestion(name, known, known.empty() ? "there is nothing to choose in it as it is compiled here (--matmul is not in a plan file)" : fmt::format("it has {}", fmt::join(known, ", "))));
  }
}

std::string sums_of(const Kernel& k) {
  if (planted(Fault::sums_unseen)) return "";
  std::vector<std::string> out;
  const auto axis_text = [&](AxisId a) {
    const Axis* axis = &k.axes[static_cast<size_t>(a)];
    std::string text = fmt::format("i{}<{} by {}{}", a, axis->extent, axis->tile, axis->lanes ? " lanes" : "");
    for (AxisId around = axis->within; around >= 0; around = k.axes[static_cast<size_t>(around)].within) text += fmt::format(" in {}", k.axes[static_cast<size_t>(around)].tile);
    return text;
  };
  const auto add = [&](const std::string& what, const std::vector<AxisId>& axes) {
    std::vector<std::string> words;
    for (AxisId a : axes) words.push_back(axis_text(a));
    out.push_back(fmt::format("{} {}", what, fmt::join(words, " ")));
  };
  const std::function<void(const Block&)> visit = [&](const Block& block) {
    for (const Stmt& s : block)
      std::visit(Overloaded{[&](const Mma& m) { add(fmt::format("mma<{}>", kPrecisions[static_cast<size_t>(m.precision)]), m.axes); },
                            [&](const ReduceTile& r) { add(std::string(name_of(r.combine)), r.axes); },
                            [&](const Seq& q) { visit(q.body); }, [&](const Each& e) { visit(e.body); },
                            [&](const InRole& r) {
                              for (const Block* inner : blocks_of(r)) visit(*inner);
                            },
                            [](const auto&) {}},
                 s.node);
  };
  for (const Phase& p : k.phases) {
    visit(p.body);
    for (const Role& r : p.roles) visit(r.body);
  }
  return fmt::format("{}", fmt::join(out, "; "));
}

Kernel plan_scheduled(const Planned& plan, const ScheduleFields& given, const std::string& origin) {
  KernelSchedule schedule(given, origin), none;
  Kernel out = plan(schedule);
  schedule.want_all_used();
  const std::string sums = sums_of(out), standard = sums_of(plan(none));
  if (sums != standard) throw Error(Code::plan_numerics, fmt::format("{}: it would sum in another order ({}, not {}), and so change the results", origin, sums, standard)).with_help("quern tune writes schedules that keep it");
  return out;
}

std::vector<Candidate> candidates_cpu(const Kernel& kernel, const std::string& arch_name, size_t most) {
  const CpuArch arch = cpu_arch(arch_name);
  KernelSchedule standard;
  Kernel first = plan_cpu(kernel, arch_name, &standard);
  const std::string sums = sums_of(first);
  std::set<std::string> seen{structure(first)};
  std::vector<Candidate> out;
  out.push_back({{}, std::move(first), 0});
  out[0].cost = predicted_cycles(out[0].planned, arch);
  // The plan with these fields, if it is a new one with the same sums.
  const auto consider = [&](ScheduleFields fields) {
    std::erase_if(fields, [&](const auto& f) {
      const auto it = standard.fields().find(f.first);
      return it != standard.fields().end() && it->second.standard == f.second;
    });
    KernelSchedule schedule(fields, "a candidate");
    try {
      Kernel planned = plan_cpu(kernel, arch_name, &schedule);
      schedule.want_all_used();
      if (sums_of(planned) != sums || !seen.insert(structure(planned)).second) return;
      verify(planned);
      const double cycles = predicted_cycles(planned, arch);
      out.push_back({std::move(fields), std::move(planned), cycles});
    } catch (const Error& e) {
      if (e.code != Code::plan_field) throw;   // one choice bounds another
    }
  };
  const auto range = [&](const char* name) {
    std::vector<int64_t> values;
    if (const auto it = standard.fields().find(name); it != standard.fields().end())
      for (int64_t v = std::max<int64_t>(it->second.low, 1); v <= std::min<int64_t>(it->second.high, arch.registers); ++v) values.push_back(v);
    return values;
  };
  const auto cheaper = [](const Candidate& a, const Candidate& b) { return a.cost < b.cost; };
  const std::vector<std::string> grouped = {"rows", "vectors", "few", "many"};
  for (int64_t v : range("vectors")) {
    consider({{"vectors", v}});
    for (int64_t r : range("rows")) consider({{"vectors", v}, {"rows", r}});
  }
  for (int64_t f : range("few"))
    for (int64_t m : range("many")) consider({{"few", f}, {"many", m}});
  std::stable_sort(out.begin() + 1, out.end(), cheaper);
  out.resize(std::min(out.size(), most / 2 + 1), out[0]);
  std::vector<ScheduleFields> bases;
  for (size_t i = 0; i < std::min(out.size(), kBases); ++i) bases.push_back(out[i].fields);
  const size_t registers = out.size();
  for (const ScheduleFields& base : bases)
    for (const auto& [name, field] : standard.fields()) {
      if (std::count(grouped.begin(), grouped.end(), name)) continue;
      const int64_t s = field.standard;
      for (int64_t v : std::set<int64_t>{field.low, s / 2, s - 1, s + 1, 2 * s, 4 * s}) {
        if (v == s || v < field.low || v > field.high) continue;
        ScheduleFields fields = base;
        fields[name] = v;
        consider(std::move(fields));
      }
    }
  std::stable_sort(out.begin() + static_cast<int64_t>(registers), out.end(), cheaper);
  out.resize(std::min(out.size(), most), out[0]);
  std::stable_sort(out.begin() + 1, out.end(), cheaper);
  return out;
}

std::vector<Candidate> candidates_cuda(const Kernel& kernel, const std::string& arch, F32Products products, size_t most) {
  KernelSchedule standard;
  std::vector<Candidate> out;
  out.push_back({{}, plan_cuda(kernel, arch, products, nullptr, &standard), 0});
  const std::string sums = sums_of(out[0].planned);
  std::vector<KernelSchedule::Way> ways = standard.ways();
  for (KernelSchedule::Way& way : ways) std::erase_if(way.fields, [&](const auto& f) { return standard.fields().at(f.first).standard == f.second; });
  std::stable_sort(ways.begin(), ways.end(), [](const auto& a, const auto& b) { return a.cost < b.cost; });
  for (const KernelSchedule::Way& way : ways) {
    if (way.fields.empty()) out[0].cost = way.cost;
    if (way.fields.empty() || out.size() == most) continue;
    KernelSchedule schedule(way.fields, "a candidate");
    Kernel planned = plan_cuda(kernel, arch, products, nullptr, &schedule);
    if (sums_of(planned) != sums) continue;
    verify(planned);
    out.push_back({way.fields, std::move(planned), way.cost});
  }
  return out;
}

}  // namespace quern
