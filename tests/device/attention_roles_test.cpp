// Attention written by hand in roles (tests/support/attention_text.h), which a graphics card runs as the interpreter does: rows and keys that
// are no multiple of a block, heads in groups, with and without a mask, several instances and blocks of keys; the same bits every time.
#include <cmath>

#include "codegen/image.h"
#include "frontend/attention.h"
#include "frontend/nn.h"
#include "frontend/shape.h"
#include "ir/tile/kernel.h"
#include "passes/tile/nested.h"
#include "tests/support/attention_text.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class AttentionRoles : public test::OnDevice {
 protected:
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

}  // namespace
}  // namespace quern
