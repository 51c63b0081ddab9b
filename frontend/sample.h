// Drawing from a categorical distribution that logits give, as a language model's next token is: made of the DSL's ops, so that the
// draws of one key are the same on the interpreter and on every device, but where two scores are within a rounding of each other.
//
//   Tensor token = sample(logits, key, {.temperature = 0.8, .top_k = 50, .top_p = 0.95}, stream);
#pragma once
#include "frontend/tensor.h"

namespace quern {

struct Sampling {
  double temperature = 1;   // logits are divided by it; 0: the greatest one, no draw
  int64_t top_k = 0;        // of the k greatest logits and what equals the least of them; 0: of all
  double top_p = 1;         // of the most probable ones that together have at least this probability (Holtzman et al., arXiv:1904.09751)
};
/// logits [..., n] → i64 [...]: class i with probability softmax(logits / temperature)[i], of those that top_k and then top_p leave, by
/// the Gumbel-max trick: argmax(logits / temperature - log(-log u)), u uniform in [0, 1) (Maddison et al., arXiv:1411.0030). A logit of -inf
/// is never drawn. key: u32[], stream: as of random_uniform. Throws Error(compile) for a temperature below 0, a top_k outside 0 to n, a
/// top_p outside (0, 1].
Tensor sample(const Tensor& logits, const Tensor& key, const Sampling& how, int64_t stream, Where where = Where::current());

/// The logits that top_k, then top_p leave of logits [..., n] already divided by the temperature; -inf in place of the others.
Tensor keep_likely(const Tensor& logits, int64_t top_k, double top_p, Where where = Where::current());

}  // namespace quern
