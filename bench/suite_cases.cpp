// The suite's products, and what only moves memory.
#include <algorithm>

#include <fmt/format.h>

#include "bench/suite.h"
#include "frontend/nn.h"

namespace quern::bench {

SuiteCase plain_case(const std::string& family, const std::string& name, const std::vector<SuiteCase::Input>& inputs, Json peer, std::function<void(Model&, const std::vector<Tensor>&)> build) {
  SuiteCase c{family, family + " " + name, inputs, {}, std::move(peer)};
  c.build = [inputs, build = std::move(build)] {
    Model g;
    std::vector<Tensor> x;
    for (const auto& i : inputs) x.push_back(g.input(fmt::format("x{}", x.size()), i.classes ? DType::i32 : i.dtype, i.shape));
    build(g, x);
    return TrainingStep{g.finish(), {}};
  };
  return c;
}

SuiteCase product_case(int64_t m, int64_t n, int64_t k, const std::string& layout) {
  const Shape a = layout[0] == 't' ? Shape{k, m} : Shape{m, k}, b = layout[1] == 't' ? Shape{n, k} : Shape{k, n};
  const std::string spec = fmt::format("{},{}->mn", layout[0] == 't' ? "km" : "mk", layout[1] == 't' ? "nk" : "kn");
  SuiteCase c = plain_case("matmul", fmt::format("{}x{}x{} {}", m, n, k, layout), {{a}, {b}}, {{"op", "matmul"}, {"layout", layout}}, [spec](Model& g, const auto& x) { g.output("y", contract(spec, x[0], x[1])); });
  c.flops = 2.0 * static_cast<double>(m * n * k);
  c.read = 4.0 * static_cast<double>(m * k + k * n);
  c.written = 4.0 * static_cast<double>(m * n);
  return c;
}

std::vector<SuiteCase> suite_products() {
  std::vector<SuiteCase> out;
  const auto add = [&](int64_t m, int64_t n, int64_t k) {
    for (const char* layout : {"nn", "nt", "tn"}) out.push_back(product_case(m, n, k, layout));
  };
  for (int64_t n : {256, 512, 1024, 2048}) add(n, n, n);
  for (const auto& [k, n] : {std::pair<int64_t, int64_t>{784, 256}, {768, 3072}, {3072, 768}, {4096, 4096}})
    for (int64_t m : {1, 8, 32, 128, 512}) add(m, n, k);
  return out;
}

std::vector<SuiteCase> memory_cases(int64_t rows, int64_t columns) {
  const SuiteCase::Input x{{rows, columns}}, row{{columns}}, labels{{rows}, columns};
  const double pass = 4.0 * static_cast<double>(count(x.shape));
  const std::string size = fmt::format("{}x{}", rows, columns);
  std::vector<SuiteCase> out;
  const auto add = [&](const char* family, const std::string& name, const char* op, const std::vector<SuiteCase::Input>& inputs, double reads, double writes, auto build) {
    out.push_back(plain_case(family, name + size, inputs, {{"op", op}}, [build](Model& g, const std::vector<Tensor>& t) {
      int64_t i = 0;
      for (const Tensor& y : build(t)) g.output(fmt::format("y{}", i++), y);
    }));
    out.back().read = reads * pass;
    out.back().written = writes * pass;
  };
  using Tensors = std::vector<Tensor>;
  add("softmax", "forward ", "softmax", {x}, 1, 1, [](const Tensors& t) { return Tensors{softmax(t[0])}; });
  // From what every framework keeps of the forward pass, its result: the peers are given it, too.
  add("softmax", "backward ", "softmax_grad", {x, x}, 2, 1, [rows](const Tensors& t) { return Tensors{t[0] * (t[1] - reshape(sum(t[0] * t[1], {1}), {rows, 1}))}; });
  add("layer_norm", "forward ", "layer_norm", {x, row, row}, 1, 1, [](const Tensors& t) { return Tensors{layer_norm(t[0], t[1], t[2])}; });
  add("layer_norm", "backward ", "layer_norm_grad", {x, row, row, x}, 2, 1, [](const Tensors& t) { return grad(sum(layer_norm(t[0], t[1], t[2]) * t[3]), {t[0], t[1], t[2]}); });
  add("cross_entropy", "forward ", "cross_entropy", {x, labels}, 1, 0, [](const Tensors& t) { return Tensors{cross_entropy(t[0], t[1])}; });
  add("cross_entropy", "backward ", "cross_entropy_grad", {x, labels}, 1, 1, [](const Tensors& t) { return grad(cross_entropy(t[0], t[1]), {t[0]}); });
  add("sum", "axis 0 ", "sum0", {x}, 1, 0, [](const Tensors& t) { return Tensors{sum(t[0], {0})}; });
  add("sum", "axis 1 ", "sum1", {x}, 1, 0, [](const Tensors& t) { return Tensors{sum(t[0], {1})}; });
  add("transpose", "", "transpose", {x}, 1, 1, [](const Tensors& t) { return Tensors{transpose(t[0], {1, 0})}; });
  add("elementwise", "tanh(relu(a*2+b))*a ", "chain_tanh", {x, x}, 2, 1, [](const Tensors& t) { return Tensors{tanh(relu(t[0] * 2 + t[1])) * t[0]}; });
  add("elementwise", "(a*b+c)*sigmoid(a)-b ", "chain_sigmoid", {x, x, x}, 3, 1, [](const Tensors& t) { return Tensors{(t[0] * t[1] + t[2]) * sigmoid(t[0]) - t[1]}; });
  add("elementwise", "exp(-a*a)*0.5+abs(a) ", "chain_exp", {x}, 1, 1, [](const Tensors& t) { return Tensors{exp(-(t[0] * t[0])) * 0.5 + abs(t[0])}; });
  return out;
}

std::vector<SuiteCase> suite_memory() {   // 256 MiB an array
  std::vector<SuiteCase> out = memory_cases(16384, 4096), classifiers = memory_cases(2048, 32768);
  for (SuiteCase& c : out)
    if (c.family == "cross_entropy") c = std::move(*std::find_if(classifiers.begin(), classifiers.end(), [&](const SuiteCase& o) { return o.peer == c.peer; }));
  return out;
}

}  // namespace quern::bench
