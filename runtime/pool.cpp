// See pool.h.
#include "runtime/pool.h"

#include <algorithm>

#include <fmt/format.h>

namespace quern {

Pool::Pool(std::function<void*(int64_t)> raw_alloc, std::function<void(void*)> raw_free)
    : raw_alloc_(std::move(raw_alloc)), raw_free_(std::move(raw_free)) {}

Pool::~Pool() {
  for (const auto& [bytes, ptr] : idle_) raw_free_(ptr);
  for (const auto& [ptr, bytes] : used_) raw_free_(ptr);
}

void* Pool::alloc(int64_t bytes) {
  bytes = round_up(std::max<int64_t>(bytes, 1), 64);
  ++statistics_.allocations;
  void* ptr = nullptr;
  // A kept block serves a request that fills at least half of it.
  if (const auto it = idle_.lower_bound(bytes); it != idle_.end() && it->first <= 2 * bytes) {
    ptr = it->second;
    bytes = it->first;
    idle_.erase(it);
  } else {
    ptr = raw_alloc_(bytes);
    if (!ptr) {   // give everything idle back and try once more
      for (const auto& [size, block] : idle_) {
        raw_free_(block);
        statistics_.reserved -= size;
      }
      idle_.clear();
      ptr = raw_alloc_(bytes);
    }
    if (!ptr) throw Error(Code::out_of_memory, fmt::format("out of memory: {} bytes asked for, {} in use", bytes, statistics_.in_use)).with_help("use a smaller batch");
    ++statistics_.system_allocations;
    statistics_.reserved += bytes;
  }
  used_[ptr] = bytes;
  statistics_.in_use += bytes;
  statistics_.high_water = std::max(statistics_.high_water, statistics_.in_use);
  return ptr;
}

void Pool::free(void* ptr) {
  const auto it = used_.find(ptr);
  QN_CHECK(it != used_.end(), "a freed block came from this pool");
  statistics_.in_use -= it->second;
  idle_.emplace(it->second, ptr);
  used_.erase(it);
}

}  // namespace quern
