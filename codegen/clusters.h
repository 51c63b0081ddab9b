// Launches that follow each other become one, where a few multiprocessors do all of it sooner than all of them do it launch by launch: as the
// phases of a kernel for a cluster of blocks (passes/tile/sequence.h), with a barrier where a phase needs what those before it leave.
// A loop whose body is such launches becomes one of them. Memory lies as it did; whatever shares a place keeps its order.
//   before: launch k0 [0, 2, 16]  launch k1 [16, 5, 19]      after: launch k0_and_1_behind [0, 2, 5, 16, 19]
#pragma once
#include "codegen/compile.h"

namespace quern {

/// Of a program's steps, behind the memory plan and before images are made; adds the kernels to the report and drops those that no launch
/// is left of, in `bounds` alike. What was joined and what was not goes to report.clusters.
void form_clusters(Program& program, CompileReport& report, std::vector<int64_t>& bounds);

}  // namespace quern
