// The prelude of every generated CUDA source: dtype conversions and scalar ops, header-free as NVRTC compiles it.
// Floats of 16 bits live in registers as rounded floats and in memory as unsigned shorts.
#pragma once

namespace quern::cuda {

inline constexpr const char* kPrelude = R"CUDA(
typedef long long i64; typedef unsigned int u32; typedef unsigned char u8; typedef unsigned short u16; typedef unsigned long long u64; typedef short i16; typedef signed char i8;
__device__ inline float qn_from_bf16(u16 b) { return __uint_as_float((u32)b << 16); }
__device__ inline float qn_half_bf16(const u32* q, int x) { return __uint_as_float(x & 1 ? q[x / 2] & 0xffff0000u : q[x / 2] << 16); }
__device__ inline u16 qn_to_bf16(float x) { u32 b = __float_as_uint(x); return (u16)((b >> 16) | (x != x ? 0x40 : 0)); }
#if __CUDA_ARCH__ >= 800
__device__ inline float qn_round_bf16(float x) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, 0f00000000;" : "=r"(r) : "f"(x)); return x != x ? x : __uint_as_float(r); }
__device__ inline void qn_put_bf16(u16* q, float low, float high) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); *(u32*)q = r; }
#else
__device__ inline void qn_put_bf16(u16* q, float low, float high) { q[0] = qn_to_bf16(low), q[1] = qn_to_bf16(high); }
__device__ inline float qn_round_bf16(float x) { if (x != x) return x; u32 b = __float_as_uint(x); b += 0x7fff + ((b >> 16) & 1); return __uint_as_float(b & 0xffff0000u); }
#endif
__device__ inline float qn_from_f16(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
__device__ inline u16 qn_to_f16(float x) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h; }
__device__ inline float qn_round_f16(float x) { return qn_from_f16(qn_to_f16(x)); }
__device__ inline i8 qn_wrap_i4(i64 x) { return (i8)((i8)(x << 4) >> 4); }
__device__ inline u8 qn_wrap_u4(i64 x) { return (u8)(x & 15); }
template <class To, class From> __device__ inline To qn_bits(From x) { union { From from; To to; } u; u.from = x; return u.to; }
// f8e5m2 is the upper byte of an f16. To both, |x| rounds to nearest even by an integer sum, below the least normal number by a float one.
__device__ inline float qn_from_f8e5m2(u8 b) { return qn_from_f16((u16)(b << 8)); }
__device__ inline float qn_from_f8e4m3(u8 b) {
  u32 a = b & 0x7f, s = (u32)(b & 0x80) << 24;
  return __uint_as_float(s | (a == 0x7f ? 0x7fc00000u : a < 8 ? __float_as_uint((float)a * 0x1p-9f) : (a << 20) + (120u << 23)));
}
template <int MANTISSA, int BIAS> __device__ inline u8 qn_to_f8(float x, u32 infinity, u32 nan) {
  u32 bits = __float_as_uint(x), a = bits & 0x7fffffffu, s = bits >> 24 & 0x80, out;
  if (a < (u32)(128 - BIAS) << 23) out = __float_as_uint(__uint_as_float(a) + __uint_as_float((u32)(151 - BIAS - MANTISSA) << 23)) - ((u32)(151 - BIAS - MANTISSA) << 23);
  else out = ((a + (1u << (22 - MANTISSA)) - 1 + (a >> (23 - MANTISSA) & 1)) >> (23 - MANTISSA)) - ((u32)(127 - BIAS) << MANTISSA);
  return (u8)(s | (x != x ? nan : out < infinity ? out : infinity));
}
__device__ inline u8 qn_to_f8e4m3(float x) { return qn_to_f8<3, 7>(x, 0x7f, 0x7f); }
__device__ inline u8 qn_to_f8e5m2(float x) { return qn_to_f8<2, 15>(x, 0x7c, 0x7e); }
// To odd: rounding once more to fewer bits is then as if from x.
__device__ inline float qn_odd(double x) { float f = __double2float_rz(x); return f == x || x != x ? f : __uint_as_float(__float_as_uint(f) | 1); }
__device__ inline u8 qn_to_f8e4m3(double x) { return qn_to_f8e4m3(qn_odd(x)); }
__device__ inline u8 qn_to_f8e5m2(double x) { return qn_to_f8e5m2(qn_odd(x)); }
// The unsigned types in which T wraps: computed in, and of its width.
template <class T> struct Wide { typedef T type; typedef T raw; };
template <> struct Wide<int> { typedef u32 type; typedef u32 raw; };
template <> struct Wide<i64> { typedef u64 type; typedef u64 raw; };
template <> struct Wide<i16> { typedef u32 type; typedef u16 raw; };
template <> struct Wide<u16> { typedef u32 type; typedef u16 raw; };
template <> struct Wide<i8> { typedef u32 type; typedef u8 raw; };
template <class T> struct Floating { static const bool value = false; };
template <> struct Floating<float> { static const bool value = true; };
template <> struct Floating<double> { static const bool value = true; };
template <class T> __device__ inline T qn_add(T a, T b) { typedef typename Wide<T>::type R; return (T)((R)a + (R)b); }
template <class T> __device__ inline T qn_sub(T a, T b) { typedef typename Wide<T>::type R; return (T)((R)a - (R)b); }
template <class T> __device__ inline T qn_mul(T a, T b) { typedef typename Wide<T>::type R; return (T)((R)a * (R)b); }
template <class T> __device__ inline T qn_neg(T a) { if (Floating<T>::value) return -a; return qn_sub((T)0, a); }
__device__ inline i64 qn_floor_div(i64 a, i64 b) { if (b == 0) return 0; if (b == -1) return qn_neg(a); i64 q = a / b; return (a % b != 0 && ((a < 0) != (b < 0))) ? q - 1 : q; }
__device__ inline i64 qn_floor_mod(i64 a, i64 b) { if (b == 0 || b == -1) return 0; i64 r = a % b; return (r != 0 && ((r < 0) != (b < 0))) ? r + b : r; }
__device__ inline float qn_floor(float x) { return floorf(x); }
__device__ inline double qn_floor(double x) { return floor(x); }
template <class T> __device__ inline T qn_div(T a, T b) { return (T)qn_floor_div(a, b); }
__device__ inline u64 qn_div(u64 a, u64 b) { return b ? a / b : 0; }
__device__ inline u64 qn_mod(u64 a, u64 b) { return b ? a % b : 0; }
__device__ inline float qn_div(float a, float b) { return a / b; }
__device__ inline double qn_div(double a, double b) { return a / b; }
// Of many x by one y with the reciprocal r: corrected twice by what it leaves (Markstein, 1990), which is correctly rounded where
// nothing under- or overflows on the way; `rare` says where it may.
__device__ inline bool qn_is_rare(float x, float low, float high) { return !(fabsf(x) >= low && fabsf(x) <= high); }
__device__ inline float qn_div_by(float x, float y, float r, bool& rare) {
  rare |= qn_is_rare(x, 0x1p-100f, 0x1p100f);
  float a = x * r, b = __fmaf_rn(__fmaf_rn(-y, a, x), r, a);
  return __fmaf_rn(__fmaf_rn(-y, b, x), r, b);
}
template <class T> __device__ inline T qn_mod(T a, T b) { return (T)qn_floor_mod(a, b); }
template <class T> __device__ inline T qn_abs(T a) { return a < (T)0 ? qn_neg(a) : a; }
__device__ inline float qn_abs(float a) { return fabsf(a); }
__device__ inline double qn_abs(double a) { return fabs(a); }
template <class T> __device__ inline T qn_sign(T a) { return a > (T)0 ? (T)1 : a < (T)0 ? (T)-1 : a; }
template <class T> __device__ inline T qn_max(T a, T b) { return a >= b ? a : b; }
template <class T> __device__ inline T qn_min(T a, T b) { return a <= b ? a : b; }
template <class T> __device__ inline T qn_fmax(T a, T b) { if (a != a || b != b) return a + b; if (a == b) return signbit(a) ? b : a; return a > b ? a : b; }
template <class T> __device__ inline T qn_fmin(T a, T b) { if (a != a || b != b) return a + b; if (a == b) return signbit(a) ? a : b; return a < b ? a : b; }
#if __CUDA_ARCH__ >= 800
__device__ inline float qn_max(float a, float b) { float r; asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b)); return r; }   // +0 is more than -0
#else
__device__ inline float qn_max(float a, float b) { return qn_fmax(a, b); }
#endif
__device__ inline double qn_max(double a, double b) { return qn_fmax(a, b); }
__device__ inline float qn_min(float a, float b) { return qn_fmin(a, b); }
__device__ inline double qn_min(double a, double b) { return qn_fmin(a, b); }
#define QN_MATH(name) __device__ inline float qn_##name(float x) { return name##f(x); } __device__ inline double qn_##name(double x) { return name(x); }
QN_MATH(exp) QN_MATH(log) QN_MATH(tanh) QN_MATH(erf) QN_MATH(sqrt) QN_MATH(sin) QN_MATH(cos)
QN_MATH(expm1) QN_MATH(log1p) QN_MATH(tan) QN_MATH(asin) QN_MATH(acos) QN_MATH(sinh) QN_MATH(cosh) QN_MATH(asinh) QN_MATH(acosh)
QN_MATH(atanh) QN_MATH(erfc) QN_MATH(lgamma)
// What maps may take where they need not round each op (`map fast`).
__device__ __forceinline__ float qn_fast_exp2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float qn_fast_div(float a, float b) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(b)); return a * y; }
// Abramowitz and Stegun, 7.1.26: an absolute error of 2^-22. The exponential is spelled as a map's own, which it may share.
__device__ __forceinline__ float qn_fast_erf(float x) {
  const float a = fabsf(x), t = qn_fast_div(1.0f, __fmaf_rn(0.3275911f, a, 1.0f)), e = qn_fast_exp2(-(x * x) * 0x1.715476p+0f);
  const float p = t * __fmaf_rn(t, __fmaf_rn(t, __fmaf_rn(t, __fmaf_rn(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f);
  return copysignf(__fmaf_rn(-p, e, 1.0f), x);
}
__device__ inline float qn_round(float x) { return rintf(x); }
__device__ inline double qn_round(double x) { return rint(x); }
__device__ inline float qn_erf_inv(float x) { return erfinvf(x); }
__device__ inline double qn_erf_inv(double x) { return erfinv(x); }
__device__ inline float qn_atan2(float y, float x) { return atan2f(y, x); }
__device__ inline double qn_atan2(double y, double x) { return atan2(y, x); }
template <class T> __device__ inline T qn_rem(T a, T b) { return b == (T)0 || ((T)-1 < (T)0 && b == (T)-1) ? (T)0 : (T)(a % b); }
__device__ inline float qn_rem(float a, float b) { return fmodf(a, b); }
__device__ inline double qn_rem(double a, double b) { return fmod(a, b); }
template <class T> __device__ inline T qn_bit_and(T a, T b) { return (T)(a & b); }
template <class T> __device__ inline T qn_bit_or(T a, T b) { return (T)(a | b); }
template <class T> __device__ inline T qn_bit_xor(T a, T b) { return (T)(a ^ b); }
template <class T> __device__ inline bool qn_inside(T by) { return (typename Wide<T>::raw)by < 8 * sizeof(T); }
template <class T> __device__ inline T qn_shift_left(T a, T by) { return qn_inside(by) ? (T)((typename Wide<T>::raw)a << by) : (T)0; }
template <class T> __device__ inline T qn_shift_right_logical(T a, T by) { return qn_inside(by) ? (T)((typename Wide<T>::raw)a >> by) : (T)0; }
template <class T> __device__ inline T qn_shift_right_arithmetic(T a, T by) { return qn_inside(by) ? (T)(a >> by) : a < (T)0 ? (T)-1 : (T)0; }
__device__ inline float qn_rsqrt(float x) { return 1.0f / sqrtf(x); }
__device__ inline double qn_rsqrt(double x) { return 1.0 / sqrt(x); }
template <class T> __device__ inline T qn_pow(T a, T b) { if (b < (T)0) return 0; u64 e = (u64)b, base = (u64)a, r = 1; for (; e; e >>= 1, base *= base) if (e & 1) r *= base; return (T)r; }
__device__ inline float qn_pow(float a, float b) { return powf(a, b); }
__device__ inline double qn_pow(double a, double b) { return pow(a, b); }
template <class T> __device__ inline T qn_saturate(double x, double low, double high, T least, T greatest) { if (x != x) return 0; x = trunc(x); return x <= low ? least : x >= high ? greatest : (T)x; }
__device__ inline i64 qn_to_i64(double x) { return qn_saturate<i64>(x, -9223372036854775808.0, 9223372036854775808.0, (i64)0x8000000000000000ull, 0x7fffffffffffffffll); }
__device__ inline int qn_to_i32(double x) { return qn_saturate<int>(x, -2147483648.0, 2147483647.0, (int)0x80000000, 0x7fffffff); }
__device__ inline u32 qn_to_u32(double x) { return qn_saturate<u32>(x, 0.0, 4294967295.0, 0u, 0xffffffffu); }
__device__ inline u64 qn_to_u64(double x) { return qn_saturate<u64>(x, 0.0, 18446744073709551616.0, 0ull, ~0ull); }
__device__ inline i16 qn_to_i16(double x) { return qn_saturate<i16>(x, -32768.0, 32767.0, (i16)-32768, (i16)32767); }
__device__ inline u16 qn_to_u16(double x) { return qn_saturate<u16>(x, 0.0, 65535.0, (u16)0, (u16)65535); }
__device__ inline i8 qn_to_i8(double x) { return qn_saturate<i8>(x, -128.0, 127.0, (i8)-128, (i8)127); }
__device__ inline i8 qn_to_i4(double x) { return qn_saturate<i8>(x, -8.0, 7.0, (i8)-8, (i8)7); }
__device__ inline u8 qn_to_u4(double x) { return qn_saturate<u8>(x, 0.0, 15.0, (u8)0, (u8)15); }
__device__ inline u8 qn_to_u8(double x) { return qn_saturate<u8>(x, 0.0, 255.0, (u8)0, (u8)255); }
__device__ inline float qn_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double qn_fma(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline u32 qn_philox(u32 key, u32 stream, u64 index) {
  u64 block = index / 4; u32 c0 = (u32)block, c1 = (u32)(block >> 32), c2 = 0, c3 = 0;
  for (int r = 0; r < 10; ++r) {
    u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
    u32 n0 = (u32)(p1 >> 32) ^ c1 ^ key, n2 = (u32)(p0 >> 32) ^ c3 ^ stream;
    c1 = (u32)p1; c3 = (u32)p0; c0 = n0; c2 = n2; key += 0x9E3779B9u; stream += 0xBB67AE85u;
  }
  u32 w = (u32)(index % 4); return w == 0 ? c0 : w == 1 ? c1 : w == 2 ? c2 : c3;
}
// The kernels of a recorded step overlap: those behind this one may begin now, and come no further than here till it is done; what
// follows here finds those before it done and all that they wrote. All threads pass here before they touch global memory.
__device__ __forceinline__ void qn_behind_others() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Neighbouring elements as the widest accesses that their bytes and alignment allow.
template <int BYTES> struct Chunk; template <> struct Chunk<1> { typedef u8 type; }; template <> struct Chunk<2> { typedef u16 type; };
template <> struct Chunk<4> { typedef u32 type; }; template <> struct Chunk<8> { typedef uint2 type; }; template <> struct Chunk<16> { typedef uint4 type; };
template <int N, class T> __device__ inline void qn_read(T* to, const T* from) {
  const int bytes = N * sizeof(T) < 16 ? N * sizeof(T) : 16; typedef typename Chunk<bytes>::type C;
#pragma unroll
  for (int i = 0; i < (int)(N * sizeof(T)) / bytes; ++i) ((C*)to)[i] = ((const C*)from)[i];
}
template <int N, class T> __device__ inline void qn_read(T (&to)[N], const T* from) { qn_read<N>(&to[0], from); }
// As memory has it now, whatever was read before.
template <int N, class T> __device__ inline void qn_read_again(T (&to)[N], const T* from) {
  u32 q[N * sizeof(T) / 4 ? N * sizeof(T) / 4 : 1];
  if (N * sizeof(T) % 4 != 0) return qn_read(to, from);
  if (N * sizeof(T) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < (int)(N * sizeof(T) / 16); ++i) asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(q[4 * i]), "=r"(q[4 * i + 1]), "=r"(q[4 * i + 2]), "=r"(q[4 * i + 3]) : "l"((const u32*)from + 4 * i) : "memory");
  } else {
#pragma unroll
    for (int i = 0; i < (int)(N * sizeof(T) / 4); ++i) asm volatile("ld.global.u32 %0, [%1];" : "=r"(q[i]) : "l"((const u32*)from + i) : "memory");
  }
#pragma unroll
  for (int i = 0; i < (int)(N * sizeof(T) / 4); ++i) ((u32*)to)[i] = q[i];
}
template <int N, class T> __device__ inline void qn_write(T* to, const T (&from)[N]) {
  const int bytes = N * sizeof(T) < 16 ? N * sizeof(T) : 16; typedef typename Chunk<bytes>::type C;
#pragma unroll
  for (int i = 0; i < (int)(N * sizeof(T)) / bytes; ++i) ((C*)to)[i] = ((const C*)from)[i];
}
template <int N, class T> __device__ inline void qn_clear(T (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = 0;
}
// Asynchronous copies of N elements to shared memory, 0 where `inside` is false; before sm_80 they are not used.
template <int N, class T> __device__ inline void qn_async(T* to, const T* base, i64 at, bool inside) {
#if __CUDA_ARCH__ >= 800
  u32 p = (u32)__cvta_generic_to_shared(to); const T* from = inside ? base + at : base; int n = inside ? N * (int)sizeof(T) : 0;
  if (N * sizeof(T) == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(p), "l"(from), "r"(n) : "memory");
  else if (N * sizeof(T) == 8) asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" :: "r"(p), "l"(from), "r"(n) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" :: "r"(p), "l"(from), "r"(n) : "memory");
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ inline void qn_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ inline void qn_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
#endif
__device__ inline void qn_ask(const void* p) { asm volatile("prefetch.global.L2 [%0];" :: "l"(p)); }
// Matrix fragments: eight rows of 16 bytes per register, plain or transposed; products with sums in place.
template <int N> __device__ inline void qn_ldmatrix(u32* d, const u16* s) {
  u32 p = (u32)__cvta_generic_to_shared(s);
  if (N == 4) asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(p) : "memory");
  else if (N == 2) asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(p) : "memory");
  else asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(d[0]) : "r"(p) : "memory");
}
template <int N> __device__ inline void qn_ldmatrix_trans(u32* d, const u16* s) {
  u32 p = (u32)__cvta_generic_to_shared(s);
  if (N == 4) asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(p) : "memory");
  else if (N == 2) asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(d[0]), "=r"(d[1]) : "r"(p) : "memory");
  else asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(d[0]) : "r"(p) : "memory");
}
__device__ inline float qn_to_tf32(float x) { u32 r; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x)); return __uint_as_float(r); }
__device__ inline void qn_split(u32& big, u32& small, float x) {
  const float b = qn_to_tf32(x);
  big = __float_as_uint(b), small = __float_as_uint(qn_to_tf32(x - b));
}
#define QN_MMA(name, op) __device__ inline void qn_mma_##name(float& c0, float& c1, float& c2, float& c3, const u32* a, const u32* b) { \
  asm volatile("mma.sync.aligned." op " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); }
QN_MMA(m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32") QN_MMA(m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32") QN_MMA(m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
__device__ inline void qn_mma_m16n8k8_f16(float& c0, float& c1, float& c2, float& c3, const u32* a, const u32* b) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};" : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}
)CUDA";

}  // namespace quern::cuda
