// The error corpus: wrong uses of the DSL, wrong graphs as text, wrong files. Each must name its line, its code, every operand's
// type and a way out, and must look as the golden text in tests/cases/errors/NAME.txt (line numbers of this file
// written as LINE). After a wanted change of wording: error_corpus_test --update writes them anew.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>

#include <gtest/gtest.h>

#include "codegen/compile.h"
#include "codegen/cuda/process.h"
#include "frontend/attention.h"
#include "frontend/control.h"
#include "frontend/conv.h"
#include "frontend/einsum.h"
#include "frontend/loss.h"
#include "frontend/nn.h"
#include "frontend/norm.h"
#include "frontend/npy.h"
#include "frontend/npz.h"
#include "frontend/onnx/import.h"
#include "frontend/params.h"
#include "frontend/reduce.h"
#include "frontend/resize.h"
#include "frontend/shape.h"
#include "frontend/transforms.h"
#include "ir/interpret.h"
#include "ir/support/file.h"
#include "ir/text.h"
#include "passes/pass.h"
#include "tests/support/updating.h"
#include "tools/diagnostics.h"
#include "tools/fuzz_files.h"
#include "tools/onnx_writer.h"

namespace quern {
namespace {

constexpr DType f32 = DType::f32, i32 = DType::i32, u32 = DType::u32, f64 = DType::f64, boolean = DType::boolean;

struct Fixture {
  const char* name;
  uint32_t line;
  Code code;
  std::vector<const char*> parts;   // what the error must show: types of its operands
  std::function<void(Model&)> wrong;
};
// One line each: the wrong use must be on the line of the fixture.
#define WRONG(name, code, ...) Fixture{#name, __LINE__, Code::code, __VA_ARGS__}
Tensor in(Model& m, const char* name, Shape shape, DType dtype = f32) { return m.input(name, dtype, std::move(shape)); }

std::vector<Fixture> dsl() {
  return {
      WRONG(matmul_inner, inner_dims, {"f32[64,512]", "f32[500,256]", "input \"w\""}, [](Model& m) { matmul(in(m, "x", {64, 512}), in(m, "w", {500, 256})); }),
      WRONG(matmul_transposed, inner_dims, {"f32[4,8]", "f32[16,8]", "transpose"}, [](Model& m) { matmul(in(m, "x", {4, 8}), in(m, "w", {16, 8})); }),
      WRONG(matmul_vector_lhs, bad_rank, {"f32[8]", "f32[8,2]"}, [](Model& m) { matmul(in(m, "x", {8}), in(m, "w", {8, 2})); }),
      WRONG(matmul_vector_rhs, bad_rank, {"f32[2,8]", "f32[8]"}, [](Model& m) { matmul(in(m, "x", {2, 8}), in(m, "w", {8})); }),
      WRONG(matmul_batch, shapes_differ, {"f32[2,3,4]", "f32[5,4,6]"}, [](Model& m) { matmul(in(m, "x", {2, 3, 4}), in(m, "w", {5, 4, 6})); }),
      WRONG(matmul_dtype, dtypes_differ, {"f32[2,3]", "f64[3,4]"}, [](Model& m) { matmul(in(m, "x", {2, 3}), in(m, "w", {3, 4}, f64)); }),
      WRONG(linear_bias, shapes_differ, {"f32[4,2]", "f32[3]"}, [](Model& m) { linear(in(m, "x", {4, 8}), in(m, "w", {8, 2}), in(m, "b", {3})); }),
      WRONG(add_shapes, shapes_differ, {"f32[2,3]", "f32[4]"}, [](Model& m) { in(m, "x", {2, 3}) + in(m, "y", {4}); }),
      WRONG(sub_dtypes, dtypes_differ, {"f32[2]", "i32[2]"}, [](Model& m) { in(m, "x", {2}) - in(m, "y", {2}, i32); }),
      WRONG(mul_of_ops, shapes_differ, {"f32[5]", "f32[7]", "tanh", "exp"}, [](Model& m) { tanh(in(m, "x", {5})) * exp(in(m, "y", {7})); }),
      WRONG(div_bool, dtype_unsupported, {"bool[2]"}, [](Model& m) { in(m, "x", {2}, boolean) / in(m, "y", {2}, boolean); }),
      WRONG(negate_bool, dtype_unsupported, {"bool[2]"}, [](Model& m) { -in(m, "x", {2}, boolean); }),
      WRONG(negate_nothing, empty_tensor, {"default-constructed"}, [](Model&) { -Tensor(); }),
      WRONG(exp_integer, dtype_unsupported, {"i32[3]"}, [](Model& m) { exp(in(m, "x", {3}, i32)); }),
      WRONG(logical_float, dtype_unsupported, {"f32[3]"}, [](Model& m) { logical_not(in(m, "x", {3})); }),
      WRONG(less_dtypes, dtypes_differ, {"f32[3]", "u32[3]"}, [](Model& m) { less(in(m, "x", {3}), in(m, "y", {3}, u32)); }),
      WRONG(two_numbers, empty_tensor, {"one operand"}, [](Model&) { maximum(1.0, 2.0); }),
      WRONG(empty_operand, empty_tensor, {"default-constructed"}, [](Model&) { exp(Tensor()); }),
      WRONG(other_model, other_model, {"f32[2]", "f32[3]"}, [](Model& m) { Model n; in(m, "x", {2}) + in(n, "y", {3}); }),
      WRONG(where_condition, dtype_unsupported, {"f32[2]"}, [](Model& m) { where(in(m, "c", {2}), in(m, "x", {2}), in(m, "y", {2})); }),
      WRONG(where_arms, dtypes_differ, {"f32[2]", "i32[2]"}, [](Model& m) { where(in(m, "c", {2}, boolean), in(m, "x", {2}), in(m, "y", {2}, i32)); }),
      WRONG(where_shapes, shapes_differ, {"bool[3]", "f32[2]"}, [](Model& m) { where(in(m, "c", {3}, boolean), in(m, "x", {2}), in(m, "y", {2})); }),
      WRONG(sum_axis, bad_axis, {"f32[2,3]"}, [](Model& m) { sum(in(m, "x", {2, 3}), {2}); }),
      WRONG(sum_axis_twice, bad_axis, {"f32[2,3]"}, [](Model& m) { sum(in(m, "x", {2, 3}), {1, -1}); }),
      WRONG(max_bool, dtype_unsupported, {"bool[4]"}, [](Model& m) { max(in(m, "x", {4}, boolean)); }),
      WRONG(argmax_scalar, bad_axis, {"f32[]"}, [](Model& m) { argmax(in(m, "x", {}), 0); }),
      WRONG(argmax_empty, empty_axis, {"f32[0,3]"}, [](Model& m) { argmax(in(m, "x", {0, 3}), 0); }),
      WRONG(contract_form, contract_spec, {"f32[2,3]", "f32[3,4]"}, [](Model& m) { contract("mk;kn->mn", in(m, "x", {2, 3}), in(m, "y", {3, 4})); }),
      WRONG(contract_letters, contract_spec, {"f32[2,3]", "f32[3,4]"}, [](Model& m) { contract("k,kn->n", in(m, "x", {2, 3}), in(m, "y", {3, 4})); }),
      WRONG(contract_extent, inner_dims, {"f32[2,3]", "f32[4,5]"}, [](Model& m) { contract("mk,kn->mn", in(m, "x", {2, 3}), in(m, "y", {4, 5})); }),
      WRONG(contract_lonely, contract_spec, {"f32[2,3]", "f32[3,4]"}, [](Model& m) { contract("mk,kn->m", in(m, "x", {2, 3}), in(m, "y", {3, 4})); }),
      WRONG(reshape_count, element_count, {"f32[2,3]", "f32[4,2]"}, [](Model& m) { reshape(in(m, "x", {2, 3}), {4, 2}); }),
      WRONG(reshape_negative, too_large, {"f32[2,3]"}, [](Model& m) { reshape(in(m, "x", {2, 3}), {-1, 3}); }),
      WRONG(transpose_axes, bad_axis, {"f32[2,3]"}, [](Model& m) { transpose(in(m, "x", {2, 3}), {0}); }),
      WRONG(broadcast_stretch, shapes_differ, {"f32[3]", "f32[2,4]"}, [](Model& m) { broadcast_to(in(m, "x", {3}), {2, 4}); }),
      WRONG(broadcast_rank, bad_rank, {"f32[2,3]"}, [](Model& m) { broadcast_to(in(m, "x", {2, 3}), {3}); }),
      WRONG(slice_limit, slice_bounds, {"f32[4]"}, [](Model& m) { slice(in(m, "x", {4}), 0, 1, 9); }),
      WRONG(slice_stride, slice_bounds, {"f32[4]"}, [](Model& m) { slice(in(m, "x", {4}), 0, 0, 4, 0); }),
      WRONG(pad_negative, pad_amount, {"f32[4]"}, [](Model& m) { pad(in(m, "x", {4}), {-1}, {0}); }),
      WRONG(pad_entries, pad_amount, {"f32[4,4]"}, [](Model& m) { pad(in(m, "x", {4, 4}), {1}, {1}); }),
      WRONG(concat_nothing, argument_count, {"at least one"}, [](Model&) { concat({}, 0); }),
      WRONG(concat_dims, shapes_differ, {"f32[2,3]", "f32[2,4]"}, [](Model& m) { concat({in(m, "x", {2, 3}), in(m, "y", {2, 4})}, 0); }),
      WRONG(concat_ranks, bad_rank, {"f32[2,3]", "f32[3]"}, [](Model& m) { concat({in(m, "x", {2, 3}), in(m, "y", {3})}, 0); }),
      WRONG(expand_dims_axis, bad_axis, {"f32[2]"}, [](Model& m) { expand_dims(in(m, "x", {2}), 5); }),
      WRONG(take_float_index, index_dtype, {"f32[9,4]", "f32[2]"}, [](Model& m) { take(in(m, "x", {9, 4}), in(m, "i", {2})); }),
      WRONG(take_axis, bad_axis, {"f32[9]"}, [](Model& m) { take(in(m, "x", {9}), in(m, "i", {2}, i32), 1); }),
      WRONG(random_key_dtype, random_key, {"f32[]"}, [](Model& m) { random_uniform(in(m, "k", {}), {2}, 0); }),
      WRONG(dropout_of_one, dropout_rate, {"f32[2]"}, [](Model& m) { dropout(in(m, "x", {2}), 1.0, in(m, "k", {}, u32), 0); }),
      WRONG(dropout_nan, dropout_rate, {"f32[2]"}, [](Model& m) { dropout(in(m, "x", {2}), std::nan(""), in(m, "k", {}, u32), 0); }),
      WRONG(cross_entropy_labels, loss_operands, {"f32[4,10]", "f32[4]"}, [](Model& m) { cross_entropy(in(m, "x", {4, 10}), in(m, "y", {4})); }),
      WRONG(cross_entropy_batch, loss_operands, {"f32[4,10]", "i32[5]"}, [](Model& m) { cross_entropy(in(m, "x", {4, 10}), in(m, "y", {5}, i32)); }),
      WRONG(grad_of_vector, gradient_of, {"f32[4]"}, [](Model& m) { const Tensor x = in(m, "x", {4}); grad(x * x, {x}); }),
      WRONG(grad_by_integer, gradient_by, {"f32[]", "i32[4]"}, [](Model& m) { const Tensor x = in(m, "x", {4}, i32); grad(sum(cast(x, f32)), {x}); }),
      WRONG(grad_twice, gradient_by, {"f32[]", "f32[4]"}, [](Model& m) { const Tensor x = in(m, "x", {4}); grad(sum(x), {x, x}); }),
      WRONG(input_twice, duplicate_name, {"f32[2]"}, [](Model& m) { in(m, "x", {2}), m.input("x", f32, {3}); }),
      WRONG(output_twice, duplicate_name, {"f32[2]"}, [](Model& m) { const Tensor x = in(m, "x", {2}); m.output("y", x), m.output("y", exp(x)); }),
      WRONG(param_twice, duplicate_name, {"f32[2]"}, [](Model& m) { Params p(m, 1); p.add("w", {2}, Init::zeros), p.add("w", {2}, Init::zeros); }),
      WRONG(state_type, bad_state, {"f32[2]", "f32[]"}, [](Model& m) { const Tensor x = in(m, "x", {2}); m.state("x", x, sum(x)); }),
      WRONG(state_no_input, bad_state, {"f32[2]"}, [](Model& m) { const Tensor x = exp(in(m, "x", {2})); m.state("x", x, x); }),
      WRONG(conv_rank, bad_rank, {"f32[2,3]", "f32[4,3]"}, [](Model& m) { conv(in(m, "x", {2, 3}), in(m, "w", {4, 3})); }),
      WRONG(conv_kernel_rank, bad_rank, {"f32[2,3,8,8]", "f32[4,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8, 8}), in(m, "w", {4, 3, 3})); }),
      WRONG(conv_channels, inner_dims, {"f32[2,3,8,8]", "f32[4,5,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8, 8}), in(m, "w", {4, 5, 3, 3})); }),
      WRONG(conv_group_channels, inner_dims, {"f32[2,6,8]", "f32[4,6,3]"}, [](Model& m) { conv(in(m, "x", {2, 6, 8}), in(m, "w", {4, 6, 3}), {}, {.groups = 2}); }),
      WRONG(conv_groups, channel_groups, {"f32[2,6,8]", "f32[5,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 6, 8}), in(m, "w", {5, 3, 3}), {}, {.groups = 2}); }),
      WRONG(conv_no_group, channel_groups, {"f32[2,6,8]", "f32[4,6,3]"}, [](Model& m) { conv(in(m, "x", {2, 6, 8}), in(m, "w", {4, 6, 3}), {}, {.groups = 0}); }),
      WRONG(conv_too_big, window_extent, {"f32[2,3,4,9]", "f32[4,3,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 4, 9}), in(m, "w", {4, 3, 3, 3}), {}, {.dilation = {3}, .low = {1}}); }),
      WRONG(conv_empty_kernel, window_extent, {"f32[2,3,4]", "f32[4,3,0]"}, [](Model& m) { conv(in(m, "x", {2, 3, 4}), in(m, "w", {4, 3, 0})); }),
      WRONG(conv_stride, window_step, {"f32[2,3,8,8]", "f32[4,3,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8, 8}), in(m, "w", {4, 3, 3, 3}), {}, {.stride = {2, 0}}); }),
      WRONG(conv_entries, window_step, {"f32[2,3,8,8]", "f32[4,3,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8, 8}), in(m, "w", {4, 3, 3, 3}), {}, {.low = {1, 1, 1}}); }),
      WRONG(conv_bias, shapes_differ, {"f32[2,3,8]", "f32[4,3,3]", "f32[3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8}), in(m, "w", {4, 3, 3}), in(m, "b", {3})); }),
      WRONG(conv_dtypes, dtypes_differ, {"f32[2,3,8]", "f64[4,3,3]"}, [](Model& m) { conv(in(m, "x", {2, 3, 8}), in(m, "w", {4, 3, 3}, f64)); }),
      WRONG(conv_transpose_output, window_step, {"f32[2,3,8]", "f32[3,4,3]"}, [](Model& m) { conv_transpose(in(m, "x", {2, 3, 8}), in(m, "w", {3, 4, 3}), {}, {.stride = {2}, .output_padding = {2}}); }),
      WRONG(conv_transpose_cropped, window_extent, {"f32[2,3,1]", "f32[3,4,3]"}, [](Model& m) { conv_transpose(in(m, "x", {2, 3, 1}), in(m, "w", {3, 4, 3}), {}, {.low = {2}}); }),
      WRONG(pool_size, window_step, {"f32[2,3,8,8]"}, [](Model& m) { max_pool(in(m, "x", {2, 3, 8, 8}), {2, 2, 2}); }),
      WRONG(pool_in_padding, window_extent, {"f32[2,3,8]"}, [](Model& m) { max_pool(in(m, "x", {2, 3, 8}), {2}, {.low = {2}}); }),
      WRONG(pool_integer, dtype_unsupported, {"i32[2,3,8]"}, [](Model& m) { avg_pool(in(m, "x", {2, 3, 8}, i32), {2}); }),
      WRONG(pool_nothing, empty_axis, {"f32[2,3,0]"}, [](Model& m) { global_avg_pool(in(m, "x", {2, 3, 0})); }),
      WRONG(group_norm_groups, channel_groups, {"f32[2,6,8]"}, [](Model& m) { group_norm(in(m, "x", {2, 6, 8}), 4, in(m, "g", {6}), in(m, "b", {6})); }),
      WRONG(batch_norm_scale, shapes_differ, {"f32[2,6,8]", "f32[8]"}, [](Model& m) { batch_norm(in(m, "x", {2, 6, 8}), in(m, "g", {8}), in(m, "b", {6})); }),
      WRONG(rank_eleven, too_large, {"rank 11"}, [](Model& m) { m.input("x", f32, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}); }),
      WRONG(extent_negative, too_large, {"extent -1"}, [](Model& m) { m.input("x", f32, {-1}); }),
      WRONG(bytes_too_many, too_large, {"2^46"}, [](Model& m) { m.input("x", f32, {int64_t{1} << 30, int64_t{1} << 30}); }),
      WRONG(symbol_bounds, symbol_shape, {"from 0 to 4"}, [](Model& m) { m.symbol("batch", 0, 4); }),
      WRONG(symbol_missing, symbol_shape, {"f32[n,3]"}, [](Model& m) { m.input("x", f32, {kSymbol, 3}); }),
      WRONG(symbol_plus_one, symbol_shape, {"n+1"}, [](Model& m) { m.input("x", f32, {m.symbol("batch", 1, 4) + 1}); }),
      WRONG(symbol_twice, symbol_shape, {"f32[n,n]"}, [](Model& m) { const int64_t n = m.symbol("batch", 1, 4); m.input("x", f32, {n, n}); }),
      WRONG(symbol_and_constant, shapes_differ, {"f32[n,3]", "f32[4,3]"}, [](Model& m) { in(m, "x", {m.symbol("batch", 1, 4), 3}) + in(m, "y", {4, 3}); }),
      WRONG(bit_and_float, dtype_unsupported, {"f32[3]"}, [](Model& m) { bit_and(in(m, "x", {3}), 1); }),
      WRONG(shift_bool, dtype_unsupported, {"bool[3]"}, [](Model& m) { shift_left(in(m, "x", {3}, boolean), in(m, "y", {3}, boolean)); }),
      WRONG(is_inf_integer, dtype_unsupported, {"i32[3]"}, [](Model& m) { is_inf(in(m, "x", {3}, i32)); }),
      WRONG(logical_xor_integer, dtype_unsupported, {"i32[3]"}, [](Model& m) { logical_xor(in(m, "x", {3}, i32), in(m, "y", {3}, i32)); }),
      WRONG(add_storage, dtype_unsupported, {"f8e4m3[2]"}, [](Model& m) { in(m, "x", {2}, DType::f8e4m3) + in(m, "y", {2}, DType::f8e4m3); }),
      WRONG(sum_storage, dtype_unsupported, {"i4[2]"}, [](Model& m) { sum(in(m, "x", {2}, DType::i4)); }),
      WRONG(bitcast_width, dtype_unsupported, {"f32[3]"}, [](Model& m) { bitcast(in(m, "x", {3}), DType::i16); }),
      WRONG(cumsum_axis, bad_axis, {"f32[2,3]"}, [](Model& m) { cumsum(in(m, "x", {2, 3}), 2); }),
      WRONG(cumsum_bool, dtype_unsupported, {"bool[3]"}, [](Model& m) { cumsum(in(m, "x", {3}, boolean), 0); }),
      WRONG(argsort_scalar, bad_axis, {"f32[]"}, [](Model& m) { argsort(in(m, "x", {})); }),
      WRONG(argsort_bool, dtype_unsupported, {"bool[3]"}, [](Model& m) { sort(in(m, "x", {3}, boolean)); }),
      WRONG(top_k_many, slice_bounds, {"f32[2,3]"}, [](Model& m) { top_k(in(m, "x", {2, 3}), 4); }),
      WRONG(take_along_shapes, shapes_differ, {"f32[2,3]", "i64[3,3]"}, [](Model& m) { take_along_axis(in(m, "x", {2, 3}), in(m, "i", {3, 3}, DType::i64), 1); }),
      WRONG(split_sum, slice_bounds, {"f32[4]"}, [](Model& m) { split(in(m, "x", {4}), {1, 2}); }),
      WRONG(split_negative, too_large, {"f32[4]"}, [](Model& m) { split(in(m, "x", {4}), {-1, 5}); }),
      WRONG(stack_shapes, shapes_differ, {"f32[4]", "f32[5]"}, [](Model& m) { stack({in(m, "x", {4}), in(m, "y", {5})}); }),
      WRONG(squeeze_wide, element_count, {"f32[4,1]"}, [](Model& m) { squeeze(in(m, "x", {4, 1}), {0}); }),
      WRONG(tiled_rank, bad_rank, {"f32[4]"}, [](Model& m) { tiled(in(m, "x", {4}), {2, 2}); }),
      WRONG(tiled_far, too_large, {"f32[1099511627776,4]"}, [](Model& m) { tiled(in(m, "x", {4}), {kMaxExtent}); }),
      WRONG(tril_vector, bad_rank, {"f32[4]"}, [](Model& m) { tril(in(m, "x", {4})); }),
      WRONG(norm_zero, attribute_missing, {"f32[4]"}, [](Model& m) { norm(in(m, "x", {4}), 0); }),
      WRONG(variance_integer, dtype_unsupported, {"i32[4]"}, [](Model& m) { variance(in(m, "x", {4}, i32)); }),
      WRONG(einsum_extent, inner_dims, {"f32[2,3]", "f32[4,5]"}, [](Model& m) { einsum("ij,jk->ik", {in(m, "x", {2, 3}), in(m, "y", {4, 5})}); }),
      WRONG(einsum_rank, bad_rank, {"f32[2,3]"}, [](Model& m) { einsum("ijk->i", {in(m, "x", {2, 3})}); }),
      WRONG(einsum_letter, contract_spec, {"f32[2,3]"}, [](Model& m) { einsum("ij->k", {in(m, "x", {2, 3})}); }),
      WRONG(einsum_terms, argument_count, {"f32[2,3]"}, [](Model& m) { einsum("ij,jk->ik", {in(m, "x", {2, 3})}); }),
      WRONG(mae_shapes, loss_operands, {"f32[2]", "f32[3]"}, [](Model& m) { mae(in(m, "x", {2}), in(m, "y", {3})); }),
      WRONG(nll_labels, loss_operands, {"f32[2,3]", "f32[2]"}, [](Model& m) { nll(in(m, "x", {2, 3}), in(m, "y", {2})); }),
      WRONG(smoothing_far, attribute_missing, {"f32[2,3]"}, [](Model& m) { cross_entropy(in(m, "x", {2, 3}), in(m, "y", {2}, i32), CrossEntropy{.label_smoothing = 2}); }),
      WRONG(attention_rank, bad_rank, {"f32[2,3,4]"}, [](Model& m) { const Tensor x = in(m, "x", {2, 3, 4}); attention(x, x, x); }),
      WRONG(attention_heads, channel_groups, {"f32[1,3,4,8]", "f32[1,2,4,8]"}, [](Model& m) { const Tensor k = in(m, "k", {1, 2, 4, 8}); attention(in(m, "q", {1, 3, 4, 8}), k, k); }),
      WRONG(attention_bias_heads, shapes_differ, {"f32[1,2,4,4]"}, [](Model& m) { const Tensor k = in(m, "k", {1, 2, 4, 8}); attention(in(m, "q", {1, 4, 4, 8}), k, k, {.bias = in(m, "b", {1, 2, 4, 4})}); }),
      WRONG(attention_mask, dtype_unsupported, {"f32[4,4]"}, [](Model& m) { const Tensor q = in(m, "q", {1, 2, 4, 8}); attention(q, q, q, {.mask = in(m, "m", {4, 4})}); }),
      WRONG(rope_odd, bad_rank, {"f32[4,3]"}, [](Model& m) { rope(in(m, "x", {4, 3})); }),
      WRONG(rope_base, attribute_missing, {"f32[4,4]", "-1"}, [](Model& m) { rope(in(m, "x", {4, 4}), {}, -1); }),
      WRONG(resize_region, attribute_missing, {"f32[5]", "nan"}, [](Model& m) { resize_axis(in(m, "x", {5}), 0, 3, {.coordinates = Resampling::Coordinates::crop}, 0, std::nan("")); }),
      WRONG(resize_stretched, too_large, {"f32[5]"}, [](Model& m) { resize_axis(in(m, "x", {5}), 0, 3, {.antialias = true}, 1e-12); }),
      WRONG(resize_far, too_large, {"f32[1,4]"}, [](Model& m) { resize(in(m, "x", {1, 4}), {int64_t{1} << 40}); }),
      WRONG(resize_integer, dtype_unsupported, {"i32[1,4]"}, [](Model& m) { resize(in(m, "x", {1, 4}, i32), {8}); }),
      WRONG(embedding_rank, bad_rank, {"f32[4]", "i32[2]"}, [](Model& m) { embedding(in(m, "x", {4}), in(m, "i", {2}, i32)); }),
      WRONG(deep_model, shapes_differ, {"f32[4,16]", "f32[8]", "input \"b2\""}, [](Model& m) { linear(relu(linear(in(m, "x", {4, 8}), in(m, "w1", {8, 12}), in(m, "b1", {12}))), in(m, "w2", {12, 16}), in(m, "b2", {8})); }),
      WRONG(vmap_lanes, shapes_differ, {"5 lanes", "7"}, [](Model& m) { vmap([](const auto& a) { return std::vector<Tensor>{a[0] + a[1]}; }, {in(m, "x", {5, 2}), in(m, "y", {7, 2})}); }),
      WRONG(vmap_axis, bad_axis, {"f32[5,2]"}, [](Model& m) { vmap([](const auto& a) { return a; }, {in(m, "x", {5, 2})}, {2}); }),
      WRONG(scan_carry, loop_body, {"f32[3]", "f32[2,3]"}, [](Model& m) { scan([](const auto& c, const auto& x) { return ScanStep{{c[0] + x[0]}, {}}; }, {in(m, "h", {3})}, {in(m, "xs", {4, 2, 3})}); }),
      WRONG(scan_carries, loop_body, {"1 carries", "0 come out"}, [](Model& m) { scan([](const auto&, const auto& x) { return ScanStep{{}, {x[0]}}; }, {in(m, "h", {3})}, {in(m, "xs", {4, 3})}); }),
      WRONG(scan_steps, shapes_differ, {"4 steps", "f32[5,3]"}, [](Model& m) { scan([](const auto&, const auto& x) { return ScanStep{{}, {x[0] * x[1]}}; }, {}, {in(m, "xs", {4, 3}), in(m, "ys", {5, 3})}); }),
      WRONG(scan_nothing, argument_count, {}, [](Model& m) { scan([](const auto& c, const auto&) { return ScanStep{{c[0] * 2}, {}}; }, {in(m, "h", {3})}, {}); }),
      WRONG(scan_far, too_large, {"f32[3]"}, [](Model& m) { scan([](const auto& c, const auto&) { return ScanStep{{c[0] * 2}, {}}; }, {in(m, "h", {3})}, {}, int64_t{1} << 50); }),
      WRONG(while_flag, loop_body, {"bool[3]"}, [](Model& m) { while_loop([](const auto& c) { return less(c[0], 1); }, [](const auto& c) { return std::vector<Tensor>{c[0] * 2}; }, {in(m, "x", {3})}); }),
      WRONG(while_carry, loop_body, {"f32[]", "f64[]"}, [](Model& m) { while_loop([](const auto& c) { return less(c[0], 1); }, [](const auto& c) { return std::vector<Tensor>{cast(c[0], DType::f64)}; }, {in(m, "x", {})}); }),
      WRONG(while_reversed, while_gradient, {"scan"}, [](Model& m) {
        const Tensor x = in(m, "x", {});
        const Tensor y = while_loop([](const auto& c) { return less(c[0], 1); }, [](const auto& c) { return std::vector<Tensor>{c[0] * 2}; }, {x})[0];
        m.output("dx", grad(y, {x})[0]);
        PassContext context;
        expand(m.finish(), context);
      }),
      WRONG(cond_types, loop_body, {"f32[3]", "f32[]"}, [](Model& m) { cond(in(m, "p", {}, boolean), [](const auto& a) { return a; }, [](const auto& a) { return std::vector<Tensor>{sum(a[0])}; }, {in(m, "x", {3})}); }),
      WRONG(cond_predicate, loop_body, {"f32[]"}, [](Model& m) { cond(in(m, "p", {}), [](const auto& a) { return a; }, [](const auto& a) { return a; }, {in(m, "x", {3})}); }),
  };
}

struct TextFixture {
  const char* name;
  Code code;
  const char *place, *text;
};
std::vector<TextFixture> texts() {
  return {
      {"text_unknown_op", Code::unknown_word, "wrong.qir:2:8", "graph (%0: f32[2] \"x\") {\n  %1 = ad %0, %0 : f32[2]\n}\n"},
      {"text_unknown_dtype", Code::unknown_word, "wrong.qir:1:12", "graph (%0: f31[2] \"x\") {\n}\n"},
      {"text_unknown_attribute", Code::unknown_word, "wrong.qir:2:23", "graph (%0: f32[2] \"x\") {\n  %1 = reduce_sum %0 {axis=[0]} : f32[]\n}\n"},
      {"text_undefined", Code::undefined_value, "wrong.qir:2:16", "graph (%0: f32[2] \"x\") {\n  %1 = add %0, %7 : f32[2]\n}\n"},
      {"text_twice", Code::defined_twice, "wrong.qir:3:3", "graph (%0: f32[2] \"x\") {\n  %1 = exp %0 : f32[2]\n  %1 = log %0 : f32[2]\n}\n"},
      {"text_shapes", Code::shapes_differ, "wrong.qir:2:3", "graph (%0: f32[2] \"x\", %1: f32[3] \"y\") {\n  %2 = add %0, %1 : f32[2] @ \"models/mlp.h:3\"\n}\n"},
      {"text_written_type", Code::written_type, "wrong.qir:2:3", "graph (%0: f32[2] \"x\") {\n  %1 = exp %0 : f32[3]\n}\n"},
      {"text_argument_count", Code::argument_count, "wrong.qir:2:3", "graph (%0: f32[2] \"x\") {\n  %1 = exp %0, %0 : f32[2]\n}\n"},
      {"text_two_inputs", Code::duplicate_label, "wrong.qir:", "graph (%0: f32[2] \"x\", %1: f32[2] \"x\") {\n  output \"y\" %0\n}\n"},
      {"text_two_outputs", Code::duplicate_label, "wrong.qir:", "graph (%0: f32[2] \"x\") {\n  output \"y\" %0\n  output \"y\" %0\n}\n"},
      {"text_state", Code::bad_state, "wrong.qir:3:3", "graph (%0: f32[2] \"x\") {\n  %1 = reduce_sum %0 {axes=[0]} : f32[]\n  state \"x\" %0 -> %1\n}\n"},
      {"text_huge_extent", Code::text_limits, "wrong.qir:1:", "graph (%0: f32[9999999999999999] \"x\") {\n}\n"},
      {"text_huge_product", Code::size_overflow, "wrong.qir:1:", "graph (%0: f32[1099511627776,1099511627776] \"x\") {\n}\n"},
      {"text_cut", Code::syntax, "wrong.qir:2:", "graph (%0: f32[2] \"x\") {\n  %1 = exp"},
      {"text_attribute", Code::attribute_missing, "wrong.qir:2:3", "graph (%0: f32[2] \"x\") {\n  %1 = cast %0 : f64[2]\n}\n"},
      {"text_window", Code::window_step, "wrong.qir:2:3", "graph (%0: f32[4,3] \"x\", %1: f32[] \"v\") {\n  %2 = window %0, %1 {shape=[4], start=[0], stride=[1], dilation=[1], base=[0]} : f32[4,3]\n}\n"},
      {"text_put_add", Code::update_shape, "wrong.qir:2:3", "graph (%0: f32[4] \"x\", %1: i32[2] \"i\", %2: f32[3] \"u\") {\n  %3 = put_add %0, %1, %2 {axes=[0]} : f32[4]\n}\n"},
      {"text_symbol", Code::symbol_shape, "wrong.qir:3", "graph (%0: f32[n,2] \"x\") {\n  output \"y\" %0\n}\n"},
      {"text_control", Code::syntax, "wrong.qir:1:", "graph (%0: f32[2] \"x\ty\") {\n}\n"},
      {"text_input_again", Code::defined_twice, "wrong.qir:2:3", "graph (%0: f32[2] \"x\", %1: f32[2] \"y\") {\n  %1 = exp %0 : f32[2]\n  output \"z\" %1\n}\n"},
      {"text_reshape", Code::element_count, "wrong.qir:2:3", "graph (%0: f32[2,3] \"x\") {\n  %1 = reshape %0 {shape=[4,2]} : f32[4,2]\n}\n"},
  };
}

// Files as the commands read them; `place` is the node, tensor or member that the error must name.
struct FileFixture {
  const char* name;
  Code code;
  const char* place;
  std::function<void()> read;
};
std::vector<FileFixture> files() {
  using namespace onnx_writer;
  const auto import = [](std::vector<Pb> nodes, std::vector<Pb> inputs, int64_t opset = 17) {
    return [=] {
      GraphParts g;
      g.nodes = nodes, g.inputs = inputs;
      g.outputs = {value("y", 1, {})};
      const onnx::ModelProto parsed = onnx::parse_model(model(g, opset).file(), "m.onnx");
      if (const onnx::Imported m = onnx::import_model(parsed, {}); !m.missing.empty()) throw onnx::missing_error("m.onnx", m.missing);
    };
  };
  const auto npy = [](const std::string& descr, const std::string& order, const std::string& shape, size_t data) {
    return [=] {
      std::string text = "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
      text = std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(text.size()) + '\0' + text + std::string(data, '\0');
      parse_npy({text.begin(), text.end()}, "x.npy");
    };
  };
  const auto safetensors = [](const std::string& head, size_t data) {
    return [=] {
      const uint64_t size = head.size();
      std::ofstream("w.safetensors", std::ios::binary) << std::string(reinterpret_cast<const char*>(&size), 8) << head << std::string(data, '\0');
      load_safetensors("w.safetensors");
    };
  };
  const auto archive = [](const std::string& member, size_t cut) {
    return [=] {
      save_npz("x.npz", {{"weight", HostTensor(f32, {4})}});
      std::vector<uint8_t> bytes = read_bytes("x.npz", 1 << 20);
      if (cut) bytes[cut] ^= 1;
      std::ofstream("x.npz", std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
      Npz("x.npz").at(member);
    };
  };
  return {
      {"onnx_product", Code::onnx_unsupported, "MatMul \"node_y\": matmul: inner dimensions differ: 3 (lhs dim 1) vs 4", import({node("MatMul", {"a", "b"}, {"y"})}, {value("a", 1, {2, 3}), value("b", 1, {4, 5})})},
      {"onnx_shapes", Code::onnx_unsupported, "Add \"node_y\": +: shapes do not broadcast: f32[2,3] (lhs) vs f32[4]", import({node("Add", {"a", "b"}, {"y"})}, {value("a", 1, {2, 3}), value("b", 1, {4})})},
      {"onnx_several", Code::onnx_unsupported, "mine.Magic \"node_h\"", import({node("Magic", {"a"}, {"h"}, {}, "mine"), node("Reshape", {"a", "to"}, {"y"})}, {value("a", 1, {6}), value("to", 7, {2})})},
      {"onnx_undefined", Code::bad_onnx, "node 1 \"node_y\" (Neg) uses \"a\"", import({node("Neg", {"a"}, {"y"})}, {})},
      {"onnx_extent", Code::unknown_extent, "\"a\" dim 0 is \"batch\"", import({node("Neg", {"a"}, {"y"})}, {value("a", 1, {std::string("batch"), 3})})},
      {"onnx_cut", Code::bad_onnx, "m.onnx: at byte", [] { onnx::parse_model({0x08, 0x08, 0x3a, 0x7f, 0x0a}, "m.onnx"); }},
      {"onnx_opset", Code::onnx_unsupported, "opset 99", import({node("Neg", {"a"}, {"y"})}, {value("a", 1, {3})}, 99)},
      {"npy_order", Code::bad_npy, "x.npy: is in Fortran order", npy("'<f4'", "True", "(2, 3)", 24)},
      {"npy_endian", Code::bad_npy, "'>f8'", npy("'>f8'", "False", "(2,)", 16)},
      {"npy_short", Code::bad_npy, "20 bytes of data, the head promises 24", npy("'<f4'", "False", "(2, 3)", 20)},
      {"npy_fields", Code::bad_npy, "not a plain one", npy("[('a', '<f4')]", "False", "(2,)", 8)},
      {"npz_member", Code::unknown_tensor, "x.npz: holds no \"wieght\"", archive("wieght", 0)},
      {"npz_damaged", Code::bad_npz, "member \"weight.npy\"", archive("weight", 60)},
      {"npz_npy", Code::bad_npz, "x.npy: not a zip archive", [] { zip_members(std::vector<uint8_t>(100), "x.npy"); }},
      {"safetensors_dtype", Code::bad_safetensors, "tensor \"w\" has the unsupported dtype C64", safetensors("{\"w\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8)},
      {"safetensors_short", Code::bad_safetensors, "tensor \"w\" does not lie within the file", safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 20)},
      {"safetensors_shape", Code::bad_safetensors, "tensor \"w\": its shape", safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8)},
      {"safetensors_hole", Code::bad_safetensors, "overlap or leave holes", safetensors("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8)},
  };
}

// What neither the DSL nor a file brings about, but users of the C++ interface may.
std::vector<std::pair<Code, std::function<void()>>> calls() {
  const auto body = [](Op op) {
    GraphBuilder b;
    const NodeId x = b.input("x", {f32, {2, 3}, {}});
    b.output("y", b.add(op, {x}));
    return std::make_shared<const Graph>(b.finish());
  };
  const auto call = [=](Op op, Transform transform, Shape shape) {
    GraphBuilder b;
    Attrs attrs;
    attrs.body = body(op);
    attrs.transform = transform;
    const NodeId x = b.input("x", {f32, std::move(shape), {}}), y = b.add(Op::call, {x}, attrs);
    b.output("y", b.type(y).results.empty() ? y : b.add(Op::result, {y}, Attrs{.index = {0}}));
    return b.finish();
  };
  return {
      {Code::bad_body, [=] { call(Op::exp, Transform::none, {2, 4}); }},
      {Code::bad_body, [=] { call(Op::exp, Transform::vmap, {}); }},
      {Code::bad_npz, [] { zip_members({}, "x.npz"); }},
      {Code::file_mishandled, [] {
         FileFuzzReport found;
         found.findings.push_back({0, "npy", "takes more than 2 seconds", "fuzz-1-0-x.npy"});
         found.want_none();
       }},
      {Code::symbol_size, [] {
         Model m;
         m.output("y", exp(m.input("x", f32, {m.symbol("batch", 2, 4), 3})));
         interpret(m.finish(), {HostTensor(f32, {5, 3})});
       }},
      {Code::symbol_place, [=] {
         Model m;
         m.output("y", reverse(m.input("x", f32, {m.symbol("batch", 1, 4), 3}), {0}));
         compile(m.finish(), {.target = {TargetKind::cpu, "avx2"}, .use_cache = false});
       }},
      {Code::nested_too_deep, [=] {
         const std::function<Tensor(const Tensor&, int)> nested = [&](const Tensor& x, int depth) {   // products: no kernel walks through the steps
           if (depth == 0) return matmul(x, x);
           return scan([&](const auto& c, const auto&) { return ScanStep{{nested(c[0], depth - 1)}, {}}; }, {x}, {}, 2).carries[0];
         };
         Model m;
         m.output("y", nested(m.input("x", f32, {2, 2}), kMaxNesting + 1));
         compile(m.finish(), {.target = {TargetKind::cpu, "avx2"}, .use_cache = false});
       }},
      {Code::no_batched_form, [=] {
         GraphBuilder b, kernel;   // kernels are made after transforms
         Attrs within, outer;
         kernel.output("y", kernel.add(Op::exp, {kernel.input("x", {f32, {2}, {}})}));
         within.transform = Transform::kernel;
         within.body = std::make_shared<const Graph>(kernel.finish());
         GraphBuilder inner;
         inner.output("y", inner.add(Op::result, {inner.add(Op::call, {inner.input("x", {f32, {2}, {}})}, within)}, Attrs{.index = {0}}));
         outer.transform = Transform::vmap;
         outer.body = std::make_shared<const Graph>(inner.finish());
         b.output("y", b.add(Op::result, {b.add(Op::call, {b.input("x", {f32, {3, 2}, {}})}, outer)}, Attrs{.index = {0}}));
         PassContext context;
         expand(b.finish(), context);
       }},
      {Code::not_expanded, [=] { interpret(call(Op::exp, Transform::vmap, {5, 2, 3}), {HostTensor(f32, {5, 2, 3})}); }},
      {Code::tensor_mismatch, [=] { interpret(*body(Op::exp), {}); }},
      {Code::general_bug, [=] {
         Graph g = *body(Op::exp);
         g.nodes.back().args = {7};
         verify(g);
       }},
      {Code::compiler_died, [] { cuda::CompilerProcess("/nonexistent/quern-cc"); }},
  };
}

// Codes that no test on any machine can bring about, with the reason.
const std::map<Code, const char*> kNotHere = {
    {Code::unsupported_machine, "wants a CPU that is not x86-64, or a GPU older than 7.5"},
    {Code::cuda_failed, "wants a GPU that fails in the middle of a call"},
    {Code::no_cpu_target, "wants a build without LLVM; cpu_target_test has it there"},
};

std::string golden_path(const std::string& name) { return std::string(QN_SOURCE_DIR) + "/tests/cases/errors/" + name + ".txt"; }

void compare_golden(const std::string& name, const Error& e) {
  std::string text = render(e, ErrorFormat::human);
  text = std::regex_replace(text, std::regex("error_corpus_test.cpp:\\d+"), "error_corpus_test.cpp:LINE");
  if (test::updating()) std::ofstream(golden_path(name)) << text;
  std::ifstream in(golden_path(name));
  const std::string golden((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(text, golden);
}

// Source lines are quoted where the file is found from here: not while goldens are compared.
class ErrorCorpus : public testing::Test {
 protected:
  void SetUp() override {
    before_ = std::filesystem::current_path();
    std::filesystem::current_path(testing::TempDir());
  }
  void TearDown() override { std::filesystem::current_path(before_); }

 private:
  std::filesystem::path before_;
};

TEST_F(ErrorCorpus, EveryWrongUseNamesLineCodeOperandsAndAWayOut) {
  std::set<std::string> names;
  for (const Fixture& f : dsl()) {
    SCOPED_TRACE(f.name);
    EXPECT_TRUE(names.insert(f.name).second);
    Model m;
    try {
      f.wrong(m);
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(to_string(e.code), to_string(f.code)) << e.what();
      EXPECT_EQ(e.kind, ErrorKind::compile);
      EXPECT_EQ(e.where.file, "fast/error_corpus_test.cpp");
      EXPECT_EQ(e.where.line, f.line);
      EXPECT_FALSE(e.help.empty());
      const std::string text = render(e, ErrorFormat::human);
      for (const char* part : f.parts) EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
      compare_golden(f.name, e);
    }
  }
  EXPECT_GE(names.size(), 60u);
}

TEST_F(ErrorCorpus, EveryWrongTextNamesItsPlace) {
  for (const TextFixture& f : texts()) {
    SCOPED_TRACE(f.name);
    try {
      parse_graph(f.text, "wrong.qir");
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(to_string(e.code), to_string(f.code)) << e.what();
      EXPECT_EQ(e.kind, ErrorKind::bad_file);
      EXPECT_EQ(to_string(e.where).rfind(f.place, 0), 0u) << e.what();
      EXPECT_FALSE(e.help.empty());
      compare_golden(f.name, e);
    }
  }
}

TEST_F(ErrorCorpus, EveryWrongFileNamesItsPart) {
  for (const FileFixture& f : files()) {
    SCOPED_TRACE(f.name);
    try {
      f.read();
      ADD_FAILURE() << "no error";
    } catch (const Error& e) {
      EXPECT_EQ(to_string(e.code), to_string(f.code)) << e.what();
      EXPECT_NE(std::string(e.what()).find(f.place), std::string::npos) << e.what();
      EXPECT_FALSE(e.help.empty());
      compare_golden(f.name, e);
    }
  }
  for (const char* file : {"w.safetensors", "x.npz"}) std::filesystem::remove(file);
}

TEST_F(ErrorCorpus, NoGoldenIsLeftOver) {
  std::set<std::string> known;
  for (const Fixture& f : dsl()) known.insert(f.name);
  for (const TextFixture& f : texts()) known.insert(f.name);
  for (const FileFixture& f : files()) known.insert(f.name);
  size_t seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(golden_path("x")).parent_path())) {
    EXPECT_TRUE(known.count(entry.path().stem().string())) << entry.path();
    ++seen;
  }
  EXPECT_EQ(seen, known.size());
}

TEST_F(ErrorCorpus, TheSourceLineIsQuotedAndMarked) {
  const std::string file = "quern_quoted.h";
  std::ofstream(file) << "one\n\tauto h = matmul(x, w1);\n";
  Error e(Code::inner_dims, "matmul: inner dimensions differ", {file, 2});
  e.with_operand("lhs", "f32[64,512]", "input \"x\"", {"a.h", 33}).with_operand("rhs", "f32[5,2]").with_note("why").with_help("how");
  EXPECT_EQ(render(e, ErrorFormat::human),
            "error[Q0102]: matmul: inner dimensions differ\n --> quern_quoted.h:2\n  |\n2 |  auto h = matmul(x, w1);\n  |           ^^^^^^ lhs: f32[64,512]  (input \"x\", a.h:33)\n"
            "  |                  rhs: f32[5,2]\n  = note: why\nhelp: how\n  = explain: quern explain Q0102\n");
  EXPECT_EQ(render(e, ErrorFormat::short_), "quern_quoted.h:2: error[Q0102]: matmul: inner dimensions differ\n");
  const std::string json = render(e, ErrorFormat::json);
  EXPECT_EQ(std::count(json.begin(), json.end(), '\n'), 1);
  for (const char* part : {"\"code\":\"Q0102\"", "\"exit\":4", "\"line\":2", "\"help\":\"how\"", "\"file\":\"a.h\",\"line\":33"}) EXPECT_NE(json.find(part), std::string::npos) << json;
  // A place from a graph opens no absolute path, and names cannot steer the terminal.
  EXPECT_EQ(render(Error(Code::inner_dims, "\x1b[2Jx", {std::filesystem::absolute(file).string(), 2}), ErrorFormat::human).find("auto h"), std::string::npos);
  EXPECT_EQ(render(Error(Code::inner_dims, "\x1b[2Jx"), ErrorFormat::human).find('\x1b'), std::string::npos);
  std::filesystem::remove(file);
}

// Each code is thrown by a fixture above, or by the command in bad_input_test.cpp, which names it; or the list says why not.
TEST(Codes, EveryOneIsThrownSomewhere) {
  std::set<Code> thrown;
  for (const Fixture& f : dsl()) thrown.insert(f.code);
  for (const TextFixture& f : texts()) thrown.insert(f.code);
  for (const auto& [code, f] : calls()) {
    try {
      f();
      ADD_FAILURE() << "no error " << to_string(code);
    } catch (const Error& e) {
      EXPECT_EQ(to_string(e.code), to_string(code)) << e.what();
      EXPECT_FALSE(e.help.empty()) << e.what();
      thrown.insert(code);
    }
  }
  std::ifstream in(QN_SOURCE_DIR "/tests/jit/bad_input_test.cpp");
  const std::string command((std::istreambuf_iterator<char>(in)), {});
  for (const CodeInfo& i : all_codes()) {
    const bool tested = thrown.count(i.code) || command.find('"' + to_string(i.code) + '"') != std::string::npos || command.find("error[" + to_string(i.code) + "]") != std::string::npos;
    EXPECT_NE(tested, kNotHere.count(i.code) > 0) << to_string(i.code) << " " << i.title;
  }
}

TEST(Codes, TableIsSoundAndExplains) {
  int last = 0;
  for (const CodeInfo& i : all_codes()) {
    EXPECT_GT(static_cast<int>(i.code), last);
    last = static_cast<int>(i.code);
    EXPECT_FALSE(i.title.empty());
    EXPECT_GT(i.text.size(), 20u) << to_string(i.code);
    EXPECT_EQ(&info_of(i.code), &i);
  }
  EXPECT_FALSE(Error(Code::general_bug, "x").help.empty());
}

}  // namespace
}  // namespace quern
