// Batched contraction with named axes: every matrix product, batched product and inner product.
#include <algorithm>

#include <fmt/format.h>

#include "ir/ops/define.h"

namespace quern {

ContractSpec parse_contract(const std::string& spec) {
  const size_t comma = spec.find(','), arrow = spec.find("->");
  if (comma == std::string::npos || arrow == std::string::npos || comma > arrow)
    throw Error(Code::contract_spec, fmt::format("contract: the spec \"{}\" is not of the form \"mk,kn->mn\"", spec)).with_help("name every axis of both operands and of the output by a letter");
  return {spec.substr(0, comma), spec.substr(comma + 1, arrow - comma - 1), spec.substr(arrow + 2)};
}

namespace {

bool has(const std::string& letters, char c) { return letters.find(c) != std::string::npos; }

Type infer_contract(const InferContext& c) {
  want_args(c, 2);
  want_same_dtype(c);
  want_arithmetic(c);
  c.want(c.args[0].dtype != DType::boolean, Code::dtype_unsupported, "is not defined for bool", "cast to i32 first");
  c.want(c.attrs.name.empty() || (c.attrs.name == "tf32" && c.args[0].dtype == DType::f32), Code::contract_spec, fmt::format("\"{}\" is no precision of {}", c.attrs.name, name_of(c.args[0].dtype)), "f32 may be multiplied as tf32");
  const ContractSpec s = parse_contract(c.attrs.spec);
  const auto extent = [&](char letter) -> int64_t {
    for (int a = 0; a < 2; ++a) {
      const size_t d = (a ? s.rhs : s.lhs).find(letter);
      if (d != std::string::npos) return c.args[static_cast<size_t>(a)].shape[d];
    }
    c.fail(Code::contract_spec, fmt::format("output axis '{}' of \"{}\" is in no operand", letter, c.attrs.spec), "broadcast the result for a new axis");
  };
  const std::string help = "for matmul the last axis of lhs and the second-to-last of rhs must be equal";
  for (int a = 0; a < 2; ++a) {
    const std::string& letters = a ? s.rhs : s.lhs;
    c.want(static_cast<int64_t>(letters.size()) == c.args[static_cast<size_t>(a)].rank(),
           Code::contract_spec, fmt::format("\"{}\" names {} axes of {}, which has rank {}", c.attrs.spec, letters.size(), a ? "rhs" : "lhs", c.args[static_cast<size_t>(a)].rank()), "give every axis one letter");
    for (size_t d = 0; d < letters.size(); ++d) {
      c.want(letters[d] >= 'a' && letters[d] <= 'z', Code::contract_spec, "axes are named by letters a to z", "use lower-case letters");
      c.want(letters.find(letters[d]) == d, Code::contract_spec, fmt::format("axis '{}' repeats within an operand", letters[d]), "give every axis of an operand its own letter");
      const bool shared = has(a ? s.lhs : s.rhs, letters[d]);
      c.want(shared || has(s.out, letters[d]), Code::contract_spec, fmt::format("axis '{}' is in one operand alone and not in the output", letters[d]), "reduce_sum it first");
      if (shared)
        c.want(extent(letters[d]) == c.args[static_cast<size_t>(a)].shape[d],
               Code::inner_dims, fmt::format("axis '{}' of \"{}\" differs: {} vs {}", letters[d], c.attrs.spec, extent(letters[d]), c.args[static_cast<size_t>(a)].shape[d]), help);
    }
  }
  Type out{c.args[0].dtype, {}, {}};
  for (size_t d = 0; d < s.out.size(); ++d) {
    c.want(s.out.find(s.out[d]) == d, Code::contract_spec, fmt::format("axis '{}' repeats in the output", s.out[d]), "name every axis of the output once");
    out.shape.push_back(extent(s.out[d]));
  }
  return checked(c, out);
}

// Strides of an operand along the given letters; 0 where it lacks one.
Shape strides_along(const std::string& letters, const std::string& mine, const Shape& shape) {
  const Shape strides = row_major(shape);
  Shape out;
  for (char c : letters) out.push_back(has(mine, c) ? strides[mine.find(c)] : 0);
  return out;
}

HostTensor eval_contract(const Node& node, std::span<const HostTensor* const> args) {
  const ContractSpec s = parse_contract(node.attrs.spec);
  std::string summed;
  for (char c : s.lhs)
    if (!has(s.out, c)) summed += c;
  const Shape out_l = strides_along(s.out, s.lhs, args[0]->shape), out_r = strides_along(s.out, s.rhs, args[1]->shape);
  const Shape sum_l = strides_along(summed, s.lhs, args[0]->shape), sum_r = strides_along(summed, s.rhs, args[1]->shape);
  Shape extents;
  for (char c : summed) extents.push_back(args[0]->shape[s.lhs.find(c)]);
  const bool floating = is_float(node.type.dtype);
  // The positions of the summed elements, once.
  std::vector<std::pair<int64_t, int64_t>> terms;
  for_each_index(extents, [&](const Shape& k) { terms.emplace_back(position(k, sum_l), position(k, sum_r)); });
  HostTensor out(node.type.dtype, node.type.shape);
  int64_t i = 0;
  if (floating) {
    const std::vector<double> a = args[0]->to_doubles(), b = args[1]->to_doubles();
    for_each_index(out.shape, [&](const Shape& index) {
      const double *x = a.data() + position(index, out_l), *y = b.data() + position(index, out_r);
      double sum = summed.empty() ? -0.0 : 0;   // of one product: itself, also where that is -0
      for (const auto& [l, r] : terms) sum += x[l] * y[r];
      out.set(i++, Scalar::of(out.dtype, sum));
    });
  } else {
    for_each_index(out.shape, [&](const Shape& index) {
      const int64_t x = position(index, out_l), y = position(index, out_r);
      uint64_t sum = 0;
      for (const auto& [l, r] : terms)
        sum += static_cast<uint64_t>(args[0]->get(x + l).i) * static_cast<uint64_t>(args[1]->get(y + r).i);
      out.set(i++, Scalar::of_int(out.dtype, static_cast<int64_t>(sum)));
    });
  }
  return out;
}

// dA = contract(g, B) with the letters renamed; every letter of A is in g or in B.
std::vector<NodeId> vjp_contract(GraphBuilder& b, NodeId n, NodeId g) {
  const Node node = b.graph().at(n);
  const ContractSpec s = parse_contract(node.attrs.spec);
  Attrs l, r;
  l.spec = fmt::format("{},{}->{}", s.out, s.rhs, s.lhs);
  r.spec = fmt::format("{},{}->{}", s.lhs, s.out, s.rhs);
  return {b.add(Op::contract, {g, node.args[1]}, l), b.add(Op::contract, {node.args[0], g}, r)};
}

std::vector<Sample> contract_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  const auto sample = [&](Shape a, Shape b, const char* spec) {
    Sample s{{{d, std::move(a), {}}, {d, std::move(b), {}}}, {}, -1, 1};
    s.attrs.spec = spec;
    return s;
  };
  return {sample({3, 5}, {5, 7}, "mk,kn->mn"),         sample({5, 3}, {5, 7}, "km,kn->mn"),  sample({3, 5}, {7, 5}, "mk,nk->mn"),
          sample({2, 3, 5}, {2, 5, 4}, "bmk,bkn->bmn"), sample({5}, {5}, "k,k->"),            sample({1, 33}, {33, 17}, "mk,kn->mn"),
          sample({3, 0}, {0, 4}, "mk,kn->mn"),          sample({0, 3}, {3, 4}, "mk,kn->mn"),  sample({3}, {4}, "m,n->mn"),
          sample({67, 65}, {65, 70}, "mk,kn->mn"),      sample({2, 3, 4}, {3, 4, 5}, "bij,ijn->nb"),
          sample({9, 130}, {130}, "mk,k->m"),           sample({4, 3}, {4, 3}, "ab,ab->ab"),   sample({}, {}, ",->"),
          sample({1, 1}, {1, 1}, "mk,kn->mn"),          sample({3, 5}, {5, 0}, "mk,kn->mn"),  sample({0, 2, 3}, {0, 3, 4}, "bmk,bkn->bmn"),
          sample({0}, {0}, "k,k->"),                    sample({}, {5}, ",n->n"),
          sample({70, 9}, {90, 9}, "mk,nk->mn")};   // several row tiles and panels
}

}  // namespace

std::vector<OpDef> contract_ops() {
  return {define(Op::contract, "contract", "sum of products over the letters that the output lacks; name=\"tf32\": operands of f32 may be rounded to 11 bits of significand", infer_contract, eval_contract, vjp_contract, Contract{}, contract_samples)};
}

}  // namespace quern
