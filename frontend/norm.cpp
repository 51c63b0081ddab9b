// See norm.h.
#include "frontend/norm.h"

#include <numeric>

#include <fmt/format.h>

namespace quern {
namespace {

Operand at(const Tensor& t, const Where& w) { return Operand(t, w); }
Operand at(double v, const Where& w) { return Operand(v, w); }

void want_channels(const char* name, const Tensor& x, const std::vector<std::pair<const char*, Tensor>>& vectors, const Where& where) {
  std::vector<std::pair<const char*, Tensor>> operands = {{"x", x}};
  operands.insert(operands.end(), vectors.begin(), vectors.end());
  for (const auto& [label, t] : operands)
    if (!t) throw error_at(Code::empty_tensor, fmt::format("{}: {} is a default-constructed Tensor", name, label), where).with_help("assign it before");
  if (x.rank() < 2) throw error_at(Code::bad_rank, fmt::format("{}: wants [batch, channels, …], got {}", name, to_string(x.type())), where, operands).with_help("expand_dims or reshape it");
  for (const auto& [label, t] : vectors)
    if (t.shape() != Shape{x.shape()[1]})
      throw error_at(Code::shapes_differ, fmt::format("{}: {} is {}, x has {} channels", name, label, to_string(t.type()), x.shape()[1]), where, operands).with_help(fmt::format("make it {}[{}]", name_of(x.dtype()), x.shape()[1]));
}
// [channels] beside [batch, channels, spatial…].
Tensor along_channels(const Tensor& v, const Tensor& x, const Where& where) {
  Shape shape(x.shape().size() - 1, 1);
  shape[0] = v.shape()[0];
  return reshape(v, std::move(shape), where);
}
Tensor normalised(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& mean, const Tensor& variance, double epsilon, const Where& where) {
  const Tensor centred = x - at(along_channels(mean, x, where), where);
  const Tensor factor = rsqrt(variance + at(epsilon, where), where) * at(scale, where);
  return centred * at(along_channels(factor, x, where), where) + at(along_channels(shift, x, where), where);
}

}  // namespace

BatchNorm batch_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon, Where where) {
  want_channels("batch_norm", x, {{"scale", scale}, {"shift", shift}}, where);
  Shape axes(x.shape().size());   // all but the channels
  std::iota(axes.begin(), axes.end(), 0);
  axes.erase(axes.begin() + 1);
  BatchNorm out;
  out.mean = mean(x, axes, where);
  const Tensor centred = x - at(along_channels(out.mean, x, where), where);
  out.variance = mean(centred * at(centred, where), axes, where);
  out.y = normalised(x, scale, shift, out.mean, out.variance, epsilon, where);
  return out;
}
Tensor batch_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& mean, const Tensor& variance, double epsilon, Where where) {
  want_channels("batch_norm", x, {{"scale", scale}, {"shift", shift}, {"mean", mean}, {"variance", variance}}, where);
  return normalised(x, scale, shift, mean, variance, epsilon, where);
}
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& scale, const Tensor& shift, double epsilon, Where where) {
  want_channels("group_norm", x, {{"scale", scale}, {"shift", shift}}, where);
  const int64_t channels = x.shape()[1];
  if (groups < 1 || channels % groups != 0)
    throw error_at(Code::channel_groups, fmt::format("group_norm: {} channels do not divide into {} groups", channels, groups), where, {{"x", x}}).with_help("choose a divisor of the channel count");
  Shape shape = x.shape();
  shape[1] /= groups;
  shape.insert(shape.begin() + 1, groups);
  const Tensor split = reshape(x, shape, where);
  Shape axes(shape.size() - 2), kept(shape.size(), 1);
  std::iota(axes.begin(), axes.end(), 2);
  kept[0] = shape[0], kept[1] = groups;
  const Tensor centred = split - at(reshape(mean(split, axes, where), kept, where), where);
  const Tensor variance = reshape(mean(centred * at(centred, where), axes, where), kept, where);
  const Tensor y = reshape(centred * at(rsqrt(variance + at(epsilon, where), where), where), x.shape(), where);
  return y * at(along_channels(scale, x, where), where) + at(along_channels(shift, x, where), where);
}
Tensor instance_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double epsilon, Where where) {
  want_channels("instance_norm", x, {{"scale", scale}, {"shift", shift}}, where);
  return group_norm(x, x.shape()[1], scale, shift, epsilon, where);
}
Tensor rms_norm(const Tensor& x, const Tensor& scale, double epsilon, Where where) {
  if (!x || !scale) throw error_at(Code::empty_tensor, "rms_norm: an operand is a default-constructed Tensor", where).with_help("assign it before");
  const Tensor square = expand_dims(mean(x * at(x, where), {-1}, where), -1, where);
  return x * at(rsqrt(square + at(epsilon, where), where), where) * at(scale, where);
}

}  // namespace quern
