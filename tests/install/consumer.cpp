// A program outside of Quern: builds an MLP, trains a few steps on made-up data, and ends with status 0 where the loss
// has fallen. Sees the installed headers and library alone.
#include <cstdio>

#include "frontend/nn.h"
#include "frontend/optim.h"
#include "runtime/jit.h"

using namespace quern;

int main() {
  try {
    constexpr int64_t kBatch = 32, kInputs = 8, kHidden = 16, kClasses = 2;
    Model model;
    Params params(model, 1);
    const Tensor x = model.input("x", DType::f32, {kBatch, kInputs});
    const Tensor label = model.input("label", DType::i32, {kBatch});
    const Tensor h = relu(linear(x, params.add("w0", {kInputs, kHidden}, Init::he), params.add("b0", {kHidden}, Init::zeros)));
    const Tensor logits = linear(h, params.add("w1", {kHidden, kClasses}, Init::xavier), params.add("b1", {kClasses}, Init::zeros));
    const Tensor loss = cross_entropy(logits, label);
    const auto initial = apply_updates(model, params, grad(loss, params.tensors()), {.algorithm = Algorithm::adam, .learning_rate = 0.05});
    model.output("loss", loss);

    const auto device = open_device("cpu");
    const auto step = jit(*device, model.finish());
    for (const auto& [name, value] : initial) step->set_state(name, value);
    HostTensor images(DType::f32, {kBatch, kInputs}), labels(DType::i32, {kBatch});
    for (int64_t i = 0; i < images.size(); ++i) images.data<float>()[i] = static_cast<float>(i * 37 % 19) / 19 - 0.5f;
    for (int64_t i = 0; i < kBatch; ++i) labels.data<int32_t>()[i] = images.data<float>()[i * kInputs] > 0;
    double first = 0, last = 0;
    for (int k = 0; k < 50; ++k) {
      last = step->run({images, labels})[0].at(0);
      if (k == 0) first = last;
    }
    std::printf("loss %.3f, after 50 steps %.3f\n", first, last);
    return last < 0.5 * first ? 0 : 1;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
