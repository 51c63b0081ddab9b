// See threads.h. A region is an epoch: workers wait for the epoch to change, the caller for the workers. Both spin first, then
// give their core to whoever wants it (the one they wait for may be queued behind them), then sleep in the kernel.
#include "runtime/cpu/threads.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <system_error>

#include <fmt/format.h>

#include "ir/support/check.h"
#include "ir/support/env.h"

namespace quern::cpu {

// Until `done`, or for some hundred microseconds.
template <class F>
static void spin(F&& done) {
  constexpr int kPauses = 2000, kYields = 1000;
  for (int i = 0; i < kPauses + kYields && !done(); ++i)
    if (i < kPauses) __builtin_ia32_pause();
    else std::this_thread::yield();
}

Threads::Threads(int count) {
  try {
    for (int w = 1; w < count; ++w) workers_.emplace_back([this, w] { work(w); });
  } catch (const std::system_error& e) {
    join();   // those that did start
    throw Error(Code::system_refuses, fmt::format("the system refuses {} threads: {}", count, e.what())).with_help("set QUERN_THREADS=1, or raise the limits of threads and memory");
  }
}

Threads::~Threads() { join(); }

void Threads::join() {
  stop_ = true;
  ++epoch_;
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void Threads::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    spin([&] { return epoch_.load(std::memory_order_acquire) != seen; });
    epoch_.wait(seen, std::memory_order_acquire);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_) return;
    (*body_)(worker);
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
  }
}

void Threads::run(const std::function<void(int)>& body) {
  body_ = &body;
  left_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  body(0);
  spin([&] { return left_.load(std::memory_order_acquire) == 0; });
  for (int left; (left = left_.load(std::memory_order_acquire)) > 0;) left_.wait(left, std::memory_order_acquire);
}

int default_threads() {
  const char* text = env(Env::threads);
  if (!text) return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 256u));
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (end == text || *end || n < 1 || n > 256) throw Error(Code::bad_variable, fmt::format("QUERN_THREADS={}: wants a number from 1 to 256", text)).with_help("unset it for one worker per core");
  return static_cast<int>(n);
}

}  // namespace quern::cpu
