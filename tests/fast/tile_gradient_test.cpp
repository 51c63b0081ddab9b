// Attention's gradient as plain loops, planned in roles by the pass: the interpreter finds the same sums; what a wrong plan would make
// is another; kernels that are no such sums are refused, with the reason.
#include <gtest/gtest.h>

#include <cmath>

#include "ir/tile/kernel.h"
#include "passes/tile/roles_nested.h"
#include "tests/support/gradient_text.h"

namespace quern::tile {
namespace {

using test::GradientText;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from << " is not in " << text;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}
std::vector<double> run(const std::string& text) {
  const Kernel kernel = parse_kernel(text);
  verify(kernel);
  std::vector<HostTensor> storage;
  for (size_t b = 0; b < kernel.buffers.size(); ++b) {
    const Buffer& buffer = kernel.buffers[b];
    storage.push_back(HostTensor::full(buffer.dtype, buffer.shape, 99));
    for (int64_t i = 0; buffer.kind == BufferKind::in && i < storage.back().size(); ++i) storage.back().set(i, Scalar::of(buffer.dtype, std::sin(static_cast<double>(i * static_cast<int64_t>(b + 2)) * 1.7) + (b == 4 ? 2 : 0)));
  }
  std::vector<HostTensor*> buffers;
  for (HostTensor& t : storage) buffers.push_back(&t);
  interpret(kernel, buffers);
  std::vector<double> out;
  for (size_t b = 0; b < storage.size(); ++b)
    if (kernel.buffers[b].kind == BufferKind::out)
      for (double x : storage[b].to_doubles()) out.push_back(x);
  return out;
}
std::string planned(const std::string& text) {
  std::string why;
  const auto kernel = plan_nested_roles(parse_kernel(text), why);
  EXPECT_TRUE(kernel) << why;
  return kernel ? to_string(*kernel) : "";
}
void expect_near(const std::vector<double>& want, const std::vector<double>& got, double bound) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], bound * std::max(1.0, std::abs(want[i]))) << i;
}
void expect_derived(const GradientText& g) {
  for (const std::string& text : {g.queries(), g.keys()}) {
    SCOPED_TRACE(text);
    const std::string roles = planned(text);
    ASSERT_FALSE(roles.empty());
    SCOPED_TRACE(roles);
    EXPECT_EQ(to_string(parse_kernel(roles)), roles);
    expect_near(run(text), run(roles), g.dtype == "f16" ? 0.01 : 0.08);
  }
}

TEST(TileGradient, Derived) {
  for (bool causal : {false, true}) {
    expect_derived({2, 200, 16, causal, "bf16", 0.25});
    expect_derived({1, 132, 80, causal, "f16", 0.3});
  }
}

// The three gradients in one kernel, the queries' as a sum over the blocks of keys in the work's order.
std::string in_order(const GradientText& g) {
  const std::string text = to_string(g.in_order());
  EXPECT_EQ(to_string(parse_kernel(text)), text);
  return text;
}
TEST(TileGradient, InOrder) {
  for (const auto& [size, causal] : {std::pair<int64_t, bool>{64, false}, {64, true}, {128, true}}) {
    const GradientText g{1, 136, size, causal, "f16", 0.125};
    SCOPED_TRACE(to_string(g.in_order()));
    const std::vector<double> keys = run(g.keys()), queries = run(g.queries());
    std::vector<double> got = run(in_order(g));
    const size_t n = queries.size();
    ASSERT_EQ(got.size(), 3 * n);
    for (size_t i = 2 * n; i < 3 * n; ++i) got[i] *= g.scale;
    expect_near(keys, {got.begin(), got.begin() + static_cast<std::ptrdiff_t>(2 * n)}, 0.02);
    expect_near(queries, {got.begin() + static_cast<std::ptrdiff_t>(2 * n), got.end()}, 0.02);
  }
}
// Five products of each step, weights made once; long walks first, where all that begin together add to other places.
TEST(TileGradient, FiveProducts) {
  for (int64_t size : {64, 128}) {
    const std::string text = in_order({2, 260, size, true, "bf16"});
    const auto count = [&](const std::string& what) {
      int n = 0;
      for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
      return n;
    };
    EXPECT_EQ(count("issue mma"), 5) << text;
    EXPECT_EQ(count("exp("), 1) << text;
    EXPECT_EQ(count("add %c4 to (%p8["), 1) << text;
    EXPECT_NE(text.find(" backward claimed {"), std::string::npos) << text;
  }
  EXPECT_EQ(in_order({2, 260, 64, false}).find("backward"), std::string::npos);
}
// What the interpreter, or the verifier, finds of plans that add wrongly: its blocks wait for one another as a device's do.
TEST(TileGradient, OrdersThatCannotBe) {
  const GradientText g{1, 136, 64, true, "f16", 0.125};
  const auto fails = [](const std::string& text, const std::string& reason) {
    try {
      run(text);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(reason), std::string::npos) << e.what();
    }
  };
  const std::string text = to_string(g.in_order());
  const auto line = [&](const std::string& begin) { return text.substr(text.find(begin), text.find('\n', text.find(begin)) + 1 - text.find(begin)); };
  fails(replaced(text, line("        put %c4"), ""), "deadlock");
  fails(replaced(text, line("        release %c3@s"), ""), "deadlock");
  fails(replaced(text, "over i1", "over i0"), "the work's last axis");
  fails(replaced(text, " backward", " winding"), "in order");
  fails(replaced(text, line("        put %c3"), line("        put %c3") + line("        put %c3")), "deadlock");
}

constexpr GradientText kSmall{1, 200, 16, true, "bf16", 0.25};

// One product of each kind in a step, whatever of the loops before had its own; two sums share the walk.
TEST(TileGradient, ProductsAreMadeOnce) {
  const auto count = [](const std::string& text, const std::string& what) {
    int n = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
    return n;
  };
  EXPECT_EQ(count(planned(kSmall.queries()), "issue mma"), 3);
  EXPECT_EQ(count(planned(kSmall.keys()), "issue mma"), 4);
  EXPECT_EQ(count(planned(kSmall.keys()), "exp("), 1);
  EXPECT_EQ(count(planned(kSmall.keys()), "role math"), 1);
}

// Heads side by side, queries, keys and values of each in one matrix: the same plan, of four dims.
TEST(TileGradient, HeadsSideBySide) {
  const auto side_by_side = [](std::string text) {
    for (int p = 0; p < 3; ++p)
      for (size_t at = text.find(fmt::format("load %p{}[i0, ", p)); at != std::string::npos; at = text.find(fmt::format("load %p{}[i0, ", p), at + 1)) {
        const size_t row = at + 13, comma = text.find(',', row), end = text.find(']', comma);
        text.replace(row, end - row, fmt::format("{}, i0*16 + {} + {}", text.substr(row, comma - row), text.substr(comma + 2, end - comma - 2), 32 * p));
        text.erase(at + 9, 4);
      }
    for (int p = 0; p < 3; ++p) text = replaced(text, fmt::format("%p{}: in bf16[2,200,16]", p), fmt::format("%p{}: in bf16[200,96]", p));
    return text;
  };
  const GradientText two{2, 200, 16, true, "bf16", 0.25};
  for (const std::string& text : {two.queries(), two.keys()}) {
    const std::string roles = planned(side_by_side(text));
    EXPECT_NE(roles.find("%p0: in bf16[200,6,16]"), std::string::npos) << roles;
    EXPECT_NE(roles.find("i0 + 4, "), std::string::npos) << roles;
    EXPECT_NE(roles.find("role math"), std::string::npos);
    expect_near(run(side_by_side(text)), run(roles), 0.08);
  }
}

TEST(TileGradient, WrongPlansComputeSomethingElse) {
  const auto off = [](const std::string& plain, const std::string& from, const std::string& to) {
    const std::string roles = planned(plain);
    const std::vector<double> want = run(plain), got = run(replaced(roles, from, to));
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::isnan(got[i]) ? 1 : std::abs(got[i] - want[i]));
    EXPECT_GT(worst, 0.1) << from;
  };
  off(kSmall.queries(), "//128 + 1", "//128");                   // the last block that a mask leaves
  off(kSmall.keys(), "select(le(", "select(lt(");                // the mask
  off(kSmall.queries(), "mul(a0, 0.25:f32)", "mul(a0, 1:f32)");  // the exponential's factor
  off(kSmall.keys(), "map fast(mul(add(a0, a1), a2))", "map fast(mul(a0, a2))");   // what the rows' gradients sum to
}

TEST(TileGradient, WhatThePassLeaves) {
  const auto refused = [](const std::string& text, const std::string& reason) {
    std::string why;
    EXPECT_FALSE(plan_nested_roles(parse_kernel(text), why));
    EXPECT_NE(why.find(reason), std::string::npos) << why;
  };
  refused(GradientText{2, 200, 64}.all(), "would cost");   // short walks
  refused(GradientText{2, 1024, 96}.all(), "not 64 or 128 long");
  refused(replaced(GradientText{2, 1024, 64}.all(), "select(le(coord(i9), coord(i1)), mul(a0, 0.125:f32)", "select(le(coord(i9), coord(i1)), mul(a0, 0.25:f32)"), "weights of its own");
  refused(replaced(GradientText{2, 1024, 64}.all(), "load %p1[i0, i9, i2]", "load %p2[i0, i9, i2]"), "other rows than its products");
  refused(GradientText{2, 200, 24}.keys(), "no multiple of 16 long");
  refused(GradientText{2, 200, 272}.queries(), "longer than 256");
  refused(replaced(kSmall.queries(), "    %10: f32[i0, i1, i2] =", "    %90: f32[i0, i1] = seq (i8) carry (%91: f32[i0, i1] = 0) {\n      %92: bf16[i0, i1, i8] = load %p0[i0, i1, i8]\n      %93: f32[i0, i1, i8] = map(cast<f32>(a0)) (%92)\n      %94: f32[i0, i1] = reduce<max> i8 (%93)\n      %95: f32[i0, i1] = map(max(a0, a1)) (%91, %94)\n      yield %95\n    }\n    %10: f32[i0, i1, i2] ="), "no reduction");
  refused(GradientText{2, 202, 16}.keys(), "no vector of f32 along the walk");
  refused(GradientText{2, 200, 256}.keys(), "do not fit the registers");
  refused(replaced(kSmall.keys(), "mul(a0, 0.25:f32)", "mul(cast<f32>(cast<bf16>(a0)), 0.25:f32)"), "round to 16 bits");
  refused(replaced(kSmall.keys(), "select(le(coord(i1), coord(i3))", "select(lt(coord(i1), coord(i3))"), "walk differently");
}

}  // namespace
}  // namespace quern::tile
