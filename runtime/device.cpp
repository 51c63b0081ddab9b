// Opening devices by name.
#include "runtime/device.h"

#include <fmt/format.h>

#include "ir/support/suggest.h"
#include "runtime/cpu/device.h"
#include "runtime/cuda/device.h"
#include "runtime/null/device.h"

namespace quern {

std::unique_ptr<Device> open_device(const std::string& name, std::string* transcript) {
  if (name == "cpu") return open_cpu_device();
  if (name.rfind("cpu:", 0) == 0) return open_cpu_device(parse_target(name).arch);
  if (name == "null") return open_null_device(transcript);
  if (name.find("sm_") != std::string::npos || name.rfind("cpu:", 0) == 0)
    throw Error(Code::unknown_device, fmt::format("device \"{}\" names a target; --device says where to run, e.g. cuda:0 (what to compile for is --target {})", name, name)).with_help("--device " + name.substr(0, name.find(':')));
  if (name == "interpret") throw Error(Code::unknown_device, "the interpreter is no device that runs compiled code").with_help("--device cpu; `train` and `run` take --device interpret");
  if (name == "cuda" || name.rfind("cuda:", 0) == 0) {
    const std::string number = name.size() > 5 ? name.substr(5) : "0";
    if (number.empty() || number.size() > 3 || number.find_first_not_of("0123456789") != std::string::npos)
      throw Error(Code::unknown_device, fmt::format("device \"{}\": wants cuda or cuda:N", name)).with_help("--device cuda:0");
    return open_cuda_device(std::stoi(number));
  }
  throw Error(Code::unknown_device, fmt::format("there is no device \"{}\"; devices are interpret, cpu, cuda:N and null", name)).with_help(suggestion(name, {"interpret", "cpu", "cuda", "null"}, "--device cpu"));
}

}  // namespace quern
