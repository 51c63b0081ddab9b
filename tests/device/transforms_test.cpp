// Transforms of functions inside each other: orders that must agree, known derivatives, and lanes against a loop; by the
// reference interpreter and compiled.
#include "frontend/control.h"
#include "frontend/nn.h"
#include "frontend/transforms.h"
#include "tests/support/pairs.h"

namespace quern {
namespace {

using Tensors = std::vector<Tensor>;

using test::random_f64;
class Transforms : public test::Pairs {
 protected:
  // A GPU without a limit keeps small values apart that could share a place.
  std::unique_ptr<Executable> within(const Graph& graph, int64_t limit, CompileReport* report = nullptr) {
    CompileOptions options;
    options.use_cache = false;
    options.passes.memory_limit = limit;
    return jit(*device, graph, options, report);
  }
};

// Two layers, a loss per example: x[4], w[4,5], v[5,3].
TEST_F(Transforms, EveryOrderOnTwoLayers) {
  constexpr int64_t lanes = 3;
  Model m;
  const Tensor xs = m.input("xs", DType::f64, {lanes, 4}), w = m.input("w", DType::f64, {4, 5}), v = m.input("v", DType::f64, {5, 3});
  const Tensor dw = m.input("dw", DType::f64, {4, 5}), dv = m.input("dv", DType::f64, {5, 3});
  const auto loss = [](const Tensor& x, const Tensors& p) {
    const Tensor y = matmul(tanh(matmul(expand_dims(x, 0), p[0])), p[1]);
    return sum(y * y * y + exp(y));
  };
  const auto of = [&](const Tensor& x) -> Function { return [&, x](const Tensors& p) { return Tensors{loss(x, p)}; }; };
  const Function all = [&](const Tensors& p) { return Tensors{sum(vmap([&](const Tensors& x) { return of(x[0])(p); }, {xs})[0])}; };
  const Function gradient_of_all = [&](const Tensors& p) { return value_and_grad(all, p).gradients; };
  const Tensors p = {w, v}, dp = {dw, dv};
  const auto lane = [&](int64_t i) { return reshape(slice(xs, 0, i, i + 1), {4}); };
  int pairs = 0;
  const auto same = [&](const Tensors& a, const Tensors& b) {
    for (size_t i = 0; i < a.size(); ++i, ++pairs) {
      m.output(fmt::format("{}a", pairs), a[i]);
      m.output(fmt::format("{}b", pairs), b[i]);
    }
  };
  const auto stacked = [&](const Function& each) {   // a loop over the lanes
    std::vector<Tensors> parts;
    for (int64_t i = 0; i < lanes; ++i) {
      const Tensors one = each({lane(i)});
      parts.resize(one.size());
      for (size_t k = 0; k < one.size(); ++k) parts[k].push_back(expand_dims(one[k], 0));
    }
    Tensors out;
    for (const Tensors& part : parts) out.push_back(concat(part, 0));
    return out;
  };
  // One inside the other, against a loop.
  const Function per_lane_gradient = [&](const Tensors& x) { return value_and_grad(of(x[0]), p).gradients; };
  const Function per_lane_tangent = [&](const Tensors& x) { return jvp(of(x[0]), p, dp).tangents; };
  same(vmap(per_lane_gradient, {xs}), stacked(per_lane_gradient));
  same(vmap(per_lane_tangent, {xs}), stacked(per_lane_tangent));
  same(vmap(per_lane_gradient, {transpose(xs, {1, 0})}, {1}), stacked(per_lane_gradient));
  // vmap of grad and grad of vmap; vmap of jvp and jvp of vmap.
  Tensors summed;
  for (const Tensor& g : vmap(per_lane_gradient, {xs})) summed.push_back(sum(g, {0}));
  same(gradient_of_all(p), summed);
  same(jvp(all, p, dp).tangents, {sum(vmap(per_lane_tangent, {xs})[0])});
  // Second order, over all lanes: jvp of grad, grad of jvp, grad of grad.
  const Tensors forward_over_reverse = jvp(gradient_of_all, p, dp).tangents;
  same(forward_over_reverse, value_and_grad([&](const Tensors& q) { return jvp(all, q, dp).tangents; }, p).gradients);
  same(forward_over_reverse, value_and_grad([&](const Tensors& q) {
         const Tensors g = gradient_of_all(q);
         return Tensors{sum(g[0] * dw) + sum(g[1] * dv)};
       }, p).gradients);
  // Three deep: vmap of jvp of grad, against a loop and summed; jvp of jvp against the quadratic form.
  const Function per_lane_product = [&](const Tensors& x) {
    return jvp([&](const Tensors& q) { return value_and_grad(of(x[0]), q).gradients; }, p, dp).tangents;
  };
  same(vmap(per_lane_product, {xs}), stacked(per_lane_product));
  Tensors products;
  for (const Tensor& g : vmap(per_lane_product, {xs})) products.push_back(sum(g, {0}));
  same(forward_over_reverse, products);
  const Tensors twice = jvp([&](const Tensors& q) { return jvp(all, q, dp).tangents; }, p, dp).tangents;
  same(twice, {sum(forward_over_reverse[0] * dw) + sum(forward_over_reverse[1] * dv)});
  // `grad` of tensors inside a function, and of what a transform gives.
  same(jvp([&](const Tensors& q) { return grad(all(q)[0], q); }, p, dp).tangents, forward_over_reverse);
  same(grad(all(p)[0], p), gradient_of_all(p));
  // vmap of vmap: every example with every scale.
  const Tensor scales = m.input("scales", DType::f64, {2});
  const Tensor table = vmap([&](const Tensors& s) { return vmap([&](const Tensors& x) { return of(x[0])({w * s[0], v}); }, {xs}); }, {scales})[0];
  same({table}, {transpose(vmap([&](const Tensors& x) { return vmap([&](const Tensors& s) { return of(x[0])({w * s[0], v}); }, {scales}); }, {xs})[0], {1, 0})});
  run_pairs(m, {random_f64({lanes, 4}, 1), random_f64({4, 5}, 2), random_f64({5, 3}, 3), random_f64({4, 5}, 4), random_f64({5, 3}, 5), random_f64({2}, 6)});
}

TEST_F(Transforms, HessianOfAQuadraticAndExponentials) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {2, 2}), a = m.input("a", DType::f64, {4, 4});
  m.output("hessian", hessian([&](const Tensor& at) {
             const Tensor row = reshape(at, {1, 4});
             return sum(matmul(row, a) * row) * 0.5 + sum(exp(row));
           }, x));
  const HostTensor at = random_f64({2, 2}, 1), matrix = random_f64({4, 4}, 2);
  const HostTensor h = run(m, {at, matrix})[0];
  EXPECT_EQ(h.shape, (Shape{2, 2, 2, 2}));
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t k = 0; k < 4; ++k)
      EXPECT_NEAR(h.at(i * 4 + k), (matrix.at(i * 4 + k) + matrix.at(k * 4 + i)) / 2 + (i == k ? std::exp(at.at(i)) : 0), 1e-12);
}

// To more and to fewer elements: forward and reverse mode.
TEST_F(Transforms, JacobianOfAProductIsTheMatrix) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{5, 2}, {2, 5}}) {
    Model m;
    const Tensor x = m.input("x", DType::f64, {columns, 1}), a = m.input("a", DType::f64, {rows, columns});
    m.output("jacobian", jacobian([&](const Tensor& at) { return sin(matmul(a, at)); }, x));
    const HostTensor at = random_f64({columns, 1}, 1), matrix = random_f64({rows, columns}, 2);
    const HostTensor j = run(m, {at, matrix})[0];
    EXPECT_EQ(j.shape, (Shape{rows, 1, columns, 1}));
    for (int64_t r = 0; r < rows; ++r) {
      double y = 0;
      for (int64_t c = 0; c < columns; ++c) y += matrix.at(r * columns + c) * at.at(c);
      for (int64_t c = 0; c < columns; ++c) EXPECT_NEAR(j.at(r * columns + c), std::cos(y) * matrix.at(r * columns + c), 1e-12);
    }
  }
}

// What a function captures is a constant to it, even where it was computed from the arguments; equal arguments are two.
TEST_F(Transforms, CapturedTensorsAreConstants) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {3}), outer = x * 2;
  m.output("g", value_and_grad([&](const Tensors& a) { return Tensors{sum(a[0] * outer)}; }, {x}).gradients[0]);
  m.output("t", jvp([&](const Tensors& a) { return Tensors{a[0] * outer}; }, {x}, {x}).tangents[0]);
  const Reverse both = value_and_grad([&](const Tensors& a) { return Tensors{sum(a[0] * a[0] * a[1])}; }, {x, x});
  m.output("first", both.gradients[0]);
  m.output("second", both.gradients[1]);
  const auto out = run(m, {HostTensor::from(DType::f64, {3}, {1, 2, 3})});
  EXPECT_EQ(out[0].to_doubles(), (std::vector<double>{2, 4, 6}));
  EXPECT_EQ(out[1].to_doubles(), (std::vector<double>{2, 8, 18}));
  EXPECT_EQ(out[2].to_doubles(), (std::vector<double>{2, 8, 18}));
  EXPECT_EQ(out[3].to_doubles(), (std::vector<double>{1, 4, 9}));
}

TEST_F(Transforms, IntegersHaveNoDerivatives) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {4}), i = m.input("i", DType::i32, {2});
  const Function f = [](const Tensors& a) { return Tensors{sum(square(take(a[0], a[1]))), a[1] + 1}; };
  const Reverse r = value_and_grad(f, {x, i});
  EXPECT_FALSE(r.gradients[1]);
  m.output("i", r.outputs[1]);
  m.output("gradient", r.gradients[0]);
  const Forward t = jvp(f, {x, i}, {x, Tensor()});
  m.output("tangent", t.tangents[0]);
  m.output("none", t.tangents[1]);
  const auto out = run(m, {HostTensor::from(DType::f64, {4}, {1, 2, 3, 4}), HostTensor::from(DType::i32, {2}, {3, 1})});
  EXPECT_EQ(out[0].to_doubles(), (std::vector<double>{4, 2}));
  EXPECT_EQ(out[1].to_doubles(), (std::vector<double>{0, 4, 0, 8}));
  EXPECT_EQ(out[2].to_doubles(), (std::vector<double>{40}));
  EXPECT_EQ(out[3].to_doubles(), (std::vector<double>{0, 0}));
}

// One key for all lanes gives them the same bits, a key for each its own.
TEST_F(Transforms, RandomBitsOfLanes) {
  Model m;
  const Tensor key = m.input("key", DType::u32, {}), keys = m.input("keys", DType::u32, {2}), x = m.input("x", DType::f32, {2, 9});
  const auto f = [](const Tensors& a) { return Tensors{random_uniform(a[1], {9}, 4) + a[0]}; };
  m.output("same", vmap(f, {x, key}, {0, -1})[0]);
  m.output("own", vmap(f, {x, keys})[0]);
  const auto out = run(m, {HostTensor::from(DType::u32, {}, {7}), HostTensor::from(DType::u32, {2}, {7, 4000000000.0}), HostTensor::full(DType::f32, {2, 9}, 0)});
  for (int64_t i = 0; i < 9; ++i) {
    const auto uniform = [&](uint32_t k) { return (philox(k, 4, static_cast<uint64_t>(i)) >> 8) * 0x1p-24; };
    EXPECT_EQ(out[0].at(i), uniform(7));
    EXPECT_EQ(out[0].at(9 + i), uniform(7));
    EXPECT_EQ(out[1].at(i), uniform(7));
    EXPECT_EQ(out[1].at(9 + i), uniform(4000000000u));
  }
}

// As many lanes as the batch has rows; among them rows of their own tables.
TEST_F(Transforms, LanesOfASymbolicBatch) {
  Model m;
  const int64_t n = m.symbol("batch", 1, 8);
  const Tensor x = m.input("x", DType::f64, {n, 4}), i = m.input("i", DType::i32, {n}), w = m.input("w", DType::f64, {4});
  const Function f = [&](const Tensors& a) {
    return value_and_grad([&](const Tensors& p) { return Tensors{sum(square(a[0] * p[0])) * take(a[0], a[1])}; }, {w}).gradients;
  };
  m.output("gradients", vmap(f, {x, i})[0]);
  const HostTensor xs = random_f64({5, 4}, 1), at = HostTensor::from(DType::i32, {5}, {3, 0, 2, 1, 3}), ws = random_f64({4}, 2);
  const HostTensor got = run(m, {xs, at, ws})[0];
  ASSERT_EQ(got.shape, (Shape{5, 4}));
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t c = 0; c < 4; ++c)
      EXPECT_NEAR(got.at(r * 4 + c), 2 * xs.at(r * 4 + c) * xs.at(r * 4 + c) * ws.at(c) * xs.at(r * 4 + at.get(r).i), 1e-12);
}

TEST_F(Transforms, Misuse) {
  Model m, other;
  const Tensor x = m.input("x", DType::f64, {3}), i = m.input("i", DType::i32, {3}), foreign = other.input("x", DType::f64, {3});
  const Function f = [](const Tensors& a) { return Tensors{sum(a[0])}; }, whole = [](const Tensors& a) { return a; };
  const auto code_of = [](const auto& call) {
    try {
      call();
    } catch (const Error& e) {
      EXPECT_FALSE(e.help.empty()) << e.what();
      return e.code;
    }
    ADD_FAILURE() << "nothing was thrown";
    return Code::general_bug;
  };
  EXPECT_EQ(code_of([&] { vmap(f, {}); }), Code::argument_count);
  EXPECT_EQ(code_of([&] { vmap(f, {x}, {0, 0}); }), Code::argument_count);
  EXPECT_EQ(code_of([&] { vmap(f, {x}, {1}); }), Code::bad_axis);
  EXPECT_EQ(code_of([&] { vmap(f, {x}, {-2}); }), Code::bad_axis);
  EXPECT_EQ(code_of([&] { vmap(f, {x}, {-1}); }), Code::bad_axis);
  EXPECT_EQ(code_of([&] { vmap(f, {x, m.input("two", DType::f64, {2})}); }), Code::shapes_differ);
  EXPECT_EQ(code_of([&] { vmap(f, {x, foreign}); }), Code::other_model);
  EXPECT_EQ(code_of([&] { vmap([](const Tensors&) { return Tensors{}; }, {x}); }), Code::argument_count);
  EXPECT_EQ(code_of([&] { vmap([](const Tensors&) { return Tensors{Tensor()}; }, {x}); }), Code::empty_tensor);
  EXPECT_EQ(code_of([&] { vmap([&](const Tensors&) { return Tensors{foreign}; }, {x}); }), Code::other_model);
  EXPECT_EQ(code_of([&] { jvp(f, {x}, {}); }), Code::argument_count);
  EXPECT_EQ(code_of([&] { jvp(f, {x}, {cast(x, DType::f32)}); }), Code::shapes_differ);
  EXPECT_EQ(code_of([&] { jvp(f, {x}, {foreign}); }), Code::other_model);
  EXPECT_EQ(code_of([&] { jvp(whole, {i}, {i}); }), Code::gradient_by);
  EXPECT_EQ(code_of([&] { value_and_grad(whole, {x}); }), Code::gradient_of);
  EXPECT_EQ(code_of([&] { jacobian([](const Tensor& a) { return a; }, i); }), Code::gradient_by);
  EXPECT_EQ(code_of([&] { jacobian([](const Tensor& a) { return cast(a, DType::i32); }, x); }), Code::gradient_of);
  // A tensor that leaves its function by another way than as a result.
  Tensor kept;
  vmap([&](const Tensors& a) { kept = a[0] * 2; return a; }, {x});
  m.output("kept", kept);
  EXPECT_EQ(code_of([&] { m.finish(); }), Code::other_model);
}

// Blocks of layers whose insides are computed once more for the gradient: the same bits, less memory.
TEST_F(Transforms, CheckpointsKeepTheirArgumentsAlone) {
  const auto gradient = [&](bool checkpointed) {
    Model m;
    const Tensor x = m.input("x", DType::f32, {64, 128});
    std::vector<Tensor> w;
    for (int i = 0; i < 8; ++i) w.push_back(m.input(fmt::format("w{}", i), DType::f32, {128, 128}));
    const Function loss = [&](const Tensors& p) {
      Tensor h = x;
      for (size_t block = 0; block < 8; block += 4) {
        const Function layers = [](const Tensors& a) {
          Tensor y = a[0];
          for (size_t i = 1; i < a.size(); ++i) y = tanh(matmul(y, a[i]));
          return Tensors{y};
        };
        const Tensors args = {h, p[block], p[block + 1], p[block + 2], p[block + 3]};
        h = checkpointed ? checkpoint(layers, args)[0] : layers(args)[0];
      }
      return Tensors{sum(h * h)};
    };
    const Reverse r = value_and_grad(loss, w);
    m.output("loss", r.outputs[0]);
    for (size_t i = 0; i < w.size(); ++i) m.output(fmt::format("d{}", i), r.gradients[i]);
    return within(m.finish(), int64_t{1} << 30);
  };
  std::mt19937_64 random(5);
  std::vector<HostTensor> inputs = {test::random_tensor({DType::f32, {64, 128}, {}}, -1, 1, random)};
  for (int i = 0; i < 8; ++i) inputs.push_back(test::random_tensor({DType::f32, {128, 128}, {}}, -0.15, 0.15, random));
  const auto plain = gradient(false), less = gradient(true);
  EXPECT_EQ(plain->run(inputs), less->run(inputs));
  EXPECT_LT(less->program().arena_bytes, plain->program().arena_bytes * 3 / 4);
}

// The same without marks: under a limit the compiler chooses what is computed once more, says so, and keeps within it.
TEST_F(Transforms, AMemoryLimitIsKept) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {256, 64}), w = m.input("w", DType::f32, {64, 64});
  const Function loss = [&](const Tensors& p) {
    Tensor h = x;
    for (int i = 0; i < 8; ++i) h = gelu(matmul(h, p[0])) + h;
    return Tensors{sum(h * h)};
  };
  const Reverse r = value_and_grad(loss, {w});
  m.output("loss", r.outputs[0]);
  m.output("dw", r.gradients[0]);
  const Graph graph = m.finish();
  std::mt19937_64 random(5);
  const std::vector<HostTensor> inputs = {test::random_tensor({DType::f32, {256, 64}, {}}, -1, 1, random), test::random_tensor({DType::f32, {64, 64}, {}}, -0.2, 0.2, random)};
  const auto plain = within(graph, int64_t{1} << 30);
  const std::vector<HostTensor> want = plain->run(inputs);
  int64_t last = plain->program().arena_bytes;
  for (int64_t limit : {last * 3 / 4, last * 13 / 20}) {
    CompileReport report;
    const auto less = within(graph, limit, &report);
    EXPECT_LE(less->program().arena_bytes, limit);
    EXPECT_FALSE(report.notes.empty());
    const std::vector<HostTensor> got = less->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5);
  }
  EXPECT_THROW(within(graph, 1024), Error);
}

// What a loop holds counts where it stands: what waits beside it is computed once more behind it.
TEST_F(Transforms, MemoryLimitBesideALoop) {
  constexpr int64_t kBytes = 256 * 256 * 4;   // of every tensor here: two places of the carry, what it starts from, three in the body, one that waits
  Model m;
  const Tensor a = m.input("a", DType::f32, {256, 256}), w = m.input("w", DType::f32, {256, 256}), waits = exp(a);
  const Tensor last = scan([&](const auto& c, const auto&) {
    const Tensor x = matmul(c[0], w), y = matmul(x, w), z = matmul(y, x);
    return ScanStep{{matmul(z, y)}, {}};
  }, {matmul(waits, w)}, {}, 3).carries[0];
  m.output("y", matmul(last, waits) + last);
  const Graph graph = m.finish();
  std::mt19937_64 random(5);
  const std::vector<HostTensor> inputs = {test::random_tensor({DType::f32, {256, 256}, {}}, -0.05, 0.05, random), test::random_tensor({DType::f32, {256, 256}, {}}, -0.05, 0.05, random)};
  const auto plain = compiled(graph);
  CompileOptions options;
  options.use_cache = false;
  EXPECT_EQ(plain->program().arena_bytes, 7 * kBytes);
  options.passes.memory_limit = 6 * kBytes;
  CompileReport report;
  const auto less = jit(*device, graph, options, &report);
  EXPECT_LE(less->program().arena_bytes, options.passes.memory_limit);
  EXPECT_FALSE(report.notes.empty());
  EXPECT_LE(compare(less->run(inputs)[0], plain->run(inputs)[0]).error, 1e-5);
}

// A derivative of the caller's own, here a wrong one, so that its traces can be told: in reverse, forward, batched, in a
// checkpoint and in a second derivative.
TEST_F(Transforms, TheCallersDerivativeCounts) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {3}), dx = m.input("dx", DType::f64, {3}), w = m.input("w", DType::f64, {3});
  const Function own = [&](const Tensors& a) {
    return with_derivative([&](const Tensors& b) { return Tensors{sin(b[0]) * w}; }, [&](const Tensors& b) { return Tensors{b[1] * exp(b[0]) * w}; }, a);
  };
  const Function loss = [&](const Tensors& a) { return Tensors{sum(own(a)[0])}; };
  const auto same = [&](const Tensor& a, const Tensor& b) { Pairs::same(m, {a}, {b}); };
  same(own({x})[0], sin(x) * w);
  same(value_and_grad(loss, {x}).gradients[0], exp(x) * w);
  same(value_and_grad([&](const Tensors& a) { return Tensors{sum(checkpoint(own, a)[0])}; }, {x}).gradients[0], exp(x) * w);
  same(jvp(own, {x}, {dx}).tangents[0], dx * exp(x) * w);
  same(jvp([&](const Tensors& a) { return value_and_grad(loss, a).gradients; }, {x}, {dx}).tangents[0], dx * exp(x) * w);
  const Tensor rows = m.input("rows", DType::f64, {2, 3});
  same(vmap([&](const Tensors& a) { return value_and_grad(loss, a).gradients; }, {rows})[0], exp(rows) * w);
  same(value_and_grad([&](const Tensors& a) { return Tensors{sum(vmap(own, a)[0])}; }, {rows}).gradients[0], exp(rows) * w);
  run_pairs(m, {random_f64({3}, 1), random_f64({3}, 2), random_f64({3}, 3), random_f64({2, 3}, 4)});
}

}  // namespace
}  // namespace quern
