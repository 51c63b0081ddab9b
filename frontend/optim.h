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
  double clip_norm = 0;         // gradients are scaled so that the norm of all of them together is at most this; 0: they are not
  bool norm_output = false;     // an output "grad_norm" f32[]: that norm, before clipping
  double loss_scale = 0;        // dynamic loss scaling begins with this power of two, e.g. kLossScale; 0: there is none
  int64_t scale_growth = 2000;  // so many good steps in a row double it
};
/// What PyTorch's GradScaler begins with, too: a gradient's rounding to f16, whose least normal number is 2^-14, then loses bits from 2^-30 on.
inline constexpr double kLossScale = 65536;

/// The 2-norm f32[] of all tensors together, in f32 whatever their dtypes.
Tensor global_norm(const std::vector<Tensor>& tensors);

/// Adam: Kingma and Ba, arXiv:1412.6980. Adds the states "step", the parameters and their moments ("w.m", "w.v") to
/// the model; returns the initial values of all of them, parameters first.
/// Clipping: Pascanu et al., arXiv:1211.5063; by min(1, clip_norm / (norm + 1e-6)) as torch.nn.utils.clip_grad_norm_ has it, before
/// weight decay. All gradients are there before the first update, which then is no part of its gradient's kernel: each parameter
/// costs one kernel more for that, each large one another for the sums of its squares, those of small ones are one together; and an element
/// costs 12 bytes: its gradient is stored, read for the norm, read for the update. (GPT-2 of two layers on a GPU: 126 kernels in place of 87.)
/// Throws Error(attribute_missing) where a loss scale is asked for: it begins at the loss.
std::vector<std::pair<std::string, HostTensor>> apply_updates(Model& model, const Params& params, const std::vector<Tensor>& gradients, const Optimizer& optimizer);

/// The same with the gradients of the scalar `loss`, and the way to a loss scale: gradients of f16 below its least number would be
/// zero, so the loss is multiplied by the state "loss_scale", a power of two, before it is differentiated, and gradients are divided
/// by it in f32. Where their norm is no finite number, as an infinity or a NaN in one of them makes it, the step leaves parameters,
/// moments and "step" as they were and halves the scale; `scale_growth` steps in a row without that ("good_steps") double it, between
/// 2^-126 and 2^126. Micikevicius et al., arXiv:1710.03740, section 3.2; the constants are PyTorch's torch.amp.GradScaler's. All of it
/// is in the graph. It costs what clipping costs; both cost it once.
std::vector<std::pair<std::string, HostTensor>> minimize(Model& model, const Params& params, const Tensor& loss, const Optimizer& optimizer, Where where = Where::current());

/// "sgd", "momentum", "adam", "adamw"; "constant", "cosine", "linear". Throw Error(usage) for other names.
Algorithm parse_algorithm(const std::string& name);
Schedule parse_schedule(const std::string& name);

}  // namespace quern
