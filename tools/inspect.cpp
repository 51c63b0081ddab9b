// quern ops, doctor, cache and explain: what there is.
#include <memory>

#include <dlfcn.h>
#include <unistd.h>

#include <fmt/format.h>

#include "codegen/cache.h"
#include "codegen/image.h"
#include "ir/op.h"
#include "ir/support/env.h"
#include "ir/support/suggest.h"
#include "runtime/cpu/threads.h"
#include "tools/commands.h"
#include "tools/diagnostics.h"

namespace quern {
namespace {

void print_ops(const std::string& only, const JsonArgument& json) {
  Json list = Json::array();
  FILE* out = json.wants_stdout() ? stderr : stdout;
  bool found = false;
  for (int o = 0; o < kOpCount; ++o) {
    const OpDef& d = def_of(static_cast<Op>(o));
    if (!only.empty() && only != d.name) continue;
    found = true;
    std::string dtypes;
    for (int t = 0; t < kDTypeCount; ++t)
      if (!d.samples(static_cast<DType>(t)).empty()) dtypes += (dtypes.empty() ? "" : " ") + std::string(name_of(static_cast<DType>(t)));
    fmt::print(out, "{:<14} {:<58} {}{}\n", d.name, d.doc, dtypes, d.vjp ? "; differentiable" : "");
    list.push_back({{"name", d.name}, {"doc", d.doc}, {"dtypes", dtypes}, {"differentiable", d.vjp != nullptr}});
  }
  if (!found) {
    std::vector<std::string> names;
    for (int o = 0; o < kOpCount; ++o) names.emplace_back(name_of(static_cast<Op>(o)));
    throw Error(Code::unknown_op, fmt::format("there is no op \"{}\"", only)).with_help(suggestion(only, names, "`quern ops` lists them"));
  }
  json.write({{"schema", 1}, {"ops", list}});
}

// The GPUs by name, through the driver alone; `problem` says why there are none.
std::vector<std::string> gpu_names(std::string& driver, std::string& problem) {
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) return problem = "no NVIDIA driver (libcuda.so.1)", std::vector<std::string>{};
  const auto find = [&](const char* name) { return ::dlsym(library, name); };
  const auto init = reinterpret_cast<int (*)(unsigned)>(find("cuInit"));
  const auto version = reinterpret_cast<int (*)(int*)>(find("cuDriverGetVersion"));
  const auto count = reinterpret_cast<int (*)(int*)>(find("cuDeviceGetCount"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(find("cuDeviceGetName"));
  if (!init || !version || !count || !name) return problem = "the NVIDIA driver is not complete", std::vector<std::string>{};
  int number = 0, status = version(&number);
  if (status == 0) driver = fmt::format("CUDA {}.{}", number / 1000, number % 1000 / 10);
  if ((status = init(0)) != 0 || (status = count(&number)) != 0) return problem = fmt::format("the NVIDIA driver gives error {}", status), std::vector<std::string>{};
  std::vector<std::string> out;
  for (int i = 0; i < number; ++i) {
    char text[256] = "?";
    name(text, sizeof text - 1, i);
    out.emplace_back(text);
  }
  if (out.empty()) problem = "the NVIDIA driver finds no GPU";
  return out;
}

// The file that a word of the command line would start.
std::string in_path(const std::string& program) {
  const std::string path = env(Env::path) ? env(Env::path) : "";
  for (size_t at = 0; at <= path.size();) {
    const size_t colon = std::min(path.find(':', at), path.size());
    const std::string file = path.substr(at, colon - at) + "/" + program;
    if (colon > at && ::access(file.c_str(), X_OK) == 0) return file;
    at = colon + 1;
  }
  return "";
}

void doctor(const JsonArgument& json) {
  Cache cache(Cache::default_directory());
#ifdef QN_LLVM
  const std::string arch = cpu::host_arch(), compiler = cpu::compiler_version();
#else
  const std::string arch = "none", compiler = "built without LLVM";
#endif
  std::string nvrtc, nvrtc_problem, driver, gpu_problem, threads_problem;
  const auto one_line = [](const Error& e) { return e.message + "; " + e.help; };
  int threads = 0;
  try {
    threads = cpu::default_threads();
  } catch (const Error& e) {
    threads_problem = one_line(e);
  }
  try {
    nvrtc = cuda::compiler_version();
  } catch (const Error& e) {
    nvrtc_problem = one_line(e);
  }
  const std::vector<std::string> gpus = gpu_names(driver, gpu_problem);
  const std::string dot = in_path("dot");
  int64_t bytes = 0, damaged = 0;
  const auto entries = cache.list();
  for (const Cache::Entry& e : entries) bytes += e.bytes, damaged += !e.valid;
  const std::vector<std::string> notes = cache.take_notes();

  FILE* out = json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "cpu target    {} ({})\nthreads       {}\n", arch, compiler, threads ? fmt::format("{}", threads) : threads_problem);
  fmt::print(out, "cuda target   {}\n", nvrtc.empty() ? nvrtc_problem : nvrtc);
  fmt::print(out, "gpus          {}\n", gpus.empty() ? gpu_problem : fmt::format("{}, driver {}", gpus.size(), driver));
  for (size_t i = 0; i < gpus.size(); ++i) fmt::print(out, "  cuda:{}      {}\n", i, gpus[i]);
  fmt::print(out, "graphviz      {}\n", dot.empty() ? "not found; `dump --what svg` needs it: apt-get install graphviz" : dot);
  fmt::print(out, "cache         {}\n", cache.directory().empty() ? "off: QUERN_CACHE_DIR is empty, or neither it nor HOME is set"
                                         : cache.usable() ? fmt::format("{}: {} entries, {} bytes, {} damaged", cache.directory(), entries.size(), bytes, damaged) : cache.directory() + ": not usable");
  for (const std::string& note : notes) fmt::print(out, "              {}\n", note);
  fmt::print(out, "environment\n");
  Json variables = Json::object();
  for (const EnvInfo& v : all_variables()) {
    const char* value = env(v.variable);
    fmt::print(out, "  {:<18}{}  ({})\n", v.name, value ? visible(value) : "-", v.doc);
    if (value) variables[v.name] = value;
  }
  json.write({{"schema", 2}, {"cpu", arch}, {"compiler", compiler}, {"threads", threads}, {"nvrtc", nvrtc}, {"driver", driver}, {"gpus", gpus}, {"graphviz", dot},
              {"cache", {{"path", cache.directory()}, {"usable", cache.usable()}, {"entries", entries.size()}, {"bytes", bytes}, {"damaged", damaged}, {"notes", notes}}}, {"environment", variables}});
}

void cache_command(const std::string& what, const JsonArgument& json) {
  Cache cache(Cache::default_directory());
  FILE* out = json.wants_stdout() ? stderr : stdout;
  for (const std::string& note : cache.take_notes()) fmt::print(stderr, "quern: {}\n", note);
  Json report = {{"schema", 1}, {"path", cache.directory()}, {"usable", cache.usable()}};
  if (what == "path") {
    fmt::print(out, "{}\n", cache.directory());
    return json.write(report);
  }
  if (what == "clear") {
    report["removed"] = cache.clear();
    fmt::print(out, "removed {} entries\n", report["removed"].get<int64_t>());
    return json.write(report);
  }
  int64_t bytes = 0, bad = 0;
  const auto entries = cache.list();
  report["entries"] = Json::array();
  for (const Cache::Entry& e : entries) {
    bytes += e.bytes;
    bad += !e.valid;
    if (what == "ls" || !e.valid) fmt::print(out, "{:>10} {} {}\n", e.bytes, e.valid ? "ok     " : "DAMAGED", e.file);
    report["entries"].push_back({{"file", e.file}, {"bytes", e.bytes}, {"valid", e.valid}});
  }
  fmt::print(out, "{} entries, {} bytes, {} damaged\n", entries.size(), bytes, bad);
  report["bytes"] = bytes;
  report["damaged"] = bad;
  json.write(report);
  if (what == "verify" && bad) throw Error(Code::cache_damaged, "the cache has damaged entries").with_help("they are compiled again when needed; `quern cache clear` removes all");
}

Json row_of(const CodeInfo& i) { return {{"code", to_string(i.code)}, {"exit", static_cast<int>(i.kind)}, {"title", i.title}, {"text", i.text}}; }

void explain(const std::string& word, const JsonArgument& json) {
  FILE* out = json.wants_stdout() ? stderr : stdout;
  Json rows = Json::array();
  if (word.empty()) {
    for (const CodeInfo& i : all_codes()) {
      fmt::print(out, "{}  {}\n", to_string(i.code), i.title);
      rows.push_back(row_of(i));
    }
    return json.write({{"schema", 1}, {"codes", rows}});
  }
  // Q0102, q102 and 102 are the same.
  const size_t digits = word.find_first_not_of("qQ0");
  const std::string number = digits == std::string::npos ? "" : word.substr(digits);
  std::vector<std::string> names;
  for (const CodeInfo& i : all_codes()) {
    names.push_back(to_string(i.code));
    if (number != fmt::format("{}", static_cast<int>(i.code))) continue;
    fmt::print(out, "{}: {}\n\n{}\n\nExit status {}{}.\n", to_string(i.code), i.title, i.text, static_cast<int>(i.kind), i.kind == ErrorKind::compile ? ", or 3 where a file brought it up" : "");
    rows.push_back(row_of(i));
    return json.write({{"schema", 1}, {"codes", rows}});
  }
  throw Error(Code::unknown_code, fmt::format("there is no error code \"{}\"", word)).with_help(suggestion(word, names, "`quern explain` lists them"));
}

}  // namespace

void register_ops(CLI::App& root) {
  auto name = std::make_shared<std::string>();
  auto json = std::make_shared<JsonArgument>();
  CLI::App* c = root.add_subcommand("ops", "list the primitive ops");
  c->add_option("name", *name, "one op");
  json->add_to(*c);
  c->footer("Examples:\n  quern ops\n  quern ops contract");
  c->callback([name, json] { print_ops(*name, *json); });
}

void register_doctor(CLI::App& root) {
  auto json = std::make_shared<JsonArgument>();
  CLI::App* c = root.add_subcommand("doctor", "report on this machine and installation");
  json->add_to(*c);
  c->footer("Examples:\n  quern doctor\n  quern doctor --json -");
  c->callback([json] { doctor(*json); });
}

void register_cache(CLI::App& root) {
  CLI::App* c = root.add_subcommand("cache", "the cache of kernels and programs");
  c->require_subcommand(1);
  c->footer("Examples:\n  quern cache ls\n  QUERN_CACHE_DIR=/var/tmp/mine quern cache verify --json -");
  for (const auto& [name, help] : {std::pair{"path", "print its folder"}, {"ls", "list its entries"}, {"verify", "check every entry; status 1 where one is damaged"}, {"clear", "remove every entry"}}) {
    auto json = std::make_shared<JsonArgument>();
    CLI::App* sub = c->add_subcommand(name, help);
    json->add_to(*sub);
    sub->callback([name = std::string(name), json] { cache_command(name, *json); });
  }
}

void register_explain(CLI::App& root) {
  auto code = std::make_shared<std::string>();
  auto json = std::make_shared<JsonArgument>();
  CLI::App* c = root.add_subcommand("explain", "what an error code means; without one, the list");
  c->add_option("code", *code, "e.g. Q0102");
  c->footer("Examples:\n  quern explain Q0102\n  quern explain");
  json->add_to(*c);
  c->callback([code, json] { explain(*code, *json); });
}

}  // namespace quern
