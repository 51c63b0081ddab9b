// The inputs of the benchmarks: splitmix64 of (stream, index), so that the peers of bench/peers/ compute on the same
// bits (see data() in bench/peers/common.py) and every result can be compared with theirs before it is timed.
#pragma once
#include <cmath>

#include "ir/host_tensor.h"

namespace quern::bench {

inline uint64_t bits(uint64_t stream, uint64_t index) {
  uint64_t z = (stream << 32) + index + 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

/// f32 in [-scale, scale), 24 random bits each.
inline float uniform_at(uint64_t stream, int64_t i, float scale = 1) { return (static_cast<float>(bits(stream, static_cast<uint64_t>(i)) >> 40) * 0x1p-23f - 1.0f) * scale; }
inline HostTensor uniform(uint64_t stream, Shape shape, float scale = 1) {
  HostTensor t(DType::f32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = uniform_at(stream, i, scale);
  return t;
}

/// i32 in [0, classes).
inline HostTensor labels(uint64_t stream, int64_t n, int64_t classes) {
  HostTensor t(DType::i32, {n});
  for (int64_t i = 0; i < n; ++i) t.data<int32_t>()[i] = static_cast<int32_t>((bits(stream, static_cast<uint64_t>(i)) >> 33) % static_cast<uint64_t>(classes));
  return t;
}

/// The stream of input `position` in input set `set`; parameters use those below 64.
inline uint64_t stream_of(int64_t set, int64_t position) { return static_cast<uint64_t>(64 * (set + 1) + position); }

inline double mean_abs(const HostTensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.size(); ++i) sum += std::abs(t.at(i));
  return t.size() ? sum / static_cast<double>(t.size()) : 0;
}

}  // namespace quern::bench
