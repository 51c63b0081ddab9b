// Attention written by hand in roles (tests/support/attention_text.h), which a graphics card runs as the interpreter does: rows and keys that
// are no multiple of a block, heads in groups, with and without a mask, several instances and blocks of keys; the same bits every time. And what
// the passes make of plain ops, gradients too.
#include <cmath>

#include "codegen/image.h"
#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/reduce.h"
#include "frontend/shape.h"
#include "frontend/transforms.h"
#include "ir/tile/kernel.h"
#include "passes/tile/nested.h"
#include "tests/support/attention_graph.h"
#include "tests/support/attention_text.h"
#include "tests/support/device.h"
#include "tests/support/distance.h"
#include "tests/support/gradient_text.h"

namespace quern {
namespace {

class AttentionRoles : public test::OnDevice {
 protected:
  // Forward, the queries' gradient, the keys' and values', or these three in one: all in roles.
  static void expect_roles(const CompileReport& report, bool in_order = false) {
    EXPECT_EQ(report.notes, std::vector<std::string>());
    int nested = 0;
    for (size_t k = 0; k < report.planned.size(); ++k)
      if (has_nested_products(report.lowered[k])) {
        ++nested;
        EXPECT_FALSE(report.planned[k].phases[0].roles.empty());
      }
    EXPECT_EQ(nested, in_order ? 2 : 3);
  }
  void check(const test::AttentionText& a) {
    SCOPED_TRACE(testing::Message() << a.heads << "x" << a.time << "x" << a.size << (a.causal ? " causal " : " ") << a.dtype << ", " << a.instances << " instances, " << a.keys << " keys");
    const DType dtype = a.dtype == "f16" ? DType::f16 : DType::bf16;
    const tile::Kernel kernel = tile::parse_kernel(a.planned());
    tile::verify(kernel);
    KernelImage image = cuda::emit(kernel, device->target().arch);
    cuda::compile(image, device->target().arch);
    const auto loaded = device->load(image);
    std::mt19937_64 random(3);
    std::vector<HostTensor> values;
    std::vector<MemoryRange> operands;
    for (int b = 0; b < 4; ++b) {
      values.push_back(test::random_tensor({dtype, {a.heads, a.time, a.size}, {}}, b == 0 ? -4 : -1, b == 0 ? 4 : 1, random));
      const int64_t bytes = static_cast<int64_t>(values.back().bytes.size());
      operands.push_back({device->alloc(bytes), bytes, b == 3});
      device->upload(operands.back().ptr, values.back().bytes.data(), bytes);
    }
    std::vector<std::byte> first;
    for (int run = 0; run < 3; ++run) {
      device->launch(*loaded, image, operands, 1);
      device->synchronize();
      device->download(values[3].bytes.data(), operands[3].ptr, operands[3].bytes);
      if (run == 0) first.assign(values[3].bytes.begin(), values[3].bytes.end());
      ASSERT_TRUE(std::equal(first.begin(), first.end(), values[3].bytes.begin()));
    }
    for (const MemoryRange& o : operands) device->free(o.ptr);
    // In f64, some rows of each head.
    const std::vector<double> q = values[0].to_doubles(), k = values[1].to_doubles(), v = values[2].to_doubles(), got = values[3].to_doubles();
    for (int64_t h = 0; h < a.heads; ++h)
      for (int64_t i = 0; i < a.time; i += 1 + a.time / 97) {
        const auto row = [&](const std::vector<double>& x, int64_t r) { return x.data() + (h * a.time + r) * a.size; };
        std::vector<double> score(static_cast<size_t>(a.causal ? i + 1 : a.time)), sum(static_cast<size_t>(a.size));
        double most = -INFINITY, total = 0;
        for (size_t j = 0; j < score.size(); ++j) {
          for (int64_t d = 0; d < a.size; ++d) score[j] += row(q, i)[d] * row(k, static_cast<int64_t>(j))[d];
          most = std::max(most, score[j] *= a.scale);
        }
        for (size_t j = 0; j < score.size(); ++j) {
          const double p = std::exp(score[j] - most);
          total += p;
          for (int64_t d = 0; d < a.size; ++d) sum[static_cast<size_t>(d)] += p * row(v, static_cast<int64_t>(j))[d];
        }
        for (int64_t d = 0; d < a.size; ++d) ASSERT_NEAR(row(got, i)[d], sum[static_cast<size_t>(d)] / total, dtype == DType::f16 ? 2e-3 : 1e-2) << h << ", " << i << ", " << d;
      }
  }
};

TEST_F(AttentionRoles, ByHand) {
  if (device->target().arch != "sm_90a") GTEST_SKIP() << "roles are for sm_90a";
  for (bool causal : {true, false}) {
    check({2, 384, 128, causal});
    check({3, 1000, 64, causal, "bf16", 0.125, 3});
    check({9, 640, 64, causal, "f16", 0.125, 2});
    check({2, 200, 80, causal, "bf16", 0.1});
    check({40, 384, 64, causal, "bf16", 0.3, 3, 64});
    check({1, 64, 128, causal, "f16", 1});
  }
}

// All three gradients in one kernel, the queries' added to by blocks in order: more instances than multiprocessors, so that turns are waited for.
class GradientsInOrder : public test::OnDevice {
 protected:
  void check(const test::GradientText& g, int launches) {
    SCOPED_TRACE(testing::Message() << g.heads << "x" << g.time << "x" << g.size << (g.causal ? " causal" : ""));
    const DType dtype = g.dtype == "f16" ? DType::f16 : DType::bf16;
    KernelImage image = cuda::emit(g.in_order(), device->target().arch);
    cuda::compile(image, device->target().arch);
    const auto loaded = device->load(image);
    std::mt19937_64 random(3);
    std::vector<HostTensor> values;
    std::vector<MemoryRange> operands;
    for (int b = 0; b < 9; ++b) {
      const bool row = b == 4 || b == 5;
      values.push_back(test::random_tensor({row || b == 8 ? DType::f32 : dtype, row ? Shape{g.heads, g.time} : Shape{g.heads, g.time, g.size}, {}}, b == 4 ? 4 : -1, b == 4 ? 6 : 1, random));
      const int64_t bytes = static_cast<int64_t>(values.back().bytes.size());
      operands.push_back({device->alloc(bytes), bytes, b >= 6});
      device->upload(operands.back().ptr, values.back().bytes.data(), bytes);
    }
    std::vector<std::vector<std::byte>> first(3);
    for (int n = 0; n < launches; ++n) {
      device->launch(*loaded, image, operands, 1);
      device->synchronize();
      for (size_t b = 6; b < 9; ++b) {
        device->download(values[b].bytes.data(), operands[b].ptr, operands[b].bytes);
        if (n == 0) first[b - 6].assign(values[b].bytes.begin(), values[b].bytes.end());
        ASSERT_TRUE(std::equal(first[b - 6].begin(), first[b - 6].end(), values[b].bytes.begin())) << "launch " << n << ", result " << b;
      }
    }
    for (const MemoryRange& o : operands) device->free(o.ptr);
    std::vector<std::vector<double>> x, want(3, std::vector<double>(static_cast<size_t>(g.heads * g.time * g.size)));
    for (const HostTensor& t : values) x.push_back(t.to_doubles());
    const int64_t every = 1 + g.heads / 3;   // heads that are looked at
    for (int64_t h = 0; h < g.heads; h += every)
      for (int64_t i = 0; i < g.time; ++i)
        for (int64_t j = 0; j <= (g.causal ? i : g.time - 1); ++j) {
          const size_t query = static_cast<size_t>((h * g.time + i) * g.size), key = static_cast<size_t>((h * g.time + j) * g.size), row = static_cast<size_t>(h * g.time + i), size = static_cast<size_t>(g.size);
          double s = 0, t = 0;
          for (size_t d = 0; d < size; ++d) s += x[0][query + d] * x[1][key + d], t += x[3][query + d] * x[2][key + d];
          const double p = std::exp(s * g.scale - x[4][row]), ds = p * (t + x[5][row]);
          for (size_t d = 0; d < size; ++d) want[0][key + d] += ds * g.scale * x[0][query + d], want[1][key + d] += p * x[3][query + d], want[2][query + d] += ds * x[1][key + d];
        }
    for (size_t b = 0; b < 3; ++b) {
      double off = 0, all = 0;
      for (size_t i = 0; i < want[b].size(); ++i)
        if (static_cast<int64_t>(i) / (g.time * g.size) % every == 0) off += (want[b][i] - x[6 + b][i]) * (want[b][i] - x[6 + b][i]), all += want[b][i] * want[b][i];
      EXPECT_LT(std::sqrt(off / all), dtype == DType::f16 ? 2e-3 : 1e-2) << "result " << b;
    }
  }
};
TEST_F(GradientsInOrder, Derived) {
  if (device->target().arch != "sm_90a") GTEST_SKIP() << "roles are for sm_90a";
  for (bool causal : {true, false}) {
    check({3, 384, 128, causal}, 3);
    check({2, 200, 64, causal, "f16"}, 3);
    check({20, 1000, 64, causal}, 20);
    check({18, 1000, 128, causal, "f16"}, 20);
  }
}

// The same of plain ops: what the passes make of them is one kernel with roles, where they can take it.
struct Spelled {
  const char* name;
  int64_t heads, queries, keys, size;
  Tensor (*build)(const Tensor& q, const Tensor& k, const Tensor& v);
  bool taken = true;   // by roles
  DType dtype = DType::bf16;
};
Tensor scores(const Tensor& q, const Tensor& k) { return contract("bhqd,bhkd->bhqk", q, k) * 0.3; }
Tensor weighted(const Tensor& s, const Tensor& v) { return contract("bhqk,bhkd->bhqd", softmax(s), v); }
Tensor position(const Tensor& s, int64_t axis) { return iota(s.graph(), DType::i32, {s.shape()[2], s.shape()[3]}, axis); }
Tensor seen(const Tensor& condition, const Tensor& s) { return where(condition, s, full(s.graph(), s.dtype(), {}, -INFINITY)); }

TEST_F(AttentionRoles, Derived) {
  const std::vector<Spelled> all = {
      {"no mask", 2, 256, 256, 64, [](const Tensor& q, const Tensor& k, const Tensor& v) { return weighted(scores(q, k), v); }},
      {"no mask, f16, keys that are no multiple of a block", 3, 200, 333, 128, [](const Tensor& q, const Tensor& k, const Tensor& v) { return weighted(scores(q, k), v); }, true, DType::f16},
      {"causal", 3, 300, 300, 64, [](const Tensor& q, const Tensor& k, const Tensor& v) {
         const Tensor s = scores(q, k);
         return weighted(seen(less_equal(position(s, 1), position(s, 0)), s), v);
       }},
      {"causal, long rows", 2, 260, 260, 256, [](const Tensor& q, const Tensor& k, const Tensor& v) {
         const Tensor s = scores(q, k);
         return weighted(seen(less_equal(position(s, 1), position(s, 0)), s), v);
       }},
      {"a window", 2, 500, 500, 80, [](const Tensor& q, const Tensor& k, const Tensor& v) {
         const Tensor s = scores(q, k);
         return weighted(seen(logical_and(less_equal(position(s, 1), position(s, 0)), less(position(s, 0), position(s, 1) + 100)), s), v);
       }},
      {"rows that see nothing", 2, 260, 260, 64, [](const Tensor& q, const Tensor& k, const Tensor& v) {
         const Tensor row = iota(q.graph(), DType::i32, {260, 260}, 0), column = iota(q.graph(), DType::i32, {260, 260}, 1);
         return attention(q, k, v, {.mask = reshape(less_equal(column + 70, row), {1, 1, 260, 260})});
       }},
      {"attention()", 4, 256, 256, 128, [](const Tensor& q, const Tensor& k, const Tensor& v) { return attention(q, k, v, {.causal = true}); }},
      {"a soft cap", 2, 256, 256, 64, [](const Tensor& q, const Tensor& k, const Tensor& v) { return attention(q, k, v, {.causal = true, .softcap = 2}); }},
      {"and what follows", 2, 256, 256, 64, [](const Tensor& q, const Tensor& k, const Tensor& v) { return tanh(weighted(scores(q, k), v)) * 2; }},
      {"rows of 72", 2, 256, 256, 72, [](const Tensor& q, const Tensor& k, const Tensor& v) { return weighted(scores(q, k), v); }, false},
  };
  for (const Spelled& s : all) {
    SCOPED_TRACE(s.name);
    const auto graph = [&](DType dtype) {
      Model m;
      const Tensor q = m.input("q", dtype, {1, s.heads, s.queries, s.size}), k = m.input("k", dtype, {1, s.heads, s.keys, s.size}), v = m.input("v", dtype, {1, s.heads, s.keys, s.size});
      m.output("y", s.build(q, k, v));
      return m.finish();
    };
    std::mt19937_64 random(5);
    std::vector<HostTensor> inputs, wide;
    for (int64_t n : {s.queries, s.keys, s.keys}) {
      inputs.push_back(test::random_tensor({s.dtype, {1, s.heads, n, s.size}, {}}, -1, 1, random));
      wide.emplace_back(DType::f64, inputs.back().shape);
      for (int64_t i = 0; i < wide.back().size(); ++i) wide.back().set(i, Scalar::of(DType::f64, inputs.back().at(i)));
    }
    CompileOptions options;
    options.use_cache = false;
    options.passes.fp = Fp::fast;
    CompileReport report;
    const auto program = jit(*device, graph(s.dtype), options, &report);
    const HostTensor got = program->run(inputs).at(0);
    EXPECT_EQ(program->run(inputs).at(0), got);   // bit by bit
    PassContext context;
    const HostTensor want = interpret(expand(graph(DType::f64), context), wide).at(0);
    for (int64_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got.at(i), want.at(i), s.dtype == DType::f16 ? 3e-3 : 2e-2) << i;
    if (device->target().arch != "sm_90a") continue;
    const bool taken = std::any_of(report.lowered.begin(), report.lowered.end(), has_nested_products) && report.planned.back().phases[0].roles.size() == 2;
    EXPECT_EQ(taken, s.taken) << testing::PrintToString(report.notes);
    for (size_t k = 0; k < report.planned.size(); ++k)
      if (has_nested_products(report.lowered[k])) { EXPECT_FALSE(report.planned[k].phases[0].roles.empty()); }
  }
}

// dq, dk and dv of sum(w * y) in f64.
struct Wide {
  std::vector<double> q, k, v, w, dq, dk, dv;
};
void differentiate(Wide& x, int64_t heads, int64_t time, int64_t size, bool causal, double scale) {
  for (auto* d : {&x.dq, &x.dk, &x.dv}) d->assign(x.q.size(), 0);
  std::vector<double> p(static_cast<size_t>(time)), dp(static_cast<size_t>(time));
  const auto dot = [&](const double* a, const double* b) {
    double sum = 0;
    for (int64_t d = 0; d < size; ++d) sum += a[d] * b[d];
    return sum;
  };
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < time; ++i) {
      const int64_t keys = causal ? i + 1 : time, row = (h * time + i) * size;
      double most = -INFINITY, total = 0, along = 0;
      for (int64_t j = 0; j < keys; ++j) most = std::max(most, p[static_cast<size_t>(j)] = scale * dot(&x.q[static_cast<size_t>(row)], &x.k[static_cast<size_t>((h * time + j) * size)]));
      for (int64_t j = 0; j < keys; ++j) total += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - most);
      for (int64_t j = 0; j < keys; ++j) {
        p[static_cast<size_t>(j)] /= total;
        along += p[static_cast<size_t>(j)] * (dp[static_cast<size_t>(j)] = dot(&x.w[static_cast<size_t>(row)], &x.v[static_cast<size_t>((h * time + j) * size)]));
      }
      for (int64_t j = 0; j < keys; ++j) {
        const double weight = p[static_cast<size_t>(j)], g = scale * weight * (dp[static_cast<size_t>(j)] - along);
        const int64_t other = (h * time + j) * size;
        for (int64_t d = 0; d < size; ++d) {
          x.dq[static_cast<size_t>(row + d)] += g * x.k[static_cast<size_t>(other + d)];
          x.dk[static_cast<size_t>(other + d)] += g * x.q[static_cast<size_t>(row + d)];
          x.dv[static_cast<size_t>(other + d)] += weight * x.w[static_cast<size_t>(row + d)];
        }
      }
    }
}

// Training: no kernel has the scores in memory, gradients are those of f64 but for roundings, and the same bits in every run.
TEST_F(AttentionRoles, Gradients) {
  struct Trained {
    int64_t heads, time, size;
    bool causal, call;   // spelled by attention(), or as plain ops
    bool in_order = false;   // long enough walks
    DType dtype = DType::bf16;
  };
  const std::vector<Trained> all = {{2, 64, 64, true, false}, {2, 384, 128, true, true}, {2, 1000, 64, true, true, true}, {2, 1000, 128, false, false}, {1, 1024, 64, false, false, true, DType::f16}, {1, 1024, 128, true, true}, {1, 2500, 64, true, false, true}, {1, 2688, 128, false, true, true}, {3, 260, 80, true, false}};
  for (const Trained& t : all) {
    SCOPED_TRACE(testing::Message() << t.heads << "x" << t.time << "x" << t.size << (t.causal ? " causal " : " ") << name_of(t.dtype) << (t.call ? " attention()" : ""));
    Model m;
    const Shape shape = {1, t.heads, t.time, t.size};
    std::vector<Tensor> args;
    for (const char* name : {"q", "k", "v", "w"}) args.push_back(m.input(name, t.dtype, shape));
    const double scale = 1 / std::sqrt(static_cast<double>(t.size));
    const Reverse r = value_and_grad([&](const std::vector<Tensor>& x) {
      Tensor y;
      if (t.call) {
        y = attention(x[0], x[1], x[2], {.causal = t.causal});
      } else {
        Tensor s = contract("bhqd,bhkd->bhqk", x[0], x[1]) * scale;
        if (t.causal) s = seen(less_equal(position(s, 1), position(s, 0)), s);
        y = weighted(s, x[2]);
      }
      return std::vector<Tensor>{sum(y * x[3]), y};
    },
                                     args);
    for (int g = 0; g < 3; ++g) m.output(fmt::format("d{}", g), r.gradients[static_cast<size_t>(g)]);
    m.output("y", r.outputs[1]);
    std::mt19937_64 random(7);
    std::vector<HostTensor> inputs;
    for (int i = 0; i < 4; ++i) inputs.push_back(test::random_tensor({t.dtype, shape, {}}, -2, 2, random));
    CompileOptions options;
    options.use_cache = false;
    options.passes.fp = Fp::fast;
    CompileReport report;
    const auto program = jit(*device, m.finish(), options, &report);
    const std::vector<HostTensor> got = program->run(inputs);
    EXPECT_EQ(program->run(inputs), got);   // bit by bit
    Wide x{inputs[0].to_doubles(), inputs[1].to_doubles(), inputs[2].to_doubles(), inputs[3].to_doubles(), {}, {}, {}};
    differentiate(x, t.heads, t.time, t.size, t.causal, scale);
    const std::vector<double>* const want[] = {&x.dq, &x.dk, &x.dv};
    for (size_t g = 0; g < 3; ++g) {
      double error = 0, norm = 0;
      const std::vector<double> have = got[g].to_doubles();
      for (size_t i = 0; i < have.size(); ++i) error += std::pow(have[i] - (*want[g])[i], 2), norm += std::pow((*want[g])[i], 2);
      EXPECT_LT(std::sqrt(error / norm), t.dtype == DType::f16 ? 2e-3 : 1e-2) << "gradient " << g;   // NaN is no less
    }
    if (device->target().arch != "sm_90a" || t.time < 128) continue;   // so few scores are kept
    expect_roles(report, t.in_order);
    for (const tile::Kernel& k : report.lowered)
      for (const tile::Buffer& b : k.buffers) EXPECT_LT(count(b.shape), t.heads * t.time * t.time) << k.name;
  }
}

// Two of one shape that do not read each other: one kernel makes the gradients of both, whose launches share its turns, as if they stood alone.
TEST_F(AttentionRoles, GradientsSideBySide) {
  const auto gradients = [](Model& m, const std::string& of) {
    std::vector<Tensor> x;
    for (const char* name : {"q", "k", "v", "w"}) x.push_back(m.input(name + of, DType::bf16, {1, 20, 1000, 64}));
    const Reverse r = value_and_grad([&](const std::vector<Tensor>& y) { return std::vector<Tensor>{sum(attention(y[0], y[1], y[2], {.causal = true}) * y[3])}; }, x);
    for (size_t g = 0; g < 3; ++g) m.output(fmt::format("d{}{}", g, of), r.gradients[g]);
  };
  Model one, two;
  gradients(one, "");
  gradients(two, "a"), gradients(two, "b");
  std::mt19937_64 random(9);
  std::vector<HostTensor> inputs, again;
  for (int i = 0; i < 4; ++i) inputs.push_back(test::random_tensor({DType::bf16, {1, 20, 1000, 64}, {}}, -2, 2, random));
  for (int i = 0; i < 8; ++i) again.push_back(inputs[static_cast<size_t>(i % 4)]);
  CompileOptions options;
  options.passes.fp = Fp::fast;
  const std::vector<HostTensor> want = jit(*device, one.finish(), options)->run(inputs);
  const auto both = jit(*device, two.finish(), options);
  for (int run = 0; run < 5; ++run) {
    const std::vector<HostTensor> got = both->run(again);
    for (size_t g = 0; g < 6; ++g) EXPECT_EQ(got[g], want[g % 3]) << run << ", " << g;
  }
}

// Heads that share keys, and windows: the same, near f64, in three kernels with roles, or two.
TEST_F(AttentionRoles, SharedKeysAndWindows) {
  for (const test::AttentionGraph& a : {test::AttentionGraph{.heads = 1, .shared = 4, .time = 260, .size = 128}, test::AttentionGraph{.heads = 2, .shared = 2, .time = 384, .size = 64, .window = 100},
                                        test::AttentionGraph{.heads = 1, .time = 516, .size = 64, .window = 300, .causal = false}, test::AttentionGraph{.heads = 2, .shared = 2, .time = 324, .size = 80, .causal = false}}) {
    SCOPED_TRACE(testing::Message() << a.heads << "x" << a.shared << "x" << a.time << "x" << a.size << (a.causal ? " causal" : "") << ", window " << a.window);
    std::vector<HostTensor> inputs, wide;
    a.values(inputs, wide);
    CompileOptions options;
    options.use_cache = false;
    options.passes.fp = Fp::fast;
    CompileReport report;
    const auto program = jit(*device, a.graph(DType::bf16), options, &report);
    const std::vector<HostTensor> got = program->run(inputs);
    EXPECT_EQ(program->run(inputs), got);   // bit by bit
    PassContext context;
    const std::vector<HostTensor> want = interpret(expand(a.graph(DType::f64), context), wide);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LT(test::apart(got[o], want[o]), 1e-2) << o;
    if (device->target().arch != "sm_90a") continue;
    expect_roles(report, a.shared == 1);
  }
}

}  // namespace
}  // namespace quern
