// See optim.h.
#include "frontend/optim.h"

#include <cmath>
#include <iterator>
#include <numbers>

#include <fmt/format.h>

#include "ir/support/suggest.h"

namespace quern {

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

std::vector<std::pair<std::string, HostTensor>> apply_updates(Model& model, const Params& params, const std::vector<Tensor>& gradients, const Optimizer& o) {
  QN_CHECK(params.all().size() == gradients.size(), "one gradient per parameter");
  std::vector<std::pair<std::string, HostTensor>> initial, moments;
  for (const Param& p : params.all()) initial.emplace_back(p.name, p.value);
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
      model.state(p.name + ".m", m, m1);
      next = p.tensor - lr * m1;
    } else {
      const Tensor m = moment(".m"), v = moment(".v");
      const Tensor m1 = m * o.momentum + g * (1 - o.momentum), v1 = v * o.beta2 + g * g * (1 - o.beta2);
      model.state(p.name + ".m", m, m1);
      model.state(p.name + ".v", v, v1);
      next = p.tensor - rate_of_step * m1 / (sqrt(v1) + epsilon);
      if (o.algorithm == Algorithm::adamw && o.weight_decay != 0) next = next - lr * o.weight_decay * p.tensor;
    }
    model.state(p.name, p.tensor, next);
  }
  model.state("step", step, t);
  initial.insert(initial.end(), std::make_move_iterator(moments.begin()), std::make_move_iterator(moments.end()));
  return initial;
}

}  // namespace quern
