// Attention's gradient in the Tile IR as plain loops, as the passes lower it (ir/tile/kernel.h): weights of two products and of two
// numbers a row, the logarithm of its sum and what the weights' own gradient sums to, negative.
#pragma once
#include <string>

#include <fmt/format.h>

#include "passes/tile/bounds.h"
#include "passes/tile/regroup.h"
#include "passes/tile/roles_ordered.h"

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
  std::string gradient(const std::string& q, const std::string& k, bool scaled = true) const {
    const std::string whole = seen(fmt::format("mul(add(a2, a3), {})", exponential(q, k)), q, k, "0");
    return fmt::format("cast<{}>({})", dtype, scaled ? fmt::format("mul({}, {}:f32)", whole, scale) : whole);
  }
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
  /// All three: the queries', before it is scaled, in f32.
  std::string all() const {
    std::string text = keys();
    text.resize(text.size() - std::string("  }\n}\n").size());
    const std::string out = fmt::format(", %p8: out f32[{},{},{}]) {{\n", heads, time, size), axes = fmt::format("  axis i9<{0} by 1\n  axis i10<{1} by 1\n  axis i11<{1} by 1\n  grid", time, size);
    text.replace(text.find(") {\n"), 4, out).replace(text.find("  grid"), 6, axes);
    text += rows(101, "i1") + "    %110: f32[i0, i1, i2] = seq (i9) carry (%111: f32[i0, i1, i2] = 0) {\n";
    text += product(120, 0, "i1", 1, "i9", "i10") + product(130, 3, "i1", 2, "i9", "i11");
    text += fmt::format("      %140: {}[i0, i1, i9] = map({}) (%120, %101, %130, %102)\n", dtype, gradient("i1", "i9", false));
    return text + sum(141, 111, "i9", 140, 1) + "    store %p8[i0, i1, i2] = %110\n  }\n}\n";
  }
  /// Those planned in roles, whatever it costs.
  tile::Kernel in_order() const { return plan_ordered_roles(bounds(match_dims(tile::parse_kernel(all())))); }
};

}  // namespace quern::test
