// A dense row-major tensor in host memory: constants, inputs, outputs, checkpoints, the interpreter's values.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "ir/dtype.h"
#include "ir/support/arith.h"

namespace quern {

/// So many bytes, at first 0. Nothing is written until then: the pages of what stays 0 (first values of an optimizer) are never touched.
class ZeroedBytes {
 public:
  ZeroedBytes() = default;
  explicit ZeroedBytes(size_t size) : data_(static_cast<std::byte*>(std::calloc(std::max<size_t>(size, 1), 1))), size_(size) {
    if (!data_) throw std::bad_alloc();
  }
  ZeroedBytes(const ZeroedBytes& o) : ZeroedBytes(o.size_) { std::copy(o.begin(), o.end(), begin()); }
  ZeroedBytes(ZeroedBytes&& o) noexcept : data_(std::move(o.data_)), size_(std::exchange(o.size_, 0)) {}
  ZeroedBytes& operator=(ZeroedBytes o) noexcept { return data_.swap(o.data_), std::swap(size_, o.size_), *this; }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::byte& operator[](size_t i) { return data()[i]; }
  const std::byte& operator[](size_t i) const { return data()[i]; }
  std::byte* begin() { return data(); }
  std::byte* end() { return data() + size_; }
  const std::byte* begin() const { return data(); }
  const std::byte* end() const { return data() + size_; }
  bool operator==(const ZeroedBytes& o) const { return std::equal(begin(), end(), o.begin(), o.end()); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_ = 0;
};

struct HostTensor {
  DType dtype = DType::f32;
  Shape shape;
  ZeroedBytes bytes;

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
