// See spell.h; the functions named qn_… are the prelude's.
#include "codegen/cuda/spell.h"

#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace quern::cuda {

const char* register_type(DType d) {
  switch (d) {
    case DType::f64: return "double";
    case DType::f32: case DType::bf16: case DType::f16: return "float";
    case DType::i64: return "i64";
    case DType::i32: return "int";
    case DType::u32: return "u32";
    case DType::u8: case DType::f8e4m3: case DType::f8e5m2: case DType::u4: return "u8";
    case DType::boolean: return "bool";
    case DType::i16: return "i16";
    case DType::i8: case DType::i4: return "i8";
    case DType::u64: return "u64";
    case DType::u16: return "u16";
  }
  return "";
}

const char* memory_type(DType d) {
  if (d == DType::bf16 || d == DType::f16) return "u16";
  return d == DType::boolean ? "u8" : register_type(d);
}

std::string from_memory(DType d, const std::string& x) {
  if (d == DType::bf16) return fmt::format("qn_from_bf16({})", x);
  if (d == DType::f16) return fmt::format("qn_from_f16({})", x);
  if (d == DType::i4 || d == DType::u4) return fmt::format("qn_wrap_{}({})", name_of(d), x);
  return d == DType::boolean ? fmt::format("({} != 0)", x) : x;
}

std::string to_memory(DType d, const std::string& x) {
  if (d == DType::bf16) return fmt::format("qn_to_bf16({})", x);
  if (d == DType::f16) return fmt::format("qn_to_f16({})", x);
  return d == DType::boolean ? fmt::format("(u8)({})", x) : x;
}

std::string constant(const Scalar& s) {
  if (!is_float(s.dtype)) {
    if (size_of(s.dtype) == 8) return fmt::format("({}){}ull", register_type(s.dtype), static_cast<uint64_t>(s.i));
    return fmt::format("({})({}u)", register_type(s.dtype), static_cast<uint32_t>(s.i));
  }
  const bool wide = s.dtype == DType::f64;
  if (std::isnan(s.f)) return wide ? "__longlong_as_double(0x7ff8000000000000ll)" : "__uint_as_float(0x7fc00000u)";
  if (std::isinf(s.f)) {
    if (wide) return s.f > 0 ? "__longlong_as_double(0x7ff0000000000000ll)" : "__longlong_as_double((i64)0xfff0000000000000ull)";
    return s.f > 0 ? "__uint_as_float(0x7f800000u)" : "__uint_as_float(0xff800000u)";
  }
  return wide ? fmt::format("({:a})", s.f) : fmt::format("({:a}f)", static_cast<float>(s.f));
}

static std::string rounded(DType d, const std::string& x) {
  if (d == DType::bf16) return fmt::format("qn_round_bf16({})", x);
  return d == DType::f16 ? fmt::format("qn_round_f16({})", x) : x;
}

static std::string cast(DType to, DType from, const std::string& x) {
  if (to == from) return x;
  if (is_f8(from)) return cast(to, DType::f32, fmt::format("qn_from_{}({})", name_of(from), x));
  if (is_f8(to)) return is_float(from) ? fmt::format("qn_to_{}({})", name_of(to), x) : fmt::format("qn_to_{}((float)({}))", name_of(to), x);
  if (to == DType::boolean) return fmt::format("{} != 0", x);
  if (is_float(from) && !is_float(to)) return fmt::format("qn_to_{}({})", name_of(to), x);
  if (to == DType::i4 || to == DType::u4) return fmt::format("qn_wrap_{}({})", name_of(to), x);
  return rounded(to, fmt::format("({}){}", register_type(to), x));
}

// By way of memory's form, which has the bits of all but i4 and u4.
static std::string bitcast(DType to, DType from, const std::string& x) {
  if (to == from) return x;
  std::string bits = to_memory(from, x);
  if (from == DType::f16 || from == DType::bf16)   // the machine's rounding has one NaN for all
    bits = fmt::format("({0} != {0} ? (u16)(__float_as_uint({0}) >> 16 {1}) : {2})", x, from == DType::f16 ? "& 0x8000 | 0x7e00" : "| 0x40", bits);
  return from_memory(to, fmt::format("qn_bits<{}>({})", memory_type(to), bits));
}

std::string apply(Op op, DType out, DType arg, const std::vector<std::string>& a) {
  switch (op) {
    case Op::cast: return cast(out, arg, a[0]);
    case Op::bitcast: return bitcast(out, arg, a[0]);
    case Op::select: return fmt::format("{} ? {} : {}", a[0], a[1], a[2]);
    case Op::eq: return fmt::format("{} == {}", a[0], a[1]);
    case Op::ne: return fmt::format("{} != {}", a[0], a[1]);
    case Op::lt: return fmt::format("{} < {}", a[0], a[1]);
    case Op::le: return fmt::format("{} <= {}", a[0], a[1]);
    case Op::logical_and: return fmt::format("{} && {}", a[0], a[1]);
    case Op::logical_or: return fmt::format("{} || {}", a[0], a[1]);
    case Op::logical_not: return fmt::format("!{}", a[0]);
    case Op::mod:
      if (is_float(arg)) {   // each step rounds
        const std::string q = fmt::format("qn_floor({})", rounded(out, fmt::format("{} / {}", a[0], a[1])));
        return rounded(out, fmt::format("{} - {}", a[0], rounded(out, fmt::format("{} * {}", q, a[1]))));
      }
      break;
    default: break;
  }
  return rounded(out, fmt::format("qn_{}({})", quern::name_of(op), fmt::join(a, ", ")));
}

}  // namespace quern::cuda
