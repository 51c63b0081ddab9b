// Host tensors and the counter-based generator; see host_tensor.h.
#include "ir/host_tensor.h"

#include "ir/support/memory.h"

namespace quern {

static size_t affordable(int64_t bytes) {
  want_memory("a tensor", static_cast<double>(bytes));
  return static_cast<size_t>(bytes);
}

HostTensor::HostTensor(DType dtype, Shape shape_)
    : dtype(dtype), shape(std::move(shape_)), bytes(affordable(checked_mul(count(shape), size_of(dtype)))) {}

HostTensor HostTensor::full(DType dtype, Shape shape, double value) {
  HostTensor out(dtype, std::move(shape));
  const Scalar s = Scalar::of(dtype, value);
  for (int64_t i = 0, n = out.size(); i < n; ++i) out.set(i, s);
  return out;
}

HostTensor HostTensor::from(DType dtype, Shape shape, const std::vector<double>& values) {
  HostTensor out(dtype, std::move(shape));
  QN_CHECK(out.size() == static_cast<int64_t>(values.size()), "as many values as the shape has elements");
  for (int64_t i = 0, n = out.size(); i < n; ++i) out.set(i, Scalar::of(dtype, values[i]));
  return out;
}

std::vector<double> HostTensor::to_doubles() const {
  std::vector<double> out(size());
  if (dtype == DType::f32)
    for (size_t i = 0; i < out.size(); ++i) out[i] = data<float>()[i];
  else
    for (size_t i = 0; i < out.size(); ++i) out[i] = at(static_cast<int64_t>(i));
  return out;
}

uint32_t philox(uint32_t key, uint32_t stream, uint64_t index) {
  const uint64_t block = index / 4;
  uint32_t c[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0};
  uint32_t k0 = key, k1 = stream;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0], p1 = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
                              static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c[index % 4];
}

}  // namespace quern
