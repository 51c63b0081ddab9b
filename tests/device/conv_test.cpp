// The table of convolutions and poolings (tests/support/convolution.h), compiled: values against naive loops, gradients
// against the interpreter in f64, in f32 and bf16.
#include "ir/text.h"
#include "tests/support/convolution.h"
#include "tests/support/device.h"

namespace quern {
namespace {

class ConvolutionOnDevice : public test::OnDevice {};

std::vector<test::Convolution> all_convolutions() {
  std::vector<test::Convolution> out = test::convolutions();
  for (const test::Convolution& c : test::larger_convolutions()) out.push_back(c);
  return out;
}

TEST_F(ConvolutionOnDevice, MatchesNaiveLoops) {
  const std::vector<test::Convolution> table = all_convolutions();
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    std::vector<test::Case> cases;
    for (const test::Convolution& c : table) cases.push_back(test::case_of(c, dtype));
    test::for_each_result(*device, cases, [&](const test::Case& c, const std::vector<HostTensor>& got) {
      const test::Convolution& k = *std::find_if(table.begin(), table.end(), [&](const test::Convolution& t) { return name_of(t) == c.name; });
      const std::vector<double> want = test::expected(k, c.inputs, got[0].shape);
      ASSERT_EQ(got[0].size(), static_cast<int64_t>(want.size()));
      // A bias and a division round to the dtype once more each.
      const double bound = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 0.03;
      for (int64_t i = 0; i < got[0].size(); ++i) ASSERT_NEAR(got[0].at(i), want[static_cast<size_t>(i)], bound * std::max(1.0, std::fabs(want[static_cast<size_t>(i)]))) << "element " << i;
    });
  }
}

// A step along the window goes one back in one dim and one ahead in the other: the same memory, but not there everywhere.
TEST_F(ConvolutionOnDevice, StepsOfTwoDimsThatCancel) {
  const Graph graph = parse_graph(R"(graph (%1: f32[1,1,1] "x") {
  %0 = constant {value=f32[] [0]} : f32[]
  %2 = pad %1, %0 {low=[0,0,1], high=[0,0,0]} : f32[1,1,2]
  %3 = window %2, %0 {shape=[1], start=[2], stride=[1], dilation=[-2], base=[2]} : f32[1,1,2]
  output "y" %3
})", "text");
  const std::vector<HostTensor> inputs = {HostTensor::full(DType::f32, {1, 1, 1}, 3)};
  EXPECT_EQ(compiled(graph)->run(inputs)[0], interpret(graph, inputs)[0]);
}

TEST_F(ConvolutionOnDevice, GradientsMatchInterpreter) {
  std::vector<test::Case> cases;
  std::vector<std::vector<HostTensor>> wants;
  for (const test::Convolution& c : all_convolutions()) {
    test::Case narrow = test::case_of(c, DType::f32), wide = test::case_of(c, DType::f64);
    for (size_t i = 0; i < wide.inputs.size(); ++i)
      for (int64_t e = 0; e < wide.inputs[i].size(); ++e) wide.inputs[i].set(e, Scalar::of(DType::f64, narrow.inputs[i].at(e)));
    wants.push_back(interpret(test::loss_graph(wide.graph, true), wide.inputs));
    narrow.graph = test::loss_graph(narrow.graph, true);
    cases.push_back(std::move(narrow));
  }
  size_t checked = 0;
  test::for_each_result(*device, cases, [&](const test::Case&, const std::vector<HostTensor>& got) {
    for (size_t g = 0; g < got.size(); ++g) {
      const HostTensor& want = wants[checked][g];
      double scale = 1;
      for (int64_t i = 0; i < want.size(); ++i) scale = std::max(scale, std::fabs(want.at(i)));
      for (int64_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[g].at(i), want.at(i), 1e-5 * scale) << "derivative " << g << " element " << i;
    }
    ++checked;
  });
  EXPECT_EQ(checked, cases.size());
}

}  // namespace
}  // namespace quern
