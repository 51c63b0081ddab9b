// Comparing a computed tensor with its reference: one bound for every test, `check` and `fuzz`.
//
// The bound. Rounding each of an op's results costs eps relative to the operands' size, and a sum of n terms costs up
// to n*eps in the worst order, sqrt(n)*eps in practice. A graph's error bound is
//   bound = 16 * eps(dtype) * (depth + sqrt(longest reduction))   relative to max(1, max |reference|) of the tensor,
// where eps is that of the least precise float dtype that the graph computes in, or of tf32 where products may round
// their operands to it. Integers and bools must be equal.
// A scan counts its body once for each step, a while_loop once.
// A sum of the graph's inputs as they come has no rounded terms: its eps is its accumulator's, f32 or better, and its
// 16 * eps * sqrt(terms) is added on its own, unless products round to tf32.
#pragma once
#include "ir/graph.h"

namespace quern {

struct Tolerance {
  double epsilon = 0;        // unit roundoff of the least precise dtype
  int64_t depth = 1;         // ops on the longest path
  int64_t reduction = 1;     // elements of the longest reduction or product of computed values
  double direct = 0;         // largest eps(accumulator) * sqrt(elements) of a reduction or product of inputs
  double bound() const;
};
Tolerance tolerance_of(const Graph& graph, bool tf32_products = false);
std::string to_string(const Tolerance& tolerance);   // "bound 3.1e-05 (f32: eps 6.0e-08, depth 12, reduction 784)"

struct Difference {
  double error = 0;          // max |got - want| / max(1, max |want|); infinite where NaN or inf do not agree
  int64_t at = -1;           // the element
  double got = 0, want = 0;
};
Difference compare(const HostTensor& got, const HostTensor& want);

}  // namespace quern
