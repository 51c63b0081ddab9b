// Compositions that several op tables share. See call.h.
#include <algorithm>
#include <numeric>

#include "frontend/activations.h"
#include "frontend/nn.h"
#include "frontend/onnx/call.h"

namespace quern::onnx {

Tensor with_axes(const Tensor& reduced, const Tensor& original, const Shape& axes) {
  Shape shape = original.shape();
  for (int64_t a : axes) shape[static_cast<size_t>(a)] = 1;
  return reshape(reduced, shape);
}
Tensor keep_mean(const Tensor& x, const Shape& axes) { return axes.empty() ? x : with_axes(mean(x, axes), x, axes); }

Tensor softmax_along(const Tensor& x, int64_t axis) {
  const Tensor e = exp(x - with_axes(max(x, {axis}), x, {axis}));
  return e / with_axes(sum(e, {axis}), x, {axis});
}
Tensor log_softmax_along(const Tensor& x, int64_t axis) {
  const Tensor shifted = x - with_axes(max(x, {axis}), x, {axis});
  return shifted - with_axes(log(sum(exp(shifted), {axis})), x, {axis});
}

Tensor numpy_matmul(Tensor a, Tensor b) {
  const bool row = a.rank() == 1, column = b.rank() == 1;
  if (row) a = expand_dims(a, 0);
  if (column) b = expand_dims(b, 1);
  const auto batched = [](const Tensor& t, const Tensor& other) {   // the batch axes of both, broadcast
    const size_t rank = std::max(t.shape().size(), other.shape().size());
    Shape out(rank, 1);
    for (const Tensor& x : {other, t})
      for (size_t d = 0; d + 2 < x.shape().size(); ++d) {
        int64_t& e = out[d + rank - x.shape().size()];
        if (e == 1) e = x.shape().at(d);
      }
    out[rank - 2] = t.shape().at(t.shape().size() - 2);
    out[rank - 1] = t.shape().back();
    return broadcast_to(t, out);
  };
  Tensor out;
  if (b.rank() == 2) out = matmul(a, b);
  else {
    const Tensor x = batched(a, b), y = batched(b, a);
    out = matmul(x, y);
  }
  Shape shape = out.shape();
  if (column) shape.pop_back();
  if (row) shape.erase(shape.end() - (column ? 1 : 2));
  return shape == out.shape() ? out : reshape(out, shape);
}

Tensor flat(const Tensor& x) { return reshape(x, {x.type().size()}); }

Tensor moved(const Tensor& x, int64_t from, int64_t to) {
  if (from == to) return x;
  Shape axes(x.shape().size());
  std::iota(axes.begin(), axes.end(), 0);
  axes.erase(axes.begin() + from);
  axes.insert(axes.begin() + to, from);
  return transpose(x, axes);
}

Tensor ranged(const Tensor& x, int64_t axis, int64_t start, int64_t limit) {
  return start == 0 && limit == x.shape().at(static_cast<size_t>(axis)) ? x : slice(x, axis, start, limit);
}

Tensor wrap_index(const Tensor& index, int64_t extent) {
  return where(less(index, 0), index + static_cast<double>(extent), index);
}

Tensor sigmoid_of(const Tensor& x) { return sigmoid(x); }
Tensor softplus_of(const Tensor& x) { return softplus(x); }

Tensor converted(const Tensor& x, DType to, bool saturate) {
  if (is_storage(to) && !is_f8(to) && is_float(x.dtype())) return cast(cast(x, DType::i32), to);
  if (!is_f8(to) || !saturate || x.dtype() == to) return cast(x, to);
  const Tensor wide = is_float(x.dtype()) ? x : cast(x, DType::f32);
  const double most = to == DType::f8e4m3 ? 448 : 57344;
  return cast(clip(wide, -most, most), to);
}

bool is_signed(DType dtype) { return is_float(dtype) || (is_integer(dtype) && !is_unsigned(dtype)); }
std::string type_text(const Tensor& t) { return to_string(t.type()); }

}  // namespace quern::onnx
