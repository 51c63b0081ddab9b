// Binding the symbol: lowering computes with kSymbol as with any number (ir/symbol.h); here the symbolic extents of a
// lowered kernel become {factor, bound}, and indices are checked to be free of the symbol.
// Before: axis i0 <2147483647 by 1>     After: axis i0 <n<=4096 by 1>
// Establishes: what is left of kSymbol is in no kernel; a symbolic axis of the grid is its first.
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

/// A kernel without symbolic extents comes back as it is. `room` is the bound that buffers are laid out for. Throws
/// Error(compile) where the symbol is in an index.
tile::Kernel bind_symbol(tile::Kernel kernel, int64_t bound, int64_t room);

/// Throws Error(compile) for a number that may have the symbol in it.
void want_constant(int64_t value);

}  // namespace quern
