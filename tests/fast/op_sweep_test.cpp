// Every op × dtype × sample, one test per op: the type rule agrees with the evaluation, the text round-trips, the
// lowered kernels, with tiles of 1 and with ragged tiles, give what the graph interpreter gives, and so does vmap.
#include <gtest/gtest.h>

#include "ir/text.h"
#include "tests/support/sweep.h"

namespace quern {

class OpSweep : public testing::TestWithParam<Op> {};

TEST(OpSweep, IsWide) {
  EXPECT_GT(test::all_cases().size(), 2000u);
  EXPECT_GT(test::swept_ops().size(), 35u);
}

TEST_P(OpSweep, InterpreterTextAndTiles) {
  for (const test::Case& c : test::cases_of(GetParam())) {
    SCOPED_TRACE(c.name);
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    const Type& type = c.graph.type(c.graph.outputs[0].node);
    ASSERT_EQ(want[0].dtype, type.dtype);
    ASSERT_EQ(want[0].shape, type.shape);
    ASSERT_TRUE(parse_graph(to_string(c.graph)) == c.graph) << to_string(c.graph);
    for (int64_t tile : {1, 3}) {
      const auto got = test::run_tiles(c.graph, c.inputs, [&](tile::Kernel k) {
        for (tile::Axis& a : k.axes) a.tile = tile;
        EXPECT_EQ(tile::to_string(tile::parse_kernel(tile::to_string(k))), tile::to_string(k));
        return k;
      });
      const Difference d = compare(got[0], want[0]);
      ASSERT_LE(d.error, test::bound_of(c)) << "tile " << tile << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
}

TEST(OpSweep, SpecialValuesThroughTiles) {
  for (const test::Case& c : test::special_cases()) {
    SCOPED_TRACE(c.name);
    const auto got = test::run_tiles(c.graph, c.inputs, [](tile::Kernel k) {
      for (tile::Axis& a : k.axes) a.tile = 5;
      return k;
    });
    EXPECT_EQ(test::class_mismatch(got[0], interpret(c.graph, c.inputs)[0], tolerance_of(c.graph).bound(), !test::sums(c.op)), "");
  }
}

TEST(OpSweep, HundredThousandRowsThroughTiles) {
  for (const test::Case& c : test::many_rows(100000)) {
    SCOPED_TRACE(c.name);
    const std::vector<HostTensor> want = interpret(c.graph, c.inputs);
    const auto got = test::run_tiles(c.graph, c.inputs, [](tile::Kernel k) {
      for (tile::Axis& a : k.axes) a.tile = 512;
      return k;
    });
    for (size_t o = 0; o < want.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      EXPECT_LE(d.error, tolerance_of(c.graph).bound()) << c.graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
}

// Three lanes at once, each against the op on that lane's arguments.
TEST_P(OpSweep, Vmap) {
  constexpr int64_t lanes = 3;
  const Op op = GetParam();
  const bool no_form = means<Take>(op) || means<PutAdd>(op) || means<Source>(op) || op == Op::pad || op == Op::window;   // of batched indices, of a batched fill
  std::mt19937_64 random(1);
  for (const test::Case& c : test::cases_of(op)) {
    if (c.inputs.empty() || c.graph.type(c.graph.inputs[0]).dtype != c.graph.type(c.graph.inputs.back()).dtype) continue;
    if (c.graph.type(c.graph.inputs[0]).dtype != DType::f64) continue;   // axes do not depend on the dtype
    SCOPED_TRACE(c.name);
    const Sample sample = def_of(op).samples(c.dtype)[c.sample];
    GraphBuilder b;
    Attrs call, which;
    call.transform = Transform::vmap;
    call.body = std::make_shared<const Graph>(c.graph);
    which.index = {0};
    std::vector<NodeId> args;
    std::vector<HostTensor> inputs;
    for (NodeId i : c.graph.inputs) {
      Type wide = c.graph.type(i);
      wide.shape.insert(wide.shape.begin(), lanes);
      args.push_back(b.input("", wide));
      inputs.push_back(test::random_tensor(wide, sample.low, sample.high, random));
    }
    b.output("y", b.add(Op::result, {b.add(Op::call, args, call)}, which));
    PassContext context;
    if (no_form) {
      EXPECT_THROW(expand(b.finish(), context), Error);
      continue;
    }
    const HostTensor got = interpret(expand(b.finish(), context), inputs)[0];
    for (int64_t lane = 0; lane < lanes; ++lane) {
      std::vector<HostTensor> slices;
      for (size_t a = 0; a < inputs.size(); ++a) {
        HostTensor& slice = slices.emplace_back(inputs[a].dtype, c.inputs[a].shape);
        for (int64_t i = 0; i < slice.size(); ++i) slice.set(i, inputs[a].get(lane * slice.size() + i));
      }
      const HostTensor want = interpret(expand(c.graph, context), slices)[0];
      ASSERT_EQ(got.size(), lanes * want.size());
      for (int64_t i = 0; i < want.size(); ++i) ASSERT_DOUBLE_EQ(got.at(lane * want.size() + i), want.at(i)) << "lane " << lane << " element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, OpSweep, testing::ValuesIn(test::swept_ops()), [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace quern
