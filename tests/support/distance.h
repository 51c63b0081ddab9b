// How far two tensors are apart.
#pragma once
#include <cmath>

#include "ir/host_tensor.h"

namespace quern::test {

/// The distance over the length of what is wanted.
inline double apart(const HostTensor& got, const HostTensor& want) {
  double distance = 0, length = 0;
  for (int64_t i = 0; i < want.size(); ++i) distance += std::pow(got.at(i) - want.at(i), 2), length += std::pow(want.at(i), 2);
  return length > 0 ? std::sqrt(distance / length) : std::sqrt(distance);
}

}  // namespace quern::test
