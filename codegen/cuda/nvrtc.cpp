// See nvrtc.h.
#include "codegen/cuda/nvrtc.h"

#include <dlfcn.h>

#include <fmt/format.h>

#include "codegen/image.h"
#include "ir/support/env.h"

namespace quern::cuda {
namespace {

using Handle = void*;

struct Nvrtc {
  int (*version)(int*, int*);
  int (*create)(Handle*, const char*, const char*, int, const char* const*, const char* const*);
  int (*compile)(Handle, int, const char* const*);
  int (*cubin_size)(Handle, size_t*);
  int (*cubin)(Handle, char*);
  int (*log_size)(Handle, size_t*);
  int (*log)(Handle, char*);
  int (*destroy)(Handle*);
  const char* (*error_text)(int);
};

const Nvrtc& nvrtc() {
  static const Nvrtc table = [] {
    std::vector<std::string> places;
    for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}) {
      places.emplace_back(name);
      if (const char* home = env(Env::cuda_home)) places.push_back(std::string(home) + "/lib64/" + name);
      places.push_back(std::string("/usr/local/cuda/lib64/") + name);
    }
    if (const char* named = env(Env::nvrtc)) places = {named};
    void* library = nullptr;
    for (const std::string& place : places)
      if (!library) library = ::dlopen(place.c_str(), RTLD_NOW);
    if (!library) throw Error(Code::no_nvrtc, "NVRTC was not found (libnvrtc.so.13 or .12)").with_help("install the CUDA toolkit's NVRTC, set CUDA_HOME or QUERN_NVRTC, or use --target cpu");
    Nvrtc t{};
    const auto bind = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(library, name));
      if (!function) throw Error(Code::no_nvrtc, fmt::format("this NVRTC lacks {}", name)).with_help("version 12 or 13 is needed; QUERN_NVRTC names it");
    };
    bind(t.version, "nvrtcVersion");
    bind(t.create, "nvrtcCreateProgram");
    bind(t.compile, "nvrtcCompileProgram");
    bind(t.cubin_size, "nvrtcGetCUBINSize");
    bind(t.cubin, "nvrtcGetCUBIN");
    bind(t.log_size, "nvrtcGetProgramLogSize");
    bind(t.log, "nvrtcGetProgramLog");
    bind(t.destroy, "nvrtcDestroyProgram");
    bind(t.error_text, "nvrtcGetErrorString");
    return t;
  }();
  return table;
}

}  // namespace

std::string compiler_version() {
  int major = 0, minor = 0;
  nvrtc().version(&major, &minor);
  return fmt::format("nvrtc {}.{}", major, minor);
}

Compiled compile_here(const std::string& source, const std::string& arch) {
  const Nvrtc& n = nvrtc();
  Compiled out;
  Handle program = nullptr;
  int status = n.create(&program, source.c_str(), "kernel.cu", 0, nullptr, nullptr);
  const std::string arch_option = "-arch=" + arch;
  // -fmad=false: every op of a map rounds; products ask for fma by name.
  const char* options[] = {arch_option.c_str(), "-std=c++17", "-default-device", "-fmad=false", "--ptxas-options=-v"};
  if (status == 0) status = n.compile(program, 5, options);
  size_t size = 0;
  if (program && n.log_size(program, &size) == 0 && size > 1) {
    out.log.resize(size);
    n.log(program, out.log.data());
    out.log.resize(size - 1);
  }
  if (status == 0) status = n.cubin_size(program, &size);
  if (status == 0) {
    out.code.resize(size);
    status = n.cubin(program, reinterpret_cast<char*>(out.code.data()));
  }
  if (program) n.destroy(&program);
  if (status != 0) throw Error(Code::general_bug, fmt::format("this is a bug in Quern: NVRTC refuses a generated kernel for {}: {}\n{}", arch, n.error_text(status), out.log));
  return out;
}

}  // namespace quern::cuda
