// Casts on a device, whole dtypes at a time: all codes of 8 and 4 bits to every dtype, all f16 values and the halfway
// cases of f32 and f64 to 8 bits, integers beyond 2^63; bit-equal to the interpreter's.
#include "tests/support/device.h"

namespace quern {
namespace {

class Casts : public test::OnDevice {
 protected:
  // x cast to every dtype.
  void matches(const HostTensor& x) {
    GraphBuilder b;
    const NodeId in = b.input("x", {x.dtype, x.shape, {}});
    for (int d = 0; d < kDTypeCount; ++d) {
      Attrs to;
      to.dtype = {static_cast<DType>(d)};
      b.output(std::string(name_of(to.dtype[0])), b.add(Op::cast, {in}, to));
    }
    const Graph graph = b.finish();
    const std::vector<HostTensor> want = interpret(graph, {x}), got = compiled(graph)->run({x});
    ASSERT_EQ(got.size(), static_cast<size_t>(kDTypeCount));
    for (size_t d = 0; d < got.size(); ++d)
      for (int64_t i = 0; i < x.size(); ++i) {
        const Scalar g = got[d].get(i), w = want[d].get(i);
        ASSERT_TRUE(g == w || (std::isnan(g.as_double()) && std::isnan(w.as_double())))
            << name_of(x.dtype) << " " << x.at(i) << " to " << name_of(got[d].dtype) << ": got " << g.as_double() << ", want " << w.as_double();
      }
  }
};

TEST_F(Casts, EveryCodeOfFewBits) {
  for (DType d : {DType::i8, DType::u8, DType::f8e4m3, DType::f8e5m2, DType::i4, DType::u4}) {
    HostTensor x(d, {256});
    for (int64_t i = 0; i < 256; ++i) x.bytes[static_cast<size_t>(i)] = static_cast<std::byte>(i);   // of 4 bits, also what is not read
    matches(x);
  }
}

TEST_F(Casts, EveryHalf) {
  for (DType d : {DType::f16, DType::bf16}) {
    HostTensor x(d, {65536});
    for (int64_t i = 0; i < 65536; ++i) x.data<uint16_t>()[i] = static_cast<uint16_t>(i);
    matches(x);
  }
}

TEST_F(Casts, HalfwayBetweenEightBits) {
  for (DType d : {DType::f32, DType::f64}) {
    std::vector<double> values = {0.0, -0.0, 1e-30, 1e30, 0x1p-126, 0x1.fffffep127, INFINITY, -INFINITY, NAN};
    for (DType to : {DType::f8e4m3, DType::f8e5m2})
      for (int code = 0; code < (to == DType::f8e4m3 ? 0x7e : 0x7b); ++code) {
        const double middle = (from_f8_bits(to, static_cast<uint8_t>(code)) + from_f8_bits(to, static_cast<uint8_t>(code + 1))) / 2;
        for (double x : {middle, d == DType::f64 ? std::nextafter(middle, 0.0) : std::nextafterf(static_cast<float>(middle), 0.f), d == DType::f64 ? std::nextafter(middle, 1e9) : std::nextafterf(static_cast<float>(middle), 1e9f)})
          values.insert(values.end(), {x, -x});
      }
    for (double edge : {448.0, 464.0, 480.0, 57344.0, 61440.0, 65536.0, 0x1p63, 0x1p64, 0x1p31, 32768.0, 128.0, 8.0})
      for (double x : {edge, std::nextafterf(static_cast<float>(edge), 0.f) + 0.0, std::nextafterf(static_cast<float>(edge), 1e30f) + 0.0, edge - 0.5}) values.insert(values.end(), {x, -x});
    matches(HostTensor::from(d, {static_cast<int64_t>(values.size())}, values));
  }
}

TEST_F(Casts, IntegersOfEveryWidth) {
  std::mt19937_64 random(3);
  for (DType d : {DType::i64, DType::u64, DType::i32, DType::u32, DType::i16, DType::u16}) {
    HostTensor x(d, {1000});
    for (int64_t i = 0; i < x.size(); ++i) {   // of f32's 24 bits, so that no short float is rounded twice
      const int64_t v = static_cast<int64_t>((random() >> 58) << (random() % 60));
      x.set(i, Scalar::of_int(d, i % 2 ? v : -v));
    }
    matches(x);
  }
}

}  // namespace
}  // namespace quern
