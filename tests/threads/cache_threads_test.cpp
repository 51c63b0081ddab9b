// One cache folder used by several threads at once, as several processes use it: an entry is either absent or whole,
// and no reader takes a writer's rename or another's `clear` for damage. The ThreadSanitizer build runs this test.
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "codegen/cache.h"

namespace quern {
namespace {

// The payload of a key; `version` changes its length, too.
std::vector<uint8_t> payload_of(int key, int version) {
  std::vector<uint8_t> out(static_cast<size_t>(100 + 37 * key + 1000 * version));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(i * 7 + static_cast<size_t>(key * 13 + version));
  return out;
}

TEST(CacheThreads, EntriesAreAbsentOrWhole) {
  constexpr int kThreads = 4, kKeys = 5, kRounds = 60;
  const std::string directory = testing::TempDir() + "quern_cache_threads_" + std::to_string(::getpid());
  std::filesystem::remove_all(directory);
  std::vector<int64_t> hits(kThreads, 0), wrong(kThreads, 0);
  std::vector<std::vector<std::string>> notes(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      const size_t me = static_cast<size_t>(t);
      Cache cache(directory);
      for (int round = 0; round < kRounds; ++round) {
        const int key = (round + t) % kKeys;
        if (t == 0 && round % 20 == 19) cache.clear();
        else if (t == 1) cache.list();
        cache.put("key " + std::to_string(key), payload_of(key, round % 2));
        const auto got = cache.get("key " + std::to_string((key + 1) % kKeys));
        if (!got) continue;
        ++hits[me];
        wrong[me] += *got != payload_of((key + 1) % kKeys, 0) && *got != payload_of((key + 1) % kKeys, 1);
      }
      notes[me] = cache.take_notes();
    });
  for (std::thread& t : threads) t.join();
  int64_t all_hits = 0;
  for (size_t t = 0; t < kThreads; ++t) {
    all_hits += hits[t];
    EXPECT_EQ(wrong[t], 0);
    for (const std::string& n : notes[t]) ADD_FAILURE() << n;
  }
  EXPECT_GT(all_hits, kThreads * kRounds / 2);
  for (const Cache::Entry& e : Cache(directory).list()) EXPECT_TRUE(e.valid) << e.file;
  for (const auto& e : std::filesystem::directory_iterator(directory)) EXPECT_EQ(e.path().extension(), ".kernel") << "left behind";
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace quern
