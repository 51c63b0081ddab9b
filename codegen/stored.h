// Whole programs in the cache: a start that finds its program runs no pass and no compiler. The key names all that a
// program follows from: the graph's text (constants and lines of source included), target, options, compiler and this
// build. An entry is a package (codegen/program.h), verified like one, and its graph must be the one that was asked for.
#pragma once
#include <optional>

#include "codegen/cache.h"
#include "codegen/compile.h"

namespace quern {

/// Larger programs are not kept: their constants would be stored a second time.
constexpr int64_t kLargestStored = 64 << 20;

/// Why a program made with these options of a graph of this text is none for the cache, or "".
std::string unfit_to_store(const std::string& graph_text, const CompileOptions& options);

std::string program_key(const std::string& graph_text, const CompileOptions& options);
/// Nothing where there is none: what is damaged is noted by the cache, or here.
std::optional<Program> stored_program(Cache& cache, const std::string& key, const std::string& graph_text, std::vector<std::string>& notes);
/// Returns why it is not kept, or "".
std::string store_program(Cache& cache, const std::string& key, const Program& program);

}  // namespace quern
