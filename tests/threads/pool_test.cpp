// The caching pool over a counted allocator: what it keeps, what it hands out again, what it gives back and when.
#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/pool.h"

namespace quern {
namespace {

// Raw memory of at most `limit` bytes; knows what is out.
struct Raw {
  int64_t limit, out = 0;
  std::map<void*, int64_t> blocks;
  void* alloc(int64_t bytes) {
    if (out + bytes > limit) return nullptr;
    void* p = std::aligned_alloc(64, static_cast<size_t>(bytes));
    blocks[p] = bytes;
    out += bytes;
    return p;
  }
  void free(void* p) {
    out -= blocks.at(p);
    blocks.erase(p);
    std::free(p);
  }
  Pool pool() {
    return Pool([this](int64_t n) { return alloc(n); }, [this](void* p) { free(p); });
  }
};

TEST(Pool, KeepsBlocksAndHandsThemOutAgain) {
  Raw raw{1 << 20};
  {
    Pool pool = raw.pool();
    void* a = pool.alloc(100);
    EXPECT_EQ(raw.blocks.at(a), 128);
    pool.free(a);
    EXPECT_EQ(raw.out, 128);                 // kept
    EXPECT_EQ(pool.alloc(65), a);            // fills at least half of it
    pool.free(a);
    EXPECT_NE(pool.alloc(129), a);           // too large for it
    pool.free(pool.alloc(1));                // fills half of it: `a` once more
    void* b = pool.alloc(600);
    pool.free(b);
    EXPECT_NE(pool.alloc(200), b);           // fills less than half
    const PoolStatistics& s = pool.statistics();
    EXPECT_EQ(s.allocations, 6);
    EXPECT_EQ(s.system_allocations, 4);
    EXPECT_EQ(s.in_use, 192 + 256);
    EXPECT_EQ(s.high_water, 192 + 640);
    EXPECT_EQ(s.reserved, 128 + 192 + 640 + 256);
    EXPECT_EQ(raw.out, s.reserved);
  }
  EXPECT_EQ(raw.out, 0);                     // blocks in use, too
}

TEST(Pool, GivesIdleBlocksBackBeforeItFails) {
  Raw raw{1024};
  Pool pool = raw.pool();
  void* a = pool.alloc(512);
  void* b = pool.alloc(512);
  pool.free(a);
  pool.free(b);
  EXPECT_NO_THROW(pool.alloc(1024));
  EXPECT_EQ(pool.statistics().reserved, 1024);
  try {
    pool.alloc(64);
    ADD_FAILURE() << "there was no memory left";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::memory);
    EXPECT_NE(std::string(e.what()).find("1024 in use"), std::string::npos) << e.what();
  }
  EXPECT_EQ(pool.statistics().in_use, 1024);
}

TEST(Pool, ForeignAndTwiceFreedBlocksAreBugs) {
  Raw raw{1 << 20};
  Pool pool = raw.pool();
  int other = 0;
  EXPECT_THROW(pool.free(&other), Error);
  void* a = pool.alloc(8);
  pool.free(a);
  EXPECT_THROW(pool.free(a), Error);
}

TEST(Pool, RandomUseNeverOverlaps) {
  Raw raw{1 << 16};
  Pool pool = raw.pool();
  std::mt19937 random(1);
  std::map<char*, int64_t> held;
  for (int step = 0; step < 5000; ++step) {
    if (held.empty() || random() % 2) {
      const int64_t bytes = random() % 3000;
      char* p = nullptr;
      try {
        p = static_cast<char*>(pool.alloc(bytes));
      } catch (const Error&) {
        pool.free(held.begin()->first);
        held.erase(held.begin());
        continue;
      }
      std::fill(p, p + bytes, static_cast<char>(step));   // AddressSanitizer sees a block that is too short
      const auto next = held.upper_bound(p);
      ASSERT_TRUE(next == held.end() || p + bytes <= next->first);
      ASSERT_TRUE(next == held.begin() || std::prev(next)->first + std::prev(next)->second <= p);
      held[p] = bytes;
    } else {
      const auto it = std::next(held.begin(), static_cast<int64_t>(random() % held.size()));
      pool.free(it->first);
      held.erase(it);
    }
    ASSERT_EQ(raw.out, pool.statistics().reserved);
    ASSERT_GE(pool.statistics().reserved, pool.statistics().in_use);
  }
}

}  // namespace
}  // namespace quern
