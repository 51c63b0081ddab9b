// See model.h. One function per message; fields that it does not name are skipped, as protobuf asks.
#include "frontend/onnx/model.h"

#include <fmt/format.h>

#include "ir/support/file.h"

namespace quern::onnx {
namespace {

template <class T>
T& append(std::vector<T>& list, const Wire& w, T value = {}) {
  w.ledger().charge(sizeof(T) * 2);   // a vector may hold twice what it has
  list.push_back(std::move(value));
  return list.back();
}

void read_pair(Wire w, std::pair<std::string_view, std::string_view>& out) {
  while (w.next()) {
    if (w.field() == 1) out.first = w.text();
    if (w.field() == 2) out.second = w.text();
  }
}

void read_opset(Wire w, std::pair<std::string_view, int64_t>& out) {
  while (w.next()) {
    if (w.field() == 1) out.first = w.text();
    if (w.field() == 2) out.second = w.integer();
  }
  if (out.first == "ai.onnx") out.first = "";
}

void read_tensor(Wire w, TensorProto& out) {
  while (w.next()) {
    switch (w.field()) {
      case 1: w.each_integer([&](int64_t d) {
          if (d < 0 || d > kMaxExtent) w.fail(fmt::format("a tensor's extent of {}", d));
          if (out.dims.size() == kMaxRank) w.fail(fmt::format("a tensor of more than {} dims", kMaxRank));
          out.dims.push_back(d);
        });
        break;
      case 2: out.data_type = w.integer(); break;
      case 4: w.each_fixed<float>([&](float v) { append(out.reals, w, static_cast<double>(v)); }); break;
      case 10: w.each_fixed<double>([&](double v) { append(out.reals, w, v); }); break;
      case 5: case 7: case 11: w.each_integer([&](int64_t v) { append(out.integers, w, v); }); break;
      case 6: append(out.strings, w, w.text()); break;
      case 8: out.name = w.text(); break;
      case 9: out.raw = w.bytes(); break;
      case 13: read_pair(w.message(), append(out.external_data, w)); break;
      case 14: out.external = w.integer() == 1; break;
      default: break;
    }
  }
}

void read_type(Wire w, TypeProto& out) {
  const auto element = [&](Wire inner, TypeProto::Kind kind) {
    out.kind = kind;
    while (inner.next())
      if (inner.field() == 1) {
        out.element.clear();
        read_type(inner.message(), append(out.element, inner));
      }
  };
  while (w.next()) {
    if (w.field() == 4) element(w.message(), TypeProto::Kind::sequence);
    if (w.field() == 9) element(w.message(), TypeProto::Kind::optional);
    if (w.field() == 5 || w.field() == 7 || w.field() == 8) out.kind = TypeProto::Kind::other;
    if (w.field() != 1) continue;
    out.kind = TypeProto::Kind::tensor;
    for (Wire t = w.message(); t.next();) {
      if (t.field() == 1) out.elem_type = t.integer();
      if (t.field() != 2) continue;
      out.shape.emplace();
      for (Wire s = t.message(); s.next();) {
        if (s.field() != 1) continue;
        TypeProto::Dim& dim = append(*out.shape, s);
        for (Wire d = s.message(); d.next();) {
          if (d.field() == 1) dim.value = d.integer();
          if (d.field() == 2) dim.param = d.text();
        }
      }
    }
  }
}

void read_value_info(Wire w, ValueInfo& out) {
  while (w.next()) {
    if (w.field() == 1) out.name = w.text();
    if (w.field() == 2) read_type(w.message(), out.type);
  }
}

void read_graph(Wire w, GraphProto& out);

void read_attribute(Wire w, Attribute& out) {
  while (w.next()) {
    switch (w.field()) {
      case 1: out.name = w.text(); break;
      case 2: out.f = w.real(); break;
      case 3: out.i = w.integer(); break;
      case 4: out.s = w.text(); break;
      case 5: case 10: read_tensor(w.message(), append(out.values, w)); break;
      case 6: case 11: read_graph(w.message(), append(out.bodies, w)); break;
      case 7: w.each_fixed<float>([&](float v) { append(out.floats, w, static_cast<double>(v)); }); break;
      case 8: w.each_integer([&](int64_t v) { append(out.ints, w, v); }); break;
      case 9: append(out.texts, w, w.text()); break;
      case 20: out.kind = w.integer(); break;
      case 21: out.ref = w.text(); break;
      default: break;
    }
  }
  const auto want = [&](bool there) {
    if (!there) w.fail(fmt::format("attribute \"{}\" has no value", out.name));
  };
  if (out.kind == Attribute::tensor) want(!out.values.empty() || !out.ref.empty());
  if (out.kind == Attribute::graph) want(!out.bodies.empty() || !out.ref.empty());
}

void read_node(Wire w, NodeProto& out) {
  while (w.next()) {
    switch (w.field()) {
      case 1: append(out.inputs, w, w.text()); break;
      case 2: append(out.outputs, w, w.text()); break;
      case 3: out.name = w.text(); break;
      case 4: out.op = w.text(); break;
      case 5: read_attribute(w.message(), append(out.attributes, w)); break;
      case 7: out.domain = w.text(); break;
      case 8: out.overload = w.text(); break;
      default: break;
    }
  }
  if (out.domain == "ai.onnx") out.domain = "";
}

void read_graph(Wire w, GraphProto& out) {
  while (w.next()) {
    switch (w.field()) {
      case 1: read_node(w.message(), append(out.nodes, w)); break;
      case 2: out.name = w.text(); break;
      case 5: read_tensor(w.message(), append(out.initializers, w)); break;
      case 11: read_value_info(w.message(), append(out.inputs, w)); break;
      case 12: read_value_info(w.message(), append(out.outputs, w)); break;
      case 15: ++out.sparse_initializers; break;
      default: break;
    }
  }
}

void read_function(Wire w, FunctionProto& out) {
  while (w.next()) {
    switch (w.field()) {
      case 1: out.name = w.text(); break;
      case 4: append(out.inputs, w, w.text()); break;
      case 5: append(out.outputs, w, w.text()); break;
      case 7: read_node(w.message(), append(out.nodes, w)); break;
      case 9: read_opset(w.message(), append(out.opsets, w)); break;
      case 10: out.domain = w.text(); break;
      case 11: read_attribute(w.message(), append(out.defaults, w)); break;
      case 13: out.overload = w.text(); break;
      default: break;
    }
  }
  if (out.domain == "ai.onnx") out.domain = "";
}

}  // namespace

const Attribute* NodeProto::find(std::string_view attribute) const {
  for (const Attribute& a : attributes)
    if (a.name == attribute) return &a;
  return nullptr;
}

ModelProto parse_model(std::vector<uint8_t> bytes, const std::string& file) {
  ModelProto out;
  out.file = file;
  out.bytes = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  Ledger ledger(file, out.bytes->size());
  bool has_graph = false;
  for (Wire w(*out.bytes, ledger); w.next();) {
    switch (w.field()) {
      case 1: out.ir_version = w.integer(); break;
      case 2: out.producer = w.text(); break;
      case 7:
        if (has_graph) w.fail("a second graph");
        has_graph = true;
        read_graph(w.message(), out.graph);
        break;
      case 8: read_opset(w.message(), append(out.opsets, w)); break;
      case 25: read_function(w.message(), append(out.functions, w)); break;
      default: break;
    }
  }
  if (!has_graph) throw Error(Code::bad_onnx, fmt::format("{}: no graph in it: not an ONNX model, or not a whole one", file)).with_help("export the model again");
  return out;
}

ModelProto load_model(const std::string& path) { return parse_model(read_bytes(path, int64_t{1} << 31), path); }

PbValue load_value(const std::string& path, TypeProto::Kind kind) {
  PbValue out;
  out.bytes = std::make_shared<const std::vector<uint8_t>>(read_bytes(path, int64_t{1} << 31));
  Ledger ledger(path, out.bytes->size());
  const auto sequence = [&](Wire w) {
    while (w.next()) {
      if (w.field() == 3) read_tensor(w.message(), append(out.tensors, w));
      if (w.field() > 3) w.fail("a sequence of something other than tensors");
    }
  };
  Wire w(*out.bytes, ledger);
  if (kind == TypeProto::Kind::tensor) read_tensor(w, out.tensors.emplace_back());
  else if (kind == TypeProto::Kind::sequence) sequence(w);
  else
    while (w.next()) {
      if (w.field() == 3) read_tensor(w.message(), append(out.tensors, w));
      if (w.field() == 5) sequence(w.message());
    }
  return out;
}

}  // namespace quern::onnx
