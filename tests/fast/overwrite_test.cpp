// Which outputs may lie where an input does: rows that are read before the walk that stores, and what must be refused.
#include <gtest/gtest.h>

#include "passes/tile/overwrite.h"

namespace quern {
namespace {

/// A row's sum, what `more` loads, and a walk that stores; `walk`: what it loads beside its own element.
std::string text(const std::string& first, const std::string& more, const std::string& walk, const std::string& behind = "") {
  return R"(kernel k(%p0: in i32[8], %p1: in f32[8,300], %p2: out f32[8], %p3: out f32[8,300]) {
  axis i0<8 by 1
  axis i1<300 by 128 threads 32@0 vector 4
  axis i2<300 by 128 threads 32@0 vector 4
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
  EXPECT_EQ(own->loops.size(), 1u);
  EXPECT_TRUE(own->stores.empty());
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

/// A row in one step; `more`: what else is loaded before it is stored.
auto in_one_step(const std::string& more) {
  return rule(R"(kernel k(%p0: in i32[8], %p1: in f32[8,100], %p2: out f32[8], %p3: out f32[8,100]) {
  axis i0<8 by 1
  axis i1<100 by 128 threads 32@0 vector 4
  grid (i0) {
    %3: i32[i0] = load %p0[i0]
    each (i1) {
      %0: f32[i0, i1] = load %p1[i0, i1]
      %1: f32[i0] = reduce<add> i1 (%0)
)" + more + R"(      %2: f32[i0, i1] = map(div(a0, a1)) (%0, %1)
      store %p3[i0, i1] = %2
    }
    %4: f32[i0] = map(cast<f32>(a0)) (%3)
    store %p2[i0] = %4
  }
}
)");
}

TEST(Overwrite, OneStep) {
  const auto alone = in_one_step("");
  ASSERT_TRUE(alone.has_value());
  EXPECT_TRUE(alone->loops.empty() && alone->stores.empty());   // each thread its own elements
  const auto gathered = in_one_step("      %5: f32[i0] = load %p1[i0, %3]\n");
  ASSERT_TRUE(gathered.has_value());
  EXPECT_TRUE(gathered->loops.empty());
  EXPECT_EQ(gathered->stores.size(), 1u);
  EXPECT_FALSE(in_one_step("      %5: f32[i0] = load %p1[%3, 0]\n").has_value());   // any instance's row
}

/// A product's tile whose parts are scaled by what `loads` are and sent; `behind`: what follows.
auto in_tiles(const std::string& loads, const std::string& behind = "", const std::string& fetched = "%p0[i0, i2]") {
  const tile::Kernel k = tile::parse_kernel(R"(kernel k(%p0: in bf16[512,128], %p1: in bf16[512,128], %p2: in bf16[512,512], %p3: out bf16[512,512]) {
  axis i0<512 by 128
  axis i1<512 by 128
  axis i2<128 by 64
  axis i3<512 by 64 within i0 threads 8@2 warps 4@0
  axis i4<512 by 64 within i1 threads 4@0 vector 2
  work (i0, i1) in groups of 8 {
    chan %c0 (bf16[i0, i2], bf16[i1, i2]) x 6
    chan %c1 (bf16[i3, i4]) x 2
    role load regs 40 {
      seq (i2) {
        fetch %c0 ()" + fetched + R"(, %p1[i1, i2])
      }
    }
    role math x 2 in turns regs 232 {
      turn
      %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {
        %2: bf16[i0, i2], %3: bf16[i1, i2] = get %c0
        %4: f32[i0, i1] = issue mma[bf16, m64n128k16] i2 (%1, %2, %3)
        await 1
        past (i2) {
          release %c0@s-1
        }
        yield %4
      }
      pass
      await 0
      release %c0@s
      each (i3, i4) {
)" + loads + R"(        %6: f32[i3, i4] = slice %0
        %7: bf16[i3, i4] = map(cast<bf16>(mul(a0, cast<f32>(a1)))) (%6, %5)
        put %c1 (%7)
        fence
        send %c1 to (%p3[i3, i4])
)" + behind + R"(      }
    }
  }
}
)");
  tile::verify(k);
  return overwrites_rows(k, 2, 3);
}

TEST(Overwrite, TilesThatAreSent) {
  const std::string own = "        %5: bf16[i3, i4] = load ahead %p2[i3, i4]\n";
  EXPECT_TRUE(in_tiles(own).has_value());
  EXPECT_FALSE(in_tiles("        %5: bf16[i3, i4] = load ahead %p2[i4, i3]\n").has_value());                         // another instance's tile
  EXPECT_FALSE(in_tiles(own, "        %8: bf16[i3, i4] = load %p2[i3, i4]\n").has_value());                          // once it has been sent
  EXPECT_FALSE(in_tiles(own, "", "%p2[i0, i2]").has_value());                                                       // a factor of products, too
}

}  // namespace
}  // namespace quern
