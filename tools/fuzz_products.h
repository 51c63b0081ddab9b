// Random graphs around products that are large enough for tensor cores: the ops of random_graph are too small for the kernels with roles that
// most of a model's time is spent in.
#pragma once
#include <random>

#include "ir/graph.h"

namespace quern {

/// One to three products of 64 to 264 rows and columns, of one dtype (bf16, f16 or f32; of 8-bit floats cast up), in any layout, some of several matrices at
/// once, some of what the product before gives; each with what may follow it (rows and columns added, activations, other
/// operands of its shape, casts, several outputs, sums of its rows or columns). Or attention, with or without a mask, scale and softmax.
/// Values are those of random_inputs, and products are divided by their length, so that none is large.
Graph random_products(std::mt19937_64& random);

}  // namespace quern
