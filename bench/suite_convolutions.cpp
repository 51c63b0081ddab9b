// The suite's convolutions of a GPU: layers of ResNet-50 in bf16, channels last, forward and both gradients. x [batch, h, w, in],
// kernels [out, k, k, in]: views of what `conv` wants, as of PyTorch's channels_last.
#include <fmt/format.h>

#include "bench/suite.h"
#include "frontend/conv.h"
#include "frontend/nn.h"
#include "frontend/shape.h"

namespace quern::bench {

std::vector<SuiteCase> suite_gpu_convolutions() {
  struct Layer {
    int64_t in, side, out, kernel, stride;
  };
  constexpr int64_t kBatch = 256;
  std::vector<SuiteCase> out;
  for (const Layer& l : std::initializer_list<Layer>{{64, 56, 64, 3, 1}, {128, 28, 128, 3, 1}, {256, 14, 256, 3, 1}, {512, 7, 512, 3, 1}, {256, 56, 64, 1, 1}, {64, 56, 256, 1, 1}, {1024, 14, 256, 1, 1}, {128, 56, 128, 3, 2}}) {
    const int64_t side = (l.side - 1) / l.stride + 1;
    const Shape x = {kBatch, l.side, l.side, l.in}, w = {l.out, l.kernel, l.kernel, l.in}, y = {kBatch, side, side, l.out};
    for (const char* what : {"forward", "data", "weight"}) {
      std::vector<SuiteCase::Input> inputs = {{x, 0, DType::bf16}, {w, 0, DType::bf16}};
      if (what[0] != 'f') inputs.push_back({y, 0, DType::bf16});
      SuiteCase c = plain_case("conv", fmt::format("bf16 {}x{}x{}x{} by {}x{}x{}{} {}", kBatch, l.side, l.side, l.in, l.out, l.kernel, l.kernel, l.stride > 1 ? fmt::format(" stride {}", l.stride) : "", what), inputs,
                               {{"op", "conv2d"}, {"what", what}, {"stride", l.stride}, {"padding", l.kernel / 2}}, [=](Model& g, const std::vector<Tensor>& t) {
                                 const auto nchw = [](const Tensor& v) { return transpose(v, {0, 3, 1, 2}); };
                                 const Tensor y = transpose(conv(nchw(t[0]), nchw(t[1]), {}, {.stride = {l.stride}, .low = {l.kernel / 2}}), {0, 2, 3, 1});
                                 g.output("y", what[0] == 'f' ? y : grad(sum(y * t[2]), {t[what[0] == 'd' ? 0 : 1]})[0]);
                               });
      c.flops = 2.0 * static_cast<double>(count(y) * l.in * l.kernel * l.kernel);
      if (l.kernel == 1) {   // what memory limits
        c.read = 2.0 * static_cast<double>((what[0] == 'd' ? 0 : count(x)) + (what[0] == 'f' ? 0 : count(y)) + (what[0] == 'w' ? 0 : count(w)));
        c.written = 2.0 * static_cast<double>(count(what[0] == 'f' ? y : what[0] == 'd' ? x
                                                                                        : w));
      }
      c.weight = 2;
      out.push_back(std::move(c));
    }
  }
  return out;
}

}  // namespace quern::bench
