// Comparing a computed tensor with its reference: one bound for every test, `check` and `fuzz`.
//
// The bound. Rounding each of an op's results costs eps relative to the operands' size, and a sum of n terms costs up
// to n*eps in the worst order, sqrt(n)*eps in practice. A graph's error bound is
//   bound = 16 * eps(dtype) * (depth + sqrt(longest reduction))   relative to max(1, max |reference|) of the tensor,
// where eps is that of the least precise float dtype that the graph computes in, or what products may lose by a licence of their own:
// kTf32Products round their operands; kF8Products cut off what is below some 14 bits of sums of up to 128 terms (2^-12.5 of the terms' sizes
// was seen on an H100). Integers and bools must be equal.
// A scan counts its body once for each step, a while_loop once.
// A sum of the graph's inputs as they come has no rounded terms: its eps is its accumulator's, f32 or better, and its
// 16 * eps * sqrt(terms) is added on its own, unless products have such a licence.
//
// The greatest error cannot see a wrong product of a short float: its bound is above 1 for sums of a thousand in bf16. So there is a
// second measure, the root mean square of got - reference over that of the reference, of tensors of at least 64 elements. Where every op
// rounds once, the errors have random signs and lie evenly within eps of what is rounded, so that on a path they add up as squares: eps(dtype)^2 / 3
// of each op, and eps(accumulator)^2 * n / 6 of a sum of n terms, whose partial sums grow as a random walk. What is summed has random signs,
// too, so a sum keeps the relative error of its terms. `rms()` is 4 times the root of the greatest sum of such squares on a path.
// Where terms cancel otherwise (x - mean(x), gradients that are zero but for rounding) more may remain: how far the reference moves
// when all inputs move by eps says how much; 4 times that over sqrt(3), as they move by all of eps, is allowed besides (tools/check.cpp).
#pragma once
#include "ir/graph.h"

namespace quern {

struct Tolerance {
  double epsilon = 0;        // unit roundoff of the least precise dtype
  int64_t depth = 1;         // ops on the longest path
  int64_t reduction = 1;     // elements of the longest reduction or product of computed values
  double direct = 0;         // largest eps(accumulator) * sqrt(elements) of a reduction or product of inputs
  double squares = 0;        // greatest sum on a path of the squares of what its ops round
  double bound() const;
  double rms() const;
};
inline constexpr double kTf32Products = 0x1p-11, kF8Products = 0x1p-11;
Tolerance tolerance_of(const Graph& graph, double products = 0);
std::string to_string(const Tolerance& tolerance);   // "bound 3.1e-05 (f32: eps 6.0e-08, depth 12, reduction 784)"

struct Difference {
  double error = 0;          // max |got - want| / max(1, max |want|); infinite where NaN or inf do not agree
  int64_t at = -1;           // the element
  double got = 0, want = 0;
  double rms = 0;            // of got - want over that of want, where both are finite; 0 for less than 64 elements and for integers
};
Difference compare(const HostTensor& got, const HostTensor& want);

}  // namespace quern
