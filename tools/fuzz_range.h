// What is known of a value of a random graph before it runs: an interval of its elements and how far rounding may have moved
// them. From it `quern fuzz graphs` decides which values may meet. Estimates, not proofs: elementwise ops are tried
// on a grid over the intervals of their arguments, other ops by what they sum.
#pragma once
#include <span>

#include "ir/op.h"

namespace quern {

struct Known {
  bool exact = true;             // bit-equal on every target
  double low = 0, high = 0;      // of the elements; infinite or NaN where there is no saying
  double error = 0;              // absolute, of floats
  double epsilon = 0;            // of the least precise dtype on the way
  int64_t depth = 0;             // ops on the way

  double most() const;           // |x|
  bool bounded() const;          // an interval of numbers
  /// The error is well below what a comparison allows (ir/compare.h), wherever the value goes.
  bool precise() const { return error <= 4 * epsilon * static_cast<double>(2 + depth); }
};

/// All numbers of an integer dtype, 0 and 1 of bool.
Known any_of(DType dtype);
/// Whether bit-equal arguments give bit-equal results on every target.
bool exact_op(const Node& node);
Known known_of(const Graph& graph, const Node& node, std::span<const Known> args);

}  // namespace quern
