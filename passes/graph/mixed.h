// Mixed precision: a graph of f32 whose products compute in a short float (PassContext::compute). What a product reads is rounded,
// a value once however many read it; what it gives is short as far as nothing else than such values and a few given numbers (a bias,
// a scale, a constant) is computed with it. All else stays f32: inputs, outputs and states, so parameters and moments are masters that
// are cast once per step; reductions and what comes of them (softmax, norms, losses); sums with values that never were in a product.
// A product that reaches no other one, as a parameter's gradient does, gives its f32 sum. It comes behind the derivatives: they are
// products like others.
//   before: %3 = contract %x, %w {spec="mk,kn->mn"};  %4 = tanh %3;  %5 = contract %4, %v {spec="mn,nj->mj"};  output %5
//   after:  %3 = cast %x {dtype=bf16};  %4 = cast %w {dtype=bf16};  %5 = contract %3, %4 : bf16;  %6 = tanh %5 : bf16
//           %7 = cast %6 {dtype=f32};  %8 = cast %v {dtype=bf16};  %9 = cast %8 {dtype=f32};  %10 = contract %7, %9 : f32;  output %10
#pragma once
#include "ir/graph.h"

namespace quern {

/// Of a graph of primitive nodes, bodies of control flow included; `narrow` is bf16 or f16. Products of other dtypes stay as they are.
Graph mixed(const Graph& graph, DType narrow);

}  // namespace quern
