// Products written by hand in the planned form with roles and channels (ir/tile/kernel.h): they compute what the lowered kernel
// computes, for every depth of their rings; and each breach of the protocol is found and named.
#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "ir/tile/kernel.h"
#include "passes/tile/roles.h"
#include "passes/tile/schedule.h"

namespace quern::tile {
namespace {

HostTensor ramp(Shape shape, double scale) {
  HostTensor t(DType::bf16, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(DType::bf16, std::sin(static_cast<double>(i) * 1.7) * scale));
  return t;
}

constexpr const char* kBuffers = "kernel k(%p0: in bf16[43,21], %p1: in bf16[21,26], %p2: in bf16[26], %p3: out bf16[43,26], %p4: out bf16[43,26])";

const std::string kLowered = std::string(kBuffers) + R"( {
  axis i0<43 by 1
  axis i1<26 by 1
  axis i2<21 by 8
  grid (i0, i1) {
    %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {
      %2: bf16[i0, i2] = load %p0[i0, i2]
      %3: bf16[i1, i2] = load %p1[i2, i1]
      %4: f32[i0, i1] = mma[bf16] i2 (%1, %2, %3)
      yield %4
    }
    %5: bf16[i1] = load %p2[i1]
    %6: bf16[i0, i1] = map(add(cast<bf16>(a0), a1)) (%0, %5)
    store %p3[i0, i1] = %6
    %7: bf16[i0, i1] = map(tanh(a0)) (%6)
    store %p4[i0, i1] = %7
  }
}
)";

// Two instances share each tile of the work.
const std::string kCooperative = std::string(kBuffers) + R"( {
  axis i0<43 by 16
  axis i1<26 by 8
  axis i2<21 by 8
  axis i3<43 by 8 within i0
  axis i4<43 by 4 within i3
  axis i5<26 by 4 within i1
  work (i0, i1) in groups of 2 {
    chan %c0 (bf16[i0, i2], bf16[i2, i1]) x 3
    chan %c1 (bf16[i4, i5]) x 2
    role load regs 40 {
      seq (i2) {
        fetch %c0 (%p0[i0, i2], %p1[i2, i1])
      }
    }
    role math x 2 along i3 regs 232 {
      %0: f32[i1, i3] = seq (i2) carry (%1: f32[i1, i3] = 0) {
        %2: bf16[i0, i2], %3: bf16[i1, i2] = get %c0
        %4: bf16[i2, i3] = slice %2
        %5: f32[i1, i3] = issue mma[bf16, m64n8k16] i2 (%1, %4, %3)
        await 1
        past (i2) {
          release %c0@s-1
        }
        yield %5
      }
      await 0
      release %c0@s
      each (i4, i5) {
        %6: f32[i4, i5] = slice %0
        %7: bf16[i5] = load %p2[i5]
        %8: bf16[i4, i5] = map(add(cast<bf16>(a0), a1)) (%6, %7)
        put %c1 (%8)
        fence
        send %c1 to (%p3[i4, i5])
        %9: bf16[i4, i5] = map(tanh(a0)) (%8)
        put %c1 (%9)
        fence
        send %c1 to (%p4[i4, i5])
      }
    }
  }
}
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}
// Each instance has whole tiles, every second one.
const std::string kTurns = [] {
  std::string text = replaced(kCooperative, "within i3", "within i0");
  text = replaced(text, "x 2 along i3 regs 232 {\n", "x 2 in turns regs 232 {\n      turn\n");
  text = replaced(text, "        %4: bf16[i2, i3] = slice %2\n", "");
  text = replaced(text, "(%1, %4, %3)", "(%1, %2, %3)");
  text = replaced(text, "      await 0\n", "      pass\n      await 0\n");
  for (size_t at; (at = text.find("f32[i1, i3]")) != std::string::npos;) text.replace(at, 11, "f32[i0, i1]");
  return text;
}();

std::vector<HostTensor> run(const std::string& text) {
  std::vector<HostTensor> storage = {ramp({43, 21}, 1), ramp({21, 26}, 1), ramp({26}, 2), HostTensor::full(DType::bf16, {43, 26}, 99), HostTensor::full(DType::bf16, {43, 26}, 99)};
  std::vector<HostTensor*> buffers;
  for (HostTensor& t : storage) buffers.push_back(&t);
  interpret(parse_kernel(text), buffers);
  return storage;
}
void expect_equal(const std::vector<HostTensor>& got, const std::vector<HostTensor>& want) {
  for (size_t b : {3, 4})
    for (int64_t i = 0; i < want[b].size(); ++i) ASSERT_EQ(got[b].at(i), want[b].at(i)) << b << " at " << i;
}
std::string error_of(const std::string& text) {
  try {
    run(text);
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing";
}
void expect_error(const std::string& text, const std::string& error) { EXPECT_NE(error_of(text).find(error), std::string::npos) << error << " is not in: " << error_of(text); }

TEST(TileRoles, TextIsReadAsItIsPrinted) { EXPECT_EQ(to_string(parse_kernel(kCooperative)), kCooperative); }

TEST(TileRoles, InstancesThatShareATile) {
  const auto want = run(kLowered);
  for (int depth : {2, 3, 5}) expect_equal(run(replaced(kCooperative, "x 3\n", "x " + std::to_string(depth) + "\n")), want);
  expect_equal(run(replaced(kCooperative, "groups of 2", "groups of 1")), want);
  expect_equal(run(replaced(replaced(kCooperative, "work (i0, i1)", "work (i1, i0)"), "groups of 2", "groups of 3")), want);
}

TEST(TileRoles, InstancesInTurns) {
  const auto want = run(kLowered);
  for (int depth : {2, 3, 5}) expect_equal(run(replaced(kTurns, "x 3\n", "x " + std::to_string(depth) + "\n")), want);
}

// Three blocks share each tile: 8, 8 and 5 elements of the sum.
const std::string kShared = [] {
  std::string text = replaced(kCooperative, "axis i2<21 by 8\n", "axis i2<21 by 4 within i6\n");
  text = replaced(text, "  work (i0, i1) in groups of 2 {", "  axis i6<21 by 8\n  work (i0, i1) in groups of 2 shared along i6 {");
  text = replaced(text, "      each (i4, i5) {", "      share %0\n      deal (i4, i5) {");
  return replaced(text, "= slice %0\n", "= total %0\n");
}();

TEST(TileRoles, BlocksThatShareATile) {
  EXPECT_EQ(to_string(parse_kernel(kShared)), kShared);
  const auto want = run(kLowered);
  for (int depth : {2, 3}) expect_equal(run(replaced(kShared, "x 3\n", "x " + std::to_string(depth) + "\n")), want);   // sums of few terms: bf16 has no trace of their order
  expect_error(replaced(kShared, "      share %0\n", ""), "wants a total before it has shown its share");
  expect_error(replaced(kShared, "      release %c0@s\n      share %0\n", "      share %0\n      release %c0@s\n"), "shows its share while it holds %c0@1");
  expect_error(replaced(replaced(kShared, "      await 0\n      release %c0@s\n", ""), "      deal", "      await 0\n      release %c0@s\n      deal"), "uses the result of a product before its await");
  expect_error(replaced(kShared, "deal (i4, i5)", "each (i4, i5)"), "no two instances store one element");
  expect_error(replaced(kShared, "i6<21 by 8", "i6<21 by 24"), "2 to 8 blocks");
  expect_error(replaced(kCooperative, "= slice %0\n", "= total %0\n"), "a total is one of shares");
}

TEST(TileRoles, BreachesOfTheProtocol) {
  expect_error(replaced(kCooperative, "x 3\n", "x 1\n"), "while the ring has it");   // the product before is still read
  expect_error(replaced(kCooperative, "        past (i2) {\n          release %c0@s-1\n        }\n", ""), "deadlock: load waits for the release of %c0@0, math 0 waits for %c0@3");
  expect_error(replaced(kCooperative, "      await 0\n      release %c0@s\n", "      await 0\n"), "deadlock");
  expect_error(replaced(kCooperative, "          release %c0@s-1", "          release %c0@s"), "releases %c0@1 while a product reads it");
  expect_error(replaced(kCooperative, "        await 1\n", "        await 2\n"), "releases %c0@0 while a product reads it");
  expect_error(replaced(kCooperative, "      await 0\n", ""), "releases %c0@2 while a product reads it");
  expect_error(replaced(replaced(kCooperative, "      await 0\n", ""), "      release %c0@s\n", ""), "uses the result of a product before its await");
  expect_error(replaced(kCooperative, "      release %c0@s\n", "      release %c0@s\n      release %c0@s\n"), "releases %c0@2, which it does not hold");
  expect_error(replaced(kCooperative, "        past (i2) {\n          release %c0@s-1\n        }\n", "        release %c0@s-1\n"), "releases %c0@-1, which it does not hold");
  expect_error(replaced(kCooperative, "        fence\n", ""), "sends %c1@0 without a fence");
  expect_error(replaced(replaced(kCooperative, "        send %c1 to (%p3[i4, i5])\n", ""), "x 2\n", "x 1\n"), "where %c1@0 was never sent");
  expect_error(replaced(kTurns, "      turn\n", ""), "gets outside of its turn");
  expect_error(replaced(kTurns, "      pass\n", ""), "takes its turn twice");
}

TEST(TileRoles, WhatTheVerifierRefuses) {
  expect_error(replaced(kCooperative, "regs 232", "regs 240"), "no more registers than there are");
  expect_error(replaced(kCooperative, "regs 232", "regs 230"), "in steps of 8");
  expect_error(replaced(kCooperative, "x 2 along", "x 3 along"), "split a tile of the work");
  expect_error(replaced(kCooperative, "bf16[i2, i3] = slice", "bf16[i1, i2] = slice"), "lies within one of its tile's");
  expect_error(replaced(kCooperative, "put %c1 (%8)", "put %c0 (%8)"), "a put fills all parts");
  expect_error(replaced(kCooperative, "fetch %c0 (%p0[i0, i2]", "fetch %c0 (%p0[i0, i1]"), "the axes of its place");
  expect_error(replaced(kCooperative, "send %c1 to (%p3", "send %c1 to (%p0"), "outputs are sent to");
  expect_error(replaced(kCooperative, "work (i0, i1)", "work (i0)"), "two axes");
  expect_error(replaced(kCooperative, "get %c0", "get %c7"), "not declared");
  expect_error(replaced(kLowered, "    store", "    fence\n    store"), "expected a statement");
}

// --- the pass ---

/// y = op(a b), lowered: m x n x k, each operand as it is or transposed, with a bias, an activation and a residual where `after`; operands of
/// f32 are rounded to tf32.
std::string product(int64_t m, int64_t n, int64_t k, bool ta, bool tb, bool after, const std::string& dtype = "bf16", const std::string& out = "bf16") {
  const std::string ms = std::to_string(m), ns = std::to_string(n), ks = std::to_string(k);
  std::string t = "kernel k(%p0: in " + dtype + "[" + (ta ? ks + "," + ms : ms + "," + ks) + "], %p1: in " + dtype + "[" + (tb ? ns + "," + ks : ks + "," + ns) + "], %p2: in " + out + "[" + ns + "], %p3: in " + out + "[" + ms + "," + ns +
                  "], %p4: out " + out + "[" + ms + "," + ns + "]) {\n  axis i0<" + ms + " by 1\n  axis i1<" + ns + " by 1\n  axis i2<" + ks + " by 1\n";
  t += "  grid (i0, i1) {\n    %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {\n      %2: " + dtype + "[i0, i2] = load %p0[" + (ta ? "i2, i0" : "i0, i2") + "]\n      %3: " + dtype + "[i1, i2] = load %p1[" + (tb ? "i1, i2" : "i2, i1") +
       "]\n      %4: f32[i0, i1] = mma[" + (dtype == "f32" ? "tf32" : dtype) + "] i2 (%1, %2, %3)\n      yield %4\n    }\n";
  if (after) {
    t += "    %5: " + out + "[i1] = load %p2[i1]\n    %6: " + out + "[i0, i1] = load %p3[i0, i1]\n    %7: " + out + "[i0, i1] = map(add(mul(tanh(add(cast<" + out + ">(a0), a1)), cast<" + out + ">(coord(i1))), a2)) (%0, %5, %6)\n    store %p4[i0, i1] = %7\n";
  } else {
    t += "    %7: " + out + "[i0, i1] = map(cast<" + out + ">(a0)) (%0)\n    store %p4[i0, i1] = %7\n";
  }
  return t + "  }\n}\n";
}
// Outputs hold something else than what is to come.
std::vector<HostTensor> values_of(const Kernel& kernel) {
  std::vector<HostTensor> out;
  for (const Buffer& b : kernel.buffers) {
    out.push_back(HostTensor::full(b.dtype, b.shape, 99));
    if (b.kind == BufferKind::in)
      for (int64_t i = 0; i < out.back().size(); ++i) out.back().set(i, Scalar::of(b.dtype, std::sin(static_cast<double>(i) * 1.7)));
  }
  return out;
}
void expect_same(const Kernel& lowered, const Kernel& planned) {
  std::vector<HostTensor> want = values_of(lowered), got = want;
  std::vector<HostTensor*> expected, found;
  for (HostTensor& t : want) expected.push_back(&t);
  for (HostTensor& t : got) found.push_back(&t);
  interpret(lowered, expected);
  interpret(planned, found);
  for (int64_t i = 0; i < want.back().size(); ++i) ASSERT_NEAR(got.back().at(i), want.back().at(i), 2e-2 * (1 + std::abs(want.back().at(i)))) << i;
}
void expect_planned(const std::string& text) {
  SCOPED_TRACE(text);
  const Kernel lowered = parse_kernel(text);
  std::string why;
  const auto planned = plan_roles(lowered, why);
  ASSERT_TRUE(planned) << why;
  EXPECT_EQ(to_string(parse_kernel(to_string(*planned))), to_string(*planned));
  expect_same(lowered, *planned);
}

TEST(TileRoles, GeneratedProducts) {
  expect_planned(product(72, 136, 200, false, false, true));
  expect_planned(product(136, 72, 72, false, true, false));
  expect_planned(product(72, 200, 136, true, false, true, "f16", "f32"));
  expect_planned(product(136, 72, 64, true, true, false, "f16", "f16"));
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      if (!ta || tb) {
        expect_planned(product(136, 72, 68, ta, tb, true, "f32", "f32"));
        expect_planned(product(72, 136, 36, ta, tb, false, "f32", "bf16"));
      }
}

/// y = (a b^T) r c of 8-bit floats, which maps cast up, lowered: scaled by rows and by columns.
std::string product_of_bytes(const Shape& s, const std::string& left, const std::string& right, const std::string& wide, const std::string& out, bool ta = false, bool tb = true) {
  const std::string ms = std::to_string(s[0]), ns = std::to_string(s[1]), ks = std::to_string(s[2]), mma = wide == "f32" ? "f32" : wide;
  return "kernel k(%p0: in " + left + "[" + (ta ? ks + "," + ms : ms + "," + ks) + "], %p1: in " + right + "[" + (tb ? ns + "," + ks : ks + "," + ns) + "], %p2: in f32[" + ms + "], %p3: in f32[" + ns + "], %p4: out " + out + "[" + ms + "," + ns +
         "]) {\n  axis i0<" + ms + " by 1\n  axis i1<" + ns + " by 1\n  axis i2<" + ks + " by 1\n  grid (i0, i1) {\n    %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {\n      %2: " + left + "[i0, i2] = load %p0[" + (ta ? "i2, i0" : "i0, i2") +
         "]\n      %3: " + wide + "[i0, i2] = map(cast<" + wide + ">(a0)) (%2)\n      %4: " + right + "[i1, i2] = load %p1[" + (tb ? "i1, i2" : "i2, i1") + "]\n      %5: " + wide + "[i1, i2] = map(cast<" + wide + ">(a0)) (%4)\n      %6: f32[i0, i1] = mma[" + mma +
         "] i2 (%1, %3, %5)\n      yield %6\n    }\n    %7: f32[i0] = load %p2[i0]\n    %8: f32[i1] = load %p3[i1]\n    %9: " + out + "[i0, i1] = map(" + (out == "f32" ? "mul(mul(a0, a1), a2)" : "cast<" + out + ">(mul(mul(a0, a1), a2))") + ") (%0, %7, %8)\n    store %p4[i0, i1] = %9\n  }\n}\n";
}
// In parts of 128 terms, whose sums keep 14 bits: of a long sum of one sign a part loses as much as the whole, not the more the longer it is.
TEST(TileRoles, ProductsOfBytes) {
  for (const char* left : {"f8e4m3", "f8e5m2"})
    for (const char* right : {"f8e4m3", "f8e5m2"})
      for (const Shape& s : {Shape{136, 72, 272}, Shape{72, 264, 128}, Shape{64, 64, 4096}}) {
        const bool alike = std::string(left) == right;
        if (s[2] == 4096 && left != std::string("f8e4m3")) continue;   // the longest takes a second
        const std::string text = product_of_bytes(s, left, right, alike ? "f32" : "bf16", s[2] == 128 ? "bf16" : "f32");
        SCOPED_TRACE(text);
        const Kernel lowered = parse_kernel(text);
        std::string why;
        const Kernel planned = plan_cuda(lowered, "sm_90a", F32Products::f8, &why);
        ASSERT_NE(to_string(planned).find("issue mma[f8, m64n"), std::string::npos) << why;
        verify(planned);
        EXPECT_EQ(to_string(parse_kernel(to_string(planned))), to_string(planned));
        std::vector<HostTensor> want = values_of(lowered);
        for (HostTensor& t : want)
          for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(t.dtype, 1 + std::abs(std::sin(static_cast<double>(i) * 1.7))));
        std::vector<HostTensor> got = want;
        std::vector<HostTensor*> expected, found;
        for (HostTensor& t : want) expected.push_back(&t);
        for (HostTensor& t : got) found.push_back(&t);
        interpret(lowered, expected);
        interpret(planned, found);
        for (int64_t i = 0; i < want.back().size(); ++i) ASSERT_NEAR(got.back().at(i), want.back().at(i), (s[2] == 128 ? 0x1p-7 : 0x1p-12) * want.back().at(i)) << i;
      }
}
TEST(TileRoles, WhatIsNoProductOfBytes) {
  const auto planned = [](const std::string& text, F32Products products = F32Products::f8, const char* arch = "sm_90a") {
    std::string why;
    const std::string plan = to_string(plan_cuda(parse_kernel(text), arch, products, &why));
    EXPECT_EQ(plan.find("mma[f8"), std::string::npos) << plan;
    return why;
  };
  const std::string whole = product_of_bytes({256, 256, 256}, "f8e4m3", "f8e4m3", "f32", "f32");
  planned(whole, F32Products::f32);
  planned(whole, F32Products::tf32);
  planned(whole, F32Products::f8, "sm_80");
  planned(replaced(whole, "%3: f32[i0, i2] = map(cast<f32>(a0))", "%3: f32[i0, i2] = map(mul(cast<f32>(a0), 3:f32))"));   // another value
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      if (ta || !tb) { EXPECT_NE(planned(product_of_bytes({256, 256, 256}, "f8e4m3", "f8e5m2", "f32", "f32", ta, tb)).find("an operand of 8 bits lies across the sum"), std::string::npos); }
  EXPECT_NE(planned(product_of_bytes({256, 256, 264}, "f8e4m3", "f8e5m2", "f32", "f32")).find("no multiple of 16 bytes"), std::string::npos);
  expect_error(replaced(whole, "mma[f32]", "mma[f8]"), "of 8 bits");
}

// What follows also asks of each element whether it is below zero, as a derivative will: an output of bytes.
std::string with_flags(const std::string& text, const std::string& out) {
  const Kernel k = parse_kernel(text);
  const std::string shape = std::to_string(k.buffers[4].shape[0]) + "," + std::to_string(k.buffers[4].shape[1]);
  return replaced(replaced(text, "%p4: out " + out + "[" + shape + "]", "%p4: out " + out + "[" + shape + "], %p5: out bool[" + shape + "]"), "    store %p4[i0, i1] = %7\n",
                  "    store %p4[i0, i1] = %7\n    %8: bool[i0, i1] = map(lt(a0, 0:f32)) (%0)\n    store %p5[i0, i1] = %8\n");
}
TEST(TileRoles, OutputsOfBytes) {
  expect_planned(with_flags(product(72, 144, 200, false, false, true), "bf16"));
  expect_planned(with_flags(product(136, 80, 72, false, true, false, "f32", "f32"), "f32"));
  expect_planned(with_flags(product(136, 80, 72, false, false, false, "f32", "f32"), "f32"));   // along the rows of the product
  expect_planned(with_flags(product(64, 80, 1284, false, false, true, "f32", "f32"), "f32"));   // of a tile that blocks share
  std::string why;
  EXPECT_FALSE(plan_roles(parse_kernel(with_flags(product(136, 72, 72, false, true, false, "f32", "f32"), "f32")), why));   // rows of 72 bytes
  EXPECT_NE(why.find("no multiple of 16 bytes"), std::string::npos) << why;
}

TEST(TileRoles, RowsInParts) {   // heads of a width, between which positions stand
  const std::string text = product(384, 136, 72, true, false, true);
  for (const std::string part : {"64", "128"}) expect_planned(replaced(replaced(text, "bf16[72,384]", "bf16[" + std::to_string(384 / std::stol(part)) + ",72," + part + "]"), "%p0[i2, i0]", "%p0[i0//" + part + ", i2, i0%" + part + "]"));
}

TEST(TileRoles, OperandsInRegisters) {
  std::string why;
  const auto planned = plan_roles(parse_kernel(product(136, 264, 68, false, false, false, "f32", "f32")), why);
  ASSERT_TRUE(planned) << why;
  const std::string text = to_string(*planned), early = "        await 0\n";
  const auto fails = [&](const std::string& broken) -> std::string {
    std::vector<HostTensor> storage;
    for (const Buffer& b : planned->buffers) storage.emplace_back(b.dtype, b.shape);
    std::vector<HostTensor*> buffers;
    for (HostTensor& t : storage) buffers.push_back(&t);
    try {
      interpret(parse_kernel(broken), buffers);
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing";
  };
  EXPECT_EQ(fails(text), "nothing");
  EXPECT_NE(fails(replaced(text, early, "        await 1\n")).find("while a product reads it"), std::string::npos) << text;
}

TEST(TileRoles, SharedSums) {   // few tiles and a long sum
  for (const std::string& text : {product(64, 72, 2568, false, false, true), product(64, 64, 3080, true, false, false, "f16", "f32"), product(64, 72, 1284, false, false, true, "f32", "f32")}) {
    std::string why;
    const auto planned = plan_roles(parse_kernel(text), why);
    ASSERT_TRUE(planned) << why;
    EXPECT_GE(planned->phases[0].shared, 0) << to_string(*planned);
    expect_planned(text);
  }
}

TEST(TileRoles, EarlyLoads) {   // of the output's type and place, where tiles are whole
  expect_planned(product(256, 128, 200, false, false, true));
  std::string why;
  const auto text = [&](const std::string& of) { return to_string(plan_roles(parse_kernel(of), why).value()); };
  const std::string planned = text(product(256, 128, 200, false, true, true, "f16", "f16"));
  EXPECT_NE(planned.find("load early %p3"), std::string::npos) << planned;
  EXPECT_EQ(planned.find("load early %p2"), std::string::npos);   // a row of it
  EXPECT_EQ(text(product(264, 128, 200, false, true, true)).find("early"), std::string::npos);
  EXPECT_EQ(text(product(256, 128, 200, false, true, true, "bf16", "f32")).find("early"), std::string::npos);   // slots have no room
  std::string bytes = product(256, 128, 200, false, true, true);
  for (const char* of : {"%p3: in bf16", "%p4: out bf16", "%6: bf16", "%7: bf16"}) bytes = replaced(bytes, of, std::string(of, std::strlen(of) - 4) + "f8e4m3");
  bytes = replaced(bytes, bytes.substr(bytes.find("map(add(mul"), bytes.find(" (%0, %5, %6)") - bytes.find("map(add(mul")), "map(cast<f8e4m3>(add(add(a0, cast<f32>(a1)), cast<f32>(a2))))");
  EXPECT_EQ(text(bytes).find("early"), std::string::npos);
  const size_t depth = planned.find(" x ", planned.find("chan %c1")) + 3;
  expect_error(planned.substr(0, depth) + "9" + planned.substr(depth + 1), "a slot of its own");
  expect_error(replaced(planned, "load early %p3[", "load early %p3[1 + "), "where the same step sends to");
}

TEST(TileRoles, FewRows) { expect_planned(product(5, 1032, 1024, false, true, true)); }   // of a large matrix

TEST(TileRoles, GeneratedInTurns) {   // many tiles: the work of one instance follows the other's
  std::string why;
  const auto planned = plan_roles(parse_kernel(product(16384, 768, 768, false, false, false)), why);
  ASSERT_TRUE(planned);
  EXPECT_TRUE(planned->phases[0].roles[1].turns);
  Kernel small = parse_kernel(product(264, 200, 72, false, false, false));
  small.axes[2].tile = 64;   // the same order of sums
  Kernel forced = *planned;   // the same plan of a smaller product
  for (size_t b = 0; b < forced.buffers.size(); ++b) forced.buffers[b].shape = small.buffers[b].shape;
  for (size_t a = 0; a < forced.axes.size(); ++a) {
    size_t at = a;
    while (forced.axes[at].within >= 0) at = static_cast<size_t>(forced.axes[at].within);
    forced.axes[a].extent = small.axes[at].extent;
  }
  std::vector<HostTensor> want, got;
  for (const Buffer& b : small.buffers) want.push_back(b.kind == BufferKind::out ? HostTensor(b.dtype, b.shape) : ramp(b.shape, 1)), got.push_back(want.back());
  std::vector<HostTensor*> expected, found;
  for (HostTensor& t : want) expected.push_back(&t);
  for (HostTensor& t : got) found.push_back(&t);
  interpret(small, expected);
  interpret(parse_kernel(to_string(forced)), found);   // whose indices know the smaller extents
  for (int64_t i = 0; i < want.back().size(); ++i) ASSERT_EQ(got.back().at(i), want.back().at(i)) << i;
}

TEST(TileRoles, RowsOfASymbol) {   // planned for 200, run with fewer
  for (const std::string dtype : {"bf16", "f32"}) {   // of f32 outputs run along the rows of the product, and the symbol is its columns'
    const auto of_symbol = [&](std::string text, const std::vector<std::string>& places, const std::string& extent) {
      for (const std::string& of : places) text = replaced(text, of + extent, of + "n<=" + extent);
      return text;
    };
    const std::string fixed = product(200, 72, 72, false, dtype == "bf16", true, dtype, dtype), text = of_symbol(fixed, {"%p0: in " + dtype + "[", "%p3: in " + dtype + "[", "%p4: out " + dtype + "[", "axis i0<"}, "200");
    const Kernel lowered = parse_kernel(text);
    std::string why;
    const auto planned = plan_roles(lowered, why);
    ASSERT_TRUE(planned) << why;
    EXPECT_EQ(to_string(parse_kernel(to_string(*planned))), to_string(*planned));
    for (int64_t n : {1, 64, 67, 200}) expect_same(at_size(lowered, n), at_size(*planned, n));
    if (dtype == "f32") continue;
    EXPECT_FALSE(plan_roles(parse_kernel(of_symbol(text, {"%p1: in bf16[", "axis i1<"}, "72")), why));
    EXPECT_NE(why.find("as the run says"), std::string::npos) << why;
  }
}

TEST(TileRoles, WhatThePassLeaves) {
  const auto refused = [](const std::string& text, const std::string& reason) {
    std::string why;
    EXPECT_FALSE(plan_roles(parse_kernel(text), why));
    EXPECT_NE(why.find(reason), std::string::npos) << why;
  };
  refused(product(256, 256, 260, false, false, false), "no multiple of 16 bytes");
  refused(replaced(replaced(product(256, 256, 256, true, false, false), "bf16[256,256]", "bf16[8,256,32]"), "%p0[i2, i0]", "%p0[i0//32, i2, i0%32]"), "not one whole axis");   // rows of boxes are longer than a part
  refused(product(32, 256, 256, false, false, false), "smaller than one tile");
  refused(product(256, 256, 256, true, false, false, "f32", "f32"), "both operands of 32 bits lie across the sum");
  refused(product(256, 256, 258, false, true, false, "f32", "f32"), "no multiple of 16 bytes");
  refused(replaced(product(256, 256, 256, false, true, false, "f32", "f32"), "mma[tf32]", "mma[f32]"), "not 16 bits");
  refused(product(256, 256, 256, false, false, false, "bf16", "f64"), "an output is f64");
}

// What a plan file may choose: tiles and who takes them, not how a sum is ordered.
TEST(TileRoles, EveryTilingComputesTheSameBits) {
  for (const int64_t depth : {136, 4104}) {   // the latter shared by blocks of a cluster
    const Kernel lowered = parse_kernel(product(136, 200, depth, false, false, true));
    const std::vector<Candidate> candidates = candidates_cuda(lowered, "sm_90a", F32Products::f32, depth < 1000 ? 32 : 5);
    EXPECT_GE(candidates.size(), depth < 1000 ? 8u : 4u);
    std::vector<std::byte> first;
    for (const Candidate& c : candidates) {
      EXPECT_EQ(c.planned.phases[0].shared >= 0, depth > 1000);
      std::vector<HostTensor> storage = values_of(lowered);
      std::vector<HostTensor*> buffers;
      for (HostTensor& t : storage) buffers.push_back(&t);
      interpret(c.planned, buffers);
      const std::vector<std::byte> bits(storage.back().bytes.begin(), storage.back().bytes.end());
      if (first.empty()) first = bits;
      EXPECT_EQ(bits, first) << to_string(c.planned);
      const Kernel again = plan_scheduled([&](KernelSchedule& s) { return plan_cuda(lowered, "sm_90a", F32Products::f32, nullptr, &s); }, c.fields, "test.plan");
      EXPECT_EQ(structure(again), structure(c.planned));
    }
    const auto refused = [&](const ScheduleFields& fields) {
      try {
        plan_scheduled([&](KernelSchedule& s) { return plan_cuda(lowered, "sm_90a", F32Products::f32, nullptr, &s); }, fields, "test.plan");
      } catch (const Error& e) {
        return e.code;
      }
      return Code::general_bug;
    };
    EXPECT_EQ(refused({{"columns", 100}}), Code::plan_field);
    EXPECT_EQ(refused({{"colums", 128}}), Code::plan_field);
    EXPECT_EQ(refused({{"shares", 2}}), Code::plan_numerics);
  }
}

}  // namespace
}  // namespace quern::tile
