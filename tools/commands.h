// The subcommands of `quern`: each file registers one. Options that several share live here.
#pragma once
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "codegen/compile.h"
#include "frontend/onnx/import.h"

namespace quern {

using Json = nlohmann::ordered_json;

/// One --set KEY=VALUE of a registered model. Everything throws Error(bad_setting) where the text is not what is asked.
struct Setting {
  std::string key, value;
  Setting(const std::string& text, const std::vector<std::string>& known);
  std::vector<int64_t> numbers() const;   // each 1 to 1000000
  int64_t number() const;
  std::pair<int64_t, int64_t> range() const;   // "64", or "1..4096"
  double rate() const;                    // in [0, 1)
  double positive() const;                // below 1000000
};

/// --dim, --input-shape, --bind: what an ONNX model leaves open.
struct OnnxArguments {
  std::vector<std::string> dims, shapes, bound;   // N=32, x=2,3, y=y.npy
  void add_to(CLI::App& command);
  onnx::ImportOptions options() const;
};

struct PassArguments;
/// A MODEL argument with its --set values.
struct ModelArgument {
  std::string name;
  std::vector<std::string> settings;   // "hidden=512,256"
  OnnxArguments onnx;
  void add_to(CLI::App& command);
  /// A registered model's training step, as the precision of `passes` wants it, or the graph of a .qir or .onnx file, whose weights are states with values in
  /// `weights`. Throws Error(usage) or Error(bad_file).
  Graph load(const PassArguments& passes, NamedTensors* weights = nullptr) const;
};

struct MlpConfig;
/// Throws Error(out_of_memory) before hours are spent on initial values.
void want_affordable(const MlpConfig& config, int64_t batch);

/// An option that names a file to be written, or - for standard output: what cannot be written is refused at once.
CLI::Option* add_output(CLI::App& command, const std::string& flag, std::string& path, const std::string& help);

/// --json FILE|-
struct JsonArgument {
  std::string path;
  void add_to(CLI::App& command) { add_output(command, "--json", path, "also write the results as JSON to FILE, or - for standard output"); }
  bool wants_stdout() const { return path == "-"; }
  void write(const Json& value) const;
};

/// --matmul, one of kF32Products (passes/tile/plan.h).
void add_matmul(CLI::App& command, std::string& matmul);
F32Products f32_products(const std::string& matmul);

/// --disable-pass, --opt-bisect-limit, --print-ir-after-all, --matmul, --fp, --precision, --plan, --no-cache: what every compiling command takes.
struct PassArguments {
  std::vector<std::string> disabled;
  int64_t bisect_limit = -1, memory_limit = -1;
  bool print_all = false, no_cache = false;
  std::string fp = "default", precision = "f32", matmul = "f32", plan;
  void add_to(CLI::App& command);
  CompileOptions options(const Target& target) const;
  double loss_scale() const;   // of training steps: Optimizer::loss_scale
};

/// --time-passes: where the time went from the command's start to an executable, phase by phase.
class TimeBudget {
 public:
  void lap(const std::string& phase);                                  // what has passed since the one before
  void lap(const CompileReport& report, const std::string& rest);      // the report's phases, and the rest of that
  void print(std::FILE* out) const;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now(), last_ = start_;
  std::vector<std::pair<std::string, double>> phases_, parts_;
  std::string program_ = "from a file";
  double since_last();
};

void write_text(const std::string& path, const std::string& text);   // "-" or "": standard output
void print_notes(const CompileReport& report);                       // events, to standard error

void register_train(CLI::App& root);
void register_check(CLI::App& root);
void register_fuzz(CLI::App& root);
void register_dump(CLI::App& root);
void register_compile(CLI::App& root);
void register_run(CLI::App& root);
void register_import(CLI::App& root);
void register_conformance(CLI::App& root);
void register_bench(CLI::App& root);
void register_tune(CLI::App& root);
void register_profile(CLI::App& root);
void register_ops(CLI::App& root);
void register_doctor(CLI::App& root);
void register_cache(CLI::App& root);
void register_explain(CLI::App& root);

}  // namespace quern
