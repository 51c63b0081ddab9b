// Long sums, which the CPU makes in chunks of rows (passes/graph/chunks.h): alone, with a tail, and by the kernel that works
// on the rows. At sizes where that pays, and at small ones where the chunks are made small. The same bits with any number of threads.
#include <cmath>
#include <cstdlib>

#include "frontend/nn.h"
#include "ir/compare.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class Sums : public test::OnDevice {
 protected:
  std::vector<HostTensor> random(const Graph& g, double low = -1, double high = 1) {
    std::mt19937_64 bits(5);
    std::vector<HostTensor> out;
    for (NodeId i : g.inputs) out.push_back(test::random_tensor(g.type(i), low, high, bits));
    return out;
  }
  // Against the reference, with chunks where a sum has `long_sum` elements (0: where it is long); returns the kernels.
  size_t check(const Graph& g, int64_t long_sum, double bound, double low = -1, double high = 1) {
    CompileOptions options;
    options.use_cache = false;
    options.passes.long_sum = long_sum;
    CompileReport report;
    PassContext plain;
    const std::vector<HostTensor> inputs = random(g, low, high), want = interpret(expand(g, plain), inputs), got = jit(*device, g, options, &report)->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, bound) << "output " << o;
    if (device->target().kind == TargetKind::cpu)
      for (const char* threads : {"1", "2", "3", "7"}) {
        ::setenv("QUERN_THREADS", threads, 1);
        const auto other = open_device(test::device_name());
        EXPECT_EQ(jit(*other, g, options)->run(inputs), got) << threads << " threads";
      }
    ::unsetenv("QUERN_THREADS");
    return report.kernels.nodes.empty() ? 0 : static_cast<size_t>(std::count_if(report.kernels.nodes.begin(), report.kernels.nodes.end(), [](const Node& n) { return n.op == Op::call; }));
  }
  Graph layer_norm_gradient(const Shape& shape, DType dtype) {
    Model m;
    const Shape row{shape.back()};
    const Tensor x = m.input("x", dtype, shape), scale = m.input("scale", dtype, row), shift = m.input("shift", dtype, row), w = m.input("w", dtype, shape);
    const auto d = grad(sum(layer_norm(x, scale, shift) * w), {x, scale, shift});
    for (size_t i = 0; i < d.size(); ++i) m.output("d" + std::to_string(i), d[i]);
    return m.finish();
  }
};

// What an embedding's gradient is: many rows, many updates, some of one row, some outside. One after the other in every row: the bits of the walk.
TEST_F(Sums, OfManyUpdates) {
  for (const auto& [rows, updates, columns] : {std::tuple<int64_t, int64_t, int64_t>{5003, 300, 24}, {513, 1024, 7}, {262144, 1, 3}}) {
    GraphBuilder b;
    const int64_t half = (updates + 1) / 2;
    const NodeId x = b.input("x", {DType::f32, {rows, columns}, {}}), i = b.input("i", {DType::i32, {updates}, {}}), u = b.input("u", {DType::f32, {2, half, columns}, {}});
    Attrs flat, first, axis;
    flat.shape = {2 * half, columns};
    first.start = {0, 0}, first.limit = {updates, columns}, first.stride = {1, 1};
    axis.axes = {0};
    const NodeId twice = b.add(Op::slice, {b.add(Op::reshape, {b.add(Op::add, {u, u})}, flat)}, first);
    b.output("y", b.add(Op::put_add, {x, i, twice}, axis));
    const Graph g = b.finish();
    std::mt19937_64 bits(5);
    std::vector<HostTensor> inputs;
    for (NodeId n : g.inputs) inputs.push_back(test::random_tensor(g.type(n), -1, 1, bits));
    for (int64_t n = 0; n < updates; ++n) inputs[1].data<int32_t>()[n] = static_cast<int32_t>(n % 5 == 0 ? 17 : n % 7 == 0 ? rows + n
                                                                                                            : n % 11 == 0  ? -3
                                                                                                                           : static_cast<int64_t>(bits() % static_cast<uint64_t>(rows)));
    const HostTensor got = compiled(g)->run(inputs)[0];
    HostTensor want = inputs[0];
    for (int64_t n = 0; n < updates; ++n)
      for (int64_t c = 0; c < columns; ++c)
        if (const int64_t r = inputs[1].data<int32_t>()[n]; r >= 0 && r < rows) want.data<float>()[r * columns + c] += inputs[2].data<float>()[n * columns + c] * 2;
    EXPECT_EQ(got, want) << rows;
  }
}

TEST_F(Sums, OfLongVectors) {
  for (int64_t n : {(1 << 18) - 1, 1 << 18, (1 << 18) + 37, 1000003}) {
    Model m;
    const Tensor x = m.input("x", DType::f32, {n}), i = m.input("i", DType::i32, {n});
    m.output("sum", sum(x, {0}));
    m.output("max", max(x, {0}));
    m.output("squares", sum(x * x, {0}));
    m.output("count", sum(i, {0}));
    m.output("mean", mean(x * 2 + 1));
    check(m.finish(), 0, 1e-4, 0, 1);
  }
}

TEST_F(Sums, OfRowsAndColumnsAndAll) {
  for (const Shape& shape : std::vector<Shape>{{1024, 257}, {300000, 3}, {521, 600}, {8, 40000}, {64, 32, 130}}) {
    Model m;
    const Tensor x = m.input("x", DType::f32, shape);
    m.output("columns", sum(x, {0}));
    m.output("least", min(x, {0}));
    m.output("all", sum(x));
    m.output("rows", sum(x, {-1}));
    check(m.finish(), 0, 1e-4);
  }
}

// Values of rows and the sums of their columns come from one kernel; then the chunks are summed.
TEST_F(Sums, BesideTheRowsThatTheySum) {
  for (const Shape& shape : std::vector<Shape>{{1024, 384}, {16, 64, 300}}) {
    const size_t kernels = check(layer_norm_gradient(shape, DType::f32), 0, 1e-4);
    if (device->target().kind == TargetKind::cpu) { EXPECT_LE(kernels, 3u); }   // the rows, the chunks of each sum
  }
  for (const Shape& shape : std::vector<Shape>{{8, 6}, {12, 70}, {3, 4, 5}, {9, 130}, {26, 17}})
    for (DType dtype : {DType::f32, DType::f64}) check(layer_norm_gradient(shape, dtype), 8, 1e-4);
}

TEST_F(Sums, OfWhatElementwiseKernelsMake) {
  for (const Shape& shape : std::vector<Shape>{{1024, 300}, {40, 10}, {6, 4, 33}, {18, 1}}) {
    Model m;
    const Tensor x = m.input("x", DType::f32, shape), y = m.input("y", DType::f32, shape);
    const Tensor d = y * sigmoid(x);
    const int64_t last = static_cast<int64_t>(shape.size()) - 1;
    std::vector<int64_t> rows(static_cast<size_t>(last));
    for (int64_t a = 0; a < last; ++a) rows[static_cast<size_t>(a)] = a;
    m.output("d", d);
    m.output("bias", sum(d, rows));
    m.output("greatest", max(x, rows));
    m.output("softmax", softmax(x));
    check(m.finish(), shape[0] == 1024 ? 0 : 8, 1e-4);
  }
}

// Nothing is summed: no rows, no columns.
TEST_F(Sums, OfNothing) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {0, 5}), y = m.input("y", DType::f32, {4, 0});
  m.output("a", sum(x, {0}));
  m.output("b", sum(y, {0}));
  m.output("c", sum(y));
  check(m.finish(), 1, 0);
}

}  // namespace
}  // namespace quern
