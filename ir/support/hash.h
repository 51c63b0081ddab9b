// Hashing: one mixing step and a 128-bit content hash (xxh3) in hex, for keys and checksums.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace quern {

inline uint64_t mix(uint64_t seed, uint64_t value) {
  seed ^= value + 0x9e3779b97f4a7c15ull + (seed << 12) + (seed >> 4);
  seed *= 0xff51afd7ed558ccdull;
  return seed ^ (seed >> 33);
}
uint64_t hash64(std::string_view bytes);
/// 32 lower-case hex digits.
std::string hash_hex(std::string_view bytes);

}  // namespace quern
