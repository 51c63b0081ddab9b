// Every op × dtype × sample, one test per op: the type rule agrees with the evaluation, the text round-trips, the
// lowered kernels, with tiles of 1 and with ragged tiles, give what the graph interpreter gives, and so does vmap.
#include <set>

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
        test::tile_by(k, tile);
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
      test::tile_by(k, 5);
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
      test::tile_by(k, 512);
      return k;
    });
    for (size_t o = 0; o < want.size(); ++o) {
      const Difference d = compare(got[o], want[o]);
      EXPECT_LE(d.error, tolerance_of(c.graph).bound()) << c.graph.outputs[o].name << " element " << d.at << ": got " << d.got << ", want " << d.want;
    }
  }
}

// Three lanes at once, each against the op on that lane's arguments: all arguments batched, or each alone, along their
// first axis, their last, or between.
TEST_P(OpSweep, Vmap) {
  constexpr int64_t lanes = 3;
  std::mt19937_64 random(1);
  for (const test::Case& c : test::cases_of(GetParam())) {
    if (c.dtype != DType::f64 && c.dtype != DType::i32 && c.dtype != DType::u32 && c.dtype != DType::u64 && c.dtype != DType::f8e4m3 && c.dtype != DType::boolean) continue;   // axes do not depend on it
    SCOPED_TRACE(c.name);
    const Sample sample = def_of(c.op).samples(c.dtype)[c.sample];
    PassContext context;
    GraphBuilder inner;   // an op without arguments gets one that it does not use
    std::vector<NodeId> inside;
    for (NodeId i : c.graph.inputs) inside.push_back(inner.input(fmt::format("x{}", inside.size()), c.graph.type(i)));
    inner.output("y", inner.inline_body(c.graph, inside)[0]);
    if (inside.empty()) inner.input("", {DType::f32, {}, {}});
    const Graph body = inner.finish();
    const size_t n = body.inputs.size();
    const auto rank = [&](size_t a) { return body.type(body.inputs[a]).rank(); };
    std::set<Shape> variants = {Shape(n, 0)};
    Shape last, between;
    for (size_t a = 0; a < n; ++a) {
      last.push_back(rank(a));
      between.push_back(std::min(rank(a), static_cast<int64_t>(a + 1)));
      Shape alone(n, -1);
      alone[a] = rank(a) / 2;
      variants.insert(alone);
    }
    variants.insert(last);
    variants.insert(between);
    for (const Shape& axes : variants) {
      SCOPED_TRACE(testing::PrintToString(axes));
      GraphBuilder b;
      Attrs call, which;
      call.transform = Transform::vmap;
      call.body = std::make_shared<const Graph>(body);
      call.axes = axes;
      which.index = {0};
      std::vector<NodeId> args;
      std::vector<HostTensor> inputs;
      for (size_t a = 0; a < n; ++a) {
        Type wide = body.type(body.inputs[a]);
        if (axes[a] >= 0) wide.shape.insert(wide.shape.begin() + axes[a], lanes);
        args.push_back(b.input(fmt::format("x{}", a), wide));
        inputs.push_back(test::random_tensor(wide, sample.low, sample.high, random));
      }
      b.output("y", b.add(Op::result, {b.add(Op::call, args, call)}, which));
      const Graph graph = b.finish();
      ASSERT_TRUE(parse_graph(to_string(graph)) == graph) << to_string(graph);
      const Graph batched = expand(graph, context);
      verify(batched);
      const HostTensor got = interpret(batched, inputs)[0];
      for (int64_t lane = 0; lane < lanes; ++lane) {
        std::vector<HostTensor> slices;
        for (size_t a = 0; a < n; ++a) {
          HostTensor& slice = slices.emplace_back(inputs[a].dtype, body.type(body.inputs[a]).shape);
          const int64_t inner_size = axes[a] < 0 ? 1 : count({slice.shape.begin() + axes[a], slice.shape.end()});
          for (int64_t i = 0; i < slice.size(); ++i)
            slice.set(i, inputs[a].get(axes[a] < 0 ? i : (i / inner_size * lanes + lane) * inner_size + i % inner_size));
        }
        const HostTensor want = interpret(expand(body, context), slices)[0];
        ASSERT_EQ(got.dtype, want.dtype);
        ASSERT_EQ(got.size(), lanes * want.size());
        for (int64_t i = 0; i < want.size(); ++i) {
          const double g = got.at(lane * want.size() + i), w = want.at(i);
          if (std::isnan(g) && std::isnan(w)) continue;
          ASSERT_DOUBLE_EQ(g, w) << "lane " << lane << " element " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, OpSweep, testing::ValuesIn(test::swept_ops()), [](const auto& info) { return std::string(name_of(info.param)); });

}  // namespace quern
