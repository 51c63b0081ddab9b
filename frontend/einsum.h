// Einstein sums of any number of operands.
#pragma once
#include "frontend/tensor.h"

namespace quern {

/// einsum("bij,bjk->bik", {a, b}): letters a to z name axes; those that the output lacks are summed, a letter twice within
/// an operand is a diagonal. Without an arrow the output has the letters that occur once, in alphabetic order (NumPy's
/// rule). Operands are multiplied from left to right, each product one `contract`; equal letters want equal extents.
Tensor einsum(const std::string& spec, const std::vector<Tensor>& operands, Where where = Where::current());

}  // namespace quern
