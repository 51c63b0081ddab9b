// See optim.h.
#include "frontend/optim.h"

#include <cmath>
#include <iterator>
#include <numbers>

#include <fmt/format.h>

#include "ir/names.h"
#include "ir/support/suggest.h"

namespace quern {

using Initial = std::vector<std::pair<std::string, HostTensor>>;

Algorithm parse_algorithm(const std::string& name) {
  if (name == "sgd") return Algorithm::sgd;
  if (name == "momentum") return Algorithm::momentum;
  if (name == "adam") return Algorithm::adam;
  if (name == "adamw") return Algorithm::adamw;
  throw Error(Code::bad_value, fmt::format("there is no optimizer \"{}\"; optimizers are sgd, momentum, adam and adamw", name)).with_help(suggestion(name, {"sgd", "momentum", "adam", "adamw"}, "adam is the default"));
}

Schedule parse_schedule(const std::string& name) {
  if (name == "constant") return Schedule::constant;
  if (name == "cosine") return Schedule::cosine;
  if (name == "linear") return Schedule::linear_warmup;
  throw Error(Code::bad_value, fmt::format("there is no schedule \"{}\"; schedules are constant, cosine and linear", name)).with_help(suggestion(name, {"constant", "cosine", "linear"}, "cosine is the default"));
}

// The rate of step `t` (f32 scalar, 1 for the first).
static Tensor rate(const Tensor& t, const Optimizer& o) {
  Tensor factor = t * 0.0 + 1.0;
  if (o.schedule == Schedule::cosine) {
    const Tensor progress = minimum(t / static_cast<double>(std::max<int64_t>(1, o.steps)), 1.0);
    factor = (cos(progress * std::numbers::pi) + 1.0) * 0.5;
  }
  if (o.warmup > 0 && o.schedule != Schedule::constant) factor = factor * minimum(t / static_cast<double>(o.warmup), 1.0);
  return factor * o.learning_rate;
}

Tensor global_norm(const std::vector<Tensor>& tensors) {
  Tensor squares;
  for (const Tensor& t : tensors) {
    const Tensor x = cast(t, DType::f32), s = sum(x * x);
    squares = squares ? squares + s : s;
  }
  return sqrt(squares);
}

namespace {

// In memory: what is computed of all gradients is no part of a kernel that updates.
Tensor stored(const Tensor& x) { return {&x.graph(), x.graph().add(Op::stored, {x.id()})}; }

// The states of a loss scale.
struct Scaling {
  Tensor scale, good_steps;
};

Initial update(Model& model, const Params& params, std::vector<Tensor> gradients, const Optimizer& o, const Scaling* scaling) {
  QN_CHECK(params.all().size() == gradients.size(), "one gradient per parameter");
  if (!(o.clip_norm >= 0)) throw Error(Code::attribute_missing, fmt::format("clip_norm is {}", o.clip_norm)).with_help("it is the greatest norm of all gradients together; 0: no limit");
  Initial initial, moments;
  for (const Param& p : params.all()) initial.emplace_back(p.name, p.value);
  Tensor good;   // bool[]: the step counts; without a loss scale every one does
  if (o.clip_norm > 0 || o.norm_output || scaling) {
    const Tensor norm = global_norm(gradients);
    if (o.norm_output) model.output("grad_norm", norm);
    if (scaling) good = is_finite(stored(norm));
    if (o.clip_norm > 0) {
      const Tensor factor = stored(minimum(o.clip_norm / (norm + 1e-6), 1.0));
      for (Tensor& g : gradients) g = cast(g, DType::f32) * factor;
    }
  }
  // A state that only good steps change.
  const auto becomes = [&](const std::string& name, const Tensor& before, const Tensor& after) { model.state(name, before, good ? where(good, after, before) : after); };
  const Tensor step = model.input("step", DType::f32, {});
  const Tensor t = step + 1.0;
  moments.emplace_back("step", HostTensor(DType::f32, {}));
  const Tensor lr = rate(t, o);
  Tensor rate_of_step, epsilon;
  if (o.algorithm == Algorithm::adam || o.algorithm == Algorithm::adamw) {
    // lr (m / c1) / (sqrt(v / c2) + e) with c1 and c2 taken out, the order that the paper's section 2 ends with: one division
    // and one root for each element. beta^t = exp(t log beta)
    const Tensor c1 = 1.0 - exp(t * std::log(o.momentum)), root = sqrt(1.0 - exp(t * std::log(o.beta2)));
    rate_of_step = lr * root / c1, epsilon = root * o.epsilon;
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    const Param& p = params.all()[i];
    Tensor g = gradients[i];
    if (o.weight_decay != 0 && o.algorithm != Algorithm::adamw) g = g + p.tensor * o.weight_decay;
    const auto moment = [&](const char* suffix) {
      moments.emplace_back(p.name + suffix, HostTensor(DType::f32, p.value.shape));
      return model.input(p.name + suffix, DType::f32, p.value.shape);
    };
    Tensor next;
    if (o.algorithm == Algorithm::sgd) {
      next = p.tensor - lr * g;
    } else if (o.algorithm == Algorithm::momentum) {
      const Tensor m = moment(".m"), m1 = m * o.momentum + g;
      becomes(p.name + ".m", m, m1);
      next = p.tensor - lr * m1;
    } else {
      const Tensor m = moment(".m"), v = moment(".v");
      const Tensor m1 = m * o.momentum + g * (1 - o.momentum), v1 = v * o.beta2 + g * g * (1 - o.beta2);
      becomes(p.name + ".m", m, m1);
      becomes(p.name + ".v", v, v1);
      next = p.tensor - rate_of_step * m1 / (sqrt(v1) + epsilon);
      if (o.algorithm == Algorithm::adamw && o.weight_decay != 0) next = next - lr * o.weight_decay * p.tensor;
    }
    becomes(p.name, p.tensor, next);
  }
  becomes("step", step, t);
  if (scaling) {
    constexpr double kBound = 0x1p126;   // its reciprocal is no denormal number either
    const auto& [scale, good_steps] = *scaling;
    const Tensor more = good_steps + 1.0, grows = greater_equal(more, static_cast<double>(o.scale_growth));
    model.state(kLossScaleState, scale, where(good, where(grows, minimum(scale * 2.0, kBound), scale), maximum(scale * 0.5, 1 / kBound)));
    model.state("good_steps", good_steps, where(logical_or(logical_not(good), grows), 0.0, more));
    moments.emplace_back(kLossScaleState, HostTensor::full(DType::f32, {}, o.loss_scale));
    moments.emplace_back("good_steps", HostTensor(DType::f32, {}));
  }
  initial.insert(initial.end(), std::make_move_iterator(moments.begin()), std::make_move_iterator(moments.end()));
  return initial;
}

}  // namespace

Initial apply_updates(Model& model, const Params& params, const std::vector<Tensor>& gradients, const Optimizer& o) {
  if (o.loss_scale != 0) throw Error(Code::attribute_missing, "apply_updates: a loss scale begins at the loss").with_help("call minimize(model, params, loss, optimizer), which takes the loss");
  return update(model, params, gradients, o, nullptr);
}

Initial minimize(Model& model, const Params& params, const Tensor& loss, const Optimizer& o, Where where) {
  if (o.loss_scale == 0) return update(model, params, grad(loss, params.tensors(), where), o, nullptr);
  int exponent = 0;
  if (!(o.loss_scale > 0) || std::frexp(o.loss_scale, &exponent) != 0.5 || std::abs(exponent) > 126) throw error_at(Code::attribute_missing, fmt::format("minimize: loss_scale is {}", o.loss_scale), where).with_help("it must be a power of two, so that it rounds nothing; 65536 is usual");
  if (o.scale_growth < 1 || o.scale_growth > (1 << 24)) throw error_at(Code::attribute_missing, fmt::format("minimize: scale_growth is {}", o.scale_growth), where).with_help("it counts steps, from 1 to 2^24; 2000 is usual");
  const Scaling scaling{model.input(kLossScaleState, DType::f32, {}), model.input("good_steps", DType::f32, {})};
  std::vector<Tensor> gradients = grad(cast(loss, DType::f32) * scaling.scale, params.tensors(), where);
  const Tensor back = 1.0 / scaling.scale;
  for (Tensor& g : gradients) g = cast(g, DType::f32) * back;
  return update(model, params, gradients, o, &scaling);
}

}  // namespace quern
