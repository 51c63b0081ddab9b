// Every op × dtype × sample: the type rule agrees with the evaluation, the text round-trips, and the lowered kernels,
// with tiles of 1 and with ragged tiles, give what the graph interpreter gives.
#include <gtest/gtest.h>

#include "ir/text.h"
#include "tests/support/sweep.h"

namespace quern {

TEST(OpSweep, InterpreterTextAndTiles) {
  const std::vector<test::Case> cases = test::all_cases();
  ASSERT_GT(cases.size(), 2000u);
  for (const test::Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    const Type& type = c.graph.type(c.graph.outputs[0].node);
    ASSERT_EQ(want[0].dtype, type.dtype);
    ASSERT_EQ(want[0].shape, type.shape);
    ASSERT_TRUE(parse_graph(to_string(c.graph)) == c.graph) << to_string(c.graph);
    const double bound = tolerance_of(c.graph).bound();
    for (int64_t tile : {1, 3}) {
      const auto got = test::run_tiles(c.graph, c.inputs, [&](tile::Kernel k) {
        for (tile::Axis& a : k.axes) a.tile = tile;
        EXPECT_EQ(tile::to_string(tile::parse_kernel(tile::to_string(k))), tile::to_string(k));
        return k;
      });
      const Difference d = compare(got[0], want[0]);
      ASSERT_LE(d.error, bound) << "tile " << tile << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
}

TEST(OpSweep, SpecialValuesThroughTiles) {
  for (const test::Case& c : test::special_cases()) {
    SCOPED_TRACE(c.name);
    const auto got = test::run_tiles(c.graph, c.inputs, [](tile::Kernel k) {
      for (tile::Axis& a : k.axes) a.tile = 5;
      return k;
    });
    EXPECT_EQ(test::class_mismatch(got[0], interpret(c.graph, c.inputs)[0], tolerance_of(c.graph).bound(), !test::sums(c.op)), "");
  }
}

TEST(OpSweep, HundredThousandRowsThroughTiles) {
  for (const test::Case& c : test::many_rows(100000)) {
    SCOPED_TRACE(c.name);
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    const auto got = test::run_tiles(c.graph, c.inputs, [](tile::Kernel k) {
      for (tile::Axis& a : k.axes) a.tile = 512;
      return k;
    });
    for (size_t o = 0; o < want.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      EXPECT_LE(d.error, tolerance_of(c.graph).bound()) << c.graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
}

}  // namespace quern
