// Products of floats of 16 and of 8 bits and of tf32, which sm_90a computes by kernels with roles (passes/tile/roles.h): both operands in each layout, sizes that are no
// multiple of a tile, every tiling that the planner knows, several outputs, what follows a product. Each element against a sum in f64.
#include <cmath>
#include <set>

#include "frontend/conv.h"
#include "frontend/nn.h"
#include "ir/compare.h"
#include "tests/support/device.h"

namespace quern {
namespace {

struct Problem {
  int64_t m, n, k;
  bool ta, tb;
  DType dtype = DType::bf16;
  int after = 0;   // 1: bias, tanh and a residual; 2: the product and its tanh are both outputs
  int64_t batch = 0;
  F32Products products = F32Products::tf32;   // of f32
  size_t kernels = 1;
};

class Roles : public test::OnDevice {
 protected:
  std::set<std::string> atoms;   // that the kernels with roles have had, with how their instances share the work
  int64_t early = 0;             // kernels that load what follows the product before it

  static HostTensor values(DType dtype, const Shape& shape, uint64_t seed) {
    HostTensor t(dtype, shape);
    for (int64_t i = 0; i < t.size(); ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const int64_t odd = dtype == DType::f32;   // no ties between two of tf32
      t.set(i, Scalar::of(dtype, static_cast<double>((static_cast<int64_t>(seed >> 40) - (1 << 23)) | odd) * 0x1p-23));
    }
    return t;
  }
  // Against the interpreter: more axes than a matrix has, other dtypes behind the product.
  void check(const Graph& g, const std::string& name) {
    SCOPED_TRACE(name);
    std::vector<HostTensor> inputs;
    for (NodeId i : g.inputs) inputs.push_back(values(g.type(i).dtype, g.type(i).shape, inputs.size() + 1));
    CompileReport report;
    PassContext plain;
    const auto want = interpret(expand(g, plain), inputs), got = compiled(g, &report)->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-2) << "output " << o;
    if (device->target().arch == "sm_90a") { EXPECT_FALSE(report.planned.at(0).phases[0].roles.empty()) << report.plan_reasons[0]; }
  }
  void check(const Problem& p) {
    SCOPED_TRACE(testing::Message() << p.m << "x" << p.n << "x" << p.k << (p.ta ? " T" : " N") << (p.tb ? "T " : "N ") << name_of(p.dtype) << " after " << p.after << " batch " << p.batch << " " << kF32Products[static_cast<size_t>(p.products)]);
    const auto shape = [&](int64_t x, int64_t y) { return p.batch ? Shape{p.batch, x, y} : Shape{x, y}; };
    const Shape as = p.ta ? shape(p.k, p.m) : shape(p.m, p.k), bs = p.tb ? shape(p.n, p.k) : shape(p.k, p.n);
    Model g;
    const std::string b = p.batch ? "b" : "";
    const Tensor x = g.input("x", p.dtype, as), w = g.input("w", p.dtype, bs);
    Tensor y = contract(b + (p.ta ? "km," : "mk,") + b + (p.tb ? "nk->" : "kn->") + b + "mn", x, w);
    std::vector<HostTensor> inputs = {values(p.dtype, as, 1), values(p.dtype, bs, 2)};
    if (p.after == 1) {
      y = tanh(y + g.input("bias", p.dtype, {p.n}));
      y = y + g.input("r", p.dtype, shape(p.m, p.n));
      inputs.push_back(values(p.dtype, {p.n}, 3));
      inputs.push_back(values(p.dtype, shape(p.m, p.n), 4));
    }
    g.output("y", y);
    if (p.after == 2) g.output("z", tanh(y));
    CompileReport report;
    const auto run = compiled(g.finish(), &report, p.products);
    const std::vector<HostTensor> got = run->run(inputs), again = run->run(inputs);
    EXPECT_EQ(got, again);   // bit by bit
    const bool rounds = p.dtype == DType::f32 && p.products == F32Products::tf32 && device->target().kind == TargetKind::cuda;
    if (device->target().arch == "sm_90a" && (p.dtype != DType::f32 || (rounds && (!p.ta || p.tb)))) {
      ASSERT_EQ(report.planned.size(), p.kernels);
      const tile::Phase& phase = report.planned[0].phases[0];
      ASSERT_FALSE(phase.roles.empty()) << report.plan_reasons[0];
      early += to_string(report.planned[0]).find("load early") != std::string::npos;
      atoms.insert(std::to_string(phase.roles[1].count) + (phase.roles[1].turns ? " in turns" : phase.shared >= 0 ? " of blocks that share"
                                                                                                                  : " together"));
    }
    if (device->target().arch == "sm_90a" && p.products == F32Products::tf32x3 && p.m * p.n * p.k >= int64_t{1} << 33) {
      EXPECT_TRUE(std::any_of(report.planned.begin(), report.planned.end(), [](const tile::Kernel& k) { return !k.phases[0].roles.empty(); })) << report.plan_reasons.back();
    }
    const std::vector<double> a = inputs[0].to_doubles(), bb = inputs[1].to_doubles();
    const double ulp = p.dtype == DType::bf16 ? 0x1p-8 : p.dtype == DType::f16 ? 0x1p-11
                                                                               : 0x1p-23;
    const auto operand = [&](double x) { return rounds ? std::ldexp(std::nearbyint(std::ldexp(x, 10 - std::ilogb(x))), std::ilogb(x) - 10) : x; };
    const int64_t rows = p.m > 1000 ? 97 : 1;   // every so many rows of large ones
    for (int64_t q = 0; q < std::max<int64_t>(p.batch, 1); ++q)
      for (int64_t i = 0; i < p.m; i += rows)
        for (int64_t j = 0; j < p.n; ++j) {
          double sum = 0, size = 0;
          for (int64_t k = 0; k < p.k; ++k) {
            const double t = operand(a[static_cast<size_t>(q * p.m * p.k + (p.ta ? k * p.m + i : i * p.k + k))]) * operand(bb[static_cast<size_t>(q * p.n * p.k + (p.tb ? j * p.k + k : k * p.n + j))]);
            sum += t, size += std::abs(t);
          }
          const int64_t at = (q * p.m + i) * p.n + j;
          const double bound = ulp * std::abs(sum) + size * (p.dtype == DType::f32 && p.products == F32Products::tf32x3 ? 0x1p-20 : 0x1p-18);
          if (p.after == 1) {
            const double with = std::tanh(sum + inputs[2].at(j)) + inputs[3].at(at);
            ASSERT_NEAR(got[0].at(at), with, bound + 4 * ulp * (1 + std::abs(with))) << i << ", " << j;
          } else {
            ASSERT_NEAR(got[0].at(at), sum, bound) << q << ": " << i << ", " << j;
            if (p.after == 2) { ASSERT_NEAR(got[1].at(at), std::tanh(sum), bound + 2 * ulp) << i << ", " << j; }
          }
        }
  }
};

TEST_F(Roles, EveryLayoutAndRemainder) {
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      check({128, 128, 128, ta, tb});
      check({200, 264, 136, ta, tb});
      check({72, 80, 1032, ta, tb, DType::f16, 1});
      check({256, 64, 1024, ta, tb, DType::f16});   // sums that nothing but a rounding reads: not before they are whole
    }
  check({128, 128, 16, false, false});   // boxes are larger than the operands
  check({72, 4096, 24, true, true});
  check({136, 200, 72, false, true, DType::bf16, 1});
  check({136, 200, 72, true, false, DType::bf16, 2});
  check({96, 160, 80, false, false, DType::bf16, 0, 3});
  check({96, 160, 80, true, true, DType::bf16, 2, 2});
}

// Operands of tf32 are rounded to nearest, never cut: a product with the unit matrix is its operand, rounded.
TEST_F(Roles, OperandsAreRounded) {
  for (const bool left : {false, true})
    for (const char* spec : {"mk,nk->mn", "mk,kn->mn", "km,nk->mn", "km,kn->mn"}) {
      SCOPED_TRACE(testing::Message() << spec << (left ? " left" : " right"));
      HostTensor unit(DType::f32, {128, 128});
      for (int64_t i = 0; i < 128; ++i) unit.set(i * 129, Scalar::of(DType::f32, 1));
      const HostTensor x = values(DType::f32, {128, 128}, 5);
      Model m;
      const Tensor a = m.input("a", DType::f32, {128, 128}), b = m.input("b", DType::f32, {128, 128});
      m.output("y", contract(spec, a, b));
      const HostTensor y = compiled(m.finish(), nullptr, F32Products::tf32)->run(left ? std::vector{x, unit} : std::vector{unit, x}).at(0);
      const bool turned = left ? spec[0] == 'k' : spec[3] == 'n';
      for (int64_t i = 0; i < 128; ++i)
        for (int64_t j = 0; j < 128; ++j) {
          const double exact = x.at(turned ? j * 128 + i : i * 128 + j), place = std::ldexp(1.0, std::ilogb(exact) - 10), got = y.at(i * 128 + j);
          if (device->target().kind == TargetKind::cpu) ASSERT_EQ(got, exact);
          else ASSERT_LE(std::abs(got - exact), place / 2) << i << ", " << j << ": " << exact << " became " << got;
        }
    }
}

TEST_F(Roles, Tf32InEveryLayout) {
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      check({128, 128, 128, ta, tb, DType::f32});
      check({200, 264, 136, ta, tb, DType::f32});
      check({72, 80, 1028, ta, tb, DType::f32, 1});
      check({136, 200, 68, ta, tb, DType::f32, 2});
      check({96, 160, 80, ta, tb, DType::f32, 0, 3});
      if (device->target().kind == TargetKind::cpu) continue;
      check({1024, 1000, 520, ta, tb, DType::f32});
      check({4096, 768, 264, ta, tb, DType::f32, 1});
      check({64, 72, 4104, ta, tb, DType::f32});
    }
  check({8, 4104, 264, false, false, DType::f32, 1});   // few rows of a large matrix
  if (device->target().kind == TargetKind::cuda) check({1024, 1032, 1028, true, false, DType::f32});   // one operand is turned in memory first
  for (const DType out : {DType::bf16, DType::f16})     // outputs of 16 bits along the rows of the product
    for (const char* spec : {"mk,kn->mn", "mk,nk->mn"}) {
      Model m;
      const Tensor x = m.input("x", DType::f32, {136, 72}), w = m.input("w", DType::f32, spec[3] == 'k' ? Shape{72, 200} : Shape{200, 72}), y = contract(spec, x, w);
      m.output("narrow", cast(y, out));
      const Graph g = m.finish();
      std::vector<HostTensor> inputs = {values(DType::f32, {136, 72}, 1), values(DType::f32, g.type(g.inputs[1]).shape, 2)};
      PassContext plain;
      EXPECT_LE(compare(compiled(g, nullptr, F32Products::tf32)->run(inputs).at(0), interpret(expand(g, plain), inputs).at(0)).error, 1e-2);
    }
}

// Three products of tf32 hold what f32 does: beside f64 as near as a sum of f32 is.
TEST_F(Roles, ThreeProductsOfTf32) {
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      check({128, 128, 128, ta, tb, DType::f32, 0, 0, F32Products::tf32x3});
      check({200, 264, 136, ta, tb, DType::f32, 0, 0, F32Products::tf32x3});
      check({72, 80, 1028, ta, tb, DType::f32, 2, 0, F32Products::tf32x3});
      if (device->target().kind == TargetKind::cuda) check({2048, 2052, 2064, ta, tb, DType::f32, 0, 0, F32Products::tf32x3});   // both operands are stored in two parts
    }
}

// Products of 8-bit floats keep 14 bits of what up to 128 terms are summed to, and add that up in f32 (--matmul f8).
TEST_F(Roles, ProductsOfBytes) {
  struct Bytes {
    int64_t m, n, k;
    bool ta = false, tb = true;   // b^T as it lies
    DType out = DType::f32, left = DType::f8e4m3, right = DType::f8e4m3, wide = DType::f32;
    size_t kernels = 1;
    bool positive = false;
  };
  double worst = 0, worst_positive = 0;
  const auto check = [&](const Bytes& p) {
    SCOPED_TRACE(testing::Message() << p.m << "x" << p.n << "x" << p.k << (p.ta ? " T" : " N") << (p.tb ? "T " : "N ") << name_of(p.left) << " " << name_of(p.right) << " " << name_of(p.wide) << " " << name_of(p.out) << (p.positive ? " of one sign" : ""));
    Model m;
    const Shape as = p.ta ? Shape{p.k, p.m} : Shape{p.m, p.k}, bs = p.tb ? Shape{p.n, p.k} : Shape{p.k, p.n};
    const Tensor x = m.input("a", p.left, as), w = m.input("b", p.right, bs), rows = m.input("r", DType::f32, {p.m, 1}), columns = m.input("c", DType::f32, {p.n});
    Tensor y = contract(std::string(p.ta ? "km," : "mk,") + (p.tb ? "nk->mn" : "kn->mn"), cast(x, p.wide), cast(w, p.wide));
    if (p.wide != DType::f32) y = cast(y, DType::f32);
    m.output("y", cast(y * rows * columns, p.out));
    std::vector<HostTensor> inputs = {values(p.left, as, 1), values(p.right, bs, 2), values(DType::f32, {p.m, 1}, 3), values(DType::f32, {p.n}, 4)};
    if (p.positive)
      for (HostTensor& t : inputs)
        for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(t.dtype, std::abs(t.at(i)) + 0.5));
    CompileReport report;
    const auto run = compiled(m.finish(), &report, F32Products::f8);
    const std::vector<HostTensor> got = run->run(inputs), again = run->run(inputs);
    EXPECT_EQ(got, again);
    if (device->target().arch == "sm_90a") {
      ASSERT_EQ(report.planned.size(), p.kernels);
      ASSERT_FALSE(report.planned.back().phases[0].roles.empty()) << report.plan_reasons.back();
    }
    const std::vector<double> a = inputs[0].to_doubles(), b = inputs[1].to_doubles();
    const bool bytes = device->target().arch == "sm_90a";
    const double ulp = p.out == DType::f32 ? 0x1p-22 : p.out == DType::bf16 ? 0x1p-8
                                                   : p.out == DType::f16    ? 0x1p-11
                                                   : p.out == DType::f8e4m3 ? 0x1p-4
                                                                            : 0x1p-3;
    for (int64_t i = 0; i < p.m; i += p.m > 1000 ? 97 : 1)
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < p.k; ++k) {
          const double t = a[static_cast<size_t>(p.ta ? k * p.m + i : i * p.k + k)] * b[static_cast<size_t>(p.tb ? j * p.k + k : k * p.n + j)];
          sum += t, size += std::abs(t);
        }
        const double factor = inputs[2].at(i) * inputs[3].at(j), want = sum * factor, found = got[0].at(i * p.n + j);
        const double inner = p.wide == DType::bf16 ? 0x1p-8 : 0;
        ASSERT_NEAR(found, want, (ulp + inner) * std::abs(want) + std::abs(factor) * size * (bytes ? 0x1p-11 : 0x1p-18) + (size_of(p.out) == 1 ? 0x1p-10 : p.out == DType::f16 ? 0x1p-24
                                                                                                                                                                               : 0))
            << i << ", " << j;
        if (p.out == DType::f32 && p.wide == DType::f32 && factor != 0 && size > 0) {
          double& most = p.positive ? worst_positive : worst;
          most = std::max(most, std::abs(found - want) / (std::abs(factor) * size));
        }
      }
  };
  for (const DType left : {DType::f8e4m3, DType::f8e5m2})
    for (const DType right : {DType::f8e4m3, DType::f8e5m2})
      for (const DType out : {DType::f32, DType::bf16}) {
        check({128, 128, 128, false, true, out, left, right});
        check({200, 264, 144, false, true, out, left, right});
      }
  for (const DType out : {DType::f16, DType::f8e4m3, DType::f8e5m2}) check({200, 272, 400, false, true, out});
  check({136, 72, 528, false, true, DType::bf16, DType::f8e4m3, DType::f8e5m2, DType::bf16});
  check({72, 80, 1040});
  check({64, 64, 8192});                                    // shared by blocks of a cluster
  check({256, 256, 4096, false, true, DType::f32, DType::f8e4m3, DType::f8e4m3, DType::f32, 1, true});
  if (device->target().kind == TargetKind::cpu) return;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) check({520, 528, 1040, ta, tb, DType::bf16, DType::f8e5m2, DType::f8e4m3, DType::f32, 1 + size_t{ta} + size_t{!tb}});   // turned in memory first
  check({4096, 4096, 512, false, true, DType::bf16});
  check({16392, 1040, 272, false, true, DType::f32});
  std::printf("greatest error, of the sum of all terms' sizes: 2^%.1f, where they have one sign 2^%.1f\n", std::log2(worst), std::log2(worst_positive));
}

TEST_F(Roles, MoreAxesAndOtherOutputs) {
  struct Spec {
    const char *spec, *name;
    Shape a, b;
  };
  for (const Spec& s : {Spec{"bmk,kn->bmn", "rows in two axes", {3, 136, 72}, {72, 80}}, {"bhmk,bhkn->bhmn", "heads", {2, 3, 72, 64}, {2, 3, 64, 136}}, {"mhk,hnk->mhn", "heads between rows and columns", {136, 2, 72}, {2, 80, 72}}, {"mk,kn->nm", "a transposed output", {136, 72}, {72, 200}}}) {
    Model m;
    m.output("y", contract(s.spec, m.input("x", DType::bf16, s.a), m.input("w", DType::bf16, s.b)));
    check(m.finish(), s.name);
  }
  for (const char* spec : {"mk,nk->mn", "mk,kn->mn"}) {   // flags beside the product, as a derivative wants them
    Model m;
    const Tensor x = m.input("x", DType::f32, {136, 72}), w = m.input("w", DType::f32, spec[3] == 'k' ? Shape{72, 208} : Shape{208, 72}), y = relu(contract(spec, x, w));
    m.output("y", y);
    m.output("flags", greater(y, 0));
    const Graph g = m.finish();
    const std::vector<HostTensor> inputs = {values(DType::f32, {136, 72}, 1), values(DType::f32, g.type(g.inputs[1]).shape, 2)};
    CompileReport report;
    PassContext plain;
    const std::vector<HostTensor> got = compiled(g, &report, F32Products::tf32)->run(inputs);
    EXPECT_LE(compare(got[0], interpret(expand(g, plain), inputs)[0]).error, 1e-2);
    if (device->target().arch == "sm_90a") { EXPECT_FALSE(report.planned.at(0).phases[0].roles.empty()) << report.plan_reasons[0]; }
    for (int64_t i = 0; i < got[0].size(); ++i) ASSERT_EQ(got[1].at(i) != 0, got[0].at(i) > 0) << i;
  }
  for (int64_t part : {64, 128}) {   // rows are a head and an element of it, between which positions stand
    Model m;
    const Tensor x = reshape(transpose(m.input("x", DType::bf16, {2, 6, 136, part}), {0, 2, 1, 3}), {2, 136, 6 * part});
    m.output("y", contract("bti,btj->ij", x, m.input("w", DType::bf16, {2, 136, 200})));
    check(m.finish(), "rows in parts");
  }
  for (int outputs : {1, 2}) {
    Model m;
    const Tensor y = contract("mk,kn->mn", m.input("x", DType::f16, {136, 72}), m.input("w", DType::f16, {72, 200}));
    m.output("wide", cast(y, DType::f32) * 2 + m.input("r", DType::f32, {136, 200}));
    if (outputs == 2) m.output("narrow", tanh(y));
    check(m.finish(), outputs == 2 ? "f32 and f16" : "f32");
  }
}

// Convolutions with channels last: rows of a tile are pictures, a step of the sum is a place of the window or of the picture.
TEST_F(Roles, Windows) {
  struct Layer {
    int64_t batch, side, in, out, kernel;
    ConvOptions options;
  };
  for (const Layer& l : {Layer{72, 5, 64, 72, 3, {.low = {1}}}, {64, 6, 136, 64, 3, {.stride = {2}, .low = {1}}}, {136, 3, 64, 200, 1, {}}, {64, 7, 72, 64, 2, {.dilation = {2}, .low = {0}, .high = {1}}}})
    for (const char* what : {"forward", "after", "data", "weight"}) {
      if (what[0] == 'd' && l.options.stride == Shape{2}) continue;   // places that are not whole are masked
      Model m;
      const auto nchw = [](const Tensor& t) { return transpose(t, {0, 3, 1, 2}); };
      const Tensor x = m.input("x", DType::bf16, {l.batch, l.side, l.side, l.in}), w = m.input("w", DType::bf16, {l.out, l.kernel, l.kernel, l.in});
      Tensor y = transpose(conv(nchw(x), nchw(w), {}, l.options), {0, 2, 3, 1});
      if (what[0] == 'a') y = tanh(y + m.input("b", DType::bf16, {l.out}));
      if (what[0] == 'd' || what[0] == 'w') y = grad(sum(y * m.input("g", DType::bf16, y.shape())), {what[0] == 'd' ? x : w})[0];
      m.output("y", y);
      check(dead_code(m.finish()), std::string(what) + " of a kernel of " + std::to_string(l.kernel));
    }
}

TEST_F(Roles, RowsOfASymbol) {   // one program for every batch; what is behind the last row stays as it was
  Model m;
  const int64_t batch = m.symbol("batch", 1, 512);
  m.output("y", tanh(matmul(m.input("x", DType::bf16, {batch, 136}), m.input("w", DType::bf16, {136, 200})) + m.input("b", DType::bf16, {200})));
  const Graph g = m.finish();
  CompileReport report;
  const auto run = compiled(g, &report);
  if (device->target().arch == "sm_90a") {
    EXPECT_TRUE(std::any_of(report.planned.begin(), report.planned.end(), [](const tile::Kernel& k) { return !k.phases[0].roles.empty(); })) << report.plan_reasons.at(0);
  }
  for (int64_t n : {512, 1, 65, 130, 7, 300}) {
    const Graph sized = at_size(g, n);
    std::vector<HostTensor> inputs;
    for (NodeId i : sized.inputs) inputs.push_back(values(DType::bf16, sized.type(i).shape, inputs.size() + 1));
    PassContext plain;
    EXPECT_LE(compare(run->run(inputs).at(0), interpret(expand(sized, plain), inputs).at(0)).error, 1e-2) << n;
  }
}

TEST_F(Roles, SharedSums) {   // few tiles and long sums: blocks of a cluster add up what each has summed
  check({136, 200, 4104, false, true});
  check({72, 80, 4104, true, false, DType::f16, 1});
  check({128, 256, 4112, true, true, DType::bf16, 2});
  check({64, 64, 4096, false, false, DType::bf16, 1, 2});
  Model m;
  m.output("wide", cast(contract("mk,nk->mn", m.input("x", DType::bf16, {72, 4104}), m.input("w", DType::bf16, {80, 4104})), DType::f32) * 2);
  check(m.finish(), "f32");
  if (device->target().arch == "sm_90a") { EXPECT_TRUE(atoms.count("1 of blocks that share") && atoms.size() == 1); }
}

TEST_F(Roles, PartsOfSums) {   // fewer tiles than a cluster has blocks, and a very long sum: parts in memory, and their sum
  check({64, 72, 32768, true, false, DType::bf16, 0, 0, {}, 2});
  check({72, 64, 32768, false, true, DType::f16, 1, 0, {}, 2});
}

TEST_F(Roles, FewRows) {   // fewer than a tile has, and a large matrix
  for (int64_t rows : {3, 9, 31}) check({rows, 1032, 1032, false, rows == 9, DType::bf16, 1});
  check({8, 4104, 264, true, true});
  check({32, 4096, 264, false, true, DType::f16, 2});
}

TEST_F(Roles, LargeOnes) {   // enough tiles for every tiling: one instance, two together, two in turns
  if (device->target().kind == TargetKind::cpu) GTEST_SKIP() << "sizes that only a GPU's plans depend on";
  check({1024, 1024, 512, false, false});
  check({2048, 2048, 128, false, true, DType::bf16, 2});
  check({4096, 768, 768, false, false});
  check({8200, 776, 264, true, false});
  check({8192, 768, 256, false, true});
  check({4096, 4096, 64, false, false, DType::bf16, 1});
  for (const DType d : {DType::bf16, DType::f16}) check({4096, 3072, 256, d == DType::f16, false, d, 1});
  check({384, 128, 200, false, true, DType::f16, 1});
  check({16384, 192, 2048, false, false});
  check({768, 768, 2048, true, false});
  check({1000, 1032, 776, false, true});
  check({1000, 1032, 776, true, false, DType::f16, 1});
  for (const bool ta : {false, true}) check({2048, 2048, 1024, ta, !ta, DType::f16});
  check({16392, 3080, 200, false, true, DType::bf16, 1});
  for (const std::string& a : atoms) std::printf("%s\n", a.c_str());
  if (device->target().arch == "sm_90a") {
    EXPECT_GE(atoms.size(), 2u);
    EXPECT_GE(early, 4);
  }
}

}  // namespace
}  // namespace quern
