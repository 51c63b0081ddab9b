// Loops and branches: against the same written out, in values and derivatives, batched and nested; by the reference
// interpreter and compiled.
#include "frontend/control.h"
#include "frontend/nn.h"
#include "frontend/transforms.h"
#include "ir/text.h"
#include "tests/support/pairs.h"

namespace quern {
namespace {

using Tensors = std::vector<Tensor>;
using test::random_f64;

class Control : public test::Pairs {};

Tensor at(const Tensor& x, int64_t t) {
  Shape shape = x.shape();
  shape.erase(shape.begin());
  return reshape(slice(x, 0, t, t + 1), shape);
}
Tensor stack(const Tensors& parts) {
  Tensors rows;
  for (const Tensor& p : parts) rows.push_back(expand_dims(p, 0));
  return concat(rows, 0);
}

// h' = tanh(x W + h U), by a scan or written out; the last h and all of them.
struct Rnn { Tensor last, all; };
Rnn by_scan(const Tensor& xs, const Tensor& h0, const Tensor& w, const Tensor& u, Direction d = Direction::forward) {
  const Scan r = scan([&](const Tensors& c, const Tensors& x) {
    const Tensor h = tanh(matmul(x[0], w) + matmul(c[0], u));
    return ScanStep{{h}, {h}};
  }, {h0}, {xs}, -1, d);
  return {r.carries[0], r.stacked[0]};
}
Rnn written_out(const Tensor& xs, Tensor h, const Tensor& w, const Tensor& u, Direction d = Direction::forward) {
  const int64_t steps = xs.shape()[0];
  Tensors all(static_cast<size_t>(steps));
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t p = d == Direction::forward ? t : steps - 1 - t;
    all[static_cast<size_t>(p)] = h = tanh(matmul(at(xs, p), w) + matmul(h, u));
  }
  return {h, stack(all)};
}

// Slices of 3*5 and 8*8 elements: beside and on the alignment of slots.
TEST_F(Control, ScanIsTheLoopWrittenOut) {
  for (const auto& [batch, n] : {std::pair<int64_t, int64_t>{3, 5}, {8, 8}})
    for (Direction d : {Direction::forward, Direction::backward})
      for (int64_t steps : {1, 2, 7}) {
        Model m;
        const Tensor xs = m.input("xs", DType::f64, {steps, batch, 4}), h0 = m.input("h0", DType::f64, {batch, n}), w = m.input("w", DType::f64, {4, n}), u = m.input("u", DType::f64, {n, n});
        const auto f = [&](auto&& rnn) -> Function {
          return [&, rnn](const Tensors& p) {
            const Rnn r = rnn(p[0], p[1], p[2], p[3], d);
            return Tensors{sum(r.last * r.last) + sum(exp(r.all)), r.last, r.all};
          };
        };
        const Reverse a = value_and_grad(f(by_scan), {xs, h0, w, u}), b = value_and_grad(f(written_out), {xs, h0, w, u});
        same(m, a.outputs, b.outputs);
        same(m, a.gradients, b.gradients);
        run_pairs(m, {random_f64({steps, batch, 4}, 1), random_f64({batch, n}, 2), random_f64({4, n}, 3), random_f64({n, n}, 4)});
      }
}

TEST_F(Control, ForwardModeSecondOrderAndLanesOfAScan) {
  Model m;
  const Tensor xs = m.input("xs", DType::f64, {3, 2, 4}), h0 = m.input("h0", DType::f64, {2, 3}), w = m.input("w", DType::f64, {4, 3}), u = m.input("u", DType::f64, {3, 3});
  const Tensor du = m.input("du", DType::f64, {3, 3}), us = m.input("us", DType::f64, {4, 3, 3});
  const auto loss = [&](auto&& rnn) -> Function { return [&, rnn](const Tensors& p) { return Tensors{sum(rnn(xs, h0, w, p[0], Direction::forward).all)}; }; };
  const auto gradient = [&](auto&& rnn) -> Function { return [&, rnn](const Tensors& p) { return value_and_grad(loss(rnn), p).gradients; }; };
  same(m, jvp(loss(by_scan), {u}, {du}).tangents, jvp(loss(written_out), {u}, {du}).tangents);
  same(m, jvp(gradient(by_scan), {u}, {du}).tangents, jvp(gradient(written_out), {u}, {du}).tangents);
  same(m, vmap(loss(by_scan), {us}), vmap(loss(written_out), {us}));
  same(m, vmap(gradient(by_scan), {us}), vmap(gradient(written_out), {us}));
  const auto all = [&](auto&& rnn) -> Function { return [&, rnn](const Tensors& p) { return Tensors{rnn(p[0], h0, w, u, Direction::backward).all}; }; };
  same(m, vmap(all(by_scan), {m.input("lanes", DType::f64, {3, 2, 5, 4})}, {2}), vmap(all(written_out), {m.input("lanes2", DType::f64, {3, 2, 5, 4})}, {2}));
  same(m, {hessian([&](const Tensor& v) { return loss(by_scan)({reshape(v, {3, 3})})[0]; }, reshape(u, {9}))}, {hessian([&](const Tensor& v) { return loss(written_out)({reshape(v, {3, 3})})[0]; }, reshape(u, {9}))});
  run_pairs(m, {random_f64({3, 2, 4}, 1), random_f64({2, 3}, 2), random_f64({4, 3}, 3), random_f64({3, 3}, 4), random_f64({3, 3}, 5), random_f64({4, 3, 3}, 6), random_f64({3, 2, 5, 4}, 7), random_f64({3, 2, 5, 4}, 7)});
}

// Running sums over both axes: a scan in a scan, whose inner carry starts anew, and a carry that is an outer one.
TEST_F(Control, ScanInAScan) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {4, 5, 3}), start = m.input("start", DType::f64, {3});
  const Function nested = [&](const Tensors& p) {
    const Scan r = scan([&](const Tensors& c, const Tensors& row) {
      const Scan inner = scan([&](const Tensors& d, const Tensors& e) { return ScanStep{{d[0] * 0.5 + sin(e[0])}, {d[0] * e[0]}}; }, {c[0]}, {row[0]});
      return ScanStep{{inner.carries[0] + c[0]}, {inner.stacked[0]}};
    }, {p[1]}, {p[0]});
    return Tensors{sum(r.carries[0]) + sum(r.stacked[0] * r.stacked[0]), r.stacked[0]};
  };
  const Function flat = [&](const Tensors& p) {
    Tensor c = p[1];
    Tensors rows;
    for (int64_t i = 0; i < 4; ++i) {
      Tensor d = c;
      Tensors cells;
      for (int64_t j = 0; j < 5; ++j) {
        const Tensor e = at(at(p[0], i), j);
        cells.push_back(d * e);
        d = d * 0.5 + sin(e);
      }
      c = d + c;
      rows.push_back(stack(cells));
    }
    return Tensors{sum(c) + sum(stack(rows) * stack(rows)), stack(rows)};
  };
  const Reverse a = value_and_grad(nested, {x, start}), b = value_and_grad(flat, {x, start});
  same(m, a.outputs, b.outputs);
  same(m, a.gradients, b.gradients);
  run_pairs(m, {random_f64({4, 5, 3}, 1), random_f64({3}, 2)});
}

// Carries that change places, are handed through, start equal or are constants; stacks of them before and after a step,
// twice; nothing scanned; no step.
TEST_F(Control, CarriesInEveryRole) {
  for (int64_t n : {3, 16})
    for (int64_t steps : {0, 1, 4}) {
      Model m;
      const Tensor a0 = m.input("a", DType::f64, {n}), b0 = m.input("b", DType::f64, {n});
      const auto f = [](const Tensors& c, const Tensors&) { return ScanStep{{c[1], c[0] + c[2], c[2], c[3] + 1}, {c[0], c[0], c[1], c[0] + c[2], c[3], c[2] * 2}}; };
      const Scan r = scan(f, {a0, b0, a0, a0 * 0}, {}, steps);
      Tensors c = {a0, b0, a0, a0 * 0};
      std::vector<Tensors> stacks(6);
      for (int64_t t = 0; t < steps; ++t) {
        const ScanStep s = f(c, {});
        for (size_t i = 0; i < 6; ++i) stacks[i].push_back(s.stacked[i]);
        c = s.carries;
      }
      same(m, r.carries, c);
      for (size_t i = 0; i < 6 && steps; ++i) same(m, {r.stacked[i]}, {stack(stacks[i])});
      for (size_t i = 0; i < 6 && !steps; ++i) EXPECT_EQ(r.stacked[i].shape(), (Shape{0, n}));
      run_pairs(m, {random_f64({n}, 1), random_f64({n}, 2)});
    }
}

TEST_F(Control, RandomBitsDifferFromStepToStep) {
  Model m;
  const Tensor key = m.input("key", DType::u32, {}), start = m.input("start", DType::f32, {64});
  const Scan r = scan([&](const Tensors& c, const Tensors&) { return ScanStep{c, {random_uniform(key, {64}, 3)}}; }, {start}, {}, 5);
  m.output("bits", r.stacked[0]);
  HostTensor k(DType::u32, {});
  k.set(0, Scalar::of_int(DType::u32, 9));
  const HostTensor out = run(m, {k, HostTensor(DType::f32, {64})})[0];
  std::set<double> seen;
  for (int64_t i = 0; i < out.size(); ++i) seen.insert(out.at(i));
  EXPECT_GT(seen.size(), 310u);   // of 320
}

// The key as an argument of nested functions; by turns of a while_loop.
TEST_F(Control, RandomBitsDifferInNestedBodies) {
  Model m;
  const Tensor key = m.input("key", DType::u32, {}), start = m.input("start", DType::f32, {64}), zero = m.input("zero", DType::i32, {});
  const auto draw = [](const Tensors& a) { return Tensors{a[0] + random_uniform(a[1], {64}, 3)}; };
  const auto all = [&](const Tensors& a) { return Tensors{checkpoint(draw, a)[0], cond(less(sum(a[0]), 1), draw, [](const Tensors& b) { return Tensors{b[0]}; }, a)[0], reshape(vmap([](const Tensors& b) { return Tensors{b[0] + random_uniform(b[1], {8}, 4)}; }, {reshape(a[0], {8, 8}), a[1]}, {0, -1})[0], {64})}; };
  const Scan r = scan([&](const Tensors& c, const Tensors&) { return ScanStep{c, all({c[0], key})}; }, {start}, {}, 5);
  for (size_t i = 0; i < 3; ++i) m.output("bits " + std::to_string(i), r.stacked[i]);
  const Tensor rows = iota(key.graph(), DType::i32, {5, 1}, 0);
  m.output("turns", while_loop([](const Tensors& c) { return less(c[0], 5); }, [&](const Tensors& c) { return Tensors{c[0] + 1, where(equal(rows, c[0]), expand_dims(all({start, key})[0], 0), c[1])}; }, {zero, broadcast_to(start, {5, 64})})[1]);
  const std::vector<HostTensor> out = run(m, {HostTensor::full(DType::u32, {}, 9), HostTensor(DType::f32, {64}), HostTensor(DType::i32, {})});
  for (size_t i = 0; i < 4; ++i) {
    std::set<double> seen;
    for (int64_t k = 0; k < out[i].size(); ++k) seen.insert(out[i].at(k));
    EXPECT_GT(seen.size(), i == 2 ? 38u : 310u) << i;   // of 40 that all lanes share, of 320
  }
}

// The square root by Newton's iteration until it is good enough, and after how many steps: lanes need different ones.
Tensors newton_steps(const Tensor& x) {
  return while_loop([&](const Tensors& c) { return less(x * 0 + 1e-12, abs(c[0] * c[0] - x)); },
                    [&](const Tensors& c) { return Tensors{(c[0] + x / c[0]) * 0.5, c[1] + 1}; }, {x, x * 0});
}
Tensor newton(const Tensor& x) { return newton_steps(x)[0]; }
TEST_F(Control, WhileRunsUntilDone) {
  Model m;
  const Tensor x = m.input("x", DType::f64, {}), lanes = m.input("lanes", DType::f64, {5}), dx = m.input("dx", DType::f64, {});
  same(m, {newton(x)}, {sqrt(x)});
  same(m, vmap([](const Tensors& p) { return Tensors{newton(p[0])}; }, {lanes}), {sqrt(lanes)});
  Tensors steps;   // a lane that is done stays as it is
  for (int64_t i = 0; i < 5; ++i) steps.push_back(newton_steps(at(lanes, i))[1]);
  same(m, {vmap([](const Tensors& p) { return Tensors{newton_steps(p[0])[1]}; }, {lanes})[0]}, {stack(steps)});
  same(m, jvp([](const Tensors& p) { return Tensors{newton(p[0])}; }, {x}, {dx}).tangents, {dx / (sqrt(x) * 2)});
  same(m, {while_loop([](const Tensors& c) { return less(c[0], c[1]); }, [](const Tensors& c) { return Tensors{c[0] + 1, c[1]}; }, {x, x})[0]}, {x});   // not once
  run_pairs(m, {HostTensor::full(DType::f64, {}, 7.0), HostTensor::from(DType::f64, {5}, {1, 2, 0.01, 400, 3}), HostTensor::full(DType::f64, {}, 0.3)});
}

TEST_F(Control, CondTakesOne) {
  for (bool yes : {false, true}) {
    Model m;
    const Tensor x = m.input("x", DType::f64, {6}), y = m.input("y", DType::f64, {6}), p = m.input("p", DType::boolean, {}), ps = m.input("ps", DType::boolean, {4}), xs = m.input("xs", DType::f64, {4, 6});
    const auto branches = [&](const Tensor& predicate, const Tensors& a) {
      return cond(predicate, [&](const Tensors& b) { return Tensors{sin(b[0]) * y, sum(b[0])}; }, [&](const Tensors& b) { return Tensors{b[0], sum(y)}; }, a);
    };
    const auto chosen = [&](const Tensor& predicate, const Tensors& a) {
      return Tensors{where(predicate, sin(a[0]) * y, a[0]), where(predicate, sum(a[0]), sum(y))};
    };
    const auto loss = [&](auto&& f) -> Function { return [&, f](const Tensors& a) {
      const Tensors r = f(p, a);
      return Tensors{sum(r[0] * r[0]) * r[1], r[0], r[1]};
    }; };
    const Reverse a = value_and_grad(loss(branches), {x}), b = value_and_grad(loss(chosen), {x});
    same(m, a.outputs, b.outputs);
    same(m, a.gradients, b.gradients);
    same(m, jvp(loss(branches), {x}, {y}).tangents, jvp(loss(chosen), {x}, {y}).tangents);
    const auto both = [&](auto&& f) -> Function { return [&, f](const Tensors& a) { return f(a[0], {a[1]}); }; };
    same(m, vmap(both(branches), {ps, xs}), vmap(both(chosen), {ps, xs}));
    same(m, vmap(both(branches), {p, xs}, {-1, 0}), vmap(both(chosen), {p, xs}, {-1, 0}));
    HostTensor flag(DType::boolean, {}), flags(DType::boolean, {4});
    flag.set(0, Scalar::of_int(DType::boolean, yes));
    flags.set(1, Scalar::of_int(DType::boolean, 1)), flags.set(2, Scalar::of_int(DType::boolean, yes));
    run_pairs(m, {random_f64({6}, 1), random_f64({6}, 2), flag, flags, random_f64({4, 6}, 3)});
  }
}

// Scans over constants, in the program and in another loop's body, also from a file.
TEST_F(Control, ScansOverConstants) {
  const std::string reversed = R"({
      %2 = reverse %0 {axes=[0]} : f32[5]
      %3 = add %2, %1 : f32[5]
      output "c" %3
    }})";
  const Graph once = parse_graph(R"(graph (%0: f32[5] "c") {
  %1 = constant {value=f32[2,5] [1,2,3,4,5,6,7,8,9,10]} : f32[2,5]
  %2 = scan %0, %1 {limit=[2], index=[1,1], body=graph (%0: f32[5] "c", %1: f32[5] "x") )" + reversed + R"( : {f32[5]}
  %3 = result %2 {index=[0]} : f32[5]
  output "y" %3
})"), within = parse_graph(R"(graph (%0: f32[5] "c") {
  %1 = scan %0 {limit=[3], index=[1,0], body=graph (%0: f32[5] "c") {
    %1 = constant {value=f32[2,5] [1,2,3,4,5,6,7,8,9,10]} : f32[2,5]
    %2 = scan %0, %1 {limit=[2], index=[1,1], body=graph (%0: f32[5] "c", %1: f32[5] "x") )" + reversed + R"( : {f32[5]}
    %3 = result %2 {index=[0]} : f32[5]
    output "c" %3
  }} : {f32[5]}
  %2 = result %1 {index=[0]} : f32[5]
  output "y" %2
})");
  const HostTensor c = HostTensor::from(DType::f32, {5}, {1, -2, 3, -4, 5});
  for (const Graph& graph : {once, within}) {
    const auto e = compiled(graph);
    const std::vector<HostTensor> want = interpret(graph, {c});
    EXPECT_EQ(e->run({c}), want);
    Executable loaded(*device, load_program(save_program(e->program()), "p.qpk"));
    EXPECT_EQ(loaded.run({c}), want);
  }
}

// What a product of every step adds up to comes behind the loop: not through a cast to integers, which rounds each
// summand, nor through one from f16 to f32, as the sum in f16 overflows.
TEST_F(Control, SumsOverStepsOfCasts) {
  const auto check = [&](DType from, DType to, int64_t steps, double each) {
    Model m;
    const Tensor xs = m.input("xs", from, {steps, 1, 2}), h = m.input("h", from, {1, 2}), w = m.input("w", from, {2, 3}), start = m.input("start", to, {1, 3});
    const Scan r = scan([&](const Tensors& c, const Tensors& x) { return ScanStep{{tanh(c[0]) + x[0], c[1] + cast(matmul(c[0], w), to)}, {}}; }, {h, start}, {xs});
    m.output("sum", r.carries[1]);
    const std::vector<HostTensor> inputs = {HostTensor::full(from, {steps, 1, 2}, 1), HostTensor::full(from, {1, 2}, 1), HostTensor::full(from, {2, 3}, each), HostTensor::full(to, {1, 3}, 0)};
    PassContext context;
    const Graph graph = m.finish();
    const HostTensor want = interpret(expand(graph, context), inputs)[0], got = compiled(graph)->run(inputs)[0];
    EXPECT_LT(std::abs(want.at(0)), 1e9);
    EXPECT_LE(compare(got, want).error, to == DType::bf16 ? 0.1 : is_float(to) ? 1e-3 : 0) << name_of(from) << " to " << name_of(to);
  };
  check(DType::f32, DType::i32, 40, 0.7);
  check(DType::f16, DType::f32, 300, 200);
  check(DType::f32, DType::bf16, 40, 0.7);
}

// So many steps that entries times steps is beyond 64 bits: the last carry still lies within its buffer.
TEST_F(Control, ManySteps) {
  const Graph graph = parse_graph(R"(graph (%0: f32[16] "a", %1: f32[16,16] "w") {
  %3 = scan %0, %1 {limit=[6000000000], index=[1,0], stride=[-1], body=graph (%0: f32[16] "a", %1: f32[16,16] "w") {
    %2 = contract %0, %1 {spec="k,kn->n"} : f32[16]
    output "a" %2
    output "s" %2
  }} : {f32[16], f32[6000000000,16]}
  %4 = result %3 {index=[0]} : f32[16]
  %5 = result %3 {index=[1]} : f32[6000000000,16]
  output "a" %4
  output "s" %5
})");
  CompileOptions options;
  options.target = device->target();
  options.use_cache = false;
  const Program p = compile(graph, options);
  EXPECT_GT(p.arena_bytes, 6000000000 * 64);
  EXPECT_NO_THROW(load_program(save_program(p), "p.qpk"));   // whose places are checked
}

// As deep as loops may be nested: such a package loads.
TEST_F(Control, LoopsInLoops) {
  const std::function<Tensor(const Tensor&, int)> nested = [&](const Tensor& x, int depth) {
    if (depth == 0) return matmul(x, x);
    return scan([&](const Tensors& c, const Tensors&) { return ScanStep{{nested(c[0], depth - 1)}, {}}; }, {x}, {}, 2).carries[0];
  };
  for (int depth : {kMaxNesting, kMaxNesting + 1}) {
    Model m;
    m.output("y", nested(m.input("x", DType::f32, {2, 2}), depth));
    CompileOptions options;
    options.target = device->target();
    options.use_cache = false;
    const Graph graph = m.finish();
    if (depth <= kMaxNesting) EXPECT_NO_THROW(load_program(save_program(compile(graph, options)), "p.qpk"));
    else EXPECT_THROW(compile(graph, options), Error);
  }
}

// A geometric random walk: each element walks through all steps alone, in both directions of time and differentiation.
TEST_F(Control, AnElementwiseScanIsOneKernel) {
  for (Direction d : {Direction::forward, Direction::backward}) {
    Model m;
    const Tensor z = m.input("z", DType::f32, {50, 300}), start = m.input("start", DType::f32, {300}), drift = m.input("drift", DType::f32, {300}), flags = m.input("flags", DType::boolean, {50, 300});
    const Scan r = scan([&](const Tensors& c, const Tensors& x) {
      const Tensor next = where(x[1], c[0] * exp(x[0] * 0.01 + drift), c[0]);
      return ScanStep{{next, maximum(c[1], next)}, {next}};
    }, {start, start}, {z, flags}, -1, d);
    m.output("last", r.carries[0]);
    m.output("highest", r.carries[1]);
    m.output("path", r.stacked[0]);
    std::mt19937_64 random(3);
    std::vector<HostTensor> inputs;
    for (const Shape& s : {Shape{50, 300}, {300}, {300}}) inputs.push_back(test::random_tensor({DType::f32, s, {}}, -1, 1, random));
    HostTensor on(DType::boolean, {50, 300});
    for (int64_t i = 0; i < on.size(); ++i) on.set(i, Scalar::of_int(DType::boolean, i % 3 != 0));
    inputs.push_back(on);
    const Graph graph = m.finish();
    const auto e = compiled(graph);
    EXPECT_EQ(e->program().steps.size(), 1u);
    PassContext context;
    const std::vector<HostTensor> want = interpret(expand(graph, context), inputs), got = e->run(inputs);
    for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-5) << o;
  }
}

// A branch and an unbounded loop in each step of a scan.
TEST_F(Control, EverythingInAScan) {
  Model m;
  const Tensor xs = m.input("xs", DType::f64, {6, 4}), w = m.input("w", DType::f64, {4});
  const Function nested = [&](const Tensors& p) {
    const Scan r = scan([&](const Tensors& c, const Tensors& x) {
      const Tensor h = cond(less(sum(c[0]), sum(x[0])), [&](const Tensors& b) { return Tensors{b[0] * p[0] + x[0]}; }, [&](const Tensors& b) { return Tensors{sin(b[0])}; }, {c[0]})[0];
      const Tensor n = while_loop([&](const Tensors& d) { return less(d[0], d[0] * 0 + 20); }, [](const Tensors& d) { return Tensors{d[0] * 2}; }, {stop_gradient(abs(sum(h)) + 1)})[0];
      return ScanStep{{h}, {h * n}};
    }, {w}, {xs});
    return Tensors{sum(r.stacked[0]), r.stacked[0]};
  };
  const Function flat = [&](const Tensors& p) {
    Tensor h = w;
    Tensors rows;
    for (int64_t t = 0; t < 6; ++t) {
      h = where(less(sum(h), sum(at(xs, t))), h * p[0] + at(xs, t), sin(h));
      const Tensor n = stop_gradient(abs(sum(h)) + 1);
      Tensor twice = n;
      for (int i = 0; i < 6; ++i) twice = where(less(twice, twice * 0 + 20), twice * 2, twice);
      rows.push_back(h * twice);
    }
    return Tensors{sum(stack(rows)), stack(rows)};
  };
  const Reverse a = value_and_grad(nested, {w}), b = value_and_grad(flat, {w});
  same(m, a.outputs, b.outputs);
  same(m, a.gradients, b.gradients);
  run_pairs(m, {random_f64({6, 4}, 1), random_f64({4}, 2)});
}

}  // namespace
}  // namespace quern
