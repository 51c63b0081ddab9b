// A small thread pool: one region at a time, a static split, workers that spin for a while and then sleep.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace quern::cpu {

class Threads {
 public:
  explicit Threads(int count);   // including the caller
  ~Threads();
  int count() const { return static_cast<int>(workers_.size()) + 1; }
  /// Calls body(worker) for worker 0 … count-1, the caller being 0; returns when all are done.
  void run(const std::function<void(int)>& body);

 private:
  std::vector<std::thread> workers_;
  const std::function<void(int)>* body_ = nullptr;
  std::atomic<uint32_t> epoch_{0};
  std::atomic<int> left_{0};
  std::atomic<bool> stop_{false};
  void work(int worker);
  void join();
};

/// QUERN_THREADS, else the number of cores. Throws Error(usage) where the variable is no number in [1, 256].
int default_threads();

}  // namespace quern::cpu
