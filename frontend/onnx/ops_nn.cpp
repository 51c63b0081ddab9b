// ONNX's products, attention and recurrent layers. Recurrences are unrolled over their static number of steps.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "frontend/attention.h"
#include "frontend/einsum.h"
#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

constexpr double kInfinity = INFINITY;
constexpr int64_t kMaxSteps = 1024;   // of an unrolled recurrence

void import_gemm(Call& c) {
  Tensor a = c.in(0), b = c.in(1);
  c.want(a.rank() == 2 && b.rank() == 2, "matrices");
  const Tensor y = contract(fmt::format("{},{}->mn", c.flag("transA") ? "km" : "mk", c.flag("transB") ? "nk" : "kn"), a, b);
  const double alpha = c.real("alpha", 1), beta = c.real("beta", 1);
  const Tensor scaled = alpha == 1 ? y : y * alpha;
  if (!c.has(2)) return c.out(scaled);
  c.out(scaled + (beta == 1 ? c.in(2) : c.in(2) * beta));
}

// --- Einsum ---
void import_einsum(Call& c) {
  std::string equation = c.text("equation", "");
  std::erase(equation, ' ');
  const size_t arrow = equation.find("->");
  std::string left = equation.substr(0, arrow), output = arrow == std::string::npos ? "" : equation.substr(arrow + 2);
  std::vector<std::string> specs(1);
  for (char ch : left) {
    if (ch == ',') specs.emplace_back();
    else specs.back() += ch;
  }
  c.want(specs.size() == c.inputs(), "a term for every input");
  // Letters of the equation to a…z, then those of the ellipsis, which are aligned at its end.
  std::map<char, char> names;
  const auto fresh = [&]() -> char {
    for (char l = 'a'; l <= 'z'; ++l)
      if (std::none_of(names.begin(), names.end(), [&](const auto& n) { return n.second == l; })) return l;
    c.unsupported("more than 26 axes");
  };
  const auto letter = [&](char ch) {
    if (!names.count(ch)) names[ch] = fresh();
    return names[ch];
  };
  const auto spell = [&](const std::string& spec, size_t dots) {   // `dots` axes stand for "..."
    std::string out;
    for (size_t i = 0; i < spec.size(); ++i) {
      if (spec.compare(i, 3, "...") == 0) {
        for (size_t k = dots; k-- > 0;) out += letter(static_cast<char>('0' + k));
        i += 2;
      } else {
        c.want(std::isalpha(static_cast<unsigned char>(spec[i])), "equation=" + equation);
        out += letter(spec[i]);
      }
    }
    return out;
  };
  std::vector<Tensor> terms;
  std::vector<std::string> letters;
  size_t most_dots = 0;
  std::map<char, int64_t> extents;
  for (size_t i = 0; i < specs.size(); ++i) {
    const bool has_dots = specs[i].find("...") != std::string::npos;
    const size_t named = specs[i].size() - (has_dots ? 3 : 0), rank = static_cast<size_t>(c.in(i).rank());
    c.want(has_dots ? named <= rank : named == rank, fmt::format("\"{}\" for rank {}", specs[i], rank));
    most_dots = std::max(most_dots, rank - named);
    terms.push_back(c.in(i));
    letters.push_back(spell(specs[i], rank - named));
    for (size_t d = 0; d < rank; ++d) {
      int64_t& e = extents.try_emplace(letters[i][d], 1).first->second;
      e = std::max(e, terms[i].shape().at(d));
    }
  }
  if (arrow == std::string::npos) {   // the ellipsis, then letters that occur once, in order
    std::string once;
    for (const auto& [ch, l] : names)
      if (std::isalpha(static_cast<unsigned char>(ch)) && std::count(left.begin(), left.end(), ch) == 1) once += ch;
    output = (left.find("...") == std::string::npos ? "" : "...") + once;
  }
  const std::string out = spell(output, most_dots);
  std::string joined;
  for (size_t i = 0; i < terms.size(); ++i) {   // an axis of extent 1 beside a longer one is dropped: it broadcasts
    Shape shape;
    std::string rest;
    for (size_t d = 0; d < letters[i].size(); ++d)
      if (const int64_t n = terms[i].shape().at(d); n == extents[letters[i][d]]) shape.push_back(n), rest += letters[i][d];
      else c.want(n == 1, "extents differ");
    if (shape != terms[i].shape()) terms[i] = reshape(terms[i], shape);
    joined += (i ? "," : "") + rest;
  }
  for (size_t i = 0; i < out.size(); ++i) c.want(joined.find(out[i]) != std::string::npos && out.find(out[i], i + 1) == std::string::npos, "an output axis that no input has, or twice");
  c.out(einsum(joined + "->" + out, terms));
}

// --- attention ---
Tensor to_heads(const Call& c, const Tensor& x, int64_t heads) {   // [B, S, H*D] to [B, H, S, D]
  if (x.rank() == 4) return x;
  c.want(x.rank() == 3 && heads > 0 && x.shape().at(2) % heads == 0, "[batch, sequence, heads * size]");
  return transpose(reshape(x, {x.shape().at(0), x.shape().at(1), heads, x.shape().at(2) / heads}), {0, 2, 1, 3});
}
Tensor from_heads(const Tensor& x) {
  return reshape(transpose(x, {0, 2, 1, 3}), {x.shape().at(0), x.shape().at(2), x.shape().at(1) * x.shape().at(3)});
}
// Every head of keys and values serves `times` heads of queries.
Tensor repeat_heads(const Tensor& x, int64_t times) {
  if (times == 1) return x;
  const Shape s = x.shape();
  return reshape(broadcast_to(expand_dims(x, 2), {s[0], s[1], times, s[2], s[3]}), {s[0], s[1] * times, s[2], s[3]});
}
// Rows that are -inf throughout give 0.
Tensor guarded_softmax(const Tensor& x, const Tensor& masked) {
  return where(masked, broadcast_to(Tensor(&x.graph(), x.graph().scalar(x.dtype(), 0)), x.shape()), softmax_along(x, x.rank() - 1));
}

void import_attention(Call& c) {
  const bool flat_heads = c.in(0).rank() == 3;
  const Tensor q = to_heads(c, c.in(0), c.integer("q_num_heads", 0));
  Tensor k = to_heads(c, c.in(1), c.integer("kv_num_heads", 0)), v = to_heads(c, c.in(2), c.integer("kv_num_heads", 0));
  if (c.has(4)) k = concat({c.in(4), k}, 2);
  if (c.has(5)) v = concat({c.in(5), v}, 2);
  c.out(k, 1);
  c.out(v, 2);
  const DType dtype = q.dtype();
  const int64_t heads = q.shape().at(1), rows = q.shape().at(2), keys = k.shape().at(2);
  c.want(k.shape().at(1) > 0 && heads % k.shape().at(1) == 0, "heads of queries are a multiple of those of keys");
  k = repeat_heads(k, heads / k.shape().at(1));
  v = repeat_heads(v, heads / v.shape().at(1));
  const double scale = std::sqrt(c.find("scale") ? c.real("scale", 1) : 1 / std::sqrt(static_cast<double>(q.shape().at(3))));
  Tensor scores = contract("bhqd,bhkd->bhqk", q * scale, k * scale);
  const int64_t mode = c.integer("qk_matmul_output_mode", 0);
  if (mode == 0) c.out(scores, 3);
  if (const double cap = c.real("softcap", 0); cap != 0) scores = tanh(scores / cap) * cap;
  if (mode == 1) c.out(scores, 3);

  // What each query may not see, as -inf.
  const Tensor minus = c.number(dtype, -kInfinity);
  const Shape square = {1, 1, rows, keys};
  Tensor bias = c.filled(dtype, square, 0);
  if (c.has(3)) {
    Tensor mask = c.in(3);
    c.want(mask.rank() > 0, "a mask without axes");
    const int64_t missing = keys - mask.shape().back();
    if (missing > 0) {
      Shape low(mask.shape().size(), 0), high = low;
      high.back() = missing;
      if (mask.dtype() == DType::boolean) mask = cast(pad(cast(mask, DType::u8), low, high), DType::boolean);
      else mask = pad(mask, low, high, -kInfinity);
    }
    bias = bias + (mask.dtype() == DType::boolean ? where(mask, c.filled(dtype, mask.shape(), 0), minus) : mask);
  }
  Tensor position = c.coordinates(DType::i64, square, 2);   // of the query among the keys
  const Tensor key = c.coordinates(DType::i64, square, 3);
  if (c.has(4)) position = position + static_cast<double>(c.in(4).shape().at(2));
  else if (c.has(6)) position = position + reshape(cast(c.in(6), DType::i64), {c.in(6).type().size(), 1, 1, 1}) - static_cast<double>(rows);
  const auto forbid = [&](const Tensor& seen) { bias = bias + where(seen, c.filled(dtype, seen.shape(), 0), minus); };
  if (c.flag("is_causal")) forbid(less_equal(key, position));
  if (const int64_t w = c.integer("left_window_size", -1); w >= 0) forbid(less_equal(position, key + static_cast<double>(w)));
  if (const int64_t w = c.integer("right_window_size", -1); w >= 0) forbid(less_equal(key, position + static_cast<double>(w)));
  if (c.has(6)) forbid(less(key, reshape(cast(c.in(6), DType::i64), {c.in(6).type().size(), 1, 1, 1})));
  scores = scores + bias;
  if (mode == 2) c.out(scores, 3);

  const DType precise = c.find("softmax_precision") ? c.dtype_of(c.integer("softmax_precision", 1)) : dtype;
  const Tensor masked = with_axes(equal(max(bias, {3}), -kInfinity), bias, {3});
  const Tensor weights = cast(guarded_softmax(cast(scores, precise), masked), dtype);
  if (mode == 3) c.out(weights, 3);
  const Tensor y = contract("bhqk,bhkd->bhqd", weights, v);
  c.out(flat_heads ? from_heads(y) : y);
}

void import_flex_attention(Call& c) {
  const Tensor q = c.in(0);
  c.want(q.rank() == 4 && c.in(1).rank() == 4 && c.in(2).rank() == 4 && c.in(1).shape().at(1) > 0 && q.shape().at(1) % c.in(1).shape().at(1) == 0, "[B, H, S, D]");
  const int64_t times = q.shape().at(1) / c.in(1).shape().at(1);
  const Tensor k = repeat_heads(c.in(1), times), v = repeat_heads(c.in(2), times);
  const double scale = std::sqrt(c.find("scale") ? c.real("scale", 1) : 1 / std::sqrt(static_cast<double>(q.shape().at(3))));
  const bool narrow = q.dtype() == DType::f16 || q.dtype() == DType::bf16;
  const DType precise = c.find("softmax_precision") ? c.dtype_of(c.integer("softmax_precision", 1)) : narrow ? DType::f32 : q.dtype();
  const auto modified = [&](const char* name, const Tensor& x) {
    if (!c.find(name)) return x;
    const std::vector<Value> y = c.body(name, {Value::of(x)});
    c.want(y.size() == 1 && y[0].kind == Value::Kind::tensor, fmt::format("{} has one result", name));
    return y[0].items[0];
  };
  const Tensor scores = modified("score_mod", cast(contract("bhqd,bhkd->bhqk", q * scale, k * scale), precise));
  const Tensor weights = modified("prob_mod", softmax_along(scores, 3));
  c.out(cast(contract("bhqk,bhkd->bhqd", weights, cast(v, precise)), v.dtype()));
}

void import_rotary(Call& c) {
  const bool by_heads = c.in(0).rank() == 4;
  const Tensor x = by_heads ? c.in(0) : to_heads(c, c.in(0), c.integer("num_heads", 0));   // [B, H, S, D]
  const int64_t size = x.shape().at(3), given = c.integer("rotary_embedding_dim", 0), turned = given ? given : size;
  c.want(turned % 2 == 0 && turned <= size && turned > 0, "an even number of turned elements");
  Tensor cosine = c.in(1), sine = c.in(2);
  if (c.has(3)) {
    cosine = take(cosine, c.in(3), 0);
    sine = take(sine, c.in(3), 0);
  }
  cosine = expand_dims(cosine, 1);
  sine = expand_dims(sine, 1);
  const Tensor part = ranged(x, 3, 0, turned);
  const bool interleaved = c.flag("interleaved");
  Tensor y = rotate_pairs(part, cosine, sine, interleaved);
  if (turned < size) y = concat({y, slice(x, 3, turned, size)}, 3);
  c.out(by_heads ? y : from_heads(y));
}

// The state is a matrix for each head that every step decays, corrects and adds to.
void import_linear_attention(Call& c) {
  const int64_t q_heads = c.integer("q_num_heads", 0), heads = c.integer("kv_num_heads", 0);
  c.want(heads > 0 && q_heads % heads == 0, "heads of queries are a multiple of those of keys");
  const DType dtype = c.in(0).dtype(), wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  const Tensor q = cast(to_heads(c, c.in(0), q_heads), wide), k = cast(to_heads(c, c.in(1), heads), wide), v = cast(to_heads(c, c.in(2), heads), wide);
  const std::string rule = c.text("update_rule", "gated_delta");
  const bool gated = rule == "gated" || rule == "gated_delta", delta = rule == "delta" || rule == "gated_delta";
  const int64_t batch = q.shape().at(0), steps = q.shape().at(2), dk = k.shape().at(3), dv = v.shape().at(3);
  if (steps > kMaxSteps) c.unsupported(fmt::format("{} steps; at most {} are unrolled", steps, kMaxSteps));
  Tensor state = c.has(3) ? cast(c.in(3), wide) : c.filled(wide, {batch, heads, dk, dv}, 0);
  const DType state_dtype = c.has(3) ? c.in(3).dtype() : dtype;
  const auto by_head = [&](size_t i) {   // [B, T, H*n] or [B, T, 1] to [B, H or 1, T, n]
    const Tensor t = cast(c.in(i), wide);
    return to_heads(c, t, t.shape().at(2) == 1 ? 1 : heads);
  };
  const Tensor decay = gated ? exp(by_head(4)) : Tensor(), rate = delta ? by_head(5) : Tensor();
  const double scale = c.real("scale", 0) != 0 ? c.real("scale", 0) : 1 / std::sqrt(static_cast<double>(q.shape().at(3)));
  std::vector<Tensor> outputs;
  for (int64_t t = 0; t < steps; ++t) {
    const auto at = [&](const Tensor& x) {   // [B, H, n]
      const Tensor s = slice(x, 2, t, t + 1);
      return reshape(s, {s.shape().at(0), s.shape().at(1), s.shape().at(3)});
    };
    const Tensor kt = at(k);
    Tensor vt = at(v);
    if (gated) state = state * expand_dims(at(decay), 3);
    if (delta) vt = at(rate) * (vt - contract("bhkv,bhk->bhv", state, kt));
    state = state + expand_dims(kt, 3) * expand_dims(vt, 2);
    outputs.push_back(expand_dims(contract("bhk,bhkv->bhv", at(q), repeat_heads(state, q_heads / heads)) * scale, 2));
  }
  c.want(!outputs.empty(), "no steps");
  c.out(cast(from_heads(concat(outputs, 2)), dtype));
  c.out(cast(state, state_dtype), 1);
}

void import_causal_conv(Call& c) {
  const Tensor x = c.in(0), w = c.in(1);
  c.want(x.rank() == 3 && w.rank() == 3 && w.shape().at(2) > 0 && w.shape().at(2) <= kMaxSteps, "[N, C, L] and [C, 1, k]");
  const int64_t k = w.shape().at(2), n = x.shape().at(2), channels = x.shape().at(1);
  const Tensor all = concat({c.has(3) ? c.in(3) : c.filled(x.dtype(), {x.shape().at(0), channels, k - 1}, 0), x}, 2);
  const DType wide = x.dtype() == DType::f64 ? DType::f64 : DType::f32;
  Tensor y;
  for (int64_t t = 0; t < k; ++t) {
    const Tensor part = cast(slice(all, 2, t, t + n), wide) * reshape(cast(slice(w, 2, t, t + 1), wide), {channels, 1});
    y = y ? y + part : part;
  }
  if (c.has(2)) y = y + reshape(cast(c.in(2), wide), {channels, 1});
  y = cast(y, x.dtype());
  const std::string activation = c.text("activation", "none");
  if (activation == "silu" || activation == "swish") y = cast(cast(y, wide) * sigmoid_of(cast(y, wide)), x.dtype());
  else c.want(activation == "none", "activation=" + activation);
  c.out(y);
  c.out(slice(all, 2, n, n + k - 1), 1);
}

// --- recurrent layers: X [T, B, I] (layout 1: [B, T, I]), one or two directions ---
struct Recurrence {
  int64_t directions, steps, batch, hidden;
  bool batch_first;
  Tensor x;
};
using Activation = std::function<Tensor(const Tensor&)>;
Activation activation_of(const Call& c, const std::string& name, double alpha, double beta) {
  if (name == "Tanh") return [](const Tensor& x) { return tanh(x); };
  if (name == "Sigmoid") return sigmoid_of;
  if (name == "Relu") return [](const Tensor& x) { return maximum(x, 0); };
  if (name == "HardSigmoid") return [alpha, beta](const Tensor& x) { return maximum(minimum(x * alpha + beta, 1), 0); };
  if (name == "LeakyRelu") return [alpha](const Tensor& x) { return where(less(x, 0), x * alpha, x); };
  if (name == "Affine") return [alpha, beta](const Tensor& x) { return x * alpha + beta; };
  if (name == "Softsign") return [](const Tensor& x) { return x / (abs(x) + 1); };
  if (name == "Softplus") return softplus_of;
  c.unsupported("activation " + name);
}
std::vector<Activation> activations(const Call& c, std::vector<std::string> names, int64_t directions) {
  const std::vector<std::string> defaults = names;
  for (int64_t d = 1; d < directions; ++d) names.insert(names.end(), defaults.begin(), defaults.end());
  if (const Attribute* a = c.find("activations")) {
    c.want(a->texts.size() == names.size(), "as many activations as the layer has");
    for (size_t i = 0; i < names.size(); ++i) names[i] = a->texts[i];
  }
  const Attribute *alpha = c.find("activation_alpha"), *beta = c.find("activation_beta");
  std::vector<Activation> out;
  for (size_t i = 0; i < names.size(); ++i) {
    const double default_alpha = names[i] == "HardSigmoid" ? 0.2 : names[i] == "LeakyRelu" ? 0.01 : 1, default_beta = names[i] == "HardSigmoid" ? 0.5 : 0;
    out.push_back(activation_of(c, names[i], alpha && i < alpha->floats.size() ? alpha->floats[i] : default_alpha, beta && i < beta->floats.size() ? beta->floats[i] : default_beta));
  }
  return out;
}
// Runs `step(gates of x with its bias, states, direction)` over time in each direction; states[0] is the output. Bias:
// [directions, 2 * gates * hidden], half for the input, half for the recurrence, which `step` gets.
using Step = std::function<std::vector<Tensor>(const Tensor& gates, const std::vector<Tensor>& states, const Tensor& recurrence_bias, int64_t direction)>;
void recurrent(Call& c, int64_t gates, std::vector<size_t> initial_at, const Step& step) {
  const bool batch_first = c.flag("layout");
  const Tensor x = batch_first ? transpose(c.in(0), {1, 0, 2}) : c.in(0), w = c.in(1);
  const int64_t hidden = c.integer("hidden_size", c.in(2).shape().at(2)), directions = w.shape().at(0), steps = x.shape().at(0), batch = x.shape().at(1);
  const std::string direction = c.text("direction", "forward");
  if (steps > kMaxSteps) c.unsupported(fmt::format("{} steps; at most {} are unrolled", steps, kMaxSteps));
  c.want(hidden > 0 && hidden <= (1 << 30), "hidden_size");
  c.want(steps > 0 && directions == (direction == "bidirectional" ? 2 : 1), "steps and directions");
  if (c.find("clip")) c.unsupported("clip");
  Tensor lengths;
  if (c.has(4)) lengths = reshape(cast(c.in(4), DType::i64), {batch, 1});
  std::vector<Tensor> sequences;
  std::vector<std::vector<Tensor>> finals(initial_at.size());
  for (int64_t d = 0; d < directions; ++d) {
    const auto of_direction = [&](const Tensor& t) {
      const Tensor s = slice(t, 0, d, d + 1);
      return reshape(s, {t.shape().begin() + 1, t.shape().end()});
    };
    const Tensor bias = c.has(3) ? of_direction(c.in(3)) : c.filled(x.dtype(), {2 * gates * hidden}, 0);
    const Tensor gates_of_x = contract("tbi,gi->tbg", x, of_direction(w)) + slice(bias, 0, 0, gates * hidden);
    const Tensor recurrence_bias = slice(bias, 0, gates * hidden, 2 * gates * hidden);
    std::vector<Tensor> states;
    for (size_t i : initial_at) {
      Tensor s = c.has(i) ? c.in(i) : c.filled(x.dtype(), {directions, batch, hidden}, 0);
      if (c.has(i) && batch_first) s = transpose(s, {1, 0, 2});
      states.push_back(of_direction(s));
    }
    const bool backward = direction == "reverse" || d == 1;
    std::vector<Tensor> outputs(static_cast<size_t>(steps));
    for (int64_t k = 0; k < steps; ++k) {
      const int64_t t = backward ? steps - 1 - k : k;
      const std::vector<Tensor> next = step(reshape(slice(gates_of_x, 0, t, t + 1), {batch, gates * hidden}), states, recurrence_bias, d);
      Tensor y = next[0];
      if (lengths) {   // beyond its length a row keeps its states and gives 0
        const Tensor within = broadcast_to(less(static_cast<double>(t), lengths), {batch, hidden});
        y = where(within, y, 0);
        for (size_t s = 0; s < states.size(); ++s) states[s] = where(within, next[s], states[s]);
      } else {
        states = next;
      }
      outputs[static_cast<size_t>(t)] = reshape(y, {1, 1, batch, hidden});
    }
    sequences.push_back(concat(outputs, 0));   // [T, 1, B, H]
    for (size_t s = 0; s < states.size(); ++s) finals[s].push_back(expand_dims(states[s], 0));
  }
  const Tensor all = concat(sequences, 1);
  c.out(batch_first ? transpose(all, {2, 0, 1, 3}) : all);
  for (size_t s = 0; s < finals.size(); ++s) {
    const Tensor last = concat(finals[s], 0);
    c.out(batch_first ? transpose(last, {1, 0, 2}) : last, 1 + s);
  }
}
Tensor gate(const Tensor& x, int64_t i, int64_t hidden) { return slice(x, x.rank() - 1, i * hidden, (i + 1) * hidden); }
Tensor recurrence(const Call& c, const Tensor& state, int64_t direction) {   // with all gates' weights
  const Tensor r = c.in(2), mine = reshape(slice(r, 0, direction, direction + 1), {r.shape().at(1), r.shape().at(2)});
  return contract("bh,gh->bg", state, mine);
}
void import_rnn(Call& c) {
  const auto f = activations(c, {"Tanh"}, c.in(1).shape().at(0));
  recurrent(c, 1, {5}, [&](const Tensor& x, const std::vector<Tensor>& s, const Tensor& bias, int64_t d) {
    return std::vector<Tensor>{f[static_cast<size_t>(d)](x + recurrence(c, s[0], d) + bias)};
  });
}
void import_gru(Call& c) {   // gates z, r, h
  const int64_t hidden = c.in(2).shape().at(2);
  const auto f = activations(c, {"Sigmoid", "Tanh"}, c.in(1).shape().at(0));
  recurrent(c, 3, {5}, [&](const Tensor& x, const std::vector<Tensor>& s, const Tensor& bias, int64_t d) {
    const Activation &sig = f[static_cast<size_t>(2 * d)], &act = f[static_cast<size_t>(2 * d) + 1];
    const Tensor r = recurrence(c, s[0], d) + bias;
    const Tensor z = sig(gate(x, 0, hidden) + gate(r, 0, hidden)), reset = sig(gate(x, 1, hidden) + gate(r, 1, hidden));
    Tensor inner;
    if (c.flag("linear_before_reset")) {
      inner = reset * gate(r, 2, hidden);
    } else {
      inner = gate(recurrence(c, reset * s[0], d), 2, hidden) + gate(bias, 2, hidden);
    }
    const Tensor h = act(gate(x, 2, hidden) + inner);
    return std::vector<Tensor>{(1 - Operand(z)) * h + z * s[0]};
  });
}
void import_lstm(Call& c) {   // gates i, o, f, c
  const int64_t hidden = c.in(2).shape().at(2), directions = c.in(1).shape().at(0);
  const auto f = activations(c, {"Sigmoid", "Tanh", "Tanh"}, directions);
  const Tensor peepholes = c.has(7) ? c.in(7) : c.filled(c.in(0).dtype(), {directions, 3 * hidden}, 0);
  const bool peeps = c.has(7), coupled = c.flag("input_forget");
  recurrent(c, 4, {5, 6}, [&](const Tensor& x, const std::vector<Tensor>& s, const Tensor& bias, int64_t d) {
    const size_t base = static_cast<size_t>(3 * d);
    const Tensor g = x + recurrence(c, s[0], d) + bias, p = reshape(slice(peepholes, 0, d, d + 1), {3 * hidden});
    const auto peep = [&](const Tensor& t, int64_t i, const Tensor& cell) { return peeps ? t + gate(p, i, hidden) * cell : t; };
    const Tensor i = f[base](peep(gate(g, 0, hidden), 0, s[1])), forget = coupled ? 1 - Operand(i) : f[base](peep(gate(g, 2, hidden), 2, s[1]));
    const Tensor cell = forget * s[1] + i * f[base + 1](gate(g, 3, hidden));
    const Tensor o = f[base](peep(gate(g, 1, hidden), 1, cell));
    return std::vector<Tensor>{o * f[base + 2](cell), cell};
  });
}

}  // namespace

std::vector<OpEntry> nn_ops() {
  return {
      {"Attention", import_attention}, {"CausalConvWithState", import_causal_conv}, {"Einsum", import_einsum}, {"GRU", import_gru}, {"Gemm", import_gemm},
      {"LSTM", import_lstm}, {"LinearAttention", import_linear_attention}, {"MatMul", [](Call& c) { c.out(numpy_matmul(c.in(0), c.in(1))); }}, {"RNN", import_rnn},
      {"RotaryEmbedding", import_rotary}, {"ai.onnx.preview.FlexAttention", import_flex_attention},
  };
}

}  // namespace quern::onnx
