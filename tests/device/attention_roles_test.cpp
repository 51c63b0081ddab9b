// Attention written by hand in roles (tests/support/attention_text.h), which a graphics card runs as the interpreter does: rows and keys that
// are no multiple of a block, heads in groups, with and without a mask, several instances and blocks of keys; the same bits every time.
#include <cmath>

#include "ir/tile/kernel.h"
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

}  // namespace
}  // namespace quern
