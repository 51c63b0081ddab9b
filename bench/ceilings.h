// What the machine can do at most with so many threads: the roofline that `quern bench suite` measures in the same run.
#pragma once
#include "tools/commands.h"

namespace quern::bench {

/// Best of several tries each; 10^9 a second.
struct Ceilings {
  double fma = 0;                    // f32 operations, a multiply-add is two
  double read = 0, write = 0;        // bytes of one array out of cache; streaming stores
  double copy = 0;                   // bytes read and written together; streaming stores
  /// Microseconds below which no program of so many operations and bytes gets.
  double microseconds(double flops, double read_bytes, double written_bytes) const;
  /// Each becomes the greater one of both.
  void raise(const Ceilings& other);
  Json json() const;
};
Ceilings measure_ceilings(int threads);

}  // namespace quern::bench
