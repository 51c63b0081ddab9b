// Which outputs may lie where an input does: rows that are read before the walk that stores, and what must be refused.
#include <gtest/gtest.h>

#include "passes/tile/overwrite.h"

namespace quern {
namespace {

/// A row's sum, what `more` loads, and a walk that stores; `walk`: what it loads beside its own element.
std::string text(const std::string& first, const std::string& more, const std::string& walk, const std::string& behind = "") {
  return R"(kernel k(%p0: in i32[8], %p1: in f32[8,100], %p2: out f32[8], %p3: out f32[8,100]) {
  axis i0<8 by 1
  axis i1<100 by 128 threads 32@0 vector 4
  axis i2<100 by 128 threads 32@0 vector 4
  axis i3<8 by 1
  grid (i0) {
    %0: f32[i0] = seq (i1) carry (%1: f32[i0] = 0) {
      %2: f32[i0, i1] = load %p1[)" +
         first + R"(]
      %3: f32[i0] = reduce<add> i1 (%2)
      %4: f32[i0] = map(add(a0, a1)) (%1, %3)
      yield %4
    }
    %5: i32[i0] = load %p0[i0]
)" + more +
         R"(    store %p2[i0] = %0
    each (i2) {
      %7: f32[i0, i2] = load %p1[i0, i2]
)" + walk +
         R"(      %9: f32[i0, i2] = map(div(a0, a1)) (%7, %0)
      store %p3[i0, i2] = %9
    }
)" + behind +
         R"(  }
}
)";
}
auto rule(const std::string& kernel) {
  const tile::Kernel k = tile::parse_kernel(kernel);
  tile::verify(k);
  return overwrites_rows(k, 1, 3);
}

TEST(Overwrite, RowsReadBeforeTheWalkThatStores) {
  const auto own = rule(text("i0, i1", "", ""));
  ASSERT_TRUE(own.has_value());
  EXPECT_EQ(own->size(), 1u);   // one loop that threads enter together
  EXPECT_TRUE(rule(text("i0, i1", "    %6: f32[i0] = load %p1[i0, %5]\n", "")).has_value());           // gathered, of its own row
}

TEST(Overwrite, WhatAnotherStepOrInstanceOverwritesIsRefused) {
  EXPECT_FALSE(rule(text("i0, i1", "", "      %8: f32[i0, i2] = load %p1[i0, i2 + 1]\n")).has_value());    // a later step finds what this one stored
  EXPECT_FALSE(rule(text("i0, i1", "", "      %8: f32[i0] = load %p1[i0, %5]\n")).has_value());
  EXPECT_FALSE(rule(text("i0 + 1, i1", "", "")).has_value());                                           // another instance's row
  EXPECT_FALSE(rule(text("i0, i1", "    %6: f32[i0] = load %p1[%5, 0]\n", "")).has_value());             // any instance's
  EXPECT_FALSE(rule(text("i0, i1", "", "", "    %10: f32[i0] = load %p1[i0, 0]\n")).has_value());        // behind the walk
  EXPECT_FALSE(overwrites_rows(tile::parse_kernel(text("i0, i1", "", "")), 1, 2).has_value());            // of another shape
  EXPECT_FALSE(overwrites_elements(tile::parse_kernel(text("i0, i1", "", "")), 1, 3));                    // no element alone
}

TEST(Overwrite, NoWalkNeedsNoMeeting) {
  const auto alone = rule(R"(kernel k(%p0: in i32[8], %p1: in f32[8,100], %p2: out f32[8], %p3: out f32[8,100]) {
  axis i0<8 by 1
  axis i1<100 by 128 threads 32@0 vector 4
  grid (i0) {
    each (i1) {
      %0: f32[i0, i1] = load %p1[i0, i1]
      %1: f32[i0] = reduce<add> i1 (%0)
      %2: f32[i0, i1] = map(div(a0, a1)) (%0, %1)
      store %p3[i0, i1] = %2
    }
    %3: i32[i0] = load %p0[i0]
    %4: f32[i0] = map(cast<f32>(a0)) (%3)
    store %p2[i0] = %4
  }
}
)");
  ASSERT_TRUE(alone.has_value());
  EXPECT_TRUE(alone->empty());
}

}  // namespace
}  // namespace quern
