// Panels: how a matrix that a loop's products read and nothing changes is laid out for them, once, by the pass `panels`.
#pragma once
#include <cstdint>

namespace quern {

/// The usual PassContext::large_matrix: smaller ones stay in a core's cache as they are.
inline constexpr int64_t kLargeMatrix = 64 << 10;

}  // namespace quern
