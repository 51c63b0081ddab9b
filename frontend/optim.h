// Optimizers and schedules as graph code: the update of every parameter, its moments and the step counter are states
// of the same graph as forward and backward, so that a training step is one graph.
#pragma once
#include "frontend/params.h"

namespace quern {

enum class Algorithm { sgd, momentum, adam, adamw };
enum class Schedule { constant, cosine, linear_warmup };

struct Optimizer {
  Algorithm algorithm = Algorithm::adam;
  double learning_rate = 1e-3;
  Schedule schedule = Schedule::constant;
  int64_t steps = 1;            // cosine: where the rate reaches 0
  int64_t warmup = 0;           // linear_warmup: steps until the full rate; cosine: warms up first, too
  double momentum = 0.9;        // momentum; adam's beta1
  double beta2 = 0.999, epsilon = 1e-8;
  double weight_decay = 0;      // adamw: decoupled (Loshchilov and Hutter, arXiv:1711.05101); others: added to the gradient
};

/// Adam: Kingma and Ba, arXiv:1412.6980. Adds the states "step", the parameters and their moments ("w.m", "w.v") to
/// the model; returns the initial values of all of them, parameters first.
std::vector<std::pair<std::string, HostTensor>> apply_updates(Model& model, const Params& params, const std::vector<Tensor>& gradients, const Optimizer& optimizer);

/// "sgd", "momentum", "adam", "adamw"; "constant", "cosine", "linear". Throw Error(usage) for other names.
Algorithm parse_algorithm(const std::string& name);
Schedule parse_schedule(const std::string& name);

}  // namespace quern
