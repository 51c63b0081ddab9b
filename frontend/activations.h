// Activation functions beyond nn.h's relu, sigmoid, gelu and softmax: compositions of ops with the names, defaults and
// values of PyTorch's. Derivatives at a kink are the mean of both sides'.
#pragma once
#include "frontend/tensor.h"

namespace quern {

#define QN_ACTIVATION(name) Tensor name(const Tensor& x, Where where = Where::current());
QN_ACTIVATION(softplus)      // log(1 + e^x)
QN_ACTIVATION(log_sigmoid)   // -log(1 + e^-x)
QN_ACTIVATION(silu)          // x sigmoid(x)
QN_ACTIVATION(mish)          // x tanh(softplus(x))
QN_ACTIVATION(gelu_tanh)     // x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2
QN_ACTIVATION(softsign)      // x / (1 + |x|)
QN_ACTIVATION(selu)          // 1.0507 elu(x, 1.6733); Klambauer et al., arXiv:1706.02515
QN_ACTIVATION(relu6)         // x between 0 and 6
QN_ACTIVATION(hardsigmoid)   // relu6(x + 3)/6
QN_ACTIVATION(hardswish)     // x relu6(x + 3)/6
#undef QN_ACTIVATION
Tensor hardtanh(const Tensor& x, double low = -1, double high = 1, Where where = Where::current());
/// x where that is positive, else alpha (e^x - 1); celu: alpha (e^(x/alpha) - 1).
Tensor elu(const Tensor& x, double alpha = 1, Where where = Where::current());
Tensor celu(const Tensor& x, double alpha = 1, Where where = Where::current());
/// x where that is positive, else slope x; prelu: with a tensor that broadcasts against x.
Tensor leaky_relu(const Tensor& x, double slope = 0.01, Where where = Where::current());
Tensor prelu(const Tensor& x, const Tensor& slope, Where where = Where::current());

}  // namespace quern
