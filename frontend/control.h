// Control flow: loops and branches inside a graph, so that one compiled program runs them. Each function runs once, on
// placeholders; what it computes from its arguments is inside of the loop or branch, everything else outside of it.
//
//   Scan r = scan([&](const auto& c, const auto& x) {            // h' = tanh(x W + h U)
//     Tensor h = tanh(matmul(x[0], w) + matmul(c[0], u));
//     return ScanStep{{h}, {h}};
//   }, {h0}, {xs});                                              // r.carries[0]: the last h; r.stacked[0]: all of them
#pragma once
#include "frontend/closure.h"

namespace quern {

struct ScanStep { std::vector<Tensor> carries, stacked; };
using StepFunction = std::function<ScanStep(const std::vector<Tensor>& carries, const std::vector<Tensor>& slices)>;
struct Scan { std::vector<Tensor> carries, stacked; };
enum class Direction { forward, backward };
/// f, step by step along axis 0 of `xs`: it gets the carries, `init` at first, and the step's slices, and returns the next
/// carries, of unchanged types, and what is to be stacked along a new axis 0. `steps`: how many; needed where `xs` is
/// empty. Random bits in f differ from step to step, those in its nested functions, too. Differentiable; a derivative keeps what it reads of each step.
Scan scan(const StepFunction& f, const std::vector<Tensor>& init, const std::vector<Tensor>& xs, int64_t steps = -1, Direction direction = Direction::forward, Where where = Where::current());

using Predicate = std::function<Tensor(const std::vector<Tensor>&)>;
/// f on the carries, `init` at first, as long as `go_on` of them, a bool[], is true; the last carries. In forward mode
/// differentiable; under vmap it runs until all lanes are done. Random bits in f differ from turn to turn.
std::vector<Tensor> while_loop(const Predicate& go_on, const Function& f, const std::vector<Tensor>& init, Where where = Where::current());

/// yes(args) where `predicate`, a bool[], is true, else no(args); both return the same types. Only the taken one runs; under
/// vmap over the predicate both do.
std::vector<Tensor> cond(const Tensor& predicate, const Function& yes, const Function& no, const std::vector<Tensor>& args, Where where = Where::current());

}  // namespace quern
