// Attention, rotary positions and embedding: compositions of products and softmax. Heads lie in front of the sequence:
// [batch, heads, sequence, size].
#pragma once
#include "frontend/tensor.h"

namespace quern {

struct Attention {
  Tensor mask;            // bool, broadcasts against [batch, heads, queries, keys]: true where a query sees the key
  Tensor bias;            // added to the scores, broadcasts alike
  bool causal = false;    // the queries are the last of as many positions as there are keys, and see none behind their own
  double scale = 0;       // of the products; 0: 1/sqrt(size)
  double softcap = 0;     // c > 0: c tanh(score/c); Gemma 2, arXiv:2408.00118
  double dropout = 0;     // of the weights, with `key` u32[] and the stream's number
  Tensor key;
  int64_t stream = 0;
};
/// softmax(scale q k^T + …) v; Vaswani et al., arXiv:1706.03762. q [b, h, n, d], k [b, g, m, d], v [b, g, m, e] → [b, h, n, e],
/// h a multiple of g: neighbouring heads of queries share keys (Ainslie et al., arXiv:2305.13245). A query that sees no
/// key gives 0. Programs leave out blocks of scores that `causal`, or a window (in roles on a GPU), empties: an infinity or NaN among values that only
/// those would read stays unseen there, where the interpreter multiplies it by 0 (passes/tile/bounds.h).
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Attention& options = {}, Where where = Where::current());

struct MultiHead {
  Tensor q, k, v, out;                          // [in, heads*size], [in, kv_heads*size] twice, [heads*size, to]
  Tensor q_bias, k_bias, v_bias, out_bias;      // may be left out
  int64_t heads = 1, kv_heads = 0;              // 0: as many as heads
};
/// Projections, attention of every head, projection: x [batch, n, in], context [batch, m, in] → [batch, n, to]. Of x itself
/// where context is x.
Tensor multi_head_attention(const Tensor& x, const Tensor& context, const MultiHead& weights, const Attention& options = {}, Where where = Where::current());

/// Pairs (a, b) of the last axis turned to (a cos - b sin, a sin + b cos): neighbours, or else each of the first half with
/// its partner in the second. cosine and sine broadcast against [..., size/2].
Tensor rotate_pairs(const Tensor& x, const Tensor& cosine, const Tensor& sine, bool interleaved = false, Where where = Where::current());
/// Rotary embedding: pair i of position p turned by p base^(-2i/size); Su et al., arXiv:2104.09864. x [..., n, size],
/// positions integer[n] or left out: 0 to n-1. Angles are computed in f32 or better.
Tensor rope(const Tensor& x, const Tensor& positions = {}, double base = 10000, bool interleaved = false, Where where = Where::current());

/// Rows of table [rows, size] by integer indices [...] → [..., size]; an index outside reads 0.
Tensor embedding(const Tensor& table, const Tensor& index, Where where = Where::current());

}  // namespace quern
