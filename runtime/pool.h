// A caching pool over a device's raw allocation: freed blocks are kept and handed out again, best fit first. Single
// stream, single thread: a freed block may be reused at once because work on it is ordered before its next use.
#pragma once
#include <functional>
#include <map>

#include "runtime/device.h"

namespace quern {

class Pool {
 public:
  Pool(std::function<void*(int64_t)> raw_alloc, std::function<void(void*)> raw_free);
  ~Pool();
  Pool(const Pool&) = delete;

  void* alloc(int64_t bytes);   // 64-byte granules; throws Error(memory)
  void free(void* ptr);
  const PoolStatistics& statistics() const { return statistics_; }

 private:
  std::function<void*(int64_t)> raw_alloc_;
  std::function<void(void*)> raw_free_;
  std::multimap<int64_t, void*> idle_;    // by size
  std::map<void*, int64_t> used_;
  PoolStatistics statistics_;
};

}  // namespace quern
