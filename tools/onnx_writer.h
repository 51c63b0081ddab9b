// Writes ONNX models, for tests and as seeds of `quern fuzz files`: protobuf by hand, so that none needs another library,
// and any field may be wrong.
#pragma once
#include <cstring>
#include <initializer_list>
#include <string>
#include <variant>
#include <vector>

#include "ir/host_tensor.h"

namespace quern::onnx_writer {

/// A message under construction; text is its bytes.
struct Pb {
  std::string text;
  static std::string varint(uint64_t v) {
    std::string out;
    for (; v >= 0x80; v >>= 7) out += static_cast<char>(v | 0x80);
    return out + static_cast<char>(v);
  }
  Pb& number(int field, int64_t v) { return text += varint(static_cast<uint64_t>(field) << 3) + varint(static_cast<uint64_t>(v)), *this; }
  Pb& bytes(int field, const std::string& v) { return text += varint(static_cast<uint64_t>(field) << 3 | 2) + varint(v.size()) + v, *this; }
  Pb& message(int field, const Pb& m) { return bytes(field, m.text); }
  Pb& real(int field, float v) {
    char raw[4];
    std::memcpy(raw, &v, 4);
    return text += varint(static_cast<uint64_t>(field) << 3 | 5) + std::string(raw, 4), *this;
  }
  std::vector<uint8_t> file() const { return {text.begin(), text.end()}; }
};

inline int64_t element_of(DType d) {
  switch (d) {
    case DType::f32: return 1;
    case DType::u8: return 2;
    case DType::i8: return 3;
    case DType::u16: return 4;
    case DType::i16: return 5;
    case DType::i32: return 6;
    case DType::i64: return 7;
    case DType::boolean: return 9;
    case DType::f16: return 10;
    case DType::f64: return 11;
    case DType::u32: return 12;
    case DType::u64: return 13;
    case DType::f8e4m3: return 17;
    case DType::f8e5m2: return 19;
    default: return 16;
  }
}
inline Pb tensor(const std::string& name, const HostTensor& t) {
  Pb out;
  for (int64_t d : t.shape) out.number(1, d);
  return out.number(2, element_of(t.dtype)).bytes(8, name).bytes(9, {reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()});
}
/// A dim is an extent or a name.
using Dim = std::variant<int64_t, std::string>;
inline Pb value(const std::string& name, int64_t element, const std::vector<Dim>& dims) {
  Pb shape;
  for (const Dim& d : dims) shape.message(1, d.index() == 0 ? Pb().number(1, std::get<0>(d)) : Pb().bytes(2, std::get<1>(d)));
  return Pb().bytes(1, name).message(2, Pb().message(1, Pb().number(1, element).message(2, shape)));
}
inline Pb attribute(const std::string& name, int64_t v) { return Pb().bytes(1, name).number(3, v).number(20, 2); }
inline Pb attribute(const std::string& name, float v) { return Pb().bytes(1, name).real(2, v).number(20, 1); }
inline Pb attribute(const std::string& name, const std::string& v) { return Pb().bytes(1, name).bytes(4, v).number(20, 3); }
inline Pb attribute(const std::string& name, const std::vector<int64_t>& v) {
  Pb out = Pb().bytes(1, name).number(20, 7);
  for (int64_t x : v) out.number(8, x);
  return out;
}
inline Pb attribute(const std::string& name, const HostTensor& v) { return Pb().bytes(1, name).message(5, tensor("", v)).number(20, 4); }
inline Pb graph_attribute(const std::string& name, const Pb& graph) { return Pb().bytes(1, name).message(6, graph).number(20, 5); }
inline Pb node(const std::string& op, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs, const std::vector<Pb>& attributes = {}, const std::string& domain = "") {
  Pb out;
  for (const std::string& i : inputs) out.bytes(1, i);
  for (const std::string& o : outputs) out.bytes(2, o);
  out.bytes(3, "node_" + (outputs.empty() ? op : outputs[0])).bytes(4, op);
  for (const Pb& a : attributes) out.message(5, a);
  return domain.empty() ? out : out.bytes(7, domain);
}
struct GraphParts {
  std::vector<Pb> nodes, inputs, outputs, initializers;
  Pb pb() const {
    Pb out;
    for (const Pb& n : nodes) out.message(1, n);
    out.bytes(2, "g");
    for (const Pb& i : initializers) out.message(5, i);
    for (const Pb& i : inputs) out.message(11, i);
    for (const Pb& o : outputs) out.message(12, o);
    return out;
  }
};
inline Pb opset(const std::string& domain, int64_t version) { return Pb().bytes(1, domain).number(2, version); }
inline Pb model(const GraphParts& graph, int64_t version = 17, const std::vector<Pb>& functions = {}) {
  Pb out = Pb().number(1, 8).bytes(2, "test").message(7, graph.pb()).message(8, opset("", version)).message(8, opset("mine", 1));
  for (const Pb& f : functions) out.message(25, f);
  return out;
}

}  // namespace quern::onnx_writer
