// The thread pool: every worker is called once per region, and what the caller and the workers write without atomics
// is seen by the other side. The ThreadSanitizer build runs this test (tools/dev sanitize).
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <thread>
#include <vector>

#include <sched.h>

#include <gtest/gtest.h>

#include "ir/support/check.h"
#include "runtime/cpu/threads.h"

namespace quern::cpu {
namespace {

TEST(Threads, EveryWorkerOncePerRegionAndPlainDataIsHandedOver) {
  for (int count : {1, 2, 3, 7}) {
    Threads threads(count);
    ASSERT_EQ(threads.count(), count);
    std::vector<int64_t> calls(static_cast<size_t>(count), 0), seen(static_cast<size_t>(count), 0);
    for (int64_t region = 0; region < 200; ++region) {
      const int64_t before = std::accumulate(calls.begin(), calls.end(), int64_t{0});
      EXPECT_EQ(before, region * count);
      threads.run([&, before](int worker) {
        ++calls[static_cast<size_t>(worker)];
        seen[static_cast<size_t>(worker)] = before;
      });
      for (int64_t s : seen) EXPECT_EQ(s, before);
    }
    for (int64_t c : calls) EXPECT_EQ(c, 200);
  }
}

// A worker may be queued on the caller's own core, as where other programs hold the rest: the caller lets it run.
TEST(Threads, AWorkerOnTheCallersCoreIsNotWaitedForInItsWay) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  CPU_ZERO(&one);
  for (size_t c = 0; c < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++c)
    if (CPU_ISSET(c, &before)) CPU_SET(c, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  {
    constexpr int kRegions = 50;
    Threads threads(2);   // it inherits the one core
    std::atomic<int> calls = 0;
    const std::clock_t start = std::clock();   // of this process alone, whatever the machine does
    for (int region = 0; region < kRegions; ++region) threads.run([&](int) { ++calls; });
    const double milliseconds = 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_EQ(calls, 2 * kRegions);
    EXPECT_LT(milliseconds / kRegions, 1.5);   // a slice of the scheduler is 3 ms and more
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(Threads, SleepingWorkersWakeUp) {
  Threads threads(3);
  for (int region = 0; region < 5; ++region) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));   // longer than they spin
    std::vector<int> calls(3, 0);
    threads.run([&](int worker) { ++calls[static_cast<size_t>(worker)]; });
    EXPECT_EQ(calls, (std::vector<int>{1, 1, 1}));
  }
}

TEST(Threads, PoolsOfSeveralCallersAreIndependent) {
  std::vector<int64_t> totals(3, 0);
  std::vector<std::thread> callers;
  for (size_t c = 0; c < totals.size(); ++c)
    callers.emplace_back([&totals, c] {
      Threads threads(2);
      std::vector<int64_t> sums(2, 0);
      for (int64_t region = 0; region < 50; ++region) threads.run([&](int worker) { sums[static_cast<size_t>(worker)] += region; });
      totals[c] = sums[0] + sums[1];
    });
  for (std::thread& t : callers) t.join();
  EXPECT_EQ(totals, (std::vector<int64_t>(3, 2 * 49 * 50 / 2)));
}

TEST(Threads, UnusedPoolsEnd) {
  for (int i = 0; i < 50; ++i) Threads threads(4);
}

TEST(Threads, TheVariableWantsANumber) {
  for (const char* good : {"1", "3", "256"}) {
    ::setenv("QUERN_THREADS", good, 1);
    EXPECT_EQ(default_threads(), std::atoi(good));
  }
  for (const char* bad : {"", "0", "-1", "257", "2x", "many"}) {
    ::setenv("QUERN_THREADS", bad, 1);
    try {
      default_threads();
      ADD_FAILURE() << "\"" << bad << "\" was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind, ErrorKind::usage);
      EXPECT_NE(std::string(e.what()).find("from 1 to 256"), std::string::npos);
    }
  }
  ::unsetenv("QUERN_THREADS");
  EXPECT_GE(default_threads(), 1);
}

}  // namespace
}  // namespace quern::cpu
