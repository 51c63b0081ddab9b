// What kernels with roles need besides the prelude, for sm_90a: barriers in shared memory, copies by tensor maps, products of
// warpgroups, registers moved between roles. Wrappers of one instruction each, header-free as NVRTC compiles them.
#pragma once

namespace quern::cuda {

inline constexpr const char* kRolesPrelude = R"CUDA(
struct alignas(64) TensorMap { u64 words[16]; };
__device__ __forceinline__ void qn_barrier(u32 b, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(b), "r"(arrivals) : "memory"); }
__device__ __forceinline__ void qn_barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void qn_wait_for(u32 b, u32 parity) { asm volatile("{.reg .pred p; W: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra W;}" :: "r"(b), "r"(parity) : "memory"); }
__device__ __forceinline__ void qn_expect(u32 b, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(b), "r"(bytes) : "memory"); }
__device__ __forceinline__ void qn_release(u32 b) { asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" :: "r"(b) : "memory"); }
template <int N> __device__ __forceinline__ void qn_registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }
template <int N> __device__ __forceinline__ void qn_registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }
// Copies of boxes; coordinates innermost first.
__device__ __forceinline__ void qn_prefetch(const TensorMap* m) { asm volatile("prefetch.tensormap [%0];" :: "l"(m) : "memory"); }
#define QN_FETCH(rank, list) "cp.async.bulk.tensor." rank ".shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {" list "}], [%2];"
__device__ __forceinline__ void qn_fetch(u32 to, const TensorMap* m, u32 b, int x, int y) { asm volatile(QN_FETCH("2d", "%3,%4") :: "r"(to), "l"(m), "r"(b), "r"(x), "r"(y) : "memory"); }
__device__ __forceinline__ void qn_fetch(u32 to, const TensorMap* m, u32 b, int x, int y, int z) { asm volatile(QN_FETCH("3d", "%3,%4,%5") :: "r"(to), "l"(m), "r"(b), "r"(x), "r"(y), "r"(z) : "memory"); }
__device__ __forceinline__ void qn_fetch(u32 to, const TensorMap* m, u32 b, int x, int y, int z, int u) { asm volatile(QN_FETCH("4d", "%3,%4,%5,%6") :: "r"(to), "l"(m), "r"(b), "r"(x), "r"(y), "r"(z), "r"(u) : "memory"); }
__device__ __forceinline__ void qn_fetch(u32 to, const TensorMap* m, u32 b, int x, int y, int z, int u, int v) { asm volatile(QN_FETCH("5d", "%3,%4,%5,%6,%7") :: "r"(to), "l"(m), "r"(b), "r"(x), "r"(y), "r"(z), "r"(u), "r"(v) : "memory"); }
#define QN_SEND(rank, list) "cp.async.bulk.tensor." rank ".global.shared::cta.bulk_group [%0, {" list "}], [%1];"
__device__ __forceinline__ void qn_send(const TensorMap* m, u32 from, int x, int y) { asm volatile(QN_SEND("2d", "%2,%3") :: "l"(m), "r"(from), "r"(x), "r"(y) : "memory"); }
__device__ __forceinline__ void qn_send(const TensorMap* m, u32 from, int x, int y, int z) { asm volatile(QN_SEND("3d", "%2,%3,%4") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z) : "memory"); }
__device__ __forceinline__ void qn_send(const TensorMap* m, u32 from, int x, int y, int z, int u) { asm volatile(QN_SEND("4d", "%2,%3,%4,%5") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z), "r"(u) : "memory"); }
__device__ __forceinline__ void qn_send(const TensorMap* m, u32 from, int x, int y, int z, int u, int v) { asm volatile(QN_SEND("5d", "%2,%3,%4,%5,%6") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z), "r"(u), "r"(v) : "memory"); }
#define QN_ADD(rank, list) "cp.reduce.async.bulk.tensor." rank ".global.shared::cta.add.bulk_group [%0, {" list "}], [%1];"
__device__ __forceinline__ void qn_add_box(const TensorMap* m, u32 from, int x, int y) { asm volatile(QN_ADD("2d", "%2,%3") :: "l"(m), "r"(from), "r"(x), "r"(y) : "memory"); }
__device__ __forceinline__ void qn_add_box(const TensorMap* m, u32 from, int x, int y, int z) { asm volatile(QN_ADD("3d", "%2,%3,%4") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z) : "memory"); }
__device__ __forceinline__ void qn_add_box(const TensorMap* m, u32 from, int x, int y, int z, int u) { asm volatile(QN_ADD("4d", "%2,%3,%4,%5") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z), "r"(u) : "memory"); }
__device__ __forceinline__ void qn_add_box(const TensorMap* m, u32 from, int x, int y, int z, int u, int v) { asm volatile(QN_ADD("5d", "%2,%3,%4,%5,%6") :: "l"(m), "r"(from), "r"(x), "r"(y), "r"(z), "r"(u), "r"(v) : "memory"); }
// The number of the instance that a block has claimed, from the role that claims to all others.
__device__ __forceinline__ void qn_tell(u32 to, int x) { asm volatile("st.shared.b32 [%0], %1;" :: "r"(to), "r"(x) : "memory"); }
__device__ __forceinline__ int qn_told(u32 from) { int x; asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(from) : "memory"); return x; }
// Turns: what copies have added or stored is there for who finds the number.
__device__ __forceinline__ void qn_await_turn(const u32* turn, u32 of) {
  u32 now;
  do asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(now) : "l"(turn) : "memory"); while (now != of);
  asm volatile("fence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void qn_pass_turn(u32* turn, u32 to) { asm volatile("fence.proxy.async; st.release.gpu.u32 [%0], %1;" :: "l"(turn), "r"(to) : "memory"); }
__device__ __forceinline__ void qn_sending() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void qn_room() { asm volatile("cp.async.bulk.wait_group.read %0;" :: "n"(LEFT) : "memory"); }
__device__ __forceinline__ void qn_sent() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ void qn_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Products: registers of sums are in use from qn_products on; qn_issued ends a group.
__device__ __forceinline__ void qn_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void qn_issued() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void qn_products_left() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
// Two in a word, as a product's operand or what is sent has them.
__device__ __forceinline__ u32 qn_rounded_bf16(float low, float high) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r; }
__device__ __forceinline__ u32 qn_rounded_f16(float low, float high) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r; }
// 64 rows of a left operand of 32 bits, along which rows of shared memory run, 32 to a column. Register 4 s + 2 q + h: row 16 (tid / 32) + 8 h + lane / 4,
// element 8 s + 4 q + lane % 4 of the sum. Half of the lanes take their two elements the other way round: so no two meet in a bank.
template <int DEPTH> __device__ __forceinline__ void qn_take_across(u32* v, u32 from, int tid) {
  const int lane = tid & 31, warp = tid >> 5, other = lane >> 4;
  const u32 at = from + (warp >> 1) * (DEPTH * 128) + (lane & 3) * 128 + (lane >> 2 & 3) * 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const u32 chunk = (warp & 1) * 4 + h * 2 + other;
    const u32 near = at + other * 512 + (chunk ^ (other * 4 + (lane & 3))) * 16, far = at + (other ^ 1) * 512 + (chunk ^ ((other ^ 1) * 4 + (lane & 3))) * 16;
#pragma unroll
    for (int s = 0; s < DEPTH / 8; ++s) {
      u32 x, y;
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(x) : "r"(near + s * 1024) : "memory");
      asm volatile("ld.shared.b32 %0, [%1];" : "=r"(y) : "r"(far + s * 1024) : "memory");
      v[4 * s + h] = other ? y : x, v[4 * s + 2 + h] = other ? x : y;
    }
  }
}
// What is computed of it is computed here, and not kept from before a loop.
__device__ __forceinline__ int qn_here(int x) { asm volatile("" : "+r"(x)); return x; }
// Barriers by number: 1 to 4 the threads of an instance among themselves, 5 and 6 turns. Numbers stay literals, or all 16 are reserved.
__device__ __forceinline__ void qn_together(int self) {
  if (self == 0) asm volatile("bar.sync 1, 128;" ::: "memory"); else if (self == 1) asm volatile("bar.sync 2, 128;" ::: "memory");
  else if (self == 2) asm volatile("bar.sync 3, 128;" ::: "memory"); else asm volatile("bar.sync 4, 128;" ::: "memory");
}
__device__ __forceinline__ void qn_turn(int self) { if (self == 0) asm volatile("bar.sync 5, 256;" ::: "memory"); else asm volatile("bar.sync 6, 256;" ::: "memory"); }
__device__ __forceinline__ void qn_pass(int to) { if (to == 0) asm volatile("bar.arrive 5, 256;" ::: "memory"); else asm volatile("bar.arrive 6, 256;" ::: "memory"); }
// All threads of a cluster: what they stored before is seen by all of them behind. One thread's fence is for its block, which has met.
__device__ __forceinline__ void qn_cluster_meet() {
  __syncthreads();
  if (threadIdx.x == 0) asm volatile("fence.acq_rel.cluster;" ::: "memory");
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ void qn_meet(int barrier, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(barrier), "r"(threads) : "memory"); }
// Clusters: each block shows SUMS registers of THREADS threads, in groups of four; then all may read them, till all have. A sum goes
// through the blocks in their order.
__device__ __forceinline__ void qn_seen() { __syncwarp(); asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void qn_all_seen() { __syncwarp(); asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
template <int SUMS, int THREADS> __device__ __forceinline__ void qn_show(u32 to, const float* v, int thread) {
  asm volatile("bar.sync 7, %0;" :: "n"(THREADS) : "memory");   // no product reads the ring any more
#pragma unroll
  for (int q = 0; q < SUMS; q += 4)
    asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(to + (q * THREADS + thread * 4) * 4), "f"(v[q]), "f"(v[q + 1]), "f"(v[q + 2]), "f"(v[q + 3]) : "memory");
  qn_seen();
  qn_all_seen();
}
template <int BLOCKS, int N, int THREADS> __device__ __forceinline__ void qn_total(float* sum, u32 from) {
  float x[BLOCKS][N];
#pragma unroll
  for (int b = 0; b < BLOCKS; ++b)
#pragma unroll
    for (int q = 0; q < N; q += 4)
      asm volatile("{.reg .u32 a; mapa.shared::cluster.u32 a, %4, %5; ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [a];}"
                   : "=f"(x[b][q]), "=f"(x[b][q + 1]), "=f"(x[b][q + 2]), "=f"(x[b][q + 3]) : "r"(from + q * THREADS * 4), "r"(b) : "memory");
#pragma unroll
  for (int q = 0; q < N; ++q) {
    sum[q] = x[0][q];
#pragma unroll
    for (int b = 1; b < BLOCKS; ++b) sum[q] += x[b][q];
  }
}
// Tiles as products leave them, 64 rows of COLUMNS, into columns of shared memory with ROWS rows of 128 bytes.
// Rounded ones as they are packed to be an operand.
template <int ROWS, int COLUMNS> __device__ __forceinline__ void qn_put_packed(u32 to, const u32* v, int tid) {
  const u32 lane = tid & 31, row = (tid >> 5) * 16 + (lane & 15);
#pragma unroll
  for (int j = 0; j < COLUMNS / 16; ++j) {
    const u32 at = to + j / 4 * (ROWS * 128) + row * 128 + ((j % 4 * 2 + (lane >> 4) ^ row & 7) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1,%2,%3,%4};" :: "r"(at), "r"(v[4 * j]), "r"(v[4 * j + 1]), "r"(v[4 * j + 2]), "r"(v[4 * j + 3]) : "memory");
  }
}
template <int ROWS, int COLUMNS> __device__ __forceinline__ void qn_put_sums(u32 to, const float* v, int tid) {
  const u32 lane = tid & 31, row = (tid >> 5) * 16 + (lane >> 2), odd = lane & 3;
#pragma unroll
  for (int j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const u32 at = to + j / 4 * (ROWS * 128) + (row + 8 * h) * 128 + ((j % 4 * 2 + (odd >> 1) ^ row & 7) << 4) + (odd & 1) * 8;
      asm volatile("st.shared.v2.f32 [%0], {%1,%2};" :: "r"(at), "f"(v[4 * j + 2 * h]), "f"(v[4 * j + 2 * h + 1]) : "memory");
    }
}
// 64 rows as products leave them → swizzled rows of shared memory. Register h * COLUMNS / 4 + r: row 8 h + lane / 4 of the warp's 16, column
// r / 2 * 8 + lane % 4 * 2 + r % 2.
template <int ROW> __device__ __forceinline__ u32 qn_swizzled(u32 at) { return at ^ ((at >> 7 & (ROW / 16 - 1)) << 4); }
// The turned ones: rows of shared memory run along the 64 rows.
#define QN_PUT(type) template <int COLUMNS> __device__ __forceinline__ void qn_put_##type(u32 to, const float* v, int tid) { \
  const int lane = tid & 31; \
  _Pragma("unroll") for (int j = 0; j < COLUMNS / 16; ++j) { \
    u32 r[4]; \
    _Pragma("unroll") for (int e = 0; e < 4; ++e) { const float* x = v + (e & 1) * (COLUMNS / 4) + (2 * j + (e >> 1)) * 2; r[e] = qn_rounded_##type(x[0], x[1]); } \
    u32 at = qn_swizzled<COLUMNS * 2>((u32)((tid >> 5) * 16 + (lane & 15)) * (COLUMNS * 2) + (j * 2 + (lane >> 4)) * 16); \
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1,%2,%3,%4};" :: "r"(to + at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory"); } }
#define QN_PUT_TURNED(type) template <int COLUMNS> __device__ __forceinline__ void qn_put_turned_##type(u32 to, const float* v, int tid) { \
  const int lane = tid & 31; \
  _Pragma("unroll") for (int j = 0; j < COLUMNS / 16; ++j) { \
    u32 r[4]; \
    _Pragma("unroll") for (int e = 0; e < 4; ++e) { const float* x = v + (e & 1) * (COLUMNS / 4) + (2 * j + (e >> 1)) * 2; r[e] = qn_rounded_##type(x[0], x[1]); } \
    u32 at = qn_swizzled<128>((u32)(j * 16 + (lane >> 4) * 8 + (lane & 7)) * 128 + ((tid >> 5) * 2 + (lane >> 3 & 1)) * 16); \
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 [%0], {%1,%2,%3,%4};" :: "r"(to + at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory"); } }
// As they were put.
#define QN_TAKE(type) template <int COLUMNS> __device__ __forceinline__ void qn_take_##type(float* v, u32 from, int tid) { \
  const int lane = tid & 31; \
  _Pragma("unroll") for (int j = 0; j < COLUMNS / 16; ++j) { \
    u32 r[4]; \
    u32 at = qn_swizzled<COLUMNS * 2>((u32)((tid >> 5) * 16 + (lane & 15)) * (COLUMNS * 2) + (j * 2 + (lane >> 4)) * 16); \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from + at) : "memory"); \
    _Pragma("unroll") for (int e = 0; e < 8; ++e) v[(e >> 1 & 1) * (COLUMNS / 4) + (2 * j + (e >> 2)) * 2 + (e & 1)] = qn_from_##type((u16)(r[e >> 1] >> (e & 1) * 16)); } }
QN_TAKE(bf16) QN_TAKE(f16)
QN_PUT(bf16) QN_PUT(f16) QN_PUT_TURNED(bf16) QN_PUT_TURNED(f16)
template <int COLUMNS, class T> __device__ __forceinline__ void qn_put_turned_32(u32 to, const T* v, int tid) {   // 32 of the rows in a column of shared memory
  const int lane = tid & 31, warp = tid >> 5;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int r = 0; r < COLUMNS / 4; ++r) {
      u32 at = qn_swizzled<128>((u32)(r / 2 * 8 + (lane & 3) * 2 + r % 2) * 128 + ((warp & 1) * 16 + h * 8 + (lane >> 2)) * 4);
      asm volatile("st.shared.b32 [%0], %1;" :: "r"(to + (warp >> 1) * (COLUMNS * 128) + at), "r"(qn_bits<u32>(v[h * (COLUMNS / 4) + r])) : "memory");
    }
}
template <int COLUMNS, class T> __device__ __forceinline__ void qn_put_32(u32 to, const T* v, int tid) {
  const int lane = tid & 31;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; ++j) {
      u32 at = qn_swizzled<COLUMNS * 4>((u32)((tid >> 5) * 16 + h * 8 + (lane >> 2)) * (COLUMNS * 4) + j * 32 + (lane & 3) * 8);
      const T* x = v + h * (COLUMNS / 4) + j * 2;
      asm volatile("st.shared.v2.b32 [%0], {%1,%2};" :: "r"(to + at), "r"(qn_bits<u32>(x[0])), "r"(qn_bits<u32>(x[1])) : "memory");
    }
}
template <int COLUMNS, class T> __device__ __forceinline__ void qn_put_turned_8(u32 to, const T* v, int tid) {
  const int lane = tid & 31;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int r = 0; r < COLUMNS / 4; ++r) {
      u32 at = qn_swizzled<64>((u32)(r / 2 * 8 + (lane & 3) * 2 + r % 2) * 64 + (tid >> 5) * 16 + h * 8 + (lane >> 2));
      asm volatile("st.shared.b8 [%0], %1;" :: "r"(to + at), "r"((u32)v[h * (COLUMNS / 4) + r]) : "memory");
    }
}
template <int COLUMNS, class T> __device__ __forceinline__ void qn_put_8(u32 to, const T* v, int tid) {
  const int lane = tid & 31;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; ++j) {
      u32 at = qn_swizzled<COLUMNS>((u32)((tid >> 5) * 16 + h * 8 + (lane >> 2)) * COLUMNS + j * 8 + (lane & 3) * 2);
      const T* x = v + h * (COLUMNS / 4) + j * 2;
      asm volatile("st.shared.b16 [%0], %1;" :: "r"(to + at), "h"((u16)((u16)x[0] | (u16)x[1] << 8)) : "memory");
    }
}
)CUDA";

}  // namespace quern::cuda
