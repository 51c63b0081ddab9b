// Recurrent layers against the same written out, values and gradients; where their products stand; what a GPU is asked for.
#include "frontend/nn.h"
#include "frontend/rnn.h"
#include "frontend/transforms.h"
#include "ir/text.h"
#include "tests/support/loss.h"
#include "tests/support/pairs.h"

namespace quern {
namespace {

using Tensors = std::vector<Tensor>;
using test::loss_of;
using test::random_f64;

class Rnn : public test::Pairs {};

Tensor row(const Tensor& x, int64_t t) { return reshape(slice(x, 0, t, t + 1), {x.shape()[1], x.shape()[2]}); }
Tensor part(const Tensor& x, int64_t i, int64_t n) { return slice(x, -1, i * n, (i + 1) * n); }

Tensors lstm_written_out(const Tensors& p) {
  Tensor h = p[1], c = p[2];
  Tensors all;
  const int64_t n = h.shape()[1];
  for (int64_t t = 0; t < p[0].shape()[0]; ++t) {
    const Tensor g = matmul(row(p[0], t), p[3]) + matmul(h, p[4]) + p[5];
    c = sigmoid(part(g, 1, n)) * c + sigmoid(part(g, 0, n)) * tanh(part(g, 2, n));
    h = sigmoid(part(g, 3, n)) * tanh(c);
    all.push_back(expand_dims(h, 0));
  }
  return {concat(all, 0), h, c};
}
Tensors gru_written_out(const Tensors& p) {
  Tensor h = p[1];
  Tensors all;
  const int64_t n = h.shape()[1];
  for (int64_t t = p[0].shape()[0] - 1; t >= 0; --t) {   // backward
    const Tensor a = matmul(row(p[0], t), p[2]) + p[4], b = matmul(h, p[3]) + p[5];
    const Tensor r = sigmoid(part(a, 0, n) + part(b, 0, n)), z = sigmoid(part(a, 1, n) + part(b, 1, n));
    h = (1 - z) * tanh(part(a, 2, n) + r * part(b, 2, n)) + z * h;
    all.insert(all.begin(), expand_dims(h, 0));
  }
  return {concat(all, 0), h};
}

TEST_F(Rnn, LayersAreTheLoopsWrittenOut) {
  for (const auto& [batch, n] : {std::pair<int64_t, int64_t>{2, 3}, {4, 16}, {13, 46}}) {   // the last: matrices that lie in panels before the loop, the rest of one filled
    Model m;
    const Tensor x = m.input("x", DType::f64, {5, batch, 6}), h = m.input("h", DType::f64, {batch, n}), c = m.input("c", DType::f64, {batch, n});
    const Tensor wx = m.input("wx", DType::f64, {6, 4 * n}), wh = m.input("wh", DType::f64, {n, 4 * n}), b = m.input("b", DType::f64, {4 * n});
    const Tensor vx = m.input("vx", DType::f64, {6, 3 * n}), vh = m.input("vh", DType::f64, {n, 3 * n}), d = m.input("d", DType::f64, {3 * n}), e = m.input("e", DType::f64, {3 * n});
    const Function by_lstm = [](const Tensors& p) {
      const Recurrent r = lstm(p[0], p[1], p[2], p[3], p[4], p[5]);
      return Tensors{r.all, r.h, r.c};
    };
    const Function by_gru = [](const Tensors& p) {
      const Recurrent r = gru(p[0], p[1], p[2], p[3], p[4], p[5], Direction::backward);
      return Tensors{r.all, r.h};
    };
    const Reverse a = value_and_grad(loss_of(by_lstm), {x, h, c, wx, wh, b}), a1 = value_and_grad(loss_of(lstm_written_out), {x, h, c, wx, wh, b});
    const Reverse g = value_and_grad(loss_of(by_gru), {x, h, vx, vh, d, e}), g1 = value_and_grad(loss_of(gru_written_out), {x, h, vx, vh, d, e});
    same(m, a.outputs, a1.outputs), same(m, a.gradients, a1.gradients);
    same(m, g.outputs, g1.outputs), same(m, g.gradients, g1.gradients);
    uint64_t seed = 0;
    std::vector<HostTensor> inputs;
    for (const Shape& s : {Shape{5, batch, 6}, {batch, n}, {batch, n}, {6, 4 * n}, {n, 4 * n}, {4 * n}, {6, 3 * n}, {n, 3 * n}, {3 * n}, {3 * n}}) inputs.push_back(random_f64(s, ++seed));
    run_pairs(m, inputs);
  }
}

Graph training_step(int64_t steps, int64_t batch, int64_t in, int64_t n) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {steps, batch, in}), h = m.input("h", DType::f32, {batch, n}), c = m.input("c", DType::f32, {batch, n});
  const Tensor wx = m.input("wx", DType::f32, {in, 4 * n}), wh = m.input("wh", DType::f32, {n, 4 * n}), b = m.input("b", DType::f32, {4 * n});
  const Function loss = [&](const Tensors& p) { return Tensors{sum(lstm(x, h, c, p[0], p[1], p[2]).all)}; };
  const Reverse r = value_and_grad(loss, {wx, wh, b});
  m.output("loss", r.outputs[0]);
  for (const Tensor& g : r.gradients) m.output(fmt::format("d{}", &g - r.gradients.data()), g);
  return m.finish();
}

// x wx for all steps before the loop, dwx and dwh as one product each behind it: in the loops one product per step, forward
// and backward.
TEST_F(Rnn, OneProductPerStepInsideOfTheLoops) {
  PassContext context;
  Graph after;
  context.after = [&](const std::string& pass, const Graph& g) {
    if (pass == "loops") after = g;
  };
  run_pipeline(training_step(24, 8, 16, 32), context);
  int scans = 0, outside = 0;
  for (const Node& n : after.nodes) {
    outside += n.op == Op::contract;
    if (n.op != Op::scan) continue;
    ++scans;
    int products = 0;
    for (const Node& inner : n.attrs.body->nodes) products += inner.op == Op::contract;
    EXPECT_EQ(products, 1) << to_string(*n.attrs.body);
    EXPECT_EQ(n.attrs.index[0], 2);   // h and c, dh and dc; no sums
  }
  EXPECT_EQ(scans, 2);
  EXPECT_EQ(outside, 3);   // x wx, dwx, dwh
  std::string notes;
  for (const std::string& l : context.loops) notes += l + "\n";
  EXPECT_NE(notes.find("24 steps: 2 carries"), std::string::npos) << notes;
  EXPECT_NE(notes.find("behind the loop, for all at once: contract"), std::string::npos) << notes;
}

// Of each gate the backward loop reads its exponential, of three with a comparison; of the cell what it was before; h stands for
// the output and, one step earlier, for dwh. The rest, tanh of the cell among it, is computed again from these.
TEST_F(Rnn, KeepsWhatIsDearToComputeAgain) {
  constexpr int64_t kSteps = 64, kBatch = 128, kIn = 4, kHidden = 8;
  const Graph graph = training_step(kSteps, kBatch, kIn, kHidden);
  PassContext context;
  Graph after;
  context.after = [&](const std::string& pass, const Graph& g) {
    if (pass == "loops") after = g;
  };
  run_pipeline(graph, context);
  int64_t stacks = 0, masks = 0;
  for (const Node& n : after.nodes)
    if (n.op == Op::scan && n.attrs.stride.empty())
      for (size_t r = static_cast<size_t>(n.attrs.index[0]); r < n.type.results.size(); ++r) {
        EXPECT_EQ(n.type.results[r].shape, (Shape{kSteps, kBatch, kHidden}));
        ++(n.type.results[r].dtype == DType::boolean ? masks : stacks);
      }
  EXPECT_EQ(stacks, 7);
  EXPECT_EQ(masks, 3);
  std::vector<HostTensor> inputs;
  std::mt19937_64 random(3);
  for (NodeId i : graph.inputs) inputs.push_back(test::random_tensor(graph.type(i), -0.3, 0.3, random));
  const std::vector<HostTensor> got = compiled(graph)->run(inputs), want = interpret(expand(graph, context), inputs);
  for (size_t o = 0; o < want.size(); ++o) EXPECT_LE(compare(got[o], want[o]).error, 1e-4) << "output " << o;
}

TEST_F(Rnn, NothingIsReadBackInsideOfALoop) {
  std::string transcript;
  const auto null = open_device("null", &transcript);
  CompileOptions options;
  options.use_cache = false;
  const auto e = jit(*null, training_step(6, 8, 16, 32), options);
  const auto launches = [&] {
    size_t n = 0;
    for (size_t at = transcript.find("launch "); at != std::string::npos; at = transcript.find("launch ", at + 1)) ++n;
    return n;
  };
  for (size_t i = 0; i < e->program().inputs.size(); ++i) {
    const Slot& s = e->program().slots[static_cast<size_t>(e->program().inputs[i])];
    e->set_input(static_cast<int64_t>(i), HostTensor(s.dtype, s.shape));
  }
  transcript.clear();
  e->run();
  EXPECT_EQ(transcript.find("download"), std::string::npos) << transcript;
  EXPECT_GE(launches(), 12u) << transcript;   // two loops of six steps
  size_t loops = 0, copies = 0;
  for (const Step& s : e->program().steps)
    if (const auto* l = std::get_if<Loop>(&s)) {
      ++loops;
      for (const Step& inner : l->steps) copies += std::holds_alternative<Copy>(inner);
    }
  EXPECT_EQ(loops, 2u);
  EXPECT_EQ(copies, 0u);   // carries take turns, slices are read and written where they lie
}

}  // namespace
}  // namespace quern
