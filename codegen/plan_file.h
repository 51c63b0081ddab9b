// Plan files: schedules that were timed on one target, by the structure of the lowered kernel (passes/tile/schedule.h). `quern
// tune` writes them, --plan reads them; they change no result. As text:
//   quern plan 1 cpu:avx512
//   tuned "Intel(R) Xeon(R), 1 thread"
//   kernel k2_contract_add "0f1e…" { rows = 8 vectors = 3 } sums "mma<f32> i2<784 by 2"
//     predicted 120000 of 118000 cycles, measured 95.2 of 101.3 us
// of a GPU, nanoseconds in place of cycles.
// The numbers behind a kernel are the tuner's record, beside those of the standard plan; `sums` must be the order of sums
// that the compiler has chosen, so a plan cannot change it.
#pragma once
#include "codegen/program.h"
#include "passes/tile/schedule.h"

namespace quern {

struct PlanFile {
  struct Kernel {
    std::string name, structure;   // 32 hexadecimal digits of the lowered kernel's structure
    ScheduleFields fields;
    std::string sums;
    double predicted = 0, predicted_standard = 0, measured = 0, measured_standard = 0;
  };
  Target target;
  std::string tuned;               // where
  std::vector<Kernel> kernels;
  std::string file;                // its name, for errors

  const Kernel* find(const std::string& structure) const;
  /// The plan of a kernel that has an entry. Throws Error(plan_field) or Error(plan_numerics).
  tile::Kernel apply(const Kernel& entry, const tile::Kernel& lowered, F32Products products) const;
};

std::string structure_hash(const tile::Kernel& lowered);
std::string to_string(const PlanFile& plan);
/// Throws Error(bad_plan), with the place.
PlanFile parse_plan(const std::string& text, const std::string& file);
PlanFile load_plan(const std::string& file);

}  // namespace quern
