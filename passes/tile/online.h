// online (CPU): sums of exp(x - r), r the maximum of all x, are made while the maximum is found: what is there is scaled by
// exp(m - m') where the maximum grows from m to m'. So x, a product, is computed once for both. It fixes the order of sums.
//   before: %m = seq (i3) carry (%a = -inf) { … %x = … yield max(%a, reduce<max> i3 (%x)) }   %r = map(select(lt(abs(a0), inf), a0, 0)) (%m)
//           %l = seq (i5) carry (%c = 0) { … %p = map(exp(sub(…, a0))) (%r, …)   yield add(%c, reduce<add> i5 (%p)) }
//   after:  %l, %m = seq (i5) carry (%c = 0, %a = -inf) { … %x = …   %b = max(%a, reduce<max> i5 (%x))   %h = map(select(lt(abs(a0), inf), a0, 0)) (%b)
//           %f = map(exp(sub(a0, a1))) (%a, %h)   %p = map(exp(sub(…, a0))) (%h, …)   yield add(mul(%c, %f), reduce<add> i5 (%p)), %b }
// Where r is the maximum itself, h is 0 while that is -inf, and the sum NaN where it stays so, as exp(-inf + inf) is.
#pragma once
#include "ir/tile/kernel.h"

namespace quern {

tile::Kernel online(const tile::Kernel& kernel);

}  // namespace quern
