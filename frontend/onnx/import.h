// An ONNX model as a Graph. Nodes are looked up by op type in the tables of ops_*.cpp and rebuilt from the DSL's
// functions; functions of the model and branches of If are inlined, Loop and Scan unrolled. What shapes depend on is
// evaluated here, since graphs have static shapes. Initializers of more than 64 elements become states that keep their
// value, given in `weights`, smaller ones constants. Every node that cannot be imported is listed with its reason.
#pragma once
#include <map>
#include <set>

#include "frontend/checkpoint.h"
#include "frontend/onnx/model.h"
#include "ir/graph.h"

namespace quern::onnx {

struct ImportOptions {
  std::map<std::string, int64_t> dims;                          // extents of named dims
  std::map<std::string, std::vector<Shape>> shapes;             // of inputs; a sequence's or optional's: one for each tensor
  std::map<std::string, HostTensor> bound;                      // inputs that become constants
  std::map<std::string, HostTensor> offered;                    // inputs whose value may be used where shapes depend on it
};

/// A node that was not imported. `wrong`: it breaks a rule, so the model or the importer is at fault.
struct Missing {
  std::string node, op, reason;
  bool wrong = false;
};
/// A graph input or output of the model: its names in the Graph; several for a sequence, none for an empty optional.
struct Port {
  std::string name;
  TypeProto::Kind kind;
  std::vector<std::string> names;
};

struct Imported {
  Graph graph;                        // empty where something is missing
  NamedTensors weights;               // states of the graph, by the names of their inputs, in its order
  std::vector<Port> inputs, outputs;  // inputs without weights
  std::vector<Missing> missing;
  std::set<std::string> used;         // offered inputs that the graph's shapes depend on
  int64_t nodes = 0;
};

/// Throws Error(bad_onnx), Error(unknown_extent); what else is in the way is listed in `missing`.
Imported import_model(const ModelProto& model, const ImportOptions& options);
/// The file as graph and weights. Throws Error(onnx_unsupported) with every missing node.
Imported import_file(const std::string& path, const ImportOptions& options);
/// The error that lists them.
Error missing_error(const std::string& file, const std::vector<Missing>& missing);

}  // namespace quern::onnx
