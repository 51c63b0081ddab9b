// quern ops, doctor and cache: what there is.
#include <memory>

#include <dlfcn.h>

#include <fmt/format.h>

#include "codegen/cache.h"
#include "codegen/image.h"
#include "ir/op.h"
#include "runtime/cpu/threads.h"
#include "tools/commands.h"

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
  if (!found) throw Error(ErrorKind::usage, fmt::format("there is no op \"{}\"; quern ops lists them", only));
  json.write({{"schema", 1}, {"ops", list}});
}

void doctor(const JsonArgument& json) {
  const bool driver = ::dlopen("libcuda.so.1", RTLD_NOW) != nullptr;
  Cache cache(Cache::default_directory());
#ifdef QN_LLVM
  const std::string arch = cpu::host_arch(), compiler = cpu::compiler_version();
#else
  const std::string arch = "none", compiler = "built without LLVM";
#endif
  FILE* out = json.wants_stdout() ? stderr : stdout;
  fmt::print(out, "cpu target    {} ({})\nthreads       {}\n", arch, compiler, cpu::default_threads());
  std::string nvrtc;
  try {
    nvrtc = cuda::compiler_version();
  } catch (const Error& e) {
    nvrtc = e.what();
  }
  fmt::print(out, "cuda target   {}; NVIDIA driver {}\n", nvrtc, driver ? "found" : "not found (libcuda.so.1)");
  fmt::print(out, "cache         {} {}\n", cache.directory().empty() ? "off: neither QUERN_CACHE_DIR nor HOME is set" : cache.directory(), cache.usable() ? "usable" : "not usable");
  for (const std::string& note : cache.take_notes()) fmt::print(out, "              {}\n", note);
  json.write({{"schema", 1}, {"cpu", arch}, {"compiler", compiler}, {"threads", cpu::default_threads()}, {"nvrtc", nvrtc}, {"driver", driver}, {"cache", cache.directory()}, {"cache_usable", cache.usable()}});
}

void cache_command(const std::string& what) {
  Cache cache(Cache::default_directory());
  if (what == "path") {
    fmt::print("{}\n", cache.directory());
    return;
  }
  for (const std::string& note : cache.take_notes()) fmt::print(stderr, "quern: {}\n", note);
  if (what == "clear") {
    fmt::print("removed {} entries\n", cache.clear());
    return;
  }
  int64_t bytes = 0, bad = 0;
  const auto entries = cache.list();
  for (const Cache::Entry& e : entries) {
    bytes += e.bytes;
    bad += !e.valid;
    if (what == "ls" || !e.valid) fmt::print("{:>10} {} {}\n", e.bytes, e.valid ? "ok     " : "DAMAGED", e.file);
  }
  fmt::print("{} entries, {} bytes, {} damaged\n", entries.size(), bytes, bad);
  if (what == "verify" && bad) throw Error(ErrorKind::mismatch, "the cache has damaged entries; they are compiled again when needed");
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
  c->callback([json] { doctor(*json); });
}

void register_cache(CLI::App& root) {
  CLI::App* c = root.add_subcommand("cache", "the kernel cache");
  c->require_subcommand(1);
  for (const auto& [name, help] : {std::pair{"path", "print its folder"}, {"ls", "list its entries"}, {"verify", "check every entry; status 1 where one is damaged"}, {"clear", "remove every entry"}})
    c->add_subcommand(name, help)->callback([name = std::string(name)] { cache_command(name); });
}

}  // namespace quern
