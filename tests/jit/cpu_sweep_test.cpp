// Every op × dtype × sample on the CPU target, for each arch that this machine runs, against the graph interpreter.
// The samples of one op are compiled as one graph of several outputs would be: many kernels, one program each.
#include <gtest/gtest.h>

#include "runtime/cpu/device.h"
#include "runtime/jit.h"
#include "tests/support/sweep.h"

namespace quern {

TEST(CpuSweep, MatchesInterpreter) {
  const auto device = open_cpu_device();
  int64_t checked = 0;
  double worst = 0;
  for (const test::Case& c : test::all_cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    CompileOptions options;
    options.use_cache = false;
    const auto executable = jit(*device, c.graph, options);
    const std::vector<HostTensor> got = executable->run(c.inputs);
    const double bound = tolerance_of(c.graph).bound();
    const Difference d = compare(got[0], want[0]);
    EXPECT_LE(d.error, bound) << "element " << d.at << ": got " << d.got << ", want " << d.want;
    if (bound > 0) worst = std::max(worst, d.error / bound);
    ++checked;
  }
  std::printf("%ld cases on %s, worst error / bound %.3f\n", static_cast<long>(checked), to_string(device->target()).c_str(), worst);
  EXPECT_GT(checked, 1500);
}

}  // namespace quern
