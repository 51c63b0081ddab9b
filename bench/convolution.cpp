// Convolutions, f32: forward and both gradients beside a plain product of as many multiplications, run in turns. The
// ratio of a row is the product's time / the convolution's.
#include <fmt/format.h>

#include "bench/data.h"
#include "bench/harness.h"
#include "frontend/conv.h"

namespace quern::bench {
namespace {

struct Layer {
  const char* name;
  Shape x, w;
  ConvOptions options;
};
const std::vector<Layer> kLayers = {
    {"8x32x28x28 by 64x3x3", {8, 32, 28, 28}, {64, 32, 3, 3}, {.low = {1}}},
    {"8x32x28x28 by 64x3x3 stride 2", {8, 32, 28, 28}, {64, 32, 3, 3}, {.stride = {2}, .low = {1}}},
    {"8x64x14x14 by 128x3x3", {8, 64, 14, 14}, {128, 64, 3, 3}, {.low = {1}}},
    {"8x128x14x14 by 128x1x1", {8, 128, 14, 14}, {128, 128, 1, 1}, {}},
    {"64x1x28x28 by 32x5x5", {64, 1, 28, 28}, {32, 1, 5, 5}, {.low = {2}}},
    {"8x64x28x28 by 64x3x3 depthwise", {8, 64, 28, 28}, {64, 1, 3, 3}, {.low = {1}, .groups = 64}},
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Layer& l : kLayers)
    for (const char* what : {"forward", "data", "weight"}) {
      Model m;
      const Tensor x = m.input("x", DType::f32, l.x), w = m.input("w", DType::f32, l.w), y = conv(x, w, {}, l.options);
      const int64_t depth = count(l.w) / l.w[0], positions = y.type().size() / l.w[0];   // a product: channels by positions
      if (what[0] == 'f') {
        m.output("y", y);
      } else {
        const Tensor g = m.input("g", DType::f32, y.shape());
        m.output("d", grad(sum(y * g), {what[0] == 'd' ? x : w})[0]);
      }
      out.push_back({fmt::format("conv {} {}", l.name, what), dead_code(m.finish()), 2.0 * static_cast<double>(l.w[0] * depth * positions), 0, Json::array({Shape{l.w[0], depth}, Shape{depth, positions}})});
    }
  return out;
}

Graph product_of(const Case& c) {
  Model m;
  m.output("y", matmul(m.input("a", DType::f32, c.peer.at(0)), m.input("b", DType::f32, c.peer.at(1))));
  return m.finish();
}

void run(Harness& h, const Case& c) {
  std::vector<std::unique_ptr<Executable>> executables;
  for (const Graph& graph : {c.graph, product_of(c)}) {
    CompileReport report;
    executables.push_back(jit(h.device, graph, h.options, &report));
    h.compiled(c.name, report);
    for (size_t i = 0; i < graph.inputs.size(); ++i) executables.back()->set_input(static_cast<int64_t>(i), uniform(stream_of(0, static_cast<int64_t>(i)), graph.type(graph.inputs[i]).shape));
  }
  const auto timed = [&](Executable& e) {
    return [&] {
      return block([&](size_t) {
        return microseconds([&] {
          e.run();
          h.device.synchronize();
        });
      });
    };
  };
  const Harness::Times times = h.interleave(timed(*executables[0]), timed(*executables[1]));
  h.add(c.name, times, "a product of equal flops", {{"gflop_per_s", c.flops / times.ours.median / 1000}}, fmt::format("  {:.1f} GFLOP/s", c.flops / times.ours.median / 1000));
}

}  // namespace

const Family convolution_family{cases, run};

}  // namespace quern::bench
