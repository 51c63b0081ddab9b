// Transforms of functions of tensors: derivatives and batching, which work inside each other in any order. Each runs the
// function once, on placeholders, and makes what depends on them the closed body of a `call`; other tensors that the
// function uses become further arguments, with derivative zero and the same in every lane.
//
//   const Function f = [&](const std::vector<Tensor>& x) { return std::vector<Tensor>{sum(tanh(matmul(x[0], w)))}; };
//   Tensor h = hessian(f, x);
//   std::vector<Tensor> per_row = vmap([&](const auto& rows) { return value_and_grad(f, rows).gradients; }, {batch});
#pragma once
#include "frontend/closure.h"

namespace quern {

/// f on every lane of its arguments: argument i has one more axis at axes[i], or is the same in every lane where that is
/// -1; no axes: all at 0. Every result has that axis at 0. Negative axes but -1 do not exist.
std::vector<Tensor> vmap(const Function& f, const std::vector<Tensor>& args, const std::vector<int64_t>& axes = {}, Where where = Where::current());

struct Forward {
  std::vector<Tensor> outputs, tangents;   // one tangent per output, of its type; zeros for those that are no floats
};
/// How f's outputs change when its arguments change along `tangents`, one per argument and of its type; a
/// default-constructed Tensor stands for zero and is the only one for arguments that are no floats.
Forward jvp(const Function& f, const std::vector<Tensor>& args, const std::vector<Tensor>& tangents, Where where = Where::current());

struct Reverse {
  std::vector<Tensor> outputs, gradients;   // one gradient per argument; default-constructed for those that are no floats
};
/// f's outputs and the derivatives of the first, a scalar float, with respect to every float argument.
Reverse value_and_grad(const Function& f, const std::vector<Tensor>& args, Where where = Where::current());

/// f, of which the derivative keeps the arguments alone and computes the rest once more: less memory for more work, and
/// the same gradient bit for bit.
std::vector<Tensor> checkpoint(const Function& f, const std::vector<Tensor>& args, Where where = Where::current());

/// f with a derivative of the caller's: `rule` gets f's arguments, then a cotangent for each of f's results, and returns
/// a cotangent for each float argument. It must be linear in the cotangents. What f uses beside its arguments gets none.
std::vector<Tensor> with_derivative(const Function& f, const Function& rule, const std::vector<Tensor>& args, Where where = Where::current());

using TensorFunction = std::function<Tensor(const Tensor&)>;
/// The derivatives of f's elements by x's: f's shape, then x's. In as many lanes as the smaller of both has elements.
Tensor jacobian(const TensorFunction& f, const Tensor& x, Where where = Where::current());
/// The second derivatives of the scalar f: x's shape twice.
Tensor hessian(const TensorFunction& f, const Tensor& x, Where where = Where::current());

}  // namespace quern
