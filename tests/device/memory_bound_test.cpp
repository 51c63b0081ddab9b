// Kernels that only move memory, at sizes and places where the CPU's plan takes another way: squares turned in registers and
// their edges, outputs stored past the caches, rows that ask for the next one, divisions by one number of all lanes.
#include <algorithm>
#include <bit>
#include <cmath>

#include "frontend/nn.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class MemoryBound : public test::OnDevice {
 protected:
  HostTensor random(const Shape& shape, double low = -1, double high = 1) {
    std::mt19937_64 bits(11);
    return test::random_tensor({DType::f32, shape, {}}, low, high, bits);
  }
  HostTensor transposed(const HostTensor& x) {
    HostTensor y(x.dtype, {x.shape[1], x.shape[0]});
    for (int64_t r = 0; r < x.shape[0]; ++r)
      for (int64_t c = 0; c < x.shape[1]; ++c) y.data<float>()[c * x.shape[0] + r] = x.data<float>()[r * x.shape[1] + c];
    return y;
  }
};

TEST_F(MemoryBound, Transposes) {
  for (const Shape& shape : std::vector<Shape>{{16, 16}, {1, 40}, {8, 8}, {7, 33}, {37, 53}, {15, 17}, {64, 100}, {2048, 2064}, {2049, 2063}}) {   // the last two: 16 MiB
    Model m;
    m.output("y", transpose(m.input("x", DType::f32, shape), {1, 0}));
    const HostTensor x = random(shape);
    EXPECT_EQ(compiled(m.finish())->run({x})[0], transposed(x)) << shape[0] << " x " << shape[1];
  }
}

// A result of 16 MiB that begins within a line: stored where the whole lies.
TEST_F(MemoryBound, ATransposeWithinAConcat) {
  constexpr int64_t kSide = 2048;
  Model m;
  const Tensor x = m.input("x", DType::f32, {kSide, kSide}), v = m.input("v", DType::f32, {3});
  m.output("y", concat({v * 2, reshape(transpose(x, {1, 0}) + 1, {kSide * kSide})}, 0));
  const HostTensor in = random({kSide, kSide}), few = random({3}), out = compiled(m.finish())->run({in, few})[0], want = transposed(in);
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(out.data<float>()[i], few.data<float>()[i] * 2);
  int64_t wrong = 0;
  for (int64_t i = 0; i < kSide * kSide; ++i) wrong += out.data<float>()[3 + i] != want.data<float>()[i] + 1;
  EXPECT_EQ(wrong, 0);
}

// Rows of more than 4 MiB together; the last row has none behind it.
TEST_F(MemoryBound, SoftmaxOfManyRows) {
  constexpr int64_t kRows = 1100, kColumns = 1003;
  Model m;
  m.output("y", softmax(m.input("x", DType::f32, {kRows, kColumns})));
  const HostTensor x = random({kRows, kColumns}, -90, 90), y = compiled(m.finish())->run({x})[0];
  for (int64_t r = 0; r < kRows; ++r) {
    const float* row = x.data<float>() + r * kColumns;
    const double top = *std::max_element(row, row + kColumns);
    double sum = 0;
    for (int64_t c = 0; c < kColumns; ++c) sum += std::exp(row[c] - top);
    for (int64_t c = 0; c < kColumns; ++c) {
      const double want = std::exp(row[c] - top) / sum;
      ASSERT_NEAR(y.data<float>()[r * kColumns + c], want, 2e-5 * want + 1e-37) << r << ", " << c;
    }
  }
}

// The same bits as the division of each pair.
TEST_F(MemoryBound, DivisionByOneNumberIsRounded) {
  constexpr int64_t kColumns = 4099;
  Model m;
  const Tensor x = m.input("x", DType::f32, {64, kColumns}), by = m.input("by", DType::f32, {64, 1});
  m.output("y", x / by);
  m.output("sums", sum(x / by, {1}));   // makes it a kernel of rows
  HostTensor numbers(DType::f32, {64, kColumns}), divisors(DType::f32, {64, 1});
  std::mt19937_64 bits(5);
  for (int64_t i = 0; i < numbers.size(); ++i) numbers.data<float>()[i] = std::bit_cast<float>(static_cast<uint32_t>(bits()));   // any float: NaN, infinite, subnormal
  for (int64_t r = 0; r < 64; ++r) {
    const bool usual = r % 2 == 0;   // and rows where no lane leaves the short way
    for (int64_t c = 0; c < kColumns && usual; ++c) numbers.data<float>()[r * kColumns + c] = c % 7 == 0 ? (c % 2 ? -0.0f : 0.0f) : std::ldexp(static_cast<float>(static_cast<int32_t>(bits())), static_cast<int>(bits() % 100) - 80);
    divisors.data<float>()[r] = usual ? std::ldexp(static_cast<float>(static_cast<int32_t>(bits()) | 1), static_cast<int>(bits() % 30) - 45) : std::bit_cast<float>(static_cast<uint32_t>(bits()));
  }
  const HostTensor y = compiled(m.finish())->run({numbers, divisors})[0];
  int64_t wrong = 0;
  for (int64_t r = 0; r < 64; ++r)
    for (int64_t c = 0; c < kColumns; ++c) {
      const float got = y.data<float>()[r * kColumns + c], want = numbers.data<float>()[r * kColumns + c] / divisors.data<float>()[r];
      wrong += std::isnan(want) ? !std::isnan(got) : std::bit_cast<uint32_t>(got) != std::bit_cast<uint32_t>(want);
    }
  EXPECT_EQ(wrong, 0);
}

TEST_F(MemoryBound, LabelsOutsideHaveNoLoss) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {4, 1000}), label = m.input("label", DType::i32, {4});
  m.output("y", sum(where(equal(expand_dims(label, -1), iota(label.graph(), DType::i32, {4, 1000}, 1)), x, 0), {1}));
  const HostTensor in = random({4, 1000});
  HostTensor labels(DType::i32, {4});
  for (int i = 0; i < 4; ++i) labels.data<int32_t>()[i] = std::array{-1, 999, 1000, 0}[static_cast<size_t>(i)];
  const HostTensor y = compiled(m.finish())->run({in, labels})[0];
  EXPECT_EQ(y.data<float>()[0], 0);
  EXPECT_EQ(y.data<float>()[1], in.data<float>()[1999]);
  EXPECT_EQ(y.data<float>()[2], 0);
  EXPECT_EQ(y.data<float>()[3], in.data<float>()[3000]);
}

}  // namespace
}  // namespace quern
