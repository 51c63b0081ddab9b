// See stored.h.
#include "codegen/stored.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "codegen/image.h"
#include "compiler.h"
#include "ir/support/hash.h"

namespace quern {

static std::string too_large(int64_t bytes) { return fmt::format("{} bytes of constants, code and text; up to {} are kept", bytes, kLargestStored); }

std::string unfit_to_store(const std::string& graph_text, const CompileOptions& o) {
  if (o.want_source || o.passes.after) return "somebody looks inside";
  if (o.passes.memory_limit >= 0) return "its memory is limited";
  const int64_t bytes = static_cast<int64_t>(graph_text.size());
  return bytes > kLargestStored ? too_large(bytes) : "";
}

std::string program_key(const std::string& graph_text, const CompileOptions& o) {
  const std::string version = o.target.kind == TargetKind::cpu ? cpu::compiler_version() : cuda::compiler_version();
  return fmt::format("quern program 6 " QN_COMPILER "\n{}\n{}\n{} {} {} {} {} {} {} [{}]\n{}\n{}", to_string(o.target), version, static_cast<int>(o.f32_products), static_cast<int>(o.passes.fp), name_of(o.passes.compute),
                     o.passes.bisect_limit, o.passes.long_sum, o.passes.chunk_sums, o.passes.large_matrix, fmt::join(o.passes.disabled, ","), o.plan ? hash_hex(to_string(*o.plan)) : "no plan", graph_text);
}

std::optional<Program> stored_program(Cache& cache, const std::string& key, const std::string& graph_text, std::vector<std::string>& notes) {
  const auto bytes = cache.get(key);
  if (!bytes) return std::nullopt;
  try {
    Program program = load_program(*bytes, cache.directory());
    if (program.graph_text == graph_text) return program;
    notes.push_back("the cache holds another program where this one should be; it is compiled again");
  } catch (const Error& e) {
    notes.push_back(fmt::format("the cache holds no program where one should be ({}); it is compiled again", e.message));
  }
  return std::nullopt;
}

std::string store_program(Cache& cache, const std::string& key, const Program& program) {
  if (const int64_t bytes = stored_bytes(program); bytes > kLargestStored) return too_large(bytes);
  cache.put(key, save_program(program));
  return cache.usable() ? "" : "the cache is off";
}

}  // namespace quern
