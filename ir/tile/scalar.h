// Scalar expressions of maps: what an op in one has for a type.
#pragma once
#include "ir/op.h"
#include "ir/tile/kernel.h"

namespace quern::tile {

/// The dtype that an op node has by its type rule, which also checks its arguments.
inline DType infer_scalar(const ScalarExpr& e, size_t i) {
  std::vector<Type> args;
  for (int a : e[i].args) args.push_back({e[static_cast<size_t>(a)].dtype, {}, {}});
  Attrs attrs;
  if (names_dtype(e[i].op)) attrs.dtype = {e[i].dtype};
  return def_of(e[i].op).infer({e[i].op, args, attrs, {}}).dtype;
}

}  // namespace quern::tile
