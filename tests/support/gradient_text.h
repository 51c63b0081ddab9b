// Attention's gradient in the Tile IR as plain loops, as the passes lower it (ir/tile/kernel.h): weights of two products and of two
// numbers a row, the logarithm of its sum and what the weights' own gradient sums to, negative.
#pragma once
#include <string>

#include <fmt/format.h>

namespace quern::test {

struct GradientText {
  int64_t heads, time, size;       // rows of queries and keys; their length
  bool causal = true;
  std::string dtype = "bf16";
  double scale = 0.125;

  // %p0 queries, %p1 keys, %p2 values, %p3 the result's gradient, %p4 and %p5 of its rows.
  std::string buffers(const std::string& outs) const {
    const std::string type = fmt::format("{}[{},{},{}]", dtype, heads, time, size), rows = fmt::format("f32[{},{}]", heads, time);
    std::string out = fmt::format("kernel k(%p0: in {0}, %p1: in {0}, %p2: in {0}, %p3: in {0}, %p4: in {1}, %p5: in {1}{2}) {{\n", type, rows, fmt::format(fmt::runtime(outs), fmt::arg("t", type)));
    for (int a = 0; a < 9; ++a) out += fmt::format("  axis i{}<{} by {}\n", a, a == 0 ? heads : a == 1 || a == 3 || a == 6 ? time
                                                                                                                           : size,
                                                   a == 2 ? size : 1);
    return out + "  grid (i0, i1, i2) {\n";
  }
  // %n: the product of a's rows along `row` with b's along `walk`, summed over `depth`.
  std::string product(int n, int a, const std::string& row, int b, const std::string& walk, const std::string& depth) const {
    std::string out = fmt::format("      %{0}: f32[i0, i1, {1}] = seq ({2}) carry (%{3}: f32[i0, i1, {1}] = 0) {{\n", n, walk == "i1" ? row : walk, depth, n + 1);
    out += fmt::format("        %{0}: {1}[i0, {2}, {3}] = load %p{4}[i0, {2}, {3}]\n        %{5}: {1}[i0, {6}, {3}] = load %p{7}[i0, {6}, {3}]\n", n + 2, dtype, row, depth, a, n + 3, walk, b);
    return out + fmt::format("        %{0}: f32[i0, i1, {1}] = mma[{2}] {3} (%{4}, %{5}, %{6})\n        yield %{0}\n      }}\n", n + 4, walk == "i1" ? row : walk, dtype, depth, n + 1, n + 2, n + 3);
  }
  // Where query `q` sees key `k`.
  std::string seen(const std::string& score, const std::string& q, const std::string& k, const char* otherwise) const {
    return causal ? fmt::format("select(le(coord({}), coord({})), {}, {}:f32)", k, q, score, otherwise) : score;
  }
  std::string exponential(const std::string& q, const std::string& k) const { return fmt::format("exp(sub({}, a1))", seen(fmt::format("mul(a0, {}:f32)", scale), q, k, "-inf")); }
  std::string gradient(const std::string& q, const std::string& k) const { return fmt::format("cast<{}>(mul({}, {}:f32))", dtype, seen(fmt::format("mul(add(a2, a3), {})", exponential(q, k)), q, k, "0"), scale); }
  std::string rows(int n, const std::string& row) const { return fmt::format("      %{0}: f32[i0, {2}] = load %p4[i0, {2}]\n      %{1}: f32[i0, {2}] = load %p5[i0, {2}]\n", n, n + 1, row); }
  std::string sum(int n, int carry, const std::string& walk, int weight, int buffer) const {
    return fmt::format("      %{0}: {1}[i0, i2, {2}] = load %p{3}[i0, {2}, i2]\n      %{4}: f32[i0, i1, i2] = mma[{1}] {2} (%{5}, %{6}, %{0})\n      yield %{4}\n    }}\n", n, dtype, walk, buffer, n + 1, carry, weight);
  }
  std::string store(int n, int from, const char* buffer) const { return fmt::format("    %{0}: {1}[i0, i1, i2] = map(cast<{1}>(a0)) (%{2})\n    store {3}[i0, i1, i2] = %{0}\n", n, dtype, from, buffer); }

  /// Of the queries: a walk over the keys.
  std::string queries() const {
    std::string out = buffers(", %p6: out {t}") + rows(1, "i1") + "    %10: f32[i0, i1, i2] = seq (i3) carry (%11: f32[i0, i1, i2] = 0) {\n";
    out += product(20, 0, "i1", 1, "i3", "i4") + product(30, 3, "i1", 2, "i3", "i5");
    out += fmt::format("      %40: {}[i0, i1, i3] = map({}) (%20, %1, %30, %2)\n", dtype, gradient("i1", "i3"));
    return out + sum(41, 11, "i3", 40, 1) + store(50, 10, "%p6") + "  }\n}\n";
  }
  /// Of the keys and the values: a walk over the queries, in two loops.
  std::string keys() const {
    std::string out = buffers(", %p6: out {t}, %p7: out {t}") + "    %10: f32[i0, i1, i2] = seq (i3) carry (%11: f32[i0, i1, i2] = 0) {\n" + rows(1, "i3") + product(20, 0, "i3", 1, "i1", "i4");
    out += fmt::format("      %30: {0}[i0, i1, i3] = map(cast<{0}>({1})) (%20, %1)\n", dtype, exponential("i3", "i1"));
    out += sum(31, 11, "i3", 30, 3) + store(40, 10, "%p7") + "    %50: f32[i0, i1, i2] = seq (i6) carry (%51: f32[i0, i1, i2] = 0) {\n" + rows(3, "i6");
    out += product(60, 0, "i6", 1, "i1", "i7") + product(70, 3, "i6", 2, "i1", "i8");
    out += fmt::format("      %80: {}[i0, i1, i6] = map({}) (%60, %3, %70, %4)\n", dtype, gradient("i6", "i1"));
    return out + sum(81, 51, "i6", 80, 0) + store(90, 50, "%p6") + "  }\n}\n";
  }
  /// All three in one walk over the queries, in roles: the queries' own, before it is scaled, is %p8, added to by all blocks of keys in order.
  std::string ordered(int64_t group = 8, const char* how = " claimed") const {
    const int64_t block = size == 64 ? 128 : 64, blocks = (time + block - 1) / block;
    const std::string type = fmt::format("{}[{},{},{}]", dtype, heads, time, size), rows = fmt::format("f32[{},{}]", heads, time), query = fmt::format("i3*{} + i4", block);
    std::string out = fmt::format("kernel k(%p0: in {0}, %p1: in {0}, %p2: in {0}, %p3: in {0}, %p4: in {1}, %p5: in {1}, %p6: out {0}, %p7: out {0}, %p8: out f32[{2},{3},{4}]) {{\n", type, rows, heads, time, size);
    out += fmt::format("  axis i0<{0} by 1\n  axis i1<{1} by 128\n  axis i2<{2} by {2} threads 4@0 vector 2\n  axis i3<{3} by 1{4}\n  axis i4<{5} by {5} threads 4@0 vector 2\n", heads, time, size, blocks, causal ? fmt::format(" from i1//{}", block) : "", block);
    out += fmt::format("  axis i5<{0} by 64 within i1 threads 8@2 warps 4@0\n  axis i6<{1} by 64 within i2 threads 4@0 vector 2\n  axis i7<{2} by 64 within i4 threads 8@2 warps 4@0\n  axis i8<{1} by 64 within i2 threads 4@0 vector 2\n", time, size, block);
    out += fmt::format("  work (i2, i4, i0, i1) in groups of {}{}{} {{\n", group, causal ? " backward" : "", how);
    out += fmt::format("    chan %c0 ({0}[i1, i2], {0}[i1, i2]) x 1\n    chan %c1 ({0}[i4, i2], f32[i4]) x 2\n    chan %c2 ({0}[i4, i2], f32[i4]) x 2\n    chan %c3 ({0}[i1, i4]) x 1\n    chan %c4 (f32[i4, i2]) x 2\n    chan %c5 ({0}[i5, i6]) x 1\n", dtype);
    out += fmt::format(R"(    role load regs 40 {{
      fetch %c0 (%p1[i0, i1, i2], %p2[i0, i1, i2])
      seq (i3) {{
        fetch %c1 (%p0[i0, {0}, i2], %p4[i0, {0}])
        fetch %c2 (%p3[i0, {0}, i2], %p5[i0, {0}])
      }}
    }}
    role add x 2 in steps regs 40 {{
      seq (i3) {{
        %0: f32[i2, i4] = get %c4
        add %c4 to (%p8[i0, {0}, i2]) over i1
      }}
    }}
    role math x 2 along i5, i7, i8 regs 232 {{
)",
                       query);
    const std::string product = fmt::format("issue mma[{}, m64n{{}}k16]", dtype), scores = fmt::format(fmt::runtime(product), block), sums = fmt::format(fmt::runtime(product), size);
    const std::string value = fmt::format("        %20: f32[i2, i5] = {} i4 (%8, %19, %14)\n", sums), seen = causal ? fmt::format("le(coord(i5), coord({}))", query) : time % 128 ? fmt::format("lt(coord(i5), {}:i64)", time)
                                                                                                                                                                                  : "";
    const bool late = size == 64;   // the values' product is issued behind the weights' gradient
    out += fmt::format(R"(      %1: {0}[i1, i2], %2: {0}[i1, i2] = get %c0
      %3: {0}[i2, i5] = slice %1
      %4: {0}[i2, i5] = slice %2
      %5: {0}[i1, i8] = slice %1
      %6: f32[i2, i5], %7: f32[i2, i5] = seq (i3) carry (%8: f32[i2, i5] = 0, %9: f32[i2, i5] = 0) {{
        %10: {0}[i2, i4], %11: f32[i4] = get %c1
        %12: f32[i4, i5] = map(0:f32) ()
        %13: f32[i4, i5] = {1} i2 (%12, %3, %10)
        %14: {0}[i2, i4], %15: f32[i4] = get %c2
        %16: f32[i4, i5] = map(0:f32) ()
        %17: f32[i4, i5] = {1} i2 (%16, %4, %14)
        await 1
{2}        %18: f32[i4, i5] = map fast(exp(sub(mul(a0, {3}:f32), a1))) (%{9}, %11)
        %19: {0}[i4, i5] = map(cast<{0}>(a0)) (%18)
{4}        await {5}
        %21: f32[i4, i5] = map fast(mul(add(a0, a1), a2)) (%17, %15, %18)
        %22: {0}[i4, i5] = map(cast<{0}>(a0)) (%21)
        put %c3 (%22)
{6}        %23: {0}[i1, i4] = get %c3
        %24: {0}[i1, i7] = slice %23
        %25: f32[i7, i8] = map(0:f32) ()
        %26: f32[i7, i8] = {7} i1 (%25, %24, %5)
        %27: f32[i2, i5] = {8} i4 (%9, %22, %10)
        await 2
        release %c2@s
        await 1
        release %c3@s
        put %c4 (%26)
        await 0
        release %c1@s
        yield %20, %27
      }}
      release %c0@s
)",
                       dtype, scores, seen.empty() ? "" : fmt::format("        %28: f32[i4, i5] = map(select({}, a0, -inf:f32)) (%13)\n", seen), scale, late ? "" : value, late ? 0 : 1, late ? value : "", fmt::format(fmt::runtime(product), 64), sums, seen.empty() ? 13 : 28);
    for (int n : {0, 1}) {
      const std::string rounded = n ? fmt::format("mul(a0, {}:f32)", scale) : "a0";
      out += fmt::format("      each (i6) {{\n        %{1}: f32[i5, i6] = slice %{2}\n        %{3}: {0}[i5, i6] = map(cast<{0}>({4})) (%{1})\n        put %c5 (%{3})\n        fence\n        send %c5 to (%p{5}[i0, i5, i6])\n      }}\n", dtype, 30 + 2 * n, 6 + n, 31 + 2 * n, rounded, 7 - n);
    }
    return out + "    }\n  }\n}\n";
  }
};

}  // namespace quern::test
