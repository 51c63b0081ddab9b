// Attention in many spellings of plain ops, forward and backward, against the interpreter in f64. On a CPU no kernel
// writes the scores: every slot of the program's arena is smaller than queries times keys.
#include <cmath>

#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/reduce.h"
#include "frontend/shape.h"
#include "ir/text.h"
#include "tests/support/device.h"

namespace quern {
namespace {

using Tensors = std::vector<Tensor>;
constexpr int64_t kTime = 150, kSize = 8;   // no multiple of a tile

struct Spelling {
  const char* name;
  std::vector<Type> inputs;
  Tensor (*build)(const Tensors& x);
  size_t wanted = 3;   // of the inputs, whose derivatives are asked for
};

Type f(Shape shape) { return {DType::f32, std::move(shape), {}}; }
std::vector<Type> alike(const Shape& shape) { return {f(shape), f(shape), f(shape)}; }
Tensor never(const Tensor& like) { return full(like.graph(), like.dtype(), {}, -INFINITY); }
Tensor past(GraphBuilder& g) { return less_equal(iota(g, DType::i32, {kTime, kTime}, 1), iota(g, DType::i32, {kTime, kTime}, 0)); }

std::vector<Spelling> spellings() {
  const Shape heads = {1, 2, kTime, kSize}, rows = {kTime, kSize}, late = {1, kTime, 2, kSize};
  const auto with = [](std::vector<Type> types, std::vector<Type> more) {
    types.insert(types.end(), more.begin(), more.end());
    return types;
  };
  return {
      {"one head of rows, scale behind", alike(rows), [](const Tensors& x) { return matmul(softmax(matmul(x[0], transpose(x[1], {1, 0})) * 0.35), x[2]); }},
      {"scale before, keys transposed before", alike(heads), [](const Tensors& x) { return matmul(softmax(matmul(x[0] * 0.35, transpose(x[1], {0, 1, 3, 2}))), x[2]); }},
      {"attention()", alike(heads), [](const Tensors& x) { return attention(x[0], x[1], x[2]); }},
      {"causal by coordinates", alike(heads), [](const Tensors& x) {
         const Tensor s = contract("bhqd,bhkd->bhqk", x[0], x[1]) * 0.35;
         return matmul(softmax(where(past(s.graph()), s, never(s))), x[2]);
       }},
      {"a mask that is added", with(alike(heads), {f({kTime, kTime})}), [](const Tensors& x) { return matmul(softmax(contract("bhqd,bhkd->bhqk", x[0], x[1]) / 2.8 + x[3]), x[2]); }},
      {"a mask of bools", with(alike(heads), {{DType::boolean, {1, 1, kTime, kTime}, {}}}), [](const Tensors& x) { return attention(x[0], x[1], x[2], {.mask = x[3]}); }},
      {"a trained bias of keys and of heads", with(alike(heads), {f({2, 1, kTime}), f({2, 1, 1})}), [](const Tensors& x) { return attention(x[0], x[1], x[2], {.bias = x[3] * x[4]}); }, 5},
      {"a trained bias of every pair, two batches", {f({2, 1, kTime, kSize}), f({2, 1, kTime, kSize}), f({2, 1, kTime, kSize}), f({kTime, kTime})}, [](const Tensors& x) { return attention(x[0], x[1], x[2], {.bias = x[3]}); }, 4},
      {"positions by slopes", with(alike(heads), {f({2, 1, 1})}), [](const Tensors& x) {
         GraphBuilder& g = x[0].graph();
         const Tensor apart = iota(g, x[0].dtype(), {kTime, kTime}, 1) - iota(g, x[0].dtype(), {kTime, kTime}, 0);
         return attention(x[0], x[1], x[2], {.bias = x[3] * apart * 0.02, .causal = true});
       }, 4},
      {"heads that share keys", {f({1, 4, kTime, kSize}), f(heads), f(heads)}, [](const Tensors& x) { return attention(x[0], x[1], x[2], {.causal = true}); }},
      {"keys repeated for heads", {f({1, 4, kTime, kSize}), f(heads), f(heads)}, [](const Tensors& x) {
         const auto repeated = [](const Tensor& t) { return reshape(broadcast_to(expand_dims(t, 2), {1, 2, 2, kTime, kSize}), {1, 4, kTime, kSize}); };
         return attention(x[0], repeated(x[1]), repeated(x[2]));
       }},
      {"heads behind the time", alike(late), [](const Tensors& x) { return contract("bhqk,bkhd->bqhd", softmax(contract("bqhd,bkhd->bhqk", x[0], x[1]) * 0.35), x[2]); }},
      {"one tensor of queries, keys and values", {f({1, kTime, 3 * 2 * kSize})}, [](const Tensors& x) {
         const auto part = [&](int64_t i) { return transpose(reshape(slice(x[0], 2, i * 2 * kSize, (i + 1) * 2 * kSize), {1, kTime, 2, kSize}), {0, 2, 1, 3}); };
         return reshape(transpose(attention(part(0), part(1), part(2), {.causal = true}), {0, 2, 1, 3}), {1, kTime, 2 * kSize});
       }, 1},
      {"soft cap", alike(heads), [](const Tensors& x) { return attention(x[0], x[1], x[2], {.softcap = 2}); }},
      {"dropout", with(alike(heads), {{DType::u32, {}, {}}}), [](const Tensors& x) { return attention(x[0], x[1], x[2], {.dropout = 0.25, .key = x[3]}); }},
      {"divided behind the second product, no maximum", alike(heads), [](const Tensors& x) {
         const Tensor e = exp(contract("bhqd,bhkd->bhqk", x[0], x[1]) * 0.35);
         return matmul(e, x[2]) / expand_dims(sum(e, {-1}), -1);
       }},
      {"exp of log_softmax", alike(heads), [](const Tensors& x) { return matmul(exp(log_softmax(matmul(x[0], transpose(x[1], {0, 1, 3, 2})) * 0.35)), x[2]); }},
      {"powers of two", alike(heads), [](const Tensors& x) {
         const Tensor s = contract("bhqd,bhkd->bhqk", x[0], x[1]) * 0.5, e = exp2(s - stop_gradient(expand_dims(max(s, {-1}), -1)));
         return matmul(e / expand_dims(sum(e, {-1}), -1), x[2]);
       }},
      {"more keys than queries", {f({1, 2, 130, kSize}), f({1, 2, 170, kSize}), f({1, 2, 170, 5})}, [](const Tensors& x) { return attention(x[0], x[1], x[2], {.causal = true}); }},
      {"the scores the other way round", alike(heads), [](const Tensors& x) {
         const Tensor s = contract("bhkd,bhqd->bhkq", x[1], x[0]) * 0.35, e = exp(s - stop_gradient(expand_dims(max(s, {-2}), -2)));
         return contract("bhkq,bhkd->bhqd", e / expand_dims(sum(e, {-2}), -2), x[2]);
       }},
      {"rotated", alike(heads), [](const Tensors& x) { return attention(rope(x[0]), rope(x[1]), x[2], {.causal = true}); }},
  };
}

std::vector<HostTensor> inputs_of(const std::vector<Type>& types, DType floats) {
  std::mt19937_64 random(7);
  std::vector<HostTensor> out;
  for (Type t : types) {
    HostTensor narrow = test::random_tensor(t, is_float(t.dtype) ? -1 : 0, is_float(t.dtype) ? 1 : t.dtype == DType::boolean ? 1 : 9, random), wide(is_float(t.dtype) ? floats : t.dtype, t.shape);
    for (int64_t i = 0; i < wide.size(); ++i) wide.set(i, is_float(t.dtype) ? Scalar::of(floats, narrow.at(i)) : narrow.get(i));
    out.push_back(std::move(wide));
  }
  return out;
}

Graph graph_of(const Spelling& s, DType floats, bool gradient) {
  Model m;
  Tensors x;
  for (size_t i = 0; i < s.inputs.size(); ++i) x.push_back(m.input(fmt::format("x{}", i), is_float(s.inputs[i].dtype) ? floats : s.inputs[i].dtype, s.inputs[i].shape));
  const Tensor y = s.build(x);
  m.output("y", y);
  if (gradient) {
    const Tensors d = grad(sum(sin(y * 3)), Tensors(x.begin(), x.begin() + static_cast<int64_t>(s.wanted)));
    for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
  }
  return m.finish();
}

class AttentionOnDevice : public test::OnDevice {};

TEST_F(AttentionOnDevice, NeedsNoSquareOfTheTime) {
  for (const Spelling& s : spellings())
    for (bool gradient : {false, true}) {
      SCOPED_TRACE(fmt::format("{}{}", s.name, gradient ? ", derivatives" : ""));
      const Graph graph = graph_of(s, DType::f32, gradient);
      CompileReport report;
      const auto program = compiled(graph, &report);
      const std::vector<HostTensor> got = program->run(inputs_of(s.inputs, DType::f32));
      PassContext context;
      const std::vector<HostTensor> want = interpret(expand(graph_of(s, DType::f64, gradient), context), inputs_of(s.inputs, DType::f64));
      for (size_t o = 0; o < want.size(); ++o) {
        double scale = 1;
        for (int64_t i = 0; i < want[o].size(); ++i) scale = std::max(scale, std::fabs(want[o].at(i)));
        for (int64_t i = 0; i < want[o].size(); ++i) ASSERT_NEAR(got[o].at(i), want[o].at(i), 1e-5 * scale) << "output " << o << " element " << i;
      }
      if (device->target().kind != TargetKind::cpu) continue;
      int64_t largest = 0;
      for (const Slot& slot : program->program().slots)
        if (slot.kind == SlotKind::arena) largest = std::max(largest, count(slot.shape));
      EXPECT_LT(largest, 130 * 170) << to_string(report.kernels);
      EXPECT_TRUE(std::any_of(report.verdicts.begin(), report.verdicts.end(), [](const Verdict& v) { return v.fused && v.reason.rfind("recomputed", 0) == 0; }));
    }
}

// Loops end, and begin, where masks do; rows that see nothing are NaN where the graph has it.
TEST_F(AttentionOnDevice, WalksWhatMasksLeave) {
  constexpr int64_t kWide = 20;   // more than a vector, and part of another
  struct Case {
    int64_t queries, keys, future, past;
  };
  for (const Case& c : {Case{150, 150, 0, 150}, {150, 150, 3, 40}, {130, 170, 40, 170}, {170, 130, -40, 170}}) {
    SCOPED_TRACE(fmt::format("{} queries, {} keys, {} ahead, {} behind", c.queries, c.keys, c.future, c.past));
    Model m;
    const Tensors x = {m.input("q", DType::f32, {2, c.queries, kWide}), m.input("k", DType::f32, {2, c.keys, kWide}), m.input("v", DType::f32, {2, c.keys, kWide})};
    const Tensor row = iota(x[0].graph(), DType::i32, {c.queries, c.keys}, 0), column = iota(x[0].graph(), DType::i32, {c.queries, c.keys}, 1), s = contract("bqd,bkd->bqk", x[0], x[1]);
    const Tensor seen = logical_and(less_equal(column, row + static_cast<double>(c.future)), less(row - static_cast<double>(c.past), column));
    const Tensor y = contract("bqk,bkd->bqd", softmax(where(seen, s, never(s))), x[2]);
    m.output("y", y);
    const Tensors d = grad(sum(sin(y * 3)), x);
    for (size_t i = 0; i < d.size(); ++i) m.output(fmt::format("d{}", i), d[i]);
    const Graph graph = m.finish();
    PassContext context;
    const std::vector<HostTensor> inputs = inputs_of({f({2, c.queries, kWide}), f({2, c.keys, kWide}), f({2, c.keys, kWide})}, DType::f32), got = compiled(graph)->run(inputs), want = interpret(expand(graph, context), inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-4) << "output " << o;
  }
}

// A kernel's operations, beside which `profile` holds its time, are those of the blocks that it walks.
TEST_F(AttentionOnDevice, CountsWhatMasksLeave) {
  if (device->target().kind != TargetKind::cpu) GTEST_SKIP() << "only the CPU's loops leave blocks out";
  const auto flops = [&](bool causal) {
    Model m;
    const Tensors x = {m.input("q", DType::f32, {1, 2, 256, 32}), m.input("k", DType::f32, {1, 2, 256, 32}), m.input("v", DType::f32, {1, 2, 256, 32})};
    m.output("y", attention(x[0], x[1], x[2], {.causal = causal}));
    double sum = 0;
    const auto program = compiled(m.finish());
    for (const auto& image : program->program().images) sum += image.flops;
    return sum;
  };
  const double all = flops(false), half = flops(true);
  EXPECT_GT(all, 4.0 * 2 * 256 * 256 * 32);
  EXPECT_NEAR(half / all, 0.5, 0.05);
}

// An infinite value behind the mask makes every row NaN (0 * inf): seen where the graph is followed to the letter, not read otherwise.
TEST_F(AttentionOnDevice, StrictReadsWhatMasksHide) {
  Model m;
  const Tensors x = {m.input("q", DType::f32, {kTime, kSize}), m.input("k", DType::f32, {kTime, kSize}), m.input("v", DType::f32, {kTime, kSize})};
  const Tensor s = contract("qd,kd->qk", x[0], x[1]);
  m.output("y", matmul(softmax(where(past(s.graph()), s, never(s))), x[2]));
  const Graph graph = m.finish();
  std::vector<HostTensor> inputs = inputs_of(alike({kTime, kSize}), DType::f32);
  inputs[2].set((kTime - 1) * kSize, Scalar::of(DType::f32, INFINITY));
  CompileOptions options;
  options.use_cache = false;
  options.passes.fp = Fp::strict;
  const auto strict = jit(*device, graph, options);
  const HostTensor got = strict->run(inputs)[0];
  for (int64_t row = 0; row + 1 < kTime; ++row) {
    ASSERT_TRUE(std::isnan(got.at(row * kSize))) << "row " << row;
    ASSERT_TRUE(std::isfinite(got.at(row * kSize + 1))) << "row " << row;
  }
  if (device->target().kind != TargetKind::cpu) return;
  EXPECT_TRUE(std::isfinite(compiled(graph)->run(inputs)[0].at(0)));
}

TEST_F(AttentionOnDevice, OfOtherDtypes) {
  const std::vector<Spelling> all = spellings();
  for (DType dtype : {DType::f64, DType::bf16, DType::f16})
    for (size_t i : {size_t{0}, size_t{3}, size_t{9}}) {
      const Spelling& s = all[i];
      SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), s.name));
      const Graph graph = graph_of(s, dtype, true);
      PassContext context;
      const std::vector<HostTensor> inputs = inputs_of(s.inputs, dtype), got = compiled(graph)->run(inputs), want = interpret(expand(graph, context), inputs);
      for (size_t o = 0; o < want.size(); ++o) {
        double scale = 1;
        for (int64_t e = 0; e < want[o].size(); ++e) scale = std::max(scale, std::fabs(want[o].at(e)));
        const double bound = dtype == DType::f64 ? 1e-12 : dtype == DType::f16 ? 0.01 : 0.05;
        for (int64_t e = 0; e < want[o].size(); ++e) ASSERT_NEAR(got[o].at(e), want[o].at(e), bound * scale) << "output " << o << " element " << e;
      }
    }
}

}  // namespace
}  // namespace quern
