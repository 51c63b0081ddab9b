// A program many times over, so that what is timed is the GPU's work and no launch. Each run waits for the last, as they write the same outputs;
// their inputs lie in several places in turn. It has launches, copies and loops, no flags.
#pragma once
#include "codegen/program.h"

namespace quern::bench {

/// The program's steps `times` times over. Copies of its inputs, for runs 1 to sets - 1, follow its own inputs.
Program repeated(Program program, int64_t times, int64_t sets);

}  // namespace quern::bench
