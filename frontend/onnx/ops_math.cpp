// Elementwise ops of ONNX: arithmetic, activations, comparisons, logic, casts.
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "frontend/activations.h"
#include "frontend/nn.h"
#include "frontend/onnx/call.h"

namespace quern::onnx {
namespace {

using Unary = Tensor (*)(const Tensor&);

OpEntry unary(std::string_view name, Unary f) {
  return {name, [f](Call& c) { c.out(f(c.in(0))); }};
}
template <class F>
OpEntry binary(std::string_view name, F f) {
  return {name, [f](Call& c) {
            const Tensor x = c.in(0), y = c.in(1);
            if (c.opset < 7 && c.integer("broadcast", 0)) {   // y's axes lie at `axis` of x
              Shape shape(x.shape().size(), 1);
              const int64_t at = c.integer("axis", x.rank() - y.rank());
              c.want(at >= 0 && at + y.rank() <= x.rank(), "axis of the broadcast");
              for (int64_t d = 0; d < y.rank(); ++d) shape[static_cast<size_t>(at + d)] = y.shape().at(static_cast<size_t>(d));
              return c.out(f(x, reshape(y, shape)));
            }
            c.out(f(x, y));
          }};
}
template <class F>
OpEntry folded(std::string_view name, F f, bool averaged = false) {   // of any number of inputs
  return {name, [f, averaged](Call& c) {
            Tensor out = c.in(0);
            for (size_t i = 1; i < c.inputs(); ++i) out = f(out, c.in(i));
            c.out(averaged ? out / static_cast<double>(c.inputs()) : out);
          }};
}

Tensor neg(const Tensor& x) { return -Located(x); }
Tensor reciprocal(const Tensor& x) { return 1 / Operand(x); }
Tensor relu_of(const Tensor& x) { return maximum(x, 0); }
Tensor softsign_of(const Tensor& x) { return x / (abs(x) + 1); }
Tensor hard_swish(const Tensor& x) { return x * maximum(minimum(x / 6 + 0.5, 1), 0); }

// C's division: toward zero. Without its remainder, x is a multiple of y.
Tensor divide(const Tensor& x, const Tensor& y) {
  if (is_float(x.dtype()) || !is_signed(x.dtype())) return x / y;
  return (x - rem(x, y)) / y;
}
Tensor either(const Tensor& x, const Tensor& y) { return logical_or(x, y); }
Tensor both(const Tensor& x, const Tensor& y) { return logical_and(x, y); }
Tensor not_equal_of(const Tensor& x, const Tensor& y) { return not_equal(x, y); }
Tensor add(const Tensor& x, const Tensor& y) { return x + y; }
Tensor sub(const Tensor& x, const Tensor& y) { return x - y; }
Tensor mul(const Tensor& x, const Tensor& y) { return x * y; }
Tensor larger(const Tensor& x, const Tensor& y) { return maximum(x, y); }
Tensor smaller(const Tensor& x, const Tensor& y) { return minimum(x, y); }
Tensor equals(const Tensor& x, const Tensor& y) { return equal(x, y); }
Tensor is_less(const Tensor& x, const Tensor& y) { return less(x, y); }
Tensor at_most(const Tensor& x, const Tensor& y) { return less_equal(x, y); }
Tensor is_greater(const Tensor& x, const Tensor& y) { return less(y, x); }
Tensor at_least(const Tensor& x, const Tensor& y) { return less_equal(y, x); }
Tensor bits_and(const Tensor& x, const Tensor& y) { return bit_and(x, y); }
Tensor bits_or(const Tensor& x, const Tensor& y) { return bit_or(x, y); }
Tensor bits_xor(const Tensor& x, const Tensor& y) { return bit_xor(x, y); }

void import_mod(Call& c) {
  const Tensor x = c.in(0), y = c.in(1);
  if (!c.flag("fmod")) {
    if (is_float(x.dtype())) c.wrong("floats need fmod=1");
    return c.out(mod(x, y));
  }
  c.out(rem(x, y));   // of the dividend's sign
}

void import_pow(Call& c) {
  const Tensor x = c.in(0), y = c.in(1);
  if (is_float(x.dtype()) || !is_float(y.dtype())) return c.out(pow(x, cast(y, x.dtype())));
  c.out(cast(pow(cast(x, y.dtype()), y), x.dtype()));
}

void import_clip(Call& c) {
  Tensor x = c.in(0);
  if (c.opset < 11) {
    x = maximum(x, c.real("min", -std::numeric_limits<float>::max()));
    return c.out(minimum(x, c.real("max", std::numeric_limits<float>::max())));
  }
  if (c.has(1)) x = maximum(x, c.in(1));
  if (c.has(2)) x = minimum(x, c.in(2));
  c.out(x);
}

void import_gelu(Call& c) {
  const Tensor x = c.in(0);
  const std::string how = c.text("approximate", "none");
  if (how != "tanh" && how != "none") c.wrong("approximate=" + how);
  c.out(how == "tanh" ? gelu_tanh(x) : gelu(x));
}

void import_elu(Call& c) {
  const Tensor x = c.in(0);
  c.out(where(less(x, 0), expm1(minimum(x, 0)) * c.real("alpha", 1), x));
}
void import_celu(Call& c) {
  const Tensor x = c.in(0);
  const double alpha = c.real("alpha", 1);
  c.out(maximum(x, 0) + minimum(expm1(minimum(x, 0) / alpha) * alpha, 0));
}
void import_selu(Call& c) {
  const Tensor x = c.in(0);
  const double alpha = c.real("alpha", 1.67326319217681884765625), gamma = c.real("gamma", 1.05070102214813232421875);
  c.out(where(less(0, x), x, expm1(minimum(x, 0)) * alpha) * gamma);
}
void import_leaky(Call& c) {
  const Tensor x = c.in(0);
  c.out(where(less(x, 0), x * c.real("alpha", 0.01), x));
}
void import_prelu(Call& c) {
  const Tensor x = c.in(0);
  Tensor slope = c.in(1);
  if (c.opset < 7 && slope.rank() == 1 && slope.shape()[0] != 1) {   // one for each channel
    c.want(x.rank() >= 2 && slope.shape()[0] == x.shape()[1], "one slope, or one for every channel");
    Shape shape(x.shape().size() - 1, 1);
    shape[0] = slope.shape()[0];
    slope = reshape(slope, shape);
  }
  c.out(where(less(x, 0), x * slope, x));
}
void import_thresholded(Call& c) {
  const Tensor x = c.in(0);
  c.out(where(less(c.real("alpha", 1), x), x, 0));
}
void import_hard_sigmoid(Call& c) { c.out(maximum(minimum(c.in(0) * c.real("alpha", 0.2) + c.real("beta", 0.5), 1), 0)); }
void import_swish(Call& c) {
  const Tensor x = c.in(0);
  c.out(x * sigmoid_of(x * c.real("alpha", 1)));
}
void import_swiglu(Call& c) {
  const Tensor gate = c.in(0);
  c.out(gate * sigmoid_of(gate * c.real("alpha", 1)) * c.in(1));
}
void import_shrink(Call& c) {
  const Tensor x = c.in(0);
  const double bias = c.real("bias", 0), edge = c.real("lambd", 0.5);
  c.out(where(less(x, -edge), x + bias, where(less(edge, x), x - bias, 0)));
}
void import_is_inf(Call& c) {
  const Tensor x = c.in(0);
  const double inf = std::numeric_limits<double>::infinity();
  Tensor out = c.filled(DType::boolean, x.shape(), 0);
  if (c.flag("detect_positive", true)) out = logical_or(out, equal(x, inf));
  if (c.flag("detect_negative", true)) out = logical_or(out, equal(x, -inf));
  c.out(out);
}

void import_shift(Call& c) {
  const Tensor x = c.in(0), y = c.in(1);
  const std::string direction = c.text("direction", "");
  c.want(direction == "LEFT" || direction == "RIGHT", "direction=" + direction);
  c.out(direction == "LEFT" ? shift_left(x, y) : shift_right_logical(x, y));
}
// A bool is a byte that is 0 or 1.
void import_bit_cast(Call& c) {
  Tensor x = c.in(0);
  const DType to = c.dtype_of(c.integer("to", 0));
  if (x.dtype() == to) return c.out(x);
  if (x.dtype() == DType::boolean) x = cast(x, DType::u8);
  c.want(size_of(x.dtype()) == size_of(to), "dtypes of different widths");
  if (bits_of(x.dtype()) != bits_of(to)) c.unsupported(fmt::format("{} to {}: not every value is one", name_of(x.dtype()), name_of(to)));
  c.out(bitcast(x, to));
}

void import_cast(Call& c) { c.out(converted(c.in(0), c.dtype_of(c.integer("to", 0)), c.flag("saturate", true))); }
void import_cast_like(Call& c) { c.out(converted(c.in(0), c.in(1).dtype(), c.flag("saturate", true))); }

}  // namespace

std::vector<OpEntry> math_ops() {
  const auto identity = [](Call& c) { c.out(c.value(0)); };
  return {
      unary("Abs", [](const Tensor& x) { return abs(x); }), unary("Ceil", [](const Tensor& x) { return ceil(x); }), unary("Cos", [](const Tensor& x) { return cos(x); }), unary("Cosh", [](const Tensor& x) { return cosh(x); }),
      unary("Erf", [](const Tensor& x) { return erf(x); }), unary("Exp", [](const Tensor& x) { return exp(x); }), unary("Floor", [](const Tensor& x) { return floor(x); }),
      unary("HardSwish", hard_swish), unary("IsNaN", [](const Tensor& x) { return not_equal(x, x); }), unary("Log", [](const Tensor& x) { return log(x); }),
      unary("Mish", [](const Tensor& x) { return mish(x); }), unary("Neg", neg), unary("Not", [](const Tensor& x) { return logical_not(x); }), unary("Reciprocal", reciprocal), unary("Relu", relu_of),
      unary("Sigmoid", sigmoid_of), unary("Sign", [](const Tensor& x) { return sign(x); }), unary("Sin", [](const Tensor& x) { return sin(x); }), unary("Sinh", [](const Tensor& x) { return sinh(x); }),
      unary("Softplus", softplus_of), unary("Softsign", softsign_of), unary("Sqrt", [](const Tensor& x) { return sqrt(x); }), unary("Tan", [](const Tensor& x) { return tan(x); }),
      unary("Tanh", [](const Tensor& x) { return tanh(x); }),
      unary("Acos", [](const Tensor& x) { return acos(x); }), unary("Acosh", [](const Tensor& x) { return acosh(x); }), unary("Asin", [](const Tensor& x) { return asin(x); }),
      unary("Asinh", [](const Tensor& x) { return asinh(x); }), unary("Atan", [](const Tensor& x) { return atan(x); }), unary("Atanh", [](const Tensor& x) { return atanh(x); }),
      unary("BitwiseNot", [](const Tensor& x) { return bit_not(x); }), unary("Round", [](const Tensor& x) { return round(x); }), binary("BitwiseAnd", bits_and), binary("BitwiseOr", bits_or), binary("BitwiseXor", bits_xor),
      {"BitCast", import_bit_cast}, {"BitShift", import_shift},
      binary("Add", add), binary("And", both), binary("Div", divide), binary("Equal", equals), binary("Greater", is_greater), binary("GreaterOrEqual", at_least),
      binary("Less", is_less), binary("LessOrEqual", at_most), binary("Mul", mul), binary("Or", either), binary("Sub", sub), binary("Xor", not_equal_of),
      folded("Max", larger), folded("Min", smaller), folded("Sum", add), folded("Mean", add, true),
      {"Cast", import_cast}, {"CastLike", import_cast_like}, {"Celu", import_celu}, {"Clip", import_clip},
      {"Elu", import_elu}, {"Gelu", import_gelu}, {"HardSigmoid", import_hard_sigmoid}, {"Identity", identity}, {"IsInf", import_is_inf}, {"LeakyRelu", import_leaky},
      {"Mod", import_mod}, {"Pow", import_pow}, {"PRelu", import_prelu}, {"Selu", import_selu}, {"Shrink", import_shrink}, {"SwiGLU", import_swiglu}, {"Swish", import_swish},
      {"ThresholdedRelu", import_thresholded}, {"Where", [](Call& c) { c.out(where(c.in(0), c.in(1), c.in(2))); }},
  };
}

}  // namespace quern::onnx
