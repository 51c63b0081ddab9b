// See params.h.
#include "frontend/params.h"

#include <cmath>
#include <numbers>

#include <fmt/format.h>

namespace quern {

static double uniform(uint32_t seed, uint32_t stream, uint64_t index) { return (philox(seed, stream, index) + 0.5) * 0x1p-32; }

Tensor Params::add(const std::string& name, Shape shape, Init init, double scale, Where where) {
  for (const Param& p : params_)
    if (p.name == name) throw error_at(Code::duplicate_name, fmt::format("a parameter \"{}\" exists already", name), where, {{"the first", p.tensor}}).with_help("number the parameters: \"" + name + "0\", say");
  const uint32_t stream = static_cast<uint32_t>(params_.size());
  const Tensor tensor = model_.input(name, DType::f32, shape, where);   // checks the name and the shape
  HostTensor value(DType::f32, shape);
  const double fan_in = shape.empty() ? 1 : static_cast<double>(shape[0]), fan_out = shape.size() < 2 ? 1 : static_cast<double>(shape[1]);
  if (init == Init::he) scale = std::sqrt(2 / fan_in);
  if (init == Init::xavier) scale = std::sqrt(6 / (fan_in + fan_out));
  for (int64_t i = 0; init != Init::zeros && i < value.size(); ++i) {
    double v = init == Init::ones ? 1 : 0;
    if (init == Init::uniform || init == Init::xavier) v = scale * (2 * uniform(seed_, stream, static_cast<uint64_t>(i)) - 1);
    if (init == Init::normal || init == Init::he) {   // Box and Muller
      const uint64_t k = 2 * static_cast<uint64_t>(i);
      v = scale * std::sqrt(-2 * std::log(uniform(seed_, stream, k))) * std::cos(2 * std::numbers::pi * uniform(seed_, stream, k + 1));
    }
    value.set(i, Scalar::of(DType::f32, v));
  }
  params_.push_back({name, std::move(value), tensor});
  return tensor;
}

std::vector<Tensor> Params::tensors() const {
  std::vector<Tensor> out;
  for (const Param& p : params_) out.push_back(p.tensor);
  return out;
}

}  // namespace quern
