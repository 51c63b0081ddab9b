// Dtypes one value at a time: 8-bit floats against a search for the nearest of their 256 codes, 4-bit integers, u64 above
// 2^63, text, checkpoints; and what storage dtypes refuse.
#include <bit>
#include <cmath>
#include <cstdio>

#include <gtest/gtest.h>

#include "frontend/checkpoint.h"
#include "frontend/tensor.h"
#include "ir/interpret.h"
#include "ir/support/reader.h"
#include "ir/text.h"
#include "passes/pass.h"

namespace quern {
namespace {

constexpr DType kF8[] = {DType::f8e4m3, DType::f8e5m2};
std::vector<DType> all_dtypes() {
  std::vector<DType> out;
  for (int d = 0; d < kDTypeCount; ++d) out.push_back(static_cast<DType>(d));
  return out;
}

// By the tables of the format: sign, exponent of bias 7 or 15, three or two bits after the leading one.
double value_of(DType d, int code) {
  const int mantissa = d == DType::f8e4m3 ? 3 : 2, bias = d == DType::f8e4m3 ? 7 : 15, body = code & 127;
  const int exponent = body >> mantissa, rest = body & ((1 << mantissa) - 1);
  const double fraction = rest / std::pow(2.0, mantissa);
  const double size = exponent == 0 ? fraction * std::pow(2.0, 1 - bias) : (1 + fraction) * std::pow(2.0, exponent - bias);
  return code & 128 ? -size : size;
}
int last_of(DType d) { return d == DType::f8e4m3 ? 0x7e : 0x7b; }   // the code of the largest number

// The nearest code; between two, the even one. One past the last is where overflow begins.
int nearest(DType d, double x) {
  const int sign = std::signbit(x) ? 128 : 0, special = d == DType::f8e4m3 ? 0x7f : 0x7c;
  if (std::isnan(x)) return sign | (d == DType::f8e4m3 ? 0x7f : 0x7e);
  if (std::fabs(x) > value_of(d, last_of(d) + 1)) return sign | special;
  int best = 0;
  for (int code = 0; code <= last_of(d) + 1; ++code) {
    const double off = std::fabs(value_of(d, code) - std::fabs(x)), least = std::fabs(value_of(d, best) - std::fabs(x));
    if (off < least || (off == least && code % 2 == 0)) best = code;
  }
  return sign | best;
}

TEST(DTypes, SizesAndNames) {
  for (DType d : all_dtypes()) {
    EXPECT_EQ(parse_dtype(name_of(d)), d);
    EXPECT_LE(is_float(d) + is_integer(d) + is_storage(d) + (d == DType::boolean), 1) << name_of(d);
    EXPECT_EQ(is_float(d) + is_integer(d) + is_storage(d) + (d == DType::boolean), 1) << name_of(d);
    EXPECT_LE(bits_of(d), 8 * size_of(d));
  }
}

TEST(DTypes, EightBitFloatsAreTheirCodes) {
  for (DType d : kF8)
    for (int code = 0; code < 256; ++code) {
      const uint8_t memory = static_cast<uint8_t>(code);
      const Scalar s = load_scalar(d, &memory);
      const double x = s.as_double();
      const bool number = (code & 127) <= last_of(d);
      const double infinity = code & 128 ? -INFINITY : INFINITY;
      const bool good = number ? x == value_of(d, code) : d == DType::f8e5m2 && (code & 127) == 0x7c ? x == infinity : std::isnan(x);
      EXPECT_TRUE(good) << name_of(d) << " " << code << " is " << x;
      EXPECT_TRUE(std::isnan(x) || Scalar::of(d, x) == s) << name_of(d) << " " << code;
      uint8_t back = 0;
      store_scalar(s, &back);
      EXPECT_EQ(back, code);
      const std::string text = number_text(s);
      Reader r(text, "t");
      const Scalar read = read_scalar(r, d);
      EXPECT_TRUE(read == s || (std::isnan(x) && std::isnan(read.as_double()))) << text;
    }
}

TEST(DTypes, FloatsBecomeTheNearestOfEightBits) {
  for (DType d : kF8) {
    for (int bits = 0; bits < 65536; ++bits) {
      const double x = from_f16_bits(static_cast<uint16_t>(bits));
      ASSERT_EQ(to_f8_bits(d, x), nearest(d, x)) << name_of(d) << " of " << x;
    }
    // Halfway, and the neighbours of that in f64: rounding twice would show.
    for (int code = 0; code <= last_of(d); ++code) {
      const double middle = (value_of(d, code) + value_of(d, code + 1)) / 2;
      for (double x : {middle, std::nextafter(middle, 0.0), std::nextafter(middle, 1e9)})
        for (double y : {x, -x}) ASSERT_EQ(to_f8_bits(d, y), nearest(d, y)) << name_of(d) << " of " << y;
    }
    for (double x : {1e300, 1e-300, 0x1p-1074, -0.0}) EXPECT_EQ(to_f8_bits(d, x), nearest(d, x)) << x;
  }
}

TEST(DTypes, IntegersWrapAndSaturate) {
  for (DType d : all_dtypes()) {
    if (!is_integer(d) && d != DType::i4 && d != DType::u4) continue;
    const int bits = static_cast<int>(bits_of(d));
    const double low = is_unsigned(d) ? 0 : -std::ldexp(1, bits - 1), high = std::ldexp(1, is_unsigned(d) ? bits : bits - 1);
    EXPECT_EQ(Scalar::of(d, -INFINITY).as_double(), low) << name_of(d);
    EXPECT_EQ(Scalar::of(d, 1e30), Scalar::of_int(d, is_unsigned(d) ? -1 : static_cast<int64_t>(~uint64_t{0} >> (65 - bits)))) << name_of(d);
    EXPECT_EQ(Scalar::of(d, high / 2).as_double(), high / 2) << name_of(d);
    EXPECT_EQ(Scalar::of(d, -2.9).as_double(), is_unsigned(d) ? 0 : -2) << name_of(d);
    EXPECT_EQ(Scalar::of(d, NAN).i, 0);
    if (bits < 64)
      for (int64_t v : {int64_t{-9}, int64_t{8}, int64_t{300}, int64_t{-70000}, int64_t{1} << 40}) {
        const double wrapped = Scalar::of_int(d, v).as_double();
        EXPECT_EQ(std::fmod(static_cast<double>(v) - wrapped, std::ldexp(1, bits)), 0) << name_of(d) << " " << v;
        EXPECT_TRUE(wrapped >= low && wrapped < high) << name_of(d) << " " << v;
      }
  }
  const uint8_t any = 0xf9;   // the upper bits of a 4-bit integer's byte are not read
  EXPECT_EQ(load_scalar(DType::u4, &any).i, 9);
  EXPECT_EQ(load_scalar(DType::i4, &any).i, -7);
}

TEST(DTypes, UnsignedAboveTwoToThe63) {
  const Scalar big = Scalar::of(DType::u64, 0x1.8p63), one = Scalar::of_int(DType::u64, 1), most = Scalar::of_int(DType::u64, -1);
  const auto apply = [](Op op, const Scalar& x, const Scalar& y) { return apply_scalar(op, scalar_result(op, x.dtype), std::array{x, y}); };
  EXPECT_EQ(big.as_double(), 0x1.8p63);
  EXPECT_EQ(number_text(most), "18446744073709551615");
  Reader r("18446744073709551615", "t");
  EXPECT_EQ(read_scalar(r, DType::u64), most);
  Reader negative("-1", "t");
  EXPECT_THROW(read_scalar(negative, DType::u64), Error);
  EXPECT_EQ(apply(Op::lt, one, big).i, 1);
  EXPECT_EQ(apply(Op::le, big, one).i, 0);
  EXPECT_EQ(apply(Op::max, one, big), big);
  EXPECT_EQ(apply(Op::min, one, big), one);
  EXPECT_EQ(apply(Op::div, most, Scalar::of_int(DType::u64, 10)), Scalar::of_int(DType::u64, 1844674407370955161));
  EXPECT_EQ(apply(Op::mod, most, Scalar::of_int(DType::u64, 10)), Scalar::of_int(DType::u64, 5));
  EXPECT_EQ(apply(Op::rem, most, big), Scalar::of_int(DType::u64, (int64_t{1} << 62) - 1));
  EXPECT_EQ(apply(Op::div, most, Scalar::of_int(DType::u64, 0)).i, 0);
  EXPECT_EQ(apply(Op::shift_right_arithmetic, most, Scalar::of_int(DType::u64, 63)), one);
  EXPECT_EQ(apply(Op::add, most, one).i, 0);
  EXPECT_EQ(apply_scalar(Op::sign, DType::u64, std::array{big}), one);
  EXPECT_EQ(apply_scalar(Op::abs, DType::u64, std::array{big}), big);
  EXPECT_EQ(apply_scalar(Op::cast, DType::f32, std::array{most}).f, 0x1p64);
  EXPECT_EQ(apply_scalar(Op::cast, DType::f64, std::array{big}).f, 0x1.8p63);
  EXPECT_EQ(apply_scalar(Op::cast, DType::u64, std::array{Scalar::of(DType::f32, 0x1.8p63)}), big);
  EXPECT_EQ(identity_of(Op::min, DType::u64), most);
  EXPECT_EQ(identity_of(Op::max, DType::u64).i, 0);
}

TEST(DTypes, GraphsRoundTripAsText) {
  for (DType d : all_dtypes()) {
    Model m;
    HostTensor values(d, {4});
    for (int64_t i = 0; i < 4; ++i) values.set(i, Scalar::of(d, i == 3 ? 1e30 : static_cast<double>(1 - i)));
    m.output("y", cast(concat({m.constant(values), m.input("x", d, {2})}, 0), DType::f64));
    const Graph g = m.finish();
    EXPECT_EQ(to_string(parse_graph(to_string(g))), to_string(g));
  }
}

TEST(DTypes, CheckpointsHoldThem) {
  const std::string path = testing::TempDir() + "quern_dtypes.safetensors";
  NamedTensors tensors;
  for (DType d : all_dtypes()) {
    HostTensor t(d, {3});
    for (int64_t i = 0; i < 3; ++i) t.set(i, Scalar::of_int(d, i - 1));
    tensors.emplace_back(std::string(name_of(d)), t);
  }
  save_safetensors(path, tensors);
  for (const auto& [name, t] : load_safetensors(path))
    for (const auto& [wanted, w] : tensors) {
      if (name != wanted) continue;
      EXPECT_EQ(t.bytes, w.bytes) << name;
      EXPECT_EQ(t.dtype, w.dtype == DType::i4 ? DType::i8 : w.dtype == DType::u4 ? DType::u8 : w.dtype);
    }
  std::remove(path.c_str());
}

// Every op that computes, on each storage dtype in place of one that it takes.
TEST(DTypes, StorageIsCastBeforeItIsComputedWith) {
  int refused = 0;
  for (int o = 0; o < kOpCount; ++o)
    for (DType storage : {DType::f8e4m3, DType::f8e5m2, DType::i4, DType::u4}) {
      const OpDef& def = def_of(static_cast<Op>(o));
      const DType taken = def.samples(DType::f32).empty() ? DType::i32 : DType::f32;
      if (def.samples(taken).empty() || !def.samples(storage).empty()) continue;
      Sample s = def.samples(taken).at(0);
      GraphBuilder b;
      std::vector<NodeId> args;
      for (Type& t : s.args) {
        if (t.dtype == taken) t.dtype = storage;
        args.push_back(b.input("x" + std::to_string(args.size()), t));
      }
      if (!s.attrs.dtype.empty()) s.attrs.dtype = {storage};
      try {
        b.add(def.op, args, s.attrs);
        ADD_FAILURE() << def.name << " takes " << name_of(storage);
      } catch (const Error& e) {
        EXPECT_EQ(e.code, Code::dtype_unsupported) << e.what();
        EXPECT_NE(e.help.find(def.op == Op::iota || !is_f8(storage) ? "i32" : "f32"), std::string::npos) << def.name << ": " << e.help;
        EXPECT_NE(e.message.find("storage"), std::string::npos) << e.message;
        ++refused;
      }
    }
  EXPECT_GT(refused, 150);
}

TEST(DTypes, NoDerivativeFlowsThroughEightBits) {
  Model m;
  const Tensor x = m.input("x", DType::f32, {3});
  m.output("g", grad(sum(cast(cast(x, DType::f8e4m3), DType::f32) + x * 2), {x})[0]);
  PassContext context;
  EXPECT_EQ(interpret(expand(m.finish(), context), {HostTensor::from(DType::f32, {3}, {1, 2, 3})})[0], HostTensor::from(DType::f32, {3}, {2, 2, 2}));
}

TEST(DTypes, BitsChangeTheirDType) {
  const auto bits = [](DType to, const Scalar& x) { return apply_scalar(Op::bitcast, to, std::array{x}); };
  EXPECT_EQ(bits(DType::i32, Scalar::of(DType::f32, 1.5)).i, 0x3fc00000);
  EXPECT_EQ(bits(DType::u64, Scalar::of(DType::f64, -0.0)), Scalar::of(DType::u64, 0x1p63));
  EXPECT_EQ(bits(DType::bf16, Scalar::of_int(DType::i16, 0x3f80)).f, 1);
  EXPECT_EQ(bits(DType::f16, Scalar::of_int(DType::u16, 0xfbff)).f, -65504);
  EXPECT_EQ(bits(DType::f8e5m2, Scalar::of(DType::f8e4m3, 1)).as_double(), 0.5);
  EXPECT_EQ(bits(DType::i8, Scalar::of_int(DType::u8, 255)).i, -1);
  EXPECT_EQ(bits(DType::u4, Scalar::of_int(DType::i4, -1)).i, 15);
  Model m;
  const Tensor x = m.input("x", DType::f32, {3});
  EXPECT_THROW(bitcast(x, DType::i16), Error);
  EXPECT_THROW(bitcast(cast(x, DType::u8), DType::boolean), Error);
  EXPECT_THROW(bitcast(cast(x, DType::u8), DType::u4), Error);
}

}  // namespace
}  // namespace quern
