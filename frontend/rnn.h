// Recurrent layers: one scan over the steps each. The products with the inputs of all steps move in front of the loop,
// the weights' gradients behind it (passes/graph/loops.cpp); inside remains one product per step.
#pragma once
#include "frontend/control.h"

namespace quern {

struct Recurrent {
  Tensor all;             // [steps, batch, hidden]: h after every step, at the step's place
  Tensor h, c;            // [batch, hidden]: after the last step; c of an LSTM alone
};

/// Long short-term memory (Hochreiter and Schmidhuber 1997, with forget gate): i, f, g, o = x wx + h wh + b, in this order
/// along the last axis; c' = sigmoid(f) c + sigmoid(i) tanh(g); h' = sigmoid(o) tanh(c').
/// x [steps, batch, in], h and c [batch, hidden], wx [in, 4 hidden], wh [hidden, 4 hidden], b [4 hidden].
Recurrent lstm(const Tensor& x, const Tensor& h, const Tensor& c, const Tensor& wx, const Tensor& wh, const Tensor& b, Direction direction = Direction::forward, Where where = Where::current());

/// Gated recurrent unit (Cho et al., arXiv:1406.1078, in the form whose reset gate acts on the product): r, z, n parts of
/// x wx + bx and of h wh + bh, in this order along the last axis; r and z are sigmoids of the sums, n' = tanh(n of x + r times
/// n of h); h' = (1 - z) n' + z h. x [steps, batch, in], h [batch, hidden], wx [in, 3 hidden], wh [hidden, 3 hidden], b [3 hidden].
Recurrent gru(const Tensor& x, const Tensor& h, const Tensor& wx, const Tensor& wh, const Tensor& bx, const Tensor& bh, Direction direction = Direction::forward, Where where = Where::current());

/// h' = tanh(x wx + h wh + b), Elman's network. x [steps, batch, in], wx [in, hidden], wh [hidden, hidden], b [hidden].
Recurrent elman(const Tensor& x, const Tensor& h, const Tensor& wx, const Tensor& wh, const Tensor& b, Direction direction = Direction::forward, Where where = Where::current());

}  // namespace quern
