// Attention written by hand in the planned form with roles: the interpreter finds what the plain loops compute, for every depth
// of the rings; text is read as it is printed, and breaches of the protocol are named.
#include <gtest/gtest.h>

#include "ir/tile/kernel.h"
#include "passes/tile/roles_nested.h"
#include "tests/support/attention_text.h"

namespace quern::tile {
namespace {

using test::AttentionText;

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}
std::vector<double> run(const AttentionText& a, const std::string& text) {
  const DType dtype = a.dtype == "f16" ? DType::f16 : DType::bf16;
  std::vector<HostTensor> storage;
  for (int b = 0; b < 4; ++b) {
    storage.push_back(HostTensor::full(dtype, {a.heads, a.time, a.size}, 99));
    if (b < 3)
      for (int64_t i = 0; i < storage[0].size(); ++i) storage.back().set(i, Scalar::of(dtype, std::sin(static_cast<double>(i * (b + 2)) * 1.7) * (b == 0 ? 3 : 1)));
  }
  std::vector<HostTensor*> buffers;
  for (HostTensor& t : storage) buffers.push_back(&t);
  const Kernel kernel = parse_kernel(text);
  verify(kernel);
  interpret(kernel, buffers);
  return storage[3].to_doubles();
}
void expect_same(const AttentionText& a) {
  SCOPED_TRACE(testing::Message() << a.heads << "x" << a.time << "x" << a.size << (a.causal ? " causal " : " ") << a.dtype << ", " << a.instances << " instances");
  const std::vector<double> want = run(a, a.plain()), got = run(a, a.planned());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], a.dtype == "f16" ? 3e-3 : 2e-2) << i;
}
void expect_derived(const AttentionText& a) {
  SCOPED_TRACE(a.plain());
  const Kernel plain = parse_kernel(a.plain());
  std::string why;
  const auto planned = plan_nested_roles(plain, why);
  ASSERT_TRUE(planned) << why;
  const std::string text = to_string(*planned);
  EXPECT_EQ(to_string(parse_kernel(text)), text);
  const std::vector<double> want = run(a, a.plain()), got = run(a, text);
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], a.dtype == "f16" ? 3e-3 : 2e-2) << i;
}
std::string error_of(const AttentionText& a, const std::string& text) {
  try {
    run(a, text);
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}

constexpr AttentionText kSmall{2, 200, 16, true, "bf16", 0.25, 2, 64};

TEST(TileAttention, TextIsReadAsItIsPrinted) { EXPECT_EQ(to_string(parse_kernel(kSmall.planned())), kSmall.planned()); }

TEST(TileAttention, InRoles) {
  expect_same(kSmall);
  for (bool causal : {false, true}) {
    expect_same({1, 130, 32, causal, "f16", 0.3, 2, 128});
    expect_same({3, 64, 16, causal, "bf16", 1, 3, 64});
    expect_same({1, 200, 16, causal, "bf16", 0.25, 3, 128});
  }
}

TEST(TileAttention, Derived) {
  for (bool causal : {false, true}) {
    expect_derived({2, 200, 16, causal, "bf16", 0.25});
    expect_derived({1, 128, 80, causal, "f16", 0.3});
    expect_derived({1, 130, 144, causal, "bf16", 0.1});
  }
}

// The pass makes of the plain loops what was written by hand.
TEST(TileAttention, DerivedIsWhatWasWritten) {
  for (int64_t size : {64, 128}) {
    AttentionText a{8, 1024, size, true, "bf16", 0.25};
    std::string why;
    const auto planned = plan_nested_roles(parse_kernel(a.plain()), why);
    ASSERT_TRUE(planned) << why;
    a.instances = planned->phases[0].roles[1].count, a.group = planned->phases[0].group;
    EXPECT_EQ(to_string(*planned), a.planned());
  }
}

TEST(TileAttention, WhatThePassLeaves) {
  const auto refused = [](const std::string& text, const std::string& reason) {
    std::string why;
    EXPECT_FALSE(plan_nested_roles(parse_kernel(text), why));
    EXPECT_NE(why.find(reason), std::string::npos) << why;
  };
  const std::string plain = kSmall.plain();
  refused(AttentionText{2, 200, 24}.plain(), "no multiple of 16 long");
  refused(AttentionText{2, 200, 272}.plain(), "longer than 256");
  refused(AttentionText{2, 200, 20}.plain(), "no multiple of 16 bytes");
  refused(replaced(plain, "map(max(a0, a1))", "map(max(a0, neg(a1)))"), "no reduction");
  refused(replaced(plain, "map(exp(sub(a0, a1))) (%20, %0)", "map(exp(sub(a0, 1:f32))) (%20)"), "of other scores");
  refused(replaced(plain, "cast<bf16>(div(exp(sub(a0, a1)), a2))", "cast<bf16>(div(exp(sub(cast<f32>(cast<bf16>(a0)), a1)), a2))"), "round to 16 bits");
  refused(replaced(plain, "cast<bf16>(div(exp(sub(a0, a1)), a2))", "cast<bf16>(div(a2, exp(sub(a0, a1))))"), "more than exponentials");
  refused(replaced(plain, "mul(a0, 0.25:f32)", "mul(a0, 0.5:f32)"), "of other scores");
}

TEST(TileAttention, EveryDepthAndOrder) {
  const std::vector<double> want = run(kSmall, kSmall.planned());
  for (int depth : {1, 3}) EXPECT_EQ(run(kSmall, replaced(kSmall.planned(), "%c2 (bf16[i5, i4]) x 2", fmt::format("%c2 (bf16[i5, i4]) x {}", depth))), want);
  EXPECT_EQ(run(kSmall, replaced(kSmall.planned(), "groups of 8 backward", "groups of 1")), want);
}

// What a wrong pass would make is found by the comparison above.
TEST(TileAttention, WrongTextsComputeSomethingElse) {
  AttentionText sharp = kSmall;   // maxima grow by much
  sharp.scale = 32;
  const std::vector<double> want = run(sharp, sharp.plain());
  const auto off = [&](const std::string& from, const std::string& to) {
    const std::vector<double> got = run(sharp, replaced(sharp.planned(), from, to));
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::isnan(got[i]) ? 1 : std::abs(got[i] - want[i]));
    EXPECT_GT(worst, 0.03) << from;
  };
  off("map(mul(a0, a1)) (%7, %10)", "map(a0) (%7)");                                     // the sum, where the maximum grows
  off("map fast(add(mul(a0, a1), a2)) (%9, %23, %25)", "map fast(add(a0, a1)) (%9, %25)");   // what divides it
  off("map(select(le(coord(i3*64 + i5), coord(i6)), a0, -inf:f32))", "map(a0)");         // the mask
  off("to i1//64 + 1", "to i1//64");                                                      // the last block
  off("yield %15, %21, %26, %23, %27", "yield %15, %21, %26, %10, %27");                 // the factor of this step
}

TEST(TileAttention, BreachesOfTheProtocol) {
  const auto expect_error = [](const std::string& from, const std::string& to, const std::string& error) {
    const std::string found = error_of(kSmall, replaced(kSmall.planned(), from, to));
    EXPECT_NE(found.find(error), std::string::npos) << error << " is not in: " << found;
  };
  expect_error("          await 1\n", "", "releases %c1@1 while a product reads it");
  expect_error("          await 0\n", "          await 1\n", "releases %c1@0 while a product reads it");
  expect_error("        past (i3) {\n          release %c2@s\n        }\n", "", "deadlock");
  expect_error("        await 0\n        past", "        past", "releases %c2@0 while a product reads it");
  expect_error("      release %c0@s\n", "", "deadlock: load waits for the release of %c0@0");
  expect_error("          await 0\n          yield %7\n", "          yield %7\n", "while a product reads it");
}

}  // namespace
}  // namespace quern::tile
