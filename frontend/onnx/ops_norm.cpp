// ONNX's normalizations, dropout and losses.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

Shape axes_from(int64_t first, int64_t rank) {
  Shape axes;
  for (int64_t d = first; d < rank; ++d) axes.push_back(d);
  return axes;
}
// A vector over the channels, axis 1 of x.
Tensor per_channel(const Tensor& v, const Tensor& x) {
  Shape shape(x.shape().size(), 1);
  shape.at(1) = v.type().size();
  return reshape(v, shape);
}
// f16 and bf16 are normalised in f32, as ONNX's stash_type asks by default.
DType stash(const Call& c, const Tensor& x) {
  if (x.dtype() != DType::f16 && x.dtype() != DType::bf16) return x.dtype();
  return c.integer("stash_type", 1) == 1 ? DType::f32 : x.dtype();
}

void import_batch_norm(Call& c) {
  const Tensor x = c.in(0);
  const double epsilon = c.real("epsilon", 1e-5), momentum = c.real("momentum", 0.9);
  c.want(x.rank() >= 2, "[N, C, …]");
  if (c.opset < 9 && (c.opset < 7 ? !c.flag("is_test") : false)) c.unsupported("training before opset 14");
  Tensor mean_ = c.in(3), variance = c.in(4);
  if (c.opset >= 14 && c.flag("training_mode")) {
    Shape axes = axes_from(0, x.rank());
    axes.erase(axes.begin() + 1);
    const Tensor now = mean(x, axes), centred = x - per_channel(now, x), spread = mean(centred * centred, axes);
    c.out(mean_ * momentum + now * (1 - momentum), 1);
    c.out(variance * momentum + spread * (1 - momentum), 2);
    mean_ = now;
    variance = spread;
  } else if (c.wants(1)) {
    c.unsupported("training before opset 14");
  }
  c.out((x - per_channel(mean_, x)) * per_channel(rsqrt(variance + epsilon) * c.in(1), x) + per_channel(c.in(2), x));
}

// (x - mean) / sqrt(variance + epsilon) over the axes; gives the mean and the reciprocal, too.
Tensor standardised(const Tensor& x, const Shape& axes, double epsilon, Tensor* mean_out = nullptr, Tensor* inverse_out = nullptr) {
  const Tensor m = keep_mean(x, axes), centred = x - m, inverse = rsqrt(keep_mean(centred * centred, axes) + epsilon);
  if (mean_out) *mean_out = m;
  if (inverse_out) *inverse_out = inverse;
  return centred * inverse;
}

void import_instance_norm(Call& c) {
  const Tensor x = c.in(0);
  c.want(x.rank() >= 3, "[N, C, …]");
  c.out(standardised(x, axes_from(2, x.rank()), c.real("epsilon", 1e-5)) * per_channel(c.in(1), x) + per_channel(c.in(2), x));
}

void import_layer_norm(Call& c) {
  const Tensor x = c.in(0);
  const DType wide = stash(c, x);
  Tensor mean_, inverse;
  Tensor y = cast(standardised(cast(x, wide), axes_from(c.axis(c.integer("axis", -1), x.rank()), x.rank()), c.real("epsilon", 1e-5), &mean_, &inverse), x.dtype()) * c.in(1);
  if (c.has(2)) y = y + c.in(2);
  c.out(y);
  c.out(mean_, 1);
  c.out(inverse, 2);
}

void import_rms_norm(Call& c) {
  const Tensor x = c.in(0), w = cast(x, stash(c, x));
  const Shape axes = axes_from(c.axis(c.integer("axis", -1), x.rank()), x.rank());
  c.out(cast(w * rsqrt(keep_mean(w * w, axes) + c.real("epsilon", 1e-5)), x.dtype()) * c.in(1));
}

// Each group of channels on its own; the scale is a group's until opset 21, a channel's then.
void import_group_norm(Call& c) {
  const Tensor x = c.in(0);
  const int64_t groups = c.integer("num_groups", 0);
  c.want(x.rank() >= 3 && groups > 0 && x.shape().at(1) % groups == 0, "[N, C, …] with groups that divide C");
  Shape grouped = x.shape();
  grouped[1] /= groups;
  grouped.insert(grouped.begin() + 1, groups);
  c.want(grouped.size() <= kMaxRank, "rank");
  const DType wide = stash(c, x);
  Tensor y = cast(standardised(reshape(cast(x, wide), grouped), axes_from(2, static_cast<int64_t>(grouped.size())), c.real("epsilon", 1e-5)), x.dtype());
  if (c.opset >= 21) y = reshape(y, x.shape());
  y = y * per_channel(c.in(1), y) + per_channel(c.in(2), y);
  c.out(reshape(y, x.shape()));
}

void import_mean_variance(Call& c) {
  const Tensor x = c.in(0);
  Shape axes = c.find("axes") ? c.integers("axes") : Shape{0, 2, 3};
  for (int64_t& a : axes) a = c.axis(a, x.rank());
  const Tensor centred = x - keep_mean(x, axes);
  c.out(centred / (sqrt(keep_mean(centred * centred, axes)) + 1e-9));
}

// x / (bias + alpha/size * sum of squares of the channels around)^beta
void import_lrn(Call& c) {
  const Tensor x = c.in(0);
  const int64_t size = c.integer("size", 1), channels = x.shape().at(1);
  c.want(x.rank() >= 2 && size > 0 && size <= 4096, "size");
  Shape low(x.shape().size(), 0), high = low;
  low[1] = (size - 1) / 2;
  high[1] = size - 1 - low[1];
  const Tensor squares = pad(x * x, low, high);
  Tensor total;
  for (int64_t k = 0; k < size; ++k) {
    const Tensor part = slice(squares, 1, k, k + channels);
    total = total ? total + part : part;
  }
  c.out(x / pow(total * (c.real("alpha", 0.0001) / static_cast<double>(size)) + c.real("bias", 1), c.real("beta", 0.75)));
}

void import_dropout(Call& c) {
  const Tensor x = c.in(0);
  const bool training = c.opset < 7 ? !c.flag("is_test") : c.opset >= 12 && c.has(2) && c.known_number(c.in(2), "training_mode") != 0;
  const double ratio = c.opset < 12 ? c.real("ratio", 0.5) : c.has(1) && training ? c.known_number(c.in(1), "the ratio") : 0.5;
  if (training && ratio != 0) c.unsupported("dropout in training: which elements it drops is defined by another generator");
  c.out(x);
  c.out(c.filled(DType::boolean, x.shape(), 1), 1);
}

// Minus the target's log-probability, weighted; `scores` [N, C, …], target [N, …].
Tensor likelihood_loss(Call& c, const Tensor& scores, const Tensor& target, size_t weight_at) {
  const int64_t classes = scores.shape().at(1);
  const Tensor index = expand_dims(target, 1), hot = equal(index, c.coordinates(target.dtype(), scores.shape(), 1));
  const Tensor none = c.filled(scores.dtype(), scores.shape(), 0);
  Tensor weight = c.has(weight_at) ? per_channel(c.in(weight_at), scores) : c.filled(scores.dtype(), scores.shape(), 1);
  c.want(weight.rank() == scores.rank() && (!c.has(weight_at) || c.in(weight_at).type().size() == classes), "a weight for every class");
  weight = sum(where(hot, broadcast_to(weight, scores.shape()), none), {1});
  if (c.find("ignore_index")) weight = where(equal(target, static_cast<double>(c.integer("ignore_index", 0))), c.filled(scores.dtype(), target.shape(), 0), weight);
  const Tensor loss = -Located(sum(where(hot, scores, none), {1}) * weight);
  const std::string how = c.text("reduction", "mean");
  if (how == "none") return loss;
  if (how == "sum") return sum(loss);
  c.want(how == "mean", "reduction=" + how);
  return sum(loss) / sum(weight);
}
void import_likelihood(Call& c) { c.out(likelihood_loss(c, c.in(0), c.in(1), 2)); }
void import_cross_entropy(Call& c) {
  const Tensor logs = log_softmax_along(c.in(0), 1);
  c.out(likelihood_loss(c, logs, c.in(1), 2));
  c.out(logs, 1);
}

// --- optimizers of ai.onnx.preview.training ---
void import_adagrad(Call& c) {
  const Tensor rate = c.in(0), t = c.in(1);
  const size_t n = (c.inputs() - 2) / 3;
  const Tensor now = rate / (cast(t, rate.dtype()) * c.real("decay_factor", 0) + 1);
  for (size_t i = 0; i < n; ++i) {
    const Tensor x = c.in(2 + i), g = c.in(2 + n + i) + x * c.real("norm_coefficient", 0), h = c.in(2 + 2 * n + i) + g * g;
    c.out(x - now * g / (sqrt(h) + c.real("epsilon", 1e-6)), i);
    c.out(h, n + i);
  }
}
void import_adam(Call& c) {
  const Tensor rate = c.in(0), t = c.in(1);
  const size_t n = (c.inputs() - 2) / 4;
  const double a = c.real("alpha", 0.9), b = c.real("beta", 0.999);
  const Tensor steps = cast(t, rate.dtype());
  const auto power = [&](double base) { return pow(c.filled(rate.dtype(), steps.shape(), base), steps); };
  const Tensor corrected = where(less(0, t), rate * sqrt(1 - Operand(power(b))) / (1 - Operand(power(a))), rate);
  for (size_t i = 0; i < n; ++i) {
    const Tensor x = c.in(2 + i), g = c.in(2 + n + i) + x * c.real("norm_coefficient", 0);
    const Tensor v = c.in(2 + 2 * n + i) * a + g * (1 - a), h = c.in(2 + 3 * n + i) * b + g * g * (1 - b);
    c.out((x - corrected * v / (sqrt(h) + c.real("epsilon", 1e-6))) * (1 - c.real("norm_coefficient_post", 0)), i);
    c.out(v, n + i);
    c.out(h, 2 * n + i);
  }
}
void import_momentum(Call& c) {
  const Tensor rate = c.in(0), t = c.in(1);
  const size_t n = (c.inputs() - 2) / 3;
  const double a = c.real("alpha", 0);
  const bool nesterov = c.text("mode", "standard") == "nesterov";
  for (size_t i = 0; i < n; ++i) {
    const Tensor x = c.in(2 + i), g = c.in(2 + n + i) + x * c.real("norm_coefficient", 0);
    const Tensor b = where(less(0, t), c.filled(rate.dtype(), {}, c.real("beta", 0)), c.filled(rate.dtype(), {}, 1));
    const Tensor v = c.in(2 + 2 * n + i) * a + b * g;
    c.out(x - rate * (nesterov ? g + v * a : v), i);
    c.out(v, n + i);
  }
}
// dy/dx of what the graph computed before, at the place where it was computed.
void import_gradient(Call& c) {
  const Attribute *xs = c.find("xs"), *y = c.find("y");
  c.want(xs && y && !xs->texts.empty(), "xs and y");
  std::vector<Tensor> wanted;
  for (size_t i = 0; i < xs->texts.size(); ++i) {
    if (i >= c.inputs() || c.node.inputs[i] != xs->texts[i]) c.unsupported("a gradient at other values than those that the graph computes with");
    wanted.push_back(c.in(i));
  }
  const std::vector<Tensor> out = grad(c.named(y->s), wanted);
  for (size_t i = 0; i < out.size(); ++i) c.out(out[i], i);
}

}  // namespace

std::vector<OpEntry> norm_ops() {
  return {
      {"BatchNormalization", import_batch_norm}, {"Dropout", import_dropout}, {"GroupNormalization", import_group_norm}, {"InstanceNormalization", import_instance_norm},
      {"LayerNormalization", import_layer_norm}, {"LRN", import_lrn}, {"MeanVarianceNormalization", import_mean_variance}, {"NegativeLogLikelihoodLoss", import_likelihood},
      {"RMSNormalization", import_rms_norm}, {"SoftmaxCrossEntropyLoss", import_cross_entropy}, {"ai.onnx.preview.training.Adagrad", import_adagrad},
      {"ai.onnx.preview.training.Adam", import_adam}, {"ai.onnx.preview.training.Gradient", import_gradient}, {"ai.onnx.preview.training.Momentum", import_momentum},
  };
}

}  // namespace quern::onnx
