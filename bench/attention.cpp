// Attention of bf16 on a GPU, as plain ops (frontend): a product, a mask, softmax, a product; forward, and with its gradients. The
// flops of a mask's half are counted as half. Short floats stay in f32 between ops (--fp fast), as PyTorch's kernels have them.
#include <cmath>

#include <fmt/format.h>

#include "bench/harness.h"
#include "frontend/nn.h"
#include "frontend/shape.h"
#include "frontend/transforms.h"

namespace quern::bench {

// Heads of queries share keys where there are fewer heads of those.
static Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  const Shape by_heads = q.shape(), groups = {by_heads[0], k.shape()[1], by_heads[1] / k.shape()[1], by_heads[2], by_heads[3]};
  const int64_t time = by_heads[2];
  Tensor s = contract("bghqd,bgkd->bghqk", reshape(q, groups), k) * (1 / std::sqrt(static_cast<double>(by_heads[3])));
  if (causal) s = where(less_equal(iota(q.graph(), DType::i32, {time, time}, 1), iota(q.graph(), DType::i32, {time, time}, 0)), s, full(q.graph(), DType::bf16, {}, -INFINITY));
  return reshape(contract("bghqk,bgkd->bghqd", softmax(s), v), by_heads);
}
// Gradients are of a weighted sum of the result. Flops: two products forward, five backward.
static Case timed(const Shape& shape, bool causal, bool gradients, int64_t heads_of_keys = 0) {
  Model g;
  Shape keys = shape;
  if (heads_of_keys) keys[1] = heads_of_keys;
  std::vector<Shape> shapes = {shape, keys, keys};
  if (gradients) shapes.push_back(shape);
  std::vector<Tensor> args;
  for (const Shape& s : shapes) args.push_back(g.input(std::string(1, "qkvw"[args.size()]), DType::bf16, s));
  if (gradients) {
    const Reverse r = value_and_grad([&](const std::vector<Tensor>& x) { const Tensor y = attend(x[0], x[1], x[2], causal); return std::vector<Tensor>{sum(y * x[3]), y}; }, args);
    for (size_t i = 0; i < 3; ++i) g.output(fmt::format("d{}", i), r.gradients[i]);
    g.output("y", r.outputs[1]);
  } else {
    g.output("y", attend(args[0], args[1], args[2], causal));
  }
  const double products = gradients ? 7 : 2;
  const std::string heads = heads_of_keys ? fmt::format("{}/{}", shape[1], heads_of_keys) : fmt::format("{}", shape[1]);
  Case c{fmt::format("attention {}bf16 {}{}x{}x{}x{}", gradients ? "and gradients " : "", causal ? "causal " : "", shape[0], heads, shape[2], shape[3]), g.finish(), products * 2 * static_cast<double>(count(shape) * shape[2]) / (causal ? 2 : 1), 0, {{"op", "attention"}, {"causal", causal}, {"gradients", gradients}, {"shapes", Json(shapes)}}};
  c.fp = Fp::fast;
  return c;
}
static std::vector<Case> cases() {
  std::vector<Case> out;
  for (int64_t size : {64, 128})
    for (bool causal : {true, false})
      for (int64_t time : {1024, 2048, 4096, 8192, 16384}) out.push_back(timed({std::max<int64_t>(1, 16384 / time), 2048 / size, time, size}, causal, false));
  for (const Shape& shape : {Shape{8, 12, 1024, 64}, Shape{4, 16, 4096, 64}, Shape{4, 16, 4096, 128}, Shape{1, 16, 16384, 128}})
    for (bool causal : {true, false}) out.push_back(timed(shape, causal, true));
  for (bool gradients : {false, true}) out.push_back(timed({2, 32, 4096, 128}, true, gradients, 8));
  return out;
}

const Family attention_family{cases, run_together};

}  // namespace quern::bench
