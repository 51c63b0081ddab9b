// Values from nowhere: inputs, constants, coordinates, random bits.
#include <fmt/format.h>

#include "ir/ops/define.h"

namespace quern {
namespace {

Type infer_input(const InferContext& c) {
  c.want(c.attrs.dtype.size() == 1, Code::attribute_missing, "wants the attribute dtype", "dtype=f32, say");
  return checked(c, {c.attrs.dtype[0], c.attrs.shape, {}});
}
Type infer_constant(const InferContext& c) {
  QN_CHECK(c.attrs.value != nullptr, "a constant has a value");
  return checked(c, {c.attrs.value->dtype, c.attrs.value->shape, {}});
}
Type infer_iota(const InferContext& c) {
  want_args(c, 0);
  const Type t = infer_input(c);
  c.want(c.attrs.axes.size() == 1, Code::attribute_missing, "wants one axis", "axes=[0], say");
  want_axes(c, c.attrs.axes, t.rank());
  c.want(t.dtype != DType::boolean, Code::dtype_unsupported, "is not defined for bool", "compare an integer iota with 0");
  c.want(!is_storage(t.dtype), Code::dtype_unsupported, fmt::format("is not defined for {}, which is for storage", name_of(t.dtype)), "cast one of i32");
  return t;
}
Type infer_random(const InferContext& c) {
  want_args(c, 1);
  c.want(c.args[0] == Type{DType::u32, {}, {}}, Code::random_key, "the key must be u32[]", "pass an input u32[]");
  c.want(c.attrs.index.size() == 1 && c.attrs.index[0] >= 0 && c.attrs.index[0] < (int64_t{1} << 32), Code::random_key, "wants one stream number in [0, 2^32)", "number the uses of a key from 0");
  return checked(c, {DType::u32, c.attrs.shape, {}});
}

Type infer_extent(const InferContext& c) {
  want_args(c, 0);
  checked(c, {DType::u8, c.attrs.shape, {}});
  return {DType::i64, {}, {}};
}

HostTensor eval_input(const Node&, std::span<const HostTensor* const>) {
  throw Error(Code::general_bug, "this is a bug in Quern: an input has no value of its own");
}
HostTensor eval_constant(const Node& node, std::span<const HostTensor* const>) { return *node.attrs.value; }
HostTensor eval_iota(const Node& node, std::span<const HostTensor* const>) {
  HostTensor out(node.type.dtype, node.type.shape);
  int64_t i = 0;
  for_each_index(out.shape, [&](const Shape& at) { out.set(i++, Scalar::of_int(out.dtype, at[static_cast<size_t>(node.attrs.axes[0])])); });
  return out;
}
HostTensor eval_random(const Node& node, std::span<const HostTensor* const> args) {
  HostTensor out(DType::u32, node.type.shape);
  const uint32_t key = static_cast<uint32_t>(args[0]->get(0).i), stream = static_cast<uint32_t>(node.attrs.index[0]);
  for (int64_t i = 0; i < out.size(); ++i) out.set(i, Scalar::of_int(DType::u32, philox(key, stream, static_cast<uint64_t>(i))));
  return out;
}

HostTensor eval_extent(const Node& node, std::span<const HostTensor* const>) {
  HostTensor out(DType::i64, {});
  out.set(0, Scalar::of_int(DType::i64, count(node.attrs.shape)));
  return out;
}

std::vector<Sample> no_samples(DType) { return {}; }
std::vector<Sample> iota_samples(DType d) {
  if (d == DType::boolean || is_storage(d)) return {};
  std::vector<Sample> out;
  for (const auto& [shape, axis] : {std::pair<Shape, int64_t>{{7}, 0}, {{3, 40}, 1}, {{3, 40}, 0}, {{0}, 0}, {{1}, 0}, {{3, 0}, 0}}) {
    Sample s;
    s.attrs.axes = {axis};
    s.attrs.shape = shape;
    s.attrs.dtype = {d};
    out.push_back(s);
  }
  return out;
}
std::vector<Sample> extent_samples(DType d) {
  if (d != DType::i64) return {};
  std::vector<Sample> out;
  for (const Shape& shape : {Shape{}, Shape{9}, Shape{3, 70}, Shape{0, 2}}) {
    out.emplace_back();
    out.back().attrs.shape = shape;
  }
  return out;
}
std::vector<Sample> random_samples(DType d) {
  if (d != DType::u32) return {};
  std::vector<Sample> out;
  for (const Shape& shape : {Shape{}, Shape{9}, Shape{3, 70}, Shape{0}, Shape{1, 1}}) {
    Sample s{{{d, {}, {}}}, {}, 0, 100};
    s.attrs.shape = shape;
    s.attrs.index = {3};
    out.push_back(s);
  }
  return out;
}

}  // namespace

std::vector<OpDef> source_ops() {
  return {
      define(Op::input, "input", "a named argument of the graph", infer_input, eval_input, no_gradient, Source{}, no_samples),
      define(Op::constant, "constant", "a value known now", infer_constant, eval_constant, no_gradient, Source{}, no_samples),
      define(Op::iota, "iota", "the coordinate along axes[0]", infer_iota, eval_iota, no_gradient, Source{}, iota_samples),
      define(Op::extent, "extent", "the number of elements of a shape, i64[]", infer_extent, eval_extent, no_gradient, Source{}, extent_samples),
      define(Op::random, "random", "32 random bits per element from (key, stream)", infer_random, eval_random, no_gradient, Source{}, random_samples),
  };
}

}  // namespace quern
