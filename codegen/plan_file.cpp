// See plan_file.h.
#include "codegen/plan_file.h"

#include <cmath>
#include <set>

#include "ir/support/file.h"
#include "ir/support/hash.h"
#include "ir/support/reader.h"

namespace quern {

namespace {

constexpr int64_t kLargestFile = 64 << 20;   // bytes
constexpr size_t kMostKernels = 100000, kMostFields = 64;
constexpr const char* kHelp = "quern tune MODEL -o FILE writes one";

double positive(Reader& r) {
  const double v = r.number();
  if (!std::isfinite(v) || v < 0) r.fail(Code::bad_plan, "a cost or a time must be finite and not negative", kHelp);
  return v;
}

const char* unit_of(const PlanFile& plan) { return plan.target.kind == TargetKind::cpu ? "cycles" : "ns"; }

PlanFile::Kernel parse_kernel_entry(Reader& r, const char* unit) {
  PlanFile::Kernel k;
  k.name = r.word();
  k.structure = r.quoted();
  if (k.structure.size() != 32 || k.structure.find_first_not_of("0123456789abcdef") != std::string::npos) r.fail(Code::bad_plan, "a structure has 32 hexadecimal digits", kHelp);
  r.expect("{");
  while (!r.accept("}")) {
    const std::string field = r.word();
    r.expect("=");
    if (!k.fields.emplace(field, r.integer()).second) r.fail(Code::bad_plan, fmt::format("{} is given twice", field), kHelp);
    if (k.fields.size() > kMostFields) r.fail(Code::bad_plan, fmt::format("more than {} fields", kMostFields), kHelp);
  }
  r.expect("sums");
  k.sums = r.quoted();
  r.expect("predicted");
  k.predicted = positive(r);
  r.expect("of");
  k.predicted_standard = positive(r);
  r.expect(unit);
  r.expect(",");
  r.expect("measured");
  k.measured = positive(r);
  r.expect("of");
  k.measured_standard = positive(r);
  r.expect("us");
  return k;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out + "\"";
}

}  // namespace

std::string structure_hash(const tile::Kernel& lowered) { return hash_hex(tile::structure(lowered)); }

const PlanFile::Kernel* PlanFile::find(const std::string& structure) const {
  for (const Kernel& k : kernels)
    if (k.structure == structure) return &k;
  return nullptr;
}

tile::Kernel PlanFile::apply(const Kernel& entry, const tile::Kernel& lowered, F32Products products) const {
  const std::string origin = fmt::format("{}: kernel {}", file, entry.name);
  const auto plan = [&](KernelSchedule& schedule) { return target.kind == TargetKind::cpu ? plan_cpu(lowered, target.arch, &schedule) : plan_cuda(lowered, target.arch, products, nullptr, &schedule); };
  tile::Kernel planned = plan_scheduled(plan, entry.fields, origin);
  if (const std::string sums = sums_of(planned); sums != entry.sums)
    throw Error(Code::plan_numerics, fmt::format("{}: it was tuned for another order of sums ({}) than the compiler's ({})", origin, entry.sums, sums)).with_help("run quern tune again, or give the --matmul that it was tuned with");
  return planned;
}

std::string to_string(const PlanFile& plan) {
  std::string out = fmt::format("quern plan 1 {}\ntuned {}\n", to_string(plan.target), quoted(plan.tuned));
  for (const PlanFile::Kernel& k : plan.kernels) {
    out += fmt::format("kernel {} {} {{", k.name, quoted(k.structure));
    for (const auto& [name, value] : k.fields) out += fmt::format(" {} = {}", name, value);
    out += fmt::format(" }} sums {}\n  predicted {:.0f} of {:.0f} {}, measured {:.2f} of {:.2f} us\n", quoted(k.sums), k.predicted, k.predicted_standard, unit_of(plan), k.measured, k.measured_standard);
  }
  return out;
}

PlanFile parse_plan(const std::string& text, const std::string& file) {
  PlanFile plan;
  plan.file = file;
  Reader r(text, file);
  try {
    r.expect("quern");
    r.expect("plan");
    if (r.integer() != 1) r.fail(Code::bad_plan, "a plan of another version than 1", "tune again with this quern");
    const std::string kind = r.word();
    r.expect(":");
    plan.target = parse_target(kind + ":" + r.word());
    r.expect("tuned");
    plan.tuned = r.quoted();
    std::set<std::string> seen;
    while (!r.at_end()) {
      r.expect("kernel");
      plan.kernels.push_back(parse_kernel_entry(r, unit_of(plan)));
      if (!seen.insert(plan.kernels.back().structure).second) r.fail(Code::bad_plan, "a kernel of this structure is there twice", kHelp);
      if (plan.kernels.size() > kMostKernels) r.fail(Code::bad_plan, fmt::format("more than {} kernels", kMostKernels), kHelp);
    }
  } catch (const Error& e) {
    if (e.code == Code::syntax) throw Error(Code::bad_plan, e.message, e.where).with_help(kHelp);
    if (e.code == Code::unknown_target) throw Error(Code::bad_plan, e.message, r.place(0)).with_help(kHelp);
    throw;
  }
  return plan;
}

PlanFile load_plan(const std::string& file) {
  const std::vector<uint8_t> bytes = read_bytes(file, kLargestFile);
  return parse_plan(std::string(bytes.begin(), bytes.end()), file);
}

}  // namespace quern
