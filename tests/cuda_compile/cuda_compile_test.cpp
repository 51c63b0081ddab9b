// Generated CUDA kernels through NVRTC, without a GPU: each distinct kernel of the golden cases and of the models for
// every arch, of the op sweep for one arch in turn. From the assembler's log: nothing spills, no local memory, no
// warnings C75xx (a matrix instruction made synchronous). Up to 32 kernels make one NVRTC program, two programs at a time.
// Where NVRTC is not installed the test is skipped and says so.
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/image.h"
#include "frontend/conv.h"
#include "frontend/norm.h"
#include "frontend/rnn.h"
#include "models/mlp.h"
#include "tests/support/golden.h"

namespace quern {
namespace {

constexpr const char* kArches[] = {"sm_75", "sm_80", "sm_90a"};
constexpr size_t kTogether = 32;

struct Unit {
  std::string arch;
  std::vector<KernelImage> images;
  std::vector<std::string> names;     // of the cases, in messages
  std::vector<bool> local;            // local memory is allowed
};

/// sin, cos and tan reduce large arguments through a table that their library code indexes in local memory.
bool may_use_local(const tile::Block& block) {
  for (const tile::Stmt& s : block) {
    if (const auto* m = std::get_if<tile::MapTile>(&s.node))
      for (const tile::ScalarNode& n : m->expr)
        if (n.kind == tile::ScalarNode::Kind::op && (n.op == Op::sin || n.op == Op::cos || n.op == Op::tan)) return true;
    if (const auto* q = std::get_if<tile::Seq>(&s.node); q && may_use_local(q->body)) return true;
    if (const auto* e = std::get_if<tile::Each>(&s.node); e && may_use_local(e->body)) return true;
  }
  return false;
}

/// A kernel for sm_90a waits for those before it once, before it touches global memory.
bool waits_first(const KernelImage& image) {
  const std::string wait = "qn_behind_others();";
  const size_t body = image.source.find(") {\n", image.source.rfind("extern \"C\"")), at = image.source.find(wait, body);
  if (at == std::string::npos || image.source.find(wait, at + 1) != std::string::npos) return !image.waits && at == std::string::npos;
  const std::string before = image.source.substr(body, at - body);
  for (const char* access : {"qn_fetch", "qn_send", "qn_read", "qn_write", "qn_async", "qn_ask", "] = "})
    if (before.find(access) != std::string::npos) return false;
  return image.waits;
}

class Collection {
 public:
  std::map<std::string, std::vector<Unit>> units;   // by arch
  int64_t kernels = 0;

  void add(const std::string& name, const Graph& graph, const std::vector<std::string>& arches, F32Products products = F32Products::f32) { add(name, test::kernels_of(graph), arches, products); }
  void add(const std::string& name, const std::vector<tile::Kernel>& made, const std::vector<std::string>& arches, F32Products products = F32Products::f32) {
    for (const tile::Kernel& k : made)
      for (const std::string& arch : arches) {
        const tile::Kernel planned = plan_cuda(k, arch, products);
        if (!seen_.insert(arch + "\n" + tile::structure(planned)).second) continue;
        tile::verify(planned);
        std::vector<Unit>& mine = units[arch];
        if (mine.empty() || mine.back().images.size() == kTogether) mine.push_back({arch, {}, {}, {}});
        mine.back().images.push_back(cuda::emit(planned, arch));
        EXPECT_EQ(mine.back().images.back().waits, arch == "sm_90a");
        EXPECT_TRUE(waits_first(mine.back().images.back())) << mine.back().images.back().source;
        mine.back().names.push_back(name + " " + k.name + " for " + arch);
        mine.back().local.push_back(std::any_of(planned.phases.begin(), planned.phases.end(), [](const tile::Phase& p) { return may_use_local(p.body); }));
        ++kernels;
      }
  }

 private:
  std::set<std::string> seen_;
};

/// Sources of one arch in one text: what they all begin with (the prelude) once, the rest of each in its own namespace.
std::string joined(const std::vector<KernelImage>& images) {
  const std::string& first = images[0].source;
  size_t common = first.size();
  for (const KernelImage& i : images) {
    const auto end = std::mismatch(first.begin(), first.end(), i.source.begin(), i.source.end()).first;
    common = std::min(common, static_cast<size_t>(end - first.begin()));
  }
  common = first.rfind("\nextern \"C\"", common) == std::string::npos ? common : std::min(common, first.find("\nextern \"C\"") + 1);
  common = common ? first.rfind('\n', common - 1) + 1 : 0;
  std::string out = first.substr(0, common);
  for (size_t i = 0; i < images.size(); ++i) out += fmt::format("namespace unit{} {{\n{}\n}}\n", i, images[i].source.substr(common));
  return out;
}

/// What the log says about one entry function, or about all where it names one only.
std::string section(const std::string& log, const std::string& name) {
  const size_t at = log.find("'" + name + "'");
  if (at == std::string::npos) return "";
  return log.substr(at, log.find("Compiling entry function", at) - at);
}

class Findings {
 public:
  std::atomic<int64_t> checked = 0, with_local = 0;
  void add(const std::string& text) {
    const std::lock_guard lock(mutex_);
    texts_.push_back(text);
  }
  std::vector<std::string> take() { return std::move(texts_); }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
};

void compile_unit(const Unit& unit, Findings& findings) {
  KernelImage program;
  program.name = unit.images[0].name;
  program.source = joined(unit.images);
  std::string log;
  try {
    log = cuda::compile(program, unit.arch);
  } catch (const std::exception& e) {
    if (unit.images.size() == 1) return findings.add(unit.names[0] + ": " + e.what());
    for (size_t i = 0; i < unit.images.size(); ++i) compile_unit({unit.arch, {unit.images[i]}, {unit.names[i]}, {unit.local[i]}}, findings);   // which one?
    return findings.add(fmt::format("{} and the kernels after it do not compile as one program", unit.names[0]));
  }
  if (log.find("C75") != std::string::npos) findings.add(unit.names[0] + " and after: a C75 warning:\n" + log);
  for (size_t i = 0; i < unit.images.size(); ++i) {
    const std::string mine = section(log, unit.images[i].name);
    if (mine.find(" bytes stack frame") == std::string::npos) {
      findings.add(unit.names[i] + ": the log says nothing of " + unit.images[i].name + ":\n" + log);
      continue;
    }
    const bool spills = mine.find(" 0 bytes spill stores, 0 bytes spill loads") == std::string::npos;
    const bool local = mine.find(" 0 bytes stack frame") == std::string::npos;
    findings.with_local += local;
    if (spills || (local && !unit.local[i])) findings.add(unit.names[i] + (spills ? ": spills:\n" : ": uses local memory:\n") + mine);
    ++findings.checked;
  }
}

/// A layer with its gradients in one dtype, the loss in f32.
Graph dense_gradient(DType dtype, int64_t batch, int64_t inputs, int64_t outputs) {
  Model m;
  const Tensor x = m.input("x", dtype, {batch, inputs}), w = m.input("w", dtype, {inputs, outputs}), b = m.input("b", dtype, {outputs});
  const Tensor h = cast(gelu(linear(x, w, b)), DType::f32);
  const std::vector<Tensor> g = grad(mean(h * h), {x, w, b});
  for (size_t i = 0; i < g.size(); ++i) m.output(std::to_string(i), g[i]);
  return m.finish();
}

/// A small network with its gradients: convolutions with and without groups and strides, both pools, a norm.
Graph convolution_gradient(DType dtype) {
  Model m;
  const Tensor x = m.input("x", dtype, {4, 16, 28, 28}), w = m.input("w", dtype, {32, 16, 3, 3}), b = m.input("b", dtype, {32}), d = m.input("d", dtype, {32, 1, 3, 3}), t = m.input("t", dtype, {32, 8, 2, 2});
  const Tensor h = max_pool(relu(conv(x, w, b, {.low = {1}})), {3}, {.stride = {2}, .low = {1}});
  const Tensor y = avg_pool(conv_transpose(batch_norm(conv(h, d, {}, {.stride = {2}, .low = {1}, .groups = 32}), b, b).y, t, {}, {.stride = {2}}), {2});
  const Tensor wide = cast(y, DType::f32);
  const std::vector<Tensor> g = grad(sum(wide * wide), {x, w, b, d, t});
  for (size_t i = 0; i < g.size(); ++i) m.output(std::to_string(i), g[i]);
  return m.finish();
}

/// Products of 16-bit floats that sm_90a computes in roles, with what may follow them; sizes for every tiling.
Graph product_in_roles(DType dtype, int64_t m, int64_t n, int64_t k, const std::string& spec, int after) {
  Model g;
  const auto shape = [&](const std::string& names) {
    Shape s;
    for (char c : names) s.push_back(c == 'm' ? m : c == 'n' ? n
                                                             : k);
    return s;
  };
  Tensor y = contract(spec, g.input("x", dtype, shape(spec.substr(0, 2))), g.input("w", dtype, shape(spec.substr(3, 2))));
  if (after == 1) y = gelu(y + g.input("b", dtype, {n}));
  if (after == 2) g.output("z", tanh(y));
  if (after == 3) y = cast(y, DType::f32);
  g.output("y", y + (after == 1 ? g.input("r", dtype, {m, n}) : y));
  return g.finish();
}
/// Kernels of a partitioned graph and of the bodies in it, for several bounds of its symbol, the greatest last.
void kernels_of_sizes(const Graph& calls, const std::vector<int64_t>& bounds, std::vector<tile::Kernel>& out) {
  for (const Node& n : calls.nodes) {
    if (n.op == Op::call)
      for (int64_t b : bounds) out.push_back(lower(*n.attrs.body, fmt::format("k{}_{}", out.size(), n.attrs.name), b, bounds.back(), 1, Updates::side_by_side));
    else
      for (const auto& body : {n.attrs.body, n.attrs.otherwise})
        if (body) kernels_of_sizes(*body, bounds, out);
  }
}
/// A recurrent layer with its gradients, and what stands around it, for every batch size.
std::vector<tile::Kernel> recurrent_gradient() {
  Model m;
  const int64_t batch = m.symbol("batch", 1, 512), n = 32;
  const Tensor x = m.input("x", DType::f32, {batch, 12, 16}), h = m.input("h", DType::f32, {batch, n}), c = m.input("c", DType::f32, {batch, n});
  const Tensor wx = m.input("wx", DType::f32, {16, 4 * n}), wh = m.input("wh", DType::f32, {n, 4 * n}), b = m.input("b", DType::f32, {4 * n}), w = m.input("w", DType::bf16, {n, n});
  const Tensor all = lstm(transpose(x, {1, 0, 2}), h, c, wx, wh, b).all, y = contract("tna,ab->tnb", cast(all, DType::bf16), w);
  const Tensor loss = sum(cast(softmax(y), DType::f32) * all) + sum(max(all, {1})) + sum(softmax(transpose(all, {0, 2, 1})));
  const std::vector<Tensor> g = grad(loss, {x, h, c, wx, wh, b, w});
  for (size_t i = 0; i < g.size(); ++i) m.output(std::to_string(i), g[i]);
  PassContext context;
  std::vector<tile::Kernel> out;
  kernels_of_sizes(run_pipeline(m.finish(), context), {1, 8, 512}, out);
  return out;
}

TEST(CudaCompile, WithoutSpills) {
  try {
    std::printf("%s\n", cuda::compiler_version().c_str());
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  Collection all;
  const std::vector<std::string> every(std::begin(kArches), std::end(kArches));
  for (const test::Golden& g : test::all_golden())
    if (!g.is_kernel()) all.add(g.file, g.graph(), every);
  const int64_t golden = all.kernels;
  for (const MlpConfig& config : {MlpConfig{784, 10, {256}, 0.2}, {64, 10, {128}, 0}, {784, 10, {512, 256}, 0}})
    for (int64_t batch : {1, 32, 64}) all.add(fmt::format("mlp batch {}", batch), mlp_step(config, batch, {}, 1).graph, every);
  for (DType d : {DType::f64, DType::f32, DType::bf16, DType::f16})
    for (const Shape& s : {Shape{64, 784, 256}, Shape{33, 130, 70}}) all.add(fmt::format("dense {} {}", name_of(d), s[0]), dense_gradient(d, s[0], s[1], s[2]), every);
  all.add("recurrent layer of every batch", recurrent_gradient(), every);
  for (DType d : {DType::f32, DType::bf16}) all.add(fmt::format("convolution {}", name_of(d)), convolution_gradient(d), every);
  for (const F32Products p : {F32Products::tf32, F32Products::tf32x3})
    for (const Shape& s : {Shape{64, 784, 256}, Shape{33, 130, 70}, Shape{1024, 768, 768}}) all.add(fmt::format("dense {} {}", kF32Products[static_cast<size_t>(p)], s[0]), dense_gradient(DType::f32, s[0], s[1], s[2]), {"sm_80", "sm_90a"}, p);
  const int64_t models = all.kernels - golden;
  size_t turn = 0;
  for (const test::Case& c : test::all_cases()) all.add(c.name, c.graph, {kArches[turn++ % 3]});

  std::vector<const Unit*> units;
  for (const auto& [arch, list] : all.units)
    for (const Unit& u : list) units.push_back(&u);
  Findings findings;
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t u; (u = next++) < units.size();) compile_unit(*units[u], findings);
  };
  std::thread other(work);
  work();
  other.join();
  for (const std::string& f : findings.take()) ADD_FAILURE() << f;
  std::printf("%ld kernels (golden cases %ld, models %ld, op sweep %ld) in %zu programs; %ld use local memory (sin, cos and tan alone may)\n", static_cast<long>(findings.checked.load()), static_cast<long>(golden),
              static_cast<long>(models), static_cast<long>(all.kernels - golden - models), units.size(), static_cast<long>(findings.with_local.load()));
  EXPECT_EQ(findings.checked.load(), all.kernels);
  EXPECT_GT(all.kernels, 500);
}

// What is computed once more is chosen by the kernels that this target makes: it computes cheap maps again of its own accord.
TEST(CudaCompile, AMemoryLimitIsKept) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  Model m;
  const Tensor x = m.input("x", DType::f32, {256, 64}), w = m.input("w", DType::f32, {64, 64});
  Tensor h = x;
  for (int i = 0; i < 6; ++i) h = gelu(matmul(h, w)) + h;
  m.output("dw", grad(sum(h * h), {w})[0]);
  CompileOptions options;
  options.target = parse_target("cuda:sm_90a");
  options.use_cache = false;
  const Graph graph = m.finish();
  const int64_t plain = compile(graph, options).arena_bytes;
  options.passes.memory_limit = plain * 3 / 4;
  EXPECT_LE(compile(graph, options).arena_bytes, options.passes.memory_limit);
}

// Sums of instances in turns are cleared before the turn; what a part needs from memory is asked for before the part before it is computed, or, where
// it lies like the output, before the turn; what is only sent is rounded where two are put together.
TEST(CudaCompile, WhatFollowsAProductInRoles) {
  std::string body;
  const auto emit = [&](const std::string& dtype) {
    const tile::Kernel planned = plan_cuda(tile::parse_kernel(R"(kernel k(%p0: in bf16[16384,768], %p1: in bf16[768,768], %p2: in )" + dtype + R"([16384,768], %p3: out bf16[16384,768]) {
  axis i0<16384 by 1
  axis i1<768 by 1
  axis i2<768 by 1
  grid (i0, i1) {
    %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {
      %2: bf16[i0, i2] = load %p0[i0, i2]
      %3: bf16[i1, i2] = load %p1[i2, i1]
      %4: f32[i0, i1] = mma[bf16] i2 (%1, %2, %3)
      yield %4
    }
    %5: )" + dtype + R"([i0, i1] = load %p2[i0, i1]
    %6: bf16[i0, i1] = map(cast<bf16>(add(a0, cast<f32>(a1)))) (%0, %5)
    store %p3[i0, i1] = %6
  }
}
)"),
                                           "sm_90a", F32Products::f32);
    ASSERT_EQ(planned.phases[0].roles.size(), 2u);
    ASSERT_TRUE(planned.phases[0].roles[1].turns) << tile::to_string(planned);
    const std::string source = cuda::emit(planned, "sm_90a").source;
    body = source.substr(source.find("extern \"C\""));
  };
  const auto at = [&](const std::string& text) {
    EXPECT_NE(body.find(text), std::string::npos) << text << " is not in\n"
                                                  << body;
    return body.find(text);
  };
  emit("f16");
  EXPECT_LT(at("[r] = 0;"), at("qn_turn(self)"));
  EXPECT_LT(at("if (const int next = 0"), at("for (int step = 0"));
  EXPECT_LT(at("if (const int next = step + 1"), at("qn_put_bf16"));
  EXPECT_EQ(body.find("qn_round_bf16"), std::string::npos);
  emit("bf16");
  EXPECT_LT(at("qn_room<0>();"), at("qn_turn(self)"));
  EXPECT_LT(at("qn_take_bf16<64>"), at("qn_put_bf16<64>"));
  EXPECT_EQ(body.find("const int next"), std::string::npos);
}

// Rows in parts: each box lies in one part, and a tile's further boxes count on along the whole axis.
TEST(CudaCompile, BoxesOfRowsInParts) {
  const tile::Kernel planned = plan_cuda(tile::parse_kernel(R"(kernel k(%p0: in bf16[64,1024,64], %p1: in bf16[1024,4096], %p2: out f32[4096,4096]) {
  axis i0<4096 by 1
  axis i1<4096 by 1
  axis i2<1024 by 1
  grid (i0, i1) {
    %0: f32[i0, i1] = seq (i2) carry (%1: f32[i0, i1] = 0) {
      %2: bf16[i0, i2] = load %p0[i0//64, i2, i0%64]
      %3: bf16[i1, i2] = load %p1[i2, i1]
      %4: f32[i0, i1] = mma[bf16] i2 (%1, %2, %3)
      yield %4
    }
    store %p2[i0, i1] = %0
  }
}
)"),
                                         "sm_90a", F32Products::f32);
  ASSERT_FALSE(planned.phases[0].roles.empty());
  const KernelImage image = cuda::emit(planned, "sm_90a");
  ASSERT_EQ(image.maps[0].operand, 0);
  const int64_t* const box = image.maps[0].box;
  EXPECT_EQ(std::vector<int64_t>(box, box + 3), (std::vector<int64_t>{1, 64, 64}));
  EXPECT_NE(image.source.find("(((at0 + 64)) % 64), at2, (((at0 + 64)) / 64)"), std::string::npos) << image.source.substr(image.source.find("extern \"C\""));
}

TEST(CudaCompile, RolesWithoutSpills) {
  try {
    cuda::compiler_version();
  } catch (const Error& e) {
    GTEST_SKIP() << e.what();
  }
  Collection all;
  std::set<std::string> tilings;
  for (const Shape& s : {Shape{512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048}, {4096, 4096, 4096}, {16384, 768, 768}, {16384, 2304, 768}, {768, 768, 16384}, {3072, 768, 16384}, {1000, 1032, 776}, {512, 1024, 64}, {8192, 192, 512}, {64, 768, 3072}, {16, 3072, 768}, {192, 192, 8192}, {802816, 256, 64}})
    for (const std::string spec : {"mk,kn->mn", "mk,nk->mn", "km,kn->mn", "km,nk->mn"})
      for (int after : {0, 1, 2, 3}) {
        if (after && spec != "mk,kn->mn" && spec != "km,nk->mn") continue;
        const DType dtype = spec == "mk,nk->mn" ? DType::f16 : DType::bf16;
        const Graph g = product_in_roles(dtype, s[0], s[1], s[2], spec, after);
        const tile::Kernel k = plan_cuda(test::kernels_of(g).at(0), "sm_90a");
        ASSERT_FALSE(k.phases[0].roles.empty()) << spec;
        tilings.insert(k.phases[0].roles[1].body.empty() ? "" : fmt::format("{}x{} of {}{}", k.axes[0].tile, k.axes[1].tile, k.phases[0].roles[1].count, k.phases[0].roles[1].turns ? " in turns" : k.phases[0].shared >= 0 ? fmt::format(", shared by {}", k.sharers(k.phases[0]))
                                                                                                                                                                                                                            : ""));
        all.add(fmt::format("product {} {}x{}x{} {} {}", name_of(dtype), s[0], s[1], s[2], spec, after), g, {"sm_90a"});
      }
  for (const Shape& s : {Shape{512, 512, 512}, {1024, 1024, 1024}, {4096, 4096, 4096}, {16384, 3072, 768}, {1000, 1032, 776}, {192, 192, 8192}})
    for (const std::string spec : {"mk,kn->mn", "mk,nk->mn", "km,nk->mn"})
      for (int after : {0, 1, 2}) {
        const Graph g = product_in_roles(DType::f32, s[0], s[1], s[2], spec, after);
        ASSERT_FALSE(plan_cuda(test::kernels_of(g).at(0), "sm_90a", F32Products::tf32).phases[0].roles.empty()) << spec;
        all.add(fmt::format("product tf32 {}x{}x{} {} {}", s[0], s[1], s[2], spec, after), g, {"sm_90a"}, F32Products::tf32);
      }
  std::set<int64_t> columns;   // of tiles of bytes
  for (const Shape& s : {Shape{512, 512, 512}, {1024, 1024, 1024}, {4096, 4096, 4096}, {16384, 3072, 768}, {1000, 1040, 784}, {192, 192, 8192}, {64, 64, 512}})
    for (const DType out : {DType::bf16, DType::f32, DType::f8e4m3})
      for (const auto& [left, right] : {std::pair{DType::f8e4m3, DType::f8e4m3}, {DType::f8e5m2, DType::f8e4m3}, {DType::f8e4m3, DType::f8e5m2}, {DType::f8e5m2, DType::f8e5m2}}) {
        if (left == DType::f8e5m2 && out != DType::bf16) continue;
        Model m;
        const Tensor a = m.input("a", left, {s[0], s[2]}), b = m.input("b", right, {s[1], s[2]}), rows = m.input("r", DType::f32, {s[0], 1}), row = m.input("c", DType::f32, {s[1]});
        m.output("y", cast(contract("mk,nk->mn", cast(a, DType::f32), cast(b, DType::f32)) * rows * row, out));
        const Graph g = m.finish();
        std::string why;
        const tile::Kernel k = plan_cuda(test::kernels_of(g).at(0), "sm_90a", F32Products::f8, &why);
        ASSERT_FALSE(k.phases[0].roles.empty()) << tile::to_string(k) << why;
        columns.insert(k.axes[1].tile);
        all.add(fmt::format("product {} {} {}x{}x{} {}", name_of(left), name_of(right), s[0], s[1], s[2], name_of(out)), g, {"sm_90a"}, F32Products::f8);
      }
  EXPECT_EQ(columns, (std::set<int64_t>{64, 128, 192}));
  for (const std::string& t : tilings) std::printf("%s\n", t.c_str());
  Findings findings;
  std::vector<Unit>& units = all.units["sm_90a"];
  std::thread other([&] { for (size_t u = 1; u < units.size(); u += 2) compile_unit(units[u], findings); });
  for (size_t u = 0; u < units.size(); u += 2) compile_unit(units[u], findings);
  other.join();
  for (const std::string& f : findings.take()) ADD_FAILURE() << f;
  EXPECT_EQ(findings.checked.load(), all.kernels);
}

}  // namespace
}  // namespace quern
