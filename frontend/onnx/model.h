// An ONNX file as plain structs, checked: what onnx.proto names, less what an importer has no use for. Names, strings and
// raw data are views into the file's bytes, which the ModelProto keeps. https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
#pragma once
#include <memory>
#include <optional>

#include "frontend/onnx/wire.h"
#include "ir/host_tensor.h"

namespace quern::onnx {

struct TensorProto {
  std::string_view name;
  int64_t data_type = 0;
  Shape dims;                                     // each 0 to 2^40, at most 8 of them
  std::optional<std::span<const uint8_t>> raw;
  std::vector<int64_t> integers;                  // int32_data, int64_data, uint64_data
  std::vector<double> reals;                      // float_data, double_data
  std::vector<std::string_view> strings;
  bool external = false;
  std::vector<std::pair<std::string_view, std::string_view>> external_data;
};

/// The type of a value: of a tensor, or of a sequence or optional of `element`.
struct TypeProto {
  enum class Kind { none, tensor, sequence, optional, other };
  struct Dim {
    std::optional<int64_t> value;
    std::string_view param;
  };
  Kind kind = Kind::none;
  int64_t elem_type = 0;
  std::optional<std::vector<Dim>> shape;
  std::vector<TypeProto> element;                 // one, or none
};
struct ValueInfo {
  std::string_view name;
  TypeProto type;
};

struct GraphProto;
struct Attribute {
  enum Kind { undefined = 0, real = 1, integer = 2, string = 3, tensor = 4, graph = 5, reals = 6, integers = 7, strings = 8, tensors = 9, graphs = 10 };
  std::string_view name, ref;                     // ref: of the attribute of the function around it
  int64_t kind = undefined;
  double f = 0;
  int64_t i = 0;
  std::string_view s;
  std::vector<double> floats;
  std::vector<int64_t> ints;
  std::vector<std::string_view> texts;
  std::vector<TensorProto> values;                // of tensor and tensors
  std::vector<GraphProto> bodies;                 // of graph and graphs
};
struct NodeProto {
  std::string_view name, op, domain, overload;
  std::vector<std::string_view> inputs, outputs;  // "" where one is left out
  std::vector<Attribute> attributes;
  const Attribute* find(std::string_view attribute) const;
};
struct GraphProto {
  std::string_view name;
  std::vector<NodeProto> nodes;
  std::vector<TensorProto> initializers;
  std::vector<ValueInfo> inputs, outputs;
  size_t sparse_initializers = 0;
};
struct FunctionProto {
  std::string_view name, domain, overload;
  std::vector<std::string_view> inputs, outputs;
  std::vector<Attribute> defaults;
  std::vector<NodeProto> nodes;
  std::vector<std::pair<std::string_view, int64_t>> opsets;
};
struct ModelProto {
  std::string file;                               // as it was named
  std::shared_ptr<const std::vector<uint8_t>> bytes;
  int64_t ir_version = 0;
  std::string_view producer;
  std::vector<std::pair<std::string_view, int64_t>> opsets;   // by domain; "" is ai.onnx
  GraphProto graph;
  std::vector<FunctionProto> functions;
};

/// Throws Error(bad_onnx) naming `file` and the byte.
ModelProto parse_model(std::vector<uint8_t> bytes, const std::string& file);
ModelProto load_model(const std::string& path);

// --- tensors ---
/// ONNX's element types as Quern names them ("f32", "i8", "f8e4m3fnuz"); "type 99" for others.
std::string element_name(int64_t data_type);
/// Quern's dtype for it, if it has one.
std::optional<DType> element_dtype(int64_t data_type);
/// The values; external data is read below `folder`. Throws Error(bad_onnx), Error(onnx_external) or, for a dtype that
/// Quern lacks, Error(onnx_unsupported).
HostTensor to_host(const TensorProto& tensor, const std::string& file, const std::string& folder);
/// A .pb file of test data: a tensor, or the tensors of a sequence or optional (of none: an empty optional).
struct PbValue {
  std::shared_ptr<const std::vector<uint8_t>> bytes;
  std::vector<TensorProto> tensors;
};
PbValue load_value(const std::string& path, TypeProto::Kind kind);

}  // namespace quern::onnx
