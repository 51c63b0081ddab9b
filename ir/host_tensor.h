// A dense row-major tensor in host memory: constants, inputs, outputs, checkpoints, the interpreter's values.
#pragma once
#include <cstddef>
#include <vector>

#include "ir/dtype.h"
#include "ir/support/arith.h"

namespace quern {

struct HostTensor {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<std::byte> bytes;

  HostTensor() = default;
  HostTensor(DType dtype, Shape shape);                 // zeros
  static HostTensor full(DType dtype, Shape shape, double value);
  static HostTensor from(DType dtype, Shape shape, const std::vector<double>& values);

  int64_t size() const { return count(shape); }         // elements
  Scalar get(int64_t i) const { return load_scalar(dtype, bytes.data() + i * size_of(dtype)); }
  void set(int64_t i, const Scalar& value) { store_scalar(value, bytes.data() + i * size_of(dtype)); }
  double at(int64_t i) const { return get(i).as_double(); }
  std::vector<double> to_doubles() const;
  template <class T>
  T* data() { return reinterpret_cast<T*>(bytes.data()); }
  template <class T>
  const T* data() const { return reinterpret_cast<const T*>(bytes.data()); }
  bool operator==(const HostTensor&) const = default;   // bytes
};

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): 32 random bits for
/// element `index` under (key, stream): word index%4 of the block whose counter is index/4.
uint32_t philox(uint32_t key, uint32_t stream, uint64_t index);

}  // namespace quern
