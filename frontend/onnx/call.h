// What the op tables see of the node under import: its inputs as DSL tensors, its attributes, values that must be known
// now, and where results go. A handler builds the node from the DSL's functions, or says why it cannot.
#pragma once
#include <functional>
#include <span>

#include "frontend/onnx/import.h"
#include "frontend/tensor.h"

namespace quern::onnx {

/// A value of the ONNX graph: a tensor, a sequence of tensors, nothing (an optional that is empty), or missing, as the
/// node that makes it could not be imported.
struct Value {
  enum class Kind { tensor, sequence, nothing, missing };
  Kind kind = Kind::missing;
  std::vector<Tensor> items;
  static Value of(Tensor t) { return {Kind::tensor, {t}}; }
};

struct Unsupported { std::string reason; bool wrong = false; };   // thrown by handlers
struct Depends {};                                                // thrown where an input is missing: reported already

class Importer;
struct Scope;

/// Mind that a tensor's shape() is a reference that lasts until the next node is added: functions that add nodes take
/// shapes by value.
class Call {
 public:
  Call(Importer& importer, Scope& scope, const NodeProto& node, int64_t opset) : node(node), opset(opset), importer_(importer), scope_(scope) {}
  const NodeProto& node;
  const int64_t opset;

  size_t inputs() const { return node.inputs.size(); }
  bool has(size_t i) const;                          // given, and not an empty optional
  Tensor in(size_t i) const;
  Value value(size_t i) const;
  Tensor named(std::string_view name) const;         // a tensor that an earlier node defined
  bool wants(size_t o) const { return o < node.outputs.size() && !node.outputs[o].empty(); }
  void out(Tensor t, size_t o = 0);
  void out(Value v, size_t o = 0);

  const Attribute* find(std::string_view name) const;
  int64_t integer(std::string_view name, int64_t fallback) const;
  double real(std::string_view name, double fallback) const;
  std::string text(std::string_view name, const std::string& fallback) const;
  Shape integers(std::string_view name) const;       // empty where there is none
  bool flag(std::string_view name, bool fallback = false) const { return integer(name, fallback) != 0; }
  HostTensor tensor(const TensorProto& t) const;

  /// Values that must be known at import; `what` names them in the reason.
  HostTensor known(const Tensor& t, const std::string& what) const;
  std::optional<HostTensor> known_if(const Tensor& t) const;
  Shape known_integers(size_t i, const std::string& what) const;
  int64_t known_integer(size_t i, const std::string& what) const;
  double known_number(const Tensor& t, const std::string& what) const;

  Tensor constant(HostTensor t) const;
  Tensor number(DType dtype, double value) const { return constant(HostTensor::full(dtype, {}, value)); }
  Tensor integers_tensor(const Shape& values) const;                    // i64[n]
  Tensor coordinates(DType dtype, Shape shape, int64_t axis) const;     // iota
  Tensor filled(DType dtype, Shape shape, double value) const { return broadcast_to(number(dtype, value), std::move(shape)); }
  DType dtype_of(int64_t element) const;                                // of a `to` or `dtype` attribute
  int64_t axis(int64_t a, int64_t rank) const;
  std::vector<Value> body(std::string_view attribute, const std::vector<Value>& arguments) const;
  size_t body_inputs(std::string_view attribute) const;

  [[noreturn]] void unsupported(const std::string& reason) const { throw Unsupported{reason}; }
  [[noreturn]] void wrong(const std::string& reason) const { throw Unsupported{reason, true}; }
  void want(bool condition, const std::string& reason) const { if (!condition) wrong(reason); }

 private:
  Importer& importer_;
  Scope& scope_;
};

using Handler = std::function<void(Call&)>;
struct OpEntry {
  std::string_view name;   // with its domain before a dot, unless that is ai.onnx
  Handler import;
};
std::vector<OpEntry> math_ops();
std::vector<OpEntry> shape_ops();
std::vector<OpEntry> index_ops();
std::vector<OpEntry> reduce_ops();
std::vector<OpEntry> norm_ops();
std::vector<OpEntry> nn_ops();
std::vector<OpEntry> control_ops();
std::vector<OpEntry> quant_ops();
std::vector<OpEntry> signal_ops();
std::vector<OpEntry> window_ops();
std::vector<OpEntry> scan_ops();
std::vector<OpEntry> data_ops();
std::vector<OpEntry> region_ops();

// --- helpers of several tables: helpers.cpp ---
/// The axes put back with extent 1 after a reduction.
Tensor with_axes(const Tensor& reduced, const Tensor& original, const Shape& axes);
Tensor keep_mean(const Tensor& x, const Shape& axes);
Tensor softmax_along(const Tensor& x, int64_t axis);
Tensor log_softmax_along(const Tensor& x, int64_t axis);
/// NumPy's matmul, with broadcast batch axes and vectors.
Tensor numpy_matmul(Tensor a, Tensor b);
Tensor flat(const Tensor& x);                                           // rank 1
Tensor moved(const Tensor& x, int64_t from, int64_t to);                // one axis to another place
Tensor ranged(const Tensor& x, int64_t axis, int64_t start, int64_t limit);
/// x at rows `index` of `axis`, where negative indices count from the end.
Tensor wrap_index(const Tensor& index, int64_t extent);
Tensor sigmoid_of(const Tensor& x);
Tensor softplus_of(const Tensor& x);
/// ONNX's Cast: to f8 what is too large becomes the largest number or, without `saturate`, an infinity or NaN; floats wrap
/// into 4-bit integers.
Tensor converted(const Tensor& x, DType to, bool saturate);
/// A convolution by the node's attributes: ops_window.cpp.
Tensor convolution(const Call& c, const Tensor& x, const Tensor& w, const Tensor& bias);
bool is_signed(DType dtype);
std::string type_text(const Tensor& t);

}  // namespace quern::onnx
