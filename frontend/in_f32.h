// Functions of several steps in short floats: each op rounds to its dtype, so that f16 and bf16 go through f32 and the result
// is rounded once. Elsewhere nothing changes.
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// f of the tensors, which have one dtype; errors say that they are of `name`.
template <class F, class... Tensors>
Tensor in_f32(const char* name, const F& f, const Tensor& x, const Tensors&... others) {
  want_tensors(name, {x, others...}, Where::current());
  if (x.dtype() != DType::f16 && x.dtype() != DType::bf16) return f(x, others...);
  return cast(f(cast(x, DType::f32), cast(others, DType::f32)...), x.dtype());
}

}  // namespace quern
