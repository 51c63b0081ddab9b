// Named parameters: an initial value on the host and an input of the graph, each.
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// How a parameter starts. Random ones draw from Philox with the tree's seed and the parameter's number.
enum class Init { zeros, ones, normal, uniform, he, xavier };

struct Param {
  std::string name;
  HostTensor value;
  Tensor tensor;
};

/// A tree of parameters by dotted names ("hidden0.weight").
class Params {
 public:
  Params(Model& model, uint32_t seed) : model_(model), seed_(seed) {}
  /// normal: N(0, scale²); uniform: [-scale, scale); he: N(0, 2/fan_in) (He et al., arXiv:1502.01852);
  /// xavier: uniform ±sqrt(6/(fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010). fan_in is the first dim.
  Tensor add(const std::string& name, Shape shape, Init init, double scale = 1, Where where = Where::current());
  const std::vector<Param>& all() const { return params_; }
  std::vector<Tensor> tensors() const;

 private:
  Model& model_;
  uint32_t seed_;
  std::vector<Param> params_;
};

}  // namespace quern
