// Every op × dtype × sample on a device against the graph interpreter: values (one test per op; ops that round once must
// give its bits), special values, gradients, many rows.
// On the CPU the arch is the best that this machine runs, or the one that the device names (cpu:avx2).
#include "tests/support/device.h"

namespace quern {
namespace {

class Sweep : public test::OnDevice {};

class OpOnDevice : public test::OnDevice, public testing::WithParamInterface<Op> {};

TEST_P(OpOnDevice, MatchesInterpreter) {
  int64_t checked = 0;
  double worst = 0;   // of the errors' shares of their bounds
  std::string worst_name;
  test::for_each_result(*device, test::cases_of(GetParam()), [&](const test::Case& c, const std::vector<HostTensor>& got) {
    const double bound = test::bound_of(c);
    const Difference d = compare(got[0], interpret(c.graph, c.inputs)[0]);
    EXPECT_LE(d.error, bound) << "element " << d.at << ": got " << d.got << ", want " << d.want;
    if (bound > 0 && d.error / bound > worst) worst = d.error / bound, worst_name = c.name;
    ++checked;
  });
  std::printf("%ld cases on %s, worst error / bound %.3f %s\n", static_cast<long>(checked), to_string(device->target()).c_str(), worst, worst_name.c_str());
  EXPECT_GT(checked, 0);
}

INSTANTIATE_TEST_SUITE_P(Ops, OpOnDevice, testing::ValuesIn(test::swept_ops()), [](const auto& info) { return std::string(name_of(info.param)); });

TEST_F(Sweep, SpecialValuesHaveTheirClass) {
  int64_t checked = 0;
  test::for_each_result(*device, test::special_cases(), [&](const test::Case& c, const std::vector<HostTensor>& got) {
    EXPECT_EQ(test::class_mismatch(got[0], interpret(c.graph, c.inputs)[0], tolerance_of(c.graph).bound(), !test::sums(c.op)), "");
    ++checked;
  });
  std::printf("%ld cases with special values on %s\n", static_cast<long>(checked), to_string(device->target()).c_str());
  EXPECT_GT(checked, 1000);
}

double norm(const HostTensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.size(); ++i) sum += t.at(i) * t.at(i);
  return std::sqrt(sum);
}
HostTensor widened(const HostTensor& t, DType dtype) {
  HostTensor out(dtype, t.shape);
  for (int64_t i = 0; i < t.size(); ++i) out.set(i, Scalar::of(dtype, t.at(i)));
  return out;
}

// f32 against the interpreter in f64 on the same inputs. The 16-bit dtypes against the interpreter in the same dtype, since
// rounding after every op is part of what they mean, within the bound of compare.h.
TEST_F(Sweep, GradientsMatchInterpreter) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    std::vector<test::Case> cases;
    std::vector<std::vector<HostTensor>> wants;
    std::vector<double> bounds;
    for (test::Case& c : test::all_cases()) {
      const bool float_input = std::any_of(c.inputs.begin(), c.inputs.end(), [](const HostTensor& t) { return is_float(t.dtype); });
            if (c.dtype != dtype || def_of(c.op).vjp == no_gradient || !float_input || !is_float(c.graph.type(c.graph.outputs[0].node).dtype)) continue;
      const Graph gradient = test::loss_graph(c.graph, true);
      if (dtype == DType::f32) {
        std::vector<HostTensor> wide;
        for (const HostTensor& t : c.inputs) wide.push_back(is_float(t.dtype) ? widened(t, DType::f64) : t);
        wants.push_back(interpret(test::loss_graph(test::graph_of(c.op, def_of(c.op).samples(DType::f64).at(c.sample)), true), wide));
        bounds.push_back(1e-4);
      } else {
        wants.push_back(interpret(gradient, c.inputs));
        bounds.push_back(tolerance_of(gradient).bound());
      }
      c.graph = gradient;
      c.name += ".gradient";
      cases.push_back(std::move(c));
    }
    EXPECT_GT(cases.size(), 150u);
    double worst = 0;
    std::string worst_name;
    test::for_each_result(*device, cases, [&](const test::Case& c, const std::vector<HostTensor>& got) {
      const size_t k = static_cast<size_t>(&c - cases.data());
      for (size_t g = 0; g < got.size(); ++g) {
        HostTensor error = widened(got[g], DType::f64);
        for (int64_t i = 0; i < error.size(); ++i) error.set(i, Scalar::of(DType::f64, error.at(i) - wants[k][g].at(i)));
        const double relative = norm(error) / std::max(1.0, norm(wants[k][g]));
        EXPECT_LE(relative, bounds[k]) << "derivative " << g;   // NaN fails, too
        if (relative > worst) worst = relative, worst_name = c.name;
      }
    });
    std::printf("%zu gradients in %s on %s, worst relative error %.2e (%s)\n", cases.size(), std::string(name_of(dtype)).c_str(), to_string(device->target()).c_str(), worst, worst_name.c_str());
  }
}

TEST_F(Sweep, HundredThousandRows) {
  const std::vector<test::Case> cases = test::many_rows(100000);
  test::for_each_result(*device, cases, [&](const test::Case& c, const std::vector<HostTensor>& got) {
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    for (size_t o = 0; o < want.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      EXPECT_LE(d.error, tolerance_of(c.graph).bound()) << c.graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  });
}

}  // namespace
}  // namespace quern
