// Products of bf16, of 8-bit floats, and of f32 in all the ways that --matmul names, on a GPU, in the layouts that a training step has: both operands as they lie, one or both transposed; with a
// bias and an activation behind it. Many runs are one CUDA graph, the peer's as well, so that the time is the GPU's.
#include <algorithm>

#include <fmt/format.h>

#include "bench/data.h"
#include "bench/harness.h"
#include "bench/repeated.h"
#include "frontend/nn.h"

namespace quern::bench {

namespace {

struct Problem {
  int64_t m, n, k;
  const char* layout;   // of a (m, k) and b (k, n): T is transposed in memory
  bool epilogue = false;
};
Case case_of(const Problem& p, DType dtype, F32Products matmul) {
  const bool ta = p.layout[0] == 'T', tb = p.layout[1] == 'T';
  Model g;
  const Shape a = ta ? Shape{p.k, p.m} : Shape{p.m, p.k}, b = tb ? Shape{p.n, p.k} : Shape{p.k, p.n};
  const Tensor x = g.input("a", dtype, a), w = g.input("b", dtype, b);
  const auto operand = [&](const Tensor& t) { return is_f8(dtype) ? cast(t, DType::f32) : t; };
  Tensor y = contract(fmt::format("{},{}->mn", ta ? "km" : "mk", tb ? "nk" : "kn"), operand(x), operand(w));
  if (is_f8(dtype)) y = cast(y, DType::bf16);
  Json shapes = {a, b};
  if (p.epilogue) {
    y = tanh(y + g.input("bias", dtype, {p.n}));
    shapes.push_back({p.n});
  }
  g.output("y", y);
  const std::string how = dtype == DType::bf16 ? std::string(name_of(dtype)) : kF32Products[static_cast<size_t>(matmul)];
  Case c{fmt::format("product {} {} {}x{}x{}{}", how, p.layout, p.m, p.n, p.k, p.epilogue ? " bias tanh" : ""), g.finish(), 2.0 * static_cast<double>(p.m * p.n * p.k), static_cast<double>(size_of(dtype) * (p.m * p.k + p.n * p.k) + size_of(is_f8(dtype) ? DType::bf16 : dtype) * p.m * p.n), {{"op", "product"}, {"layout", p.layout}, {"shapes", shapes}, {"matmul", kF32Products[static_cast<size_t>(matmul)]}}};
  c.matmul = matmul;
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Problem& p : std::initializer_list<Problem>{{512, 512, 512, "NT"}, {1024, 1024, 1024, "NT"}, {2048, 2048, 2048, "NT"}, {2048, 2048, 2048, "NN"}, {4096, 4096, 4096, "NT"}, {4096, 4096, 4096, "NN"}, {4096, 4096, 4096, "TN"}, {4096, 4096, 4096, "TT"}, {8192, 8192, 8192, "NT"}, {16384, 768, 768, "NT"}, {16384, 2304, 768, "NT"}, {16384, 3072, 768, "NT"}, {16384, 768, 3072, "NT"}, {16384, 768, 2304, "NN"}, {16384, 3072, 768, "NN"}, {768, 768, 16384, "TN"}, {768, 2304, 16384, "TN"}, {3072, 768, 16384, "TN"}, {768, 3072, 16384, "TN"}, {1000, 1032, 776, "NT"}, {1000, 1032, 776, "TN"}, {256, 256, 256, "NT"}, {128, 256, 784, "NT"}, {4096, 512, 200, "NT"}, {16384, 3072, 768, "NN", true}, {1, 768, 768, "NT"}, {1, 3072, 768, "NT"}, {1, 768, 3072, "NT"}, {1, 4096, 4096, "NT"}, {1, 50304, 768, "NT"}, {1, 3072, 768, "NN"}, {1, 4096, 4096, "NN"}, {8, 3072, 768, "NT"}, {16, 3072, 768, "NT"}, {32, 3072, 768, "NT"}, {32, 768, 3072, "NT"}, {32, 4096, 4096, "NT"}, {32, 50304, 768, "NT"}, {32, 4096, 4096, "NN"}})
    out.push_back(case_of(p, DType::bf16, F32Products::f32));
  for (const char* layout : {"NT", "NN", "TN"})
    for (int64_t n : {1024, 2048, 4096, 8192})
      for (const F32Products matmul : {F32Products::tf32, F32Products::tf32x3, F32Products::f32})
        if (matmul == F32Products::tf32 || n > 1024) out.push_back(case_of({n, n, n, layout}, DType::f32, matmul));
  for (const Problem& p : std::initializer_list<Problem>{{4096, 4096, 4096, "TT"}, {16384, 768, 768, "NT"}, {16384, 3072, 768, "NT"}, {16384, 768, 3072, "NT"}, {16384, 3072, 768, "NN"}, {16384, 768, 3072, "NN"}, {768, 3072, 16384, "TN"}, {3072, 768, 16384, "TN"}, {1000, 1032, 776, "NT"}, {1000, 1032, 776, "NN"}, {4096, 256, 784, "NN"}, {4096, 512, 200, "NN"}, {16384, 3072, 768, "NN", true}})
    out.push_back(case_of(p, DType::f32, F32Products::tf32));
  for (const Problem& p : std::initializer_list<Problem>{{1024, 1024, 1024, "NT"}, {2048, 2048, 2048, "NT"}, {4096, 4096, 4096, "NT"}, {4096, 4096, 4096, "NN"}, {4096, 4096, 4096, "TN"}, {8192, 8192, 8192, "NT"}, {16384, 3072, 768, "NT"}, {16384, 768, 3072, "NT"}})
    out.push_back(case_of(p, DType::f8e4m3, F32Products::f8));
  return out;
}

}  // namespace

void run_together(Harness& h, const Case& c) {
  if (h.device.target().kind != TargetKind::cuda) {
    fmt::print(h.out, "{:<36} left out: it is for a GPU\n", c.name);
    return;
  }
  CompileOptions options = h.options;
  options.target = h.device.target();
  options.passes.fp = c.fp;
  if (c.matmul != F32Products::f32) options.f32_products = c.matmul;
  CompileReport report;
  const Program program = compile(c.graph, options, &report);
  h.compiled(c.name, report);
  const int64_t together = std::clamp<int64_t>(static_cast<int64_t>(1.2e12 / c.flops), 3, 100), sets = 2;
  Executable executable(h.device, repeated(program, together, sets));
  const int64_t inputs = static_cast<int64_t>(c.graph.inputs.size());
  for (int64_t i = 0; i < inputs; ++i) {
    const Type& type = c.graph.type(c.graph.inputs[static_cast<size_t>(i)]);
    const HostTensor value = rounded(uniform(stream_of(0, i), type.shape), type.dtype);   // as the peer rounds it
    for (int64_t s = 0; s < sets; ++s) executable.set_input(s * inputs + i, value);
  }
  Json request = c.peer;
  request["together"] = together;
  const auto peer = h.peers.prepare(request, sets);
  executable.run();
  if (peer) h.want_equal(c.name, mean_abs(executable.output(0)), *peer, 2e-3);
  const auto ours = [&] {
    return block_together(together, [&] {
      executable.run();
      h.device.synchronize();
    });
  };
  std::function<std::vector<double>()> theirs;
  if (peer) theirs = [&] { return peer->block(true); };
  const Harness::Times times = h.interleave(ours, theirs);
  const std::string plan = std::any_of(report.planned.begin(), report.planned.end(), [](const tile::Kernel& k) { return !k.phases[0].roles.empty(); }) ? "roles" : "";
  h.add(c.name, times, peer ? peer->name : "", {{"together", together}, {"plan", plan}, {"tflop_per_s", c.flops / times.ours.median / 1e6}, {"gb_per_s", c.bytes / times.ours.median / 1e3}}, fmt::format("  {:.0f} TFLOP/s, {:.0f} GB/s{}", c.flops / times.ours.median / 1e6, c.bytes / times.ours.median / 1e3, plan.empty() ? " (no roles)" : ""));
}

const Family product_family{cases, run_together};

std::vector<SuiteCase> suite_gpu_products() {
  std::vector<SuiteCase> out;
  for (Case& c : cases()) {
    SuiteCase s{"product", c.name, {}, [graph = c.graph] { return TrainingStep{graph, {}}; }, c.peer, c.flops};
    for (NodeId i : c.graph.inputs) s.inputs.push_back({c.graph.type(i).shape, 0, c.graph.type(i).dtype});
    s.matmul = c.matmul;
    s.bytes = c.bytes;
    s.weight = 2;
    if (c.matmul == F32Products::tf32 || c.matmul == F32Products::f8) s.tolerance = kTf32Tolerance;
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace quern::bench
