// See ceilings.h. The kernels are C++ with vector extensions, once for each width that an x86-64 may have; every thread has
// its own part of the arrays, and all start together.
#include "bench/ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <fmt/format.h>

namespace quern::bench {
namespace {

constexpr int64_t kFloats = int64_t{1} << 26;   // 256 MiB an array
constexpr int64_t kFmaSteps = 500000, kChains = 10;   // about a millisecond: shorter than a turn of others on this core
constexpr int kFmaTries = 50, kTries = 9;

struct Kernels {
  const char* name;
  int64_t lanes;
  float (*fma)(int64_t steps);                              // kChains independent chains of vectors, `steps` each
  float (*read)(const float* x, int64_t n);
  void (*write)(float* y, int64_t n);
  void (*copy)(const float* x, float* y, int64_t n);
};

// `stream(p, v)` stores past the caches. Arrays are aligned to 64 bytes and n is a multiple of 4 vectors.
#define QN_CEILING_KERNELS(NAME, ISA, BYTES, STREAM)                                                      \
  namespace NAME {                                                                                        \
  typedef float Vec __attribute__((vector_size(BYTES), may_alias));                                       \
  constexpr int64_t kLanes = BYTES / 4;                                                                   \
  __attribute__((target(ISA))) inline float total(const Vec& v) {                                         \
    float sum = 0;                                                                                        \
    for (int64_t i = 0; i < kLanes; ++i) sum += v[i];                                                     \
    return sum;                                                                                           \
  }                                                                                                       \
  __attribute__((target(ISA), optimize("O3", "fp-contract=fast"))) float fma(int64_t steps) {             \
    Vec x = Vec{} + 0.999f, y = Vec{} + 0.001f, a = x, b = y, c = x, d = y, e = x, f = y, g = x, h = y, i = x, j = y; \
    asm volatile("" : "+x"(x), "+x"(y), "+x"(a), "+x"(b), "+x"(c), "+x"(d), "+x"(e), "+x"(f), "+x"(g), "+x"(h), "+x"(i), "+x"(j)); /* equal chains would be one */ \
    for (int64_t s = 0; s < steps; ++s) {                                                                 \
      a = a * x + y, b = b * x + y, c = c * x + y, d = d * x + y, e = e * x + y;                          \
      f = f * x + y, g = g * x + y, h = h * x + y, i = i * x + y, j = j * x + y;                          \
    }                                                                                                     \
    const Vec sum = a + b + c + d + e + f + g + h + i + j;                                                \
    return total(sum);                                                                                    \
  }                                                                                                       \
  __attribute__((target(ISA), optimize("O3"))) float read(const float* x, int64_t n) {                    \
    Vec a{}, b{}, c{}, d{};                                                                               \
    for (const Vec *p = reinterpret_cast<const Vec*>(x), *end = p + n / kLanes; p < end; p += 4) {        \
      a += p[0], b += p[1], c += p[2], d += p[3];                                                         \
    }                                                                                                     \
    return total(a + b + c + d);                                                                          \
  }                                                                                                       \
  __attribute__((target(ISA), optimize("O3"))) void write(float* y, int64_t n) {                          \
    const Vec one = Vec{} + 1.0f;                                                                         \
    for (float* end = y + n; y < end; y += kLanes) STREAM(y, one);                                        \
    _mm_sfence();                                                                                         \
  }                                                                                                       \
  __attribute__((target(ISA), optimize("O3"))) void copy(const float* x, float* y, int64_t n) {           \
    for (const float* end = x + n; x < end; x += kLanes, y += kLanes) STREAM(y, *reinterpret_cast<const Vec*>(x)); \
    _mm_sfence();                                                                                         \
  }                                                                                                       \
  const Kernels kernels = {#NAME, kLanes, fma, read, write, copy};                                        \
  }

#if defined(__x86_64__)
#define QN_STREAM_512(p, v) _mm512_stream_ps(p, reinterpret_cast<__m512>(v))
#define QN_STREAM_256(p, v) _mm256_stream_ps(p, reinterpret_cast<__m256>(v))
#define QN_STREAM_128(p, v) _mm_stream_ps(p, reinterpret_cast<__m128>(v))
QN_CEILING_KERNELS(avx512, "avx512f", 64, QN_STREAM_512)
QN_CEILING_KERNELS(avx2, "avx2,fma", 32, QN_STREAM_256)
QN_CEILING_KERNELS(v128, "sse2", 16, QN_STREAM_128)

const Kernels& kernels() {
  if (__builtin_cpu_supports("avx512f")) return avx512::kernels;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kernels;
  return v128::kernels;
}
#else
const Kernels& kernels() { throw Error(Code::unsupported_machine, "the ceilings of this machine cannot be measured: it is no x86-64").with_help("use quern bench without suite"); }
#endif

/// The least microseconds that all threads took for part(thread), from a common start, to the last one's end.
double best(int threads, const std::function<void(int)>& part, int tries = kTries) {
  double least = 1e300;
  for (int t = 0; t < tries; ++t) {
    std::atomic<int> waiting{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i)
      others.emplace_back([&, i] {
        ++waiting;
        while (!go) std::this_thread::yield();
        part(i);
      });
    while (waiting != threads - 1) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    go = true;
    part(0);
    for (std::thread& o : others) o.join();
    least = std::min(least, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  return least;
}

struct Freed { void operator()(float* p) const { std::free(p); } };

}  // namespace

Ceilings measure_ceilings(int threads) {
  const Kernels& k = kernels();
  const int64_t bytes = kFloats * 4, part = kFloats / threads / 64 * 64, moved = part * threads * 4;
  const std::unique_ptr<float, Freed> x(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(bytes)))), y(static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(bytes))));
  if (!x || !y) throw Error(Code::out_of_memory, fmt::format("the ceilings need two arrays of {} MiB", bytes >> 20)).with_help("close other programs");
  k.write(x.get(), kFloats);   // gives them pages
  k.write(y.get(), kFloats);
  std::vector<float> sums(static_cast<size_t>(threads) * 16);
  const auto sum_of = [&](int t) -> volatile float& { return sums[static_cast<size_t>(t) * 16]; };   // so that nothing is left out
  Ceilings c;
  c.fma = 2.0 * static_cast<double>(kChains * k.lanes * kFmaSteps * threads) / best(threads, [&](int t) { sum_of(t) = k.fma(kFmaSteps); }, kFmaTries) / 1000;
  c.read = static_cast<double>(moved) / best(threads, [&](int t) { sum_of(t) = k.read(x.get() + t * part, part); }) / 1000;
  c.write = static_cast<double>(moved) / best(threads, [&](int t) { k.write(y.get() + t * part, part); }) / 1000;
  c.copy = 2 * static_cast<double>(moved) / best(threads, [&](int t) { k.copy(x.get() + t * part, y.get() + t * part, part); }) / 1000;
  return c;
}

double Ceilings::microseconds(double flops, double read_bytes, double written_bytes) const {
  const double both = std::min(read_bytes, written_bytes);
  return std::max(flops / fma, 2 * both / copy + (read_bytes - both) / read + (written_bytes - both) / write) / 1000;
}

void Ceilings::raise(const Ceilings& other) {
  for (double Ceilings::*c : {&Ceilings::fma, &Ceilings::read, &Ceilings::write, &Ceilings::copy}) this->*c = std::max(this->*c, other.*c);
}

Json Ceilings::json() const { return {{"fma_gflop_per_s", fma}, {"read_gb_per_s", read}, {"write_gb_per_s", write}, {"copy_gb_per_s", copy}}; }

}  // namespace quern::bench
