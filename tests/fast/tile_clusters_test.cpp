// Kernels of several phases (ir/tile/kernel.h, clusters; passes/tile/sequence.h): their text, what they mean, and what is refused.
#include <gtest/gtest.h>

#include "codegen/image.h"
#include "ir/support/check.h"
#include "passes/tile/gpu_cost.h"
#include "passes/tile/sequence.h"

namespace quern {
namespace {

using namespace tile;

constexpr const char* kTwice = R"(kernel double(%p0: in f32[8], %p1: out f32[8]) {
  axis i0<8 by 4 threads 4@0
  grid (i0) {
    %0: f32[i0] = load %p0[i0]
    %1: f32[i0] = map(add(a0, a0)) (%0)
    store %p1[i0] = %1
  }
}
)";
constexpr const char* kReversed = R"(kernel reverse(%p0: in f32[1,8], %p1: out f32[8]) {
  axis i0<8 by 8 threads 8@0
  grid (i0) {
    %0: f32[i0] = load %p0[0, i0*-1 + 7]
    store %p1[i0] = %0
  }
}
)";
constexpr const char* kBoth = R"(kernel double_and_1_behind(%p0: in f32[8], %p1: out f32[8], %p2: out f32[8], %p3: view f32[1,8] of %p1) {
  axis i0<8 by 4 threads 4@0
  axis i1<8 by 8 threads 8@0
  cluster of 16
  grid (i0) {
    %0: f32[i0] = load %p0[i0]
    %1: f32[i0] = map(add(a0, a0)) (%0)
    store %p1[i0] = %1
  }
  grid (i1) {
    %2: f32[i1] = load %p3[0, i1*-1 + 7]
    store %p2[i1] = %2
  }
}
)";

HostTensor numbers(Shape shape) {
  HostTensor t(DType::f32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(DType::f32, static_cast<double>(i + 1)));
  return t;
}

std::optional<Sequence> in_order(const std::vector<Member>& members, int64_t steps = 0) {
  std::string why;
  auto out = in_sequence(members, steps, 16, why);
  EXPECT_TRUE(out) << why;
  return out;
}

TEST(TileClusters, TwoKernelsAreTwoPhases) {
  const Kernel twice = parse_kernel(kTwice), reversed = parse_kernel(kReversed);
  const auto both = in_order({{&twice, {{0}, {1}}}, {&reversed, {{1}, {2}}}});
  EXPECT_EQ(to_string(both->kernel), kBoth);
  EXPECT_EQ(both->memories, (std::vector<int64_t>{0, 1, 2}));
}

TEST(TileClusters, TextIsReadAsItIsPrinted) {
  EXPECT_EQ(to_string(parse_kernel(kBoth)), kBoth);
  verify(parse_kernel(kBoth));
}

TEST(TileClusters, APhaseSeesThoseBefore) {
  HostTensor x = numbers({8}), y(DType::f32, {8}), z(DType::f32, {8});
  interpret(parse_kernel(kBoth), {&x, &y, &z});
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(z.at(i), 2.0 * static_cast<double>(8 - i));
}

// x[t + 1] = 2 x[t] in a ring of two places, stacked: what a scan's steps do.
TEST(TileClusters, StepsOfALoop) {
  const Kernel twice = parse_kernel(kTwice);
  const Kernel copy = parse_kernel(R"(kernel copy(%p0: in f32[8], %p1: out f32[8]) {
  axis i0<8 by 8 threads 8@0
  grid (i0) {
    %0: f32[i0] = load %p0[i0]
    store %p1[i0] = %0
  }
}
)");
  const auto loop = in_order({{&twice, {{0, 0, 1, 2}, {0, 1, 1, 2}}}, {&copy, {{0, 1, 1, 2}, {1, 4, -1, 5}}}}, 5);
  verify(loop->kernel);
  EXPECT_EQ(to_string(parse_kernel(to_string(loop->kernel))), to_string(loop->kernel));
  HostTensor ring(DType::f32, {2, 8}), stack(DType::f32, {5, 8});
  for (int64_t i = 0; i < 8; ++i) ring.set(i, Scalar::of(DType::f32, static_cast<double>(i + 1)));
  ASSERT_EQ(loop->memories, (std::vector<int64_t>{0, 1}));
  interpret(loop->kernel, {&ring, &stack});
  for (int64_t t = 0; t < 5; ++t)
    for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(stack.at((4 - t) * 8 + i), static_cast<double>((i + 1) << (t + 1)));
}

// Side by side only what touches nothing that the other stores.
TEST(TileClusters, MissingBarriersAreFound) {
  const Kernel twice = parse_kernel(kTwice), reversed = parse_kernel(kReversed);
  verify(in_order({{&twice, {{0}, {1}}}, {&reversed, {{0}, {2}}, true}})->kernel);
  const auto found = [&](const Sequence& s) {
    try {
      verify(s.kernel);
    } catch (const Error& e) {
      return std::string(e.what()).find("there is a barrier between phases") != std::string::npos;
    }
    return false;
  };
  EXPECT_TRUE(found(*in_order({{&twice, {{0}, {1}}}, {&reversed, {{1}, {2}}, true}})));                         // reads what the other stores
  EXPECT_TRUE(found(*in_order({{&twice, {{0}, {1}}}, {&reversed, {{2}, {0}}, true}})));                         // stores what the other reads
  EXPECT_TRUE(found(*in_order({{&twice, {{0}, {1}}}, {&reversed, {{2}, {3}}, true}, {&twice, {{1}, {4}}, true}})));   // not only next to it
  verify(in_order({{&twice, {{0}, {1}}}, {&reversed, {{1}, {2}}}})->kernel);
}

TEST(TileClusters, OnePlaceHasOneShapeWhereItIsStored) {
  const Kernel twice = parse_kernel(kTwice);
  const Kernel other = parse_kernel(R"(kernel other(%p0: out f32[2,4]) {
  axis i0<2 by 1
  axis i1<4 by 4 threads 4@0
  grid (i0) {
    %0: f32[i1] = map(1:f32) ()
    store %p0[i0, i1] = %0
  }
}
)");
  std::string why;
  EXPECT_FALSE(in_sequence({{&twice, {{0}, {1}}}, {&other, {{1}}}}, 0, 8, why));
  EXPECT_EQ(why, "one place is stored in two shapes");
}

// As generated: a barrier of the cluster where a phase needs the one before, none where it stands beside it; groups of threads
// that are fewer than the launch has meet apart.
TEST(TileClusters, GeneratedText) {
  const Kernel twice = parse_kernel(kTwice), reversed = parse_kernel(kReversed);
  const auto text = [&](bool beside) {
    const std::string all = cuda::emit(in_order({{&twice, {{0}, {1}}}, {&reversed, {{beside ? 0 : 1}, {2}}, beside}})->kernel, "sm_90a").source;
    return all.substr(all.find("extern \"C\""));
  };
  EXPECT_NE(text(false).find("__cluster_dims__(16, 1, 1)"), std::string::npos);
  EXPECT_NE(text(false).find("qn_cluster_meet();"), std::string::npos);
  EXPECT_EQ(text(true).find("qn_cluster_meet"), std::string::npos);
  EXPECT_EQ(text(false).find("__ldg"), std::string::npos);
}

TEST(TileClusters, WhatAKernelTakes) {
  const GpuWork w = gpu_work(parse_kernel(kTwice));
  EXPECT_EQ(w.instances, 2);
  EXPECT_EQ(w.threads, 32);
  EXPECT_EQ(w.bytes, 64);
  EXPECT_LT(gpu_microseconds({&w}, kMultiprocessors, 0), gpu_microseconds({&w}, 1, 32));   // one after the other
}

}  // namespace
}  // namespace quern
