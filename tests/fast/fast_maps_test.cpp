// Constant factors of fast maps come together; what that would round otherwise, or what others use too, stays.
#include <gtest/gtest.h>

#include "passes/tile/fast.h"

namespace quern {
namespace {

/// The map that stores, of a kernel with that map and these constants before it.
std::string fast(const std::string& map, const std::string& constants = "") {
  const tile::Kernel kernel = tile::parse_kernel("kernel k(%p0: in f32[8], %p1: out bf16[8]) {\n  axis i0<8 by 8 threads 8@0\n  grid (i0) {\n    %0: f32[i0] = load %p0[i0]\n" + constants +
                                                 "    %9: bf16[i0] = map(" + map + "\n    store %p1[i0] = %9\n  }\n}\n");
  tile::verify(kernel);
  const tile::Kernel out = fast_maps(kernel);
  tile::verify(out);
  const std::string text = to_string(out);
  const size_t from = text.find(" = map"), to = text.find("\n    store");
  return text.substr(from + 3, to - from - 3);
}

TEST(FastMaps, FactorsComeTogether) {
  EXPECT_EQ(fast("cast<bf16>(exp(mul(mul(mul(a0, 3:f32), a0), 0.5:f32)))) (%0)"), "map fast(cast<bf16>(exp(mul(mul(a0, a0), 1.5:f32)))) (%0)");
  EXPECT_EQ(fast("cast<bf16>(exp(neg(mul(neg(a0), 2:f32))))) (%0)"), "map fast(cast<bf16>(exp(mul(a0, 2:f32)))) (%0)");
  EXPECT_EQ(fast("cast<bf16>(mul(exp(a0), a1))) (%0, %1)", "    %1: f32[] = map(cast<f32>(0.25:bf16)) ()\n"), "map fast(cast<bf16>(mul(exp(a0), 0.25:f32))) (%0)");   // and nobody reads %1
}

TEST(FastMaps, APowerOfTwoGoesIntoASum) {
  EXPECT_EQ(fast("cast<bf16>(mul(add(erf(a0), 1:f32), 0.5:f32))) (%0)"), "map fast(cast<bf16>(add(mul(erf(a0), 0.5:f32), 0.5:f32))) (%0)");
  EXPECT_EQ(fast("cast<bf16>(mul(add(erf(a0), 1:f32), 0.75:f32))) (%0)"), "map fast(cast<bf16>(mul(add(erf(a0), 1:f32), 0.75:f32))) (%0)");
}

TEST(FastMaps, WhatIsUsedTwiceIsMadeOnce) {
  EXPECT_EQ(fast("let t0 = mul(a0, 3:f32); cast<bf16>(mul(mul(exp(t0), t0), 2:f32))) (%0)"), "map fast(let t0 = mul(a0, 3:f32); cast<bf16>(mul(mul(exp(t0), t0), 2:f32))) (%0)");
}

TEST(FastMaps, FactorsThatMightOverflowStayApart) {
  EXPECT_EQ(fast("cast<bf16>(exp(mul(mul(a0, 1e+30:f32), 1e-30:f32)))) (%0)"), "map fast(cast<bf16>(exp(mul(mul(a0, 1.0000000150474662e+30:f32), 1.0000000031710769e-30:f32)))) (%0)");
}

}  // namespace
}  // namespace quern
