// Schedules: what a plan may choose without a change of results. A planner names each such choice, with the value that
// it would take itself and the bounds, or the ways that go together; a schedule says otherwise by name. The order of sums is no such choice:
// `sums_of` prints it, and it is the same for every schedule of a kernel. The tuner times candidates; codegen/plan_file.h keeps them.
// CPU:
//   vectors = 4  rows = 6    registers that hold a product's sums      packed = 1    whether an operand is copied into panels
//   panels = 2               panels side by side in an instance        row_blocks = 4   instances that share the rows
//   few = 2  many = 8        sums side by side of a product along the vectors       vectors_i1 = 4   of one axis (quern dump --what plan)
// CUDA, products in roles (passes/tile/roles.h): these go together
//   instances = 2  turns = 0     of the role that multiplies, together or in turns      blocks = 1  columns = 256   of a tile: 64 rows each, and columns
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "passes/tile/plan.h"

namespace quern {

using ScheduleFields = std::map<std::string, int64_t>;
std::string to_string(const ScheduleFields& fields);   // "rows = 6 vectors = 4"

class KernelSchedule {
 public:
  struct Field {
    int64_t value, standard, low, high;
  };
  struct Way {
    ScheduleFields fields;
    double cost;
  };

  KernelSchedule() = default;
  /// `origin`: who gives these values, for errors.
  KernelSchedule(ScheduleFields given, std::string origin) : given_(std::move(given)), origin_(std::move(origin)) {}
  /// For planners: the given value, or else `standard`. Throws Error(plan_field) for one outside the bounds.
  int64_t choose(const std::string& name, int64_t standard, int64_t low, int64_t high);
  /// Of ways that have the same fields, the one given, or else the standard one. Throws Error(plan_field) where none is as given.
  size_t choose_way(std::vector<Way> ways, size_t standard);
  const std::vector<Way>& ways() const { return ways_; }
  /// What was asked for.
  const std::map<std::string, Field>& fields() const { return fields_; }
  /// Throws Error(plan_numerics) or Error(plan_field) where a value was given that no planner asked for.
  void want_all_used() const;

 private:
  ScheduleFields given_;
  std::string origin_;
  std::map<std::string, Field> fields_;
  std::vector<Way> ways_;
};

/// How the planned kernel orders its sums, e.g. "mma<f32> i2<784 by 2 in 392".
std::string sums_of(const tile::Kernel& planned);

/// Plans with these values. Throws Error(plan_field) where they make no plan of this kernel, Error(plan_numerics) where
/// they would change the order of its sums.
using Planned = std::function<tile::Kernel(KernelSchedule& schedule)>;
tile::Kernel plan_scheduled(const Planned& plan, const ScheduleFields& given, const std::string& origin);

struct Candidate {
  ScheduleFields fields;   // those that differ from the standard
  tile::Kernel planned;
  double cost;             // by the model: cycles on a CPU, nanoseconds on a GPU
};
/// The standard plan, then others with the same order of sums, those of the least predicted cost first; at most so many.
std::vector<Candidate> candidates_cpu(const tile::Kernel& kernel, const std::string& arch, size_t most);
std::vector<Candidate> candidates_cuda(const tile::Kernel& kernel, const std::string& arch, F32Products products, size_t most);

}  // namespace quern
