// Kernels that only move memory, at sizes and places where a plan takes another way. CPU: squares turned in registers and their
// edges, outputs stored past the caches, rows that ask for the next one, divisions by one number of all lanes. CUDA: squares
// turned in shared memory, pairs of them side by side, rows in registers and in shared memory, columns of one thread each.
#include <algorithm>
#include <bit>
#include <cmath>

#include "frontend/nn.h"
#include "frontend/transforms.h"
#include "ir/compare.h"
#include "ir/interpret.h"
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

// The gradient of a classifier's logits lies where the logits do, unless they are wanted still: rows in registers, in shared memory and longer ones.
// What reads a row backwards while it is written has memory of its own.
TEST_F(MemoryBound, RowsAreOverwritten) {
  for (const int64_t classes : {40, 3000, 70000}) {
    constexpr int64_t rows = 24;
    const auto gradient = [&](bool wanted) {
      Model m;
      const Tensor x = m.input("x", DType::f32, {rows, 16}), w = m.input("w", DType::f32, {16, classes}), labels = m.input("labels", DType::i32, {rows});
      const Tensor logits = matmul(x, w);
      const Reverse r = value_and_grad([&](const std::vector<Tensor>& p) { return std::vector<Tensor>{cross_entropy(p[0], labels)}; }, {logits});
      m.output("loss", r.outputs[0]);
      m.output("dw", matmul(transpose(x, {1, 0}), r.gradients[0]));
      m.output("dx", matmul(r.gradients[0], transpose(w, {1, 0})));
      if (wanted) m.output("logits", logits);
      return compiled(m.finish());
    };
    const auto plain = gradient(true), in_place = gradient(false);
    std::mt19937_64 bits(5);
    HostTensor labels(DType::i32, {rows});
    for (int64_t i = 0; i < rows; ++i) labels.set(i, Scalar::of_int(DType::i32, static_cast<int64_t>(bits() % static_cast<uint64_t>(classes))));
    const std::vector<HostTensor> in = {random({rows, 16}), random({16, classes}), labels};
    std::vector<HostTensor> want = plain->run(in);
    want.pop_back();
    const std::vector<HostTensor> got = in_place->run(in);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5) << classes << ": " << o;   // other kernels, too
    if (rows * classes * 4 > 64 << 10) { EXPECT_LT(in_place->program().arena_bytes, 3 * rows * classes * 4 / 2) << classes; }   // not twice; small values are kept apart
  }
  Model m;
  const Tensor x = m.input("x", DType::f32, {64, 64}), w = m.input("w", DType::f32, {64, 64}), h = matmul(x, w);
  const Tensor both = h / expand_dims(sum(exp(h), {1}), 1) + reverse(h, {1});
  m.output("y", matmul(both, w));
  m.output("z", sum(sin(both), {0}));
  const Graph graph = m.finish();
  const std::vector<HostTensor> in = {random({64, 64}), random({64, 64})};
  const std::vector<HostTensor> got = compiled(graph)->run(in), want = interpret(graph, in);
  for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-4) << o;
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

// Squares that are each other's other side: even and odd numbers of them, one alone, within a batch, and not as many each way.
TEST_F(MemoryBound, AMatrixAndItsTranspose) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Shape& shape : std::vector<Shape>{{64, 64}, {128, 128}, {192, 192}, {320, 320}, {256, 256}, {200, 200}, {72, 72}, {3, 256, 256}, {2, 384, 384}}) {
      const int64_t side = shape.back(), batch = count(shape) / (side * side);
      Model m;
      const Tensor x = m.input("x", dtype, shape);
      m.output("y", x + transpose(x, shape.size() == 3 ? Shape{0, 2, 1} : Shape{1, 0}));
      std::mt19937_64 bits(3);
      const HostTensor in = test::random_tensor({dtype, shape, {}}, -1, 1, bits), y = compiled(m.finish())->run({in})[0];
      int64_t wrong = 0;
      for (int64_t b = 0; b < batch; ++b)
        for (int64_t r = 0; r < side; ++r)
          for (int64_t c = 0; c < side; ++c) {
            const int64_t at = (b * side + r) * side + c, other = (b * side + c) * side + r;
            wrong += y.get(at) != Scalar::of(dtype, in.at(at) + in.at(other));
          }
      EXPECT_EQ(wrong, 0) << side << " in " << batch << " of " << name_of(dtype);
    }
}

TEST_F(MemoryBound, TransposesOfShortFloats) {
  for (const Shape& shape : std::vector<Shape>{{128, 256}, {136, 264}, {200, 1000}, {64, 64}, {130, 70}, {1024, 136}}) {
    Model m;
    m.output("y", transpose(m.input("x", DType::bf16, shape), {1, 0}));
    std::mt19937_64 bits(4);
    const HostTensor x = test::random_tensor({DType::bf16, shape, {}}, -1, 1, bits), y = compiled(m.finish())->run({x})[0];
    int64_t wrong = 0;
    for (int64_t r = 0; r < shape[0]; ++r)
      for (int64_t c = 0; c < shape[1]; ++c) wrong += y.get(c * shape[0] + r) != x.get(r * shape[1] + c);
    EXPECT_EQ(wrong, 0) << shape[0] << " x " << shape[1];
  }
}

// Rows of all lengths that a plan tells apart: of a few lanes, a warp, a block, in shared memory (its last part is short), longer.
TEST_F(MemoryBound, RowsOfManyLengths) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t columns : {10, 50, 96, 768, 1000, 2056, 5000, 12288, 25000, 25001, 40008, 52000, 60000}) {
      constexpr int64_t kRows = 5;
      Model m;
      const Tensor x = m.input("x", dtype, {kRows, columns}), wide = cast(x, DType::f32);
      m.output("y", softmax(wide));
      m.output("normal", layer_norm(wide, m.input("scale", DType::f32, {columns}), m.input("shift", DType::f32, {columns})));
      std::mt19937_64 bits(9);
      const std::vector<HostTensor> in = {test::random_tensor({dtype, {kRows, columns}, {}}, -3, 3, bits), random({columns}), random({columns})};
      const Graph graph = m.finish();
      PassContext plain;
      const auto want = interpret(expand(graph, plain), in), got = compiled(graph)->run(in);
      for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 3e-5) << columns << " of " << name_of(dtype) << ", output " << o;
    }
}

// Enough columns for a thread each, and a sum that does not fill the last step.
TEST_F(MemoryBound, SumsOfManyColumns) {
  Model m;
  m.output("y", sum(m.input("x", DType::f32, {27, 300000}), {0}));
  const HostTensor x = random({27, 300000}), y = compiled(m.finish())->run({x})[0];
  for (int64_t c = 0; c < 300000; ++c) {
    double want = 0;
    for (int64_t r = 0; r < 27; ++r) want += x.data<float>()[r * 300000 + c];
    ASSERT_NEAR(y.data<float>()[c], want, 1e-5) << c;
  }
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
