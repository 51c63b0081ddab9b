// Attention in the Tile IR, written by hand: as plain loops, and planned in roles as passes are to make it (ir/tile/kernel.h).
#pragma once
#include <cmath>
#include <string>

#include <fmt/format.h>

namespace quern::test {

struct AttentionText {
  int64_t heads, time, size;       // rows of queries, keys and values; their length
  bool causal = true;
  std::string dtype = "bf16";
  double scale = 0.125;
  int64_t instances = 2, keys = 128;   // of 64 rows each; of a block
  int64_t group = 8;               // heads whose rows are walked side by side

  std::string buffers() const {
    const std::string type = fmt::format("{}[{},{},{}]", dtype, heads, time, size);
    return fmt::format("kernel k(%p0: in {0}, %p1: in {0}, %p2: in {0}, %p3: out {0}) {{\n", type);
  }
  /// Scores, their maxima and sums, products: three loops.
  std::string plain() const {
    std::string out = buffers() + fmt::format("  axis i0<{0} by 1\n  axis i1<{1} by 1\n  axis i2<{2} by {2}\n", heads, time, size);
    for (int l = 0; l < 3; ++l) out += fmt::format("  axis i{}<{} by 1\n  axis i{}<{} by 1\n", 3 + 2 * l, time, 4 + 2 * l, size);
    out += "  grid (i0, i1) {\n";
    const auto scores = [&](int l, int n, const std::string& after) {   // %n: where the row sees the key
      const std::string key = fmt::format("i{}", 3 + 2 * l), depth = fmt::format("i{}", 4 + 2 * l);
      out += fmt::format("      %{0}: f32[i0, i1, {1}] = seq ({2}) carry (%{3}: f32[i0, i1, {1}] = 0) {{\n        %{4}: {6}[i0, i1, {2}] = load %p0[i0, i1, {2}]\n        %{5}: {6}[i0, {1}, {2}] = load %p1[i0, {1}, {2}]\n", n + 1, key, depth, n + 2, n + 3, n + 4, dtype);
      out += fmt::format("        %{0}: f32[i0, i1, {1}] = mma[{5}] {2} (%{3}, %{4}, %{6})\n        yield %{0}\n      }}\n", n + 5, key, depth, n + 2, n + 3, dtype, n + 4);
      out += fmt::format("      %{}: f32[i0, i1, {}] = map({}) (%{})\n{}", n, key, causal ? fmt::format("select(le(coord({}), coord(i1)), mul(a0, {}:f32), -inf:f32)", key, scale) : fmt::format("mul(a0, {}:f32)", scale), n + 1, after);
    };
    out += "    %0: f32[i0, i1] = seq (i3) carry (%1: f32[i0, i1] = -inf) {\n";
    scores(0, 10, "      %2: f32[i0, i1] = reduce<max> i3 (%10)\n      %3: f32[i0, i1] = map(max(a0, a1)) (%1, %2)\n      yield %3\n    }\n");
    out += "    %4: f32[i0, i1] = seq (i5) carry (%5: f32[i0, i1] = 0) {\n";
    scores(1, 20, "      %6: f32[i0, i1, i5] = map(exp(sub(a0, a1))) (%20, %0)\n      %7: f32[i0, i1] = reduce<add> i5 (%6)\n      %8: f32[i0, i1] = map(add(a0, a1)) (%5, %7)\n      yield %8\n    }\n");
    out += "    each (i2) {\n    %30: f32[i0, i1, i2] = seq (i7) carry (%31: f32[i0, i1, i2] = 0) {\n";
    scores(2, 40, fmt::format("      %32: {0}[i0, i1, i7] = map(cast<{0}>(div(exp(sub(a0, a1)), a2))) (%40, %0, %4)\n      %33: {0}[i0, i2, i7] = load %p2[i0, i7, i2]\n      %34: f32[i0, i1, i2] = mma[{0}] i7 (%31, %32, %33)\n      yield %34\n    }}\n", dtype));
    return out + fmt::format("    %50: {0}[i0, i1, i2] = map(cast<{0}>(a0)) (%30)\n    store %p3[i0, i1, i2] = %50\n    }}\n  }}\n}}\n", dtype);
  }
  /// One role fetches, the others have 64 rows each: scores of a block of keys are made while the block before is multiplied by its values.
  std::string planned() const {
    const int64_t whole = (size + 63) / 64 * 64, blocks = (time + keys - 1) / keys;
    std::string out = buffers() + fmt::format("  axis i0<{} by 1\n  axis i1<{} by {}\n  axis i2<{} by {}\n  axis i3<{} by 1{}\n", heads, time, 64 * instances, size, whole, blocks, causal ? fmt::format(" to i1//{} + 1", keys) : "");
    out += fmt::format("  axis i4<{0} by {1} threads 4@0 vector 2\n  axis i5<{2} by {2} threads 4@0 vector 2\n  axis i6<{3} by 64 within i1 threads 8@2 warps 4@0\n  axis i7<{0} by 64 within i4 threads 4@0 vector 2\n", size, whole, keys, time);
    out += fmt::format("  work (i2, i4, i5, i0, i1) in groups of {1} backward {{\n    chan %c0 ({0}[i1, i2]) x 1\n    chan %c1 ({0}[i5, i2]) x 2\n    chan %c2 ({0}[i5, i4]) x 2\n    chan %c3 ({0}[i6, i7]) x 2\n", dtype, group);
    out += fmt::format(R"(    role load regs {0} {{
      fetch %c0 (%p0[i0, i1, i2])
      seq (i3) {{
        fetch %c1 (%p1[i0, i3*{1} + i5, i2])
        fetch %c2 (%p2[i0, i3*{1} + i5, i4])
      }}
    }}
    role math x {2} along i6 regs {3} {{
)",
                       instances == 2 ? 24 : 32, keys, instances, instances == 2 ? 240 : 160);
    const std::string seen = causal ? fmt::format("le(coord(i3*{} + i5), coord(i6))", keys) : fmt::format("lt(coord(i3*{} + i5), {}:i64)", keys, time);
    out += fmt::format(R"(      %0: {0}[i1, i2] = get %c0
      %1: {0}[i2, i6] = slice %0
      %2: f32[i4, i6], %3: f32[i6], %4: f32[i6], %5: f32[i6], %6: {0}[i5, i6] = seq (i3) carry (%7: f32[i4, i6] = 0, %8: f32[i6] = -inf, %9: f32[i6] = 0, %10: f32[i6] = 1, %11: {0}[i5, i6] = 0) {{
        %12: {0}[i2, i5] = get %c1
        %13: f32[i5, i6] = map(0:f32) ()
        %14: f32[i5, i6] = issue mma[{0}, m64n{1}k16] i2 (%13, %1, %12)
        %15: f32[i4, i6] = past (i3) {{
          %16: {0}[i4, i5] = get %c2
          %17: f32[i4, i6] = map(mul(a0, a1)) (%7, %10)
          %18: f32[i4, i6] = issue mma[{0}, m64n{2}k16] i5 (%17, %11, %16)
          await 1
          yield %18
        }} else {{
          await 0
          yield %7
        }}
        release %c1@s
        %19: f32[i5, i6] = map(select({3}, a0, -inf:f32)) (%14)
        %20: f32[i6] = reduce<max> i5 (%19)
        %21: f32[i6] = map(max(a0, a1)) (%8, %20)
        %22: f32[i6] = map fast(select(eq(a0, -inf:f32), 0:f32, mul(a0, {4}:f32))) (%21)
        %23: f32[i6] = map fast(exp(sub(mul(a0, {4}:f32), a1))) (%8, %22)
        %24: f32[i5, i6] = map fast(exp(sub(mul(a0, {4}:f32), a1))) (%19, %22)
        %25: f32[i6] = reduce<add> i5 (%24)
        %26: f32[i6] = map fast(add(mul(a0, a1), a2)) (%9, %23, %25)
        await 0
        past (i3) {{
          release %c2@s
        }}
        %27: {0}[i5, i6] = map(cast<{0}>(a0)) (%24)
        yield %15, %21, %26, %23, %27
      }}
      release %c0@s
      %28: {0}[i4, i5] = get %c2
      %29: f32[i4, i6] = map(mul(a0, a1)) (%2, %5)
      %30: f32[i4, i6] = issue mma[{0}, m64n{2}k16] i5 (%29, %6, %28)
      %31: f32[i6] = map fast(div(1:f32, a0)) (%4)
      await 0
      release %c2@s
      each (i7) {{
        %32: f32[i6, i7] = slice %30
        %33: f32[i6, i7] = map(mul(a0, a1)) (%32, %31)
        %34: {0}[i6, i7] = map(cast<{0}>(a0)) (%33)
        put %c3 (%34)
        fence
        send %c3 to (%p3[i0, i6, i7])
      }}
    }}
  }}
}}
)",
                       dtype, keys, whole, seen, static_cast<double>(static_cast<float>(scale)));
    return out;
  }
};

}  // namespace quern::test
