// Hand-written kernels in text against direct computation: each statement of the tile IR, with every tile size of a
// small set, gives the same; the text round-trips; the verifier and the parser refuse what is wrong.
#include <array>
#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "ir/tile/kernel.h"

namespace quern::tile {
namespace {

HostTensor ramp(Shape shape, double scale) {
  HostTensor t(DType::f32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.set(i, Scalar::of(DType::f32, std::sin(static_cast<double>(i) * 1.7) * scale));
  return t;
}

/// Runs the kernel with all axes at each tile size in turn; checks that the text round-trips.
template <class Check>
void for_tiles(const std::string& text, const std::vector<HostTensor>& inputs, HostTensor out, Check&& check) {
  const Kernel parsed = parse_kernel(text);
  ASSERT_EQ(to_string(parse_kernel(to_string(parsed))), to_string(parsed));
  for (int64_t tile : {1, 2, 3, 4, 7, 64}) {
    SCOPED_TRACE(tile);
    Kernel k = parsed;
    for (size_t a = 0; a < k.axes.size(); ++a)
      if (!is_walked(k, static_cast<AxisId>(a))) k.axes[a].tile = tile;
    std::vector<HostTensor> storage = inputs;
    storage.push_back(HostTensor::full(out.dtype, out.shape, 99));   // every element must be stored
    std::vector<HostTensor*> buffers;
    for (HostTensor& t : storage) buffers.push_back(&t);
    interpret(k, buffers);
    check(storage.back());
  }
}

constexpr const char* kMap = R"(kernel k(%p0: in f32[5,3], %p1: in f32[3], %p2: out f32[3,5]) {
  axis i0<3 by 1
  axis i1<5 by 2 lanes
  grid (i0) {
    each (i1) {
      %0: f32[i0, i1] = load %p0[i1, i0]
      %1: f32[i0] = load %p1[i0]
      %2: f32[i0, i1] = map(let t0 = add(a0, a1); select(lt(coord(i1 + i0*-1), 1:i64), mul(t0, t0), -inf:f32)) (%0, %1)
      store %p2[i0, i1] = %2
    }
  }
}
)";

TEST(TileInterpret, MapTransposesBroadcastsAndSeesCoordinates) {
  const HostTensor x = ramp({5, 3}, 2), b = ramp({3}, 1);
  EXPECT_EQ(to_string(parse_kernel(kMap)), kMap);
  for_tiles(kMap, {x, b}, HostTensor(DType::f32, {3, 5}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t j = 0; j < 5; ++j) {
        const float t = static_cast<float>(x.at(j * 3 + i) + b.at(i));
        EXPECT_EQ(got.at(i * 5 + j), j - i < 1 ? static_cast<double>(t * t) : -INFINITY);
      }
  });
}

TEST(TileInterpret, SoftmaxOfThreeSequences) {
  const HostTensor x = ramp({4, 10}, 3);
  for_tiles(R"(kernel softmax(%p0: in f32[4,10], %p1: out f32[4,10]) {
  axis i0<4 by 1
  axis i1<10 by 4
  grid (i0) {
    %9: f32[i0] = seq (i1) carry (%0: f32[i0] = -inf) {
      %1: f32[i0, i1] = load %p0[i0, i1]
      %2: f32[i0] = reduce<max> i1 (%1)
      %3: f32[i0] = map(max(a0, a1)) (%0, %2)
      yield %3
    }
    %19: f32[i0] = seq (i1) carry (%10: f32[i0] = 0) {
      %11: f32[i0, i1] = load %p0[i0, i1]
      %12: f32[i0, i1] = map(exp(sub(a0, a1))) (%11, %9)
      %13: f32[i0] = reduce<add> i1 (%12)
      %14: f32[i0] = map(add(a0, a1)) (%10, %13)
      yield %14
    }
    seq (i1) {
      %21: f32[i0, i1] = load %p0[i0, i1]
      %22: f32[i0, i1] = map(div(exp(sub(a0, a1)), a2)) (%21, %9, %19)
      store %p1[i0, i1] = %22
    }
  }
})", {x}, HostTensor(DType::f32, {4, 10}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 4; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < 10; ++j) sum += std::exp(x.at(i * 10 + j));
      for (int64_t j = 0; j < 10; ++j) EXPECT_NEAR(got.at(i * 10 + j), std::exp(x.at(i * 10 + j)) / sum, 1e-6);
    }
  });
}

TEST(TileInterpret, MatmulWithRaggedTilesInTwoCarries) {
  const HostTensor a = ramp({5, 11}, 1), b = ramp({11, 6}, 1);
  for_tiles(R"(kernel matmul(%p0: in f32[5,11], %p1: in f32[11,6], %p2: out f32[5,6]) {
  axis m<5 by 2
  axis n<6 by 4
  axis k<11 by 3
  grid (m, n) {
    %10: f32[m, n], %11: f32[m] = seq (k) carry (%0: f32[m, n] = 0, %1: f32[m] = 0) {
      %2: f32[m, k] = load %p0[m, k]
      %3: f32[n, k] = load %p1[k, n]
      %4: f32[m, n] = mma[f32] k (%0, %2, %3)
      %5: f32[m] = reduce<add> k (%2)
      %6: f32[m] = map(add(a0, a1)) (%1, %5)
      yield %4, %6
    }
    %12: f32[m, n] = map(add(a0, a1)) (%10, %11)
    store %p2[m, n] = %12
  }
})", {a, b}, HostTensor(DType::f32, {5, 6}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 5; ++i)
      for (int64_t j = 0; j < 6; ++j) {
        double want = 0;
        for (int64_t k = 0; k < 11; ++k) want += a.at(i * 11 + k) * (b.at(k * 6 + j) + 1);
        EXPECT_NEAR(got.at(i * 6 + j), want, 5e-6);
      }
  });
}

constexpr const char* kBounded = R"(kernel k(%p0: in f32[5,11], %p1: out f32[5]) {
  axis i0<5 by 1
  axis i1<11 by 1 from i0*2 - 3 to i0 + 4
  grid (i0) {
    %0: f32[i0] = seq (i1) carry (%1: f32[i0] = 0) {
      %2: f32[i0, i1] = load %p0[i0, i1]
      %3: f32[i0] = reduce<add> i1 (%2)
      %4: f32[i0] = map(add(a0, a1)) (%1, %3)
      yield %4
    }
    store %p1[i0] = %0
  }
}
)";
TEST(TileInterpret, ABoundedAxisWalksWholeBlocksWithinItsBounds) {
  const HostTensor x = ramp({5, 11}, 1);
  EXPECT_EQ(to_string(parse_kernel(kBounded)), kBounded);
  int64_t tile = 1;
  for_tiles(kBounded, {x}, HostTensor(DType::f32, {5}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 5; ++i) {
      const int64_t first = i / tile * tile, last = std::min<int64_t>(5, first + tile) - 1;
      double want = 0;
      for (int64_t j = std::max<int64_t>(0, first * 2 - 3) / tile * tile; j < std::min<int64_t>(11, (last + 4 + tile - 1) / tile * tile); ++j) want += x.at(i * 11 + j);
      EXPECT_NEAR(got.at(i), want, 1e-6) << tile;
    }
    tile = tile < 4 ? tile + 1 : tile == 4 ? 7
                                           : 64;
  });
  for (const auto& [from, to] : {std::pair<std::string, std::string>{"to i0 + 4", "to i0*-1 + 4"}, {"to i0 + 4", "to (i0 + 4)%2"}, {"i1<11", "i1<n<=11"}}) {
    std::string text = kBounded;
    text.replace(text.find(from), from.size(), to);
    EXPECT_THROW(verify(parse_kernel(text)), Error) << to;
  }
}

TEST(TileInterpret, GatherReadsZeroOutside) {
  const HostTensor x = ramp({4, 3}, 2), rows = HostTensor::from(DType::i32, {6}, {3, -1, 0, 4, 2, 2});
  for_tiles(R"(kernel take(%p0: in f32[4,3], %p1: in i32[6], %p2: out f32[6,3]) {
  axis i0<6 by 4
  axis i1<3 by 2
  grid (i0, i1) {
    %0: i32[i0] = load %p1[i0]
    %1: f32[i0, i1] = load %p0[%0, i1]
    store %p2[i0, i1] = %1
  }
})", {x, rows}, HostTensor(DType::f32, {6, 3}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 3; ++j) {
        const int64_t row = rows.get(i).i;
        EXPECT_EQ(got.at(i * 3 + j), row < 0 || row > 3 ? 0.0 : x.at(row * 3 + j));
      }
  });
}

TEST(TileInterpret, ScratchCarriesFromEachToSeq) {   // out[i] = sum over j of (x[i,j] + 1), backwards through a panel
  const HostTensor x = ramp({3, 7}, 2);
  for_tiles(R"(kernel panel(%p0: in f32[3,7], %p1: out f32[3], %s0: scratch f32[3,7]) {
  axis i0<3 by 2
  axis i1<7 by 3
  axis i2<7 by 2
  grid (i0) {
    each (i1) {
      %0: f32[i0, i1] = load %p0[i0, 6 - i1]
      %1: f32[i0, i1] = map(add(a0, 1:f32)) (%0)
      store %s0[i0, i1] = %1
    }
    %5: f32[i0] = seq (i2) carry (%2: f32[i0] = 0) {
      %3: f32[i0, i2] = load %s0[i0, i2]
      %4: f32[i0] = reduce<add> i2 (%3)
      %6: f32[i0] = map(add(a0, a1)) (%2, %4)
      yield %6
    }
    store %p1[i0] = %5
  }
})", {x}, HostTensor(DType::f32, {3}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 3; ++i) {
      double want = 7;
      for (int64_t j = 0; j < 7; ++j) want += x.at(i * 7 + j);
      EXPECT_NEAR(got.at(i), want, 5e-6);
    }
  });
}

TEST(TileInterpret, RandomBitsArePhilox) {
  const HostTensor key = HostTensor::from(DType::u32, {}, {42});
  for_tiles(R"(kernel bits(%p0: in u32[], %p1: out u32[3,5]) {
  axis i0<3 by 2
  axis i1<5 by 4
  grid (i0, i1) {
    %0: u32[] = load %p0[]
    %1: u32[i0, i1] = map(random<7>(a0, i0*5 + i1)) (%0)
    store %p1[i0, i1] = %1
  }
})", {key}, HostTensor(DType::u32, {3, 5}), [&](const HostTensor& got) {
    for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(got.get(i).i, philox(42, 7, static_cast<uint64_t>(i)));
  });
}

TEST(TileInterpret, ReduceOfNothingIsTheIdentityAndEdgesAreClipped) {
  for_tiles(R"(kernel none(%p0: in f32[2,0], %p1: out f32[2]) {
  axis i0<2 by 2
  axis i1<0 by 4
  axis i2<5 by 2
  grid (i2) {
    %2: f32[] = seq (i1) carry (%0: f32[] = -inf) {
      %1: f32[i1] = load %p0[0, i1]
      %3: f32[] = reduce<max> i1 (%1)
      yield %3
    }
    store %p1[i2 - 3] = %2
  }
})", {HostTensor(DType::f32, {2, 0})}, HostTensor(DType::f32, {2}), [&](const HostTensor& got) {
    EXPECT_EQ(got.at(0), -INFINITY);   // stores at -3 … -1 do nothing
    EXPECT_EQ(got.at(1), -INFINITY);
  });
}

constexpr const char* kUpdates = R"(kernel k(%p0: in f32[4,5], %p1: in i32[7], %p2: in f32[7,5], %p3: out f32[4,5]) {
  axis i0<5 by 1
  axis i1<4 by 1
  axis i2<7 by 1
  grid (i0) {
    each (i1) {
      %0: f32[i0, i1] = load %p0[i1, i0]
      store %p3[i1, i0] = %0
    }
    seq (i2) {
      %1: i32[i2] = load %p1[i2]
      %2: f32[i0, i2] = load %p2[i2, i0]
      %3: f32[i0, i2] = load %p3[%1, i0]
      %4: f32[i0, i2] = map(sub(mul(a0, 2:f32), a1)) (%3, %2)
      store %p3[%1, i0] = %4
    }
  }
}
)";

TEST(TileInterpret, StoresAtGatheredIndicesInOrder) {
  const HostTensor x = ramp({4, 5}, 2), u = ramp({7, 5}, 1);
  HostTensor rows(DType::i32, {7});
  for (int64_t n = 0; n < 7; ++n) rows.set(n, Scalar::of_int(DType::i32, std::array{2, 0, 2, -1, 2, 4, 0}[static_cast<size_t>(n)]));
  EXPECT_EQ(to_string(parse_kernel(kUpdates)), kUpdates);
  for_tiles(kUpdates, {x, rows, u}, HostTensor(DType::f32, {4, 5}), [&](const HostTensor& got) {
    for (int64_t c = 0; c < 5; ++c) {
      float want[4];
      for (int64_t r = 0; r < 4; ++r) want[r] = static_cast<float>(x.at(r * 5 + c));
      for (int64_t n = 0; n < 7; ++n)
        if (const int64_t r = rows.get(n).i; r >= 0 && r < 4) want[r] = want[r] * 2 - static_cast<float>(u.at(n * 5 + c));
      for (int64_t r = 0; r < 4; ++r) EXPECT_EQ(got.at(r * 5 + c), static_cast<double>(want[r]));
    }
  });
  Kernel k = parse_kernel(kUpdates);
  k.axes[2].tile = 2;   // two steps of one row at once
  EXPECT_THROW(verify(k), Error);
}

TEST(TileInterpret, TwoInstancesMayNotStoreOneElement) {
  const Kernel k = parse_kernel(R"(kernel race(%p0: out i64[2]) {
  axis i0<4 by 1
  grid (i0) {
    %0: i64[i0] = map(coord(i0)) ()
    store %p0[i0 % 2] = %0
  }
})");
  HostTensor out(DType::i64, {2});
  EXPECT_THROW(interpret(k, {&out}), Error);
}

TEST(TileText, DeepExpressionsAndSharedNodesRoundTrip) {
  Kernel k = parse_kernel(kMap);
  MapTile& m = std::get<MapTile>(std::get<Each>(k.phases[0].body[0].node).body[2].node);
  m.expr = {{ScalarNode::Kind::operand, DType::f32}};
  for (int i = 0; i < 100; ++i) {
    ScalarNode n{ScalarNode::Kind::op, DType::f32, i % 3 ? Op::exp : Op::mul, {i}};
    if (n.op == Op::mul) n.args.push_back(i);
    m.expr.push_back(std::move(n));
  }
  verify(k);
  const Kernel again = parse_kernel(to_string(k));
  verify(again);
  EXPECT_EQ(to_string(again), to_string(k));
}

TEST(TileText, StructureForgetsNames) {
  std::string renamed = kMap;
  for (size_t at; (at = renamed.find("i1")) != std::string::npos;) renamed.replace(at, 2, "columns");
  for (size_t at; (at = renamed.find("%p0")) != std::string::npos;) renamed.replace(at, 3, "%weights");
  renamed.replace(renamed.find("kernel k"), 8, "kernel other");
  EXPECT_EQ(structure(parse_kernel(renamed)), structure(parse_kernel(kMap)));
  EXPECT_NE(to_string(parse_kernel(renamed)), kMap);
}

TEST(TileText, EveryTruncationIsRefused) {
  const std::string text = kMap;
  for (size_t n = 0; n + 2 < text.size(); ++n) try {
      parse_kernel(text.substr(0, n));
      FAIL() << "accepted " << n << " bytes";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::bad_file) << e.what();
      EXPECT_NE(std::string(e.what()).find("<kernel>:"), std::string::npos) << e.what();
    }
}

TEST(TileText, RandomBytesNeverCrash) {
  std::mt19937 random(5);
  int refused = 0;
  for (int k = 0; k < 2000; ++k) {
    std::string text = kMap;
    for (int i = 0; i < 2; ++i) text[random() % text.size()] = static_cast<char>(random() % 8 ? 32 + random() % 95 : random() % 256);
    try {
      verify(parse_kernel(text));
    } catch (const Error& e) {
      EXPECT_TRUE(e.kind == ErrorKind::bad_file || e.kind == ErrorKind::internal) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(TileText, IndicesThatWrapAreRefused) {
  for (const char* index : {"i0*4611686018427387904", "i0*1099511627776*1099511627776", "9223372036854775807 + i0", "i0 % 0", "i0 // -1"}) {
    std::string text = kMap;
    text.replace(text.find("%p1[i0]") + 4, 2, index);
    EXPECT_THROW(parse_kernel(text), Error) << index;
  }
}

struct Damage {
  const char *from, *to;
};

TEST(TileVerify, NamesWhatIsWrong) {
  const std::vector<Damage> cases = {
      {"each (i1)", "each ()"},                                   // an axis that is not open
      {"grid (i0)", "grid (i0, i1)"},                             // open twice
      {"= load %p1[i0]", "= load %p1[i0, i0]"},                   // rank
      {"= load %p1[i0]", "= load %p1[i1]"},                       // a load without the axis of its index
      {"%p1: in f32[3]", "%p1: in f16[3]"},                       // a load's dtype
      {"%p2: out f32[3,5]", "%p2: out f64[3,5]"},                 // a store's dtype
      {"%2: f32[i0, i1] =", "%2: f64[i0, i1] ="},                 // a map's dtype
      {"%2: f32[i0, i1] =", "%2: f32[i0] ="},                     // a map without an axis that it reads
      {"store %p2[i0, i1]", "store %p0[i0, i1]"},                 // an input
      {"store %p2[i0, i1]", "store %p2[i0, 0]"},                  // a stored axis that the index lacks
      {"f32[i0, i1] = load", "f32[i1, i0] = load"},               // axes out of order
  };
  verify(parse_kernel(kMap));
  for (const Damage& c : cases) {
    std::string text = kMap;
    const size_t at = text.find(c.from);
    ASSERT_NE(at, std::string::npos) << c.from;
    text.replace(at, std::string(c.from).size(), c.to);
    const Kernel k = parse_kernel(text);
    try {
      verify(k);
      ADD_FAILURE() << "accepted " << c.from << " -> " << c.to;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::internal);
    }
  }
}

}  // namespace
}  // namespace quern::tile
